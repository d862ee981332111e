//! Counters that people and alerts read.
//!
//! Few labels, none of them from a request: directions, services of the registry, typed reasons. Handles are
//! resolved once per connection or route; a request adds to atomics.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::authz::Dropped;
use crate::stage::Direction;

/// Seconds; from a loopback hop to a slow report.
const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// All metrics of the data plane.
pub struct Metrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    bytes: IntCounterVec,
    connections_total: IntCounterVec,
    connections: IntGaugeVec,
    handshake_failures: IntCounterVec,
    refusals: IntCounterVec,
    streams_cut: IntCounterVec,
    context: IntCounterVec,
    handles: IntCounterVec,
    plaintext: IntCounterVec,
    /// Protected headers that came from somebody who may not set them.
    pub stripped: IntCounterVec,
    /// Accepts that failed for want of descriptors or memory.
    pub accept_errors: IntCounter,
    /// Connections closed because a limit was reached before authentication.
    pub over_limit: IntCounter,
    retries: IntCounterVec,
    /// Endpoints left out because they failed too often.
    pub ejections: IntCounter,
    copies: IntCounterVec,
    limited: IntCounterVec,
    condition_errors: IntCounterVec,
    shadow: IntCounterVec,
    exceptions: IntCounterVec,
    /// Those who are asked about requests.
    pub external: External,
    /// Idle upstream connections.
    pub pooled: IntGauge,
    routes: RwLock<Routes>,
}

/// What became of questions to others. Labels are names of the registry and words of ours.
pub struct External {
    checks: IntCounterVec,
    duration: HistogramVec,
    dropped: IntCounterVec,
}

impl External {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let checks = Opts::new(
            "signet_external_checks_total",
            "Requests about which an AuthorizationProvider was asked, by outcome; only `allowed` went on",
        );
        let dropped = Opts::new(
            "signet_external_headers_dropped_total",
            "Headers of a provider's answers that were left out: protected, unlisted or malformed",
        );
        let duration = HistogramOpts::new(
            "signet_external_check_duration_seconds",
            "From a question to a provider to its whole answer",
        );
        let external = External {
            checks: IntCounterVec::new(checks, &["provider", "outcome"])?,
            duration: HistogramVec::new(duration.buckets(BUCKETS.to_vec()), &["provider"])?,
            dropped: IntCounterVec::new(dropped, &["provider", "why"])?,
        };
        registry.register(Box::new(external.checks.clone()))?;
        registry.register(Box::new(external.duration.clone()))?;
        registry.register(Box::new(external.dropped.clone()))?;
        Ok(external)
    }

    /// Counts a question.
    pub(crate) fn asked(&self, provider: &str, outcome: &str, took: Duration) {
        self.checks.with_label_values(&[provider, outcome]).inc();
        self.duration.with_label_values(&[provider]).observe(took.as_secs_f64());
    }

    /// Counts what was left out of an answer.
    pub(crate) fn dropped(&self, provider: &str, dropped: Dropped) {
        let Dropped { protected, unlisted, malformed } = dropped;
        for (why, count) in [("protected", protected), ("unlisted", unlisted), ("malformed", malformed)] {
            if count > 0 {
                self.dropped.with_label_values(&[provider, why]).inc_by(count.into());
            }
        }
    }
}

type Routes = HashMap<(Direction, Arc<str>), Arc<RouteMetrics>>;

/// How user context came with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    /// The app chose the token.
    Forwarded,
    /// The sidecar attached it, by what the app carried; or somebody before it had.
    Attached(Carried),
    /// None came.
    None,
    /// The app sent a token that it was not handling: stripped.
    Unseen,
    /// The original JWT.
    Original,
    /// The app carried the handle of a request that is over.
    Ended,
    /// The app carried a handle that was not made here.
    Unknown,
    /// The app carried handles that differ.
    Ambiguous,
    /// The app sent a token, and the handle of another transaction: refused.
    Mismatch,
}

/// In which header the app carried it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carried {
    /// The token's own.
    Header,
    /// A handle in `baggage`.
    Baggage,
    /// A handle in `tracestate`.
    Tracestate,
    /// The same handle in both.
    Both,
}

impl Carried {
    pub(crate) fn by(baggage: bool, tracestate: bool) -> Self {
        match (baggage, tracestate) {
            (true, true) => Carried::Both,
            (false, true) => Carried::Tracestate,
            _ => Carried::Baggage,
        }
    }
}

/// What became of a handle that was to be offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offering {
    /// In `baggage`.
    Baggage,
    /// In `tracestate`.
    Tracestate,
    /// In both.
    Both,
    /// In neither: the request's own members leave no room.
    NoRoom,
    /// Not made, as there are too many.
    Full,
    /// One in its grace had to go for a newer one.
    Evicted,
}

impl Offering {
    fn label(self) -> &'static str {
        match self {
            Offering::Baggage => "baggage",
            Offering::Tracestate => "tracestate",
            Offering::Both => "both",
            Offering::NoRoom => "no-room",
            Offering::Full => "full",
            Offering::Evicted => "evicted",
        }
    }
}

