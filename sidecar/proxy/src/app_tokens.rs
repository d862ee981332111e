//! Transaction tokens that our app exchanges, and the keys by which it may verify those that it gets.
//!
//! The app may hand in a token exactly while it may present it. What it gets for that one is presentable as long; what it gets
//! for no token of an inbound request is presentable until its own end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::PoisonError;

use serde_json::{Value, json};
use signet_token::Delegation;

use crate::answer::Refusal;
use crate::exchange::{self, Exchange};
use crate::pool;
use crate::shared::Shared;
use crate::stage;
use crate::sync::{Arc, Mutex};

/// Keys that are remembered: of every gateway instance, their predecessors', and of the token service for each sidecar that
/// sends us what it exchanged.
const KEYS: usize = 1024;
/// Tokens of transactions that the app began, at once.
const BEGUN: usize = 4096;

/// What the token that is exchanged was got for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of<'a> {
    /// A request that is open here, by the token that it brought.
    Request(&'a str),
    /// Nothing but the app's own wish.
    Nothing,
}

/// Why the app does not get a token that was signed for it.
#[derive(Debug)]
pub enum NotTaken {
    /// It does not verify here, or not yet.
    Refused(Refusal),
    /// The request that it was got for has ended meanwhile.
    Ended,
    /// Too many are held, or were got for one request.
    TooMany,
}

/// Tokens of transactions that the app began, in the order in which it got them.
#[derive(Debug, Default)]
pub(crate) struct Begun(Mutex<VecDeque<(u64, Exchange)>>);

impl Begun {
    fn hold(&self, until: u64, exchange: Exchange, now: u64) -> bool {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(until, _)| now < *until);
        if held.len() >= BEGUN {
            return false;
        }
        held.push_back((until, exchange));
        true
    }
}

/// Keys of delegations that were verified here, by their thumbprints.
#[derive(Debug, Default)]
pub(crate) struct MintingKeys(Mutex<BTreeMap<String, Arc<Delegation>>>);

impl MintingKeys {
    /// A token under this delegation was believed.
    pub(crate) fn note(&self, delegation: Arc<Delegation>, now: u64) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS && !keys.contains_key(delegation.thumbprint()) {
            keys.retain(|_, known| known.is_valid_at(now));
            if keys.len() >= KEYS {
                keys.pop_first();
            }
        }
        keys.insert(delegation.thumbprint().to_owned(), delegation);
    }
}

impl Shared {
    /// Whether our app may present this token now, and so hand it in.
    pub fn is_presentable(&self, token: &str) -> bool {
        self.exchanges.is_open(&exchange::hash(token.as_bytes()), pool::now())
    }

    /// Takes a token that was signed for our app, once it verifies as any other: from now on the app may present it. Until
    /// when, in seconds since the epoch.
    pub fn take(&self, token: &str, of: Of<'_>) -> Result<u64, NotTaken> {
        let (view, now) = (self.state.view(), pool::now());
        let hash = exchange::hash(token.as_bytes());
        let verified = stage::transaction(self, &view.keys, (token.as_bytes(), &hash), now)
            .map_err(NotTaken::Refused)?;
        let taken = match of {
            Of::Request(source) => {
                let source = exchange::hash(source.as_bytes());
                // That one may have ended while this was signed.
                self.exchanges.is_open(&source, now) && self.exchanges.derive(&source, hash, verified.until)
            }
            Of::Nothing => {
                let held = self.exchanges.begin(hash, verified.until);
                self.begun.hold(verified.until, held, now)
            }
        };
        match (taken, of) {
            (true, _) => Ok(verified.until),
            (false, Of::Request(source)) if !self.is_presentable(source) => Err(NotTaken::Ended),
            (false, _) => Err(NotTaken::TooMany),
        }
    }

    /// The keys by which our app may verify transaction tokens that it got here: a JWK set (RFC 7517).
    pub fn minting_keys(&self) -> Value {
        let (view, now) = (self.state.view(), pool::now());
        let keys = self.minting.0.lock().unwrap_or_else(PoisonError::into_inner);
        let good = keys.values().filter(|delegation| {
            delegation.is_valid_at(now) && !view.keys.revoked_delegations.contains(delegation.thumbprint())
        });
        let keys = good.map(|delegation| {
            let mut key = delegation.key.to_json();
            key.insert("kid".to_owned(), delegation.thumbprint().into());
            key.insert("alg".to_owned(), "ES256".into());
            key.insert("use".to_owned(), "sig".into());
            Value::Object(key)
        });
        json!({ "keys": keys.collect::<Vec<_>>() })
    }
}
