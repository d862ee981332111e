//! What all kinds of routes come to.

use super::filter::Filter;
use super::grpc::{GrpcRoute, GrpcRouteMatch};
use super::http::{HeaderMatch, HttpRoute, HttpRouteMatch, PathMatchType, QueryMatch};
use super::stream::{StreamRule, TcpRoute, TlsRoute};
use super::{BackendRef, ParentKind, ParentRef, RouteRetry, RouteTimeouts};
use crate::error::{Problem, Unreadable};
use crate::{GrpcName, HostPattern, HttpMethod, Label, ObjectName, PathPrefix, Port};

/// A route of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyRoute {
    Http(HttpRoute),
    Grpc(GrpcRoute),
    Tls(TlsRoute),
    Tcp(TcpRoute),
}

/// What a route speaks of. One of the one family never stands for one of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Requests: HTTPRoute and GRPCRoute.
    Requests,
    /// Whole connections: TLSRoute and TCPRoute.
    Streams,
}

/// One rule, whichever kind it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule<'a> {
    pub name: Option<&'a Label>,
    /// Any of these; never empty.
    pub matches: Vec<Match<'a>>,
    pub filters: &'a [Filter],
    pub backends: &'a [BackendRef],
    pub timeouts: RouteTimeouts,
    pub retry: Option<&'a RouteRetry>,
}

/// What a request must be, all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Match<'a> {
    pub path: Option<PathRule<'a>>,
    pub method: Option<&'a HttpMethod>,
    pub headers: &'a [HeaderMatch],
    pub query: &'a [QueryMatch],
    pub grpc: Option<GrpcCall<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathRule<'a> {
    Exact(&'a PathPrefix),
    Prefix(&'a PathPrefix),
}

/// A gRPC call; with neither name, any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GrpcCall<'a> {
    pub service: Option<&'a GrpcName>,
    pub method: Option<&'a GrpcName>,
}

impl AnyRoute {
    pub fn name(&self) -> &ObjectName {
        match self {
            AnyRoute::Http(route) => &route.name,
            AnyRoute::Grpc(route) => &route.name,
            AnyRoute::Tls(route) => &route.name,
            AnyRoute::Tcp(route) => &route.name,
        }
    }

