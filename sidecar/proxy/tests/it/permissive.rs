//! A port on its way into the mesh: callers in plaintext are let in as nobody until a date, and only where no policy asks
//! who calls. Nothing that claims to be the mesh's becomes plaintext by failing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use signet_identity::testing::TestCa;
use signet_identity::{Alpn, PeerClass};
use signet_proxy::Limits;
use signet_proxy::state::{InboundPort, Protocol, Timeouts, UserContext};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::app::{counted_echo, scripted};
use crate::support::caller::{Client, peer, within};
use crate::support::token::now;
use crate::support::{Node, WEB, generation, inbound};

/// Lets anybody in.
const ANYBODY: &str = r#"{"effect":"permit"}"#;
/// Short, so that waiting for it costs little.
const HELLO_TIME: Duration = Duration::from_millis(600);

/// `orders`, one port of which is permissive until then.
struct Orders {
    node: Node,
    ca: TestCa,
    at: SocketAddr,
}

fn port(protocol: Protocol, until: Option<u64>) -> InboundPort {
    InboundPort {
        hop_proof: false,
        service: "orders.shop".into(),
        name: "main".into(),
        port: 80,
        protocol,
        timeouts: Timeouts::default(),
        user_context: UserContext::Transaction,
        user_headers: Arc::default(),
        permissive_until: until,
    }
}

impl Orders {
    fn new(protocol: Protocol, app: SocketAddr, until: u64) -> Self {
        let limits = Limits { handshake_time: HELLO_TIME, ..Limits::default() };
        Orders::with(port(protocol, Some(until)), app, limits)
    }

    fn with(port: InboundPort, app: SocketAddr, limits: Limits) -> Self {
        let ca = TestCa::new("demo.signet");
        let mut node = Node::with_limits(generation(&ca, "ns/shop/sa/orders", PeerClass::Sidecar), limits);
        node.state.update_routes(|routes| routes.with_inbound("orders.shop", vec![port.clone()]));
        node.permits(&[ANYBODY]);
        let at = node.start(vec![inbound(app)])[0];
        Orders { node, ca, at }
    }

    async fn web(&self, alpn: Alpn) -> Client<tokio_rustls::client::TlsStream<TcpStream>> {
        let web = generation(&self.ca, "ns/shop/sa/web", PeerClass::Sidecar);
        peer(self.at, &web, alpn, &self.ca.id("ns/shop/sa/orders")).await.expect("a peer is let in")
    }

    fn let_in(&self) -> u64 {
        let labels = [("service", "orders.shop"), ("port", "main")];
        self.node.counter("signet_plaintext_connections_total", &labels)
    }

    /// A plaintext caller gets nothing.
    async fn is_strict(&self, why: &str) {
        let before = self.let_in();
        let mut client = Client::to(self.at).await;
        client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = within(client.stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 403"), "{why}: {answer}");
        assert_eq!(self.let_in(), before, "{why}");
    }
}

/// In a year.
fn later() -> u64 {
    now() + 365 * 86_400
}

/// An app that says each connection's first bytes, and what it then hears, and answers nothing.
async fn listening() -> (SocketAddr, mpsc::UnboundedReceiver<Vec<u8>>, Arc<AtomicUsize>) {
    let (told, heard) = mpsc::unbounded_channel();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let app = scripted(move |mut socket| {
        let (told, count) = (told.clone(), count.clone());
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(read @ 1..) = socket.read(&mut buffer).await {
                let _ = told.send(buffer[..read].to_vec());
            }
        }
    })
    .await;
    (app, heard, connections)
}

