//! ID tokens: what a login must say, and what must not pass for one.

use serde_json::{Value, json};
use signet_token::{IdToken, IdTokenError, JoseError, RelyingParty, unverified_issuer};

use crate::support::{Forger, ISSUER, NOW, b64, object};

fn party() -> RelyingParty {
    RelyingParty::new(
        ISSUER.into(),
        "signet".into(),
        &["ES256".to_owned()],
        "email".into(),
        Some("groups".into()),
    )
    .unwrap()
}

fn claims(change: &Value) -> Value {
    let mut map = object(json!({
        "iss": ISSUER, "sub": "u-1", "aud": "signet", "exp": NOW + 300, "iat": NOW - 5, "nonce": "n-1",
        "email": "ada@example.com", "email_verified": true, "groups": ["admins", "shop"], "name": "Ada Lovelace",
    }));
    for (name, value) in object(change.clone()) {
        if value.is_null() {
            map.remove(&name);
        } else {
            map.insert(name, value);
        }
    }
    Value::Object(map)
}

fn judged(forger: &Forger, header: &Value, change: &Value) -> Result<IdToken, IdTokenError> {
    let jwks = forger.jwks();
    party().verify(&forger.with_header(header, &claims(change)), Some((&jwks, NOW - 60)), NOW)
}

fn plain() -> Value {
    json!({"typ": "JWT"})
}

#[test]
fn an_id_token_says_who_logged_in_and_for_which_nonce() {
    let token = judged(&Forger::new(), &plain(), &json!({})).unwrap();
    assert_eq!((token.subject.as_str(), token.nonce.as_str()), ("u-1", "n-1"));
    assert_eq!(token.username.as_deref(), Some("ada@example.com"));
    assert_eq!(token.name.as_deref(), Some("Ada Lovelace"));
    assert_eq!(token.groups.iter().map(String::as_str).collect::<Vec<_>>(), ["admins", "shop"]);
}

#[test]
fn each_claim_of_a_login_is_required_and_compared() {
    let forger = Forger::new();
    let refused = |change: Value| judged(&forger, &plain(), &change).unwrap_err().label();
    for (change, label) in [
        (json!({"iss": "https://other.example"}), "unknown_issuer"),
        (json!({"aud": "another-client"}), "wrong_audience"),
        (json!({"aud": ["another-client"]}), "wrong_audience"),
        (json!({"aud": ["signet", "another-client"]}), "wrong_azp"),
        (json!({"aud": ["signet", "another-client"], "azp": "another-client"}), "wrong_azp"),
        (json!({"azp": "another-client"}), "wrong_azp"),
        (json!({"exp": NOW - 31}), "expired"),
        (json!({"iat": NOW + 31}), "issued_in_future"),
        (json!({"nbf": NOW + 31}), "not_yet_valid"),
        (json!({"iat": NOW - 601, "exp": NOW + 10_000}), "too_old"),
        (json!({"nonce": 7}), "claim_type"),
        (json!({"nonce": ""}), "claim_type"),
        (json!({"email": ["ada@example.com"]}), "claim_type"),
        (json!({"groups": "admins"}), "claim_type"),
        (json!({"groups": vec!["g"; 1025]}), "too_many_groups"),
    ] {
        assert_eq!(refused(change.clone()), label, "{change}");
    }
    for claim in ["iss", "sub", "aud", "exp", "iat", "nonce"] {
        assert_eq!(refused(json!({ claim: null })), "missing_claim", "{claim}");
    }
    judged(&forger, &plain(), &json!({"aud": ["signet", "other"], "azp": "signet"})).unwrap();
}

#[test]
fn an_address_that_nobody_verified_names_nobody() {
    let forger = Forger::new();
    for change in
        [json!({"email_verified": false}), json!({"email_verified": "true"}), json!({"email_verified": null})]
    {
        assert_eq!(judged(&forger, &plain(), &change).unwrap().username, None, "{change}");
    }
}

#[test]
fn other_kinds_of_tokens_and_other_algorithms_are_no_id_tokens() {
    let forger = Forger::new();
    for typ in [json!("at+jwt"), json!("txntoken+jwt"), json!("logout+jwt"), json!("secevent+jwt"), json!(7)]
    {
        let refused = judged(&forger, &json!({ "typ": typ }), &json!({})).unwrap_err();
        assert_eq!(refused, IdTokenError::WrongType, "{typ}");
    }
    let jwks = forger.jwks();
    let keys = Some((&jwks, NOW - 60));
    let unsigned =
        format!("{}.{}.", b64(r#"{"alg":"none","typ":"JWT"}"#), b64(claims(&json!({})).to_string()));
    let refused = party().verify(&unsigned, keys, NOW).unwrap_err();
    assert!(matches!(refused, IdTokenError::Jose(JoseError::Algorithm { .. })), "{refused}");
    let good = forger.with_header(&plain(), &claims(&json!({})));
    let rs256 = RelyingParty::new(ISSUER.into(), "signet".into(), &[], "sub".into(), None).unwrap();
    assert_eq!(rs256.verify(&good, keys, NOW).unwrap_err().label(), "algorithm_not_allowed");
    // Another provider's key, under this provider's kid and name.
    let forged = Forger::new().with_header(&json!({"typ": "JWT", "kid": forger.kid()}), &claims(&json!({})));
    assert_eq!(party().verify(&forged, keys, NOW).unwrap_err(), IdTokenError::Jose(JoseError::Signature));
    assert_eq!(unverified_issuer(&forged).unwrap(), ISSUER);
}

#[test]
fn without_fresh_keys_nobody_logs_in() {
    let forger = Forger::new();
    let token = forger.with_header(&plain(), &claims(&json!({})));
    let none = party().verify(&token, None, NOW).unwrap_err();
    assert!(none.is_unavailable() && none == IdTokenError::KeysUnavailable);
    let jwks = forger.jwks();
    let stale = party().verify(&token, Some((&jwks, NOW - 86_401)), NOW).unwrap_err();
    assert!(stale.is_unavailable() && stale == IdTokenError::KeysStale { age: 86_401 });
    let others = Forger::new().jwks();
    assert_eq!(party().verify(&token, Some((&others, NOW)), NOW).unwrap_err().label(), "unknown_key");
}
