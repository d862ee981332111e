//! Routes and traffic policies of a service, where the gateway is the one who calls it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use signet_proxy::state::Protocol;

use crate::scene::{Caller, Scene, ok, silent, web, within};

/// Everything goes to `web.shop`.
fn requests() -> Value {
    json!([{"name": "all", "hosts": ["*"], "pathPrefix": "/", "service": "web.shop", "port": "main", "auth": {"anonymous": true}}])
}

fn rules(rules: Value) -> Value {
    json!({"parentRefs": [{"kind": "Service", "name": "web"}], "rules": rules})
}

fn to_web() -> Value {
    json!([{"name": "web", "port": 80}])
}

/// The head that an app got, as the body of its answer, after its name.
fn told(name: &'static str) -> impl Fn(&str) -> String + Send + Sync + 'static {
    move |head| ok(&format!("{name}\n{head}"))
}

#[tokio::test]
async fn requests_from_outside_go_by_the_services_routes_with_their_edits() {
    let mut scene = Scene::new();
    for name in ["web", "web2"] {
        let (app, _) = web(told(name)).await;
        scene.serves(name, Protocol::Http1, app);
    }
    let heads = Arc::new(Mutex::new(Vec::new()));
    let (copied, notify) = (heads.clone(), Arc::new(tokio::sync::Notify::new()));
    let heard = notify.clone();
    let (app, _) = web(move |head| {
        copied.lock().unwrap().push(head.to_owned());
        heard.notify_one();
        ok("copy")
    })
    .await;
    scene.serves("copy", Protocol::Http1, app);
    scene.calls(
        "web",
        rules(json!([
            {
                "matches": [{"path": {"value": "/old"}}],
                "filters": [{"type": "RequestRedirect", "requestRedirect": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}, "statusCode": 308}}],
            },
            {
                "matches": [{"path": {"value": "/split"}}],
                "filters": [
                    {"type": "RequestHeaderModifier", "requestHeaderModifier": {
                        "set": [{"name": "x-route", "value": "split"}, {"name": "x-forwarded-for", "value": "forged"}], "remove": ["x-secret"]}},
                    {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"add": [{"name": "x-answer", "value": "split"}]}},
                ],
                "backendRefs": [{"name": "web", "port": 80, "weight": 3}, {"name": "web2", "port": 80, "weight": 1}],
            },
            {
                "matches": [{"path": {"value": "/inner"}}],
                "filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "inner.example", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/app"}}}],
                "backendRefs": to_web(),
            },
            {
                "matches": [{"path": {"value": "/copied"}}],
                "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "copy", "port": 80}}}],
                "backendRefs": to_web(),
            },
            {"matches": [{"path": {"value": "/nowhere"}}], "backendRefs": [{"name": "web", "port": 80, "weight": 0}]},
        ])),
    );
    scene.is(json!([]), requests(), &[]);
    let at = scene.start(&[(80, Protocol::Http1, None), (443, Protocol::Http1, Some("shop.example.com"))]);
    let mut caller = Caller::to(at[0]).await;

    let (status, _, head) = caller.get("shop.example.com", "/old/a?q=1").await;
    assert_eq!(status, 308);
    assert!(head.contains("location: http://shop.example.com/new/a?q=1\r\n"), "{head}");
    assert!(!head.contains("signet-"), "{head}");
    let mut secure = scene.dial(at[1], "shop.example.com").await.unwrap();
    let (_, _, head) = secure.get("shop.example.com", "/old").await;
    assert!(head.contains("location: https://shop.example.com/new\r\n"), "{head}");

    let mut first = 0;
    for _ in 0..80 {
        let request = "GET /split HTTP/1.1\r\nhost: shop.example.com\r\nx-secret: 1\r\nx-route: mine\r\ntxn-token: forged\r\n\r\n";
        let (status, body, head) = caller.ask(request).await;
        assert_eq!(status, 200, "{body}");
        first += usize::from(body.starts_with("web\n"));
        assert!(
            body.contains("x-route: split\r\n") && !body.contains("x-secret") && !body.contains("mine"),
            "{body}"
        );
        // What the gateway itself says of the caller comes after any route's word.
        assert!(body.contains("x-forwarded-for: 127.0.0.1\r\n") && !body.contains("forged"), "{body}");
        assert!(head.contains("x-answer: split\r\n"), "{head}");
    }
    assert!((40..75).contains(&first), "{first} of 80 at a weight of 3 in 4");

    let (_, body, _) = caller.get("shop.example.com", "/inner/x?q=1").await;
    assert!(
        body.contains("GET /app/x?q=1 HTTP/1.1\r\n") && body.contains("host: inner.example\r\n"),
        "{body}"
    );

    let request =
        "GET /copied HTTP/1.1\r\nhost: shop.example.com\r\nauthorization: Bearer x\r\ncookie: a=b\r\n\r\n";
    let (status, body, _) = caller.ask(request).await;
    assert!(status == 200 && body.starts_with("web\n"), "{body}");
    within(notify.notified()).await;
    let copy = heads.lock().unwrap().join("");
    assert!(
        copy.starts_with("GET /copied") && !copy.contains("authorization") && !copy.contains("cookie"),
        "{copy}"
    );

    assert_eq!(caller.get("shop.example.com", "/nowhere").await.0, 500);
    assert_eq!(caller.get("shop.example.com", "/elsewhere").await.0, 404);
}

