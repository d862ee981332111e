//! Ends of logs that somebody held: what sidecars heard and kept, as one file of JSON.
//!
//! Each is signed by the audit key, so that whoever keeps or carries the file can lose it, but add nothing to it. A log
//! that was cut back or rewritten behind one of them is not the log that was signed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{KeyError, Kind, PublicKey, SignedLine, Statement};

/// Control planes of one mesh.
pub const MAX_HEADS: usize = 256;
/// A replica's name at its longest.
pub const MAX_NAME: usize = 256;
/// No file of them is longer.
pub const MAX_BYTES: usize = 1024 * 1024;

/// The newest signed end of each control plane's log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Heads {
    pub trust_domain: String,
    /// PEM; empty where nothing was heard yet.
    pub audit_key: String,
    pub heads: Vec<SignedLine>,
}

/// Why a file of heads says nothing.
#[derive(Debug, thiserror::Error)]
pub enum HeadsError {
    #[error("it has {0} bytes, expected {MAX_BYTES} at most")]
    Long(usize),
    #[error("it is not a file of heads: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it holds {0} heads, expected 1 to {MAX_HEADS}")]
    Count(usize),
    #[error("its audit key: {0}")]
    Key(#[from] KeyError),
    #[error(
        "the head of {replica:?} at record {sequence} is not signed by the audit key: somebody made it up"
    )]
    Forged { replica: String, sequence: u64 },
    #[error("it holds two heads of {replica:?}")]
    Twice { replica: String },
    #[error("it is of the trust domain {found:?}, expected {expected:?}")]
    Foreign { found: String, expected: String },
    #[error(
        "its heads are signed by another key than the one given: one of the two is not the mesh's audit key"
    )]
    OtherKey,
}

impl Heads {
    /// Reads a file; what it says is not believed yet.
    ///
    /// # Errors
    /// [`HeadsError`] for what is no such file.
    pub fn parse(bytes: &[u8]) -> Result<Heads, HeadsError> {
        if bytes.len() > MAX_BYTES {
            return Err(HeadsError::Long(bytes.len()));
        }
        let heads: Heads = serde_json::from_slice(bytes)?;
        match heads.heads.len() {
            1..=MAX_HEADS => Ok(heads),
            count => Err(HeadsError::Count(count)),
        }
    }

    /// The key that it names, and what that key signed.
    ///
    /// # Errors
    /// [`HeadsError`] if one of them was not signed by it.
    pub fn statements(&self) -> Result<(PublicKey, BTreeMap<String, Statement>), HeadsError> {
        let key = PublicKey::from_pem(&self.audit_key)?;
        let mut statements = BTreeMap::new();
        for line in &self.heads {
            let signed = line.signed(Kind::Head, &self.trust_domain);
            let signed = signed.filter(|signed| line.replica.len() <= MAX_NAME && key.verifies(signed));
            let forged = || HeadsError::Forged { replica: line.replica.clone(), sequence: line.sequence };
            let statement = signed.ok_or_else(forged)?.statement;
            if statements.insert(line.replica.clone(), statement).is_some() {
                return Err(HeadsError::Twice { replica: line.replica.clone() });
            }
        }
        Ok((key, statements))
    }

    /// The same, by a key that is known from elsewhere.
    ///
    /// # Errors
    /// [`HeadsError`], also if the file names another key.
    pub fn signed_by(&self, key: &PublicKey) -> Result<Vec<Statement>, HeadsError> {
        let (named, statements) = self.statements()?;
        if named != *key {
            return Err(HeadsError::OtherKey);
        }
        Ok(statements.into_values().collect())
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};

    use super::*;
    use crate::AuditKey;

    fn key() -> AuditKey {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        AuditKey::from_pkcs8(pkcs8.unwrap().as_ref()).unwrap()
    }

    fn head(key: &AuditKey, kind: Kind, replica: &str) -> SignedLine {
        let (trust_domain, replica) = ("example.com".into(), replica.into());
        SignedLine::of(
            &key.sign(Statement { kind, trust_domain, replica, sequence: 7, hash: [3; 32], at: 9 }).unwrap(),
        )
    }

    fn heads(key: &AuditKey, heads: Vec<SignedLine>) -> Heads {
        Heads { trust_domain: "example.com".into(), audit_key: key.public().to_pem(), heads }
    }

    #[test]
    fn a_file_says_what_the_key_signed_and_nothing_that_a_sidecar_made_up() {
        let key = key();
        let good = heads(&key, vec![head(&key, Kind::Head, "a"), head(&key, Kind::Head, "b")]);
        let again = Heads::parse(&serde_json::to_vec(&good).unwrap()).unwrap();
        assert_eq!(again.signed_by(&key.public()).unwrap().len(), 2);

        let mut further = good.clone();
        further.heads[0].sequence = 8;
        assert!(matches!(further.statements(), Err(HeadsError::Forged { sequence: 8, .. })));
        let mut moved = good.clone();
        moved.trust_domain = "example.org".into();
        assert!(matches!(moved.statements(), Err(HeadsError::Forged { .. })));
        let own = super::tests::key();
        let own = heads(&own, vec![head(&own, Kind::Head, "a")]);
        assert!(matches!(own.signed_by(&key.public()), Err(HeadsError::OtherKey)));
        let checkpoint = heads(&key, vec![head(&key, Kind::Checkpoint, "a")]);
        assert!(matches!(checkpoint.statements(), Err(HeadsError::Forged { .. })));
        let twice = heads(&key, vec![head(&key, Kind::Head, "a"), head(&key, Kind::Head, "a")]);
        assert!(matches!(twice.statements(), Err(HeadsError::Twice { .. })));
    }

    #[test]
    fn a_file_is_bounded_and_of_one_shape() {
        let key = key();
        let many = heads(&key, vec![head(&key, Kind::Head, "a"); MAX_HEADS + 1]);
        assert!(matches!(Heads::parse(&serde_json::to_vec(&many).unwrap()), Err(HeadsError::Count(257))));
        assert!(matches!(Heads::parse(&vec![b' '; MAX_BYTES + 1]), Err(HeadsError::Long(_))));
        for junk in [&b""[..], b"{}", b"[]", br#"{"trustDomain":"a","auditKey":"","heads":[],"more":1}"#] {
            assert!(matches!(Heads::parse(junk), Err(HeadsError::Json(_))), "{junk:?}");
        }
        let none = br#"{"trustDomain":"a","auditKey":"","heads":[]}"#;
        assert!(matches!(Heads::parse(none), Err(HeadsError::Count(0))));
    }
}
