//! Which transactions came in here, and from whom: what the control plane stitches chains of calls from.
//!
//! Each request with a verified transaction token is a *hop*, refused or not. Hops are told together, the same ones as
//! one with a number. What is kept between two reports is bounded, and honest about it: where there are more, only
//! transactions whose *lot* is not above a *cut* are told of, and the cut is told as well. A lot is a digest of the
//! transaction's name, so that all sidecars that have to leave some out leave out the same ones.

use std::sync::{Arc, Mutex, PoisonError};

use foldhash::HashMap;
use ring::digest;
use signet_identity::SpiffeId;

/// Hops between two reports. At two reports a second: two thousand transactions of one caller.
const ROOM: usize = 1024;

/// Of a transaction: who has its token minted, when it began (seconds since the epoch), and its lot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) minted_by: Arc<str>,
    pub(crate) began: u64,
    pub(crate) lot: u64,
}

/// The first eight bytes of the SHA-256 of a transaction's name, as a number.
#[must_use]
pub fn lot(txn: &str) -> u64 {
    let digest = digest::digest(&digest::SHA256, txn.as_bytes());
    let mut first = [0; 8];
    first.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    u64::from_be_bytes(first)
}

/// What is the same of all requests that are told as one hop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hop {
    /// The transaction's name.
    pub txn: Arc<str>,
    /// Who called.
    pub peer: SpiffeId,
    /// Which of our services, `name.namespace`.
    pub service: Arc<str>,
    /// For whom the token was minted (`req_wl`).
    pub minted_by: Arc<str>,
    /// The caller was not sure whose call it was.
    pub attached: bool,
    /// It went no further.
    pub refused: bool,
    /// How many proven calls it is from the transaction's beginning; 0 where nobody proves any.
    pub depth: u32,
}

/// How often, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Milliseconds since the epoch.
    pub first_ms: u64,
    /// Requests.
    pub count: u32,
    /// When the transaction began, seconds since the epoch.
    pub began: u64,
    lot: u64,
}

/// What came in during some time.
#[derive(Debug)]
pub struct Report {
    /// Milliseconds since the epoch, and the end of the report before; 0 for the first one.
    pub from_ms: u64,
    /// Until when.
    pub through_ms: u64,
    /// Of transactions with a greater lot nothing is told.
    pub cut: u64,
    /// In no order.
    pub hops: Vec<(Hop, Seen)>,
}

/// Hops that are not told yet.
#[derive(Debug, Default)]
pub struct Hops(Mutex<Untold>);

#[derive(Debug)]
struct Untold {
    hops: HashMap<Hop, Seen>,
    cut: u64,
    from_ms: u64,
}

impl Default for Untold {
    fn default() -> Self {
        Untold { hops: HashMap::default(), cut: u64::MAX, from_ms: 0 }
    }
}

impl Hops {
    /// A request came in. Its time is read under the lock, so that a report holds all of its time.
    pub(crate) fn note(&self, hop: Hop, origin: &Origin, clock: impl FnOnce() -> u64) {
        let mut untold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if origin.lot > untold.cut {
            return;
        }
        if let Some(seen) = untold.hops.get_mut(&hop) {
            seen.count = seen.count.saturating_add(1);
            return;
        }
        let seen = Seen { first_ms: clock(), count: 1, began: origin.began, lot: origin.lot };
        untold.hops.insert(hop, seen);
        untold.make_room();
    }

    /// Everything until now, once.
    #[must_use]
    pub fn take(&self, now_ms: u64) -> Report {
        let mut untold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Untold { from_ms: now_ms.max(untold.from_ms), ..Untold::default() };
        let Untold { hops, cut, from_ms } = std::mem::replace(&mut *untold, next);
        Report { from_ms, through_ms: now_ms, cut, hops: hops.into_iter().collect() }
    }

    /// Whether there is anything to tell.
    pub fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).hops.is_empty()
    }
}

