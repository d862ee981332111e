//! What only the whole can tell: duplicates, and references that lead nowhere.

mod calls;
mod exchanges;
mod external;
mod policies;
mod providers;
mod streams;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Display;

use crate::error::{RegistryError, RegistryErrors};
use crate::object::{Namespaced, Resource};
use crate::registry::{Options, Origin, Registry};
use signet_identity::TrustDomain;

use crate::text::address::HostAddress;
use crate::{
    ForwardCredential, Gateway, IssuerSpec, Label, ObjectName, PolicyDocument, Port, ProcessSelector,
    Registration, Service, UserContext, WorkloadClass, WorkloadId,
};

/// Accounts with this prefix in the system namespace belong to Signet itself.
const RESERVED_PREFIX: &str = "signet-";

/// Collects errors beside where each resource came from.
struct Check<'a> {
    registry: &'a Registry,
    origins: &'a Origins,
    options: &'a Options,
    errors: Vec<Found>,
}

/// A mistake, and whose it is.
pub(crate) struct Found {
    pub(crate) offer: Option<usize>,
    pub(crate) error: RegistryError,
}

#[derive(Default)]
struct Origins {
    workloads: BTreeMap<ObjectName, Origin>,
    services: BTreeMap<ObjectName, Origin>,
    external: BTreeMap<ObjectName, Origin>,
    issuers: BTreeMap<Label, Origin>,
    federated: BTreeMap<Label, Origin>,
    gateways: BTreeMap<ObjectName, Origin>,
    policies: BTreeMap<ObjectName, Origin>,
    guard_rails: BTreeMap<Label, Origin>,
    registrations: BTreeMap<Label, Origin>,
    traffic: BTreeMap<ObjectName, Origin>,
    providers: BTreeMap<ObjectName, Origin>,
    exchanges: BTreeMap<Label, Origin>,
    routes: BTreeMap<(&'static str, ObjectName), Origin>,
    grants: BTreeMap<ObjectName, Origin>,
}

pub(crate) fn assemble(
    resources: impl Iterator<Item = (Origin, Resource)>,
    options: &Options,
) -> Result<Registry, RegistryErrors> {
    let (registry, found) = put_together(resources, options);
    if found.is_empty() {
        Ok(registry)
    } else {
        Err(RegistryErrors(found.into_iter().map(|found| found.error).collect()))
    }
}

/// All of it in one, and everything that does not fit.
pub(crate) fn put_together(
    resources: impl Iterator<Item = (Origin, Resource)>,
    options: &Options,
) -> (Registry, Vec<Found>) {
    let mut registry = Registry::default();
    let mut origins = Origins::default();
    let mut mesh_origin: Option<Origin> = None;
    let mut errors = Vec::new();
    for (origin, resource) in resources {
        let errors = &mut errors;
        match resource {
            Resource::Mesh(mesh) => match &mesh_origin {
                Some(first) => errors.push(duplicate(&origin, "Mesh", &mesh.name, first)),
                None => {
                    registry.mesh = mesh;
                    mesh_origin = Some(origin);
                }
            },
            Resource::Workload(object) => {
                if admit(&mut origins.workloads, &object.name, origin, "Workload", errors) {
                    registry.workloads.insert(object.name.clone(), object);
                }
            }
            Resource::Service(object) => {
                if admit(&mut origins.services, &object.name, origin, "Service", errors) {
                    registry.services.insert(object.name.clone(), object);
                }
            }
            Resource::ExternalService(object) => {
                if admit(&mut origins.external, &object.name, origin, "ExternalService", errors) {
                    registry.external.insert(object.name.clone(), object);
                }
            }
            Resource::Issuer(object) => {
                if admit(&mut origins.issuers, &object.name, origin, "Issuer", errors) {
                    registry.issuers.insert(object.name.clone(), object);
                }
            }
            Resource::FederatedTrustDomain(object) => {
                if admit(&mut origins.federated, &object.name, origin, "FederatedTrustDomain", errors) {
                    registry.federated.insert(object.name.clone(), object);
                }
            }
            Resource::Gateway(object) => {
                if admit(&mut origins.gateways, &object.name, origin, "Gateway", errors) {
                    registry.gateways.insert(object.name.clone(), object);
                }
            }
            Resource::MeshPolicy(object) => {
                if admit(&mut origins.policies, &object.name, origin, "MeshPolicy", errors) {
                    registry.policies.insert(object.name.clone(), object);
                }
            }
            Resource::GuardRail(object) => {
                if admit(&mut origins.guard_rails, &object.name, origin, "GuardRail", errors) {
                    registry.guard_rails.insert(object.name.clone(), object);
                }
            }
            Resource::Registration(object) => {
                if admit(&mut origins.registrations, &object.name, origin, "Registration", errors) {
                    registry.registrations.insert(object.name.clone(), object);
                }
            }
            Resource::TrafficPolicy(object) => {
                if admit(&mut origins.traffic, &object.name, origin, "TrafficPolicy", errors) {
                    registry.traffic.insert(object.name.clone(), object);
                }
            }
            Resource::ReferenceGrant(object) => {
                if admit(&mut origins.grants, &object.name, origin, "ReferenceGrant", errors) {
                    registry.grants.insert(object.name.clone(), object);
                }
            }
            Resource::AuthorizationProvider(object) => {
                if admit(&mut origins.providers, &object.name, origin, "AuthorizationProvider", errors) {
                    registry.providers.insert(object.name.clone(), object);
                }
            }
            Resource::TokenExchange(object) => {
                if admit(&mut origins.exchanges, &object.name, origin, "TokenExchange", errors) {
                    registry.exchanges.insert(object.name.clone(), object);
                }
            }
            Resource::Route(route) => {
                let key = (route.kind(), route.name().clone());
                match origins.routes.entry(key.clone()) {
                    Entry::Occupied(first) => {
                        errors.push(duplicate(&origin, key.0, &key.1, first.get()));
                    }
                    Entry::Vacant(place) => {
                        if !origin.created.is_empty() {
                            registry.ages.insert(key.clone(), origin.created.clone());
                        }
                        place.insert(origin);
                        registry.routes.insert(key, route);
                    }
                }
            }
        }
    }
    let mut check = Check { registry: &registry, origins: &origins, options, errors };
    check.workloads();
    check.services();
    check.external();
    check.issuers();
    check.federated();
    check.gateways();
    check.policies();
    check.guard_rails();
    check.registrations();
    check.traffic();
    check.providers();
    check.exchanges();
    check.routes();
    check.streams();
    let found = check.errors;
    (registry, found)
}

fn admit<K: Ord + Clone + Display>(
    origins: &mut BTreeMap<K, Origin>,
    name: &K,
    origin: Origin,
    kind: &str,
    errors: &mut Vec<Found>,
) -> bool {
    match origins.entry(name.clone()) {
        Entry::Occupied(first) => {
            errors.push(duplicate(&origin, kind, name, first.get()));
            false
        }
        Entry::Vacant(place) => {
            place.insert(origin);
            true
        }
    }
}

fn duplicate(origin: &Origin, kind: &str, name: &dyn Display, first: &Origin) -> Found {
    origin.found(
        "metadata.name",
        format!("expected one {kind} `{name}`, got a second one; the first is in {}", first.place()),
    )
}

/// The oldest first, then by name: of two that claim the same it is the later one that is wrong. Files have no age.
fn by_age<'r, S>(
    objects: impl Iterator<Item = &'r Namespaced<S>>,
    origins: &BTreeMap<ObjectName, Origin>,
) -> Vec<&'r Namespaced<S>> {
    let mut all: Vec<_> = objects.collect();
    let created = |object: &Namespaced<S>| origins.get(&object.name).map(|origin| origin.created.as_str());
    all.sort_by(|one, two| (created(one), &one.name).cmp(&(created(two), &two.name)));
    all
}

