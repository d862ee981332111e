//! What operators may see and do. Who may, and the record of it, are the guard's ([`crate::operators::guard`]):
//! what comes here was let through.

use std::sync::Arc;
use std::time::Duration;

use signet_ca::{Authority, NameError, Revocation, UserName};
use signet_identity::{KeyId, PeerClass, Serial, SpiffeId, TrustDomain};
use signet_model::WorkloadId;
use signet_proto::v1::{self, reinstate_request, revoke_request::What};
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{convert, people};
use crate::chains::{Chains, shown};
use crate::decisions::{Decisions, Found};
use crate::delivery::spread::Spread;
use crate::delivery::table::Table;
use crate::issuers::Issuers;
use crate::metrics::Metrics;
use crate::registrar::peer_class;
use crate::registry::State;

/// No request of an operator is long.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// What a list is without a number, and at most.
const LIST: u32 = 100;
const LIST_MAX: u32 = 10_000;
/// Calls that wait for a revocation at a time.
pub const WAITS: usize = 64;
/// Words of a revocation's reason.
const MAX_REASON: usize = 1_024;

/// The service.
#[derive(Clone)]
pub struct Operators {
    pub authority: Authority,
    pub trust_domain: TrustDomain,
    pub dev: bool,
    pub advertise_bootstrap: String,
    pub advertise_mesh: String,
    pub registry: watch::Receiver<State>,
    pub generation: Arc<arc_swap::ArcSwap<signet_identity::Generation>>,
    pub issuers: Arc<Issuers>,
    pub table: Arc<Table>,
    pub spread: Arc<Spread>,
    /// Room for those who wait for a revocation.
    pub waits: Arc<Semaphore>,
    pub decisions: Arc<Decisions>,
    pub chains: Arc<Chains>,
    pub metrics: Metrics,
}

/// One call, counted when it ends, however it ends.
pub(super) struct Call {
    name: &'static str,
    actor: String,
    metrics: Metrics,
}

impl Call {
    pub(super) fn begin<T>(
        name: &'static str,
        request: &Request<T>,
        metrics: &Metrics,
    ) -> Result<Self, Status> {
        let actor = people::who(request)?.actor.clone();
        Ok(Self { name, actor, metrics: metrics.clone() })
    }

    pub(super) fn actor(&self) -> String {
        self.actor.clone()
    }

    pub(super) fn end<T>(self, detail: &str, result: Result<T, Status>) -> Result<Response<T>, Status> {
        let code = result.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
        let code = format!("{code:?}");
        tracing::debug!(target: "signet::operator", call = self.name, actor = self.actor, code, detail, "operator call");
        self.metrics.operator_calls.with_label_values(&[self.name, &code]).inc();
        result.map(Response::new)
    }
}

impl Operators {
    pub(super) fn call<T>(&self, name: &'static str, request: &Request<T>) -> Result<Call, Status> {
        Call::begin(name, request, &self.metrics)
    }

