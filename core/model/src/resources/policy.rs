//! Who may ask what of a service.
//!
//! What a policy means is written once, in `signet-policy`; here is only its shape, and what no policy
//! can sensibly say. The shape is unforgiving, because a policy that is read laxer than it was meant is
//! a hole: no empty lists, no empty blocks, no condition that cannot hold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::decode::{non_empty, non_empty_map};
use crate::error::Problem;
use crate::object::{Kind, Name, Namespaced};
use crate::resources::is_default;
use crate::text::http::{GrpcPattern, HttpMethod, PathTemplate};
use crate::text::jose::{ClaimName, ClaimValue, Scope};
use crate::{Label, Moment, ObjectName, When, Words, WorkloadPattern};

pub type MeshPolicy = Namespaced<PolicySpec>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicySpec {
    pub effect: Effect,
    /// Of effect `external`: the AuthorizationProvider of the policy's namespace that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Label>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: Mode,
    /// Absent: every service of the policy's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PolicyTarget>,
    /// Absent: any peer with an identity of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<FromMatch>,
    /// Absent: with or without a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserMatch>,
    /// Absent: any request or connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<ToMatch>,
    /// What the other fields cannot say. Absent: nothing more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
    /// Not on a permit: whether it matches where something that it asks for is absent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub if_absent: IfAbsent,
    /// Only on a forbid: whom it spares, for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub exceptions: Vec<Exception>,
}

/// Whom a forbid spares until a moment. Its conditions are those of a permit: it spares nobody by what is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Exception {
    /// Who answers for it: a person or a team, and how to reach them.
    pub owner: Words,
    /// Why it is made.
    pub reason: Words,
    /// From then on it spares nobody, by the clock of the sidecar that decides.
    pub until: Moment,
    pub from: FromMatch,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserMatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<ToMatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
}

impl Exception {
    /// What it takes, as the permit that asks the same.
    pub fn as_permit(&self) -> PolicySpec {
        PolicySpec {
            from: Some(self.from.clone()),
            user: self.user.clone(),
            to: self.to.clone(),
            when: self.when.clone(),
            ..PolicySpec::of(Effect::Permit)
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    Permit,
    Forbid,
    /// What it matches and is permitted, a provider is asked about. It takes requests as a forbid does, so that nobody is
    /// spared the question by what is not there.
    External,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    #[default]
    Enforce,
    /// Evaluated beside the others and reported, never enforced.
    Shadow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum IfAbsent {
    /// What is absent counts as matching.
    #[default]
    Match,
    /// What is absent counts as not matching.
    Skip,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyTarget {
    /// A service of the policy's own namespace.
    pub service: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FromMatch {
    /// Any of these.
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub workloads: Vec<WorkloadPattern>,
}

/// Each of the conditions that are given. In a permit any of them needs a user.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct UserMatch {
    /// A user is there. Only in a permit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    /// All of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub scopes: Vec<Scope>,
    /// All of these, each on a top-level claim that is a text or a list of texts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "non_empty_map")]
    pub claims: BTreeMap<ClaimName, ClaimMatch>,
    /// Any of these kinds of credential brought the user.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub cred: Vec<CredentialKind>,
    /// Any of these ways to know the user. Absent: `forwarded` in a permit, any in a forbid.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub context: Vec<ContextKind>,
}

/// Each of the conditions that are given, on the set of texts that the claim holds (a single text is a
/// set of one).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClaimMatch {
    /// At least one of these is in the claim.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub any_of: Vec<ClaimValue>,
    /// Each of these is in the claim.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub all_of: Vec<ClaimValue>,
    /// The claim holds this and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<ClaimValue>,
}

/// What the user came with at the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum CredentialKind {
    Jwt,
    /// None: a workload that may do so named the user.
    Workload,
}

impl CredentialKind {
    /// As in a transaction token's `rctx.cred`.
    pub fn as_str(self) -> &'static str {
        match self {
            CredentialKind::Jwt => "jwt",
            CredentialKind::Workload => "workload",
        }
    }
}

/// How the receiving sidecar knows the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum ContextKind {
    /// The calling app chose this user's token, or the receiver verified the credential itself.
    Forwarded,
    /// The calling sidecar was handling a request of this user.
    Attached,
}

/// `ports` and what is asked for: an HTTP request (`methods` and `paths`, both where both are given) or
/// a gRPC call (`grpc`), whichever fits where both are described.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ToMatch {
    /// Any of these ports of the service, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub ports: Vec<Label>,
    /// Any of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub methods: Vec<HttpMethod>,
    /// Any of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub paths: Vec<PathTemplate>,
    /// Any of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub grpc: Vec<GrpcPattern>,
}

impl PolicySpec {
    /// Without a condition.
    pub(crate) fn of(effect: Effect) -> PolicySpec {
        PolicySpec {
            effect,
            provider: None,
            mode: Mode::Enforce,
            target: None,
            from: None,
            user: None,
            to: None,
            when: None,
            if_absent: IfAbsent::Match,
            exceptions: Vec::new(),
        }
    }

    /// Whether it can only be decided for a request on this port: it names methods, paths, gRPC calls, or a user, or its
    /// `when` reads something of them. A trial counts as well.
    pub fn speaks_of_requests(&self, port: &str) -> bool {
        // Nobody can be asked about bytes.
        if self.effect == Effect::External && self.is_on(port) {
            return true;
        }
        let by_when = self.when.as_ref().is_some_and(|when| when.reads().request || when.reads().user);
        let asks_user = self.user.is_some() || by_when;
        let Some(to) = &self.to else { return asks_user };
        let asks = !(to.methods.is_empty() && to.paths.is_empty() && to.grpc.is_empty());
        self.is_on(port) && (asks || asks_user)
    }

