//! Hop proofs: made by the caller's sidecar, believed once by the callee's, and worth nothing to anybody else.

use std::sync::Arc;

use bytes::Bytes;
use signet_identity::testing::TestCa;
use signet_identity::{Alpn, Generation, PeerClass};
use signet_proxy::exchange::hash;
use signet_proxy::hop_proof::Proven;
use signet_proxy::state::Protocol;
use signet_token::hop::{self, Hop};

use crate::http2::peers;
use crate::support::app::echo;
use crate::support::caller::{Answer, Client, peer, within};
use crate::support::token::{Mint, now};
use crate::support::{Node, Pair, WEB, generation, inbound, outbound};

const GOOD: u64 = u64::MAX;

/// A receiver that asks for proofs, and its caller with a token.
fn receiver(pair: &Pair) -> (Mint, String, Arc<Generation>) {
    let mint = Mint::new();
    mint.trusted_by(&pair.orders.state);
    pair.orders.asks_for_proofs();
    let token = mint.token("alice", &[]);
    (mint, token, generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar))
}

/// What an honest sidecar of `signer` would say of a call with this token.
fn said(signer: &Generation, ca: &TestCa, token: &str) -> Hop {
    let mut id = [0; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut id).unwrap();
    Hop {
        issuer: signer.own().svid().id.to_string(),
        audience: ca.id("ns/shop/sa/orders").to_string(),
        token: hash(token.as_bytes()),
        previous: None,
        depth: 1,
        id,
        issued_at: now(),
        expires_at: now() + 10,
    }
}

fn signed(hop: &Hop, key: &Generation, certificate: &Generation) -> String {
    let sign = |input: &[u8]| hop::fixed(&key.own().sign_es256(input)?);
    hop::sign(hop, &certificate.own().svid().thumbprint, sign).unwrap()
}

async fn ask(pair: &Pair, caller: &Arc<Generation>, token: &str, proofs: &[(&str, &str)]) -> Answer {
    let mut client = peer(pair.at, caller, Alpn::Http1, &pair.ca.id("ns/shop/sa/orders")).await.unwrap();
    let mut headers = vec![("txn-token", token), ("signet-context", "forwarded")];
    headers.extend(proofs);
    client.request("/", &headers).await
}

#[tokio::test]
async fn a_proof_is_believed_once_and_reaches_no_app() {
    let pair = Pair::http(echo().await);
    let (_mint, token, web) = receiver(&pair);
    let proof = signed(&said(&web, &pair.ca, &token), &web, &web);
    let answer = ask(&pair, &web, &token, &[("signet-hop", &proof)]).await;
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert_eq!((answer.echoed("txn-token"), answer.echoed("signet-hop")), (Some(&*token), None));
    let again = ask(&pair, &web, &token, &[("signet-hop", &proof)]).await;
    assert_eq!((again.status, again.header("signet-deny-reason")), (403, Some("hop_replayed")));
    // Without a token there is nothing to prove.
    let mut client = peer(pair.at, &web, Alpn::Http1, &pair.ca.id("ns/shop/sa/orders")).await.unwrap();
    assert_eq!(client.request("/", &[]).await.status, 200);
}

#[tokio::test]
async fn what_is_not_this_callers_proof_of_this_call_is_refused_by_name() {
    let pair = Pair::http(echo().await);
    let (mint, token, web) = receiver(&pair);
    let honest = || said(&web, &pair.ca, &token);
    let thief = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let elsewhere = pair.ca.id("ns/shop/sa/other").to_string();
    let other = mint.token("bob", &[]);
    let attacks = [
        ("hop_bad_signature", signed(&honest(), &thief, &web), "a foreign key under the peer's certificate"),
        ("hop_certificate", signed(&honest(), &thief, &thief), "a foreign key under its own"),
        ("hop_audience", signed(&Hop { audience: elsewhere.clone(), ..honest() }, &web, &web), "another's"),
        ("hop_issuer", signed(&Hop { issuer: elsewhere, ..honest() }, &web, &web), "in another's name"),
        ("hop_token", signed(&said(&web, &pair.ca, &other), &web, &web), "with another token"),
        (
            "hop_depth",
            signed(&Hop { depth: 17, previous: Some([1; 32]), ..honest() }, &web, &web),
            "too deep",
        ),
        (
            "hop_expired",
            signed(&Hop { issued_at: now() - 30, expires_at: now() - 20, ..honest() }, &web, &web),
            "old",
        ),
        ("hop_lifetime", signed(&Hop { expires_at: now() + 60, ..honest() }, &web, &web), "good for long"),
        ("hop_type", token.clone(), "a transaction token"),
        ("hop_malformed", "x".to_owned(), "nothing"),
    ];
    for (label, proof, what) in attacks {
        let answer = ask(&pair, &web, &token, &[("signet-hop", &proof)]).await;
        assert_eq!((answer.status, answer.header("signet-deny-reason")), (403, Some(label)), "{what}");
    }
    // A proof that another peer saw on its way, over that one's own connection.
    let seen = signed(&honest(), &web, &web);
    let answer = ask(&pair, &thief, &token, &[("signet-hop", &seen)]).await;
    assert_eq!(answer.header("signet-deny-reason"), Some("hop_certificate"));
    let (one, two) = (signed(&honest(), &web, &web), signed(&honest(), &web, &web));
    let answer = ask(&pair, &web, &token, &[("signet-hop", &one), ("Signet-Hop", &two)]).await;
    assert_eq!(answer.header("signet-deny-reason"), Some("hop_duplicate"));
    for missing in [&[][..], &[("signet_hop", one.as_str())]] {
        let answer = ask(&pair, &web, &token, missing).await;
        assert_eq!((answer.status, answer.header("signet-deny-reason")), (403, Some("hop_missing")));
    }
    // None of these was used up.
    assert_eq!(ask(&pair, &web, &token, &[("signet-hop", &one)]).await.status, 200);
}