/// Every way, in the order of [`Via::place`].
const WAYS: [Via; 12] = [
    Via::Forwarded,
    Via::None,
    Via::Unseen,
    Via::Original,
    Via::Attached(Carried::Header),
    Via::Attached(Carried::Baggage),
    Via::Attached(Carried::Tracestate),
    Via::Attached(Carried::Both),
    Via::Ended,
    Via::Unknown,
    Via::Ambiguous,
    Via::Mismatch,
];

impl Via {
    /// What it is, and in which header it came.
    fn labels(self) -> (&'static str, &'static str) {
        match self {
            Via::Forwarded => ("forwarded", "header"),
            Via::Attached(Carried::Header) => ("attached", "header"),
            Via::Attached(Carried::Baggage) => ("attached", "baggage"),
            Via::Attached(Carried::Tracestate) => ("attached", "tracestate"),
            Via::Attached(Carried::Both) => ("attached", "both"),
            Via::None => ("none", "none"),
            Via::Unseen => ("unseen", "header"),
            Via::Original => ("original", "header"),
            Via::Ended => ("ended", "none"),
            Via::Unknown => ("unknown", "none"),
            Via::Ambiguous => ("ambiguous", "none"),
            Via::Mismatch => ("mismatch", "header"),
        }
    }

    fn place(self) -> usize {
        WAYS.iter().position(|way| *way == self).unwrap_or(1)
    }
}

/// Handles of one direction and service.
pub struct RouteMetrics {
    codes: [IntCounter; 5],
    duration: Histogram,
    /// Bytes from the side that dialled us.
    pub received: IntCounter,
    /// Bytes to the side that dialled us.
    pub sent: IntCounter,
    /// Connections ever.
    pub connections_total: IntCounter,
    /// Connections now.
    pub connections: IntGauge,
    /// By [`Via::place`].
    context: [IntCounter; WAYS.len()],
    /// Protected headers, and handles of others, dropped.
    pub stripped: IntCounter,
}

impl fmt::Debug for RouteMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RouteMetrics")
    }
}

impl RouteMetrics {
    /// Counts an answered request.
    pub fn answered(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        if let Some(counter) = self.codes.get(class) {
            counter.inc();
        }
        self.duration.observe(took.as_secs_f64());
    }

    /// Counts how user context came.
    pub fn context(&self, via: Via) {
        if let Some(counter) = self.context.get(via.place()) {
            counter.inc();
        }
    }
}

impl Metrics {
    /// A request is sent again, or was not for want of budget.
    pub fn retried(&self, reason: &str) {
        self.retries.with_label_values(&[reason]).inc();
    }

    /// What became of a copy.
    pub fn copied(&self, outcome: &str) {
        self.copies.with_label_values(&[outcome]).inc();
    }

    /// A handle was offered, or was not.
    pub fn handle(&self, offering: Offering) {
        self.handles.with_label_values(&[offering.label()]).inc();
    }

    /// A request met a rate limit.
    pub fn limited(&self, service: &str, limit: &str) {
        self.limited.with_label_values(&[service, limit]).inc();
    }

    /// A policy's `when` could not be evaluated. The name is of a policy of ours, the other word one of two.
    pub fn condition_failed(&self, policy: &str, why: &str) {
        self.condition_errors.with_label_values(&[policy, why]).inc();
    }

    /// A shadow policy matched.
    pub fn shadowed(&self, policy: &str, would_allow: bool, changes: bool) {
        let would = match (changes, would_allow) {
            (false, _) => "same",
            (true, true) => "allow",
            (true, false) => "deny",
        };
        self.shadow.with_label_values(&[policy, would]).inc();
    }

    /// A forbid spared a request.
    pub fn excepted(&self, policy: &str) {
        self.exceptions.with_label_values(&[policy]).inc();
    }

