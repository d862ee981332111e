//! How one service port is called: when a request is tried again, when an endpoint is left out, trouble on purpose.
//!
//! Compiled from a TrafficPolicy. What is counted (the budget of further tries) lives as long as the policy stays as it
//! is: a change of endpoints does not forget it.

use std::sync::Arc;
use std::time::Duration;

use signet_model::{Fault, OutlierPolicy, RetryBudget, RetryPolicy, TrafficPolicySpec};

use super::budget::Budget;

/// What a TrafficPolicy says of one port's calls.
#[derive(Debug, Default)]
pub struct Traffic {
    /// As it was written, to see whether it changed.
    spec: Option<TrafficPolicySpec>,
    /// When a request is tried again.
    pub retry: Option<Arc<Retry>>,
    /// When an endpoint is left out.
    pub outlier: Option<OutlierPolicy>,
    /// From a request's head to the last byte of its answer.
    pub stream: Option<Duration>,
    /// Trouble on purpose.
    pub faults: Vec<Fault>,
}

/// When a request is tried again.
#[derive(Clone, Debug)]
pub struct Retry {
    /// Tries beyond the first.
    pub attempts: u32,
    /// Statuses that are worth another try.
    pub statuses: Box<[u16]>,
    /// gRPC codes that are, a bit for each.
    grpc: u32,
    /// Whether a connection that breaks is.
    pub on_reset: bool,
    /// How long one try may take to the answer's head.
    pub per_try: Option<Duration>,
    /// The least pause before a further try.
    pub backoff: Duration,
    /// Bytes of a body that are kept for one.
    pub max_body: usize,
    /// Also methods that are not idempotent.
    pub non_idempotent: bool,
    /// Shared by everything that calls the port.
    pub budget: Arc<Budget>,
}

/// The longest pause between tries: a few doublings of any sensible first one.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

impl Retry {
    /// A retry as a route says it, under the budget that holds for the port; without one under a budget of its own, for
    /// which the result is to be kept. A route that says nothing else has broken connections tried again once.
    pub fn of_route(route: &signet_model::RouteRetry, port: Option<&Retry>) -> Retry {
        let mut retry = port.cloned().unwrap_or_else(|| Retry {
            attempts: 1,
            statuses: Box::default(),
            grpc: 0,
            on_reset: true,
            per_try: None,
            backoff: Duration::from_millis(25),
            max_body: 64 * 1024,
            non_idempotent: false,
            budget: Arc::new(Budget::new(RetryBudget::default())),
        });
        if !route.codes.is_empty() {
            retry.statuses = route.codes.clone().into();
        }
        if let Some(attempts) = route.attempts {
            retry.attempts = attempts.min(signet_model::MAX_RETRIES);
        }
        if let Some(backoff) = route.backoff {
            retry.backoff = backoff.get();
        }
        retry
    }

    fn of_policy(policy: &RetryPolicy) -> Retry {
        Retry {
            attempts: policy.attempts.min(signet_model::MAX_RETRIES),
            statuses: policy.statuses.clone().into(),
            grpc: policy.grpc_codes.iter().fold(0, |bits, code| bits | 1 << code.number()),
            on_reset: policy.on_reset,
            per_try: policy.per_try_timeout.map(signet_model::Period::get),
            backoff: policy.backoff.get(),
            max_body: usize::try_from(policy.max_body_bytes.min(signet_model::MAX_REPLAY)).unwrap_or(0),
            non_idempotent: policy.non_idempotent,
            budget: Arc::new(Budget::new(policy.budget)),
        }
    }

    /// Whether an answer of this status is worth another try.
    pub fn takes_status(&self, status: u16) -> bool {
        self.statuses.contains(&status)
    }

    /// Whether an answer without content of this gRPC code is.
    pub fn takes_grpc(&self, code: u8) -> bool {
        code < 32 && self.grpc & 1 << code != 0
    }

    /// The pause before this further try (1 is the first of them), `random` choosing within its jitter: between one and
    /// one and a half times the back-off, doubled for each try before.
    pub fn pause(&self, further: u32, random: u64) -> Duration {
        let doubled =
            self.backoff.saturating_mul(1u32.checked_shl(further.saturating_sub(1)).unwrap_or(u32::MAX));
        let doubled = doubled.min(LONGEST_BACKOFF);
        let half = u64::try_from(doubled.as_micros() / 2).unwrap_or(u64::MAX).max(1);
        doubled + Duration::from_micros(random % half)
    }
}

impl Traffic {
    /// Whether a request is simply called once.
    pub fn is_plain(&self) -> bool {
        self.retry.is_none() && self.stream.is_none() && self.faults.is_empty()
    }

    /// What these policies of a service say of one port; `before` is kept where nothing changed.
    pub(crate) fn of_port(
        policies: &[TrafficPolicySpec],
        port: &str,
        before: Option<&Arc<Traffic>>,
    ) -> Arc<Traffic> {
        let own = policies.iter().find(|p| p.target.port.as_ref().is_some_and(|name| *name == *port));
        let spec = own.or_else(|| policies.iter().find(|policy| policy.target.port.is_none()));
        if let Some(before) = before.filter(|before| before.spec.as_ref() == spec) {
            return before.clone();
        }
        let Some(spec) = spec else { return Arc::default() };
        Arc::new(Traffic {
            retry: spec.retry.as_ref().map(|retry| Arc::new(Retry::of_policy(retry))),
            outlier: spec.outlier_detection.clone(),
            stream: spec.timeouts.and_then(|timeouts| timeouts.stream).map(signet_model::Period::get),
            faults: spec.faults.clone(),
            spec: Some(spec.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_with_jitter_and_have_an_end() {
        let retry =
            Retry { backoff: Duration::from_millis(100), ..Retry::of_route(&Default::default(), None) };
        for (further, least) in [(1, 100), (2, 200), (3, 400), (30, 10_000), (u32::MAX, 10_000)] {
            for random in [0, 7, u64::MAX] {
                let pause = retry.pause(further, random);
                let least = Duration::from_millis(least);
                assert!(pause >= least && pause <= least * 3 / 2, "{further}: {pause:?}");
            }
        }
    }
}
