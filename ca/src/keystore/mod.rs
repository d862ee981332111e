//! Where the private keys of roots and issuers lie.
//!
//! A new key is made either by this process or inside a PKCS #11 token that never gives it out. What is
//! kept of it, a [`StoredKey`], is a few bytes that the caller seals in one file with the key's certificate:
//! the PKCS #8 of a key of our own, or the name of a key in the token. So a crash never leaves a certificate
//! without its key, and one in a token leaves at most a key that nothing names, which [`KeyStore::orphans`]
//! shows.
//!
//! Opening a key proves it: it signs something random and the signature is verified under the public half
//! that was kept, and that half must be the certificate's. A key of the token that could be read out is
//! refused. Marks on stored rows and the keys of tokens for users are no keys of this store: they are
//! sealed files always, since they are used for every row and every request.
//!
//! Functions here may read files and wait for a device: they belong on a thread that may block.

mod config;
#[cfg(feature = "pkcs11")]
pub(crate) mod pkcs11;
mod stored;

use std::collections::BTreeSet;
use std::path::Path;

use ring::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, UnparsedPublicKey};
use signet_identity::TrustDomain;

pub use config::{KeyKind, KeysConfig, Pkcs11Config, UnknownKeyKind};
#[cfg(feature = "pkcs11")]
pub use pkcs11::{PinError, TokenError};
pub(crate) use stored::StoredKey;
use stored::{Content, Reference};

use crate::keys::{self, CaKey, KeyError};

#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[cfg(feature = "pkcs11")]
    #[error("the PKCS #11 token: {0}")]
    Token(#[from] TokenError),
    #[error(
        "keys.pkcs11 is configured but this program was built without PKCS #11: use one built with the feature `pkcs11`"
    )]
    NotBuilt,
    #[error("the key {label:?} lies in a PKCS #11 token but none is configured: set keys.pkcs11")]
    NotConfigured { label: String },
    #[error("what is kept of a key is neither PKCS #8 nor the name of a key in a token")]
    Content,
    #[error("the private key is not that of its certificate: restore both from one backup")]
    OtherKey,
    #[error("the private key signed something that its public half does not verify")]
    Proof,
}

/// What a key is for. It stands in the names of keys in a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyRole {
    Root,
    Issuer,
}

impl KeyRole {
    #[cfg(feature = "pkcs11")]
    fn as_str(self) -> &'static str {
        match self {
            KeyRole::Root => "root",
            KeyRole::Issuer => "issuer",
        }
    }
}

/// A key of ours in the token, as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "pkcs11"), allow(dead_code))]
pub(crate) struct TokenEntry {
    /// `signet/<trust domain>/<role>/<16 random hex digits>`
    pub(crate) label: String,
    /// SHA-256 of its SubjectPublicKeyInfo; something random if its making was interrupted.
    pub(crate) id: Vec<u8>,
}

/// Makes, opens and destroys keys.
pub(crate) struct KeyStore {
    kind: KeyKind,
    #[cfg(feature = "pkcs11")]
    token: Option<pkcs11::Keys>,
}

impl KeyStore {
    /// Connects the configured token, if any: module, token and PIN are tried at once. `data_dir` remembers
    /// a PIN that was refused, so that a restart does not use up the token's attempts.
    pub(crate) fn connect(
        config: &KeysConfig,
        trust_domain: &TrustDomain,
        data_dir: &Path,
    ) -> Result<KeyStore, KeyStoreError> {
        #[cfg(feature = "pkcs11")]
        return Ok(KeyStore {
            kind: config.algorithm,
            token: config
                .pkcs11
                .as_ref()
                .map(|token| pkcs11::Keys::connect(token, trust_domain, data_dir))
                .transpose()?,
        });
        #[cfg(not(feature = "pkcs11"))]
        {
            let _ = (trust_domain, data_dir);
            match config.pkcs11 {
                Some(_) => Err(KeyStoreError::NotBuilt),
                None => Ok(KeyStore { kind: config.algorithm }),
            }
        }
    }

