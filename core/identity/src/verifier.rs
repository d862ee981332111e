//! The verifiers that rustls calls during a full handshake.
//!
//! They exist so that a wrong peer is refused *inside* the handshake: a client that finds the wrong server
//! never sends its own certificate. What they decide is decided again by the check after the handshake.

use std::{fmt, sync::Arc};

use rustls::{
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{
    bundle::{Bundles, TrustBundle},
    chain::{Chains, Verified},
    class::ClassSet,
    failure::{HandshakeFailure, Received},
    key_id::KeyId,
    server_name::stands_for,
    spiffe_id::SpiffeId,
    told::Told,
    trust_domain::TrustDomain,
    verified::{ClientJudge, ServerJudge},
};

fn of_class(verified: &Verified, expected: ClassSet) -> Result<(), HandshakeFailure> {
    let svid = &verified.svid;
    match expected.contains(svid.class) {
        true => Ok(()),
        false => {
            Err(HandshakeFailure::WrongClass { expected, class: svid.class, received: Received::of(svid) })
        }
    }
}

/// The client's side: chain, then the identity that the server name stands for, then the class, then revocation.
pub(crate) struct ServerVerifier {
    pub(crate) chains: Arc<Chains>,
    pub(crate) classes: ClassSet,
    pub(crate) told: Arc<Told>,
}

impl ServerJudge for ServerVerifier {
    fn judge_server(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), HandshakeFailure> {
        let verified = self.chains.verify(leaf, rest, now)?;
        // Injective, so that equal names mean equal identities; nothing of the certificate but its SPIFFE ID
        // can answer for a server, its DNS names least of all. What the name says of a way is not looked at.
        let matches = match name {
            ServerName::DnsName(expected) => stands_for(expected.as_ref(), &verified.svid.id),
            _ => false,
        };
        if !matches {
            return Err(HandshakeFailure::WrongIdentity {
                expected: name.to_str().into_owned(),
                received: Received::of(&verified.svid),
            });
        }
        of_class(&verified, self.classes)?;
        self.told.stands(&verified.svid)
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier").field("classes", &self.classes).finish_non_exhaustive()
    }
}

/// The server's side: a certificate is required; chain, then class, then revocation.
pub(crate) struct ClientVerifier {
    pub(crate) chains: Arc<Chains>,
    pub(crate) classes: ClassSet,
    pub(crate) told: Arc<Told>,
}

impl ClientJudge for ClientVerifier {
    fn judge_client(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), HandshakeFailure> {
        let verified = self.chains.verify(leaf, rest, now)?;
        of_class(&verified, self.classes)?;
        self.told.stands(&verified.svid)
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").field("classes", &self.classes).finish_non_exhaustive()
    }
}

/// The joining workload's side, before it has any roots: the server's chain must contain the certificate
/// that the join bundle pins, lead to it, and belong to the control plane.
pub(crate) struct PinnedRootVerifier {
    pub(crate) domain: TrustDomain,
    pub(crate) root: KeyId,
    pub(crate) control_plane: SpiffeId,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerJudge for PinnedRootVerifier {
    fn judge_server(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), HandshakeFailure> {
        let root = rest
            .iter()
            .find(|certificate| KeyId::of(certificate) == self.root)
            .ok_or_else(|| HandshakeFailure::RootNotPinned { expected: self.root.to_string() })?;
        let bundle = TrustBundle::new(self.domain.clone(), [CertificateDer::from(root.as_ref())])
            .map_err(|error| HandshakeFailure::BadChain(error.to_string()))?;
        let chains =
            Chains::new(Arc::new(Bundles::from(bundle)), Some(self.domain.clone()), self.algorithms, 1);
        let verified = chains.verify(leaf, rest, now)?;
        if verified.svid.id != self.control_plane {
            return Err(HandshakeFailure::WrongIdentity {
                expected: self.control_plane.to_string(),
                received: Received::of(&verified.svid),
            });
        }
        of_class(&verified, ClassSet::CONTROL_PLANE)
    }
}

impl fmt::Debug for PinnedRootVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedRootVerifier").field("root", &self.root).finish_non_exhaustive()
    }
}
