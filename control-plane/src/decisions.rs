//! Decisions that sidecars reported, for `signet authz explain`.
//!
//! A ring with two bounds, records and bytes. When it is full the oldest record of whoever holds most goes
//! first, so that a workload that reports without end pushes out its own stories and nobody else's. A record is kept under the
//! identity of the peer that sent it, whatever it says itself, so a workload can report only about
//! itself. The id of a decision is known to the caller that was refused; a caller that is in the mesh
//! too could report a record of its own under that id, so an id that two workloads report is shown as
//! what it is and not resolved by who was faster.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Records kept.
pub const MAX_RECORDS: usize = 10_000;
/// Bytes kept: the mean record is under 2 KiB.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// A longer explanation is not one.
pub const MAX_RECORD: usize = 16 * 1024;
const MAX_ID: usize = 64;

/// One reported decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub id: String,
    pub at_ms: i64,
    /// The SPIFFE ID of the peer that reported it.
    pub workload: String,
    pub json: String,
}

impl Record {
    fn size(&self) -> usize {
        self.id.len().saturating_add(self.workload.len()).saturating_add(self.json.len()).saturating_add(64)
    }
}

/// Why a record was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It names another workload than the peer.
    Foreign,
    /// It is larger than [`MAX_RECORD`].
    TooLarge,
    /// The id is empty, too long or not plain, or the document is not JSON.
    Malformed,
    /// This workload reported this id before.
    Repeated,
}

impl Refused {
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Repeated => "repeated",
        }
    }
}

/// What is known of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    None,
    One(Arc<Record>),
    /// Several workloads reported it: each of them, sorted.
    Disputed(Vec<String>),
}

/// The ring, shared by the streams and the operator's service.
#[derive(Debug, Default)]
pub struct Decisions {
    ring: Mutex<Ring>,
    /// Decisions by which nobody was refused, in bounds of their own.
    beside: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// By order of arrival.
    order: BTreeMap<u64, Arc<Record>>,
    next: u64,
    by_id: HashMap<String, Vec<Arc<Record>>>,
    shares: HashMap<String, Share>,
    bytes: usize,
}

/// What one workload holds of the ring.
#[derive(Debug, Default)]
struct Share {
    /// Places in the order, oldest first.
    places: VecDeque<u64>,
    bytes: usize,
}

