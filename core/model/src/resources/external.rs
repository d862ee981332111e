//! A place outside the mesh that workloads may call: by which names and ports, at which addresses, and by what way.
//!
//! What is not listed is not called, unless the mesh's `egress` says otherwise. A name is resolved by whoever dials (the
//! sidecar, or the gateway that the call goes through), never by the app; what it resolves to must be on the public
//! internet, or in one of the ranges that are written here.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::decode::non_empty;
use crate::error::Problem;
use crate::object::{Kind, Name, Namespaced};
use crate::resources::{each_port_once, is_default, twice};
use crate::text::address::HostAddress;
use crate::text::host::HostPattern;
use crate::text::name::is_label;
use crate::text::network::Network;
use crate::{Label, ObjectName, Period, Port, Protocol, WorkloadId, WorkloadPattern};

pub type ExternalService = Namespaced<ExternalServiceSpec>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExternalServiceSpec {
    /// Names by which it is called; never `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub hosts: Vec<HostPattern>,
    /// Where it is: instead of what the names resolve to, or without any name.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub addresses: Vec<HostAddress>,
    /// With names: ranges beside the public internet into which they may lead. Without: all of it may be called.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub networks: Vec<Network>,
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub ports: Vec<ExternalPort>,
    /// Who may call it; absent: the workloads of its own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Callers>,
    /// The egress gateway that calls for them; absent: each sidecar calls by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<Through>,
}

/// Who may call: these, or every workload of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Callers {
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub workloads: Vec<WorkloadPattern>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub everyone: bool,
}

/// A port of a place outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[serde(from = "WrittenPort")]
pub struct ExternalPort {
    pub name: Label,
    /// The port that apps dial.
    pub port: Port,
    /// What apps speak. Where it is not written, what the port's name says, see [`ExternalProtocol::of_name`].
    pub protocol: ExternalProtocol,
    /// The port there; absent: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<Port>,
    /// TLS to the place outside, begun by whoever dials it: what the app speaks is inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsOrigination>,
    /// From the request's head to the end of its answer; absent is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<Period>,
    /// Without a byte either way; absent is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Period>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenPort {
    name: Label,
    port: Port,
    protocol: Option<ExternalProtocol>,
    target_port: Option<Port>,
    tls: Option<TlsOrigination>,
    request_timeout: Option<Period>,
    idle_timeout: Option<Period>,
}

impl From<WrittenPort> for ExternalPort {
    fn from(written: WrittenPort) -> ExternalPort {
        let WrittenPort { name, port, protocol, target_port, tls, request_timeout, idle_timeout } = written;
        let protocol = protocol.unwrap_or_else(|| ExternalProtocol::of_name(name.as_str()));
        ExternalPort { name, port, protocol, target_port, tls, request_timeout, idle_timeout }
    }
}

/// What an app speaks to a place outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", schemars(extend("x-signet-also" = ["http"])))]
pub enum ExternalProtocol {
    #[serde(alias = "http")]
    Http1,
    Http2,
    Grpc,
    /// TLS of the app's own, which stays closed: its server name says where it goes.
    Tls,
    /// Anything else.
    Tcp,
}

impl ExternalProtocol {
    /// What a port of this name speaks, by the usual convention.
    pub fn of_name(name: &str) -> ExternalProtocol {
        match name.split('-').next().unwrap_or_default() {
            "http" => ExternalProtocol::Http1,
            "http2" | "h2c" => ExternalProtocol::Http2,
            "grpc" => ExternalProtocol::Grpc,
            "https" | "tls" => ExternalProtocol::Tls,
            _ => ExternalProtocol::Tcp,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            ExternalProtocol::Http1 => "http1",
            ExternalProtocol::Http2 => "http2",
            ExternalProtocol::Grpc => "grpc",
            ExternalProtocol::Tls => "tls",
            ExternalProtocol::Tcp => "tcp",
        }
    }

