//! Endpoints that fail again and again are left out for a while, each time longer.
//!
//! One count per endpoint and process: failures in a row. Never are more endpoints of a port left out at once than its
//! policy allows, so that a service that fails as a whole is still called. Whoever comes back is on probation: one
//! failure leaves it out again, one success clears it; its record is forgotten when it has been good for as long as it
//! was left out.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use signet_model::OutlierPolicy;

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Nanoseconds since the process first asked.
pub fn monotonic() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    // One at the least: zero means never.
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// What is held against one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Record {
    failures: AtomicU32,
    /// Left out until then; 0 is never.
    until: AtomicU64,
    /// How often in a row.
    ejections: AtomicU32,
    /// For how long the last time.
    length: AtomicU64,
}

impl Record {
    pub(crate) fn is_out(&self, now: u64) -> bool {
        self.until.load(Ordering::Relaxed) > now
    }

    /// A try succeeded.
    pub(crate) fn good(&self, now: u64) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if self.ejections.load(Ordering::Relaxed) != 0 {
            let until = self.until.load(Ordering::Relaxed);
            if now > until.saturating_add(self.length.load(Ordering::Relaxed)) {
                self.ejections.store(0, Ordering::Relaxed);
            }
        }
    }

    /// The same, for a decision that threads make together: this sees what any of them has written before.
    fn is_out_for_all(&self, now: u64) -> bool {
        self.until.fetch_add(0, Ordering::AcqRel) > now
    }

    /// A try failed; whether that is one too many. `may_leave`: whether there is room for one more that is left out; asked
    /// again, with `true`, when it is already.
    fn bad(&self, policy: &OutlierPolicy, may_leave: impl Fn(bool) -> bool, now: u64) -> bool {
        let before = self.until.load(Ordering::Relaxed);
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let on_probation = self.ejections.load(Ordering::Relaxed) > 0;
        let enough = if on_probation { 1 } else { policy.consecutive_failures };
        if failures < enough || before > now || !may_leave(false) {
            return false;
        }
        let times = self.ejections.load(Ordering::Relaxed).saturating_add(1);
        let length = policy.base_ejection.get().saturating_mul(times).min(policy.max_ejection.get());
        let length = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        // Only once: two failures at a time are one ejection.
        let until = now.saturating_add(length);
        if self.until.compare_exchange(before, until, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        // Another one may have gone at the same moment, on another thread: who sees too many comes back.
        if !may_leave(true) {
            self.until.swap(before, Ordering::AcqRel);
            return false;
        }
        self.length.store(length, Ordering::Relaxed);
        self.ejections.store(times, Ordering::Relaxed);
        self.failures.store(0, Ordering::Relaxed);
        true
    }

    /// How long it is left out still.
    pub(crate) fn left(&self, now: u64) -> Option<Duration> {
        let until = self.until.load(Ordering::Relaxed);
        (until > now).then(|| Duration::from_nanos(until - now))
    }
}

/// A try failed at the one of these endpoints whose record this is; whether it is left out from now on.
pub(crate) fn bad_among<'a, All: Iterator<Item = &'a Record>>(
    record: &Record,
    all: impl Fn() -> All,
    policy: &OutlierPolicy,
    now: u64,
) -> bool {
    let may_leave = |is_out_itself| {
        let (mut count, mut out) = (0usize, 0usize);
        for one in all() {
            count += 1;
            out += usize::from(one.is_out_for_all(now));
        }
        has_room(policy, count, out.saturating_sub(usize::from(is_out_itself)))
    };
    record.bad(policy, may_leave, now)
}

/// Whether one more of `all` may be left out, while `out` are.
fn has_room(policy: &OutlierPolicy, all: usize, out: usize) -> bool {
    (out + 1) * 100 <= usize::from(policy.max_ejected_percent) * all
}

#[cfg(test)]
mod tests {
    use super::*;
    use signet_model::Period;

    const SECOND: u64 = 1_000_000_000;

    fn policy() -> OutlierPolicy {
        OutlierPolicy {
            consecutive_failures: 3,
            base_ejection: Period::from_secs(10),
            max_ejection: Period::from_secs(25),
            max_ejected_percent: 50,
        }
    }

    #[test]
    fn three_failures_in_a_row_leave_it_out_and_a_success_between_them_does_not() {
        let record = Record::default();
        let bad = |now| record.bad(&policy(), |_| true, now);
        assert!(!bad(1) && !bad(1));
        record.good(1);
        assert!(!bad(1) && !bad(1) && bad(1));
        assert!(record.is_out(10 * SECOND) && !record.is_out(10 * SECOND + 2));
    }

