//! How many further tries there may be, shared by everything that calls one port.

use signet_model::RetryBudget;

use crate::sync::{AtomicI64, AtomicU64, Ordering};

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
