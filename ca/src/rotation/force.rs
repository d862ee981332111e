//! Takes the journal into force: which keys are opened, what this replica signs with, and what verifiers are told.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use signet_identity::TrustDomain;
use signet_token::SigningKey;
use zeroize::Zeroizing;

use super::machine::{Kind, Phase};
use super::material::Entry;
use super::view::{RootView, View, published};
use crate::authority::Inner;
use crate::error::AuthorityError;
use crate::external::RootSource;
use crate::hierarchy::{self, CaCertificate, HierarchyError, Issuer};
use crate::keys::KeyError;
use crate::store::Journal;
use crate::vault::Vault;

impl Inner {
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
        self.issuing.send_if_modified(|told| {
            let other = *told != view.issuer.id;
            if other {
                told.clone_from(&view.issuer.id);
            }
            other
        });
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
}

/// Opens a root to sign with it.
pub(super) fn open(vault: &mut Vault, root: &Entry) -> Result<Issuer, HierarchyError> {
    let certificate = root.signing_certificate()?;
    let key = vault.key(Kind::Root, &root.slot.id, &certificate.spki)?;
    let mut signer = certificate.with_key(key, &format!("root-{}.sealed", root.slot.id))?;
    signer.id.clone_from(&root.slot.id);
    Ok(signer)
}

/// A replica's issuer with its key, checked under its root.
pub(super) fn open_issuer(
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
pub(super) fn public_text(key: &SigningKey) -> String {
    serde_json::Value::Object(key.public_jwk().to_json()).to_string()
}