    /// Whether it speaks of this port of its target.
    pub fn is_on(&self, port: &str) -> bool {
        self.to.as_ref().is_none_or(|to| to.ports.is_empty() || to.ports.iter().any(|one| *one == *port))
    }
}

impl MeshPolicy {
    /// Whether the policy speaks of `service`.
    pub fn targets(&self, service: &ObjectName) -> bool {
        self.name.namespace == service.namespace
            && self.spec.target.as_ref().is_none_or(|target| target.service == *service.name.as_str())
    }

    /// Who is asked about what it matches, where it is of effect `external`.
    pub fn provider(&self) -> Option<ObjectName> {
        let named = self.spec.provider.as_ref().filter(|_| self.spec.effect == Effect::External)?;
        Some(ObjectName::new(self.name.namespace.clone(), named.to_subdomain()))
    }
}

impl PolicySpec {
    /// The field by which it asks who calls on this port of its target, for whom, or for what: none of which a caller
    /// has that comes in plaintext. In whichever mode: what is tried out in shadow is to be enforced.
    pub fn asks_on(&self, port: &str) -> Option<&'static str> {
        let to = self.to.as_ref();
        if !self.is_on(port) {
            return None;
        }
        let asked = |asked: bool, field| asked.then_some(field);
        asked(self.effect == Effect::External, "spec.effect")
            .or(asked(self.from.is_some(), "spec.from"))
            .or(asked(self.user.is_some(), "spec.user"))
            .or(asked(to.is_some_and(|to| !to.methods.is_empty()), "spec.to.methods"))
            .or(asked(to.is_some_and(|to| !to.paths.is_empty()), "spec.to.paths"))
            .or(asked(to.is_some_and(|to| !to.grpc.is_empty()), "spec.to.grpc"))
            .or(asked(self.when.is_some(), "spec.when"))
    }
}

impl UserMatch {
    /// Whether anything is asked of the user beyond being there.
    pub fn has_conditions(&self) -> bool {
        !(self.scopes.is_empty() && self.claims.is_empty() && self.cred.is_empty() && self.context.is_empty())
    }
}

impl Kind for PolicySpec {
    const KIND: &'static str = "MeshPolicy";

    fn check(&self, _: &Name<'_>, problems: &mut Vec<Problem>) {
        self.check_at("spec", problems);
    }
}

impl PolicySpec {
    /// What its fields, which stand at `place`, cannot say together.
    pub(crate) fn check_at(&self, place: &str, problems: &mut Vec<Problem>) {
        let mut problem =
            |field: &str, reason: &str| problems.push(Problem::new(format!("{place}.{field}"), reason));
        if self.effect == Effect::Permit && self.if_absent == IfAbsent::Skip {
            problem(
                "ifAbsent",
                "only a forbid or an external can skip what is absent; a permit never matches it",
            );
        }
        match (self.effect, &self.provider) {
            (Effect::External, None) => {
                problem(
                    "provider",
                    "expected the name of an AuthorizationProvider of this namespace, got nothing",
                );
            }
            (Effect::Permit | Effect::Forbid, Some(_)) => {
                problem("provider", "expected none: only a policy of effect external asks somebody else");
            }
            _ => {}
        }
        if self.effect == Effect::External && self.mode == Mode::Shadow {
            problem("mode", "expected enforce: what somebody else would say is known only by asking");
        }
        if self.effect == Effect::External && !self.exceptions.is_empty() {
            problem(
                "exceptions",
                "only a forbid can have exceptions; say in the other fields what is asked about",
            );
        }
        if self.effect == Effect::Permit && !self.exceptions.is_empty() {
            problem(
                "exceptions",
                "only a forbid can have exceptions; whom a permit shall not take, it does not name",
            );
        }
        if self.to.as_ref().is_some_and(|to| *to == ToMatch::default()) {
            problem("to", "expected ports, methods, paths or grpc, got none: leave `to` out for any request");
        }
        for name in self.when.iter().flat_map(When::params) {
            let mut templates = self.to.iter().flat_map(|to| &to.paths);
            if !templates.any(|template| template.names_segment(name)) {
                let reason = format!(
                    "expected a name that `to.paths` gives to one segment, as in `/orders/{{{name}}}`, got `{name}`"
                );
                problem("when", &reason);
            }
        }
        if let Some(user) = &self.user {
            self.check_user(user, place, problems);
        }
        for (index, exception) in self.exceptions.iter().enumerate() {
            exception.as_permit().check_at(&format!("{place}.exceptions[{index}]"), problems);
        }
    }

    fn check_user(&self, user: &UserMatch, place: &str, problems: &mut Vec<Problem>) {
        let mut problem =
            |field: &str, reason: &str| problems.push(Problem::new(format!("{place}.user{field}"), reason));
        if user.required.is_none() && !user.has_conditions() {
            problem("", "expected `required: true` or conditions, got none: leave `user` out for any caller");
        }
        match (self.effect, user.required) {
            (Effect::Forbid, Some(_)) => problem(
                ".required",
                "a forbid cannot require a user: requests without one are refused by permits that require one",
            ),
            (Effect::External, Some(_)) => problem(
                ".required",
                "expected none: requests without a user are asked about as well, unless `ifAbsent: skip`",
            ),
            (Effect::Permit, Some(false)) if user.has_conditions() => problem(
                ".required",
                "expected true beside conditions on the user, got false: a permit never matches what is absent",
            ),
            _ => {}
        }
        for (name, claim) in &user.claims {
            if *claim == ClaimMatch::default() {
                problem(&format!(".claims.{name}"), "expected anyOf, allOf or equals, got none");
            }
        }
    }
}
