//! The ways in which other verifiers were fooled, one test per class.

use ring::hmac;
use serde_json::{Value, json};
use signet_token::{IssuerKeys, IssuerSettings, Issuers, Jwks, TokenError};

use crate::support::{Forger, ISSUER, NOW, b64, claims, claims_with, issuers, settings};

fn refused(issuers: &Issuers, token: &str) -> &'static str {
    match issuers.verify(token, NOW) {
        Ok(token) => panic!("accepted as {}", token.principal()),
        Err(error) => error.label(),
    }
}

#[test]
fn no_spelling_of_none_is_an_algorithm() {
    let forger = Forger::new();
    let issuers = issuers(&forger, IssuerSettings { algorithms: Vec::new(), ..settings() });
    let signature = forger.token(&claims()).rsplit('.').next().unwrap().to_owned();
    for name in ["none", "None", "NONE", "nOnE", " none", "none ", "", "null", "NoNe\0"] {
        for signature in ["", signature.as_str()] {
            for kid in [json!({}), json!({"kid": forger.kid()})] {
                let mut header = kid;
                header["typ"] = "at+jwt".into();
                header["alg"] = name.into();
                let token = format!("{}.{}.{signature}", b64(header.to_string()), b64(claims().to_string()));
                assert_eq!(refused(&issuers, &token), "unknown_algorithm", "{name:?}");
            }
        }
    }
    for alg in [json!(null), json!(["ES256"]), json!({}), json!(0), json!(true)] {
        let token = forger.with_header(&json!({ "alg": alg }), &claims());
        assert_eq!(refused(&issuers, &token), "bad_header");
    }
    let unnamed = forger.raw(r#"{"typ":"at+jwt"}"#, &claims().to_string());
    assert_eq!(refused(&issuers, &unnamed), "bad_header");
}

#[test]
fn a_public_key_is_never_a_shared_secret() {
    let forger = Forger::new();
    let issuers = issuers(&forger, IssuerSettings { algorithms: Vec::new(), ..settings() });
    for (kind, secret) in spellings_of_the_public_key(&forger) {
        for (name, algorithm) in
            [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)]
        {
            let header = json!({"typ": "at+jwt", "alg": name, "kid": forger.kid()});
            let input = format!("{}.{}", b64(header.to_string()), b64(claims().to_string()));
            let tag = hmac::sign(&hmac::Key::new(algorithm, &secret), input.as_bytes());
            let token = format!("{input}.{}", b64(tag));
            assert_eq!(refused(&issuers, &token), "unknown_algorithm", "{name} with {kind}");
        }
    }
}

/// The DER, PEM and JWK texts of a P-256 key, as an attacker who knows it would try them.
fn spellings_of_the_public_key(forger: &Forger) -> Vec<(&'static str, Vec<u8>)> {
    use base64::Engine as _;
    let jwk = forger.key.public_jwk().to_json();
    let half = |name: &str| {
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap()
    };
    let point = [vec![4], half("x"), half("y")].concat();
    // SubjectPublicKeyInfo of id-ecPublicKey with prime256v1 (RFC 5480).
    let head = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    let der = [&head[..], &point].concat();
    let body = base64::engine::general_purpose::STANDARD.encode(&der);
    let (first, second) = body.split_at(64);
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{first}\n{second}\n-----END PUBLIC KEY-----");
    let text = Value::Object(jwk.clone()).to_string();
    vec![
        ("DER", der),
        ("PEM", pem.clone().into_bytes()),
        ("PEM with a line end", format!("{pem}\n").into_bytes()),
        ("JWK", text.into_bytes()),
        ("point", point),
        ("x", half("x")),
        ("nothing", Vec::new()),
    ]
}

#[test]
fn a_key_is_used_with_its_own_algorithm_only() {
    let forger = Forger::new();
    let issuers = issuers(&forger, IssuerSettings { algorithms: Vec::new(), ..settings() });
    for alg in ["ES384", "RS256", "PS256", "EdDSA"] {
        let token = forger.with_header(&json!({ "alg": alg }), &claims());
        assert_eq!(refused(&issuers, &token), "unknown_key", "{alg}");
    }
}

#[test]
fn an_algorithm_that_the_issuer_was_not_given_is_refused_before_any_key_is_tried() {
    let forger = Forger::new();
    let issuers = issuers(&forger, IssuerSettings { algorithms: vec!["RS256".into()], ..settings() });
    assert_eq!(refused(&issuers, &forger.token(&claims())), "algorithm_not_allowed");
}

