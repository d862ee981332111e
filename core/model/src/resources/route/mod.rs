//! Routes: which of a service's requests go where, and what becomes of them on the way.
//!
//! The kinds are the Gateway API's own (`gateway.networking.k8s.io/v1`), with a Service as parent: what an operator writes
//! here can be applied to a cluster as it is, and the other way round. Of their fields those are known that Signet
//! carries out; any other is refused by name. HTTPRoute and GRPCRoute come to the same [`Rule`]s; TLSRoute and TCPRoute,
//! which may have a Gateway as parent as well, to one [`StreamRule`]. A route in the namespace of its
//! service is for all callers; one elsewhere is for callers of its own namespace alone, instead of the service's own.

mod filter;
mod grant;
mod grpc;
mod http;
mod rule;
pub(crate) mod stream;

use serde::{Deserialize, Serialize};

pub use filter::{
    Filter, FilterType, Fraction, HeaderModifier, HeaderValue, Mirror, PathModifier, PathModifierType,
    Redirect, Rewrite, Scheme,
};
pub use grant::{GivenRoute, GivenRoutes, GrantFrom, GrantTo, ReferenceGrant, ReferenceGrantSpec};
pub use grpc::{GrpcMethodMatch, GrpcRoute, GrpcRouteMatch, GrpcRouteRule, GrpcRouteSpec};
pub use http::{
    HeaderMatch, HttpRoute, HttpRouteMatch, HttpRouteRule, HttpRouteSpec, PathMatch, PathMatchType,
    QueryMatch,
};
pub use rule::{AnyRoute, Family, GrpcCall, Match, PathRule, Rule};
pub use stream::{StreamBackend, StreamRule, TcpRoute, TcpRouteSpec, TlsRoute, TlsRouteSpec};

use crate::error::Problem;
use crate::{Label, ObjectName, Port, RouteDuration};

/// The group and version of the kinds in this module.
pub const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

/// Of one route, as in the Gateway API.
const MAX_RULES: usize = 16;
const MAX_MATCHES: usize = 64;
const MAX_BACKENDS: usize = 16;
const MAX_FILTERS: usize = 16;
const MAX_PARENTS: usize = 32;
const MAX_HOSTNAMES: usize = 16;

/// The service, or the gateway, that a route belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ParentRef {
    /// Empty or `core` is Kubernetes' own group, where Service is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Absent means `Gateway`, as in the standard.
    #[serde(default)]
    pub kind: ParentKind,
    pub name: Label,
    /// Absent means the route's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Label>,
    /// One port of it by number; absent means all that speak what the route is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// One port of it, or one listener of a gateway, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<Label>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ParentKind {
    /// Callers outside the mesh, at a gateway's listener.
    #[default]
    Gateway,
    /// Callers inside the mesh.
    Service,
}

/// What a backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum BackendKind {
    Service,
}

/// Where a rule's requests go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendRef {
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
    /// Its share among the rule's backends; 0 gets nothing.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
    /// For requests that go to this backend only, after the rule's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
}

fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's own signature
fn is_one(weight: &u32) -> bool {
    *weight == 1
}

impl BackendRef {
    /// The service that it names, for a route of this namespace.
    pub fn service(&self, own: &Label) -> ObjectName {
        object(&self.name, self.namespace.as_ref().unwrap_or(own))
    }
}

impl ParentRef {
    /// The service or gateway that it names, for a route of this namespace.
    pub fn object(&self, own: &Label) -> ObjectName {
        object(&self.name, self.namespace.as_ref().unwrap_or(own))
    }

    /// Whether it names this service, for a route of this namespace.
    pub fn is_service(&self, own: &Label, service: &ObjectName) -> bool {
        self.kind == ParentKind::Service && self.object(own) == *service
    }

    /// Whether it names this gateway, for a route of this namespace.
    pub fn is_gateway(&self, own: &Label, gateway: &ObjectName) -> bool {
        self.kind == ParentKind::Gateway && self.object(own) == *gateway
    }

    /// Whether it means this port of its service, or this listener of its gateway.
    pub fn takes(&self, name: &str, number: u16) -> bool {
        self.port.is_none_or(|port| port.get() == number)
            && self.section_name.as_ref().is_none_or(|section| *section == *name)
    }
}

