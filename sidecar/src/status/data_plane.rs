//! What the data plane goes by, for people: whom it calls and by which routes, whom it serves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use signet_model::HostPattern;
use signet_proxy::Shared;
use signet_proxy::handle::Coverage;
use signet_proxy::state::{Entry, InboundPort, ServicePort, Shares, Snapshot, Takes};

use crate::clock::{self, rfc3339};

/// The snapshots that requests see: their numbers, whom we call and whom we serve.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DataPlaneReport {
    endpoints_generation: u64,
    routes_generation: u64,
    policy_generation: u64,
    keys_generation: u64,
    default_allow: bool,
    egress_allow: bool,
    issuers: BTreeMap<String, bool>,
    minting: bool,
    services: BTreeMap<String, Vec<PeerReport>>,
    /// Services whose requests are routed: where they go, in the order in which a request meets it.
    routes: BTreeMap<String, Vec<RouteReport>>,
    /// Services of which whole connections are routed: where they go.
    connections: BTreeMap<String, Vec<ConnectionReport>>,
    /// A gateway's listeners, by port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    listeners: Vec<ListenerReport>,
    places: BTreeMap<String, Vec<PlaceReport>>,
    served: BTreeMap<String, ServedReport>,
    /// Whether the app carries handles to its calls, where it is given any.
    #[serde(skip_serializing_if = "Option::is_none")]
    user_context: Option<Coverage>,
}

/// One port of a place outside the mesh that we may call.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PlaceReport {
    port: String,
    number: u16,
    protocol: &'static str,
    /// The endpoints of the egress gateway that it goes through.
    through: Option<Vec<String>>,
}

/// One endpoint of a service that we call.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PeerReport {
    port: String,
    address: String,
    identity: String,
    /// Where the address is another cluster's gateway: the service by its name behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    behind_gateway: Option<String>,
    in_flight: usize,
    /// For how long it is left out still, as it failed too often.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out_ms: Option<u64>,
}

/// One match of a rule of a route.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RouteReport {
    /// `HTTPRoute/name.namespace/` and the rule's name or place.
    rule: String,
    /// Ports of the service, by name or number; empty is all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<String>,
    host: String,
    /// What a request must be.
    requests: String,
    backends: Vec<BackendReport>,
    /// Answered with another place to ask.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    redirects: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rewrites: bool,
    /// Who gets copies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    copies: Vec<BackendReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    try_timeout_ms: Option<u64>,
    /// Whether the rule says itself when a request is tried again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    retries: bool,
}

/// Connections that go by one route.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionReport {
    /// `TLSRoute/name.namespace`
    route: String,
    /// Ports of the service, by name or number; empty is all of them, or those of the listener.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<String>,
    /// The server name in the hello; none: whatever comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    backends: Vec<BackendReport>,
}

/// A listener of a gateway.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ListenerReport {
    name: String,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    /// What becomes of what comes in: `requests` (in plaintext), `tls-requests`, `tls` or `bytes` that go on unopened.
    takes: &'static str,
    /// Where it goes that is not opened.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    connections: Vec<ConnectionReport>,
}

/// Where requests, connections or copies go.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BackendReport {
    service: String,
    port: u16,
    /// Its part of the weights of all, or in millions for copies.
    share: u64,
    of: u64,
    /// No ReferenceGrant lets the route refer to it: its share gets nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    refused: bool,
}

/// A service that we serve.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServedReport {
    /// Policies that cannot be understood, with the reason: everything is denied for their sake.
    not_understood: BTreeMap<String, String>,
    /// Its ports that are declared permissive.
    permissive: BTreeMap<String, PermissiveReport>,
}

/// A port that lets callers in without the mesh, or would.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PermissiveReport {
    until: String,
    /// Why it does not, or not any more.
    strict: Option<String>,
    /// Connections without the mesh that were let in, by address.
    sources: BTreeMap<std::net::IpAddr, u64>,
    /// Those from further addresses.
    other_sources: u64,
}

impl DataPlaneReport {
    /// As it is now; `served` are the services that this process serves.
    pub(super) fn of<'a>(shared: &Arc<Shared>, served: impl Iterator<Item = &'a str>) -> Self {
        let view = shared.state.view();
        let served = served.filter_map(|service| {
            let served = view.policy.of(service)?;
            let not_understood = served.policies.not_understood().iter();
            let not_understood = not_understood.map(|one| (one.policy.clone(), one.reason.clone())).collect();
            let ports = view.routes.inbound_of(service).iter().filter(|port| port.permissive_until.is_some());
            let permissive =
                ports.map(|port| (port.name.to_string(), permissive(shared, &view, port))).collect();
            Some((service.to_owned(), ServedReport { not_understood, permissive }))
        });
        DataPlaneReport {
            endpoints_generation: view.endpoints.generation,
            routes_generation: view.routes.generation,
            policy_generation: view.policy.generation,
            keys_generation: view.keys.generation,
            default_allow: view.policy.mesh.default_allow,
            egress_allow: view.policy.mesh.egress_allow,
            issuers: view.keys.issuers.iter().map(|one| (one.alias().to_owned(), one.has_keys())).collect(),
            minting: view.keys.minter.is_some(),
            services: services(&view),
            routes: routes(&view),
            connections: connections(&view),
            listeners: listeners(&view),
            places: places(&view),
            served: served.collect(),
            user_context: shared.handles.coverage(),
        }
    }
}

