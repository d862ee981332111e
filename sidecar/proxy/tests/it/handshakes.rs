//! A handshake that fails explains itself: the same word in the metric and in the answer, on both sides.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{
    Alpn, Bundles, Generation, GenerationOptions, Incident, PeerClass, RevocationSet, TrustBundle,
};
use signet_proxy::Limits;
use signet_proxy::state::{Protocol, Timeouts};
use tokio::io::AsyncWriteExt as _;

use crate::support::app::{echo, scripted};
use crate::support::caller::{Client, dial, peer, within};
use crate::support::{Node, Pair, WEB, generation, generation_with, inbound, outbound};

/// Roots beside those of its own trust domain's authority.
fn trusting(ca: &TestCa, short: &str, class: PeerClass, bundles: Bundles) -> Arc<Generation> {
    let own = ca.svid(&ca.id(short), class, SvidOptions::default().at_wall_clock());
    Generation::build(700, own, Arc::new(bundles), GenerationOptions::default()).unwrap()
}

/// Both authorities' roots, of one trust domain or of two.
fn both(one: &TestCa, other: &TestCa) -> Bundles {
    if one.trust_domain() == other.trust_domain() {
        let roots = [one.root().clone(), other.root().clone()];
        return TrustBundle::new(one.trust_domain().clone(), roots).unwrap().into();
    }
    Bundles::new([one.bundle(), other.bundle()]).unwrap()
}

fn becomes(node: &Node, generation: &Arc<Generation>) {
    node.state.update_tls(|tls| tls.with_generation(generation.clone()));
}

fn revokes(node: &Node, generation: &Generation) {
    let mut set = RevocationSet::new(1);
    set.serials.insert(generation.own().svid().serial);
    let set = Arc::new(set);
    node.state.update_tls(|tls| tls.with_revoked(set.clone()));
}

/// The one incident of this direction and reason, once the metric has counted it so often.
async fn incident(node: &Node, direction: &str, reason: &str, count: u64) -> Incident {
    let labels = [("direction", direction), ("reason", reason)];
    node.counts("signet_handshake_failures_total", &labels, count).await;
    let mut found = node.shared.incidents.report().failures;
    found.retain(|one| one.direction == direction && one.reason == reason);
    assert_eq!(found.len(), 1, "{found:?}");
    let found = found.remove(0);
    assert_eq!(found.count, count);
    assert_eq!(found.service, "orders.shop");
    assert!(found.what_to_do.len() > 20, "{found:?}");
    found
}

/// What one side makes of the other's certificate, and what the other is told.
struct Case {
    reason: &'static str,
    alert: &'static str,
    skew: Option<std::ops::RangeInclusive<i64>>,
    /// The refused side's word for who it is.
    refused: Arc<Generation>,
}

/// Everything that can be wrong with the certificate of `short`, whom `ca` would expect.
fn cases(ca: &TestCa, short: &str) -> Vec<Case> {
    let (other_root, other_domain) = (TestCa::new("demo.signet"), TestCa::new("other.signet"));
    let sidecar = PeerClass::Sidecar;
    let with = |options| generation_with(ca, short, sidecar, options);
    let case = |reason, alert, refused| Case { reason, alert, skew: None, refused };
    let skewed =
        |reason, skew, refused| Case { skew: Some(skew), ..case(reason, "certificate_expired", refused) };
    vec![
        skewed("expired", 30..=45, with(SvidOptions::default().ends_in(-30))),
        skewed("not_yet_valid", -100..=-80, with(SvidOptions::default().begins_in(100))),
        case("wrong_class", "access_denied", generation(ca, short, PeerClass::Operator)),
        case("revoked", "certificate_revoked", generation(ca, short, sidecar)),
        case("unknown_root", "unknown_ca", trusting(&other_root, short, sidecar, both(&other_root, ca))),
        case(
            "wrong_trust_domain",
            "unknown_ca",
            trusting(&other_domain, short, sidecar, both(&other_domain, ca)),
        ),
    ]
}

