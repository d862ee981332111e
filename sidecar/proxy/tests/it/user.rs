//! The user's context: believed from whom it may come, seen by the app, and not to be forged.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use signet_identity::testing::TestCa;
use signet_identity::{Alpn, Generation, PeerClass};
use signet_proxy::state::{Protocol, Wanted};
use signet_token::{IssuerKeys, IssuerSettings, Issuers, Jwks, SigningKey};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use crate::support::app::{echo, read_head, scripted};
use crate::support::caller::{Answer, Client, peer, within};
use crate::support::token::{self, Mint};
use crate::support::{Node, Pair, WEB, generation, inbound, outbound};

async fn as_peer(pair: &Pair, caller: &Arc<Generation>, headers: &[(&str, &str)]) -> Answer {
    let mut client = peer(pair.at, caller, Alpn::Http1, &pair.ca.id("ns/shop/sa/orders")).await.unwrap();
    client.request("/", headers).await
}

fn context(pair: &Pair, via: &str) -> u64 {
    pair.orders.counter("signet_user_context_total", &[("direction", "inbound"), ("via", via)])
}

#[tokio::test]
async fn the_app_sees_the_verified_user_and_the_caller() {
    let pair = Pair::http(echo().await);
    let mint = Mint::new();
    mint.trusted_by(&pair.orders.state);
    let token = mint.token("alice", &["orders:read"]);
    let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let forged = [
        ("txn-token", token.as_str()),
        ("signet-context", "forwarded"),
        ("signet-user", "forged"),
        ("Signet_User", "forged"),
        ("x-forwarded-client-cert", "URI=spiffe://demo.signet/ns/x/sa/forged"),
    ];
    for _ in 0..2 {
        let answer = as_peer(&pair, &web, &forged).await;
        assert_eq!(answer.status, 200, "{}", answer.head);
        assert_eq!(answer.echoed("txn-token"), Some(&*token));
        assert!(!answer.text().contains("forged"), "{}", answer.text());
        let user = URL_SAFE_NO_PAD.decode(answer.echoed("signet-user").unwrap()).unwrap();
        let user: serde_json::Value = serde_json::from_slice(&user).unwrap();
        assert_eq!(user["sub"], "idp|alice");
        assert_eq!(user["scope"], "orders:read");
        assert_eq!(user["claims"]["groups"][0], "staff");
        let xfcc = answer.echoed("x-forwarded-client-cert").unwrap();
        assert!(xfcc.contains("URI=spiffe://demo.signet/ns/shop/sa/web"), "{xfcc}");
    }
    assert_eq!(context(&pair, "forwarded"), 2);
}

#[tokio::test]
async fn a_peer_without_a_voice_brings_no_user() {
    let pair = Pair::http(echo().await);
    let mint = Mint::new();
    mint.trusted_by(&pair.orders.state);
    let token = mint.token("alice", &[]);
    let app_key = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Workload);
    let answer = as_peer(
        &pair,
        &app_key,
        &[("txn-token", &token), ("signet-context", "forwarded"), ("signet-user", "x")],
    )
    .await;
    assert_eq!(answer.status, 200);
    for name in ["txn-token", "signet-user", "signet-context"] {
        assert_eq!(answer.echoed(name), None, "{name}");
    }
    assert_eq!(context(&pair, "none"), 1);
    assert_eq!(pair.orders.counter("signet_stripped_headers_total", &[("direction", "inbound")]), 3);
}

