//! The conditions of a policy, each with what it comes to: yes, no, or nothing to compare.

use std::ops::ControlFlow;

use serde_json::Value;
use signet_identity::TrustDomain;
use signet_model::{
    ClaimMatch, ClaimName, ContextKind, CredentialKind, Effect, GrpcPattern, HttpMethod, IfAbsent, Label,
    ObjectName, PathTemplate, PolicySpec, Scope, ToMatch, UserMatch, When, WorkloadPattern,
};

use crate::facts::{Context, Facts, User};
use crate::when::{self, Failure};

/// What a condition comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Truth {
    Yes,
    No,
    /// What it asks about is not there, or is of a type that cannot be compared.
    Absent,
}

impl Truth {
    fn of(holds: bool) -> Truth {
        if holds { Truth::Yes } else { Truth::No }
    }

    fn and(self, other: Truth) -> Truth {
        match (self, other) {
            (Truth::No, _) | (_, Truth::No) => Truth::No,
            (Truth::Absent, _) | (_, Truth::Absent) => Truth::Absent,
            _ => Truth::Yes,
        }
    }

    fn or(self, other: Truth) -> Truth {
        match (self, other) {
            (Truth::Yes, _) | (_, Truth::Yes) => Truth::Yes,
            (Truth::Absent, _) | (_, Truth::Absent) => Truth::Absent,
            _ => Truth::No,
        }
    }

    /// Whether the policy may still match: the rule on absence, in one place.
    pub(crate) fn holds_for(self, spec: &PolicySpec) -> bool {
        match self {
            Truth::Yes => true,
            Truth::No => false,
            Truth::Absent => spec.effect != Effect::Permit && spec.if_absent == IfAbsent::Match,
        }
    }
}