/// What both sides say of the refused one.
fn compare(case: &Case, refusing: &Incident, refused: &Incident) {
    let reason = case.reason;
    let svid = case.refused.own().svid();
    let seen = refusing.received.as_ref().unwrap_or_else(|| panic!("{reason}: {refusing:?}"));
    assert_eq!(seen.identity, svid.id.to_string(), "{reason}");
    assert_eq!(seen.serial, svid.serial.to_string(), "{reason}");
    assert_eq!(seen.class, svid.class.to_string(), "{reason}");
    assert_eq!(refusing.expected_class.is_some(), reason == "wrong_class", "{refusing:?}");
    match (&case.skew, refusing.skew_seconds) {
        (Some(range), Some(skew)) => assert!(range.contains(&skew), "{reason}: {skew}"),
        (expected, skew) => assert_eq!((expected, skew), (&None, None), "{reason}"),
    }
    assert_eq!(refused.alert.as_deref(), Some(case.alert), "{reason}");
    assert!(refused.message.contains(case.alert), "{reason}: {}", refused.message);
    assert!(refused.what_to_do.contains("signet handshakes"), "{reason}: {}", refused.what_to_do);
    // Who was refused reads who it was then: the same certificate that the other side names.
    let own = refused.own.as_ref().unwrap();
    assert_eq!((&own.identity, &own.serial), (&seen.identity, &seen.serial), "{reason}");
    assert_eq!((&own.not_before, &own.not_after), (&seen.not_before, &seen.not_after), "{reason}");
    if reason == "expired" {
        assert!(refused.what_to_do.contains("ended by our own clock"), "{}", refused.what_to_do);
    }
}

#[tokio::test]
async fn a_refused_caller_and_who_refused_it_both_say_why() {
    for n in 0..6 {
        let pair = Pair::http(echo().await);
        let case = cases(&pair.ca, "ns/shop/sa/web").remove(n);
        becomes(&pair.web, &case.refused);
        if case.reason == "revoked" {
            revokes(&pair.orders, &case.refused);
        }
        let answer = Client::to(pair.out).await.get("/").await;
        assert_eq!(answer.status, 503, "{}: {}", case.reason, answer.head);
        assert_eq!(answer.header("signet-deny-reason"), Some("peer-handshake"), "{}", case.reason);
        let refusing = incident(&pair.orders, "inbound", case.reason, 1).await;
        let refused = incident(&pair.web, "outbound", "alert_received", 1).await;
        compare(&case, &refusing, &refused);
        assert_eq!(refused.peer, Some(pair.at.to_string()));
        assert!(refusing.peer.unwrap().starts_with("127.0.0.1:"));
    }
}

#[tokio::test]
async fn a_peer_whose_key_an_app_has_speaks_to_our_app_in_none_of_our_names() {
    for (protocol, class) in [Protocol::Http1, Protocol::Http2]
        .into_iter()
        .flat_map(|protocol| [PeerClass::Sidecar, PeerClass::Workload].map(|class| (protocol, class)))
    {
        let ca = TestCa::new("demo.signet");
        let mut orders = Node::new(generation(&ca, "ns/shop/sa/orders", class));
        // Nobody is permitted, so that it answers with a reason of its own.
        orders.serves(protocol, &[]);
        let at = orders.start(vec![inbound(echo().await)])[0];
        let mut web = Node::new(generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar));
        web.knows(&ca, protocol, &[at]);
        let out = web.start(vec![outbound()])[0];
        let said = match protocol {
            Protocol::Http2 => {
                let client = Client::to(out).await;
                let (mut sender, connection) = h2::client::handshake(client.stream).await.unwrap();
                tokio::spawn(connection);
                let request = http::Request::get("http://orders/").body(()).unwrap();
                let (answer, _) = sender.send_request(request, true).unwrap();
                let answer = within(answer).await.unwrap();
                (answer.status().as_u16(), answer.headers().contains_key("signet-deny-reason"))
            }
            _ => {
                let answer = Client::to(out).await.get("/").await;
                (answer.status, answer.header("signet-deny-reason").is_some())
            }
        };
        assert_eq!(said, (403, class == PeerClass::Sidecar), "{protocol:?} {class:?}");
    }
}

