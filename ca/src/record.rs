//! One line of the issuance log, and how it is chained.
//!
//! A record's hash covers its canonical form and the hash of the record before it; the canonical form is
//! length-prefixed, so that no two records share one. A change, an insertion or a gap shows up when the
//! chain is walked; a cut at the end shows up against the head, which carries a MAC of its own.

use std::fmt;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A root was made.
    RootMade,
    /// An issuer was made under the root.
    IssuerMade,
    /// A join token was made.
    TokenMade,
    /// The first certificate of a lineage.
    Issued,
    /// The next certificate of a lineage.
    Renewed,
    /// The answer to a renewal was sent again.
    Resent,
    /// A certificate of the control plane itself.
    SelfIssued,
    Refused,
    Revoked,
    /// An operator lifted a revocation.
    Reinstated,
    /// A certificate was renewed twice with different keys: somebody has a stolen key.
    Alert,
    /// A delegation to a gateway's key was signed.
    Delegated,
    /// A control plane wrote to the store for the first time.
    ReplicaJoined,
    /// Old records were removed; a signed checkpoint stands for them.
    LogTrimmed,
    /// A token key or a JWT key was made.
    KeyMade,
    /// Verifiers are told of a root or key that will follow another.
    Published,
    /// A root, issuer or key signs from now on, instead of another.
    Activated,
    /// A root, issuer or key is believed no more, and its private key is destroyed.
    Removed,
    /// An operator asked for a rotation, or for its next step.
    RotationAsked,
    /// An operator said that a private key may be in other hands.
    Tainted,
    /// A sidecar did not acknowledge a new root or key in time.
    GaveUp,
    /// A JWT-SVID was signed.
    JwtIssued,
    /// A person logged in, and got a certificate of class `operator`.
    LoggedIn,
    /// An operator called, and it changed something or was refused.
    OperatorCall,
    /// A root that was signed or given from outside was taken.
    RootImported,
    /// An operator ended what a restored store or a stolen key may have left behind.
    Recovered,
    /// A copy was made from which the authority can be started again.
    BackedUp,
    /// A transaction token was signed for a sidecar whose app asked for it.
    Exchanged,
    /// A user's context was sealed, to be opened later by a named workload.
    Deferred,
}

impl Event {
    const ALL: [Event; 29] = [
        Event::RootMade,
        Event::IssuerMade,
        Event::TokenMade,
        Event::Issued,
        Event::Renewed,
        Event::Resent,
        Event::SelfIssued,
        Event::Refused,
        Event::Revoked,
        Event::Reinstated,
        Event::Alert,
        Event::Delegated,
        Event::ReplicaJoined,
        Event::LogTrimmed,
        Event::KeyMade,
        Event::Published,
        Event::Activated,
        Event::Removed,
        Event::RotationAsked,
        Event::Tainted,
        Event::GaveUp,
        Event::JwtIssued,
        Event::LoggedIn,
        Event::OperatorCall,
        Event::RootImported,
        Event::Recovered,
        Event::BackedUp,
        Event::Exchanged,
        Event::Deferred,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Event::RootMade => "root-made",
            Event::IssuerMade => "issuer-made",
            Event::TokenMade => "joined",
            Event::Issued => "issued",
            Event::Renewed => "renewed",
            Event::Resent => "resent",
            Event::SelfIssued => "self-issued",
            Event::Refused => "refused",
            Event::Revoked => "revoked",
            Event::Reinstated => "reinstated",
            Event::Alert => "alert",
            Event::Delegated => "delegated",
            Event::ReplicaJoined => "replica-joined",
            Event::LogTrimmed => "log-trimmed",
            Event::KeyMade => "key-made",
            Event::Published => "published",
            Event::Activated => "activated",
            Event::Removed => "removed",
            Event::RotationAsked => "rotation-asked",
            Event::Tainted => "tainted",
            Event::GaveUp => "gave-up",
            Event::JwtIssued => "jwt-issued",
            Event::LoggedIn => "logged-in",
            Event::OperatorCall => "operator-call",
            Event::RootImported => "root-imported",
            Event::Recovered => "recovered",
            Event::BackedUp => "backed-up",
            Event::Exchanged => "exchanged",
            Event::Deferred => "deferred",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Event> {
        Event::ALL.into_iter().find(|event| event.as_str() == text)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is to be recorded; sequence and hash come with the writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) at: i64,
    pub(crate) event: Event,
    pub(crate) spiffe_id: String,
    pub(crate) class: String,
    /// Hex.
    pub(crate) serial: String,
    pub(crate) not_after: Option<i64>,
    pub(crate) reason: String,
    pub(crate) actor: String,
    /// How many more of this kind were not recorded because there were too many.
    pub(crate) suppressed: u64,
}

impl Entry {
    pub(crate) fn new(at: i64, event: Event, actor: &str) -> Entry {
        Entry {
            at,
            event,
            spiffe_id: String::new(),
            class: String::new(),
            serial: String::new(),
            not_after: None,
            reason: String::new(),
            actor: bounded(actor),
            suppressed: 0,
        }
    }

