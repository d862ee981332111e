//! A gateway: who it is, and what it lets in from outside, by whose word.

use serde::{Deserialize, Serialize};

use crate::decode::non_empty;
use crate::error::Problem;
use crate::object::{Kind, Name, Namespaced};
use crate::resources::east_west::EastWest;
use crate::resources::listener::{self, Listener};
use crate::resources::{is_default, twice};
use crate::text::host::HostPattern;
use crate::text::http::PathPrefix;
use crate::text::jose::{AcrValue, ClaimName, Scope};
use crate::{Label, ObjectName, Period, WorkloadId};

pub type Gateway = Namespaced<GatewaySpec>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GatewaySpec {
    /// A workload of class gateway, of the gateway's own namespace.
    pub identity: WorkloadId,
    /// What its ports take from callers outside. A port without any takes requests for its routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<Listener>,
    /// What requests from outside the mesh reach. Absent only beside another thing that the gateway is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// What other clusters reach, whose callers prove themselves to the service and not to the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub east_west: Option<EastWest>,
    /// It calls places outside for the mesh: the ExternalServices that go through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<GatewayEgress>,
}

/// That a gateway calls out. Which places, and for whom, the ExternalServices say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GatewayEgress {}

/// The most specific route wins, whatever their order: see [`GatewaySpec::route`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Route {
    pub name: Label,
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub hosts: Vec<HostPattern>,
    pub path_prefix: PathPrefix,
    /// `name.namespace`
    pub service: ObjectName,
    /// The service's port by name.
    pub port: Label,
    pub auth: RouteAuth,
    /// Scopes that the caller's credential must all have, before anything behind the gateway is asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Scope>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub txn: TransactionSettings,
    #[serde(default, skip_serializing_if = "is_default")]
    pub forward_credential: ForwardCredential,
}

/// Which credentials the route takes. There is no default: a route that lets anybody in says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RouteAuth {
    /// A JWT as bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtAuth>,
    /// Callers without any credential come in without a user. With `jwt` beside it a credential that is
    /// presented must still be good.
    #[serde(default, skip_serializing_if = "is_default")]
    pub anonymous: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct JwtAuth {
    /// Aliases of issuers; any of them will do.
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub issuers: Vec<Label>,
    /// Whether a token must be bound to a key that its caller proves with each request (DPoP, RFC 9449). One that is bound is
    /// never taken without the proof.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bound: BoundTokens,
    /// How the user must have logged in: one of these (`acr`). Another is asked to log in again (RFC 9470).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acr_values: Vec<AcrValue>,
    /// How long ago the user may have logged in (`auth_time`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Period>,
}

/// Whether only bound tokens are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum BoundTokens {
    #[default]
    Optional,
    Required,
}

/// What the gateway writes into the transaction token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TransactionSettings {
    /// Claims of the credential that travel on; each must be listed by the issuers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimName>,
    /// Life of the token, 5 min at most, and never past the credential's own end.
    #[serde(default = "minute")]
    pub ttl: Period,
}

/// Whether the caller's own credential travels on beside the transaction token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum ForwardCredential {
    #[default]
    None,
    Original,
}

const MAX_TTL: Period = Period::from_secs(300);

fn minute() -> Period {
    Period::from_secs(60)
}

impl Default for TransactionSettings {
    fn default() -> TransactionSettings {
        TransactionSettings { claims: Vec::new(), ttl: minute() }
    }
}

impl GatewaySpec {
    /// Every service that it leads to, some perhaps more than once.
    pub fn leads_to(&self) -> impl Iterator<Item = &ObjectName> {
        let routed = self.routes.iter().map(|route| &route.service);
        routed.chain(self.east_west.iter().flat_map(|east_west| &east_west.services))
    }

