//! The presenter rule's memory: which transaction tokens this sidecar's app may send now.
//!
//! A token is in the table exactly while an inbound exchange that brought it is open. Whoever holds an
//! [`Exchange`] keeps its token presentable; dropping the last one ends that, whether the exchange was
//! answered, reset or cut. The table belongs to the process, because a request may come in on one
//! worker and the app's own call go out through another.

use std::collections::HashMap;
use std::sync::PoisonError;

use ring::digest;
use tokio::sync::mpsc::UnboundedSender;

use crate::hop_proof::Proven;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};

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
    /// Of this process, and of another that shares our listeners.
    own: Count,
    others: Count,
    /// The token's own end, in seconds since the epoch.
    until: u64,
    /// Tokens that our app got for this one; they are presentable as long as it is.
    derived: Vec<Exchange>,
    /// Our app asked for it by itself.
    asked_for: bool,
    /// The last proof by which it came.
    proven: Option<Proven>,
}

/// Tokens that may be got for one, while it is open.
const MAX_DERIVED: usize = 64;

/// Exchanges that are open, and those among them to which the token came attached.
#[derive(Debug, Default)]
struct Count {
    all: u32,
    attached: u32,
}

impl Open {
    fn count(&mut self, own: bool) -> &mut Count {
        if own { &mut self.own } else { &mut self.others }
    }

    /// Our own ones, as another process is told of them.
    fn told(&self, token: TokenHash) -> Change {
        match self.own.attached {
            0 => Change::Opened(token, self.until),
            _ => Change::Attached(token, self.until),
        }
    }
}

/// What an exchange counts as.
#[derive(Clone, Copy, Debug)]
struct Whose {
    own: bool,
    attached: bool,
}

/// The table. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Exchanges {
    shards: Arc<[Mutex<HashMap<TokenHash, Open>>; SHARDS]>,
    /// Who is told of changes: a process that goes on with our listeners, or the one before us.
    told: Arc<Mutex<Option<UnboundedSender<Change>>>>,
    is_told: Arc<AtomicBool>,
}

/// A token became presentable, or is no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Until this second of the epoch at the latest.
    Opened(TokenHash, u64),
    /// The same, or it was already, and one of the exchanges that brought it did so attached.
    Attached(TokenHash, u64),
    /// Its last exchange ended.
    Closed(TokenHash),
}

/// How sure it is that a token which may be presented is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Every exchange that brought it did so by an app's own choice.
    Forwarded,
    /// To one of them it was attached: from there on nobody knows better.
    Attached,
}

impl Exchanges {
    /// An empty table.
    pub fn new() -> Self {
        Exchanges::default()
    }

    /// Makes the token presentable until the guard is dropped, and no longer than it is good (seconds since
    /// the epoch).
    pub fn open(&self, token: TokenHash, until: u64) -> Exchange {
        self.open_as(token, until, false)
    }

    /// The same; `attached`: it came attached, so that it is not sure whose call it was.
    pub fn open_as(&self, token: TokenHash, until: u64, attached: bool) -> Exchange {
        self.enter(token, until, true, attached)
    }

    /// The same for an exchange of another process that shares our listeners, of which it told us.
    pub fn open_elsewhere(&self, token: TokenHash, until: u64, attached: bool) -> Exchange {
        self.enter(token, until, false, attached)
    }

    fn enter(&self, token: TokenHash, until: u64, own: bool, attached: bool) -> Exchange {
        let mut shard = self.shard(&token).lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= SHARD_BOUND && !shard.contains_key(&token) {
            return Exchange { open: None };
        }
        let open = shard.entry(token).or_insert(Open {
            own: Count::default(),
            others: Count::default(),
            until,
            derived: Vec::new(),
            asked_for: false,
            proven: None,
        });
        let count = open.count(own);
        count.all += 1;
        count.attached += u32::from(attached);
        // Once told as attached it stays so for the other process until the last one has ended.
        if own && (count.all == 1 || attached && count.attached == 1) {
            self.tell(open.told(token));
        }
        drop(shard);
        Exchange { open: Some((self.clone(), token, Whose { own, attached })) }
    }

