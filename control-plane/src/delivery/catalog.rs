//! Everything that could be sent to anybody, made once per state of the world, and who may have what.
//!
//! A resource is encoded and digested once, however many sidecars are sent it. [`Catalog::view`] is the
//! whole authorisation of delivery: a pure function of the peer's identity and class, of what it asked
//! for, and of the registry. A peer's own words choose *among* what its identity may have, never more.
//!
//! The bundle of a federated trust domain goes to those who can use it and to nobody else: who serves a service
//! that a policy permits somebody of that domain to call, and who dials a service that is served there. An agent hands
//! them on to its processes, which ask for nothing by name: it is given what any identity that it vouches for could use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use prost::Message;
use signet_identity::{PeerClass, TrustDomain};
use signet_model::{
    AnyRoute, Effect, ExternalService, Gateway, Label, MeshPolicy, ObjectName, Registry, UserContext,
    WorkloadClass, WorkloadId, WorkloadPattern,
};
use signet_proto::v1::{self, resource::Body};

use super::convert;
use super::session::View;
use crate::federation::Federated;
use crate::issuers::Keys;
use crate::world::AuthorityState;

/// Services and addresses that one peer may ask for.
pub const MAX_SUBSCRIPTIONS: usize = 4_096;

/// A resource and the digest of its content.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned {
    pub name: String,
    pub version: String,
    pub resource: v1::Resource,
}

/// What one peer asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscriptions {
    /// Services that it dials.
    pub dials: BTreeSet<String>,
    /// Services that it serves.
    pub serves: BTreeSet<String>,
    /// Addresses that it dials without knowing their service: virtual ones, or those of endpoints.
    pub addresses: BTreeSet<IpAddr>,
}

impl Subscriptions {
    #[must_use]
    pub fn len(&self) -> usize {
        self.dials.len().saturating_add(self.serves.len()).saturating_add(self.addresses.len())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a subscription is not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotGranted {
    UnknownService,
    NotServedByPeer,
    UnknownAddress,
    NotListed,
}

impl NotGranted {
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownService => "unknown_service",
            Self::NotServedByPeer => "not_served_by_peer",
            Self::UnknownAddress => "unknown_address",
            Self::NotListed => "not_listed",
        }
    }

    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::UnknownService => "no such service in the registry",
            Self::NotServedByPeer => {
                "the service does not list this identity: add it to spec.identities to let it serve"
            }
            Self::UnknownAddress => "no service in the registry has this address, nor an endpoint there",
            Self::NotListed => {
                "the ExternalService does not list this identity: add it to spec.from to let it call"
            }
        }
    }
}

/// In place of a name among what a workload serves: every service that lists its identity.
const EVERY: &str = "*";

/// What a peer may have, and what it asked for in vain.
#[derive(Debug, Default)]
pub struct Granted {
    pub view: View,
    pub refused: BTreeSet<(String, NotGranted)>,
}

/// Everything that could be sent.
#[derive(Debug)]
pub struct Catalog {
    /// For everybody.
    common: Vec<Arc<Versioned>>,
    issuers: BTreeMap<String, Arc<Versioned>>,
    services: BTreeMap<String, ServiceEntry>,
    /// The services that list each identity.
    listing: BTreeMap<WorkloadId, Vec<String>>,
    /// The services behind each address that an app may dial: its own, or that of an endpoint of theirs.
    by_address: convert::ByAddress,
    /// Bundles of federated trust domains.
    federated: BTreeMap<TrustDomain, Arc<Versioned>>,
    gateways: Vec<GatewayEntry>,
    external: Vec<ExternalEntry>,
    /// Whose apps may have certificates of their own, and how it is said.
    apps: BTreeSet<WorkloadId>,
    app: Arc<Versioned>,
    /// For apps and processes that verify by themselves: to whoever serves them.
    lists: Arc<Versioned>,
    /// What each agent may vouch for, by the agent.
    agents: BTreeMap<WorkloadId, AgentEntry>,
}

