//! Bytes through a pair of sidecars.

use std::sync::Arc;
use std::time::Duration;

use signet_identity::testing::SvidOptions;
use signet_identity::{Alpn, PeerClass, RevocationSet};
use signet_proxy::Limits;
use signet_proxy::state::{MeshSettings, Protocol, Timeouts, UserContext};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::support::app::scripted;
use crate::support::caller::{Client, peer, within};
use crate::support::{Pair, WEB, generation_with};

fn pair(app: std::net::SocketAddr) -> Pair {
    Pair::new(Protocol::Tcp, app, Limits::default())
}

#[tokio::test]
async fn the_server_may_speak_first() {
    let app = scripted(|mut socket| async move {
        socket.write_all(b"220 ready\r\n").await.unwrap();
        let mut line = [0; 4];
        socket.read_exact(&mut line).await.unwrap();
        socket.write_all(&line).await.unwrap();
    })
    .await;
    let pair = pair(app);
    let mut client = Client::to(pair.out).await;
    assert_eq!(client.take(11).await, b"220 ready\r\n");
    client.send("QUIT").await;
    assert_eq!(client.rest().await, b"QUIT");
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let app = scripted(|mut socket| async move {
        let mut all = Vec::new();
        socket.read_to_end(&mut all).await.unwrap();
        socket.write_all(format!("got {}", all.len()).as_bytes()).await.unwrap();
    })
    .await;
    let pair = pair(app);
    let mut client = Client::to(pair.out).await;
    client.send(vec![7; 3_000_000]).await;
    within(client.stream.shutdown()).await.unwrap();
    assert_eq!(client.rest().await, b"got 3000000");
}

#[tokio::test]
async fn a_server_that_only_sends_is_heard_to_its_end() {
    let app = scripted(|mut socket| async move {
        let data = vec![9; 3_000_000];
        socket.write_all(&data).await.unwrap();
    })
    .await;
    let pair = pair(app);
    let mut client = Client::to(pair.out).await;
    assert_eq!(client.rest().await.len(), 3_000_000);
}

