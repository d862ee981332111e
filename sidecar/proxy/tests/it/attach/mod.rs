//! Users of an app that forwards nothing: a handle goes in with a request, comes back with the calls made for it, and is good
//! for nothing else.

mod attacks;
mod http2;
mod scene;

use std::time::Duration;

use signet_identity::Alpn;
use signet_proxy::handle::Verdict;
use signet_token::RevokedUsers;

use crate::support::caller::{Client, peer, within};
use scene::{Scene, TRACEPARENT};

#[tokio::test]
async fn a_call_that_carries_the_handle_of_an_open_request_gets_its_user() {
    let mut scene = Scene::new(Some(Duration::ZERO)).await;
    let (alice, bob) = (scene.mint.token("alice", &[]), scene.mint.token("bob", &[]));
    let a = scene.arrives(&alice, &[("baggage", "a=1, b=2"), ("traceparent", TRACEPARENT)]).await;
    let b = scene.arrives(&bob, &[]).await;
    let (handle, state) = (a.handle(), a.header("tracestate").unwrap().to_owned());
    assert_eq!(a.header("baggage"), Some(&*format!("signet.ctx={handle},a=1,b=2")));
    assert_eq!(state, format!("signet={handle}"));
    assert_eq!(b.header("baggage"), Some(&*format!("signet.ctx={}", b.handle())));
    assert_eq!(b.header("tracestate"), None, "nobody traces this one");
    assert_ne!(a.handle(), b.handle());

    let mut calls = Client::to(scene.out).await;
    for (carried, by) in [
        (vec![("baggage", a.baggage())], "baggage"),
        (vec![("tracestate", format!("dd=s:1,{state}"))], "tracestate"),
        (vec![("baggage", a.baggage()), ("tracestate", state.clone())], "both"),
    ] {
        let before = scene.outbound("attached", by);
        let lines: Vec<_> = carried.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = calls.request("/", &lines).await;
        assert_eq!((answer.status, answer.echoed("txn-token")), (200, Some(&*alice)), "{by}");
        assert!(!answer.text().contains(&handle) && answer.echoed("baggage").is_none(), "{}", answer.text());
        assert_ne!(answer.echoed("tracestate"), Some(&*state));
        assert_eq!(scene.outbound("attached", by), before + 1);
    }
    assert_eq!(calls.request("/", &[("baggage", &b.baggage())]).await.echoed("txn-token"), Some(&*bob));
    // The other side is told that nobody chose it.
    assert_eq!(scene.next_inbound("attached"), 4);
    assert_eq!(scene.next_inbound("forwarded"), 0);

    let answer = calls.request("/", &[]).await;
    assert_eq!((answer.echoed("txn-token"), answer.echoed("signet-user")), (None, None), "never guessed");
    assert_eq!(scene.outbound("none", "none"), 1);
    let coverage = scene.orders.shared.handles.coverage().unwrap();
    assert_eq!((coverage.verdict, coverage.open, coverage.offered), (Verdict::Carried, 2, 2));
    assert_eq!((coverage.calls, coverage.by_baggage, coverage.by_tracestate, coverage.by_both), (5, 2, 1, 1));
    a.answer().await;
    b.answer().await;
}

