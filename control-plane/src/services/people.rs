//! Who the caller is, what a login needs, and what waits for a second person.

use std::sync::Arc;

use signet_ca::Authority;
use signet_identity::TrustDomain;
use signet_proto::v1;
use tonic::{Request, Response, Status};

use crate::clock::unix_now;
use crate::operators::approvals::Refused;
use crate::operators::guard::Desk;
use crate::operators::who::Who;

/// The service.
#[derive(Clone)]
pub struct People {
    pub desk: Arc<Desk>,
    pub authority: Authority,
    pub trust_domain: TrustDomain,
    pub advertise_bootstrap: String,
    pub advertise_mesh: String,
}

/// The guard puts it there.
pub(crate) fn who<T>(request: &Request<T>) -> Result<Arc<Who>, Status> {
    request.extensions().get::<Arc<Who>>().cloned().ok_or_else(|| Status::internal("a call without a caller"))
}

fn refused(why: &Refused) -> Status {
    let text = why.to_string();
    match why {
        Refused::Unknown => Status::not_found(text),
        Refused::Own | Refused::Role(_) => Status::permission_denied(text),
        Refused::Digest | Refused::Again(_) => Status::failed_precondition(text),
    }
}

#[tonic::async_trait]
impl v1::people_server::People for People {
    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let who = who(&request)?;
        let session = who.session.as_ref();
        let username = session.and_then(|it| it.person.username.clone());
        Ok(Response::new(v1::WhoAmIResponse {
            actor: who.actor.clone(),
            name: session.and_then(|it| it.person.name.clone()).unwrap_or_default(),
            username: username.unwrap_or_default(),
            role: who.standing.role.map(|role| role.to_string()).unwrap_or_default(),
            namespaces: who.standing.namespaces.iter().cloned().collect(),
            not_after: session.map_or(0, |it| it.not_after),
            spiffe_id: session.map(|it| it.spiffe_id.to_string()).unwrap_or_default(),
        }))
    }

    async fn login_settings(
        &self,
        _: Request<v1::LoginSettingsRequest>,
    ) -> Result<Response<v1::LoginSettingsResponse>, Status> {
        let provider = |it: &crate::operators::config::Provider| v1::LoginProvider {
            name: it.name.clone(),
            issuer: it.party.issuer.clone(),
            client_id: it.party.client_id.clone(),
            scopes: it.scopes.clone(),
        };
        Ok(Response::new(v1::LoginSettingsResponse {
            bootstrap_address: self.advertise_bootstrap.clone(),
            mesh_address: self.advertise_mesh.clone(),
            trust_domain: self.trust_domain.to_string(),
            root_sha256: self.authority.root_sha256().to_string(),
            control_plane: self.authority.control_plane_id().to_string(),
            providers: self.desk.config.providers.iter().map(provider).collect(),
        }))
    }

    async fn list_approvals(
        &self,
        _: Request<v1::ListApprovalsRequest>,
    ) -> Result<Response<v1::ListApprovalsResponse>, Status> {
        let approvals = self.desk.approvals.list(unix_now()).iter().map(|it| it.to_proto()).collect();
        Ok(Response::new(v1::ListApprovalsResponse { approvals }))
    }

    async fn approve(
        &self,
        request: Request<v1::ApproveRequest>,
    ) -> Result<Response<v1::ApproveResponse>, Status> {
        let who = who(&request)?;
        let v1::ApproveRequest { id, digest } = request.into_inner();
        let approved = self
            .desk
            .approvals
            .approve(&id, &digest, (&who.actor, &who.standing), unix_now())
            .map_err(|why| refused(&why))?;
        Ok(Response::new(v1::ApproveResponse { approval: Some(approved.to_proto()) }))
    }

    async fn deny(&self, request: Request<v1::DenyRequest>) -> Result<Response<v1::DenyResponse>, Status> {
        let who = who(&request)?;
        let id = request.into_inner().id;
        self.desk
            .approvals
            .deny(&id, (&who.actor, &who.standing), unix_now())
            .map_err(|why| refused(&why))?;
        Ok(Response::new(v1::DenyResponse {}))
    }
}