#[derive(Debug)]
struct AgentEntry {
    processes: Arc<Versioned>,
    /// Trust domains with which its processes may have to do.
    partners: BTreeSet<TrustDomain>,
}

#[derive(Debug)]
struct ServiceEntry {
    service: Arc<Versioned>,
    /// By the caller's namespace; under none, for callers of every other one.
    routes: BTreeMap<Option<Label>, RoutesEntry>,
    inbound: Arc<Versioned>,
    identities: BTreeSet<WorkloadId>,
    original: bool,
    /// Whose workloads a policy permits here.
    callers: BTreeSet<TrustDomain>,
    /// Whose workload answers, where it is none of this mesh.
    answers: Option<TrustDomain>,
    /// Who is asked about requests to it, and the services of the mesh that answer.
    providers: Vec<(Arc<Versioned>, Option<String>)>,
}

/// Where requests to a service go, and every service that is named there.
#[derive(Debug)]
struct RoutesEntry {
    routes: Arc<Versioned>,
    services: BTreeSet<String>,
}

#[derive(Debug)]
struct GatewayEntry {
    config: Arc<Versioned>,
    identity: WorkloadId,
    services: BTreeSet<String>,
    issuers: BTreeSet<String>,
}

/// A place outside the mesh.
#[derive(Debug)]
struct ExternalEntry {
    service: ExternalService,
    /// For those who may call it.
    called: Option<Arc<Versioned>>,
    /// For the egress gateways that call it for them, if it goes through one.
    dialled: Arc<Versioned>,
    gateways: BTreeSet<WorkloadId>,
}

