//! What is in force now, made of the journal: whole, consistent, handed to everybody else.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use signet_identity::KeyId;
use signet_token::SigningKey;

use super::machine::{Kind, Phase, RotationConfig, activate_at, prepare_at};
use super::material::Entry;
use crate::hierarchy::{CaCertificate, HierarchyError, Issuer};

/// The journal at one moment, with this replica's own keys beside it.
pub(crate) struct View {
    /// Number of the journal's last change.
    pub(crate) journal: u64,
    pub(crate) published: Arc<Published>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) root: RootView,
    pub(crate) issuer: Arc<Issuer>,
    /// None while a replica that has just joined waits for sidecars to acknowledge its key.
    pub(crate) token: Option<Arc<SigningKey>>,
    pub(crate) jwt: Option<Arc<SigningKey>>,
}

impl View {
    /// The key under which delegations are believed.
    pub(crate) fn token(&self) -> Result<Arc<SigningKey>, HierarchyError> {
        self.token.clone().ok_or(HierarchyError::NotActive { kind: "token" })
    }

    /// The key of JWT-SVIDs.
    pub(crate) fn jwt(&self) -> Result<Arc<SigningKey>, HierarchyError> {
        self.jwt.clone().ok_or(HierarchyError::NotActive { kind: "jwt" })
    }

    /// Whether the issuer is to be replaced now, or is no longer under the root that signs.
    pub(crate) fn is_issuer_due(&self, now: i64, config: &RotationConfig) -> bool {
        let own = self.entries.iter().find(|entry| entry.slot.id == self.issuer.id);
        own.is_none_or(|own| {
            let under = own.slot.parent.as_deref() == Some(self.root.id.as_str());
            let longer = self.root.certificate.validity.not_after > own.slot.not_after;
            !under || now >= prepare_at(&own.slot, config) && (longer || now > own.slot.not_after)
        })
    }
}

/// The active root.
pub(crate) struct RootView {
    pub(crate) id: String,
    pub(crate) anchor: CertificateDer<'static>,
    /// Of the key that signs: the anchor itself, or an intermediate under it.
    pub(crate) certificate: CaCertificate,
}

/// What verifiers are told. Equal numbers mean equal content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// Grows with each change.
    pub sequence: u64,
    /// The roots by which this trust domain is verified, the active one first.
    pub roots: Vec<CertificateDer<'static>>,
    /// Whose key may be in other hands: SHA-256 of a root's certificate, of the public key of an issuer or of an
    /// authority between root and issuers. Who has a
    /// certificate under one renews now.
    pub tainted: Vec<KeyId>,
    /// Certificates of newer roots under older ones, for peers that know only the older.
    pub cross: Vec<CertificateDer<'static>>,
    /// Keys under which delegations are believed, a JWK set as JSON.
    pub token_keys: String,
    /// Which of them may be in other hands, by `kid`. A gateway that mints under one asks for another delegation at once.
    pub tainted_token_keys: Vec<String>,
    /// Keys of JWT-SVIDs, a JWK set as JSON.
    pub jwt_keys: String,
}

/// One authority, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotStatus {
    pub id: String,
    pub kind: Kind,
    pub owner: String,
    pub phase: Phase,
    /// When it came into its phase; seconds since the epoch, like all that follow.
    pub since: i64,
    pub not_before: i64,
    pub not_after: i64,
    /// When a successor is made, and when it takes over, by schedule.
    pub prepare_at: i64,
    pub activate_at: i64,
    pub sequence: u64,
    pub tainted_at: Option<i64>,
    /// SHA-256 of a root's certificate, hex; empty for other kinds.
    pub sha256: String,
}

impl SlotStatus {
    pub(crate) fn of(entry: &Entry, config: &RotationConfig) -> SlotStatus {
        let slot = &entry.slot;
        SlotStatus {
            id: slot.id.clone(),
            kind: slot.kind,
            owner: slot.owner.clone(),
            phase: slot.phase,
            since: slot.since,
            not_before: slot.not_before,
            not_after: slot.not_after,
            prepare_at: prepare_at(slot, config),
            activate_at: activate_at(slot, config),
            sequence: slot.sequence,
            tainted_at: slot.tainted_at,
            sha256: match entry.signing_certificate() {
                Ok(_) if entry.is(Kind::Root) => entry.anchor_sha256().to_string(),
                _ => String::new(),
            },
        }
    }
}

/// What verifiers are to be told by this journal.
pub(crate) fn published(entries: &[Entry], sequence: u64) -> Published {
    let believed = |kind: Kind| {
        let mut of_kind: Vec<&Entry> =
            entries.iter().filter(|entry| entry.is(kind) && entry.slot.phase.is_believed()).collect();
        // What signs comes first, then the newest: where there is not room for all, the oldest is missed least.
        of_kind.sort_by_key(|entry| {
            let slot = &entry.slot;
            (slot.phase != Phase::Active, std::cmp::Reverse(slot.sequence), slot.id.clone())
        });
        of_kind
    };
    let roots = believed(Kind::Root);
    let mut anchors: Vec<CertificateDer<'static>> = Vec::new();
    for anchor in roots.iter().map(|root| root.anchor()) {
        // Two intermediates may stand under one root that is kept elsewhere.
        if !anchors.contains(&anchor) {
            anchors.push(anchor);
        }
    }
    let tainted_roots = roots.iter().filter(|root| root.slot.tainted_at.is_some()).filter_map(|root| {
        // A root that is kept elsewhere is as good as before, whatever became of a key that it signed.
        if root.intermediate.is_none() {
            return Some(root.anchor_sha256());
        }
        root.signing_certificate().ok().map(|certificate| KeyId::of(&certificate.spki))
    });
    let tainted_issuers = entries
        .iter()
        .filter(|entry| entry.is(Kind::Issuer) && entry.slot.tainted_at.is_some())
        .filter(|entry| matches!(entry.slot.phase, Phase::Active | Phase::Draining))
        .filter_map(|entry| entry.signing_certificate().ok())
        .map(|certificate| KeyId::of(&certificate.spki));
    let tainted_tokens = believed(Kind::Token).into_iter().filter(|key| key.slot.tainted_at.is_some());
    let name = |key: &Entry| {
        let jwk: serde_json::Value = serde_json::from_slice(&key.public).ok()?;
        Some(jwk.get("kid")?.as_str()?.to_owned())
    };
    let keys = |kind: Kind| {
        let keys: Vec<serde_json::Value> =
            believed(kind).iter().filter_map(|entry| serde_json::from_slice(&entry.public).ok()).collect();
        serde_json::json!({ "keys": keys }).to_string()
    };
    Published {
        sequence,
        tainted: tainted_roots.chain(tainted_issuers).collect(),
        cross: roots.iter().filter_map(|root| root.cross.clone()).map(CertificateDer::from).collect(),
        roots: anchors,
        token_keys: keys(Kind::Token),
        tainted_token_keys: tainted_tokens.filter_map(name).collect(),
        jwt_keys: keys(Kind::Jwt),
    }
}
