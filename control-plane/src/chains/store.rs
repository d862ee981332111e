//! What was told of transactions, within bounds, and what was found in it.
//!
//! When it is full the oldest hops of whoever told most go first, so that a sidecar that tells without end pushes out
//! its own words; and what goes is known to be missing from then on.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use signet_identity::Serial;
use signet_proto::v1;

use super::reporters::{Name, Reporters, Span};
use super::stitch::{Doubt, Hop, Placed, Verdict, stitch};

/// Hops kept. One is some 250 bytes.
const MAX_HOPS: usize = 100_000;
/// Hops that go at a time.
const GOES: usize = 256;
/// Hops of one transaction, and of these those of one identity. Past it nothing is decided of it.
const MAX_CHAIN: usize = 256;
const MAX_OF_ONE: usize = 32;
/// Transactions beside those that hops are kept of.
const MAX_UNCALLED: usize = 20_000;
/// How long hops are kept, also where there is room.
const KEPT: Duration = Duration::from_secs(3600);
/// Impossible calls kept.
const MAX_FOUND: usize = 1_000;
/// Exchanges that are remembered of one transaction.
const MAX_GOT: usize = 64;
/// From when a hop is told to when it is judged, if only what is known then is enough; and then again so often.
const JUDGED_AFTER: Duration = Duration::from_secs(2);
/// Until what is still missing does not come any more.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(60);
/// Longer names are not ours: an identity of this mesh has three labels, a service two.
const MAX_IDENTITY: usize = 640;
const MAX_SERVICE: usize = 330;
/// A sidecar tells of no more at a time.
const MAX_TOLD: usize = 1_024;
const MAX_TXN: usize = 256;

/// How a workload got a token of its own for a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// For another one of the same transaction, which it must have received.
    Replaced,
    /// Otherwise: it began the transaction, or opened a sealed context.
    Else,
}

/// A call whose caller cannot have had what it brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub txn: Arc<str>,
    pub at_ms: i64,
    pub caller: Arc<str>,
    pub callee: Arc<str>,
    pub service: Arc<str>,
}

/// See the module's story.
#[derive(Debug, Default)]
pub struct Chains(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    reporters: Reporters,
    chains: HashMap<Arc<str>, Chain>,
    /// By order of arrival: of which chain, by whom, when.
    order: BTreeMap<u64, (Arc<str>, Name, Instant)>,
    next: u64,
    /// Places of each teller's identity in the order.
    shares: HashMap<Arc<str>, VecDeque<u64>>,
    due: VecDeque<Due>,
    found: VecDeque<Call>,
}

#[derive(Debug, Default)]
pub(super) struct Chain {
    pub(super) hops: Vec<Kept>,
    got: Vec<(Arc<str>, Got)>,
    too_long: bool,
    judged: Judged,
    /// Until when something may still come that it misses, and whether it is to be judged before.
    give_up: Option<Instant>,
    is_due: bool,
}

/// What was last said of a chain.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum Judged {
    #[default]
    Not,
    Undecidable,
    Impossible,
}

#[derive(Debug)]
pub(super) struct Kept {
    pub(super) hop: Hop,
    place: u64,
    flagged: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Due {
    pub(super) txn: Arc<str>,
    at: Instant,
}

/// What came of judging a chain.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nothing to say.
    Fine,
    /// It is judged again later.
    Later,
    /// These calls were not known to be impossible; whether it is the chain's first.
    Impossible(Vec<Call>, bool),
    Undecidable(Doubt),
}

/// A stream that tells of transactions.
#[derive(Debug)]
pub struct Telling {
    chains: Arc<Chains>,
    name: Name,
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.chains.lock().reporters.goes(&self.name, now_ms());
    }
}

impl Chains {
    /// A stream of this identity, opened with this certificate, tells by this name. It goes by no other.
    #[must_use]
    pub fn comes(self: &Arc<Self>, identity: &str, serial: Serial, reporter: u64) -> Telling {
        let name = (Arc::from(identity), reporter);
        self.lock().reporters.comes(&name, serial);
        Telling { chains: Arc::clone(self), name }
    }

