//! The authority's private keys, wherever they lie, and never printed.
//!
//! A `CaKey` signs for `rcgen` through its trait. The key itself is a `ring` key in this process's memory,
//! P-256 or P-384, or a handle to one that never leaves its token (PKCS #11): who builds certificates does
//! not notice which. How a key is made, kept and found again is the matter of [`crate::keystore`].

use std::fmt;

use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
};
use zeroize::Zeroizing;

use crate::keystore::KeyKind;
#[cfg(feature = "pkcs11")]
use crate::keystore::pkcs11::TokenKey;

/// A key that signs certificates.
pub(crate) enum CaKey {
    P256(LocalKey),
    P384(LocalKey),
    #[cfg(feature = "pkcs11")]
    Token(TokenKey),
}

/// A key in this process's memory.
pub(crate) struct LocalKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("a key could not be made: the system's random number generator failed")]
    Generate,
    #[error("the stored private key cannot be read: {0}")]
    Unreadable(String),
}

/// A new P-256 key as PKCS #8 DER.
pub(crate) fn generate() -> Result<Zeroizing<Vec<u8>>, KeyError> {
    generate_kind(KeyKind::P256)
}

/// A new key of this kind as PKCS #8 DER.
pub(crate) fn generate_kind(kind: KeyKind) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let algorithm = match kind {
        KeyKind::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
        KeyKind::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
    };
    EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new())
        .map(|document| Zeroizing::new(document.as_ref().to_vec()))
        .map_err(|_| KeyError::Generate)
}

/// A new key for the marks on stored rows: 32 random bytes.
pub(crate) fn generate_mac() -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut key = Zeroizing::new(vec![0u8; 32]);
    SystemRandom::new().fill(&mut key).map_err(|_| KeyError::Generate)?;
    Ok(key)
}

/// How a key is named in the journal and in its file: half of the SHA-256 of its public half, hex.
pub(crate) fn key_name(key: &CaKey) -> String {
    name_of_digest(&crate::csr::sha256(&rcgen::PublicKeyData::subject_public_key_info(key)))
}

/// The same by that SHA-256.
pub(crate) fn name_of_digest(digest: &[u8]) -> String {
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

impl CaKey {
    /// Reads a P-256 or a P-384 key; the file says which.
    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Result<CaKey, KeyError> {
        let random = SystemRandom::new();
        let first = match EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &random) {
            Ok(pair) => return Ok(CaKey::P256(LocalKey { pair, random })),
            Err(error) => error,
        };
        EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, pkcs8, &random)
            .map(|pair| CaKey::P384(LocalKey { pair, random }))
            .map_err(|second| KeyError::Unreadable(format!("as P-256: {first}; as P-384: {second}")))
    }

    pub(crate) fn kind(&self) -> KeyKind {
        match self {
            CaKey::P256(_) => KeyKind::P256,
            CaKey::P384(_) => KeyKind::P384,
            #[cfg(feature = "pkcs11")]
            CaKey::Token(key) => key.kind(),
        }
    }

    /// The uncompressed point.
    pub(crate) fn public_point(&self) -> &[u8] {
        match self {
            CaKey::P256(key) | CaKey::P384(key) => key.pair.public_key().as_ref(),
            #[cfg(feature = "pkcs11")]
            CaKey::Token(key) => key.public_point(),
        }
    }

    /// Whether signing waits for another device, so that it does not belong on a thread that serves others.
    pub(crate) fn waits(&self) -> bool {
        match self {
            CaKey::P256(_) | CaKey::P384(_) => false,
            #[cfg(feature = "pkcs11")]
            CaKey::Token(_) => true,
        }
    }
}

impl fmt::Debug for CaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CaKey([hidden])")
    }
}

impl rcgen::PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.public_point()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.kind().algorithm()
    }
}

impl rcgen::SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match self {
            CaKey::P256(key) | CaKey::P384(key) => key
                .pair
                .sign(&key.random, message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| rcgen::Error::RingUnspecified),
            #[cfg(feature = "pkcs11")]
            CaKey::Token(key) => key.sign(message).map_err(|error| {
                // The certificate library has no room for a reason.
                tracing::error!(target: "signet::ca", %error, key = key.label(), "the token did not sign");
                rcgen::Error::RemoteKeyError
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{PublicKeyData as _, SigningKey as _};
    use ring::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, UnparsedPublicKey};

    #[test]
    fn a_key_of_either_kind_is_read_back_as_what_it_is_and_signs() {
        for kind in [KeyKind::P256, KeyKind::P384] {
            let key = CaKey::from_pkcs8(&generate_kind(kind).unwrap()).unwrap();
            assert_eq!(key.kind(), kind);
            assert!(!key.waits());
            assert_eq!(key.public_point().len(), kind.point());
            let signature = key.sign(b"message").unwrap();
            match kind {
                KeyKind::P256 => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.der_bytes())
                    .verify(b"message", &signature)
                    .unwrap(),
                KeyKind::P384 => UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, key.der_bytes())
                    .verify(b"message", &signature)
                    .unwrap(),
            }
        }
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_printed() {
        let error = CaKey::from_pkcs8(b"a secret that is no key").unwrap_err();
        assert!(matches!(error, KeyError::Unreadable(_)));
        assert!(!format!("{error:?} {error}").contains("secret"));
        let key = CaKey::from_pkcs8(&generate().unwrap()).unwrap();
        assert_eq!(format!("{key:?}"), "CaKey([hidden])");
    }
}