impl Catalog {
    #[must_use]
    pub fn build(
        dev: bool,
        registry: &Registry,
        keys: &Keys,
        federated: &Federated,
        authority: &AuthorityState,
    ) -> Self {
        let trust_domain = &authority.trust_domain;
        let common = vec![
            versioned("mesh".into(), Body::Mesh(convert::mesh(trust_domain, registry, dev))),
            versioned(format!("bundle/{trust_domain}"), Body::Bundle(convert::bundle(authority))),
            versioned("revocations".into(), Body::Revocations(convert::revocations(authority))),
            versioned("token-roots".into(), Body::TokenRoots(convert::token_roots(authority))),
        ];
        let issuers: BTreeMap<String, Arc<Versioned>> = registry
            .issuers()
            .map(|issuer| {
                let alias = issuer.name.to_string();
                let body = Body::Issuer(convert::issuer(issuer, keys.get(&alias)));
                (alias.clone(), versioned(format!("issuer/{alias}"), body))
            })
            .collect();
        let mut by_address = convert::ByAddress::new();
        for service in registry.services() {
            for address in service.dialled_at() {
                by_address.entry(address).or_default().insert(service.name.to_string());
            }
        }
        let mut services = BTreeMap::new();
        for service in registry.services() {
            let name = service.name.to_string();
            let policies = registry.governing(&service.name);
            let traffic: Vec<_> = registry.traffic_for(&service.name).collect();
            let original = service.spec.user_context == UserContext::Original;
            let aliases = if original { issuers.keys().cloned().collect() } else { Vec::new() };
            let entry = ServiceEntry {
                service: versioned(
                    format!("service/{name}"),
                    Body::Service(convert::service(trust_domain, service, &policies, &traffic, &by_address)),
                ),
                routes: routes_of(registry, &service.name),
                inbound: versioned(
                    format!("inbound/{name}"),
                    Body::Inbound(convert::inbound(
                        service,
                        &policies,
                        &traffic,
                        aliases,
                        registry.mesh().spec.decision_samples,
                    )),
                ),
                identities: service.identities().iter().cloned().collect(),
                original,
                callers: registry.policies_for(&service.name).flat_map(permitted).cloned().collect(),
                answers: service.spec.federated_identity.as_ref().map(|id| id.trust_domain().clone()),
                providers: providers_of(registry, &service.name),
            };
            services.insert(name, entry);
        }
        let mut listing: BTreeMap<WorkloadId, Vec<String>> = BTreeMap::new();
        for (name, entry) in &services {
            for identity in &entry.identities {
                listing.entry(identity.clone()).or_default().push(name.clone());
            }
        }
        let federated = federated
            .iter()
            .filter_map(|(domain, state)| {
                let bundle = convert::federated(domain, state.held.as_deref()?)?;
                Some((domain.clone(), versioned(format!("bundle/{domain}"), Body::Bundle(bundle))))
            })
            .collect();
        let gateways = registry
            .gateways()
            .map(|gateway| GatewayEntry {
                config: versioned(
                    format!("gateway/{}", gateway.name),
                    Body::Gateway(convert::gateway(registry, gateway)),
                ),
                identity: gateway.spec.identity.clone(),
                services: gateway
                    .spec
                    .leads_to()
                    .map(ToString::to_string)
                    .chain(attached(registry, gateway))
                    .collect(),
                issuers: gateway
                    .spec
                    .routes
                    .iter()
                    .filter_map(|r| r.auth.jwt.as_ref())
                    .flat_map(|jwt| jwt.issuers.iter().map(ToString::to_string))
                    .collect(),
            })
            .collect();
        let external = registry.external_services().map(|service| {
            let name = format!("external/{}", service.name);
            let through = service.spec.through.as_ref().and_then(|it| registry.service(&it.service));
            let called = convert::external(trust_domain, registry, service);
            ExternalEntry {
                service: service.clone(),
                called: called.map(|body| versioned(name.clone(), Body::External(body))),
                dialled: versioned(name, Body::External(convert::external_of_gateway(service))),
                gateways: through.map(|it| it.identities().iter().cloned().collect()).unwrap_or_default(),
            }
        });
        let external = external.collect();
        let apps = registry.workloads().filter(|workload| workload.spec.workload_api);
        let apps = apps.map(|workload| workload.name.workload()).collect();
        let app = versioned("workload".into(), Body::Workload(v1::WorkloadApi {}));
        let lists = Body::RevocationLists(convert::revocation_lists(authority));
        let lists = versioned("revocation-lists".into(), lists);
        let agents = registry.workloads().filter(|workload| workload.spec.class == WorkloadClass::Agent);
        let agents = agents
            .map(|agent| {
                let agent = agent.name.workload();
                let body = Body::Processes(convert::processes(registry, &agent));
                let partners = partners(registry, &agent, &services);
                (agent, AgentEntry { processes: versioned("processes".into(), body), partners })
            })
            .collect();
        Self {
            common,
            issuers,
            services,
            listing,
            by_address,
            federated,
            gateways,
            external,
            apps,
            app,
            lists,
            agents,
        }
    }

