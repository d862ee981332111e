//! GRPCRoute: rules for gRPC calls.

use serde::{Deserialize, Serialize};

use super::filter::{Filter, FilterType};
use super::http::{ExactMatch, HeaderMatch};
use super::{
    BackendRef, GATEWAY_API, ParentRef, RouteRetry, RouteTimeouts, check_backends, check_common, check_retry,
    filter,
};
use crate::decode::non_empty;
use crate::error::Problem;
use crate::object::{Kind, Name, Namespaced};
use crate::{GrpcName, HostPattern, Label};

pub type GrpcRoute = Namespaced<GrpcRouteSpec>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GrpcRouteSpec {
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub parent_refs: Vec<ParentRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<HostPattern>,
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub rules: Vec<GrpcRouteRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GrpcRouteRule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Label>,
    /// Any of these; absent is every call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<GrpcRouteMatch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<BackendRef>,
    /// Not yet in the Gateway API's GRPCRoute; the same as HTTPRoute's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<RouteTimeouts>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RouteRetry>,
}

/// All of these.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GrpcRouteMatch {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<GrpcMethodMatch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
}

/// A gRPC service, a method of any service, or both.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GrpcMethodMatch {
    #[serde(default, skip_serializing_if = "crate::resources::is_default")]
    pub r#type: ExactMatch,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<GrpcName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<GrpcName>,
}

impl Kind for GrpcRouteSpec {
    const KIND: &'static str = "GRPCRoute";
    const API: &'static str = GATEWAY_API;

    fn check(&self, _: &Name<'_>, problems: &mut Vec<Problem>) {
        let each = self.rules.iter().map(|rule| (rule.matches.len(), rule.backend_refs.len()));
        check_common(&self.parent_refs, self.hostnames.len(), self.rules.len(), each, problems);
        for (index, rule) in self.rules.iter().enumerate() {
            let field = format!("spec.rules[{index}]");
            filter::check_all(&field, &rule.filters, false, problems);
            check_backends(&field, &rule.backend_refs, problems);
            check_retry(&field, rule.retry.as_ref(), problems);
            for (at, filter) in rule.filters.iter().enumerate() {
                if matches!(filter.r#type, FilterType::RequestRedirect | FilterType::UrlRewrite) {
                    problems.push(Problem::new(
                        format!("{field}.filters[{at}].type"),
                        "expected a filter for gRPC calls, which have no URL: use an HTTPRoute",
                    ));
                }
            }
            for (at, one) in rule.matches.iter().enumerate() {
                let Some(method) = &one.method else { continue };
                if method.service.is_none() && method.method.is_none() {
                    problems.push(Problem::new(
                        format!("{field}.matches[{at}].method"),
                        "expected a service, a method, or both, got neither",
                    ));
                }
                if method.method.as_ref().is_some_and(|method| method.as_str().contains('.')) {
                    problems.push(Problem::new(
                        format!("{field}.matches[{at}].method.method"),
                        "expected the name of a method without dots",
                    ));
                }
            }
        }
    }
}