#[tokio::test]
async fn policy_asks_for_the_user_scopes_and_claims() {
    let pair = Pair::http(echo().await);
    let mint = Mint::new();
    mint.trusted_by(&pair.orders.state);
    pair.orders.permits(&[
        r#"{"effect":"permit","from":{"workloads":["ns/shop/sa/web"]},"user":{"required":true,"scopes":["orders:read"],"claims":{"groups":{"anyOf":["staff"]}}}}"#,
    ]);
    let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let (good, poor) = (mint.token("alice", &["orders:read"]), mint.token("bob", &["orders:write"]));
    let forwarded = ("signet-context", "forwarded");
    assert_eq!(as_peer(&pair, &web, &[("txn-token", &good), forwarded]).await.status, 200);
    assert_eq!(as_peer(&pair, &web, &[("txn-token", &poor), forwarded]).await.status, 403);
    assert_eq!(as_peer(&pair, &web, &[]).await.status, 403);
    // What the sidecar attached by itself is not what the app forwarded.
    assert_eq!(
        as_peer(&pair, &web, &[("txn-token", &good), ("signet-context", "attached")]).await.status,
        403
    );
    assert_eq!(as_peer(&pair, &web, &[("txn-token", &good)]).await.status, 403);
}

#[tokio::test]
async fn a_token_that_does_not_verify_is_refused_by_its_reason() {
    let pair = Pair::http(echo().await);
    let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let mint = Mint::new();
    let token = mint.token("alice", &[]);
    let answer = as_peer(&pair, &web, &[("txn-token", &token)]).await;
    assert_eq!((answer.status, answer.header("signet-deny-reason")), (503, Some("context-unavailable")));
    mint.trusted_by(&pair.orders.state);
    let stranger = Mint::new().token("alice", &[]);
    let answer = as_peer(&pair, &web, &[("txn-token", &stranger)]).await;
    assert_eq!((answer.status, answer.header("signet-deny-reason")), (403, Some("txn_key_unknown")));
    let answer = as_peer(&pair, &web, &[("txn-token", "not.a.token")]).await;
    assert_eq!(answer.status, 403);
}

#[tokio::test]
async fn a_token_is_presentable_only_while_the_exchange_that_brought_it_is_open() {
    let (begin, mut began) = mpsc::channel(1);
    let (go, may) = mpsc::channel::<()>(1);
    let may = Arc::new(tokio::sync::Mutex::new(may));
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
    let token = mint.token("alice", &[]);
    let own = generation(&ca, "ns/shop/sa/orders", PeerClass::Sidecar);
    let orders_may = r#"{"effect":"permit","from":{"workloads":["ns/shop/sa/orders"]}}"#;
    // The service that the app calls, under the same name for brevity, echoes what reaches it.
    let mut next = Node::new(generation(&ca, "ns/shop/sa/orders", PeerClass::Sidecar));
    mint.trusted_by(&next.state);
    next.serves(Protocol::Http1, &[orders_may]);
    let next_at = next.start(vec![inbound(echo().await)])[0];
    // The sidecar before the app: its inbound and its outbound share what they know of exchanges.
    let mut orders = Node::new(own.clone());
    mint.trusted_by(&orders.state);
    orders.serves(Protocol::Http1, &[WEB, orders_may]);
    orders.knows(&ca, Protocol::Http1, &[next_at]);
    let addresses = orders.start(vec![inbound(app), outbound()]);
    let (at, out) = (addresses[0], addresses[1]);
    let web = generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let unseen = |orders: &Node| {
        orders.counter("signet_user_context_total", &[("direction", "outbound"), ("via", "unseen")])
    };

    let mut calls = Client::to(out).await;
    let presented =
        [("txn-token", token.as_str()), ("signet-context", "attached"), ("signet-user", "forged")];
    let answer = calls.request("/", &presented).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        (answer.echoed("txn-token"), answer.echoed("signet-user")),
        (None, None),
        "never received: stripped"
    );
    assert_eq!(unseen(&orders), 1);

    let brought =
        format!("GET / HTTP/1.1\r\nhost: o\r\ntxn-token: {token}\r\nsignet-context: forwarded\r\n\r\n");
    // A call that this pod makes to itself brings nothing.
    let mut itself = peer(at, &own, Alpn::Http1, &ca.id("ns/shop/sa/orders")).await.unwrap();
    itself.send(&brought).await;
    within(began.recv()).await.unwrap();
    assert_eq!(calls.request("/", &presented).await.echoed("txn-token"), None);
    go.send(()).await.unwrap();
    assert_eq!(itself.answer().await.status, 200);

    let mut caller = peer(at, &web, Alpn::Http1, &ca.id("ns/shop/sa/orders")).await.unwrap();
    caller.send(&brought).await;
    within(began.recv()).await.unwrap();
    let answer = calls.request("/", &presented).await;
    assert_eq!(answer.echoed("txn-token"), Some(&*token));
    assert_ne!(answer.echoed("signet-user"), Some("forged"));
    let labels = [("direction", "inbound"), ("via", "forwarded")];
    assert_eq!(next.counter("signet_user_context_total", &labels), 1, "it travels on as forwarded");
    let other = mint.token("bob", &[]);
    assert_eq!(calls.request("/", &[("txn-token", &other)]).await.echoed("txn-token"), None);

    go.send(()).await.unwrap();
    assert_eq!(caller.answer().await.status, 200);
    assert_eq!(calls.request("/", &presented).await.echoed("txn-token"), None, "the exchange has ended");
    assert_eq!(unseen(&orders), 4);
}

