//! What to do about it, for whoever is woken at night.

use super::{HandshakeFailure, alert};
use crate::{
    dates::{rfc3339, span},
    incidents::Own,
};

impl HandshakeFailure {
    /// The alert that the peer sent, by its name in RFC 8446.
    pub fn alert(&self) -> Option<String> {
        match self {
            Self::AlertReceived(alert) => Some(alert::name(*alert)),
            _ => None,
        }
    }

    /// What the operator of this side does now. `own` is who we were when it happened, and `now` when that was.
    pub fn what_to_do(&self, own: Option<&Own>, now: i64) -> String {
        match self {
            Self::Plaintext => "Find the caller by its address. An app calls through its sidecar (is its redirect in place?); \
                 a health check of a load balancer or orchestrator belongs on the metrics port; while callers are being \
                 moved into the mesh, a port can be permissive until a date."
                .into(),
            Self::NotTls => "Find out who dials this port: another protocol, or a scanner.".into(),
            Self::ForeignHello { sni } => format!(
                "The app speaks TLS of its own{}. Let it speak plaintext to its sidecar, which encrypts; or, for a port of \
                 bytes while callers are being moved, make it permissive.",
                sni.as_ref().map(|name| format!(" to {name:?}")).unwrap_or_default()
            ),
            Self::WrongPort { .. } => "A gateway on the way brings callers to another port than they name: compare the service that \
                 `throughGateway` says at the caller with what that address and port are in the gateway's registry. If both are \
                 right, treat the gateway as taken over."
                .into(),
            Self::TlsVersion => "Use a client that speaks TLS 1.3.".into(),
            Self::NoCommon(what) => format!(
                "Let the peer offer a common {what}: X25519 or P-256, ECDSA, AES-GCM or ChaCha20-Poly1305."
            ),
            Self::UnknownRoot { domain, .. } => format!(
                "Of our own trust domain: compare the roots of both sides (`signet status`; is either side's delivery stream \
                 open?); else two meshes have the name {domain}, or a control plane was made anew: let the workload join \
                 again. Of a federated one: `signet federation show`."
            ),
            Self::WrongTrustDomain { received, .. } => format!(
                "Find out whose address this is. If {} is meant to call here, federate with it, and name somebody of it in a \
                 policy of the service that is called.",
                received.id().trust_domain()
            ),
            Self::WrongIdentity { received, .. } => format!(
                "If {received} is right there, put it into the Service (`identities`, or the endpoint's `identity`). If \
                 not, the address now belongs to another workload, or somebody has taken it over: treat it as an attack \
                 until you know."
            ),
            Self::WrongClass { class, expected, .. } => format!(
                "A {class} cannot do this. If it should, let the workload join again with the right class ({expected})."
            ),
            Self::Expired { received, not_after, now } => dates(
                &format!("ended at {}", rfc3339(*not_after)),
                "ahead",
                span(now.saturating_sub(*not_after)),
                received.as_ref().map(|one| (one.not_before(), one.not_after())),
            ),
            Self::NotYetValid { received, not_before, now } => dates(
                &format!("begins at {}", rfc3339(*not_before)),
                "behind",
                span(not_before.saturating_sub(*now)),
                received.as_ref().map(|one| (one.not_before(), one.not_after())),
            ),
            Self::Revoked { received, .. } => format!(
                "`signet ca audit search --identity {received}` says who revoked it and why. If that was a mistake: \
                 `signet ca reinstate`."
            ),
            Self::NoCertificate => "Every caller here needs a certificate of the mesh: let it call through a sidecar, or join \
                 it, or look at its renewal."
                .into(),
            Self::BadCertificate(_) => "It is another authority's certificate, or a very old one: let the peer join again."
                .into(),
            Self::BadChain(_) => "Most often a client that is not Signet's sends its certificate without its issuer's; the \
                 reason itself says more."
                .into(),
            Self::BadSignature => "Treat it as an attack, or as a broken client.".into(),
            Self::NoCommonAlpn => "The two sides mean different protocols for this port: the `protocol` in the Service, as \
                 each side has it."
                .into(),
            Self::RootNotPinned { .. } => "Wrong address, or a join bundle of another mesh or from before a new root: make a \
                 new one (`signet join`)."
                .into(),
            Self::Timeout => "The network, or a host without CPU; or a client that opens connections and says nothing.".into(),
            Self::Closed => format!(
                "A probe that only connects; or the peer refused us without a word: `signet handshakes` there, or its log \
                 (`signet::handshake`).{}",
                own.map(|own| own_state(own, now)).unwrap_or_default()
            ),
            Self::AlertReceived(received) => alert::advice(*received, own, now),
            Self::Protocol(_) => "A broken client, or something between the two that changes bytes.".into(),
            Self::Io(_) => "The network between the two.".into(),
        }
    }
}

/// A certificate that is not valid now: either it, or one of two clocks.
fn dates(what: &str, ours: &str, by: String, leaf: Option<(i64, i64)>) -> String {
    let leaf = leaf.map_or_else(String::new, |(from, until)| {
        format!(" (the peer's own is valid from {} to {})", rfc3339(from), rfc3339(until))
    });
    format!(
        "A certificate of the chain {what}{leaf}. Either the peer does not renew (its log, `signet::identity`; can it reach \
         the control plane?), or our clock is {ours} by {by} at least, or the issuer's was wrong: compare both hosts' clocks \
         with a third, and `signet_control_clock_skew_seconds` of both."
    )
}

/// What of ourselves could have made a peer close.
fn own_state(own: &Own, now: i64) -> String {
    if let Some(by) = &own.revoked_by {
        return format!(" We are revoked ourselves, by {by}.");
    }
    if now > own.not_after {
        return format!(" Our own certificate ended at {}.", rfc3339(own.not_after));
    }
    if now < own.not_before {
        return format!(" Our own certificate begins at {}.", rfc3339(own.not_before));
    }
    String::new()
}
