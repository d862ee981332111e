//! Logout tokens: what they must be, and that nothing else passes for one.

use serde_json::{Value, json};
use signet_token::{Logout, MAX_LOGOUT_AGE, TokenError};

use crate::support::{Forger, ISSUER, NOW, issuers, object, settings};

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

fn logout() -> Value {
    json!({
        "iss": ISSUER, "aud": "portal", "iat": NOW - 1, "exp": NOW + 119, "jti": "l-1", "sub": "248289761001",
        "sid": "s-1", "events": {EVENT: {}},
    })
}

fn with(name: &str, value: Option<Value>) -> Value {
    let mut claims = object(logout());
    match value {
        Some(value) => claims.insert(name.to_owned(), value),
        None => claims.remove(name),
    };
    Value::Object(claims)
}

fn judged(forger: &Forger, typ: &Value, claims: &Value) -> Result<Logout, TokenError> {
    let mut header = object(json!({"typ": typ, "alg": "ES256", "kid": forger.kid()}));
    if typ.is_null() {
        header.remove("typ");
    }
    let token = forger.raw(&Value::Object(header).to_string(), &claims.to_string());
    issuers(forger, settings())
        .verify_logout(&token, NOW, |alias, client| alias == "idp" && client == "portal")
}

#[test]
fn a_logout_token_names_a_session_or_a_user_of_its_own_issuer() {
    let forger = Forger::new();
    for typ in [json!("logout+jwt"), json!("JWT"), Value::Null] {
        let logout = judged(&forger, &typ, &logout()).unwrap();
        assert_eq!((&*logout.alias, logout.subject.as_deref()), ("idp", Some("248289761001")));
        assert_eq!((logout.session.as_deref(), &*logout.id), (Some("s-1"), "l-1"));
    }
    let typ = json!("logout+jwt");
    assert!(judged(&forger, &typ, &with("sid", None)).unwrap().session.is_none());
    assert!(judged(&forger, &typ, &with("sub", None)).unwrap().subject.is_none());
    // Before the final text there was no end; and a list of audiences needs one.
    judged(&forger, &typ, &with("exp", None)).unwrap();
    judged(&forger, &typ, &with("aud", Some(json!(["other", "portal"])))).unwrap();
}

#[test]
fn what_is_no_logout_token_logs_nobody_out() {
    let forger = Forger::new();
    let label = |typ: &str, claims: &Value| judged(&forger, &json!(typ), claims).unwrap_err().label();
    let refused = |name: &str, value: Option<Value>| label("logout+jwt", &with(name, value));
    for typ in ["at+jwt", "txntoken+jwt", "application/secevent+jwt"] {
        assert_eq!(label(typ, &logout()), "not_logout", "{typ}");
    }
    assert_eq!(judged(&forger, &json!(7), &logout()).unwrap_err().label(), "not_logout");
    for events in
        [None, Some(json!({})), Some(json!({EVENT: true})), Some(json!([EVENT])), Some(json!(EVENT))]
    {
        assert_eq!(refused("events", events.clone()), "not_logout", "{events:?}");
    }
    assert_eq!(refused("nonce", Some(json!("n"))), "not_logout", "an ID token");
    let mut nobody = object(logout());
    nobody.remove("sub");
    nobody.remove("sid");
    assert_eq!(label("logout+jwt", &Value::Object(nobody)), "not_logout");
    assert_eq!(refused("aud", Some(json!("shop"))), "wrong_audience", "an API's audience is no client");
    assert_eq!(refused("aud", None), "missing_claim");
    assert_eq!(refused("iss", Some(json!("https://other.example.com"))), "unknown_issuer");
    assert_eq!(refused("jti", None), "missing_claim");
    assert_eq!(refused("iat", None), "missing_claim");
    assert_eq!(refused("iat", Some(json!(NOW + 31))), "issued_in_future");
    assert_eq!(refused("iat", Some(json!(NOW - MAX_LOGOUT_AGE - 30))), "expired");
    assert_eq!(refused("exp", Some(json!(NOW - 30))), "expired");
    assert_eq!(refused("sid", Some(json!(7))), "claim_type");
    let stranger = Forger::new();
    let token = stranger.with_header(&json!({"typ": "logout+jwt"}), &logout());
    let judged = issuers(&forger, settings()).verify_logout(&token, NOW, |_, _| true);
    assert_eq!(judged.unwrap_err().label(), "unknown_key");
    // And one that is good is no access token.
    let token = forger.with_header(&json!({"typ": "logout+jwt"}), &logout());
    assert!(issuers(&forger, settings()).verify(&token, NOW).is_err());
}
