//! A service: what callers dial, who may answer, and where.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use signet_identity::SpiffeId;

use crate::decode::{non_empty, non_empty_map};
use crate::error::Problem;
use crate::object::{Kind, Name, Namespaced};
use crate::resources::east_west::{Place, ThroughGateway};
use crate::resources::{each_port_once, is_default, twice};
use crate::text::address::HostAddress;
use crate::text::name::is_label;
use crate::{ClaimName, HeaderField, Label, Moment, ObjectName, Period, Port, WorkloadId};

pub type Service = Namespaced<ServiceSpec>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceSpec {
    /// Who may answer; absent means the service account of the service's own name. See
    /// [`Service::identities`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identities: Option<Vec<WorkloadId>>,
    /// A workload of a federated trust domain that answers, instead of any of this mesh: callers here reach
    /// what is served there. No user context leaves the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub federated_identity: Option<SpiffeId>,
    /// Virtual addresses by which it is dialled transparently.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<HostAddress>,
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub ports: Vec<ServicePort>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub user_context: UserContext,
    /// Each transaction token comes with a proof, signed by the caller's sidecar for this receiver and this token.
    #[serde(default, skip_serializing_if = "is_default")]
    pub require_hop_proof: bool,
    /// How its app reads of the verified user.
    #[serde(default, skip_serializing_if = "is_default")]
    pub user_headers: UserHeaders,
}

/// The headers by which an app reads of the verified user. Whoever else sends them, to this app or from it, sends them in
/// vain.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct UserHeaders {
    /// The header with everything, base64url of JSON; `signet-user` where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderField>,
    /// A header for a claim.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "non_empty_map")]
    pub claim_headers: BTreeMap<HeaderField, ClaimName>,
}

/// Headers for claims that one service may ask for.
const MOST_CLAIM_HEADERS: usize = 32;

impl UserHeaders {
    fn check(&self, problems: &mut Vec<Problem>) {
        let all = self.header.iter().map(|name| ("spec.userHeaders.header".to_owned(), name));
        let each = self.claim_headers.keys();
        let each = each.map(|name| (format!("spec.userHeaders.claimHeaders.{name}"), name));
        for (field, name) in all.chain(each) {
            if let Some(why) = name.unfit_for_users() {
                problems.push(Problem::new(field, format!("expected another header than `{name}`: {why}")));
            }
        }
        if let Some(name) = self.header.as_ref().filter(|name| self.claim_headers.contains_key(*name)) {
            problems.push(Problem::new(
                format!("spec.userHeaders.claimHeaders.{name}"),
                "expected another header than the one that has everything",
            ));
        }
        if self.claim_headers.len() > MOST_CLAIM_HEADERS {
            problems.push(Problem::new(
                "spec.userHeaders.claimHeaders",
                format!("expected at most {MOST_CLAIM_HEADERS}, got {}", self.claim_headers.len()),
            ));
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[serde(from = "WrittenPort")]
pub struct ServicePort {
    pub name: Label,
    /// The port that callers dial.
    pub port: Port,
    /// Where it is not written, what the port's name says, see [`Protocol::of_name`].
    pub protocol: Protocol,
    /// From the request's head to the end of its answer; absent is none. Not on `tcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<Period>,
    /// Without a byte either way; absent is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Period>,
    /// What becomes of a stream of bytes whose peer's SVID ends.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_expiry: OnExpiry,
    /// Callers without the mesh are let in, for a while. Only where nobody asks who calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissive: Option<Permissive>,
}

/// A port on its way into the mesh: callers in plaintext are let in beside peers, until it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Permissive {
    /// From then on the port is strict, by the clock of each sidecar.
    pub until: Moment,
}

/// A port as it is written, perhaps without its protocol.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenPort {
    name: Label,
    port: Port,
    protocol: Option<Protocol>,
    request_timeout: Option<Period>,
    idle_timeout: Option<Period>,
    #[serde(default)]
    on_expiry: OnExpiry,
    permissive: Option<Permissive>,
}

impl From<WrittenPort> for ServicePort {
    fn from(written: WrittenPort) -> ServicePort {
        let protocol = written.protocol.unwrap_or_else(|| Protocol::of_name(written.name.as_str()));
        let WrittenPort { name, port, request_timeout, idle_timeout, on_expiry, permissive, .. } = written;
        ServicePort { name, port, protocol, request_timeout, idle_timeout, on_expiry, permissive }
    }
}

/// What becomes of a stream of bytes (`tcp`, or what an HTTP upgrade leaves) when an SVID under it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum OnExpiry {
    /// It lives on while the mesh vouches for the peer.
    #[default]
    Keep,
    /// It ends with the SVID, the peer's or our own.
    Cut,
}

