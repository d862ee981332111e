//! Where the requests to a service go: its routes, compiled, in their order of precedence.
//!
//! Of all rules whose match a request meets the most specific decides, whatever the order in which they were written
//! (Gateway API, HTTPRouteRule and GRPCRouteRule): the host's name, then the path or gRPC method, the method, headers,
//! parameters; at last the name of the route and the rule's place in it. The list is sorted once; a request takes the
//! first that it meets.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use signet_model::{
    BackendRef, Filter, GivenRoute, GivenRoutes, GrpcCall, HeaderModifier, HostPattern, Match, ObjectName,
    ParentRef, PathModifier, PathRule, Redirect, RouteRetry, RouteTimeouts,
};
use signet_wire::RequestView;

use super::streams::{Routing, Shares, Streams};
use super::traffic::Retry;

pub(in crate::state) mod shown;

/// The routes of one service.
#[derive(Debug, Default)]
pub struct Calls {
    entries: Vec<Entry>,
    streams: Streams,
}

/// One match of one rule under one hostname.
#[derive(Debug)]
pub struct Entry {
    parents: Arc<[ParentRef]>,
    host: HostPattern,
    matcher: Matcher,
    rule: Arc<RouteRule>,
}

/// What a request must be, all of it.
#[derive(Debug)]
struct Matcher {
    path: PathMatcher,
    method: Option<Box<str>>,
    headers: Vec<(Box<str>, Box<str>)>,
    query: Vec<(Box<str>, Box<str>)>,
}

#[derive(Debug)]
enum PathMatcher {
    Exact(Box<str>),
    /// Without its slash at the end; empty takes every path.
    Prefix(Box<str>),
    Grpc {
        service: Option<Box<str>>,
        method: Option<Box<str>>,
    },
}

/// What becomes of the requests of one rule.
#[derive(Debug)]
pub struct RouteRule {
    /// `HTTPRoute/name.namespace`, with the rule's name or place after it.
    pub name: Box<str>,
    /// Where they go.
    pub backends: Vec<Backend>,
    /// All weights together.
    pub total: u64,
    /// They are answered with another place to ask.
    pub redirect: Option<Redirect>,
    /// Under which host and path they go on.
    pub rewrite: Option<signet_model::Rewrite>,
    /// Changes to the request's head.
    pub request: HeaderOps,
    /// Changes to the answer's head.
    pub answer: HeaderOps,
    /// Who gets a copy.
    pub mirrors: Vec<Copied>,
    /// To the answer's head, all tries together; `Some(None)` lifts the port's own.
    pub request_timeout: Option<Option<Duration>>,
    /// The same of one try.
    pub try_timeout: Option<Duration>,
    /// When a request is tried again: as it is written, and what that comes to for a port that says nothing itself.
    pub retry: Option<(RouteRetry, Arc<Retry>)>,
}

/// A backend of a rule.
#[derive(Debug)]
pub struct Backend {
    /// `name.namespace`
    pub service: Arc<str>,
    /// The port that its callers dial.
    pub port: u16,
    /// Its share.
    pub weight: u32,
    /// The route may not refer to it: its share gets nothing.
    pub refused: bool,
    /// Changes for it alone, after the rule's.
    pub request: HeaderOps,
    /// Changes to its answers, before the rule's.
    pub answer: HeaderOps,
}

/// Who gets a copy of a request.
#[derive(Debug)]
pub struct Copied {
    /// `name.namespace`
    pub service: Arc<str>,
    /// The port that its callers dial.
    pub port: u16,
    /// The share of requests, in millionths.
    pub millionths: u32,
}

/// Changes to a head.
#[derive(Debug, Default)]
pub struct HeaderOps {
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

impl HeaderOps {
    fn of(modifier: Option<&HeaderModifier>) -> Self {
        let Some(modifier) = modifier else { return HeaderOps::default() };
        let pairs = |list: &[signet_model::HeaderValue]| {
            let pair = |one: &signet_model::HeaderValue| {
                // The model's names and values are narrower than the library's.
                let name = HeaderName::try_from(one.name.as_str()).ok()?;
                Some((name, HeaderValue::try_from(one.value.as_str()).ok()?))
            };
            list.iter().filter_map(pair).collect()
        };
        HeaderOps {
            set: pairs(&modifier.set),
            add: pairs(&modifier.add),
            remove: modifier
                .remove
                .iter()
                .filter_map(|name| HeaderName::try_from(name.as_str()).ok())
                .collect(),
        }
    }

