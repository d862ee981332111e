use serde_json::{Value, json};
use signet_token::{Algorithm, Jwk, JwkRefused, Jwks, JwksError, KeyLookup, SigningKey};

use crate::support::{Forger, b64, object};

fn rsa(bits: usize, exponent: &[u8]) -> Value {
    let mut n = vec![0xffu8; bits / 8];
    n[0] = 0x80;
    json!({"kty": "RSA", "n": b64(n), "e": b64(exponent)})
}

fn refused(key: Value) -> JwkRefused {
    Jwk::parse(&key.to_string()).unwrap_err()
}

fn with(key: &Value, name: &str, value: Value) -> Value {
    let mut key = key.clone();
    key[name] = value;
    key
}

#[test]
fn only_public_signature_keys_of_known_kinds_are_used() {
    let ec = Value::Object(Forger::new().key.public_jwk().to_json());
    assert!(Jwk::parse(&ec.to_string()).is_ok());
    assert_eq!(refused(json!({"kty": "oct", "k": "AAAA"})), JwkRefused::Symmetric);
    for name in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
        assert_eq!(refused(with(&ec, name, json!("AAAA"))), JwkRefused::Private, "{name}");
    }
    assert_eq!(refused(with(&ec, "use", json!("enc"))), JwkRefused::NotForSignatures);
    assert_eq!(refused(with(&ec, "key_ops", json!(["sign"]))), JwkRefused::NotForSignatures);
    assert_eq!(refused(with(&ec, "key_ops", json!("verify"))), JwkRefused::Malformed);
    assert!(Jwk::parse(&with(&ec, "key_ops", json!(["verify"])).to_string()).is_ok());
    assert_eq!(refused(with(&ec, "kty", json!("XYZ"))), JwkRefused::UnknownType);
    for curve in ["P-521", "secp256k1", "Ed25519", "p-256"] {
        assert_eq!(refused(with(&ec, "crv", json!(curve))), JwkRefused::UnknownCurve, "{curve}");
    }
    for alg in ["HS256", "none", "ES512", "RSA-OAEP"] {
        assert_eq!(refused(with(&ec, "alg", json!(alg))), JwkRefused::UnknownAlgorithm, "{alg}");
    }
    for alg in ["ES384", "RS256", "EdDSA"] {
        assert_eq!(refused(with(&ec, "alg", json!(alg))), JwkRefused::AlgorithmMismatch, "{alg}");
    }
    for wrong in [json!(null), json!(7), json!(""), json!("AAAA"), json!("===="), json!(b64([1; 33]))] {
        assert_eq!(refused(with(&ec, "x", wrong)), JwkRefused::Malformed);
    }
    assert_eq!(refused(with(&ec, "kid", json!(7))), JwkRefused::Malformed);
    assert_eq!(refused(json!([])), JwkRefused::Malformed);
    let x25519 = json!({"kty": "OKP", "crv": "X25519", "x": b64([1; 32])});
    assert_eq!(refused(x25519), JwkRefused::UnknownCurve);
}

#[test]
fn a_weak_rsa_key_is_left_out() {
    let good = &[1, 0, 1][..];
    assert!(Jwk::parse(&rsa(2048, good).to_string()).is_ok());
    assert_eq!(refused(rsa(1024, good)), JwkRefused::RsaSize);
    assert_eq!(refused(rsa(2040, good)), JwkRefused::RsaSize);
    assert_eq!(refused(rsa(8200, good)), JwkRefused::RsaSize);
    for exponent in [&[3][..], &[0, 0, 3], &[1, 0, 0], &[0xff, 0xff], &[], &[1, 0, 2], &[1, 0, 0, 0, 0, 0, 1]]
    {
        assert_eq!(refused(rsa(2048, exponent)), JwkRefused::RsaExponent, "{exponent:?}");
    }
    // A leading zero is how some issuers write the same number.
    let mut padded = vec![0u8];
    padded.extend([0xff; 256]);
    assert!(Jwk::parse(&json!({"kty": "RSA", "n": b64(&padded), "e": "AAEAAQ"}).to_string()).is_ok());
}

#[test]
fn a_set_serves_its_good_keys_and_counts_the_others() {
    let ec = Value::Object(Forger::new().key.public_jwk().to_json());
    let set = json!({"keys": [ec, rsa(1024, &[1, 0, 1]), rsa(1024, &[1, 0, 1]), {"kty": "oct"}, "x", with(&ec, "use", json!("enc"))]});
    let set = Jwks::parse(&set.to_string()).unwrap();
    assert_eq!(set.len(), 1);
    let dropped: Vec<_> = set.dropped().iter().map(|(why, count)| (why.label(), *count)).collect();
    assert_eq!(dropped, [("malformed", 1), ("symmetric", 1), ("not_for_signatures", 1), ("rsa_size", 2)]);
}

