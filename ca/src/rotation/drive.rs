//! Performs the machine's steps: each is one transaction, and a process that dies between two goes on from the journal.
//!
//! A key is durable before the journal names it, and is destroyed only after the journal has forgotten it. A step was
//! planned on the journal with a certain number; if another replica changed it meanwhile, the step is planned anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rcgen::CertificateParams;
use signet_identity::TrustDomain;
use signet_token::SigningKey;
use zeroize::Zeroizing;

use super::machine::{self, Actor, Facts, Hurry, Kind, Phase, Roots, Slot, Step};
use super::material::Entry;
use super::view::{RootView, View, published};
use crate::authority::{Inner, Lives};
use crate::config::seconds;
use crate::csr::ProvenKey;
use crate::error::AuthorityError;
use crate::external::RootSource;
use crate::hierarchy::{self, CaCertificate, HierarchyError, Issuer};
use crate::issue;
use crate::keys::{CaKey, KeyError, key_name};
use crate::keystore::StoredKey;
use crate::profile::ProfileError;
use crate::record::{Entry as LogEntry, Event};
use crate::store::{GivenUp, Journal, RevocationKind, RevocationRow, StoreError};
use crate::vault::Vault;

/// Steps in one go: more means that a step does not end what made it due.
const MOST_STEPS: usize = 64;
/// A replica's keys are believed for so long after it was last seen.
const LOST_REPLICA: i64 = 24 * 3600;
/// How long a replica that joins waits for its issuer.
const JOINING: Duration = Duration::from_secs(60);
/// Removed authorities stay in the journal for so long, for people.
pub(crate) const HISTORY: i64 = 30 * 24 * 3600;