    /// The route for a request: an exact host before a wildcard (the longer suffix first) before `*`, and
    /// among those the longest path prefix. `host` without port, `path` canonical and without query.
    pub fn route(&self, host: &str, path: &str) -> Option<&Route> {
        self.routes
            .iter()
            .filter(|route| route.path_prefix.matches(path))
            .filter_map(|route| {
                let host_rank =
                    route.hosts.iter().filter(|h| h.matches(host)).map(HostPattern::rank).max()?;
                Some(((host_rank, route.path_prefix.as_str().len()), route))
            })
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, route)| route)
    }
}

impl Kind for GatewaySpec {
    const KIND: &'static str = "Gateway";

    fn check(&self, name: &Name<'_>, problems: &mut Vec<Problem>) {
        if let Name::Namespaced(name) = name
            && self.identity.namespace != name.namespace
        {
            problems.push(Problem::new(
                "spec.identity",
                format!(
                    "expected an identity of the gateway's own namespace `{}`, got `{}`",
                    name.namespace, self.identity
                ),
            ));
        }
        let passes_on = self.listeners.iter().any(|listener| !listener.protocol.has_requests());
        if self.routes.is_empty() && !passes_on && self.east_west.is_none() && self.egress.is_none() {
            problems.push(Problem::new(
                "spec.routes",
                "expected at least one route, a listener of protocol TLS or TCP, `eastWest` or `egress`, got none of them: the \
                 gateway would lead nowhere",
            ));
        }
        listener::check_all(&self.listeners, !self.routes.is_empty(), problems);
        if let Some(east_west) = &self.east_west {
            east_west.check(problems);
        }
        let names: Vec<_> = self.routes.iter().map(|route| &route.name).collect();
        for (index, name) in twice(&names) {
            problems.push(Problem::new(
                format!("spec.routes[{index}].name"),
                format!("expected a name of its own for each route, got `{name}` twice"),
            ));
        }
        let mut taken = Vec::new();
        for (index, route) in self.routes.iter().enumerate() {
            let field = |name: &str| format!("spec.routes[{index}].{name}");
            route.check(&field, problems);
            for host in &route.hosts {
                let place = (host, &route.path_prefix);
                if taken.contains(&place) {
                    problems.push(Problem::new(
                        field("pathPrefix"),
                        format!(
                            "expected one route for host `{host}` and prefix `{}`, got two",
                            route.path_prefix
                        ),
                    ));
                }
                taken.push(place);
            }
        }
    }
}

impl Route {
    fn check(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        let has_credential = self.auth.jwt.is_some();
        if !has_credential && !self.auth.anonymous {
            problems.push(Problem::new(
                field("auth"),
                "expected `jwt`, or `anonymous: true` for a route that lets anybody in, got neither",
            ));
        }
        if !self.scopes.is_empty() && (self.auth.anonymous || !has_credential) {
            problems.push(Problem::new(
                field("scopes"),
                "scopes need a credential: remove them, or `anonymous: true`",
            ));
        }
        if let Some(jwt) = &self.auth.jwt {
            let asks =
                jwt.bound == BoundTokens::Required || !jwt.acr_values.is_empty() || jwt.max_age.is_some();
            if self.auth.anonymous && asks {
                problems.push(Problem::new(
                    field("auth.anonymous"),
                    "`bound: required`, `acrValues` and `maxAge` need a credential: remove them, or `anonymous: true`",
                ));
            }
            if jwt.bound == BoundTokens::Required && self.forward_credential == ForwardCredential::Original {
                problems.push(Problem::new(
                    field("forwardCredential"),
                    "a bound token is worth nothing behind the gateway, to which its caller proved it: remove `original`, or \
                     `bound: required`",
                ));
            }
        }
        if !has_credential && self.forward_credential == ForwardCredential::Original {
            problems.push(Problem::new(
                field("forwardCredential"),
                "there is no credential to forward without `auth.jwt`",
            ));
        }
        if !has_credential && !self.txn.claims.is_empty() {
            problems.push(Problem::new(field("txn.claims"), "there are no claims without `auth.jwt`"));
        }
        if self.txn.ttl > MAX_TTL {
            problems.push(Problem::new(
                field("txn.ttl"),
                format!("expected at most {MAX_TTL}, got {}", self.txn.ttl),
            ));
        }
    }
}