    /// Makes a token that our app got for another one presentable as long as that one is, and no longer than it is good
    /// itself. False where the other one is no more, or too many were got for it.
    pub fn derive(&self, source: &TokenHash, token: TokenHash, until: u64) -> bool {
        // Who was not sure of the one is not surer of what was got for it.
        let shard = self.shard(source).lock().unwrap_or_else(PoisonError::into_inner);
        let attached = shard.get(source).is_some_and(|open| open.own.attached + open.others.attached > 0);
        let proven = shard.get(source).and_then(|open| open.proven);
        drop(shard);
        let derived = self.enter(token, until, true, attached);
        if let Some(proven) = proven {
            self.came_by(&token, proven);
        }
        self.mark(&token);
        let mut shard = self.shard(source).lock().unwrap_or_else(PoisonError::into_inner);
        match shard.get_mut(source) {
            Some(open) if open.derived.len() < MAX_DERIVED => {
                open.derived.push(derived);
                true
            }
            _ => {
                // What is dropped takes a lock, perhaps this one.
                drop(shard);
                drop(derived);
                false
            }
        }
    }

    /// The same of a token that our app got for none of those that it was brought.
    pub fn begin(&self, token: TokenHash, until: u64) -> Exchange {
        let open = self.open(token, until);
        self.mark(&token);
        open
    }

    /// An open exchange brought the token with this proof.
    pub fn came_by(&self, token: &TokenHash, proven: Proven) {
        let mut shard = self.shard(token).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = shard.get_mut(token) {
            // The shortest way: a call that goes round makes no chain of it that ends.
            if open.proven.is_none_or(|known| proven.depth < known.depth) {
                open.proven = Some(proven);
            }
        }
    }

    /// The proof of least depth with which an open exchange brought the token.
    pub fn proven(&self, token: &TokenHash) -> Option<Proven> {
        let shard = self.shard(token).lock().unwrap_or_else(PoisonError::into_inner);
        shard.get(token).and_then(|open| open.proven)
    }

    fn mark(&self, token: &TokenHash) {
        let mut shard = self.shard(token).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = shard.get_mut(token) {
            open.asked_for = true;
        }
    }

    /// Whether our app asked for this token by itself: then it is for whom the app wants, whoever called it.
    pub fn was_asked_for(&self, token: &TokenHash) -> bool {
        let shard = self.shard(token).lock().unwrap_or_else(PoisonError::into_inner);
        shard.get(token).is_some_and(|open| open.asked_for)
    }

    /// From now on every change is told here, and everything that is open now; what opens meanwhile perhaps twice.
    pub fn tell_of_changes(&self, to: UnboundedSender<Change>) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(to.clone());
        self.is_told.store(true, Ordering::SeqCst);
        for shard in self.shards.iter() {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (token, open) in shard.iter().filter(|(_, open)| open.own.all > 0) {
                let _ = to.send(open.told(*token));
            }
        }
    }

    /// Under the lock of the token's shard, so that what is told of a token comes in the order in which it happened. The
    /// lock that is taken here is the inner one everywhere, and sending waits for nobody.
    fn tell(&self, change: Change) {
        if self.is_told.load(Ordering::SeqCst)
            && let Some(to) = &*self.told.lock().unwrap_or_else(PoisonError::into_inner)
        {
            let _ = to.send(change);
        }
    }

    /// Whether an exchange that brought this token is open, and the token good at `now`.
    pub fn is_open(&self, token: &TokenHash, now: u64) -> bool {
        self.standing(token, now).is_some()
    }

    /// The same, and how it came.
    pub fn standing(&self, token: &TokenHash, now: u64) -> Option<Standing> {
        let shard = self.shard(token).lock().unwrap_or_else(PoisonError::into_inner);
        let open = shard.get(token).filter(|open| now < open.until)?;
        let is_sure = open.own.attached == 0 && open.others.attached == 0;
        Some(if is_sure { Standing::Forwarded } else { Standing::Attached })
    }

    fn shard(&self, token: &TokenHash) -> &Mutex<HashMap<TokenHash, Open>> {
        &self.shards[usize::from(token[0]) % SHARDS]
    }

    fn leave(&self, token: &TokenHash, whose: Whose) {
        let Whose { own, attached } = whose;
        // Outlives the lock: what was derived is in other shards, or in this one.
        let mut ended = None;
        let mut shard = self.shard(token).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = shard.get_mut(token) {
            let count = open.count(own);
            count.all -= 1;
            count.attached -= u32::from(attached);
            if own && count.all == 0 {
                self.tell(Change::Closed(*token));
            }
            if open.own.all == 0 && open.others.all == 0 {
                ended = shard.remove(token);
            }
        }
        if shard.is_empty() && shard.capacity() > 64 {
            shard.shrink_to_fit();
        }
        drop(shard);
        drop(ended);
    }
}

