//! ReferenceGrant: a namespace lets routes of another one refer to its services.
//!
//! Without one a route's backend in another namespace gets nothing, and its share is answered with 500 (Gateway API,
//! ReferenceGrant and HTTPBackendRef). Whoever owns the service decides, not whoever writes the route: a gateway calls
//! with its own identity, and would otherwise lend it to every namespace that may attach a route to it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{AnyRoute, GATEWAY_API};
use crate::decode::non_empty;
use crate::error::Problem;
use crate::object::{Kind, Name, Namespaced};
use crate::text::shorten;
use crate::{Label, ObjectName};

/// Of each list.
const MOST: usize = 16;
/// Of a group or a kind, in bytes.
const LONGEST: usize = 253;

pub type ReferenceGrant = Namespaced<ReferenceGrantSpec>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ReferenceGrantSpec {
    /// Who may refer.
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub from: Vec<GrantFrom>,
    /// To what, in the grant's own namespace.
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub to: Vec<GrantTo>,
}

/// Objects of one kind in one namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GrantFrom {
    pub group: String,
    /// Kinds other than routes are taken, as grants are for other programs too, and let nothing here.
    pub kind: String,
    pub namespace: Label,
}

/// Objects of one kind, or one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GrantTo {
    pub group: String,
    pub kind: String,
    /// Absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Label>,
}

impl ReferenceGrant {
    /// Whether it lets this route refer to this service.
    pub fn lets(&self, route: &AnyRoute, service: &ObjectName) -> bool {
        let from = |from: &GrantFrom| {
            from.group == group_of(GATEWAY_API)
                && from.kind == route.kind()
                && from.namespace == route.name().namespace
        };
        let to = |to: &GrantTo| {
            matches!(&*to.group, "" | "core")
                && to.kind == "Service"
                && to.name.as_ref().is_none_or(|name| name.as_str() == service.name.as_str())
        };
        self.name.namespace == service.namespace
            && self.spec.from.iter().any(from)
            && self.spec.to.iter().any(to)
    }
}

fn group_of(version: &str) -> &str {
    version.split_once('/').map_or(version, |(group, _)| group)
}

impl Kind for ReferenceGrantSpec {
    const KIND: &'static str = "ReferenceGrant";
    const API: &'static str = GATEWAY_API;
    const ALSO: &'static [&'static str] = &["gateway.networking.k8s.io/v1beta1"];

    fn check(&self, _: &Name<'_>, problems: &mut Vec<Problem>) {
        let mut most = |field: &str, got: usize| {
            if got > MOST {
                problems.push(Problem::new(field, format!("expected at most {MOST}, got {got}")));
            }
        };
        most("spec.from", self.from.len());
        most("spec.to", self.to.len());
        let mut is_kind = |field: String, kind: &str| {
            let fits = kind.len() <= 63
                && kind.starts_with(|first: char| first.is_ascii_uppercase())
                && kind.chars().all(|letter| letter.is_ascii_alphanumeric());
            if !fits {
                let reason =
                    format!("expected a kind, such as HTTPRoute or Service, got `{}`", shorten(kind));
                problems.push(Problem::new(field, reason));
            }
        };
        for (index, from) in self.from.iter().enumerate() {
            is_kind(format!("spec.from[{index}].kind"), &from.kind);
        }
        for (index, to) in self.to.iter().enumerate() {
            is_kind(format!("spec.to[{index}].kind"), &to.kind);
        }
        let groups = self.from.iter().enumerate().map(|(index, from)| ("from", index, &from.group));
        let groups = groups.chain(self.to.iter().enumerate().map(|(index, to)| ("to", index, &to.group)));
        for (list, index, group) in groups {
            let fits = group.len() <= LONGEST
                && group
                    .chars()
                    .all(|one| one.is_ascii_lowercase() || one.is_ascii_digit() || matches!(one, '.' | '-'));
            if !fits {
                let reason = format!(
                    "expected a group, such as `{}`, got `{}`",
                    group_of(GATEWAY_API),
                    shorten(group)
                );
                problems.push(Problem::new(format!("spec.{list}[{index}].group"), reason));
            }
        }
    }
}

/// Routes as their reader gets them, with the services to which each may not refer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GivenRoutes {
    routes: Vec<AnyRoute>,
    refused: BTreeSet<(usize, ObjectName)>,
}

impl GivenRoutes {
    /// One more.
    pub fn add(&mut self, route: AnyRoute, refused: impl IntoIterator<Item = ObjectName>) {
        let index = self.routes.len();
        self.refused.extend(refused.into_iter().map(|service| (index, service)));
        self.routes.push(route);
    }

    /// Each of them, as the compilers of the data plane read it.
    pub fn iter(&self) -> impl Iterator<Item = GivenRoute<'_>> {
        self.routes.iter().enumerate().map(|(index, route)| GivenRoute { route, index, all: self })
    }
}

impl From<Vec<AnyRoute>> for GivenRoutes {
    /// All of whose references are let.
    fn from(routes: Vec<AnyRoute>) -> GivenRoutes {
        GivenRoutes { routes, refused: BTreeSet::new() }
    }
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub struct GivenRoute<'a> {
    pub route: &'a AnyRoute,
    index: usize,
    all: &'a GivenRoutes,
}

impl GivenRoute<'_> {
    /// Whether it may not refer to this service.
    pub fn refuses(&self, service: &ObjectName) -> bool {
        !self.all.refused.is_empty() && self.all.refused.contains(&(self.index, service.clone()))
    }
}
