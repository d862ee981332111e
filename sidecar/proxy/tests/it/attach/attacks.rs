//! Whoever would borrow a user by a handle: a peer, another pod, the app itself, and places outside.

use std::time::Duration;

use signet_identity::{Alpn, PeerClass};
use signet_proxy::app_tokens::Of;
use signet_proxy::listener::Kind;
use signet_proxy::state::PlaceSpec;

use super::scene::{Scene, TRACEPARENT};
use crate::support::app::echo;
use crate::support::caller::{Client, peer};
use crate::support::{generation, outbound};

const NO_GRACE: Option<Duration> = Some(Duration::ZERO);

#[tokio::test]
async fn a_peer_that_learned_a_handle_cannot_send_it_in_however_it_is_spelled() {
    let mut scene = Scene::new(NO_GRACE).await;
    let alice = scene.mint.token("alice", &[]);
    let victim = scene.arrives(&alice, &[]).await;
    let stolen = victim.handle();
    let mallory = scene.mint.token("mallory", &[]);
    for line in [
        format!("signet.ctx={stolen}"),
        format!("signet%2Ectx={stolen}"),
        format!("%73ignet.ctx={stolen}"),
        format!("%2573ignet.ctx={stolen}"),
        format!("Signet.Ctx={stolen}"),
        format!("signet.ctx\t={stolen}"),
        format!("signet.ctx+={stolen}"),
        format!("x=a;p=b%2Csignet.ctx%3D{stolen}"),
        format!("x=a%2Csignet.ctx%3D{stolen}"),
        format!("{},signet.ctx={stolen}", (0..70).map(|at| format!("k{at}=v")).collect::<Vec<_>>().join(",")),
    ] {
        for token in ["", &mallory] {
            let state = format!("signet={stolen}");
            let headers = [
                ("baggage", "a=1"),
                ("baggage", line.as_str()),
                ("tracestate", state.as_str()),
                ("traceparent", TRACEPARENT),
                ("ot-baggage-signet.ctx", stolen.as_str()),
                ("uberctx-signet.ctx", stolen.as_str()),
            ];
            let request = scene.arrives(token, &headers).await;
            assert!(!request.head.contains(&stolen), "{line:?} reached the app: {}", request.head);
            request.answer().await;
        }
    }
    // Also a peer that has no voice, and nobody at all.
    let app_key = generation(&scene.ca, "ns/shop/sa/web", PeerClass::Workload);
    let mut caller = peer(scene.at, &app_key, Alpn::Http1, &scene.ca.id("ns/shop/sa/orders")).await.unwrap();
    caller.send(format!("GET / HTTP/1.1\r\nhost: o\r\nbaggage: signet.ctx={stolen}\r\n\r\n")).await;
    let request = scene.next_arrival().await;
    assert!(!request.head.contains(&stolen));
    request.answer().await;
    victim.answer().await;
}

#[tokio::test]
async fn a_handle_of_another_pod_of_the_same_workload_opens_nothing() {
    let mut one = Scene::new(NO_GRACE).await;
    let two = Scene::new(NO_GRACE).await;
    let alice = one.mint.token("alice", &[]);
    let request = one.arrives(&alice, &[]).await;
    let answer = Client::to(two.out).await.request("/", &[("baggage", &request.baggage())]).await;
    assert_eq!((answer.status, answer.echoed("txn-token")), (200, None));
    assert_eq!((two.outbound("unknown", "none"), two.outbound("ended", "none")), (1, 0));
    request.answer().await;
}

