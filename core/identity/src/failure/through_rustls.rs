//! Through the TLS library and back.
//!
//! rustls tells the peer by an alert why it is refused, and chooses the alert by the kind of its own error. The kinds
//! with a fine alert have no room for our reason; the one that has room sends `certificate_unknown` for everything. So
//! a verifier returns the fine kind and leaves the reason on its thread, and whoever reads the error takes it from
//! there. That is the same poll: rustls verifies and fails within one call, and tokio-rustls hands its error straight
//! out. A reason is taken once, and only for an error that is equal to the one it was left for.

use std::{cell::RefCell, io, sync::Arc};

use rustls::{CertificateError, InvalidMessage, OtherError, PeerIncompatible};

use super::HandshakeFailure;
use crate::dates::{seconds, unix_time};

thread_local! {
    static LEFT: RefCell<Option<(CertificateError, HandshakeFailure)>> = const { RefCell::new(None) };
}

fn take(error: &CertificateError) -> Option<HandshakeFailure> {
    LEFT.with_borrow_mut(|left| left.take_if(|(of, _)| of == error)).map(|(_, failure)| failure)
}

impl HandshakeFailure {
    /// Gives it to rustls. The peer is told by an alert of the same meaning, as far as TLS has one.
    pub(crate) fn into_rustls(self) -> rustls::Error {
        let kind = match &self {
            Self::Expired { not_after, now, .. } => {
                let (time, not_after) = (unix_time(*now), unix_time(*not_after));
                CertificateError::ExpiredContext { time, not_after }
            }
            Self::NotYetValid { not_before, now, .. } => {
                let (time, not_before) = (unix_time(*now), unix_time(*not_before));
                CertificateError::NotValidYetContext { time, not_before }
            }
            Self::UnknownRoot { .. } | Self::WrongTrustDomain { .. } | Self::RootNotPinned { .. } => {
                CertificateError::UnknownIssuer
            }
            Self::Revoked { .. } => CertificateError::Revoked,
            Self::WrongIdentity { .. } | Self::WrongClass { .. } => {
                CertificateError::ApplicationVerificationFailure
            }
            Self::BadCertificate(_) => CertificateError::BadEncoding,
            _ => CertificateError::Other(OtherError(Arc::new(self.clone()))),
        };
        if !matches!(kind, CertificateError::Other(_)) {
            LEFT.set(Some((kind.clone(), self)));
        }
        rustls::Error::InvalidCertificate(kind)
    }

    /// Reads a TLS error. That of a verifier of ours is read where it happened: once, and on its thread.
    pub fn from_rustls(error: &rustls::Error) -> Self {
        use rustls::Error as E;
        match error {
            E::InvalidCertificate(certificate) => {
                take(certificate).unwrap_or_else(|| from_certificate(certificate))
            }
            E::Other(OtherError(inner)) => inside(inner.as_ref()).unwrap_or_else(|| protocol(error)),
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
}

fn from_certificate(error: &CertificateError) -> HandshakeFailure {
    use HandshakeFailure as F;
    match error {
        CertificateError::Other(OtherError(inner)) => {
            inside(inner.as_ref()).unwrap_or_else(|| F::BadChain(error.to_string()))
        }
        CertificateError::ExpiredContext { time, not_after } => {
            F::Expired { received: None, not_after: seconds(*not_after), now: seconds(*time) }
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            F::NotYetValid { received: None, not_before: seconds(*not_before), now: seconds(*time) }
        }
        CertificateError::BadSignature => F::BadSignature,
        _ => F::BadChain(error.to_string()),
    }
}

fn inside(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<HandshakeFailure> {
    error.downcast_ref::<HandshakeFailure>().cloned()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestCa;
    use crate::{class::PeerClass, failure::Received};

    fn unknown_root(ca: &TestCa, short: &str) -> HandshakeFailure {
        let svid = ca.svid_short(short, PeerClass::Sidecar);
        HandshakeFailure::UnknownRoot {
            domain: ca.trust_domain().clone(),
            received: Received::of(svid.svid()),
        }
    }

    #[test]
    fn a_reason_is_told_once_and_for_no_error_but_its_own() {
        let ca = TestCa::new("demo.signet");
        let error = unknown_root(&ca, "ns/shop/sa/web").into_rustls();
        let other = rustls::Error::InvalidCertificate(CertificateError::Revoked);
        assert_eq!(HandshakeFailure::from_rustls(&other).label(), "bad_chain");
        assert_eq!(HandshakeFailure::from_rustls(&error).label(), "unknown_root");
        // Another verifier's error of this kind, later: nothing is left of ours.
        assert_eq!(HandshakeFailure::from_rustls(&error).label(), "bad_chain");
    }

    #[test]
    fn of_two_reasons_the_later_is_the_one_that_is_told() {
        let ca = TestCa::new("demo.signet");
        drop(unknown_root(&ca, "ns/shop/sa/web").into_rustls());
        let error = unknown_root(&ca, "ns/shop/sa/orders").into_rustls();
        let failure = HandshakeFailure::from_rustls(&error);
        assert!(failure.to_string().contains("sa/orders"), "{failure}");
    }
}
