//! JWT-SVIDs: what is believed, and everything around it that is not.

use serde_json::{Value, json};
use signet_token::jwt_svid::{self, JwtSvidError, Terms};
use signet_token::{ClaimError, JoseError, Jwks};

use crate::support::{Forger, NOW, object};

const SUBJECT: &str = "spiffe://demo.signet/ns/shop/sa/web";

fn claims() -> Value {
    json!({ "sub": SUBJECT, "aud": ["db", "cache"], "iat": NOW, "exp": NOW + 300 })
}

fn with(name: &str, value: Option<Value>) -> Value {
    let mut map = object(claims());
    match value {
        Some(value) => map.insert(name.to_owned(), value),
        None => map.remove(name),
    };
    Value::Object(map)
}

fn token(forger: &Forger, header: Value, claims: &Value) -> String {
    let mut full = object(json!({ "alg": "ES256", "kid": forger.kid(), "typ": "JWT" }));
    for (name, value) in object(header) {
        match value {
            Value::Null => full.remove(&name),
            value => full.insert(name, value),
        };
    }
    forger.raw(&Value::Object(full).to_string(), &claims.to_string())
}

fn verify(forger: &Forger, token: &str, audience: &str, now: u64) -> Result<jwt_svid::JwtSvid, JwtSvidError> {
    let keys = forger.jwks();
    let domain = |id: &str| {
        let (domain, _path) = id.strip_prefix("spiffe://")?.split_once('/')?;
        Some((domain == "demo.signet").then_some(&*keys))
    };
    jwt_svid::verify(token, audience, domain, now)
}

#[test]
fn what_we_sign_is_believed_and_says_nothing_else() {
    let forger = Forger::new();
    let audiences = ["db".to_owned(), "cache".to_owned()];
    let terms = Terms { subject: SUBJECT, audiences: &audiences, issued_at: NOW, expires_at: NOW + 300 };
    let token = jwt_svid::sign(&forger.key, &terms).unwrap();
    let svid = verify(&forger, &token, "cache", NOW).unwrap();
    assert_eq!((svid.subject.as_str(), svid.expires_at), (SUBJECT, NOW + 300));
    assert_eq!(svid.audiences, audiences);
    let names: Vec<&str> = svid.claims.keys().map(String::as_str).collect();
    assert_eq!(names, ["aud", "exp", "iat", "sub"]);
}

#[test]
fn a_jwt_svid_without_exp_is_refused() {
    let forger = Forger::new();
    let error = verify(&forger, &token(&forger, json!({}), &with("exp", None)), "db", NOW).unwrap_err();
    assert_eq!(error, ClaimError::Missing { claim: "exp" }.into());
}

#[test]
fn type_key_id_and_algorithm_are_those_of_the_standard() {
    let forger = Forger::new();
    for typ in [json!(null), json!("JWT"), json!("JOSE")] {
        let token = token(&forger, json!({ "typ": typ }), &claims());
        assert!(verify(&forger, &token, "db", NOW).is_ok(), "{typ}");
    }
    for typ in ["at+jwt", "jwt", "wit+jwt", "txntoken+jwt", ""] {
        let token = token(&forger, json!({ "typ": typ }), &claims());
        assert_eq!(verify(&forger, &token, "db", NOW), Err(JwtSvidError::WrongType), "{typ}");
    }
    for kid in [json!(null), json!("")] {
        let token = token(&forger, json!({ "kid": kid }), &claims());
        assert_eq!(verify(&forger, &token, "db", NOW), Err(JwtSvidError::NoKeyId));
    }
    let other = token(&forger, json!({ "kid": "another" }), &claims());
    assert_eq!(verify(&forger, &other, "db", NOW), Err(JwtSvidError::UnknownKey));
    let edwards = token(&forger, json!({ "alg": "EdDSA" }), &claims());
    assert!(matches!(verify(&forger, &edwards, "db", NOW), Err(JwtSvidError::Algorithm(_))));
    for alg in ["none", "HS256", "HS512", ""] {
        let token = token(&forger, json!({ "alg": alg }), &claims());
        let error = verify(&forger, &token, "db", NOW).unwrap_err();
        assert!(matches!(error, JwtSvidError::Jose(JoseError::Algorithm { .. })), "{alg}: {error}");
    }
}

#[test]
fn the_keys_of_one_trust_domain_vouch_for_no_other() {
    let forger = Forger::new();
    for (sub, error) in [
        ("spiffe://other.mesh/ns/shop/sa/web", JwtSvidError::UnknownDomain),
        ("spiffe://demo.signet", JwtSvidError::Subject),
        ("https://demo.signet/ns/shop/sa/web", JwtSvidError::Subject),
        ("", JwtSvidError::Subject),
    ] {
        let token = token(&forger, json!({}), &with("sub", Some(json!(sub))));
        assert_eq!(verify(&forger, &token, "db", NOW), Err(error), "{sub}");
    }
    let missing = token(&forger, json!({}), &with("sub", None));
    assert_eq!(verify(&forger, &missing, "db", NOW), Err(ClaimError::Missing { claim: "sub" }.into()));
    let stranger = Forger::new();
    let stolen = token(&stranger, json!({ "kid": forger.kid() }), &claims());
    assert_eq!(verify(&forger, &stolen, "db", NOW), Err(JoseError::Signature.into()));
}

#[test]
fn audience_and_time_are_looked_at() {
    let forger = Forger::new();
    let good = token(&forger, json!({}), &claims());
    assert_eq!(verify(&forger, &good, "d", NOW), Err(JwtSvidError::Audience));
    assert!(verify(&forger, &good, "db", NOW + 300 + jwt_svid::SKEW - 1).is_ok());
    assert_eq!(
        verify(&forger, &good, "db", NOW + 300 + jwt_svid::SKEW),
        Err(JwtSvidError::Expired { ago: jwt_svid::SKEW })
    );
    for name in ["iat", "nbf"] {
        let early = token(&forger, json!({}), &with(name, Some(json!(NOW + jwt_svid::SKEW + 1))));
        assert!(
            matches!(verify(&forger, &early, "db", NOW), Err(JwtSvidError::NotYetValid { .. })),
            "{name}"
        );
    }
    let nobody = token(&forger, json!({}), &with("aud", Some(json!([]))));
    assert!(matches!(verify(&forger, &nobody, "db", NOW), Err(JwtSvidError::Claim(_))));
}

#[test]
fn a_token_is_issued_for_few_plain_audiences() {
    let texts = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    assert!(jwt_svid::are_audiences(&texts(1)) && jwt_svid::are_audiences(&texts(16)));
    for bad in [texts(0), texts(17), vec![String::new()], vec!["a\nb".into()], vec!["x".repeat(1025)]] {
        assert!(!jwt_svid::are_audiences(&bad), "{bad:?}");
    }
    assert!(!jwt_svid::are_audiences(&["a".to_owned(), "a".to_owned()]));
}

#[test]
fn a_set_with_two_keys_of_one_name_verifies_nothing() {
    let forger = Forger::new();
    let keys = Jwks::of([forger.key.public_jwk().clone(), forger.key.public_jwk().clone()]);
    let token = token(&forger, json!({}), &claims());
    let verified = jwt_svid::verify(&token, "db", |_| Some(Some(&keys)), NOW);
    assert_eq!(verified, Err(JwtSvidError::AmbiguousKey));
}