/// What is spoken on a port. The receiver decides by this, never by the bytes, unless it is `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", schemars(extend("x-signet-also" = ["http"])))]
pub enum Protocol {
    #[serde(alias = "http")]
    Http1,
    Http2,
    Grpc,
    Tcp,
    /// Whatever each connection turns out to speak: HTTP/1, HTTP/2, or bytes.
    Auto,
}

impl Protocol {
    /// What a port of this name speaks, by the usual convention: `http`, `grpc-web`, `redis-main`. Any other name says
    /// nothing.
    pub fn of_name(name: &str) -> Protocol {
        match name.split('-').next().unwrap_or_default() {
            "http" => Protocol::Http1,
            "http2" | "h2c" => Protocol::Http2,
            "grpc" => Protocol::Grpc,
            "tcp" | "tls" | "https" | "mysql" | "postgres" | "postgresql" | "redis" | "mongo" | "mongodb"
            | "mssql" | "smtp" | "imap" | "ldap" | "amqp" | "kafka" | "nats" | "mqtt" | "cassandra"
            | "zookeeper" | "memcached" => Protocol::Tcp,
            _ => Protocol::Auto,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http1 => "http1",
            Protocol::Http2 => "http2",
            Protocol::Grpc => "grpc",
            Protocol::Tcp => "tcp",
            Protocol::Auto => "auto",
        }
    }

    /// Whether requests can be told apart on it; on `auto` perhaps.
    pub fn is_http(self) -> bool {
        self != Protocol::Tcp
    }
}

/// Where one sidecar of the service takes mutual TLS, or a gateway that leads there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Endpoint {
    pub address: HostAddress,
    /// Service port name to the port of that sidecar.
    #[serde(deserialize_with = "crate::decode::non_empty_map")]
    pub ports: BTreeMap<Label, Port>,
    /// The one identity that answers there; absent means any of the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<WorkloadId>,
    /// The address and ports are those of another cluster's gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through_gateway: Option<ThroughGateway>,
}

/// How the user reaches this service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum UserContext {
    /// By a transaction token.
    #[default]
    Transaction,
    /// By the original JWT, verified again at each sidecar.
    Original,
}

impl Service {
    /// Who of this mesh may answer for it: the list, or the service account of the service's own name; nobody
    /// where a federated trust domain serves it.
    pub fn identities(&self) -> Cow<'_, [WorkloadId]> {
        match &self.spec.identities {
            _ if self.spec.federated_identity.is_some() => Cow::Borrowed(&[]),
            Some(list) => Cow::Borrowed(list),
            None => Cow::Owned(vec![self.name.workload()]),
        }
    }

    /// The addresses that an app dials for it: its own, and for a single endpoint that endpoint's. A loopback address is
    /// nobody's but the caller's own, and nobody who dials a gateway's means what is behind it.
    pub fn dialled_at(&self) -> impl Iterator<Item = IpAddr> {
        let own = self.spec.addresses.iter().map(|address| address.get());
        let endpoints = self.spec.endpoints.iter().filter(|endpoint| endpoint.through_gateway.is_none());
        own.chain(endpoints.map(|endpoint| endpoint.address.get()).filter(|ip| !ip.is_loopback()))
    }

    pub fn port(&self, name: &str) -> Option<&ServicePort> {
        self.spec.ports.iter().find(|port| port.name == *name)
    }
}

impl Kind for ServiceSpec {
    const KIND: &'static str = "Service";

    fn check(&self, name: &Name<'_>, problems: &mut Vec<Problem>) {
        let Name::Namespaced(name) = name else { return };
        if !is_label(name.name.as_str()) {
            problems.push(Problem::new(
                "metadata.name",
                format!(
                    "expected a DNS label without dots, as it becomes part of a host name, got `{}`",
                    name.name
                ),
            ));
        }
        self.check_ports(problems);
        self.user_headers.check(problems);
        self.check_hop_proof(problems);
        match &self.federated_identity {
            Some(id) => self.check_federated(id, problems),
            None => self.check_identities(name, problems),
        }
        self.check_endpoints(name, problems);
        self.check_gateways(name, problems);
        for (index, address) in twice(&self.addresses) {
            problems
                .push(Problem::new(format!("spec.addresses[{index}]"), format!("`{address}` stands twice")));
        }
    }
}

