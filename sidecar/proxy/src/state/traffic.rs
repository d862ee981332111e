//! How one service port is called: when a request is tried again, when an endpoint is left out, trouble on purpose.
//!
//! Compiled from a TrafficPolicy. What is counted (the budget of further tries) lives as long as the policy stays as it
//! is: a change of endpoints does not forget it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use signet_model::{Fault, OutlierPolicy, RetryBudget, RetryPolicy, TrafficPolicySpec};

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

/// Bounds further tries by a share of the first ones, so that a service in trouble is not asked many times over.
///
/// A hundredth-of-a-try account: each first try pays in the percentage, each further one takes a hundred out; what it
/// holds is bounded, so that a calm hour does not pay for a storm. Beside it so many a second are always allowed.
#[derive(Debug)]
pub struct Budget {
    percent: i64,
    account: AtomicI64,
    /// Nanoseconds between two of the ones that are always allowed; 0 for none.
    interval: u64,
    /// When the next of these is due, in nanoseconds since the process began to count.
    due: AtomicU64,
}

/// What the account holds at most: a hundred tries.
const FULL: i64 = 100 * 100;

impl Budget {
    /// An account that is empty.
    pub fn new(budget: RetryBudget) -> Self {
        Budget {
            percent: i64::from(budget.percent),
            account: AtomicI64::new(0),
            interval: 1_000_000_000u64.checked_div(u64::from(budget.min_per_second)).unwrap_or(0),
            due: AtomicU64::new(0),
        }
    }

    /// A request is tried for the first time.
    pub fn pay_in(&self) {
        if self.percent > 0 && self.account.load(Ordering::Relaxed) < FULL {
            self.account.fetch_add(self.percent, Ordering::Relaxed);
        }
    }

    /// Whether one further try may be made `now` (nanoseconds since the process began to count), which is then counted.
    pub fn take(&self, now: u64) -> bool {
        let paid = self
            .account
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| (held >= 100).then(|| held - 100))
            .is_ok();
        if paid || self.interval == 0 {
            return paid;
        }
        // A second's worth at once, then one per interval.
        let tolerance = 1_000_000_000u64.saturating_sub(self.interval);
        self.due
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |due| {
                let due = due.max(now);
                (due - now <= tolerance).then(|| due.saturating_add(self.interval))
            })
            .is_ok()
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

    fn budget(percent: u8, min_per_second: u32) -> Budget {
        Budget::new(RetryBudget { percent, min_per_second })
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn further_tries_are_a_share_of_the_first_ones() {
        let budget = budget(20, 0);
        assert!(!budget.take(0), "nobody has asked anything yet");
        (0..100).for_each(|_| budget.pay_in());
        assert_eq!((0..100).filter(|_| budget.take(0)).count(), 20);
    }

    #[test]
    fn a_calm_hour_does_not_pay_for_a_storm() {
        let budget = budget(100, 0);
        (0..1_000_000).for_each(|_| budget.pay_in());
        let taken = (0..1_000_000).take_while(|_| budget.take(0)).count();
        assert!((100..=101).contains(&taken), "{taken}");
    }

    #[test]
    fn so_many_a_second_are_always_allowed_and_no_more() {
        let budget = budget(0, 10);
        assert_eq!((0..100).filter(|_| budget.take(0)).count(), 10);
        let over_ten_seconds = (1..=1000u64).filter(|step| budget.take(step * SECOND / 100)).count();
        assert!((99..=101).contains(&over_ten_seconds), "{over_ten_seconds}");
    }

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

    /// The budget written down again, slowly: hundredths of tries as they are paid, and a bucket that a nanosecond fills
    /// by one, of which a try of the guaranteed kind takes what lies between two of them.
    struct Reference {
        percent: i64,
        account: i64,
        interval: u128,
        bucket: u128,
        seen: u64,
    }

    impl Reference {
        fn take(&mut self, now: u64) -> bool {
            if self.account >= 100 {
                self.account -= 100;
                return true;
            }
            if self.interval == 0 {
                return false;
            }
            self.bucket = (self.bucket + u128::from(now - self.seen)).min(u128::from(SECOND));
            self.seen = now;
            let has = self.bucket >= self.interval;
            if has {
                self.bucket -= self.interval;
            }
            has
        }
    }

    proptest::proptest! {
        #[test]
        fn a_budget_grants_what_a_slow_account_grants(
            percent in 0u8..=100,
            min_per_second in proptest::prop_oneof![0u32..=20, 0u32..=1_000],
            steps in proptest::collection::vec((0u8..4, 0u64..400_000_000), 1..400),
        ) {
            let budget = budget(percent, min_per_second);
            let interval = if min_per_second == 0 { 0 } else { u128::from(SECOND) / u128::from(min_per_second) };
            let mut slow = Reference {
                percent: percent.into(),
                account: 0,
                interval,
                bucket: SECOND.into(),
                seen: 1,
            };
            let mut now = 1;
            for (what, wait) in steps {
                match what {
                    0 => {
                        budget.pay_in();
                        if slow.account < 100 * 100 {
                            slow.account += slow.percent;
                        }
                    }
                    1 => now += wait,
                    _ => proptest::prop_assert_eq!(budget.take(now), slow.take(now), "at {}", now),
                }
            }
        }
    }
}
