//! The protocol's messages to the domain's types: the only file that knows both.
//!
//! Everything is read here or refused here, with a reason for the control plane; nothing past this file
//! sees a half-read resource. A policy is the exception by design: its document travels on as text, because
//! an unreadable policy must make its target deny and not vanish ([`Inbound::unreadable`] reports it).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use signet_identity::{KeyId, RevocationList, RevocationSet, Serial, SpiffeId, TrustBundle, TrustDomain};
use signet_model::{
    AnyRoute, AuthorizationProvider, ExternalPort, ExternalService, Gateway, GivenRoutes, ObjectName,
    PolicyDocument, TrafficPolicy, TrafficPolicySpec,
};
use signet_proto::v1;
use signet_proxy::state::{
    Calls, EndpointSpec, InboundPort, PlaceSpec, PortSpec, Protocol, ServiceSpec, Sharing, Timeouts,
    UserContext, UserHeaders,
};

use crate::credentials::Delivered;
use signet_token::{IssuerKeys, IssuerSettings, Jwks, RevokedUsers, TokenRoots};

/// A resource of the delivery stream, read.
#[derive(Debug, Clone)]
pub enum Item {
    /// Settings of the mesh.
    Mesh(Mesh),
    /// The roots of one trust domain.
    Bundle(Box<Delivered>),
    /// Who is no longer believed.
    Revocations(Revocations),
    /// Whose word on delegations is believed.
    TokenRoots(TokenKeys),
    /// An outside issuer with its keys.
    Issuer(Box<IssuerKeys>),
    /// A service that we dial.
    Service(Dialled),
    /// Where the requests to a service go.
    Routes(Routed),
    /// A place outside the mesh that we may call.
    External(Box<External>),
    /// A service that we serve.
    Inbound(Inbound),
    /// Who is asked about requests to such a service.
    Provider(Box<Asked>),
    /// The gateway that we are, with the routes that are attached to its listeners.
    Gateway(Arc<Gateway>, Arc<GivenRoutes>),
    /// Our app may have certificates of its own.
    Workload,
    /// What we, an agent, may vouch for.
    Processes(v1::ProcessEntries),
    /// Revocation lists for our app or for processes.
    RevocationLists(Arc<[RevocationList]>),
}

/// Whose word on delegations is believed.
#[derive(Debug, Clone)]
pub struct TokenKeys {
    /// All of them.
    pub roots: Arc<TokenRoots>,
    /// Those that may be in other hands, by `kid`.
    pub tainted: Arc<BTreeSet<String>>,
}

/// Settings of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh {
    /// Ours.
    pub trust_domain: TrustDomain,
    /// What happens to a request that no policy names.
    pub default_allow: bool,
    /// What happens to a call to a place outside the mesh that is not listed.
    pub egress_allow: bool,
    /// The issuer of transaction tokens, and their audience.
    pub token_issuer: String,
    /// How long a connection may live.
    pub max_connection_age: Option<Duration>,
    /// How old our view may be for it to vouch for a peer whose SVID has ended.
    pub max_staleness: Duration,
    /// Namespaces in which there are services.
    pub namespaces: Vec<String>,
}

/// Who is no longer believed.
#[derive(Debug, Clone)]
pub struct Revocations {
    /// Certificates, identities and keys.
    pub peers: Arc<RevocationSet>,
    /// Thumbprints of delegated keys.
    pub delegations: Arc<HashSet<String>>,
    /// Users, sessions and tokens.
    pub users: Arc<RevokedUsers>,
    /// Kinds that this version does not know, and whose entries it must not pass over: while they stand it believes
    /// no user context.
    pub unknown: BTreeSet<String>,
}

impl Revocations {
    /// Why the set is taken and yet not enforced as it was meant.
    pub fn unenforced(&self) -> Option<String> {
        let kinds: Vec<_> = self.unknown.iter().map(String::as_str).collect();
        (!kinds.is_empty()).then(|| {
            format!(
                "revocations of a kind that this version does not know: {}; no user context is believed until it is upgraded or they are lifted",
                kinds.join(", ")
            )
        })
    }
}