    /// Makes all metrics and registers them.
    pub fn new(registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        fn counters(
            registry: &Registry,
            name: &str,
            help: &str,
            labels: &[&str],
        ) -> Result<IntCounterVec, prometheus::Error> {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok(vec)
        }
        fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        }
        let route = &["direction", "service"];
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "signet_request_duration_seconds",
                "From a request's head to the end of its answer",
            )
            .buckets(BUCKETS.to_vec()),
            route,
        )?;
        registry.register(Box::new(duration.clone()))?;
        let connections =
            IntGaugeVec::new(Opts::new("signet_connections", "Accepted connections that are open"), route)?;
        registry.register(Box::new(connections.clone()))?;
        let pooled =
            IntGauge::new("signet_upstream_idle_connections", "Idle connections to endpoints and apps")?;
        registry.register(Box::new(pooled.clone()))?;
        Ok(Arc::new(Metrics {
            requests: counters(
                registry,
                "signet_requests_total",
                "Answered requests",
                &["direction", "service", "code"],
            )?,
            duration,
            bytes: counters(
                registry,
                "signet_bytes_total",
                "Application bytes",
                &["direction", "service", "flow"],
            )?,
            connections_total: counters(
                registry,
                "signet_connections_total",
                "Connections that were accepted and authenticated",
                route,
            )?,
            connections,
            handshake_failures: counters(
                registry,
                "signet_handshake_failures_total",
                "Connections that did not become one of two peers that know each other",
                &["direction", "reason"],
            )?,
            refusals: counters(
                registry,
                "signet_refusals_total",
                "Requests and streams refused",
                &["direction", "reason"],
            )?,
            streams_cut: counters(
                registry,
                "signet_streams_cut_total",
                "Streams of bytes ended by the mesh and not by a side of theirs",
                &["direction", "reason"],
            )?,
            context: counters(
                registry,
                "signet_user_context_total",
                "How user context came with requests, and by which header",
                &["direction", "service", "via", "carrier"],
            )?,
            handles: counters(
                registry,
                "signet_context_handles_total",
                "What became of handles for requests with a user: offered by which headers, or why not",
                &["outcome"],
            )?,
            plaintext: counters(
                registry,
                "signet_plaintext_connections_total",
                "Connections without the mesh that were let in at a permissive port",
                &["service", "port"],
            )?,
            stripped: counters(
                registry,
                "signet_stripped_headers_total",
                "Protected headers from somebody who may not set them",
                route,
            )?,
            accept_errors: counter(
                registry,
                "signet_accept_errors_total",
                "Accepts that failed, for want of descriptors or memory",
            )?,
            over_limit: counter(
                registry,
                "signet_over_limit_total",
                "Connections closed by a limit before authentication",
            )?,
            retries: counters(
                registry,
                "signet_upstream_retries_total",
                "Requests sent again, by why; `budget`: not sent again, for want of budget",
                &["reason"],
            )?,
            ejections: counter(
                registry,
                "signet_endpoint_ejections_total",
                "Endpoints left out for a while because they failed too often",
            )?,
            copies: counters(
                registry,
                "signet_mirrored_requests_total",
                "Copies of requests: sent, failed, or skipped since the body was too large or too many were under way",
                &["outcome"],
            )?,
            limited: counters(
                registry,
                "signet_rate_limited_total",
                "Requests refused by a rate limit, by service and the limit's name",
                &["service", "limit"],
            )?,
            condition_errors: counters(
                registry,
                "signet_policy_condition_errors_total",
                "Conditions of policies that could not be evaluated: permits did not match, forbids did",
                &["policy", "why"],
            )?,
            shadow: counters(
                registry,
                "signet_policy_shadow_total",
                "Decisions on which a shadow policy matched, by what enforcing it would have made of them",
                &["policy", "would"],
            )?,
            exceptions: counters(
                registry,
                "signet_policy_exceptions_total",
                "Decisions on which a forbid matched and an exception spared the caller",
                &["policy"],
            )?,
            external: External::new(registry)?,
            pooled,
            routes: RwLock::default(),
        }))
    }

    /// The handles of one direction and service. `service` comes from the registry, never from a request.
    pub fn route(&self, direction: Direction, service: &Arc<str>) -> Arc<RouteMetrics> {
        let key = (direction, service.clone());
        if let Some(found) = self.routes.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return found.clone();
        }
        let d = direction.as_str();
        let code = |code| self.requests.with_label_values(&[d, &**service, code]);
        let via = |via: Via| {
            let (via, carrier) = via.labels();
            self.context.with_label_values(&[d, &**service, via, carrier])
        };
        let made = Arc::new(RouteMetrics {
            codes: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(code),
            duration: self.duration.with_label_values(&[d, &**service]),
            received: self.bytes.with_label_values(&[d, &**service, "received"]),
            sent: self.bytes.with_label_values(&[d, &**service, "sent"]),
            connections_total: self.connections_total.with_label_values(&[d, &**service]),
            connections: self.connections.with_label_values(&[d, &**service]),
            context: WAYS.map(via),
            stripped: self.stripped.with_label_values(&[d, &**service]),
        });
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        routes.entry(key).or_insert(made).clone()
    }

    /// Counts a connection that did not become one.
    pub fn handshake_failed(&self, direction: Direction, label: &'static str) {
        self.handshake_failures.with_label_values(&[direction.as_str(), label]).inc();
    }

    /// Counts a stream of bytes that was ended.
    pub fn stream_cut(&self, direction: Direction, label: &'static str) {
        self.streams_cut.with_label_values(&[direction.as_str(), label]).inc();
    }

    /// Counts a connection of nobody. Both names come from the registry.
    pub fn plaintext(&self, service: &str, port: &str) {
        self.plaintext.with_label_values(&[service, port]).inc();
    }

    /// Counts a refusal.
    pub fn refused(&self, direction: Direction, label: &'static str) {
        self.refusals.with_label_values(&[direction.as_str(), label]).inc();
    }
}