    /// The same as of a service's port; the app's own TLS is bytes.
    pub fn carried(self) -> Protocol {
        match self {
            ExternalProtocol::Http1 => Protocol::Http1,
            ExternalProtocol::Http2 => Protocol::Http2,
            ExternalProtocol::Grpc => Protocol::Grpc,
            ExternalProtocol::Tls | ExternalProtocol::Tcp => Protocol::Tcp,
        }
    }

    /// Whether each request says by itself for which host it is.
    pub fn is_http(self) -> bool {
        matches!(self, ExternalProtocol::Http1 | ExternalProtocol::Http2 | ExternalProtocol::Grpc)
    }
}

/// TLS towards a place outside. The certificate must be for the name that is called.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TlsOrigination {
    /// The name that is asked for and that the certificate must have, instead of the name that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<HostPattern>,
    /// Authorities (PEM) that are believed there, instead of the public web's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_certificates: Option<String>,
}

/// By which gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Through {
    /// The service of the egress gateway, `name.namespace`.
    pub service: ObjectName,
    /// Its port, by name.
    pub port: Label,
}

impl ExternalService {
    /// Whether a workload of this mesh may call it.
    pub fn lets(&self, caller: &WorkloadId) -> bool {
        match &self.spec.from {
            None => caller.namespace == self.name.namespace,
            Some(from) => {
                from.everyone
                    || from.workloads.iter().any(|pattern| match pattern {
                        WorkloadPattern::Exact(id) => id == caller,
                        WorkloadPattern::Namespace(namespace) => *namespace == caller.namespace,
                        WorkloadPattern::Federated(_) | WorkloadPattern::FederatedNamespace(..) => false,
                    })
            }
        }
    }
}

impl ExternalServiceSpec {
    /// The one place that is meant where the caller says no name: the only exact name, or the only address without any.
    pub fn sole_place(&self) -> Option<String> {
        match (&*self.hosts, &*self.addresses, &*self.networks) {
            ([HostPattern::Exact(name)], _, _) => Some(name.to_string()),
            ([], [address], []) => Some(address.to_string()),
            _ => None,
        }
    }

    /// Whether an app may dial this address without saying a name.
    pub fn takes_address(&self, address: IpAddr) -> bool {
        self.hosts.is_empty()
            && (self.addresses.iter().any(|listed| listed.get() == address)
                || self.networks.iter().any(|network| network.contains(address)))
    }
}

impl Kind for ExternalServiceSpec {
    const KIND: &'static str = "ExternalService";

    fn check(&self, name: &Name<'_>, problems: &mut Vec<Problem>) {
        let Name::Namespaced(name) = name else { return };
        if !is_label(name.name.as_str()) {
            problems.push(Problem::new(
                "metadata.name",
                format!(
                    "expected a DNS label without dots, as it becomes part of a server name, got `{}`",
                    name.name
                ),
            ));
        }
        self.check_places(problems);
        self.check_callers(problems);
        self.check_ports(problems);
        if self.through.is_some() {
            self.check_way(problems);
        }
    }
}

impl ExternalServiceSpec {
    fn check_places(&self, problems: &mut Vec<Problem>) {
        if self.hosts.is_empty() && self.addresses.is_empty() && self.networks.is_empty() {
            problems.push(Problem::new("spec", "expected hosts, addresses or networks, got none of them"));
        }
        for (index, host) in self.hosts.iter().enumerate() {
            let reason = match host {
                HostPattern::Any => {
                    "expected a name, or `*.` and a name: what may be called is listed, got `*`".to_owned()
                }
                HostPattern::Exact(name) if name.parse::<IpAddr>().is_ok() => {
                    format!("expected a name; an address belongs under spec.addresses, got `{host}`")
                }
                HostPattern::Exact(name) | HostPattern::Suffix(name) if is_of_the_mesh(name) => {
                    format!("expected a name outside the mesh, got `{host}`")
                }
                HostPattern::Suffix(_) if !self.addresses.is_empty() => {
                    format!("expected no pattern beside addresses, which belong to names, got `{host}`")
                }
                _ => continue,
            };
            problems.push(Problem::new(format!("spec.hosts[{index}]"), reason));
        }
        for (index, host) in twice(&self.hosts) {
            problems.push(Problem::new(format!("spec.hosts[{index}]"), format!("`{host}` stands twice")));
        }
        for (index, address) in twice(&self.addresses) {
            problems
                .push(Problem::new(format!("spec.addresses[{index}]"), format!("`{address}` stands twice")));
        }
        if !self.addresses.is_empty() && !self.networks.is_empty() {
            problems.push(Problem::new(
                "spec.networks",
                "expected none beside addresses: each address can be written as a range, as in 192.0.2.7/32",
            ));
        }
    }

