//! Everything that can go wrong between a new connection and its first application byte.
//!
//! One enum, so that logs, counters and answers agree. [`HandshakeFailure::label`] is for metrics and never
//! grows with input; `Display` is for people and says what was expected, what came, and what to do.
//! Our verifiers put a value of it inside rustls' error, and [`HandshakeFailure::from_rustls`] takes it out
//! again, so that nothing is lost on the way through the TLS library.

use std::{io, sync::Arc};

use rustls::{
    AlertDescription, CertificateError, InvalidMessage, OtherError, PeerIncompatible, pki_types::UnixTime,
};

use crate::{
    class::{ClassSet, PeerClass},
    dates::{rfc3339, seconds, span},
    revocation::RevokedBy,
    spiffe_id::SpiffeId,
    svid::SvidError,
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
    UnknownRoot { domain: TrustDomain, received: SpiffeId },
    #[error("the certificate of {received} belongs to trust domain {}, which is not trusted here; expected {expected}", .received.trust_domain())]
    WrongTrustDomain { expected: String, received: SpiffeId },
    #[error(
        "expected {expected}, but the peer is {received}; is the endpoint's address taken over, or the service's list of identities incomplete?"
    )]
    WrongIdentity { expected: String, received: SpiffeId },
    #[error("expected a peer of class {expected}, but {received} is of class {class}")]
    WrongClass { expected: ClassSet, class: PeerClass, received: SpiffeId },
    #[error("the certificate{} ended at {}, {} before now ({}); check its renewal and both clocks",
        of(.received), rfc3339(*.not_after), span(.now.saturating_sub(*.not_after)), rfc3339(*.now))]
    Expired { received: Option<SpiffeId>, not_after: i64, now: i64 },
    #[error("the certificate{} is valid only from {}, {} from now ({}); check both clocks",
        of(.received), rfc3339(*.not_before), span(.not_before.saturating_sub(*.now)), rfc3339(*.now))]
    NotYetValid { received: Option<SpiffeId>, not_before: i64, now: i64 },
    #[error("{received} is revoked by {by}")]
    Revoked { received: SpiffeId, by: RevokedBy },
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
    #[error("the peer refused the handshake: {}; its own log has the reason", alert_words(*.0))]
    AlertReceived(AlertDescription),
    #[error("the peer broke the TLS protocol: {0}")]
    Protocol(String),
    #[error("reading or writing failed: {0}")]
    Io(io::ErrorKind),
}

fn of(id: &Option<SpiffeId>) -> String {
    id.as_ref().map(|id| format!(" of {id}")).unwrap_or_default()
}

fn alert_words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => "it does not know the root of our certificate (unknown_ca)".to_owned(),
        AlertDescription::CertificateUnknown => "it refused our certificate (certificate_unknown)".to_owned(),
        AlertDescription::CertificateExpired => {
            "our certificate is expired or not yet valid by its clock (certificate_expired)".to_owned()
        }
        AlertDescription::CertificateRequired => {
            "it wants a certificate of ours (certificate_required)".to_owned()
        }
        AlertDescription::NoApplicationProtocol => {
            "it speaks another protocol on this port (no_application_protocol)".to_owned()
        }
        AlertDescription::UnrecognisedName => {
            "it does not lead to what our server name says (unrecognized_name)".to_owned()
        }
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3 (protocol_version)".to_owned(),
        other => format!("{other:?}"),
    }
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

    /// Reads a TLS error.
    pub fn from_rustls(error: &rustls::Error) -> Self {
        use rustls::Error as E;
        match error {
            E::InvalidCertificate(certificate) => Self::from_certificate(certificate),
            E::Other(OtherError(inner)) => Self::inside(inner.as_ref()).unwrap_or_else(|| protocol(error)),
            E::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::MessageTooLarge
                | InvalidMessage::InvalidEmptyPayload,
            ) => Self::NotTls,
            E::NoCertificatesPresented => Self::NoCertificate,
            E::NoApplicationProtocol => Self::NoCommonAlpn,
            E::AlertReceived(alert) => Self::AlertReceived(*alert),
            E::PeerIncompatible(reason) => match reason {
                PeerIncompatible::NoCipherSuitesInCommon => Self::NoCommon("cipher suite"),
                PeerIncompatible::NoKxGroupsInCommon | PeerIncompatible::NamedGroupsExtensionRequired => {
                    Self::NoCommon("key exchange group")
                }
                PeerIncompatible::NoSignatureSchemesInCommon
                | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => {
                    Self::NoCommon("signature scheme")
                }
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled => Self::TlsVersion,
                _ => protocol(error),
            },
            _ => protocol(error),
        }
    }

    fn from_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Other(OtherError(inner)) => {
                Self::inside(inner.as_ref()).unwrap_or_else(|| Self::BadChain(error.to_string()))
            }
            CertificateError::ExpiredContext { time, not_after } => {
                Self::Expired { received: None, not_after: seconds(*not_after), now: seconds(*time) }
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                Self::NotYetValid { received: None, not_before: seconds(*not_before), now: seconds(*time) }
            }
            CertificateError::BadSignature => Self::BadSignature,
            _ => Self::BadChain(error.to_string()),
        }
    }

    /// Reads the error of an asynchronous handshake: a TLS error inside it, or the kind of failure.
    pub fn from_io(error: &io::Error) -> Self {
        if let Some(inner) = error.get_ref() {
            if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
                return Self::from_rustls(tls);
            }
            if let Some(own) = inner.downcast_ref::<Self>() {
                return own.clone();
            }
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Closed,
            io::ErrorKind::TimedOut => Self::Timeout,
            kind => Self::Io(kind),
        }
    }

    fn inside(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<Self> {
        error.downcast_ref::<Self>().cloned()
    }

    /// Wraps it for rustls, whole. The peer then sees `certificate_unknown` whatever the reason was: rustls'
    /// own variants would send a finer alert, but could not say in *our* log whose certificate it was.
    pub(crate) fn into_rustls(self) -> rustls::Error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }

    pub(crate) fn expired(received: &SpiffeId, not_after: i64, now: UnixTime) -> Self {
        Self::Expired { received: Some(received.clone()), not_after, now: seconds(now) }
    }

    pub(crate) fn not_yet_valid(received: &SpiffeId, not_before: i64, now: UnixTime) -> Self {
        Self::NotYetValid { received: Some(received.clone()), not_before, now: seconds(now) }
    }
}

fn protocol(error: &rustls::Error) -> HandshakeFailure {
    HandshakeFailure::Protocol(error.to_string())
}

impl From<io::Error> for HandshakeFailure {
    fn from(error: io::Error) -> Self {
        Self::from_io(&error)
    }
}

impl From<rustls::Error> for HandshakeFailure {
    fn from(error: rustls::Error) -> Self {
        Self::from_rustls(&error)
    }
}