/// A service that we dial.
#[derive(Debug, Clone)]
pub struct Dialled {
    /// What the data plane needs of it.
    pub spec: Box<ServiceSpec>,
    /// Which traffic policies cannot be read, and why; it is called without them.
    pub unreadable: Vec<String>,
}

/// A place outside the mesh that we may call.
#[derive(Debug, Clone)]
pub struct External {
    /// `name.namespace`
    pub name: String,
    /// What the data plane needs of it.
    pub spec: PlaceSpec,
}

/// Who is asked about requests to a service that we serve.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `name.namespace`
    pub name: String,
    /// What is said of it, or why that cannot be read; what it would be asked about is then refused.
    pub provider: Result<AuthorizationProvider, String>,
}

/// Where the requests to a service go.
#[derive(Debug, Clone)]
pub struct Routed {
    /// `name.namespace`
    pub service: String,
    /// Compiled.
    pub calls: Arc<Calls>,
}

/// A service that we serve.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// `name.namespace`
    pub service: ObjectName,
    /// Its ports.
    pub ports: Vec<InboundPort>,
    /// Name and document of each policy that targets it.
    pub policies: Vec<(String, String)>,
    /// How many permitted requests a second are recorded.
    pub samples: u32,
    /// Issuers whose original tokens it takes.
    pub issuers: BTreeSet<String>,
    /// Traffic policies that target it; `None` where one cannot be read, and the limits before stay.
    pub traffic: Option<Vec<TrafficPolicySpec>>,
    /// Which policies cannot be read, and why; this service then denies.
    pub unreadable: Vec<String>,
}

/// How much is shown of the kinds of revocations that are not known.
const MAX_KIND: usize = 64;
const MAX_KINDS: usize = 16;

/// What cannot be read, and why; goes back to the control plane.
type Reason = String;

/// Reads one resource. The name and the body must agree.
pub fn resource(resource: &v1::Resource) -> Result<Item, Reason> {
    use v1::resource::Body;
    let Some(body) = &resource.body else {
        return Err("no body, or one of a kind that this version does not know".to_owned());
    };
    let (item, name) = match body {
        Body::Mesh(body) => (Item::Mesh(mesh(body)?), "mesh".to_owned()),
        Body::Bundle(body) => {
            let delivered = bundle(body)?;
            let name = format!("bundle/{}", delivered.bundle.trust_domain());
            (Item::Bundle(Box::new(delivered)), name)
        }
        Body::Revocations(body) => (Item::Revocations(revocations(body)?), "revocations".to_owned()),
        Body::TokenRoots(body) => {
            let roots = TokenRoots::parse(&body.jwks).map_err(|error| format!("jwks: {error}"))?;
            let tainted = Arc::new(body.tainted.iter().cloned().collect());
            (Item::TokenRoots(TokenKeys { roots: Arc::new(roots), tainted }), "token-roots".to_owned())
        }
        Body::Issuer(body) => (Item::Issuer(Box::new(issuer(body)?)), format!("issuer/{}", body.alias)),
        Body::Service(body) => (Item::Service(service(body)?), format!("service/{}", body.name)),
        Body::Routes(body) => (Item::Routes(routes(body)?), format!("routes/{}", body.service)),
        Body::External(body) => {
            let external = external(body)?;
            let name = format!("external/{}", external.name);
            (Item::External(Box::new(external)), name)
        }
        Body::Inbound(body) => (Item::Inbound(inbound(body)?), format!("inbound/{}", body.service)),
        Body::Provider(body) => (Item::Provider(Box::new(provider(body))), format!("provider/{}", body.name)),
        Body::Workload(v1::WorkloadApi {}) => (Item::Workload, "workload".to_owned()),
        Body::Processes(body) => (Item::Processes(body.clone()), "processes".to_owned()),
        Body::RevocationLists(body) => {
            let read = body.lists_der.iter().enumerate().map(|(at, der)| {
                RevocationList::parse(der).map_err(|error| format!("lists_der[{at}]: {error}"))
            });
            (Item::RevocationLists(read.collect::<Result<_, Reason>>()?), "revocation-lists".to_owned())
        }
        Body::Gateway(body) => {
            let gateway = Gateway::from_json(&body.json).map_err(|error| error.to_string())?;
            let name = format!("gateway/{}.{}", gateway.name.name, gateway.name.namespace);
            (Item::Gateway(Arc::new(gateway), documents(&body.routes)?.into()), name)
        }
    };
    if name == resource.name {
        Ok(item)
    } else {
        Err(format!("the body is of {name}, the name says {}", resource.name))
    }
}

