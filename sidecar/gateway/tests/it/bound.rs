//! Tokens that are bound to a key, and logins that a route asks for.

use serde_json::{Map, Value, json};
use signet_token::{SigningKey, sha256};

use crate::support::{Decided, TD, World, now, object, one_route};

const PLACE: &str = "https://shop.example/v1/orders";

fn b64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn dpop(error: &str) -> String {
    let error = if error.is_empty() { String::new() } else { format!(", error=\"{error}\"") };
    format!("DPoP realm=\"{TD}\"{error}, algs=\"ES256 ES384 RS256 PS256 EdDSA\"")
}

/// A client with a key of its own.
struct Client {
    key: SigningKey,
    proofs: std::cell::Cell<u32>,
}

impl Client {
    fn new() -> Client {
        Client { key: SigningKey::generate().unwrap(), proofs: Default::default() }
    }

    /// A token that is bound to its key.
    fn token(&self, world: &World) -> String {
        world.token(json!({"cnf": {"jkt": self.key.thumbprint()}}))
    }

    /// A proof for the token, with other members of header and claims.
    fn proof_with(&self, token: &str, header: Value, claims: Value) -> String {
        self.proofs.set(self.proofs.get() + 1);
        let mut head = object(json!({"jwk": Value::Object(self.key.public_jwk().to_json())}));
        head.extend(object(header));
        let mut all = object(json!({
            "jti": format!("proof-{}", self.proofs.get()), "htm": "GET", "htu": PLACE, "iat": now(),
            "ath": b64(&sha256(token.as_bytes())),
        }));
        for (name, value) in object(claims) {
            match value {
                Value::Null => drop(all.remove(&name)),
                value => drop(all.insert(name, value)),
            }
        }
        self.key.sign("dpop+jwt", head, &all).unwrap()
    }

    fn proof(&self, token: &str) -> String {
        self.proof_with(token, json!({}), json!({}))
    }
}

async fn present(world: &World, token: &str, proof: &str) -> Decided {
    let lines = format!("Authorization: DPoP {token}\r\nDPoP: {proof}\r\n");
    world.ask("GET /v1/orders", &lines).await
}

#[tokio::test]
async fn a_bound_token_is_taken_with_a_proof_by_its_key_and_neither_goes_further() {
    let world = World::new(one_route(json!({})));
    let client = Client::new();
    let token = client.token(&world);
    for _ in 0..3 {
        let decided = present(&world, &token, &client.proof(&token)).await;
        assert!(decided.is_admitted(), "{:?}", decided.outcome.err());
        assert_eq!((decided.header("authorization"), decided.header("dpop")), (String::new(), String::new()));
        let minted = world.believe(&decided.header("txn-token"));
        assert_eq!(minted.subject, "idp|alice");
    }
    // The same place in other words, and within the window of clocks.
    for claims in [
        json!({"htu": "https://SHOP.example:443/v1/%6Frders?a=b#c"}),
        json!({"iat": now() - 60}),
        json!({"iat": now() + 60}),
    ] {
        let proof = client.proof_with(&token, json!({}), claims.clone());
        assert!(present(&world, &token, &proof).await.is_admitted(), "{claims}");
    }
}

#[tokio::test]
async fn a_token_lifted_from_its_client_is_worth_nothing() {
    let world = World::new(one_route(json!({})));
    let (client, thief) = (Client::new(), Client::new());
    let token = client.token(&world);
    let bearer = world.get(&format!("Bearer {token}")).await;
    let expected = format!(
        "Bearer realm=\"{TD}\", error=\"invalid_token\", error_description=\"the access token is not valid here\""
    );
    assert_eq!(bearer.told(), (401, expected), "as a bearer token");
    assert_eq!(present(&world, &token, &thief.proof(&token)).await.told(), (401, dpop("invalid_dpop_proof")));
    // Nor is a proof that was seen before, or for another request, token, time or kind of thing.
    let proof = client.proof(&token);
    assert!(present(&world, &token, &proof).await.is_admitted());
    let other = world.token(json!({"cnf": {"jkt": client.key.thumbprint()}, "jti": "another"}));
    let mut broken = client.proof(&token);
    broken.pop();
    let private = json!({"jwk": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "d": "AA"}});
    let by = |header: Value, claims: Value| client.proof_with(&token, header, claims);
    let cases: Vec<(&str, String)> = vec![
        ("dpop_replayed", proof),
        ("dpop_token", client.proof(&other)),
        ("dpop_malformed", broken),
        ("dpop_method", by(json!({}), json!({"htm": "POST"}))),
        ("dpop_method", by(json!({}), json!({"htm": "get"}))),
        ("dpop_place", by(json!({}), json!({"htu": "https://shop.example/v1/orders/1"}))),
        ("dpop_place", by(json!({}), json!({"htu": "http://shop.example/v1/orders"}))),
        ("dpop_place", by(json!({}), json!({"htu": "https://shop.example:8443/v1/orders"}))),
        ("dpop_place", by(json!({}), json!({"htu": "https://shop.example.evil.example/v1/orders"}))),
        ("dpop_place", by(json!({}), json!({"htu": "/v1/orders"}))),
        ("dpop_time", by(json!({}), json!({"iat": now() - 61}))),
        ("dpop_time", by(json!({}), json!({"iat": now() + 61}))),
        ("dpop_malformed", by(json!({}), json!({"iat": null}))),
        ("dpop_malformed", by(json!({}), json!({"iat": "1"}))),
        ("dpop_malformed", by(json!({}), json!({"jti": null}))),
        ("dpop_malformed", by(json!({}), json!({"htm": null}))),
        ("dpop_malformed", by(json!({}), json!({"htu": null}))),
        ("dpop_malformed", by(json!({}), json!({"ath": null}))),
        ("dpop_malformed", by(json!({"jwk": "none"}), json!({}))),
        ("dpop_malformed", by(json!({"crit": ["b64"]}), json!({}))),
        ("dpop_key", by(private, json!({}))),
        ("dpop_key", by(json!({"jwk": {"kty": "oct", "k": "AAAA"}}), json!({}))),
        (
            "dpop_bad_signature",
            by(json!({"jwk": Value::Object(thief.key.public_jwk().to_json())}), json!({})),
        ),
        ("dpop_type", client.key.sign("jwt", Map::new(), &Map::new()).unwrap()),
        ("dpop_malformed", "x".to_owned()),
        ("dpop_malformed", "a".repeat(8193)),
    ];
    for (reason, proof) in cases {
        let decided = present(&world, &token, &proof).await;
        assert_eq!(decided.told(), (401, dpop("invalid_dpop_proof")), "{reason}: {proof}");
        let counted = format!("jwt denied {reason}");
        assert!(
            world.attempts().iter().any(|(labels, _)| *labels == counted),
            "{counted} {:?}",
            world.attempts()
        );
    }
    let none = world.get(&format!("DPoP {token}")).await;
    assert_eq!(none.told(), (401, dpop("invalid_dpop_proof")));
}

