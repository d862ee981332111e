//! Policy, and what callers learn of it.

use signet_identity::{Alpn, PeerClass};
use signet_proxy::state::{Protocol, Wanted};

use crate::support::app::{counted_echo, echo};
use crate::support::caller::{Client, peer, within};
use crate::support::{Node, Pair, WEB, generation, outbound};

#[tokio::test]
async fn a_denied_caller_learns_an_id_and_the_operator_why() {
    let (app, connections) = counted_echo().await;
    let mut pair = Pair::http(app);
    let intruder = generation(&pair.ca, "ns/shop/sa/intruder", PeerClass::Sidecar);
    let mut client = peer(pair.at, &intruder, Alpn::Http1, &pair.ca.id("ns/shop/sa/orders")).await.unwrap();
    let answer = client.get("/secret").await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.header("signet-deny-reason"), Some("policy"));
    assert!(!answer.text().contains("web"), "{}", answer.text());
    let record = pair.orders.decisions.try_recv().unwrap();
    assert_eq!(Some(record.id.to_string().as_str()), answer.header("signet-decision-id"));
    assert!(record.json.contains("intruder"), "{}", record.json);
    assert_eq!(connections.load(std::sync::atomic::Ordering::Relaxed), 0);
    // The connection stays: another request may be allowed.
    pair.orders.permits(&[WEB, r#"{"effect":"permit","from":{"workloads":["ns/shop/sa/intruder"]}}"#]);
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn methods_and_paths_are_decided_on_as_the_app_gets_them() {
    let pair = Pair::http(echo().await);
    pair.orders.permits(&[WEB, r#"{"effect":"forbid","to":{"paths":["/admin","/admin/{rest=**}"]}}"#]);
    let mut client = Client::to(pair.out).await;
    assert_eq!(client.get("/open").await.status, 200);
    for path in ["/admin", "/%61dmin", "/x/../admin", "/x/%2e%2e/admin", "/admin?x=1", "/admin/users"] {
        assert_ne!(client.get(path).await.status, 200, "{path}");
        client = Client::to(pair.out).await;
    }
}

#[tokio::test]
async fn without_policy_everything_is_denied() {
    let pair = Pair::http(echo().await);
    pair.orders.state.update_policy(|policy| policy.with_served("orders.shop", None));
    let mut client = Client::to(pair.out).await;
    let answer = client.get("/").await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.header("signet-deny-reason"), Some("policy-unavailable"));
}

#[tokio::test]
async fn the_first_use_of_a_service_waits_for_the_control_plane() {
    let pair = Pair::http(echo().await);
    let mut fresh = Node::new(generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar));
    let out = fresh.start(vec![outbound()])[0];
    let mut client = Client::to(out).await;
    client.send("GET / HTTP/1.1\r\nhost: o\r\n\r\n").await;
    assert_eq!(within(fresh.wanted.recv()).await, Some(Wanted::Service("orders.shop".into())));
    fresh.knows(&pair.ca, Protocol::Http1, &[pair.at]);
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_service_that_the_control_plane_refuses_is_not_waited_for() {
    let pair = Pair::http(echo().await);
    let mut client = Client::to(pair.out).await;
    assert_eq!(client.get("/").await.status, 200);
    pair.web.state.update_endpoints(|endpoints| {
        endpoints.apply([], ["orders.shop"]).refuse("orders.shop", "not visible to ns/shop")
    });
    let answer = client.get("/").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("signet-deny-reason"), Some("service-unknown"));
}

#[tokio::test]
async fn a_service_that_nobody_tells_of_is_a_503_after_one_wait() {
    let pair = Pair::http(echo().await);
    let mut alone = Node::new(generation(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar));
    let out = alone.start(vec![outbound()])[0];
    let began = std::time::Instant::now();
    let mut client = Client::to(out).await;
    for _ in 0..3 {
        let answer = client.get("/").await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("signet-deny-reason"), Some("service-unknown"));
    }
    assert!(began.elapsed() >= signet_proxy::state::FIRST_USE);
    assert!(began.elapsed() < 2 * signet_proxy::state::FIRST_USE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_condition_reads_the_header_lines_that_came_and_what_it_misses_is_counted() {
    let mut pair = Pair::http(echo().await);
    pair.orders.permits(&[
        r#"{"effect":"permit","when":"context.request.headers[\"x-tenant\"].contains(\"blue\")"}"#,
    ]);
    let mut client = Client::to(pair.out).await;
    assert_eq!(client.request("/", &[("X-Tenant", " blue\t")]).await.status, 200);
    assert_eq!(client.request("/", &[("x-tenant", "red"), ("x-tenant", "blue")]).await.status, 200);
    assert_eq!(client.request("/", &[("x-tenant", "red, blue")]).await.status, 403, "read in two ways");
    assert_eq!(client.request("/", &[("x_tenant", "blue")]).await.status, 403);
    let answer = client.request("/", &[]).await;
    assert_eq!(answer.status, 403);
    let labels = [("policy", "p0.shop"), ("why", "absent")];
    assert_eq!(pair.orders.counter("signet_policy_condition_errors_total", &labels), 2);
    let id = answer.header("signet-decision-id").unwrap();
    let record =
        std::iter::from_fn(|| pair.orders.decisions.try_recv().ok()).find(|it| it.id.to_string() == id);
    assert!(record.unwrap().json.contains(r#"had context.request.headers[\"x-tenant\"] is absent"#));
}

#[tokio::test]
async fn a_shadow_policy_is_judged_by_what_it_would_have_changed() {
    let mut pair = Pair::http(echo().await);
    pair.orders.permits(&[
        WEB,
        r#"{"effect":"forbid","mode":"shadow","to":{"paths":["/admin"]}}"#,
        r#"{"effect":"permit","mode":"shadow"}"#,
    ]);
    let mut client = Client::to(pair.out).await;
    assert_eq!(client.get("/admin").await.status, 200);
    assert_eq!(client.get("/open").await.status, 200);
    let count = |policy, would| {
        pair.orders.counter("signet_policy_shadow_total", &[("policy", policy), ("would", would)])
    };
    assert_eq!((count("p1.shop", "deny"), count("p1.shop", "same")), (1, 0));
    assert_eq!((count("p2.shop", "allow"), count("p2.shop", "same")), (0, 2));
    // Only what it would have refused is recorded, beside what was.
    let record = pair.orders.decisions.try_recv().unwrap();
    assert!(record.beside && record.json.contains(r#""verdict":"allow""#), "{}", record.json);
    assert!(record.json.contains(r#"{"policy":"p1.shop","wouldAllow":false,"wouldChange":true}"#));
    assert!(pair.orders.decisions.try_recv().is_err());
}
