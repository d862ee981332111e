//! What is taken from a certificate request: its public key, once the requester has proved to hold the
//! private one. Names, usages and constraints that it may ask for are not even looked at.

use ring::digest::{SHA256, digest};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::keystore::KeyKind;
use crate::refusal::Refusal;

/// A request with a P-384 key and nothing else has some 270 bytes; one with fifty names some 2 KiB.
pub const MAX_CSR: usize = 8 * 1024;

/// A copy of a request, unless it is too large to be one.
pub(crate) fn bounded(csr: &[u8]) -> Result<Vec<u8>, Refusal> {
    if csr.len() <= MAX_CSR { Ok(csr.to_vec()) } else { Err(Refusal::CsrTooLarge) }
}

/// Which keys are certified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    /// Only where the configuration allows it.
    Ed25519,
}

impl Curve {
    /// Length of the public key: an uncompressed point, or RFC 8032's 32 bytes.
    fn length(self) -> usize {
        match self {
            Curve::P256 => 65,
            Curve::P384 => 97,
            Curve::Ed25519 => 32,
        }
    }
}

/// A public key whose private half the requester has shown to hold.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ProvenKey {
    curve: Curve,
    point: Vec<u8>,
}

impl ProvenKey {
    /// Reads a request with a key that everybody's verifier knows: ECDSA on P-256 or P-384.
    #[cfg(test)]
    pub(crate) fn from_csr(der: &[u8]) -> Result<ProvenKey, Refusal> {
        Self::from_csr_allowing(der, false)
    }

    /// Reads the request of an issuer of ours, whose key is never another kind, whatever workloads may have.
    pub(crate) fn of_authority(der: &[u8]) -> Result<ProvenKey, Refusal> {
        Self::from_csr_allowing(der, false)
    }

    /// Reads a request and verifies that it is signed by its own key. Cheap checks come first: size,
    /// shape, kind of key.
    pub(crate) fn from_csr_allowing(der: &[u8], ed25519: bool) -> Result<ProvenKey, Refusal> {
        if der.len() > MAX_CSR {
            return Err(Refusal::CsrTooLarge);
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| Refusal::CsrUnreadable)?;
        if !rest.is_empty() {
            return Err(Refusal::CsrTrailingBytes);
        }
        let spki = &request.certification_request_info.subject_pki;
        let curve = curve(spki)?;
        if curve == Curve::Ed25519 && !ed25519 {
            return Err(Refusal::CsrKeyUnsupported);
        }
        let point = spki.subject_public_key.data.as_ref();
        if spki.subject_public_key.unused_bits != 0
            || point.len() != curve.length()
            || (curve != Curve::Ed25519 && point.first() != Some(&4))
        {
            return Err(Refusal::CsrKeyUnsupported);
        }
        request.verify_signature().map_err(|_| Refusal::CsrBadSignature)?;
        Ok(ProvenKey { curve, point: point.to_vec() })
    }

    /// The public half of a key that this process has just made itself.
    pub(crate) fn own(key: &crate::keys::CaKey) -> ProvenKey {
        let curve = match key.kind() {
            KeyKind::P256 => Curve::P256,
            KeyKind::P384 => Curve::P384,
        };
        ProvenKey { curve, point: key.public_point().to_vec() }
    }

    /// SHA-256 of the SubjectPublicKeyInfo: how a key is named in the store and in revocations.
    pub(crate) fn sha256(&self) -> [u8; 32] {
        sha256(&rcgen::PublicKeyData::subject_public_key_info(self))
    }
}

impl rcgen::PublicKeyData for ProvenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.curve {
            Curve::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Curve::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Curve::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }
}

