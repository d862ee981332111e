//! The SPIFFE Workload API (SPIFFE_Workload_API.md): X.509 and JWT, identities and bundles.
//!
//! Every call needs the header `workload.spiffe.io: true`, exactly once: a program that was led here by somebody else
//! (a browser, a proxy) does not send it. Workload identity tokens (WIT) are not offered: those calls are answered
//! `UNIMPLEMENTED` like every unknown one.

use std::collections::BTreeMap;
use std::sync::Arc;

use signet_daemon::Clock;
use signet_identity::{RevocationList, SpiffeId, TrustBundle};
use signet_proto::spiffe::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse, spiffe_workload_api_server::SpiffeWorkloadApi,
};
use signet_token::jwt_svid;
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};

use crate::feed::{self, Connection, Out};
use crate::metrics::Metrics;
use crate::provider::{Provider, Refused, Served};

/// The header that a client of this API sends.
const HEADER: &str = "workload.spiffe.io";
/// Tokens being fetched at once: each is a call to the authority.
const FETCHING: usize = 16;

/// The service.
#[derive(Clone)]
pub(crate) struct Api {
    provider: Arc<dyn Provider>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    fetching: Arc<Semaphore>,
}

impl Api {
    pub(crate) fn new(provider: Arc<dyn Provider>, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        Self { provider, clock, metrics, fetching: Arc::new(Semaphore::new(FETCHING)) }
    }

    /// The connection of a call that has the header.
    fn enter<T>(request: &Request<T>) -> Result<Connection, Status> {
        let mut values = request.metadata().get_all(HEADER).iter();
        let said = match (values.next(), values.next()) {
            (Some(value), None) => value.as_bytes() == b"true",
            _ => false,
        };
        if !said {
            return Err(Status::invalid_argument(format!(
                "expected the header {HEADER}: true, exactly once"
            )));
        }
        Connection::of(request)
    }

    /// Counts a call by its answer, or by how its stream began.
    fn counted<T>(&self, call: &'static str, answer: Result<T, Status>) -> Result<Response<T>, Status> {
        self.metrics.call(call, outcome(&answer));
        answer.map(Response::new)
    }

    async fn tokens(
        &self,
        connection: &Connection,
        request: JwtsvidRequest,
    ) -> Result<JwtsvidResponse, Status> {
        if !jwt_svid::are_audiences(&request.audience) {
            return Err(Status::invalid_argument(
                "expected 1 to 16 different audiences of 1 to 1024 bytes without control characters",
            ));
        }
        let wanted = match request.spiffe_id.as_str() {
            "" => None,
            id => Some(SpiffeId::parse(id).map_err(|error| {
                Status::invalid_argument(format!("spiffe_id: expected a SPIFFE ID: {error}"))
            })?),
        };
        let Ok(_place) = self.fetching.try_acquire() else {
            return Err(Status::resource_exhausted("too many tokens are being fetched; try again"));
        };
        let tokens = self.provider.jwt_svids(&connection.caller, request.audience, wanted).await.map_err(
            |refused| match refused {
                Refused::Denied(why) => feed::no_identity(&why),
                Refused::Invalid(why) => Status::invalid_argument(why),
                Refused::Exhausted(why) => Status::resource_exhausted(why),
                Refused::Unavailable(why) => Status::unavailable(why),
            },
        )?;
        let svids = tokens.into_iter().map(|token| Jwtsvid {
            spiffe_id: token.spiffe_id.to_string(),
            svid: token.token,
            hint: token.hint,
        });
        Ok(JwtsvidResponse { svids: svids.collect() })
    }

