//! From what we were told to what the data plane reads.
//!
//! A delta touches few resources; only the snapshots that rest on those are built again, and each is
//! replaced whole. Policy goes before routes, so that no port is ever served by the policy before it.

use std::sync::Arc;

use signet_gateway::Compiled;
use signet_model::ObjectName;
use signet_policy::PolicySet;
use signet_proxy::authz::Provider;
use signet_proxy::state::{Doors, Keys, MeshSettings, Minter, Served, State};
use signet_token::{Issuers, TokenRoots};
use signet_workload::JwtBundle;
use tokio::sync::watch;

use crate::agent::entries;
use crate::control::convert::{Inbound, Item, Mesh};
use crate::control::delivery::{Changed, Deliveries};
use crate::credentials::Credentials;
use crate::identity::{Identity, needs_renewal};
use crate::workload::News;

/// See the module's story.
pub struct Publisher {
    state: Arc<State>,
    credentials: Arc<Credentials>,
    identity: Arc<Identity>,
    /// The Gateway resource that we are, if we are one.
    gateway: Option<ObjectName>,
    /// How often there was reason to ask for another right to mint.
    mint_anew: watch::Sender<u64>,
    /// What concerns our app.
    workload: watch::Sender<News>,
}

impl Publisher {
    /// Publishes into this state.
    pub fn new(
        state: Arc<State>,
        credentials: Arc<Credentials>,
        identity: Arc<Identity>,
        gateway: Option<ObjectName>,
    ) -> Self {
        let (mint_anew, workload) = (watch::Sender::new(0), watch::Sender::new(News::default()));
        Self { state, credentials, identity, gateway, mint_anew, workload }
    }

    /// Brings the state up to what `deliveries` says, where it changed.
    pub fn publish(&self, deliveries: &Deliveries, changed: &Changed) {
        if changed.bundles {
            self.bundles(deliveries);
        }
        if changed.revocations
            && let Some(Item::Revocations(revocations)) = deliveries.get("revocations")
        {
            self.credentials.revoke(revocations.peers.clone());
        }
        if changed.revocations {
            self.revoked_users(deliveries);
        }
        if changed.keys || changed.mesh || changed.revocations && self.delegations_turned(deliveries) {
            self.keys(deliveries);
        }
        // Before the policies that name them: nobody finds one without the other.
        if !changed.providers.is_empty() {
            self.providers(deliveries, changed);
        }
        if changed.mesh || !changed.inbound.is_empty() {
            self.policy(deliveries, changed);
        }
        if changed.mesh {
            let namespaces = mesh(deliveries).map(|mesh| mesh.namespaces.clone()).unwrap_or_default();
            self.state.update_endpoints(|endpoints| endpoints.with_namespaces(namespaces.clone()));
        }
        if !changed.inbound.is_empty() {
            self.routes(deliveries, changed);
        }
        if changed.gateway {
            self.gateway(deliveries);
        }
        self.workload(deliveries, changed);
        if !changed.services.is_empty() || !changed.routes.is_empty() {
            self.endpoints(deliveries, changed);
        }
        if !changed.external.is_empty() {
            self.external(deliveries, changed);
        }
    }

    /// The stream is open and has told everything that it had: what is published is as new as it can be.
    pub fn is_live(&self) {
        self.shut_out(false);
        self.state.freshness.live();
    }

    /// Whether the control plane sent us away, and not just nobody answers.
    pub fn shut_out(&self, is: bool) {
        self.workload.send_if_modified(|news| std::mem::replace(&mut news.shut_out, is) != is);
    }

    /// Nothing was heard after this second of the epoch.
    pub fn is_cut_off(&self, since: i64) {
        self.state.freshness.lost(u64::try_from(since).unwrap_or_default());
    }

    /// The control plane does not tell us of this service.
    pub fn refused(&self, service: &str, reason: &str) {
        self.state.update_endpoints(|endpoints| endpoints.refuse(service, reason));
    }

    /// A new stream has begun, on which everything is asked for anew.
    pub fn asks_anew(&self) {
        self.state.update_endpoints(|endpoints| endpoints.forget_refusals());
    }

    /// Told whenever there is reason to ask for another right to mint: the gateway's configuration changed, and with it
    /// what it may mint; or the right that it has counts no more, or not for long ([`Publisher::is_minter_outdated`]).
    pub fn watch_minting(&self) -> watch::Receiver<u64> {
        self.mint_anew.subscribe()
    }

    /// Whether the key that is minted with was revoked, or stands under a root that may be in other hands.
    pub fn is_minter_outdated(&self) -> bool {
        let view = self.state.view();
        view.keys.minter.as_ref().is_some_and(|minter| {
            view.keys.revoked_delegations.contains(minter.terms().thumbprint())
                || view.keys.tainted_roots.contains(minter.root())
        })
    }

    /// Told of what concerns our app.
    pub fn watch_workload(&self) -> watch::Receiver<News> {
        self.workload.subscribe()
    }

    /// What transaction tokens are minted with, from now on.
    pub fn minter(&self, minter: Minter) {
        self.state.update_keys(|keys| Keys { minter: Some(minter.clone()), ..keys.next() });
    }

