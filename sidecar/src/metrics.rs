//! Counters of identity and delivery; the data plane brings its own.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use signet_identity::Svid;
use signet_proxy::state::State;

use crate::clock;

/// See the module's story.
pub struct Metrics {
    not_after: IntGaugeVec,
    renewals: IntCounterVec,
    workload_issuances: IntCounterVec,
    /// 1 while a delivery stream is open.
    pub connected: IntGauge,
    /// Deltas applied.
    pub deltas: IntCounter,
    /// Resources that are rejected now.
    pub rejected: IntGauge,
    /// Decision records that were dropped because there were too many.
    pub decisions_dropped: IntCounter,
    /// When the newest end of an issuance log that is held was signed.
    pub log_head_signed: IntGauge,
    /// Words of the issuance log that contradict earlier ones, by what is wrong.
    pub log_contradictions: IntCounterVec,
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
            workload_issuances: IntCounterVec::new(
                Opts::new("signet_workload_issuances_total", "Attempts to get something for the app"),
                &["kind", "outcome"],
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
            log_head_signed: IntGauge::new(
                "signet_log_head_signed_timestamp_seconds",
                "When the newest end of the issuance log that we hold was signed",
            )?,
            log_contradictions: IntCounterVec::new(
                Opts::new(
                    "signet_log_contradictions_total",
                    "Words of the issuance log that contradict earlier ones",
                ),
                &["reason"],
            )?,
            clock_skew: IntGauge::new(
                "signet_control_clock_skew_seconds",
                "The control plane's clock minus ours at the last delta",
            )?,
        };
        registry.register(Box::new(metrics.not_after.clone()))?;
        registry.register(Box::new(metrics.renewals.clone()))?;
        registry.register(Box::new(metrics.workload_issuances.clone()))?;
        registry.register(Box::new(metrics.log_contradictions.clone()))?;
        for gauge in [&metrics.connected, &metrics.rejected, &metrics.clock_skew, &metrics.log_head_signed] {
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

    /// The app's certificate.
    pub fn workload(&self, svid: &Svid) {
        self.not_after.with_label_values(&["workload"]).set(svid.not_after);
    }

    /// What a listener of the gateway shows to callers from outside.
    pub fn edge(&self, listener: &str, not_after: i64) {
        self.not_after.with_label_values(&[listener]).set(not_after);
    }

    /// The app's certificate is gone.
    pub fn no_workload(&self) {
        // There may have been none.
        let _ = self.not_after.remove_label_values(&["workload"]);
    }

    /// Something for the app (`svid`, `jwt-svid`) was issued, or was not.
    pub fn workload_issued(&self, kind: &'static str, worked: bool) {
        self.workload_issuances.with_label_values(&[kind, if worked { "ok" } else { "failed" }]).inc();
    }

    /// A renewal worked, or did not.
    pub fn renewal(&self, worked: bool) {
        self.renewals.with_label_values(&[if worked { "ok" } else { "failed" }]).inc();
    }
}

/// A gauge that is judged when it is asked for: a certificate ends, and a view grows old, without anybody telling.
pub struct Judged {
    gauge: IntGauge,
    judge: Box<dyn Fn() -> i64 + Send + Sync>,
}

impl Judged {
    /// Registers `signet_ready`.
    pub fn ready(
        registry: &Registry,
        ready: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<(), prometheus::Error> {
        let gauge = IntGauge::new("signet_ready", "1 when ready")?;
        registry.register(Box::new(Self { gauge, judge: Box::new(move || i64::from(ready())) }))
    }

    /// Registers `signet_control_staleness_seconds`.
    pub fn staleness(registry: &Registry, state: Arc<State>) -> Result<(), prometheus::Error> {
        let gauge = IntGauge::new(
            "signet_control_staleness_seconds",
            "Age of what the control plane last told us, 0 while its stream is open",
        )?;
        let age = move || {
            let now = u64::try_from(clock::now()).unwrap_or_default();
            i64::try_from(state.freshness.age(now).as_secs()).unwrap_or(i64::MAX)
        };
        registry.register(Box::new(Self { gauge, judge: Box::new(age) }))
    }
}

impl Collector for Judged {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set((self.judge)());
        self.gauge.collect()
    }
}
