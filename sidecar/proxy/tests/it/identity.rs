//! Who may connect, and what happens to those who no longer may.

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{Alpn, PeerClass, RevocationSet};
use signet_proxy::state::{Protocol, Timeouts};
use tokio::io::AsyncWriteExt as _;

use crate::support::app::{counted_echo, echo, read_head, scripted};
use crate::support::caller::{Client, dial, peer, within};
use crate::support::{Pair, generation, generation_with};

/// Waits until so many handshakes have failed for this reason: a failure is counted after the close.
async fn failed(pair: &Pair, reason: &str, count: u64) {
    let labels = [("direction", "inbound"), ("reason", reason)];
    pair.orders.counts("signet_handshake_failures_total", &labels, count).await;
}

/// Whether a caller gets an answer over a finished handshake: with TLS 1.3 a client learns only from its
/// first read that the server refused it.
async fn is_served(pair: &Pair, caller: &Arc<signet_identity::Generation>, alpn: Alpn) -> bool {
    let Ok(mut client) = peer(pair.at, caller, alpn, &pair.ca.id("ns/shop/sa/orders")).await else {
        return false;
    };
    let _ = client.stream.write_all(b"GET / HTTP/1.1\r\nhost: o\r\n\r\n").await;
    let mut bytes = Vec::new();
    let read = within(tokio::io::AsyncReadExt::read_buf(&mut client.stream, &mut bytes)).await;
    matches!(read, Ok(1..)) && bytes.starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn plaintext_http_is_told_that_it_is_plaintext() {
    let pair = Pair::http(echo().await);
    let mut client = Client::to(pair.at).await;
    let answer = client.get("/").await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.header("signet-deny-reason"), Some("plaintext"));
    assert_eq!(client.ended().await, Some(true));
    failed(&pair, "plaintext", 1).await;
}

#[tokio::test]
async fn garbage_and_half_a_hello_end_with_a_typed_reason() {
    let limits = signet_proxy::Limits { handshake_time: Duration::from_millis(200), ..Default::default() };
    let pair = Pair::new(Protocol::Http1, echo().await, limits);
    let mut half = Client::to(pair.at).await;
    half.send([22, 3, 1, 2, 0, 1, 0]).await;
    assert_ne!(half.ended().await, Some(false));
    failed(&pair, "timeout", 1).await;
    let mut garbage = Client::to(pair.at).await;
    garbage.send([22, 3, 3, 255, 255, 1, 2, 3, 4, 5, 6, 7, 8, 9]).await;
    assert_eq!(garbage.rest().await, [21, 3, 3, 0, 2, 2, 50], "a decode_error alert");
    failed(&pair, "not_tls", 1).await;
    assert!(is_served(&pair, &generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar), Alpn::Http1).await);
}

#[tokio::test]
async fn the_apps_own_tls_is_refused_unanswered() {
    let pair = Pair::http(echo().await);
    let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let mut config = (*web.client_config(Alpn::Http1)).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let socket = tokio::net::TcpStream::connect(pair.at).await.unwrap();
    let name = ServerName::try_from("orders.example").unwrap();
    let refused = within(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket)).await;
    let refused = signet_identity::HandshakeFailure::from_io(&refused.unwrap_err());
    assert!(refused.to_string().contains("unrecognized_name"), "{refused}");
    failed(&pair, "foreign_hello", 1).await;
}

#[tokio::test]
async fn strangers_are_refused_by_what_is_wrong_with_them() {
    let pair = Pair::http(echo().await);
    let other = TestCa::new("demo.signet");
    let class = PeerClass::Sidecar;
    let good = generation(&pair.ca, "ns/shop/sa/web", class);
    assert!(is_served(&pair, &good, Alpn::Http1).await);

    let expired = SvidOptions::default().ends_in(-5);
    let cases = [
        ("expired", generation_with(&pair.ca, "ns/shop/sa/web", class, expired)),
        ("wrong_class", generation(&pair.ca, "ns/shop/sa/web", PeerClass::Operator)),
    ];
    for (reason, caller) in cases {
        assert!(!is_served(&pair, &caller, Alpn::Http1).await, "{reason}");
        failed(&pair, reason, 1).await;
    }
    // Another root of the same name: it would not believe us, nor we it.
    let stranger = generation(&other, "ns/shop/sa/web", class);
    assert!(!is_served(&pair, &stranger, Alpn::Http1).await);
}