    /// A workload got a token of its own for a transaction.
    pub fn got(&self, txn: &str, workload: &str, how: Got) {
        let mut inner = self.lock();
        // Only of what is told of: a transaction that nobody calls with needs no memory, and one that somebody calls with
        // before we know of this is judged later.
        let chain = inner.chains.entry(txn.into()).or_default();
        if chain.got.len() < MAX_GOT
            && !chain.got.iter().any(|(who, known)| **who == *workload && *known == how)
        {
            chain.got.push((workload.into(), how));
        }
        inner.bound_exchanges();
    }

    /// The calls that were found to be impossible, the newest first.
    #[must_use]
    pub fn found(&self, limit: usize) -> Vec<Call> {
        self.lock().found.iter().rev().take(limit).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Transactions that are due at this moment, each to be judged.
    pub(super) fn due(&self, now: Instant) -> Vec<Due> {
        let mut inner = self.lock();
        let mut due = Vec::new();
        while inner.due.front().is_some_and(|first| first.at <= now) {
            due.extend(inner.due.pop_front());
        }
        due
    }

    /// Callers of a transaction that nothing known grounds: of these it must be known who is at work.
    pub(super) fn callers(&self, txn: &str) -> BTreeSet<Arc<str>> {
        let inner = self.lock();
        let Some(chain) = inner.chains.get(txn) else { return BTreeSet::new() };
        let hops = chain.hops();
        // Whoever is not grounded is in doubt here, so that all of them are asked about at once.
        let placed = stitch(&hops, |who| chain.replaced(who), |_| Some(Doubt::NotHeard));
        let open = hops.iter().zip(placed).filter(|(_, it)| matches!(it.verdict, Verdict::Undecidable(_)));
        open.map(|(hop, _)| Arc::clone(&hop.caller)).collect()
    }

    /// Every hop of a transaction as it is seen now; `live` says by which certificates the sidecars of an identity
    /// are known.
    pub(super) fn placed(&self, txn: &str, live: &HashMap<Arc<str>, Vec<Serial>>) -> Vec<(Hop, Placed)> {
        let inner = self.lock();
        inner.placed(txn, live)
    }

    /// Judges one that is due.
    pub(super) fn judge(&self, due: Due, now: Instant, live: &HashMap<Arc<str>, Vec<Serial>>) -> Outcome {
        let mut inner = self.lock();
        let Some(chain) = inner.chains.get_mut(&due.txn) else { return Outcome::Fine };
        chain.is_due = false;
        let (before, give_up) = (chain.judged, chain.give_up);
        let placed = inner.placed(&due.txn, live);
        let doubts = placed.iter().filter_map(|(_, placed)| match &placed.verdict {
            Verdict::Undecidable(doubt) => Some(doubt.clone()),
            _ => None,
        });
        // What hangs from another doubt says nothing of its own.
        let doubt = doubts.min_by_key(|doubt| *doubt == Doubt::Follows);
        let calls = inner.flag(&due.txn, &placed);
        if let Some(doubt) = &doubt
            && doubt.may_pass()
            && give_up.is_some_and(|give_up| now < give_up)
        {
            inner.is_due(&due.txn, now);
            if calls.is_empty() {
                return Outcome::Later;
            }
        }
        let Some(chain) = inner.chains.get_mut(&due.txn) else { return Outcome::Fine };
        if !calls.is_empty() {
            chain.judged = Judged::Impossible;
            return Outcome::Impossible(calls, before != Judged::Impossible);
        }
        match doubt {
            Some(doubt) if before == Judged::Not => {
                chain.judged = Judged::Undecidable;
                Outcome::Undecidable(doubt)
            }
            _ => Outcome::Fine,
        }
    }

    /// Forgets what is too old.
    pub(super) fn sweep(&self, now: Instant) {
        let mut inner = self.lock();
        inner.reporters.forget_old(now_ms());
        while let Some((&place, (_, _, at))) = inner.order.first_key_value()
            && now.saturating_duration_since(*at) > KEPT
        {
            inner.forget(place);
        }
    }
}

impl Telling {
    /// Keeps what was told. `admits` says how many hops this stream may still tell of; false is one too many.
    pub fn hear(&self, told: v1::Hops, mut admits: impl FnMut() -> bool) {
        let now = Instant::now();
        let mut inner = self.chains.lock();
        if told.reporter != self.name.1 {
            return;
        }
        let v1::Hops { from_ms, through_ms, cut, hops, .. } = told;
        inner.reporters.tells(&self.name, Span { from_ms, through_ms, cut }, now_ms());
        let too_many = hops.len() > MAX_TOLD;
        for hop in hops.into_iter().take(MAX_TOLD) {
            if !is_plain(&hop) {
                inner.reporters.loses(&self.name.0, hop.first_ms);
                continue;
            }
            if !admits() {
                // None of the rest is kept either.
                inner.reporters.loses(&self.name.0, through_ms);
                return;
            }
            inner.keep(&self.name, hop, now);
        }
        if too_many {
            inner.reporters.loses(&self.name.0, through_ms);
        }
    }
}

/// Names of ours: they are shown to people.
fn is_plain(hop: &v1::Hop) -> bool {
    let plain = |text: &str, longest: usize| {
        !text.is_empty() && text.len() <= longest && text.bytes().all(|b| b.is_ascii_graphic())
    };
    plain(&hop.txn, MAX_TXN)
        && plain(&hop.peer, MAX_IDENTITY)
        && plain(&hop.service, MAX_SERVICE)
        && plain(&hop.minted_by, MAX_IDENTITY)
}

impl Chain {
    fn hops(&self) -> Vec<Hop> {
        self.hops.iter().map(|kept| kept.hop.clone()).collect()
    }

