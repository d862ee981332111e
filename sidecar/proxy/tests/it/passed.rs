//! Whole connections of our app, sent on by routes of the service that it dials.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use signet_identity::PeerClass;
use signet_identity::testing::TestCa;
use signet_model::AnyRoute;
use signet_proxy::listener::Kind;
use signet_proxy::state::{Calls, EndpointSpec, PortSpec, Protocol, ServiceSpec, Timeouts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::app::scripted;
use crate::support::caller::{Client, within};
use crate::support::{Node, WEB, generation, inbound};

/// `web`, and three services of bytes: `db`, and two to which its routes lead.
struct Scene {
    web: Node,
    out: SocketAddr,
    _behind: Vec<Node>,
}

/// Says its name and then what it hears.
async fn app(name: &'static str) -> SocketAddr {
    scripted(move |mut socket| async move {
        let _ = socket.write_all(name.as_bytes()).await;
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = socket.read(&mut buffer).await {
            if socket.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    })
    .await
}

impl Scene {
    async fn new() -> Self {
        let ca = TestCa::new("demo.signet");
        let mut web = Node::new(generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar));
        let mut behind = Vec::new();
        for name in ["db", "v1", "v2"] {
            let mut node = Node::new(generation(&ca, "ns/shop/sa/orders", PeerClass::Sidecar));
            node.serves(Protocol::Tcp, &[WEB]);
            let at = node.start(vec![inbound(app(name).await)])[0];
            let spec = ServiceSpec {
                name: format!("{name}.shop"),
                ports: vec![PortSpec {
                    name: "main".into(),
                    port: 80,
                    protocol: Protocol::Tcp,
                    timeouts: Timeouts::default(),
                    requests_only: false,
                }],
                identities: vec![ca.id("ns/shop/sa/orders")],
                endpoints: vec![EndpointSpec {
                    address: at.ip(),
                    ports: [("main".to_owned(), at.port())].into(),
                    identity: None,
                    behind: None,
                }],
                ..ServiceSpec::default()
            };
            web.state.update_endpoints(|endpoints| endpoints.apply([spec.clone()], [] as [&str; 0]));
            behind.push(node);
        }
        let out = web.start(vec![Kind::Outbound { service: "db.shop".into(), port: "main".into() }])[0];
        Scene { web, out, _behind: behind }
    }

    fn routed(&self, routes: &[(&str, Value)]) {
        let routes: Vec<_> = routes
            .iter()
            .enumerate()
            .map(|(at, (kind, spec))| {
                let document = json!({
                    "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
                    "metadata": {"namespace": "shop", "name": format!("r{at}")}, "spec": spec,
                });
                AnyRoute::from_json(&document.to_string()).unwrap_or_else(|error| panic!("{error}"))
            })
            .collect();
        let calls = Arc::new(Calls::compile(&"db.shop".parse().unwrap(), &routes.into()));
        self.web.state.update_endpoints(|known| known.with_calls("db.shop", Some(calls.clone())));
    }

    async fn refused(&self, reason: &str, count: u64) {
        let labels = [("direction", "outbound"), ("reason", reason)];
        self.web.counts("signet_refusals_total", &labels, count).await;
    }
}

fn to(name: &str, weight: u32) -> Value {
    json!({"name": name, "port": 80, "weight": weight})
}

fn at_db(more: Value) -> Value {
    let mut spec = json!({"parentRefs": [{"kind": "Service", "name": "db", "sectionName": "main"}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

#[tokio::test]
async fn connections_go_by_weight_and_outlive_a_change_of_it() {
    let scene = Scene::new().await;
    assert_eq!(Client::to(scene.out).await.take(2).await, b"db", "without a route");
    let tcp = |backends: Value| ("TCPRoute", at_db(json!({"rules": [{"backendRefs": backends}]})));
    scene.routed(&[tcp(json!([to("v1", 3), to("v2", 1)]))]);
    let mut first = 0;
    for _ in 0..80 {
        match &*Client::to(scene.out).await.take(2).await {
            b"v1" => first += 1,
            other => assert_eq!(other, b"v2"),
        }
    }
    assert!((40..75).contains(&first), "{first} of 80 at a weight of 3 in 4");
    scene.routed(&[tcp(json!([to("v1", 1)]))]);
    let mut kept = Client::to(scene.out).await;
    assert_eq!(kept.take(2).await, b"v1");
    scene.routed(&[tcp(json!([to("v2", 1), to("db", 0)]))]);
    scene.web.state.decide_again();
    assert_eq!(Client::to(scene.out).await.take(2).await, b"v2");
    kept.send("still").await;
    assert_eq!(kept.take(5).await, b"still");
    // Nowhere is not the service itself.
    scene.routed(&[tcp(json!([to("db", 0)]))]);
    assert_ne!(Client::to(scene.out).await.ended().await, Some(false));
    scene.refused("no-backend", 1).await;
}

#[tokio::test]
async fn an_apps_own_tls_goes_by_its_name_and_nothing_else_goes_anywhere() {
    let scene = Scene::new().await;
    let tls = |hosts: Value, name: &str| {
        ("TLSRoute", at_db(json!({"hostnames": hosts, "rules": [{"backendRefs": [to(name, 1)]}]})))
    };
    scene.routed(&[tls(json!(["*.example.com"]), "v1"), tls(json!(["b.example.com"]), "v2")]);
    for (name, expected) in [("a.example.com", b"v1"), ("B.example.com", b"v2"), ("x.b.example.com", b"v1")] {
        let mut client = Client::to(scene.out).await;
        client.send(hello(name)).await;
        assert_eq!(client.take(2).await, expected, "{name}");
        assert_eq!(client.take(3).await, [22, 3, 1], "and its hello as it was");
    }
    for (bytes, alert) in [(hello("example.com"), 112), (hello(""), 109), (b"SELECT 1\r\n\r\n".to_vec(), 10)]
    {
        let mut client = Client::to(scene.out).await;
        client.send(&bytes).await;
        assert_eq!(client.rest().await, [21, 3, 3, 0, 2, 2, alert]);
    }
    scene.refused("no-route", 1).await;
    scene.refused("no-server-name", 2).await;
    // Who says nothing is not waited for longer than for a head, and reaches nobody meanwhile.
    let mut silent = Client::to(scene.out).await;
    within(silent.stream.shutdown()).await.unwrap();
    assert_eq!(silent.rest().await, [21, 3, 3, 0, 2, 2, 10]);
}

/// A hello of a real client for this name; without one it says none.
fn hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.enable_sni = !name.is_empty();
    let name = if name.is_empty() { "none.example" } else { name };
    let name = name.to_owned().try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_routed_connection_may_finish_while_the_process_drains_and_is_cut_at_its_end() {
    let mut scene = Scene::new().await;
    scene.routed(&[("TCPRoute", at_db(json!({"rules": [{"backendRefs": [to("v1", 1)]}]})))]);
    let (mut done, mut never) = (Client::to(scene.out).await, Client::to(scene.out).await);
    for client in [&mut done, &mut never] {
        assert_eq!(client.take(2).await, b"v1");
    }
    let out = scene.out;
    let drained = tokio::spawn(async move { (scene.web.drain(Duration::from_secs(2)).await, scene) });
    within(async {
        while tokio::net::TcpStream::connect(out).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    done.send("last").await;
    assert_eq!(done.take(4).await, b"last");
    drop(done);
    let (cut, _scene) = within(drained).await.unwrap();
    assert_eq!(cut, 1, "the one that did not end by itself");
    assert_ne!(never.ended().await, Some(false));
}