#[tokio::test]
async fn a_client_cannot_choose_another_protocol_than_the_port_declares() {
    let pair = Pair::http(echo().await);
    let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    assert!(!is_served(&pair, &web, Alpn::Tcp).await);
    assert!(!is_served(&pair, &web, Alpn::H2).await);
    failed(&pair, "no_common_alpn", 2).await;
}

#[tokio::test]
async fn an_svid_holder_without_a_sidecar_calls_by_the_services_name() {
    let pair = Pair::http(echo().await);
    let mut options = SvidOptions::default().at_wall_clock();
    options.dns = vec!["orders.shop.signet.internal".into()];
    let own = pair.ca.svid(&pair.ca.id("ns/shop/sa/orders"), PeerClass::Sidecar, options);
    let renewed =
        signet_identity::Generation::build(999, own, pair.ca.bundles(), Default::default()).unwrap();
    pair.orders.state.update_tls(|tls| tls.with_generation(renewed.clone()));
    let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Workload);
    let mut config = (*web.client_config(Alpn::Http1)).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // curl verifies the name against the certificate by itself; ours would want an id.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pair.ca.root().clone()).unwrap();
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
        Arc::new(roots),
        signet_identity::crypto_provider(),
    );
    config.dangerous().set_certificate_verifier(verifier.build().unwrap());
    let socket = tokio::net::TcpStream::connect(pair.at).await.unwrap();
    let name = ServerName::try_from("orders.shop.signet.internal").unwrap();
    let stream =
        within(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket)).await.unwrap();
    let mut client = Client { stream, unread: Vec::new() };
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn the_wrong_server_is_never_sent_the_request() {
    let (app, connections) = counted_echo().await;
    let pair = Pair::http(app);
    // The endpoint is taken over by somebody with a good SVID of another identity.
    pair.web.knows_as(&pair.ca, Protocol::Http1, &[pair.at], "ns/shop/sa/payments", Timeouts::default());
    let mut client = Client::to(pair.out).await;
    let answer = client.get("/").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("signet-deny-reason"), Some("peer-handshake"));
    assert_eq!(connections.load(std::sync::atomic::Ordering::Relaxed), 0);
    let labels = [("direction", "outbound"), ("reason", "wrong_identity")];
    pair.web.counts("signet_handshake_failures_total", &labels, 1).await;
}

#[tokio::test]
async fn a_revoked_peer_loses_its_live_connection() {
    let pair = Pair::http(echo().await);
    let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let mut revoked = peer(pair.at, &web, Alpn::Http1, &pair.ca.id("ns/shop/sa/orders")).await.unwrap();
    assert_eq!(revoked.get("/").await.status, 200);
    let other = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let mut kept = peer(pair.at, &other, Alpn::Http1, &pair.ca.id("ns/shop/sa/orders")).await.unwrap();
    assert_eq!(kept.get("/").await.status, 200);

    let mut set = RevocationSet::new(1);
    set.serials.insert(web.own().svid().serial);
    let set = Arc::new(set);
    pair.orders.state.update_tls(|tls| tls.with_revoked(set.clone()));
    assert_ne!(revoked.ended().await, Some(false));
    assert_eq!(kept.get("/").await.status, 200);
    assert!(!is_served(&pair, &web, Alpn::Http1).await, "a resumed handshake is checked as well");
    failed(&pair, "revoked", 1).await;
}

