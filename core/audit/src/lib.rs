//! The issuance log on paper: how records are chained, how its ends are signed, and how an export is verified by
//! somebody who has nothing but the file and a public key.
//!
//! A record's hash covers its content, its place and the hash of the record before it. Every few seconds the end of
//! each control plane's log is signed with a key that signs nothing else ([`Statement`]); when old records are removed
//! a signed checkpoint stays, from which the rest is proved. What this cannot prove is said by [`Report`]: records
//! after the last signature, and a whole log that was replaced before anybody kept a signed end of it. Ends that were kept
//! ([`Heads`]) find that out.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod export;
mod heads;
mod held;
mod key;

pub use export::{
    ExportError, Line, Origin, RecordLine, ReplicaReport, Report, SignedLine, Verifier, hex, verify,
};
pub use heads::{Heads, HeadsError, MAX_BYTES as MAX_HEADS_BYTES, MAX_HEADS, MAX_NAME};
pub use held::HeldHead;
pub use key::{AuditKey, KeyError, PublicKey};

use ring::digest::{Context, SHA256};

/// What a record's hash covers.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    pub replica: &'a str,
    pub sequence: u64,
    pub at: i64,
    pub event: &'a str,
    pub spiffe_id: &'a str,
    pub class: &'a str,
    pub serial: &'a str,
    pub not_after: Option<i64>,
    pub reason: &'a str,
    pub actor: &'a str,
    pub suppressed: u64,
    /// Hash of the record before; zeros for the first.
    pub previous: &'a [u8; 32],
}

impl Content<'_> {
    /// SHA-256 of the canonical form, in which every text has its length before it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        context.update(b"signet issuance log 1\0");
        context.update(self.previous);
        context.update(&self.sequence.to_be_bytes());
        context.update(&self.at.to_be_bytes());
        context.update(&self.suppressed.to_be_bytes());
        match self.not_after {
            None => context.update(&[0]),
            Some(at) => {
                context.update(&[1]);
                context.update(&at.to_be_bytes());
            }
        }
        for text in
            [self.replica, self.event, self.spiffe_id, self.class, self.serial, self.reason, self.actor]
        {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        }
        let mut out = [0u8; 32];
        out.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        out
    }
}

/// What a signature says about a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It ended here at that time.
    Head,
    /// Records up to here were removed at that time.
    Checkpoint,
}

/// A place in a control plane's log at a time, as it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub kind: Kind,
    pub trust_domain: String,
    pub replica: String,
    pub sequence: u64,
    /// Hash of the record there.
    pub hash: [u8; 32],
    /// Seconds since the epoch.
    pub at: i64,
}

impl Statement {
    /// What is signed.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let mut out = b"signet audit statement 1\0".to_vec();
        out.push(match self.kind {
            Kind::Head => b'h',
            Kind::Checkpoint => b'c',
        });
        for text in [&self.trust_domain, &self.replica] {
            out.extend_from_slice(&(text.len() as u64).to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.hash);
        out.extend_from_slice(&self.at.to_be_bytes());
        out
    }
}

/// A statement and the audit key's signature over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    pub statement: Statement,
    /// ECDSA P-256, SHA-256, DER.
    pub signature: Vec<u8>,
}
