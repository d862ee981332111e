//! What a flood may cost.
//!
//! Three bounds, both in memory and in front of the store. *Attempts*: a source whose join attempts keep
//! failing is turned away for the rest of the minute before anything is parsed or read; successes do not
//! count, and the table of sources has a fixed size. *Renewals*: a lineage renews so often a minute, the lost
//! answers that are given again included; whoever holds one key must not fill the log and the disk with
//! certificates. *Recording*: refusals are written to the issuance log
//! at a bounded rate; those in between are counted, and the next one that is written says for how many it
//! stands. Counters (metrics) see every one.

use std::collections::HashMap;

/// Sources remembered per generation; two generations are held. Beyond that, sources share one count.
const SOURCES: usize = 4096;
const MINUTE: i64 = 60;

/// Failed attempts per source and minute.
#[derive(Debug)]
pub(crate) struct Attempts {
    allowed: u32,
    began: i64,
    failed: HashMap<String, u32>,
    /// All sources that did not fit.
    others: u32,
}

impl Attempts {
    pub(crate) fn new(allowed: u32) -> Attempts {
        Attempts { allowed, began: i64::MIN, failed: HashMap::new(), others: 0 }
    }

    fn turn(&mut self, now: i64) {
        // A clock that was set back begins a new minute as well.
        if now.saturating_sub(self.began) >= MINUTE || now < self.began {
            self.began = now;
            self.failed.clear();
            self.others = 0;
        }
    }

    /// Whether this source may try now.
    pub(crate) fn allows(&mut self, source: &str, now: i64) -> bool {
        self.turn(now);
        match self.failed.get(source) {
            Some(count) => *count < self.allowed,
            None => self.failed.len() < SOURCES || self.others < self.allowed.saturating_mul(16),
        }
    }

    pub(crate) fn failed(&mut self, source: &str, now: i64) {
        self.turn(now);
        if let Some(count) = self.failed.get_mut(source) {
            *count = count.saturating_add(1);
        } else if self.failed.len() < SOURCES {
            self.failed.insert(source.to_owned(), 1);
        } else {
            self.others = self.others.saturating_add(1);
        }
    }
}

/// Renewals, certificates of class workload or JWT-SVIDs per lineage and minute. Only who holds a valid certificate is counted, so there are never more
/// entries than lineages.
#[derive(Debug)]
pub(crate) struct Renewals {
    allowed: u32,
    began: i64,
    counts: HashMap<[u8; 16], u32>,
}

/// The shortest certificates, of a minute, renew three times in it; the rest is for answers that were lost.
pub(crate) const RENEWALS_PER_MINUTE: u32 = 30;
/// A sidecar keeps a JWT-SVID for half of its life: so many audiences can be asked for anew each minute.
pub(crate) const JWT_SVIDS_PER_MINUTE: u32 = 600;

impl Renewals {
    pub(crate) fn new() -> Renewals {
        Renewals::per_minute(RENEWALS_PER_MINUTE)
    }

    pub(crate) fn per_minute(allowed: u32) -> Renewals {
        Renewals { allowed, began: i64::MIN, counts: HashMap::new() }
    }

    /// Counts one renewal of this lineage; whether it may be.
    pub(crate) fn admit(&mut self, lineage: [u8; 16], now: i64) -> bool {
        if now.saturating_sub(self.began) >= MINUTE || now < self.began {
            self.began = now;
            self.counts = HashMap::new();
        }
        let count = self.counts.entry(lineage).or_default();
        *count = count.saturating_add(1);
        *count <= self.allowed
    }
}

/// How often refusals are written down: a burst, then a steady rate.
#[derive(Debug)]
pub(crate) struct RecordBudget {
    burst: i64,
    per_second: i64,
    left: i64,
    at: i64,
    suppressed: u64,
}

impl RecordBudget {
    pub(crate) fn new(burst: i64, per_second: i64) -> RecordBudget {
        RecordBudget { burst, per_second, left: burst, at: i64::MIN, suppressed: 0 }
    }

    /// Whether to write this one; if so, for how many unwritten ones it stands.
    pub(crate) fn take(&mut self, now: i64) -> Option<u64> {
        let passed = now.saturating_sub(self.at).max(0);
        self.at = now;
        self.left = self.left.saturating_add(passed.saturating_mul(self.per_second)).min(self.burst);
        if self.left <= 0 {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.left = self.left.saturating_sub(1);
        Some(std::mem::take(&mut self.suppressed))
    }

    /// What was counted and not yet written, once the flood is over and nothing else would tell.
    pub(crate) fn flush(&mut self) -> u64 {
        std::mem::take(&mut self.suppressed)
    }

    /// Puts back what a failed write would have said.
    pub(crate) fn put_back(&mut self, suppressed: u64) {
        self.suppressed = self.suppressed.saturating_add(suppressed).saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_keeps_failing_waits_out_the_minute_and_others_do_not() {
        let mut attempts = Attempts::new(3);
        for _ in 0..3 {
            assert!(attempts.allows("a", 100));
            attempts.failed("a", 100);
        }
        assert!(!attempts.allows("a", 159));
        assert!(attempts.allows("b", 159));
        assert!(attempts.allows("a", 160));
    }

    #[test]
    fn the_table_of_sources_does_not_grow_without_bound() {
        let mut attempts = Attempts::new(2);
        for source in 0..3 * SOURCES {
            attempts.failed(&source.to_string(), 5);
        }
        assert_eq!(attempts.failed.len(), SOURCES);
        assert!(!attempts.allows("a new one", 5));
        assert!(attempts.allows("0", 5));
    }

    #[test]
    fn a_written_refusal_says_for_how_many_it_stands() {
        let mut budget = RecordBudget::new(2, 1);
        assert_eq!(
            [budget.take(10), budget.take(10), budget.take(10), budget.take(10)],
            [Some(0), Some(0), None, None]
        );
        assert_eq!(budget.take(11), Some(2));
        assert_eq!(budget.take(11), None);
        budget.put_back(4);
        assert_eq!(budget.take(12), Some(6));
    }
}