/// A caller's sidecar before a receiver that asks for proofs.
async fn chain(
    protocol: Protocol,
    app: std::net::SocketAddr,
) -> (Node, Node, std::net::SocketAddr, Mint, TestCa) {
    let (ca, mint) = (TestCa::new("demo.signet"), Mint::new());
    let mut orders = Node::new(generation(&ca, "ns/shop/sa/orders", PeerClass::Sidecar));
    mint.trusted_by(&orders.state);
    orders.serves(protocol, &[WEB]);
    orders.asks_for_proofs();
    let at = orders.start(vec![inbound(app)])[0];
    let mut web = Node::new(generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar));
    mint.trusted_by(&web.state);
    web.knows_to_prove(&ca, protocol, at);
    let out = web.start(vec![outbound()])[0];
    (orders, web, out, mint, ca)
}

/// How deep the last call was that the receiver believed.
fn depths(orders: &Node) -> Vec<u32> {
    let mut depths: Vec<_> = orders.shared.hops.take(0).hops.iter().map(|(hop, _)| hop.depth).collect();
    depths.sort_unstable();
    depths
}

#[tokio::test]
async fn sidecars_prove_each_call_and_count_those_before() {
    let (orders, web, out, mint, _ca) = chain(Protocol::Http1, echo().await).await;
    let token = mint.token("alice", &[]);
    let key = hash(token.as_bytes());
    let _open = web.shared.exchanges.open(key, GOOD);
    let mut calls = Client::to(out).await;
    let forged = [("txn-token", token.as_str()), ("signet-hop", "forged"), ("Signet_Hop", "forged")];
    for _ in 0..3 {
        let answer = calls.request("/", &forged).await;
        assert_eq!(answer.status, 200, "{}", answer.head);
        assert_eq!(answer.echoed("txn-token"), Some(&*token));
        assert!(!answer.text().contains("forged") && answer.echoed("signet-hop").is_none());
    }
    assert_eq!(depths(&orders), [1]);
    let came_by = |depth| web.shared.exchanges.came_by(&key, Proven { digest: [7; 32], depth });
    came_by(16);
    let answer = calls.request("/", &forged).await;
    assert_eq!((answer.status, answer.header("signet-deny-reason")), (403, Some("hop_depth")));
    assert!(depths(&orders).is_empty(), "nobody was called");
    came_by(15);
    assert_eq!(calls.request("/", &forged).await.status, 200);
    assert_eq!(depths(&orders), [16]);
    // Whoever calls us with it by a longer way does not end our own calls.
    came_by(16);
    assert_eq!(calls.request("/", &forged).await.status, 200);
    assert_eq!(depths(&orders), [16]);
}

#[tokio::test]
async fn each_stream_of_one_connection_has_a_proof_of_its_own() {
    let (app, _) = peers::app(|request, mut respond| async move {
        let has = request.headers().contains_key("signet-hop");
        let _ = peers::drain(request.into_body()).await;
        let head = http::Response::builder().header("saw-hop", has.to_string()).body(()).unwrap();
        respond.send_response(head, true).unwrap();
    })
    .await;
    let (orders, web, out, mint, _ca) = chain(Protocol::Grpc, app).await;
    let mut calls = within(peers::connect(out)).await;
    for user in ["alice", "bob", "alice"] {
        let token = mint.token(user, &[]);
        let _open = web.shared.exchanges.open(hash(token.as_bytes()), GOOD);
        let mut request = peers::call("/shop.Orders/List");
        request.headers_mut().insert("txn-token", token.parse().unwrap());
        let sent = peers::send(&mut calls, request, Bytes::from_static(b"\0\0\0\0\0")).await.unwrap();
        assert_eq!(sent.status, 200);
        assert_eq!(sent.header("saw-hop"), Some("false"));
    }
    assert_eq!(depths(&orders), [1, 1, 1]);
}