    async fn validate(
        &self,
        connection: &Connection,
        request: &ValidateJwtsvidRequest,
    ) -> Result<ValidateJwtsvidResponse, Status> {
        if request.audience.is_empty() {
            return Err(Status::invalid_argument("expected an audience"));
        }
        let served = feed::now(&*self.provider, connection).await?;
        let now = u64::try_from(self.clock.now_unix()).unwrap_or(0);
        let keys = |subject: &str| {
            let id = SpiffeId::parse(subject).ok().filter(|id| !id.is_root())?;
            Some(served.bundles.jwt.get(id.trust_domain()).map(|bundle| bundle.keys()))
        };
        let svid = jwt_svid::verify(&request.svid, &request.audience, keys, now)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let claims = svid.claims.into_iter().map(|(name, value)| (name, protobuf(value)));
        Ok(ValidateJwtsvidResponse {
            spiffe_id: svid.subject,
            claims: Some(prost_types::Struct { fields: claims.collect() }),
        })
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Api {
    type FetchX509SVIDStream = Out<X509svidResponse>;
    type FetchX509BundlesStream = Out<X509BundlesResponse>;
    type FetchJWTBundlesStream = Out<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let begin = |connection: Connection| {
            let state = self.provider.serve(&connection.caller);
            feed::stream(state, connection, mark_svids, x509_svids)
        };
        self.counted("FetchX509SVID", Self::enter(&request).map(begin))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let mark = |served: &Served| digest(roots(served).chain(crls(served)));
        let make = |served: &Served| X509BundlesResponse {
            crl: crls(served).map(<[u8]>::to_vec).collect(),
            bundles: served
                .bundles
                .x509
                .iter()
                .map(|bundle| (domain_id(bundle), concatenated(bundle)))
                .collect(),
        };
        let begin = |connection: Connection| {
            feed::stream(self.provider.serve(&connection.caller), connection, mark, make)
        };
        self.counted("FetchX509Bundles", Self::enter(&request).map(begin))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let answer = match Self::enter(&request) {
            Ok(connection) => self.tokens(&connection, request.into_inner()).await,
            Err(status) => Err(status),
        };
        self.counted("FetchJWTSVID", answer)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let mark = |served: &Served| {
            let all = jwt_documents(served);
            digest(all.iter().flat_map(|(name, document)| [name.as_bytes(), document.as_slice()]))
        };
        let make = |served: &Served| JwtBundlesResponse { bundles: jwt_documents(served) };
        let begin = |connection: Connection| {
            feed::stream(self.provider.serve(&connection.caller), connection, mark, make)
        };
        self.counted("FetchJWTBundles", Self::enter(&request).map(begin))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let answer = match Self::enter(&request) {
            Ok(connection) => self.validate(&connection, request.get_ref()).await,
            Err(status) => Err(status),
        };
        self.counted("ValidateJWTSVID", answer)
    }
}

/// A short word for a counter.
pub(crate) fn outcome<T>(answer: &Result<T, Status>) -> &'static str {
    match answer.as_ref().map_err(Status::code) {
        Ok(_) => "ok",
        Err(Code::InvalidArgument) => "invalid",
        Err(Code::PermissionDenied) => "denied",
        Err(Code::Unavailable) => "unavailable",
        Err(Code::ResourceExhausted) => "exhausted",
        Err(_) => "failed",
    }
}

fn mark_svids(served: &Served) -> Vec<u8> {
    let ids = served.identities.iter().flat_map(|identity| {
        let facts = [identity.id().as_str().as_bytes(), identity.hint.as_bytes()];
        facts.into_iter().chain(identity.svid.chain().iter().map(AsRef::as_ref))
    });
    digest(ids.chain(roots(served)).chain(crls(served)))
}

fn jwt_documents(served: &Served) -> BTreeMap<String, Vec<u8>> {
    let all = served.bundles.jwt.iter();
    all.map(|(domain, bundle)| (format!("spiffe://{domain}"), bundle.document().into_bytes())).collect()
}

fn x509_svids(served: &Served) -> X509svidResponse {
    let own = served.identities.first().map(|identity| identity.id().trust_domain());
    let svids = served.identities.iter().map(|identity| X509svid {
        spiffe_id: identity.id().to_string(),
        x509_svid: identity.svid.chain().iter().flat_map(|der| der.iter().copied()).collect(),
        x509_svid_key: identity.svid.private_key_pkcs8().to_vec(),
        bundle: served
            .bundles
            .x509
            .get(identity.id().trust_domain())
            .map(|bundle| concatenated(bundle))
            .unwrap_or_default(),
        hint: identity.hint.clone(),
    });
    let federated = served.bundles.x509.iter().filter(|bundle| Some(bundle.trust_domain()) != own);
    X509svidResponse {
        svids: svids.collect(),
        crl: crls(served).map(<[u8]>::to_vec).collect(),
        federated_bundles: federated.map(|bundle| (domain_id(bundle), concatenated(bundle))).collect(),
    }
}

fn domain_id(bundle: &Arc<TrustBundle>) -> String {
    format!("spiffe://{}", bundle.trust_domain())
}

fn concatenated(bundle: &TrustBundle) -> Vec<u8> {
    bundle.roots().flat_map(|der| der.iter().copied()).collect()
}

fn roots(served: &Served) -> impl Iterator<Item = &[u8]> {
    served.bundles.x509.iter().flat_map(|bundle| {
        let domain = bundle.trust_domain().as_str().as_bytes();
        std::iter::once(domain).chain(bundle.roots().map(AsRef::as_ref))
    })
}

fn crls(served: &Served) -> impl Iterator<Item = &[u8]> {
    served.bundles.crls.iter().map(RevocationList::der)
}

/// A digest of what a message says in public: two messages of one digest say the same, since a key is never used for
/// two certificates.
pub(crate) fn digest<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    context.finish().as_ref().to_vec()
}

fn protobuf(value: serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    use serde_json::Value;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        // Protocol buffers know no other number.
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        Value::String(value) => Kind::StringValue(value),
        Value::Array(items) => {
            Kind::ListValue(prost_types::ListValue { values: items.into_iter().map(protobuf).collect() })
        }
        Value::Object(members) => Kind::StructValue(prost_types::Struct {
            fields: members.into_iter().map(|(name, value)| (name, protobuf(value))).collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}
