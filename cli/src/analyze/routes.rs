//! Routes: where they lead, what they belong to, and who else claims the same.

use std::collections::BTreeMap;

use signet_kubernetes::translate::Said;
use signet_model::{AnyRoute, Family, Protocol};

use super::{Findings, World, codes, shown};

pub(super) fn look(world: &World<'_>, findings: &mut Findings) {
    parents(world, findings);
    let registry = &world.made.registry;
    for route in registry.routes() {
        let object = of(route);
        for (field, service, port) in route.backends() {
            if !registry.lets_refer(route, &service) {
                let there = &service.namespace;
                let message =
                    format!("`{service}`: no ReferenceGrant of the namespace `{there}` lets it refer there");
                findings.add(codes::GRANT, &object, &field, message);
            }
            let found =
                registry.service(&service).and_then(|it| it.spec.ports.iter().find(|it| it.port == port));
            if route.family() == Family::Requests && found.is_some_and(|port| port.protocol == Protocol::Tcp)
            {
                let message = format!("the port {port} of `{service}` carries bytes");
                findings.add(codes::BYTES, &object, &field, message);
            }
        }
    }
    same(world, findings);
}

fn of(route: &AnyRoute) -> String {
    shown(route.kind(), route.name().namespace.as_str(), route.name().name.as_str())
}

/// What statuses say of parents, where it is not the registry that refused the route.
fn parents(world: &World<'_>, findings: &mut Findings) {
    for status in &world.made.statuses {
        let Said::Parents(parents) = &status.said else { continue };
        let kind = status.kind.kind().kind;
        let object = shown(kind, &status.namespace, &status.name);
        if parents.is_empty() {
            findings.add(
                codes::NO_PARENT,
                &object,
                "spec.parentRefs",
                "no Service and no Gateway of the mesh is among them",
            );
        }
        let is_known = |it: &&(signet_model::ObjectId, signet_model::Verdict)| {
            it.0.kind == kind && it.0.namespace == status.namespace && it.0.name == status.name
        };
        let refused =
            world.made.verdicts.iter().find(is_known).is_some_and(|(_, verdict)| !verdict.is_right());
        for (index, parent) in parents.iter().enumerate().filter(|_| !refused) {
            let wrong = parent.conditions.iter().find(|it| it.kind == "Accepted" && !it.status);
            if let Some(wrong) = wrong {
                let field = format!("spec.parentRefs[{index}]");
                findings.add(codes::PARENT_REFUSED, &object, &field, wrong.message.clone());
            }
        }
    }
}

/// Rules that ask for the same of the same parent. The route that is first by name stands for the older one, which wins.
fn same(world: &World<'_>, findings: &mut Findings) {
    let mut taken: BTreeMap<String, String> = BTreeMap::new();
    for route in world.made.registry.routes().filter(|it| it.family() == Family::Requests) {
        let own = &route.name().namespace;
        let hosts: Vec<String> = match route.hostnames() {
            [] => vec!["*".to_owned()],
            hosts => hosts.iter().map(ToString::to_string).collect(),
        };
        for parent in route.parents() {
            // Routes of another namespace stand instead of these, not beside them.
            let place = format!(
                "{own} {:?} {} {:?} {:?}",
                parent.kind,
                parent.object(own),
                parent.port,
                parent.section_name
            );
            for (index, rule) in route.rules().iter().enumerate() {
                for (host, one) in hosts.iter().flat_map(|host| rule.matches.iter().map(move |it| (host, it)))
                {
                    let here = format!("{} (spec.rules[{index}])", of(route));
                    let key = format!("{place} {host} {one:?}");
                    match taken.get(&key) {
                        Some(first) if *first != here => {
                            let field = format!("spec.rules[{index}].matches");
                            let message = format!("{first} has the same match for the host `{host}`");
                            findings.add(codes::SAME_MATCH, of(route), &field, message);
                        }
                        _ => drop(taken.insert(key, here)),
                    }
                }
            }
        }
    }
}
