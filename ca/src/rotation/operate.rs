//! Rotation by an operator's hand, and what the control plane passes on from sidecars.

use std::sync::Arc;

use tokio::sync::{broadcast, watch};

use super::machine::{Hurry, Kind, Phase};
use super::material::Entry;
use super::steps::Outcome;
use super::view::{Published, SlotStatus};
use crate::authorise::Stop;
use crate::authority::{Authority, Caller, Inner};
use crate::error::AuthorityError;
use crate::external::RootSource;
use crate::record::{Entry as LogEntry, Event};
use crate::refusal::Refusal;
use crate::store::{Acknowledged, GivenUp, Journal};

/// Another replica may change the journal between looking and writing; so often in a row it does not.
const TRIES: usize = 8;

impl Authority {
    /// Every root, issuer and key in the journal, the removed ones of the last month included.
    pub async fn authorities(&self) -> Result<Vec<SlotStatus>, AuthorityError> {
        let journal = self.inner.store.journal().await?;
        let mut all: Vec<SlotStatus> =
            journal.entries.iter().map(|entry| SlotStatus::of(entry, &self.inner.rotation)).collect();
        all.sort_by(|a, b| (a.kind, &a.owner, a.phase, a.since).cmp(&(b.kind, &b.owner, b.phase, b.since)));
        Ok(all)
    }

    /// What verifiers are told now, and each change of it.
    pub fn published(&self) -> watch::Receiver<Arc<Published>> {
        self.inner.published.subscribe()
    }

    /// Which issuer of this replica signs, by its id, and each change of it.
    pub fn issuing(&self) -> watch::Receiver<String> {
        self.inner.issuing.subscribe()
    }

    /// Sidecars that are given up on from now: their streams are to be closed.
    pub fn given_up(&self) -> broadcast::Receiver<Arc<Vec<GivenUp>>> {
        self.inner.given_up.subscribe()
    }

    /// Makes and publishes a successor that takes over when the schedule, or an operator, says so. Returns its id.
    pub async fn prepare(&self, kind: Kind, actor: &str) -> Result<String, AuthorityError> {
        self.begin_rotation(kind, Hurry::Schedule, actor).await
    }

    /// Lets a successor take over as soon as the fleet has acknowledged it; makes one if there is none. Returns its id.
    pub async fn rotate(&self, kind: Kind, actor: &str) -> Result<String, AuthorityError> {
        self.begin_rotation(kind, Hurry::Acknowledged, actor).await
    }

    async fn begin_rotation(&self, kind: Kind, hurry: Hurry, actor: &str) -> Result<String, AuthorityError> {
        if kind == Kind::Root && matches!(self.inner.root_source, RootSource::Folder(_)) {
            let now = self.inner.clock.unix_seconds();
            return Err(self.inner.refuse_operator(Refusal::RootInFolder, actor, now).await);
        }
        let actor = actor.to_owned();
        self.act(move |inner| async move {
            let now = inner.clock.unix_seconds();
            for _ in 0..TRIES {
                let made = {
                    let _one_at_a_time = inner.rotating.lock().await;
                    let journal = inner.store.journal().await?;
                    match inner.next_of(&journal, kind).cloned() {
                        Some(mut next) => {
                            next.slot.hurry = next.slot.hurry.max(hurry);
                            let id = next.slot.id.clone();
                            let log = said(now, Event::RotationAsked, &actor, kind, &id);
                            inner.change(&journal, vec![next], false, Some(log), now).await.map(|done| (done, id))?
                        }
                        None => {
                            let known: Vec<String> =
                                journal.entries.iter().map(|entry| entry.slot.id.clone()).collect();
                            let done = inner.make(&journal, kind, hurry, now).await?;
                            let after = inner.store.journal().await?;
                            let new = after.entries.iter().find(|entry| {
                                entry.is(kind) && !known.contains(&entry.slot.id)
                            });
                            let id = new.map(|entry| entry.slot.id.clone()).unwrap_or_default();
                            let mut writer = inner.store.begin().await?;
                            writer.record(said(now, Event::RotationAsked, &actor, kind, &id)).await?;
                            writer.commit().await?;
                            (done, id)
                        }
                    }
                };
                if let (Outcome::Done, id) = made {
                    tracing::info!(target: "signet::ca", kind = kind.as_str(), id, actor, "a rotation was asked for");
                    inner.advance(now).await?;
                    return Ok(id);
                }
            }
            Err(AuthorityError::Interrupted("another replica keeps changing the journal".into()))
        })
        .await
    }

