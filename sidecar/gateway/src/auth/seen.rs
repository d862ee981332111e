//! Proofs of possession that came, for as long as they could be believed again.
//!
//! Their keys are clients' and as many as clients like, so they are not told apart by more than a count. Bounded, and closed
//! at the bound: what cannot be remembered is not believed. One key's own bound comes long before that of all.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use signet_token::dpop::{Proof, REMEMBERED};
use signet_token::sha256;

/// Proofs of all keys that are remembered, twice: some 20 MiB each time when it is full.
const MOST: usize = 512 * 1024;
/// Those of one key, twice: 60 a second without a pause.
const OF_ONE_KEY: u32 = 8 * 1024;

/// Remembers for [`REMEMBERED`] at least.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    newer: Generation,
    older: Generation,
    turned: u64,
}

#[derive(Debug, Default)]
struct Generation {
    proofs: HashSet<[u8; 16]>,
    keys: HashMap<[u8; 8], u32>,
}

/// Where there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// For more proofs of this key.
    OfKey,
    /// For anybody's.
    OfAll,
}

impl Seen {
    /// Whether this proof comes for the first time. `now` in seconds.
    pub(crate) fn first_time(&self, proof: &Proof, now: u64) -> Result<bool, Full> {
        let key = sha256(proof.thumbprint.as_bytes());
        let one = sha256(&[key.as_slice(), &proof.id].concat());
        let (Some(key), Some(one)) = (key.first_chunk::<8>(), one.first_chunk::<16>()) else {
            return Err(Full::OfAll);
        };
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.turn(now);
        if held.newer.proofs.contains(one) || held.older.proofs.contains(one) {
            return Ok(false);
        }
        if held.newer.proofs.len() >= MOST {
            return Err(Full::OfAll);
        }
        let count = held.newer.keys.entry(*key).or_default();
        if *count >= OF_ONE_KEY {
            return Err(Full::OfKey);
        }
        *count = count.saturating_add(1);
        held.newer.proofs.insert(*one);
        Ok(true)
    }
}

impl Held {
    fn turn(&mut self, now: u64) {
        if now < self.turned.saturating_add(REMEMBERED) {
            return;
        }
        self.older = std::mem::take(&mut self.newer);
        if now >= self.turned.saturating_add(REMEMBERED.saturating_mul(2)) {
            self.older = Generation::default();
        }
        self.turned = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(key: u32, id: u32) -> Proof {
        Proof { thumbprint: key.to_string(), id: u128::from(id).to_be_bytes() }
    }

    #[test]
    fn a_proof_is_new_once_for_as_long_as_it_could_be_believed() {
        let seen = Seen::default();
        for (n, start) in [1000, 1060, 1119, 1121, 1300].into_iter().enumerate() {
            let one = proof(1, u32::try_from(n).unwrap());
            assert_eq!(seen.first_time(&one, start), Ok(true));
            assert_eq!(
                seen.first_time(&proof(2, u32::try_from(n).unwrap()), start),
                Ok(true),
                "another key's"
            );
            for later in 0..REMEMBERED {
                assert_eq!(seen.first_time(&one, start + later), Ok(false), "{later}");
            }
        }
    }

    #[test]
    fn one_key_fills_its_own_room_and_many_keys_are_no_trouble() {
        let seen = Seen::default();
        for id in 0..OF_ONE_KEY {
            assert_eq!(seen.first_time(&proof(1, id), 1000), Ok(true));
        }
        assert_eq!(seen.first_time(&proof(1, OF_ONE_KEY), 1000), Err(Full::OfKey));
        assert_eq!(seen.first_time(&proof(1, 0), 1000), Ok(false));
        for key in 2..100_000 {
            assert_eq!(seen.first_time(&proof(key, 0), 1000), Ok(true));
        }
        assert_eq!(
            seen.first_time(&proof(1, OF_ONE_KEY), 1000 + REMEMBERED),
            Ok(true),
            "and it has room again"
        );
    }

    #[test]
    fn when_there_is_no_room_at_all_nothing_is_believed_unseen() {
        let seen = Seen::default();
        let keys = u32::try_from(MOST).unwrap() / 1024;
        for key in 0..keys {
            for id in 0..1024 {
                assert_eq!(seen.first_time(&proof(key, id), 1000), Ok(true));
            }
        }
        assert_eq!(seen.first_time(&proof(keys, 0), 1000), Err(Full::OfAll));
        assert_eq!(seen.first_time(&proof(keys, 0), 1000 + 2 * REMEMBERED), Ok(true));
        assert_eq!(seen.0.lock().unwrap().older.proofs.len(), 0, "whoever is not heard of leaves nothing");
    }
}
