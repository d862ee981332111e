//! From a credential to a user of the mesh.

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use signet_proxy::answer::Reason;
use signet_proxy::state::Keys;
use signet_token::Issuers;

use crate::support::{ISSUER, TD, TTS, World, now, one_route};

#[tokio::test]
async fn a_good_token_becomes_a_transaction_token_that_sidecars_believe() {
    let world = World::new(one_route(json!({"txn": {"claims": ["email", "groups"], "ttl": "30s"}})));
    let token = world.token(json!({"acr": "2", "amr": ["pwd", "otp"], "sid": "s-1", "auth_time": now() - 9}));
    let decided = world
        .ask("POST /v1/orders", &format!("Authorization: Bearer {token}\r\nContent-Length: 0\r\n"))
        .await;
    let claims = world.believe(&decided.header("txn-token"));
    assert_eq!(decided.header("signet-context"), "forwarded");
    assert_eq!(claims.subject, "idp|alice");
    assert_eq!((claims.audience.as_str(), claims.issuer.as_str()), (TD, TTS));
    assert_eq!(claims.req_wl, "spiffe://demo.signet/ns/edge/sa/gw");
    assert_eq!(claims.scope, "orders:read");
    assert_eq!(claims.expires_at, now() + 30);
    assert_eq!((claims.tctx.route.as_str(), claims.tctx.method.as_str()), ("shop", "POST"));
    // The issuer lists `tenant` as well, the route does not.
    assert_eq!(Value::Object(claims.tctx.claims), json!({"email": "alice@example.com", "groups": ["staff"]}));
    let rctx = claims.rctx;
    assert_eq!((rctx.cred.as_str(), rctx.issuer.as_deref()), ("jwt", Some(ISSUER)));
    assert_eq!(rctx.client_id.as_deref(), Some("web"));
    assert_eq!(rctx.src_exp, Some(now() + 300));
    assert_eq!((rctx.acr.as_deref(), rctx.amr), (Some("2"), vec!["pwd".to_owned(), "otp".to_owned()]));
    assert_eq!((rctx.session_id.as_deref(), rctx.auth_time), (Some("s-1"), Some(now() - 9)));
    assert_eq!(rctx.req_ip.as_deref(), Some("203.0.113.7"));
    assert!(rctx.cred_id.is_some_and(|id| id.starts_with("sha256:") && !token.contains(&id)));
}

#[tokio::test]
async fn each_request_is_a_transaction_of_its_own() {
    let world = World::new(one_route(json!({})));
    let token = format!("Bearer {}", world.token(json!({})));
    let (one, two) = (world.get(&token).await, world.get(&token).await);
    let txn = |decided: &crate::support::Decided| world.believe(&decided.header("txn-token")).txn;
    assert_ne!(txn(&one), txn(&two));
}

#[tokio::test]
async fn a_token_that_was_good_on_one_route_is_not_therefore_good_on_another() {
    let both = json!([
        {"name": "a", "hosts": ["*"], "pathPrefix": "/a", "service": "web.shop", "port": "http", "auth": {"jwt": {"issuers": ["idp"]}}},
        {"name": "b", "hosts": ["*"], "pathPrefix": "/b", "service": "web.shop", "port": "http", "auth": {"jwt": {"issuers": ["corp"]}}},
        {"name": "c", "hosts": ["*"], "pathPrefix": "/c", "service": "web.shop", "port": "http", "auth": {"jwt": {"issuers": ["idp"]}}, "scopes": ["admin"]},
    ]);
    let world = World::new(both);
    let line = format!("Authorization: Bearer {}\r\n", world.token(json!({})));
    // The second time it is remembered, and still only for what it is.
    for _ in 0..2 {
        assert!(world.ask("GET /a", &line).await.is_admitted());
        assert_eq!(world.ask("GET /b", &line).await.told().0, 401);
        assert_eq!(world.ask("GET /c", &line).await.told().0, 403);
    }
    assert!(world.attempts().contains(&("jwt denied issuer_not_accepted".to_owned(), 2)));
}

