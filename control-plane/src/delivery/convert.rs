//! From the model's resources to what travels: the only place in the control plane that knows both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use signet_identity::TrustDomain;
use signet_model::{
    AnyRoute, AuthorizationProvider, ExternalService, Gateway, Issuer, ObjectName, OnExpiry, PolicyDocument,
    ProcessSelector, Protocol, Registration, Registry, Service, ServicePort, TrafficPolicy, UserContext,
    UserHeaders, WorkloadId,
};
use signet_proto::v1;
use signet_token::{Jwk, Jwks, RevokedUsers};

use crate::federation::held::Held;
use crate::issuers::KeyState;
use crate::world::AuthorityState;

/// What this agent may vouch for. It learns of no other agent.
pub(super) fn processes(registry: &Registry, agent: &WorkloadId) -> v1::ProcessEntries {
    let entry = |(entry, processes): (&Registration, &ProcessSelector)| {
        let mut own = entry.clone();
        own.spec.unix = Some(ProcessSelector { agents: vec![agent.clone()], ..processes.clone() });
        v1::ProcessEntry { name: entry.name.to_string(), json: own.canonical_json() }
    };
    v1::ProcessEntries { entries: registry.vouched_by(agent).map(entry).collect() }
}

pub(super) fn mesh(trust_domain: &TrustDomain, registry: &Registry, dev: bool) -> v1::Mesh {
    let spec = &registry.mesh().spec;
    v1::Mesh {
        trust_domain: trust_domain.to_string(),
        default_allow: spec.default_action == signet_model::DefaultAction::Allow,
        dev,
        token_issuer: crate::services::exchange::token_issuer(trust_domain),
        max_connection_age_seconds: seconds(spec.max_connection_age),
        max_staleness_seconds: seconds(spec.max_staleness),
        egress_allow: spec.egress() == signet_model::DefaultAction::Allow,
        namespaces: namespaces(registry),
    }
}

/// Those with services, each once and in order, so that equal sets have equal versions.
fn namespaces(registry: &Registry) -> Vec<String> {
    let all: BTreeSet<_> = registry.services().map(|service| service.name.namespace.as_str()).collect();
    all.into_iter().map(ToOwned::to_owned).collect()
}

pub(crate) fn bundle(authority: &AuthorityState) -> v1::TrustBundle {
    v1::TrustBundle {
        trust_domain: authority.trust_domain.to_string(),
        roots_der: authority.roots.iter().map(|der| der.to_vec()).collect(),
        sequence: authority.bundle_sequence,
        tainted: authority.tainted.iter().map(|id| id.as_bytes().to_vec()).collect(),
        jwt_keys: authority.jwt_keys.clone(),
    }
}

/// The roots and keys of another trust domain, under our own number; none where nobody of it is believed.
pub(super) fn federated(domain: &TrustDomain, held: &Held) -> Option<v1::TrustBundle> {
    let roots = held.document.roots()?;
    Some(v1::TrustBundle {
        trust_domain: domain.to_string(),
        roots_der: roots.roots().map(|der| der.to_vec()).collect(),
        sequence: held.revision,
        // What a partner tainted it takes out of its bundle.
        tainted: Vec::new(),
        jwt_keys: jwt_keys(held.document.jwt_keys()),
    })
}

/// A JWK set as JSON; empty where there are none.
fn jwt_keys(keys: &Jwks) -> String {
    if keys.is_empty() {
        return String::new();
    }
    let keys: Vec<_> = keys.keys().iter().map(Jwk::to_json).collect();
    serde_json::json!({ "keys": keys }).to_string()
}

/// Sorted, so that equal sets have equal versions.
pub(super) fn revocations(authority: &AuthorityState) -> v1::Revocations {
    let set = &authority.revocations.set;
    let mut serials: Vec<Vec<u8>> = set.serials.iter().map(|s| s.as_bytes().to_vec()).collect();
    let mut identities: Vec<String> = set.identities.iter().map(ToString::to_string).collect();
    let mut keys: Vec<Vec<u8>> = set.keys.iter().map(|k| k.as_bytes().to_vec()).collect();
    let mut delegations: Vec<String> = authority.revocations.delegations.iter().cloned().collect();
    serials.sort();
    identities.sort();
    keys.sort();
    delegations.sort();
    let others = revoked_users(&authority.revocations.users);
    v1::Revocations { sequence: set.sequence, serials, identities, keys, delegations, others }
}

/// Whoever cannot tell these from others believes no user.
fn revoked_users(users: &RevokedUsers) -> Vec<v1::OtherRevocation> {
    let other = |kind: &str, name: &str, issued_until: u64| v1::OtherRevocation {
        kind: kind.into(),
        value: name.as_bytes().to_vec(),
        if_unknown: v1::IfUnknown::RefuseUsers.into(),
        issued_until: i64::try_from(issued_until).unwrap_or(i64::MAX),
    };
    let mut others: Vec<_> = users.users.iter().map(|name| other("user", name, 0)).collect();
    others.extend(users.logouts.iter().map(|(name, until)| other("logout", name, *until)));
    others.extend(users.sessions.iter().map(|name| other("session", name, 0)));
    others.extend(users.tokens.iter().map(|name| other("token", name, 0)));
    others.sort_by(|a, b| (&a.kind, &a.value).cmp(&(&b.kind, &b.value)));
    others
}

