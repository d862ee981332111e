//! Whom we can call: services by name, and by what an app dials that knows of no mesh.
//!
//! An app dials a virtual address and means any endpoint of the service, or an endpoint's own address and means that
//! one. The port decides between services that share an address. Both kinds of address are the mesh's: whatever port of
//! theirs is dialled, it is never dialled in plaintext (decision 3).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::calls::Calls;
use super::places::{PlaceSpec, Places};
use super::service::{Service, ServicePort, ServiceSpec};

/// Refusals remembered. An app that dials at random (a scan, a crawler) must not fill our memory; what is forgotten is
/// asked again.
const MAX_REFUSED: usize = 1024;

/// By service, each of its ports with another one that is served at the same place.
type Beside = HashMap<Arc<str>, Vec<(Arc<str>, Arc<ServicePort>)>>;

/// The endpoints snapshot.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// Grows with each change.
    pub generation: u64,
    services: foldhash::HashMap<Arc<str>, Arc<Service>>,
    /// Where the requests to a service go, if not simply to it.
    calls: foldhash::HashMap<Arc<str>, Arc<Calls>>,
    /// What apps dial; `None` where two services say that it is theirs.
    dialled: HashMap<SocketAddr, Option<Dialled>>,
    /// Addresses of the mesh: virtual ones, and of endpoints.
    addresses: HashSet<IpAddr>,
    /// Those of them at which there may be services that we do not know.
    open: HashSet<IpAddr>,
    /// Where sidecars of the mesh take mutual TLS, and for which ports; for none where it is another cluster's gateway.
    sidecars: HashMap<SocketAddr, Vec<Arc<ServicePort>>>,
    /// By service and port: the other ports that are served at some same place.
    beside: Beside,
    /// Places outside the mesh that we may call.
    places: Arc<Places>,
    /// Namespaces in which there are services.
    namespaces: Arc<HashSet<Arc<str>>>,
    /// Services that the control plane refuses to tell us of, with its reason.
    refused: HashMap<Arc<str>, Arc<str>>,
}

/// What an app means by the address that it dialled.
#[derive(Clone, Debug)]
pub enum Dialled {
    /// Any endpoint of this port.
    Service(Arc<ServicePort>),
    /// The endpoint that is the only one of this port here.
    Endpoint(Arc<ServicePort>),
}

impl Dialled {
    /// The port.
    pub fn port(&self) -> &Arc<ServicePort> {
        match self {
            Dialled::Service(port) | Dialled::Endpoint(port) => port,
        }
    }

    fn is_of(&self, service: &Service) -> bool {
        self.port().service == service.name
    }
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
        (next.dialled, next.addresses) = dialled(&next.services);
        next.open = open(&next.services);
        next.sidecars = sidecars(&next.services);
        next.beside = beside(&next.sidecars);
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