#[test]
fn a_critical_extension_is_refused_even_when_signed() {
    let forger = Forger::new();
    let issuers = issuers(&forger, settings());
    for crit in
        [json!(["exp"]), json!(["b64"]), json!([]), json!(null), json!("b64"), json!({}), json!(["alg"])]
    {
        let token = forger.with_header(&json!({"crit": crit, "b64": false}), &claims());
        assert_eq!(refused(&issuers, &token), "critical_extension", "{crit}");
    }
}

#[test]
fn a_key_that_the_token_brings_is_ignored() {
    let (honest, thief) = (Forger::new(), Forger::new());
    let issuers = issuers(&honest, settings());
    let own_key = Value::Object(thief.key.public_jwk().to_json());
    for header in [
        json!({"jwk": own_key}),
        json!({"jwk": own_key, "kid": thief.kid()}),
        json!({"jku": "http://127.0.0.1:1/keys", "kid": honest.kid()}),
        json!({"x5u": "http://127.0.0.1:1/cert", "kid": honest.kid()}),
        json!({"x5c": ["MIIB"], "kid": honest.kid()}),
    ] {
        let label = refused(&issuers, &thief.with_header(&header, &claims()));
        assert!(matches!(label, "bad_signature" | "unknown_key"), "{header}: {label}");
        // And they do not spoil a token that verifies without them.
        let mut header = header;
        header["kid"] = honest.kid().into();
        assert!(issuers.verify(&honest.with_header(&header, &claims()), NOW).is_ok());
    }
}

#[test]
fn a_kid_is_a_name_and_nothing_else() {
    let forger = Forger::new();
    let issuers = issuers(&forger, settings());
    for kid in ["../../dev/null", "/dev/null", "' OR 1=1 --", "", "\0", "http://127.0.0.1:1/"] {
        let token = forger.with_header(&json!({ "kid": kid }), &claims());
        assert_eq!(refused(&issuers, &token), "unknown_key", "{kid:?}");
    }
    for kid in [json!(null), json!(["k"]), json!(7)] {
        assert_eq!(refused(&issuers, &forger.with_header(&json!({ "kid": kid }), &claims())), "bad_header");
    }
    let long = forger.with_header(&json!({"kid": "k".repeat(1 << 20)}), &claims());
    assert_eq!(refused(&issuers, &long), "too_large");
}

