//! Counters of the socket.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

/// Who connected, what was asked. Labels are of our own words only.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) connections: IntCounterVec,
    pub(crate) open: IntGauge,
    pub(crate) calls: IntCounterVec,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            connections: IntCounterVec::new(
                Opts::new(
                    "signet_workload_connections_total",
                    "Connections to the workload socket, by what became of them",
                ),
                &["fate"],
            )?,
            open: IntGauge::new("signet_workload_connections", "Connections to the workload socket now")?,
            calls: IntCounterVec::new(
                Opts::new("signet_workload_calls_total", "Calls on the workload socket, by how they began"),
                &["call", "outcome"],
            )?,
        };
        registry.register(Box::new(metrics.connections.clone()))?;
        registry.register(Box::new(metrics.open.clone()))?;
        registry.register(Box::new(metrics.calls.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn fate(&self, fate: &str) {
        self.connections.with_label_values(&[fate]).inc();
    }

    pub(crate) fn call(&self, call: &str, outcome: &str) {
        self.calls.with_label_values(&[call, outcome]).inc();
    }
}
