//! A root that is kept elsewhere: what it is to sign goes out, and what it signed comes in.

use signet_ca::{Authority, AuthorityError, Imported, RootRequest};
use signet_proto::v1;
use tonic::{Request, Response, Status};

use super::{convert, people};
use crate::metrics::Metrics;

/// The service.
#[derive(Clone)]
pub struct Roots {
    pub authority: Authority,
    pub metrics: Metrics,
}

impl Roots {
    fn end<T>(&self, call: &str, result: Result<T, AuthorityError>) -> Result<T, Status> {
        let result = result.map_err(|error| match error {
            // Of what was handed in: the caller is to know all of it.
            AuthorityError::External(_) => Status::invalid_argument(error.to_string()),
            other => convert::operator_status(&other),
        });
        let code = result.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
        self.metrics.operator_calls.with_label_values(&[call, &format!("{code:?}")]).inc();
        result
    }
}

#[tonic::async_trait]
impl v1::roots_server::Roots for Roots {
    async fn request_root(
        &self,
        request: Request<v1::RequestRootRequest>,
    ) -> Result<Response<v1::RequestRootResponse>, Status> {
        let actor = people::who(&request)?.actor.clone();
        let result = self.authority.root_request(&actor).await;
        let RootRequest { id, pem } = self.end("request_root", result)?;
        Ok(Response::new(v1::RequestRootResponse { id, request_pem: pem }))
    }

    async fn import_root(
        &self,
        request: Request<v1::ImportRootRequest>,
    ) -> Result<Response<v1::ImportRootResponse>, Status> {
        let actor = people::who(&request)?.actor.clone();
        let pem = request.into_inner().chain_pem.into_bytes();
        let result = self.authority.import_root(pem, &actor).await;
        let Imported { id, root_sha256, not_after, phase, warnings } = self.end("import_root", result)?;
        let phase = phase.as_str().to_owned();
        Ok(Response::new(v1::ImportRootResponse { id, root_sha256, not_after, phase, warnings }))
    }
}
