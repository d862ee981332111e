//! How long a revocation takes: from the moment at which it is in force here until the last connected sidecar has
//! acknowledged it.
//!
//! A sidecar acknowledges a set when it goes by it: from then on it lets nobody in whom the set names, and the tasks
//! that hold open connections of such peers have been woken to close them. Whoever is not connected is no part of it:
//! it gets the newest set before anything else when it comes back. Each control plane measures its own sidecars.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus::{Histogram, IntGauge};

/// Sets that wait at a time. Beyond that the oldest are measured no more: they are in each newer one.
const MAX_WAITING: usize = 1_024;

/// What each connected sidecar goes by.
pub struct Spread {
    inner: Mutex<Inner>,
    took: Histogram,
    behind: IntGauge,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// Number of the set that each stream's sidecar acknowledged last.
    streams: BTreeMap<u64, u64>,
    newest: u64,
    /// When each set that somebody still waits for came into force.
    waiting: BTreeMap<u64, Instant>,
}

impl Spread {
    #[must_use]
    pub fn new(took: Histogram, behind: IntGauge) -> Self {
        Self { inner: Mutex::default(), took, behind }
    }

    /// A sidecar connects; it has acknowledged nothing yet.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Place {
        let mut inner = self.lock();
        let key = inner.next;
        inner.next = key.wrapping_add(1);
        // It is told the newest set first: older ones do not wait for it.
        let before = inner.newest.saturating_sub(1);
        inner.streams.insert(key, before);
        self.settle(&mut inner);
        drop(inner);
        Place { spread: Arc::clone(self), key }
    }

    /// This set is in force.
    pub fn begins(&self, sequence: u64) {
        let mut inner = self.lock();
        if sequence <= inner.newest {
            return;
        }
        inner.newest = sequence;
        if !inner.streams.is_empty() {
            inner.waiting.insert(sequence, Instant::now());
        }
        while inner.waiting.len() > MAX_WAITING {
            inner.waiting.pop_first();
        }
        self.settle(&mut inner);
    }

    /// Measures what nobody waits for any more.
    fn settle(&self, inner: &mut Inner) {
        let least = inner.streams.values().copied().min().unwrap_or(u64::MAX);
        while let Some(first) = inner.waiting.first_entry()
            && *first.key() <= least
        {
            self.took.observe(first.remove().elapsed().as_secs_f64());
        }
        let behind = inner.streams.values().filter(|held| **held < inner.newest).count();
        self.behind.set(i64::try_from(behind).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream's; dropping it waits for that sidecar no more.
pub struct Place {
    spread: Arc<Spread>,
    key: u64,
}

impl Place {
    /// The sidecar goes by this set.
    pub fn holds(&self, sequence: u64) {
        let mut inner = self.spread.lock();
        let Some(held) = inner.streams.get_mut(&self.key) else { return };
        if *held < sequence {
            *held = sequence;
            self.spread.settle(&mut inner);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.spread.lock();
        inner.streams.remove(&self.key);
        self.spread.settle(&mut inner);
    }
}

#[cfg(test)]
mod tests {
    use prometheus::HistogramOpts;

    use super::*;

    fn spread() -> Arc<Spread> {
        let took = Histogram::with_opts(HistogramOpts::new("took", "t")).unwrap();
        Arc::new(Spread::new(took, IntGauge::new("behind", "b").unwrap()))
    }

    fn seen(spread: &Spread) -> (u64, i64) {
        (spread.took.get_sample_count(), spread.behind.get())
    }

    #[test]
    fn a_set_is_measured_when_the_last_sidecar_has_it() {
        let spread = spread();
        spread.begins(5);
        let (one, two) = (spread.enter(), spread.enter());
        assert_eq!(seen(&spread), (0, 2));
        one.holds(5);
        two.holds(5);
        assert_eq!(seen(&spread), (0, 0), "what was there before they came is not measured by them");
        spread.begins(6);
        spread.begins(7);
        one.holds(7);
        assert_eq!(seen(&spread), (0, 1));
        two.holds(6);
        assert_eq!(seen(&spread), (1, 1), "the older of the two is everywhere");
        two.holds(7);
        assert_eq!(seen(&spread), (2, 0));
    }

    #[test]
    fn nobody_waits_for_a_sidecar_that_is_gone_or_has_just_come() {
        let spread = spread();
        let (one, two) = (spread.enter(), spread.enter());
        spread.begins(1);
        one.holds(1);
        assert_eq!(seen(&spread), (0, 1));
        let late = spread.enter();
        drop(two);
        assert_eq!(seen(&spread), (0, 1), "the one that has just come is told of it like the others");
        late.holds(1);
        assert_eq!(seen(&spread), (1, 0));
    }
}
