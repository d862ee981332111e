//! The authority's private keys: P-256, held as `ring` keys and never printed.
//!
//! `CaKey` signs for `rcgen` through its trait, so that a key in a token (PKCS #11) can later stand in
//! the same place.

use std::fmt;

use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use zeroize::Zeroizing;

/// A P-256 key that signs certificates.
pub(crate) struct CaKey {
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
    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
        .map(|document| Zeroizing::new(document.as_ref().to_vec()))
        .map_err(|_| KeyError::Generate)
}

/// A new key for the marks on stored rows: 32 random bytes.
pub(crate) fn generate_mac() -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut key = Zeroizing::new(vec![0u8; 32]);
    SystemRandom::new().fill(&mut key).map_err(|_| KeyError::Generate)?;
    Ok(key)
}

impl CaKey {
    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Result<CaKey, KeyError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &random)
            .map_err(|e| KeyError::Unreadable(e.to_string()))?;
        Ok(CaKey { pair, random })
    }

    /// The uncompressed point.
    pub(crate) fn public_point(&self) -> &[u8] {
        self.pair.public_key().as_ref()
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
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.pair
            .sign(&self.random, message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| rcgen::Error::RingUnspecified)
    }
}