impl Decisions {
    /// Keeps a record that the peer `reporter` sent. `beside`: nobody was refused.
    ///
    /// # Errors
    /// [`Refused`] says why it was not kept.
    pub fn report(&self, reporter: &str, record: Record, beside: bool) -> Result<(), Refused> {
        if record.workload != reporter {
            return Err(Refused::Foreign);
        }
        if record.json.len() > MAX_RECORD {
            return Err(Refused::TooLarge);
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let id_good = !record.id.is_empty() && record.id.len() <= MAX_ID && record.id.bytes().all(plain);
        if !id_good || serde_json::from_str::<serde::de::IgnoredAny>(&record.json).is_err() {
            return Err(Refused::Malformed);
        }
        lock(if beside { &self.beside } else { &self.ring }).push(Arc::new(record))
    }

    /// What is known of `id`.
    #[must_use]
    pub fn find(&self, id: &str) -> Found {
        let in_ring = |ring| lock(ring).by_id.get(id).cloned().unwrap_or_default();
        let mut found = in_ring(&self.ring);
        found.extend(in_ring(&self.beside));
        match found.as_slice() {
            [] => Found::None,
            [one] => Found::One(Arc::clone(one)),
            many => {
                let mut workloads: Vec<String> = many.iter().map(|r| r.workload.clone()).collect();
                workloads.sort();
                Found::Disputed(workloads)
            }
        }
    }

    /// The newest `limit` records since then, newest first; with `beside` also those by which nobody was refused.
    #[must_use]
    pub fn newest(&self, limit: usize, since_ms: i64, beside: bool) -> Vec<Arc<Record>> {
        let of = |ring| -> Vec<Arc<Record>> {
            let ring = lock(ring);
            ring.order.values().rev().filter(|record| record.at_ms >= since_ms).take(limit).cloned().collect()
        };
        let mut records = of(&self.ring);
        if beside {
            records.extend(of(&self.beside));
            records.sort_by_key(|record| std::cmp::Reverse(record.at_ms));
            records.truncate(limit);
        }
        records
    }

    /// Records kept now.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.ring).order.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn lock(ring: &Mutex<Ring>) -> MutexGuard<'_, Ring> {
    // A panic elsewhere cannot leave the ring half changed in a way that matters: take it.
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ring {
    fn push(&mut self, record: Arc<Record>) -> Result<(), Refused> {
        let same = self.by_id.entry(record.id.clone()).or_default();
        if same.iter().any(|r| r.workload == record.workload) {
            return Err(Refused::Repeated);
        }
        same.push(Arc::clone(&record));
        let (size, place) = (record.size(), self.next);
        self.next = place.wrapping_add(1);
        self.bytes = self.bytes.saturating_add(size);
        let share = self.shares.entry(record.workload.clone()).or_default();
        share.bytes = share.bytes.saturating_add(size);
        share.places.push_back(place);
        self.order.insert(place, record);
        loop {
            let holder = match (self.order.len() > MAX_RECORDS, self.bytes > MAX_BYTES) {
                (false, false) => return Ok(()),
                (true, _) => self.holder(|share| share.places.len()),
                (false, true) => self.holder(|share| share.bytes),
            };
            let Some(holder) = holder else { return Ok(()) };
            self.forget_oldest_of(&holder);
        }
    }

    /// Whoever holds most; of several the one whose oldest record is the oldest.
    fn holder(&self, held: impl Fn(&Share) -> usize) -> Option<String> {
        let most = self.shares.iter().max_by_key(|(_, share)| {
            (held(share), std::cmp::Reverse(share.places.front().copied().unwrap_or(u64::MAX)))
        });
        most.map(|(workload, _)| workload.clone())
    }

    fn forget_oldest_of(&mut self, workload: &str) {
        let Some(share) = self.shares.get_mut(workload) else { return };
        if let Some(oldest) = share.places.pop_front().and_then(|place| self.order.remove(&place)) {
            share.bytes = share.bytes.saturating_sub(oldest.size());
            self.bytes = self.bytes.saturating_sub(oldest.size());
            if let Some(same) = self.by_id.get_mut(&oldest.id) {
                same.retain(|r| !Arc::ptr_eq(r, &oldest));
                if same.is_empty() {
                    self.by_id.remove(&oldest.id);
                }
            }
        }
        if share.places.is_empty() {
            self.shares.remove(workload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: &str = "spiffe://demo.signet/ns/shop/sa/orders";
    const WEB: &str = "spiffe://demo.signet/ns/shop/sa/web";

    fn record(id: &str, workload: &str) -> Record {
        Record { id: id.into(), at_ms: 1, workload: workload.into(), json: "{}".into() }
    }

    #[test]
    fn a_record_is_kept_only_under_the_reporters_own_identity() {
        let decisions = Decisions::default();
        assert_eq!(decisions.report(WEB, record("a", ORDERS), false), Err(Refused::Foreign));
        assert_eq!(decisions.report(ORDERS, record("a", ORDERS), false), Ok(()));
        assert!(matches!(decisions.find("a"), Found::One(r) if r.workload == ORDERS));
        assert_eq!(decisions.find("b"), Found::None);
    }

    #[test]
    fn a_refused_caller_cannot_put_its_own_story_in_place_of_the_real_one() {
        let decisions = Decisions::default();
        decisions.report(WEB, record("a", WEB), false).unwrap();
        decisions.report(ORDERS, record("a", ORDERS), false).unwrap();
        assert_eq!(decisions.find("a"), Found::Disputed(vec![ORDERS.into(), WEB.into()]));
        assert_eq!(decisions.report(WEB, record("a", WEB), false), Err(Refused::Repeated));
    }

    #[test]
    fn oversized_and_malformed_records_are_refused() {
        let decisions = Decisions::default();
        let mut large = record("a", WEB);
        large.json = format!("\"{}\"", "x".repeat(MAX_RECORD));
        assert_eq!(decisions.report(WEB, large, false), Err(Refused::TooLarge));
        assert_eq!(decisions.report(WEB, record("", WEB), false), Err(Refused::Malformed));
        assert_eq!(decisions.report(WEB, record("a\nb", WEB), false), Err(Refused::Malformed));
        let mut broken = record("a", WEB);
        broken.json = "{".into();
        assert_eq!(decisions.report(WEB, broken, false), Err(Refused::Malformed));
        assert!(decisions.is_empty());
    }

    #[test]
    fn a_workload_that_floods_pushes_out_its_own_records_only() {
        let decisions = Decisions::default();
        decisions.report(ORDERS, record("real", ORDERS), false).unwrap();
        for i in 0..2 * MAX_RECORDS {
            decisions.report(WEB, record(&format!("d{i}"), WEB), false).unwrap();
        }
        assert!(matches!(decisions.find("real"), Found::One(r) if r.workload == ORDERS));
        assert_eq!(decisions.len(), MAX_RECORDS);
        // The same by bytes: few records, each as large as one may be.
        let decisions = Decisions::default();
        decisions.report(ORDERS, record("real", ORDERS), false).unwrap();
        for i in 0..2 * MAX_BYTES / MAX_RECORD {
            let json = format!("\"{}\"", "x".repeat(MAX_RECORD - 2));
            decisions.report(WEB, Record { json, ..record(&format!("d{i}"), WEB) }, false).unwrap();
        }
        assert!(matches!(decisions.find("real"), Found::One(_)));
        assert!(lock(&decisions.ring).bytes <= MAX_BYTES);
    }

    #[test]
    fn decisions_that_refused_nobody_push_out_no_refusal() {
        let decisions = Decisions::default();
        decisions.report(WEB, record("refused", WEB), false).unwrap();
        for i in 0..MAX_RECORDS + 5 {
            decisions.report(WEB, Record { at_ms: 2, ..record(&format!("d{i}"), WEB) }, true).unwrap();
        }
        assert!(matches!(decisions.find("refused"), Found::One(_)));
        assert!(matches!(decisions.find("d7"), Found::One(_)));
        assert_eq!(decisions.newest(9, 0, false).len(), 1);
        assert_eq!(decisions.newest(usize::MAX, 0, true).len(), MAX_RECORDS + 1);
        assert_eq!(decisions.newest(usize::MAX, 2, true).len(), MAX_RECORDS);
        // One id told of a refusal and of none is a dispute as well.
        decisions.report(ORDERS, record("refused", ORDERS), true).unwrap();
        assert!(matches!(decisions.find("refused"), Found::Disputed(_)));
    }

    #[test]
    fn the_oldest_records_leave_first() {
        let decisions = Decisions::default();
        for i in 0..MAX_RECORDS + 5 {
            decisions.report(WEB, record(&format!("d{i}"), WEB), false).unwrap();
        }
        assert_eq!(decisions.len(), MAX_RECORDS);
        assert_eq!(decisions.find("d4"), Found::None);
        assert!(matches!(decisions.find("d5"), Found::One(_)));
        assert_eq!(decisions.newest(1, 0, false)[0].id, format!("d{}", MAX_RECORDS + 4));
    }
}
