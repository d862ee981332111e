//! Every refusal has an id, and the reason behind it travels to the control plane.
//!
//! Callers see the id alone. The explanation goes into a bounded channel, at most so many a second:
//! a flood of refusals costs a counter and not memory, and its size is reported as dropped.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::mpsc;

use crate::flood::PerSecond;

/// 128 random bits, printed as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecisionId([u8; 16]);

impl DecisionId {
    /// A new random id.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        // The system's generator does not fail on the platforms that we run on; an id of zeroes in
        // a refusal is still a refusal.
        let _ = SystemRandom::new().fill(&mut bytes);
        DecisionId(bytes)
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One refusal, for `signet authz explain`.
#[derive(Clone, Debug)]
pub struct DecisionRecord {
    /// What the caller was told.
    pub id: DecisionId,
    /// Milliseconds since the epoch.
    pub at_ms: u64,
    /// A JSON document: the policy's explanation, or `{"reason": …, "detail": …}`.
    pub json: String,
    /// Nobody was refused.
    pub beside: bool,
}

/// How many records a second are passed on; the rest is counted.
pub const RECORDS_PER_SECOND: u64 = 50;

/// How many a second of those by which nobody was refused: what a shadow policy would have refused.
pub const SHADOWS_PER_SECOND: u64 = 5;

/// Where records go. Cheap to share; never blocks.
#[derive(Debug)]
pub struct DecisionSink {
    to: mpsc::Sender<DecisionRecord>,
    dropped: AtomicU64,
    flood: PerSecond,
    shadows: PerSecond,
    samples: PerSecond,
}

impl DecisionSink {
    /// A sink, and the end that the control client reads.
    pub fn new(bound: usize) -> (Self, mpsc::Receiver<DecisionRecord>) {
        let (to, from) = mpsc::channel(bound.max(1));
        (
            DecisionSink {
                to,
                dropped: AtomicU64::new(0),
                flood: PerSecond::new(),
                shadows: PerSecond::new(),
                samples: PerSecond::new(),
            },
            from,
        )
    }

    /// Records a decision; `explain` runs only if there is room for what it says.
    pub fn record(&self, id: DecisionId, explain: impl FnOnce() -> String) {
        let now = since_epoch();
        if !self.flood.admits(now.as_secs(), RECORDS_PER_SECOND) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Ok(room) = self.to.try_reserve() else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        room.send(DecisionRecord { id, at_ms: millis(now), json: explain(), beside: false });
    }

    /// Records what a shadow policy would have refused. That there are more is told by a counter of its own.
    pub fn record_shadow(&self, explain: impl FnOnce() -> String) {
        self.record_beside(&self.shadows, SHADOWS_PER_SECOND, explain);
    }

    /// Records a permitted request, of which so many a second are wanted.
    pub fn record_sample(&self, per_second: u32, explain: impl FnOnce() -> String) {
        self.record_beside(&self.samples, per_second.into(), explain);
    }

    /// Never in the way of a refusal: half of the room is theirs.
    fn record_beside(&self, gate: &PerSecond, per_second: u64, explain: impl FnOnce() -> String) {
        let now = since_epoch();
        let half_empty = self.to.capacity() > self.to.max_capacity() / 2;
        if per_second == 0 || !half_empty || !gate.admits(now.as_secs(), per_second) {
            return;
        }
        let Ok(room) = self.to.try_reserve() else { return };
        let id = DecisionId::random();
        room.send(DecisionRecord { id, at_ms: millis(now), json: explain(), beside: true });
    }

    /// How many were dropped since this was last asked.
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn millis(since: Duration) -> u64 {
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_thirty_two_digits_and_never_the_same() {
        let (a, b) = (DecisionId::random(), DecisionId::random());
        assert_eq!(a.to_string().len(), 32);
        assert_ne!(a, b);
    }

    #[test]
    fn a_flood_is_counted_and_not_kept() {
        let (sink, mut from) = DecisionSink::new(8);
        for _ in 0..1000 {
            sink.record(DecisionId::random(), || "{}".into());
        }
        let mut kept = 0;
        while from.try_recv().is_ok() {
            kept += 1;
        }
        assert_eq!(kept, 8);
        assert_eq!(sink.take_dropped(), 992);
        assert_eq!(sink.take_dropped(), 0);
    }

    #[test]
    fn what_refused_nobody_leaves_half_of_the_room_to_refusals() {
        let (sink, mut from) = DecisionSink::new(8);
        for _ in 0..100 {
            sink.record_sample(1000, || "{}".into());
        }
        let mut kept = 0;
        while let Ok(record) = from.try_recv() {
            assert!(record.beside);
            kept += 1;
        }
        assert_eq!(kept, 4);
        assert_eq!(sink.take_dropped(), 0, "these are samples: what is not taken is not lost");
        sink.record_sample(0, || unreachable!("none is wanted"));
    }

    #[test]
    fn the_explanation_of_a_dropped_record_is_never_made() {
        let (sink, _from) = DecisionSink::new(1);
        sink.record(DecisionId::random(), || "{}".into());
        sink.record(DecisionId::random(), || unreachable!("no room, so nothing to explain"));
    }
}