    fn status(&self) -> v1::StatusResponse {
        let own = self.generation.load();
        let own = own.own().svid();
        let mut certificates: Vec<v1::CertificateStatus> = self
            .authority
            .certificates()
            .into_iter()
            .map(|c| v1::CertificateStatus {
                role: match c.phase {
                    "active" => c.role.to_owned(),
                    phase => format!("{} ({phase})", c.role),
                },
                serial: c.serial.to_string(),
                subject: c.subject,
                not_after: c.not_after,
            })
            .collect();
        certificates.push(v1::CertificateStatus {
            role: "control-plane".into(),
            serial: own.serial.to_string(),
            subject: own.id.to_string(),
            not_after: own.not_after,
        });
        let registry = self.registry.borrow().clone();
        let issuers = self.issuers.states();
        let permissive = registry.registry.services().flat_map(|service| {
            let ports = service.spec.ports.iter();
            ports.filter_map(|port| {
                Some(v1::PermissivePort {
                    service: service.name.to_string(),
                    port: port.name.to_string(),
                    until: port.permissive?.until.unix(),
                })
            })
        });
        let permissive = permissive.collect();
        v1::StatusResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            trust_domain: self.trust_domain.to_string(),
            certificates,
            sidecars: u32::try_from(self.table.len()).unwrap_or(u32::MAX),
            registry_loaded_at: registry.loaded_at,
            registry_errors: registry.errors,
            registry_warnings: registry.registry.warnings().into_iter().chain(registry.warnings).collect(),
            issuers: issuers
                .iter()
                .map(|(alias, keys)| v1::IssuerStatus {
                    alias: alias.clone(),
                    keys: u32::try_from(keys.keys).unwrap_or(u32::MAX),
                    fetched_at: keys.fetched_at,
                    error: keys.error.clone(),
                })
                .collect(),
            dev: self.dev,
            permissive,
        }
    }

    async fn join_token(
        &self,
        asked: v1::CreateJoinTokenRequest,
        actor: &str,
    ) -> Result<v1::JoinBundle, Status> {
        let bad = |e: &dyn std::fmt::Display| Status::invalid_argument(e.to_string());
        let id = SpiffeId::parse(&asked.spiffe_id).map_err(|e| bad(&e))?;
        let class: PeerClass = asked.peer_class.parse().map_err(|e| bad(&e))?;
        let ttl = match u64::try_from(asked.ttl_seconds) {
            Ok(0) => None,
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => return Err(Status::invalid_argument("ttl_seconds is negative")),
        };
        self.registered(&id, class)?;
        let token = self
            .authority
            .create_join_token(id, class, ttl, actor)
            .await
            .map_err(|error| convert::operator_status(&error))?;
        Ok(v1::JoinBundle {
            bootstrap_address: self.advertise_bootstrap.clone(),
            mesh_address: self.advertise_mesh.clone(),
            trust_domain: self.trust_domain.to_string(),
            root_sha256: self.authority.root_sha256().to_string(),
            token: token.text.expose().to_owned(),
            spiffe_id: token.spiffe_id.to_string(),
            expires_at: token.expires_at,
            control_plane: self.authority.control_plane_id().to_string(),
        })
    }

    /// The authority asks again when the token is used; here the operator learns of a slip at once.
    fn registered(&self, id: &SpiffeId, class: PeerClass) -> Result<(), Status> {
        let Some(workload) = WorkloadId::of(id, &self.trust_domain) else {
            return Err(Status::invalid_argument(format!(
                "expected an identity spiffe://{}/ns/<namespace>/sa/<account>, got {id}",
                self.trust_domain
            )));
        };
        let registry = Arc::clone(&self.registry.borrow().registry);
        match registry.workload(&workload).map(|w| peer_class(w.spec.class)) {
            Some(listed) if listed == class => Ok(()),
            Some(listed) => Err(Status::failed_precondition(format!(
                "the registry lists {workload} with class {listed}, not {class}"
            ))),
            None => Err(Status::failed_precondition(format!(
                "the registry has no Workload {workload}: add one to let it join"
            ))),
        }
    }

    async fn revoke_what(&self, asked: v1::RevokeRequest, actor: &str) -> Result<v1::RevokeResponse, Status> {
        let what = revocation(asked.what, &asked.reason)?;
        let what = self.with_lifetime(what)?;
        let sequence = self
            .authority
            .revoke(what, &asked.reason, actor)
            .await
            .map_err(|error| convert::operator_status(&error))?;
        Ok(v1::RevokeResponse { sequence })
    }

    /// A session or token stays revoked as long as its Issuer's tokens may live. An alias that no Issuer has would revoke
    /// nothing, and whoever mistyped it believe it did.
    fn with_lifetime(&self, what: Revocation) -> Result<Revocation, Status> {
        let registry = &self.registry.borrow().registry;
        let of_issuer = |name: UserName| match registry.issuer(name.alias()) {
            Some(issuer) => {
                let lifetime = issuer.spec.max_lifetime.seconds();
                Ok(name.of_issuer(i64::try_from(lifetime).unwrap_or(i64::MAX)))
            }
            None => {
                let known: Vec<_> = registry.issuers().map(|issuer| issuer.name.as_str()).collect();
                Err(Status::invalid_argument(format!(
                    "the registry has no Issuer `{}`; expected one of: {}",
                    name.alias(),
                    known.join(", ")
                )))
            }
        };
        Ok(match what {
            Revocation::User(name) => Revocation::User(of_issuer(name)?),
            Revocation::Logout(name) => Revocation::Logout(of_issuer(name)?),
            Revocation::Session(name) => Revocation::Session(of_issuer(name)?),
            Revocation::Token(name) => Revocation::Token(of_issuer(name)?),
            other => other,
        })
    }

    async fn reinstate_what(
        &self,
        asked: v1::ReinstateRequest,
        actor: &str,
    ) -> Result<v1::ReinstateResponse, Status> {
        let what = revocation(asked.what.map(same), &asked.reason)?;
        let sequence = self
            .authority
            .reinstate(what, &asked.reason, actor)
            .await
            .map_err(|error| convert::operator_status(&error))?
            .ok_or_else(|| Status::not_found("it is not revoked, or what it names has ended by itself"))?;
        Ok(v1::ReinstateResponse { sequence })
    }

    async fn verify(&self) -> Result<v1::VerifyLogResponse, Status> {
        let verified =
            self.authority.verify_chain().await.map_err(|error| convert::operator_status(&error.into()))?;
        Ok(v1::VerifyLogResponse {
            records: verified.records,
            head: convert::hex(&verified.head),
            revocations: verified.revocations,
        })
    }

    /// What the control plane's registry says of a service, or of each.
    fn policies(&self, service: &str) -> Result<v1::ListPoliciesResponse, Status> {
        let registry = Arc::clone(&self.registry.borrow().registry);
        let services = registry.services().filter(|it| service.is_empty() || it.name.to_string() == service);
        let services: Vec<_> = services
            .map(|service| v1::GovernedService {
                service: service.name.to_string(),
                ports: service
                    .spec
                    .ports
                    .iter()
                    .map(|port| (port.name.to_string(), port.protocol.as_str().to_owned()))
                    .collect(),
                documents: registry
                    .governing(&service.name)
                    .iter()
                    .map(signet_model::PolicyDocument::canonical_json)
                    .collect(),
            })
            .collect();
        if services.is_empty() && !service.is_empty() {
            return Err(Status::not_found(format!("expected a service of the registry, got {service:?}")));
        }
        Ok(v1::ListPoliciesResponse {
            trust_domain: self.trust_domain.to_string(),
            default_allow: registry.mesh().spec.default_action == signet_model::DefaultAction::Allow,
            services,
        })
    }

    fn explain(&self, id: &str) -> Result<v1::ExplainDecisionResponse, Status> {
        match self.decisions.find(id) {
            Found::None => Err(Status::not_found("no such decision: unknown, or older than what is kept")),
            Found::One(record) => Ok(v1::ExplainDecisionResponse {
                at_ms: record.at_ms,
                workload: record.workload.clone(),
                json: record.json.clone(),
            }),
            Found::Disputed(workloads) => Err(Status::failed_precondition(format!(
                "several workloads reported this id, so one of them made it up: {}; `signet authz list` shows each",
                workloads.join(", ")
            ))),
        }
    }
}

