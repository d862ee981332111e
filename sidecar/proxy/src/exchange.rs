//! The presenter rule's memory: which transaction tokens this sidecar's app may send now.
//!
//! A token is in the table exactly while an inbound exchange that brought it is open. Whoever holds an
//! [`Exchange`] keeps its token presentable; dropping the last one ends that, whether the exchange was
//! answered, reset or cut. The table belongs to the process, because a request may come in on one
//! worker and the app's own call go out through another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ring::digest;

/// SHA-256 of a token as it came over the wire.
pub type TokenHash = [u8; 32];

/// Shards keep two workers from waiting for each other.
const SHARDS: usize = 16;

/// Open exchanges per shard: past it a token is passed on but not remembered, so the app's own calls
/// lose the user. Far above what connections allow.
const SHARD_BOUND: usize = 16 * 1024;

/// Hashes a token for the table.
pub fn hash(token: &[u8]) -> TokenHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, token).as_ref());
    hash
}

#[derive(Debug)]
struct Open {
    exchanges: u32,
    /// The token's own end, in seconds since the epoch.
    until: u64,
}

/// The table. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Exchanges {
    shards: Arc<[Mutex<HashMap<TokenHash, Open>>; SHARDS]>,
}

impl Exchanges {
    /// An empty table.
    pub fn new() -> Self {
        Exchanges::default()
    }

    /// Makes the token presentable until the guard is dropped, and no longer than it is good (seconds since
    /// the epoch).
    pub fn open(&self, token: TokenHash, until: u64) -> Exchange {
        let mut shard = self.shard(&token).lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= SHARD_BOUND && !shard.contains_key(&token) {
            drop(shard);
            return Exchange { open: None };
        }
        shard.entry(token).or_insert(Open { exchanges: 0, until }).exchanges += 1;
        drop(shard);
        Exchange { open: Some((self.clone(), token)) }
    }

    /// Whether an exchange that brought this token is open, and the token good at `now`.
    pub fn is_open(&self, token: &TokenHash, now: u64) -> bool {
        let shard = self.shard(token).lock().unwrap_or_else(PoisonError::into_inner);
        shard.get(token).is_some_and(|open| now < open.until)
    }

    fn shard(&self, token: &TokenHash) -> &Mutex<HashMap<TokenHash, Open>> {
        &self.shards[usize::from(token[0]) % SHARDS]
    }

    fn close(&self, token: &TokenHash) {
        let mut shard = self.shard(token).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = shard.get_mut(token) {
            open.exchanges -= 1;
            if open.exchanges == 0 {
                shard.remove(token);
            }
        }
        if shard.is_empty() && shard.capacity() > 64 {
            shard.shrink_to_fit();
        }
    }
}

/// One open inbound exchange that brought a token.
#[derive(Debug)]
pub struct Exchange {
    open: Option<(Exchanges, TokenHash)>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some((table, token)) = self.open.take() {
            table.close(&token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_presentable_until_the_last_exchange_that_brought_it_ends() {
        let table = Exchanges::new();
        let token = hash(b"token");
        let first = table.open(token, 100);
        let second = table.open(token, 100);
        drop(first);
        assert!(table.is_open(&token, 99));
        drop(second);
        assert!(!table.is_open(&token, 99));
    }

    #[test]
    fn an_expired_token_is_not() {
        let table = Exchanges::new();
        let token = hash(b"token");
        let _open = table.open(token, 100);
        assert!(!table.is_open(&token, 100));
    }

    #[test]
    fn another_token_is_not() {
        let table = Exchanges::new();
        let _open = table.open(hash(b"token"), 100);
        assert!(!table.is_open(&hash(b"stolen"), 99));
    }
}
