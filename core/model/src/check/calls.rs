//! Routes and traffic policies: services and ports that are there, and that speak what they must.

use std::collections::BTreeMap;

use super::{Check, by_age};
use crate::{AnyRoute, Family, FilterType, Label, ObjectName, ParentRef, Port, Protocol, ServicePort};

/// What may be routed to what: nothing translates between HTTP/1.1 and HTTP/2. None where a port may speak either.
fn is_http1(port: &ServicePort) -> Option<bool> {
    (port.protocol != Protocol::Auto).then_some(port.protocol == Protocol::Http1)
}

impl Check<'_> {
    pub(super) fn traffic(&mut self) {
        let mut taken: BTreeMap<(ObjectName, Option<&Label>), &ObjectName> = BTreeMap::new();
        for policy in by_age(self.registry.traffic_policies(), &self.origins.traffic) {
            let target = &policy.spec.target;
            let name = ObjectName::new(policy.name.namespace.clone(), target.service.to_subdomain());
            let mut problems = Vec::new();
            match self.registry.service(&name) {
                None => problems.push((
                    "spec.target.service".to_owned(),
                    format!("expected a service of namespace `{}`, got `{}`", name.namespace, target.service),
                )),
                Some(service) => {
                    let ports = target.port.iter().map(|port| ("spec.target.port".to_owned(), port));
                    let of = |what: &str, index: usize, ports: &[Label]| -> Vec<(String, Label)> {
                        let each = ports.iter().enumerate();
                        each.map(|(at, port)| (format!("spec.{what}[{index}].to.ports[{at}]"), port.clone()))
                            .collect()
                    };
                    let limits = policy.spec.rate_limits.iter().enumerate();
                    let limits = limits.filter_map(|(index, limit)| Some((index, limit.to.as_ref()?)));
                    let limits = limits.flat_map(|(index, to)| of("rateLimits", index, &to.ports));
                    let faults = policy.spec.faults.iter().enumerate();
                    let faults = faults.filter_map(|(index, fault)| Some((index, fault.to.as_ref()?)));
                    let faults = faults.flat_map(|(index, to)| of("faults", index, &to.ports));
                    let ports = ports.map(|(field, port)| (field, port.clone())).chain(limits).chain(faults);
                    for (field, port) in ports {
                        match service.port(port.as_str()) {
                            None => problems.push((
                                field,
                                format!("expected the name of a port of `{name}`, got `{port}`"),
                            )),
                            Some(declared) if !declared.protocol.is_http() => problems.push((
                                field,
                                format!("expected a port that speaks HTTP, got `{port}`, which is tcp"),
                            )),
                            Some(_) => {}
                        }
                    }
                }
            }
            if let Some(other) = taken.insert((name, target.port.as_ref()), &policy.name) {
                problems.push((
                    "spec.target".to_owned(),
                    format!("expected one TrafficPolicy for it, got a second one beside `{other}`"),
                ));
            }
            for (field, reason) in problems {
                self.add(&self.origins.traffic, &policy.name, field, reason);
            }
        }
    }

    pub(super) fn routes(&mut self) {
        for route in self.registry.routes().filter(|route| route.family() == Family::Requests) {
            let mut problems = Vec::new();
            let parents: Vec<_> = route.parents().iter().enumerate().collect();
            let mut spoken: Option<(bool, String)> = None;
            for (index, parent) in parents {
                self.parent(route, index, parent, &mut spoken, &mut problems);
            }
            for (field, service, port) in route.backends() {
                self.backend(&field, &service, port, spoken.as_ref(), &mut problems);
            }
            for (index, rule) in route.rules().iter().enumerate() {
                let answers = rule.filters.iter().any(|filter| filter.r#type == FilterType::RequestRedirect);
                if rule.backends.is_empty() && !answers {
                    problems.push((
                        format!("spec.rules[{index}].backendRefs"),
                        "expected at least one backend, or a RequestRedirect: without either each request fails"
                            .to_owned(),
                    ));
                }
            }
            let key = (route.kind(), route.name().clone());
            for (field, reason) in problems {
                self.add(&self.origins.routes, &key, field, reason);
            }
        }
    }

    /// `spoken`: whether the ports before spoke HTTP/1, and which they were.
    fn parent(
        &self,
        route: &AnyRoute,
        index: usize,
        parent: &ParentRef,
        spoken: &mut Option<(bool, String)>,
        problems: &mut Vec<(String, String)>,
    ) {
        let name = parent.object(&route.name().namespace);
        let field = format!("spec.parentRefs[{index}]");
        let Some(service) = self.registry.service(&name) else {
            problems
                .push((format!("{field}.name"), format!("expected a service of the registry, got `{name}`")));
            return;
        };
        let meant =
            service.spec.ports.iter().filter(|port| parent.takes(port.name.as_str(), port.port.get()));
        let is_grpc = matches!(route, AnyRoute::Grpc(_));
        let meant: Vec<_> = meant
            .filter(|port| port.protocol.is_http() && !(is_grpc && is_http1(port) == Some(true)))
            .collect();
        if meant.is_empty() {
            let wanted = if is_grpc { "gRPC" } else { "HTTP" };
            problems.push((field, format!("expected a port of `{name}` that speaks {wanted}, got none")));
            return;
        }
        for port in meant {
            let Some(http1) = is_http1(port) else { continue };
            let this = (http1, format!("port `{}` of `{name}`", port.name));
            match spoken {
                Some((http1, other)) if *http1 != this.0 => problems.push((
                    field.clone(),
                    format!(
                        "expected ports that speak one version of HTTP, got {other} and {}: give each a route of its own",
                        this.1
                    ),
                )),
                _ => *spoken = Some(this),
            }
        }
    }

    fn backend(
        &self,
        field: &str,
        name: &ObjectName,
        number: Port,
        spoken: Option<&(bool, String)>,
        problems: &mut Vec<(String, String)>,
    ) {
        let Some(service) = self.registry.service(name) else {
            problems
                .push((format!("{field}.name"), format!("expected a service of the registry, got `{name}`")));
            return;
        };
        let Some(port) = service.spec.ports.iter().find(|port| port.port == number) else {
            problems.push((
                format!("{field}.port"),
                format!("expected a port that callers of `{name}` dial, got {number}"),
            ));
            return;
        };
        if !port.protocol.is_http() {
            problems.push((
                format!("{field}.port"),
                format!("expected a port that speaks HTTP, got {number}, which is tcp"),
            ));
        } else if let Some((http1, other)) =
            spoken.filter(|(http1, _)| is_http1(port).is_some_and(|own| own != *http1))
        {
            let (wanted, got) = if *http1 { ("HTTP/1.1", "HTTP/2") } else { ("HTTP/2", "HTTP/1.1") };
            problems.push((
                format!("{field}.port"),
                format!("expected a port that speaks {wanted} as {other} does, got one that speaks {got}"),
            ));
        }
    }
}
