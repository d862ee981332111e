//! A small mesh: authority, proxies, apps, callers.

pub mod app;
pub mod authorizer;
pub mod caller;
pub mod token;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::Registry;
use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{Generation, GenerationOptions, PeerClass, RevocationSet};
use signet_policy::PolicySet;
use signet_proxy::decision::{DecisionRecord, DecisionSink};
use signet_proxy::listener::{Bind, Kind, ListenerSpec};
use signet_proxy::stage::NoEdge;
use signet_proxy::state::{
    App, AppAddress, EndpointSpec, InboundPort, PortSpec, Protocol, Served, ServiceSpec, State, Timeouts,
    Tls, UserContext, UserHeaders, Wanted,
};
use signet_proxy::{Limits, Proxy, Running, Shared};
use tokio::sync::mpsc;

pub const LOOPBACK: &str = "127.0.0.1:0";
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// A generation of this identity at the wall clock, with the next number.
pub fn generation(ca: &TestCa, short: &str, class: PeerClass) -> Arc<Generation> {
    generation_with(ca, short, class, SvidOptions::default())
}

pub fn generation_with(ca: &TestCa, short: &str, class: PeerClass, options: SvidOptions) -> Arc<Generation> {
    let own = ca.svid(&ca.id(short), class, options.at_wall_clock());
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Generation::build(number, own, ca.bundles(), GenerationOptions::default()).unwrap()
}

/// One proxy and the means to change what it knows.
pub struct Node {
    pub state: Arc<State>,
    pub shared: Arc<Shared>,
    pub registry: Registry,
    pub wanted: mpsc::Receiver<Wanted>,
    pub decisions: mpsc::Receiver<DecisionRecord>,
    running: Option<Running>,
}

impl Node {
    pub fn new(generation: Arc<Generation>) -> Self {
        Node::with_limits(generation, Limits::default())
    }

    pub fn with_limits(generation: Arc<Generation>, limits: Limits) -> Self {
        let tls = Tls { generation, revoked: Arc::new(RevocationSet::new(0)) };
        let (state, wanted) = State::new(tls);
        let (sink, decisions) = DecisionSink::new(64);
        let registry = Registry::new();
        let shared = Shared::new(state.clone(), limits, Arc::new(sink), &registry).unwrap();
        Node { state, shared, registry, wanted, decisions, running: None }
    }

    /// Starts with these listeners, each on a free port; returns their addresses.
    pub fn start(&mut self, kinds: Vec<Kind>) -> Vec<SocketAddr> {
        self.start_workers(kinds, 1)
    }

    pub fn start_workers(&mut self, kinds: Vec<Kind>, workers: usize) -> Vec<SocketAddr> {
        self.start_all(kinds.into_iter().map(|kind| (LOOPBACK, kind)).collect(), workers)
    }

    pub fn start_at(&mut self, listeners: Vec<(&str, Kind)>) -> Vec<SocketAddr> {
        self.start_all(listeners, 1)
    }

    fn start_all(&mut self, listeners: Vec<(&str, Kind)>, workers: usize) -> Vec<SocketAddr> {
        let listeners = listeners
            .into_iter()
            .map(|(at, kind)| ListenerSpec { bind: Bind::Tcp(at.parse().unwrap()), kind });
        let proxy = Proxy::<NoEdge> { shared: self.shared.clone(), edge: None, workers };
        let running = proxy.start(listeners.collect()).unwrap();
        let addresses = running
            .addresses()
            .iter()
            .map(|bind| match bind {
                Bind::Tcp(address) => *address,
                Bind::Unix(path) => panic!("{path:?}"),
            })
            .collect();
        self.running = Some(running);
        addresses
    }

    pub async fn drain(&mut self, limit: Duration) -> usize {
        self.running.take().unwrap().drain(limit).await
    }