    fn bundles(&self, deliveries: &Deliveries) {
        let bundles = deliveries.items().filter_map(|item| match item {
            Item::Bundle(delivered) => Some((**delivered).clone()),
            _ => None,
        });
        match self.credentials.trust(bundles) {
            Ok(true) => tracing::info!(target: "signet::control", "trust bundles changed"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(target: "signet::control", %error, "new trust bundles cannot be put into force yet");
                if needs_renewal(&error) {
                    self.identity.renew_at_once();
                }
            }
        }
        if self.credentials.is_tainted() {
            tracing::warn!(target: "signet::control", "the authority behind our certificate is tainted; renewing now");
            self.identity.renew_at_once();
        }
    }

    fn workload(&self, deliveries: &Deliveries, changed: &Changed) {
        let granted = matches!(deliveries.get("workload"), Some(Item::Workload));
        self.workload.send_if_modified(|news| {
            let mut next = News { granted: Some(granted), ..news.clone() };
            if changed.processes {
                let entries = match deliveries.get("processes") {
                    Some(Item::Processes(delivered)) => entries::read(delivered, self.credentials.domain()),
                    _ => Vec::new(),
                };
                next.processes = Some(Arc::new(entries));
            }
            if changed.revocation_lists {
                next.lists = match deliveries.get("revocation-lists") {
                    Some(Item::RevocationLists(lists)) => lists.clone(),
                    _ => Arc::default(),
                };
            }
            if changed.bundles {
                let bundles = deliveries.items().filter_map(|item| match item {
                    Item::Bundle(delivered) if !delivered.jwt_keys.is_empty() => Some(delivered),
                    _ => None,
                });
                let keys = bundles.map(|delivered| {
                    (delivered.bundle.trust_domain().clone(), JwtBundle::new(&delivered.jwt_keys))
                });
                next.jwt = Arc::new(keys.collect());
            }
            let modified = *news != next;
            *news = next;
            modified
        });
    }

    fn revoked_users(&self, deliveries: &Deliveries) {
        if let Some(Item::Revocations(revocations)) = deliveries.get("revocations")
            && *self.state.view().keys.revoked_users != *revocations.users
        {
            self.state.update_revoked_users(&revocations.users);
        }
    }

    /// Whether news of revocation touch what was verified before: those of users do not, each request asks for them anew.
    fn delegations_turned(&self, deliveries: &Deliveries) -> bool {
        let keys = &self.state.view().keys;
        matches!(deliveries.get("revocations"), Some(Item::Revocations(revocations))
            if revocations.delegations != keys.revoked_delegations
                || revocations.unenforced().as_deref() != keys.refuse_users.as_deref())
    }

    fn keys(&self, deliveries: &Deliveries) {
        let mesh = mesh(deliveries);
        let (roots, tainted) = match deliveries.get("token-roots") {
            Some(Item::TokenRoots(keys)) => (keys.roots.clone(), keys.tainted.clone()),
            _ => (Arc::new(TokenRoots::default()), Arc::default()),
        };
        let issuers = deliveries.items().filter_map(|item| match item {
            Item::Issuer(issuer) => Some((**issuer).clone()),
            _ => None,
        });
        let issuers = Arc::new(Issuers::new(issuers));
        let (revoked, refuse_users) = match deliveries.get("revocations") {
            Some(Item::Revocations(revocations)) => {
                (revocations.delegations.clone(), revocations.unenforced().map(Arc::from))
            }
            _ => (Arc::default(), None),
        };
        self.state.update_keys(|keys| Keys {
            trust_domain: mesh
                .map_or_else(|| keys.trust_domain.clone(), |mesh| mesh.trust_domain.as_str().into()),
            token_issuer: mesh
                .map_or_else(|| keys.token_issuer.clone(), |mesh| mesh.token_issuer.as_str().into()),
            roots: roots.clone(),
            tainted_roots: tainted.clone(),
            issuers: issuers.clone(),
            revoked_delegations: revoked.clone(),
            refuse_users: refuse_users.clone(),
            ..keys.next()
        });
        if self.is_minter_outdated() {
            self.mint_anew.send_modify(|count| *count += 1);
        }
    }

    fn policy(&self, deliveries: &Deliveries, changed: &Changed) {
        let settings = mesh(deliveries).map(settings).unwrap_or_default();
        // The mesh's default is compiled into each set, so that a change of it touches them all.
        let mut services = changed.inbound.clone();
        if changed.mesh {
            services.extend(inbounds(deliveries).map(|inbound| inbound.service.to_string()));
            self.state.update_policy(|policy| policy.with_mesh(settings));
        }
        for service in &services {
            let served = inbound(deliveries, service);
            self.state.update_policy(|policy| {
                policy
                    .with_served(service, served.map(|inbound| self.compile(inbound, settings.default_allow)))
            });
        }
    }

    fn providers(&self, deliveries: &Deliveries, changed: &Changed) {
        let providers =
            changed.providers.iter().map(|name| match deliveries.get(&format!("provider/{name}")) {
                Some(Item::Provider(asked)) => (name, asked.provider.as_ref().ok().map(Provider::new)),
                _ => (name, None),
            });
        let providers: Vec<_> = providers.collect();
        self.state.update_policy(|policy| {
            policy.with_providers(providers.iter().map(|(name, provider)| (name.as_str(), provider.clone())))
        });
    }

