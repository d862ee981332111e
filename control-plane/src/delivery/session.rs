//! What one sidecar has, and what it is sent next: a state machine without I/O.
//!
//! Promises: at most one delta is under way, so a slow sidecar is never sent a state that is already
//! old (newer states coalesce while it thinks); a delta holds only what differs; the first delta is
//! always sent, even when nothing differs, because it tells a reconnecting sidecar that it is in step;
//! a resource that a sidecar rejected is not sent again until it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use signet_proto::v1;

use super::catalog::Versioned;

/// Everything that one peer may have at one moment, by resource name.
pub type View = BTreeMap<String, Arc<Versioned>>;

/// Names that a sidecar may claim to have. More than a mesh of ours can hold, less than a flood.
pub const MAX_HAVE: usize = 50_000;
const MAX_NAME: usize = 512;
const MAX_REASON: usize = 1_024;

/// What a sidecar did that the protocol does not allow; its stream ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("expected an answer to delta {expected:?}, got one to {got}")]
    Nonce { expected: Option<u64>, got: u64 },
    #[error("more than {MAX_HAVE} resources claimed")]
    TooManyHave,
    #[error("a resource name of {0} bytes")]
    NameTooLong(usize),
}

/// One stream's state.
#[derive(Debug, Default)]
pub struct Session {
    /// Name to version: what the sidecar has, as far as it said.
    has: BTreeMap<String, String>,
    under_way: Option<UnderWay>,
    sent_nonce: u64,
    acked_nonce: u64,
    rejected: BTreeMap<String, String>,
}

#[derive(Debug)]
struct UnderWay {
    nonce: u64,
    upserts: Vec<(String, String)>,
    removed: BTreeSet<String>,
}

impl Session {
    /// A session with a sidecar that says what it has.
    ///
    /// # Errors
    /// When it claims more than any sidecar can have.
    pub fn new(have: Vec<v1::Have>) -> Result<Self, ProtocolError> {
        if have.len() > MAX_HAVE {
            return Err(ProtocolError::TooManyHave);
        }
        if let Some(long) = have.iter().map(|h| h.name.len().max(h.version.len())).find(|n| *n > MAX_NAME) {
            return Err(ProtocolError::NameTooLong(long));
        }
        Ok(Self { has: have.into_iter().map(|h| (h.name, h.version)).collect(), ..Self::default() })
    }

    /// The next delta towards `view`, unless one is under way or nothing differs. `now` is the control
    /// plane's clock in seconds.
    pub fn next(&mut self, view: &View, now: i64) -> Option<v1::Delta> {
        if self.under_way.is_some() {
            return None;
        }
        let differs: Vec<&Arc<Versioned>> =
            view.values().filter(|r| self.has.get(&r.name) != Some(&r.version)).collect();
        let removed: BTreeSet<String> = self.has.keys().filter(|n| !view.contains_key(*n)).cloned().collect();
        let first = self.sent_nonce == 0;
        if differs.is_empty() && removed.is_empty() && !first {
            return None;
        }
        self.sent_nonce = self.sent_nonce.saturating_add(1);
        self.under_way = Some(UnderWay {
            nonce: self.sent_nonce,
            upserts: differs.iter().map(|r| (r.name.clone(), r.version.clone())).collect(),
            removed: removed.clone(),
        });
        Some(v1::Delta {
            nonce: self.sent_nonce,
            upserts: differs.iter().map(|r| r.resource.clone()).collect(),
            removed: removed.into_iter().collect(),
            now,
        })
    }

    /// The sidecar took the delta.
    ///
    /// # Errors
    /// When no such delta is under way.
    pub fn ack(&mut self, nonce: u64) -> Result<(), ProtocolError> {
        let sent = self.answered(nonce)?;
        self.settle(sent);
        Ok(())
    }

    /// The sidecar took the delta but for some resources.
    ///
    /// # Errors
    /// When no such delta is under way.
    pub fn nack(&mut self, nonce: u64, rejected: Vec<v1::Rejected>) -> Result<(), ProtocolError> {
        let sent = self.answered(nonce)?;
        let names: BTreeSet<String> = sent.upserts.iter().map(|(name, _)| name.clone()).collect();
        self.settle(sent);
        for v1::Rejected { name, mut reason } in rejected {
            // Only what was sent can be rejected: the table is bounded by what we serve.
            if names.contains(&name) {
                let end = reason.char_indices().map(|(i, _)| i).find(|i| *i >= MAX_REASON);
                reason.truncate(end.unwrap_or(reason.len()));
                self.rejected.insert(name, reason);
            }
        }
        Ok(())
    }