#[test]
fn a_member_named_twice_is_refused_wherever_it_stands() {
    let forger = Forger::new();
    let issuers = issuers(&forger, settings());
    let header = format!(r#"{{"typ":"at+jwt","alg":"ES256","kid":"{}"}}"#, forger.kid());
    let twice = |text: &str, member: &str| text.replacen('{', &format!("{{{member},"), 1);
    for member in [r#""alg":"none""#, r#""alg":"ES256""#, r#""kid":"x""#, r#""\u0061lg":"none""#] {
        let token = forger.raw(&twice(&header, member), &claims().to_string());
        assert_eq!(refused(&issuers, &token), "duplicate_member", "{member}");
    }
    for member in [r#""sub":"admin""#, r#""exp":1"#, r#""groups":["admin"]"#, r#""x":{"a":1,"a":2}"#] {
        let token = forger.raw(&header, &twice(&claims().to_string(), member));
        assert_eq!(refused(&issuers, &token), "duplicate_member", "{member}");
    }
}

#[test]
fn nothing_may_stand_around_or_inside_a_token() {
    let forger = Forger::new();
    let issuers = issuers(&forger, settings());
    let good = forger.token(&claims());
    let (head, signature) = good.rsplit_once('.').unwrap();
    let last_bits = {
        // 64 bytes end in a symbol of which four bits are unused.
        let (body, last) = signature.split_at(signature.len() - 1);
        let next = (last.as_bytes()[0] + 1) as char;
        format!("{head}.{body}{next}")
    };
    let mut bad =
        vec![last_bits, format!("{head}."), head.to_owned(), format!("{good}."), format!(".{good}")];
    for junk in [" ", ",", "\t", "\n", "\0", "=", "==", ".x", ".", "+", "/", "a", ", Bearer x", " x", ";q=1"]
    {
        bad.push(format!("{good}{junk}"));
        bad.push(format!("{junk}{good}"));
        bad.push(good.replacen('.', &format!("{junk}."), 1));
    }
    for token in bad {
        let label = refused(&issuers, &token);
        assert!(
            matches!(label, "malformed" | "bad_base64" | "bad_signature" | "bad_json"),
            "{label} for {token:?}"
        );
    }
    assert!(issuers.verify(&good, NOW).is_ok());
}

#[test]
fn a_standard_base64_signature_is_not_base64url() {
    let forger = Forger::new();
    let issuers = issuers(&forger, settings());
    // Find a signature in which the two alphabets differ.
    let token = std::iter::repeat_with(|| forger.token(&claims()))
        .find(|token| token.rsplit('.').next().unwrap().contains(['-', '_']))
        .unwrap();
    let (head, signature) = token.rsplit_once('.').unwrap();
    let other = format!("{head}.{}", signature.replace('-', "+").replace('_', "/"));
    assert_eq!(refused(&issuers, &other), "bad_base64");
}

#[test]
fn two_issuers_with_one_kid_and_one_sub_never_meet() {
    let keys = [Forger::new(), Forger::new()];
    let names = ["https://a.example", "https://b.example"];
    let issuers = Issuers::new(std::iter::zip(&keys, names).map(|(forger, name)| {
        let mut jwk = forger.key.public_jwk().to_json();
        jwk.insert("kid".into(), "same".into());
        let set = Jwks::parse(&json!({"keys": [jwk]}).to_string()).unwrap();
        let alias = name.replace("https://", "").replace(".example", "");
        let settings = IssuerSettings { alias, issuer: name.into(), ..settings() };
        IssuerKeys::new(settings).unwrap().with_keys(set.into(), NOW)
    }));
    let mut principals = Vec::new();
    for (signer, forger) in keys.iter().enumerate() {
        for (claimed, name) in names.iter().enumerate() {
            let token =
                forger.with_header(&json!({"kid": "same"}), &claims_with("iss", Some((*name).into())));
            match issuers.verify(&token, NOW) {
                Ok(token) if signer == claimed => principals.push(token.principal()),
                Err(error) if signer != claimed => assert_eq!(error.label(), "bad_signature"),
                other => panic!("signed by {signer}, claims {claimed}: {other:?}"),
            }
        }
    }
    assert_eq!(principals, ["a|248289761001", "b|248289761001"]);
}

#[test]
fn size_and_depth_are_bounded_before_anything_is_read() {
    let forger = Forger::new();
    let issuers = issuers(&forger, settings());
    let header = format!(r#"{{"typ":"at+jwt","alg":"ES256","kid":"{}"}}"#, forger.kid());
    assert_eq!(refused(&issuers, &"a".repeat(1 << 20)), "too_large");
    assert_eq!(refused(&issuers, &".".repeat(1_000_000)), "too_large");
    assert_eq!(refused(&issuers, &".".repeat(8000)), "malformed");
    let deep = format!(r#"{{"x":{}1{}}}"#, "[".repeat(2500), "]".repeat(2500));
    assert_eq!(refused(&issuers, &forger.raw(&header, &deep)), "too_deep");
    assert_eq!(refused(&issuers, &forger.raw(&deep, &claims().to_string())), "too_deep");
    // The limit itself.
    let padded = |n: usize| forger.token(&claims_with("pad", Some("x".repeat(n).into())));
    let room = (8192 - padded(0).len()) / 4 * 3;
    assert!(issuers.verify(&padded(room - 3), NOW).is_ok());
    assert_eq!(refused(&issuers, &padded(room + 6)), "too_large");
}

#[test]
fn with_no_keys_no_key_at_all_is_believed() {
    // There is no fallback: not a key of ours, not the token's own, not an empty one.
    let issuers = Issuers::new([IssuerKeys::new(settings()).unwrap()]);
    let forger = Forger::new();
    let own = json!({"jwk": forger.key.public_jwk().to_json()});
    for token in [forger.token(&claims()), forger.with_header(&own, &claims())] {
        assert!(matches!(issuers.verify(&token, NOW), Err(TokenError::KeysUnavailable { .. })));
    }
}

#[test]
fn a_refusal_never_repeats_the_token() {
    let forger = Forger::new();
    let issuers = issuers(&forger, settings());
    let hostile = "evil\r\n\u{1b}[31mforged log line";
    let tokens = [
        forger.token(&claims_with("sub", Some(hostile.into()))),
        forger.token(&claims_with("iss", Some(format!("{ISSUER}{hostile}").into()))),
        forger.with_header(&json!({ "kid": hostile }), &claims()),
        forger.with_header(&json!({ "alg": hostile }), &claims()),
        forger.with_header(&json!({ "typ": hostile }), &claims()),
    ];
    for token in tokens {
        let text = issuers.verify(&token, NOW).unwrap_err().to_string();
        assert!(!text.contains(['\r', '\n', '\u{1b}']) && !text.contains("eyJ"), "{text:?}");
    }
}
