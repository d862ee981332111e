//! Calls to places outside the mesh: by a listener of their own, by names in requests and in the app's own TLS, with TLS
//! that the sidecar begins, and through an egress gateway.

mod explicit;
mod gateway;
mod redirected;

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use signet_identity::PeerClass;
use signet_identity::testing::{SvidOptions, TestCa};
use signet_model::ExternalService;
use signet_proxy::listener::Kind;
use signet_proxy::state::{PlaceSpec, Protocol};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::http2::peers;
use crate::support::app::{echo, fixed, scripted};
use crate::support::caller::{Client, within};
use crate::support::{Node, generation};

/// An ExternalService `name.shop` with this spec.
fn external(name: &str, spec: serde_json::Value) -> ExternalService {
    let document = serde_json::json!({
        "apiVersion": "signet.mesh/v1alpha1",
        "kind": "ExternalService",
        "metadata": {"namespace": "shop", "name": name},
        "spec": spec,
    });
    ExternalService::from_json(&document.to_string()).unwrap()
}

fn place(name: &str, spec: serde_json::Value) -> PlaceSpec {
    PlaceSpec::new(external(name, spec), None).unwrap()
}

fn knows(node: &Node, name: &str, place: Option<PlaceSpec>) {
    let name = format!("{name}.shop");
    node.state.update_endpoints(|endpoints| endpoints.with_places([(&*name, place.clone())]));
    node.state.decide_again();
}

fn listener(name: &str) -> Kind {
    Kind::Outbound { service: format!("{name}.shop").into(), port: "main".into() }
}

fn web(ca: &TestCa) -> Node {
    Node::new(generation(ca, "ns/shop/sa/web", PeerClass::Sidecar))
}

fn at(address: SocketAddr, protocol: &str) -> serde_json::Value {
    serde_json::json!({
        "hosts": ["api.example.com"],
        "addresses": [address.ip()],
        "ports": [{"name": "main", "port": 80, "targetPort": address.port(), "protocol": protocol}],
    })
}

/// An authority of the outside world, and its root in PEM.
fn outside_ca() -> (TestCa, String) {
    let ca = TestCa::new("outside.example");
    let root = base64::engine::general_purpose::STANDARD.encode(ca.root());
    (ca, format!("-----BEGIN CERTIFICATE-----\n{root}\n-----END CERTIFICATE-----\n"))
}

