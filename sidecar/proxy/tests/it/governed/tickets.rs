//! Sessions are resumed within a generation, and until the next news of revocation: nothing from before is taken up.

use std::net::SocketAddr;
use std::sync::Arc;

use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{Alpn, Generation, KeyId, PeerClass, RevocationSet};
use signet_proxy::state::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::scene::{Carried, Scene, built, revoke};
use crate::support::caller::{Client, dial, within};
use crate::support::{Node, WEB, generation, generation_with, inbound};

/// A client that keeps its tickets whatever it is told: rustls' own store, under our certificate.
fn keeper(generation: &Arc<Generation>, alpn: Alpn) -> Arc<rustls::ClientConfig> {
    let mut config = (*generation.client_config(alpn)).clone();
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    Arc::new(config)
}

/// One request; whether it was served, and over a resumed session.
async fn served(scene: &Scene, at: SocketAddr, config: &Arc<rustls::ClientConfig>) -> Option<bool> {
    let name = signet_identity::server_name(&scene.ca.id("ns/shop/sa/orders"));
    let socket = within(TcpStream::connect(at)).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(config.clone());
    let stream = within(connector.connect(name, socket)).await.ok()?;
    let resumed = stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    let mut client = Client { stream, unread: Vec::new() };
    client.stream.write_all(b"ping").await.ok()?;
    let mut back = [0; 4];
    within(client.stream.read_exact(&mut back)).await.ok()?;
    Some(resumed)
}

#[tokio::test]
async fn a_ticket_is_good_within_its_generation_and_until_news_of_revocation_only() {
    let scene = Scene::of(Carried::Tcp).await;
    let view = scene.web.state.view();
    let at = view.endpoints.service("orders.shop").unwrap().ports[0].endpoints[0].address;
    let bundles = || scene.orders.state.view().tls.generation.bundles().clone();
    let web = built(&scene.ca, "web", bundles());
    let keeper = keeper(&web, Alpn::Tcp);
    let fresh_then_resumed = async |what: &str| {
        assert_eq!(
            served(&scene, at, &keeper).await,
            Some(false),
            "{what}: a ticket from before it was taken up"
        );
        assert_eq!(served(&scene, at, &keeper).await, Some(true), "{what}: no ticket since");
    };
    fresh_then_resumed("the first time").await;
    revoke(&scene.orders, |set| set.keys.insert(KeyId::of(b"somebody else")));
    fresh_then_resumed("news of revocation").await;
    let renewed = built(&scene.ca, "orders", bundles());
    scene.orders.state.update_tls(|tls| tls.with_generation(renewed.clone()));
    fresh_then_resumed("our own renewal").await;
    let alone = built(&scene.ca, "orders", scene.ca.bundles());
    scene.orders.state.update_tls(|tls| tls.with_generation(alone.clone()));
    fresh_then_resumed("a removed root").await;
    // And whoever is revoked gets nowhere with the ticket that it has.
    let mut set = RevocationSet::new(2);
    set.serials.insert(web.own().svid().serial);
    let set = Arc::new(set);
    scene.orders.state.update_tls(|tls| tls.with_revoked(set.clone()));
    assert_eq!(served(&scene, at, &keeper).await, None);
    let labels = [("direction", "inbound"), ("reason", "revoked")];
    scene.orders.counts("signet_handshake_failures_total", &labels, 1).await;
    assert_eq!(scene.orders.shared.incidents.report().failures[0].reason, "revoked");
}

/// The client's side of the same: our own sidecar offers no session from before.
#[tokio::test]
async fn a_caller_offers_no_session_from_before_news_of_revocation() {
    let ca = TestCa::new("demo.signet");
    let orders = generation(&ca, "ns/shop/sa/orders", PeerClass::Sidecar);
    let web = generation_with(&ca, "ns/shop/sa/web", PeerClass::Sidecar, SvidOptions::default());
    let mut server = Node::new(orders);
    server.serves(Protocol::Tcp, &[WEB]);
    let at = server.start(vec![inbound(Carried::Tcp.app().await)])[0];
    let name = || signet_identity::server_name(&ca.id("ns/shop/sa/orders"));
    let resumed = async || {
        let mut client = dial(at, &web, Alpn::Tcp, name()).await.unwrap();
        client.send("ping").await;
        assert_eq!(client.take(4).await, b"ping");
        client.stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    };
    assert!(!resumed().await);
    assert!(resumed().await);
    let mut set = RevocationSet::new(1);
    set.keys.insert(KeyId::of(b"somebody else"));
    web.learn(&Arc::new(set));
    assert!(!resumed().await);
    assert!(resumed().await);
}
