//! Whether the API server is asked at all.
//!
//! After a few failures in a row nobody waits for it any longer: callers are told at once that it is away, and one
//! of them, now and then, finds out whether it is back. Nothing is decided about evidence meanwhile: it is
//! neither refused nor believed.

use std::time::{Duration, Instant};

/// Failures in a row until the circuit opens: one may be a connection that had died.
const FAILURES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// See the module's story.
#[derive(Debug, Default)]
pub struct Circuit {
    failures: u32,
    pause: Duration,
    /// Until then nobody asks.
    open_until: Option<Instant>,
}

impl Circuit {
    /// Whether to ask now. Once the pause is over one caller may; the others wait for what comes of it.
    pub fn admits(&mut self, now: Instant) -> bool {
        match self.open_until {
            None => true,
            Some(at) if now < at => false,
            Some(_) => {
                self.open_until = now.checked_add(self.pause);
                true
            }
        }
    }

    /// It answered.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// It did not, or asked to be left alone for so long.
    pub fn failed(&mut self, now: Instant, leave_alone: Option<Duration>) {
        self.failures = self.failures.saturating_add(1);
        if self.failures < FAILURES && leave_alone.is_none() {
            return;
        }
        self.pause = match self.pause {
            Duration::ZERO => FIRST_PAUSE,
            pause => pause.saturating_mul(2).min(LONGEST_PAUSE),
        };
        let wait = leave_alone.unwrap_or(self.pause).min(LONGEST_PAUSE);
        self.open_until = now.checked_add(wait.max(FIRST_PAUSE));
    }

    /// Whether callers are turned away.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open_until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_five_failures_one_caller_a_pause_asks_and_a_success_lets_all_in() {
        let mut circuit = Circuit::default();
        let start = Instant::now();
        let after = |ms: u64| start + Duration::from_millis(ms);
        for _ in 0..4 {
            assert!(circuit.admits(start));
            circuit.failed(start, None);
        }
        assert!(circuit.admits(start) && !circuit.is_open());
        circuit.failed(start, None);
        assert!(circuit.is_open() && !circuit.admits(after(999)));
        assert!(circuit.admits(after(1000)));
        assert!(!circuit.admits(after(1000)), "only one finds out");
        circuit.failed(after(1000), None);
        assert!(!circuit.admits(after(2999)) && circuit.admits(after(3000)));
        circuit.succeeded();
        assert!((0..10).all(|_| circuit.admits(after(3000))));
    }

    #[test]
    fn pauses_grow_to_half_a_minute_and_no_further() {
        let mut circuit = Circuit::default();
        let now = Instant::now();
        (0..40).for_each(|_| circuit.failed(now, None));
        assert!(!circuit.admits(now + Duration::from_millis(29_999)));
        assert!(circuit.admits(now + LONGEST_PAUSE));
    }

    #[test]
    fn a_server_that_asks_to_be_left_alone_is_left_alone() {
        let mut circuit = Circuit::default();
        let now = Instant::now();
        circuit.failed(now, Some(Duration::from_secs(7)));
        assert!(
            !circuit.admits(now + Duration::from_secs(6)) && circuit.admits(now + Duration::from_secs(7))
        );
        circuit.failed(now, Some(Duration::from_secs(86_400)));
        assert!(circuit.admits(now + LONGEST_PAUSE), "but not for ever");
    }
}
