//! Renew, IssueWorkload, IssueJwtSvid and Delegate: what a peer may have by virtue of the certificate that it came with.

use std::collections::BTreeSet;
use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};
use signet_ca::{Authority, SharedRegistrar};
use signet_identity::{PeerClass, TrustDomain};
use signet_model::WorkloadId;
use signet_proto::v1;
use signet_token::{Delegation, Jwk, ScopeCeiling};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{caller, convert};
use crate::attest::{Ask, Attestation, Want};
use crate::clock::unix_now;
use crate::metrics::Metrics;
use crate::registry::State;
use crate::world::AuthorityState;

/// A CSR or a public key.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// A P-256 key with every optional member.
const MAX_JWK: usize = 4 * 1024;
/// The longest that a delegation may be valid; a gateway asks again well before.
const DELEGATION_LIFE: u64 = signet_token::delegation::MAX_LIFETIME;

/// Both services.
#[derive(Clone)]
pub struct Peers {
    pub authority: Authority,
    pub registrar: SharedRegistrar,
    /// Where pods are believed.
    pub attestation: Option<Attestation>,
    pub trust_domain: TrustDomain,
    pub registry: watch::Receiver<State>,
    pub metrics: Metrics,
}

#[tonic::async_trait]
impl v1::identity_server::Identity for Peers {
    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::IssuedSvid>, Status> {
        let caller = caller(&request)?;
        let leaf = caller.chain.first().ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let v1::RenewRequest { csr_der, kubernetes } = request.into_inner();
        let issued = match (kubernetes, &self.attestation) {
            (None, _) => {
                let renewed = self.authority.renew(leaf, &csr_der, self.registrar.clone());
                renewed.await.map_err(|error| convert::status(&error))?
            }
            (Some(evidence), Some(attestation)) => {
                let ask = Ask {
                    token: &evidence.token,
                    audience: attestation.kubernetes.audience(),
                    csr_der: &csr_der,
                    address: caller.address.ip(),
                    want: Want::Again(caller.peer.id(), caller.peer.class()),
                };
                attestation.issue(ask).await.map_err(|denied| convert::denied(&denied))?
            }
            (Some(_), None) => {
                return Err(Status::unimplemented(
                    "this control plane believes no pods (attestation.kubernetes)",
                ));
            }
        };
        Ok(Response::new(self.answer(&issued)))
    }

    async fn issue_workload(
        &self,
        request: Request<v1::IssueWorkloadRequest>,
    ) -> Result<Response<v1::IssuedSvid>, Status> {
        let caller = caller(&request)?;
        let leaf = caller.chain.first().ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let csr = request.into_inner().csr_der;
        let issued = self
            .authority
            .issue_workload(leaf, &csr, self.registrar.clone())
            .await
            .map_err(|error| convert::status(&error))?;
        Ok(Response::new(self.answer(&issued)))
    }

    async fn issue_jwt_svid(
        &self,
        request: Request<v1::IssueJwtSvidRequest>,
    ) -> Result<Response<v1::IssuedJwtSvid>, Status> {
        let caller = caller(&request)?;
        let leaf = caller.chain.first().ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let v1::IssueJwtSvidRequest { audiences, spiffe_id } = request.into_inner();
        let wanted = (!spiffe_id.is_empty()).then_some(spiffe_id);
        let svid = self
            .authority
            .sign_jwt_svid(leaf, audiences, wanted, self.registrar.clone())
            .await
            .map_err(|error| convert::status(&error))?;
        Ok(Response::new(convert::jwt_svid(svid)))
    }
}

#[tonic::async_trait]
impl v1::tokens_server::Tokens for Peers {
    async fn delegate(
        &self,
        request: Request<v1::DelegateRequest>,
    ) -> Result<Response<v1::DelegateResponse>, Status> {
        let caller = caller(&request)?;
        let leaf = caller.chain.first().ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let refuse = |reason: &'static str, status: Status| {
            self.metrics.refusals.with_label_values(&["delegate", reason]).inc();
            tracing::warn!(target: "signet::tokens", peer = %caller.peer.id(), class = %caller.peer.class(), reason, "delegation refused");
            status
        };
        if caller.peer.class() != PeerClass::Gateway {
            return Err(refuse("class", Status::permission_denied("delegations are for the class gateway")));
        }
        let aliases = self.aliases(&caller.peer).ok_or_else(|| {
            refuse(
                "not_listed",
                Status::permission_denied(
                    "no Gateway in the registry has this identity and a route from outside",
                ),
            )
        })?;
        let jwk = request.into_inner().jwk;
        if jwk.len() > MAX_JWK {
            return Err(refuse("jwk", Status::invalid_argument("the key is too large")));
        }
        let key = Jwk::parse(&jwk).map_err(|e| refuse("jwk", Status::invalid_argument(e.to_string())))?;
        if !key.verifies(signet_token::Algorithm::Es256) {
            return Err(refuse("jwk", Status::invalid_argument("expected an EC key on P-256")));
        }
        let now = u64::try_from(unix_now()).unwrap_or(0);
        let expires_at = now.saturating_add(DELEGATION_LIFE);
        let terms = Delegation {
            issuer: self.trust_domain.to_string(),
            subject: caller.peer.id().to_string(),
            issued_at: now,
            expires_at,
            id: random_id()?,
            key,
            scope_ceiling: ScopeCeiling::Any,
            aliases,
            credentials: BTreeSet::from(["jwt".to_owned()]),
        };
        let delegation = self.authority.sign_delegation(leaf, terms).await.map_err(|error| {
            let reason = error.refusal().map_or("failed", signet_ca::Refusal::label);
            refuse(reason, convert::status(&error))
        })?;
        let not_after = i64::try_from(expires_at).unwrap_or(i64::MAX);
        Ok(Response::new(v1::DelegateResponse { delegation, not_after }))
    }
}

impl Peers {
    pub(super) fn answer(&self, issued: &signet_ca::Issued) -> v1::IssuedSvid {
        let revocations = self.authority.revocations().borrow().clone();
        convert::issued(issued, &AuthorityState::of(&self.authority, revocations))
    }

    /// The issuers whose users this gateway may speak for; `None` when the registry lists no such gateway, or none that
    /// lets anybody in from outside: what passes bytes on between clusters speaks for no user.
    fn aliases(&self, peer: &signet_identity::Peer) -> Option<BTreeSet<String>> {
        let registry = Arc::clone(&self.registry.borrow().registry);
        let workload = WorkloadId::of(peer.id(), &self.trust_domain)?;
        let gateways = registry.gateways_of(&workload);
        let mut routes = gateways.flat_map(|gateway| &gateway.spec.routes).peekable();
        routes.peek()?;
        let issuers = routes.filter_map(|route| route.auth.jwt.as_ref()).flat_map(|jwt| &jwt.issuers);
        Some(issuers.map(ToString::to_string).collect())
    }
}

fn random_id() -> Result<String, Status> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Status::unavailable("no randomness"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
