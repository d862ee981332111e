//! Whom we can call: services by name and by virtual address.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::calls::Calls;
use super::service::{Service, ServiceSpec};

/// Refusals remembered. An app that dials at random (a scan, a crawler) must not fill our memory; what is forgotten is
/// asked again.
const MAX_REFUSED: usize = 1024;

/// The endpoints snapshot.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// Grows with each change.
    pub generation: u64,
    services: HashMap<Arc<str>, Arc<Service>>,
    by_address: HashMap<IpAddr, Arc<Service>>,
    /// Where the requests to a service go, if not simply to it.
    calls: HashMap<Arc<str>, Arc<Calls>>,
    /// Where sidecars of the mesh take mutual TLS.
    sidecars: HashSet<SocketAddr>,
    /// Services that the control plane refuses to tell us of, with its reason.
    refused: HashMap<Arc<str>, Arc<str>>,
}

impl Endpoints {
    /// The next snapshot: services put in or replaced, services removed. Endpoints that stay keep their
    /// counters and their pooled connections.
    #[must_use]
    pub fn apply(
        &self,
        upserts: impl IntoIterator<Item = ServiceSpec>,
        removed: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Self {
        let mut next = Endpoints { generation: self.generation + 1, ..self.clone() };
        for name in removed {
            next.services.remove(name.as_ref());
        }
        for spec in upserts {
            let before = self.services.get(&*spec.name);
            let service = Arc::new(Service::build(spec, before.map(|service| &**service)));
            next.refused.remove(&service.name);
            next.services.insert(service.name.clone(), service);
        }
        next.by_address = next
            .services
            .values()
            .flat_map(|service| {
                service.addresses.iter().map(|address| (address.to_canonical(), service.clone()))
            })
            .collect();
        next.sidecars = next
            .services
            .values()
            .flat_map(|service| &service.ports)
            .flat_map(|port| port.endpoints.iter().map(|endpoint| canonical(endpoint.address)))
            .collect();
        next
    }

    /// The next snapshot, with these routes for one service; `None`: its requests go to it.
    #[must_use]
    pub fn with_calls(&self, service: &str, calls: Option<Arc<Calls>>) -> Self {
        let mut next = Endpoints { generation: self.generation + 1, ..self.clone() };
        match calls {
            Some(calls) => next.calls.insert(service.into(), calls),
            None => next.calls.remove(service),
        };
        next
    }

    /// Where the requests to this service go, if not simply to it.
    pub fn calls(&self, service: &str) -> Option<&Arc<Calls>> {
        self.calls.get(service)
    }

    /// Whether this address belongs to the mesh: it is never dialled in plaintext.
    pub fn is_of_the_mesh(&self, address: SocketAddr) -> bool {
        self.by_address(address.ip()).is_some() || self.sidecars.contains(&canonical(address))
    }

    /// The next snapshot, in which the control plane refused this service.
    #[must_use]
    pub fn refuse(&self, name: &str, reason: &str) -> Self {
        let mut next = Endpoints { generation: self.generation + 1, ..self.clone() };
        if next.refused.len() >= MAX_REFUSED && !next.refused.contains_key(name) {
            let any = next.refused.keys().next().cloned();
            any.and_then(|any| next.refused.remove(&any));
        }
        next.refused.insert(name.into(), reason.into());
        next
    }

    /// The next snapshot, in which nothing was refused: a new stream to the control plane asks anew, and what was not
    /// there may have come.
    #[must_use]
    pub fn forget_refusals(&self) -> Self {
        Endpoints { generation: self.generation + 1, refused: HashMap::new(), ..self.clone() }
    }

    /// A service by `name.namespace`.
    pub fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// The service that has this virtual address.
    pub fn by_address(&self, address: IpAddr) -> Option<&Arc<Service>> {
        self.by_address.get(&address.to_canonical())
    }

    /// Why the control plane does not tell us of this service.
    pub fn refusal(&self, name: &str) -> Option<&Arc<str>> {
        self.refused.get(name)
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_do_not_pile_up_and_are_forgotten_with_their_stream() {
        let mut endpoints = Endpoints::default();
        for number in 0..2 * MAX_REFUSED {
            endpoints = endpoints.refuse(&format!("10.0.{}.{}", number / 256, number % 256), "unknown");
        }
        assert_eq!(endpoints.refused.len(), MAX_REFUSED);
        let last = format!("10.0.{}.255", 2 * MAX_REFUSED / 256 - 1);
        assert!(endpoints.refusal(&last).is_some(), "the newest is among them");
        assert!(endpoints.forget_refusals().refusal(&last).is_none());
    }
}