impl ServiceSpec {
    fn check_ports(&self, problems: &mut Vec<Problem>) {
        each_port_once(self.ports.iter().map(|port| (&port.name, port.port)), problems);
        for (index, port) in self.ports.iter().enumerate() {
            if port.protocol == Protocol::Tcp && port.request_timeout.is_some() {
                problems.push(Problem::new(
                    format!("spec.ports[{index}].requestTimeout"),
                    "a tcp port has no requests: use idleTimeout",
                ));
            }
            if matches!(port.protocol, Protocol::Http2 | Protocol::Grpc) && port.on_expiry == OnExpiry::Cut {
                problems.push(Problem::new(
                    format!("spec.ports[{index}].onExpiry"),
                    "only tcp and http1 ports carry streams of bytes: here connections drain before an SVID ends",
                ));
            }
            if port.permissive.is_some() {
                let reason = match (&self.federated_identity, self.user_context) {
                    (Some(_), _) => {
                        "expected none beside federatedIdentity: nobody of this mesh is called here"
                    }
                    (None, UserContext::Original) => {
                        "expected none beside userContext: original: who comes in plaintext has no user"
                    }
                    (None, UserContext::Transaction) if port.protocol == Protocol::Auto => {
                        "expected a port that says what it speaks: declare its protocol"
                    }
                    (None, UserContext::Transaction) => continue,
                };
                problems.push(Problem::new(format!("spec.ports[{index}].permissive"), reason));
            }
        }
    }

    fn check_federated(&self, id: &SpiffeId, problems: &mut Vec<Problem>) {
        let mut problem = |field: &str, reason: &str| problems.push(Problem::new(field, reason));
        if id.is_root() {
            problem(
                "spec.federatedIdentity",
                "expected the SPIFFE ID of a workload, got a trust domain's own",
            );
        }
        if self.identities.is_some() {
            problem(
                "spec.identities",
                "expected none beside federatedIdentity: nobody of this mesh answers here",
            );
        }
        if self.user_context == UserContext::Original {
            problem("spec.userContext", "expected none beside federatedIdentity: users stay inside the mesh");
        }
        if self.require_hop_proof {
            problem(
                "spec.requireHopProof",
                "expected none beside federatedIdentity: no user context leaves the mesh",
            );
        }
        if self.user_headers != UserHeaders::default() {
            problem(
                "spec.userHeaders",
                "expected none beside federatedIdentity: nobody of this mesh answers here",
            );
        }
    }

    fn check_hop_proof(&self, problems: &mut Vec<Problem>) {
        if self.require_hop_proof && self.user_context == UserContext::Original {
            problems.push(Problem::new(
                "spec.requireHopProof",
                "expected none beside `userContext: original`: a user's own token comes without a proof",
            ));
        }
    }

    fn check_identities(&self, name: &ObjectName, problems: &mut Vec<Problem>) {
        let list = self.identities.as_deref().unwrap_or_default();
        for (index, id) in list.iter().enumerate() {
            if id.namespace != name.namespace {
                problems.push(Problem::new(
                    format!("spec.identities[{index}]"),
                    format!(
                        "expected an identity of the service's own namespace `{}`, got `{id}`: only a namespace itself \
                         vouches for who answers in its name",
                        name.namespace
                    ),
                ));
            }
        }
        for (index, id) in twice(list) {
            problems.push(Problem::new(format!("spec.identities[{index}]"), format!("`{id}` stands twice")));
        }
        if self.identities.as_ref().is_some_and(Vec::is_empty) && !self.endpoints.is_empty() {
            problems.push(Problem::new(
                "spec.identities",
                "expected at least one identity for a service with endpoints, got none: a mesh address without a known \
                 identity is never dialled",
            ));
        }
    }

    fn check_endpoints(&self, name: &ObjectName, problems: &mut Vec<Problem>) {
        let default = [name.workload()];
        let identities = self.identities.as_deref().unwrap_or(&default);
        let mut places: Vec<Place<'_>> = Vec::new();
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            if let (Some(_), Some(federated)) = (&endpoint.identity, &self.federated_identity) {
                problems.push(Problem::new(
                    format!("spec.endpoints[{index}].identity"),
                    format!("expected none, as `{federated}` answers at every endpoint: leave it out"),
                ));
            } else if let Some(id) = &endpoint.identity
                && !identities.contains(id)
            {
                problems.push(Problem::new(
                    format!("spec.endpoints[{index}].identity"),
                    format!(
                        "expected one of the service's identities, got `{id}`: list it under spec.identities"
                    ),
                ));
            }
            for (port_name, port) in &endpoint.ports {
                let field = || format!("spec.endpoints[{index}].ports.{port_name}");
                if !self.ports.iter().any(|port| port.name == *port_name) {
                    problems.push(Problem::new(
                        field(),
                        format!("expected the name of a port of this service, got `{port_name}`"),
                    ));
                }
                let place = Place::new(endpoint, (port_name, *port));
                if places.iter().any(|other| other.collides(&place)) {
                    problems.push(Problem::new(
                        field(),
                        format!(
                            "expected a port of its own for each listener, got {} port {port} twice",
                            endpoint.address
                        ),
                    ));
                }
                places.push(place);
            }
        }
    }
}