impl Check<'_> {
    /// `origins` has every object of the registry; an error without its place is still an error.
    fn add<K: Ord>(
        &mut self,
        origins: &BTreeMap<K, Origin>,
        name: &K,
        field: impl Into<String>,
        reason: impl Into<String>,
    ) {
        let found = match origins.get(name) {
            Some(origin) => origin.found(field, reason),
            None => Origin::new("").found(field, reason),
        };
        self.errors.push(found);
    }

    fn is_reserved(&self, id: &WorkloadId) -> bool {
        id.namespace == self.options.system_namespace && id.account.as_str().starts_with(RESERVED_PREFIX)
    }

    fn workloads(&mut self) {
        for workload in self.registry.workloads() {
            let id = workload.name.workload();
            if self.is_reserved(&id) {
                self.add(&self.origins.workloads, &workload.name, "metadata.name", reserved(&id));
            }
        }
    }

    fn services(&mut self) {
        let mut dialled: BTreeMap<_, &ObjectName> = BTreeMap::new();
        let services = by_age(self.registry.services(), &self.origins.services);
        for service in &services {
            self.service_identities(service);
            for (index, address) in service.spec.addresses.iter().enumerate() {
                for port in &service.spec.ports {
                    let Some(other) = dialled.insert((*address, port.port), &service.name) else { continue };
                    if *other == service.name {
                        continue; // the address stands twice, which the service's own check has said
                    }
                    let reason = format!(
                        "expected an address and port that no other service has, got {address} port {}, which is also \
                         `{other}`'s",
                        port.port
                    );
                    self.add(
                        &self.origins.services,
                        &service.name,
                        format!("spec.addresses[{index}]"),
                        reason,
                    );
                }
            }
        }
        for service in services {
            self.endpoints_dialled(service, &mut dialled);
            self.permissive_ports(service);
        }
    }

    /// A port lets callers in without the mesh only where no policy asks who they are (`ServiceSpec::check` has the rest).
    fn permissive_ports(&mut self, service: &Service) {
        let ports = service.spec.ports.iter().enumerate();
        for (index, port) in ports.filter(|(_, port)| port.permissive.is_some()) {
            for document in self.registry.governing(&service.name) {
                let kind = match &document {
                    PolicyDocument::Policy(_) => "MeshPolicy",
                    PolicyDocument::GuardRail(_) => "GuardRail",
                };
                let name = document.reported_name();
                let name = name.strip_prefix("guard-rail/").unwrap_or(&name);
                let spec = document.into_spec();
                let Some(field) = spec.and_then(|spec| spec.asks_on(port.name.as_str())) else { continue };
                let reason = format!(
                    "expected a port on which no policy asks who calls, got `{}`, of which {kind} `{name}` does by {field}: a \
                     caller in plaintext is nobody. Take one of the two away",
                    port.name
                );
                self.add(
                    &self.origins.services,
                    &service.name,
                    format!("spec.ports[{index}].permissive"),
                    reason,
                );
            }
        }
    }

    /// An app may dial an endpoint's own address, and the port alone says which service it means. On a loopback address
    /// nobody else's app dials anything.
    fn endpoints_dialled<'a>(
        &mut self,
        service: &'a Service,
        dialled: &mut BTreeMap<(HostAddress, Port), &'a ObjectName>,
    ) {
        let endpoints = service.spec.endpoints.iter().enumerate();
        let endpoints = endpoints.filter(|(_, endpoint)| endpoint.through_gateway.is_none());
        for (index, endpoint) in endpoints.filter(|(_, endpoint)| !endpoint.address.get().is_loopback()) {
            for name in endpoint.ports.keys() {
                let Some(port) = service.port(name.as_str()) else { continue };
                let other = *dialled.entry((endpoint.address, port.port)).or_insert(&service.name);
                if *other == service.name {
                    continue;
                }
                let reason = format!(
                    "expected a port that callers dial at {} for no other service, got {}, which is also `{other}`'s: an \
                     app that dials the endpoint could mean either",
                    endpoint.address, port.port
                );
                self.add(
                    &self.origins.services,
                    &service.name,
                    format!("spec.endpoints[{index}].ports.{name}"),
                    reason,
                );
            }
        }
    }

    fn service_identities(&mut self, service: &Service) {
        if let Some(id) = &service.spec.federated_identity
            && !self.is_federated(id.trust_domain())
        {
            let reason = not_federated(id.trust_domain());
            self.add(&self.origins.services, &service.name, "spec.federatedIdentity", reason);
        }
        let is_explicit = service.spec.identities.is_some();
        for (index, id) in service.identities().iter().enumerate() {
            let field =
                if is_explicit { format!("spec.identities[{index}]") } else { "spec.identities".to_owned() };
            if self.is_reserved(id) {
                self.add(&self.origins.services, &service.name, field, reserved(id));
            } else if self.registry.workload(id).is_none()
                && (is_explicit || !service.spec.endpoints.is_empty())
            {
                let reason = format!(
                    "expected an identity that may join, got `{id}`: add a Workload `{}` in namespace `{}`{}",
                    id.account,
                    id.namespace,
                    if is_explicit { "" } else { ", or list the identities that serve" }
                );
                self.add(&self.origins.services, &service.name, field, reason);
            }
        }
    }

    fn issuers(&mut self) {
        let mut seen: BTreeMap<&str, &Label> = BTreeMap::new();
        for issuer in self.registry.issuers() {
            let IssuerSpec { issuer: iss, .. } = &issuer.spec;
            if let Some(other) = seen.insert(iss.as_str(), &issuer.name) {
                let reason = format!(
                    "expected an issuer that no other Issuer has, got `{iss}`, which is also `{other}`'s"
                );
                self.add(&self.origins.issuers, &issuer.name, "spec.issuer", reason);
            }
        }
    }

    fn is_federated(&self, domain: &TrustDomain) -> bool {
        self.registry.federated().any(|object| object.spec.trust_domain == *domain)
    }

    fn federated(&mut self) {
        let mut seen: BTreeMap<&TrustDomain, &Label> = BTreeMap::new();
        for object in self.registry.federated() {
            let domain = &object.spec.trust_domain;
            let reason = if self.options.trust_domain.as_ref() == Some(domain) {
                format!("expected another trust domain than the mesh's own, got `{domain}`")
            } else if let Some(other) = seen.insert(domain, &object.name) {
                format!(
                    "expected a trust domain that no other FederatedTrustDomain has, got `{domain}`, which is also \
                     `{other}`'s"
                )
            } else {
                continue;
            };
            self.add(&self.origins.federated, &object.name, "spec.trustDomain", reason);
        }
    }

    fn gateways(&mut self) {
        for gateway in self.registry.gateways() {
            let id = &gateway.spec.identity;
            match self.registry.workload(id) {
                _ if self.is_reserved(id) => {
                    self.add(&self.origins.gateways, &gateway.name, "spec.identity", reserved(id));
                }
                Some(workload) if workload.spec.class == WorkloadClass::Gateway => {}
                Some(_) => {
                    let reason = format!(
                        "expected a Workload of class gateway, got `{id}`, which is of class sidecar"
                    );
                    self.add(&self.origins.gateways, &gateway.name, "spec.identity", reason);
                }
                None => {
                    let reason = format!(
                        "expected a Workload of class gateway, got `{id}`, for which there is no Workload"
                    );
                    self.add(&self.origins.gateways, &gateway.name, "spec.identity", reason);
                }
            }
            self.gateway_routes(gateway);
            self.gateway_east_west(gateway);
        }
    }

    /// A gateway passes on to sidecars of this cluster and to nothing else, so that no hello goes round in circles.
    fn gateway_east_west(&mut self, gateway: &Gateway) {
        let listed = gateway.spec.east_west.iter().flat_map(|east_west| &east_west.services).enumerate();
        for (index, name) in listed {
            let reason = match self.registry.service(name) {
                None => format!("expected a service of the registry, got `{name}`"),
                Some(service) if service.spec.federated_identity.is_some() => {
                    format!("expected a service of this mesh, got `{name}`, which is federated")
                }
                Some(service) if service.is_elsewhere() => {
                    format!(
                        "expected a service with endpoints of this cluster, got `{name}`, which is behind a gateway itself"
                    )
                }
                Some(_) => continue,
            };
            let field = format!("spec.eastWest.services[{index}]");
            self.add(&self.origins.gateways, &gateway.name, field, reason);
        }
    }

    fn gateway_routes(&mut self, gateway: &Gateway) {
        let registry = self.registry;
        for (index, route) in gateway.spec.routes.iter().enumerate() {
            let mut add = |field: &str, reason: String| {
                self.add(
                    &self.origins.gateways,
                    &gateway.name,
                    format!("spec.routes[{index}].{field}"),
                    reason,
                );
            };
            match registry.service(&route.service) {
                None => {
                    add("service", format!("expected a service of the registry, got `{}`", route.service))
                }
                // A gateway speaks for users, and nobody of another trust domain hears of them.
                Some(service) if service.spec.federated_identity.is_some() => add(
                    "service",
                    format!("expected a service of this mesh, got `{}`, which is federated", route.service),
                ),
                Some(service) => match service.port(route.port.as_str()) {
                    None => add(
                        "port",
                        format!("expected the name of a port of `{}`, got `{}`", route.service, route.port),
                    ),
                    Some(port) if !port.protocol.is_http() => add(
                        "port",
                        format!("expected a port that speaks HTTP, got `{}`, which is tcp", route.port),
                    ),
                    Some(_) => {}
                },
            }
            if route.forward_credential == ForwardCredential::Original {
                for service in registry.leads_from(&route.service, &gateway.name.namespace) {
                    if service.spec.user_context != UserContext::Original {
                        add(
                            "forwardCredential",
                            format!(
                                "expected services that ask for the original (userContext: original), got `{}`, which does not",
                                service.name
                            ),
                        );
                    }
                }
            }
            let Some(jwt) = &route.auth.jwt else { continue };
            for (at, alias) in jwt.issuers.iter().enumerate() {
                let Some(issuer) = registry.issuer(alias.as_str()) else {
                    add(
                        &format!("auth.jwt.issuers[{at}]"),
                        format!("expected the name of an Issuer, got `{alias}`"),
                    );
                    continue;
                };
                for (at, claim) in route.txn.claims.iter().enumerate() {
                    if !issuer.spec.claims.contains(claim) {
                        add(
                            &format!("txn.claims[{at}]"),
                            format!(
                                "expected a claim that Issuer `{alias}` lists under spec.claims, got `{claim}`"
                            ),
                        );
                    }
                }
            }
        }
    }

    fn registrations(&mut self) {
        let mut earlier: Vec<&Registration> = Vec::new();
        for entry in self.registry.registrations() {
            let id = &entry.spec.identity;
            if self.is_reserved(id) {
                self.add(&self.origins.registrations, &entry.name, "spec.identity", reserved(id));
            } else if self.registry.workload(id).is_none() {
                let reason = format!(
                    "expected an identity that may join, got `{id}`: add a Workload `{}` in namespace `{}`",
                    id.account, id.namespace
                );
                self.add(&self.origins.registrations, &entry.name, "spec.identity", reason);
            }
            if let Some(processes) = &entry.spec.unix {
                self.processes(entry, processes);
            }
            let Some(pods) = &entry.spec.kubernetes else { continue };
            if pods.namespace == self.options.system_namespace {
                let reason = format!(
                    "expected a namespace other than the control plane's own, got `{}`: its pods get no identity \
                     by attestation",
                    pods.namespace
                );
                self.add(&self.origins.registrations, &entry.name, "spec.kubernetes.namespace", reason);
            }
            if let Some(other) = earlier
                .iter()
                .find(|other| other.spec.kubernetes.as_ref().is_some_and(|other| pods.ties_with(other)))
            {
                let reason = format!(
                    "expected pods that no other Registration takes as closely, but a pod could be meant by this \
                     one and by `{}`: ask for one more label here or there",
                    other.name
                );
                self.add(&self.origins.registrations, &entry.name, "spec.kubernetes", reason);
            }
            earlier.push(entry);
        }
    }

    /// What an entry for processes needs beside itself: agents that are agents, an identity that apps may hold.
    fn processes(&mut self, entry: &Registration, processes: &ProcessSelector) {
        for (index, agent) in processes.agents.iter().enumerate() {
            let class = self.registry.workload(agent).map(|listed| listed.spec.class);
            if class != Some(WorkloadClass::Agent) {
                let reason = format!(
                    "expected an agent, got `{agent}`: add a Workload `{}` of class agent in namespace `{}`",
                    agent.account, agent.namespace
                );
                self.add(
                    &self.origins.registrations,
                    &entry.name,
                    format!("spec.unix.agents[{index}]"),
                    reason,
                );
            }
        }
        let id = &entry.spec.identity;
        if self.registry.workload(id).is_some_and(|listed| !listed.spec.workload_api) {
            let reason = format!(
                "expected an identity that apps may hold, got `{id}`: set `workloadApi: true` in its Workload"
            );
            self.add(&self.origins.registrations, &entry.name, "spec.identity", reason);
        }
    }
}

fn not_federated(domain: &TrustDomain) -> String {
    format!(
        "expected an identity of a federated trust domain: there is no FederatedTrustDomain of `{domain}`"
    )
}

fn reserved(id: &WorkloadId) -> String {
    format!("`{id}` is reserved: accounts `{RESERVED_PREFIX}*` of the system namespace are Signet's own")
}
