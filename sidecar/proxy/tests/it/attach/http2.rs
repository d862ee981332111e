//! The same over HTTP/2: handles of streams that end one by one, also by a reset.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use http::{HeaderMap, Request};
use signet_identity::testing::TestCa;
use signet_identity::{Alpn, PeerClass};
use signet_proxy::state::Protocol;
use tokio::sync::mpsc;

use super::scene::ORDERS;
use crate::http2::peers::{self, answer, answer_ok, call};
use crate::support::caller::{peer, within};
use crate::support::token::Mint;
use crate::support::{Node, WEB, generation, inbound, outbound};

type Arrivals = mpsc::UnboundedReceiver<(HeaderMap, SendResponse<Bytes>)>;

fn with(token: &str) -> Request<()> {
    let mut request = call("/shop.Orders/List");
    let headers = request.headers_mut();
    headers.insert("txn-token", token.parse().unwrap());
    headers.insert("signet-context", "forwarded".parse().unwrap());
    headers.append("baggage", "signet%2Ectx=forged,a=1".parse().unwrap());
    headers.append("baggage", "b=2".parse().unwrap());
    request
}

fn carrying(baggage: &str) -> Request<()> {
    let mut request = call("/shop.Orders/List");
    request.headers_mut().insert("baggage", baggage.parse().unwrap());
    request
}

async fn saw(calls: &mut SendRequest<Bytes>, baggage: &str) -> (Option<String>, Option<String>) {
    let sent = peers::send(calls, carrying(baggage), Bytes::from_static(b"\0\0\0\0\0")).await.unwrap();
    assert_eq!(sent.status, 200);
    let header = |name: &str| sent.header(name).map(str::to_owned);
    (header("saw-txn-token"), header("saw-baggage"))
}

#[tokio::test]
async fn each_streams_handle_is_its_own_and_ends_with_it() {
    let (ca, mint) = (TestCa::new("demo.signet"), Mint::new());
    let (echo, _) = peers::app(|request, mut respond| async move {
        let mut head = http::Response::builder();
        for name in ["txn-token", "baggage"] {
            if let Some(value) = request.headers().get(name) {
                head = head.header(format!("saw-{name}"), value);
            }
        }
        let _ = peers::drain(request.into_body()).await;
        respond.send_response(head.body(()).unwrap(), true).unwrap();
    })
    .await;
    let (arrive, mut arrivals): (_, Arrivals) = mpsc::unbounded_channel();
    let (app, _) = peers::app(move |request, respond| {
        let arrive = arrive.clone();
        async move {
            let _ = arrive.send((request.headers().clone(), respond));
        }
    })
    .await;
    let mut next = Node::new(generation(&ca, "ns/shop/sa/orders", PeerClass::Sidecar));
    mint.trusted_by(&next.state);
    next.serves(Protocol::Grpc, &[ORDERS]);
    let next_at = next.start(vec![inbound(echo)])[0];
    let mut orders = Node::new(generation(&ca, "ns/shop/sa/orders", PeerClass::Sidecar));
    mint.trusted_by(&orders.state);
    orders.serves(Protocol::Grpc, &[WEB]);
    orders.knows(&ca, Protocol::Grpc, &[next_at]);
    orders.shared.handles.enable(Duration::ZERO);
    let addresses = orders.start(vec![inbound(app), outbound()]);
    let web = generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar);

    let client = peer(addresses[0], &web, Alpn::H2, &ca.id("ns/shop/sa/orders")).await.unwrap();
    let (mut sender, connection) = within(h2::client::handshake(client.stream)).await.unwrap();
    tokio::spawn(connection);
    let mut calls = peers::connect(addresses[1]).await;
    let (alice, bob) = (mint.token("alice", &[]), mint.token("bob", &[]));
    let mut streams = Vec::new();
    for token in [&alice, &bob] {
        let (response, mut body) = sender.send_request(with(token), false).unwrap();
        body.send_data(Bytes::from_static(b"\0\0\0\0\0"), true).unwrap();
        let (headers, respond) = within(arrivals.recv()).await.unwrap();
        let lines: Vec<_> = headers.get_all("baggage").iter().collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        let baggage = lines[0].to_str().unwrap().to_owned();
        assert!(baggage.starts_with("signet.ctx=") && baggage.ends_with(",a=1,b=2"), "{baggage}");
        streams.push((response, body, respond, baggage));
    }
    let (a, b) = (streams[0].3.clone(), streams[1].3.clone());
    assert_eq!(saw(&mut calls, &a).await, (Some(alice.clone()), Some("a=1,b=2".into())));
    assert_eq!(saw(&mut calls, &b).await, (Some(bob.clone()), Some("a=1,b=2".into())));
    assert_eq!(saw(&mut calls, "a=1,b=2").await.0, None);

    // Bob's caller resets, Alice's gets her answer.
    let (response, mut body, respond, _) = streams.pop().unwrap();
    body.send_reset(h2::Reason::CANCEL);
    let open = |orders: &Node| orders.shared.handles.coverage().unwrap().open;
    let ended = async |orders: &Node, left: u64| {
        within(async {
            while open(orders) != left {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    ended(&orders, 1).await;
    drop((response, respond));
    assert_eq!(saw(&mut calls, &b).await.0, None);
    assert_eq!(saw(&mut calls, &a).await.0, Some(alice));
    let (response, _body, mut respond, _) = streams.pop().unwrap();
    answer_ok(&mut respond, "");
    assert_eq!(answer(response).await.unwrap().status, 200);
    ended(&orders, 0).await;
    assert_eq!(saw(&mut calls, &a).await.0, None);
    let labels = [("direction", "outbound"), ("via", "ended")];
    assert_eq!(orders.counter("signet_user_context_total", &labels), 2);
}
