//! The issuers' keys: fetched here, once for the whole mesh, and pushed to whoever needs them.
//!
//! One task per issuer, so that an issuer that hangs, floods or lies delays nobody else. Keys stay in
//! use for a day after the last success while the issuer cannot be reached; after that the issuer has
//! no keys, and its tokens are refused as unavailable. There is no fallback key of any kind.

mod cache;
pub mod fetch;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use signet_token::Jwks;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use cache::Cache;
use fetch::{Client, FetchError, Fetched, Source, Validator};

use crate::clock::unix_now;
use crate::fetch::schedule::{Pace, STALE, Schedule};
use crate::fetch::{jitter, now};

/// What is known of one issuer's keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyState {
    /// The set as JSON; `None` before the first success and a day after the last.
    pub jwks: Option<Arc<str>>,
    pub keys: usize,
    /// When the set was last confirmed, seconds since the epoch; 0 is never.
    pub fetched_at: i64,
    /// What is wrong now; empty when nothing.
    pub error: String,
    /// [`FetchError::label`] of it.
    pub error_label: &'static str,
}

/// States by alias.
pub type Keys = Arc<BTreeMap<String, KeyState>>;

/// The fetchers.
pub struct Issuers {
    client: Client,
    states: watch::Sender<Keys>,
    tasks: Mutex<BTreeMap<String, Fetcher>>,
    cache: Mutex<Cache>,
}

struct Fetcher {
    source: Source,
    wanted: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Issuers {
    /// Fetchers that keep what they fetched in `kept` across a restart.
    #[must_use]
    pub fn new(client: Client, kept: &Path) -> Arc<Self> {
        let cache = Mutex::new(Cache::open(kept));
        Arc::new(Self { client, states: watch::Sender::default(), tasks: Mutex::default(), cache })
    }

    /// Every change of any state.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Keys> {
        self.states.subscribe()
    }

    /// What is known now.
    #[must_use]
    pub fn states(&self) -> Keys {
        self.states.borrow().clone()
    }

