//! What the control plane counts. Labels come from closed sets and from the registry, never from input.

use std::net::SocketAddr;
use std::sync::Arc;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use signet_identity::{Failed, Generation, HandshakeFailure, Incidents, Own, RevocationSet, visible};

use crate::clock::unix_now;

const NAMESPACE: &str = "signet_control_plane";

/// Every metric, registered once. The authority's own are beside them in the same registry.
#[derive(Clone)]
pub struct Metrics {
    pub registry: Registry,
    /// Connections of each listener, by what became of them.
    pub connections: IntCounterVec,
    pub connections_open: IntGaugeVec,
    /// Handshakes that failed, by listener and typed reason.
    pub handshake_failures: IntCounterVec,
    /// The latest of them.
    pub incidents: Arc<Incidents>,
    /// Connections that we ended, by reason.
    pub connections_ended: IntCounterVec,
    /// Calls refused before or beside the authority, by call and reason.
    pub refusals: IntCounterVec,
    /// Tokens that were asked for, by what for and what came of it.
    pub exchanges: IntCounterVec,
    pub streams: IntGauge,
    /// From the moment at which revocations are in force until the last connected sidecar acknowledged them.
    pub revocation_seconds: Histogram,
    pub revocation_behind: IntGauge,
    /// Sidecars that remember another issuance log, by what they say is wrong.
    pub log_contradictions: IntCounterVec,
    pub streams_ended: IntCounterVec,
    pub deltas: IntCounterVec,
    pub subscriptions_refused: IntCounterVec,
    pub decisions: IntCounterVec,
    /// Transactions with a call that cannot have been, and those of which it cannot be said, by why.
    pub impossible_chains: IntCounter,
    pub undecidable_chains: IntCounterVec,
    pub registry_valid: IntGauge,
    pub registry_loaded_at: IntGauge,
    pub registry_refused: IntCounter,
    pub svid_not_after: IntGauge,
    pub jwks_fetched_at: IntGaugeVec,
    pub jwks_keys: IntGaugeVec,
    pub jwks_up: IntGaugeVec,
    pub bundle_requests: IntCounterVec,
    pub intake_requests: IntCounterVec,
    /// What became of pods at the webhook, and why.
    pub injections: IntCounterVec,
    pub federation_fetches: IntCounterVec,
    pub federation_confirmed_at: IntGaugeVec,
    pub federation_roots: IntGaugeVec,
    pub federation_up: IntGaugeVec,
    pub operator_calls: IntCounterVec,
    /// Calls that the guard of the operator's services stopped, by call and code.
    pub operator_calls_refused: IntCounterVec,
}

impl Metrics {
    /// Keeps, logs and counts a handshake that failed at a listener. `own` is what we were there, if that was an SVID.
    pub fn handshake_failed(
        &self,
        listener: &'static str,
        address: SocketAddr,
        failure: &HandshakeFailure,
        own: Option<(&Generation, &RevocationSet)>,
    ) {
        let now = unix_now();
        let own = own.map(|(generation, revoked)| Own::of(generation, revoked));
        let received = failure.received();
        tracing::info!(
            target: "signet::listen",
            listener,
            %address,
            reason = failure.label(),
            expected = failure.expected().map(|expected| visible(&expected)),
            expected_class = failure.expected_class().map(tracing::field::display),
            received = received.map(|one| visible(one.id().as_str())),
            class = received.map(|one| tracing::field::display(one.class())),
            serial = received.map(|one| tracing::field::display(one.serial())),
            not_before = received.map(|one| one.not_before()),
            not_after = received.map(|one| one.not_after()),
            now,
            skew_seconds = failure.skew(),
            alert = failure.alert(),
            what_to_do = visible(&failure.what_to_do(own.as_ref(), now)),
            "{}", visible(&failure.to_string()),
        );
        let remote = Some(address);
        let failed = Failed { direction: listener, service: "", remote, dialled: false, failure, own, now };
        self.incidents.note(failed);
        self.handshake_failures.with_label_values(&[listener, failure.label()]).inc();
    }