#[test]
fn a_document_that_is_no_key_set_is_refused_whole() {
    assert!(matches!(Jwks::parse("{}"), Err(JwksError::NoKeysMember)));
    assert!(matches!(Jwks::parse(r#"{"keys":{}}"#), Err(JwksError::NoKeysMember)));
    assert!(matches!(Jwks::parse("[]"), Err(JwksError::Json(_))));
    assert!(matches!(Jwks::parse("<html>"), Err(JwksError::Json(_))));
    assert!(matches!(Jwks::parse(r#"{"keys":[],"keys":[]}"#), Err(JwksError::Json(_))));
    assert!(matches!(Jwks::parse(r#"{"keys":[{"kty":"EC","kty":"oct"}]}"#), Err(JwksError::Json(_))));
    let many = json!({"keys": vec![json!({}); 65]}).to_string();
    assert!(matches!(Jwks::parse(&many), Err(JwksError::TooManyKeys { got: 65 })));
    assert!(Jwks::parse(&json!({"keys": vec![json!({}); 64]}).to_string()).is_ok());
    let large = format!("{{\"keys\":[]{}}}", " ".repeat(256 * 1024));
    assert!(matches!(Jwks::parse(&large), Err(JwksError::TooLarge { .. })));
}

#[test]
fn without_a_kid_the_key_must_be_the_only_one_of_its_algorithm() {
    let (one, two) = (Forger::new(), Forger::new());
    let named = |forger: &Forger, kid: &str| {
        let mut jwk = forger.key.public_jwk().to_json();
        jwk.insert("kid".into(), kid.into());
        Value::Object(jwk)
    };
    let rsa = rsa(2048, &[1, 0, 1]);
    let set = |keys: Vec<Value>| Jwks::parse(&json!({ "keys": keys }).to_string()).unwrap();

    let single = set(vec![named(&one, "a"), rsa]);
    assert!(single.find(None, Algorithm::Es256).is_ok());
    // An RSA key that names no algorithm serves both of its own.
    assert!(single.find(None, Algorithm::Rs256).is_ok() && single.find(None, Algorithm::Ps256).is_ok());
    assert_eq!(single.find(None, Algorithm::EdDsa), Err(KeyLookup::Unknown));
    assert_eq!(single.find(Some("b"), Algorithm::Es256), Err(KeyLookup::Unknown));
    assert_eq!(single.find(Some("a"), Algorithm::Rs256), Err(KeyLookup::Unknown));

    let double = set(vec![named(&one, "a"), named(&two, "b")]);
    assert_eq!(double.find(None, Algorithm::Es256), Err(KeyLookup::Ambiguous));
    assert!(double.find(Some("b"), Algorithm::Es256).is_ok());
    let same = set(vec![named(&one, "a"), named(&two, "a")]);
    assert_eq!(same.find(Some("a"), Algorithm::Es256), Err(KeyLookup::Ambiguous));
}

#[test]
fn an_rsa_key_that_names_its_algorithm_serves_no_other() {
    let set = json!({"keys": [with(&rsa(2048, &[1, 0, 1]), "alg", json!("PS256"))]});
    let set = Jwks::parse(&set.to_string()).unwrap();
    assert!(set.find(None, Algorithm::Ps256).is_ok());
    assert_eq!(set.find(None, Algorithm::Rs256), Err(KeyLookup::Unknown));
}

#[test]
fn a_sealed_key_comes_back_as_itself_and_its_private_half_does_not_print() {
    let (key, secret) = SigningKey::generate_sealed().unwrap();
    let again = SigningKey::from_pkcs8(secret.expose()).unwrap();
    assert_eq!(again.public_jwk(), key.public_jwk());
    assert_eq!(key.public_jwk().kid(), Some(key.thumbprint()));
    assert_eq!(format!("{secret:?}"), "Secret(..)");
    assert_eq!(format!("{key:?}"), format!("SigningKey({})", key.thumbprint()));
    assert!(SigningKey::from_pkcs8(b"junk").is_err());
    assert_eq!(Jwk::parse(&key.public_jwk().to_string()).as_ref(), Ok(key.public_jwk()));
    assert!(!object(Value::Object(key.public_jwk().to_json())).contains_key("d"));
}

#[test]
fn a_thumbprint_is_the_one_of_rfc_7638() {
    // RFC 7638 §3.1 and RFC 8037 appendix A.3.
    let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "x"});
    assert_eq!(
        Jwk::parse(&ed.to_string()).unwrap().thumbprint(),
        "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    );
    let rsa = json!({"kty": "RSA", "alg": "RS256", "kid": "2011-04-29", "e": "AQAB", "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"});
    assert_eq!(
        Jwk::parse(&rsa.to_string()).unwrap().thumbprint(),
        "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    );
}