    /// Whether all tokens that this workload got of the transaction were got for others of it.
    fn replaced(&self, workload: &str) -> bool {
        let of = |how: Got| self.got.iter().any(|(who, known)| **who == *workload && *known == how);
        of(Got::Replaced) && !of(Got::Else)
    }
}

impl Inner {
    fn keep(&mut self, name: &Name, told: v1::Hop, now: Instant) {
        let v1::Hop { txn, peer, service, minted_by, attached, refused, first_ms, count, began, depth } =
            told;
        let txn: Arc<str> = txn.into();
        let place = self.next;
        self.next = place.wrapping_add(1);
        let chain = self.chains.entry(Arc::clone(&txn)).or_default();
        let hop = Hop {
            caller: peer.into(),
            callee: Arc::clone(&name.0),
            service: service.into(),
            minted_by: minted_by.into(),
            attached,
            refused,
            first_ms,
            count: count.max(1),
            began_ms: began.saturating_mul(1000),
            depth,
        };
        let same = |kept: &&mut Kept| {
            let known = &kept.hop;
            *known == Hop { first_ms: known.first_ms, count: known.count, ..hop.clone() }
        };
        if let Some(known) = chain.hops.iter_mut().find(same) {
            known.hop.count = known.hop.count.saturating_add(hop.count);
            known.hop.first_ms = known.hop.first_ms.min(first_ms);
            return;
        }
        let of_one = chain.hops.iter().filter(|kept| kept.hop.callee == name.0).count();
        if chain.hops.len() >= MAX_CHAIN || of_one >= MAX_OF_ONE {
            chain.too_long |= chain.hops.len() >= MAX_CHAIN;
            self.reporters.loses(&name.0, first_ms);
            return;
        }
        chain.hops.push(Kept { hop, place, flagged: false });
        self.order.insert(place, (Arc::clone(&txn), name.clone(), now));
        self.shares.entry(Arc::clone(&name.0)).or_default().push_back(place);
        chain.give_up = Some(now + GIVEN_UP_AFTER);
        self.is_due(&txn, now);
        if self.order.len() > MAX_HOPS {
            self.make_room();
        }
    }

    /// The oldest of whoever told most; of several the one whose oldest word is the oldest.
    fn make_room(&mut self) {
        let most = self.shares.iter().max_by_key(|(_, places)| {
            (places.len(), std::cmp::Reverse(places.front().copied().unwrap_or(u64::MAX)))
        });
        let Some(most) = most.map(|(identity, _)| Arc::clone(identity)) else { return };
        let oldest: Vec<u64> = self
            .shares
            .get(&most)
            .map(|places| places.iter().take(GOES).copied().collect())
            .unwrap_or_default();
        oldest.into_iter().for_each(|place| self.forget(place));
    }