#[tokio::test]
async fn a_remembered_token_ends_with_its_time_and_with_its_key() {
    let world = World::new(one_route(json!({})));
    let token = format!("Bearer {}", world.token(json!({"exp": now() + 20})));
    assert!(world.get(&token).await.is_admitted());
    world.clock.advance(50);
    assert_eq!(world.get(&token).await.told().0, 401);

    let token = format!("Bearer {}", world.token(json!({"exp": now() + 300})));
    assert!(world.get(&token).await.is_admitted());
    let other = World::new(one_route(json!({})));
    world.keys(|keys| {
        let issuer = world.issuer("idp", ISSUER).with_keys(other.idp_keys(), now());
        Keys { issuers: Arc::new(Issuers::new([issuer])), ..keys }
    });
    assert_eq!(world.get(&token).await.told().0, 401);
}

#[tokio::test]
async fn strangers_pass_where_the_route_says_so_and_bad_credentials_never_do() {
    let world = World::new(one_route(json!({"auth": {"jwt": {"issuers": ["idp"]}, "anonymous": true}})));
    let stranger = world.ask("GET /", "").await;
    assert_eq!(
        (stranger.header("txn-token"), stranger.header("signet-context")),
        (String::new(), String::new())
    );
    let known = world.get(&format!("Bearer {}", world.token(json!({})))).await;
    assert_eq!(world.believe(&known.header("txn-token")).subject, "idp|alice");
    let expired = world.token(json!({"exp": now() - 100}));
    for (authorization, status) in [
        (format!("Bearer {expired}"), 401),
        ("Bearer".to_owned(), 400),
        ("Bearer x".to_owned(), 401),
        ("Basic dXNlcjpwYXNz".to_owned(), 401),
    ] {
        assert_eq!(world.get(&authorization).await.told().0, status, "{authorization}");
    }
    // Without keys a credential cannot be judged, and its bearer is no stranger.
    world.keys(|keys| Keys { issuers: Arc::new(Issuers::new([world.issuer("idp", ISSUER)])), ..keys });
    assert_eq!(world.get(&format!("Bearer {}", world.token(json!({})))).await.told().0, 503);
    assert!(world.ask("GET /", "").await.is_admitted());
}

#[tokio::test]
async fn claims_that_do_not_fit_into_a_token_are_not_cut() {
    let world = World::new(one_route(json!({})));
    let groups: Vec<String> = (0..200).map(|n| format!("group-number-{n}")).collect();
    let decided = world.get(&format!("Bearer {}", world.token(json!({ "groups": groups })))).await;
    assert_eq!(decided.refusal().reason, Reason::Forbidden);
    assert!(world.attempts().contains(&("jwt denied too_large".to_owned(), 1)));
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn events_tell_who_and_why_and_never_show_a_credential_or_a_callers_text() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let world = World::new(one_route(json!({"scopes": ["orders:read"]})));
    let hostile = "alice\u{202e}\"}{<script>";
    world.get(&format!("Bearer {}", world.token(json!({ "sub": hostile })))).await;
    world.get(&format!("Bearer {}", world.token(json!({"sub": hostile, "scope": "x"})))).await;
    world.get(&format!("Bearer {}", world.token(json!({"exp": 1})))).await;
    world.get("Bearer secret-junk").await;

    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["target"] == "signet::auth")
        .collect();
    let field = |at: usize, name: &str| events[at]["fields"][name].as_str().unwrap_or("-").to_owned();
    let told = |at| ["method", "outcome", "reason", "route"].map(|name| field(at, name)).join(" ");
    assert_eq!(told(0), "jwt allowed ok shop");
    assert_eq!(told(1), "jwt denied insufficient_scope shop");
    assert_eq!(told(2), "jwt denied expired shop");
    assert_eq!(told(3), "jwt denied malformed shop");
    assert_eq!(events.len(), 4);
    // One subject has one pseudonym, with or without success.
    assert_eq!(field(0, "sub"), field(1, "sub"));
    assert_eq!(field(0, "sub").len(), 32);
    assert_eq!(field(0, "txn").len(), 36);
    assert_eq!(field(1, "decision").len(), 32);
    for secret in ["eyJ", "secret-junk", "alice", "script"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[tokio::test]
async fn a_flood_of_bad_credentials_is_counted_and_not_all_logged() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let world = World::new(one_route(json!({})));
    for _ in 0..300 {
        world.get("Bearer x").await;
    }
    assert!(world.attempts().contains(&("jwt denied malformed".to_owned(), 300)));
    let logged =
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap().matches("not authenticated").count();
    assert_eq!(logged, 50);
    world.clock.advance(1);
    world.get("Bearer x").await;
    let logged =
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap().matches("not authenticated").count();
    assert_eq!(logged, 51);
}