#[tokio::test]
async fn a_policy_that_asks_for_a_user_takes_what_was_attached_only_if_it_says_so() {
    let mut scene = Scene::new(Some(Duration::ZERO)).await;
    let alice = scene.mint.token("alice", &[]);
    let from = r#""effect":"permit","from":{"workloads":["ns/shop/sa/orders"]}"#;
    let request = scene.arrives(&alice, &[]).await;
    let mut calls = Client::to(scene.out).await;
    scene.next.permits(&[&format!(r#"{{{from},"user":{{"required":true}}}}"#)]);
    let carried = [("baggage", request.baggage())];
    let carried = [("baggage", carried[0].1.as_str())];
    assert_eq!(calls.request("/", &carried).await.status, 403);
    assert_eq!(calls.request("/", &[("txn-token", &alice)]).await.status, 200, "what the app chose is");
    scene.next.permits(&[&format!(r#"{{{from},"user":{{"required":true,"context":["attached"]}}}}"#)]);
    assert_eq!(calls.request("/", &carried).await.status, 200);
    assert_eq!(calls.request("/", &[]).await.status, 403);
    request.answer().await;
}

#[tokio::test]
async fn a_handle_ends_with_its_request_whether_answered_reset_or_its_user_revoked() {
    let mut scene = Scene::new(Some(Duration::ZERO)).await;
    let alice = scene.mint.token("alice", &[]);
    let mut calls = Client::to(scene.out).await;

    let request = scene.arrives(&alice, &[]).await;
    let carried = request.baggage();
    request.answer().await;
    assert_eq!(scene.caller.answer().await.status, 200);
    let answer = calls.request("/", &[("baggage", &carried)]).await;
    assert_eq!((answer.status, answer.echoed("txn-token"), answer.echoed("baggage")), (200, None, None));
    assert_eq!(scene.outbound("ended", "none"), 1);

    let request = scene.arrives(&alice, &[]).await;
    let carried = request.baggage();
    assert_eq!(calls.request("/", &[("baggage", &carried)]).await.echoed("txn-token"), Some(&*alice));
    // The caller gives up.
    scene.reconnect().await;
    within(async {
        while scene.orders.shared.handles.coverage().unwrap().open > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(calls.request("/", &[("baggage", &carried)]).await.echoed("txn-token"), None);
    assert_eq!(scene.outbound("ended", "none"), 2);
    drop(request);

    // With a grace the request is over, and its user is still nobody whom somebody revoked.
    let mut scene = Scene::new(Some(Duration::from_secs(30))).await;
    let alice = scene.mint.token("alice", &[]);
    let mut calls = Client::to(scene.out).await;
    let request = scene.arrives(&alice, &[]).await;
    let carried = request.baggage();
    request.answer().await;
    assert_eq!(scene.caller.answer().await.status, 200);
    assert_eq!(calls.request("/", &[("baggage", &carried)]).await.echoed("txn-token"), Some(&*alice));
    let mut revoked = RevokedUsers::default();
    revoked.users.insert("idp|alice".into());
    scene.orders.state.update_revoked_users(&std::sync::Arc::new(revoked));
    assert_eq!(calls.request("/", &[("baggage", &carried)]).await.echoed("txn-token"), None);
    assert_eq!(scene.outbound("ended", "none"), 1);
}

#[tokio::test]
async fn a_user_who_came_attached_is_attached_from_there_on() {
    let mut scene = Scene::new(Some(Duration::ZERO)).await;
    let alice = scene.mint.token("alice", &[]);
    let mut calls = Client::to(scene.out).await;
    let request = scene.arrives_as(&alice, "attached", &[]).await;
    // The app does what it was told, and forwards the token: that makes nobody surer.
    let answer = calls.request("/", &[("txn-token", &alice)]).await;
    assert_eq!(answer.echoed("txn-token"), Some(&*alice));
    assert_eq!((scene.next_inbound("attached"), scene.next_inbound("forwarded")), (1, 0));
    assert_eq!(scene.outbound("attached", "header"), 1);
    request.answer().await;
}

#[tokio::test]
async fn a_workload_that_did_not_opt_in_gets_no_handles_and_they_go_through_it_nowhere() {
    let mut scene = Scene::new(None).await;
    let alice = scene.mint.token("alice", &[]);
    let foreign = format!("signet.ctx={},a=1", "A".repeat(32));
    let request = scene
        .arrives(&alice, &[("baggage", &foreign), ("tracestate", "signet=x"), ("traceparent", TRACEPARENT)])
        .await;
    assert_eq!((request.header("baggage"), request.header("tracestate")), (Some("a=1"), None));
    let mut calls = Client::to(scene.out).await;
    let answer = calls.request("/", &[("baggage", &foreign)]).await;
    assert_eq!((answer.echoed("baggage"), answer.echoed("txn-token")), (Some("a=1"), None));
    assert_eq!(scene.outbound("unknown", "none"), 1);
    assert!(scene.orders.shared.handles.coverage().is_none());
    request.answer().await;
    assert_eq!(scene.orders.counter("signet_stripped_headers_total", &[("direction", "inbound")]), 2);
}

#[tokio::test]
async fn a_request_without_a_user_or_that_is_refused_gets_no_handle() {
    let mut scene = Scene::new(Some(Duration::ZERO)).await;
    let request = scene.arrives("", &[("baggage", "a=1")]).await;
    assert_eq!(request.header("baggage"), Some("a=1"));
    request.answer().await;
    assert_eq!(scene.caller.answer().await.status, 200);
    let stranger = crate::support::token::Mint::new().token("alice", &[]);
    let line =
        format!("GET / HTTP/1.1\r\nhost: o\r\ntxn-token: {stranger}\r\nsignet-context: forwarded\r\n\r\n");
    scene.caller.send(&line).await;
    assert_eq!(scene.caller.answer().await.status, 403);
    let coverage = scene.orders.shared.handles.coverage().unwrap();
    assert_eq!((coverage.offered, coverage.open, coverage.verdict), (0, 0, Verdict::NoCallsYet));
}

#[tokio::test]
async fn a_call_of_the_pod_to_itself_brings_no_handle() {
    let mut scene = Scene::new(Some(Duration::ZERO)).await;
    let alice = scene.mint.token("alice", &[]);
    let own = scene.orders.state.view().tls.generation.clone();
    let mut itself = peer(scene.at, &own, Alpn::Http1, &scene.ca.id("ns/shop/sa/orders")).await.unwrap();
    let line =
        format!("GET / HTTP/1.1\r\nhost: o\r\ntxn-token: {alice}\r\nsignet-context: forwarded\r\n\r\n");
    itself.send(&line).await;
    let request = scene.next_arrival().await;
    assert_eq!(request.header("baggage"), None);
    request.answer().await;
}

#[tokio::test]
async fn where_headers_have_no_room_the_app_keeps_its_own_and_it_is_counted() {
    let mut scene = Scene::new(Some(Duration::ZERO)).await;
    let alice = scene.mint.token("alice", &[]);
    let full = (0..64).map(|at| format!("k{at}=v")).collect::<Vec<_>>().join(",");
    let request = scene.arrives(&alice, &[("baggage", &full)]).await;
    assert_eq!(request.header("baggage"), Some(&*full));
    request.answer().await;
    assert_eq!(scene.caller.answer().await.status, 200);
    assert_eq!(scene.orders.counter("signet_context_handles_total", &[("outcome", "no-room")]), 1);
    let request = scene.arrives(&alice, &[("baggage", &full), ("traceparent", TRACEPARENT)]).await;
    assert!(request.header("tracestate").unwrap().starts_with("signet="), "the other carrier has to do");
    request.answer().await;
    let coverage = scene.orders.shared.handles.coverage().unwrap();
    assert_eq!((coverage.offered, coverage.unoffered), (1, 1));
}
