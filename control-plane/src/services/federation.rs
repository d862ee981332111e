//! What operators may see and do about federated trust domains, on the Unix socket.

use std::sync::Arc;

use signet_identity::{SpiffeId, TrustDomain};
use signet_model::EndpointProfile;
use signet_proto::v1;
use tonic::{Request, Response, Status};

use super::operator::Call;
use crate::bundle::page::Pages;
use crate::federation::{DomainState, Federation};
use crate::metrics::Metrics;

/// The service.
#[derive(Clone)]
pub struct Federated {
    pub federation: Arc<Federation>,
    pub pages: Arc<Pages>,
    pub trust_domain: TrustDomain,
    pub control_plane: SpiffeId,
    pub metrics: Metrics,
}

impl Federated {
    async fn refresh(&self, domain: &str) -> Result<v1::FederatedStatus, Status> {
        let domain =
            TrustDomain::parse(domain).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if !self.federation.states().contains_key(&domain) {
            return Err(Status::not_found(format!(
                "{domain} is not federated: add a FederatedTrustDomain to the registry"
            )));
        }
        let state = self.federation.refresh(&domain).await;
        state.as_ref().map(status).ok_or_else(|| {
            Status::deadline_exceeded(
                "no answer in time; the fetch goes on, and `signet federation list` has its end",
            )
        })
    }

    fn export(&self) -> Result<v1::ExportBundleResponse, Status> {
        let page = self.pages.bundle().map_err(|error| Status::unavailable(error.to_string()))?;
        let document = String::from_utf8(page.body.to_vec())
            .map_err(|_| Status::internal("a bundle document that is no text"))?;
        Ok(v1::ExportBundleResponse {
            trust_domain: self.trust_domain.to_string(),
            endpoint_id: self.control_plane.to_string(),
            document,
        })
    }
}

fn status(state: &DomainState) -> v1::FederatedStatus {
    let (profile, endpoint_id) = match &state.spec.profile {
        EndpointProfile::Spiffe(profile) => ("https_spiffe", profile.endpoint_id.to_string()),
        EndpointProfile::Web(_) => ("https_web", String::new()),
    };
    let held = state.held.as_deref();
    let document = held.map(|held| &held.document);
    let roots = document.and_then(|document| document.roots());
    let jwt = document.map(|document| document.jwt_keys().keys()).unwrap_or_default();
    v1::FederatedStatus {
        name: state.name.clone(),
        trust_domain: state.spec.trust_domain.to_string(),
        url: state.spec.url.to_string(),
        profile: profile.to_owned(),
        endpoint_id,
        held: held.is_some(),
        roots_sha256: roots.iter().flat_map(|roots| roots.digests()).map(|it| it.to_string()).collect(),
        jwt_kids: jwt.iter().filter_map(|key| key.kid()).map(str::to_owned).collect(),
        ignored: document.map_or(0, |document| u32::try_from(document.ignored()).unwrap_or(u32::MAX)),
        sequence: document.and_then(|document| document.sequence()),
        refresh_hint: document.and_then(|document| document.refresh_hint()).map(|hint| hint.as_secs()),
        initial: held.is_some_and(|held| held.is_initial),
        confirmed_at: state.confirmed_at,
        error: state.error.clone(),
    }
}

#[tonic::async_trait]
impl v1::federation_server::Federation for Federated {
    async fn list_federated(
        &self,
        request: Request<v1::ListFederatedRequest>,
    ) -> Result<Response<v1::ListFederatedResponse>, Status> {
        let call = Call::begin("list_federated", &request, &self.metrics)?;
        let domains = self.federation.states().values().map(status).collect();
        call.end("", Ok(v1::ListFederatedResponse { domains }))
    }

    async fn refresh_federated(
        &self,
        request: Request<v1::RefreshFederatedRequest>,
    ) -> Result<Response<v1::FederatedStatus>, Status> {
        let call = Call::begin("refresh_federated", &request, &self.metrics)?;
        let domain = request.into_inner().trust_domain;
        let result = self.refresh(&domain).await;
        call.end(&format!("{domain:?}"), result)
    }

    async fn export_bundle(
        &self,
        request: Request<v1::ExportBundleRequest>,
    ) -> Result<Response<v1::ExportBundleResponse>, Status> {
        Call::begin("export_bundle", &request, &self.metrics)?.end("", self.export())
    }
}
