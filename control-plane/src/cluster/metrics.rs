//! What following a cluster counts. Labels come from closed sets.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use signet_kubernetes::kinds::Kind;

/// Every metric of the registry from Kubernetes.
#[derive(Clone)]
pub struct Metrics {
    objects: IntGaugeVec,
    watching: IntGaugeVec,
    watch_ended: IntCounterVec,
    /// Registries that were made, by whether they differ from the one before.
    pub rebuilds: IntCounterVec,
    /// Objects that are not in force as they are written.
    pub refused: IntGauge,
    pub status_writes: IntCounterVec,
    pub leader: IntGauge,
    /// Pods that should be in the mesh and are not, by what they lack.
    pub missing: IntGaugeVec,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name is taken: a mistake here, found by the first test.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauges = |name: &str, help: &str, label: &str| {
            let metric = IntGaugeVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        Ok(Self {
            objects: gauges(
                "signet_cluster_objects",
                "Objects of the cluster that are known, by kind",
                "kind",
            )?,
            watching: gauges("signet_cluster_watching", "1 while a watch of the kind is open", "kind")?,
            watch_ended: counters(
                "signet_cluster_watch_ended_total",
                "Lists and watches that ended, by kind and reason",
                &["kind", "reason"],
            )?,
            rebuilds: counters(
                "signet_cluster_rebuilds_total",
                "Registries made of the cluster, by whether anything in them changed",
                &["result"],
            )?,
            refused: gauge("signet_cluster_refused", "Objects that are not in force as they are written")?,
            status_writes: counters(
                "signet_cluster_status_writes_total",
                "Statuses that were written, by what the API server said",
                &["result"],
            )?,
            leader: gauge("signet_cluster_leader", "1 while this control plane writes statuses")?,
            missing: gauges(
                "signet_cluster_pods_missing",
                "Pods that should be in the mesh and are not, by what they lack; of the control plane that leads",
                "reason",
            )?,
        })
    }

    pub(super) fn count(&self, kind: &Kind, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.objects.with_label_values(&[&kind.long_name()]).set(count);
    }

    pub(super) fn watching(&self, kind: &Kind, open: bool) {
        self.watching.with_label_values(&[&kind.long_name()]).set(i64::from(open));
    }

    pub(super) fn ended(&self, kind: &Kind, reason: &str) {
        self.watch_ended.with_label_values(&[kind.long_name().as_str(), reason]).inc();
    }
}