#[tokio::test]
async fn several_handles_that_differ_are_none_in_whatever_lines_they_come() {
    let mut scene = Scene::new(NO_GRACE).await;
    let (alice, bob) = (scene.mint.token("alice", &[]), scene.mint.token("bob", &[]));
    let a = scene.arrives(&alice, &[("traceparent", TRACEPARENT)]).await;
    let b = scene.arrives(&bob, &[("traceparent", TRACEPARENT)]).await;
    let mut calls = Client::to(scene.out).await;
    let (one, two) = (a.baggage(), b.baggage());
    let state = format!("signet={}", b.handle());
    let encoded = format!("{one},signet%2Ectx={}", b.handle());
    let joined = format!("{one},{two}");
    let cases: [&[(&str, &str)]; 6] = [
        &[("baggage", &joined)],
        &[("baggage", &one), ("baggage", &two)],
        &[("baggage", &one), ("tracestate", &state)],
        &[("baggage", &encoded)],
        &[("baggage", &one), ("baggage", "signet.ctx=FORGED")],
        &[("tracestate", &state), ("baggage", "x=a;p=b%2Csignet.ctx%3DF")],
    ];
    for (at, headers) in cases.iter().enumerate() {
        let answer = calls.request("/", headers).await;
        assert_eq!((answer.status, answer.echoed("txn-token")), (200, None), "{headers:?}");
        assert!(
            !answer.text().contains(&a.handle()) && !answer.text().contains(&b.handle()),
            "{}",
            answer.text()
        );
        assert!(
            !answer.text().contains("ignet.ctx") && !answer.text().contains("tracestate"),
            "{}",
            answer.text()
        );
        assert_eq!(scene.outbound("ambiguous", "none"), at as u64 + 1, "{headers:?}");
    }
    // The same one twice is one.
    let answer = calls.request("/", &[("baggage", &one), ("baggage", &one)]).await;
    assert_eq!(answer.echoed("txn-token"), Some(&*alice));
    a.answer().await;
    b.answer().await;
}

#[tokio::test]
async fn a_token_with_the_handle_of_another_transaction_is_refused() {
    let mut scene = Scene::new(NO_GRACE).await;
    let (alice, bob) = (scene.mint.token("alice", &[]), scene.mint.token("bob", &[]));
    let a = scene.arrives(&alice, &[]).await;
    let b = scene.arrives(&bob, &[]).await;
    let mut calls = Client::to(scene.out).await;
    for baggage in [b.baggage(), format!("{},{}", a.baggage(), b.baggage())] {
        let answer = calls.request("/", &[("txn-token", &alice), ("baggage", &baggage)]).await;
        assert_eq!((answer.status, answer.header("signet-deny-reason")), (403, Some("context-mismatch")));
    }
    assert_eq!(scene.outbound("mismatch", "header"), 2);
    // Whom the app itself asked to act for is nobody's mistake.
    let carol = scene.mint.token("carol", &[]);
    scene.orders.shared.take(&carol, Of::Nothing).unwrap();
    let answer = calls.request("/", &[("txn-token", &carol), ("baggage", &b.baggage())]).await;
    assert_eq!((answer.status, answer.echoed("txn-token")), (200, Some(&*carol)));
    let refusals = [("direction", "outbound"), ("reason", "context-mismatch")];
    assert_eq!(scene.orders.counter("signet_refusals_total", &refusals), 2);
    let answer = calls.request("/", &[("txn-token", &alice), ("baggage", &a.baggage())]).await;
    assert_eq!(answer.echoed("txn-token"), Some(&*alice), "its own handle beside it is fine");
    assert_eq!((scene.next_inbound("forwarded"), scene.next_inbound("attached")), (2, 0));
    // A token that may not be presented is not made up for by a handle: the app chose, and chose wrong.
    let carol = scene.mint.token("carol", &[]);
    let answer = calls.request("/", &[("txn-token", &carol), ("baggage", &a.baggage())]).await;
    assert_eq!((answer.status, answer.echoed("txn-token")), (200, None));
    // A handle whose request is over names no transaction any more.
    let carried = b.baggage();
    b.answer().await;
    assert_eq!(scene.caller.answer().await.status, 200);
    let answer = calls.request("/", &[("txn-token", &alice), ("baggage", &carried)]).await;
    assert_eq!(answer.echoed("txn-token"), Some(&*alice));
    a.answer().await;
}

#[tokio::test]
async fn what_the_app_says_of_itself_makes_nothing_attached_or_forwarded() {
    let mut scene = Scene::new(NO_GRACE).await;
    let alice = scene.mint.token("alice", &[]);
    let request = scene.arrives(&alice, &[]).await;
    let mut calls = Client::to(scene.out).await;
    let carried = request.baggage();
    for claims in ["forwarded", "attached"] {
        let headers = [("baggage", carried.as_str()), ("signet-context", claims), ("Signet_Context", claims)];
        assert_eq!(calls.request("/", &headers).await.echoed("txn-token"), Some(&*alice));
    }
    assert_eq!((scene.next_inbound("attached"), scene.next_inbound("forwarded")), (2, 0));
    request.answer().await;
}