#[tokio::test]
async fn a_revoked_callers_request_under_way_is_cut() {
    let (came, mut told) = tokio::sync::mpsc::channel(1);
    let app = scripted(move |mut socket| {
        let came = came.clone();
        async move {
            read_head(&mut socket).await;
            came.send(()).await.unwrap();
            std::future::pending::<()>().await;
        }
    })
    .await;
    let pair = Pair::http(app);
    let mut client = Client::to(pair.out).await;
    client.send("GET / HTTP/1.1\r\nhost: o\r\n\r\n").await;
    within(told.recv()).await.unwrap();
    let mut set = RevocationSet::new(1);
    set.identities.insert(pair.ca.id("ns/shop/sa/web"));
    let set = Arc::new(set);
    pair.orders.state.update_tls(|tls| tls.with_revoked(set.clone()));
    let answer = client.answer().await;
    assert!(answer.status == 502 || answer.status == 403, "{}", answer.head);
}

#[tokio::test]
async fn a_revoked_server_is_neither_kept_nor_dialled() {
    let pair = Pair::http(echo().await);
    let mut client = Client::to(pair.out).await;
    assert_eq!(client.get("/").await.status, 200);
    let mut set = RevocationSet::new(1);
    set.identities.insert(pair.ca.id("ns/shop/sa/orders"));
    let set = Arc::new(set);
    pair.web.state.update_tls(|tls| tls.with_revoked(set.clone()));
    let answer = client.get("/").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("signet-deny-reason"), Some("peer-handshake"));
}

#[tokio::test]
async fn connections_of_a_removed_root_end() {
    let pair = Pair::http(echo().await);
    let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let mut client = peer(pair.at, &web, Alpn::Http1, &pair.ca.id("ns/shop/sa/orders")).await.unwrap();
    assert_eq!(client.get("/").await.status, 200);
    let new_root = TestCa::new("demo.signet");
    let moved = generation(&new_root, "ns/shop/sa/orders", PeerClass::Sidecar);
    pair.orders.state.update_tls(|tls| tls.with_generation(moved.clone()));
    assert_ne!(client.ended().await, Some(false));
}

