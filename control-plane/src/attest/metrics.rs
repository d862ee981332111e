//! What attestation counts. Labels come from closed sets.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets};

/// Every metric of attestation by Kubernetes.
#[derive(Clone)]
pub struct Metrics {
    /// Tokens judged, by whom and to what end.
    pub judged: IntCounterVec,
    /// Exchanges with the API server that failed, by typed reason.
    pub failures: IntCounterVec,
    /// How long a TokenReview took.
    pub seconds: Histogram,
    /// 0 while callers are told at once that the API server is away.
    pub up: IntGauge,
    /// Pods known to the fast mode.
    pub pods: IntGauge,
    pub watch_ended: IntCounterVec,
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
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        // 1 ms to 8 s.
        let buckets = exponential_buckets(0.001, 2.0, 14)?;
        let seconds = Histogram::with_opts(
            HistogramOpts::new("signet_attest_review_seconds", "Time of one TokenReview").buckets(buckets),
        )?;
        registry.register(Box::new(seconds.clone()))?;
        let up = gauge("signet_attest_api_server_up", "0 while the API server is not asked, as it is away")?;
        up.set(1);
        Ok(Self {
            judged: counters(
                "signet_attest_tokens_total",
                "Service account tokens, by who judged them and what came of it",
                &["by", "result"],
            )?,
            failures: counters(
                "signet_attest_api_failures_total",
                "Exchanges with the API server that failed, by reason",
                &["reason"],
            )?,
            seconds,
            up,
            pods: gauge("signet_attest_pods", "Pods that the fast mode knows")?,
            watch_ended: counters(
                "signet_attest_watch_ended_total",
                "Watches and lists of pods that ended, by reason",
                &["reason"],
            )?,
        })
    }
}
