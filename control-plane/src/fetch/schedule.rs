//! When a document is fetched next: a pure function of what happened and a clock.
//!
//! Keys are fetched ahead of need, at the soft end of their life. A refusal by the issuer does not
//! hurry anybody: between two fetches lie thirty seconds, however many proxies meet a key that they
//! do not know. Only before the first success, when nothing can be verified anyway, retries are shorter.

use std::time::{Duration, Instant};

/// How often something may be asked for.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The bounds of the pause after a success, and the pause where the server says nothing.
    pub soft: (Duration, Duration),
    pub unsaid: Duration,
    /// The pause between two fetches however many want one; also the first retry after a failure.
    pub spacing: Duration,
    /// The longest pause while it has never succeeded.
    pub first_max: Duration,
    /// The longest pause while it fails.
    pub retry_max: Duration,
    /// Whether jitter may only hurry: the pause that was said is then the longest.
    pub never_late: bool,
}

impl Pace {
    /// Issuers' keys: a rotation is seen at the latest after an hour, whatever the issuer's `max-age` says, and an
    /// outage that ends is noticed within five minutes.
    pub const ISSUERS: Self = Self {
        soft: (Duration::from_secs(300), Duration::from_secs(3_600)),
        unsaid: Duration::from_secs(3_600),
        spacing: Duration::from_secs(30),
        first_max: Duration::from_secs(30),
        retry_max: Duration::from_secs(300),
        never_late: false,
    };
    /// Bundles: as often as the publisher hints (a new root is published three to five hints before it is used), five
    /// minutes where it does not (SPIFFE Federation, section 4.1). While it fails, no more often than that either.
    pub const BUNDLES: Self = Self {
        soft: (Duration::from_secs(5), Duration::from_secs(86_400)),
        unsaid: Duration::from_secs(300),
        spacing: Duration::from_secs(5),
        first_max: Duration::from_secs(60),
        retry_max: Duration::from_secs(300),
        never_late: true,
    };
}

/// Keys are used this long after the last success while the issuer cannot be reached.
pub const STALE: Duration = Duration::from_secs(24 * 3_600);

/// One issuer's timetable.
#[derive(Debug, Clone)]
pub struct Schedule {
    pace: Pace,
    due: Instant,
    last_start: Option<Instant>,
    failures: u32,
    ever: bool,
}

impl Schedule {
    /// Due at once.
    #[must_use]
    pub fn new(pace: Pace, now: Instant) -> Self {
        Self { pace, due: now, last_start: None, failures: 0, ever: false }
    }

    /// When to fetch next.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    /// A fetch begins.
    pub fn started(&mut self, now: Instant) {
        self.last_start = Some(now);
    }

    /// It brought keys. `jitter` in -1..=1 spreads the fleet by a tenth of the interval.
    pub fn succeeded(&mut self, now: Instant, max_age: Option<Duration>, jitter: f64) {
        self.ever = true;
        self.failures = 0;
        let (least, most) = self.pace.soft;
        let soft = max_age.unwrap_or(self.pace.unsaid).clamp(least, most);
        self.due = now + spread(soft, if self.pace.never_late { -jitter.abs() } else { jitter });
    }

    /// It failed: 1, 2, 4, … s before the first success; then doublings of the spacing.
    pub fn failed(&mut self, now: Instant, jitter: f64) {
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let (first, most) = match self.ever {
            true => (self.pace.spacing, self.pace.retry_max),
            false => (Duration::from_secs(1), self.pace.first_max),
        };
        let pause = first.saturating_mul(1 << doublings).min(most);
        // Never earlier than said: the jitter only delays.
        self.due = now + spread(pause, jitter.abs());
    }

    /// Somebody met a key that is not in the set: fetch sooner, but not sooner than the spacing after
    /// the last fetch began.
    pub fn wanted(&mut self, now: Instant) {
        let earliest = self.last_start.map_or(now, |at| (at + self.pace.spacing).max(now));
        self.due = self.due.min(earliest);
    }
}

fn spread(interval: Duration, jitter: f64) -> Duration {
    interval.mul_f64(1.0 + 0.1 * jitter.clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(schedule: &Schedule, now: Instant) -> u64 {
        schedule.due().saturating_duration_since(now).as_secs()
    }

    #[test]
    fn the_soft_end_is_the_issuers_max_age_within_five_minutes_and_an_hour() {
        let now = Instant::now();
        let mut schedule = Schedule::new(Pace::ISSUERS, now);
        for (max_age, expected) in [(None, 3_600), (Some(1), 300), (Some(900), 900), (Some(86_400), 3_600)] {
            schedule.succeeded(now, max_age.map(Duration::from_secs), 0.0);
            assert_eq!(after(&schedule, now), expected, "{max_age:?}");
        }
        schedule.succeeded(now, Some(Duration::from_secs(1_000)), 1.0);
        assert_eq!(after(&schedule, now), 1_100);
        schedule.succeeded(now, Some(Duration::from_secs(1_000)), -1.0);
        assert_eq!(after(&schedule, now), 900);
    }

    #[test]
    fn a_bundle_is_asked_for_at_its_hint_and_never_later() {
        let now = Instant::now();
        let mut schedule = Schedule::new(Pace::BUNDLES, now);
        for (hint, expected) in [(None, 300), (Some(0), 5), (Some(60), 60), (Some(604_800), 86_400)] {
            schedule.succeeded(now, hint.map(Duration::from_secs), 0.0);
            assert_eq!(after(&schedule, now), expected, "{hint:?}");
        }
        for jitter in [-1.0, 1.0] {
            schedule.succeeded(now, Some(Duration::from_secs(1_000)), jitter);
            assert_eq!(after(&schedule, now), 900);
        }
    }

    #[test]
    fn first_retries_are_short_and_later_ones_are_not() {
        let now = Instant::now();
        let mut schedule = Schedule::new(Pace::ISSUERS, now);
        let pauses: Vec<u64> = (0..7)
            .map(|_| {
                schedule.failed(now, 0.0);
                after(&schedule, now)
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        schedule.succeeded(now, None, 0.0);
        let pauses: Vec<u64> = (0..6)
            .map(|_| {
                schedule.failed(now, 0.0);
                after(&schedule, now)
            })
            .collect();
        assert_eq!(pauses, [30, 60, 120, 240, 300, 300]);
    }

    #[test]
    fn a_herd_of_unknown_keys_causes_one_fetch_in_thirty_seconds() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Pace::ISSUERS, start);
        let mut fetches = 0;
        for millisecond in 0..90_000u64 {
            let now = start + Duration::from_millis(millisecond);
            if schedule.due() <= now {
                fetches += 1;
                schedule.started(now);
                schedule.succeeded(now, None, 0.0);
            }
            schedule.wanted(now);
        }
        assert_eq!(fetches, 3);
    }
}
