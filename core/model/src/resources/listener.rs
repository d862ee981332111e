//! Listeners of a gateway, in the words of the Gateway API: what a port takes from callers outside.
//!
//! Where TLS is ended here and where it goes on unopened may share a port: the server name of a hello decides, the most
//! specific hostname first. The certificates are the process's own (`sidecar.yaml`), so that there is no
//! `certificateRefs`; requests are the Gateway's own `routes`, whole connections those of TLSRoutes and TCPRoutes.

use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::resources::route::stream::check_server_name;
use crate::resources::{is_default, twice};
use crate::{HostPattern, Label, Port};

/// As many as the Gateway API allows.
const MAX_LISTENERS: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Listener {
    /// What a route's `sectionName` says.
    pub name: Label,
    /// Which names it is for; absent is every name that no other listener of the port has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostPattern>,
    /// What callers dial. The process says which of its own addresses that is.
    pub port: Port,
    pub protocol: ListenerProtocol,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub allowed_routes: AllowedRoutes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum ListenerProtocol {
    /// Requests in plaintext.
    Http,
    /// Requests, in TLS that ends here.
    Https,
    /// The app's own TLS, which stays closed.
    Tls,
    /// Bytes.
    Tcp,
}

impl ListenerProtocol {
    /// Whether requests come in, for the gateway's own routes.
    pub fn has_requests(self) -> bool {
        matches!(self, ListenerProtocol::Http | ListenerProtocol::Https)
    }

    /// Whether a hello comes first, by whose server name listeners of one port are told apart.
    pub fn has_hello(self) -> bool {
        matches!(self, ListenerProtocol::Https | ListenerProtocol::Tls)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            ListenerProtocol::Http => "HTTP",
            ListenerProtocol::Https => "HTTPS",
            ListenerProtocol::Tls => "TLS",
            ListenerProtocol::Tcp => "TCP",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ListenerTls {
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: TlsMode,
}

/// Where TLS ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum TlsMode {
    /// Here.
    #[default]
    Terminate,
    /// At the app.
    Passthrough,
}

/// Whose routes may attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AllowedRoutes {
    #[serde(default, skip_serializing_if = "is_default")]
    pub namespaces: RouteNamespaces,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RouteNamespaces {
    #[serde(default, skip_serializing_if = "is_default")]
    pub from: FromNamespaces,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum FromNamespaces {
    /// The gateway's own namespace alone.
    #[default]
    Same,
    All,
}

impl Listener {
    /// Whether a route of this namespace may attach, for a gateway of namespace `own`.
    pub fn lets(&self, route: &Label, own: &Label) -> bool {
        self.allowed_routes.namespaces.from == FromNamespaces::All || route == own
    }

    /// Whether any name is both this listener's and `host`.
    pub fn meets(&self, host: &HostPattern) -> bool {
        self.hostname.as_ref().is_none_or(|own| own.meets(host))
    }

    fn check(&self, index: usize, problems: &mut Vec<Problem>) {
        let mut problem = |name: &str, reason: String| {
            problems.push(Problem::new(format!("spec.listeners[{index}].{name}"), reason));
        };
        let mode = self.tls.map(|tls| tls.mode);
        let spoken = self.protocol.as_str();
        match (self.protocol, mode) {
            (ListenerProtocol::Tls, Some(TlsMode::Passthrough))
            | (ListenerProtocol::Https, None | Some(TlsMode::Terminate))
            | (ListenerProtocol::Http | ListenerProtocol::Tcp, None) => {}
            (ListenerProtocol::Tls, _) => problem(
                "tls.mode",
                "expected `Passthrough` with protocol TLS; what is ended here speaks HTTPS".to_owned(),
            ),
            (ListenerProtocol::Https, Some(TlsMode::Passthrough)) => problem(
                "tls.mode",
                "expected `Terminate` with protocol HTTPS; what is passed on unopened is of protocol TLS"
                    .to_owned(),
            ),
            (ListenerProtocol::Http | ListenerProtocol::Tcp, Some(_)) => {
                problem("tls", format!("expected none with protocol {spoken}"));
            }
        }
        if self.protocol == ListenerProtocol::Tcp && self.hostname.is_some() {
            problem("hostname", "expected none with protocol TCP: bytes say no name".to_owned());
        }
        if self.protocol.has_requests() && self.allowed_routes != AllowedRoutes::default() {
            problem(
                "allowedRoutes",
                format!(
                    "expected none with protocol {spoken}: its requests go by the Gateway's own spec.routes"
                ),
            );
        }
        if let Some(host) = &self.hostname {
            check_server_name(&format!("spec.listeners[{index}].hostname"), host, problems);
        }
    }
}

/// `has_routes`: the gateway takes requests somewhere.
pub(crate) fn check_all(listeners: &[Listener], has_routes: bool, problems: &mut Vec<Problem>) {
    if listeners.len() > MAX_LISTENERS {
        let got = listeners.len();
        problems.push(Problem::new("spec.listeners", format!("expected at most {MAX_LISTENERS}, got {got}")));
    }
    let names: Vec<_> = listeners.iter().map(|listener| &listener.name).collect();
    for (index, name) in twice(&names) {
        problems.push(Problem::new(
            format!("spec.listeners[{index}].name"),
            format!("expected a name of its own for each listener, got `{name}` twice"),
        ));
    }
    for (index, listener) in listeners.iter().enumerate() {
        listener.check(index, problems);
        if listener.protocol.has_requests() && !has_routes {
            problems.push(Problem::new(
                format!("spec.listeners[{index}].protocol"),
                format!("expected spec.routes beside protocol {}, got none", listener.protocol.as_str()),
            ));
        }
        let earlier = listeners.iter().take(index).filter(|earlier| earlier.port == listener.port);
        for other in earlier {
            if let Some(reason) = conflict(other, listener) {
                problems.push(Problem::new(format!("spec.listeners[{index}].port"), reason));
                break;
            }
        }
    }
}

/// Why two listeners cannot share a port (Gateway API, "distinct").
fn conflict(first: &Listener, second: &Listener) -> Option<String> {
    let (one, two) = (first.protocol, second.protocol);
    let told_apart = one == two && one == ListenerProtocol::Http || one.has_hello() && two.has_hello();
    if !told_apart {
        return Some(format!(
            "expected listeners on port {} that a hello's server name or a request's host tells apart, got {} beside {} of \
             listener `{}`",
            second.port,
            two.as_str(),
            one.as_str(),
            first.name
        ));
    }
    (first.hostname == second.hostname).then(|| {
        let name = second.hostname.as_ref().map_or_else(|| "(every other)".to_owned(), ToString::to_string);
        format!(
            "expected each hostname once on port {}, got `{name}`, which is listener `{}`'s",
            second.port, first.name
        )
    })
}