/// What is named to be revoked or reinstated.
fn revocation(what: Option<What>, reason: &str) -> Result<Revocation, Status> {
    let bad = |e: &dyn std::fmt::Display| Status::invalid_argument(e.to_string());
    let user = |name: &str| name.parse::<UserName>().map_err(|error| bad(&error));
    if reason.len() > MAX_REASON {
        return Err(Status::invalid_argument("the reason is too long"));
    }
    Ok(match what {
        Some(What::Serial(hex)) => Revocation::Serial(hex.parse::<Serial>().map_err(|e| bad(&e))?),
        Some(What::SpiffeId(id)) => Revocation::Identity(SpiffeId::parse(id).map_err(|e| bad(&e))?),
        Some(What::KeySha256(hex)) => Revocation::Key(hex.parse::<KeyId>().map_err(|e| bad(&e))?),
        Some(What::Delegation(thumbprint)) => Revocation::Delegation(thumbprint),
        Some(What::Lineage(id)) => Revocation::Lineage(id.parse().map_err(|e: NameError| bad(&e))?),
        Some(What::Instance(name)) => Revocation::Instance(name.parse().map_err(|e: NameError| bad(&e))?),
        Some(What::User(name)) => Revocation::User(user(&name)?),
        Some(What::Logout(name)) => Revocation::Logout(user(&name)?),
        Some(What::Session(name)) => Revocation::Session(user(&name)?),
        Some(What::Token(name)) => Revocation::Token(user(&name)?),
        None => {
            return Err(Status::invalid_argument("expected what is meant: a serial, a SPIFFE ID, a user …"));
        }
    })
}

