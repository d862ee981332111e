//! The error contract: what a caller is told, and what not.

use std::sync::Arc;

use serde_json::{Value, json};
use signet_proxy::answer::{Audience, Dialect, Reason};
use signet_proxy::state::Keys;
use signet_token::delegation::Delegation;
use signet_token::{Issuers, SigningKey};

use crate::support::{TD, World, now, one_route};

fn bearer(rest: &str) -> String {
    format!("Bearer realm=\"{TD}\"{rest}")
}

fn invalid_token() -> String {
    bearer(", error=\"invalid_token\", error_description=\"the access token is not valid here\"")
}

#[tokio::test]
async fn without_a_credential_the_challenge_names_no_error() {
    let world = World::new(one_route(json!({})));
    let decided = world.ask("GET /", "").await;
    assert_eq!(decided.told(), (401, bearer("")));
    // Another scheme, or a token in the query, is no credential of this route.
    for lines in ["Authorization: Basic dXNlcjpwYXNz\r\n", "Authorization: Bearerx abc\r\n"] {
        assert_eq!(world.ask("GET /", lines).await.told(), (401, bearer("")), "{lines}");
    }
    let query = format!("GET /?access_token={}", world.token(json!({})));
    assert_eq!(world.ask(&query, "").await.told(), (401, bearer("")));
}

#[tokio::test]
async fn what_cannot_be_read_as_one_credential_is_an_invalid_request() {
    let world = World::new(one_route(json!({})));
    let good = world.token(json!({}));
    let expected = (400, bearer(", error=\"invalid_request\""));
    for value in [
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        "bearer ==".to_owned(),
        format!("Bearer {good} x"),
        format!("Bearer {good},"),
        format!("Bearer {good}, Bearer {good}"),
        format!("Bearer {good};q=1"),
        format!("Bearer \"{good}\""),
        format!("Bearer, {good}"),
        format!(", Bearer {good}"),
        "Bearer \u{e9}".to_owned(),
    ] {
        assert_eq!(world.get(&value).await.told(), expected, "{value:?}");
    }
    let twice = world.ask("GET /?a=1&access_token=x", &format!("Authorization: Bearer {good}\r\n")).await;
    assert_eq!(twice.told(), expected);
}

#[tokio::test]
async fn the_schemes_name_has_no_case() {
    let world = World::new(one_route(json!({})));
    let token = world.token(json!({}));
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        assert!(world.get(&format!("{scheme} {token}")).await.is_admitted(), "{scheme}");
        assert!(world.get(&format!("{scheme}   {token}")).await.is_admitted(), "{scheme}");
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_a_token_the_caller_is_told_the_same() {
    let world = World::new(one_route(json!({})));
    let stranger = World::new(one_route(json!({})));
    let good = world.token(json!({}));
    let cases: Vec<(&str, String)> = vec![
        ("bad_signature", format!("{}.{}", good.rsplit_once('.').unwrap().0, "A".repeat(86))),
        ("unknown_key", stranger.token(json!({}))),
        ("unknown_issuer", world.token(json!({"iss": "https://other.example"}))),
        ("wrong_audience", world.token(json!({"aud": "bank"}))),
        ("expired", world.token(json!({"exp": now() - 31}))),
        ("not_yet_valid", world.token(json!({"nbf": now() + 31}))),
        ("wrong_type", world.signed("JWT", json!({}))),
        ("wrong_type", world.signed("txntoken+jwt", json!({}))),
        ("id_token", world.token(json!({"nonce": "n"}))),
        ("unproven_cnf", world.token(json!({"cnf": {"jkt": "x"}}))),
        ("claim_type", world.token(json!({"sub": 1}))),
        ("malformed", "abc".to_owned()),
        ("malformed", format!("{good}.x")),
        ("bad_base64", format!("{good}=")),
    ];
    for (reason, token) in cases {
        let decided = world.get(&format!("Bearer {token}")).await;
        assert_eq!(decided.told(), (401, invalid_token()), "{reason}");
        let text = String::from_utf8(decided.answer().body.to_vec()).unwrap();
        assert!(!text.contains(reason), "{text}");
        let counted = format!("jwt denied {reason}");
        assert!(
            world.attempts().iter().any(|(labels, _)| *labels == counted),
            "{counted} in {:?}",
            world.attempts()
        );
    }
}

#[tokio::test]
async fn a_token_of_unreadable_size_is_a_matter_of_the_head() {
    let world = World::new(one_route(json!({})));
    let decided = world.get(&format!("Bearer {}", "a".repeat(8193))).await;
    assert_eq!(decided.told().0, 431);
}

#[tokio::test]
async fn a_missing_scope_is_named() {
    let world = World::new(one_route(json!({"scopes": ["orders:read", "orders:write"]})));
    let get =
        async |scope: &str| world.get(&format!("Bearer {}", world.token(json!({ "scope": scope })))).await;
    let expected = bearer(", error=\"insufficient_scope\", scope=\"orders:read orders:write\"");
    for scope in ["", "orders:read", "orders:write", "orders:read-orders:write", "Orders:read orders:write"] {
        assert_eq!(get(scope).await.told(), (403, expected.clone()), "{scope}");
    }
    assert!(get("x orders:write orders:read").await.is_admitted());
}

#[tokio::test]
async fn when_the_fault_is_ours_the_answer_is_503_and_never_401() {
    let world = World::new(one_route(json!({})));
    let token = format!("Bearer {}", world.token(json!({})));
    type Change<'a> = Box<dyn Fn(Keys) -> Keys + 'a>;
    let with_issuer = |fetched: Option<u64>| -> Change<'_> {
        let world = &world;
        Box::new(move |keys| {
            let issuer = world.issuer("idp", crate::support::ISSUER);
            let issuer = match fetched {
                Some(at) => issuer.with_keys(world.idp_keys(), at),
                None => issuer,
            };
            Keys { issuers: Arc::new(Issuers::new([issuer])), ..keys }
        })
    };
    let with_terms = |change: fn(Delegation) -> Delegation| -> Change<'_> {
        let world = &world;
        Box::new(move |keys| Keys { minter: Some(world.minter(change)), ..keys })
    };
    let gateway = world.gateway.thumbprint().to_owned();
    let cases: Vec<(&str, Change<'_>)> = vec![
        ("keys_unavailable", with_issuer(None)),
        ("keys_stale", with_issuer(Some(now() - 24 * 3600 - 1))),
        ("no_delegation", Box::new(|keys| Keys { minter: None, ..keys })),
        (
            "no_delegation",
            Box::new(move |keys| Keys { revoked_delegations: Arc::new([gateway.clone()].into()), ..keys }),
        ),
        (
            "no_delegation",
            Box::new(|keys| Keys { refuse_users: Some("revocations of an unknown kind".into()), ..keys }),
        ),
        ("delegation_ended", with_terms(|terms| Delegation { expires_at: now(), ..terms })),
        ("alias_not_delegated", with_terms(|terms| Delegation { aliases: Default::default(), ..terms })),
        (
            "credential_not_delegated",
            with_terms(|terms| Delegation { credentials: Default::default(), ..terms }),
        ),
    ];
    for (reason, change) in cases {
        world.keys(&change);
        let decided = world.get(&token).await;
        let answer = decided.answer();
        assert_eq!(decided.told(), (503, String::new()), "{reason}");
        assert!(
            answer.headers.iter().any(|(name, value)| *name == "retry-after" && value == "5"),
            "{reason}"
        );
        let counted = format!("jwt unavailable {reason}");
        assert!(
            world.attempts().iter().any(|(labels, _)| *labels == counted),
            "{counted} in {:?}",
            world.attempts()
        );
    }
    // A bad token is bad whether or not we could mint.
    world.keys(|keys| Keys { minter: None, ..keys });
    let bad =
        SigningKey::generate().unwrap().sign("at+jwt", Default::default(), &Default::default()).unwrap();
    assert_eq!(world.get(&format!("Bearer {bad}")).await.told(), (401, invalid_token()));
}