#[tokio::test]
async fn a_proof_beside_a_token_that_is_bound_to_nothing_or_to_something_else_proves_nothing() {
    let world = World::new(one_route(json!({})));
    let client = Client::new();
    let key = client.key.thumbprint();
    for cnf in [
        json!({"x5t#S256": b64(&[7; 32])}),
        json!({"jkt": key, "x5t#S256": b64(&[7; 32])}),
        json!({"jwk": client.key.public_jwk().to_json()}),
        json!({"jkt": 1}),
        json!({}),
        json!("jkt"),
    ] {
        let token = world.token(json!({ "cnf": cnf }));
        let decided = present(&world, &token, &client.proof(&token)).await;
        assert_eq!(decided.told(), (401, dpop("invalid_token")), "{cnf}");
        assert_eq!(world.get(&format!("Bearer {token}")).await.told().0, 401, "{cnf}");
    }
    let unbound = world.token(json!({}));
    assert_eq!(present(&world, &unbound, &client.proof(&unbound)).await.told(), (401, dpop("invalid_token")));
}

#[tokio::test]
async fn a_route_may_take_bound_tokens_only_and_says_so() {
    let world = World::new(one_route(json!({"auth": {"jwt": {"issuers": ["idp"], "bound": "required"}}})));
    let client = Client::new();
    assert_eq!(world.ask("GET /v1/orders", "").await.challenges(), [dpop("")]);
    assert_eq!(
        world.get(&format!("Bearer {}", world.token(json!({})))).await.told(),
        (401, dpop("invalid_token"))
    );
    let token = client.token(&world);
    assert!(present(&world, &token, &client.proof(&token)).await.is_admitted());
    let either = World::new(one_route(json!({})));
    assert_eq!(
        either.ask("GET /v1/orders", "").await.challenges(),
        [format!("Bearer realm=\"{TD}\""), dpop("")]
    );
}

#[tokio::test]
async fn a_login_that_is_too_weak_or_too_old_is_asked_for_again() {
    let auth = json!({"jwt": {"issuers": ["idp"], "acrValues": ["mfa", "https://refeds.org/profile/mfa"], "maxAge": "5m"}});
    let world = World::new(one_route(json!({"auth": auth})));
    let get = async |claims: Value| world.get(&format!("Bearer {}", world.token(claims))).await;
    let expected = format!(
        "Bearer realm=\"{TD}\", error=\"insufficient_user_authentication\", \
         error_description=\"another way of logging in, or a more recent one, is needed\", \
         acr_values=\"mfa https://refeds.org/profile/mfa\", max_age=\"300\""
    );
    for claims in [
        json!({}),
        json!({"acr": "pwd", "auth_time": now()}),
        json!({"acr": "mfa"}),
        json!({"acr": "MFA", "auth_time": now()}),
        json!({"acr": "mfa https://refeds.org/profile/mfa", "auth_time": now()}),
        json!({"acr": "mfa", "auth_time": now() - 331}),
    ] {
        assert_eq!(get(claims.clone()).await.told(), (401, expected.clone()), "{claims}");
    }
    for acr in ["mfa", "https://refeds.org/profile/mfa"] {
        assert!(get(json!({"acr": acr, "auth_time": now() - 330})).await.is_admitted(), "{acr}");
    }
}
