//! What a head loses and gains on its way in.

use serde_json::json;

use crate::support::{World, one_route};

#[tokio::test]
async fn every_name_of_the_meshs_own_is_dropped_however_it_is_spelled() {
    let world = World::new(one_route(json!({})));
    let token = world.token(json!({}));
    let forged = "Signet-User: forged\r\nsignet_user: forged\r\nSIGNET-CONTEXT: forged\r\nsignet-anything: forged\r\n\
                  Txn_Token: forged\r\nX-Forwarded-Client-Cert: forged\r\nx_forwarded_client_cert: forged\r\n\
                  Signet-Deny-Reason: forged\r\nConnection: txn-token, signet-context\r\n";
    let decided = world.ask("GET /", &format!("{forged}Authorization: Bearer {token}\r\n")).await;
    let head = decided.forwarded();
    assert!(!head.iter().any(|(_, value)| value.contains("forged")), "{head:?}");
    // And naming ours in Connection does not take them away.
    assert_eq!(world.believe(&decided.header("txn-token")).subject, "idp|alice");
    assert_eq!(decided.header("signet-context"), "forwarded");
}

#[tokio::test]
async fn a_forged_transaction_token_is_replaced_or_dropped() {
    let world = World::new(one_route(json!({"auth": {"jwt": {"issuers": ["idp"]}, "anonymous": true}})));
    let known = world
        .ask("GET /", &format!("Txn-Token: forged\r\nAuthorization: Bearer {}\r\n", world.token(json!({}))))
        .await;
    assert_eq!(world.believe(&known.header("txn-token")).subject, "idp|alice");
    let stranger = world.ask("GET /", "Txn-Token: forged\r\nSignet-User: forged\r\n").await;
    assert!(!stranger.forwarded().iter().any(|(_, value)| value.contains("forged")));
}

#[tokio::test]
async fn the_consumed_credential_stays_at_the_edge_unless_the_route_forwards_it() {
    let world = World::new(one_route(json!({})));
    let authorization = format!("Bearer {}", world.token(json!({})));
    assert_eq!(world.get(&authorization).await.header("authorization"), "");
    // Only to a service that asks for it, whatever the route says.
    world.route(one_route(json!({"forwardCredential": "original"})));
    assert_eq!(world.get(&authorization).await.header("authorization"), "");
    world.serves_original();
    let decided = world.get(&authorization).await;
    assert_eq!(decided.header("authorization"), authorization);
    // The transaction token travels beside it.
    assert_eq!(world.believe(&decided.header("txn-token")).subject, "idp|alice");
    // Where no method reads it, it was not ours: the app behind may have its own.
    world.route(one_route(json!({"auth": {"anonymous": true}, "txn": {}})));
    assert_eq!(world.get("Basic dXNlcjpwYXNz").await.header("authorization"), "Basic dXNlcjpwYXNz");
}

#[tokio::test]
async fn outside_traces_end_at_the_edge() {
    let world = World::new(one_route(json!({"auth": {"anonymous": true}, "txn": {}})));
    let lines = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
                 tracestate: signet=handle,other=1\r\n\
                 baggage: a=1, signet.ctx=stolen;p=1,Signet=2 ,signet%2ectx=3,signets=4\r\nbaggage: b=2,signet_x=5\r\n";
    let decided = world.ask("GET /", lines).await;
    assert_eq!((decided.header("traceparent"), decided.header("tracestate")), (String::new(), String::new()));
    assert_eq!(decided.header("baggage"), "a=1,signets=4,b=2");
    let untouched = world.ask("GET /", "baggage: a=1;p=2, b=2\r\n").await;
    assert_eq!(untouched.header("baggage"), "a=1;p=2, b=2");
    assert_eq!(world.ask("GET /", "baggage: signet.ctx=x\r\n").await.header("baggage"), "");
}

#[tokio::test]
async fn a_request_has_one_plain_id() {
    let world = World::new(one_route(json!({"auth": {"anonymous": true}, "txn": {}})));
    assert_eq!(world.ask("GET /", "X-Request-Id: abc-1.2_3\r\n").await.header("x-request-id"), "abc-1.2_3");
    let long = format!("X-Request-Id: {}\r\n", "a".repeat(129));
    for lines in
        ["", "X-Request-Id: a\r\nX-Request-Id: b\r\n", "X-Request-Id: a b\r\n", "X-Request-Id:\r\n", &long]
    {
        let id = world.ask("GET /", lines).await.header("x-request-id");
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{lines:?}: {id}");
        assert_ne!(id, world.ask("GET /", lines).await.header("x-request-id"));
    }
}

#[tokio::test]
async fn what_a_caller_says_of_its_address_is_replaced_by_what_is_seen() {
    let world = World::new(one_route(json!({"auth": {"anonymous": true}, "txn": {}})));
    let lines = "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: gopher\r\nX-Forwarded-Host: evil\r\nForwarded: for=10.0.0.1\r\n";
    let decided = world.ask("GET /", lines).await;
    assert_eq!(decided.header("x-forwarded-for"), "203.0.113.7");
    assert_eq!(decided.header("x-forwarded-proto"), "https");
    assert_eq!(
        (decided.header("x-forwarded-host"), decided.header("forwarded")),
        (String::new(), String::new())
    );
    assert_eq!(decided.header("host"), "shop.example");
}

#[tokio::test]
async fn what_a_caller_says_of_its_address_is_dropped_in_every_spelling() {
    let world = World::new(one_route(json!({"auth": {"anonymous": true}, "txn": {}})));
    for name in ["X_Forwarded_For", "x_forwarded-proto", "X-Forwarded_Host", "X_FORWARDED_HOST"] {
        let decided = world.ask("GET /", &format!("{name}: forged\r\nX_Kept: yes\r\n")).await;
        let left = decided.forwarded();
        assert!(!left.iter().any(|(_, value)| value == "forged"), "{name}: {left:?}");
        assert_eq!(decided.header("x_kept"), "yes");
    }
}

#[tokio::test]
async fn the_token_is_never_indexed_by_header_compression() {
    let world = World::new(one_route(json!({})));
    let decided = world.get(&format!("Bearer {}", world.token(json!({})))).await;
    let mut headers = http::HeaderMap::new();
    decided.outcome.as_ref().unwrap().edits.apply(&mut headers, &Default::default());
    assert!(headers["txn-token"].is_sensitive());
}

#[tokio::test]
async fn of_a_sidecars_refusal_the_caller_learns_the_id_alone() {
    let world = World::new(one_route(json!({})));
    let decided = world.get(&format!("Bearer {}", world.token(json!({})))).await;
    let mut answer = http::HeaderMap::new();
    for name in ["signet-decision-id", "signet-deny-reason", "signet-user", "txn-token", "x-app"] {
        answer.insert(name, http::HeaderValue::from_static("x"));
    }
    decided.outcome.as_ref().unwrap().answer_edits.apply(&mut answer, &Default::default());
    let mut left: Vec<&str> = answer.keys().map(|name| name.as_str()).collect();
    left.sort_unstable();
    assert_eq!(left, ["signet-decision-id", "x-app"]);
}