    fn forget(&mut self, place: u64) {
        let Some((txn, name, _)) = self.order.remove(&place) else { return };
        if let Some(places) = self.shares.get_mut(&name.0) {
            // Nearly always the first.
            if let Some(at) = places.iter().position(|held| *held == place) {
                places.remove(at);
            }
            if places.is_empty() {
                self.shares.remove(&name.0);
            }
        }
        let Some(chain) = self.chains.get_mut(&txn) else { return };
        if let Some(at) = chain.hops.iter().position(|kept| kept.place == place) {
            let gone = chain.hops.swap_remove(at);
            self.reporters.loses(&name.0, gone.hop.first_ms);
        }
        if chain.hops.is_empty() {
            self.chains.remove(&txn);
        }
    }

    /// Exchanges of transactions that nobody calls with do not fill the memory.
    fn bound_exchanges(&mut self) {
        if self.chains.len() > MAX_HOPS + MAX_UNCALLED {
            self.chains.retain(|_, chain| !chain.hops.is_empty());
        }
    }

    /// It is to be judged in a while, once however much is told of it until then.
    fn is_due(&mut self, txn: &Arc<str>, now: Instant) {
        if let Some(chain) = self.chains.get_mut(txn)
            && !std::mem::replace(&mut chain.is_due, true)
        {
            self.due.push_back(Due { txn: Arc::clone(txn), at: now + JUDGED_AFTER });
        }
    }

    fn placed(&self, txn: &str, live: &HashMap<Arc<str>, Vec<Serial>>) -> Vec<(Hop, Placed)> {
        let Some(chain) = self.chains.get(txn) else { return Vec::new() };
        let hops = chain.hops();
        let lot = lot(txn);
        let placed = stitch(
            &hops,
            |who| chain.replaced(who),
            |hop| {
                if chain.too_long {
                    return Some(Doubt::TooLong);
                }
                match live.get(&hop.caller) {
                    // It was not asked who is at work, or that could not be answered.
                    None => Some(Doubt::NotConnected),
                    Some(live) => self.reporters.doubt(hop, lot, live),
                }
            },
        );
        hops.into_iter().zip(placed).collect()
    }

    /// Notes the calls among these that were not known to be impossible.
    fn flag(&mut self, txn: &Arc<str>, placed: &[(Hop, Placed)]) -> Vec<Call> {
        let Some(chain) = self.chains.get_mut(txn) else { return Vec::new() };
        let mut calls = Vec::new();
        for (kept, (hop, placed)) in chain.hops.iter_mut().zip(placed) {
            if placed.verdict == Verdict::Impossible && !kept.flagged {
                kept.flagged = true;
                calls.push(Call {
                    txn: Arc::clone(txn),
                    at_ms: hop.first_ms,
                    caller: Arc::clone(&hop.caller),
                    callee: Arc::clone(&hop.callee),
                    service: Arc::clone(&hop.service),
                });
            }
        }
        self.found.extend(calls.iter().cloned());
        while self.found.len() > MAX_FOUND {
            self.found.pop_front();
        }
        calls
    }
}

/// The first eight bytes of the SHA-256 of a transaction's id: by these sidecars leave some out where there are too many.
fn lot(txn: &str) -> u64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, txn.as_bytes());
    let mut first = [0; 8];
    first.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    u64::from_be_bytes(first)
}

