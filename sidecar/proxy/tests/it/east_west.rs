//! Two clusters: a caller in one, a service in the other, and a gateway between them that opens nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls_pki_types::ServerName;
use signet_identity::testing::TestCa;
use signet_identity::{
    Alpn, Generation, PeerClass, RevocationSet, SpiffeId, routed_server_name, server_name,
};
use signet_proxy::Limits;
use signet_proxy::exchange;
use signet_proxy::listener::Kind;
use signet_proxy::state::{EndpointSpec, PortSpec, Protocol, ServiceSpec, Timeouts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::http2::peers;
use crate::support::app::{counted_echo, echo, fixed, read_head, scripted};
use crate::support::caller::{Client, dial, within};
use crate::support::token::Mint;
use crate::support::{Node, WEB, generation, inbound, outbound};

const ORDERS: &str = "ns/shop/sa/orders";

/// An endpoint, perhaps behind a gateway.
fn place(at: SocketAddr, identity: Option<SpiffeId>, behind: Option<&str>) -> EndpointSpec {
    EndpointSpec {
        address: at.ip(),
        ports: [("main".to_owned(), at.port())].into(),
        identity,
        behind: behind.map(|name| name.parse().unwrap()),
    }
}

fn orders_at(ca: &TestCa, protocol: Protocol, endpoints: Vec<EndpointSpec>) -> ServiceSpec {
    ServiceSpec {
        name: "orders.shop".into(),
        ports: vec![PortSpec {
            name: "main".into(),
            port: 80,
            protocol,
            timeouts: Timeouts::default(),
            requests_only: false,
        }],
        identities: vec![ca.id(ORDERS)],
        endpoints,
        ..ServiceSpec::default()
    }
}

fn tell(node: &Node, spec: ServiceSpec) {
    node.state.update_endpoints(|endpoints| endpoints.apply([spec.clone()], [] as [&str; 0]));
}

/// `web` in one cluster; in the other `orders` behind a gateway.
struct Clusters {
    ca: TestCa,
    web: Node,
    gateway: Node,
    orders: Node,
    /// Where web's app calls orders.
    out: SocketAddr,
    /// Where the gateway takes hellos.
    edge: SocketAddr,
    /// Where orders' sidecar takes mutual TLS.
    at: SocketAddr,
}

impl Clusters {
    fn new(protocol: Protocol, app: SocketAddr) -> Self {
        Self::with_limits(protocol, app, Limits::default())
    }

    fn with_limits(protocol: Protocol, app: SocketAddr, limits: Limits) -> Self {
        let ca = TestCa::new("demo.signet");
        let mut orders = Node::new(generation(&ca, ORDERS, PeerClass::Sidecar));
        orders.serves(protocol, &[WEB]);
        let at = orders.start(vec![inbound(app)])[0];
        let mut gateway = Node::with_limits(generation(&ca, "ns/edge/sa/west", PeerClass::Gateway), limits);
        tell(&gateway, orders_at(&ca, protocol, vec![place(at, None, None)]));
        gateway.state.update_routes(|routes| routes.with_passed_on(["orders.shop".to_owned()]));
        let edge = gateway.start(vec![Kind::EastWest])[0];
        let mut web = Node::new(generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar));
        tell(&web, orders_at(&ca, protocol, vec![place(edge, None, Some("orders.shop"))]));
        let out = web.start(vec![outbound()])[0];
        Clusters { ca, web, gateway, orders, out, edge, at }
    }

    fn caller(&self) -> Arc<Generation> {
        generation(&self.ca, "ns/shop/sa/web", PeerClass::Sidecar)
    }

    /// The name by which orders is reached.
    fn name(&self) -> ServerName<'static> {
        routed_server_name(&self.ca.id(ORDERS), "main", "orders", "shop").unwrap()
    }

    /// The gateway refused so many for this reason.
    async fn refused(&self, reason: &str, count: u64) {
        let labels = [("direction", "east-west"), ("reason", reason)];
        self.gateway.counts("signet_refusals_total", &labels, count).await;
    }

    async fn failed(&self, node: &Node, direction: &str, reason: &str, count: u64) {
        let labels = [("direction", direction), ("reason", reason)];
        node.counts("signet_handshake_failures_total", &labels, count).await;
    }

    fn passed(&self) -> u64 {
        let labels = [("direction", "east-west"), ("service", "orders.shop")];
        self.gateway.counter("signet_connections_total", &labels)
    }
}