pub(super) fn token_roots(authority: &AuthorityState) -> v1::TokenRoots {
    v1::TokenRoots { jwks: authority.token_roots.clone(), tainted: authority.tainted_token_roots.clone() }
}

/// In the order of the issuers' serials, so that equal lists have equal versions.
pub(super) fn revocation_lists(authority: &AuthorityState) -> v1::RevocationLists {
    let mut lists: Vec<_> = authority.crls.iter().collect();
    lists.sort_by_key(|list| list.issuer);
    v1::RevocationLists { lists_der: lists.into_iter().map(|list| list.der.clone()).collect() }
}

pub(super) fn issuer(issuer: &Issuer, keys: Option<&KeyState>) -> v1::Issuer {
    let spec = &issuer.spec;
    v1::Issuer {
        alias: issuer.name.to_string(),
        issuer: spec.issuer.to_string(),
        audiences: texts(&spec.audiences),
        algorithms: spec.algorithms.iter().map(|a| a.as_str().to_owned()).collect(),
        token_types: texts(&spec.token_types),
        jwks: keys.and_then(|k| k.jwks.as_deref()).unwrap_or_default().to_owned(),
        fetched_at: keys.filter(|k| k.jwks.is_some()).map_or(0, |k| k.fetched_at),
        scope_claim: spec.scope_claim.to_string(),
        max_lifetime_seconds: seconds(spec.max_lifetime),
        namespace: String::new(),
        claims: texts(&spec.claims),
    }
}

/// Who is asked about requests.
pub(super) fn provider(provider: &AuthorizationProvider) -> v1::Provider {
    v1::Provider { name: provider.name.to_string(), json: provider.canonical_json() }
}

/// A place outside, as its callers see it: behind a gateway where it has one. `None` where that gateway is not there.
pub(super) fn external(
    trust_domain: &TrustDomain,
    registry: &Registry,
    external: &ExternalService,
) -> Option<v1::External> {
    let json = external.canonical_json();
    let Some(through) = &external.spec.through else {
        return Some(v1::External { json, gateway: Vec::new(), identities: Vec::new() });
    };
    let gateway = registry.service(&through.service)?;
    let endpoints = gateway.spec.endpoints.iter().filter_map(|endpoint| {
        let port = u32::from(endpoint.ports.get(&through.port)?.get());
        Some(v1::Endpoint {
            address: endpoint.address.get().to_string(),
            ports: external.spec.ports.iter().map(|declared| (declared.name.to_string(), port)).collect(),
            gateway_service: external.name.to_string(),
            identity: endpoint.identity.as_ref().map(|id| uri(trust_domain, id)).unwrap_or_default(),
        })
    });
    Some(v1::External {
        json,
        gateway: endpoints.collect(),
        identities: gateway.identities().iter().map(|id| uri(trust_domain, id)).collect(),
    })
}

/// The same, as the gateway sees it that dials.
pub(super) fn external_of_gateway(external: &ExternalService) -> v1::External {
    v1::External { json: external.canonical_json(), gateway: Vec::new(), identities: Vec::new() }
}

pub(super) fn service(
    trust_domain: &TrustDomain,
    service: &Service,
    policies: &[PolicyDocument],
    traffic: &[&TrafficPolicy],
    by_address: &ByAddress,
) -> v1::Service {
    let spec = &service.spec;
    v1::Service {
        name: service.name.to_string(),
        ports: spec.ports.iter().map(|declared| port(declared, policies)).collect(),
        identities: match &spec.federated_identity {
            Some(id) => vec![id.to_string()],
            None => service.identities().iter().map(|id| uri(trust_domain, id)).collect(),
        },
        addresses: spec.addresses.iter().map(|a| a.get().to_string()).collect(),
        endpoints: spec
            .endpoints
            .iter()
            .map(|endpoint| v1::Endpoint {
                address: endpoint.address.get().to_string(),
                ports: endpoint.ports.iter().map(|(n, p)| (n.to_string(), u32::from(p.get()))).collect(),
                identity: endpoint.identity.as_ref().map(|id| uri(trust_domain, id)).unwrap_or_default(),
                gateway_service: service.behind(endpoint).map(ToString::to_string).unwrap_or_default(),
            })
            .collect(),
        user_context: user_context(spec.user_context).into(),
        require_hop_proof: spec.require_hop_proof,
        traffic: documents(traffic),
        sharing: sharing(service, by_address),
    }
}

/// The services at each address that an app may dial.
pub(super) type ByAddress = BTreeMap<IpAddr, BTreeSet<String>>;

/// Names that one service is sent of others at its addresses. Where there are more, on hosts that everything runs on, a
/// caller has to ask.
const MOST_SHARED: usize = 256;