    /// Waits until a counter has this value: things are counted just after a caller sees them.
    pub async fn counts(&self, name: &str, labels: &[(&str, &str)], value: u64) {
        let counted = async {
            while self.counter(name, labels) != value {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(caller::PATIENCE, counted).await;
        assert!(waited.is_ok(), "{name} {labels:?} is {}, not {value}", self.counter(name, labels));
    }

    /// The value of a counter with exactly these labels; 0 when it was never touched.
    pub fn counter(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let families = self.registry.gather();
        let Some(family) = families.iter().find(|family| family.name() == name) else { return 0 };
        let found = family.get_metric().iter().find(|metric| {
            labels.iter().all(|(name, value)| {
                metric.get_label().iter().any(|label| label.name() == *name && label.value() == *value)
            })
        });
        found.map_or(0, |metric| metric.get_counter().get_value() as u64)
    }

    /// The value of a gauge without labels.
    pub fn gauge(&self, name: &str) -> i64 {
        let families = self.registry.gather();
        let found = families.iter().find(|family| family.name() == name);
        found.map_or(0, |family| family.get_metric()[0].get_gauge().get_value() as i64)
    }

    /// Serves one port of `orders.shop`, whose policy permits whom these documents permit.
    pub fn serves(&self, protocol: Protocol, policies: &[&str]) {
        self.serves_with(protocol, policies, Timeouts::default(), UserContext::Transaction);
    }

    pub fn serves_with(&self, protocol: Protocol, policies: &[&str], timeouts: Timeouts, user: UserContext) {
        let port = InboundPort {
            hop_proof: false,
            service: "orders.shop".into(),
            name: "main".into(),
            port: 80,
            protocol,
            timeouts,
            user_context: user,
            user_headers: Arc::default(),
            permissive_until: None,
        };
        self.state.update_routes(|routes| routes.with_inbound("orders.shop", vec![port.clone()]));
        self.permits(policies);
    }

    /// Tells its app of users by these headers: the one with everything, and those of claims.
    pub fn serves_to(&self, header: Option<&str>, claims: &[(&str, &str)]) {
        let headers = Arc::new(UserHeaders::new(header, claims.iter().copied()).unwrap());
        self.state.update_routes(|routes| {
            let ports = routes.inbound_of("orders.shop").iter();
            let ports = ports.map(|port| InboundPort { user_headers: headers.clone(), ..(**port).clone() });
            routes.with_inbound("orders.shop", ports.collect())
        });
    }

    /// Records so many permitted requests a second.
    pub fn samples(&self, samples: u32) {
        let own = self.state.view().tls.generation.own().svid().id.trust_domain().clone();
        let docs = [document(0, WEB), document(1, r#"{"effect":"external","provider":"asked"}"#)];
        self.state.update_policy(|policy| {
            let docs = docs.iter().enumerate().map(|(at, json)| (format!("p{at}.shop"), json));
            let policies = PolicySet::compile(&own, &"orders.shop".parse().unwrap(), docs, false);
            policy.with_served("orders.shop", Some(Served { policies, samples, issuer_aliases: vec![] }))
        });
    }

    pub fn permits(&self, policies: &[&str]) {
        let view = self.state.view();
        let own = view.tls.generation.own().svid().id.trust_domain();
        let docs: Vec<_> = policies
            .iter()
            .enumerate()
            .map(|(at, spec)| (format!("p{at}.shop"), document(at, spec)))
            .collect();
        self.state.update_policy(|policy| {
            let set = PolicySet::compile(
                own,
                &"orders.shop".parse().unwrap(),
                docs.iter().map(|(n, j)| (n, j)),
                false,
            );
            assert!(set.not_understood().is_empty(), "{:?}", set.not_understood());
            policy.with_served(
                "orders.shop",
                Some(Served { policies: set, samples: 0, issuer_aliases: vec![] }),
            )
        });
    }

    /// Asks whoever brings a token for a hop proof.
    pub fn asks_for_proofs(&self) {
        self.state.update_routes(|routes| {
            let ports = routes.inbound_of("orders.shop").iter();
            let ports = ports.map(|port| InboundPort { hop_proof: true, ..(**port).clone() });
            routes.with_inbound("orders.shop", ports.collect())
        });
    }

    /// Knows `orders.shop` at this endpoint, and that it asks for hop proofs.
    pub fn knows_to_prove(&self, ca: &TestCa, protocol: Protocol, endpoint: SocketAddr) {
        let spec = ServiceSpec {
            hop_proof: true,
            ..orders_at(ca, protocol, &[endpoint], "ns/shop/sa/orders", Timeouts::default())
        };
        self.state.update_endpoints(|endpoints| endpoints.apply([spec.clone()], [] as [&str; 0]));
    }

    /// Knows `orders.shop` at this endpoint.
    pub fn knows(&self, ca: &TestCa, protocol: Protocol, endpoints: &[SocketAddr]) {
        self.knows_as(ca, protocol, endpoints, "ns/shop/sa/orders", Timeouts::default());
    }

    pub fn knows_as(
        &self,
        ca: &TestCa,
        protocol: Protocol,
        endpoints: &[SocketAddr],
        identity: &str,
        timeouts: Timeouts,
    ) {
        let spec = orders_at(ca, protocol, endpoints, identity, timeouts);
        self.state.update_endpoints(|endpoints| endpoints.apply([spec.clone()], [] as [&str; 0]));
    }
}

fn orders_at(
    ca: &TestCa,
    protocol: Protocol,
    endpoints: &[SocketAddr],
    identity: &str,
    timeouts: Timeouts,
) -> ServiceSpec {
    ServiceSpec {
        hop_proof: false,
        name: "orders.shop".into(),
        ports: vec![PortSpec { name: "main".into(), port: 80, protocol, timeouts, requests_only: false }],
        identities: vec![ca.id(identity)],
        addresses: vec![],
        endpoints: endpoints
            .iter()
            .map(|at| EndpointSpec {
                address: at.ip(),
                ports: BTreeMap::from([("main".to_owned(), at.port())]),
                identity: None,
                behind: None,
            })
            .collect(),
        user_context: UserContext::Transaction,
        traffic: vec![],
        sharing: None,
    }
}

fn document(at: usize, spec: &str) -> String {
    format!(
        r#"{{"apiVersion":"signet.mesh/v1alpha1","kind":"MeshPolicy","metadata":{{"namespace":"shop","name":"p{at}"}},"spec":{spec}}}"#
    )
}

/// Permits the caller `web` everything.
pub const WEB: &str = r#"{"effect":"permit","from":{"workloads":["ns/shop/sa/web"]}}"#;

pub fn inbound(app: SocketAddr) -> Kind {
    Kind::Inbound { service: "orders.shop".into(), port: "main".into(), app: App::new(AppAddress::Tcp(app)) }
}

pub fn outbound() -> Kind {
    Kind::Outbound { service: "orders.shop".into(), port: "main".into() }
}

/// `web`'s sidecar before `orders`' sidecar before an app.
pub struct Pair {
    pub ca: TestCa,
    pub web: Node,
    pub orders: Node,
    /// Where web's app calls orders.
    pub out: SocketAddr,
    /// Where orders' sidecar takes mutual TLS.
    pub at: SocketAddr,
}

impl Pair {
    pub fn http(app: SocketAddr) -> Pair {
        Pair::new(Protocol::Http1, app, Limits::default())
    }

    pub fn new(protocol: Protocol, app: SocketAddr, limits: Limits) -> Pair {
        let ca = TestCa::new("demo.signet");
        let mut orders =
            Node::with_limits(generation(&ca, "ns/shop/sa/orders", PeerClass::Sidecar), limits.clone());
        orders.serves(protocol, &[WEB]);
        let at = orders.start(vec![inbound(app)])[0];
        let mut web = Node::with_limits(generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar), limits);
        web.knows(&ca, protocol, &[at]);
        let out = web.start(vec![outbound()])[0];
        Pair { ca, web, orders, out, at }
    }
}