    pub(crate) fn about(mut self, spiffe_id: &str, class: &str) -> Entry {
        self.spiffe_id = bounded(spiffe_id);
        self.class = class.to_owned();
        self
    }

    pub(crate) fn certificate(mut self, serial: &str, not_after: i64) -> Entry {
        self.serial = serial.to_owned();
        self.not_after = Some(not_after);
        self
    }

    pub(crate) fn because(mut self, reason: &str) -> Entry {
        self.reason = bounded(reason);
        self
    }

    pub(crate) fn chain(self, replica: &str, sequence: u64, previous: [u8; 32]) -> Record {
        let hash = hash(replica, sequence, &self, &previous);
        Record {
            replica: replica.to_owned(),
            sequence,
            at: self.at,
            event: self.event,
            spiffe_id: self.spiffe_id,
            class: self.class,
            serial: self.serial,
            not_after: self.not_after,
            reason: self.reason,
            actor: self.actor,
            suppressed: self.suppressed,
            previous,
            hash,
        }
    }
}

/// A SPIFFE ID has at most 2048 bytes; nothing else that is recorded is longer. What a caller can
/// influence is cut there, so that a record has a bound.
fn bounded(text: &str) -> String {
    let mut end = text.len().min(2048);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// One record of the issuance log. Empty strings mean that the field does not apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose log it is in.
    pub replica: String,
    /// Counts from 1, without gaps.
    pub sequence: u64,
    /// Seconds since the epoch.
    pub at: i64,
    pub event: Event,
    pub spiffe_id: String,
    pub class: String,
    /// Hex.
    pub serial: String,
    pub not_after: Option<i64>,
    /// A typed reason where something was refused, an operator's words where something was revoked or lifted,
    /// the end of the chain of renewals where something was issued.
    pub reason: String,
    /// Who asked: the peer's SPIFFE ID, a person as `oidc:<provider>|<sub>` or `uid:<n>`, or an address at bootstrap.
    pub actor: String,
    /// Refusals that this one stands for beside itself (alone, where the reason is `not-recorded`).
    pub suppressed: u64,
    /// The hash of the record before, zeros for the first.
    pub previous: [u8; 32],
    pub hash: [u8; 32],
}

impl Record {
    /// Whether the hash is that of the content.
    pub(crate) fn is_intact(&self) -> bool {
        let entry = Entry {
            at: self.at,
            event: self.event,
            spiffe_id: self.spiffe_id.clone(),
            class: self.class.clone(),
            serial: self.serial.clone(),
            not_after: self.not_after,
            reason: self.reason.clone(),
            actor: self.actor.clone(),
            suppressed: self.suppressed,
        };
        hash(&self.replica, self.sequence, &entry, &self.previous) == self.hash
    }
}

fn hash(replica: &str, sequence: u64, entry: &Entry, previous: &[u8; 32]) -> [u8; 32] {
    signet_audit::Content {
        replica,
        sequence,
        at: entry.at,
        event: entry.event.as_str(),
        spiffe_id: &entry.spiffe_id,
        class: &entry.class,
        serial: &entry.serial,
        not_after: entry.not_after,
        reason: &entry.reason,
        actor: &entry.actor,
        suppressed: entry.suppressed,
        previous,
    }
    .hash()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_move_from_one_field_to_the_next_without_changing_the_hash() {
        let mut a = Entry::new(1, Event::Issued, "x");
        a.spiffe_id = "ab".into();
        a.class = "c".into();
        let mut b = a.clone();
        b.spiffe_id = "a".into();
        b.class = "bc".into();
        assert_ne!(a.chain("r", 1, [0; 32]).hash, b.chain("r", 1, [0; 32]).hash);
    }

    #[test]
    fn the_hash_covers_the_record_before_the_place_and_the_log() {
        let entry = || Entry::new(1, Event::Issued, "x");
        let hash = entry().chain("r", 2, [0; 32]).hash;
        assert_eq!(entry().chain("r", 2, [0; 32]).hash, hash);
        assert_ne!(entry().chain("r", 2, [1; 32]).hash, hash);
        assert_ne!(entry().chain("r", 3, [0; 32]).hash, hash);
        assert_ne!(entry().chain("s", 2, [0; 32]).hash, hash);
    }

    #[test]
    fn every_event_reads_back_from_its_name() {
        for event in Event::ALL {
            assert_eq!(Event::parse(event.as_str()), Some(event));
        }
    }

    #[test]
    fn what_a_caller_can_influence_is_cut() {
        let entry = Entry::new(1, Event::Refused, &"é".repeat(5000));
        assert!(entry.actor.len() <= 2048);
    }
}
