//! Verified tokens and delegations, remembered by SHA-256 so that what comes again costs a hash and no
//! signature. Bounded; an entry ends with its token; all entries end when the keys, roots or
//! revocations that they rest on change.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::b64::sha256;

// Enough that the workers of one process seldom meet at a lock that is held for a map lookup.
const SHARDS: usize = 8;

/// Only what was verified is stored, so a flood of bad tokens leaves it as it is. Holds claims, never
/// verdicts: whether they suffice is asked again on each request.
pub struct TokenCache<V> {
    shards: [Mutex<Shard<V>>; SHARDS],
    capacity: usize,
}

struct Shard<V> {
    generation: u64,
    entries: HashMap<[u8; 32], Entry<V>, BuildHasherDefault<Prehashed>>,
    // In order of insertion; an entry that is gone from the map may still stand here.
    order: VecDeque<[u8; 32]>,
}

struct Entry<V> {
    value: Arc<V>,
    until: u64,
}

impl<V> TokenCache<V> {
    /// At most `capacity` tokens, rounded up to a multiple of eight.
    pub fn new(capacity: usize) -> TokenCache<V> {
        let shard =
            || Mutex::new(Shard { generation: 0, entries: HashMap::default(), order: VecDeque::new() });
        TokenCache { shards: std::array::from_fn(|_| shard()), capacity: capacity.div_ceil(SHARDS).max(1) }
    }

    /// What this token was verified to say, under exactly this generation of keys, and still says.
    pub fn get(&self, generation: u64, token: &str, now: u64) -> Option<Arc<V>> {
        self.get_by(generation, &sha256(token.as_bytes()), now)
    }

    /// The same for who has the token's SHA-256 already.
    pub fn get_by(&self, generation: u64, digest: &[u8; 32], now: u64) -> Option<Arc<V>> {
        let mut shard = self.shard(digest);
        if !shard.enter(generation) {
            return None;
        }
        let entry = shard.entries.get(digest)?;
        if now < entry.until {
            return Some(entry.value.clone());
        }
        shard.entries.remove(digest);
        None
    }

    /// Remembers a token that was verified under `generation`, until `until` (seconds, exclusive).
    pub fn insert(&self, generation: u64, token: &str, value: Arc<V>, until: u64) {
        let digest = sha256(token.as_bytes());
        let mut shard = self.shard(&digest);
        if !shard.enter(generation) {
            return;
        }
        if shard.entries.insert(digest, Entry { value, until }).is_none() {
            shard.order.push_back(digest);
        }
        while shard.entries.len() > self.capacity {
            let Some(oldest) = shard.order.pop_front() else { break };
            shard.entries.remove(&oldest);
        }
        // Names of entries that expired pile up only as far as the entries themselves could.
        if shard.order.len() > self.capacity.saturating_mul(2) {
            let Shard { entries, order, .. } = &mut *shard;
            order.retain(|digest| entries.contains_key(digest));
        }
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).entries.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, digest: &[u8; 32]) -> MutexGuard<'_, Shard<V>> {
        // The last byte: the map's hash uses the first ones.
        let [shards @ .., last] = &self.shards;
        let at = usize::from(digest.last().copied().unwrap_or_default()) & (SHARDS - 1);
        lock(shards.get(at).unwrap_or(last))
    }
}

impl<V> Shard<V> {
    /// Whether this generation may read and write here. A newer one empties the shard first; an older
    /// one, of a request that began before the change, finds nothing and leaves nothing.
    fn enter(&mut self, generation: u64) -> bool {
        if generation > self.generation {
            self.generation = generation;
            self.entries.clear();
            self.order.clear();
        }
        generation == self.generation
    }
}

// A panic elsewhere while the lock was held leaves a map that is whole: its operations do not call out.
fn lock<V>(shard: &Mutex<Shard<V>>) -> MutexGuard<'_, Shard<V>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The key is a SHA-256 already; hashing it again would buy nothing.
#[derive(Default)]
struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    // An array's length prefix, the same for all keys.
    fn write_usize(&mut self, _: usize) {}
}