    fn check_callers(&self, problems: &mut Vec<Problem>) {
        let Some(from) = &self.from else { return };
        if from.everyone != from.workloads.is_empty() {
            problems.push(Problem::new(
                "spec.from",
                "expected workloads, or `everyone: true`, and not both; without `from` it is the workloads of its namespace",
            ));
        }
        for (index, pattern) in from.workloads.iter().enumerate() {
            if pattern.federated_domain().is_some() {
                problems.push(Problem::new(
                    format!("spec.from.workloads[{index}]"),
                    format!("expected workloads of this mesh, got `{pattern}`"),
                ));
            }
        }
    }

    fn check_ports(&self, problems: &mut Vec<Problem>) {
        each_port_once(self.ports.iter().map(|port| (&port.name, port.port)), problems);
        for (index, port) in self.ports.iter().enumerate() {
            self.check_port(port, &|field: &str| format!("spec.ports[{index}].{field}"), problems);
        }
    }

    fn check_port(&self, port: &ExternalPort, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        let mut problem = |name: &str, reason: &str| problems.push(Problem::new(field(name), reason));
        if port.protocol != ExternalProtocol::Tcp && self.hosts.is_empty() {
            problem(
                "protocol",
                "expected tcp, as there are no hosts: by them requests and server names are told apart",
            );
        }
        if port.protocol == ExternalProtocol::Tcp
            && self.hosts.iter().any(|host| matches!(host, HostPattern::Suffix(_)))
        {
            problem(
                "protocol",
                "expected http1, http2, grpc or tls beside a pattern in hosts: bytes say no name",
            );
        }
        if !port.protocol.is_http() && port.request_timeout.is_some() {
            problem("requestTimeout", "expected a port with requests: use idleTimeout");
        }
        let Some(tls) = &port.tls else { return };
        if port.protocol == ExternalProtocol::Tls {
            problem(
                "tls",
                "expected none: the app speaks TLS itself. For TLS begun by the sidecar declare what the app speaks inside it",
            );
        }
        match &tls.server_name {
            None if self.hosts.is_empty() => {
                problem(
                    "tls.serverName",
                    "expected the name that the certificate must have, as there are no hosts, got nothing",
                );
            }
            None | Some(HostPattern::Exact(_)) => {}
            Some(_) => problem("tls.serverName", "expected one name, got a pattern"),
        }
        if tls.ca_certificates.as_ref().is_some_and(|pem| !pem.contains("-----BEGIN CERTIFICATE-----")) {
            problem(
                "tls.caCertificates",
                "expected certificates in PEM, got no `-----BEGIN CERTIFICATE-----`",
            );
        }
    }

    /// A gateway learns the port from the connection's server name, and the place from what is said inside.
    fn check_way(&self, problems: &mut Vec<Problem>) {
        for (index, port) in self.ports.iter().enumerate() {
            if port.protocol == ExternalProtocol::Tcp && self.sole_place().is_none() {
                problems.push(Problem::new(
                    format!("spec.ports[{index}].protocol"),
                    "expected one name or one address beside `through` for bytes, which say no name: the gateway could not \
                     know which place is meant",
                ));
            }
        }
    }
}

pub(crate) fn is_of_the_mesh(name: &str) -> bool {
    name == "signet.internal" || name.ends_with(".signet.internal")
}