/// What one step came to.
pub(crate) enum Outcome {
    Done,
    /// The journal was changed by another replica: plan again.
    Replan,
}

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
        let held = self.with_vault(|vault| Ok(vault.held()?)).await?;
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

    async fn perform(&self, journal: &Journal, step: Step, now: i64) -> Result<Outcome, AuthorityError> {
        match step {
            Step::Make { kind, hurry } => self.make(journal, kind, hurry, now).await,
            Step::SignIssuer { id, root } => self.sign_issuer(journal, &id, &root, now).await,
            Step::Publish { id } => self.publish(journal, &id, now).await,
            Step::GiveUp { sequence } => self.give_up(sequence, now).await,
            Step::Acknowledge { id } => self.enter(journal, &id, Phase::Acknowledged, now).await,
            Step::Activate { id, instead_of } => {
                self.activate(journal, &id, instead_of.as_deref(), now).await
            }
            Step::Retire { id } => self.enter(journal, &id, Phase::Draining, now).await,
            Step::Remove { id } => self.remove(journal, &id, now).await,
        }
    }

    /// Makes a key and what is public about it.
    pub(crate) async fn make(
        &self,
        journal: &Journal,
        kind: Kind,
        hurry: Hurry,
        now: i64,
    ) -> Result<Outcome, AuthorityError> {
        let (domain, lives) = (self.rules.trust_domain.clone(), self.lives);
        let key_life = seconds(self.rotation.key_life);
        let roots = self.root_source.roots();
        let owner = if kind == Kind::Root { String::new() } else { self.replica.clone() };
        let (entry, log) = self
            .with_vault(move |vault| {
                let (stored, key) = vault.generate(kind)?;
                let slot = Slot {
                    id: key_name(&key),
                    kind,
                    owner,
                    phase: Phase::Prepared,
                    not_before: now,
                    not_after: now.saturating_add(key_life),
                    sequence: 0,
                    since: now,
                    parent: None,
                    tainted_at: None,
                    hurry,
                };
                let made = describe((slot, &key, &stored), (&domain, roots), lives, now)
                    .and_then(|made| vault.keep(kind, &made.0.slot.id, &stored).map(|()| made));
                if made.is_err() {
                    vault.discard(&stored);
                }
                made
            })
            .await?;
        self.change(journal, vec![entry], false, log, now).await
    }

    /// The root signs an issuer's request. The only step that opens the root's key for it.
    async fn sign_issuer(
        &self,
        journal: &Journal,
        id: &str,
        root: &str,
        now: i64,
    ) -> Result<Outcome, AuthorityError> {
        let (Some(request), Some(root)) = (find(journal, id), find(journal, root)) else {
            return Ok(Outcome::Replan);
        };
        let (domain, life) = (self.rules.trust_domain.clone(), self.lives.issuer);
        let (mut entry, root) = (request.clone(), root.clone());
        let (entry, serial) = self
            .with_vault(move |vault| {
                let key = ProvenKey::of_authority(&entry.public)
                    .map_err(|refusal| HierarchyError::Proof(refusal.detail().to_owned()))?;
                let signer = open(vault, &root)?;
                let issuer = hierarchy::make_issuer(&domain, &key, life, &signer, now)?;
                entry.slot.phase = Phase::Prepared;
                entry.slot.since = now;
                entry.slot.parent = Some(root.slot.id.clone());
                (entry.slot.not_before, entry.slot.not_after) =
                    (issuer.validity.not_before, issuer.validity.not_after);
                entry.public = issuer.der.to_vec();
                Ok((entry, issuer.serial))
            })
            .await?;
        let log = LogEntry::new(now, Event::IssuerMade, "authority")
            .certificate(&serial.to_string(), entry.slot.not_after);
        self.change(journal, vec![entry], false, Some(log), now).await
    }

    async fn publish(&self, journal: &Journal, id: &str, now: i64) -> Result<Outcome, AuthorityError> {
        let Some(mut entry) = find(journal, id).cloned() else { return Ok(Outcome::Replan) };
        entry.slot.phase = Phase::Published;
        entry.slot.since = now;
        entry.slot.sequence = journal.next_bundle(now);
        let log = self.transition(journal, &entry, Event::Published, now);
        self.change(journal, vec![entry], true, log, now).await
    }

    async fn enter(
        &self,
        journal: &Journal,
        id: &str,
        phase: Phase,
        now: i64,
    ) -> Result<Outcome, AuthorityError> {
        let Some(mut entry) = find(journal, id).cloned() else { return Ok(Outcome::Replan) };
        entry.slot.phase = phase;
        entry.slot.since = now;
        self.change(journal, vec![entry], false, None, now).await
    }

    /// The new one signs from here, the old one is only believed.
    async fn activate(
        &self,
        journal: &Journal,
        id: &str,
        instead_of: Option<&str>,
        now: i64,
    ) -> Result<Outcome, AuthorityError> {
        let Some(mut entry) = find(journal, id).cloned() else { return Ok(Outcome::Replan) };
        let old = instead_of.and_then(|id| find(journal, id)).cloned();
        match entry.slot.kind {
            Kind::Root => {
                let (domain, before) = (self.rules.trust_domain.clone(), old.clone());
                entry = self.with_vault(move |vault| cross(vault, &domain, entry, before, now)).await?;
            }
            Kind::Issuer => {
                let Some(root) = entry.slot.parent.as_deref().and_then(|id| find(journal, id)) else {
                    return Ok(Outcome::Replan);
                };
                let (own, root, domain) = (entry.clone(), root.clone(), self.rules.trust_domain.clone());
                let open = move |vault: &mut Vault| open_issuer(vault, &domain, &own, &root);
                let issuer = Arc::new(self.with_vault(open).await?);
                let root = find(journal, entry.slot.parent.as_deref().unwrap_or_default());
                let anchor = root.map(Entry::anchor).ok_or(HierarchyError::NotActive { kind: "root" })?;
                self.prove(&issuer, &anchor, now).await?;
            }
            Kind::Token | Kind::Jwt => {}
        }
        entry.slot.phase = Phase::Active;
        entry.slot.since = now;
        let tells = entry.slot.kind == Kind::Root;
        let log = self.transition(journal, &entry, Event::Activated, now);
        let mut entries = vec![entry];
        if let Some(mut old) = old {
            old.slot.phase = Phase::Draining;
            old.slot.since = now;
            entries.push(old);
        }
        self.change(journal, entries, tells, log, now).await
    }

    async fn give_up(&self, sequence: u64, now: i64) -> Result<Outcome, AuthorityError> {
        let mut writer = self.store.begin().await?;
        let silent = writer.give_up(sequence, now).await?;
        for GivenUp { instance, spiffe_id, .. } in &silent {
            let entry = LogEntry::new(now, Event::GaveUp, "authority")
                .about(spiffe_id, "")
                .because(&format!("instance {instance} did not acknowledge bundle {sequence}"));
            writer.record(entry).await?;
            tracing::warn!(target: "signet::ca", id = spiffe_id, instance, sequence,
                "a sidecar did not acknowledge the new trust bundle in time: it gets nothing until it does");
        }
        writer.commit().await?;
        self.metrics.given_up.inc_by(u64::try_from(silent.len()).unwrap_or(u64::MAX));
        if !silent.is_empty() {
            // Nobody listening is no error.
            let _ = self.given_up.send(Arc::new(silent));
        }
        Ok(Outcome::Done)
    }

    pub(crate) async fn remove(
        &self,
        journal: &Journal,
        id: &str,
        now: i64,
    ) -> Result<Outcome, AuthorityError> {
        let Some(mut entry) = find(journal, id).cloned() else { return Ok(Outcome::Replan) };
        let tells = entry.slot.kind.is_published() && entry.slot.phase.is_believed()
            || entry.slot.tainted_at.is_some();
        let under_a_root = entry.slot.kind == Kind::Issuer || entry.intermediate.is_some();
        let issuer = under_a_root.then(|| entry.signing_certificate().ok()).flatten();
        let log = self.transition(journal, &entry, Event::Removed, now);
        entry.slot.phase = Phase::Removed;
        entry.slot.since = now;
        let (kind, id, tainted) = (entry.slot.kind, entry.slot.id.clone(), entry.slot.tainted_at.is_some());
        // What a tainted issuer signed, and whoever has its key may still sign, is believed no more.
        let revoked = issuer.filter(|_| tainted).map(|certificate| RevocationRow {
            kind: RevocationKind::Serial,
            value: certificate.serial.as_bytes().to_vec(),
            expires_at: Some(certificate.validity.not_after.saturating_add(1)),
        });
        let outcome = self.change_with(journal, vec![entry], tells, log, revoked.as_ref(), now).await?;
        if let Outcome::Done = outcome {
            if revoked.is_some() {
                self.publish_revocations(now).await?;
            }
            let destroyed = self.with_vault({
                let id = id.clone();
                move |vault| vault.destroy(kind, &id)
            });
            // Its end is decided and written down; what is left of it goes as an orphan (see `tidy`).
            if let Err(error) = destroyed.await {
                tracing::error!(target: "signet::ca", %error, kind = kind.as_str(), id, "the key of a removed authority could not be destroyed yet");
            }
        }
        Ok(outcome)
    }

    /// A record of a step that follows another authority; the first of its kind is only made.
    fn transition(&self, journal: &Journal, entry: &Entry, event: Event, now: i64) -> Option<LogEntry> {
        let slot = &entry.slot;
        let alone = !journal.entries.iter().any(|other| {
            other.slot.kind == slot.kind && other.slot.owner == slot.owner && other.slot.id != slot.id
        });
        if alone {
            return None;
        }
        let mut log =
            LogEntry::new(now, event, "authority").because(&format!("{} {}", slot.kind.as_str(), slot.id));
        log.not_after = Some(slot.not_after);
        tracing::info!(target: "signet::ca", kind = slot.kind.as_str(), id = slot.id, not_after = slot.not_after,
            "{event}");
        Some(log)
    }

    pub(crate) async fn change(
        &self,
        journal: &Journal,
        entries: Vec<Entry>,
        tells: bool,
        log: Option<LogEntry>,
        now: i64,
    ) -> Result<Outcome, AuthorityError> {
        self.change_with(journal, entries, tells, log, None, now).await
    }

    async fn change_with(
        &self,
        journal: &Journal,
        entries: Vec<Entry>,
        tells: bool,
        log: Option<LogEntry>,
        revoked: Option<&RevocationRow>,
        now: i64,
    ) -> Result<Outcome, AuthorityError> {
        let mut writer = self.store.begin_alone().await?;
        let found = writer.journal().await?;
        if found.head != journal.head {
            return Ok(Outcome::Replan);
        }
        let of_mesh = |entry: &Entry| {
            entry.is(Kind::Root) || entry.slot.owner != self.replica || entry.slot.phase == Phase::Prepared
        };
        let mut leading = self.leading.lock().await;
        if let Some(lead) = leading.as_ref()
            && entries.iter().any(of_mesh)
        {
            match writer.fenced(lead).await {
                Ok(()) => {}
                // It lost the lead without knowing, and does nothing for the mesh.
                Err(StoreError::NotLeading { .. }) => {
                    *leading = None;
                    return Ok(Outcome::Replan);
                }
                Err(error) => return Err(error.into()),
            }
        }
        drop(leading);
        writer.write_authorities(&entries, &found.head, tells, now).await?;
        if let Some(row) = revoked {
            writer.insert_revocation(row, "its key was tainted", now).await?;
            writer.mark_revocations(now).await?;
        }
        if let Some(log) = log {
            writer.record(log).await?;
        }
        writer.commit().await?;
        Ok(Outcome::Done)
    }

    /// Takes the journal into force: what this replica signs with, and what verifiers are told.
    pub(crate) async fn adopt(&self, journal: Journal) -> Result<(), AuthorityError> {
        let before = self.view.read().unwrap_or_else(PoisonError::into_inner).clone();
        if before.as_ref().is_some_and(|view| view.journal == journal.head.journal) {
            return Ok(());
        }
        let has_root = journal.entries.iter().any(|e| e.is(Kind::Root) && e.slot.phase == Phase::Active);
        if !has_root && before.is_none() && self.root_source != RootSource::Own {
            // It waits for a root from outside; nothing is in force until then.
            return Ok(());
        }
        let (replica, domain) = (self.replica.clone(), self.rules.trust_domain.clone());
        let view = self
            .with_vault(move |vault| view(vault, (&domain, &replica), journal, before.as_deref()))
            .await?;
        // For people and for join bundles: it is public, and written anew each time.
        let pem: String = view.published.roots.iter().map(|root| hierarchy::pem(root)).collect();
        crate::files::write_public(&self.data_dir.join("root.pem"), pem.as_bytes())?;
        let view = Arc::new(view);
        self.metrics.show_authorities(&view.entries);
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&view));
        self.published.send_if_modified(|told| {
            let newer = **told != *view.published;
            if newer {
                *told = Arc::clone(&view.published);
            }
            newer
        });
        Ok(())
    }

    /// Whoever leads must be able to open the root when it is needed: better known at the start than in months.
    pub(crate) async fn check_root(&self) -> Result<(), AuthorityError> {
        if self.leading.lock().await.is_none() {
            return Ok(());
        }
        let view = self.view()?;
        let Some(root) = view.entries.iter().find(|entry| entry.slot.id == view.root.id).cloned() else {
            return Ok(());
        };
        self.with_vault(move |vault| open(vault, &root).map(|_| ())).await
    }

    /// Names the keys in the token that no authority of the journal has.
    pub(crate) async fn note_unnamed_keys(&self) -> Result<(), AuthorityError> {
        let mut named: BTreeSet<String> =
            self.view()?.entries.iter().map(|entry| entry.slot.id.clone()).collect();
        let unnamed = self
            .with_vault(move |vault| {
                named.extend(vault.held()?.into_iter().map(|(_, id)| id));
                vault.unnamed(&named)
            })
            .await?;
        for key in unnamed {
            tracing::warn!(target: "signet::ca", key, "the token has a key of this trust domain that nothing uses");
        }
        Ok(())
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

    /// Issues to a throwaway key, and verifies the chain with the library that peers use.
    async fn prove(
        &self,
        issuer: &Arc<Issuer>,
        anchor: &rustls_pki_types::CertificateDer<'_>,
        now: i64,
    ) -> Result<(), AuthorityError> {
        let pkcs8 = crate::keys::generate().map_err(HierarchyError::from)?;
        let key = ProvenKey::own(&CaKey::from_pkcs8(&pkcs8).map_err(HierarchyError::from)?);
        let signed = issue::sign(&self.rules.proof(), &key, issuer, self.svid_ttl, now).await?;
        let between: Vec<_> = issuer.chain().collect();
        Ok(hierarchy::verify_like_a_peer(anchor, &signed.der, &between, now)?)
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

/// What is public about a new key, and the record of it.
fn describe(
    (mut slot, key, stored): (Slot, &CaKey, &StoredKey),
    (domain, roots): (&TrustDomain, Roots),
    lives: Lives,
    now: i64,
) -> Result<(Entry, Option<LogEntry>), HierarchyError> {
    let mut log = None;
    let public = match slot.kind {
        Kind::Root if roots == Roots::Requested => {
            slot.phase = Phase::Requested;
            slot.not_after = now.saturating_add(lives.root);
            crate::external::request(domain, key)?
        }
        Kind::Root => {
            let root = hierarchy::make_root(domain, key, lives.root, now)?;
            (slot.not_before, slot.not_after) = (root.validity.not_before, root.validity.not_after);
            log = Some(
                LogEntry::new(now, Event::RootMade, "authority")
                    .certificate(&root.serial.to_string(), root.validity.not_after),
            );
            root.der.to_vec()
        }
        Kind::Issuer => {
            slot.phase = Phase::Requested;
            slot.not_after = now.saturating_add(lives.issuer);
            let request = CertificateParams::default().serialize_request(key).map_err(ProfileError::from)?;
            request.der().to_vec()
        }
        Kind::Token | Kind::Jwt => {
            let signing =
                SigningKey::from_pkcs8(stored.as_bytes()).map_err(|e| KeyError::Unreadable(e.to_string()))?;
            log = Some(LogEntry::new(now, Event::KeyMade, "authority").because(&format!(
                "{} key {}",
                slot.kind.as_str(),
                signing.thumbprint()
            )));
            public_text(&signing).into_bytes()
        }
    };
    Ok((Entry::new(slot, public), log))
}

fn find<'a>(journal: &'a Journal, id: &str) -> Option<&'a Entry> {
    journal.entries.iter().find(|entry| entry.slot.id == id)
}