/// One condition, with what it asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Condition<'p> {
    /// Empty: any peer of the mesh's own trust domain.
    From(&'p [WorkloadPattern]),
    Ports(&'p [Label]),
    Methods(&'p [HttpMethod]),
    Paths(&'p [PathTemplate]),
    Grpc(&'p [GrpcPattern]),
    /// An HTTP request or a gRPC call, where both are described.
    Request(&'p ToMatch),
    User,
    Context(&'p [ContextKind]),
    Credential(&'p [CredentialKind]),
    Scopes(&'p [Scope]),
    Claim(&'p ClaimName, &'p ClaimMatch),
    /// With why it has no value, where it has none.
    When(&'p When, Option<Failure<'p>>),
}

/// A permit that says nothing about the context takes only what the app itself forwarded.
const FORWARDED: &[ContextKind] = &[ContextKind::Forwarded];

/// Whether the policy speaks of this peer.
pub(crate) fn from(spec: &PolicySpec, facts: &Facts<'_>, own: &TrustDomain) -> Truth {
    let is_own = facts.peer.is_in(own);
    match &spec.from {
        None => Truth::of(is_own || spec.effect != Effect::Permit),
        Some(from) => Truth::of(from.workloads.iter().any(|pattern| is_peer(pattern, facts, is_own))),
    }
}

/// `is_own`: the peer is of the mesh's own trust domain, of which the short forms speak and the long ones never.
fn is_peer(pattern: &WorkloadPattern, facts: &Facts<'_>, is_own: bool) -> bool {
    let (namespace, account) = (facts.peer.namespace(), facts.peer.service_account());
    match pattern {
        WorkloadPattern::Exact(id) => {
            is_own
                && namespace.is_some_and(|had| id.namespace == *had)
                && account.is_some_and(|had| id.account == *had)
        }
        WorkloadPattern::Namespace(wanted) => is_own && namespace.is_some_and(|had| *wanted == *had),
        WorkloadPattern::Federated(id) => !is_own && id == facts.peer,
        WorkloadPattern::FederatedNamespace(domain, wanted) => {
            !is_own && facts.peer.is_in(domain) && namespace == Some(&**wanted)
        }
    }
}

/// Whether everything but `from` holds. Stops at the first condition that settles it; `failed` hears of a `when` that
/// could not be evaluated.
pub(crate) fn holds<'p>(
    spec: &'p PolicySpec,
    facts: &Facts<'_>,
    service: &ObjectName,
    failed: impl Fn(Failure<'p>),
) -> bool {
    walk(spec, facts, service, |condition, truth| {
        if let Condition::When(_, Some(failure)) = condition {
            failed(failure);
        }
        if truth.holds_for(spec) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .is_continue()
}

/// Whether its `when` holds, or the policy has none: for policies that are decided for a connection.
pub(crate) fn holds_when(spec: &PolicySpec, facts: &Facts<'_>, service: &ObjectName) -> bool {
    spec.when.as_ref().is_none_or(|when| {
        when::truth(when, spec, facts, service, visible_user(spec, facts)).0.holds_for(spec)
    })
}

/// The user of whom the policy's `when` may speak: in a permit only one whom its `user` would take as well.
pub(crate) fn visible_user<'a>(spec: &PolicySpec, facts: &Facts<'a>) -> Option<&'a User> {
    let stated = spec.user.as_ref().map_or(&[][..], |wanted| &wanted.context);
    let accepted = accepted(spec.effect, stated);
    facts.user.filter(|user| accepted.is_empty() || accepted.contains(&kind(user)))
}

/// The ways to know a user that a policy takes; none for any.
fn accepted(effect: Effect, stated: &[ContextKind]) -> &[ContextKind] {
    if effect == Effect::Permit && stated.is_empty() { FORWARDED } else { stated }
}

fn kind(user: &User) -> ContextKind {
    match user.context {
        Context::Forwarded | Context::Direct => ContextKind::Forwarded,
        Context::Attached => ContextKind::Attached,
    }
}

/// Goes through every condition but `from`, those that most often settle it first, until `visit` breaks off.
pub(crate) fn walk<'p>(
    spec: &'p PolicySpec,
    facts: &Facts<'_>,
    service: &ObjectName,
    mut visit: impl FnMut(Condition<'p>, Truth) -> ControlFlow<()>,
) -> ControlFlow<()> {
    if let Some(to) = &spec.to {
        if !to.ports.is_empty() {
            visit(Condition::Ports(&to.ports), Truth::of(to.ports.iter().any(|port| *port == *facts.port)))?;
        }
        let has_http = !(to.methods.is_empty() && to.paths.is_empty());
        match (has_http, !to.grpc.is_empty()) {
            (true, true) => {
                let http = method(to, facts).and(path(spec.effect, to, facts));
                visit(Condition::Request(to), http.or(grpc(spec.effect, to, facts)))?;
            }
            (true, false) => {
                if !to.paths.is_empty() {
                    visit(Condition::Paths(&to.paths), path(spec.effect, to, facts))?;
                }
                if !to.methods.is_empty() {
                    visit(Condition::Methods(&to.methods), method(to, facts))?;
                }
            }
            (false, true) => visit(Condition::Grpc(&to.grpc), grpc(spec.effect, to, facts))?,
            (false, false) => {}
        }
    }
    // `required: false` asks for nothing; the model refuses it beside conditions.
    if let Some(wanted) = spec.user.as_ref().filter(|wanted| wanted.required != Some(false)) {
        match facts.user {
            None => visit(Condition::User, Truth::Absent)?,
            Some(user) => walk_user(spec.effect, wanted, user, &mut visit)?,
        }
    }
    // Last, since it costs most: it is asked only of requests that the rest leaves.
    let Some(when) = &spec.when else { return ControlFlow::Continue(()) };
    let (truth, failure) = when::truth(when, spec, facts, service, visible_user(spec, facts));
    visit(Condition::When(when, failure), truth)
}

fn walk_user<'p>(
    effect: Effect,
    wanted: &'p UserMatch,
    user: &User,
    visit: &mut impl FnMut(Condition<'p>, Truth) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let accepted = accepted(effect, &wanted.context);
    if !accepted.is_empty() {
        visit(Condition::Context(accepted), Truth::of(accepted.contains(&kind(user))))?;
    }
    if !wanted.cred.is_empty() {
        let holds = wanted.cred.iter().any(|kind| kind.as_str() == user.cred);
        visit(Condition::Credential(&wanted.cred), Truth::of(holds))?;
    }
    if !wanted.scopes.is_empty() {
        let holds = wanted.scopes.iter().all(|scope| user.scopes.iter().any(|had| *scope == *had.as_str()));
        visit(Condition::Scopes(&wanted.scopes), Truth::of(holds))?;
    }
    for (name, claim) in &wanted.claims {
        visit(Condition::Claim(name, claim), claim_truth(claim, user.claims.get(name.as_str())))?;
    }
    ControlFlow::Continue(())
}

fn method(to: &ToMatch, facts: &Facts<'_>) -> Truth {
    match facts.method {
        _ if to.methods.is_empty() => Truth::Yes,
        Some(method) => Truth::of(to.methods.iter().any(|wanted| *wanted == *method)),
        None => Truth::Absent,
    }
}

fn path(effect: Effect, to: &ToMatch, facts: &Facts<'_>) -> Truth {
    let Some(path) = facts.path else {
        return if to.paths.is_empty() { Truth::Yes } else { Truth::Absent };
    };
    // A server that drops path parameters would serve `/admin;x` as `/admin`: a forbid counts on it.
    let both_ways = effect != Effect::Permit && path.contains(';');
    let takes = |template: &PathTemplate| {
        template.matches(path) || (both_ways && template.matches_without_parameters(path))
    };
    Truth::of(to.paths.is_empty() || to.paths.iter().any(takes))
}

fn grpc(effect: Effect, to: &ToMatch, facts: &Facts<'_>) -> Truth {
    let is_any = |method: &str| to.grpc.iter().any(|pattern| pattern.matches(method));
    match (facts.grpc, facts.path) {
        (Some(method), _) => Truth::of(is_any(method)),
        // Not recognised as gRPC. An app may still serve it as such, whatever its content type says: so a
        // forbid looks at the path, and a permit does not believe it.
        (None, Some(path)) => {
            Truth::of(effect != Effect::Permit && path.strip_prefix('/').is_some_and(is_any))
        }
        (None, None) => Truth::Absent,
    }
}

/// The claim as a set of texts: a text is a set of one.
fn claim_truth(wanted: &ClaimMatch, had: Option<&Value>) -> Truth {
    match had {
        Some(Value::String(text)) => compare(wanted, std::slice::from_ref(text), String::as_str),
        Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
            compare(wanted, items, |item| item.as_str().unwrap_or_default())
        }
        _ => Truth::Absent,
    }
}

fn compare<T>(wanted: &ClaimMatch, had: &[T], text: impl Fn(&T) -> &str) -> Truth {
    let has = |value: &str| had.iter().any(|item| text(item) == value);
    let any_of = wanted.any_of.is_empty() || wanted.any_of.iter().any(|value| has(value.as_str()));
    let all_of = wanted.all_of.iter().all(|value| has(value.as_str()));
    let equals = wanted
        .equals
        .as_ref()
        .is_none_or(|value| !had.is_empty() && had.iter().all(|item| text(item) == value.as_str()));
    Truth::of(any_of && all_of && equals)
}
