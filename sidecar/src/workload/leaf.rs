//! One certificate for the app, from request to what is believed of the answer.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use signet_identity::{
    Generation, GenerationError, GenerationOptions, OwnSvid, OwnSvidError, PeerClass, SpiffeId,
};
use signet_proto::v1;
use signet_proto::v1::identity_client::IdentityClient;
use signet_proxy::state::Tls;
use tonic::Code;

use crate::candidate::{Candidate, KeyError};
use crate::clock;
use crate::control::plane::{ControlPlane, PlaneError};
use crate::identity::{MAX_ANSWER, call, said};

/// A certificate of class workload and its key.
pub(crate) struct Leaf {
    pub(crate) svid: OwnSvid,
    /// Seconds since the epoch, like all here.
    pub(crate) issued_at: i64,
    pub(crate) renew_at: i64,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeafError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Plane(#[from] PlaneError),
    #[error("the control plane does not issue it ({code:?}): {reason}")]
    Refused { code: Code, reason: String },
    #[error("the issued certificate cannot be used: {0}")]
    Svid(#[from] OwnSvidError),
    #[error("expected a certificate of {expected} of class workload, got one of {id} of class {class}")]
    Another { expected: SpiffeId, id: SpiffeId, class: PeerClass },
    #[error("the issued certificate does not verify here: {0}")]
    Unfit(#[from] GenerationError),
    #[error("there is no certificate of our own yet")]
    Nobody,
    #[error("the issued certificate has ended already; check both clocks")]
    Ended,
}

impl LeafError {
    /// Whether the authority says no, and not just not now.
    pub(crate) fn refused(status: &tonic::Status) -> Self {
        Self::Refused { code: status.code(), reason: said(status) }
    }

    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Refused { code: Code::PermissionDenied, .. })
    }
}

impl Leaf {
    pub(crate) fn not_after(&self) -> i64 {
        self.svid.svid().not_after
    }

    /// Whether a peer of this mesh would believe it, under the roots and revocations that are in force.
    pub(crate) fn fits(&self, tls: Option<&Tls>) -> bool {
        tls.is_some_and(|tls| {
            tls.revoked.revokes(self.svid.svid()).is_none() && verify(self.svid.clone(), tls).is_ok()
        })
    }
}

/// Asks for one, with a key that was made for it.
pub(crate) async fn issue(plane: &Arc<ControlPlane>, tls: Option<&Tls>) -> Result<Leaf, LeafError> {
    let tls = tls.ok_or(LeafError::Nobody)?;
    let candidate = Candidate::new()?;
    let (_, link) = plane.link().await?;
    let origin = link.origin();
    let mut client = IdentityClient::with_origin(link, origin).max_decoding_message_size(MAX_ANSWER);
    let request = v1::IssueWorkloadRequest { csr_der: candidate.csr_der().to_vec() };
    let issued = call(client.issue_workload(request)).await.map_err(|status| LeafError::refused(&status))?;
    believe(issued, &candidate, &tls.generation.own().svid().id, tls)
}

/// Takes an answer for what it is, if it is a certificate of class workload of whom it should be.
pub(crate) fn believe(
    issued: v1::IssuedSvid,
    candidate: &Candidate,
    expected: &SpiffeId,
    tls: &Tls,
) -> Result<Leaf, LeafError> {
    let chain: Vec<_> = issued.chain_der.into_iter().map(CertificateDer::from).collect();
    let svid = OwnSvid::new(chain, candidate.key())?;
    let facts = svid.svid();
    if facts.id != *expected || facts.class != PeerClass::Workload {
        let (id, class) = (facts.id.clone(), facts.class);
        return Err(LeafError::Another { expected: expected.clone(), id, class });
    }
    let now = clock::now();
    if facts.not_after <= now {
        return Err(LeafError::Ended);
    }
    verify(svid.clone(), tls)?;
    Ok(Leaf { svid, issued_at: now, renew_at: issued.renew_at })
}

/// What verifies our own certificate verifies this one, before anybody is given it.
fn verify(svid: OwnSvid, tls: &Tls) -> Result<(), GenerationError> {
    Generation::build(0, svid, tls.generation.bundles().clone(), GenerationOptions::default()).map(drop)
}