    /// A delta is under way and not answered.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.under_way.is_some()
    }

    #[must_use]
    pub fn sent_nonce(&self) -> u64 {
        self.sent_nonce
    }

    #[must_use]
    pub fn acked_nonce(&self) -> u64 {
        self.acked_nonce
    }

    /// What the sidecar rejects now, by name, with its reason.
    #[must_use]
    pub fn rejected(&self) -> &BTreeMap<String, String> {
        &self.rejected
    }

    fn answered(&mut self, nonce: u64) -> Result<UnderWay, ProtocolError> {
        match self.under_way.take() {
            Some(sent) if sent.nonce == nonce => {
                self.acked_nonce = nonce;
                Ok(sent)
            }
            other => {
                let expected = other.map(|sent| sent.nonce);
                Err(ProtocolError::Nonce { expected, got: nonce })
            }
        }
    }

    /// From here the sidecar is taken to have what was sent; a rejected version counts as had, so that it
    /// is not sent over and over.
    fn settle(&mut self, sent: UnderWay) {
        for name in sent.removed {
            self.has.remove(&name);
            self.rejected.remove(&name);
        }
        for (name, version) in sent.upserts {
            self.rejected.remove(&name);
            self.has.insert(name, version);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(items: &[(&str, &str)]) -> View {
        let one = |(name, version): &(&str, &str)| {
            let resource =
                v1::Resource { name: (*name).into(), version: (*version).into(), ..Default::default() };
            let versioned = Versioned { name: (*name).into(), version: (*version).into(), resource };
            ((*name).to_owned(), Arc::new(versioned))
        };
        items.iter().map(one).collect()
    }

    fn have(items: &[(&str, &str)]) -> Vec<v1::Have> {
        items.iter().map(|(n, v)| v1::Have { name: (*n).into(), version: (*v).into() }).collect()
    }

    fn names(delta: &v1::Delta) -> Vec<&str> {
        delta.upserts.iter().map(|r| r.name.as_str()).collect()
    }

    #[test]
    fn a_delta_holds_only_what_changed() {
        let mut session = Session::new(vec![]).unwrap();
        let first = session.next(&view(&[("mesh", "1"), ("service/a.x", "1")]), 7).unwrap();
        assert_eq!((names(&first), first.now), (vec!["mesh", "service/a.x"], 7));
        session.ack(first.nonce).unwrap();
        assert_eq!(session.next(&view(&[("mesh", "1"), ("service/a.x", "1")]), 7), None);
        let second = session.next(&view(&[("mesh", "2"), ("service/b.x", "1")]), 7).unwrap();
        assert_eq!(names(&second), ["mesh", "service/b.x"]);
        assert_eq!(second.removed, ["service/a.x"]);
    }

    #[test]
    fn a_reconnecting_sidecar_is_sent_only_what_differs() {
        let haves = have(&[("mesh", "1"), ("service/a.x", "old"), ("service/gone.x", "1")]);
        let mut session = Session::new(haves).unwrap();
        let delta = session.next(&view(&[("mesh", "1"), ("service/a.x", "new")]), 0).unwrap();
        assert_eq!(names(&delta), ["service/a.x"]);
        assert_eq!(delta.removed, ["service/gone.x"]);
    }

    #[test]
    fn the_first_delta_is_sent_even_when_nothing_differs() {
        let mut session = Session::new(have(&[("mesh", "1")])).unwrap();
        let delta = session.next(&view(&[("mesh", "1")]), 0).unwrap();
        assert!(delta.upserts.is_empty() && delta.removed.is_empty());
        session.ack(delta.nonce).unwrap();
        assert_eq!(session.next(&view(&[("mesh", "1")]), 0), None);
    }

    #[test]
    fn states_coalesce_while_a_delta_is_under_way() {
        let mut session = Session::new(vec![]).unwrap();
        let first = session.next(&view(&[("mesh", "1")]), 0).unwrap();
        for version in ["2", "3", "4"] {
            assert_eq!(session.next(&view(&[("mesh", version)]), 0), None);
        }
        session.ack(first.nonce).unwrap();
        let next = session.next(&view(&[("mesh", "5")]), 0).unwrap();
        assert_eq!((next.upserts[0].version.as_str(), next.nonce), ("5", 2));
    }

    #[test]
    fn a_rejected_resource_is_shown_and_not_sent_again_until_it_changes() {
        let mut session = Session::new(vec![]).unwrap();
        let delta = session.next(&view(&[("inbound/a.x", "1"), ("mesh", "1")]), 0).unwrap();
        let rejected = |name: &str| v1::Rejected { name: name.into(), reason: "unknown field".into() };
        session.nack(delta.nonce, vec![rejected("inbound/a.x"), rejected("never/sent")]).unwrap();
        assert_eq!(session.rejected().keys().collect::<Vec<_>>(), ["inbound/a.x"]);
        assert_eq!(session.next(&view(&[("inbound/a.x", "1"), ("mesh", "1")]), 0), None);
        let fixed = session.next(&view(&[("inbound/a.x", "2"), ("mesh", "1")]), 0).unwrap();
        session.ack(fixed.nonce).unwrap();
        assert!(session.rejected().is_empty());
    }

    #[test]
    fn an_answer_to_nothing_or_to_another_delta_ends_the_stream() {
        let mut session = Session::new(vec![]).unwrap();
        assert_eq!(session.ack(1), Err(ProtocolError::Nonce { expected: None, got: 1 }));
        let delta = session.next(&view(&[("mesh", "1")]), 0).unwrap();
        assert!(matches!(session.ack(delta.nonce + 1), Err(ProtocolError::Nonce { .. })));
    }

    #[test]
    fn absurd_claims_are_refused() {
        let flood = vec![v1::Have::default(); MAX_HAVE + 1];
        assert!(matches!(Session::new(flood), Err(ProtocolError::TooManyHave)));
        let long = v1::Have { name: "x".repeat(600), version: String::new() };
        assert!(matches!(Session::new(vec![long]), Err(ProtocolError::NameTooLong(600))));
    }
}
