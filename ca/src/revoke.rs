//! Revocation: what must not be believed any more although it has not ended.
//!
//! A revocation is kept until what it names has ended by itself; that of an identity until an operator
//! lifts it. The whole set has a number that only grows (with the clock, so that it does so across the restore
//! of a backup), and every change is published on a watch channel
//! for delivery to the sidecars.

use std::collections::HashSet;
use std::sync::Arc;

use signet_identity::{KeyId, RevocationSet, Serial, SpiffeId};
use tokio::sync::watch;

use crate::authorise::Stop;
use crate::authority::{Authority, Caller, Inner};
use crate::config::{MAX_SVID_TTL, seconds};
use crate::error::AuthorityError;
use crate::record::{Entry, Event};
use crate::refusal::Refusal;
use crate::store::{RevocationKind, RevocationRow, Store, StoreError};

/// A delegation lives an hour at most, and is believed a little longer by a clock that is behind.
const DELEGATION: i64 = 2 * 3600;

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    Serial(Serial),
    Identity(SpiffeId),
    /// SHA-256 of the SubjectPublicKeyInfo.
    Key(KeyId),
    /// RFC 7638 thumbprint of a gateway's delegated key.
    Delegation(String),
}

impl Revocation {
    fn row(&self) -> (RevocationKind, Vec<u8>) {
        match self {
            Revocation::Serial(serial) => (RevocationKind::Serial, serial.as_bytes().to_vec()),
            Revocation::Identity(id) => (RevocationKind::Identity, id.as_str().as_bytes().to_vec()),
            Revocation::Key(key) => (RevocationKind::Key, key.as_bytes().to_vec()),
            Revocation::Delegation(thumbprint) => {
                (RevocationKind::Delegation, thumbprint.as_bytes().to_vec())
            }
        }
    }
}

/// Everything that is revoked now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Serials, identities and keys, with the set's number.
    pub set: RevocationSet,
    /// Thumbprints of delegated keys.
    pub delegations: HashSet<String>,
}

impl Revocations {
    pub(crate) async fn load(store: &Store, now: i64) -> Result<Revocations, StoreError> {
        let (sequence, rows) = store.revocations(now).await?;
        let mut all = Revocations { set: RevocationSet::new(sequence), delegations: HashSet::new() };
        let corrupt = |what| StoreError::Corrupt { table: "revocations", what };
        for row in rows {
            let text = || String::from_utf8(row.value.clone()).map_err(|_| corrupt("text is not UTF-8"));
            match row.kind {
                RevocationKind::Serial => {
                    let serial = Serial::from_bytes(&row.value).map_err(|_| corrupt("a serial is bad"))?;
                    all.set.serials.insert(serial);
                }
                RevocationKind::Identity => {
                    let id = SpiffeId::parse(&row.value).map_err(|_| corrupt("an identity is bad"))?;
                    all.set.identities.insert(id);
                }
                RevocationKind::Key => {
                    let hash = row.value.as_slice().try_into().map_err(|_| corrupt("a key's hash is bad"))?;
                    all.set.keys.insert(KeyId::from_bytes(hash));
                }
                RevocationKind::Delegation => {
                    all.delegations.insert(text()?);
                }
            }
        }
        Ok(all)
    }
}