fn mesh(body: &v1::Mesh) -> Result<Mesh, Reason> {
    Ok(Mesh {
        trust_domain: TrustDomain::parse(&body.trust_domain)
            .map_err(|error| format!("trust_domain: {error}"))?,
        default_allow: body.default_allow,
        egress_allow: body.egress_allow,
        token_issuer: match body.token_issuer.as_str() {
            "" => signet_token::txn::default_issuer(&body.trust_domain),
            issuer => issuer.to_owned(),
        },
        max_connection_age: seconds("max_connection_age_seconds", body.max_connection_age_seconds)?,
        max_staleness: seconds("max_staleness_seconds", body.max_staleness_seconds)?.unwrap_or_default(),
        namespaces: body.namespaces.clone(),
    })
}

/// Reads a trust bundle; also the one that comes with a certificate.
pub fn bundle(body: &v1::TrustBundle) -> Result<Delivered, Reason> {
    let domain = TrustDomain::parse(&body.trust_domain).map_err(|error| format!("trust_domain: {error}"))?;
    let bundle =
        TrustBundle::new(domain, body.roots_der.iter().map(|der| CertificateDer::from(der.as_slice())))
            .map_err(|error| error.to_string())?;
    let tainted = body.tainted.iter().map(|id| {
        let id: [u8; 32] = id.as_slice().try_into().map_err(|_| "tainted: expected 32 bytes".to_owned())?;
        Ok(KeyId::from_bytes(id))
    });
    let tainted = tainted.collect::<Result<_, Reason>>()?;
    let jwt_keys = match body.jwt_keys.as_str() {
        "" => Jwks::default(),
        keys => Jwks::parse(keys).map_err(|error| format!("jwt_keys: {error}"))?,
    };
    Ok(Delivered { bundle, sequence: body.sequence, tainted, jwt_keys })
}

fn revocations(body: &v1::Revocations) -> Result<Revocations, Reason> {
    let mut peers = RevocationSet::new(body.sequence);
    for (at, serial) in body.serials.iter().enumerate() {
        peers.serials.insert(Serial::from_bytes(serial).map_err(|error| format!("serials[{at}]: {error}"))?);
    }
    for (at, id) in body.identities.iter().enumerate() {
        peers.identities.insert(SpiffeId::parse(id).map_err(|error| format!("identities[{at}]: {error}"))?);
    }
    for (at, key) in body.keys.iter().enumerate() {
        let digest = <[u8; 32]>::try_from(key.as_slice())
            .map_err(|_| format!("keys[{at}]: expected a SHA-256 of 32 bytes, got {}", key.len()))?;
        peers.keys.insert(KeyId::from_bytes(digest));
    }
    let (users, unknown) = revoked_users(&body.others);
    Ok(Revocations {
        peers: Arc::new(peers),
        delegations: Arc::new(body.delegations.iter().cloned().collect()),
        users: Arc::new(users),
        unknown,
    })
}

