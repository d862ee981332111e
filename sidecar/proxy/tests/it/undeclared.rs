//! Ports that do not say what they speak.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signet_identity::{Alpn, PeerClass};
use signet_proxy::Limits;
use signet_proxy::state::{PortSpec, Protocol, ServiceSpec, Timeouts, UserContext};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::http2::peers;
use crate::support::app::{counted_echo, echo, fixed, scripted};
use crate::support::caller::{Client, peer, within};
use crate::support::{Pair, WEB, generation};

fn pair(app: std::net::SocketAddr) -> Pair {
    Pair::new(Protocol::Auto, app, Limits::default())
}

/// Greets, then says back what it hears.
async fn greeter() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let app = scripted(move |mut socket| {
        let counted = counted.clone();
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            socket.write_all(b"220 ready\r\n").await.unwrap();
            let mut line = [0; 64];
            while let Ok(count @ 1..) = socket.read(&mut line).await {
                socket.write_all(&line[..count]).await.unwrap();
            }
        }
    })
    .await;
    (app, count)
}

#[tokio::test]
async fn requests_are_requests_and_their_policy_holds() {
    let (app, connections) = counted_echo().await;
    let pair = pair(app);
    pair.orders.permits(&[
        r#"{"effect":"permit","from":{"workloads":["ns/shop/sa/web"]},"to":{"methods":["GET"]}}"#,
    ]);
    for _ in 0..3 {
        let mut client = Client::to(pair.out).await;
        assert_eq!(client.get("/a").await.status, 200);
        client.send("DELETE /a HTTP/1.1\r\nhost: o\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 403);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1, "its connections are pooled like any");
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_http2() {
    let (app, connections) = peers::app(|request, mut respond| async move {
        let path = request.uri().path().to_owned();
        let head = http::Response::builder().header("x-path", path).body(()).unwrap();
        respond.send_response(head, true).unwrap();
    })
    .await;
    let pair = pair(app);
    let mut client = peers::connect(pair.out).await;
    for _ in 0..3 {
        let (response, _) = client.send_request(peers::call("/s/M"), true).unwrap();
        assert_eq!(peers::answer(response).await.unwrap().header("x-path"), Some("/s/M"));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_without_a_word_from_the_client() {
    let (app, count) = greeter().await;
    let pair = pair(app);
    for round in 1..=3 {
        let mut client = Client::to(pair.out).await;
        assert_eq!(client.take(11).await, b"220 ready\r\n");
        client.send("EHLO me\r\n").await;
        assert_eq!(client.take(9).await, b"EHLO me\r\n");
        within(client.stream.shutdown()).await.unwrap();
        assert!(client.rest().await.is_empty());
        assert_eq!(count.load(Ordering::SeqCst), round, "one connection for each");
    }
}

#[tokio::test]
async fn bytes_that_are_no_request_pass_whole_from_the_first_one_on() {
    let app = scripted(|mut socket| async move {
        let mut all = Vec::new();
        socket.read_to_end(&mut all).await.unwrap();
        socket.write_all(&all).await.unwrap();
    })
    .await;
    let pair = pair(app);
    for bytes in [&b"*1\r\n$4\r\nPING\r\n"[..], b"\x16\x03\x01\0\x05hello", b"GET /\r\n", b"GE"] {
        let mut client = Client::to(pair.out).await;
        client.send(bytes).await;
        within(client.stream.shutdown()).await.unwrap();
        assert_eq!(client.rest().await, bytes);
    }
}

#[tokio::test]
async fn a_request_line_may_come_in_any_pieces() {
    let pair = pair(echo().await);
    let line = "GET /pieces HTTP/1.1\r\n";
    for cut in 1..line.len() {
        let mut client = Client::to(pair.out).await;
        client.send(&line[..cut]).await;
        tokio::task::yield_now().await;
        client.send(format!("{}host: o\r\n\r\n", &line[cut..])).await;
        let answer = client.answer().await;
        assert!(answer.text().starts_with("GET /pieces\n"), "cut at {cut}");
    }
}

#[tokio::test]
async fn where_policy_speaks_of_requests_bytes_are_refused_whatever_a_client_calls_them() {
    let (app, count) = greeter().await;
    let pair = pair(app);
    // A forbid with `ifAbsent: skip` lets pass what has no path, unless it is refused for having none.
    pair.orders.permits(&[WEB, r#"{"effect":"forbid","ifAbsent":"skip","to":{"paths":["/admin"]}}"#]);
    let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let orders = pair.ca.id("ns/shop/sa/orders");
    for alpn in [Alpn::Tcp] {
        let mut client = peer(pair.at, &web, alpn, &orders).await.unwrap();
        let sent = client.stream.write_all(b"GET /admin HTTP/1.1\r\nhost: o\r\n\r\n").await;
        assert!(sent.is_err() || client.ended().await != Some(false));
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
    assert!(pair.orders.counter("signet_refusals_total", &[("reason", "undetected")]) >= 1);
    // The caller's own sidecar knows, and does not even dial.
    let requests_only = ServiceSpec {
        name: "orders.shop".into(),
        ports: vec![PortSpec {
            name: "main".into(),
            port: 80,
            protocol: Protocol::Auto,
            timeouts: Timeouts::default(),
            requests_only: true,
        }],
        identities: vec![orders],
        endpoints: vec![signet_proxy::state::EndpointSpec {
            address: pair.at.ip(),
            ports: [("main".to_owned(), pair.at.port())].into(),
            identity: None,
            behind: None,
        }],
        user_context: UserContext::Transaction,
        ..ServiceSpec::default()
    };
    pair.web.state.update_endpoints(|known| known.apply([requests_only.clone()], [] as [&str; 0]));
    let mut client = Client::to(pair.out).await;
    client.send("EHLO me\r\n").await;
    assert_ne!(client.ended().await, Some(false));
    assert_eq!(pair.web.counter("signet_refusals_total", &[("reason", "undetected")]), 1);
}

#[tokio::test]
async fn a_stream_of_bytes_is_decided_again_when_a_policy_comes_that_speaks_of_requests() {
    let (app, _) = greeter().await;
    let pair = pair(app);
    let mut client = Client::to(pair.out).await;
    assert_eq!(client.take(11).await, b"220 ready\r\n");
    pair.orders.permits(&[WEB, r#"{"effect":"forbid","ifAbsent":"skip","to":{"paths":["/admin"]}}"#]);
    assert_ne!(client.ended().await, Some(false));
}

#[tokio::test]
async fn a_peer_that_calls_its_requests_bytes_reaches_no_app_with_what_it_says_of_users() {
    // As lenient as can be: whatever ends like a head is a request.
    let app = fixed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let pair = pair(app);
    let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let orders = pair.ca.id("ns/shop/sa/orders");
    for line in ["GET / HTTP/1.1", "\r\n\r\nGET / HTTP/1.1", " GET  / http/1.1", "GET / HTTP/3.0"] {
        for cut in [0, 3, line.len() - 2] {
            let mut client = peer(pair.at, &web, Alpn::Tcp, &orders).await.unwrap();
            client.send(&line[..cut]).await;
            tokio::task::yield_now().await;
            let rest =
                format!("{}\r\nhost: o\r\nsignet-user: forged\r\nconnection: close\r\n\r\n", &line[cut..]);
            let _ = within(client.stream.write_all(rest.as_bytes())).await;
            let mut heard = Vec::new();
            let _ = within(client.stream.read_to_end(&mut heard)).await;
            // A server may say of the blanks before it what it thinks; a request it has not read.
            assert!(!heard.starts_with(b"HTTP/1.1 200"), "{line:?}: {}", String::from_utf8_lossy(&heard));
        }
    }
    pair.orders.counts("signet_refusals_total", &[("reason", "undetected")], 12).await;
}