/// The two requests name things alike.
fn same(what: reinstate_request::What) -> What {
    match what {
        reinstate_request::What::Serial(serial) => What::Serial(serial),
        reinstate_request::What::SpiffeId(id) => What::SpiffeId(id),
        reinstate_request::What::KeySha256(key) => What::KeySha256(key),
        reinstate_request::What::Delegation(thumbprint) => What::Delegation(thumbprint),
        reinstate_request::What::Lineage(id) => What::Lineage(id),
        reinstate_request::What::Instance(name) => What::Instance(name),
        reinstate_request::What::User(name) => What::User(name),
        reinstate_request::What::Logout(name) => What::Logout(name),
        reinstate_request::What::Session(name) => What::Session(name),
        reinstate_request::What::Token(name) => What::Token(name),
    }
}

fn limit(asked: u32) -> u32 {
    if asked == 0 { LIST } else { asked.min(LIST_MAX) }
}

#[tonic::async_trait]
impl v1::operator_server::Operator for Operators {
    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        self.call("status", &request)?.end("", Ok(self.status()))
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::JoinBundle>, Status> {
        let call = self.call("create_join_token", &request)?;
        let asked = request.into_inner();
        let id = asked.spiffe_id.clone();
        let result = self.join_token(asked, &call.actor()).await;
        call.end(&id, result)
    }

    async fn list_issuances(
        &self,
        request: Request<v1::ListIssuancesRequest>,
    ) -> Result<Response<v1::ListIssuancesResponse>, Status> {
        let call = self.call("list_issuances", &request)?;
        let records = self.authority.records(limit(request.into_inner().limit)).await;
        let result = records
            .map(|records| v1::ListIssuancesResponse {
                records: records.iter().map(convert::record).collect(),
            })
            .map_err(|error| convert::operator_status(&error));
        call.end("", result)
    }

    type WatchIssuancesStream = ReceiverStream<Result<v1::IssuanceRecord, Status>>;