fn services(view: &Snapshot) -> BTreeMap<String, Vec<PeerReport>> {
    let mut services: BTreeMap<String, Vec<PeerReport>> = BTreeMap::new();
    for service in view.endpoints.services() {
        let peers = services.entry(service.name.to_string()).or_default();
        for port in &service.ports {
            peers.extend(port.endpoints.iter().map(|endpoint| PeerReport {
                port: port.name.to_string(),
                address: endpoint.address.to_string(),
                identity: endpoint.identity.to_string(),
                behind_gateway: endpoint.behind.as_ref().map(ToString::to_string),
                in_flight: endpoint.in_flight(),
                left_out_ms: endpoint.left_out().map(milliseconds),
            }));
        }
    }
    services
}

fn routes(view: &Snapshot) -> BTreeMap<String, Vec<RouteReport>> {
    let routed = view.endpoints.routed();
    routed.map(|(service, calls)| (service.to_owned(), calls.entries().map(route).collect())).collect()
}

fn connections(view: &Snapshot) -> BTreeMap<String, Vec<ConnectionReport>> {
    let routed = view.endpoints.routed().map(|(service, calls)| {
        let each = calls.connections().map(|(ports, name, shares)| connection(ports, name, shares));
        (service.to_owned(), each.collect::<Vec<_>>())
    });
    routed.filter(|(_, connections)| !connections.is_empty()).collect()
}

fn listeners(view: &Snapshot) -> Vec<ListenerReport> {
    let each = view.routes.doors().all().map(|(port, door)| {
        let (takes, connections) = match door.takes() {
            Takes::Requests(false) => ("requests", Vec::new()),
            Takes::Requests(true) => ("tls-requests", Vec::new()),
            Takes::Names(names) => {
                let each = names.iter().map(|(name, shares)| connection(Vec::new(), Some(name), shares));
                ("tls", each.collect())
            }
            Takes::Bytes(shares) => {
                ("bytes", shares.iter().map(|shares| connection(Vec::new(), None, shares)).collect())
            }
        };
        let host = door.host().map(ToString::to_string);
        ListenerReport { name: door.name.to_string(), port, host, takes, connections }
    });
    let mut listeners: Vec<_> = each.collect();
    listeners.sort_by_key(|listener| listener.port);
    listeners
}

fn connection(ports: Vec<String>, name: Option<&HostPattern>, shares: &Shares) -> ConnectionReport {
    let backends = shares.backends().iter().map(|share| BackendReport {
        service: share.service.to_string(),
        port: share.port,
        share: share.weight.into(),
        of: shares.total(),
        refused: share.refused,
    });
    ConnectionReport {
        route: shares.name.to_string(),
        ports,
        name: name.map(ToString::to_string),
        backends: backends.collect(),
    }
}

fn route(entry: &Entry) -> RouteReport {
    let rule = entry.rule();
    let backends = rule.backends.iter().map(|backend| BackendReport {
        service: backend.service.to_string(),
        port: backend.port,
        share: backend.weight.into(),
        of: rule.total,
        refused: backend.refused,
    });
    let copies = rule.mirrors.iter().map(|copy| BackendReport {
        service: copy.service.to_string(),
        port: copy.port,
        share: copy.millionths.into(),
        of: 1_000_000,
        refused: false,
    });
    RouteReport {
        rule: rule.name.to_string(),
        ports: entry.ports(),
        host: entry.host().to_string(),
        requests: entry.conditions().to_string(),
        backends: backends.collect(),
        redirects: rule.redirect.is_some(),
        rewrites: rule.rewrite.is_some(),
        copies: copies.collect(),
        request_timeout_ms: rule.request_timeout.flatten().map(milliseconds),
        try_timeout_ms: rule.try_timeout.map(milliseconds),
        retries: rule.retry.is_some(),
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn places(view: &Snapshot) -> BTreeMap<String, Vec<PlaceReport>> {
    let mut places: BTreeMap<String, Vec<PlaceReport>> = BTreeMap::new();
    for port in view.endpoints.places().ports() {
        let gateway = |gateway: &Arc<ServicePort>| {
            gateway.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
        };
        places.entry(port.place.to_string()).or_default().push(PlaceReport {
            port: port.name.to_string(),
            number: port.port,
            protocol: port.protocol.as_str(),
            through: port.through.as_ref().map(gateway),
        });
    }
    places
}

fn permissive(shared: &Shared, view: &Snapshot, port: &InboundPort) -> PermissiveReport {
    let seen = shared.plaintext.seen(&port.service, &port.name);
    let now = u64::try_from(clock::now()).unwrap_or_default();
    PermissiveReport {
        until: rfc3339(port.permissive_until.and_then(|until| i64::try_from(until).ok()).unwrap_or_default()),
        strict: view.lets_in_plaintext(port, now).err().map(|why| why.to_string()),
        sources: seen.connections,
        other_sources: seen.others,
    }
}
