//! The check after every handshake, and what it yields: a [`Peer`].
//!
//! rustls verifies certificates in a full handshake only. A resumed one brings the certificates of the first
//! handshake back, unverified, so everything that may have changed since (time, revocations, what is expected
//! on this very connection) is looked at here, for full and resumed handshakes alike.

use std::{fmt, sync::Arc};

use rustls::pki_types::{CertificateDer, UnixTime};

use crate::{
    chain::Verified,
    class::{ClassSet, PeerClass},
    failure::{HandshakeFailure, Received},
    generation::Generation,
    key_id::KeyId,
    revocation::{RevocationSet, RevokedBy},
    serial::Serial,
    spiffe_id::SpiffeId,
    svid::Svid,
};

/// Who may be at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub enum Expected<'a> {
    /// Exactly this identity, on the data plane.
    Exact(&'a SpiffeId),
    /// One of these identities, on the data plane.
    AnyOf(&'a [SpiffeId]),
    /// Anyone of our own trust domain, on the data plane. Policy decides further.
    OurDomain,
    /// Anyone of a trust domain that has a bundle here, on the data plane.
    AnyTrusted,
    /// The control plane: this identity with the class `control-plane`.
    ControlPlane(&'a SpiffeId),
    /// Seen from the control plane's mesh listener: anyone of our own trust domain but a control plane
    /// and an app that holds a key itself.
    MeshClient,
}

impl Expected<'_> {
    /// The classes that may stand there.
    pub const fn classes(&self) -> ClassSet {
        match self {
            Self::Exact(_) | Self::AnyOf(_) | Self::OurDomain | Self::AnyTrusted => ClassSet::DATA_PLANE,
            Self::ControlPlane(_) => ClassSet::CONTROL_PLANE,
            Self::MeshClient => ClassSet::MESH_CLIENTS,
        }
    }
}

/// A peer whose chain, dates, class, identity and revocation were checked. Cheap to clone.
#[derive(Clone)]
pub struct Peer(Arc<Verified>);

impl Peer {
    /// Who it is.
    pub fn id(&self) -> &SpiffeId {
        &self.0.svid.id
    }

    /// What kind of thing it is.
    pub fn class(&self) -> PeerClass {
        self.0.svid.class
    }

    /// Whether what it says of users, callers and refusals counts: it is a sidecar or a gateway, whose key no app sees.
    pub fn has_a_voice(&self) -> bool {
        matches!(self.class(), PeerClass::Sidecar | PeerClass::Gateway)
    }

    /// Its certificate's serial.
    pub fn serial(&self) -> Serial {
        self.0.svid.serial
    }

    /// The last second of its certificate, since 1970.
    pub fn not_after(&self) -> i64 {
        self.0.svid.not_after
    }

    /// All facts of its chain.
    pub fn svid(&self) -> &Svid {
        &self.0.svid
    }

    /// SHA-256 of the root certificate that vouched for it. When that root leaves the bundle, the connection
    /// ends.
    pub fn root(&self) -> KeyId {
        self.0.root
    }

    /// Whether it belongs to the trust domain of this identity (usually our own).
    pub fn is_of_domain(&self, own: &SpiffeId) -> bool {
        self.id().is_in(own.trust_domain())
    }

    /// What revokes it, if anything does: for connections that are already open.
    pub fn revoked_by(&self, revoked: &RevocationSet) -> Option<RevokedBy> {
        revoked.revokes(&self.0.svid)
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn of_verified(verified: Arc<Verified>) -> Self {
        Self(verified)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("id", self.id())
            .field("class", &self.class())
            .field("serial", &self.serial())
            .finish_non_exhaustive()
    }
}

impl Generation {
    /// Checks the peer of a finished handshake. Run it after **every** handshake, resumed ones included,
    /// before the first application byte goes either way; on failure close the connection and, where it was
    /// resumed, call [`Generation::forget_sessions`] and make one full handshake.
    ///
    /// `peer_certs` is what rustls' `peer_certificates()` says; `now` is the time of this connection.
    pub fn check(
        &self,
        peer_certs: Option<&[CertificateDer<'_>]>,
        expected: &Expected<'_>,
        revoked: &RevocationSet,
        now: UnixTime,
    ) -> Result<Peer, HandshakeFailure> {
        let (leaf, rest) = peer_certs.and_then(<[_]>::split_first).ok_or(HandshakeFailure::NoCertificate)?;
        let verified = self.chains().verify(leaf, rest, now)?;
        let svid = &verified.svid;
        self.is_expected(svid, expected)?;
        let classes = expected.classes();
        if !classes.contains(svid.class) {
            return Err(HandshakeFailure::WrongClass {
                expected: classes,
                class: svid.class,
                received: Received::of(svid),
            });
        }
        if let Some(by) = revoked.revokes(svid) {
            return Err(HandshakeFailure::Revoked { received: Received::of(svid), by });
        }
        Ok(Peer(verified))
    }

    fn is_expected(&self, svid: &Svid, expected: &Expected<'_>) -> Result<(), HandshakeFailure> {
        let (ours, names) = match expected {
            Expected::Exact(id) | Expected::ControlPlane(id) => (svid.id == **id, id.to_string()),
            Expected::AnyOf(ids) => {
                let names: Vec<_> = ids.iter().map(SpiffeId::as_str).collect();
                (ids.contains(&svid.id), names.join(" or "))
            }
            Expected::AnyTrusted => return Ok(()),
            Expected::OurDomain | Expected::MeshClient => {
                let own = self.own().svid().id.trust_domain();
                if svid.id.is_in(own) {
                    return Ok(());
                }
                return Err(HandshakeFailure::WrongTrustDomain {
                    expected: own.to_string(),
                    received: Received::of(svid),
                });
            }
        };
        match ours {
            true => Ok(()),
            false => Err(HandshakeFailure::WrongIdentity { expected: names, received: Received::of(svid) }),
        }
    }
}