    /// Writes the changes into the edits of a head.
    pub fn apply(&self, edits: &mut signet_wire::Edits) {
        for (name, value) in &self.set {
            edits.set(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            edits.append(name.clone(), value.clone());
        }
        for name in &self.remove {
            edits.remove(name.clone());
        }
    }
}

/// What the routes of a service say of one request.
#[derive(Debug)]
pub enum Found<'a> {
    /// No route belongs to this port: it goes to the service itself.
    Unrouted,
    /// There are routes, and none takes it.
    NoMatch,
    /// This rule decides; with the prefix of the path that matched, for a rewrite of it.
    Rule(&'a Arc<RouteRule>, usize),
}

impl Calls {
    /// Compiles the routes of this service.
    pub fn compile(service: &ObjectName, routes: &GivenRoutes) -> Calls {
        let mut keyed = Vec::new();
        for given in routes.iter() {
            let route = given.route;
            let own = &route.name().namespace;
            let parents: Arc<[ParentRef]> =
                route.parents().iter().filter(|parent| parent.is_service(own, service)).cloned().collect();
            let any = [HostPattern::Any];
            let hosts = if route.hostnames().is_empty() { &any[..] } else { route.hostnames() };
            for (place, rule) in route.rules().iter().enumerate() {
                let compiled = Arc::new(RouteRule::compile(given, place, rule));
                for one in &rule.matches {
                    for host in hosts {
                        let entry = Entry {
                            parents: parents.clone(),
                            host: host.clone(),
                            matcher: Matcher::compile(one),
                            rule: compiled.clone(),
                        };
                        keyed.push(((Reverse(entry.rank()), route.name().clone(), place), entry));
                    }
                }
            }
        }
        // Stable: matches of one rule keep their order.
        keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
        let entries = keyed.into_iter().map(|(_, entry)| entry).collect();
        Calls { entries, streams: Streams::compile(service, routes) }
    }

    /// How whole connections to this port are routed.
    pub fn routing(&self, port: &str, number: u16) -> Routing<'_> {
        self.streams.routing(port, number)
    }

    /// Where a connection to this port goes whose hello says this name.
    pub fn named(&self, port: &str, number: u16, name: &str) -> Option<&Arc<Shares>> {
        self.streams.named(port, number, name)
    }

    /// The rule for a request to this port.
    pub fn find(&self, port: &str, number: u16, request: RequestView<'_>) -> Found<'_> {
        let host = request.authority().map_or("", |host| host.name());
        let mut is_routed = false;
        for entry in &self.entries {
            if !entry.parents.iter().any(|parent| parent.takes(port, number)) {
                continue;
            }
            is_routed = true;
            if entry.host.matches(host)
                && let Some(prefix) = entry.matcher.matches(request)
            {
                return Found::Rule(&entry.rule, prefix);
            }
        }
        if is_routed { Found::NoMatch } else { Found::Unrouted }
    }
}

impl Entry {
    /// Greater is more specific.
    fn rank(&self) -> (u8, usize, u8, usize, bool, usize, usize) {
        let (host, length) = match &self.host {
            HostPattern::Any => (0, 0),
            HostPattern::Suffix(suffix) => (1, suffix.len()),
            HostPattern::Exact(name) => (2, name.len()),
        };
        let (kind, path) = match &self.matcher.path {
            PathMatcher::Exact(path) => (2, path.len()),
            PathMatcher::Prefix(prefix) => (1, prefix.len()),
            PathMatcher::Grpc { service, method } => {
                let length = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
                // The service's length counts before the method's.
                (u8::from(service.is_some()) + 1, length(service) * 1024 + length(method))
            }
        };
        let matcher = &self.matcher;
        (host, length, kind, path, matcher.method.is_some(), matcher.headers.len(), matcher.query.len())
    }
}

impl Matcher {
    fn compile(one: &Match<'_>) -> Self {
        let text = |name: &signet_model::GrpcName| Box::from(name.as_str());
        let path = match (one.path, one.grpc) {
            (_, Some(GrpcCall { service, method })) => {
                PathMatcher::Grpc { service: service.map(text), method: method.map(text) }
            }
            (Some(PathRule::Exact(path)), None) => PathMatcher::Exact(path.as_str().into()),
            (Some(PathRule::Prefix(prefix)), None) => {
                PathMatcher::Prefix(prefix.as_str().trim_end_matches('/').into())
            }
            (None, None) => PathMatcher::Prefix("".into()),
        };
        Matcher {
            path,
            method: one.method.map(|method| method.as_str().into()),
            headers: one
                .headers
                .iter()
                .map(|header| (header.name.as_str().into(), header.value.as_str().into()))
                .collect(),
            query: one
                .query
                .iter()
                .map(|param| (param.name.as_str().into(), param.value.as_str().into()))
                .collect(),
        }
    }

