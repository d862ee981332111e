//! Every resource of the mesh, valid as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::check::{self, Found};
use crate::decode::Lines;
use crate::error::{RegistryError, RegistryErrors};
use crate::object::Resource;
use crate::resources::mesh::MeshSpec;
use signet_identity::TrustDomain;

use crate::{
    AnyRoute, AuthorizationProvider, ExternalService, Family, FederatedTrustDomain, Gateway, GuardRail,
    Issuer, Label, Mesh, MeshPolicy, ObjectName, PolicyDocument, Port, ProcessSelector, ReferenceGrant,
    Registration, Service, TokenExchange, TrafficPolicy, Workload, WorkloadId,
};

/// What a registry is checked against besides itself.
#[derive(Debug, Clone)]
pub struct Options {
    /// The namespace of the control plane. Identities there whose account begins with `signet-` are
    /// issued by the authority to itself only, and no resource may name them.
    pub system_namespace: Label,
    /// The mesh's own trust domain, which cannot be federated. None where it is not known.
    pub trust_domain: Option<TrustDomain>,
}

impl Default for Options {
    fn default() -> Options {
        Options { system_namespace: Label::system(), trust_domain: None }
    }
}

/// Where a resource was read.
#[derive(Debug, Clone)]
pub struct Origin {
    file: Arc<Path>,
    document: Option<usize>,
    lines: Lines,
    /// Its number among objects that are taken one by one.
    offer: Option<usize>,
    /// Since when it is there, if that is known.
    pub(crate) created: String,
}

impl Origin {
    /// A resource that stands alone in what is called `file`.
    pub fn new(file: impl Into<PathBuf>) -> Origin {
        Origin {
            file: file.into().into(),
            document: None,
            lines: Lines::default(),
            offer: None,
            created: String::new(),
        }
    }

    /// One of many objects that are taken one by one.
    pub(crate) fn offered(name: &str, number: usize, created: &str) -> Origin {
        Origin { offer: Some(number), created: created.to_owned(), ..Origin::new(name) }
    }

    pub(crate) fn found(&self, field: impl Into<String>, reason: impl Into<String>) -> Found {
        Found { offer: self.offer, error: self.error(field, reason) }
    }

    pub(crate) fn in_file(file: &Arc<Path>, document: usize, lines: Lines) -> Origin {
        Origin {
            file: Arc::clone(file),
            document: Some(document),
            lines,
            offer: None,
            created: String::new(),
        }
    }

    pub(crate) fn error(&self, field: impl Into<String>, reason: impl Into<String>) -> RegistryError {
        let field = field.into();
        RegistryError {
            file: self.file.to_path_buf(),
            document: self.document,
            line: self.lines.of(&field).filter(|line| *line > 0),
            field,
            reason: reason.into(),
        }
    }

    /// For messages that point at another resource.
    pub(crate) fn place(&self) -> String {
        match (self.lines.of(""), self.document) {
            (Some(line), _) if line > 0 => format!("{}:{line}", self.file.display()),
            (_, Some(document)) => format!("{} (document {document})", self.file.display()),
            _ => self.file.display().to_string(),
        }
    }
}