#[tokio::test]
async fn a_refused_server_and_who_refused_it_both_say_why() {
    for n in 0..6 {
        let pair = Pair::http(echo().await);
        let case = cases(&pair.ca, "ns/shop/sa/orders").remove(n);
        becomes(&pair.orders, &case.refused);
        if case.reason == "revoked" {
            revokes(&pair.web, &case.refused);
        }
        // Where it is of another trust domain it is expected there: only then nobody vouches for it.
        if case.reason == "wrong_trust_domain" {
            let other = case.refused.own().svid().id.clone();
            let spec = pair.web.state.view().endpoints.service("orders.shop").unwrap().ports[0].clone();
            assert_ne!(spec.endpoints[0].identity, other);
        }
        let answer = Client::to(pair.out).await.get("/").await;
        assert_eq!(answer.status, 503, "{}: {}", case.reason, answer.head);
        assert_eq!(answer.header("signet-deny-reason"), Some("peer-handshake"), "{}", case.reason);
        let refusing = incident(&pair.web, "outbound", case.reason, 1).await;
        let refused = incident(&pair.orders, "inbound", "alert_received", 1).await;
        compare(&case, &refusing, &refused);
        assert_eq!(refusing.peer, Some(pair.at.to_string()));
    }
}

#[tokio::test]
async fn a_server_of_another_identity_is_named_beside_the_expected_one() {
    let pair = Pair::http(echo().await);
    pair.web.knows_as(&pair.ca, Protocol::Http1, &[pair.at], "ns/shop/sa/payments", Timeouts::default());
    let answer = Client::to(pair.out).await.get("/").await;
    assert_eq!(answer.status, 503);
    let refusing = incident(&pair.web, "outbound", "wrong_identity", 1).await;
    assert_eq!(refusing.expected.as_deref(), Some("spiffe://demo.signet/ns/shop/sa/payments"));
    assert_eq!(refusing.received.unwrap().identity, "spiffe://demo.signet/ns/shop/sa/orders");
    let refused = incident(&pair.orders, "inbound", "alert_received", 1).await;
    assert_eq!(refused.alert.as_deref(), Some("access_denied"));
    assert!(refused.what_to_do.contains("another identity at this address"), "{}", refused.what_to_do);
}

/// The alert comes where the first byte of an answer would, whatever is spoken.
#[tokio::test]
async fn a_refusal_is_met_by_every_engine() {
    for protocol in [Protocol::Http2, Protocol::Tcp] {
        let pair = Pair::new(protocol, echo().await, Limits::default());
        let late = SvidOptions::default().ends_in(-30);
        becomes(&pair.web, &generation_with(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar, late));
        let mut client = Client::to(pair.out).await;
        if protocol == Protocol::Tcp {
            client.send("x").await;
            assert_ne!(client.ended().await, Some(false));
        } else {
            let (mut sender, connection) = h2::client::handshake(client.stream).await.unwrap();
            tokio::spawn(connection);
            let request = http::Request::get("http://orders/").body(()).unwrap();
            let (answer, _) = sender.send_request(request, true).unwrap();
            let answer = within(answer).await.unwrap();
            assert_eq!(answer.status(), 503);
            assert_eq!(answer.headers()["signet-deny-reason"], "peer-handshake");
        }
        let refused = incident(&pair.web, "outbound", "alert_received", 1).await;
        assert_eq!(refused.alert.as_deref(), Some("certificate_expired"), "{protocol:?}");
        incident(&pair.orders, "inbound", "expired", 1).await;
    }
}

#[tokio::test]
async fn a_refusal_after_the_request_was_sent_is_met_as_well() {
    // A body that is larger than all buffers: the write fails, and the reason is in what was not read yet.
    let pair = Pair::http(echo().await);
    let late = SvidOptions::default().ends_in(-30);
    becomes(&pair.web, &generation_with(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar, late));
    let mut client = Client::to(pair.out).await;
    client.send("POST / HTTP/1.1\r\nhost: o\r\ncontent-length: 50000000\r\n\r\n").await;
    let (mut read, mut write) = tokio::io::split(client.stream);
    let upload = tokio::spawn(async move {
        let chunk = vec![7; 1 << 20];
        for _ in 0..50 {
            if write.write_all(&chunk).await.is_err() {
                return;
            }
        }
    });
    let mut answer = Vec::new();
    while !answer.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = within(tokio::io::AsyncReadExt::read_buf(&mut read, &mut answer)).await.unwrap();
        assert!(read > 0);
    }
    assert!(answer.starts_with(b"HTTP/1.1 503"), "{}", String::from_utf8_lossy(&answer));
    incident(&pair.web, "outbound", "alert_received", 1).await;
    drop(read);
    within(upload).await.unwrap();
}

