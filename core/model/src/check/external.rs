//! Places outside: names of their own, and egress gateways that are some.

use std::collections::BTreeMap;

use super::{Check, by_age};
use crate::{ExternalService, HostPattern, Label, ObjectName, Port, Through};

impl Check<'_> {
    pub(super) fn external(&mut self) {
        // Two that list one name at one port would be told apart by chance.
        let mut taken: BTreeMap<(&Label, &HostPattern, Port), &ObjectName> = BTreeMap::new();
        for external in by_age(self.registry.external_services(), &self.origins.external) {
            let mut problems = Vec::new();
            if self.registry.service(&external.name).is_some() {
                let reason = format!(
                    "expected a name that no Service has, as callers name both alike, got `{}`",
                    external.name
                );
                problems.push(("metadata.name".to_owned(), reason));
            }
            for (index, host) in external.spec.hosts.iter().enumerate() {
                for port in &external.spec.ports {
                    let place = (&external.name.namespace, host, port.port);
                    if let Some(other) = taken.insert(place, &external.name) {
                        let reason = format!(
                            "expected a name and port that no other ExternalService of the namespace has, got `{host}` port {}, \
                             which is also `{other}`'s",
                            port.port
                        );
                        problems.push((format!("spec.hosts[{index}]"), reason));
                    }
                }
            }
            if let Some(through) = &external.spec.through {
                problems.extend(self.egress_gateway(external, through));
            }
            for (field, reason) in problems {
                self.add(&self.origins.external, &external.name, field, reason);
            }
        }
    }

    fn egress_gateway(&self, external: &ExternalService, through: &Through) -> Option<(String, String)> {
        let Some(service) = self.registry.service(&through.service) else {
            let reason = format!(
                "expected the service of an egress gateway, got `{}`, which is none",
                through.service
            );
            return Some(("spec.through.service".to_owned(), reason));
        };
        if service.port(through.port.as_str()).is_none() {
            let reason =
                format!("expected the name of a port of `{}`, got `{}`", through.service, through.port);
            return Some(("spec.through.port".to_owned(), reason));
        }
        let stranger = service
            .identities()
            .iter()
            .find(|id| !self.registry.gateways_of(id).any(|gateway| gateway.spec.egress.is_some()))
            .cloned();
        if service.identities().is_empty() || stranger.is_some() {
            let who = stranger.map_or_else(|| "nobody of this mesh".to_owned(), |id| format!("`{id}`"));
            let reason = format!(
                "expected a service that only gateways with `egress` answer for, got `{}`, for which {who} does",
                through.service
            );
            return Some(("spec.through.service".to_owned(), reason));
        }
        // A connection to the gateway says by its server name which place is meant.
        let (name, namespace) = (external.name.name.as_str(), external.name.namespace.as_str());
        let long = external
            .spec
            .ports
            .iter()
            .find(|port| !signet_identity::routed_name_fits(port.name.as_str(), name, namespace))?;
        let reason = format!(
            "expected port name, name and namespace to fit a server name of 253 characters, which leads to the gateway, got \
             `{}` with port `{}`",
            external.name, long.name
        );
        Some(("metadata.name".to_owned(), reason))
    }
}
