//! What each step of the machine does to keys and journal, each in one transaction.
//!
//! A key is durable before the journal names it, and is destroyed only after the journal has forgotten it. A step was
//! planned on the journal with a certain number; if another replica changed it meanwhile, the step is planned anew.

use std::sync::Arc;

use rcgen::CertificateParams;
use rustls_pki_types::CertificateDer;
use signet_identity::TrustDomain;
use signet_token::SigningKey;

use super::force::{open, open_issuer, public_text};
use super::machine::{Hurry, Kind, Phase, Roots, Slot, Step};
use super::material::Entry;
use crate::authority::{Inner, Lives};
use crate::config::seconds;
use crate::csr::ProvenKey;
use crate::error::AuthorityError;
use crate::hierarchy::{self, CaCertificate, HierarchyError, Issuer};
use crate::issue;
use crate::keys::{CaKey, KeyError, key_name};
use crate::keystore::StoredKey;
use crate::profile::ProfileError;
use crate::record::{Entry as LogEntry, Event};
use crate::store::{GivenUp, Journal, RevocationKind, RevocationRow, StoreError};
use crate::vault::Vault;

/// What one step came to.
pub(crate) enum Outcome {
    Done,
    /// The journal was changed by another replica: plan again.
    Replan,
}

impl Inner {
    pub(super) async fn perform(
        &self,
        journal: &Journal,
        step: Step,
        now: i64,
    ) -> Result<Outcome, AuthorityError> {
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
        let id = entry.slot.id.clone();
        let outcome = self.change(journal, vec![entry], false, log, now).await?;
        if let Outcome::Replan = outcome {
            // Others changed the journal first: nobody will ever refer to this key.
            self.with_vault(move |vault| vault.destroy(kind, &id)).await?;
        }
        Ok(outcome)
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

    /// Issues to a throwaway key, and verifies the chain with the library that peers use.
    async fn prove(
        &self,
        issuer: &Arc<Issuer>,
        anchor: &CertificateDer<'_>,
        now: i64,
    ) -> Result<(), AuthorityError> {
        let pkcs8 = crate::keys::generate().map_err(HierarchyError::from)?;
        let key = ProvenKey::own(&CaKey::from_pkcs8(&pkcs8).map_err(HierarchyError::from)?);
        let signed = issue::sign(&self.rules.proof(), &key, issuer, self.svid_ttl, now).await?;
        let between: Vec<_> = issuer.chain().collect();
        Ok(hierarchy::verify_like_a_peer(anchor, &signed.der, &between, now)?)
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

fn find<'a>(journal: &'a Journal, id: &str) -> Option<&'a Entry> {
    journal.entries.iter().find(|entry| entry.slot.id == id)
}
