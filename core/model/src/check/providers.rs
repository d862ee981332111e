//! Authorisation providers beside the rest: who is asked is there, speaks gRPC, and is asked about by nobody in turn who
//! would ask it.

use std::collections::BTreeSet;

use super::Check;
use crate::{AuthorizationProvider, Effect, MeshPolicy, ObjectName, Protocol, Service};

/// Providers that are asked about one request: each of them takes its time.
pub(crate) const MOST_PROVIDERS: usize = 4;

impl Check<'_> {
    pub(super) fn providers(&mut self) {
        let (registry, origins) = (self.registry, self.origins);
        for provider in registry.providers() {
            if let Some((field, reason)) = self.answers(provider) {
                self.add(&origins.providers, &provider.name, field, reason);
            }
        }
        for policy in registry.policies().filter(|policy| policy.spec.effect == Effect::External) {
            for (field, reason) in self.asks(policy) {
                self.add(&origins.policies, &policy.name, field, reason);
            }
        }
        for service in registry.services() {
            let count = registry.providers_of(&service.name).count();
            if count > MOST_PROVIDERS {
                let reason = format!(
                    "expected at most {MOST_PROVIDERS} AuthorizationProviders for one service, got {count} by its policies"
                );
                self.add(&origins.services, &service.name, "metadata.name", reason);
            }
        }
    }

    /// Who is to answer.
    fn answers(&self, provider: &AuthorizationProvider) -> Option<(&'static str, String)> {
        let (name, port) = (provider.spec.service.as_ref()?, provider.spec.port.as_ref()?);
        let Some(service) = self.registry.service(name) else {
            return Some(("spec.service", format!("expected a service of the registry, got `{name}`")));
        };
        if service.spec.federated_identity.is_some() {
            let reason = format!("expected a service of this mesh, got `{name}`, which is federated");
            return Some(("spec.service", reason));
        }
        match service.port(port.as_str()).map(|port| port.protocol) {
            Some(Protocol::Grpc | Protocol::Http2) => None,
            Some(other) => {
                let reason =
                    format!("expected a port that speaks gRPC, got `{port}`, which is {}", other.as_str());
                Some(("spec.port", reason))
            }
            None => Some(("spec.port", format!("expected the name of a port of `{name}`, got `{port}`"))),
        }
    }

    /// Whom a policy asks, and about what.
    fn asks(&self, policy: &MeshPolicy) -> Vec<(&'static str, String)> {
        let Some(name) = policy.provider() else { return Vec::new() };
        let mut found = Vec::new();
        if self.registry.provider(&name).is_none() {
            let reason = format!(
                "expected an AuthorizationProvider of namespace `{}`, got `{}`",
                name.namespace, name.name
            );
            found.push(("spec.provider", reason));
        }
        let targeted = || self.registry.services().filter(|service| policy.targets(&service.name));
        for service in targeted() {
            if let Some(way) = self.asks_itself(service) {
                let reason = format!(
                    "expected a provider that does not ask about itself, got `{}`: `{}` is asked about requests to {way}. \
                     Name in `target` what the policy is for",
                    name.name, service.name
                );
                found.push(("spec.provider", reason));
            }
            let tcp = |port: &&crate::ServicePort| {
                !port.protocol.is_http() && policy.spec.is_on(port.name.as_str())
            };
            if let Some(port) = service.spec.ports.iter().find(tcp) {
                let reason = format!(
                    "expected ports that speak HTTP, got `{}` of `{}`, which is tcp: nobody is asked about bytes. Name \
                     others in `to.ports`",
                    port.name, service.name
                );
                found.push(("spec.to.ports", reason));
            }
        }
        found
    }

    /// Whether to answer about requests to this service, the service itself is called in the end; by which way.
    fn asks_itself(&self, service: &Service) -> Option<String> {
        let asked = |name: &ObjectName| -> Vec<ObjectName> {
            self.registry.providers_of(name).filter_map(|provider| provider.spec.service.clone()).collect()
        };
        let mut seen = BTreeSet::new();
        let mut ahead = asked(&service.name);
        while let Some(next) = ahead.pop() {
            if next == service.name {
                return Some(format!("`{next}`"));
            }
            if seen.insert(next.clone()) {
                ahead.extend(asked(&next));
            }
        }
        None
    }
}
