//! Before a disaster a copy is made; after it, what an older store forgot, or a stolen key may have made, is taken out of
//! use.

use signet_ca::{Authority, Backup, Recovered, Recovery as Plan};
use signet_proto::v1;
use tonic::{Request, Response, Status};

use super::{convert, people};
use crate::metrics::Metrics;

/// The longest reason that is kept.
const MAX_REASON: usize = 256;

/// The service.
#[derive(Clone)]
pub struct Recovery {
    pub authority: Authority,
    pub metrics: Metrics,
}

#[tonic::async_trait]
impl v1::recovery_server::Recovery for Recovery {
    async fn recover(
        &self,
        request: Request<v1::RecoverRequest>,
    ) -> Result<Response<v1::RecoverResponse>, Status> {
        let actor = people::who(&request)?.actor.clone();
        let v1::RecoverRequest { root, issuers, reason } = request.into_inner();
        let plan = Plan { root, issuers };
        let result = if reason.trim().is_empty() || reason.len() > MAX_REASON {
            let found = reason.len();
            Err(Status::invalid_argument(format!("reason: expected 1 to {MAX_REASON} bytes, found {found}")))
        } else {
            let done = self.authority.recover(plan, &reason, &actor).await;
            done.map_err(|error| convert::operator_status(&error))
        };
        let code = result.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
        self.metrics.operator_calls.with_label_values(&["recover", &format!("{code:?}")]).inc();
        let Recovered { tokens, lineages, tainted } = result?;
        Ok(Response::new(v1::RecoverResponse { join_tokens: tokens, chains: lineages, tainted }))
    }

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<v1::BackupResponse>, Status> {
        let actor = people::who(&request)?.actor.clone();
        let result = self.authority.backup(&actor).await.map_err(|error| convert::operator_status(&error));
        let code = result.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
        self.metrics.operator_calls.with_label_values(&["backup", &format!("{code:?}")]).inc();
        let Backup { folder, name, at, log_sequence, files, bytes, store, removed } = result?;
        let folder = folder.display().to_string();
        Ok(Response::new(v1::BackupResponse { folder, name, at, log_sequence, files, bytes, store, removed }))
    }
}