/// Carries bytes to another address, whatever they are.
async fn forwarder(to: SocketAddr) -> SocketAddr {
    scripted(move |mut socket| async move {
        let Ok(mut onward) = TcpStream::connect(to).await else { return };
        let _ = tokio::io::copy_bidirectional(&mut socket, &mut onward).await;
    })
    .await
}

#[tokio::test]
async fn requests_pass_through_and_the_app_sees_the_far_caller() {
    let clusters = Clusters::new(Protocol::Http1, echo().await);
    let mut client = Client::to(clusters.out).await;
    for _ in 0..3 {
        let answer = client.get("/").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let xfcc = answer.echoed("x-forwarded-client-cert").unwrap();
        assert!(xfcc.contains("URI=spiffe://demo.signet/ns/shop/sa/web"), "{xfcc}");
    }
    assert_eq!(clusters.passed(), 1, "the connection is pooled like any other");
    // Policy at the receiver decides by the far caller, and its revocation cuts it.
    clusters.orders.permits(&[r#"{"effect":"permit","from":{"workloads":["ns/shop/sa/batch"]}}"#]);
    assert_eq!(client.get("/").await.status, 403);
    clusters.orders.permits(&[WEB]);
    assert_eq!(client.get("/").await.status, 200);
    let mut revoked = RevocationSet::new(1);
    revoked.identities.insert(clusters.ca.id("ns/shop/sa/web"));
    let revoked = Arc::new(revoked);
    clusters.orders.state.update_tls(|tls| tls.with_revoked(revoked.clone()));
    // With TLS 1.3 a caller may learn of it only after its handshake.
    assert!(matches!(client.get("/").await.status, 502 | 503));
    clusters.failed(&clusters.orders, "inbound", "revoked", 1).await;
}

#[tokio::test]
async fn grpc_passes_through() {
    let (app, connections) = peers::app(|request, mut respond| async move {
        let xfcc = request.headers().get("x-forwarded-client-cert").unwrap().to_str().unwrap().to_owned();
        assert!(xfcc.contains("URI=spiffe://demo.signet/ns/shop/sa/web"), "{xfcc}");
        peers::drain(request.into_body()).await.unwrap();
        peers::answer_ok(&mut respond, "ok");
    })
    .await;
    let clusters = Clusters::new(Protocol::Grpc, app);
    let mut client = peers::connect(clusters.out).await;
    for _ in 0..3 {
        let answer = peers::send(&mut client, peers::call("/shop.Orders/List"), &b"\0\0\0\0\x02hi"[..]).await;
        assert_eq!(answer.unwrap().status, 200);
    }
    assert_eq!((clusters.passed(), connections.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn bytes_pass_through_and_each_direction_ends_by_itself() {
    let app = scripted(|mut socket| async move {
        socket.write_all(b"220 ready\r\n").await.unwrap();
        let mut all = Vec::new();
        socket.read_to_end(&mut all).await.unwrap();
        socket.write_all(format!("got {}", all.len()).as_bytes()).await.unwrap();
    })
    .await;
    let clusters = Clusters::new(Protocol::Tcp, app);
    let mut client = Client::to(clusters.out).await;
    assert_eq!(client.take(11).await, b"220 ready\r\n");
    client.send(vec![7; 3_000_000]).await;
    within(client.stream.shutdown()).await.unwrap();
    assert_eq!(client.rest().await, b"got 3000000");
    let gauge = |registry: &prometheus::Registry| {
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == "signet_connections").unwrap();
        let of = |metric: &&prometheus::proto::Metric| {
            metric.get_label().iter().any(|label| label.value() == "east-west")
        };
        family.get_metric().iter().find(of).unwrap().get_gauge().get_value() as i64
    };
    within(async {
        while gauge(&clusters.gateway.registry) != 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let labels = [("direction", "east-west"), ("service", "orders.shop"), ("flow", "received")];
    assert!(clusters.gateway.counter("signet_bytes_total", &labels) > 3_000_000);
}

#[tokio::test]
async fn a_reset_on_one_side_is_one_on_the_other() {
    let app = scripted(|mut socket| async move {
        let mut byte = [0];
        socket.read_exact(&mut byte).await.unwrap();
        socket.write_all(b"part").await.unwrap();
        socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    let clusters = Clusters::new(Protocol::Tcp, app);
    let mut client = Client::to(clusters.out).await;
    client.send("x").await;
    let mut all = Vec::new();
    let read = within(client.stream.read_to_end(&mut all)).await;
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_is_no_hello_for_a_service_behind_it_goes_nowhere() {
    let limits = Limits { handshake_time: Duration::from_millis(300), ..Limits::default() };
    let (app, connections) = counted_echo().await;
    let clusters = Clusters::with_limits(Protocol::Http1, app, limits);
    let (ca, edge, caller) = (&clusters.ca, clusters.edge, clusters.caller());

    let mut plain = Client::to(edge).await;
    plain.send("GET / HTTP/1.1\r\nhost: orders.shop\r\n\r\n").await;
    assert_ne!(plain.ended().await, Some(false), "not a byte is answered");
    clusters.failed(&clusters.gateway, "east-west", "plaintext", 1).await;
    let mut garbage = Client::to(edge).await;
    garbage.send([22, 3, 3, 255, 255, 1, 2, 3, 4, 5, 6, 7, 8, 9]).await;
    assert_eq!(garbage.rest().await, [21, 3, 3, 0, 2, 2, 50], "a decode_error alert");
    clusters.failed(&clusters.gateway, "east-west", "not_tls", 1).await;
    let mut half = Client::to(edge).await;
    half.send([22, 3, 1, 2, 0, 1, 0]).await;
    assert_ne!(half.ended().await, Some(false));
    clusters.failed(&clusters.gateway, "east-west", "timeout", 1).await;

    // The right name in a protocol that is not Signet's, and somebody else's name.
    for (at, name) in [clusters.name(), ServerName::try_from("shop.example").unwrap()].into_iter().enumerate()
    {
        let mut config = (*caller.client_config(Alpn::Http1)).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let socket = within(TcpStream::connect(edge)).await.unwrap();
        let refused = within(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket)).await;
        let refused = signet_identity::HandshakeFailure::from_io(&refused.unwrap_err());
        assert!(refused.to_string().contains("unrecognized_name"), "{refused}");
        clusters.failed(&clusters.gateway, "east-west", "foreign_hello", 1 + at as u64).await;
    }

    let orders = ca.id(ORDERS);
    let routed = |id: &SpiffeId, port, service| routed_server_name(id, port, service, "shop").unwrap();
    let cases = [
        ("no-route", server_name(&orders)),
        ("service-unknown", routed(&orders, "main", "stock")),
        ("port-unknown", routed(&orders, "other", "orders")),
        ("no-identity", routed(&ca.id("ns/shop/sa/payments"), "main", "orders")),
    ];
    let refused = async |name| {
        let failure = dial(edge, &caller, Alpn::Http1, name).await.err().expect("it was passed on");
        signet_identity::HandshakeFailure::from_io(&failure).to_string()
    };
    for (reason, name) in cases {
        let failure = refused(name).await;
        assert!(failure.contains("unrecognized_name"), "{reason}: {failure}");
        clusters.refused(reason, 1).await;
    }
    // Known, and not listed for other clusters.
    clusters.gateway.state.update_routes(|routes| routes.with_passed_on([]));
    refused(clusters.name()).await;
    clusters.refused("service-unknown", 2).await;
    clusters.gateway.state.update_routes(|routes| routes.with_passed_on(["orders.shop".to_owned()]));
    // What is behind another gateway is that one's to pass on.
    let onward = vec![place(clusters.at, None, Some("orders.shop"))];
    tell(&clusters.gateway, orders_at(ca, Protocol::Http1, onward));
    refused(clusters.name()).await;
    clusters.refused("no-endpoint", 1).await;
    // Nobody there: no alert could say why, the connection just ends.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    tell(&clusters.gateway, orders_at(ca, Protocol::Http1, vec![place(free, None, None)]));
    refused(clusters.name()).await;
    clusters.refused("connect-failed", 1).await;
    assert_eq!((connections.load(Ordering::SeqCst), clusters.passed()), (0, 1));

    // And the right one is passed on all the same.
    tell(&clusters.gateway, orders_at(ca, Protocol::Http1, vec![place(clusters.at, None, None)]));
    let mut client = dial(edge, &caller, Alpn::Http1, clusters.name()).await.unwrap();
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn an_endpoint_is_chosen_by_the_identity_in_the_name() {
    let ca = TestCa::new("demo.signet");
    let (mut nodes, mut places) = (Vec::new(), Vec::new());
    for identity in ["orders", "orders-b"] {
        let id = format!("ns/shop/sa/{identity}");
        let mut node = Node::new(generation(&ca, &id, PeerClass::Sidecar));
        node.serves(Protocol::Http1, &[WEB]);
        let answer: &'static str = if identity == "orders" { "one" } else { "two" };
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{answer}");
        let at = node.start(vec![inbound(fixed(text.leak().as_bytes()).await)])[0];
        places.push(place(at, Some(ca.id(&id)), None));
        nodes.push(node);
    }
    let both = |endpoints: Vec<EndpointSpec>| ServiceSpec {
        identities: vec![ca.id(ORDERS), ca.id("ns/shop/sa/orders-b")],
        ..orders_at(&ca, Protocol::Http1, endpoints)
    };
    let mut gateway = Node::new(generation(&ca, "ns/edge/sa/west", PeerClass::Gateway));
    tell(&gateway, both(places));
    gateway.state.update_routes(|routes| routes.with_passed_on(["orders.shop".to_owned()]));
    let edge = gateway.start(vec![Kind::EastWest])[0];
    let caller = generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar);
    for _ in 0..8 {
        for (identity, answer) in [("orders", "one"), ("orders-b", "two")] {
            let id = ca.id(&format!("ns/shop/sa/{identity}"));
            let name = routed_server_name(&id, "main", "orders", "shop").unwrap();
            let mut client = dial(edge, &caller, Alpn::Http1, name).await.unwrap();
            assert_eq!(client.get("/").await.text(), answer);
        }
    }
    // A calling sidecar has both at the gateway's one address, and reaches both.
    let mut web = Node::new(caller);
    let behind = |id: &str| place(edge, Some(ca.id(id)), Some("orders.shop"));
    tell(&web, both(vec![behind(ORDERS), behind("ns/shop/sa/orders-b")]));
    let out = web.start(vec![outbound()])[0];
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..64 {
        seen.insert(Client::to(out).await.get("/").await.text().to_owned());
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    // Nobody dials the gateway and means a service, and nobody dials it in plaintext.
    let known = web.state.view();
    assert!(known.endpoints.dialled(edge).is_none() && known.endpoints.is_of_the_mesh(edge));
    let elsewhere = SocketAddr::new(edge.ip(), 443);
    assert!(!known.endpoints.is_of_the_mesh(elsewhere), "the gateway's host is nobody's but for that port");
}

#[tokio::test]
async fn a_gateway_that_leads_to_somebody_else_is_noticed_by_the_caller() {
    let clusters = Clusters::new(Protocol::Http1, echo().await);
    let (app, connections) = counted_echo().await;
    let mut thief = Node::new(generation(&clusters.ca, "ns/shop/sa/thief", PeerClass::Sidecar));
    thief.serves(Protocol::Http1, &[WEB]);
    let at = thief.start(vec![inbound(app)])[0];
    let crooked = forwarder(at).await;
    tell(
        &clusters.web,
        orders_at(&clusters.ca, Protocol::Http1, vec![place(crooked, None, Some("orders.shop"))]),
    );
    let answer = Client::to(clusters.out).await.get("/").await;
    assert_eq!((answer.status, answer.header("signet-deny-reason")), (503, Some("peer-handshake")));
    clusters.failed(&clusters.web, "outbound", "wrong_identity", 1).await;
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_gateway_that_leads_to_another_port_of_the_same_identity_is_noticed_there() {
    let (app, connections) = counted_echo().await;
    let clusters = Clusters::new(Protocol::Http1, app);
    let crooked = forwarder(clusters.at).await;
    let caller = clusters.caller();
    for (port, service) in [("admin", "orders"), ("main", "payments")] {
        let name = routed_server_name(&clusters.ca.id(ORDERS), port, service, "shop").unwrap();
        let failure = dial(crooked, &caller, Alpn::Http1, name).await.err().expect("it was let in");
        let failure = signet_identity::HandshakeFailure::from_io(&failure).to_string();
        assert!(failure.contains("unrecognized_name"), "{failure}");
    }
    clusters.failed(&clusters.orders, "inbound", "wrong_port", 2).await;
    assert_eq!(connections.load(Ordering::SeqCst), 0);
    // A hello that names the right one comes by whatever way it likes.
    let mut client = dial(crooked, &caller, Alpn::Http1, clusters.name()).await.unwrap();
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn a_stranger_gets_no_further_than_a_sidecar_that_refuses_it() {
    let (app, connections) = counted_echo().await;
    let clusters = Clusters::new(Protocol::Http1, app);
    // It knows our root and every name; what it holds is of an authority that nobody here believes.
    let theirs = TestCa::new("demo.signet");
    let own = theirs.svid(
        &theirs.id("ns/shop/sa/web"),
        PeerClass::Sidecar,
        signet_identity::testing::SvidOptions::default().at_wall_clock(),
    );
    let both = signet_identity::Bundles::from(
        signet_identity::TrustBundle::new(
            theirs.trust_domain().clone(),
            [theirs.root().clone(), clusters.ca.root().clone()],
        )
        .unwrap(),
    );
    let stranger = Generation::build(1, own, Arc::new(both), Default::default()).unwrap();
    // With TLS 1.3 it learns from its first read that the server refused it.
    if let Ok(mut client) = dial(clusters.edge, &stranger, Alpn::Http1, clusters.name()).await {
        let _ = client.stream.write_all(b"GET / HTTP/1.1\r\nhost: o\r\n\r\n").await;
        assert_ne!(client.ended().await, Some(false));
    }
    clusters.failed(&clusters.orders, "inbound", "unknown_root", 1).await;
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn those_who_owe_their_hello_crowd_out_each_other_and_nobody_else() {
    let limits = Limits { hellos: 4, handshake_time: Duration::from_secs(60), ..Limits::default() };
    let clusters = Clusters::with_limits(Protocol::Http1, echo().await, limits);
    let mut slow = Vec::new();
    for _ in 0..12 {
        let mut one = Client::to(clusters.edge).await;
        one.send([22, 3, 1, 2, 0]).await;
        slow.push(one);
    }
    // Eight of them had to go, those that came first.
    clusters.gateway.counts("signet_over_limit_total", &[], 8).await;
    for one in &mut slow[..8] {
        assert_ne!(one.ended().await, Some(false));
    }
    // A caller that says what it wants takes nobody's room for long.
    for _ in 0..5 {
        let mut client = dial(clusters.edge, &clusters.caller(), Alpn::Http1, clusters.name()).await.unwrap();
        assert_eq!(client.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_service_that_is_listed_no_more_is_cut_off() {
    let app = scripted(|mut socket| async move {
        socket.write_all(b"hello").await.unwrap();
        let _ = socket.read_u8().await;
    })
    .await;
    let clusters = Clusters::new(Protocol::Tcp, app);
    let mut client = Client::to(clusters.out).await;
    assert_eq!(client.take(5).await, b"hello");
    clusters.gateway.state.update_routes(|routes| routes.with_passed_on(["stock.shop".to_owned()]));
    clusters.gateway.state.decide_again();
    assert_ne!(client.ended().await, Some(false));
    let labels = [("direction", "east-west"), ("reason", "policy")];
    clusters.gateway.counts("signet_streams_cut_total", &labels, 1).await;
}

#[tokio::test]
async fn gateways_that_lead_to_each_other_carry_a_hello_round_once() {
    let ca = TestCa::new("demo.signet");
    let mut gateways: Vec<_> = ["east", "west"]
        .map(|name| Node::new(generation(&ca, &format!("ns/edge/sa/{name}"), PeerClass::Gateway)))
        .into();
    let edges: Vec<_> = gateways.iter_mut().map(|node| node.start(vec![Kind::EastWest])[0]).collect();
    for (node, other) in gateways.iter().zip(edges.iter().rev()) {
        // Each takes the other for a sidecar of its own.
        tell(node, orders_at(&ca, Protocol::Http1, vec![place(*other, None, None)]));
        node.state.update_routes(|routes| routes.with_passed_on(["orders.shop".to_owned()]));
    }
    let caller = generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let name = routed_server_name(&ca.id(ORDERS), "main", "orders", "shop").unwrap();
    let failure = dial(edges[0], &caller, Alpn::Http1, name).await.err().expect("nobody is there");
    let failure = signet_identity::HandshakeFailure::from_io(&failure).to_string();
    assert!(failure.contains("unrecognized_name"), "{failure}");
    let labels = [("direction", "east-west"), ("reason", "no-route")];
    gateways[0].counts("signet_refusals_total", &labels, 1).await;
    let passed = [("direction", "east-west"), ("service", "orders.shop")];
    for node in &gateways {
        assert_eq!(node.counter("signet_connections_total", &passed), 1);
    }
}

#[tokio::test]
async fn a_draining_gateway_takes_nobody_new_and_lets_what_is_under_way_end() {
    let (came, mut told) = tokio::sync::mpsc::channel(1);
    let (go, may) = tokio::sync::mpsc::channel::<()>(1);
    let may = Arc::new(tokio::sync::Mutex::new(may));
    let app = scripted(move |mut socket| {
        let (came, may) = (came.clone(), may.clone());
        async move {
            read_head(&mut socket).await;
            came.send(()).await.unwrap();
            may.lock().await.recv().await;
            let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
            socket.write_all(answer).await.unwrap();
        }
    })
    .await;
    let Clusters { mut gateway, out, edge, orders: _orders, web: _web, ca, .. } =
        Clusters::new(Protocol::Http1, app);
    let mut client = Client::to(out).await;
    client.send("GET / HTTP/1.1\r\nhost: o\r\nconnection: close\r\n\r\n").await;
    within(told.recv()).await.unwrap();
    let drained = tokio::spawn(async move { (gateway.drain(Duration::from_millis(500)).await, gateway) });
    within(async {
        while TcpStream::connect(edge).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    go.send(()).await.unwrap();
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "ok"));
    // The caller keeps the connection for its next request, of which the gateway knows nothing: it is cut in the end.
    let (cut, _gateway) = within(drained).await.unwrap();
    assert!(cut <= 1, "{cut}");
    drop(ca);
}

#[tokio::test]
async fn a_users_token_travels_between_clusters_of_one_trust_domain() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let app = scripted(move |mut socket| {
        let count = count.clone();
        async move {
            while let Some(head) = read_head(&mut socket).await {
                count.fetch_add(usize::from(head.to_lowercase().contains("txn-token: ")), Ordering::SeqCst);
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        }
    })
    .await;
    let clusters = Clusters::new(Protocol::Http1, app);
    let mint = Mint::new();
    mint.trusted_by(&clusters.orders.state);
    let token = mint.token("alice", &[]);
    let _open = clusters.web.shared.exchanges.open(exchange::hash(token.as_bytes()), u64::MAX);
    let answer = Client::to(clusters.out).await.request("/", &[("txn-token", &token)]).await;
    assert_eq!((answer.status, seen.load(Ordering::SeqCst)), (200, 1));
}
