//! What this process remembers of the issuance log's ends, so that nobody can rewrite the log unseen.
//!
//! About once a minute the control plane tells where its log ends, signed by the audit key. The newest of each control
//! plane is held here, by every sidecar of the mesh, out of reach of whoever has the store. A log that was set back
//! or rewritten since must say something else than before about a place, and is found out by the next word of it. The
//! key is that of the first word: another one is a contradiction as well. What was held stays: it is the evidence.

use std::collections::BTreeMap;

use signet_audit::{Kind, PublicKey, Signed, Statement};
use signet_proto::v1::{LogContradiction, LogHead};

/// Control planes of one mesh.
const MAX_REPLICAS: usize = 256;
/// A replica's name at its longest.
const MAX_NAME: usize = 256;

/// How a word does not go with what was heard before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It is signed with another key than the first.
    Key,
    /// It is not signed by the key that it names, or cannot be read.
    Signature,
    /// The log ends earlier than it did.
    Regress,
    /// There is another record at the same place.
    Fork,
}

impl Wrong {
    /// For metrics and the report.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Regress => "regress",
            Self::Fork => "fork",
        }
    }
}

/// The ends that were heard of.
#[derive(Debug)]
pub struct Witness {
    trust_domain: String,
    key: Option<PublicKey>,
    held: BTreeMap<String, LogHead>,
}

impl Witness {
    /// Has heard nothing yet.
    #[must_use]
    pub fn new(trust_domain: &str) -> Self {
        Self { trust_domain: trust_domain.to_owned(), key: None, held: BTreeMap::new() }
    }

    /// Remembers a word; when it was signed, seconds since the epoch.
    ///
    /// # Errors
    /// What is wrong with it, with the evidence: the word held and the word told.
    pub fn hear(&mut self, told: LogHead) -> Result<i64, (Wrong, Box<LogContradiction>)> {
        let wrong = match self.judge(&told) {
            Ok(key) => {
                let signed_at = told.at;
                if self.held.len() < MAX_REPLICAS || self.held.contains_key(&told.replica) {
                    self.held.insert(told.replica.clone(), told);
                }
                self.key = Some(key);
                return Ok(signed_at);
            }
            Err(wrong) => wrong,
        };
        let held = self.held.get(&told.replica).cloned();
        let report = LogContradiction { reason: wrong.label().to_owned(), held, told: Some(told) };
        Err((wrong, Box::new(report)))
    }

    fn judge(&self, told: &LogHead) -> Result<PublicKey, Wrong> {
        let key = PublicKey::from_pem(&told.audit_key).map_err(|_| Wrong::Signature)?;
        if self.key.as_ref().is_some_and(|first| *first != key) {
            return Err(Wrong::Key);
        }
        let hash = told.hash.as_slice().try_into().map_err(|_| Wrong::Signature)?;
        let statement = Statement {
            kind: Kind::Head,
            trust_domain: self.trust_domain.clone(),
            replica: told.replica.clone(),
            sequence: told.sequence,
            hash,
            at: told.at,
        };
        let signed = Signed { statement, signature: told.signature.clone() };
        if told.replica.len() > MAX_NAME || !key.verifies(&signed) {
            return Err(Wrong::Signature);
        }
        match self.held.get(&told.replica) {
            Some(held) if told.sequence < held.sequence => Err(Wrong::Regress),
            Some(held) if told.sequence == held.sequence && told.hash != held.hash => Err(Wrong::Fork),
            _ => Ok(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
    use signet_audit::AuditKey;

    use super::*;

    fn key() -> AuditKey {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        AuditKey::from_pkcs8(pkcs8.unwrap().as_ref()).unwrap()
    }

    fn head(key: &AuditKey, replica: &str, sequence: u64, hash: u8) -> LogHead {
        let statement = Statement {
            kind: Kind::Head,
            trust_domain: "example.com".into(),
            replica: replica.into(),
            sequence,
            hash: [hash; 32],
            at: 1_767_225_600,
        };
        let signed = key.sign(statement).unwrap();
        LogHead {
            audit_key: key.public().to_pem(),
            replica: replica.into(),
            sequence,
            hash: vec![hash; 32],
            at: 1_767_225_600,
            signature: signed.signature,
        }
    }

    #[test]
    fn a_log_that_grows_is_believed_and_one_that_was_set_back_or_rewritten_is_found_out() {
        let key = key();
        let mut witness = Witness::new("example.com");
        for (replica, sequence, hash) in [("a", 5, 1), ("a", 9, 2), ("a", 9, 2), ("b", 3, 7)] {
            assert!(witness.hear(head(&key, replica, sequence, hash)).is_ok(), "{replica} {sequence}");
        }
        let (wrong, said) = witness.hear(head(&key, "a", 8, 1)).unwrap_err();
        assert_eq!(wrong, Wrong::Regress);
        assert_eq!((said.held.unwrap().sequence, said.told.unwrap().sequence), (9, 8));
        let (wrong, said) = witness.hear(head(&key, "a", 9, 3)).unwrap_err();
        assert_eq!((wrong, said.reason.as_str()), (Wrong::Fork, "fork"));
        assert!(
            witness.hear(head(&key, "a", 10, 3)).is_ok(),
            "what was held was not replaced by the wrong one"
        );
    }

    #[test]
    fn a_word_by_another_key_for_another_mesh_or_by_nobody_is_found_out() {
        let (first, other) = (key(), key());
        let mut witness = Witness::new("example.com");
        let mut unsigned = head(&first, "a", 1, 1);
        unsigned.sequence = 2;
        assert_eq!(witness.hear(unsigned).unwrap_err().0, Wrong::Signature);
        assert_eq!(
            Witness::new("example.org").hear(head(&first, "a", 1, 1)).unwrap_err().0,
            Wrong::Signature
        );
        assert_eq!(witness.hear(LogHead::default()).unwrap_err().0, Wrong::Signature);
        witness.hear(head(&first, "a", 1, 1)).unwrap();
        assert_eq!(witness.hear(head(&other, "a", 2, 2)).unwrap_err().0, Wrong::Key);
    }
}