fn curve(spki: &SubjectPublicKeyInfo<'_>) -> Result<Curve, Refusal> {
    let algorithm = &spki.algorithm.algorithm;
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        return Err(match spki.parsed() {
            Ok(PublicKey::RSA(key)) if key.key_size() >= 2048 => Refusal::CsrRsa,
            _ => Refusal::CsrRsaTooShort,
        });
    }
    if *algorithm == OID_SIG_ED25519 {
        // RFC 8410: parameters are absent, not even NULL.
        return if spki.algorithm.parameters.is_none() {
            Ok(Curve::Ed25519)
        } else {
            Err(Refusal::CsrKeyUnsupported)
        };
    }
    let named = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    match named {
        Some(oid) if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && oid == OID_EC_P256 => Ok(Curve::P256),
        Some(oid) if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && oid == OID_NIST_EC_P384 => Ok(Curve::P384),
        _ => Err(Refusal::CsrKeyUnsupported),
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0u8; 32];
    out.iter_mut().zip(digest(&SHA256, bytes).as_ref()).for_each(|(to, from)| *to = *from);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair};

    fn csr(key: &KeyPair) -> Vec<u8> {
        CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn p256_and_p384_are_taken_and_named_by_their_spki() {
        for alg in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let key = KeyPair::generate_for(alg).unwrap();
            let proven = ProvenKey::from_csr(&csr(&key)).unwrap();
            let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
            assert_eq!(proven.sha256(), sha256(&spki));
        }
    }

    #[test]
    fn ed25519_is_refused_unless_allowed_and_then_proved_like_any_other() {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut der = csr(&key);
        assert_eq!(ProvenKey::from_csr(&der).err(), Some(Refusal::CsrKeyUnsupported));
        let proven = ProvenKey::from_csr_allowing(&der, true).unwrap();
        assert_eq!(proven.sha256(), sha256(&rcgen::PublicKeyData::subject_public_key_info(&key)));
        *der.last_mut().unwrap() ^= 1;
        assert_eq!(ProvenKey::from_csr_allowing(&der, true).err(), Some(Refusal::CsrBadSignature));
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        let key = KeyPair::generate().unwrap();
        let mut der = csr(&key);
        let last = der.len() - 1;
        der[last] ^= 1;
        assert_eq!(ProvenKey::from_csr(&der).err(), Some(Refusal::CsrBadSignature));

        // The signature of one request under the key of another.
        let other = csr(&KeyPair::generate().unwrap());
        let (_, a) = X509CertificationRequest::from_der(&other).unwrap();
        let mine = csr(&key);
        let (_, b) = X509CertificationRequest::from_der(&mine).unwrap();
        let at = mine
            .windows(65)
            .position(|w| w == b.certification_request_info.subject_pki.subject_public_key.data.as_ref())
            .unwrap();
        let mut swapped = mine.clone();
        swapped[at..at + 65]
            .copy_from_slice(&a.certification_request_info.subject_pki.subject_public_key.data);
        assert_eq!(ProvenKey::from_csr(&swapped).err(), Some(Refusal::CsrBadSignature));
    }

    #[test]
    fn trailing_bytes_and_long_requests_are_refused() {
        let mut der = csr(&KeyPair::generate().unwrap());
        der.push(0);
        assert_eq!(ProvenKey::from_csr(&der).err(), Some(Refusal::CsrTrailingBytes));
        assert_eq!(ProvenKey::from_csr(&vec![0x30; MAX_CSR + 1]).err(), Some(Refusal::CsrTooLarge));
        assert_eq!(ProvenKey::from_csr(b"").err(), Some(Refusal::CsrUnreadable));
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(ProvenKey::from_csr(&bytes).is_err());
        }

        #[test]
        fn a_mutated_request_never_yields_another_key(at in 0usize..200, flip in 1u8..) {
            let key = KeyPair::generate().unwrap();
            let mut der = csr(&key);
            let at = at % der.len();
            der[at] ^= flip;
            if let Ok(proven) = ProvenKey::from_csr(&der) {
                // Only bytes that are not signed may change, and they do not reach the key.
                prop_assert_eq!(proven.sha256(), sha256(&rcgen::PublicKeyData::subject_public_key_info(&key)));
            }
        }
    }
}