#[tokio::test]
async fn two_sides_that_mean_different_protocols_both_say_so() {
    let pair = Pair::http(echo().await);
    pair.web.knows(&pair.ca, Protocol::Tcp, &[pair.at]);
    let mut client = Client::to(pair.out).await;
    client.send("x").await;
    assert_ne!(client.ended().await, Some(false));
    incident(&pair.orders, "inbound", "no_common_alpn", 1).await;
    let refused = incident(&pair.web, "outbound", "alert_received", 1).await;
    assert_eq!(refused.alert.as_deref(), Some("no_application_protocol"));
    assert!(refused.what_to_do.contains("`protocol`"), "{}", refused.what_to_do);
}

/// Strangers: they have no answer of their own, but the side that is ours has one.
#[tokio::test]
async fn strangers_are_explained_by_what_they_said() {
    let limits = Limits { handshake_time: Duration::from_millis(300), ..Limits::default() };
    let pair = Pair::new(Protocol::Http1, echo().await, limits);
    assert_eq!(Client::to(pair.at).await.get("/").await.status, 403);
    let told = incident(&pair.orders, "inbound", "plaintext", 1).await;
    assert!(told.what_to_do.contains("permissive"), "{}", told.what_to_do);

    let mut garbage = Client::to(pair.at).await;
    garbage.send([22, 3, 3, 255, 255, 1, 2, 3, 4, 5, 6, 7, 8, 9]).await;
    assert_eq!(garbage.rest().await.len(), 7);
    incident(&pair.orders, "inbound", "not_tls", 1).await;

    let mut half = Client::to(pair.at).await;
    half.send([22, 3, 1, 2, 0, 1, 0]).await;
    assert_ne!(half.ended().await, Some(false));
    incident(&pair.orders, "inbound", "timeout", 1).await;

    drop(Client::to(pair.at).await);
    let told = incident(&pair.orders, "inbound", "closed", 1).await;
    assert!(told.own.is_some() && told.what_to_do.contains("probe"), "{told:?}");

    let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let mut foreign = (*web.client_config(Alpn::Http1)).clone();
    foreign.alpn_protocols = vec![b"http/1.1".to_vec()];
    let told = refused(&pair, foreign, "orders.example").await;
    assert_eq!(told.as_deref(), Some("unrecognized_name"));
    let found = incident(&pair.orders, "inbound", "foreign_hello", 1).await;
    assert!(found.message.contains("orders.example"), "{}", found.message);

    let mut old = Client::to(pair.at).await;
    old.send(tls12()).await;
    assert_eq!(old.rest().await, [21, 3, 3, 0, 2, 2, 70], "protocol_version");
    incident(&pair.orders, "inbound", "tls_version", 1).await;

    let name = signet_identity::server_name(&pair.ca.id("ns/shop/sa/orders"));
    let mut anonymous = (*web.client_config(Alpn::Http1)).clone();
    anonymous.client_auth_cert_resolver = Arc::new(Nobody);
    let told = refused(&pair, anonymous, name.to_str().into_owned()).await;
    assert_eq!(told.as_deref(), Some("certificate_required"));
    incident(&pair.orders, "inbound", "no_certificate", 1).await;
}

/// Dials the server with this config until it is refused; the alert.
async fn refused(pair: &Pair, config: rustls::ClientConfig, name: impl Into<String>) -> Option<String> {
    let name = ServerName::try_from(name.into()).unwrap();
    let socket = tokio::net::TcpStream::connect(pair.at).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let error = match within(connector.connect(name, socket)).await {
        Ok(mut stream) => within(tokio::io::AsyncReadExt::read(&mut stream, &mut [0])).await.unwrap_err(),
        Err(error) => error,
    };
    signet_identity::HandshakeFailure::from_io(&error).alert()
}

#[derive(Debug)]
struct Nobody;

impl rustls::client::ResolvesClientCert for Nobody {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

/// A hello of TLS 1.2: no extensions, so none that offers a later version.
fn tls12() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    // No session; one cipher suite; no compression.
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let mut hello = vec![1, 0, 0, u8::try_from(body.len()).unwrap()];
    hello.extend(body);
    let mut record = vec![22, 3, 1, 0, u8::try_from(hello.len()).unwrap()];
    record.extend(hello);
    record
}

