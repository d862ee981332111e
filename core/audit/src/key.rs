//! The audit key: ECDSA on P-256, apart from every key that certifies.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};

use crate::{Signed, Statement};

/// What stands before a P-256 point in a SubjectPublicKeyInfo.
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const POINT: usize = 65;
const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("it is not the private half of an ECDSA key on P-256")]
    Private,
    #[error("it is not a PEM file with one public key on P-256, which begins with {BEGIN}")]
    Public,
    #[error("nothing could be signed with it")]
    Sign,
}

/// The private half.
pub struct AuditKey {
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl std::fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditKey([hidden])")
    }
}

impl AuditKey {
    /// # Errors
    /// [`KeyError::Private`] for anything but PKCS #8 of a key on P-256.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &random)
            .map_err(|_| KeyError::Private)?;
        Ok(Self { key, random })
    }

    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut point = [0; POINT];
        point.iter_mut().zip(self.key.public_key().as_ref()).for_each(|(to, from)| *to = *from);
        PublicKey(point)
    }

    /// # Errors
    /// [`KeyError::Sign`] if the system has no random numbers.
    pub fn sign(&self, statement: Statement) -> Result<Signed, KeyError> {
        let signature =
            self.key.sign(&self.random, &statement.message()).map_err(|_| KeyError::Sign)?.as_ref().to_vec();
        Ok(Signed { statement, signature })
    }
}

/// The public half: an uncompressed point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey([u8; POINT]);

impl PublicKey {
    /// # Errors
    /// [`KeyError::Public`] for anything but one SubjectPublicKeyInfo on P-256.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let body = text.trim().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
        let body: String = body.ok_or(KeyError::Public)?.split_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|_| KeyError::Public)?;
        let point = der.strip_prefix(&SPKI).and_then(|point| point.try_into().ok());
        point.map(Self).ok_or(KeyError::Public)
    }

    #[must_use]
    pub fn to_pem(&self) -> String {
        let mut der = SPKI.to_vec();
        der.extend_from_slice(&self.0);
        let text = STANDARD.encode(der);
        let mut out = format!("{BEGIN}\n");
        for line in text.as_bytes().chunks(64) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str(END);
        out.push('\n');
        out
    }

    /// Whether the audit key signed exactly this.
    #[must_use]
    pub fn verifies(&self, signed: &Signed) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0)
            .verify(&signed.statement.message(), &signed.signature)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    pub(crate) fn key() -> AuditKey {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
        AuditKey::from_pkcs8(pkcs8.as_ref()).unwrap()
    }

    #[test]
    fn a_signature_is_good_for_one_statement_only() {
        let key = key();
        let public = PublicKey::from_pem(&key.public().to_pem()).unwrap();
        let statement = Statement {
            kind: Kind::Head,
            trust_domain: "example.com".into(),
            replica: "a".into(),
            sequence: 7,
            hash: [1; 32],
            at: 100,
        };
        let signed = key.sign(statement).unwrap();
        assert!(public.verifies(&signed));
        let changes: [fn(&mut Statement); 6] = [
            |it| it.kind = Kind::Checkpoint,
            |it| it.trust_domain = "example.org".into(),
            |it| it.replica = "b".into(),
            |it| it.sequence = 8,
            |it| it.hash = [2; 32],
            |it| it.at = 101,
        ];
        for change in changes {
            let mut other = signed.clone();
            change(&mut other.statement);
            assert!(!public.verifies(&other));
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "garbage"] {
            assert_eq!(PublicKey::from_pem(text).unwrap_err(), KeyError::Public);
        }
    }
}
