//! The role `gateway`: its configuration and its right to mint.
//!
//! A Gateway resource that cannot be read is refused to the control plane when it arrives and never half-used.
//! The key under which transaction tokens are minted is made here and stays
//! here; the control plane signs a delegation for its public half, at most an hour long, renewed at half of
//! its life, whenever the resource changes, and at once when the key is revoked or the root behind it tainted. Until
//! there is one that counts, the edge answers 503.

use std::sync::Arc;
use std::time::Duration;

use signet_gateway::Compiled;
use signet_model::{Gateway, GivenRoutes};
use signet_proto::v1;
use signet_proto::v1::tokens_client::TokensClient;
use signet_proxy::state::State;
use signet_token::{DelegatedMinter, DelegationError, KeyError, SigningKey};

use crate::backoff::{Backoff, chance};
use crate::clock;
use crate::control::plane::{ControlPlane, PlaneError};
use crate::publish::Publisher;
use crate::status::Status;

/// The control plane signs in milliseconds.
const CALL: Duration = Duration::from_secs(10);
/// Wall-clock jumps are noticed within so long.
const NAP: Duration = Duration::from_secs(30);

/// The services that a gateway leads to, `name.namespace`.
pub fn services<'a>(gateway: &'a Gateway, attached: &'a GivenRoutes) -> impl Iterator<Item = String> + 'a {
    let routed = attached.iter().flat_map(|given| {
        let named = given.route.backends().into_iter().map(|(_, service, _)| service);
        named.filter(move |service| !given.refuses(service)).map(|service| service.to_string())
    });
    gateway.spec.leads_to().map(ToString::to_string).chain(routed)
}

/// Why there is no new delegation.
#[derive(Debug, thiserror::Error)]
enum MinterError {
    #[error(transparent)]
    Plane(#[from] PlaneError),
    #[error("the control plane does not delegate ({:?}): {}", .0.code(), .0.message())]
    Refused(tonic::Status),
    #[error("no answer within {} s", CALL.as_secs())]
    Deadline,
    #[error("the delegation cannot be used: {0}")]
    Delegation(#[from] DelegationError),
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// What the task needs of the rest of the process.
pub struct Minting {
    /// Whom to ask.
    pub plane: Arc<ControlPlane>,
    /// Where the minter goes.
    pub publisher: Arc<Publisher>,
    /// Who is told that there is one.
    pub status: Arc<Status>,
    /// Knows the `iss` of the mesh's tokens.
    pub state: Arc<State>,
}

impl Minting {
    /// Keeps a delegated key in force for ever. Every delegation is for a new key.
    pub async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let mut reasons = self.publisher.watch_minting();
        loop {
            reasons.mark_unchanged();
            if !self.speaks_for_users() {
                self.status.needs_no_minter();
                // The publisher is ours: it cannot be gone.
                let _ = reasons.changed().await;
                continue;
            }
            match self.delegate().await {
                Ok((minter, refresh_at)) => {
                    backoff.reset();
                    let terms = minter.terms();
                    tracing::info!(target: "signet::gateway", key = terms.thumbprint(),
                        expires_at = clock::rfc3339(seconds(terms.expires_at)), "minting under a new delegation");
                    self.publisher.minter(Arc::new(minter));
                    self.status.minting();
                    while clock::now() < refresh_at {
                        let left = u64::try_from(refresh_at.saturating_sub(clock::now())).unwrap_or_default();
                        tokio::select! {
                            () = tokio::time::sleep(NAP.min(Duration::from_secs(left.max(1)))) => {
                                // What was heard while it was asked for, or a root without a successor yet.
                                if self.publisher.is_minter_outdated() {
                                    break;
                                }
                            }
                            // Other issuers or scopes: the delegation says which, so it is too old.
                            _ = reasons.changed() => break,
                        }
                    }
                }
                Err(error) => {
                    let wait = backoff.next(chance());
                    tracing::warn!(target: "signet::gateway", %error, retry_in_ms = wait.as_millis() as u64,
                        "no delegation to mint transaction tokens");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Without a route no request comes in, and the control plane would not delegate.
    fn speaks_for_users(&self) -> bool {
        let view = self.state.view();
        let known = view.routes.gateway.as_ref().and_then(|it| it.downcast_ref::<Compiled>());
        known.is_none_or(|compiled| !compiled.gateway().spec.routes.is_empty())
    }

    /// A minter, and when its successor should be made: at half of its life.
    async fn delegate(&self) -> Result<(DelegatedMinter, i64), MinterError> {
        let key = Arc::new(SigningKey::generate()?);
        let (_, link) = self.plane.link().await?;
        let origin = link.origin();
        let mut client = TokensClient::with_origin(link, origin);
        let request = v1::DelegateRequest { jwk: key.public_jwk().to_string() };
        let answer = tokio::time::timeout(CALL, client.delegate(request)).await;
        let answer = answer.map_err(|_| MinterError::Deadline)?.map_err(MinterError::Refused)?.into_inner();
        let minter = DelegatedMinter::new(key, &answer.delegation, &self.state.view().keys.token_issuer)?;
        let now = clock::now();
        let left = seconds(minter.terms().expires_at).saturating_sub(now).max(0);
        Ok((minter, now.saturating_add(left / 2)))
    }
}

fn seconds(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}
