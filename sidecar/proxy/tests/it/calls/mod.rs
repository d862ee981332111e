//! Routes and what goes with them: where a request goes, how often it is tried, and how it is bounded.

mod grpc;
mod http;
mod limits;
mod retries;
mod unreached;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signet_identity::PeerClass;
use signet_identity::testing::TestCa;
use signet_model::{AnyRoute, GivenRoutes, TrafficPolicy, TrafficPolicySpec};
use signet_proxy::Limits;
use signet_proxy::listener::Kind;
use signet_proxy::state::{Calls, EndpointSpec, PortSpec, Protocol, ServiceSpec, Timeouts, UserContext};
use tokio::io::AsyncWriteExt as _;

use crate::support::app::{read_head, scripted};
use crate::support::{Node, WEB, generation, inbound, outbound};

/// `web`'s sidecar before one that serves every app, each at a listener of its own.
pub struct Mesh {
    pub ca: TestCa,
    pub web: Node,
    pub orders: Node,
    /// Where web's app calls `orders.shop`.
    pub out: SocketAddr,
    protocol: Protocol,
}

impl Mesh {
    /// Services of namespace shop by name, each with its apps: one endpoint for each.
    pub fn new(protocol: Protocol, services: &[(&str, &[SocketAddr])]) -> Mesh {
        let ca = TestCa::new("demo.signet");
        let mut orders = Node::new(generation(&ca, "ns/shop/sa/orders", PeerClass::Sidecar));
        orders.serves(protocol, &[WEB]);
        let apps = services.iter().flat_map(|(_, apps)| apps.iter());
        let kinds: Vec<Kind> = apps.map(|app| inbound(*app)).collect();
        let mut at = orders.start(kinds).into_iter();
        let mut web = Node::with_limits(
            generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar),
            Limits { stall: crate::support::caller::PATIENCE, ..Limits::default() },
        );
        for (name, apps) in services {
            let endpoints: Vec<_> = at.by_ref().take(apps.len()).collect();
            web.state.update_endpoints(|known| {
                known.apply([service(&ca, name, protocol, &endpoints)], [] as [&str; 0])
            });
        }
        let out = web.start(vec![outbound()])[0];
        Mesh { ca, web, orders, out, protocol }
    }

    pub fn http(services: &[(&str, &[SocketAddr])]) -> Mesh {
        Mesh::new(Protocol::Http1, services)
    }

    /// `orders.shop` has these rules.
    pub fn routes(&self, rules: &str) {
        let kind = if self.protocol == Protocol::Http1 { "HTTPRoute" } else { "GRPCRoute" };
        self.route_spec(
            kind,
            &format!(r#"{{"parentRefs":[{{"kind":"Service","name":"orders"}}],"rules":{rules}}}"#),
        );
    }

    pub fn route_spec(&self, kind: &str, spec: &str) {
        self.route_spec_without(kind, spec, &[]);
    }

    /// The same, by a route that may not refer to these.
    pub fn route_spec_without(&self, kind: &str, spec: &str, refused: &[&str]) {
        let json = format!(
            r#"{{"apiVersion":"gateway.networking.k8s.io/v1","kind":"{kind}","metadata":{{"namespace":"shop","name":"orders"}},"spec":{spec}}}"#
        );
        let route = AnyRoute::from_json(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
        let mut given = GivenRoutes::default();
        given.add(route, refused.iter().map(|name| name.parse().unwrap()));
        let calls = Arc::new(Calls::compile(&"orders.shop".parse().unwrap(), &given));
        self.web.state.update_endpoints(|known| known.with_calls("orders.shop", Some(calls.clone())));
    }

    /// `orders.shop` is called as this says.
    pub fn traffic(&self, rest: &str) {
        let policy = traffic(rest);
        let view = self.web.state.view();
        let known = view.endpoints.service("orders.shop").unwrap();
        let endpoints: Vec<_> = known.ports[0].endpoints.iter().map(|endpoint| endpoint.address).collect();
        let mut spec = service(&self.ca, "orders", self.protocol, &endpoints);
        spec.traffic = vec![policy];
        self.web.state.update_endpoints(|known| known.apply([spec.clone()], [] as [&str; 0]));
    }
}

pub fn traffic(rest: &str) -> TrafficPolicySpec {
    let json = format!(
        r#"{{"apiVersion":"signet.mesh/v1alpha1","kind":"TrafficPolicy","metadata":{{"namespace":"shop","name":"orders"}},"spec":{{"target":{{"service":"orders"}},{rest}}}}}"#
    );
    TrafficPolicy::from_json(&json).unwrap_or_else(|error| panic!("{error}: {json}")).spec
}

fn service(ca: &TestCa, name: &str, protocol: Protocol, endpoints: &[SocketAddr]) -> ServiceSpec {
    ServiceSpec {
        name: format!("{name}.shop"),
        ports: vec![PortSpec {
            name: "main".into(),
            port: 80,
            protocol,
            timeouts: Timeouts::default(),
            requests_only: false,
        }],
        identities: vec![ca.id("ns/shop/sa/orders")],
        endpoints: endpoints
            .iter()
            .map(|at| EndpointSpec {
                address: at.ip(),
                ports: [("main".to_owned(), at.port())].into(),
                identity: None,
                behind: None,
            })
            .collect(),
        user_context: UserContext::Transaction,
        ..ServiceSpec::default()
    }
}

/// An app that answers its requests, over all connections, with these in turn, the last one for ever; also how many came.
/// An empty answer closes the connection instead.
pub async fn in_turn(answers: &'static [&'static str]) -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let app = scripted(move |mut socket| {
        let counted = counted.clone();
        async move {
            while let Some(head) = read_head(&mut socket).await {
                read_body(&mut socket, &head).await;
                let turn = counted.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
                if answers[turn].is_empty() || socket.write_all(answers[turn].as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (app, count)
}

/// Reads a body with a length.
pub async fn read_body(socket: &mut tokio::net::TcpStream, head: &str) -> Vec<u8> {
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    let mut body = vec![0; length.parse().unwrap()];
    let _ = tokio::io::AsyncReadExt::read_exact(socket, &mut body).await;
    body
}

pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
pub const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