/// A config of a server outside with a certificate for this name.
fn server(ca: &TestCa, name: &str, alpn: &[&[u8]]) -> Arc<rustls::ServerConfig> {
    let options = SvidOptions { dns: vec![name.to_owned()], ..Default::default() }.at_wall_clock();
    let own = ca.svid(&ca.id("ns/web/sa/site"), PeerClass::Workload, options);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(own.private_key_pkcs8().to_vec());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(own.chain().to_vec(), key.into())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// A server outside that says over TLS which name it was asked for, to each line that it gets.
async fn tls_site(bind: &str, config: Arc<rustls::ServerConfig>) -> SocketAddr {
    let listener = TcpListener::bind(bind).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(config.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(socket).await else { return };
                let mut buffer = [0; 1024];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    let name = stream.get_ref().1.server_name().unwrap_or("none").to_owned();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_listener_for_one_place_calls_it_by_its_name_and_nothing_of_the_mesh_goes_along() {
    let ca = TestCa::new("demo.signet");
    let mut web = web(&ca);
    let app =
        fixed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nsignet-deny-reason: policy\r\nx-own: 1\r\n\r\n")
            .await;
    let spoken = echo().await;
    knows(&web, "pay", Some(place("pay", at(spoken, "http1"))));
    knows(&web, "mute", Some(place("mute", at(app, "http1"))));
    let out = web.start(vec![listener("pay"), listener("mute")]);
    let mut client = Client::to(out[0]).await;
    let secrets = [
        ("txn-token", "eyJ.eyJ.x"),
        ("signet-user", "e30"),
        ("signet-context", "forwarded"),
        ("x-forwarded-client-cert", "URI=spiffe://demo.signet/ns/shop/sa/web"),
        ("authorization", "Bearer app"),
    ];
    let answer = client.request("/v1?q=1", &secrets).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.echoed("host"), Some(&*format!("api.example.com:{}", spoken.port())));
    assert!(answer.text().starts_with("GET /v1?q=1"));
    for (name, _) in &secrets[..4] {
        assert_eq!(answer.echoed(name), None, "{name}");
    }
    assert_eq!(
        answer.echoed("authorization"),
        Some("Bearer app"),
        "the app's own credential is its own matter"
    );
    let answer = Client::to(out[1]).await.get("/").await;
    assert_eq!((answer.header("x-own"), answer.header("signet-deny-reason")), (Some("1"), None));

    // Not listed any more: there is nothing to be called on this connection.
    knows(&web, "pay", None);
    assert_ne!(client.ended().await, Some(false));
}

#[tokio::test]
async fn what_an_upgrade_leaves_goes_both_ways_and_ends_with_its_entry_alone() {
    let ca = TestCa::new("demo.signet");
    let mut web = web(&ca);
    let app = scripted(|mut socket| async move {
        let _ = crate::support::app::read_head(&mut socket).await;
        let switching =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        socket.write_all(switching).await.unwrap();
        let mut buffer = [0; 64];
        while let Ok(count @ 1..) = socket.read(&mut buffer).await {
            socket.write_all(&buffer[..count]).await.unwrap();
        }
    })
    .await;
    for name in ["pay", "other"] {
        knows(&web, name, Some(place(name, at(app, "http1"))));
    }
    let out = web.start(vec![listener("pay"), listener("other")]);
    let mut clients = Vec::new();
    for at in out {
        let mut client = Client::to(at).await;
        let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13";
        client
            .send(format!(
                "GET / HTTP/1.1\r\nhost: o\r\nconnection: upgrade\r\nupgrade: websocket\r\n{key}\r\n\r\n"
            ))
            .await;
        assert!(client.head().await.starts_with("HTTP/1.1 101"));
        client.send("ping").await;
        assert_eq!(client.take(4).await, b"ping");
        clients.push(client);
    }
    knows(&web, "pay", None);
    assert_ne!(clients[0].ended().await, Some(false));
    clients[1].send("ping").await;
    assert_eq!(clients[1].take(4).await, b"ping");
}

#[tokio::test]
async fn several_names_are_told_apart_by_the_request_and_a_name_that_is_not_listed_is_refused() {
    let ca = TestCa::new("demo.signet");
    let mut web = web(&ca);
    let app = echo().await;
    let spec = serde_json::json!({
        "hosts": ["api.example.com", "*.cdn.example.com"],
        "networks": ["127.0.0.0/8"],
        "ports": [{"name": "main", "port": 80, "targetPort": app.port(), "protocol": "http1"}],
    });
    knows(&web, "pay", Some(place("pay", spec)));
    let out = web.start(vec![listener("pay")])[0];
    for (host, status, reason) in [
        ("other.example.com", 403, Some("egress-denied")),
        ("cdn.example.com", 403, Some("egress-denied")),
        ("api.example.com:81", 403, Some("egress-denied")),
        ("cdn.example.com.", 403, Some("egress-denied")),
        // Listed, and nobody in this sandbox resolves it.
        ("no-such-name.cdn.example.com", 503, Some("name-unresolved")),
    ] {
        let mut client = Client::to(out).await;
        client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("signet-deny-reason")), (status, reason), "{host}");
    }
}

#[tokio::test]
async fn a_name_leads_inward_only_where_its_entry_opens_that_range() {
    let ca = TestCa::new("demo.signet");
    let mut web = web(&ca);
    let app = echo().await;
    let spec = |networks: &[&str]| {
        let mut spec = serde_json::json!({
            "hosts": ["localhost"],
            "ports": [{"name": "main", "port": 80, "targetPort": app.port(), "protocol": "http1"}],
        });
        if !networks.is_empty() {
            spec["networks"] = networks.into();
        }
        Some(place("local", spec))
    };
    knows(&web, "local", spec(&[]));
    let out = web.start(vec![listener("local")])[0];
    let answer = Client::to(out).await.get("/").await;
    assert_eq!((answer.status, answer.header("signet-deny-reason")), (403, Some("address-refused")));
    knows(&web, "local", spec(&["10.0.0.0/8", "169.254.0.0/16"]));
    assert_eq!(Client::to(out).await.get("/").await.status, 403);
    knows(&web, "local", spec(&["127.0.0.0/8", "::1/128"]));
    let answer = Client::to(out).await.get("/").await;
    assert_eq!((answer.status, answer.echoed("host")), (200, Some(&*format!("localhost:{}", app.port()))));

    // Our own listener, and whatever is the mesh's, is never such a place, or it would call itself for ever.
    let loop_back = serde_json::json!({
        "hosts": ["localhost"],
        "addresses": ["127.0.0.1"],
        "ports": [{"name": "main", "port": 80, "targetPort": out.port(), "protocol": "http1"}],
    });
    knows(&web, "local", Some(place("local", loop_back)));
    let answer = Client::to(out).await.get("/").await;
    assert_eq!((answer.status, answer.header("signet-deny-reason")), (403, Some("address-refused")));
    knows(&web, "local", Some(place("local", at(app, "http1"))));
    assert_eq!(Client::to(out).await.get("/").await.status, 200);
    web.knows(&ca, Protocol::Http1, &[app]);
    let mut fresh = at(app, "http1");
    fresh["hosts"] = serde_json::json!(["fresh.example.com"]);
    knows(&web, "local", Some(place("local", fresh)));
    let answer = Client::to(out).await.get("/").await;
    assert_eq!(
        answer.header("signet-deny-reason"),
        Some("address-refused"),
        "the mesh's, never in plaintext"
    );
}

