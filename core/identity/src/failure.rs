//! Everything that can go wrong between a new connection and its first application byte.
//!
//! One enum, so that logs, counters and answers agree. [`HandshakeFailure::label`] is for metrics and never
//! grows with input; `Display` is for people and says what was expected, what came, and what to do.
//! Our verifiers put a value of it into rustls' error, and [`HandshakeFailure::from_rustls`] takes it out again, so
//! that nothing is lost on the way through the TLS library (`through_rustls.rs`). What the peer's certificate says of
//! itself goes along ([`Received`]), and [`HandshakeFailure::what_to_do`] is for whoever is woken by it.

mod advice;
mod alert;
mod received;
mod through_rustls;

use std::io;

use rustls::{AlertDescription, pki_types::UnixTime};

pub use received::Received;

use crate::{
    class::{ClassSet, PeerClass},
    dates::{rfc3339, seconds, span},
    revocation::RevokedBy,
    spiffe_id::SpiffeId,
    svid::{Svid, SvidError},
    trust_domain::TrustDomain,
};

/// Why a connection did not become a connection between two peers that know each other.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HandshakeFailure {
    #[error(
        "the peer spoke plaintext to a mutual TLS port; call through a sidecar, or use a client with an SVID"
    )]
    Plaintext,
    #[error("the peer's first bytes are not TLS")]
    NotTls,
    #[error(
        "the peer's hello is neither Signet's nor for *.signet.internal (server name {sni:?}); the app's own TLS is refused in strict mode"
    )]
    ForeignHello { sni: Option<String> },
    #[error(
        "the peer's hello is for port {named}, but this is port {expected}; did a gateway on the way bring it here?"
    )]
    WrongPort { expected: String, named: String },
    #[error("the peer does not speak TLS 1.3, the only version here")]
    TlsVersion,
    #[error("the peer and we have no {0} in common")]
    NoCommon(&'static str),
    #[error(
        "no root of trust domain {domain} vouches for the certificate of {received}; is one side's trust bundle stale?"
    )]
    UnknownRoot { domain: TrustDomain, received: Received },
    #[error("the certificate of {received} belongs to trust domain {}, which is not trusted here; expected {expected}", .received.id().trust_domain())]
    WrongTrustDomain { expected: String, received: Received },
    #[error(
        "expected {expected}, but the peer is {received}; is the endpoint's address taken over, or the service's list of identities incomplete?"
    )]
    WrongIdentity { expected: String, received: Received },
    #[error("expected a peer of class {expected}, but {received} is of class {class}")]
    WrongClass { expected: ClassSet, class: PeerClass, received: Received },
    #[error("the certificate{} ended at {}, {} before now ({}); check its renewal and both clocks",
        of(.received), rfc3339(*.not_after), span(.now.saturating_sub(*.not_after)), rfc3339(*.now))]
    Expired { received: Option<Received>, not_after: i64, now: i64 },
    #[error("the certificate{} is valid only from {}, {} from now ({}); check both clocks",
        of(.received), rfc3339(*.not_before), span(.not_before.saturating_sub(*.now)), rfc3339(*.now))]
    NotYetValid { received: Option<Received>, not_before: i64, now: i64 },
    #[error("{received} is revoked by {by}")]
    Revoked { received: Received, by: RevokedBy },
    #[error("the peer presented no certificate; every caller here needs an SVID")]
    NoCertificate,
    #[error("the peer's certificate is not an SVID of ours: {0}")]
    BadCertificate(#[from] SvidError),
    #[error("the peer's certificate chain does not verify: {0}")]
    BadChain(String),
    #[error("the peer proved no possession of its certificate's key")]
    BadSignature,
    #[error("the peer offers none of our application protocols")]
    NoCommonAlpn,
    #[error(
        "the root in the peer's chain is not the one that the join bundle pins (SHA-256 {expected}); make a new join bundle if the root was rotated"
    )]
    RootNotPinned { expected: String },
    #[error("the handshake did not end in time")]
    Timeout,
    #[error("the peer closed the connection during the handshake")]
    Closed,
    #[error("the peer refused the handshake: {}; it has the whole reason", alert::words(*.0))]
    AlertReceived(AlertDescription),
    #[error("the peer broke the TLS protocol: {0}")]
    Protocol(String),
    #[error("reading or writing failed: {0}")]
    Io(io::ErrorKind),
}

