//! TLSRoute and TCPRoute: where whole connections go.
//!
//! Nobody reads in them: a TLSRoute is chosen by the server name of a hello that stays closed, a TCPRoute by the port alone.

use serde::{Deserialize, Serialize};

use super::{
    BackendKind, GATEWAY_API, MAX_BACKENDS, MAX_HOSTNAMES, MAX_PARENTS, ParentKind, ParentRef, check_parents,
};
use crate::decode::non_empty;
use crate::error::Problem;
use crate::object::{Kind, Name, Namespaced};
use crate::resources::external::is_of_the_mesh;
use crate::resources::twice;
use crate::{HostPattern, Label, ObjectName, Port};

pub type TlsRoute = Namespaced<TlsRouteSpec>;
pub type TcpRoute = Namespaced<TcpRouteSpec>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TlsRouteSpec {
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub parent_refs: Vec<ParentRef>,
    /// Server names that the caller's hello may say.
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub hostnames: Vec<HostPattern>,
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub rules: Vec<StreamRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TcpRouteSpec {
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub parent_refs: Vec<ParentRef>,
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub rules: Vec<StreamRule>,
}

/// Where the connections of a route go. There is one rule: nothing in a connection tells two apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StreamRule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Label>,
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub backend_refs: Vec<StreamBackend>,
}

/// A service that takes its share of connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StreamBackend {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<BackendKind>,
    pub name: Label,
    /// Absent means the route's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Label>,
    /// The port that callers of that service dial.
    pub port: Port,
    /// Its share among the backends; 0 gets nothing.
    #[serde(default = "super::one", skip_serializing_if = "super::is_one")]
    pub weight: u32,
}

impl StreamBackend {
    /// The service that it names, for a route of this namespace.
    pub fn service(&self, own: &Label) -> ObjectName {
        super::object(&self.name, self.namespace.as_ref().unwrap_or(own))
    }
}

impl Kind for TlsRouteSpec {
    const KIND: &'static str = "TLSRoute";
    const API: &'static str = GATEWAY_API;
    const ALSO: &'static [&'static str] =
        &["gateway.networking.k8s.io/v1alpha3", "gateway.networking.k8s.io/v1alpha2"];

    fn check(&self, _: &Name<'_>, problems: &mut Vec<Problem>) {
        check_stream(&self.parent_refs, &self.rules, problems);
        if self.hostnames.len() > MAX_HOSTNAMES {
            let got = self.hostnames.len();
            problems
                .push(Problem::new("spec.hostnames", format!("expected at most {MAX_HOSTNAMES}, got {got}")));
        }
        for (index, host) in self.hostnames.iter().enumerate() {
            check_server_name(&format!("spec.hostnames[{index}]"), host, problems);
        }
        for (index, host) in twice(&self.hostnames) {
            problems.push(Problem::new(format!("spec.hostnames[{index}]"), format!("`{host}` stands twice")));
        }
    }
}

impl Kind for TcpRouteSpec {
    const KIND: &'static str = "TCPRoute";
    const API: &'static str = GATEWAY_API;
    const ALSO: &'static [&'static str] = &["gateway.networking.k8s.io/v1alpha2"];

    fn check(&self, _: &Name<'_>, problems: &mut Vec<Problem>) {
        check_stream(&self.parent_refs, &self.rules, problems);
    }
}

/// A name, or `*.` and a name, that a hello from outside the mesh can say.
pub(crate) fn check_server_name(field: &str, host: &HostPattern, problems: &mut Vec<Problem>) {
    let reason = match host {
        HostPattern::Any => "expected a name, or `*.` and a name, got `*`".to_owned(),
        // RFC 6066, section 3: a server name is never an address.
        HostPattern::Exact(name) if name.parse::<std::net::IpAddr>().is_ok() => {
            format!("expected a name, since no hello says an address, got `{host}`")
        }
        HostPattern::Exact(name) | HostPattern::Suffix(name) if is_of_the_mesh(name) => {
            format!("expected a name outside the mesh, got `{host}`")
        }
        _ => return,
    };
    problems.push(Problem::new(field, reason));
}

fn check_stream(parents: &[ParentRef], rules: &[StreamRule], problems: &mut Vec<Problem>) {
    check_parents(parents, problems);
    if parents.len() > MAX_PARENTS {
        let got = parents.len();
        problems.push(Problem::new("spec.parentRefs", format!("expected at most {MAX_PARENTS}, got {got}")));
    }
    if rules.len() > 1 {
        problems.push(Problem::new(
            "spec.rules",
            format!("expected one rule, since nothing in a connection tells two apart, got {}", rules.len()),
        ));
    }
    for (index, rule) in rules.iter().enumerate() {
        if rule.backend_refs.len() > MAX_BACKENDS {
            let got = rule.backend_refs.len();
            problems.push(Problem::new(
                format!("spec.rules[{index}].backendRefs"),
                format!("expected at most {MAX_BACKENDS}, got {got}"),
            ));
        }
        for (at, backend) in rule.backend_refs.iter().enumerate() {
            let field = format!("spec.rules[{index}].backendRefs[{at}]");
            super::check_group(&field, ParentKind::Service, backend.group.as_deref(), problems);
            super::check_weight(&field, backend.weight, problems);
        }
    }
}