/// Those that this version can tell from others, and the kinds of the rest that it must not pass over.
fn revoked_users(others: &[v1::OtherRevocation]) -> (RevokedUsers, BTreeSet<String>) {
    let (mut users, mut unknown) = (RevokedUsers::default(), BTreeSet::new());
    for other in others {
        let name = std::str::from_utf8(&other.value).ok().filter(|name| name.contains('|'));
        let until = u64::try_from(other.issued_until).ok();
        match (other.kind.as_str(), name, until) {
            ("user", Some(name), Some(0)) => _ = users.users.insert(name.into()),
            ("session", Some(name), Some(0)) => _ = users.sessions.insert(name.into()),
            ("token", Some(name), Some(0)) => _ = users.tokens.insert(name.into()),
            ("logout", Some(name), Some(until @ 1..)) => _ = users.logouts.insert(name.into(), until),
            _ if other.if_unknown() != v1::IfUnknown::RefuseUsers || unknown.len() >= MAX_KINDS => {}
            // Shown to people: printable and short.
            (kind, ..) => {
                unknown.insert(kind.chars().filter(char::is_ascii_graphic).take(MAX_KIND).collect());
            }
        }
    }
    (users, unknown)
}

fn issuer(body: &v1::Issuer) -> Result<IssuerKeys, Reason> {
    let settings = IssuerSettings {
        alias: body.alias.clone(),
        issuer: body.issuer.clone(),
        audiences: body.audiences.clone(),
        algorithms: body.algorithms.clone(),
        token_types: body.token_types.clone(),
        scope_claim: body.scope_claim.clone(),
        max_lifetime: u64::try_from(body.max_lifetime_seconds).ok().filter(|seconds| *seconds != 0),
        claims: body.claims.clone(),
        skew: None,
    };
    let issuer = IssuerKeys::new(settings).map_err(|error| error.to_string())?;
    if body.jwks.is_empty() {
        return Ok(issuer);
    }
    let jwks = Jwks::parse(&body.jwks).map_err(|error| format!("jwks: {error}"))?;
    Ok(issuer.with_keys(Arc::new(jwks), u64::try_from(body.fetched_at).unwrap_or_default()))
}

/// The traffic policies that can be read, and why the others cannot.
fn traffic(documents: &[v1::PolicyDocument]) -> (Vec<TrafficPolicySpec>, Vec<String>) {
    let mut policies = Vec::with_capacity(documents.len());
    let mut unreadable = Vec::new();
    for document in documents {
        match TrafficPolicy::from_json(&document.json) {
            Ok(policy) => policies.push(policy.spec),
            Err(error) => unreadable.push(format!("traffic policy {}: {error}", document.name)),
        }
    }
    (policies, unreadable)
}

fn routes(body: &v1::Routes) -> Result<Routed, Reason> {
    let service = body.service.parse().map_err(|error| format!("service: {error}"))?;
    let routes = documents(&body.routes)?;
    Ok(Routed { service: body.service.clone(), calls: Arc::new(Calls::compile(&service, &routes)) })
}

/// All routes, or the first that cannot be read.
fn documents(documents: &[v1::PolicyDocument]) -> Result<GivenRoutes, Reason> {
    let mut routes = GivenRoutes::default();
    for document in documents {
        let route = AnyRoute::from_json(&document.json)
            .map_err(|error| format!("route {}: {error}", document.name))?;
        let refused: Result<Vec<ObjectName>, _> = document.refused.iter().map(|name| name.parse()).collect();
        routes.add(route, refused.map_err(|error| format!("route {}: refused: {error}", document.name))?);
    }
    Ok(routes)
}

fn provider(body: &v1::Provider) -> Asked {
    let provider = AuthorizationProvider::from_json(&body.json).map_err(|error| error.to_string());
    let provider = provider.and_then(|read| match read.name.to_string() == body.name {
        true => Ok(read),
        false => Err(format!("the document is of {}", read.name)),
    });
    Asked { name: body.name.clone(), provider }
}

fn external(body: &v1::External) -> Result<External, Reason> {
    let service = ExternalService::from_json(&body.json).map_err(|error| error.to_string())?;
    let name = service.name.clone();
    let mut identities = Vec::with_capacity(body.identities.len());
    for (at, id) in body.identities.iter().enumerate() {
        identities.push(SpiffeId::parse(id).map_err(|error| format!("identities[{at}]: {error}"))?);
    }
    let mut endpoints = Vec::with_capacity(body.gateway.len());
    for (at, body) in body.gateway.iter().enumerate() {
        endpoints.push(endpoint(body).map_err(|error| format!("gateway[{at}].{error}"))?);
    }
    // Without any identity it is for the gateway that dials, or goes through none.
    let gateway = (!identities.is_empty()).then(|| ServiceSpec {
        name: name.to_string(),
        ports: service.spec.ports.iter().map(through).collect(),
        identities,
        endpoints,
        ..ServiceSpec::default()
    });
    let spec = PlaceSpec::new(service, gateway)?;
    Ok(External { name: name.to_string(), spec })
}

