//! Counters of identity and delivery; the data plane brings its own.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use signet_identity::Svid;

/// See the module's story.
pub struct Metrics {
    not_after: IntGaugeVec,
    renewals: IntCounterVec,
    /// 1 while a delivery stream is open.
    pub connected: IntGauge,
    /// Deltas applied.
    pub deltas: IntCounter,
    /// Resources that are rejected now.
    pub rejected: IntGauge,
    /// Decision records that were dropped because there were too many.
    pub decisions_dropped: IntCounter,
    /// The control plane's clock minus ours, in seconds, at the last delta.
    pub clock_skew: IntGauge,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        let metrics = Self {
            not_after: IntGaugeVec::new(
                Opts::new(
                    "signet_certificate_not_after_seconds",
                    "End of each certificate in our chain, seconds since the epoch",
                ),
                &["certificate"],
            )?,
            renewals: IntCounterVec::new(
                Opts::new("signet_svid_renewals_total", "Attempts to renew our SVID"),
                &["outcome"],
            )?,
            connected: IntGauge::new("signet_control_connected", "1 while the delivery stream is open")?,
            deltas: IntCounter::new("signet_delivery_deltas_total", "Deltas applied")?,
            rejected: IntGauge::new(
                "signet_delivery_rejected",
                "Resources whose last version was not taken",
            )?,
            decisions_dropped: IntCounter::new(
                "signet_decisions_dropped_total",
                "Decision records dropped because there were too many",
            )?,
            clock_skew: IntGauge::new(
                "signet_control_clock_skew_seconds",
                "The control plane's clock minus ours at the last delta",
            )?,
        };
        registry.register(Box::new(metrics.not_after.clone()))?;
        registry.register(Box::new(metrics.renewals.clone()))?;
        for gauge in [&metrics.connected, &metrics.rejected, &metrics.clock_skew] {
            registry.register(Box::new(gauge.clone()))?;
        }
        for counter in [&metrics.deltas, &metrics.decisions_dropped] {
            registry.register(Box::new(counter.clone()))?;
        }
        Ok(Arc::new(metrics))
    }

    /// A certificate is in force.
    pub fn identity(&self, svid: &Svid) {
        self.not_after.with_label_values(&["leaf"]).set(svid.not_after);
        if let Some(issuer) = svid.issuers.first() {
            self.not_after.with_label_values(&["issuer"]).set(issuer.not_after);
        }
    }

    /// A renewal worked, or did not.
    pub fn renewal(&self, worked: bool) {
        self.renewals.with_label_values(&[if worked { "ok" } else { "failed" }]).inc();
    }
}

/// `signet_ready`, judged when it is asked for: a certificate ends without anybody telling.
pub struct Readiness {
    gauge: IntGauge,
    ready: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Readiness {
    /// Registers the gauge.
    pub fn register(
        registry: &Registry,
        ready: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<(), prometheus::Error> {
        let gauge = IntGauge::new("signet_ready", "1 when ready")?;
        registry.register(Box::new(Self { gauge, ready: Box::new(ready) }))
    }
}

impl Collector for Readiness {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(i64::from((self.ready)()));
        self.gauge.collect()
    }
}