/// Says a line to whoever connects, and then each line back.
async fn greeting() -> SocketAddr {
    scripted(|mut socket| async move {
        let _ = socket.write_all(b"220 ready\r\n").await;
        let mut buffer = [0; 1024];
        while let Ok(read @ 1..) = socket.read(&mut buffer).await {
            if socket.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_caller_without_the_mesh_is_let_in_as_nobody_and_counted_by_its_address() {
    let (app, _) = counted_echo().await;
    let orders = Orders::new(Protocol::Http1, app, later());
    let mut client = Client::to(orders.at).await;
    let forged = [
        ("txn-token", "x.y.z"),
        ("signet-user", "eyJzdWIiOiJhbGljZSJ9"),
        ("x-forwarded-client-cert", "URI=spiffe://demo.signet/ns/shop/sa/web"),
        ("signet-context", "forwarded"),
        ("x-other", "stays"),
    ];
    let answer = client.request("/", &forged).await;
    assert_eq!(answer.status, 200);
    for (name, _) in &forged[..4] {
        assert_eq!(answer.echoed(name), None, "{}", answer.text());
    }
    assert_eq!(answer.echoed("x-other"), Some("stays"));
    assert_eq!(client.get("/again").await.status, 200, "the same connection");
    // Peers are peers as ever.
    let mut web = orders.web(Alpn::Http1).await;
    let answer = web.get("/").await;
    assert!(answer.echoed("x-forwarded-client-cert").is_some_and(|it| it.contains("ns/shop/sa/web")));
    assert_eq!(orders.let_in(), 1);
    let seen = orders.node.shared.plaintext.seen("orders.shop", "main");
    assert_eq!(seen.connections.into_iter().collect::<Vec<_>>(), [([127, 0, 0, 1].into(), 1)]);
    assert_eq!(seen.others, 0);
    let labels = [("direction", "inbound"), ("service", "orders.shop")];
    assert_eq!(orders.node.counter("signet_stripped_headers_total", &labels), 4);
}

#[tokio::test]
async fn http2_in_plaintext_is_let_in_where_the_port_speaks_it() {
    let (app, _, connections) = listening().await;
    let orders = Orders::new(Protocol::Grpc, app, later());
    let (mut send, connection) = {
        let socket = TcpStream::connect(orders.at).await.unwrap();
        h2::client::handshake(socket).await.unwrap()
    };
    tokio::spawn(connection);
    let request = http::Request::post("http://orders/shop.Orders/List")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (_answer, _) = send.send_request(request, true).unwrap();
    let asked = async {
        while connections.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    within(asked).await;
    assert_eq!(orders.let_in(), 1);
}

#[tokio::test]
async fn a_silent_client_hears_its_server_and_a_peer_does_not_wait() {
    let orders = Orders::new(Protocol::Tcp, greeting().await, later());
    let begin = Instant::now();
    let mut client = Client::to(orders.at).await;
    assert_eq!(client.take(11).await, b"220 ready\r\n");
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(100) && took < Duration::from_secs(3), "{took:?}");
    client.send("QUIT\r\n").await;
    assert_eq!(client.take(6).await, b"QUIT\r\n");
    // One that speaks at once is heard at once, and before its server.
    let mut client = Client::to(orders.at).await;
    client.send("EHLO\r\n").await;
    assert_eq!(client.take(17).await, b"220 ready\r\nEHLO\r\n");
    let mut best = Duration::MAX;
    for _ in 0..10 {
        let begin = Instant::now();
        let mut web = orders.web(Alpn::Tcp).await;
        assert_eq!(web.take(11).await, b"220 ready\r\n");
        best = best.min(begin.elapsed());
    }
    assert!(best < Duration::from_millis(90), "{best:?}");
    assert_eq!(orders.let_in(), 2);
}

#[tokio::test]
async fn a_client_that_ends_without_a_word_is_carried_like_any_other() {
    let app = scripted(|mut socket| async move {
        let mut all = Vec::new();
        socket.read_to_end(&mut all).await.unwrap();
        socket.write_all(format!("{} bytes", all.len()).as_bytes()).await.unwrap();
    })
    .await;
    let orders = Orders::new(Protocol::Tcp, app, later());
    let mut client = Client::to(orders.at).await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await, b"0 bytes");
}

#[tokio::test]
async fn a_peer_whose_hello_is_late_is_a_peer_as_long_as_the_app_has_not_spoken() {
    let (app, mut heard, connections) = listening().await;
    let orders = Orders::new(Protocol::Tcp, app, later());
    let socket = TcpStream::connect(orders.at).await.unwrap();
    // The silence is over when the app was dialled.
    let dialled = async {
        while connections.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(dialled).await;
    let web = generation(&orders.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let connector = tokio_rustls::TlsConnector::from(web.client_config(Alpn::Tcp));
    let name = signet_identity::server_name(&orders.ca.id("ns/shop/sa/orders"));
    let mut stream = within(connector.connect(name, socket)).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(within(heard.recv()).await.unwrap(), b"hello", "and no byte of the handshake");
    assert_eq!(orders.let_in(), 0);
}

/// Says a line to whoever connects; what each then said, when it is over.
async fn greeting_and_listening() -> (SocketAddr, mpsc::UnboundedReceiver<Vec<u8>>) {
    let (told, heard) = mpsc::unbounded_channel();
    let app = scripted(move |mut socket| {
        let told = told.clone();
        async move {
            let _ = socket.write_all(b"220 ready\r\n").await;
            let mut all = Vec::new();
            // However it ends.
            let _ = socket.read_to_end(&mut all).await;
            let _ = told.send(all);
        }
    })
    .await;
    (app, heard)
}

#[tokio::test]
async fn a_hello_of_ours_after_the_apps_greeting_is_cut_and_never_reaches_the_app() {
    let (app, mut heard) = greeting_and_listening().await;
    let orders = Orders::new(Protocol::Tcp, app, later());
    let labels = [("direction", "inbound"), ("reason", "timeout")];
    for (times, pieces) in [(1, 1), (2, 7)] {
        let mut late = Client::to(orders.at).await;
        assert_eq!(late.take(11).await, b"220 ready\r\n");
        let ours = hello(&[b"signet-tcp"], "db.example.com");
        for piece in ours.chunks(ours.len().div_ceil(pieces)) {
            late.send(piece).await;
        }
        assert_ne!(late.ended().await, Some(false));
        assert_eq!(within(heard.recv()).await.unwrap(), b"", "no byte of it");
        orders.node.counts("signet_handshake_failures_total", &labels, times).await;
    }
    // Half of one, and its end.
    let mut half = Client::to(orders.at).await;
    assert_eq!(half.take(11).await, b"220 ready\r\n");
    half.send(&hello(&[b"signet-tcp"], "db.example.com")[..90]).await;
    half.stream.shutdown().await.unwrap();
    assert_eq!(within(heard.recv()).await.unwrap(), b"");
    // What is not ours is the app's, hello or not.
    let foreign = hello(&[b"postgresql"], "db.example.com");
    for said in [&foreign[..], b"QUIT\r\n", &[0x16, 0, 0, 1, 2]] {
        let mut stranger = Client::to(orders.at).await;
        assert_eq!(stranger.take(11).await, b"220 ready\r\n");
        stranger.send(said).await;
        stranger.stream.shutdown().await.unwrap();
        assert_eq!(within(heard.recv()).await.unwrap(), said);
    }
}

/// Believes any server.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A client without a certificate.
fn stranger(alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let verifier = builder.dangerous().with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = verifier.with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// The first flight of such a client.
fn hello(alpn: &[&[u8]], name: &str) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = rustls::ClientConnection::new(stranger(alpn), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_hello_of_ours_without_a_certificate_is_refused_and_never_becomes_plaintext() {
    for protocol in [Protocol::Tcp, Protocol::Http1] {
        let (app, mut heard, connections) = listening().await;
        let orders = Orders::new(protocol, app, later());
        for (alpn, name) in [
            (&[b"signet-tcp".as_slice()][..], "db.example.com"),
            (&[b"signet-http/1.1".as_slice()][..], "db.example.com"),
            (&[][..], "orders.shop.signet.internal"),
        ] {
            let socket = TcpStream::connect(orders.at).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(stranger(alpn));
            let name = ServerName::try_from(name.to_owned()).unwrap();
            if let Ok(mut stream) = within(connector.connect(name, socket)).await {
                // In TLS 1.3 a client learns of it with its first read.
                let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
                let mut all = Vec::new();
                assert!(within(stream.read_to_end(&mut all)).await.is_err(), "{alpn:?}");
                assert!(all.is_empty());
            }
        }
        // Somebody whose certificate is of another authority, likewise.
        let other = generation(&TestCa::new("demo.signet"), "ns/shop/sa/web", PeerClass::Sidecar);
        if let Ok(mut client) = peer(orders.at, &other, Alpn::Tcp, &orders.ca.id("ns/shop/sa/orders")).await {
            assert_ne!(client.ended().await, Some(false));
        }
        // A hello that is cut by its sender's end, or that never comes whole.
        let ours = hello(&[b"signet-tcp"], "db.example.com");
        let mut client = Client::to(orders.at).await;
        client.send(&ours[..ours.len() / 2]).await;
        client.stream.shutdown().await.unwrap();
        assert_ne!(client.ended().await, Some(false));
        assert_eq!(connections.load(Ordering::SeqCst), 0, "{protocol:?}: the app was never asked");
        assert!(heard.try_recv().is_err());
        assert_eq!(orders.let_in(), 0);
    }
}

#[tokio::test]
async fn the_apps_own_tls_passes_as_bytes_on_a_tcp_port_and_on_no_other() {
    let foreign = hello(&[b"postgresql"], "db.example.com");
    let (app, mut heard, _) = listening().await;
    let orders = Orders::new(Protocol::Tcp, app, later());
    // In two parts, so that the first alone says nothing.
    let mut client = Client::to(orders.at).await;
    client.send(&foreign[..7]).await;
    client.send(&foreign[7..]).await;
    let mut got = Vec::new();
    while got.len() < foreign.len() {
        got.extend(within(heard.recv()).await.unwrap());
    }
    assert_eq!(got, foreign);
    assert_eq!(orders.let_in(), 1);

    let (app, mut heard, _) = listening().await;
    let orders = Orders::new(Protocol::Http1, app, later());
    let mut client = Client::to(orders.at).await;
    client.send(&foreign).await;
    let mut alert = Vec::new();
    let _ = within(client.stream.read_to_end(&mut alert)).await;
    assert_eq!(alert.first(), Some(&21), "a TLS alert: {alert:?}");
    assert!(heard.try_recv().is_err());
    // And where the port is strict, on none.
    let (app, mut heard, _) = listening().await;
    let orders = Orders::new(Protocol::Tcp, app, 1);
    let mut client = Client::to(orders.at).await;
    client.send(&foreign).await;
    let _ = within(client.stream.read_to_end(&mut alert)).await;
    assert!(heard.try_recv().is_err());
    assert_eq!(orders.let_in(), 0);
}

#[tokio::test]
async fn half_a_hello_byte_by_byte_gets_no_further_and_no_longer_than_a_handshake_may_take() {
    let ours = hello(&[b"signet-tcp"], "db.example.com");
    for silent_first in [false, true] {
        let (app, mut heard, connections) = listening().await;
        let orders = Orders::new(Protocol::Tcp, app, later());
        let client = Client::to(orders.at).await;
        if silent_first {
            let dialled = async {
                while connections.load(Ordering::SeqCst) == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            within(dialled).await;
        }
        let begin = Instant::now();
        let (mut read, mut write) = client.stream.into_split();
        let part = ours[..60].to_vec();
        let drip = tokio::spawn(async move {
            for byte in &part {
                if write.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let mut all = Vec::new();
        let _ = within(read.read_to_end(&mut all)).await;
        let took = begin.elapsed();
        assert!(took >= HELLO_TIME && took < HELLO_TIME * 4, "{took:?}");
        assert!(all.is_empty() && heard.try_recv().is_err(), "not a byte went either way");
        assert_eq!(connections.load(Ordering::SeqCst), usize::from(silent_first));
        drip.abort();
    }
}

/// A live stream of nobody's.
async fn live(orders: &Orders) -> Client<TcpStream> {
    let mut client = Client::to(orders.at).await;
    client.send("x").await;
    assert_eq!(client.take(12).await, b"220 ready\r\nx");
    client
}

#[tokio::test]
async fn a_policy_that_asks_who_calls_makes_the_port_strict_at_once_and_cuts_live_streams() {
    for asking in [
        WEB,
        r#"{"effect":"forbid","from":{"workloads":["ns/shop/sa/web"]}}"#,
        r#"{"effect":"permit","mode":"shadow","from":{"workloads":["ns/shop/sa/web"]}}"#,
        r#"{"effect":"permit","user":{"required":true}}"#,
        r#"{"effect":"permit","to":{"paths":["/x"]}}"#,
        r#"{"effect":"permit","to":{"methods":["GET"],"ports":["main"]}}"#,
        r#"{"effect":"permit","to":{"grpc":["a.B/C"]}}"#,
        // Asks nothing, and forbids everybody.
        r#"{"effect":"forbid","to":{"ports":["main"]}}"#,
    ] {
        let orders = Orders::new(Protocol::Tcp, greeting().await, later());
        let mut client = live(&orders).await;
        // About another port: nothing changes.
        let elsewhere =
            r#"{"effect":"permit","from":{"workloads":["ns/shop/sa/web"]},"to":{"ports":["http"]}}"#;
        orders.node.permits(&[ANYBODY, elsewhere]);
        client.send("y").await;
        assert_eq!(client.take(1).await, b"y");
        orders.node.permits(&[ANYBODY, asking]);
        assert_eq!(client.ended().await, None, "{asking}: reset, and not ended");
        orders.is_strict(asking).await;
        let cut = [("direction", "inbound"), ("reason", "strict")];
        orders.node.counts("signet_streams_cut_total", &cut, 1).await;
        // And one that says nothing and waits for the app.
        orders.node.permits(&[ANYBODY]);
        live(&orders).await;
    }
}

#[tokio::test]
async fn a_request_connection_and_one_that_nobody_has_spoken_on_are_cut_too() {
    let (app, _) = counted_echo().await;
    let orders = Orders::new(Protocol::Http1, app, later());
    let mut idle = Client::to(orders.at).await;
    assert_eq!(idle.get("/").await.status, 200);
    orders.node.permits(&[ANYBODY, WEB]);
    assert_ne!(idle.ended().await, Some(false));
    orders.is_strict("a policy").await;

    let (app, _, connections) = listening().await;
    let orders = Orders::new(Protocol::Tcp, app, later());
    let mut silent = Client::to(orders.at).await;
    let dialled = async {
        while connections.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(dialled).await;
    orders.node.permits(&[ANYBODY, WEB]);
    assert_ne!(silent.ended().await, Some(false));
}

#[tokio::test]
async fn after_its_date_the_port_is_strict_for_live_streams_as_well_by_our_own_clock() {
    let until = now() + 2;
    let orders = Orders::new(Protocol::Tcp, greeting().await, until);
    let mut client = live(&orders).await;
    assert_eq!(client.ended().await, None, "reset, and not ended");
    assert!(now() >= until);
    orders.is_strict("the date").await;
    let mut web = orders.web(Alpn::Tcp).await;
    assert_eq!(web.take(11).await, b"220 ready\r\n");
}

#[tokio::test]
async fn what_is_not_permissive_stays_strict_whatever_the_date_says() {
    let (app, _) = counted_echo().await;
    let orders = Orders::new(Protocol::Http1, app, later());
    let mut client = Client::to(orders.at).await;
    assert_eq!(client.get("/").await.status, 200);
    let becomes = |port: InboundPort| {
        orders.node.state.update_routes(|routes| routes.with_inbound("orders.shop", vec![port.clone()]));
    };
    // The users' own tokens.
    becomes(InboundPort { user_context: UserContext::Original, ..port(Protocol::Http1, Some(later())) });
    assert_ne!(client.ended().await, Some(false), "a live connection, too");
    orders.is_strict("original").await;
    becomes(port(Protocol::Auto, Some(later())));
    orders.is_strict("nobody says what it speaks").await;
    becomes(port(Protocol::Http1, None));
    orders.is_strict("never declared").await;
    becomes(port(Protocol::Http1, Some(later())));
    orders.node.permits(&[]);
    orders.is_strict("nothing permits it").await;
    orders.node.state.update_policy(|policy| policy.with_served("orders.shop", None));
    orders.is_strict("no policy here").await;
}

#[tokio::test]
async fn callers_without_the_mesh_are_one_caller_to_a_rate_limit() {
    let (app, _) = counted_echo().await;
    let orders = Orders::new(Protocol::Http1, app, later());
    let limits = [crate::calls::traffic(
        r#""rateLimits":[{"name":"each","key":["workload"],"requests":2,"per":"1h"}]"#,
    )];
    orders.node.state.update_routes(|routes| routes.with_limits("orders.shop", &limits));
    for status in [200, 200, 429] {
        assert_eq!(Client::to(orders.at).await.get("/").await.status, status);
    }
    let mut web = orders.web(Alpn::Http1).await;
    assert_eq!(web.get("/").await.status, 200, "another caller");
}

#[tokio::test]
async fn strangers_who_say_nothing_leave_room_for_peers() {
    let limits = Limits { connections: 8, handshake_time: HELLO_TIME, ..Limits::default() };
    let orders = Orders::with(port(Protocol::Tcp, Some(later())), greeting().await, limits);
    let mut strangers = Vec::new();
    for _ in 0..4 {
        let mut stranger = Client::to(orders.at).await;
        assert_eq!(stranger.take(11).await, b"220 ready\r\n");
        strangers.push(stranger);
    }
    // The fifth is not heard, as on a strict port; a peer is.
    let mut fifth = Client::to(orders.at).await;
    let mut web = orders.web(Alpn::Tcp).await;
    assert_eq!(web.take(11).await, b"220 ready\r\n");
    assert_ne!(fifth.ended().await, Some(false));
    assert_eq!(orders.let_in(), 4);
    drop(strangers);
}