/// One open inbound exchange that brought a token.
#[derive(Debug)]
pub struct Exchange {
    open: Option<(Exchanges, TokenHash, Whose)>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some((table, token, whose)) = self.open.take() {
            table.leave(&token, whose);
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

    #[tokio::test]
    async fn another_process_is_told_of_own_exchanges_and_never_of_its_own() {
        let (table, other) = (Exchanges::new(), Exchanges::new());
        let (a, b) = (hash(b"a"), hash(b"b"));
        let before = table.open(a, 100);
        let (to, mut told) = tokio::sync::mpsc::unbounded_channel();
        table.tell_of_changes(to);
        assert_eq!(told.recv().await, Some(Change::Opened(a, 100)), "what was open already");
        let (first, second) = (table.open(b, 100), table.open(b, 100));
        assert_eq!(told.recv().await, Some(Change::Opened(b, 100)));
        let elsewhere = table.open_elsewhere(b, 100, false);
        drop((first, second, before));
        assert_eq!(
            (told.recv().await, told.recv().await),
            (Some(Change::Closed(b)), Some(Change::Closed(a)))
        );
        assert!(table.is_open(&b, 99), "the other process still has it");
        drop(elsewhere);
        assert!(!table.is_open(&b, 99));
        assert!(told.try_recv().is_err());
        let _there = other.open_elsewhere(b, 100, false);
        assert!(other.is_open(&b, 99) && !other.is_open(&b, 100));
    }

    #[tokio::test]
    async fn a_token_that_came_attached_once_is_not_sure_until_that_exchange_ends() {
        let (table, token) = (Exchanges::new(), hash(b"token"));
        let (to, mut told) = tokio::sync::mpsc::unbounded_channel();
        table.tell_of_changes(to);
        let sure = table.open(token, 100);
        assert_eq!(table.standing(&token, 99), Some(Standing::Forwarded));
        let unsure = table.open_as(token, 100, true);
        assert_eq!(table.standing(&token, 99), Some(Standing::Attached));
        drop(unsure);
        assert_eq!(table.standing(&token, 99), Some(Standing::Forwarded));
        drop(sure);
        assert_eq!(table.standing(&token, 99), None);
        for change in [Change::Opened(token, 100), Change::Attached(token, 100), Change::Closed(token)] {
            assert_eq!(told.recv().await, Some(change));
        }
        let _elsewhere = table.open_elsewhere(token, 100, true);
        assert_eq!(table.standing(&token, 99), Some(Standing::Attached));
    }

    #[test]
    fn what_was_got_for_a_token_is_presentable_as_long_as_that_one_and_what_was_got_for_it_too() {
        let table = Exchanges::new();
        let (first, second, third) = (hash(b"first"), hash(b"second"), hash(b"third"));
        assert!(!table.derive(&first, second, 100), "for one that is not open");
        assert!(!table.is_open(&second, 1));
        let open = table.open(first, 100);
        assert!(table.derive(&first, second, 90) && table.derive(&second, third, 80));
        assert!(table.is_open(&second, 89) && !table.is_open(&second, 90) && table.is_open(&third, 79));
        drop(open);
        assert!(!table.is_open(&second, 1) && !table.is_open(&third, 1));
        assert!(table.shards.iter().all(|shard| shard.lock().unwrap().is_empty()), "nothing is left");
    }

    #[test]
    fn what_was_got_for_a_token_that_came_attached_is_attached() {
        let table = Exchanges::new();
        let (source, got) = (hash(b"source"), hash(b"got"));
        let _open = table.open_as(source, 100, true);
        assert!(table.derive(&source, got, 100));
        assert_eq!(table.standing(&got, 99), Some(Standing::Attached));
    }

    #[test]
    fn no_app_fills_the_table_with_what_it_gets_for_one_token() {
        let table = Exchanges::new();
        let source = hash(b"source");
        let open = table.open(source, 100);
        let got = (0..200_u32).filter(|n| table.derive(&source, hash(&n.to_be_bytes()), 100)).count();
        assert_eq!(got, MAX_DERIVED);
        drop(open);
        assert!(table.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn another_token_is_not() {
        let table = Exchanges::new();
        let _open = table.open(hash(b"token"), 100);
        assert!(!table.is_open(&hash(b"stolen"), 99));
    }
}
