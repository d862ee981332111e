//! Keys in a PKCS #11 token.
//!
//! A key pair is made inside the token: sensitive, not extractable, for signing only, and checked to be so
//! when it is made and each time it is opened. It is named by its label, `signet/<trust domain>/<role>/<16
//! random hex digits>`, and found by CKA_ID, the SHA-256 of its SubjectPublicKeyInfo. The digest is made
//! here and the token signs it (CKM_ECDSA): every token can do that.
//!
//! `module` loads the vendor's library, `pin` reads the PIN and remembers a refused one, `token` keeps a
//! bounded number of sessions, `ecdsa` turns a token's signature into the form that certificates carry.

mod ecdsa;
mod module;
mod pin;
mod token;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use ring::rand::{SecureRandom as _, SystemRandom};
use signet_identity::TrustDomain;

pub use pin::PinError;
pub(super) use token::Token;
pub use token::TokenError;

use super::config::Pkcs11Config;
use super::stored::Reference;
use super::{KeyKind, KeyRole, TokenEntry};
use crate::csr::sha256;

/// No trust domain has more: roots and issuers in their overlap, and what interrupted starts left.
const MOST_KEYS: usize = 10_000;

/// The keys of one trust domain in a token.
pub(crate) struct Keys {
    token: Arc<Token>,
    /// `signet/<trust domain>/`
    prefix: String,
    issuers: bool,
}

impl Keys {
    pub(super) fn connect(
        config: &Pkcs11Config,
        trust_domain: &TrustDomain,
        data_dir: &Path,
    ) -> Result<Keys, TokenError> {
        let token = Arc::new(Token::connect(config, data_dir)?);
        Ok(Keys { token, prefix: format!("signet/{trust_domain}/"), issuers: config.issuers })
    }

    pub(super) fn holds(&self, role: KeyRole) -> bool {
        match role {
            KeyRole::Root => true,
            KeyRole::Issuer => self.issuers,
        }
    }

    pub(super) fn generate(&self, kind: KeyKind, role: KeyRole) -> Result<Reference, TokenError> {
        let mut random = [0u8; 8];
        SystemRandom::new().fill(&mut random).map_err(|_| TokenError::Random)?;
        let label = format!("{}{}/{:016x}", self.prefix, role.as_str(), u64::from_be_bytes(random));
        let reference = self.token.with_session(|session| make(session, kind, &label))?;
        tracing::info!(target: "signet::ca", key = label, %kind, "made a key in the token");
        Ok(reference)
    }

    pub(super) fn open(&self, reference: Reference) -> Result<TokenKey, TokenError> {
        let key = TokenKey {
            token: Arc::clone(&self.token),
            id: key_id(reference.kind, &reference.point),
            reference,
            handle: Mutex::new(None),
        };
        self.token.with_session(|session| key.find(session))?;
        Ok(key)
    }

    pub(super) fn destroy(&self, reference: &Reference) -> Result<(), TokenError> {
        let id = key_id(reference.kind, &reference.point);
        self.token.with_session(|session| {
            for object in session.find_objects(&[Attribute::Token(true), Attribute::Id(id.to_vec())])? {
                session.destroy_object(object)?;
            }
            Ok(())
        })?;
        tracing::info!(target: "signet::ca", key = reference.label, "destroyed a key in the token");
        Ok(())
    }

    /// Sessions that are open now, for tests.
    #[cfg(test)]
    pub(super) fn sessions(&self) -> usize {
        self.token.sessions()
    }

    pub(super) fn list(&self) -> Result<Vec<TokenEntry>, TokenError> {
        self.token.with_session(|session| {
            let mut entries = Vec::new();
            let template = [Attribute::Token(true), Attribute::Class(ObjectClass::PRIVATE_KEY)];
            for object in session.find_objects(&template)?.into_iter().take(MOST_KEYS) {
                let mut entry = TokenEntry { label: String::new(), id: Vec::new() };
                for attribute in session.get_attributes(object, &[AttributeType::Label, AttributeType::Id])? {
                    match attribute {
                        Attribute::Label(label) => entry.label = String::from_utf8_lossy(&label).into_owned(),
                        Attribute::Id(id) => entry.id = id,
                        _ => {}
                    }
                }
                if entry.label.starts_with(&self.prefix) {
                    entries.push(entry);
                }
            }
            entries.sort_by(|a, b| a.label.cmp(&b.label));
            Ok(entries)
        })
    }
}

/// SHA-256 of the SubjectPublicKeyInfo.
pub(super) fn key_id(kind: KeyKind, point: &[u8]) -> [u8; 32] {
    sha256(&rcgen::PublicKeyData::subject_public_key_info(&PublicHalf { kind, point }))
}

