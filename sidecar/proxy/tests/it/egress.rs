//! Calls to places outside the mesh: by a listener of their own, by names in requests and in the app's own TLS, with TLS
//! that the sidecar begins, and through an egress gateway.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{Alpn, PeerClass, routed_server_name};
use signet_model::ExternalService;
use signet_proxy::listener::Kind;
use signet_proxy::state::{EndpointSpec, MeshSettings, PlaceSpec, PortSpec, Protocol, ServiceSpec, Timeouts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::http2::peers;
use crate::redirect::{in_namespace, run};
use crate::support::app::{echo, echo_at, fixed, scripted};
use crate::support::caller::{Client, dial, within};
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
    node.state.update_endpoints(|endpoints| endpoints.with_place(&name, place.clone()));
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

/// An app at 10.1.1.1 whose every connection is redirected, and the sidecar beside it.
async fn redirected(web: &mut Node) {
    let redirects = web.start_at(vec![("0.0.0.0:0", Kind::TransparentOutbound)]);
    let to = redirects[0].port().to_string();
    run("ip", &["addr", "add", "10.1.1.1/32", "dev", "lo"]);
    for public in ["192.0.2.7/32", "192.0.2.8/32", "169.254.169.254/32", "10.7.7.7/32"] {
        run("ip", &["addr", "add", public, "dev", "lo"]);
    }
    let rule =
        ["-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-s", "10.1.1.1", "-j", "REDIRECT", "--to-ports", &to];
    run("iptables", &rule);
    for nobodys in ["192.0.2.7", "192.0.2.8", "169.254.169.254", "10.7.7.7"] {
        web.state.update_endpoints(|endpoints| endpoints.refuse(nobodys, "no service has this address"));
    }
}

async fn call(to: &str) -> Client<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("10.1.1.1:0".parse().unwrap()).unwrap();
    Client { stream: within(socket.connect(to.parse().unwrap())).await.unwrap(), unread: Vec::new() }
}

async fn ask(to: &str, host: &str) -> (u16, String) {
    let mut client = call(to).await;
    client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
    let answer = client.answer().await;
    let what = answer.header("signet-deny-reason").or(answer.echoed("host")).unwrap_or_default();
    (answer.status, what.to_owned())
}

#[test]
fn a_redirected_call_goes_where_its_name_is_and_not_where_the_app_dialled() {
    in_namespace(async {
        let ca = TestCa::new("demo.signet");
        let (world, _) = outside_ca();
        let mut web = web(&ca);
        redirected(&mut web).await;
        // The place is at 192.0.2.7; somebody else is at 192.0.2.8.
        let _site = echo_at("192.0.2.7:80").await;
        let _impostor =
            fixed_at("192.0.2.8:80", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nhost: impostor\r\n\r\n").await;
        let tls = tls_site("192.0.2.7:443", server(&world, "api.example.com", &[])).await;
        assert_eq!(tls.port(), 443);
        knows(
            &web,
            "pay",
            Some(place(
                "pay",
                serde_json::json!({
                    "hosts": ["api.example.com"],
                    "addresses": ["192.0.2.7"],
                    "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}],
                }),
            )),
        );
        for dialled in ["192.0.2.7:80", "192.0.2.8:80", "10.7.7.7:80"] {
            assert_eq!(
                ask(dialled, "api.example.com").await,
                (200, "api.example.com".to_owned()),
                "{dialled}"
            );
        }
        for (dialled, host) in [
            ("192.0.2.7:80", "other.example.com"),
            ("192.0.2.7:80", "192.0.2.7"),
            ("192.0.2.7:80", "api.example.com:443"),
            ("192.0.2.7:81", "api.example.com"),
            ("169.254.169.254:80", "169.254.169.254"),
        ] {
            assert_eq!(ask(dialled, host).await, (403, "egress-denied".to_owned()), "{dialled} {host}");
        }
        // The app's own TLS, by its server name, wherever the app dialled.
        let connector = trusting(&world);
        for (name, passes) in [("api.example.com", true), ("other.example.com", false)] {
            let socket = call("192.0.2.8:443").await.stream;
            let connected = within(connector.connect(name.try_into().unwrap(), socket)).await;
            assert_eq!(connected.is_ok(), passes, "{name}");
            let Ok(stream) = connected else { continue };
            let mut client = Client { stream, unread: Vec::new() };
            assert_eq!(client.get("/").await.text(), name);
        }
        // Without a name in it TLS goes nowhere.
        let socket = call("192.0.2.7:443").await.stream;
        let nameless = rustls_pki_types::ServerName::try_from("192.0.2.7").unwrap();
        assert!(within(connector.connect(nameless, socket)).await.is_err());
    });
}

async fn fixed_at(address: &str, answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            while crate::support::app::read_head(&mut socket).await.is_some() {
                socket.write_all(answer).await.unwrap();
            }
        }
    });
    address
}

