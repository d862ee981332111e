//! When to try again: exponential, jittered, bounded; and when to renew: a third of life, ± 10 %.
//!
//! Pure functions of their inputs. Chance comes in as a fraction of one, so that a test can choose it.

use std::time::Duration;

/// Waits between attempts at one thing.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits about `first` after the first failure, twice as long after each further one, at most `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// How long to wait after one more failure: between half and all of the step, by `chance` (0 to 1).
    pub fn next(&mut self, chance: f64) -> Duration {
        let step = self.first.saturating_mul(1_u32 << self.failures.min(20)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        step.div_f64(2.0) + step.div_f64(2.0).mul_f64(chance.clamp(0.0, 1.0))
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It worked: the next failure is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// How long it is from `now` to the renewal of a certificate that came at `issued_at` and ends at `not_after`
/// (all in seconds).
///
/// The authority proposes a moment, `renew_at` (a third of life). The wait for it is spread by ± 10 %, so that
/// a fleet that started together does not renew together. A proposal that is past, or after the end, is
/// replaced by a third of what was left at `issued_at`. Never in the last tenth of that.
pub fn renew_in(issued_at: i64, not_after: i64, renew_at: i64, now: i64, chance: f64) -> Duration {
    let left = not_after.saturating_sub(issued_at).max(0) as f64;
    let usable = renew_at > issued_at && renew_at < not_after;
    let proposed = if usable { renew_at.saturating_sub(issued_at) as f64 } else { left / 3.0 };
    let wait = proposed * (0.9 + 0.2 * chance.clamp(0.0, 1.0));
    let passed = now.saturating_sub(issued_at) as f64;
    Duration::from_secs_f64((wait.min(left * 0.9) - passed).max(0.0))
}

/// A fraction of one, from the system's random numbers.
pub fn chance() -> f64 {
    let mut bytes = [0_u8; 4];
    let random = ring::rand::SystemRandom::new();
    // Without randomness only the jitter is lost: the middle of the range is as good.
    match ring::rand::SecureRandom::fill(&random, &mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_wait_up_to_the_bound() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let waits: Vec<u64> = (0..8).map(|_| backoff.next(1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        backoff.reset();
        assert_eq!(backoff.next(1.0), Duration::from_secs(1));
    }

    #[test]
    fn jitter_takes_at_most_half_off() {
        for chance in [0.0, 0.3, 1.0, 7.0, -1.0] {
            let wait = Backoff::new(Duration::from_secs(2), Duration::from_secs(2)).next(chance);
            assert!((1.0..=2.0).contains(&wait.as_secs_f64()), "{wait:?}");
        }
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        (0..200).for_each(|_| assert!(backoff.next(1.0) <= Duration::from_secs(60)));
    }

    #[test]
    fn renewal_is_at_the_proposed_moment_give_or_take_a_tenth() {
        let (from, until) = (1_000, 1_000 + 3_600);
        assert_eq!(renew_in(from, until, from + 1_200, from, 0.5), Duration::from_secs(1_200));
        assert_eq!(renew_in(from, until, from + 1_200, from, 0.0), Duration::from_secs(1_080));
        assert_eq!(renew_in(from, until, from + 1_200, from, 1.0), Duration::from_secs(1_320));
        assert_eq!(renew_in(from, until, from + 1_200, from + 200, 0.5), Duration::from_secs(1_000));
    }

    #[test]
    fn a_proposal_that_is_past_or_too_late_is_replaced_by_a_third_of_life() {
        for proposal in [0, 999, 1_000, 4_600, 99_999] {
            assert_eq!(renew_in(1_000, 4_600, proposal, 1_000, 0.5), Duration::from_secs(1_200));
        }
        assert_eq!(renew_in(1_000, 4_600, 4_599, 1_000, 1.0), Duration::from_secs(3_240));
    }

    #[test]
    fn what_is_overdue_is_renewed_at_once() {
        assert_eq!(renew_in(1_000, 4_600, 2_200, 9_000, 0.5), Duration::ZERO);
    }
}