/// What answers in place of a sidecar: the caller says what it met.
async fn met(limits: Limits, endpoint: SocketAddr) -> Vec<Incident> {
    let ca = TestCa::new("demo.signet");
    let mut web = Node::with_limits(generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar), limits);
    web.knows(&ca, Protocol::Http1, &[endpoint]);
    let out = web.start(vec![outbound()])[0];
    assert_eq!(Client::to(out).await.get("/").await.status, 503);
    web.shared.incidents.report().failures
}

#[tokio::test]
async fn an_endpoint_that_is_no_sidecar_is_explained_by_what_it_did() {
    let plain = scripted(|mut socket| async move {
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = tokio::io::AsyncReadExt::read(&mut socket, &mut [0; 4096]).await;
    });
    let mute = scripted(|socket| async move {
        std::future::pending::<()>().await;
        drop(socket);
    });
    let closing = scripted(|mut socket| async move {
        let _ = tokio::io::AsyncReadExt::read(&mut socket, &mut [0; 4096]).await;
    });
    let quick = Limits { connect_time: Duration::from_millis(300), ..Limits::default() };
    for (reason, limits, endpoint) in [
        ("not_tls", Limits::default(), plain.await),
        ("timeout", quick, mute.await),
        ("closed", Limits::default(), closing.await),
    ] {
        let found = met(limits, endpoint).await;
        assert_eq!(found.iter().map(|one| one.reason).collect::<Vec<_>>(), [reason]);
        assert_eq!(found[0].peer, Some(endpoint.to_string()));
        assert_eq!(found[0].direction, "outbound");
    }
}

#[tokio::test]
async fn a_server_that_names_no_protocol_is_not_one_of_the_mesh() {
    let pair = Pair::http(echo().await);
    let orders = generation(&pair.ca, "ns/shop/sa/orders", PeerClass::Sidecar);
    let mut config = (*orders.server_config(Alpn::Http1)).clone();
    config.alpn_protocols = vec![];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let at = scripted(move |socket| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(socket).await.unwrap();
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await;
        }
    })
    .await;
    pair.web.knows(&pair.ca, Protocol::Http1, &[at]);
    assert_eq!(Client::to(pair.out).await.get("/").await.status, 503);
    incident(&pair.web, "outbound", "no_common_alpn", 1).await;
}

#[tokio::test]
async fn a_flood_of_names_neither_fills_the_memory_nor_hides_an_honest_failure() {
    let pair = Pair::http(echo().await);
    let late = SvidOptions::default().ends_in(-30);
    let late = generation_with(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar, late);
    let id = pair.ca.id("ns/shop/sa/orders");
    let mut client = peer(pair.at, &late, Alpn::Http1, &id).await.unwrap();
    assert_ne!(client.ended().await, Some(false));
    let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let config = (*web.client_config(Alpn::Http1)).clone();
    for n in 0..300 {
        let mut config = config.clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        refused(&pair, config, format!("a{n}.{}.example", "n".repeat(60))).await;
    }
    let other = TestCa::new("demo.signet");
    for n in 0..60 {
        let short = format!("ns/{}/sa/x{n}", "n".repeat(60));
        let stranger = trusting(&other, &short, PeerClass::Sidecar, both(&other, &pair.ca));
        let name = signet_identity::server_name(&id);
        if let Ok(mut client) = dial(pair.at, &stranger, Alpn::Http1, name).await {
            assert_ne!(client.ended().await, Some(false));
        }
    }
    let labels = [("direction", "inbound"), ("reason", "unknown_root")];
    pair.orders.counts("signet_handshake_failures_total", &labels, 60).await;
    let report = pair.orders.shared.incidents.report();
    assert_eq!(report.failures.len(), 1 + 1 + 4, "{:?}", report.failures);
    assert_eq!(report.forgotten, 56);
    assert!(report.failures.iter().any(|one| one.reason == "expired" && one.count == 1));
    // Nobody is any worse off for it.
    pair.orders.permits(&[WEB]);
    let mut good = peer(pair.at, &web, Alpn::Http1, &id).await.unwrap();
    assert_eq!(good.get("/").await.status, 200);
}
