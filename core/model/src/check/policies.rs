//! Policies and guard rails beside the rest: whom they name exists, and no permit is wider than the guard rails let it be.

use super::{Check, not_federated};
use crate::{Effect, Exception, FromMatch, Label, MeshPolicy, Service, ToMatch};

impl Check<'_> {
    pub(super) fn policies(&mut self) {
        for policy in self.registry.policies() {
            self.policy(policy);
        }
    }

    fn policy(&mut self, policy: &MeshPolicy) {
        let (registry, origins) = (self.registry, self.origins);
        let (name, spec) = (&policy.name, &policy.spec);
        let mut found = self.callers("spec", spec.from.as_ref());
        found.extend(self.exceptions(&spec.exceptions));
        if spec.effect == Effect::Permit {
            let rails = registry.guard_rails().filter(|rail| rail.is_in(&name.namespace));
            for (rail, limits) in rails.filter_map(|rail| Some((rail, rail.spec.permits.as_ref()?))) {
                let broken = limits.broken_by(policy).into_iter();
                found.extend(
                    broken.map(|(field, reason)| (field, format!("{reason} (GuardRail `{}`)", rail.name))),
                );
            }
        }
        let targeted: Vec<&Service> =
            registry.services().filter(|service| policy.targets(&service.name)).collect();
        match &spec.target {
            Some(target) if targeted.is_empty() => {
                let reason =
                    format!("expected a service of namespace `{}`, got `{}`", name.namespace, target.service);
                found.push(("spec.target.service".into(), reason));
            }
            _ => {
                found.extend(ports("spec", spec.to.as_ref(), &targeted));
                for (index, exception) in spec.exceptions.iter().enumerate() {
                    let place = format!("spec.exceptions[{index}]");
                    found.extend(ports(&place, exception.to.as_ref(), &targeted));
                }
            }
        }
        for (field, reason) in found {
            self.add(&origins.policies, name, field, reason);
        }
    }

    pub(super) fn guard_rails(&mut self) {
        let (registry, origins) = (self.registry, self.origins);
        for rail in registry.guard_rails() {
            let forbid = rail.spec.forbid.as_ref();
            let mut found = self.callers("spec.forbid", forbid.and_then(|forbid| forbid.from.as_ref()));
            found.extend(self.exceptions(&rail.spec.exceptions));
            for (field, reason) in found {
                self.add(&origins.guard_rails, &rail.name, field, reason);
            }
        }
    }

    fn exceptions(&self, exceptions: &[Exception]) -> Vec<(String, String)> {
        let each = exceptions.iter().enumerate();
        each.flat_map(|(index, exception)| {
            self.callers(&format!("spec.exceptions[{index}]"), Some(&exception.from))
        })
        .collect()
    }

    /// Whom it names are of the mesh's own trust domain, or of one that is federated.
    fn callers(&self, place: &str, from: Option<&FromMatch>) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (index, pattern) in from.iter().flat_map(|from| &from.workloads).enumerate() {
            let Some(domain) = pattern.federated_domain().filter(|domain| !self.is_federated(domain)) else {
                continue;
            };
            let reason = if self.options.trust_domain.as_ref() == Some(domain) {
                format!(
                    "expected `ns/<namespace>/sa/<service-account>` for the mesh's own trust domain, got `{pattern}`"
                )
            } else {
                not_federated(domain)
            };
            found.push((format!("{place}.from.workloads[{index}]"), reason));
        }
        found
    }
}

fn ports(place: &str, to: Option<&ToMatch>, targeted: &[&Service]) -> Vec<(String, String)> {
    let is_somewhere = |port: &Label| targeted.iter().any(|service| service.port(port.as_str()).is_some());
    let ports = to.iter().flat_map(|to| to.ports.iter()).enumerate();
    let unknown = ports.filter(|(_, port)| !is_somewhere(port));
    unknown
        .map(|(index, port)| {
            let reason = format!("expected the name of a port of the services that it targets, got `{port}`");
            (format!("{place}.to.ports[{index}]"), reason)
        })
        .collect()
}