#[tokio::test]
async fn a_credential_in_its_last_seconds_of_grace_is_expired_and_no_fault_of_ours() {
    let world = World::new(one_route(json!({})));
    let token = world.token(json!({"exp": now() - 10}));
    assert_eq!(world.get(&format!("Bearer {token}")).await.told(), (401, invalid_token()));
}

#[tokio::test]
async fn grpc_callers_get_the_same_in_their_own_form() {
    let world = World::new(one_route(json!({"scopes": ["admin"]})));
    let good = world.token(json!({}));
    for (authorization, status) in
        [("Bearer x".to_owned(), "16"), ("Bearer".to_owned(), "3"), (format!("Bearer {good}"), "7")]
    {
        let decided = world.get(&authorization).await;
        let answer = decided.refusal().answer(Audience::Outside, Dialect::Grpc);
        assert_eq!(answer.status, 200);
        let header = |name: &str| answer.headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
        assert_eq!(header("grpc-status").as_deref(), Some(status));
        assert_eq!(header("www-authenticate"), Some(decided.told().1));
    }
}

#[tokio::test]
async fn a_key_that_the_issuer_did_not_have_yet_is_asked_for() {
    let mut world = World::new(one_route(json!({})));
    let token = SigningKey::generate().unwrap();
    let claims = crate::support::object(json!({"iss": crate::support::ISSUER}));
    let token = token.sign("at+jwt", Default::default(), &claims).unwrap();
    assert_eq!(world.get(&format!("Bearer {token}")).await.refusal().reason, Reason::Unauthenticated);
    let wish = world.wishes.try_recv().unwrap();
    assert_eq!(wish, signet_proxy::state::Wanted::IssuerKeys("idp".into()));
}

#[tokio::test]
async fn a_refusal_has_an_id_and_no_reason_for_the_caller() {
    let world = World::new(one_route(json!({})));
    let decided = world.get("Bearer a.b.c").await;
    let answer = decided.answer();
    let names: Vec<&str> = answer.headers.iter().map(|(name, _)| &**name).collect();
    assert!(names.contains(&"signet-decision-id") && !names.contains(&"signet-deny-reason"), "{names:?}");
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["id"], decided.refusal().decision.to_string());
}

#[test]
fn two_authorization_headers_never_reach_a_method() {
    // The codecs refuse them for every role: "first wins" and "last wins" are the same mistake.
    use signet_wire::h1::RequestParser;
    let text = "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n";
    assert!(RequestParser::new(Default::default()).parse(&mut text.into()).is_err());
    let request = http::Request::builder().uri("https://a/").version(http::Version::HTTP_2);
    let request = request.header("authorization", "Bearer a").header("authorization", "Bearer b");
    assert!(signet_wire::h2::RequestHead::new(request.body(()).unwrap().into_parts().0).is_err());
}
