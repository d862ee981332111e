//! How long a revocation takes: from the moment at which it is in force here until the last connected sidecar has
//! acknowledged it.
//!
//! A sidecar acknowledges a set when it goes by it: from then on it lets nobody in whom the set names, and the tasks
//! that hold open connections of such peers have been woken to close them. Whoever is not connected is no part of it:
//! it gets the newest set before anything else when it comes back. Each control plane measures its own sidecars, and
//! says in the store how far it has come ([`Spread::tell`]), for those who wait for all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{Histogram, IntGauge};
use signet_ca::{Authority, SpreadNote};
use tokio::sync::watch;

/// Sets that wait at a time. Beyond that the oldest are measured no more: they are in each newer one.
const MAX_WAITING: usize = 1_024;
/// Sidecars that are named where more are behind.
pub const MAX_NAMES: usize = 16;
/// What comes within this is said together: a revocation has an acknowledgement of every sidecar.
const GATHER: Duration = Duration::from_millis(50);
/// Between two attempts to say it.
const RETRY: Duration = Duration::from_secs(5);

/// What each connected sidecar goes by.
pub struct Spread {
    inner: Mutex<Inner>,
    /// Counts changes.
    changed: watch::Sender<u64>,
    took: Histogram,
    behind: IntGauge,
}

struct Stream {
    /// The sidecar's identity.
    name: String,
    /// Number of the set that it acknowledged last.
    held: u64,
}

/// Who does not go by a set yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Behind {
    /// The set is not in force here yet.
    pub unread: bool,
    pub sidecars: u64,
    /// Of some of them.
    pub names: Vec<String>,
}

impl Behind {
    /// Whether everybody goes by it.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        !self.unread && self.sidecars == 0
    }
}

#[derive(Default)]
struct Inner {
    next: u64,
    streams: BTreeMap<u64, Stream>,
    newest: u64,
    /// When each set that somebody still waits for came into force.
    waiting: BTreeMap<u64, Instant>,
}

impl Spread {
    #[must_use]
    pub fn new(took: Histogram, behind: IntGauge) -> Self {
        Self { inner: Mutex::default(), changed: watch::Sender::new(0), took, behind }
    }

    /// A sidecar of this name connects; it has acknowledged nothing yet.
    #[must_use]
    pub fn enter(self: &Arc<Self>, name: &str) -> Place {
        let mut inner = self.lock();
        let key = inner.next;
        inner.next = key.wrapping_add(1);
        // It is told the newest set first: older ones do not wait for it.
        let before = inner.newest.saturating_sub(1);
        inner.streams.insert(key, Stream { name: name.to_owned(), held: before });
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
        let least = inner.least();
        while let Some(first) = inner.waiting.first_entry()
            && *first.key() <= least
        {
            self.took.observe(first.remove().elapsed().as_secs_f64());
        }
        let behind = inner.streams.values().filter(|stream| stream.held < inner.newest).count();
        self.behind.set(i64::try_from(behind).unwrap_or(i64::MAX));
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Told of each change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Who of those that are connected here does not go by the set with this number, or a newer one.
    pub fn behind(&self, sequence: u64) -> Behind {
        let inner = self.lock();
        let behind = inner.behind(sequence);
        Behind { unread: inner.newest < sequence, ..behind }
    }

    /// How many are connected here.
    pub fn connected(&self) -> u64 {
        u64::try_from(self.lock().streams.len()).unwrap_or(u64::MAX)
    }

    fn note(&self) -> SpreadNote {
        let inner = self.lock();
        let Behind { sidecars: behind, names, .. } = inner.behind(inner.newest);
        SpreadNote {
            sequence: inner.least().min(inner.newest),
            sidecars: u64::try_from(inner.streams.len()).unwrap_or(u64::MAX),
            behind,
            names,
        }
    }

    /// Says in the store how far revocations have come here, for as long as it runs.
    pub async fn tell(self: Arc<Self>, authority: Authority) {
        let mut changed = self.subscribe();
        let mut said = None;
        loop {
            changed.mark_unchanged();
            let note = self.note();
            if said.as_ref() != Some(&note) {
                // The failure was logged and counted by the authority.
                if authority.note_spread(note.clone()).await.is_err() {
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                said = Some(note);
            }
            if changed.changed().await.is_err() {
                return;
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The newest set that everybody goes by.
    fn least(&self) -> u64 {
        self.streams.values().map(|stream| stream.held).min().unwrap_or(u64::MAX)
    }

    fn behind(&self, sequence: u64) -> Behind {
        let mut behind = Behind::default();
        for stream in self.streams.values().filter(|stream| stream.held < sequence) {
            behind.sidecars = behind.sidecars.saturating_add(1);
            if behind.names.len() < MAX_NAMES {
                behind.names.push(stream.name.clone());
            }
        }
        behind.names.sort();
        behind
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
        let Some(stream) = inner.streams.get_mut(&self.key) else { return };
        if stream.held < sequence {
            stream.held = sequence;
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
        let (one, two) = (spread.enter("one"), spread.enter("two"));
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
    fn who_is_behind_is_named_and_a_set_that_is_not_read_yet_is_nowhere() {
        let spread = spread();
        spread.begins(5);
        let nobody = Behind::default();
        assert_eq!((spread.behind(5), spread.behind(6).is_nobody()), (nobody.clone(), false));
        let (one, two) = (spread.enter("one"), spread.enter("two"));
        assert_eq!(spread.behind(4), nobody, "whoever comes is told the newest first");
        one.holds(5);
        let behind = spread.behind(5);
        assert_eq!(
            (behind.sidecars, behind.names.as_slice(), behind.unread),
            (1, &["two".to_owned()][..], false)
        );
        let note = |sequence, behind, names: &[&str]| SpreadNote {
            sequence,
            sidecars: 2,
            behind,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert_eq!(spread.note(), note(4, 1, &["two"]));
        two.holds(5);
        assert_eq!((spread.behind(5), spread.note()), (nobody, note(5, 0, &[])));
        let many: Vec<_> = (0..100).map(|n| spread.enter(&format!("s{n:03}"))).collect();
        let behind = spread.behind(5);
        assert_eq!((behind.sidecars, behind.names.len()), (100, MAX_NAMES));
        drop(many);
        assert!(spread.behind(5).is_nobody(), "who is gone is waited for no more");
    }

    #[test]
    fn nobody_waits_for_a_sidecar_that_is_gone_or_has_just_come() {
        let spread = spread();
        let (one, two) = (spread.enter("one"), spread.enter("two"));
        spread.begins(1);
        one.holds(1);
        assert_eq!(seen(&spread), (0, 1));
        let late = spread.enter("late");
        drop(two);
        assert_eq!(seen(&spread), (0, 1), "the one that has just come is told of it like the others");
        late.holds(1);
        assert_eq!(seen(&spread), (1, 0));
    }
}
