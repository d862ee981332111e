//! What may be shown once: the ids of proofs, by whoever signed them, for as long as they could be believed again.
//!
//! Bounded, and closed at the bound: what cannot be remembered is not believed.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use signet_identity::KeyId;

/// Ids of one signer that are remembered, twice. Past it they are refused: of hop proofs some 6,500 a second.
const MOST: usize = 128 * 1024;
/// Those of all signers.
const MOST_OF_ALL: usize = 1024 * 1024;
/// Signers. Of hop proofs there is one for each certificate of each caller.
const SIGNERS: usize = 4096;

/// Proofs that were believed, for as long as they could be again.
#[derive(Debug)]
pub(crate) struct Once {
    /// How long that is, in seconds.
    kept: u64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    signers: HashMap<KeyId, Ids>,
    /// Of all of them.
    ids: usize,
    /// When those were last dropped whose proofs are all over.
    swept: u64,
}

/// Of one signer, in two generations: each is kept for as long as asked after its last one at least.
#[derive(Debug, Default)]
struct Ids {
    newer: HashSet<[u8; 16]>,
    older: HashSet<[u8; 16]>,
    turned: u64,
}

impl Once {
    /// Remembers each for so many seconds.
    pub(crate) fn for_seconds(kept: u64) -> Self {
        Once { kept, held: Mutex::default() }
    }

    /// Whether this is the first time that the signer shows this id; none where there is no room to remember it. `now` in
    /// seconds.
    pub(crate) fn first_time(&self, signer: KeyId, id: [u8; 16], now: u64) -> Option<bool> {
        let kept = self.kept;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= held.swept.saturating_add(kept) {
            held.sweep(kept, now);
        }
        let is_full = held.ids >= MOST_OF_ALL || held.signers.len() >= SIGNERS;
        if is_full && (held.ids >= MOST_OF_ALL || !held.signers.contains_key(&signer)) {
            return None;
        }
        let Held { signers, ids: all, .. } = &mut *held;
        let ids = signers.entry(signer).or_default();
        let before = ids.len();
        ids.turn(kept, now);
        let known = ids.newer.contains(&id) || ids.older.contains(&id);
        let is_new = !known && ids.newer.len() < MOST;
        if is_new {
            ids.newer.insert(id);
        }
        *all = all.saturating_sub(before).saturating_add(ids.len());
        if known { Some(false) } else { is_new.then_some(true) }
    }
}

impl Held {
    /// Drops signers none of whose proofs could be believed any more: each certificate leaves its last ones behind.
    fn sweep(&mut self, kept: u64, now: u64) {
        self.swept = now;
        self.signers.retain(|_, ids| now < ids.turned.saturating_add(kept.saturating_mul(2)));
        self.ids = self.signers.values().map(Ids::len).fold(0, usize::saturating_add);
    }
}

impl Ids {
    fn len(&self) -> usize {
        self.newer.len().saturating_add(self.older.len())
    }

    fn turn(&mut self, kept: u64, now: u64) {
        if now < self.turned.saturating_add(kept) {
            return;
        }
        self.older = std::mem::take(&mut self.newer);
        if now >= self.turned.saturating_add(kept.saturating_mul(2)) {
            self.older = HashSet::new();
        }
        self.turned = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: u64 = 20;

    fn signer(n: u8) -> KeyId {
        KeyId::of(&[n])
    }

    #[test]
    fn an_id_is_new_once_for_as_long_as_a_proof_could_be_believed() {
        let proofs = Once::for_seconds(KEPT);
        for start in [1000, 1007, 1019] {
            let id = [u8::try_from(start - 1000).unwrap(); 16];
            assert_eq!(proofs.first_time(signer(1), id, start), Some(true));
            for later in 0..KEPT {
                assert_eq!(proofs.first_time(signer(1), id, start + later), Some(false), "{later}");
            }
        }
        assert_eq!(
            proofs.first_time(signer(2), [0; 16], 1000),
            Some(true),
            "others name theirs as they like"
        );
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten() {
        let proofs = Once::for_seconds(KEPT);
        let id = |n: usize| u128::try_from(n).unwrap().to_be_bytes();
        for n in 0..MOST {
            assert_eq!(proofs.first_time(signer(1), id(n), 1000), Some(true));
        }
        assert_eq!(proofs.first_time(signer(1), id(MOST), 1000), None, "refused, and not believed unseen");
        assert_eq!(proofs.first_time(signer(2), id(MOST), 1000), Some(true), "and no other signer's");
        assert_eq!(proofs.first_time(signer(1), id(MOST), 1000 + 2 * KEPT), Some(true));
        let held = proofs.held.lock().unwrap();
        assert!(held.signers[&signer(1)].older.is_empty() && held.signers[&signer(1)].newer.len() == 1);
        assert_eq!((held.signers.len(), held.ids), (1, 1), "whoever is not heard of any more leaves nothing");
    }
}