#[tokio::test]
async fn tls_that_the_sidecar_begins_asks_for_the_name_and_believes_only_the_entrys_authority() {
    let ca = TestCa::new("demo.signet");
    let (world, root) = outside_ca();
    let mut web = web(&ca);
    let site = tls_site("127.0.0.1:0", server(&world, "api.example.com", &[b"http/1.1"])).await;
    let spec = |tls: serde_json::Value, protocol: &str| {
        let mut spec = at(site, protocol);
        spec["ports"][0]["tls"] = tls;
        Some(place("pay", spec))
    };
    knows(&web, "pay", spec(serde_json::json!({"caCertificates": root}), "http1"));
    let out = web.start(vec![listener("pay")])[0];
    let mut client = Client::to(out).await;
    for _ in 0..2 {
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.text()), (200, "api.example.com"));
    }
    for (tls, protocol, fine) in [
        // The public web's authorities do not know this one.
        (serde_json::json!({}), "http1", "bad_chain"),
        (
            serde_json::json!({"caCertificates": root, "serverName": "other.example.com"}),
            "http1",
            "bad_chain",
        ),
        // It speaks HTTP/1.1 only.
        (serde_json::json!({"caCertificates": root}), "http2", "alert_received"),
    ] {
        knows(&web, "pay", spec(tls.clone(), protocol));
        let refused = if protocol == "http1" {
            let answer = Client::to(out).await.get("/").await;
            (answer.status, answer.header("signet-deny-reason").map(str::to_owned))
        } else {
            let mut client = peers::connect(out).await;
            let request = http::Request::get("http://api.example.com/").body(()).unwrap();
            let answer = within(client.send_request(request, true).unwrap().0).await.unwrap();
            let reason = answer.headers().get("signet-deny-reason").map(|it| it.to_str().unwrap().to_owned());
            (answer.status().as_u16(), reason)
        };
        assert_eq!(refused, (502, Some("outside-handshake".to_owned())), "{tls}");
        let labels = [("direction", "outbound"), ("reason", fine)];
        assert!(web.counter("signet_handshake_failures_total", &labels) > 0, "{tls}: {fine}");
    }
}

#[tokio::test]
async fn bytes_and_the_apps_own_tls_go_to_the_place_as_they_are() {
    let ca = TestCa::new("demo.signet");
    let (world, _) = outside_ca();
    let mut web = web(&ca);
    let greeter = scripted(|mut socket| async move {
        socket.write_all(b"220 ready\r\n").await.unwrap();
        let mut buffer = [0; 64];
        while let Ok(count @ 1..) = socket.read(&mut buffer).await {
            socket.write_all(&buffer[..count]).await.unwrap();
        }
    })
    .await;
    let site = tls_site("127.0.0.1:0", server(&world, "api.example.com", &[])).await;
    knows(&web, "mail", Some(place("mail", at(greeter, "tcp"))));
    knows(&web, "pay", Some(place("pay", at(site, "tls"))));
    let out = web.start(vec![listener("mail"), listener("pay")]);

    let mut client = Client::to(out[0]).await;
    assert_eq!(client.take(11).await, b"220 ready\r\n");
    client.send("EHLO\r\n").await;
    assert_eq!(client.take(6).await, b"EHLO\r\n");

    let connector = trusting(&world);
    for (name, passes) in [("api.example.com", true), ("other.example.com", false)] {
        let socket = TcpStream::connect(out[1]).await.unwrap();
        let connected = within(connector.connect(name.try_into().unwrap(), socket)).await;
        assert_eq!(connected.is_ok(), passes, "{name}");
        let Ok(stream) = connected else { continue };
        let mut client = Client { stream, unread: Vec::new() };
        assert_eq!(client.get("/").await.text(), name);
    }
    // Neither a request in plaintext nor silence is a name.
    let mut client = Client::to(out[1]).await;
    client.send("GET / HTTP/1.1\r\nhost: api.example.com\r\n\r\n").await;
    assert_ne!(client.ended().await, Some(false));

    // The entry goes, and with it the streams under it; the other's goes on.
    knows(&web, "pay", None);
    let mut other = Client::to(out[0]).await;
    assert_eq!(other.take(11).await, b"220 ready\r\n");
    knows(&web, "mail", None);
    assert_ne!(client.ended().await, Some(false));
    assert_eq!(other.ended().await, None, "a stream that is cut is reset");
}

fn trusting(ca: &TestCa) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.root().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}