/// Opens a root to sign with it.
fn open(vault: &mut Vault, root: &Entry) -> Result<Issuer, HierarchyError> {
    let certificate = root.signing_certificate()?;
    let key = vault.key(Kind::Root, &root.slot.id, &certificate.spki)?;
    let mut signer = certificate.with_key(key, &format!("root-{}.sealed", root.slot.id))?;
    signer.id.clone_from(&root.slot.id);
    Ok(signer)
}

/// The new root's key certified by the old one, for peers that know only the old one. Not where the old one's key
/// may be in other hands, has ended, or where either is kept elsewhere.
fn cross(
    vault: &mut Vault,
    domain: &TrustDomain,
    mut new: Entry,
    old: Option<Entry>,
    now: i64,
) -> Result<Entry, HierarchyError> {
    let usable = |old: &Entry| old.slot.tainted_at.is_none() && old.slot.not_after > now;
    let Some(old) = old.filter(|old| usable(old) && old.intermediate.is_none() && new.intermediate.is_none())
    else {
        return Ok(new);
    };
    let signer = open(vault, &old)?;
    let root = CaCertificate::read(&new.public)?;
    let key = vault.key(Kind::Root, &new.slot.id, &root.spki)?;
    let cross = hierarchy::make_cross(domain, &root, &key, &signer, now)?;
    // One that was given may have another name than ours have, and a cross certificate stands for one of the same name.
    if cross.subject == root.subject {
        new.cross = Some(cross.der.to_vec());
    }
    Ok(new)
}