fn object(name: &Label, namespace: &Label) -> ObjectName {
    ObjectName::new(namespace.clone(), name.to_subdomain())
}

/// How long a rule's requests may take; zero is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RouteTimeouts {
    /// From the request's head to the answer's head, all tries together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RouteDuration>,
    /// The same of one try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<RouteDuration>,
}

/// When a request is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RouteRetry {
    /// Statuses of an answer that is thrown away for another try, 400 to 599.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<u16>,
    /// Tries beyond the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// The least pause before a further try; it doubles, with jitter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<RouteDuration>,
}

/// What both kinds have in common and must not contradict.
fn check_common(
    parents: &[ParentRef],
    hostnames: usize,
    rules: usize,
    each: impl Iterator<Item = (usize, usize)>,
    problems: &mut Vec<Problem>,
) {
    let mut most = |field: String, got: usize, most: usize| {
        if got > most {
            problems.push(Problem::new(field, format!("expected at most {most}, got {got}")));
        }
    };
    most("spec.parentRefs".into(), parents.len(), MAX_PARENTS);
    most("spec.hostnames".into(), hostnames, MAX_HOSTNAMES);
    most("spec.rules".into(), rules, MAX_RULES);
    for (index, (matches, backends)) in each.enumerate() {
        most(format!("spec.rules[{index}].matches"), matches, MAX_MATCHES);
        most(format!("spec.rules[{index}].backendRefs"), backends, MAX_BACKENDS);
    }
    check_parents(parents, problems);
    for (index, parent) in parents.iter().enumerate() {
        if parent.kind == ParentKind::Gateway {
            problems.push(Problem::new(
                format!("spec.parentRefs[{index}].kind"),
                "expected `Service`: what callers outside reach by requests, and by which credentials, a Gateway says under \
                 spec.routes",
            ));
        }
    }
}

fn check_parents(parents: &[ParentRef], problems: &mut Vec<Problem>) {
    for (index, parent) in parents.iter().enumerate() {
        check_group(&format!("spec.parentRefs[{index}]"), parent.kind, parent.group.as_deref(), problems);
    }
}

fn check_backends(field: &str, backends: &[BackendRef], problems: &mut Vec<Problem>) {
    for (index, backend) in backends.iter().enumerate() {
        let field = format!("{field}.backendRefs[{index}]");
        check_group(&field, ParentKind::Service, backend.group.as_deref(), problems);
        check_weight(&field, backend.weight, problems);
        filter::check_all(&field, &backend.filters, true, problems);
    }
}

fn check_weight(field: &str, weight: u32, problems: &mut Vec<Problem>) {
    if weight > 1_000_000 {
        problems
            .push(Problem::new(format!("{field}.weight"), format!("expected 0 to 1000000, got {weight}")));
    }
}

/// The group of a Service is Kubernetes' own, which has no name; that of a Gateway the standard's, or Signet's.
fn check_group(field: &str, kind: ParentKind, group: Option<&str>, problems: &mut Vec<Problem>) {
    let (known, which): (&[&str], _) = match kind {
        ParentKind::Service => (&["", "core"], "of a Service, which is empty"),
        ParentKind::Gateway => (
            &["gateway.networking.k8s.io", "signet.mesh"],
            "of a Gateway, `signet.mesh` or `gateway.networking.k8s.io`",
        ),
    };
    if let Some(group) = group.filter(|group| !known.contains(group)) {
        problems.push(Problem::new(
            format!("{field}.group"),
            format!("expected the group {which}, got `{}`", crate::text::shorten(group)),
        ));
    }
}

fn check_retry(field: &str, retry: Option<&RouteRetry>, problems: &mut Vec<Problem>) {
    let Some(retry) = retry else { return };
    for (index, code) in retry.codes.iter().enumerate() {
        if !(400..=599).contains(code) {
            problems.push(Problem::new(
                format!("{field}.retry.codes[{index}]"),
                format!("expected a status from 400 to 599, got {code}"),
            ));
        }
    }
    if let Some(attempts) = retry.attempts.filter(|attempts| *attempts > crate::MAX_RETRIES) {
        problems.push(Problem::new(
            format!("{field}.retry.attempts"),
            format!("expected at most {}, got {attempts}", crate::MAX_RETRIES),
        ));
    }
}