    /// What a peer of this identity and class may have of what it asked for.
    #[must_use]
    pub fn view(&self, peer: &WorkloadId, class: PeerClass, asked: &Subscriptions) -> Granted {
        let mut granted = Granted::default();
        for resource in &self.common {
            granted.add(resource);
        }
        if self.apps.contains(peer) {
            granted.add(&self.app);
            granted.add(&self.lists);
        }
        if class == PeerClass::Agent
            && let Some(agent) = self.agents.get(peer)
        {
            granted.add(&agent.processes);
            granted.add(&self.lists);
            agent
                .partners
                .iter()
                .filter_map(|domain| self.federated.get(domain))
                .for_each(|bundle| granted.add(bundle));
        }
        for name in &asked.dials {
            match self.services.get(name) {
                Some(entry) => self.dialled(&mut granted, entry, &peer.namespace),
                // Places outside are told of without being asked for.
                None => match self.lists(peer, name) {
                    Some(true) => {}
                    Some(false) => granted.refuse(name.clone(), NotGranted::NotListed),
                    None => granted.refuse(name.clone(), NotGranted::UnknownService),
                },
            }
        }
        for address in &asked.addresses {
            match self.by_address.get(address) {
                // The port decides between them, which the peer knows and we do not.
                Some(names) => {
                    let entries = names.iter().filter_map(|name| self.services.get(name));
                    entries.for_each(|entry| self.dialled(&mut granted, entry, &peer.namespace));
                }
                None => granted.refuse(address.to_string(), NotGranted::UnknownAddress),
            }
        }
        for name in &asked.serves {
            if name == EVERY {
                let names = self.listing.get(peer).into_iter().flatten();
                let entries = names.filter_map(|name| self.services.get(name));
                entries.for_each(|entry| self.served(&mut granted, entry, &peer.namespace));
                continue;
            }
            match self.services.get(name) {
                None => granted.refuse(name.clone(), NotGranted::UnknownService),
                Some(entry) if !entry.identities.contains(peer) => {
                    granted.refuse(name.clone(), NotGranted::NotServedByPeer);
                }
                Some(entry) => self.served(&mut granted, entry, &peer.namespace),
            }
        }
        if class == PeerClass::Gateway || class == PeerClass::Sidecar {
            self.outside(&mut granted, peer, class);
        }
        if class == PeerClass::Gateway {
            for gateway in self.gateways.iter().filter(|g| g.identity == *peer) {
                granted.add(&gateway.config);
                // What it leads to is what it dials and whom it verifies; it need not ask.
                let services = gateway.services.iter().filter_map(|name| self.services.get(name));
                services.for_each(|entry| self.dialled(&mut granted, entry, &peer.namespace));
                let issuers = gateway.issuers.iter().filter_map(|alias| self.issuers.get(alias));
                issuers.for_each(|issuer| granted.add(issuer));
            }
        }
        granted
    }

    /// What it takes to serve a service: by its endpoints a redirected connection is told what it is for. With it comes
    /// what its own callers have, so that an app's call to its own service goes where those of others go.
    fn served(&self, granted: &mut Granted, entry: &ServiceEntry, namespace: &Label) {
        granted.add(&entry.inbound);
        self.dialled(granted, entry, namespace);
        entry
            .callers
            .iter()
            .filter_map(|domain| self.federated.get(domain))
            .for_each(|bundle| granted.add(bundle));
        for (provider, answers) in &entry.providers {
            granted.add(provider);
            let answers = answers.as_ref().and_then(|name| self.services.get(name));
            answers.into_iter().for_each(|entry| self.reached(granted, entry));
        }
        if entry.original {
            self.issuers.values().for_each(|issuer| granted.add(issuer));
        }
    }

    /// What it takes to call a service from this namespace: the service, where its requests go, and whatever is named
    /// there.
    fn dialled(&self, granted: &mut Granted, entry: &ServiceEntry, caller: &Label) {
        self.reached(granted, entry);
        let routes = entry.routes.get(&Some(caller.clone())).or_else(|| entry.routes.get(&None));
        if let Some(RoutesEntry { routes, services }) = routes {
            granted.add(routes);
            let services = services.iter().filter_map(|name| self.services.get(name));
            services.for_each(|entry| self.reached(granted, entry));
        }
    }

    /// Whether the peer may call the place outside of this name; `None` where there is none.
    fn lists(&self, peer: &WorkloadId, name: &str) -> Option<bool> {
        let entry = self.external.iter().find(|entry| entry.service.name.to_string() == name)?;
        Some(entry.service.lets(peer))
    }

    /// The places outside that this peer may call, or that it calls for others.
    fn outside(&self, granted: &mut Granted, peer: &WorkloadId, class: PeerClass) {
        for entry in &self.external {
            if class == PeerClass::Gateway && entry.gateways.contains(peer) {
                granted.add(&entry.dialled);
            } else if let Some(called) = entry.called.as_ref().filter(|_| entry.service.lets(peer)) {
                granted.add(called);
            }
        }
    }

    /// What it takes to reach a service's endpoints.
    fn reached(&self, granted: &mut Granted, entry: &ServiceEntry) {
        granted.add(&entry.service);
        if let Some(bundle) = entry.answers.as_ref().and_then(|domain| self.federated.get(domain)) {
            granted.add(bundle);
        }
    }
}