#[tokio::test]
async fn rotation_under_load_fails_no_request() {
    let pair = Arc::new(Pair::http(echo().await));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut callers = Vec::new();
    for _ in 0..4 {
        let (pair, stop) = (pair.clone(), stop.clone());
        callers.push(tokio::spawn(async move {
            let mut done = 0;
            let mut client = Client::to(pair.out).await;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                client.send("POST / HTTP/1.1\r\nhost: o\r\ncontent-length: 2\r\n\r\nhi").await;
                let answer = client.answer().await;
                assert_eq!(answer.status, 200, "{}", answer.head);
                done += 1;
            }
            done
        }));
    }
    for _ in 0..10 {
        let before = pair.orders.counter("signet_connections_total", &[("direction", "inbound")]);
        let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
        pair.web.state.update_tls(|tls| tls.with_generation(web.clone()));
        let orders = generation(&pair.ca, "ns/shop/sa/orders", PeerClass::Sidecar);
        pair.orders.state.update_tls(|tls| tls.with_generation(orders.clone()));
        // The new generation is in use once somebody has connected under it.
        within(async {
            while pair.orders.counter("signet_connections_total", &[("direction", "inbound")]) == before {
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn a_connection_is_drained_before_its_certificate_ends() {
    let pair = Pair::http(echo().await);
    // At four fifths of its life already.
    let mut options = SvidOptions::default();
    (options.from, options.until) = (-900, 100);
    let old = generation_with(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar, options);
    let mut client = peer(pair.at, &old, Alpn::Http1, &pair.ca.id("ns/shop/sa/orders")).await.unwrap();
    let answer = client.get("/").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("connection"), Some("close"));
    assert_ne!(client.ended().await, Some(false));
}

#[tokio::test]
async fn nobody_is_dialled_without_an_identity() {
    let pair = Pair::http(echo().await);
    let mut spec = signet_proxy::state::ServiceSpec {
        name: "orders.shop".into(),
        ports: vec![signet_proxy::state::PortSpec {
            name: "main".into(),
            port: 80,
            protocol: Protocol::Http1,
            timeouts: Timeouts::default(),
            requests_only: false,
        }],
        ..Default::default()
    };
    spec.endpoints = vec![signet_proxy::state::EndpointSpec {
        address: pair.at.ip(),
        ports: [("main".to_owned(), pair.at.port())].into(),
        identity: None,
        behind: None,
    }];
    pair.web.state.update_endpoints(|endpoints| endpoints.apply([spec.clone()], [] as [&str; 0]));
    let mut client = Client::to(pair.out).await;
    let answer = client.get("/").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("signet-deny-reason"), Some("no-identity"));
}

#[tokio::test]
async fn a_name_that_nobody_expects_is_not_answered_for() {
    let pair = Pair::http(echo().await);
    let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let name = signet_identity::server_name(&pair.ca.id("ns/shop/sa/payments"));
    let failed = dial(pair.at, &web, Alpn::Http1, name).await.err().unwrap();
    let failure = signet_identity::HandshakeFailure::from_io(&failed);
    assert_eq!(failure.label(), "wrong_identity");
}

#[tokio::test]
async fn a_request_that_comes_after_its_peers_svid_has_ended_is_not_served() {
    let (app, connections) = counted_echo().await;
    let pair = Pair::http(app);
    // With a stale view the connection itself would be cut.
    pair.orders.state.freshness.live();
    let options = SvidOptions::default().ends_in(1);
    let short = generation_with(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar, options);
    let mut client = peer(pair.at, &short, Alpn::Http1, &pair.ca.id("ns/shop/sa/orders")).await.unwrap();
    // The connection was drained long before, had it been used; its first request began in time and took too long.
    client.send("GET / HTTP/1.1\r\n").await;
    ended(&short).await;
    client.send("host: orders\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("signet-deny-reason")), (403, Some("expired")));
    assert_eq!(client.ended().await, Some(true));
    assert_eq!(connections.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_pooled_connection_is_not_used_past_its_servers_svid() {
    let pair = Pair::http(echo().await);
    // Three quarters of its life are over, so it serves this once.
    let serve = |ends: i64| {
        let options = SvidOptions::default().ends_in(ends);
        let next = generation_with(&pair.ca, "ns/shop/sa/orders", PeerClass::Sidecar, options);
        pair.orders.state.update_tls(|tls| tls.with_generation(next.clone()));
    };
    serve(5);
    let mut client = Client::to(pair.out).await;
    let labels = [("direction", "inbound"), ("service", "orders.shop")];
    for connections in 1..=2 {
        assert_eq!(client.get("/").await.status, 200);
        pair.orders.counts("signet_connections_total", &labels, connections).await;
    }
    // One of which three quarters are left is used again, until its end comes near: then it leaves by itself.
    let begins_now = SvidOptions { from: 0, until: 8, ..Default::default() };
    let next = generation_with(&pair.ca, "ns/shop/sa/orders", PeerClass::Sidecar, begins_now);
    pair.orders.state.update_tls(|tls| tls.with_generation(next.clone()));
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 200);
    }
    pair.orders.counts("signet_connections_total", &labels, 3).await;
    let idle = || pair.web.gauge("signet_upstream_idle_connections");
    // It goes back to the pool after the answer was read, and leaves it when its end comes near.
    within(async {
        while idle() != 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        while idle() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    serve(3600);
    assert_eq!(client.get("/").await.status, 200);
    pair.orders.counts("signet_connections_total", &labels, 4).await;
}

/// Waits until the certificate has ended. The wall clock has no event to wait for but itself.
async fn ended(generation: &signet_identity::Generation) {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    while i64::try_from(now()).unwrap() <= generation.own().svid().not_after {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
