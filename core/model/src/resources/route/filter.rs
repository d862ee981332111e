//! What a rule does to its requests and answers.

use serde::{Deserialize, Serialize};

use super::BackendRef;
use crate::error::Problem;
use crate::resources::twice;
use crate::{HeaderField, HeaderText, HostPattern, PathPrefix, Port};

/// One filter: its type says which of the other fields it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Filter {
    pub r#type: FilterType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderModifier>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderModifier>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<Redirect>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<Rewrite>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_mirror: Option<Mirror>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum FilterType {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestRedirect,
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    RequestMirror,
}

impl FilterType {
    /// The field that goes with it.
    fn field(self) -> &'static str {
        match self {
            FilterType::RequestHeaderModifier => "requestHeaderModifier",
            FilterType::ResponseHeaderModifier => "responseHeaderModifier",
            FilterType::RequestRedirect => "requestRedirect",
            FilterType::UrlRewrite => "urlRewrite",
            FilterType::RequestMirror => "requestMirror",
        }
    }

    /// Whether a rule may have several of it.
    fn may_repeat(self) -> bool {
        self == FilterType::RequestMirror
    }
}

/// Changes to a head: first `set`, then `add`, then `remove`, each name once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HeaderModifier {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<HeaderValue>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<HeaderValue>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<HeaderField>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HeaderValue {
    pub name: HeaderField,
    pub value: HeaderText,
}

/// The request is answered with another place to ask.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Redirect {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostPattern>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// 301, 302 (unless set), 303, 307 or 308.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    Http,
    Https,
}

/// The request goes on under another host or path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rewrite {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostPattern>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// A path in place of the whole one, or of the prefix that matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PathModifier {
    pub r#type: PathModifierType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_full_path: Option<PathPrefix>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_prefix_match: Option<PathPrefix>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum PathModifierType {
    ReplaceFullPath,
    ReplacePrefixMatch,
}

/// A copy of the request goes to another service, whose answer nobody sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mirror {
    pub backend_ref: BackendRef,
    /// Of a hundred requests so many; all unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<Fraction>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Fraction {
    pub numerator: u32,
    /// 100 unless said.
    #[serde(default = "hundred")]
    pub denominator: u32,
}

fn hundred() -> u32 {
    100
}

impl Mirror {
    /// The share of requests that is copied, in millionths.
    pub fn millionths(&self) -> u32 {
        match (self.percent, self.fraction) {
            (Some(percent), _) => u32::from(percent).saturating_mul(10_000),
            (None, Some(Fraction { numerator, denominator })) => u64::from(numerator)
                .saturating_mul(1_000_000)
                .checked_div(u64::from(denominator))
                .and_then(|share| u32::try_from(share).ok())
                .unwrap_or(0),
            (None, None) => 1_000_000,
        }
    }
}