/// The services to which routes send what comes in at a gateway's listeners.
fn attached<'a>(registry: &'a Registry, gateway: &'a Gateway) -> impl Iterator<Item = String> + 'a {
    let routes = registry.routes_of_gateway(&gateway.name);
    routes.flat_map(|route| led_to(registry, route))
}

/// The services to which a route really leads: of those to which it may not refer nobody is told for its sake.
fn led_to<'a>(registry: &'a Registry, route: &'a AnyRoute) -> impl Iterator<Item = String> + 'a {
    let named = route.backends().into_iter().map(|(_, service, _)| service);
    named.filter(|service| registry.lets_refer(route, service)).map(|service| service.to_string())
}

/// The routes of a service, for callers of its own and of all other namespaces, and for those that have their own.
fn routes_of(registry: &Registry, service: &ObjectName) -> BTreeMap<Option<Label>, RoutesEntry> {
    let namespaces: BTreeSet<&Label> =
        registry.routes().filter(|route| route.is_of(service)).map(|route| &route.name().namespace).collect();
    let entry = |namespace: &Label| {
        let routes = registry.routes_for(service, namespace);
        let services = routes.iter().flat_map(|route| led_to(registry, route)).collect();
        let body = Body::Routes(convert::routes(registry, service, &routes));
        RoutesEntry { routes: versioned(format!("routes/{service}"), body), services }
    };
    namespaces
        .into_iter()
        .map(|namespace| {
            let key = (*namespace != service.namespace).then(|| namespace.clone());
            (key, entry(namespace))
        })
        .collect()
}

/// Who is asked about requests to a service.
fn providers_of(registry: &Registry, service: &ObjectName) -> Vec<(Arc<Versioned>, Option<String>)> {
    let each = registry.providers_of(service).map(|provider| {
        let body = Body::Provider(convert::provider(provider));
        let answers = provider.spec.service.as_ref().map(ToString::to_string);
        (versioned(format!("provider/{}", provider.name), body), answers)
    });
    each.collect()
}

/// The federated trust domains with which the processes of an agent may have to do: those whose workloads a policy
/// permits at a service of theirs, and, as soon as there is one process, those where a service is served that it may dial.
fn partners(
    registry: &Registry,
    agent: &WorkloadId,
    services: &BTreeMap<String, ServiceEntry>,
) -> BTreeSet<TrustDomain> {
    let identities: BTreeSet<_> =
        registry.vouched_by(agent).map(|(entry, _)| entry.spec.identity.clone()).collect();
    let served = services.values().filter(|service| !service.identities.is_disjoint(&identities));
    let callers = served.flat_map(|service| &service.callers);
    let answers = services.values().filter_map(|service| service.answers.as_ref());
    callers.chain(answers.filter(|_| !identities.is_empty())).cloned().collect()
}

/// The federated trust domains of which this policy permits somebody. One that only forbids lets nobody in, so
/// that it needs no bundle; a shadow permit does, since it is a trial of letting in.
fn permitted(policy: &MeshPolicy) -> impl Iterator<Item = &TrustDomain> {
    let from = policy.spec.from.iter().filter(|_| policy.spec.effect == Effect::Permit);
    from.flat_map(|from| from.workloads.iter().filter_map(WorkloadPattern::federated_domain))
}

impl Granted {
    fn add(&mut self, resource: &Arc<Versioned>) {
        self.view.insert(resource.name.clone(), Arc::clone(resource));
    }

    fn refuse(&mut self, name: String, why: NotGranted) {
        self.refused.insert((name, why));
    }
}

/// 128 bits of SHA-256 over the encoding, hex: the same content has the same version in every replica.
fn versioned(name: String, body: Body) -> Arc<Versioned> {
    let mut resource = v1::Resource { name: name.clone(), version: String::new(), body: Some(body) };
    let digest = ring::digest::digest(&ring::digest::SHA256, &resource.encode_to_vec());
    let version: String = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    resource.version.clone_from(&version);
    Arc::new(Versioned { name, version, resource })
}

#[cfg(test)]
mod tests;