impl Untold {
    fn make_room(&mut self) {
        while self.hops.len() > ROOM {
            self.cut /= 2;
            let cut = self.cut;
            self.hops.retain(|_, seen| seen.lot <= cut);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(txn: &str) -> Hop {
        Hop {
            txn: txn.into(),
            peer: SpiffeId::parse("spiffe://demo.signet/ns/shop/sa/web").unwrap(),
            service: "orders.shop".into(),
            minted_by: "spiffe://demo.signet/ns/edge/sa/gw".into(),
            attached: false,
            refused: false,
            depth: 0,
        }
    }

    fn origin(txn: &str) -> Origin {
        Origin { minted_by: "spiffe://demo.signet/ns/edge/sa/gw".into(), began: 7, lot: lot(txn) }
    }

    #[test]
    fn requests_that_differ_in_nothing_are_one_hop_with_a_number_and_told_once() {
        let hops = Hops::default();
        for at in [10, 11] {
            hops.note(hop("a"), &origin("a"), || at);
        }
        hops.note(Hop { refused: true, ..hop("a") }, &origin("a"), || 12);
        let mut report = hops.take(20);
        report.hops.sort_by_key(|(_, seen)| seen.first_ms);
        assert_eq!((report.from_ms, report.through_ms, report.cut), (0, 20, u64::MAX));
        let told: Vec<_> =
            report.hops.iter().map(|(hop, seen)| (hop.refused, seen.first_ms, seen.count)).collect();
        assert_eq!(told, [(false, 10, 2), (true, 12, 1)]);
        let report = hops.take(30);
        assert!(report.hops.is_empty());
        assert_eq!((report.from_ms, report.through_ms), (20, 30), "no time between two reports is left out");
    }

    #[test]
    fn a_flood_leaves_out_by_lot_says_so_and_ends_with_the_report() {
        let hops = Hops::default();
        for n in 0..20 * ROOM {
            let txn = n.to_string();
            hops.note(hop(&txn), &origin(&txn), || 1);
        }
        let report = hops.take(2);
        assert!(report.hops.len() <= ROOM && report.hops.len() > ROOM / 4, "{}", report.hops.len());
        assert!(report.hops.iter().all(|(_, seen)| seen.lot <= report.cut));
        // All of those below the cut are there.
        let below = (0..20 * ROOM).filter(|n| lot(&n.to_string()) <= report.cut).count();
        assert_eq!(report.hops.len(), below);
        assert_eq!(hops.take(3).cut, u64::MAX);
    }

    #[test]
    fn two_sidecars_leave_out_the_same() {
        let (few, many) = (Hops::default(), Hops::default());
        for n in 0..4 * ROOM {
            let txn = n.to_string();
            many.note(hop(&txn), &origin(&txn), || 1);
            if n % 2 == 0 {
                few.note(hop(&txn), &origin(&txn), || 1);
            }
        }
        let (few, many) = (few.take(2), many.take(2));
        let of_many: Vec<_> = many.hops.iter().map(|(hop, _)| hop.txn.clone()).collect();
        let both = few.hops.iter().filter(|(_, seen)| seen.lot <= many.cut);
        for (hop, _) in both {
            assert!(of_many.contains(&hop.txn));
        }
        assert!(many.cut <= few.cut);
    }

    #[test]
    fn a_lot_is_as_the_control_plane_draws_it() {
        assert_eq!(lot("a"), 0xca97_8112_ca1b_bdca);
    }

    /// What it costs a request: `cargo nextest run … --run-ignored only hop_costs`.
    #[test]
    #[ignore = "measures"]
    fn what_a_hop_costs() {
        let hops = Hops::default();
        let all: Vec<_> = (0..1000).map(|n| (hop(&n.to_string()), origin(&n.to_string()))).collect();
        let began = std::time::Instant::now();
        for _ in 0..200 {
            for (hop, origin) in &all {
                hops.note(hop.clone(), origin, || 1);
            }
            let _ = hops.take(2);
        }
        println!("{:.3} us a hop", began.elapsed().as_secs_f64() * 1e6 / 200_000.0);
    }
}