    /// The next snapshot, with these places outside; `None`: we may not call it any more.
    #[must_use]
    pub fn with_places<'a>(&self, places: impl IntoIterator<Item = (&'a str, Option<PlaceSpec>)>) -> Self {
        let places = Arc::new(self.places.with(places));
        Endpoints { generation: self.generation + 1, places, ..self.clone() }
    }

    /// The next snapshot, with services in these namespaces and no others.
    #[must_use]
    pub fn with_namespaces(&self, namespaces: impl IntoIterator<Item = impl Into<Arc<str>>>) -> Self {
        let namespaces = Arc::new(namespaces.into_iter().map(Into::into).collect());
        Endpoints { generation: self.generation + 1, namespaces, ..self.clone() }
    }

    /// Whether there are services in this namespace, known or not.
    pub fn is_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// Places outside the mesh that we may call.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Services whose requests do not simply go to them, and where they go.
    pub fn routed(&self) -> impl Iterator<Item = (&str, &Calls)> {
        self.calls.iter().map(|(service, calls)| (&**service, &**calls))
    }

    /// Where the requests to this service go, if not simply to it.
    pub fn calls(&self, service: &str) -> Option<&Arc<Calls>> {
        self.calls.get(service)
    }

    /// Whether this address belongs to the mesh: it is never dialled in plaintext.
    pub fn is_of_the_mesh(&self, address: SocketAddr) -> bool {
        self.addresses.contains(&address.ip().to_canonical())
            || self.sidecars.contains_key(&canonical(address))
            || self.places.gateways().any(|gateway| canonical(gateway) == canonical(address))
    }

    /// The ports that are served at this place, as callers dial it.
    pub fn served_at(&self, place: SocketAddr) -> &[Arc<ServicePort>] {
        self.sidecars.get(&canonical(place)).map_or(&[], Vec::as_slice)
    }

    /// Whether some port of this service is served from this address by a sidecar there.
    pub fn is_served_from(&self, service: &str, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let ports = self.services.get(service).into_iter().flat_map(|service| &service.ports);
        let own = ports.flat_map(|port| &port.endpoints).filter(|endpoint| endpoint.behind.is_none());
        own.into_iter().any(|endpoint| endpoint.address.ip().to_canonical() == address)
    }

    /// Whether the control plane says where this service is served by sidecars.
    pub fn is_served_somewhere(&self, service: &str) -> bool {
        let ports = self.services.get(service).into_iter().flat_map(|service| &service.ports);
        ports.flat_map(|port| &port.endpoints).any(|endpoint| endpoint.behind.is_none())
    }

    /// The other ports that are served somewhere at the same place as this one.
    pub fn beside(&self, service: &str, port: &str) -> impl Iterator<Item = &Arc<ServicePort>> {
        let of_service = self.beside.get(service).into_iter().flatten();
        of_service.filter(move |(own, _)| **own == *port).map(|(_, other)| other)
    }

    /// Whether every service at this address is known, so that a port that none of them has is nobody's.
    pub fn is_settled(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.addresses.contains(&address) && !self.open.contains(&address)
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

    /// What an app means that dials this.
    pub fn dialled(&self, address: SocketAddr) -> Option<&Dialled> {
        self.dialled.get(&canonical(address))?.as_ref()
    }

    /// The one endpoint of a service's port that an app means by its own address, if it is still there.
    pub fn endpoint(&self, address: SocketAddr, service: &str, port: &str) -> Option<&Arc<ServicePort>> {
        match self.dialled(address)? {
            Dialled::Endpoint(one) if &*one.service == service && &*one.name == port => Some(one),
            _ => None,
        }
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

/// What apps dial, and the addresses in it. A service's own virtual address goes before its endpoints'.
fn dialled(
    services: &foldhash::HashMap<Arc<str>, Arc<Service>>,
) -> (HashMap<SocketAddr, Option<Dialled>>, HashSet<IpAddr>) {
    let mut dialled: HashMap<SocketAddr, Option<Dialled>> = HashMap::new();
    let mut addresses = HashSet::new();
    for service in services.values() {
        let places = service.addresses.iter().flat_map(|ip| {
            let at = |number| SocketAddr::new(ip.to_canonical(), number);
            service.ports.iter().map(move |port| (at(port.port), Dialled::Service(port.clone())))
        });
        let endpoints =
            service.direct.iter().map(|(address, port)| (*address, Dialled::Endpoint(port.clone())));
        for (address, meant) in places.chain(endpoints) {
            addresses.insert(address.ip());
            match dialled.entry(address) {
                Entry::Vacant(place) => {
                    place.insert(Some(meant));
                }
                Entry::Occupied(mut place) => {
                    // The control plane admits no such registry; nobody is called by guessing.
                    if !place.get().as_ref().is_some_and(|first| first.is_of(service)) {
                        place.insert(None);
                    }
                }
            }
        }
    }
    // An app may also dial the port at which it is served, where the service's own says nothing else of that place.
    let mut targets: HashMap<SocketAddr, Option<Dialled>> = HashMap::new();
    for (address, port) in services.values().flat_map(|service| &service.targets) {
        let meant = targets.entry(*address).or_insert_with(|| Some(Dialled::Endpoint(port.clone())));
        if meant
            .as_ref()
            .is_some_and(|first| first.port().service != port.service || first.port().name != port.name)
        {
            *meant = None;
        }
    }
    for (address, meant) in targets {
        dialled.entry(address).or_insert(meant);
    }
    (dialled, addresses)
}

fn sidecars(
    services: &foldhash::HashMap<Arc<str>, Arc<Service>>,
) -> HashMap<SocketAddr, Vec<Arc<ServicePort>>> {
    let mut sidecars: HashMap<SocketAddr, Vec<Arc<ServicePort>>> = HashMap::new();
    for port in services.values().flat_map(|service| &service.ports) {
        for endpoint in &port.endpoints {
            let here = sidecars.entry(canonical(endpoint.address)).or_default();
            if endpoint.behind.is_none() {
                here.push(port.clone());
            }
        }
    }
    sidecars
}

/// Who is served where others are, both ways.
fn beside(sidecars: &HashMap<SocketAddr, Vec<Arc<ServicePort>>>) -> Beside {
    let mut beside = Beside::new();
    for here in sidecars.values().filter(|here| here.len() > 1) {
        for port in here {
            for other in here.iter().filter(|other| !Arc::ptr_eq(other, port)) {
                let known = beside.entry(port.service.clone()).or_default();
                if !known.iter().any(|(own, known)| *own == port.name && Arc::ptr_eq(known, other)) {
                    known.push((port.name.clone(), other.clone()));
                }
            }
        }
    }
    beside
}

/// Addresses at which others are that are not known, or where nobody says whether there are others.
fn open(services: &foldhash::HashMap<Arc<str>, Arc<Service>>) -> HashSet<IpAddr> {
    let mut open = HashSet::new();
    for service in services.values() {
        let own = service.addresses.iter().map(|ip| ip.to_canonical());
        for ip in own.chain(service.direct.iter().map(|(address, _)| address.ip())) {
            let known = service.sharing.as_ref().is_some_and(|sharing| {
                sharing.get(&ip).into_iter().flatten().all(|other| services.contains_key(other))
            });
            if !known {
                open.insert(ip);
            }
        }
    }
    open
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeMap;

    use signet_identity::SpiffeId;
    use signet_identity::testing::TestCa;

    use super::super::service::{EndpointSpec, PortSpec, Timeouts};
    use crate::state::Protocol;

    fn id(name: &str) -> SpiffeId {
        TestCa::new("demo.signet").id(&format!("ns/shop/sa/{name}"))
    }

    /// A service with two identities, one port and these endpoints.
    fn spec(name: &str, port: u16, virtual_ips: &[&str], at: &[(&str, Option<&str>)]) -> ServiceSpec {
        ServiceSpec {
            name: name.into(),
            ports: vec![PortSpec {
                name: "main".into(),
                port,
                protocol: Protocol::Tcp,
                timeouts: Timeouts::default(),
                requests_only: false,
            }],
            identities: vec![id("a"), id("b")],
            addresses: virtual_ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            endpoints: at
                .iter()
                .map(|(ip, identity)| EndpointSpec {
                    address: ip.parse().unwrap(),
                    ports: BTreeMap::from([("main".to_owned(), 15006)]),
                    identity: identity.map(id),
                    behind: None,
                })
                .collect(),
            ..ServiceSpec::default()
        }
    }

    fn apply(specs: impl IntoIterator<Item = ServiceSpec>) -> Endpoints {
        Endpoints::default().apply(specs, [] as [&str; 0])
    }

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    #[test]
    fn an_endpoints_own_address_means_that_endpoint_with_its_identity_and_no_other() {
        let places =
            [("10.1.0.5", Some("a")), ("10.1.0.6", Some("b")), ("10.1.0.7", None), ("127.0.0.1", Some("a"))];
        let known = apply([spec("db.shop", 5432, &["10.96.0.7"], &places)]);
        let all = known.service("db.shop").unwrap().ports[0].clone();
        assert_eq!((all.endpoints.len(), all.unidentified), (3, 1));
        for (ip, identity) in [("10.1.0.5", "a"), ("10.1.0.6", "b"), ("::ffff:10.1.0.6", "b")] {
            let address = SocketAddr::new(ip.parse().unwrap(), 5432);
            let one = known.endpoint(address, "db.shop", "main").unwrap();
            assert_eq!(one.endpoints.len(), 1, "{ip}");
            assert_eq!(one.endpoints[0].identity, id(identity));
            // The same endpoint as the service's: its connections and counters are shared.
            assert!(all.endpoints.iter().any(|endpoint| Arc::ptr_eq(endpoint, &one.endpoints[0])));
            assert!(known.endpoint(address, "other.shop", "main").is_none());
        }
        let nobody = known.endpoint(at("10.1.0.7:5432"), "db.shop", "main").unwrap();
        assert_eq!((nobody.endpoints.len(), nobody.unidentified), (0, 1), "nobody knows who answers there");
        // The virtual address means all of them, and is no endpoint.
        assert!(
            matches!(known.dialled(at("10.96.0.7:5432")), Some(Dialled::Service(port)) if Arc::ptr_eq(port, &all))
        );
        assert!(known.endpoint(at("10.96.0.7:5432"), "db.shop", "main").is_none());
        // Another port is nobody's, and the mesh's all the same; a loopback address is the app's own.
        assert!(known.dialled(at("10.1.0.5:22")).is_none() && known.is_of_the_mesh(at("10.1.0.5:22")));
        assert!(known.dialled(at("127.0.0.1:5432")).is_none() && !known.is_of_the_mesh(at("127.0.0.1:22")));
    }

    #[test]
    fn the_port_decides_between_services_at_one_address_and_two_that_claim_both_get_neither() {
        let place = [("10.1.0.5", Some("a"))];
        let known = apply([
            spec("db.shop", 5432, &["10.96.0.7"], &place),
            spec("cache.shop", 6379, &["10.96.0.7"], &place),
        ]);
        for (port, service) in [(5432, "db.shop"), (6379, "cache.shop")] {
            for ip in ["10.1.0.5", "10.96.0.7"] {
                let meant = known.dialled(SocketAddr::new(ip.parse().unwrap(), port)).unwrap();
                assert_eq!(&*meant.port().service, service);
            }
        }
        let known = apply(["one.shop", "two.shop", "three.shop"].map(|name| spec(name, 80, &[], &place)));
        assert!(known.dialled(at("10.1.0.5:80")).is_none() && known.is_of_the_mesh(at("10.1.0.5:80")));
        // Two endpoints at one address, and a virtual address that is an endpoint's as well: the same service.
        let known = apply([spec("db.shop", 80, &["10.1.0.5"], &place)]);
        assert!(matches!(known.dialled(at("10.1.0.5:80")), Some(Dialled::Service(_))));
    }

    #[test]
    fn an_address_is_settled_when_every_service_that_is_said_to_be_there_is_known() {
        let place = [("10.1.0.5", Some("a")), ("10.1.0.6", Some("a"))];
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let shared = |others: &[&str]| {
            Some(HashMap::from([(ip("10.1.0.5"), others.iter().map(|&name| name.into()).collect())]))
        };
        let db = |sharing| ServiceSpec { sharing, ..spec("db.shop", 5432, &["10.96.0.7"], &place) };
        let settled = |known: &Endpoints| {
            ["10.96.0.7", "10.1.0.5", "::ffff:10.1.0.6", "10.1.0.9"].map(|text| known.is_settled(ip(text)))
        };
        // An older control plane says nothing, and an address of nobody is not settled either.
        assert_eq!(settled(&apply([db(None)])), [false, false, false, false]);
        assert_eq!(settled(&apply([db(Some(HashMap::new()))])), [true, true, true, false]);
        let one = apply([db(shared(&["cache.shop"]))]);
        assert_eq!(settled(&one), [true, false, true, false]);
        let cache =
            ServiceSpec { sharing: shared(&["db.shop"]), ..spec("cache.shop", 6379, &[], &place[..1]) };
        let both = one.apply([cache], [] as [&str; 0]);
        assert_eq!(settled(&both), [true, true, true, false]);
        assert_eq!(settled(&both.apply([], ["cache.shop"])), [true, false, true, false]);
    }

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

    #[test]
    fn a_place_is_of_every_port_that_is_served_there_by_its_number_there_and_of_no_gateway() {
        let place = [("10.1.0.5", Some("a"))];
        let mut far = spec("far.shop", 80, &[], &[("10.1.0.9", Some("a"))]);
        far.endpoints[0].behind = Some("far.shop".parse().unwrap());
        let known = apply([spec("db.shop", 5432, &[], &place), spec("cache.shop", 6379, &[], &place), far]);
        let at_place = |place: &str| {
            let mut names: Vec<_> =
                known.served_at(at(place)).iter().map(|port| port.service.to_string()).collect();
            names.sort();
            names
        };
        assert_eq!(at_place("10.1.0.5:15006"), ["cache.shop", "db.shop"]);
        assert_eq!(at_place("[::ffff:10.1.0.5]:15006"), ["cache.shop", "db.shop"]);
        // Where callers dial it is not where it is served.
        assert!(at_place("10.1.0.5:5432").is_empty() && at_place("10.1.0.9:15006").is_empty());
        assert!(known.is_served_from("db.shop", "10.1.0.5".parse().unwrap()));
        assert!(!known.is_served_from("far.shop", "10.1.0.9".parse().unwrap()));
        assert!(known.is_of_the_mesh(at("10.1.0.9:15006")), "a gateway is the mesh's all the same");
        let beside =
            |service: &str| known.beside(service, "main").map(|port| &*port.service).collect::<Vec<_>>();
        assert_eq!((beside("db.shop"), beside("cache.shop")), (vec!["cache.shop"], vec!["db.shop"]));
        assert!(beside("far.shop").is_empty() && known.beside("db.shop", "other").next().is_none());
        let alone = known.apply([spec("cache.shop", 6379, &[], &[])], [] as [&str; 0]);
        assert!(alone.beside("db.shop", "main").next().is_none());
    }

    #[test]
    fn a_target_port_that_is_dialled_means_its_endpoint_unless_two_ports_are_served_there() {
        let place = [("10.1.0.5", Some("a"))];
        let known = apply([spec("db.shop", 5432, &["10.96.0.7"], &place)]);
        let one = known.endpoint(at("10.1.0.5:15006"), "db.shop", "main").unwrap();
        assert_eq!(one.endpoints.len(), 1);
        assert!(known.dialled(at("10.96.0.7:15006")).is_none());
        let both = known.apply([spec("cache.shop", 6379, &[], &place)], [] as [&str; 0]);
        assert!(both.dialled(at("10.1.0.5:15006")).is_none());
        // What a service says of that number itself goes before.
        let own = known.apply([spec("own.shop", 15006, &[], &place)], [] as [&str; 0]);
        assert_eq!(&*own.dialled(at("10.1.0.5:15006")).unwrap().port().service, "own.shop");
    }

    #[test]
    fn a_hello_names_the_port_where_others_are_there_and_only_inside_the_own_trust_domain() {
        let ip: IpAddr = "10.1.0.5".parse().unwrap();
        let name = |sharing: Option<&[&str]>, own: &str| {
            let sharing =
                sharing.map(|others| [(ip, others.iter().map(|&other| other.into()).collect())].into());
            let known =
                apply([ServiceSpec { sharing, ..spec("db.shop", 5432, &[], &[("10.1.0.5", Some("a"))]) }]);
            let endpoint = known.service("db.shop").unwrap().ports[0].endpoints[0].clone();
            let own = TestCa::new(own).id("ns/shop/sa/web");
            endpoint.hello_name(&own).to_str().into_owned()
        };
        let shared = Some(&["cache.shop"][..]);
        assert!(name(shared, "demo.signet").starts_with("main.db.shop."));
        for (sharing, own) in
            [(shared, "other.example"), (Some(&[][..]), "demo.signet"), (None, "demo.signet")]
        {
            assert!(!name(sharing, own).contains("db"), "{sharing:?} {own}");
        }
    }
}
