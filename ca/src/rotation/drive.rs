//! Asks the machine for the step that is due, has it performed, and goes on until none is.
//!
//! A process that dies between two steps goes on from the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::machine::{self, Actor, Facts, Kind, Phase, Slot};
use super::material::Entry;
use super::steps::Outcome;
use crate::authority::Inner;
use crate::error::AuthorityError;
use crate::hierarchy::HierarchyError;
use crate::store::{Journal, StoreError};
use crate::vault::Vault;

/// Steps in one go: more means that a step does not end what made it due.
const MOST_STEPS: usize = 64;
/// A replica's keys are believed for so long after it was last seen.
const LOST_REPLICA: i64 = 24 * 3600;
/// How long a replica that joins waits for its issuer.
const JOINING: Duration = Duration::from_secs(60);
/// Removed authorities stay in the journal for so long, for people.
const HISTORY: i64 = 30 * 24 * 3600;

impl Inner {
    /// Performs every step that is due, and takes what came of it into force; whether anything changed.
    pub(crate) async fn advance(&self, now: i64) -> Result<bool, AuthorityError> {
        let changed = self.step(now).await?;
        if changed {
            // A new issuer has a revocation list from its first day.
            self.publish_crls(now).await;
        }
        Ok(changed)
    }

    async fn step(&self, now: i64) -> Result<bool, AuthorityError> {
        let _one_at_a_time = self.rotating.lock().await;
        let mut changed = false;
        for _ in 0..MOST_STEPS {
            let journal = self.store.journal().await?;
            // Beginning a new mesh where there was one would lock everybody out.
            if journal.entries.is_empty() && !self.founding.load(Ordering::Acquire) {
                return Err(StoreError::Tampered { table: "authorities" }.into());
            }
            let facts = self.facts(&journal, now).await?;
            let slots: Vec<Slot> = journal.entries.iter().map(|entry| entry.slot.clone()).collect();
            let actor = Actor { leads: self.leads().await, replica: &self.replica };
            let Some(step) = machine::next(&slots, &facts, &self.rotation, actor) else {
                self.adopt(journal).await?;
                return Ok(changed);
            };
            tracing::debug!(target: "signet::ca", ?step, "a step of a rotation");
            if let Outcome::Done = self.perform(&journal, step, now).await? {
                changed = true;
            }
        }
        Err(AuthorityError::Interrupted("a rotation did not come to rest".into()))
    }

    /// Takes the journal into force for the first time. A replica that joins waits until whoever leads has signed its
    /// issuer.
    pub(crate) async fn begin_in_step(&self, now: i64) -> Result<(), AuthorityError> {
        self.retire_lost_keys(now).await?;
        let mut changes = self.store.changes();
        let end = tokio::time::Instant::now() + JOINING;
        loop {
            let waiting = match self.advance(now).await {
                Ok(_) => return Ok(()),
                Err(error @ AuthorityError::Hierarchy(HierarchyError::NotActive { .. })) => error,
                Err(error) => return Err(error),
            };
            // Whatever is heard, or missed, is reason to look again.
            if tokio::time::timeout_at(end, changes.recv()).await.is_err() {
                return Err(waiting);
            }
        }
    }

    /// A replica's own key that is gone signs no more, and another takes its place; what it signed is still believed.
    /// A root's is not made anew: see [`HierarchyError::KeyMissing`].
    async fn retire_lost_keys(&self, now: i64) -> Result<(), AuthorityError> {
        let journal = self.store.journal().await?;
        let held = self.with_vault(|vault| vault.held()).await?;
        let lost = |entry: &&Entry| {
            let slot = &entry.slot;
            slot.owner == self.replica
                && !matches!(slot.phase, Phase::Draining | Phase::Removed)
                && !held.contains(&(slot.kind, slot.id.clone()))
        };
        let mut entries: Vec<Entry> = journal.entries.iter().filter(lost).cloned().collect();
        for entry in &mut entries {
            tracing::error!(target: "signet::ca", kind = entry.slot.kind.as_str(), id = entry.slot.id,
                "a private key is missing: another takes its place");
            entry.slot.phase = Phase::Draining;
            entry.slot.since = now;
        }
        if !entries.is_empty() {
            self.change(&journal, entries, false, None, now).await?;
        }
        Ok(())
    }

