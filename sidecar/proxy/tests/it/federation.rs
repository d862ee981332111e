//! Peers of another trust domain: let in by policy alone, without a voice, told nothing of users, and gone with
//! their bundle.

use std::net::SocketAddr;
use std::sync::Arc;

use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{Alpn, Bundles, Generation, GenerationOptions, PeerClass};
use signet_proxy::exchange;
use signet_proxy::state::Protocol;

use crate::support::app::{echo, scripted};
use crate::support::caller::{Client, peer};
use crate::support::token::Mint;
use crate::support::{Node, inbound, outbound};

const PARTNER_MAY: &str = r#"{"effect":"permit","from":{"workloads":["spiffe://partner.example/ns/shop/sa/web"]},"to":{"paths":["/"]}}"#;

/// Two authorities, `ours` and `theirs`.
struct Domains {
    ours: TestCa,
    theirs: TestCa,
}

impl Domains {
    fn new() -> Self {
        Self { ours: TestCa::new("demo.signet"), theirs: TestCa::new("partner.example") }
    }

    /// Somebody of `ca` who believes both.
    fn member(&self, number: u64, ca: &TestCa, short: &str, class: PeerClass) -> Arc<Generation> {
        let own = ca.svid(&ca.id(short), class, SvidOptions::default().at_wall_clock());
        let bundles = Bundles::new([self.ours.bundle(), self.theirs.bundle()]).unwrap();
        Generation::build(number, own, Arc::new(bundles), GenerationOptions::default()).unwrap()
    }

    /// Our sidecar of `orders`, which permits the partner's `web` the path `/`.
    fn orders(&self, app: SocketAddr) -> (Node, SocketAddr) {
        let mut orders = Node::new(self.member(1, &self.ours, "ns/shop/sa/orders", PeerClass::Sidecar));
        orders.serves(Protocol::Http1, &[PARTNER_MAY]);
        let at = orders.start(vec![inbound(app)])[0];
        (orders, at)
    }
}

#[tokio::test]
async fn a_federated_sidecar_reaches_what_a_policy_names_and_has_no_voice() {
    let domains = Domains::new();
    let (orders, at) = domains.orders(echo().await);
    let mint = Mint::new();
    mint.trusted_by(&orders.state);
    let token = mint.token("alice", &[]);
    for class in [PeerClass::Sidecar, PeerClass::Gateway, PeerClass::Workload] {
        let web = domains.member(1, &domains.theirs, "ns/shop/sa/web", class);
        let mut client = peer(at, &web, Alpn::Http1, &domains.ours.id("ns/shop/sa/orders")).await.unwrap();
        let said = [
            ("txn-token", token.as_str()),
            ("signet-context", "forwarded"),
            ("signet-user", "forged"),
            ("x-forwarded-client-cert", "URI=spiffe://demo.signet/ns/shop/sa/admin"),
        ];
        let answer = client.request("/", &said).await;
        assert_eq!(answer.status, 200, "{class}: {}", answer.text());
        for name in ["txn-token", "signet-user", "signet-context"] {
            assert_eq!(answer.echoed(name), None, "{class}: {name}");
        }
        let xfcc = answer.echoed("x-forwarded-client-cert").unwrap();
        assert!(
            xfcc.contains("URI=spiffe://partner.example/ns/shop/sa/web") && !xfcc.contains("admin"),
            "{xfcc}"
        );
        assert_eq!(client.get("/other").await.status, 403, "{class}");
    }
    assert_eq!(
        orders.counter("signet_user_context_total", &[("direction", "inbound"), ("via", "forwarded")]),
        0
    );
    let batch = domains.member(1, &domains.theirs, "ns/shop/sa/batch", PeerClass::Sidecar);
    let mut client = peer(at, &batch, Alpn::Http1, &domains.ours.id("ns/shop/sa/orders")).await.unwrap();
    assert_eq!(client.get("/").await.status, 403, "a workload that no policy names");
    // The same path in our own domain is somebody else.
    let ours = domains.member(1, &domains.ours, "ns/shop/sa/web", PeerClass::Sidecar);
    let mut client = peer(at, &ours, Alpn::Http1, &domains.ours.id("ns/shop/sa/orders")).await.unwrap();
    assert_eq!(client.get("/").await.status, 403);
}

#[tokio::test]
async fn the_end_of_a_federation_closes_the_connections_of_its_peers_and_no_others() {
    let domains = Domains::new();
    let (orders, at) = domains.orders(echo().await);
    let web = domains.member(1, &domains.theirs, "ns/shop/sa/web", PeerClass::Sidecar);
    let ours = domains.member(1, &domains.ours, "ns/shop/sa/web", PeerClass::Sidecar);
    let expected = domains.ours.id("ns/shop/sa/orders");
    let mut federated = peer(at, &web, Alpn::Http1, &expected).await.unwrap();
    let mut own = peer(at, &ours, Alpn::Http1, &expected).await.unwrap();
    assert_eq!((federated.get("/").await.status, own.get("/").await.status), (200, 403));
    let svid = orders.state.view().tls.generation.own().clone();
    let alone = Generation::build(2, svid, domains.ours.bundles(), GenerationOptions::default()).unwrap();
    orders.state.update_tls(|tls| tls.with_generation(alone.clone()));
    assert_ne!(federated.ended().await, Some(false));
    assert_eq!(own.get("/").await.status, 403, "who is of our own goes on");
    let labels = [("direction", "inbound"), ("reason", "wrong_trust_domain")];
    if let Ok(mut again) = peer(at, &web, Alpn::Http1, &expected).await {
        assert_ne!(again.ended().await, Some(false));
    }
    orders.counts("signet_handshake_failures_total", &labels, 1).await;
}

#[tokio::test]
async fn a_users_token_does_not_travel_to_another_trust_domain() {
    let domains = Domains::new();
    // Their sidecar of `orders`, before an app that speaks in our words.
    let app = scripted(|mut socket| async move {
        use tokio::io::AsyncWriteExt as _;
        while let Some(head) = crate::support::app::read_head(&mut socket).await {
            let seen = head.to_lowercase();
            let body =
                if seen.contains("txn-token") || seen.contains("signet-") { "leaked" } else { "nothing" };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nsignet-decision-id: forged\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let mut theirs = Node::new(domains.member(1, &domains.theirs, "ns/shop/sa/orders", PeerClass::Sidecar));
    theirs.serves(
        Protocol::Http1,
        &[r#"{"effect":"permit","from":{"workloads":["spiffe://demo.signet/ns/shop/sa/web"]}}"#],
    );
    let at = theirs.start(vec![inbound(app)])[0];
    let mut web = Node::new(domains.member(1, &domains.ours, "ns/shop/sa/web", PeerClass::Sidecar));
    web.knows(&domains.theirs, Protocol::Http1, &[at]);
    let out = web.start(vec![outbound()])[0];
    // A token that this sidecar's app may present to anybody of the mesh.
    let token = Mint::new().token("alice", &[]);
    let _open = web.shared.exchanges.open(exchange::hash(token.as_bytes()), u64::MAX);
    let mut calls = Client::to(out).await;
    let answer = calls.request("/", &[("txn-token", &token), ("signet-user", "x")]).await;
    assert_eq!((answer.status, answer.text()), (200, "nothing"));
    assert_eq!(answer.header("signet-decision-id"), None);
    assert_eq!(web.counter("signet_user_context_total", &[("direction", "outbound"), ("via", "unseen")]), 1);
}