    /// Makes a key of the configured kind, in the token where keys of this role belong there.
    pub(crate) fn generate(&self, role: KeyRole) -> Result<StoredKey, KeyStoreError> {
        #[cfg(feature = "pkcs11")]
        if let Some(token) = self.token.as_ref().filter(|token| token.holds(role)) {
            return Ok(StoredKey::in_token(&token.generate(self.kind, role)?));
        }
        #[cfg(not(feature = "pkcs11"))]
        let _ = role;
        Ok(StoredKey::local(keys::generate_kind(self.kind)?))
    }

    /// Opens a key and proves it.
    pub(crate) fn open(&self, stored: &[u8]) -> Result<CaKey, KeyStoreError> {
        let key = match Content::read(stored)? {
            Content::Local(pkcs8) => CaKey::from_pkcs8(pkcs8)?,
            Content::InToken(reference) => self.open_in_token(reference)?,
        };
        prove(&key)?;
        Ok(key)
    }

    /// As [`KeyStore::open`], for the key of a certificate with this SubjectPublicKeyInfo.
    pub(crate) fn open_for(&self, stored: &[u8], spki: &[u8]) -> Result<CaKey, KeyStoreError> {
        let key = self.open(stored)?;
        if rcgen::PublicKeyData::subject_public_key_info(&key) == spki {
            Ok(key)
        } else {
            Err(KeyStoreError::OtherKey)
        }
    }

    /// Destroys a key. One that is gone already is fine; of a key of our own nothing is kept but the file,
    /// which is its caller's to remove.
    pub(crate) fn destroy(&self, stored: &[u8]) -> Result<(), KeyStoreError> {
        match Content::read(stored)? {
            Content::Local(_) => Ok(()),
            #[cfg(feature = "pkcs11")]
            Content::InToken(reference) => match &self.token {
                Some(token) => Ok(token.destroy(&reference)?),
                None => Err(KeyStoreError::NotConfigured { label: reference.label }),
            },
            #[cfg(not(feature = "pkcs11"))]
            Content::InToken(reference) => Err(KeyStoreError::NotConfigured { label: reference.label }),
        }
    }

    /// The keys of this trust domain in the token; none without one.
    pub(crate) fn list(&self) -> Result<Vec<TokenEntry>, KeyStoreError> {
        #[cfg(feature = "pkcs11")]
        if let Some(token) = &self.token {
            return Ok(token.list()?);
        }
        Ok(Vec::new())
    }

    /// The labels of the keys in the token that are none of these authorities', who are named after their keys
    /// ([`keys::key_name`]): what a crash left between a key and its file. Control planes that share a token share the
    /// names, so that one does not take another's key for lost.
    pub(crate) fn orphans(&self, authorities: &BTreeSet<String>) -> Result<Vec<String>, KeyStoreError> {
        let entries = self.list()?.into_iter();
        let lost = entries.filter(|entry| !authorities.contains(&keys::name_of_digest(&entry.id)));
        Ok(lost.map(|entry| entry.label).collect())
    }

    fn open_in_token(&self, reference: Reference) -> Result<CaKey, KeyStoreError> {
        #[cfg(feature = "pkcs11")]
        if let Some(token) = &self.token {
            return Ok(CaKey::Token(token.open(reference)?));
        }
        Err(KeyStoreError::NotConfigured { label: reference.label })
    }
}

/// The key signs something random, and its public half verifies it.
fn prove(key: &CaKey) -> Result<(), KeyStoreError> {
    use ring::rand::{SecureRandom as _, SystemRandom};
    // The prefix makes sure that what is signed is never the start of a certificate.
    let mut message = *b"signet proof of a key: \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let random = message.last_chunk_mut::<16>().ok_or(KeyStoreError::Proof)?;
    SystemRandom::new().fill(random).map_err(|_| KeyError::Generate)?;
    let signature = match key {
        #[cfg(feature = "pkcs11")]
        CaKey::Token(key) => key.sign(&message)?,
        _ => rcgen::SigningKey::sign(key, &message).map_err(|_| KeyStoreError::Proof)?,
    };
    let verified =
        match key.kind() {
            KeyKind::P256 => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_point())
                .verify(&message, &signature),
            KeyKind::P384 => UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, key.public_point())
                .verify(&message, &signature),
        };
    verified.map_err(|_| KeyStoreError::Proof)
}

#[cfg(test)]
mod tests;
