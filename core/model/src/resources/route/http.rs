//! HTTPRoute: rules for HTTP requests.

use serde::{Deserialize, Serialize};

use super::filter::{Filter, FilterType, PathModifierType};
use super::{
    BackendRef, GATEWAY_API, ParentRef, RouteRetry, RouteTimeouts, check_backends, check_common, check_retry,
    filter,
};
use crate::decode::non_empty;
use crate::error::Problem;
use crate::object::{Kind, Name, Namespaced};
use crate::resources::twice;
use crate::{HeaderField, HeaderText, HostPattern, HttpMethod, Label, PathPrefix, QueryText};

pub type HttpRoute = Namespaced<HttpRouteSpec>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpRouteSpec {
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub parent_refs: Vec<ParentRef>,
    /// Of the `Host` or `:authority`; absent is any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<HostPattern>,
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub rules: Vec<HttpRouteRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpRouteRule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Label>,
    /// Any of these; absent is every request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<HttpRouteMatch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<BackendRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<RouteTimeouts>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RouteRetry>,
}

/// All of these.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpRouteMatch {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_params: Vec<QueryMatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<HttpMethod>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PathMatch {
    #[serde(default)]
    pub r#type: PathMatchType,
    #[serde(default = "PathPrefix::root")]
    pub value: PathPrefix,
}

/// There are no regular expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum PathMatchType {
    Exact,
    /// Whole segments.
    #[default]
    PathPrefix,
}

/// A header that has exactly this value. Of several of one name the first counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HeaderMatch {
    #[serde(default, skip_serializing_if = "crate::resources::is_default")]
    pub r#type: ExactMatch,
    pub name: HeaderField,
    pub value: HeaderText,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct QueryMatch {
    #[serde(default, skip_serializing_if = "crate::resources::is_default")]
    pub r#type: ExactMatch,
    pub name: QueryText,
    pub value: QueryText,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ExactMatch {
    #[default]
    Exact,
}

impl Kind for HttpRouteSpec {
    const KIND: &'static str = "HTTPRoute";
    const API: &'static str = GATEWAY_API;

    fn check(&self, _: &Name<'_>, problems: &mut Vec<Problem>) {
        let each = self.rules.iter().map(|rule| (rule.matches.len(), rule.backend_refs.len()));
        check_common(&self.parent_refs, self.hostnames.len(), self.rules.len(), each, problems);
        let names: Vec<_> = self.rules.iter().filter_map(|rule| rule.name.as_ref()).collect();
        for (_, name) in twice(&names) {
            problems.push(Problem::new(
                "spec.rules",
                format!("expected each rule's name once, got `{name}` twice"),
            ));
        }
        for (index, rule) in self.rules.iter().enumerate() {
            rule.check(&format!("spec.rules[{index}]"), problems);
        }
    }
}

impl HttpRouteRule {
    fn check(&self, field: &str, problems: &mut Vec<Problem>) {
        filter::check_all(field, &self.filters, false, problems);
        check_backends(field, &self.backend_refs, problems);
        check_retry(field, self.retry.as_ref(), problems);
        let redirects = self.filters.iter().any(|filter| filter.r#type == FilterType::RequestRedirect);
        if redirects && !self.backend_refs.is_empty() {
            problems.push(Problem::new(
                format!("{field}.backendRefs"),
                "expected none beside RequestRedirect: a request that is redirected goes nowhere",
            ));
        }
        let replaces_prefix = self.filters.iter().any(|filter| {
            let of_redirect = filter.request_redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
            let of_rewrite = filter.url_rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
            of_redirect.or(of_rewrite).is_some_and(|path| path.r#type == PathModifierType::ReplacePrefixMatch)
        });
        let is_exact =
            |one: &HttpRouteMatch| one.path.as_ref().is_some_and(|path| path.r#type == PathMatchType::Exact);
        if replaces_prefix && self.matches.iter().any(is_exact) {
            problems.push(Problem::new(
                format!("{field}.filters"),
                "ReplacePrefixMatch needs a rule whose matches are all of type PathPrefix",
            ));
        }
        for (index, one) in self.matches.iter().enumerate() {
            let names: Vec<_> = one.headers.iter().map(|header| &header.name).collect();
            for (_, name) in twice(&names) {
                problems.push(Problem::new(
                    format!("{field}.matches[{index}].headers"),
                    format!("expected each header once, got `{name}` twice"),
                ));
            }
            let names: Vec<_> = one.query_params.iter().map(|param| &param.name).collect();
            for (_, name) in twice(&names) {
                problems.push(Problem::new(
                    format!("{field}.matches[{index}].queryParams"),
                    format!("expected each parameter once, got `{name}` twice"),
                ));
            }
        }
    }
}