#[tokio::test]
async fn a_reset_is_a_reset_on_the_other_side() {
    let app = scripted(|mut socket| async move {
        let mut byte = [0];
        socket.read_exact(&mut byte).await.unwrap();
        socket.write_all(b"part").await.unwrap();
        socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    let pair = pair(app);
    let mut client = Client::to(pair.out).await;
    client.send("x").await;
    let mut all = Vec::new();
    assert!(within(client.stream.read_to_end(&mut all)).await.is_err(), "{all:?}");
}

#[tokio::test]
async fn a_reset_after_a_half_close_is_one_on_the_other_side_although_nobody_speaks() {
    // The client has ended and goes away; the server, which waits for nothing from it, is told.
    let (told, mut heard) = tokio::sync::mpsc::channel(1);
    let app = scripted(move |mut socket| {
        let told = told.clone();
        async move {
            let mut all = Vec::new();
            socket.read_to_end(&mut all).await.unwrap();
            told.send("ended").await.unwrap();
            socket.ready(tokio::io::Interest::ERROR).await.unwrap();
            told.send("reset").await.unwrap();
        }
    })
    .await;
    let pair = pair(app);
    let mut client = Client::to(pair.out).await;
    client.send("x").await;
    within(client.stream.shutdown()).await.unwrap();
    assert_eq!(within(heard.recv()).await, Some("ended"));
    socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(within(heard.recv()).await, Some("reset"));
}

#[tokio::test]
async fn a_stream_without_a_permit_is_reset_and_the_app_never_asked() {
    let (asked, mut told) = tokio::sync::mpsc::channel(1);
    let app = scripted(move |_socket| {
        let asked = asked.clone();
        async move { asked.send(()).await.unwrap() }
    })
    .await;
    let pair = pair(app);
    pair.orders.permits(&[]);
    let mut client = Client::to(pair.out).await;
    client.send("x").await;
    assert_ne!(client.ended().await, Some(false));
    assert!(told.try_recv().is_err());
    let labels = [("direction", "inbound"), ("reason", "policy")];
    pair.orders.counts("signet_refusals_total", &labels, 1).await;
}

async fn echoing() -> std::net::SocketAddr {
    scripted(|mut socket| async move {
        let mut buffer = [0; 64];
        while let Ok(count @ 1..) = socket.read(&mut buffer).await {
            if socket.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    })
    .await
}

async fn open_stream() -> (Pair, Client<tokio::net::TcpStream>) {
    let pair = pair(echoing().await);
    let mut client = Client::to(pair.out).await;
    client.send("ping").await;
    assert_eq!(client.take(4).await, b"ping");
    (pair, client)
}

#[tokio::test]
async fn a_stream_ends_when_its_permit_does() {
    let (pair, mut client) = open_stream().await;
    pair.orders.permits(&[WEB]);
    client.send("pong").await;
    assert_eq!(client.take(4).await, b"pong");
    pair.orders.permits(&[]);
    assert_ne!(client.ended().await, Some(false));
}

#[tokio::test]
async fn a_stream_of_a_revoked_peer_is_cut() {
    let (pair, mut client) = open_stream().await;
    let mut set = RevocationSet::new(1);
    set.keys.insert(pair.web.state.view().tls.generation.own().svid().key);
    let set = Arc::new(set);
    pair.orders.state.update_tls(|tls| tls.with_revoked(set.clone()));
    assert_ne!(client.ended().await, Some(false));
}

#[tokio::test]
async fn a_stream_ends_at_the_meshs_maximum_age() {
    let app = scripted(|mut socket| async move {
        let mut byte = [0];
        let _ = socket.read(&mut byte).await;
    })
    .await;
    let pair = pair(app);
    let mesh = MeshSettings { max_connection_age: Some(Duration::from_millis(100)), ..Default::default() };
    pair.orders.state.update_policy(|policy| policy.with_mesh(mesh));
    let mut client = Client::to(pair.out).await;
    assert_ne!(client.ended().await, Some(false));
}

#[tokio::test]
async fn an_idle_stream_ends_where_the_port_says_so() {
    let app = scripted(|mut socket| async move {
        let mut byte = [0];
        let _ = socket.read(&mut byte).await;
    })
    .await;
    let pair = pair(app);
    let timeouts = Timeouts { idle: Some(Duration::from_millis(100)), ..Default::default() };
    pair.orders.serves_with(Protocol::Tcp, &[WEB], timeouts, UserContext::Transaction);
    let mut client = Client::to(pair.out).await;
    assert_ne!(client.ended().await, Some(false));
}

/// A stream of a peer whose SVID ends in two seconds, at orders, whose view of the mesh is `live` and may be an hour
/// old.
async fn short_lived(
    live: bool,
    timeouts: Timeouts,
) -> (Pair, Client<impl AsyncRead + AsyncWrite + Unpin>, i64) {
    let pair = pair(echoing().await);
    pair.orders.serves_with(Protocol::Tcp, &[WEB], timeouts, UserContext::Transaction);
    if live {
        pair.orders.state.freshness.live();
    }
    let mesh = MeshSettings { max_staleness: Duration::from_secs(3600), ..Default::default() };
    pair.orders.state.update_policy(|policy| policy.with_mesh(mesh));
    let options = SvidOptions::default().ends_in(2);
    let web = generation_with(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar, options);
    let mut client = peer(pair.at, &web, Alpn::Tcp, &pair.ca.id("ns/shop/sa/orders")).await.unwrap();
    client.send("ping").await;
    assert_eq!(client.take(4).await, b"ping");
    (pair, client, web.own().svid().not_after)
}

async fn cut_as_expired(pair: &Pair, client: &mut Client<impl AsyncRead + AsyncWrite + Unpin>) {
    assert_ne!(client.ended().await, Some(false));
    let labels = [("direction", "inbound"), ("reason", "expired")];
    pair.orders.counts("signet_streams_cut_total", &labels, 1).await;
}

/// The wall clock has no event to wait for but itself.
async fn passed(second: i64) {
    let now = || i64::try_from(now()).unwrap();
    while now() <= second {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn a_stream_outlives_its_peers_svid_only_while_the_view_is_fresh() {
    let (pair, mut client, end) = short_lived(true, Timeouts::default()).await;
    passed(end + 2).await;
    client.send("pong").await;
    assert_eq!(client.take(4).await, b"pong");
    // The news stopped, an hour ago at most: still good.
    pair.orders.state.freshness.lost(now() - 3000);
    passed(end + 4).await;
    client.send("pong").await;
    assert_eq!(client.take(4).await, b"pong");
    pair.orders.state.freshness.live();
    pair.orders.state.freshness.lost(now() - 3601);
    cut_as_expired(&pair, &mut client).await;
}

#[tokio::test]
async fn a_stream_is_cut_at_its_peers_end_when_the_view_is_stale() {
    let (pair, mut client, end) = short_lived(false, Timeouts::default()).await;
    cut_as_expired(&pair, &mut client).await;
    assert!(i64::try_from(now()).unwrap() > end, "not before its end");
}

#[tokio::test]
async fn a_stream_is_cut_at_its_peers_end_where_the_port_says_so() {
    let timeouts = Timeouts { cut_on_expiry: true, ..Default::default() };
    let (pair, mut client, end) = short_lived(true, timeouts).await;
    cut_as_expired(&pair, &mut client).await;
    assert!(i64::try_from(now()).unwrap() > end, "not before its end");
}

#[tokio::test]
async fn a_stream_is_cut_at_our_own_end_where_the_port_says_so() {
    let pair = pair(echoing().await);
    pair.orders.state.freshness.live();
    // Else web, whose view was never fresh, cuts its end in the same second, and may be the first.
    pair.web.state.freshness.live();
    let timeouts = Timeouts { cut_on_expiry: true, ..Default::default() };
    pair.orders.serves_with(Protocol::Tcp, &[WEB], timeouts, UserContext::Transaction);
    let options = SvidOptions::default().ends_in(2);
    let short = generation_with(&pair.ca, "ns/shop/sa/orders", PeerClass::Sidecar, options);
    pair.orders.state.update_tls(|tls| tls.with_generation(short.clone()));
    let mut client = Client::to(pair.out).await;
    client.send("ping").await;
    assert_eq!(client.take(4).await, b"ping");
    cut_as_expired(&pair, &mut client).await;
}

#[tokio::test]
async fn an_exception_ends_live_streams_by_our_own_clock_and_without_any_news() {
    let app = scripted(|mut socket| async move {
        socket.write_all(b"hello").await.unwrap();
        let mut byte = [0];
        let _ = socket.read(&mut byte).await;
    })
    .await;
    let pair = pair(app);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let until = signet_model::Moment::from_unix(i64::try_from(now).unwrap() + 3).unwrap();
    let forbid = format!(
        r#"{{"effect":"forbid","exceptions":[{{"owner":"team","reason":"moving","until":"{until}","from":{{"workloads":["ns/shop/sa/web"]}}}}]}}"#
    );
    pair.orders.permits(&[WEB, &forbid]);
    let mut client = Client::to(pair.out).await;
    assert_eq!(client.take(5).await, b"hello");
    assert_eq!(pair.orders.counter("signet_policy_exceptions_total", &[("policy", "p1.shop")]), 1);
    assert_ne!(client.ended().await, Some(false));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(i64::try_from(now).unwrap() >= until.unix());
    pair.orders.counts("signet_streams_cut_total", &[("reason", "policy")], 1).await;
    // A new one is refused.
    let mut client = Client::to(pair.out).await;
    assert_ne!(client.ended().await, Some(false));
    pair.orders.counts("signet_refusals_total", &[("direction", "inbound"), ("reason", "policy")], 1).await;
}
