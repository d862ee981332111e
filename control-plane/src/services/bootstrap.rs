//! Attest: a stranger with evidence becomes somebody.

use signet_ca::{Authority, SharedRegistrar};
use signet_proto::v1::{self, attest_request::Evidence};
use tonic::{Request, Response, Status};

use super::convert;
use crate::attest::{Ask, Attestation, Want};
use crate::listen::bootstrap::Stranger;
use crate::operators::login::Logins;
use crate::world::AuthorityState;

/// A CSR is under 8 KiB, a join token under a hundred bytes, a service account's token under 16 KiB, an ID token
/// under 32 KiB.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// The service.
#[derive(Clone)]
pub struct Bootstrap {
    pub authority: Authority,
    pub registrar: SharedRegistrar,
    /// Where pods are believed.
    pub attestation: Option<Attestation>,
    pub logins: Logins,
}

#[tonic::async_trait]
impl v1::bootstrap_server::Bootstrap for Bootstrap {
    async fn attest(&self, request: Request<v1::AttestRequest>) -> Result<Response<v1::IssuedSvid>, Status> {
        let stranger = request
            .extensions()
            .get::<Stranger>()
            .copied()
            .ok_or_else(|| Status::internal("a call without a connection"))?;
        let v1::AttestRequest { csr_der, evidence } = request.into_inner();
        let source = stranger.address.ip().to_canonical().to_string();
        let issued = match (evidence, &self.attestation) {
            (Some(Evidence::JoinToken(token)), _) => {
                let attested =
                    self.authority.attest_join_token(&token, &csr_der, &source, self.registrar.clone());
                attested.await.map_err(|error| convert::status(&error))?
            }
            (Some(Evidence::Kubernetes(evidence)), Some(attestation)) => {
                let ask = Ask {
                    token: &evidence.token,
                    audience: attestation.kubernetes.audience(),
                    csr_der: &csr_der,
                    address: stranger.address.ip(),
                    want: Want::Ours,
                };
                attestation.issue(ask).await.map_err(|denied| convert::denied(&denied))?
            }
            (Some(Evidence::Kubernetes(_)), None) => {
                return Err(Status::unimplemented(
                    "this control plane believes no pods (attestation.kubernetes)",
                ));
            }
            (Some(Evidence::Oidc(oidc)), _) => self.logins.attest(&oidc.id_token, &csr_der, &source).await?,
            (None, _) => {
                return Err(Status::invalid_argument(
                    "expected evidence: a join token, a service account's token or an ID token",
                ));
            }
        };
        let revocations = self.authority.revocations().borrow().clone();
        let state = AuthorityState::of(&self.authority, revocations);
        Ok(Response::new(convert::issued(&issued, &state)))
    }
}
