//! Our app uses its sidecar as an HTTP proxy, knowingly: CONNECT by both versions of HTTP, and requests in absolute form.

use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http::{Method, Request};
use signet_identity::{Alpn, RevocationSet};
use signet_proxy::state::{EndpointSpec, Endpoints, PortSpec, ServiceSpec, Timeouts};

use super::*;
use crate::support::caller::peer;
use crate::support::{WEB, inbound};

fn entry(site: SocketAddr, number: u16, protocol: &str) -> serde_json::Value {
    serde_json::json!({
        "hosts": ["api.example.com"],
        "addresses": [site.ip()],
        "ports": [{"name": "main", "port": number, "targetPort": site.port(), "protocol": protocol}],
    })
}

/// Sends this and reads the answer's status and head.
async fn ask(out: SocketAddr, request: &str) -> (Client<TcpStream>, u16, String) {
    let mut client = Client::to(out).await;
    client.send(request).await;
    let head = client.head().await;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (client, status, head)
}

fn connect(to: &str) -> String {
    format!(
        "CONNECT {to} HTTP/1.1\r\nhost: {to}\r\ntxn-token: eyJ.eyJ.x\r\nproxy-authorization: Basic eA==\r\n\r\n"
    )
}

fn reason(head: &str) -> Option<&str> {
    head.lines().find_map(|line| line.strip_prefix("signet-deny-reason: "))
}

async fn refused(node: &Node, reason: &str, count: u64) {
    node.counts("signet_refusals_total", &[("direction", "outbound"), ("reason", reason)], count).await;
}