fn now_ms() -> i64 {
    crate::clock::unix_now().saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(reporter: u64, txns: impl IntoIterator<Item = u32>) -> v1::Hops {
        let hop = |txn: u32| v1::Hop {
            txn: txn.to_string(),
            peer: "gw".into(),
            service: "orders.shop".into(),
            minted_by: "gw".into(),
            first_ms: 5,
            count: 1,
            ..Default::default()
        };
        let hops = txns.into_iter().map(hop).collect();
        v1::Hops { reporter, from_ms: 0, through_ms: 10, cut: u64::MAX, hops }
    }

    #[test]
    fn who_tells_without_end_pushes_out_its_own_words_and_is_known_to_have_told_more() {
        let chains = Arc::new(Chains::default());
        let quiet = chains.comes("quiet", Serial::from_bytes(&[1]).unwrap(), 1);
        let loud = chains.comes("loud", Serial::from_bytes(&[2]).unwrap(), 1);
        quiet.hear(told(1, [0]), || true);
        let many = u32::try_from(MAX_HOPS + GOES).unwrap();
        for first in (1..=many).step_by(MAX_TOLD) {
            let last = many.min(first + u32::try_from(MAX_TOLD).unwrap() - 1);
            loud.hear(told(1, first..=last), || true);
        }
        let inner = chains.lock();
        assert!(inner.order.len() <= MAX_HOPS && inner.due.len() <= MAX_HOPS + 2 * GOES);
        assert!(inner.chains.contains_key("0") && !inner.chains.contains_key("1"));
        let from = |caller: &str| Hop {
            caller: caller.into(),
            callee: "x".into(),
            service: "x.shop".into(),
            minted_by: "gw".into(),
            attached: false,
            refused: false,
            first_ms: 5 - super::super::SKEW_MS,
            count: 1,
            began_ms: super::super::SKEW_MS,
            depth: 0,
        };
        assert_eq!(inner.reporters.doubt(&from("loud"), 0, &[]), Some(Doubt::Lost));
        assert_eq!(inner.reporters.doubt(&from("quiet"), 0, &[]), None);
    }

    #[test]
    fn what_a_stream_may_not_tell_any_more_and_what_is_no_name_is_missed_and_not_kept() {
        let chains = Arc::new(Chains::default());
        let telling = chains.comes("a", Serial::from_bytes(&[1]).unwrap(), 1);
        let mut left = 1;
        telling.hear(told(1, 0..3), || {
            left -= 1;
            left >= 0
        });
        assert_eq!(chains.lock().order.len(), 1);
        let mut odd = told(1, [7]);
        odd.hops[0].service = "orders\u{1b}[2J".into();
        telling.hear(odd, || true);
        telling.hear(told(2, [8]), || true);
        assert_eq!(chains.lock().order.len(), 1, "by another name than its own it tells nothing");
    }

    #[test]
    fn more_than_a_sidecar_tells_at_a_time_is_missed_and_not_kept() {
        let chains = Arc::new(Chains::default());
        let telling = chains.comes("a", Serial::from_bytes(&[1]).unwrap(), 1);
        telling.hear(told(1, 0..u32::try_from(MAX_TOLD + 1).unwrap()), || true);
        assert_eq!(chains.lock().order.len(), MAX_TOLD);
        let mut long = told(1, [5_000]);
        long.hops[0].peer = "a".repeat(MAX_IDENTITY + 1);
        telling.hear(long, || true);
        assert_eq!(chains.lock().order.len(), MAX_TOLD);
    }

    #[test]
    fn hops_leave_with_time_and_exchanges_that_nobody_calls_with_leave_when_there_are_many() {
        let chains = Arc::new(Chains::default());
        let telling = chains.comes("a", Serial::from_bytes(&[1]).unwrap(), 1);
        telling.hear(told(1, 0..3), || true);
        chains.sweep(Instant::now());
        assert_eq!(chains.lock().order.len(), 3);
        chains.sweep(Instant::now() + KEPT + Duration::from_secs(1));
        let inner = chains.lock();
        assert!(inner.order.is_empty() && inner.chains.is_empty() && inner.shares.is_empty());
        drop(inner);
        for n in 0..MAX_HOPS + MAX_UNCALLED + 2 {
            chains.got(&n.to_string(), "w", Got::Replaced);
        }
        assert!(chains.lock().chains.len() < MAX_HOPS);
    }

    #[test]
    fn a_chain_that_is_filled_up_is_undecidable() {
        let chains = Arc::new(Chains::default());
        for n in 0..=MAX_CHAIN {
            let callee = format!("callee{n}");
            let telling = chains.comes(&callee, Serial::from_bytes(&[1]).unwrap(), 1);
            let mut told = told(1, [0]);
            told.hops[0].peer = "thief".into();
            telling.hear(told, || true);
        }
        let live = HashMap::from([("thief".into(), Vec::new())]);
        let placed = chains.placed("0", &live);
        assert_eq!(placed.len(), MAX_CHAIN);
        assert!(placed.iter().all(|(_, placed)| placed.verdict == Verdict::Undecidable(Doubt::TooLong)));
    }

    #[test]
    fn a_lot_is_as_sidecars_draw_it() {
        assert_eq!(lot("a"), 0xca97_8112_ca1b_bdca);
    }
}
