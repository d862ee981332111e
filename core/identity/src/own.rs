//! Our own SVID: a chain and its private key.

use std::{fmt, sync::Arc};

use rustls::{
    SignatureScheme,
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use zeroize::Zeroizing;

use crate::{
    dates::rfc3339,
    svid::{Svid, SvidError},
};

/// Why a chain and a key are not an SVID to present.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OwnSvidError {
    #[error("the certificate chain: {0}")]
    Chain(#[from] SvidError),
    #[error("the private key is not readable PKCS#8: {0}")]
    Key(String),
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
}

/// An SVID of our own, with its key. Cheap to clone; the key's bytes are wiped when the last clone goes, and
/// `Debug` shows none of them.
#[derive(Clone)]
pub struct OwnSvid {
    certified: Arc<CertifiedKey>,
    pkcs8: Arc<Zeroizing<Vec<u8>>>,
    svid: Arc<Svid>,
}

impl OwnSvid {
    /// Takes the chain (leaf first, every intermediate, no root) and the key in PKCS#8 DER.
    pub fn new(chain: Vec<CertificateDer<'static>>, pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, OwnSvidError> {
        let svid = Svid::parse(&chain)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_slice()));
        // By reference, so that no copy of the bytes is left behind unwiped.
        let key = any_supported_type(&der).map_err(|error| OwnSvidError::Key(error.to_string()))?;
        drop(der);
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| OwnSvidError::KeyMismatch)?;
        Ok(Self { certified: Arc::new(certified), pkcs8: Arc::new(pkcs8), svid: Arc::new(svid) })
    }

    /// What the chain says.
    pub fn svid(&self) -> &Svid {
        &self.svid
    }

    /// The chain in DER, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The private key in PKCS#8 DER: for sealing it to disk where that is configured, and for nothing else.
    pub fn private_key_pkcs8(&self) -> &Zeroizing<Vec<u8>> {
        &self.pkcs8
    }

    /// An ES256 signature under our key, as TLS makes one (DER). None where the key is of another kind.
    pub fn sign_es256(&self, message: &[u8]) -> Option<Vec<u8>> {
        let signer = self.certified.key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])?;
        signer.sign(message).ok()
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for OwnSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnSvid")
            .field("id", &self.svid.id)
            .field("class", &self.svid.class)
            .field("serial", &self.svid.serial)
            .field("not_after", &rfc3339(self.svid.not_after))
            .finish_non_exhaustive()
    }
}