    /// Whether this process does what only one may do: it goes on to, or begins to where nobody does.
    pub(crate) async fn leads(&self) -> bool {
        let mut leading = self.leading.lock().await;
        if leading.as_ref().is_some_and(|lead| !lead.is_lost()) {
            return true;
        }
        *leading = match self.store.lead().await {
            Ok(lead) => lead,
            Err(error) => {
                tracing::warn!(target: "signet::ca", %error, "could not ask for the lead; another replica goes on, or nobody does for now");
                None
            }
        };
        leading.is_some()
    }

    async fn facts(&self, journal: &Journal, now: i64) -> Result<Facts, AuthorityError> {
        let mut facts = Facts {
            now,
            roots: self.root_source.roots(),
            acked: self.store.oldest_acknowledged(now).await?,
            replicas: self
                .store
                .replicas()
                .await?
                .into_iter()
                .filter(|replica| replica.last_seen >= now.saturating_sub(LOST_REPLICA))
                .map(|replica| replica.name)
                .collect(),
            ..Facts::default()
        };
        facts.replicas.insert(self.replica.clone());
        let draining = |entry: &&Entry| entry.slot.phase == Phase::Draining;
        if !journal.entries.iter().any(|entry| draining(&entry)) {
            return Ok(facts);
        }
        let holders: BTreeMap<Vec<u8>, u64> = self.store.holders(now).await?.into_iter().collect();
        for issuer in journal.entries.iter().filter(|entry| entry.is(Kind::Issuer)) {
            let Ok(certificate) = issuer.signing_certificate() else { continue };
            let serial = certificate.serial.as_bytes();
            let end = self.store.last_end(serial).await?;
            let held = holders.get::<[u8]>(serial).copied().unwrap_or(0);
            for id in [Some(&issuer.slot.id), issuer.slot.parent.as_ref()].into_iter().flatten() {
                *facts.holders.entry(id.clone()).or_default() += held;
                if let Some(end) = end {
                    let last = facts.last_end.entry(id.clone()).or_insert(end);
                    *last = end.max(*last);
                }
            }
        }
        Ok(facts)
    }

    /// Destroys keys that nothing refers to any more, and forgets what was removed long ago.
    pub(crate) async fn tidy(&self, now: i64) -> Result<(), AuthorityError> {
        let _one_at_a_time = self.rotating.lock().await;
        let journal = self.store.journal().await?;
        let referred: BTreeSet<(Kind, String)> = journal
            .entries
            .iter()
            .filter(|entry| entry.slot.phase != Phase::Removed)
            .map(|entry| (entry.slot.kind, entry.slot.id.clone()))
            .collect();
        let orphans = self.with_vault(move |vault| vault.destroy_orphans(&referred)).await?;
        for (kind, id) in orphans {
            tracing::warn!(target: "signet::ca", kind = kind.as_str(), id, "destroyed a key that no authority refers to");
        }
        let old = now.saturating_sub(HISTORY);
        if journal.entries.iter().any(|e| e.slot.phase == Phase::Removed && e.slot.since < old) {
            let mut writer = self.store.begin_alone().await?;
            let found = writer.journal().await?;
            if writer.sweep_authorities(old).await? {
                writer.write_authorities(&[], &found.head, false, now).await?;
            }
            writer.commit().await?;
        }
        Ok(())
    }

    /// Keys are unsealed, and files synced, on a thread that serves nobody.
    pub(crate) async fn with_vault<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Vault) -> Result<T, HierarchyError> + Send + 'static,
    ) -> Result<T, AuthorityError> {
        let vault = Arc::clone(&self.vault);
        tokio::task::spawn_blocking(move || act(&mut vault.lock().unwrap_or_else(PoisonError::into_inner)))
            .await
            .map_err(crate::authority::interrupted)?
            .map_err(AuthorityError::from)
    }
}