#[tokio::test]
async fn a_service_in_the_original_mode_verifies_the_callers_jwt_again() {
    let pair = Pair::http(echo().await);
    let user = signet_proxy::state::UserContext::Original;
    pair.orders.serves_with(Protocol::Http1, &[WEB], Default::default(), user);
    let key = SigningKey::generate().unwrap();
    let settings = IssuerSettings {
        alias: "idp".into(),
        issuer: "https://idp.example".into(),
        audiences: vec!["shop".into()],
        claims: vec!["email".into()],
        ..Default::default()
    };
    let jwks = Arc::new(Jwks::of([key.public_jwk().clone()]));
    let issuers = Arc::new(Issuers::new([IssuerKeys::new(settings).unwrap().with_keys(jwks, token::now())]));
    pair.orders.state.update_keys(|keys| {
        let mut keys = keys.next();
        keys.issuers = issuers.clone();
        keys
    });
    let jwt = |audience: &str, key: &SigningKey| {
        let claims = serde_json::json!({
            "iss": "https://idp.example", "aud": audience, "sub": "alice", "client_id": "web", "jti": "1",
            "iat": token::now(), "exp": token::now() + 60, "scope": "orders:read", "email": "a@example",
        });
        format!("Bearer {}", key.sign("at+jwt", Default::default(), claims.as_object().unwrap()).unwrap())
    };
    let web = generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar);
    for _ in 0..2 {
        let good = jwt("shop", &key);
        let answer = as_peer(&pair, &web, &[("authorization", &good)]).await;
        assert_eq!(answer.status, 200, "{}", answer.head);
        assert_eq!(answer.echoed("authorization"), Some(&*good), "it is passed through");
        let user = URL_SAFE_NO_PAD.decode(answer.echoed("signet-user").unwrap()).unwrap();
        let user: serde_json::Value = serde_json::from_slice(&user).unwrap();
        assert_eq!((&user["sub"], &user["claims"]["email"]), (&"idp|alice".into(), &"a@example".into()));
    }
    let other = SigningKey::generate().unwrap();
    for (authorization, reason) in [
        (jwt("elsewhere", &key), "wrong_audience"),
        (jwt("shop", &other), "unknown_key"),
        ("Basic YTpi".into(), "original-missing"),
    ] {
        let answer = as_peer(&pair, &web, &[("authorization", &authorization)]).await;
        assert_eq!((answer.status, answer.header("signet-deny-reason")), (403, Some(reason)));
    }
    assert_eq!(as_peer(&pair, &web, &[]).await.header("signet-deny-reason"), Some("original-missing"));
    let mut wanted = pair.orders.wanted;
    assert_eq!(wanted.try_recv().ok(), Some(Wanted::IssuerKeys("idp".into())), "keys are asked for");
}