    /// Lets the successor with this id take over: as soon as the fleet has acknowledged, or at once where `force` is
    /// set, whoever has not heard of it.
    pub async fn activate(&self, id: &str, force: bool, actor: &str) -> Result<(), AuthorityError> {
        let hurry = if force { Hurry::Now } else { Hurry::Acknowledged };
        self.change_one(id, actor, Event::RotationAsked, move |entry, _| {
            if !entry.slot.is_next() {
                return Err(Refusal::NotASuccessor);
            }
            entry.slot.hurry = entry.slot.hurry.max(hurry);
            Ok(false)
        })
        .await
    }

    /// Marks a key as one that may be in other hands: a successor takes over as soon as sidecars have it, what it
    /// signed is replaced at once, and it is removed when nobody holds a certificate of it any more, or at the
    /// deadline.
    pub async fn taint(&self, id: &str, actor: &str) -> Result<(), AuthorityError> {
        self.change_one(id, actor, Event::Tainted, |entry, now| {
            if entry.slot.phase == Phase::Removed {
                return Err(Refusal::NotInTheJournal);
            }
            entry.slot.tainted_at.get_or_insert(now);
            Ok(true)
        })
        .await
    }

    async fn change_one(
        &self,
        id: &str,
        actor: &str,
        event: Event,
        change: impl Fn(&mut Entry, i64) -> Result<bool, Refusal> + Send + Sync + 'static,
    ) -> Result<(), AuthorityError> {
        let (id, actor) = (id.to_owned(), actor.to_owned());
        self.act(move |inner| async move {
            let now = inner.clock.unix_seconds();
            for _ in 0..TRIES {
                let done = {
                    let _one_at_a_time = inner.rotating.lock().await;
                    let journal = inner.store.journal().await?;
                    let mut entry = match named(&journal, &id) {
                        Ok(entry) => entry.clone(),
                        Err(refusal) => return Err(inner.refuse_operator(refusal, &actor, now).await),
                    };
                    let tells = match change(&mut entry, now) {
                        Ok(tells) => tells,
                        Err(refusal) => return Err(inner.refuse_operator(refusal, &actor, now).await),
                    };
                    let log = said(now, event, &actor, entry.slot.kind, &entry.slot.id);
                    inner.change(&journal, vec![entry], tells, Some(log), now).await?
                };
                if let Outcome::Done = done {
                    tracing::warn!(target: "signet::ca", id, actor, "{event}");
                    inner.advance(now).await?;
                    return Ok(());
                }
            }
            Err(AuthorityError::Interrupted("another replica keeps changing the journal".into()))
        })
        .await
    }

    /// Passes on what sidecars have acknowledged, and which of them left in good order (by the serials of the
    /// certificates that their streams were opened with), then performs what has become due.
    pub async fn heard_of(&self, words: Vec<Acknowledged>, left: Vec<Vec<u8>>) -> Result<(), AuthorityError> {
        self.act(move |inner| async move {
            let now = inner.clock.unix_seconds();
            let mut writer = inner.store.begin().await?;
            for word in &words {
                writer.acknowledged(word, now).await?;
            }
            for serial in &left {
                writer.sidecar_left(serial).await?;
            }
            writer.commit().await?;
            inner.advance(now).await?;
            Ok(())
        })
        .await
    }
}

impl Inner {
    fn next_of<'a>(&self, journal: &'a Journal, kind: Kind) -> Option<&'a Entry> {
        let owner = if kind == Kind::Root { "" } else { self.replica.as_str() };
        journal.entries.iter().find(|e| e.is(kind) && e.slot.owner == owner && e.slot.is_next())
    }

    pub(crate) async fn refuse_operator(&self, refusal: Refusal, actor: &str, now: i64) -> AuthorityError {
        self.refuse(Stop::Refused(refusal, None), Caller::Peer, actor, now).await
    }
}

/// The one authority whose id begins so.
fn named<'a>(journal: &'a Journal, id: &str) -> Result<&'a Entry, Refusal> {
    let mut found = journal.entries.iter().filter(|entry| id.len() >= 6 && entry.slot.id.starts_with(id));
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry),
        _ => Err(Refusal::NotInTheJournal),
    }
}

fn said(now: i64, event: Event, actor: &str, kind: Kind, id: &str) -> LogEntry {
    LogEntry::new(now, event, actor).because(&format!("{} {id}", kind.as_str()))
}