#[test]
fn bytes_go_by_their_address_where_it_is_listed_or_is_a_listed_names() {
    in_namespace(async {
        let ca = TestCa::new("demo.signet");
        let mut web = web(&ca);
        redirected(&mut web).await;
        for address in ["192.0.2.7:25", "192.0.2.8:25", "10.7.7.7:25"] {
            let greeting = format!("220 {address}\r\n");
            let listener = TcpListener::bind(address).await.unwrap();
            tokio::spawn(async move {
                while let Ok((mut socket, _)) = listener.accept().await {
                    socket.write_all(greeting.as_bytes()).await.unwrap();
                    let _ = socket.read(&mut [0; 16]).await;
                }
            });
        }
        let port = serde_json::json!([{"name": "smtp", "port": 25}]);
        let by_name =
            serde_json::json!({"hosts": ["mail.example.com"], "addresses": ["192.0.2.7"], "ports": port});
        let by_range = serde_json::json!({"networks": ["10.7.0.0/16"], "ports": port});
        knows(&web, "mail", Some(place("mail", by_name)));
        knows(&web, "inside", Some(place("inside", by_range)));
        for address in ["192.0.2.7:25", "10.7.7.7:25"] {
            let greeting = format!("220 {address}\r\n");
            assert_eq!(call(address).await.take(greeting.len()).await, greeting.as_bytes());
        }
        let mut stranger = call("192.0.2.8:25").await;
        stranger.send("EHLO\r\n").await;
        assert_ne!(stranger.ended().await, Some(false));
    });
}

#[test]
fn where_the_mesh_lets_apps_call_out_what_is_not_listed_goes_where_it_was_dialled_but_never_inward() {
    in_namespace(async {
        let ca = TestCa::new("demo.signet");
        let mut web = web(&ca);
        redirected(&mut web).await;
        let _site = echo_at("192.0.2.7:80").await;
        let _metadata = echo_at("169.254.169.254:80").await;
        let _private = echo_at("10.7.7.7:80").await;
        let greeter = TcpListener::bind("192.0.2.8:80").await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = greeter.accept().await {
                socket.write_all(b"220 ready\r\n").await.unwrap();
                let _ = socket.read(&mut [0; 16]).await;
            }
        });
        assert_eq!(ask("192.0.2.7:80", "any.example.com").await, (403, "egress-denied".to_owned()));
        let mesh = MeshSettings { egress_allow: true, ..Default::default() };
        web.state.update_policy(|policy| policy.with_mesh(mesh));
        for listed in [false, true] {
            if listed {
                let spec = serde_json::json!({
                    "hosts": ["api.example.com"],
                    "addresses": ["192.0.2.7"],
                    "ports": [{"name": "http", "port": 80}],
                });
                knows(&web, "pay", Some(place("pay", spec)));
                let dialled_elsewhere = ask("192.0.2.8:80", "api.example.com").await;
                assert_eq!(dialled_elsewhere, (200, "api.example.com".to_owned()));
            }
            assert_eq!(ask("192.0.2.7:80", "any.example.com").await, (200, "any.example.com".to_owned()));
            // Its server speaks first, and it is not kept waiting for a name for ever.
            assert_eq!(call("192.0.2.8:80").await.take(11).await, b"220 ready\r\n", "{listed}");
            if listed {
                // The default turns under a connection that stands.
                let mut standing = call("192.0.2.7:80").await;
                let mut allowed = call("192.0.2.7:80").await;
                for (client, host) in [(&mut standing, "any.example.com"), (&mut allowed, "api.example.com")]
                {
                    client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
                    assert_eq!(client.answer().await.status, 200);
                }
                let mut bytes = call("192.0.2.8:80").await;
                assert_eq!(bytes.take(11).await, b"220 ready\r\n");
                web.state.update_policy(|policy| policy.with_mesh(MeshSettings::default()));
                assert_eq!(bytes.ended().await, None, "bytes to an address that is not listed");
                for (client, host, status) in
                    [(&mut standing, "any.example.com", 403), (&mut allowed, "api.example.com", 200)]
                {
                    client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
                    assert_eq!(client.answer().await.status, status, "{host}");
                }
                web.state.update_policy(|policy| policy.with_mesh(mesh));
            }
            for inward in ["169.254.169.254:80", "10.7.7.7:80"] {
                assert_eq!(
                    ask(inward, "any.example.com").await,
                    (403, "egress-denied".to_owned()),
                    "{inward}"
                );
            }
        }
    });
}

/// An egress gateway, and how `web` goes through it.
fn gateway(ca: &TestCa, at: SocketAddr, name: &str, spec: serde_json::Value) -> PlaceSpec {
    let service = external(name, spec);
    let protocol = match service.spec.ports[0].protocol.as_str() {
        "http1" => Protocol::Http1,
        "http2" | "grpc" => Protocol::Http2,
        _ => Protocol::Tcp,
    };
    let gateway = ServiceSpec {
        name: service.name.to_string(),
        ports: vec![PortSpec {
            name: "main".into(),
            port: 80,
            protocol,
            timeouts: Timeouts::default(),
            requests_only: false,
        }],
        identities: vec![ca.id("ns/infra/sa/egress")],
        endpoints: vec![EndpointSpec {
            address: at.ip(),
            ports: [("main".to_owned(), at.port())].into(),
            identity: None,
            behind: Some(service.name.clone()),
        }],
        ..Default::default()
    };
    PlaceSpec::new(service, Some(gateway)).unwrap()
}