    #[test]
    fn whoever_comes_back_is_on_probation_and_stays_out_longer_each_time_up_to_a_limit() {
        let record = Record::default();
        let mut now = 1;
        for _ in 0..2 {
            assert!(!record.bad(&policy(), |_| true, now));
        }
        for seconds in [10, 20, 25, 25] {
            assert!(record.bad(&policy(), |_| true, now));
            assert_eq!(record.left(now), Some(Duration::from_secs(seconds)));
            now += seconds * SECOND;
            assert!(!record.is_out(now));
        }
        // Good for as long as it was out, and all is forgotten.
        record.good(now + 26 * SECOND);
        assert!(!record.bad(&policy(), |_| true, now + 27 * SECOND));
    }

    #[test]
    fn no_more_are_left_out_than_allowed() {
        assert!(!has_room(&policy(), 1, 0), "the only one stays");
        assert!(has_room(&policy(), 2, 0) && !has_room(&policy(), 2, 1));
        assert!(has_room(&policy(), 3, 0) && !has_room(&policy(), 3, 1));
        let record = Record::default();
        assert!((0..100).all(|_| !record.bad(&policy(), |_| false, 1)));
        assert!(record.bad(&policy(), |_| true, 1), "as soon as there is room");
    }

    /// One endpoint's standing, told from all that has happened to it.
    #[derive(Default)]
    struct Slow {
        /// Failures since the last success or ejection.
        in_a_row: u32,
        /// When each ejection that is not forgotten began, and how long it was.
        ejected: Vec<(u64, u64)>,
    }

    impl Slow {
        fn is_out(&self, now: u64) -> bool {
            self.ejected.last().is_some_and(|(from, length)| now < from + length)
        }

        fn good(&mut self, now: u64) {
            self.in_a_row = 0;
            if self.ejected.last().is_some_and(|(from, length)| now > from + 2 * length) {
                self.ejected.clear();
            }
        }

        fn bad(&mut self, policy: &OutlierPolicy, has_room: bool, now: u64) -> bool {
            self.in_a_row += 1;
            let enough = if self.ejected.is_empty() { policy.consecutive_failures } else { 1 };
            if self.in_a_row < enough || self.is_out(now) || !has_room {
                return false;
            }
            let times = u64::try_from(self.ejected.len()).unwrap() + 1;
            let length =
                (policy.base_ejection.get().as_secs() * times).min(policy.max_ejection.get().as_secs());
            self.ejected.push((now, length * SECOND));
            self.in_a_row = 0;
            true
        }
    }

    proptest::proptest! {
        #[test]
        fn endpoints_are_left_out_as_their_history_says_and_never_more_than_allowed(
            count in 1usize..7,
            consecutive_failures in 1u32..5,
            (base, most) in (1u64..20, 1u64..60),
            max_ejected_percent in 0u8..=100,
            steps in proptest::collection::vec((0usize..7, proptest::bool::weighted(0.7), 0u64..15), 1..300),
        ) {
            let policy = OutlierPolicy {
                consecutive_failures,
                base_ejection: Period::from_secs(base),
                max_ejection: Period::from_secs(most),
                max_ejected_percent,
            };
            let records: Vec<_> = (0..count).map(|_| Record::default()).collect();
            let mut slow: Vec<_> = (0..count).map(|_| Slow::default()).collect();
            let mut now = 1;
            for (which, fails, wait) in steps {
                let which = which % count;
                // Also within one moment, and at the very end of an ejection.
                now += wait * SECOND / 2;
                let out = |now| records.iter().filter(|record| record.is_out(now)).count();
                let before = out(now);
                if fails {
                    let left = bad_among(&records[which], || records.iter(), &policy, now);
                    let room = (before + 1) * 100 <= usize::from(max_ejected_percent) * count;
                    proptest::prop_assert_eq!(left, slow[which].bad(&policy, room, now));
                    proptest::prop_assert_eq!(out(now), before + usize::from(left));
                } else {
                    records[which].good(now);
                    slow[which].good(now);
                }
                for (record, slow) in records.iter().zip(&slow) {
                    proptest::prop_assert_eq!(record.is_out(now), slow.is_out(now));
                }
                let most_out = usize::from(max_ejected_percent) * count / 100;
                proptest::prop_assert!(out(now) <= most_out, "{} of {}", out(now), count);
            }
        }
    }
}
