//! What holds in every namespace, whatever its own policies say.
//!
//! An object of the whole mesh, for whoever runs it. It has two halves: what is forbidden, which is decided with each
//! request beside the policies of the service and can be lifted by none of them; and what a permit of a namespace must
//! have, which is checked when the registry is loaded.

use serde::{Deserialize, Serialize};

use crate::decode::non_empty;
use crate::error::{Problem, Unreadable};
use crate::object::{Global, Kind, Name};
use crate::resources::is_default;
use crate::resources::policy::{
    Effect, Exception, FromMatch, IfAbsent, MeshPolicy, Mode, PolicySpec, ToMatch, UserMatch,
};
use crate::{Label, ObjectName, When};

pub type GuardRail = Global<GuardRailSpec>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GuardRailSpec {
    /// Of `forbid`: `shadow` reports it and enforces nothing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: Mode,
    /// The namespaces whose services it is for. Absent: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub namespaces: Vec<Label>,
    /// What is forbidden there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forbid: Option<Forbidden>,
    /// Whom `forbid` spares, for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub exceptions: Vec<Exception>,
    /// What each permit there must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<PermitLimits>,
}

/// The conditions of a forbid.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Forbidden {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<FromMatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserMatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<ToMatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub if_absent: IfAbsent,
}

/// Limits on what a namespace may permit. A permit in shadow keeps them too: it is to be enforced one day.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PermitLimits {
    /// It says in `from` who calls.
    #[serde(default, skip_serializing_if = "is_default")]
    pub require_from: bool,
    /// It takes no request without a user.
    #[serde(default, skip_serializing_if = "is_default")]
    pub require_user: bool,
    /// It names nobody of another trust domain.
    #[serde(default, skip_serializing_if = "is_default")]
    pub own_trust_domain: bool,
    /// It names nobody outside of these namespaces, and its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub from_namespaces: Vec<Label>,
}

impl GuardRail {
    /// Whether it is for this service.
    pub fn targets(&self, service: &ObjectName) -> bool {
        self.is_in(&service.namespace)
    }

    /// Whether it is for this namespace.
    pub fn is_in(&self, namespace: &Label) -> bool {
        self.spec.namespaces.is_empty() || self.spec.namespaces.contains(namespace)
    }

    /// Its first half as the forbid that says the same, if it has one.
    pub fn as_policy(&self) -> Option<PolicySpec> {
        let forbid = self.spec.forbid.clone()?;
        Some(PolicySpec {
            mode: self.spec.mode,
            from: forbid.from,
            user: forbid.user,
            to: forbid.to,
            when: forbid.when,
            if_absent: forbid.if_absent,
            exceptions: self.spec.exceptions.clone(),
            ..PolicySpec::of(Effect::Forbid)
        })
    }

    /// By which it is reported, and unlike every `name.namespace`.
    pub fn reported_name(&self) -> String {
        format!("guard-rail/{}", self.name)
    }
}

impl PermitLimits {
    /// What a permit of a namespace has that it may not have, or has not: fields and reasons.
    pub(crate) fn broken_by(&self, policy: &MeshPolicy) -> Vec<(String, String)> {
        let spec = &policy.spec;
        let mut broken = Vec::new();
        if self.require_from && spec.from.is_none() {
            broken.push((
                "spec.from".to_owned(),
                "expected `from`, as it is required of permits here, got none".to_owned(),
            ));
        }
        if self.require_user && spec.user.as_ref().is_none_or(|user| user.required == Some(false)) {
            broken.push((
                "spec.user".to_owned(),
                "expected `user`, as it is required of permits here, got none".to_owned(),
            ));
        }
        for (index, pattern) in spec.from.iter().flat_map(|from| &from.workloads).enumerate() {
            let field = format!("spec.from.workloads[{index}]");
            if self.own_trust_domain && pattern.federated_domain().is_some() {
                broken.push((
                    field.clone(),
                    format!("expected an identity of the mesh's own trust domain, got `{pattern}`"),
                ));
            }
            let is_named = |namespace: &Label| {
                self.from_namespaces.contains(namespace) || *namespace == policy.name.namespace
            };
            // Of another trust domain, namespaces are somebody else's names.
            if !self.from_namespaces.is_empty() && !pattern.own_namespace().is_some_and(is_named) {
                let list: Vec<&str> = self.from_namespaces.iter().map(Label::as_str).collect();
                broken.push((
                    field,
                    format!(
                        "expected somebody of its own namespace or of {}, got `{pattern}`",
                        list.join(", ")
                    ),
                ));
            }
        }
        if !self.from_namespaces.is_empty() && spec.from.is_none() {
            broken.push((
                "spec.from".to_owned(),
                "expected `from`, as callers are limited by namespace here, got none".to_owned(),
            ));
        }
        broken
    }
}