#[tokio::test]
async fn through_an_egress_gateway_the_gateway_dials_and_its_own_list_says_for_whom() {
    let ca = TestCa::new("demo.signet");
    let (world, _) = outside_ca();
    let mut egress = Node::new(generation(&ca, "ns/infra/sa/egress", PeerClass::Gateway));
    let door = egress.start(vec![Kind::Egress])[0];
    let mut web = web(&ca);
    let app = echo().await;
    let (h2, _) = peers::app(|request, mut respond| async move {
        let said = request.uri().authority().unwrap().to_string();
        let secret = request.headers().contains_key("txn-token");
        let head = http::Response::builder().header("x-asked", said).header("x-secret", secret.to_string());
        respond.send_response(head.body(()).unwrap(), true).unwrap();
    })
    .await;
    let site = tls_site("127.0.0.1:0", server(&world, "api.example.com", &[])).await;
    let greeter = scripted(|mut socket| async move {
        socket.write_all(b"220 ready\r\n").await.unwrap();
        let _ = socket.read(&mut [0; 16]).await;
    })
    .await;
    for (name, to, protocol) in
        [("pay", app, "http1"), ("rpc", h2, "http2"), ("own", site, "tls"), ("mail", greeter, "tcp")]
    {
        knows(&egress, name, Some(place(name, at(to, protocol))));
        knows(&web, name, Some(gateway(&ca, door, name, at(to, protocol))));
    }
    let out = web.start(vec![listener("pay"), listener("rpc"), listener("own"), listener("mail")]);

    let mut client = Client::to(out[0]).await;
    for _ in 0..2 {
        let answer = client.request("/v1", &[("txn-token", "eyJ.eyJ.x")]).await;
        assert_eq!((answer.status, answer.echoed("txn-token")), (200, None));
        assert_eq!(answer.echoed("host"), Some(&*format!("api.example.com:{}", app.port())));
        assert_eq!(answer.echoed("x-forwarded-client-cert"), None);
    }
    let mut client = peers::connect(out[1]).await;
    let request = http::Request::get("http://api.example.com/").header("txn-token", "eyJ").body(()).unwrap();
    let answer = within(client.send_request(request, true).unwrap().0).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-secret"]), (200, &"false".parse().unwrap()));
    let socket = TcpStream::connect(out[2]).await.unwrap();
    let name = "api.example.com".try_into().unwrap();
    let stream = within(trusting(&world).connect(name, socket)).await.unwrap();
    assert_eq!(Client { stream, unread: Vec::new() }.get("/").await.text(), "api.example.com");
    let socket = TcpStream::connect(out[2]).await.unwrap();
    let name = "other.example.com".try_into().unwrap();
    assert!(within(trusting(&world).connect(name, socket)).await.is_err(), "the gateway knows no such name");
    let mut mail = Client::to(out[3]).await;
    assert_eq!(mail.take(11).await, b"220 ready\r\n");

    // A sidecar that is not the caller's own lets nothing through that the gateway does not list.
    let eve = generation(&ca, "ns/other/sa/eve", PeerClass::Sidecar);
    let web_itself = generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let egress_id = ca.id("ns/infra/sa/egress");
    let named = |place: &str| routed_server_name(&egress_id, "main", place, "shop").unwrap();
    for (who, place, alpn, host, status) in [
        (&web_itself, "pay", Alpn::Http1, "api.example.com", Some(200)),
        (&web_itself, "pay", Alpn::Http1, "other.example.com", Some(403)),
        (&web_itself, "pay", Alpn::Http1, "api.example.com:81", Some(403)),
        (&eve, "pay", Alpn::Http1, "api.example.com", Some(403)),
        (&web_itself, "none", Alpn::Http1, "api.example.com", None),
        // Requests where the port says bytes, and bytes where it says requests.
        (&web_itself, "mail", Alpn::Http1, "api.example.com", None),
        (&web_itself, "pay", Alpn::Tcp, "api.example.com", None),
    ] {
        let answer = async {
            let mut client = dial(door, who, alpn, named(place)).await.ok()?;
            client
                .stream
                .write_all(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes())
                .await
                .ok()?;
            let mut byte = [0; 4096];
            let count = client.stream.read(&mut byte).await.ok().filter(|count| *count > 0)?;
            let text = String::from_utf8_lossy(&byte[..count]).into_owned();
            text.split(' ').nth(1)?.parse::<u16>().ok()
        };
        assert_eq!(within(answer).await, status, "{place} {host} {alpn:?}");
    }
    // A hello that says no place.
    let plain = dial(door, &web_itself, Alpn::Http1, signet_identity::server_name(&egress_id)).await;
    if let Ok(mut client) = plain {
        assert_ne!(client.ended().await, Some(false));
    }
    // The list changes at the gateway: what stands ends there.
    knows(&egress, "mail", None);
    assert_ne!(mail.ended().await, Some(false));
}
