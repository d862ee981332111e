//! Policies and guard rails: whom they name, what stands before them, and what has ended.

use signet_kubernetes::kinds::KindId;
use signet_model::{
    DefaultAction, Effect, Exception, FromMatch, MeshPolicy, Mode, PolicySpec, Protocol, Service,
    WorkloadPattern,
};
use time::OffsetDateTime;

use super::{Findings, World, codes, shown};

pub(super) fn look(world: &World<'_>, findings: &mut Findings) {
    let registry = &world.made.registry;
    for policy in registry.policies() {
        one(world, policy, findings);
    }
    for rail in registry.guard_rails() {
        let object = shown("GuardRail", "", rail.name.as_ref());
        for (index, namespace) in rail.spec.namespaces.iter().enumerate() {
            let key = ("".into(), namespace.as_str().into());
            if world.snapshot.get(KindId::Namespace, &key).is_none() {
                let field = format!("spec.namespaces[{index}]");
                findings.add(
                    codes::RAIL_NOWHERE,
                    &object,
                    &field,
                    format!("there is no namespace `{namespace}`"),
                );
            }
        }
        let forbid = rail.spec.forbid.as_ref().and_then(|it| it.from.as_ref());
        callers(world, forbid, &object, "spec.forbid.from", findings);
        exceptions(world, &rail.spec.exceptions, &object, findings);
    }
    if registry.mesh().spec.default_action == DefaultAction::Allow {
        let object = shown("Mesh", "", registry.mesh().name.as_ref());
        findings.add(codes::OPEN, object, "spec.defaultAction", "allow");
        return;
    }
    let lets =
        |policy: &&MeshPolicy| policy.spec.effect == Effect::Permit && policy.spec.mode == Mode::Enforce;
    for service in registry.services().filter(|it| it.spec.federated_identity.is_none()) {
        if !registry.policies_for(&service.name).any(|policy| lets(&policy)) {
            let object = shown("Service", service.name.namespace.as_str(), service.name.name.as_str());
            findings.add(codes::NOBODY, object, "", "no permit is for it, and the mesh denies by default");
        }
    }
}

fn one(world: &World<'_>, policy: &MeshPolicy, findings: &mut Findings) {
    let (registry, spec) = (&world.made.registry, &policy.spec);
    let object = shown("MeshPolicy", policy.name.namespace.as_str(), policy.name.name.as_str());
    let targeted: Vec<&Service> = registry.services().filter(|it| policy.targets(&it.name)).collect();
    if targeted.is_empty() && spec.target.is_none() {
        let message = format!("no Service of the namespace `{}` is one of the mesh", policy.name.namespace);
        findings.add(codes::EMPTY_NAMESPACE, &object, "spec.target", message);
    }
    let named = spec.from.as_ref();
    let dead = callers(world, named, &object, "spec.from", findings);
    let all = named.map_or(0, |from| from.workloads.len());
    if spec.effect == Effect::Permit && all > 0 && dead == all {
        findings.add(codes::NEVER_MATCHES, &object, "spec.from.workloads", "none of these workloads exists");
    }
    exceptions(world, &spec.exceptions, &object, findings);
    if spec.effect != Effect::Permit || spec.mode != Mode::Enforce || targeted.is_empty() {
        return;
    }
    if let Some(by) = forbidden(world, &targeted) {
        findings.add(
            codes::SHADOWED,
            &object,
            "",
            format!("{by} forbids everything there, without a condition"),
        );
    }
    if let Some(wider) = registry.policies().find(|other| is_wider(other, policy)) {
        let message = format!("`{}` lets in all that it does", wider.name);
        findings.add(codes::REDUNDANT, &object, "", message);
    }
    let carries = |service: &&Service| {
        service
            .spec
            .ports
            .iter()
            .any(|port| port.protocol != Protocol::Tcp || !spec.speaks_of_requests(port.name.as_str()))
    };
    if !targeted.iter().any(carries) {
        findings.add(codes::PERMIT_OF_BYTES, &object, "spec.to", "every port of its target carries bytes");
    }
}