/// A port of a place as its egress gateway takes it.
fn through(port: &ExternalPort) -> PortSpec {
    let period = |period: Option<signet_model::Period>| period.map(|period| period.get());
    PortSpec {
        name: port.name.to_string(),
        port: port.port.get(),
        protocol: port.protocol.carried(),
        timeouts: Timeouts {
            request: period(port.request_timeout),
            idle: period(port.idle_timeout),
            cut_on_expiry: false,
        },
        requests_only: false,
    }
}

fn service(body: &v1::Service) -> Result<Dialled, Reason> {
    let mut identities = Vec::with_capacity(body.identities.len());
    for (at, id) in body.identities.iter().enumerate() {
        identities.push(SpiffeId::parse(id).map_err(|error| format!("identities[{at}]: {error}"))?);
    }
    let mut addresses = Vec::with_capacity(body.addresses.len());
    for (at, text) in body.addresses.iter().enumerate() {
        addresses.push(address(text).map_err(|error| format!("addresses[{at}]: {error}"))?);
    }
    let mut endpoints = Vec::with_capacity(body.endpoints.len());
    for (at, body) in body.endpoints.iter().enumerate() {
        endpoints.push(endpoint(body).map_err(|error| format!("endpoints[{at}].{error}"))?);
    }
    let mut ports = Vec::with_capacity(body.ports.len());
    for (at, body) in body.ports.iter().enumerate() {
        let failed = |error| format!("ports[{at}].{error}");
        ports.push(PortSpec {
            name: body.name.clone(),
            port: port(body.port).map_err(failed)?,
            protocol: protocol(body.protocol()).map_err(failed)?,
            timeouts: timeouts(body).map_err(failed)?,
            requests_only: body.requests_only,
        });
    }
    let user_context = user_context(body.user_context());
    let (traffic, unreadable) = traffic(&body.traffic);
    let name = body.name.clone();
    let sharing = body.sharing.as_ref().map(sharing).transpose()?;
    let hop_proof = body.require_hop_proof;
    let spec = ServiceSpec {
        name,
        ports,
        identities,
        addresses,
        endpoints,
        user_context,
        hop_proof,
        traffic,
        sharing,
    };
    Ok(Dialled { spec: Box::new(spec), unreadable })
}

fn sharing(body: &v1::Sharing) -> Result<Sharing, Reason> {
    let shared = body.addresses.iter().enumerate().map(|(at, shared)| {
        let address =
            address(&shared.address).map_err(|error| format!("sharing.addresses[{at}]: {error}"))?;
        Ok((address.to_canonical(), shared.services.iter().map(|name| name.as_str().into()).collect()))
    });
    shared.collect()
}

fn endpoint(body: &v1::Endpoint) -> Result<EndpointSpec, Reason> {
    let mut ports = BTreeMap::new();
    for (name, number) in &body.ports {
        ports.insert(name.clone(), port(*number).map_err(|error| format!("ports.{name}: {error}"))?);
    }
    let identity = match body.identity.as_str() {
        "" => None,
        id => Some(SpiffeId::parse(id).map_err(|error| format!("identity: {error}"))?),
    };
    let behind = match body.gateway_service.as_str() {
        "" => None,
        name => Some(name.parse::<ObjectName>().map_err(|error| format!("gateway_service: {error}"))?),
    };
    Ok(EndpointSpec {
        address: address(&body.address).map_err(|error| format!("address: {error}"))?,
        ports,
        identity,
        behind,
    })
}

