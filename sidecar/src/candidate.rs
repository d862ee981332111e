//! A new key and the request to certify it.
//!
//! The key is made here, in memory, and leaves only as an [`OwnSvid`](signet_identity::OwnSvid) of this
//! process. One candidate is kept until its fate is known, so that a lost answer is asked for again with
//! the same request and yields the same certificate.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use zeroize::Zeroizing;

/// The system has no randomness, or the request cannot be encoded; neither is expected to pass.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a key and a certificate request: {0}")]
pub struct KeyError(String);

/// A key that is not certified yet.
pub struct Candidate {
    pkcs8: Zeroizing<Vec<u8>>,
    csr_der: Vec<u8>,
}

impl Candidate {
    /// A fresh P-256 key, and a PKCS #10 request that names nobody: the authority takes only the public
    /// key, after its proof of possession.
    pub fn new() -> Result<Self, KeyError> {
        let failed = |error: rcgen::Error| KeyError(error.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut request = CertificateParams::default();
        request.distinguished_name = DistinguishedName::new();
        let csr = request.serialize_request(&key).map_err(failed)?;
        Ok(Self { pkcs8: Zeroizing::new(key.serialize_der()), csr_der: csr.der().to_vec() })
    }

    /// PKCS #10, DER.
    pub fn csr_der(&self) -> &[u8] {
        &self.csr_der
    }

    /// The private key, for the SVID that was issued for it.
    pub fn key(&self) -> Zeroizing<Vec<u8>> {
        self.pkcs8.clone()
    }
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Candidate")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_nobody_and_every_key_is_new() {
        let (one, two) = (Candidate::new().unwrap(), Candidate::new().unwrap());
        assert_ne!(one.csr_der(), two.csr_der());
        assert_ne!(one.key(), two.key());
        assert_eq!(format!("{one:?}"), "Candidate");
    }
}
