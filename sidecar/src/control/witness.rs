//! What this process remembers of the issuance log's ends, so that nobody can rewrite the log unseen.
//!
//! About once a minute the control plane tells where its log ends, signed by the audit key. The newest of each control
//! plane is held here, by every sidecar of the mesh, out of reach of whoever has the store. A log that was set back
//! or rewritten since must say something else than before about a place, and is found out by the next word of it. The
//! key is that of the first word: another one is a contradiction as well. What was held stays: it is the evidence, also
//! after a restart ([`super::heads`]).

use std::collections::BTreeMap;

use signet_audit::{Heads, HeadsError, Kind, MAX_HEADS, MAX_NAME, PublicKey, Signed, SignedLine, Statement};
use signet_proto::v1::{LogContradiction, LogHead};

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

    /// Goes on with what was known before a restart; when the newest of it was signed.
    ///
    /// # Errors
    /// [`HeadsError`] if it was not all signed by the key that it names: then nothing of it is taken.
    pub fn resume(&mut self, heads: &Heads) -> Result<Option<i64>, HeadsError> {
        let (key, statements) = heads.statements()?;
        if let Some(statement) = statements.values().find(|it| it.trust_domain != self.trust_domain) {
            let (found, expected) = (statement.trust_domain.clone(), self.trust_domain.clone());
            return Err(HeadsError::Foreign { found, expected });
        }
        let newest = statements.values().map(|statement| statement.at).max();
        for line in &heads.heads {
            let signed = line.signed(Kind::Head, &heads.trust_domain);
            let Some(Signed { statement, signature }) = signed else { continue };
            let Statement { replica, sequence, hash, at, .. } = statement;
            let audit_key = heads.audit_key.clone();
            let head =
                LogHead { audit_key, replica: replica.clone(), sequence, hash: hash.to_vec(), at, signature };
            self.held.insert(replica, head);
        }
        self.key = Some(key);
        Ok(newest)
    }

    /// What is held, to be kept or shown.
    #[must_use]
    pub fn heads(&self) -> Heads {
        let lines = self.held.values().filter_map(|head| {
            let statement = Statement {
                kind: Kind::Head,
                trust_domain: self.trust_domain.clone(),
                replica: head.replica.clone(),
                sequence: head.sequence,
                hash: head.hash.as_slice().try_into().ok()?,
                at: head.at,
            };
            Some(SignedLine::of(&Signed { statement, signature: head.signature.clone() }))
        });
        Heads {
            trust_domain: self.trust_domain.clone(),
            audit_key: self.key.as_ref().map(PublicKey::to_pem).unwrap_or_default(),
            heads: lines.collect(),
        }
    }

    /// Remembers a word; when it was signed, seconds since the epoch.
    ///
    /// # Errors
    /// What is wrong with it, with the evidence: the word held and the word told.
    pub fn hear(&mut self, told: LogHead) -> Result<i64, (Wrong, Box<LogContradiction>)> {
        let wrong = match self.judge(&told) {
            Ok(key) => {
                let signed_at = told.at;
                if self.held.len() < MAX_HEADS || self.held.contains_key(&told.replica) {
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

    #[test]
    fn what_was_heard_before_a_restart_still_contradicts_after_it() {
        let key = key();
        let mut before = Witness::new("example.com");
        for (replica, sequence, hash) in [("a", 9, 2), ("b", 3, 7)] {
            before.hear(head(&key, replica, sequence, hash)).unwrap();
        }
        let text = serde_json::to_vec(&before.heads()).unwrap();
        let mut after = Witness::new("example.com");
        assert_eq!(after.resume(&Heads::parse(&text).unwrap()).unwrap(), Some(1_767_225_600));
        assert_eq!(after.heads(), before.heads());
        assert_eq!(after.hear(head(&key, "a", 8, 1)).unwrap_err().0, Wrong::Regress);
        assert_eq!(after.hear(head(&key, "b", 3, 8)).unwrap_err().0, Wrong::Fork);
        assert_eq!(after.hear(head(&super::tests::key(), "c", 1, 1)).unwrap_err().0, Wrong::Key);
        assert!(after.hear(head(&key, "a", 10, 3)).is_ok());
        // Somebody else's are not gone on with.
        let mut other = Witness::new("example.org");
        assert!(matches!(other.resume(&Heads::parse(&text).unwrap()), Err(HeadsError::Foreign { .. })));
        assert!(other.heads().heads.is_empty());
    }
}