/// `of_backend`: filters of one backend, among which none may answer or copy.
pub(super) fn check_all(field: &str, filters: &[Filter], of_backend: bool, problems: &mut Vec<Problem>) {
    if filters.len() > super::MAX_FILTERS {
        problems.push(Problem::new(
            format!("{field}.filters"),
            format!("expected at most {}, got {}", super::MAX_FILTERS, filters.len()),
        ));
    }
    let types: Vec<_> = filters.iter().map(|filter| filter.r#type).collect();
    for (index, kind) in twice(&types).filter(|(_, kind)| !kind.may_repeat()) {
        problems.push(Problem::new(
            format!("{field}.filters[{index}].type"),
            format!("expected each type once, got `{kind:?}` twice"),
        ));
    }
    if types.contains(&FilterType::RequestRedirect) && types.contains(&FilterType::UrlRewrite) {
        problems.push(Problem::new(
            format!("{field}.filters"),
            "expected RequestRedirect or URLRewrite, got both: a request that is redirected goes nowhere",
        ));
    }
    for (index, filter) in filters.iter().enumerate() {
        filter.check(&format!("{field}.filters[{index}]"), of_backend, problems);
    }
}

impl Filter {
    fn check(&self, field: &str, of_backend: bool, problems: &mut Vec<Problem>) {
        let present = [
            (FilterType::RequestHeaderModifier, self.request_header_modifier.is_some()),
            (FilterType::ResponseHeaderModifier, self.response_header_modifier.is_some()),
            (FilterType::RequestRedirect, self.request_redirect.is_some()),
            (FilterType::UrlRewrite, self.url_rewrite.is_some()),
            (FilterType::RequestMirror, self.request_mirror.is_some()),
        ];
        for (kind, is_there) in present {
            let is_wanted = kind == self.r#type;
            if is_wanted != is_there {
                let name = kind.field();
                let reason = if is_wanted {
                    "expected it with this type, got nothing"
                } else {
                    "does not go with this type"
                };
                problems.push(Problem::new(format!("{field}.{name}"), reason));
            }
        }
        if of_backend
            && !matches!(self.r#type, FilterType::RequestHeaderModifier | FilterType::ResponseHeaderModifier)
        {
            problems.push(Problem::new(
                format!("{field}.type"),
                "expected RequestHeaderModifier or ResponseHeaderModifier for one backend: move it to the rule",
            ));
        }
        for (name, modifier) in [
            ("requestHeaderModifier", &self.request_header_modifier),
            ("responseHeaderModifier", &self.response_header_modifier),
        ] {
            if let Some(modifier) = modifier {
                modifier.check(&format!("{field}.{name}"), problems);
            }
        }
        if let Some(redirect) = &self.request_redirect {
            redirect.check(&format!("{field}.requestRedirect"), problems);
        }
        if let Some(rewrite) = &self.url_rewrite {
            let field = format!("{field}.urlRewrite");
            check_hostname(&field, rewrite.hostname.as_ref(), problems);
            check_path(&field, rewrite.path.as_ref(), problems);
            if *rewrite == Rewrite::default() {
                problems.push(Problem::new(field, "expected a hostname or a path, got neither"));
            }
        }
        if let Some(mirror) = &self.request_mirror {
            mirror.check(&format!("{field}.requestMirror"), problems);
        }
    }
}

impl HeaderModifier {
    fn check(&self, field: &str, problems: &mut Vec<Problem>) {
        let names: Vec<_> =
            self.set.iter().chain(&self.add).map(|value| &value.name).chain(&self.remove).collect();
        for (_, name) in twice(&names) {
            problems.push(Problem::new(field, format!("expected each header once, got `{name}` twice")));
        }
        for name in names {
            // What frames a message, and what says who calls and for whom, is not a route's to change.
            let name = name.as_str();
            let is_framing = matches!(
                name,
                "content-length"
                    | "transfer-encoding"
                    | "connection"
                    | "host"
                    | "te"
                    | "upgrade"
                    | "trailer"
                    | "keep-alive"
                    | "proxy-connection"
            );
            if is_framing || is_reserved(name) {
                problems.push(Problem::new(
                    field,
                    format!("expected a header that routes may change, got `{name}`"),
                ));
            }
        }
    }
}

/// Headers that only the mesh may set, under every spelling.
fn is_reserved(name: &str) -> bool {
    let name = name.replace('_', "-");
    name.starts_with("signet-") || matches!(&*name, "txn-token" | "x-forwarded-client-cert")
}

impl Redirect {
    fn check(&self, field: &str, problems: &mut Vec<Problem>) {
        if let Some(code) = self.status_code.filter(|code| !matches!(code, 301 | 302 | 303 | 307 | 308)) {
            problems.push(Problem::new(
                format!("{field}.statusCode"),
                format!("expected 301, 302, 303, 307 or 308, got {code}"),
            ));
        }
        check_hostname(field, self.hostname.as_ref(), problems);
        check_path(field, self.path.as_ref(), problems);
        if (Redirect { status_code: None, ..self.clone() }) == Redirect::default() {
            problems.push(Problem::new(field, "expected something that changes, got a redirect to itself"));
        }
    }
}

fn check_hostname(field: &str, hostname: Option<&HostPattern>, problems: &mut Vec<Problem>) {
    if let Some(pattern) = hostname.filter(|pattern| !matches!(pattern, HostPattern::Exact(_))) {
        problems.push(Problem::new(
            format!("{field}.hostname"),
            format!("expected the name of one host, got `{pattern}`"),
        ));
    }
}

fn check_path(field: &str, path: Option<&PathModifier>, problems: &mut Vec<Problem>) {
    let Some(path) = path else { return };
    let (full, prefix) = (path.replace_full_path.is_some(), path.replace_prefix_match.is_some());
    let is_right = match path.r#type {
        PathModifierType::ReplaceFullPath => full && !prefix,
        PathModifierType::ReplacePrefixMatch => prefix && !full,
    };
    if !is_right {
        problems.push(Problem::new(
            format!("{field}.path"),
            "expected replaceFullPath or replacePrefixMatch, whichever the type says, and not the other",
        ));
    }
}

impl Mirror {
    fn check(&self, field: &str, problems: &mut Vec<Problem>) {
        if self.percent.is_some() && self.fraction.is_some() {
            problems.push(Problem::new(field, "expected percent or fraction, got both"));
        }
        if let Some(percent) = self.percent.filter(|percent| *percent > 100) {
            problems
                .push(Problem::new(format!("{field}.percent"), format!("expected 0 to 100, got {percent}")));
        }
        if let Some(Fraction { numerator, denominator }) = self.fraction
            && (denominator == 0 || numerator > denominator)
        {
            problems.push(Problem::new(
                format!("{field}.fraction"),
                format!("expected a fraction from 0 to 1, got {numerator}/{denominator}"),
            ));
        }
        super::check_backends(field, std::slice::from_ref(&self.backend_ref), problems);
    }
}