/// A replica's issuer with its key, checked under its root.
fn open_issuer(
    vault: &mut Vault,
    domain: &TrustDomain,
    own: &Entry,
    root: &Entry,
) -> Result<Issuer, HierarchyError> {
    let certificate = CaCertificate::read(&own.public)?;
    let parent = root.signing_certificate()?;
    hierarchy::check_issuer(domain, &certificate, &parent)?;
    let key = vault.key(Kind::Issuer, &own.slot.id, &certificate.spki)?;
    let mut issuer = certificate.with_key(key, &format!("issuer-{}.sealed", own.slot.id))?;
    issuer.id.clone_from(&own.slot.id);
    issuer.parents = root.intermediate.iter().cloned().map(Into::into).collect();
    Ok(issuer)
}

/// What the journal says is in force, with this replica's keys. What was open already is not opened again.
fn view(
    vault: &mut Vault,
    (domain, replica): (&TrustDomain, &str),
    journal: Journal,
    before: Option<&View>,
) -> Result<View, HierarchyError> {
    let active = |kind: Kind, owner: &str| {
        journal
            .entries
            .iter()
            .find(|e| e.is(kind) && e.slot.owner == owner && e.slot.phase == Phase::Active)
            .ok_or(HierarchyError::NotActive { kind: kind.as_str() })
    };
    let root = active(Kind::Root, "")?;
    let own = active(Kind::Issuer, replica)?;
    let issuer = match before.filter(|view| view.issuer.id == own.slot.id) {
        Some(view) => Arc::clone(&view.issuer),
        None => {
            let parent = own.slot.parent.as_deref();
            let parent = journal.entries.iter().find(|entry| Some(entry.slot.id.as_str()) == parent);
            let parent = parent.ok_or(HierarchyError::NotActive { kind: "root" })?;
            Arc::new(open_issuer(vault, domain, own, parent)?)
        }
    };
    let mut signing = |kind: Kind| -> Result<Option<Arc<SigningKey>>, HierarchyError> {
        let Ok(entry) = active(kind, replica) else { return Ok(None) };
        let pkcs8: Zeroizing<Vec<u8>> = vault.stored(kind, &entry.slot.id)?;
        let key = SigningKey::from_pkcs8(&pkcs8).map_err(|e| KeyError::Unreadable(e.to_string()))?;
        if public_text(&key).as_bytes() != entry.public.as_slice() {
            let file = format!("{}-{}.sealed", kind.as_str(), entry.slot.id);
            return Err(HierarchyError::KeyMismatch { file });
        }
        Ok(Some(Arc::new(key)))
    };
    let (token, jwt) = (signing(Kind::Token)?, signing(Kind::Jwt)?);
    let root = RootView {
        id: root.slot.id.clone(),
        anchor: root.anchor(),
        certificate: root.signing_certificate()?,
    };
    Ok(View {
        journal: journal.head.journal,
        published: Arc::new(published(&journal.entries, journal.head.bundle)),
        entries: journal.entries,
        root,
        issuer,
        token,
        jwt,
    })
}

/// A signing key's public half, as the journal has it.
fn public_text(key: &SigningKey) -> String {
    serde_json::Value::Object(key.public_jwk().to_json()).to_string()
}
