//! Routes of whole connections: parents that carry bytes, and no two that a connection could not tell apart.

use std::collections::BTreeMap;

use super::Check;
use crate::{
    AnyRoute, Family, HostPattern, Label, Listener, ListenerProtocol, ObjectName, ParentKind, ParentRef,
    Port, Protocol, Registry,
};

/// Where connections come in: at one port of a service, from callers of routes of this namespace; or at a listener.
type Place<'a> = (ParentKind, ObjectName, &'a str, Option<&'a Label>);

/// What was said of a place so far, by which route: for every name (none: for all connections).
type Taken<'a> = BTreeMap<Place<'a>, BTreeMap<Option<&'a HostPattern>, &'a AnyRoute>>;

impl Check<'_> {
    pub(super) fn streams(&mut self) {
        let registry = self.registry;
        let mut taken = Taken::new();
        let routes = registry.routes().filter(|route| route.family() == Family::Streams).collect();
        for route in registry.by_age(routes) {
            let mut problems = Vec::new();
            for (index, parent) in route.parents().iter().enumerate() {
                let field = format!("spec.parentRefs[{index}]");
                let found = match parent.kind {
                    ParentKind::Service => at_service(registry, route, parent),
                    ParentKind::Gateway => at_gateway(registry, route, parent),
                };
                match found {
                    Ok(places) => {
                        for place in places {
                            if let Some(reason) = claim(&mut taken, place, route) {
                                problems.push((field.clone(), reason));
                            }
                        }
                    }
                    Err((name, reason)) => problems.push((format!("{field}{name}"), reason)),
                }
            }
            for (field, name, port) in route.backends() {
                if let Some((below, reason)) = stream_backend(registry, route, &name, port) {
                    problems.push((format!("{field}.{below}"), reason));
                }
            }
            let key = (route.kind(), route.name().clone());
            for (field, reason) in problems {
                self.add(&self.origins.routes, &key, field, reason);
            }
        }
    }
}

fn at_service<'a>(
    registry: &'a Registry,
    route: &'a AnyRoute,
    parent: &ParentRef,
) -> Result<Vec<Place<'a>>, (&'static str, String)> {
    let own = &route.name().namespace;
    let name = parent.object(own);
    let Some(service) = registry.services.get(&name) else {
        return Err((".name", format!("expected a service of the registry, got `{name}`")));
    };
    let ports = service.spec.ports.iter();
    let ports = ports.filter(|port| parent.takes(port.name.as_str(), port.port.get()));
    let ports: Vec<_> = ports.filter(|port| port.protocol == Protocol::Tcp).collect();
    if ports.is_empty() {
        return Err(("", format!("expected a port of `{name}` that is tcp, got none")));
    }
    let place =
        |port: &'a crate::ServicePort| (ParentKind::Service, name.clone(), port.name.as_str(), Some(own));
    Ok(ports.into_iter().map(place).collect())
}

fn at_gateway<'a>(
    registry: &'a Registry,
    route: &'a AnyRoute,
    parent: &ParentRef,
) -> Result<Vec<Place<'a>>, (&'static str, String)> {
    let own = &route.name().namespace;
    let name = parent.object(own);
    let Some(gateway) = registry.gateways.get(&name) else {
        return Err((".name", format!("expected a Gateway of the registry, got `{name}`")));
    };
    let wanted = match route {
        AnyRoute::Tls(_) => ListenerProtocol::Tls,
        _ => ListenerProtocol::Tcp,
    };
    let meant = gateway.spec.listeners.iter();
    let meant = meant.filter(|one| parent.takes(one.name.as_str(), one.port.get()));
    let meant: Vec<&Listener> = meant.filter(|one| one.protocol == wanted).collect();
    if meant.is_empty() {
        let wanted = wanted.as_str();
        return Err(("", format!("expected a listener of `{name}` of protocol {wanted}, got none")));
    }
    let (lets, not): (Vec<_>, Vec<_>) =
        meant.into_iter().partition(|listener| listener.lets(own, &gateway.name.namespace));
    if let (true, Some(listener)) = (lets.is_empty(), not.first()) {
        let reason = format!(
            "expected a listener of `{name}` that lets routes of namespace `{own}` attach, got `{}`, which takes those of \
             its own: set allowedRoutes.namespaces.from: All there, or move the route",
            listener.name
        );
        return Err(("", reason));
    }
    let hosts = route.hostnames();
    let places = lets.into_iter().filter(|one| hosts.is_empty() || hosts.iter().any(|host| one.meets(host)));
    let places: Vec<_> =
        places.map(|one| (ParentKind::Gateway, name.clone(), one.name.as_str(), None)).collect();
    if places.is_empty() {
        return Err((
            "",
            format!("expected a listener of `{name}` with a hostname that meets spec.hostnames, got none"),
        ));
    }
    Ok(places)
}

fn stream_backend(
    registry: &Registry,
    route: &AnyRoute,
    name: &ObjectName,
    number: Port,
) -> Option<(&'static str, String)> {
    let Some(service) = registry.service(name) else {
        return Some(("name", format!("expected a service of the registry, got `{name}`")));
    };
    if route.has_gateway() && service.spec.federated_identity.is_some() {
        return Some(("name", format!("expected a service of this mesh, got `{name}`, which is federated")));
    }
    let Some(port) = service.spec.ports.iter().find(|port| port.port == number) else {
        return Some(("port", format!("expected a port that callers of `{name}` dial, got {number}")));
    };
    (port.protocol != Protocol::Tcp)
        .then(|| ("port", format!("expected a port that is tcp, got {number}, which speaks HTTP or may")))
}

/// Notes that a route is for a place; the reason where another one is for the same connections.
fn claim<'a>(taken: &mut Taken<'a>, place: Place<'a>, route: &'a AnyRoute) -> Option<String> {
    let at = match place.0 {
        ParentKind::Service => format!("port `{}` of `{}`", place.2, place.1),
        ParentKind::Gateway => format!("listener `{}` of `{}`", place.2, place.1),
    };
    let here = taken.entry(place).or_default();
    let mut beside = |host: Option<&'a HostPattern>| {
        let other = here.insert(host, route)?;
        (other.kind() != route.kind() || other.name() != route.name()).then_some(other)
    };
    let shown = |other: &AnyRoute| format!("{} `{}`", other.kind(), other.name());
    if route.hostnames().is_empty() {
        if let Some(other) = beside(None) {
            return Some(format!(
                "expected one route for all connections at {at}, got a second one beside {}",
                shown(other)
            ));
        }
    } else {
        for host in route.hostnames() {
            if let Some(other) = beside(Some(host)) {
                return Some(format!(
                    "expected one route for `{host}` at {at}, got a second one beside {}",
                    shown(other)
                ));
            }
        }
    }
    let mixed = here.keys().any(Option::is_none) && here.keys().any(Option::is_some);
    mixed.then(|| {
        format!("expected TLSRoutes or a TCPRoute at {at}, got both: whoever says no name could mean either")
    })
}