struct PublicHalf<'a> {
    kind: KeyKind,
    point: &'a [u8],
}

impl rcgen::PublicKeyData for PublicHalf<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.kind.algorithm()
    }
}

/// Makes a key pair and gives both halves the id that their public half determines.
fn make(session: &Session, kind: KeyKind, label: &str) -> Result<Reference, TokenError> {
    // Until the public half is known: something that no other key has.
    let provisional = sha256(label.as_bytes()).to_vec();
    let common = [
        Attribute::Token(true),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(provisional),
        Attribute::KeyType(KeyType::EC),
    ];
    let public = [
        common.as_slice(),
        &[
            Attribute::Private(false),
            Attribute::Verify(true),
            Attribute::EcParams(ecdsa::named_curve(kind).to_vec()),
        ],
    ]
    .concat();
    let private = [
        common.as_slice(),
        &[
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
        ],
    ]
    .concat();
    let (public, private) = session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
    let finish = || {
        let point = session
            .get_attributes(public, &[AttributeType::EcPoint])?
            .into_iter()
            .find_map(|attribute| match attribute {
                Attribute::EcPoint(point) => ecdsa::point(kind, &point),
                _ => None,
            })
            .ok_or(TokenError::Point)?;
        let id = key_id(kind, &point).to_vec();
        for object in [public, private] {
            session.update_attributes(object, &[Attribute::Id(id.clone())])?;
        }
        hidden(session, private, label)?;
        // Was never outside either, and was made here.
        let past = [AttributeType::AlwaysSensitive, AttributeType::NeverExtractable, AttributeType::Local];
        let kept = session.get_attributes(private, &past)?;
        let wanted =
            [Attribute::AlwaysSensitive(true), Attribute::NeverExtractable(true), Attribute::Local(true)];
        if !wanted.iter().all(|wanted| kept.contains(wanted)) {
            return Err(TokenError::Exposed { label: label.to_owned() });
        }
        Ok(Reference { kind, point, label: label.to_owned() })
    };
    let made = finish();
    if made.is_err() {
        // What cannot be used shall not stay; if even that fails it is seen in the list.
        let _ = session.destroy_object(private);
        let _ = session.destroy_object(public);
    }
    made
}

/// The private half cannot be read out.
fn hidden(session: &Session, private: ObjectHandle, label: &str) -> Result<(), TokenError> {
    let found = session.get_attributes(private, &[AttributeType::Sensitive, AttributeType::Extractable])?;
    if found.contains(&Attribute::Sensitive(true)) && found.contains(&Attribute::Extractable(false)) {
        Ok(())
    } else {
        Err(TokenError::Exposed { label: label.to_owned() })
    }
}

/// A key that never leaves its token.
pub(crate) struct TokenKey {
    token: Arc<Token>,
    reference: Reference,
    id: [u8; 32],
    /// Known until the token fails: a handle means nothing to another login.
    handle: Mutex<Option<ObjectHandle>>,
}

impl TokenKey {
    pub(crate) fn kind(&self) -> KeyKind {
        self.reference.kind
    }

    pub(crate) fn label(&self) -> &str {
        &self.reference.label
    }

    pub(crate) fn public_point(&self) -> &[u8] {
        &self.reference.point
    }

    /// Signs in the token. Blocks for as long as it takes, and tries once more with a new session if the
    /// old one was lost.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        let digest = ecdsa::digest(self.kind(), message);
        let raw = self.token.with_session(|session| {
            let known = *self.handle.lock().unwrap_or_else(PoisonError::into_inner);
            let handle = match known {
                Some(handle) => handle,
                None => self.find(session)?,
            };
            let signed = session.sign(&Mechanism::Ecdsa, handle, digest.as_ref());
            if signed.is_err() {
                self.remember(None);
            }
            Ok(signed?)
        })?;
        ecdsa::der(self.kind(), &raw).ok_or(TokenError::Signature { length: raw.len() })
    }

    fn find(&self, session: &Session) -> Result<ObjectHandle, TokenError> {
        let label = || self.reference.label.clone();
        let template = [
            Attribute::Token(true),
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::Id(self.id.to_vec()),
        ];
        let handle = match session.find_objects(&template)?.as_slice() {
            [one] => *one,
            [] => return Err(TokenError::KeyMissing { label: label() }),
            _ => return Err(TokenError::KeyTwice { label: label() }),
        };
        hidden(session, handle, &self.reference.label)?;
        self.remember(Some(handle));
        Ok(handle)
    }

    fn remember(&self, handle: Option<ObjectHandle>) {
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = handle;
    }
}