#[tokio::test]
async fn tries_and_times_of_a_route_hold_at_the_gateway_and_strangers_learn_no_more_than_a_status() {
    let mut scene = Scene::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let (app, _) = web(move |_| match count.fetch_add(1, Ordering::SeqCst) % 2 {
        0 => "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned(),
        _ => ok("second"),
    })
    .await;
    scene.serves("web", Protocol::Http1, app);
    scene.serves("slow", Protocol::Http1, silent().await);
    scene.calls(
        "web",
        rules(json!([
            {"matches": [{"path": {"value": "/again"}}], "backendRefs": to_web(), "retry": {"codes": [503], "attempts": 1, "backoff": "1ms"}},
            {"matches": [{"path": {"value": "/slow"}}], "backendRefs": [{"name": "slow", "port": 80}], "timeouts": {"request": "200ms"}},
        ])),
    );
    scene.is(json!([]), requests(), &[]);
    let at = scene.start(&[(80, Protocol::Http1, None)])[0];
    let mut caller = Caller::to(at).await;
    let (status, body, _) = caller.get("shop.example.com", "/again").await;
    assert_eq!((status, &*body, asked.load(Ordering::SeqCst)), (200, "second", 2));
    // What is not idempotent is not asked twice.
    let post = "POST /again HTTP/1.1\r\nhost: shop.example.com\r\ncontent-length: 1\r\n\r\nx";
    assert_eq!((caller.ask(post).await.0, asked.load(Ordering::SeqCst)), (503, 3));
    let mut caller = Caller::to(at).await;
    let (status, body, head) = caller.get("shop.example.com", "/slow").await;
    assert_eq!(status, 504, "{body}");
    assert!(head.contains("signet-decision-id: ") && !head.contains("signet-deny-reason"), "{head}");
}

#[tokio::test]
async fn limits_count_where_the_service_is_and_faults_where_it_is_called() {
    let mut scene = Scene::new();
    let (app, asked) = web(|_| ok("web")).await;
    let behind = scene.serves("web", Protocol::Http1, app);
    let limits: signet_model::TrafficPolicySpec = serde_json::from_value(json!({
        "target": {"service": "web"}, "rateLimits": [{"name": "each", "key": ["workload"], "requests": 2, "per": "1h"}],
    }))
    .unwrap();
    behind.shared.state.update_routes(|routes| routes.with_limits("web.shop", std::slice::from_ref(&limits)));
    scene.is(json!([]), requests(), &[]);
    let at = scene.start(&[(80, Protocol::Http1, None)])[0];
    let mut caller = Caller::to(at).await;
    for expected in [200, 200, 429] {
        let (status, _, head) = caller.get("shop.example.com", "/").await;
        assert_eq!(status, expected, "{head}");
        assert!(head.contains("ratelimit: \"each\""), "the caller reads how it stands: {head}");
        assert!(!head.contains("signet-deny-reason"), "{head}");
    }
    behind.shared.state.update_routes(|routes| routes.with_limits("web.shop", &[]));
    scene.traffic(
        "web",
        json!({"target": {"service": "web"}, "faults": [{"to": {"paths": ["/broken"]}, "abort": {"percent": 100, "status": 418, "grpcCode": "UNAVAILABLE"}}]}),
    );
    let before = asked.load(Ordering::SeqCst);
    assert_eq!(caller.get("shop.example.com", "/broken").await.0, 418);
    assert_eq!(caller.get("shop.example.com", "/").await.0, 200);
    assert_eq!(asked.load(Ordering::SeqCst), before, "over the connection that there was");
}