    fn routes(&self, deliveries: &Deliveries, changed: &Changed) {
        for service in &changed.inbound {
            let ports = inbound(deliveries, service).map(|inbound| inbound.ports.clone()).unwrap_or_default();
            // Limits that cannot be read leave those in force that were there before.
            let limits = match inbound(deliveries, service) {
                Some(inbound) => inbound.traffic.as_deref(),
                None => Some(&[][..]),
            };
            self.state.update_routes(|routes| {
                let routes = routes.with_inbound(service, ports.clone());
                limits.map_or_else(|| routes.clone(), |limits| routes.with_limits(service, limits))
            });
        }
    }

    fn gateway(&self, deliveries: &Deliveries) {
        let Some(name) = &self.gateway else { return };
        match deliveries.get(&format!("gateway/{name}")) {
            Some(Item::Gateway(gateway, attached)) => {
                let compiled = Compiled::new((**gateway).clone());
                let listed = gateway.spec.east_west.iter().flat_map(|east_west| &east_west.services);
                let listed: Vec<_> = listed.map(ToString::to_string).collect();
                self.state.update_routes(|routes| {
                    routes
                        .with_gateway(Some(compiled.clone()))
                        .with_passed_on(listed.clone())
                        .with_doors(Doors::compile(gateway, attached))
                });
                self.mint_anew.send_modify(|count| *count += 1);
            }
            _ => {
                tracing::warn!(target: "signet::control", gateway = %name,
                    "the gateway resource is gone; every request is answered with 404");
                // Ports stay what they were declared to be: a hello that was passed on is not ended here instead.
                self.state.update_routes(|routes| {
                    let closed = routes.doors().closed();
                    routes.with_gateway(None).with_passed_on([]).with_doors(closed)
                });
            }
        }
        // What is passed on to a service that is not listed any more, or by a route that is gone, ends.
        self.state.decide_again();
    }

    fn endpoints(&self, deliveries: &Deliveries, changed: &Changed) {
        let mut upserts = Vec::new();
        let mut removed = Vec::new();
        for service in &changed.services {
            match deliveries.get(&format!("service/{service}")) {
                Some(Item::Service(service)) => upserts.push((*service.spec).clone()),
                _ => removed.push(service.as_str()),
            }
        }
        let routed = |service: &String| match deliveries.get(&format!("routes/{service}")) {
            Some(Item::Routes(routed)) => (service.clone(), Some(routed.calls.clone())),
            _ => (service.clone(), None),
        };
        let routed: Vec<_> = changed.routes.iter().map(routed).collect();
        // At once: a request that waited for the service must not miss its routes.
        self.state.update_endpoints(|endpoints| {
            routed
                .iter()
                .fold(endpoints.apply(upserts.clone(), removed.iter().copied()), |next, (service, calls)| {
                    next.with_calls(service, calls.clone())
                })
        });
    }

    fn external(&self, deliveries: &Deliveries, changed: &Changed) {
        let places = changed.external.iter().map(|name| match deliveries.get(&format!("external/{name}")) {
            Some(Item::External(external)) => (name, Some(external.spec.clone())),
            _ => (name, None),
        });
        let places: Vec<_> = places.collect();
        self.state.update_endpoints(|endpoints| {
            endpoints.with_places(places.iter().map(|(name, place)| (name.as_str(), place.clone())))
        });
        // Streams to a place that may not be called any more end.
        self.state.decide_again();
    }

    fn compile(&self, inbound: &Inbound, default_allow: bool) -> Served {
        let documents = inbound.policies.iter().map(|(name, json)| (name.as_str(), json.as_str()));
        Served {
            policies: PolicySet::compile(
                self.credentials.domain(),
                &inbound.service,
                documents,
                default_allow,
            ),
            samples: inbound.samples,
            issuer_aliases: inbound.issuers.iter().map(|alias| alias.as_str().into()).collect(),
        }
    }
}

fn mesh(deliveries: &Deliveries) -> Option<&Mesh> {
    match deliveries.get("mesh") {
        Some(Item::Mesh(mesh)) => Some(mesh),
        _ => None,
    }
}

fn settings(mesh: &Mesh) -> MeshSettings {
    MeshSettings {
        default_allow: mesh.default_allow,
        egress_allow: mesh.egress_allow,
        max_connection_age: mesh.max_connection_age,
        max_staleness: mesh.max_staleness,
    }
}

fn inbound<'a>(deliveries: &'a Deliveries, service: &str) -> Option<&'a Inbound> {
    match deliveries.get(&format!("inbound/{service}")) {
        Some(Item::Inbound(inbound)) => Some(inbound),
        _ => None,
    }
}

fn inbounds(deliveries: &Deliveries) -> impl Iterator<Item = &Inbound> {
    deliveries.items().filter_map(|item| match item {
        Item::Inbound(inbound) => Some(inbound),
        _ => None,
    })
}