/// Every resource, with all references between them checked. Ordered by name, so that whoever goes
/// through it does so in the same order everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    pub(crate) mesh: Mesh,
    pub(crate) workloads: BTreeMap<ObjectName, Workload>,
    pub(crate) services: BTreeMap<ObjectName, Service>,
    pub(crate) external: BTreeMap<ObjectName, ExternalService>,
    pub(crate) issuers: BTreeMap<Label, Issuer>,
    pub(crate) federated: BTreeMap<Label, FederatedTrustDomain>,
    pub(crate) gateways: BTreeMap<ObjectName, Gateway>,
    pub(crate) policies: BTreeMap<ObjectName, MeshPolicy>,
    pub(crate) guard_rails: BTreeMap<Label, GuardRail>,
    pub(crate) registrations: BTreeMap<Label, Registration>,
    pub(crate) traffic: BTreeMap<ObjectName, TrafficPolicy>,
    pub(crate) providers: BTreeMap<ObjectName, AuthorizationProvider>,
    pub(crate) exchanges: BTreeMap<Label, TokenExchange>,
    /// By kind and name: an HTTPRoute and a GRPCRoute may have the same.
    pub(crate) routes: BTreeMap<(&'static str, ObjectName), AnyRoute>,
    /// Since when they are there, where that is known.
    pub(crate) ages: BTreeMap<(&'static str, ObjectName), String>,
    pub(crate) grants: BTreeMap<ObjectName, ReferenceGrant>,
}

impl Default for Registry {
    /// A mesh with nothing in it: everything is denied.
    fn default() -> Registry {
        Registry {
            mesh: Mesh { name: Label::default_mesh(), spec: MeshSpec::default() },
            workloads: BTreeMap::new(),
            services: BTreeMap::new(),
            external: BTreeMap::new(),
            issuers: BTreeMap::new(),
            federated: BTreeMap::new(),
            gateways: BTreeMap::new(),
            policies: BTreeMap::new(),
            guard_rails: BTreeMap::new(),
            registrations: BTreeMap::new(),
            traffic: BTreeMap::new(),
            providers: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            routes: BTreeMap::new(),
            ages: BTreeMap::new(),
            grants: BTreeMap::new(),
        }
    }
}

impl Registry {
    /// Puts resources together, or says everything that does not fit.
    pub fn build(
        resources: impl IntoIterator<Item = (Origin, Resource)>,
        options: &Options,
    ) -> Result<Registry, RegistryErrors> {
        check::assemble(resources.into_iter(), options)
    }

    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.workloads.values()
    }

    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    pub fn external_services(&self) -> impl Iterator<Item = &ExternalService> {
        self.external.values()
    }

    pub fn issuers(&self) -> impl Iterator<Item = &Issuer> {
        self.issuers.values()
    }

    pub fn federated(&self) -> impl Iterator<Item = &FederatedTrustDomain> {
        self.federated.values()
    }

    pub fn gateways(&self) -> impl Iterator<Item = &Gateway> {
        self.gateways.values()
    }

    pub fn policies(&self) -> impl Iterator<Item = &MeshPolicy> {
        self.policies.values()
    }

    pub fn guard_rails(&self) -> impl Iterator<Item = &GuardRail> {
        self.guard_rails.values()
    }

    pub fn registrations(&self) -> impl Iterator<Item = &Registration> {
        self.registrations.values()
    }

    pub fn traffic_policies(&self) -> impl Iterator<Item = &TrafficPolicy> {
        self.traffic.values()
    }

    pub fn providers(&self) -> impl Iterator<Item = &AuthorizationProvider> {
        self.providers.values()
    }

    pub fn provider(&self, name: &ObjectName) -> Option<&AuthorizationProvider> {
        self.providers.get(name)
    }

    /// Who is asked about requests to this service, besides its policies.
    pub fn providers_of(&self, service: &ObjectName) -> impl Iterator<Item = &AuthorizationProvider> {
        let named: BTreeSet<_> = self.policies_for(service).filter_map(MeshPolicy::provider).collect();
        named.into_iter().filter_map(|name| self.provider(&name))
    }

    pub fn token_exchanges(&self) -> impl Iterator<Item = &TokenExchange> {
        self.exchanges.values()
    }

    /// What this workload may exchange tokens by, beside its own ones for narrower ones.
    pub fn exchanges_of<'a>(&'a self, id: &'a WorkloadId) -> impl Iterator<Item = &'a TokenExchange> {
        self.token_exchanges().filter(move |exchange| exchange.spec.workloads.contains(id))
    }

    pub fn routes(&self) -> impl Iterator<Item = &AnyRoute> {
        self.routes.values()
    }

    /// Of two routes that say the same the older one counts, then that of the first name (Gateway API, conflicts). In a
    /// folder all are of one age.
    pub(crate) fn by_age<'a>(&self, mut routes: Vec<&'a AnyRoute>) -> Vec<&'a AnyRoute> {
        routes.sort_by_cached_key(|route| {
            // One of which nobody knows the age is no older than another one. What is left are the names' order.
            let age = self.ages.get(&(route.kind(), route.name().clone()));
            (age.is_none(), age.cloned())
        });
        routes
    }

    /// The routes by which callers of this namespace reach a service: of requests and of whole connections each their own
    /// namespace's where it has any, otherwise those of the service's.
    pub fn routes_for(&self, service: &ObjectName, caller: &Label) -> Vec<&AnyRoute> {
        let of = |namespace: &Label, family: Family| -> Vec<&AnyRoute> {
            let all = self.routes().filter(|route| {
                route.name().namespace == *namespace && route.family() == family && route.is_of(service)
            });
            self.by_age(all.collect())
        };
        let each = [Family::Requests, Family::Streams].into_iter().flat_map(|family| {
            let consumers = if *caller == service.namespace { Vec::new() } else { of(caller, family) };
            if consumers.is_empty() { of(&service.namespace, family) } else { consumers }
        });
        each.collect()
    }

    /// The services that may answer requests of callers of this namespace to a service: those to which the routes that such
    /// callers have send them, or itself where there are none. Who only gets copies is none of them, nor is a backend to which
    /// its route may not refer, or which is not there: its share is refused.
    pub fn leads_from(&self, service: &ObjectName, caller: &Label) -> Vec<&Service> {
        let routes = self.routes_for(service, caller);
        let routes: Vec<_> = routes.into_iter().filter(|route| route.family() == Family::Requests).collect();
        let mut names: BTreeSet<ObjectName> = BTreeSet::new();
        for route in &routes {
            let own = &route.name().namespace;
            let refused = self.refused_to(route);
            let backends = route.rules().into_iter().flat_map(|rule| rule.backends.iter());
            names.extend(backends.map(|backend| backend.service(own)).filter(|name| !refused.contains(name)));
        }
        if routes.is_empty() {
            names.insert(service.clone());
        }
        names.iter().filter_map(|name| self.service(name)).collect()
    }

    /// The routes by which callers outside reach what is behind a gateway. A registry in which a listener does not let one
    /// attach is refused.
    pub fn routes_of_gateway<'a>(&'a self, gateway: &ObjectName) -> impl Iterator<Item = &'a AnyRoute> {
        let routes = self.routes().filter(|route| route.is_of_gateway(gateway)).collect();
        self.by_age(routes).into_iter()
    }

    /// Whether a route may refer to a service: to one of its own namespace; inside the mesh to the one that it belongs
    /// to, where callers went anyway; and elsewhere where a ReferenceGrant lets it.
    pub fn lets_refer(&self, route: &AnyRoute, service: &ObjectName) -> bool {
        route.name().namespace == service.namespace
            || (route.is_of(service) && !route.has_gateway())
            || self.grants.values().any(|grant| grant.lets(route, service))
    }

    /// The services that a route names and gets nothing of, each once: it may not refer to them, or they are not there or
    /// have no such port. Of the latter there are none in a registry that was taken whole.
    pub fn refused_to(&self, route: &AnyRoute) -> BTreeSet<ObjectName> {
        let named = route.backends().into_iter();
        let refused = named
            .filter(|(_, service, port)| !self.lets_refer(route, service) || !self.has_port(service, *port));
        refused.map(|(_, service, _)| service).collect()
    }

    fn has_port(&self, service: &ObjectName, number: Port) -> bool {
        self.service(service).is_some_and(|it| it.spec.ports.iter().any(|port| port.port == number))
    }

    /// What is valid and yet not as its author may have meant it, in words.
    pub fn warnings(&self) -> Vec<String> {
        let of = |route: &AnyRoute| -> Vec<String> {
            let refused =
                route.backends().into_iter().filter(|(_, service, _)| !self.lets_refer(route, service));
            let word = |(field, service, _): (String, ObjectName, Port)| {
                format!(
                    "{kind} `{name}`: {field}: expected a ReferenceGrant in namespace `{there}` that lets each {kind} of `{own}` \
                     refer to Service `{service}`, got none: its share gets nothing",
                    kind = route.kind(),
                    name = route.name(),
                    there = service.namespace,
                    own = route.name().namespace,
                    service = service.name,
                )
            };
            refused.map(word).collect()
        };
        self.routes().flat_map(of).collect()
    }

    /// How this service is called: at most one policy for all of it, and one for each port.
    pub fn traffic_for<'a>(&'a self, service: &'a ObjectName) -> impl Iterator<Item = &'a TrafficPolicy> {
        self.traffic_policies().filter(|policy| {
            policy.name.namespace == service.namespace
                && policy.spec.target.service.as_str() == service.name.as_str()
        })
    }

    /// The registration of a pod of this account with these labels: of those that take it, the one that
    /// asks most. There is never a tie, since a registry with one is refused.
    pub fn registration_of(
        &self,
        account: &WorkloadId,
        labels: &BTreeMap<String, String>,
    ) -> Option<&Registration> {
        self.registrations()
            .filter_map(|entry| entry.spec.kubernetes.as_ref().map(|pods| (entry, pods)))
            .filter(|(_, pods)| pods.is_of(account) && pods.takes(labels))
            .max_by_key(|(_, pods)| pods.specificity())
            .map(|(entry, _)| entry)
    }

    /// Whether who a pod of this account is may depend on its labels.
    pub fn needs_labels(&self, account: &WorkloadId) -> bool {
        self.registrations()
            .filter_map(|entry| entry.spec.kubernetes.as_ref())
            .any(|pods| pods.is_of(account) && pods.specificity() > 0)
    }

    /// The registrations by which this agent may vouch for processes of its host.
    pub fn vouched_by<'a>(
        &'a self,
        agent: &'a WorkloadId,
    ) -> impl Iterator<Item = (&'a Registration, &'a ProcessSelector)> {
        self.registrations()
            .filter_map(|entry| entry.spec.unix.as_ref().map(|processes| (entry, processes)))
            .filter(move |(_, processes)| processes.is_of(agent))
    }

    /// The workload of that identity, if it may join.
    pub fn workload(&self, id: &WorkloadId) -> Option<&Workload> {
        self.workloads.get(&id.object())
    }

    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name)
    }

    pub fn issuer(&self, alias: &str) -> Option<&Issuer> {
        self.issuers.get(alias)
    }

    pub fn gateway(&self, name: &ObjectName) -> Option<&Gateway> {
        self.gateways.get(name)
    }

    pub fn policy(&self, name: &ObjectName) -> Option<&MeshPolicy> {
        self.policies.get(name)
    }

    /// The services in whose name this identity may answer, which also gives it their host names.
    pub fn served_by<'a>(&'a self, id: &'a WorkloadId) -> impl Iterator<Item = &'a Service> {
        self.services().filter(move |service| service.identities().contains(id))
    }

    /// The gateways that this identity may be.
    pub fn gateways_of<'a>(&'a self, id: &'a WorkloadId) -> impl Iterator<Item = &'a Gateway> {
        self.gateways().filter(move |gateway| gateway.spec.identity == *id)
    }

    /// Every document by which requests to this service are decided: guard rails that forbid something, and its policies.
    /// Shadow ones included.
    pub fn governing(&self, service: &ObjectName) -> Vec<PolicyDocument> {
        let rails = self.guard_rails().filter(|rail| rail.spec.forbid.is_some() && rail.targets(service));
        let rails = rails.map(|rail| PolicyDocument::GuardRail(rail.clone()));
        rails.chain(self.policies_for(service).map(|policy| PolicyDocument::Policy(policy.clone()))).collect()
    }

    /// The policies that speak of this service, shadow ones included.
    pub fn policies_for<'a>(&'a self, service: &'a ObjectName) -> impl Iterator<Item = &'a MeshPolicy> {
        self.policies().filter(move |policy| policy.targets(service))
    }
}