    /// The length of the prefix that matched, if all matches.
    fn matches(&self, request: RequestView<'_>) -> Option<usize> {
        let prefix = self.path.matches(request)?;
        let method = self.method.as_ref().is_none_or(|method| **method == *request.method());
        let headers = method
            && self
                .headers
                .iter()
                .all(|(name, value)| request.get_all(name).next().is_some_and(|had| had == value.as_bytes()));
        let query = headers && (self.query.is_empty() || has_params(request.target().query(), &self.query));
        query.then_some(prefix)
    }
}

impl PathMatcher {
    fn matches(&self, request: RequestView<'_>) -> Option<usize> {
        let path = request.path();
        match self {
            PathMatcher::Exact(wanted) => (**wanted == *path).then_some(path.len()),
            PathMatcher::Prefix(prefix) => {
                let rest = path.strip_prefix(&**prefix)?;
                (rest.is_empty() || rest.starts_with('/') || prefix.is_empty()).then_some(prefix.len())
            }
            PathMatcher::Grpc { service, method } => {
                let (had, name) = path.strip_prefix('/').filter(|_| request.is_grpc())?.rsplit_once('/')?;
                let fits = service.as_ref().is_none_or(|wanted| **wanted == *had)
                    && method.as_ref().is_none_or(|wanted| **wanted == *name);
                fits.then_some(path.len())
            }
        }
    }
}

/// Whether the query has each of these. Of several of one name the first counts.
fn has_params(query: Option<&str>, wanted: &[(Box<str>, Box<str>)]) -> bool {
    let query = query.unwrap_or_default();
    wanted.iter().all(|(name, value)| {
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let first = pairs.into_iter().find(|(had, _)| decoded(had) == **name);
        first.is_some_and(|(_, had)| decoded(had) == **value)
    })
}

/// What a part of a query means: `+` is a blank, `%XX` a byte. What is no UTF-8 equals nothing.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => match (bytes.next().and_then(digit), bytes.next().and_then(digit)) {
                (Some(high), Some(low)) => out.push(high << 4 | low),
                _ => return Cow::Borrowed("\u{fffd}"),
            },
            other => out.push(other),
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed("\u{fffd}"), Cow::Owned)
}

impl RouteRule {
    fn compile(given: GivenRoute<'_>, place: usize, rule: &signet_model::Rule<'_>) -> RouteRule {
        let route = given.route;
        let own = &route.name().namespace;
        let name = match rule.name {
            Some(name) => format!("{}/{}/{name}", route.kind(), route.name()),
            None => format!("{}/{}/{place}", route.kind(), route.name()),
        };
        let backends: Vec<_> = rule
            .backends
            .iter()
            .map(|backend| Backend {
                service: backend.service(own).to_string().into(),
                port: backend.port.get(),
                weight: backend.weight,
                refused: given.refuses(&backend.service(own)),
                request: HeaderOps::of(filter(&backend.filters, |f| f.request_header_modifier.as_ref())),
                answer: HeaderOps::of(filter(&backend.filters, |f| f.response_header_modifier.as_ref())),
            })
            .collect();
        let RouteTimeouts { request, backend_request } = rule.timeouts;
        let copied = |mirror: &signet_model::Mirror| {
            let BackendRef { port, .. } = &mirror.backend_ref;
            Copied {
                service: mirror.backend_ref.service(own).to_string().into(),
                port: port.get(),
                millionths: mirror.millionths(),
            }
        };
        let mirrors = rule.filters.iter().filter_map(|f| f.request_mirror.as_ref());
        RouteRule {
            name: name.into(),
            total: backends.iter().map(|backend| u64::from(backend.weight)).sum(),
            backends,
            redirect: filter(rule.filters, |f| f.request_redirect.as_ref()).cloned(),
            rewrite: filter(rule.filters, |f| f.url_rewrite.as_ref()).cloned(),
            request: HeaderOps::of(filter(rule.filters, |f| f.request_header_modifier.as_ref())),
            answer: HeaderOps::of(filter(rule.filters, |f| f.response_header_modifier.as_ref())),
            mirrors: mirrors
                .filter(|mirror| !given.refuses(&mirror.backend_ref.service(own)))
                .map(copied)
                .collect(),
            request_timeout: request.map(signet_model::RouteDuration::limit),
            try_timeout: backend_request.and_then(signet_model::RouteDuration::limit),
            retry: rule.retry.map(|retry| (retry.clone(), Arc::new(Retry::of_route(retry, None)))),
        }
    }

    /// The backend for a number below [`RouteRule::total`].
    pub fn backend(&self, mut number: u64) -> Option<&Backend> {
        self.backends.iter().find(|backend| match number.checked_sub(u64::from(backend.weight)) {
            Some(left) => {
                number = left;
                false
            }
            None => true,
        })
    }
}

fn filter<'a, T>(filters: &'a [Filter], of: impl Fn(&'a Filter) -> Option<&'a T>) -> Option<&'a T> {
    filters.iter().find_map(of)
}

/// The path in place of `path`, of which so many bytes matched.
pub fn modified(path: &str, prefix: usize, modifier: &PathModifier) -> String {
    if let Some(full) = &modifier.replace_full_path {
        return full.as_str().to_owned();
    }
    let replacement = modifier.replace_prefix_match.as_ref().map_or("/", |prefix| prefix.as_str());
    let rest = path.get(prefix..).unwrap_or_default();
    let joined = format!("{}{rest}", replacement.trim_end_matches('/'));
    if joined.is_empty() { "/".to_owned() } else { joined }
}

#[cfg(test)]
mod tests;