impl Authority {
    /// Revokes, and returns the number of the new set. The control plane's own identity cannot be revoked:
    /// its certificates and keys can.
    pub async fn revoke(&self, what: Revocation, reason: &str, actor: &str) -> Result<u64, AuthorityError> {
        let (reason, actor) = (reason.to_owned(), actor.to_owned());
        self.act(move |inner| async move {
            let now = inner.clock.unix_seconds();
            let refused = match &what {
                Revocation::Identity(id) if !id.is_in(&inner.rules.trust_domain) => {
                    Some(Refusal::TrustDomain)
                }
                // A person is reserved for the authority to issue to, and may be shut out all the same.
                Revocation::Identity(id) if inner.rules.is_reserved(id) && !inner.rules.is_operator(id) => {
                    Some(Refusal::Reserved)
                }
                Revocation::Delegation(text) if !is_thumbprint(text) => Some(Refusal::Thumbprint),
                _ => None,
            };
            if let Some(refusal) = refused {
                return Err(inner.refuse(Stop::Refused(refusal, None), Caller::Peer, &actor, now).await);
            }
            let (kind, value) = what.row();
            let mut writer = inner.store.begin_alone().await?;
            // Unknown to this store: it may be another replica's, and ends within the longest life.
            let longest = now.saturating_add(seconds(MAX_SVID_TTL));
            let expires_at = match &what {
                Revocation::Identity(_) => None,
                Revocation::Delegation(_) => Some(now.saturating_add(DELEGATION)),
                Revocation::Serial(serial) => {
                    Some(writer.svid(serial.as_bytes()).await?.map_or(longest, |row| row.not_after))
                }
                Revocation::Key(key) => {
                    Some(writer.key_certified_until(key.as_bytes()).await?.unwrap_or(longest))
                }
            }
            // The last second of its validity still counts.
            .map(|end| end.max(now).saturating_add(1));
            writer.insert_revocation(&RevocationRow { kind, value, expires_at }, &reason, now).await?;
            let sequence = writer.mark_revocations(now).await?;
            let entry = Entry::new(now, Event::Revoked, &actor).because(&reason);
            writer.record(describe(entry, &what)).await?;
            writer.commit().await?;
            inner.metrics.revoked.with_label_values(&[kind.as_str()]).inc();
            tracing::warn!(target: "signet::ca", what = ?what, reason, actor, sequence, "revoked");
            inner.publish_revocations(now).await?;
            Ok(sequence)
        })
        .await
    }

    /// Lifts a revocation, and returns the number of the new set; nothing if there was none. A chain of renewals
    /// that ended itself because a key was in two hands stays ended, whatever of it is lifted.
    pub async fn reinstate(
        &self,
        what: Revocation,
        reason: &str,
        actor: &str,
    ) -> Result<Option<u64>, AuthorityError> {
        let (reason, actor) = (reason.to_owned(), actor.to_owned());
        self.act(move |inner| async move {
            let now = inner.clock.unix_seconds();
            let (kind, value) = what.row();
            let mut writer = inner.store.begin_alone().await?;
            if !writer.delete_revocation(kind, &value).await? {
                return Ok(None);
            }
            let sequence = writer.mark_revocations(now).await?;
            let entry = Entry::new(now, Event::Reinstated, &actor).because(&reason);
            writer.record(describe(entry, &what)).await?;
            writer.commit().await?;
            tracing::warn!(target: "signet::ca", what = ?what, reason, actor, sequence, "lifted a revocation");
            inner.publish_revocations(now).await?;
            Ok(Some(sequence))
        })
        .await
    }

    /// The set in force, and each one that follows.
    pub fn revocations(&self) -> watch::Receiver<Arc<Revocations>> {
        self.inner.revocations.subscribe()
    }
}

impl Inner {
    /// Reads the set anew and hands it out, unless a later one already was; then the lists that follow from it.
    pub(crate) async fn publish_revocations(&self, now: i64) -> Result<(), AuthorityError> {
        let fresh = Arc::new(Revocations::load(&self.store, now).await?);
        // Looked at first: what changes nothing waits for nobody who is reading.
        if fresh.set.sequence > self.revocations.borrow().set.sequence {
            self.revocations.send_if_modified(|current| {
                let newer = fresh.set.sequence > current.set.sequence;
                if newer {
                    *current = fresh;
                }
                newer
            });
        }
        self.publish_crls(now).await;
        Ok(())
    }
}

fn describe(mut entry: Entry, what: &Revocation) -> Entry {
    match what {
        Revocation::Serial(serial) => entry.serial = serial.to_string(),
        Revocation::Identity(id) => entry = entry.about(id.as_str(), ""),
        Revocation::Key(key) => entry.reason = format!("key {key}: {}", entry.reason),
        Revocation::Delegation(thumbprint) => {
            entry.reason = format!("delegation {thumbprint}: {}", entry.reason);
        }
    }
    entry
}

/// SHA-256 in base64url.
fn is_thumbprint(text: &str) -> bool {
    text.len() == 43 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}