    async fn watch_issuances(
        &self,
        request: Request<v1::WatchIssuancesRequest>,
    ) -> Result<Response<Self::WatchIssuancesStream>, Status> {
        let call = self.call("watch_issuances", &request)?;
        let mut records = self.authority.subscribe();
        let (tell, told) = mpsc::channel(64);
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    () = tell.closed() => return,
                    record = records.recv() => match record {
                        Ok(record) => Ok(convert::record(&record)),
                        Err(broadcast::error::RecvError::Closed) => return,
                        Err(broadcast::error::RecvError::Lagged(lost)) => {
                            Err(Status::data_loss(format!("{lost} records were missed: list them")))
                        }
                    },
                };
                let last = message.is_err();
                if tell.send(message).await.is_err() || last {
                    return;
                }
            }
        });
        call.end("", Ok(ReceiverStream::new(told)))
    }

    async fn revoke(
        &self,
        request: Request<v1::RevokeRequest>,
    ) -> Result<Response<v1::RevokeResponse>, Status> {
        let call = self.call("revoke", &request)?;
        let asked = request.into_inner();
        let detail = format!("{:?}", asked.what);
        let result = self.revoke_what(asked, &call.actor()).await;
        call.end(&detail, result)
    }

    async fn await_revocations(
        &self,
        request: Request<v1::AwaitRevocationsRequest>,
    ) -> Result<Response<v1::AwaitRevocationsResponse>, Status> {
        let call = self.call("await_revocations", &request)?;
        let result = self.await_sequence(request.into_inner()).await;
        call.end("", result)
    }

    async fn reinstate(
        &self,
        request: Request<v1::ReinstateRequest>,
    ) -> Result<Response<v1::ReinstateResponse>, Status> {
        let call = self.call("reinstate", &request)?;
        let asked = request.into_inner();
        let detail = format!("{:?}", asked.what);
        let result = self.reinstate_what(asked, &call.actor()).await;
        call.end(&detail, result)
    }

    async fn verify_log(
        &self,
        request: Request<v1::VerifyLogRequest>,
    ) -> Result<Response<v1::VerifyLogResponse>, Status> {
        let call = self.call("verify_log", &request)?;
        let result = self.verify().await;
        let detail = result.as_ref().err().map(|status| status.message().to_owned()).unwrap_or_default();
        call.end(&detail, result)
    }

    async fn explain_decision(
        &self,
        request: Request<v1::ExplainDecisionRequest>,
    ) -> Result<Response<v1::ExplainDecisionResponse>, Status> {
        let call = self.call("explain_decision", &request)?;
        let id = request.into_inner().id;
        call.end(&format!("{id:?}"), self.explain(&id))
    }

    async fn list_decisions(
        &self,
        request: Request<v1::ListDecisionsRequest>,
    ) -> Result<Response<v1::ListDecisionsResponse>, Status> {
        let call = self.call("list_decisions", &request)?;
        let asked = request.into_inner();
        let limit = usize::try_from(limit(asked.limit)).unwrap_or(0);
        let newest = self.decisions.newest(limit, asked.since_ms, asked.beside);
        let decisions = newest
            .iter()
            .map(|r| v1::DecisionSummary {
                id: r.id.clone(),
                at_ms: r.at_ms,
                workload: r.workload.clone(),
                json: r.json.clone(),
            })
            .collect();
        call.end("", Ok(v1::ListDecisionsResponse { decisions }))
    }

    async fn explain_chain(
        &self,
        request: Request<v1::ExplainChainRequest>,
    ) -> Result<Response<v1::ExplainChainResponse>, Status> {
        let call = self.call("explain_chain", &request)?;
        let txn = request.into_inner().txn;
        let chain = shown::chain(&self.chains, &self.authority, &txn).await;
        let answer =
            chain.map(|chain| v1::ExplainChainResponse { json: chain.to_string() }).ok_or_else(|| {
                Status::not_found("no call of this transaction is known here, or it is not kept any more")
            });
        call.end(&format!("{txn:?}"), answer)
    }

    async fn list_chains(
        &self,
        request: Request<v1::ListChainsRequest>,
    ) -> Result<Response<v1::ListChainsResponse>, Status> {
        let call = self.call("list_chains", &request)?;
        let limit = usize::try_from(limit(request.into_inner().limit)).unwrap_or(0);
        let found = self.chains.found(limit).into_iter().map(|call| v1::ImpossibleCall {
            txn: call.txn.to_string(),
            at_ms: call.at_ms,
            caller: call.caller.to_string(),
            callee: call.callee.to_string(),
            service: call.service.to_string(),
        });
        call.end("", Ok(v1::ListChainsResponse { calls: found.collect() }))
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        let call = self.call("list_policies", &request)?;
        let service = request.into_inner().service;
        call.end(&format!("{service:?}"), self.policies(&service))
    }

    async fn list_sidecars(
        &self,
        request: Request<v1::ListSidecarsRequest>,
    ) -> Result<Response<v1::ListSidecarsResponse>, Status> {
        let call = self.call("list_sidecars", &request)?;
        call.end("", Ok(v1::ListSidecarsResponse { sidecars: self.table.list() }))
    }

    async fn list_handshakes(
        &self,
        request: Request<v1::ListHandshakesRequest>,
    ) -> Result<Response<v1::ListHandshakesResponse>, Status> {
        let call = self.call("list_handshakes", &request)?;
        let report = serde_json::to_string(&self.metrics.incidents.report());
        let answer = report.map(|json| v1::ListHandshakesResponse { json });
        call.end("", answer.map_err(|error| Status::internal(error.to_string())))
    }
}