    /// The word for its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            AnyRoute::Http(_) => "HTTPRoute",
            AnyRoute::Grpc(_) => "GRPCRoute",
            AnyRoute::Tls(_) => "TLSRoute",
            AnyRoute::Tcp(_) => "TCPRoute",
        }
    }

    pub fn family(&self) -> Family {
        match self {
            AnyRoute::Http(_) | AnyRoute::Grpc(_) => Family::Requests,
            AnyRoute::Tls(_) | AnyRoute::Tcp(_) => Family::Streams,
        }
    }

    pub fn parents(&self) -> &[ParentRef] {
        match self {
            AnyRoute::Http(route) => &route.spec.parent_refs,
            AnyRoute::Grpc(route) => &route.spec.parent_refs,
            AnyRoute::Tls(route) => &route.spec.parent_refs,
            AnyRoute::Tcp(route) => &route.spec.parent_refs,
        }
    }

    pub fn hostnames(&self) -> &[HostPattern] {
        match self {
            AnyRoute::Http(route) => &route.spec.hostnames,
            AnyRoute::Grpc(route) => &route.spec.hostnames,
            AnyRoute::Tls(route) => &route.spec.hostnames,
            AnyRoute::Tcp(_) => &[],
        }
    }

    /// Whether it belongs to this service, by any of its parents.
    pub fn is_of(&self, service: &ObjectName) -> bool {
        let own = &self.name().namespace;
        self.parents().iter().any(|parent| parent.is_service(own, service))
    }

    /// Whether it belongs to this gateway, by any of its parents.
    pub fn is_of_gateway(&self, gateway: &ObjectName) -> bool {
        let own = &self.name().namespace;
        self.parents().iter().any(|parent| parent.is_gateway(own, gateway))
    }

    /// Whether any parent of it is a gateway.
    pub fn has_gateway(&self) -> bool {
        self.parents().iter().any(|parent| parent.kind == ParentKind::Gateway)
    }

    /// Where whole connections go, for a route of those.
    pub fn stream(&self) -> Option<&StreamRule> {
        match self {
            AnyRoute::Http(_) | AnyRoute::Grpc(_) => None,
            AnyRoute::Tls(route) => route.spec.rules.first(),
            AnyRoute::Tcp(route) => route.spec.rules.first(),
        }
    }

    /// For requests, in the order in which they are written; a route of whole connections has none.
    pub fn rules(&self) -> Vec<Rule<'_>> {
        match self {
            AnyRoute::Http(route) => {
                let rules = route.spec.rules.iter().map(|rule| Rule {
                    name: rule.name.as_ref(),
                    matches: any_or(rule.matches.iter().map(of_http).collect(), Match::default()),
                    filters: &rule.filters,
                    backends: &rule.backend_refs,
                    timeouts: rule.timeouts.unwrap_or_default(),
                    retry: rule.retry.as_ref(),
                });
                rules.collect()
            }
            AnyRoute::Grpc(route) => {
                let any = Match { grpc: Some(GrpcCall::default()), ..Match::default() };
                let rules = route.spec.rules.iter().map(|rule| Rule {
                    name: rule.name.as_ref(),
                    matches: any_or(rule.matches.iter().map(of_grpc).collect(), any.clone()),
                    filters: &rule.filters,
                    backends: &rule.backend_refs,
                    timeouts: rule.timeouts.unwrap_or_default(),
                    retry: rule.retry.as_ref(),
                });
                rules.collect()
            }
            AnyRoute::Tls(_) | AnyRoute::Tcp(_) => Vec::new(),
        }
    }

    /// Every service that its connections, requests or copies of them may go to, with the port and the place where it
    /// says so.
    pub fn backends(&self) -> Vec<(String, ObjectName, Port)> {
        let own = &self.name().namespace;
        let mut all = Vec::new();
        for (index, rule) in self.rules().into_iter().enumerate() {
            for (at, backend) in rule.backends.iter().enumerate() {
                all.push((
                    format!("spec.rules[{index}].backendRefs[{at}]"),
                    backend.service(own),
                    backend.port,
                ));
            }
            for (at, filter) in rule.filters.iter().enumerate() {
                if let Some(mirror) = &filter.request_mirror {
                    let field = format!("spec.rules[{index}].filters[{at}].requestMirror.backendRef");
                    all.push((field, mirror.backend_ref.service(own), mirror.backend_ref.port));
                }
            }
        }
        for (at, backend) in self.stream().iter().flat_map(|rule| &rule.backend_refs).enumerate() {
            all.push((format!("spec.rules[0].backendRefs[{at}]"), backend.service(own), backend.port));
        }
        all
    }

    pub fn canonical_json(&self) -> String {
        match self {
            AnyRoute::Http(route) => route.canonical_json(),
            AnyRoute::Grpc(route) => route.canonical_json(),
            AnyRoute::Tls(route) => route.canonical_json(),
            AnyRoute::Tcp(route) => route.canonical_json(),
        }
    }

    /// Reads what [`AnyRoute::canonical_json`] wrote; refuses it whole otherwise.
    pub fn from_json(text: &str) -> Result<AnyRoute, Unreadable> {
        let kind = serde_json::from_str::<serde_json::Value>(text)
            .ok()
            .and_then(|value| value.get("kind").and_then(|kind| kind.as_str().map(str::to_owned)));
        match kind.as_deref() {
            Some("HTTPRoute") => HttpRoute::from_json(text).map(AnyRoute::Http),
            Some("GRPCRoute") => GrpcRoute::from_json(text).map(AnyRoute::Grpc),
            Some("TLSRoute") => TlsRoute::from_json(text).map(AnyRoute::Tls),
            Some("TCPRoute") => TcpRoute::from_json(text).map(AnyRoute::Tcp),
            _ => Err(Unreadable {
                problems: vec![Problem::new(
                    "kind",
                    "expected HTTPRoute, GRPCRoute, TLSRoute or TCPRoute, got another kind",
                )],
            }),
        }
    }
}

fn any_or<'a>(matches: Vec<Match<'a>>, any: Match<'a>) -> Vec<Match<'a>> {
    if matches.is_empty() { vec![any] } else { matches }
}

fn of_http(one: &HttpRouteMatch) -> Match<'_> {
    Match {
        path: one.path.as_ref().map(|path| match path.r#type {
            PathMatchType::Exact => PathRule::Exact(&path.value),
            PathMatchType::PathPrefix => PathRule::Prefix(&path.value),
        }),
        method: one.method.as_ref(),
        headers: &one.headers,
        query: &one.query_params,
        grpc: None,
    }
}

fn of_grpc(one: &GrpcRouteMatch) -> Match<'_> {
    let grpc = one
        .method
        .as_ref()
        .map(|method| GrpcCall { service: method.service.as_ref(), method: method.method.as_ref() });
    Match { headers: &one.headers, grpc: Some(grpc.unwrap_or_default()), ..Match::default() }
}