/// An app of bytes that says what it hears.
async fn bytes_app() -> SocketAddr {
    scripted(|mut socket| async move {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = socket.read(&mut buffer).await {
            if socket.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
        let _ = socket.write_all(b"over").await;
    })
    .await
}

/// `orders.shop` of the mesh, with a port of bytes and one for requests, behind sidecars.
struct Orders {
    bytes: Node,
    _requests: Node,
}

fn mesh(ca: &TestCa, web: &Node, app: SocketAddr, http: SocketAddr) -> Orders {
    mesh_within(ca, web, app, http, Timeouts::default())
}

/// The same, with these times of its ports.
fn mesh_within(ca: &TestCa, web: &Node, app: SocketAddr, http: SocketAddr, timeouts: Timeouts) -> Orders {
    let mut bytes = Node::new(generation(ca, "ns/shop/sa/orders", PeerClass::Sidecar));
    bytes.serves(Protocol::Tcp, &[WEB]);
    let at = bytes.start(vec![inbound(app)])[0];
    let mut requests = Node::new(generation(ca, "ns/shop/sa/orders", PeerClass::Sidecar));
    requests.serves(Protocol::Http1, &[WEB]);
    let http = requests.start(vec![inbound(http)])[0];
    let port = |name: &str, port, protocol| PortSpec {
        name: name.into(),
        port,
        protocol,
        timeouts,
        requests_only: false,
    };
    let spec = ServiceSpec {
        name: "orders.shop".into(),
        ports: vec![port("db", 5432, Protocol::Tcp), port("http", 80, Protocol::Http1)],
        identities: vec![ca.id("ns/shop/sa/orders")],
        endpoints: vec![EndpointSpec {
            address: at.ip(),
            ports: [("db".to_owned(), at.port()), ("http".to_owned(), http.port())].into(),
            identity: None,
            behind: None,
        }],
        ..ServiceSpec::default()
    };
    let known = |endpoints: &Endpoints| {
        endpoints.apply([spec.clone()], [] as [&str; 0]).refuse("none.shop", "no such service")
    };
    web.state.update_endpoints(known);
    Orders { bytes, _requests: requests }
}

#[tokio::test]
async fn connect_opens_a_stream_to_what_is_listed_as_bytes_and_to_nothing_else() {
    let ca = TestCa::new("demo.signet");
    let mut web = web(&ca);
    let (outside, _) = outside_ca();
    let site = tls_site("127.0.0.1:0", server(&outside, "api.example.com", &[])).await;
    let bytes = bytes_app().await;
    knows(&web, "site", Some(place("site", entry(site, 443, "tls"))));
    knows(&web, "mail", Some(place("mail", entry(bytes, 25, "tcp"))));
    knows(&web, "web", Some(place("web", entry(bytes, 80, "http1"))));
    let ranges = serde_json::json!({"networks": ["127.0.0.0/8"], "ports": [{"name": "main", "port": bytes.port(), "protocol": "tcp"}]});
    knows(&web, "range", Some(place("range", ranges)));
    let out = web.start(vec![Kind::Explicit])[0];

    let (client, status, head) = ask(out, &connect("api.example.com:443")).await;
    assert_eq!((status, &*head), (200, "HTTP/1.1 200 OK\r\n\r\n"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(outside.root().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let name = "api.example.com".try_into().unwrap();
    let stream = within(connector.connect(name, client.stream)).await.unwrap();
    let mut client = Client { stream, unread: Vec::new() };
    assert_eq!(client.get("/").await.text(), "api.example.com");
    let labels = [("direction", "outbound"), ("service", "site.shop")];
    assert_eq!(web.counter("signet_connections_total", &labels), 1);

    for to in ["api.example.com:25", &format!("127.0.0.1:{}", bytes.port())] {
        // An eager client's bytes go where the stream goes.
        let (mut client, status, head) = ask(out, &format!("{}hello", connect(to))).await;
        assert_eq!(status, 200, "{to}: {head}");
        assert_eq!(client.take(5).await, b"hello");
        within(client.stream.shutdown()).await.unwrap();
        assert_eq!(client.rest().await, b"over", "each direction ends by itself");
    }
    // HTTP/1.0, as older libraries ask.
    let (mut client, status, _) = ask(out, "CONNECT api.example.com:25 HTTP/1.0\r\n\r\n").await;
    assert_eq!(status, 200);
    client.send("x").await;
    assert_eq!(client.take(1).await, b"x");

    for (request, expected, why) in [
        (connect("other.example.com:443"), 403, "egress-denied"),
        (connect("api.example.com:444"), 403, "egress-denied"),
        (connect("x.api.example.com:443"), 403, "egress-denied"),
        (connect("127.0.0.1:443"), 403, "egress-denied"),
        (connect("[::1]:443"), 403, "egress-denied"),
        (connect(&format!("10.0.0.1:{}", bytes.port())), 403, "egress-denied"),
        (connect("api.example.com:80"), 405, "method-not-allowed"),
        ("CONNECT api.example.com HTTP/1.1\r\nhost: api.example.com\r\n\r\n".into(), 400, "bad-request"),
        ("CONNECT api.example.com:25 HTTP/1.1\r\nhost: other:25\r\n\r\n".into(), 400, "bad-request"),
        (
            "CONNECT http://api.example.com:25/ HTTP/1.1\r\nhost: api.example.com:25\r\n\r\n".into(),
            400,
            "bad-request",
        ),
        (
            "CONNECT api.example.com:25 HTTP/1.1\r\nhost: api.example.com:25\r\ncontent-length: 1\r\n\r\nx"
                .into(),
            400,
            "bad-request",
        ),
    ] {
        let (mut client, status, head) = ask(out, &request).await;
        assert_eq!((status, reason(&head)), (expected, Some(why)), "{request}");
        // What follows a refused CONNECT was not meant for us.
        assert!(head.contains("connection: close"), "{head}");
        client.rest().await;
    }
    // The mesh's leave to call what is not listed is for apps that resolve names themselves.
    web.state.update_policy(|policy| {
        policy.with_mesh(signet_proxy::state::MeshSettings { egress_allow: true, ..policy.mesh })
    });
    let (_, status, _) = ask(out, &connect("other.example.com:443")).await;
    assert_eq!(status, 403);
    // Another name inside than the one that was asked for, and no TLS at all.
    let (mut client, status, _) = ask(out, &connect("api.example.com:443")).await;
    assert_eq!(status, 200);
    client.send("GET / HTTP/1.1\r\nhost: other.example.com\r\n\r\n").await;
    assert_ne!(client.ended().await, Some(false));
    let (client, _, _) = ask(out, &connect("api.example.com:443")).await;
    let name = "other.example.com".try_into().unwrap();
    assert!(within(connector.connect(name, client.stream)).await.is_err());
    refused(&web, "egress-denied", 9).await;
}

#[tokio::test]
async fn a_stream_ends_with_what_let_it_be_there() {
    let ca = TestCa::new("demo.signet");
    let mut web = web(&ca);
    let app = bytes_app().await;
    let orders = mesh(&ca, &web, app, app);
    knows(&web, "mail", Some(place("mail", entry(app, 25, "tcp"))));
    let out = web.start(vec![Kind::Explicit])[0];
    let open = |to: &'static str| async move {
        let (mut client, status, head) = ask(out, &connect(to)).await;
        assert_eq!(status, 200, "{head}");
        client.send("x").await;
        assert_eq!(client.take(1).await, b"x");
        client
    };
    let (mut mail, mut db) =
        (open("api.example.com:25").await, open("orders.shop.signet.internal:5432").await);
    // Its entry goes.
    knows(&web, "mail", None);
    assert_ne!(mail.ended().await, Some(false));
    db.send("y").await;
    assert_eq!(db.take(1).await, b"y", "the other one is not concerned");
    // Policy at the far end turns.
    orders.bytes.permits(&[]);
    assert_ne!(db.ended().await, Some(false));
    orders.bytes.permits(&[WEB]);
    // The peer is revoked.
    let mut db = open("orders.shop.signet.internal:5432").await;
    let mut revoked = RevocationSet::new(1);
    revoked.identities.insert(ca.id("ns/shop/sa/orders"));
    let revoked = Arc::new(revoked);
    web.state.update_tls(|tls| tls.with_revoked(revoked.clone()));
    assert_ne!(db.ended().await, Some(false));
}

#[tokio::test]
async fn a_service_of_the_mesh_is_named_in_full_and_reached_as_ever() {
    let ca = TestCa::new("demo.signet");
    let mut web = web(&ca);
    let orders = mesh(&ca, &web, bytes_app().await, echo().await);
    let out = web.start(vec![Kind::Explicit])[0];
    let host = "orders.shop.signet.internal";
    let (mut client, status, _) =
        ask(out, &format!("GET http://{host}/a?b=1 HTTP/1.1\r\nhost: {host}\r\nproxy-authorization: x\r\nproxy-connection: keep-alive\r\n\r\n")).await;
    assert_eq!(status, 200);
    let body = String::from_utf8(client.take(20).await).unwrap();
    assert!(body.starts_with("GET /a?b=1"), "{body}");
    for (request, expected, why) in [
        (connect("orders.shop.signet.internal:80"), 405, "method-not-allowed"),
        (connect("orders.shop.signet.internal:81"), 503, "port-unknown"),
        (connect("none.shop.signet.internal:80"), 503, "service-unknown"),
        (connect("orders.shop:5432"), 403, "egress-denied"),
        (connect("x.orders.shop.signet.internal:5432"), 403, "egress-denied"),
        (format!("GET http://{host}:5432/ HTTP/1.1\r\nhost: {host}:5432\r\n\r\n"), 501, "not-implemented"),
        (format!("GET https://{host}/ HTTP/1.1\r\nhost: {host}\r\n\r\n"), 501, "not-implemented"),
        (format!("GET http://{host}:81/ HTTP/1.1\r\nhost: {host}:81\r\n\r\n"), 503, "port-unknown"),
    ] {
        let (_, status, head) = ask(out, &request).await;
        assert_eq!((status, reason(&head)), (expected, Some(why)), "{request}");
    }
    // Receivers never take it, whoever asks, nor does a listener for one service.
    let generation = generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let at =
        web.state.view().endpoints.service("orders.shop").unwrap().port("http").unwrap().endpoints[0].address;
    let mut inside = peer(at, &generation, Alpn::Http1, &ca.id("ns/shop/sa/orders")).await.unwrap();
    inside.send(connect("orders.shop.signet.internal:5432")).await;
    assert_eq!(inside.answer().await.status, 405);
    drop(orders);
}

#[tokio::test]
async fn requests_in_absolute_form_go_where_their_host_is_listed() {
    let ca = TestCa::new("demo.signet");
    let mut web = web(&ca);
    let app = echo().await;
    knows(&web, "web", Some(place("web", entry(app, 80, "http1"))));
    knows(&web, "site", Some(place("site", entry(app, 443, "tls"))));
    let out = web.start(vec![Kind::Explicit])[0];
    let mut client = Client::to(out).await;
    client
        .send("GET http://api.example.com/v1?q=1 HTTP/1.1\r\nhost: api.example.com\r\ntxn-token: eyJ.eyJ.x\r\nsignet-user: e30\r\nx-forwarded-client-cert: URI=x\r\nproxy-authorization: Basic eA==\r\nproxy-connection: keep-alive\r\nauthorization: Bearer app\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.text().starts_with("GET /v1?q=1"), "{}", answer.text());
    assert_eq!(answer.echoed("host"), Some("api.example.com"));
    assert_eq!(answer.echoed("authorization"), Some("Bearer app"));
    for name in
        ["txn-token", "signet-user", "x-forwarded-client-cert", "proxy-authorization", "proxy-connection"]
    {
        assert_eq!(answer.echoed(name), None, "{name}");
    }
    // On the same connection each request is judged by itself.
    for (target, host, status) in [
        ("http://other.example.com/", "other.example.com", 403),
        ("http://api.example.com:81/", "api.example.com:81", 403),
        ("http://api.example.com:443/", "api.example.com:443", 403),
        ("https://api.example.com/", "api.example.com", 501),
        ("http://169.254.169.254/latest", "169.254.169.254", 403),
        ("http://api.example.com/", "api.example.com", 200),
    ] {
        client.send(format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(client.answer().await.status, status, "{target}");
    }
    // A host that says something else than the target is nobody's.
    client.send("GET http://api.example.com/ HTTP/1.1\r\nhost: other.example.com\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 400);
    // Bytes are none of its business.
    let mut client = Client::to(out).await;
    client.send("SSH-2.0-x\r\n\r\n").await;
    assert_ne!(client.ended().await, Some(false));
    refused(&web, "not-implemented", 2).await;
}

fn connect_h2(to: &str) -> Request<()> {
    Request::builder().method(Method::CONNECT).uri(to).header("txn-token", "eyJ.eyJ.x").body(()).unwrap()
}

/// Exactly so many bytes of a stream.
async fn take(body: &mut RecvStream, count: usize) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while all.len() < count {
        let Some(part) = within(body.data()).await else { break };
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        all.extend_from_slice(&part);
    }
    Ok(all)
}

#[tokio::test]
async fn connect_over_http2_carries_bytes_in_a_stream_that_is_governed_by_itself() {
    let ca = TestCa::new("demo.signet");
    let mut web = web(&ca);
    let app = bytes_app().await;
    let orders = mesh(&ca, &web, app, app);
    knows(&web, "mail", Some(place("mail", entry(app, 25, "tcp"))));
    knows(&web, "site", Some(place("site", entry(app, 443, "tls"))));
    let out = web.start(vec![Kind::Explicit])[0];
    let mut client = peers::connect(out).await;
    let mut streams = Vec::new();
    for to in ["api.example.com:25", "orders.shop.signet.internal:5432"] {
        let (response, up) = client.send_request(connect_h2(to), false).unwrap();
        let answer = within(response).await.unwrap();
        assert_eq!(answer.status(), 200, "{to}");
        assert!(answer.headers().is_empty(), "{:?}", answer.headers());
        streams.push((up, answer.into_body()));
    }
    for (up, down) in &mut streams {
        up.send_data(Bytes::from_static(b"hello"), false).unwrap();
        assert_eq!(take(down, 5).await.unwrap(), b"hello");
    }
    // More than a window, both ways.
    let (up, down) = &mut streams[1];
    let big = Bytes::from(vec![7; 1_000_000]);
    let (wrote, came) = tokio::join!(peers::write(up, big.clone(), true), take(down, big.len() + 4));
    wrote.unwrap();
    let came = came.unwrap();
    assert_eq!(came.len(), big.len() + 4);
    assert!(came.ends_with(b"over"), "each direction ends by itself");

    for (to, status, why) in [
        ("other.example.com:25", 403, "egress-denied"),
        ("api.example.com", 400, "bad-request"),
        ("orders.shop.signet.internal:80", 405, "method-not-allowed"),
    ] {
        let answer = peers::send(&mut client, connect_h2(to), Bytes::new()).await.unwrap();
        assert_eq!((answer.status, answer.header("signet-deny-reason")), (status, Some(why)), "{to}");
    }
    // The app's own TLS is for the name that was asked for.
    let (response, mut up) = client.send_request(connect_h2("api.example.com:443"), false).unwrap();
    let mut body = within(response).await.unwrap().into_body();
    up.send_data(Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n"), false).unwrap();
    assert!(take(&mut body, 1).await.is_err());
    // An entry that goes ends its stream and no other.
    let (response, mut up) =
        client.send_request(connect_h2("orders.shop.signet.internal:5432"), false).unwrap();
    let mut db = within(response).await.unwrap().into_body();
    knows(&web, "mail", None);
    assert!(take(&mut streams[0].1, 1).await.is_err());
    up.send_data(Bytes::from_static(b"x"), false).unwrap();
    assert_eq!(take(&mut db, 1).await.unwrap(), b"x");
    orders.bytes.permits(&[]);
    assert!(take(&mut db, 1).await.is_err());
}

#[tokio::test]
async fn what_connect_opened_may_finish_while_the_process_drains_and_is_cut_at_its_end() {
    let ca = TestCa::new("demo.signet");
    let mut web = web(&ca);
    let app = bytes_app().await;
    knows(&web, "mail", Some(place("mail", entry(app, 25, "tcp"))));
    let out = web.start(vec![Kind::Explicit])[0];
    let open = || async {
        let (mut client, status, head) = ask(out, &connect("api.example.com:25")).await;
        assert_eq!(status, 200, "{head}");
        client.send("x").await;
        assert_eq!(client.take(1).await, b"x");
        client
    };
    let (mut done, mut never) = (open().await, open().await);
    let mut h2 = peers::connect(out).await;
    let (response, mut up) = h2.send_request(connect_h2("api.example.com:25"), false).unwrap();
    let mut down = within(response).await.unwrap().into_body();
    up.send_data(Bytes::from_static(b"x"), false).unwrap();
    assert_eq!(take(&mut down, 1).await.unwrap(), b"x");
    let drained = tokio::spawn(async move { (web.drain(Duration::from_secs(2)).await, web) });
    within(async {
        while tokio::net::TcpStream::connect(out).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    done.send("last").await;
    assert_eq!(done.take(4).await, b"last");
    within(done.stream.shutdown()).await.unwrap();
    assert_eq!(done.rest().await, b"over");
    up.send_data(Bytes::from_static(b"words"), true).unwrap();
    assert_eq!(take(&mut down, 9).await.unwrap(), b"wordsover");
    let (cut, _web) = within(drained).await.unwrap();
    assert_eq!(cut, 1, "the one that did not end by itself");
    assert_ne!(never.ended().await, Some(false));
}

#[tokio::test]
async fn what_connect_opened_ends_after_the_idle_time_of_its_port() {
    let ca = TestCa::new("demo.signet");
    let mut web = web(&ca);
    let app = bytes_app().await;
    let timeouts = Timeouts { idle: Some(Duration::from_millis(200)), ..Timeouts::default() };
    let _orders = mesh_within(&ca, &web, app, app, timeouts);
    let out = web.start(vec![Kind::Explicit])[0];
    let (mut client, status, head) = ask(out, &connect("orders.shop.signet.internal:5432")).await;
    assert_eq!(status, 200, "{head}");
    client.send("x").await;
    assert_eq!(client.take(1).await, b"x");
    assert_ne!(client.ended().await, Some(false));
    let mut h2 = peers::connect(out).await;
    let (response, mut up) = h2.send_request(connect_h2("orders.shop.signet.internal:5432"), false).unwrap();
    let mut down = within(response).await.unwrap().into_body();
    up.send_data(Bytes::from_static(b"x"), false).unwrap();
    assert_eq!(take(&mut down, 1).await.unwrap(), b"x");
    assert!(take(&mut down, 1).await.is_err(), "a stream that ended in order");
}