impl Kind for GuardRailSpec {
    const KIND: &'static str = "GuardRail";

    fn check(&self, _: &Name<'_>, problems: &mut Vec<Problem>) {
        let mut problem = |field: &str, reason: &str| problems.push(Problem::new(field, reason));
        match (&self.forbid, &self.permits) {
            (None, None) => problem("spec", "expected `forbid` or `permits`, got neither"),
            (None, Some(_)) if self.mode == Mode::Shadow => {
                problem(
                    "spec.mode",
                    "shadow is for `forbid`, of which there is none: `permits` is checked when the registry is loaded",
                );
            }
            (None, Some(_)) if !self.exceptions.is_empty() => {
                problem("spec.exceptions", "expected `forbid` beside exceptions, got none");
            }
            _ => {}
        }
        if self.permits.as_ref().is_some_and(|permits| *permits == PermitLimits::default()) {
            problem(
                "spec.permits",
                "expected requireFrom, requireUser, ownTrustDomain or fromNamespaces, got none",
            );
        }
        let Some(forbid) = &self.forbid else { return };
        let policy = PolicySpec {
            from: forbid.from.clone(),
            user: forbid.user.clone(),
            to: forbid.to.clone(),
            when: forbid.when.clone(),
            ..PolicySpec::of(Effect::Forbid)
        };
        policy.check_at("spec.forbid", problems);
        for (index, exception) in self.exceptions.iter().enumerate() {
            exception.as_permit().check_at(&format!("spec.exceptions[{index}]"), problems);
        }
    }
}

/// A document by which requests to a service are decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyDocument {
    Policy(MeshPolicy),
    GuardRail(GuardRail),
}

impl PolicyDocument {
    /// Reads what [`Global::canonical_json`] or its sibling wrote of one of the two kinds; refuses everything else.
    pub fn from_json(text: &str) -> Result<PolicyDocument, Unreadable> {
        // The kind decides which reader says what is wrong.
        #[derive(Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        struct Head {
            kind: String,
        }
        match serde_json::from_str::<Head>(text) {
            Ok(head) if head.kind == GuardRailSpec::KIND => GuardRail::from_json(text).map(Self::GuardRail),
            _ => MeshPolicy::from_json(text).map(Self::Policy),
        }
    }

    pub fn targets(&self, service: &ObjectName) -> bool {
        match self {
            Self::Policy(policy) => policy.targets(service),
            Self::GuardRail(rail) => rail.targets(service),
        }
    }

    /// As [`PolicySpec::speaks_of_requests`].
    pub fn speaks_of_requests(&self, port: &str) -> bool {
        match self {
            Self::Policy(policy) => policy.spec.speaks_of_requests(port),
            Self::GuardRail(rail) => rail.as_policy().is_some_and(|spec| spec.speaks_of_requests(port)),
        }
    }

    /// By which it is reported.
    pub fn reported_name(&self) -> String {
        match self {
            Self::Policy(policy) => policy.name.to_string(),
            Self::GuardRail(rail) => rail.reported_name(),
        }
    }

    /// Who is asked about what it matches, if anybody is.
    pub fn provider(&self) -> Option<ObjectName> {
        match self {
            Self::Policy(policy) => policy.provider(),
            Self::GuardRail(_) => None,
        }
    }

    pub fn canonical_json(&self) -> String {
        match self {
            Self::Policy(policy) => policy.canonical_json(),
            Self::GuardRail(rail) => rail.canonical_json(),
        }
    }

    /// What is decided by it; nothing of a guard rail that only limits permits.
    pub fn into_spec(self) -> Option<PolicySpec> {
        match self {
            Self::Policy(policy) => Some(policy.spec),
            Self::GuardRail(rail) => rail.as_policy(),
        }
    }
}
