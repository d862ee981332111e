//! What is taken out of an object, so that one entry that is wrong leaves the others in force.
//!
//! Only where an entry grants by itself. A gateway's route does more: what it is for would go by a less specific one without
//! it, perhaps one that asks for no credentials. So it stays, and leads nowhere.

use crate::resources::gateway::{ForwardCredential, Gateway, Route, RouteAuth, TransactionSettings};
use crate::{Label, ObjectName, Resource, WorkloadId};

/// An entry, by what it says: numbers change when another one goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trim {
    /// Of a Gateway's `routes`, which keep their places.
    GatewayRoute(usize),
    /// Of its `eastWest.services`.
    PassedOn(ObjectName),
    /// Of a TokenExchange: `workloads`, `issuers`, `defer.to` and `actors.issuers`.
    Workload(WorkloadId),
    Issuer(Label),
    Opener(WorkloadId),
    Actor(Label),
}

impl Trim {
    /// The entry that a mistake is in, if others can do without it.
    pub(super) fn of(resource: &Resource, field: &str) -> Option<Trim> {
        match resource {
            Resource::Gateway(gateway) => match index(field, "spec.routes[") {
                Some(index) => gateway.spec.routes.get(index).map(|_| Trim::GatewayRoute(index)),
                None => {
                    let listed = &gateway.spec.east_west.as_ref()?.services;
                    listed.get(index(field, "spec.eastWest.services[")?).cloned().map(Trim::PassedOn)
                }
            },
            Resource::TokenExchange(exchange) => {
                let spec = &exchange.spec;
                let workload = index(field, "spec.workloads[").and_then(|at| spec.workloads.get(at));
                let issuer = index(field, "spec.issuers[").and_then(|at| spec.issuers.get(at));
                let to = spec.defer.as_ref().map(|defer| &defer.to);
                let opener = index(field, "spec.defer.to[").and_then(|at| to?.get(at));
                let actors = spec.actors.as_ref().map(|actors| &actors.issuers);
                let actor = index(field, "spec.actors.issuers[").and_then(|at| actors?.get(at));
                let workload = workload.cloned().map(Trim::Workload);
                workload
                    .or_else(|| issuer.cloned().map(Trim::Issuer))
                    .or_else(|| opener.cloned().map(Trim::Opener))
                    .or_else(|| actor.cloned().map(Trim::Actor))
            }
            _ => None,
        }
    }

    /// Which route of a Gateway leads nowhere.
    pub(super) fn route(&self) -> Option<usize> {
        match self {
            Trim::GatewayRoute(index) => Some(*index),
            _ => None,
        }
    }

    pub(super) fn apply(&self, resource: &mut Resource) {
        match (self, resource) {
            (Trim::GatewayRoute(index), Resource::Gateway(gateway)) => lead_nowhere(gateway, *index),
            (Trim::PassedOn(name), Resource::Gateway(gateway)) => {
                if let Some(east_west) = &mut gateway.spec.east_west {
                    east_west.services.retain(|service| service != name);
                }
            }
            (Trim::Workload(id), Resource::TokenExchange(exchange)) => {
                exchange.spec.workloads.retain(|own| own != id);
            }
            (Trim::Issuer(alias), Resource::TokenExchange(exchange)) => {
                exchange.spec.issuers.retain(|own| own != alias);
            }
            (Trim::Opener(id), Resource::TokenExchange(exchange)) => {
                exchange.spec.defer.iter_mut().for_each(|defer| defer.to.retain(|own| own != id));
            }
            (Trim::Actor(alias), Resource::TokenExchange(exchange)) => {
                exchange.spec.actors.iter_mut().for_each(|actors| actors.issuers.retain(|own| own != alias));
            }
            _ => {}
        }
    }

    /// Whether a list is empty without it in which something has to stand: then there is no such object.
    pub(super) fn leaves_nothing(&self, resource: &Resource) -> bool {
        match (self, resource) {
            (Trim::GatewayRoute(_) | Trim::PassedOn(_), _) => false,
            (_, Resource::TokenExchange(exchange)) => {
                let spec = &exchange.spec;
                spec.workloads.is_empty()
                    || spec.issuers.is_empty()
                    || spec.defer.as_ref().is_some_and(|defer| defer.to.is_empty())
                    || spec.actors.as_ref().is_some_and(|actors| actors.issuers.is_empty())
            }
            _ => true,
        }
    }
}

/// The number after the list's name.
pub(super) fn index(field: &str, list: &str) -> Option<usize> {
    field.strip_prefix(list)?.split(']').next()?.parse().ok()
}

/// What the route is for is refused: it leads to a service of a name that no service can have here.
fn lead_nowhere(gateway: &mut Gateway, index: usize) {
    let namespace = gateway.name.namespace.clone();
    let Some(route) = gateway.spec.routes.get_mut(index) else { return };
    let Ok(name) = NOWHERE.parse() else { return };
    *route = Route {
        name: route.name.clone(),
        hosts: route.hosts.clone(),
        path_prefix: route.path_prefix.clone(),
        service: ObjectName::new(namespace, name),
        port: route.port.clone(),
        auth: RouteAuth { jwt: None, anonymous: true },
        scopes: Vec::new(),
        txn: TransactionSettings::default(),
        forward_credential: ForwardCredential::default(),
    };
}

/// A name with a dot, which services of the registry do not have.
pub(super) const NOWHERE: &str = "refused.route";
