//! Which handles are good now, and for whom.
//!
//! A handle is in the table from the moment it is offered until its [`Open`] is dropped, which happens when the exchange
//! ends, whether it was answered, reset or cut; with a grace, so much longer. The table belongs to the process, because a
//! request may come in on one worker and the app's own call go out through another. It is bounded: a newcomer for whom there
//! is no room takes the place of one in its grace, or gets no handle. What is open keeps its place.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use signet_wire::carrier::Handle;
use tokio::time::Instant;

use crate::stage::Verified;

/// Shards keep two workers from waiting for each other.
const SHARDS: usize = 16;
/// Handles in each: 32,768 in all.
const SHARD_BOUND: usize = 2048;

struct Entry {
    user: Arc<Verified>,
    token: HeaderValue,
    /// Its request has ended, and its grace ends then.
    until: Option<Instant>,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<Handle, Entry>,
    /// Those in their grace, in the order in which it ends.
    leaving: VecDeque<(Instant, Handle)>,
}

impl Shard {
    fn sweep(&mut self, now: Instant) {
        while let Some((until, handle)) = self.leaving.front()
            && *until <= now
        {
            self.entries.remove(handle);
            self.leaving.pop_front();
        }
    }
}

/// See the module's story.
pub(super) struct Table {
    shards: [Mutex<Shard>; SHARDS],
    grace: Duration,
    /// Requests that are open.
    open: AtomicUsize,
}

/// What came of entering one.
pub(super) struct Taken {
    /// Keeps the handle good; none where there is no room.
    pub(super) open: Option<Open>,
    /// Another one had to go.
    pub(super) evicted: bool,
}

impl Table {
    pub(super) fn new(grace: Duration) -> Self {
        Table { shards: Default::default(), grace, open: AtomicUsize::new(0) }
    }

    /// Makes a handle good until what this returns is dropped, and the grace after it.
    pub(super) fn enter(
        self: &Arc<Self>,
        handle: Handle,
        user: Arc<Verified>,
        token: HeaderValue,
        now: Instant,
    ) -> Taken {
        let mut shard = self.shard(&handle);
        let mut evicted = false;
        if shard.entries.len() >= SHARD_BOUND {
            shard.sweep(now);
        }
        if shard.entries.len() >= SHARD_BOUND {
            let Some((_, oldest)) = shard.leaving.pop_front() else {
                return Taken { open: None, evicted };
            };
            shard.entries.remove(&oldest);
            evicted = true;
        }
        shard.entries.insert(handle, Entry { user, token, until: None });
        drop(shard);
        self.open.fetch_add(1, Ordering::Relaxed);
        Taken { open: Some(Open { table: self.clone(), handle }), evicted }
    }

    /// For whom a handle is, if it is good.
    pub(super) fn get(&self, handle: &Handle, now: Instant) -> Option<(Arc<Verified>, HeaderValue)> {
        let shard = self.shard(handle);
        let entry = shard.entries.get(handle)?;
        let is_good = entry.until.is_none_or(|until| now < until);
        is_good.then(|| (entry.user.clone(), entry.token.clone()))
    }

    /// Requests that are open now.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn leave(&self, handle: &Handle) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        let mut shard = self.shard(handle);
        if self.grace.is_zero() {
            shard.entries.remove(handle);
        } else {
            let now = Instant::now();
            let until = now + self.grace;
            if let Some(entry) = shard.entries.get_mut(handle) {
                entry.until = Some(until);
                shard.leaving.push_back((until, *handle));
            }
            shard.sweep(now);
        }
        if shard.entries.is_empty() && shard.entries.capacity() > 64 {
            *shard = Shard::default();
        }
    }

    fn shard(&self, handle: &Handle) -> MutexGuard<'_, Shard> {
        let [first, second, ..] = handle.as_bytes();
        let which = usize::from(first ^ second.rotate_left(3)) % SHARDS;
        self.shards[which].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Table {
    /// Handles and tokens are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("open", &self.open()).finish_non_exhaustive()
    }
}

/// A request with a handle that is open.
#[derive(Debug)]
pub struct Open {
    table: Arc<Table>,
    handle: Handle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.table.leave(&self.handle);
    }
}
