//! What became of queries. No label is of a query: which names an app asks for is nobody's business.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// What became of one query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A name of the mesh.
    Answered,
    /// A resolver's answer was passed on.
    Forwarded,
    /// It was none, or came when too many were under way.
    Refused,
    /// No resolver answered in time.
    Failed,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Outcome; 4] = [Outcome::Answered, Outcome::Forwarded, Outcome::Refused, Outcome::Failed];

    /// The value of the label.
    pub fn label(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::Forwarded => "forwarded",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
        }
    }
}

/// Counters of the name server.
#[derive(Clone, Debug)]
pub struct Metrics {
    queries: IntCounterVec,
    /// Answers that are none to what was asked: late ones, or forged ones.
    pub discarded: IntCounter,
    /// Queries that are being answered.
    pub under_way: IntGauge,
}

impl Metrics {
    /// Makes all of them and registers them.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let queries = IntCounterVec::new(
            Opts::new("signet_dns_queries_total", "Queries of the app, by what became of them"),
            &["outcome"],
        )?;
        registry.register(Box::new(queries.clone()))?;
        // Before the first query, so that a rate of it is one.
        Outcome::ALL.iter().for_each(|outcome| drop(queries.with_label_values(&[outcome.label()])));
        let discarded = IntCounter::new(
            "signet_dns_answers_discarded_total",
            "Answers that came from a resolver's address and fit no query",
        )?;
        registry.register(Box::new(discarded.clone()))?;
        let under_way = IntGauge::new("signet_dns_queries_under_way", "Queries that are being answered")?;
        registry.register(Box::new(under_way.clone()))?;
        Ok(Metrics { queries, discarded, under_way })
    }

    /// Counts one query.
    pub fn count(&self, outcome: Outcome) {
        self.queries.with_label_values(&[outcome.label()]).inc();
    }

    /// How many came to this.
    pub fn counted(&self, outcome: Outcome) -> u64 {
        self.queries.with_label_values(&[outcome.label()]).get()
    }
}