/// Says which named workloads there are not; how many.
fn callers(
    world: &World<'_>,
    from: Option<&FromMatch>,
    object: &str,
    place: &str,
    findings: &mut Findings,
) -> usize {
    let registry = &world.made.registry;
    let mut dead = 0_usize;
    for (index, pattern) in from.iter().flat_map(|from| &from.workloads).enumerate() {
        let exists = match pattern {
            WorkloadPattern::Exact(id) => registry.workload(id).is_some(),
            WorkloadPattern::Namespace(namespace) => {
                registry.workloads().any(|workload| workload.name.namespace == *namespace)
            }
            // Who is there in another trust domain is not known here.
            WorkloadPattern::Federated(_) | WorkloadPattern::FederatedNamespace(..) => true,
        };
        if !exists {
            dead = dead.saturating_add(1);
            let field = format!("{place}.workloads[{index}]");
            findings.add(codes::NO_CALLER, object, &field, format!("`{pattern}` is no workload of the mesh"));
        }
    }
    dead
}

fn exceptions(world: &World<'_>, exceptions: &[Exception], object: &str, findings: &mut Findings) {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    for (index, exception) in exceptions.iter().enumerate() {
        let place = format!("spec.exceptions[{index}]");
        if exception.until.unix() <= now {
            let message = format!("ended at {} (owner: {})", exception.until, exception.owner);
            findings.add(codes::EXPIRED, object, &format!("{place}.until"), message);
        }
        callers(world, Some(&exception.from), object, &format!("{place}.from"), findings);
    }
}

fn is_unconditional(spec: &PolicySpec) -> bool {
    spec.effect == Effect::Forbid
        && spec.mode == Mode::Enforce
        && spec.from.is_none()
        && spec.user.is_none()
        && spec.to.is_none()
        && spec.when.is_none()
        && spec.exceptions.is_empty()
}

/// Who forbids everything of each of these services. What stands for an object that is wrong counts too: it is in force.
fn forbidden(world: &World<'_>, targeted: &[&Service]) -> Option<String> {
    let registry = &world.made.registry;
    let by = |service: &&Service| -> Option<String> {
        let rail = registry.guard_rails().find(|rail| {
            rail.targets(&service.name) && rail.as_policy().is_some_and(|it| is_unconditional(&it))
        });
        if let Some(rail) = rail {
            return Some(format!("GuardRail `{}`", rail.name));
        }
        let policy = registry.policies_for(&service.name).find(|policy| is_unconditional(&policy.spec))?;
        Some(format!("MeshPolicy `{}`", policy.name))
    };
    let all: Option<Vec<String>> = targeted.iter().map(by).collect();
    all?.into_iter().next()
}

/// Whether another permit takes everything that this one takes.
fn is_wider(other: &MeshPolicy, policy: &MeshPolicy) -> bool {
    fn covers<T: PartialEq>(other: Option<&T>, own: Option<&T>) -> bool {
        other.is_none() || other == own
    }
    let (one, two) = (&other.spec, &policy.spec);
    let is_as_wide = one.effect == Effect::Permit
        && one.mode == Mode::Enforce
        && other.name != policy.name
        && other.name.namespace == policy.name.namespace
        && covers(one.target.as_ref(), two.target.as_ref())
        && covers(one.from.as_ref(), two.from.as_ref())
        && covers(one.user.as_ref(), two.user.as_ref())
        && covers(one.to.as_ref(), two.to.as_ref())
        && covers(one.when.as_ref(), two.when.as_ref());
    // Of two that say the same, the later name is the one too many.
    let same = one.target == two.target
        && one.from == two.from
        && one.user == two.user
        && one.to == two.to
        && one.when == two.when;
    is_as_wide && (!same || other.name < policy.name)
}
