//! What is known of the cluster, in one place: objects by kind, and how current each kind is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use signet_kubernetes::kinds::{KINDS, Kind, KindId};
use signet_kubernetes::translate::views::{Key, Object};
use signet_kubernetes::translate::{Objects, Snapshot};
use tokio::sync::watch;

use crate::clock::unix_now;

/// More objects of one kind than a cluster may have (Kubernetes is built for 150,000 pods).
pub const MAX_OBJECTS: usize = 400_000;

/// See the module's story.
pub struct Store {
    known: Mutex<Known>,
    changes: watch::Sender<Changes>,
}

/// How often something changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// That a registry is made of.
    pub content: u64,
    /// Anything, the words in a status included.
    pub all: u64,
    /// Which kinds are there, and how current they are.
    pub health: u64,
}

#[derive(Default)]
struct Known {
    snapshot: Snapshot,
    listed: BTreeSet<KindId>,
    /// The version in which the cluster serves a kind.
    versions: BTreeMap<KindId, &'static str>,
    /// Since when a kind is not followed, and why.
    troubles: BTreeMap<KindId, (i64, String)>,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    Is,
    Gone,
}

impl Default for Store {
    fn default() -> Self {
        Self { known: Mutex::default(), changes: watch::Sender::new(Changes::default()) }
    }
}

impl Store {
    fn with<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn changed(&self, content: bool) {
        self.changes.send_modify(|changes| {
            changes.all = changes.all.wrapping_add(1);
            changes.content = changes.content.wrapping_add(u64::from(content));
        });
    }

    /// Told of every change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Changes> {
        self.changes.subscribe()
    }

    /// How often something changed until now.
    #[must_use]
    pub fn changes(&self) -> Changes {
        *self.changes.borrow()
    }

    /// All of it as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.with(|known| known.snapshot.clone())
    }

    /// How many objects of a kind there are.
    #[must_use]
    pub fn count(&self, kind: KindId) -> usize {
        self.with(|known| known.snapshot.count(kind))
    }

    /// What there is of a kind is this.
    pub fn replace(&self, kind: KindId, version: &'static str, objects: Objects) {
        let content = self.with(|known| {
            known.versions.insert(kind, version);
            let first = known.listed.insert(kind);
            let same = |before: &Objects, after: &Objects| {
                before.len() == after.len()
                    && before.iter().zip(after).all(|(one, two)| one.0 == two.0 && one.1.says_the_same(two.1))
            };
            let after = objects.clone();
            let before = known.snapshot.replace(kind, objects);
            first || !same(&before, &after)
        });
        self.changed(content);
    }

    /// One object changed. Whether there was room for it.
    pub fn happened(&self, kind: KindId, happened: Happened, object: Object) -> bool {
        let content = self.with(|known| match happened {
            Happened::Gone => {
                known.snapshot.remove(kind, &object.key());
                Some(true)
            }
            Happened::Is => {
                let key: Key = object.key();
                let is_new = known.snapshot.get(kind, &key).is_none();
                if is_new && known.snapshot.count(kind) >= MAX_OBJECTS {
                    return None;
                }
                let before = known.snapshot.get(kind, &key).cloned();
                let content = before.is_none_or(|before| !before.says_the_same(&object));
                known.snapshot.put(kind, object);
                Some(content)
            }
        });
        content.inspect(|content| self.changed(*content)).is_some()
    }

    /// The cluster does not have this kind. Objects that are known stay: an API server that is starting says the same.
    pub fn absent(&self, kind: KindId) {
        let first = self.with(|known| known.listed.insert(kind));
        if first {
            self.changed(true);
        }
    }

    /// A kind is followed, or not, and why.
    pub fn trouble(&self, kind: KindId, trouble: Option<String>) {
        let changed = self.with(|known| match trouble {
            None => known.troubles.remove(&kind).is_some(),
            Some(why) => {
                let since = known.troubles.get(&kind).map_or_else(unix_now, |(since, _)| *since);
                known.troubles.insert(kind, (since, why)).is_none()
            }
        });
        if changed {
            self.changes.send_modify(|changes| changes.health = changes.health.wrapping_add(1));
        }
    }

    /// The kinds that are not followed: since when, and why.
    #[must_use]
    pub fn troubles(&self) -> Vec<(&'static Kind, i64, String)> {
        self.with(|known| {
            known.troubles.iter().map(|(kind, (since, why))| (kind.kind(), *since, why.clone())).collect()
        })
    }

    /// Kinds that were never listed.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static Kind> {
        self.with(|known| KINDS.iter().filter(|kind| !known.listed.contains(&kind.id)).collect())
    }

    /// The version in which the cluster serves a kind.
    #[must_use]
    pub fn version(&self, kind: KindId) -> Option<&'static str> {
        self.with(|known| known.versions.get(&kind).copied())
    }
}
