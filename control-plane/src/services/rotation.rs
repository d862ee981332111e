//! Roots, issuers and keys by an operator's hand: looked at, rotated, tainted.

use signet_ca::{Authority, AuthorityError, Kind, SlotStatus};
use signet_proto::v1;
use tonic::{Request, Response, Status};

use super::{convert, people};
use crate::clock::unix_now;
use crate::metrics::Metrics;

/// The service.
#[derive(Clone)]
pub struct Rotation {
    pub authority: Authority,
    pub metrics: Metrics,
}

impl Rotation {
    fn end<T>(&self, call: &str, actor: &str, result: Result<T, Status>) -> Result<Response<T>, Status> {
        let code = result.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
        let code = format!("{code:?}");
        tracing::debug!(target: "signet::operator", call, actor, code, "operator call");
        self.metrics.operator_calls.with_label_values(&[call, &code]).inc();
        result.map(Response::new)
    }
}

fn actor<T>(request: &Request<T>) -> Result<String, Status> {
    Ok(people::who(request)?.actor.clone())
}

fn kind(text: &str) -> Result<Kind, Status> {
    Kind::parse(text)
        .ok_or_else(|| Status::invalid_argument(format!("expected root, issuer, token or jwt, got {text:?}")))
}

fn name(result: Result<String, AuthorityError>) -> Result<v1::AuthorityName, Status> {
    result.map(|id| v1::AuthorityName { id }).map_err(|error| convert::operator_status(&error))
}

fn status(slot: SlotStatus) -> v1::AuthorityStatus {
    v1::AuthorityStatus {
        id: slot.id,
        kind: slot.kind.as_str().to_owned(),
        owner: slot.owner,
        phase: slot.phase.as_str().to_owned(),
        since: slot.since,
        not_before: slot.not_before,
        not_after: slot.not_after,
        prepare_at: slot.prepare_at,
        activate_at: slot.activate_at,
        sequence: slot.sequence,
        tainted_at: slot.tainted_at.unwrap_or(0),
        sha256: slot.sha256,
    }
}

#[tonic::async_trait]
impl v1::rotation_server::Rotation for Rotation {
    async fn list_authorities(
        &self,
        request: Request<v1::ListAuthoritiesRequest>,
    ) -> Result<Response<v1::ListAuthoritiesResponse>, Status> {
        let actor = actor(&request)?;
        let listed = self.authority.authorities().await;
        let result = listed
            .map(|all| v1::ListAuthoritiesResponse {
                authorities: all.into_iter().map(status).collect(),
                bundle: self.authority.bundle_sequence(),
                now: unix_now(),
            })
            .map_err(|error| convert::operator_status(&error));
        self.end("list_authorities", &actor, result)
    }

    async fn prepare_authority(
        &self,
        request: Request<v1::PrepareAuthorityRequest>,
    ) -> Result<Response<v1::AuthorityName>, Status> {
        let actor = actor(&request)?;
        let result = match kind(&request.into_inner().kind) {
            Ok(kind) => name(self.authority.prepare(kind, &actor).await),
            Err(status) => Err(status),
        };
        self.end("prepare_authority", &actor, result)
    }

    async fn rotate_authority(
        &self,
        request: Request<v1::RotateAuthorityRequest>,
    ) -> Result<Response<v1::AuthorityName>, Status> {
        let actor = actor(&request)?;
        let result = match kind(&request.into_inner().kind) {
            Ok(kind) => name(self.authority.rotate(kind, &actor).await),
            Err(status) => Err(status),
        };
        self.end("rotate_authority", &actor, result)
    }

    async fn activate_authority(
        &self,
        request: Request<v1::ActivateAuthorityRequest>,
    ) -> Result<Response<v1::AuthorityName>, Status> {
        let actor = actor(&request)?;
        let v1::ActivateAuthorityRequest { id, force } = request.into_inner();
        let result = self.authority.activate(&id, force, &actor).await.map(|()| id);
        self.end("activate_authority", &actor, name(result))
    }

    async fn taint_authority(
        &self,
        request: Request<v1::TaintAuthorityRequest>,
    ) -> Result<Response<v1::AuthorityName>, Status> {
        let actor = actor(&request)?;
        let id = request.into_inner().id;
        let result = self.authority.taint(&id, &actor).await.map(|()| id);
        self.end("taint_authority", &actor, name(result))
    }
}