fn inbound(body: &v1::Inbound) -> Result<Inbound, Reason> {
    let mut ports = Vec::with_capacity(body.ports.len());
    for (at, declared) in body.ports.iter().enumerate() {
        let failed = |error| format!("ports[{at}].{error}");
        ports.push(InboundPort {
            service: body.service.as_str().into(),
            name: declared.name.as_str().into(),
            port: port(declared.port).map_err(failed)?,
            protocol: protocol(declared.protocol()).map_err(failed)?,
            timeouts: timeouts(declared).map_err(failed)?,
            user_context: user_context(body.user_context()),
            hop_proof: body.require_hop_proof,
            user_headers: Arc::new(user_headers(declared).map_err(failed)?),
            permissive_until: u64::try_from(declared.permissive_until).ok().filter(|until| *until != 0),
        });
    }
    let mut unreadable = Vec::new();
    for policy in &body.policies {
        if let Err(error) = PolicyDocument::from_json(&policy.json) {
            unreadable
                .push(format!("policy {}: {error}; {} denies until it is mended", policy.name, body.service));
        }
    }
    let (traffic, unreadable_traffic) = traffic(&body.traffic);
    let traffic = unreadable_traffic.is_empty().then_some(traffic);
    unreadable.extend(unreadable_traffic.into_iter().map(|why| format!("{why}; the limits before stay")));
    Ok(Inbound {
        traffic,
        service: body.service.parse().map_err(|error| format!("service: {error}"))?,
        ports,
        policies: body.policies.iter().map(|policy| (policy.name.clone(), policy.json.clone())).collect(),
        samples: body.samples_per_second,
        issuers: body.issuer_aliases.iter().cloned().collect(),
        unreadable,
    })
}

fn address(text: &str) -> Result<IpAddr, Reason> {
    let address: IpAddr = text.parse().map_err(|_| format!("expected an IP address, got {text:?}"))?;
    Ok(address.to_canonical())
}

fn port(number: u32) -> Result<u16, Reason> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("port: expected 1 to 65535, got {number}")),
    }
}

fn protocol(protocol: v1::Protocol) -> Result<Protocol, Reason> {
    match protocol {
        v1::Protocol::Http1 => Ok(Protocol::Http1),
        v1::Protocol::Http2 => Ok(Protocol::Http2),
        v1::Protocol::Grpc => Ok(Protocol::Grpc),
        v1::Protocol::Tcp => Ok(Protocol::Tcp),
        v1::Protocol::Auto => Ok(Protocol::Auto),
        v1::Protocol::Unspecified => {
            Err("protocol: missing, or one that this version does not know".to_owned())
        }
    }
}

fn user_headers(port: &v1::ServicePort) -> Result<UserHeaders, Reason> {
    let Some(body) = &port.user_headers else { return Ok(UserHeaders::default()) };
    let header = (!body.header.is_empty()).then_some(&*body.header);
    let claims = body.claims.iter().map(|(name, claim)| (name.as_str(), claim.as_str()));
    UserHeaders::new(header, claims).map_err(|error| format!("user_headers: {error}"))
}

fn user_context(context: v1::UserContext) -> UserContext {
    match context {
        v1::UserContext::Original => UserContext::Original,
        v1::UserContext::Transaction | v1::UserContext::Unspecified => UserContext::Transaction,
    }
}

fn timeouts(body: &v1::ServicePort) -> Result<Timeouts, Reason> {
    let milliseconds = |field: &str, value: i64| match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(Duration::from_millis(value))),
        Err(_) => Err(format!("{field}: expected no negative number, got {value}")),
    };
    Ok(Timeouts {
        request: milliseconds("request_timeout_ms", body.request_timeout_ms)?,
        idle: milliseconds("idle_timeout_ms", body.idle_timeout_ms)?,
        cut_on_expiry: body.cut_on_expiry,
    })
}

fn seconds(field: &str, value: i64) -> Result<Option<Duration>, Reason> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(Duration::from_secs(value))),
        Err(_) => Err(format!("{field}: expected no negative number, got {value}")),
    }
}