#[tokio::test]
async fn an_answer_that_repeats_its_request_tells_the_caller_no_handle() {
    let mut scene = Scene::new(NO_GRACE).await;
    let alice = scene.mint.token("alice", &[]);
    let request = scene.arrives(&alice, &[("traceparent", TRACEPARENT)]).await;
    let handle = request.handle();
    request
        .answer_with(&format!("baggage: signet.ctx={handle}\r\ntracestate: signet={handle}\r\nx-own: 1\r\n"))
        .await;
    let answer = scene.caller.answer().await;
    assert!(answer.head.contains("x-own: 1") && !answer.head.contains(&handle), "{}", answer.head);
}

/// A place outside of this name, at this app.
fn place(name: &str, at: std::net::SocketAddr) -> PlaceSpec {
    let document = serde_json::json!({
        "apiVersion": "signet.mesh/v1alpha1",
        "kind": "ExternalService",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {
            "hosts": ["api.example.com"],
            "addresses": [at.ip()],
            "ports": [{"name": "main", "port": 80, "targetPort": at.port(), "protocol": "http1"}],
        },
    });
    PlaceSpec::new(signet_model::ExternalService::from_json(&document.to_string()).unwrap(), None).unwrap()
}

#[tokio::test]
async fn a_server_outside_the_mesh_sees_neither_a_handle_nor_the_user() {
    let outside = echo().await;
    let egress = Kind::Outbound { service: "pay.shop".into(), port: "main".into() };
    let (mut scene, out) = Scene::with(NO_GRACE, vec![outbound(), egress, Kind::Explicit]).await;
    let place = place("pay", outside);
    scene
        .orders
        .state
        .update_endpoints(|endpoints| endpoints.with_places([("pay.shop", Some(place.clone()))]));
    scene.orders.state.decide_again();
    let alice = scene.mint.token("alice", &[]);
    let request = scene.arrives(&alice, &[("traceparent", TRACEPARENT)]).await;
    let (handle, carried) = (request.handle(), request.baggage());
    let state = format!("signet={handle},dd=1");
    let both = format!("{carried},a=1");
    let encoded = format!("signet%2Ectx={handle},a=1");
    for baggage in [&both, &encoded] {
        let headers =
            [("baggage", baggage.as_str()), ("tracestate", &state), ("ot-baggage-signet.ctx", &handle)];
        let answer = Client::to(out[1]).await.request("/", &headers).await;
        assert_eq!((answer.status, answer.echoed("txn-token")), (200, None));
        assert!(!answer.text().contains(&handle), "{}", answer.text());
        assert_eq!((answer.echoed("baggage"), answer.echoed("tracestate")), (Some("a=1"), Some("dd=1")));
        // The same through the HTTP proxy; and there, to a service of the mesh, the user goes along.
        let mut proxy = Client::to(out[2]).await;
        let line = format!(
            "GET http://api.example.com/ HTTP/1.1\r\nhost: api.example.com\r\nbaggage: {baggage}\r\n\r\n"
        );
        proxy.send(line).await;
        let answer = proxy.answer().await;
        assert_eq!((answer.status, answer.echoed("baggage")), (200, Some("a=1")));
        assert!(!answer.text().contains(&handle) && answer.echoed("txn-token").is_none());
    }
    let mut proxy = Client::to(out[2]).await;
    let line = format!(
        "GET http://orders.shop.signet.internal/ HTTP/1.1\r\nhost: orders.shop.signet.internal\r\nbaggage: {both}\r\n\r\n"
    );
    proxy.send(line).await;
    let answer = proxy.answer().await;
    assert_eq!((answer.status, answer.echoed("txn-token")), (200, Some(&*alice)));
    assert!(!answer.text().contains(&handle), "{}", answer.text());
    request.answer().await;
}