/// Who else is at the addresses of this service.
fn sharing(service: &Service, by_address: &ByAddress) -> Option<v1::Sharing> {
    let own = service.name.to_string();
    let mut left = MOST_SHARED;
    let mut addresses = Vec::new();
    for address in service.dialled_at().collect::<BTreeSet<_>>() {
        let others = by_address.get(&address).into_iter().flatten().filter(|name| **name != own);
        let services: Vec<_> = others.take(left.saturating_add(1)).cloned().collect();
        left = left.checked_sub(services.len())?;
        if !services.is_empty() {
            addresses.push(v1::SharedAddress { address: address.to_string(), services });
        }
    }
    Some(v1::Sharing { addresses })
}

/// Where requests and connections to this service go.
pub(super) fn routes(registry: &Registry, service: &ObjectName, routes: &[&AnyRoute]) -> v1::Routes {
    let routes = routes.iter().map(|route| document(registry, route)).collect();
    v1::Routes { service: service.to_string(), routes }
}

/// A gateway, with the routes that are attached to its listeners.
pub(super) fn gateway(registry: &Registry, gateway: &Gateway) -> v1::GatewayConfig {
    let routes = registry.routes_of_gateway(&gateway.name).map(|route| document(registry, route)).collect();
    v1::GatewayConfig { json: gateway.canonical_json(), routes }
}

fn document(registry: &Registry, route: &AnyRoute) -> v1::PolicyDocument {
    v1::PolicyDocument {
        name: format!("{}/{}", route.kind(), route.name()),
        json: route.canonical_json(),
        refused: registry.refused_to(route).iter().map(ToString::to_string).collect(),
    }
}

fn documents(traffic: &[&TrafficPolicy]) -> Vec<v1::PolicyDocument> {
    let document = |policy: &&TrafficPolicy| v1::PolicyDocument {
        name: policy.name.to_string(),
        json: policy.canonical_json(),
        refused: Vec::new(),
    };
    traffic.iter().map(document).collect()
}

pub(super) fn inbound(
    service: &Service,
    policies: &[PolicyDocument],
    traffic: &[&TrafficPolicy],
    issuers: Vec<String>,
    samples: u32,
) -> v1::Inbound {
    v1::Inbound {
        service: service.name.to_string(),
        ports: service.spec.ports.iter().map(|declared| served_port(service, declared, policies)).collect(),
        user_context: user_context(service.spec.user_context).into(),
        require_hop_proof: service.spec.require_hop_proof,
        policies: policies
            .iter()
            .map(|p| v1::PolicyDocument {
                name: p.reported_name(),
                json: p.canonical_json(),
                refused: Vec::new(),
            })
            .collect(),
        issuer_aliases: issuers,
        traffic: documents(traffic),
        samples_per_second: samples,
    }
}

/// A port as who serves it needs it. Callers always come over mutual TLS.
fn served_port(service: &Service, declared: &ServicePort, policies: &[PolicyDocument]) -> v1::ServicePort {
    let permissive_until = declared.permissive.map_or(0, |permissive| permissive.until.unix());
    let user_headers = user_headers(&service.spec.user_headers);
    v1::ServicePort { permissive_until, user_headers, ..port(declared, policies) }
}

/// None where all is as usual.
fn user_headers(headers: &UserHeaders) -> Option<v1::UserHeaders> {
    let claims = headers.claim_headers.iter().map(|(name, claim)| (name.to_string(), claim.to_string()));
    (*headers != UserHeaders::default()).then(|| v1::UserHeaders {
        header: headers.header.as_ref().map(ToString::to_string).unwrap_or_default(),
        claims: claims.collect(),
    })
}

/// `policies`: those of its service.
fn port(port: &ServicePort, policies: &[PolicyDocument]) -> v1::ServicePort {
    let protocol = match port.protocol {
        Protocol::Http1 => v1::Protocol::Http1,
        Protocol::Http2 => v1::Protocol::Http2,
        Protocol::Grpc => v1::Protocol::Grpc,
        Protocol::Tcp => v1::Protocol::Tcp,
        Protocol::Auto => v1::Protocol::Auto,
    };
    v1::ServicePort {
        name: port.name.to_string(),
        port: u32::from(port.port.get()),
        protocol: protocol.into(),
        request_timeout_ms: port.request_timeout.map_or(0, millis),
        idle_timeout_ms: port.idle_timeout.map_or(0, millis),
        cut_on_expiry: port.on_expiry == OnExpiry::Cut,
        requests_only: port.protocol == Protocol::Auto
            && policies.iter().any(|policy| policy.speaks_of_requests(port.name.as_str())),
        permissive_until: 0,
        user_headers: None,
    }
}

fn user_context(context: UserContext) -> v1::UserContext {
    match context {
        UserContext::Transaction => v1::UserContext::Transaction,
        UserContext::Original => v1::UserContext::Original,
    }
}

/// The SPIFFE ID as text; the names' own limits keep it valid.
fn uri(trust_domain: &TrustDomain, id: &WorkloadId) -> String {
    format!("spiffe://{trust_domain}/{id}")
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn seconds(period: signet_model::Period) -> i64 {
    i64::try_from(period.seconds()).unwrap_or(i64::MAX)
}

fn millis(period: signet_model::Period) -> i64 {
    i64::try_from(period.millis()).unwrap_or(i64::MAX)
}