    /// Follows exactly these issuers from now on: new ones are fetched at once, changed ones lose their
    /// keys (they are another issuer's now) and are fetched anew, absent ones are forgotten.
    pub fn follow(self: &Arc<Self>, wanted: &BTreeMap<String, Source>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|alias, fetcher| wanted.get(alias) == Some(&fetcher.source));
        let mut cache = self.cache();
        cache.retain(wanted);
        self.states.send_if_modified(|states| {
            let stays = |alias: &String| tasks.contains_key(alias);
            let changed = states.keys().any(|a| !stays(a)) || wanted.keys().any(|a| !states.contains_key(a));
            if changed {
                let mut next: BTreeMap<String, KeyState> = (**states).clone();
                next.retain(|alias, _| stays(alias));
                for (alias, source) in wanted {
                    next.entry(alias.clone()).or_insert_with(|| cache.state(alias, source, unix_now()));
                }
                *states = Arc::new(next);
            }
            changed
        });
        drop(cache);
        for (alias, source) in wanted {
            if !tasks.contains_key(alias) {
                let notify = Arc::new(Notify::new());
                let work = Arc::clone(self).run(alias.clone(), source.clone(), Arc::clone(&notify));
                let fetcher = Fetcher { source: source.clone(), wanted: notify, task: tokio::spawn(work) };
                tasks.insert(alias.clone(), fetcher);
            }
        }
    }

    /// A proxy met a key of this issuer that it does not know.
    pub fn want(&self, alias: &str) {
        if let Some(fetcher) = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).get(alias) {
            fetcher.wanted.notify_one();
        }
    }

    /// Stops every fetcher.
    pub fn stop(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn run(self: Arc<Self>, alias: String, source: Source, wanted: Arc<Notify>) {
        let mut schedule = Schedule::new(Pace::ISSUERS, now());
        let mut validator = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(schedule.due().into()) => {}
                () = wanted.notified() => {
                    schedule.wanted(now());
                    continue;
                }
            }
            schedule.started(now());
            match self.client.keys(&source, validator.as_ref()).await.and_then(checked) {
                Ok(Confirmed { set, max_age }) => {
                    schedule.succeeded(now(), max_age, jitter());
                    if let Some(set) = &set {
                        validator.clone_from(&set.validator);
                        tracing::info!(target: "signet::issuers", alias, keys = set.keys, "keys fetched");
                        if set.keys == 0 {
                            tracing::warn!(target: "signet::issuers", alias, "the issuer publishes no usable key: every token of it is refused");
                        }
                    }
                    self.change(&alias, |state| {
                        if let Some(set) = set {
                            state.jwks = Some(set.text.into());
                            state.keys = set.keys;
                        }
                        state.fetched_at = unix_now();
                        state.error.clear();
                        state.error_label = "";
                    });
                    self.keep(&alias, &source).await;
                }
                Err(error) => {
                    schedule.failed(now(), jitter());
                    tracing::warn!(target: "signet::issuers", alias, reason = error.label(), %error, "keys not fetched");
                    let mut dropped = false;
                    self.change(&alias, |state| {
                        state.error = error.to_string();
                        state.error_label = error.label();
                        if state.jwks.is_some() && stale(state.fetched_at, unix_now()) {
                            *state = KeyState {
                                fetched_at: state.fetched_at,
                                error: state.error.clone(),
                                error_label: state.error_label,
                                ..KeyState::default()
                            };
                            dropped = true;
                        }
                    });
                    if dropped {
                        // A later 304 would confirm a set that is no longer there.
                        validator = None;
                        tracing::error!(target: "signet::issuers", alias, "keys are older than a day and dropped: tokens of this issuer are refused");
                    }
                }
            }
        }
    }

    async fn keep(self: &Arc<Self>, alias: &str, source: &Source) {
        let (issuers, alias, source) = (Arc::clone(self), alias.to_owned(), source.clone());
        // A few kilobytes, once an hour, but a disk's.
        let kept = tokio::task::spawn_blocking(move || {
            let states = issuers.states();
            if let Some(state) = states.get(&alias) {
                issuers.cache().keep(&alias, &source, state);
            }
        });
        // It logs its own failures; a panic there must not end the fetcher.
        let _ = kept.await;
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, alias: &str, edit: impl FnOnce(&mut KeyState)) {
        self.states.send_if_modified(|states| {
            // Absent: the issuer was removed while the fetch was under way.
            let Some(before) = states.get(alias) else { return false };
            let mut after = before.clone();
            edit(&mut after);
            let changed = after != *before;
            if changed {
                let mut next = (**states).clone();
                next.insert(alias.to_owned(), after);
                *states = Arc::new(next);
            }
            changed
        });
    }
}

struct Confirmed {
    /// `None`: what is at hand is still right.
    set: Option<Set>,
    max_age: Option<std::time::Duration>,
}

struct Set {
    text: String,
    keys: usize,
    validator: Option<Validator>,
}

fn checked(fetched: Fetched) -> Result<Confirmed, FetchError> {
    match fetched {
        Fetched::NotModified { max_age } => Ok(Confirmed { set: None, max_age }),
        Fetched::Keys { text, validator, max_age } => {
            let set = Jwks::parse(&text).map_err(|e| FetchError::Keys(e.to_string()))?;
            // What goes on is what was understood: a private or symmetric key that an issuer published by
            // mistake is not spread over the mesh.
            let (text, keys) = (set.to_json(), set.len());
            Ok(Confirmed { set: Some(Set { text, keys, validator }), max_age })
        }
    }
}

fn stale(fetched_at: i64, now: i64) -> bool {
    u64::try_from(now.saturating_sub(fetched_at)).is_ok_and(|age| age > STALE.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_stale_after_a_day_and_not_before() {
        assert!(!stale(1_000, 1_000 + 86_400));
        assert!(stale(1_000, 1_001 + 86_400));
        assert!(!stale(2_000, 1_000), "a clock that went back drops nothing");
    }
}
