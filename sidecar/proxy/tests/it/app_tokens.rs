//! Tokens that the app exchanges: presentable as long as what they were got for, and not before they verify.

use std::sync::Arc;

use signet_identity::testing::TestCa;
use signet_identity::{Alpn, PeerClass};
use signet_proxy::app_tokens::{NotTaken, Of};
use signet_proxy::state::Protocol;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Mutex, mpsc};

use crate::support::app::{echo, read_head, scripted};
use crate::support::caller::{Client, peer, within};
use crate::support::token::Mint;
use crate::support::{Node, WEB, generation, inbound, outbound};

#[tokio::test]
async fn what_an_app_got_for_a_token_goes_out_as_long_as_the_request_that_brought_it_is_open() {
    let (begin, mut began) = mpsc::channel(1);
    let (go, may) = mpsc::channel::<()>(1);
    let may = Arc::new(Mutex::new(may));
    let app = scripted(move |mut socket| {
        let (begin, may) = (begin.clone(), may.clone());
        async move {
            while read_head(&mut socket).await.is_some() {
                begin.send(()).await.unwrap();
                may.lock().await.recv().await;
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
        }
    })
    .await;
    let (ca, mint) = (TestCa::new("demo.signet"), Mint::new());
    let own = generation(&ca, "ns/shop/sa/orders", PeerClass::Sidecar);
    let orders_may = r#"{"effect":"permit","from":{"workloads":["ns/shop/sa/orders"]}}"#;
    let mut next = Node::new(own.clone());
    mint.trusted_by(&next.state);
    next.serves(Protocol::Http1, &[orders_may]);
    let next_at = next.start(vec![inbound(echo().await)])[0];
    let mut orders = Node::new(own);
    mint.trusted_by(&orders.state);
    orders.serves(Protocol::Http1, &[WEB]);
    orders.knows(&ca, Protocol::Http1, &[next_at]);
    let addresses = orders.start(vec![inbound(app), outbound()]);
    let shared = orders.shared.clone();

    let (held, got, begun) =
        (mint.token("alice", &["a", "b"]), mint.token("alice", &["a"]), mint.token("bob", &[]));
    assert!(!shared.is_presentable(&held));
    assert!(
        matches!(shared.take(&got, Of::Request(&held)), Err(NotTaken::Ended)),
        "not of a request that is open"
    );
    assert!(matches!(shared.take("not.a.token", Of::Nothing), Err(NotTaken::Refused(_))));
    assert!(matches!(shared.take(&Mint::new().token("alice", &[]), Of::Nothing), Err(NotTaken::Refused(_))));
    assert!(!shared.is_presentable(&got));

    let mut calls = Client::to(addresses[1]).await;
    let mut seen = async |token: &str| {
        let answer = calls.request("/", &[("txn-token", token)]).await;
        answer.echoed("txn-token").map(str::to_owned)
    };
    let web = generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let mut caller = peer(addresses[0], &web, Alpn::Http1, &ca.id("ns/shop/sa/orders")).await.unwrap();
    caller
        .send(format!("GET / HTTP/1.1\r\nhost: o\r\ntxn-token: {held}\r\nsignet-context: forwarded\r\n\r\n"))
        .await;
    within(began.recv()).await.unwrap();
    assert!(shared.is_presentable(&held));
    shared.take(&got, Of::Request(&held)).unwrap();
    assert_eq!(seen(&got).await.as_deref(), Some(&*got));
    shared.take(&begun, Of::Nothing).unwrap();
    go.send(()).await.unwrap();
    assert_eq!(caller.answer().await.status, 200);
    // The guard of the exchange goes with the answer's last byte, of which we have just read.
    while shared.is_presentable(&held) {
        tokio::task::yield_now().await;
    }
    assert_eq!(seen(&got).await, None, "it went with the request");
    assert_eq!(seen(&begun).await.as_deref(), Some(&*begun), "nothing brought this one");

    let keys = shared.minting_keys();
    let all = keys["keys"].as_array().unwrap();
    assert_eq!(all.len(), 1, "{keys}");
    assert_eq!((all[0]["alg"].as_str(), all[0]["kty"].as_str()), (Some("ES256"), Some("EC")));
    let kid = all[0]["kid"].as_str().unwrap().to_owned();
    orders.state.update_keys(|keys| {
        let mut keys = keys.next();
        keys.revoked_delegations = Arc::new([kid.clone()].into());
        keys
    });
    assert_eq!(shared.minting_keys()["keys"].as_array().map(Vec::len), Some(0), "a revoked key is none");
    assert!(matches!(shared.take(&got, Of::Nothing), Err(NotTaken::Refused(_))));
}