fn of(id: &Option<Received>) -> String {
    id.as_ref().map(|id| format!(" of {id}")).unwrap_or_default()
}

impl HandshakeFailure {
    /// A word for metrics, out of a fixed list.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::NotTls => "not_tls",
            Self::ForeignHello { .. } => "foreign_hello",
            Self::WrongPort { .. } => "wrong_port",
            Self::TlsVersion => "tls_version",
            Self::NoCommon(_) => "no_common_parameters",
            Self::UnknownRoot { .. } => "unknown_root",
            Self::WrongTrustDomain { .. } => "wrong_trust_domain",
            Self::WrongIdentity { .. } => "wrong_identity",
            Self::WrongClass { .. } => "wrong_class",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Revoked { .. } => "revoked",
            Self::NoCertificate => "no_certificate",
            Self::BadCertificate(_) => "bad_certificate",
            Self::BadChain(_) => "bad_chain",
            Self::BadSignature => "bad_signature",
            Self::NoCommonAlpn => "no_common_alpn",
            Self::RootNotPinned { .. } => "root_not_pinned",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::AlertReceived(_) => "alert_received",
            Self::Protocol(_) => "protocol",
            Self::Io(_) => "io",
        }
    }

    /// Says the identity that was wanted, where so far only the server name derived from it was known.
    pub fn expecting(self, id: &SpiffeId) -> Self {
        match self {
            Self::WrongIdentity { received, .. } => {
                Self::WrongIdentity { expected: id.to_string(), received }
            }
            other => other,
        }
    }

    /// The identity that was wanted, in words, where one was.
    pub fn expected(&self) -> Option<String> {
        match self {
            Self::WrongTrustDomain { expected, .. } => Some(format!("anybody of {expected}")),
            Self::UnknownRoot { domain, .. } => Some(format!("a certificate under a root of {domain}")),
            Self::WrongIdentity { expected, .. } => Some(expected.clone()),
            Self::RootNotPinned { expected } => Some(format!("a root with SHA-256 {expected}")),
            _ => None,
        }
    }

    /// The classes that may stand there, where another came.
    pub fn expected_class(&self) -> Option<ClassSet> {
        match self {
            Self::WrongClass { expected, .. } => Some(*expected),
            _ => None,
        }
    }

    /// What the refused certificate says of itself, where it could be read.
    pub fn received(&self) -> Option<&Received> {
        match self {
            Self::UnknownRoot { received, .. }
            | Self::WrongTrustDomain { received, .. }
            | Self::WrongIdentity { received, .. }
            | Self::WrongClass { received, .. }
            | Self::Revoked { received, .. } => Some(received),
            Self::Expired { received, .. } | Self::NotYetValid { received, .. } => received.as_ref(),
            _ => None,
        }
    }

    /// By how many seconds our clock would have to be wrong for the certificate to be good: positive where it would be
    /// ahead, negative where it would be behind.
    pub fn skew(&self) -> Option<i64> {
        match self {
            Self::Expired { not_after, now, .. } => Some(now.saturating_sub(*not_after)),
            Self::NotYetValid { not_before, now, .. } => Some(now.saturating_sub(*not_before)),
            _ => None,
        }
    }

    pub(crate) fn expired(received: &Svid, not_after: i64, now: UnixTime) -> Self {
        Self::Expired { received: Some(Received::of(received)), not_after, now: seconds(now) }
    }

    pub(crate) fn not_yet_valid(received: &Svid, not_before: i64, now: UnixTime) -> Self {
        Self::NotYetValid { received: Some(Received::of(received)), not_before, now: seconds(now) }
    }
}