    /// Registers everything in a registry of its own.
    ///
    /// # Errors
    /// When two metrics share a name: a mistake here, found by the first test.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help).namespace(NAMESPACE), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(name, help).namespace(NAMESPACE), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::with_opts(Opts::new(name, help).namespace(NAMESPACE))?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let counter = |name: &str, help: &str| {
            let metric = IntCounter::with_opts(Opts::new(name, help).namespace(NAMESPACE))?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        Ok(Self {
            incidents: Arc::default(),
            connections: counters(
                "connections_total",
                "Connections by listener and fate",
                &["listener", "fate"],
            )?,
            connections_open: gauges("connections_open", "Connections open now", &["listener"])?,
            handshake_failures: counters(
                "handshake_failures_total",
                "Handshakes that failed, or whose peer was refused after it",
                &["listener", "reason"],
            )?,
            connections_ended: counters(
                "connections_ended_total",
                "Mesh connections that the control plane ended",
                &["reason"],
            )?,
            refusals: counters("refusals_total", "Calls refused", &["call", "reason"])?,
            exchanges: counters("exchanges_total", "Token exchanges asked for", &["kind", "outcome"])?,
            streams: gauge("streams", "Delivery streams open now")?,
            log_contradictions: counters(
                "log_contradictions_total",
                "Words of sidecars that remember another issuance log",
                &["reason"],
            )?,
            revocation_seconds: {
                let options = HistogramOpts::new(
                    "revocation_seconds",
                    "From revocations in force until the last connected sidecar acknowledged them",
                );
                let buckets = vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
                let metric = Histogram::with_opts(options.namespace(NAMESPACE).buckets(buckets))?;
                registry.register(Box::new(metric.clone()))?;
                metric
            },
            revocation_behind: gauge(
                "revocation_behind_sidecars",
                "Connected sidecars that have not acknowledged the newest revocations",
            )?,
            streams_ended: counters("streams_ended_total", "Delivery streams ended", &["reason"])?,
            deltas: counters("deltas_total", "Deltas sent and answered", &["result"])?,
            subscriptions_refused: counters(
                "subscriptions_refused_total",
                "Subscriptions that a peer may not have",
                &["reason"],
            )?,
            impossible_chains: counter(
                "impossible_chains_total",
                "Transactions that somebody called with who never received them",
            )?,
            undecidable_chains: counters(
                "undecidable_chains_total",
                "Transactions of which it cannot be said whether all their callers received them",
                &["reason"],
            )?,
            decisions: counters("decisions_total", "Decision records reported by sidecars", &["result"])?,
            registry_valid: gauge("registry_valid", "1 when what is in the folder is in force")?,
            registry_loaded_at: gauge("registry_loaded_timestamp_seconds", "Last good load")?,
            registry_refused: counter("registry_refused_total", "Times that the folder was refused")?,
            svid_not_after: gauge(
                "svid_not_after_timestamp_seconds",
                "End of the control plane's own certificate",
            )?,
            jwks_fetched_at: gauges(
                "jwks_fetched_timestamp_seconds",
                "When an issuer's keys were last confirmed",
                &["issuer"],
            )?,
            jwks_keys: gauges("jwks_keys", "Usable keys of an issuer", &["issuer"])?,
            jwks_up: gauges("jwks_up", "1 when the last fetch succeeded", &["issuer"])?,
            bundle_requests: counters(
                "bundle_requests_total",
                "Requests answered by the bundle endpoint, by status",
                &["code"],
            )?,
            injections: counters(
                "injections_total",
                "Reviews of the API server by what became of the pod, and why",
                &["outcome", "reason"],
            )?,
            intake_requests: counters(
                "intake_requests_total",
                "Requests to revoke a token or to log a user out that were handed in, by what came of them",
                &["endpoint", "result"],
            )?,
            federation_fetches: counters(
                "federation_fetches_total",
                "Fetches of federated bundles, by what came of them",
                &["trust_domain", "result"],
            )?,
            federation_confirmed_at: gauges(
                "federation_confirmed_timestamp_seconds",
                "When a federated trust domain's endpoint last confirmed its bundle",
                &["trust_domain"],
            )?,
            federation_roots: gauges(
                "federation_roots",
                "Roots held of a federated trust domain",
                &["trust_domain"],
            )?,
            federation_up: gauges(
                "federation_up",
                "1 when the last fetch of a federated bundle succeeded",
                &["trust_domain"],
            )?,
            operator_calls: counters(
                "operator_calls_total",
                "Calls of operators that reached their service",
                &["call", "code"],
            )?,
            operator_calls_refused: counters(
                "operator_calls_refused_total",
                "Calls of operators that were refused, or wait for a second person",
                &["call", "code"],
            )?,
            registry,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_registers_under_a_name_of_its_own() {
        let metrics = Metrics::new().unwrap();
        metrics.streams.set(2);
        let names: Vec<String> = metrics.registry.gather().iter().map(|f| f.name().to_owned()).collect();
        assert!(names.contains(&"signet_control_plane_streams".to_owned()), "{names:?}");
    }
}
