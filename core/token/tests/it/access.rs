use serde_json::{Value, json};
use signet_token::{IssuerConfigError, IssuerKeys, IssuerSettings, Issuers, TokenError};

use crate::support::{Forger, ISSUER, NOW, claims, claims_with, issuers, object, settings};

fn label(result: Result<signet_token::AccessToken, TokenError>) -> &'static str {
    match result {
        Ok(_) => "accepted",
        Err(error) => error.label(),
    }
}

#[test]
fn a_good_token_yields_its_subject_scopes_and_allowed_claims() {
    let forger = Forger::new();
    let token = issuers(&forger, settings()).verify(&forger.token(&claims()), NOW).unwrap();
    assert_eq!(token.principal(), "idp|248289761001");
    assert_eq!(token.scopes, ["orders:read", "orders:write"]);
    assert_eq!(token.client_id.as_deref(), Some("web"));
    assert_eq!(token.revocable.token.as_deref(), Some("t-1"));
    assert_eq!((&*token.revocable.user, token.revocable.issued_at), ("idp|248289761001", NOW - 10));
    assert_eq!((token.expires_at, token.issued_at), (NOW + 300, Some(NOW - 10)));
    assert_eq!(Value::Object(token.claims), json!({"email": "alice@example.com", "groups": ["staff"]}));
}

#[test]
fn times_are_judged_to_the_second_with_the_skew_on_both_sides() {
    let forger = Forger::new();
    let issuers = issuers(&forger, settings());
    let at =
        |name, time: u64| label(issuers.verify(&forger.token(&claims_with(name, Some(time.into()))), NOW));
    assert_eq!(at("exp", NOW - 29), "accepted");
    assert_eq!(at("exp", NOW - 30), "expired");
    assert_eq!(at("iat", NOW + 30), "accepted");
    assert_eq!(at("iat", NOW + 31), "issued_in_future");
    assert_eq!(at("nbf", NOW + 30), "accepted");
    assert_eq!(at("nbf", NOW + 31), "not_yet_valid");
    assert_eq!(at("exp", NOW - 10 + 3600), "accepted");
    assert_eq!(at("exp", NOW - 10 + 3601), "too_long_lived");
    assert_eq!(at("exp", u64::MAX), "too_long_lived");
}

#[test]
fn a_token_without_iat_is_measured_from_now() {
    let forger = Forger::new();
    let issuers = issuers(&forger, settings());
    let mut short = object(claims_with("iat", None));
    assert_eq!(label(issuers.verify(&forger.token(&Value::Object(short.clone())), NOW)), "accepted");
    short.insert("exp".into(), (NOW + 3601).into());
    assert_eq!(label(issuers.verify(&forger.token(&Value::Object(short)), NOW)), "too_long_lived");
}

#[test]
fn the_required_claims_are_required() {
    let forger = Forger::new();
    let issuers = issuers(&forger, settings());
    for name in ["iss", "sub", "aud", "exp"] {
        let token = forger.token(&claims_with(name, None));
        assert_eq!(label(issuers.verify(&token, NOW)), "missing_claim", "{name}");
    }
}

#[test]
fn a_claim_of_the_wrong_type_is_an_error_and_never_absent() {
    let forger = Forger::new();
    let issuers = issuers(&forger, settings());
    let wrong =
        [json!(null), json!([]), json!({}), json!(true), json!(1.5), json!(-1), json!([1]), json!("")];
    let dates = ["exp", "iat", "nbf", "auth_time"];
    let texts = ["iss", "sub", "jti", "client_id", "sid", "acr"];
    for name in dates {
        for value in wrong.iter().chain([&json!("1800000300"), &json!(1_800_000_300.0)]) {
            let token = forger.token(&claims_with(name, Some(value.clone())));
            assert_eq!(label(issuers.verify(&token, NOW)), "claim_type", "{name}: {value}");
        }
    }
    for name in texts {
        for value in
            wrong.iter().chain([&json!(7), &json!([ISSUER]), &json!("a\nb"), &json!("x".repeat(2000))])
        {
            let token = forger.token(&claims_with(name, Some(value.clone())));
            assert_eq!(label(issuers.verify(&token, NOW)), "claim_type", "{name}: {value}");
        }
    }
    for value in wrong.iter().chain([&json!(7), &json!(["shop", 7]), &json!(["shop", null])]) {
        let token = forger.token(&claims_with("aud", Some(value.clone())));
        assert_eq!(label(issuers.verify(&token, NOW)), "claim_type", "aud: {value}");
    }
    for value in [json!(null), json!({}), json!(7), json!([7]), json!(["two words"]), json!("quote\"d")] {
        let token = forger.token(&claims_with("scope", Some(value.clone())));
        assert_eq!(label(issuers.verify(&token, NOW)), "claim_type", "scope: {value}");
    }
    let huge = claims().to_string().replace(&format!("\"exp\":{}", NOW + 300), "\"exp\":1e400");
    let header = format!(r#"{{"typ":"at+jwt","alg":"ES256","kid":"{}"}}"#, forger.kid());
    assert_eq!(label(issuers.verify(&forger.raw(&header, &huge), NOW)), "bad_json");
}

#[test]
fn any_audience_of_ours_will_do_and_none_will_not() {
    let forger = Forger::new();
    let issuers = issuers(&forger, settings());
    let aud = |value| label(issuers.verify(&forger.token(&claims_with("aud", Some(value))), NOW));
    assert_eq!(aud(json!(["else", "shop-2"])), "accepted");
    for other in [json!("Shop"), json!("shop/"), json!("shop-3"), json!(["sho", "p"])] {
        assert_eq!(aud(other.clone()), "wrong_audience", "{other}");
    }
}

#[test]
fn the_issuer_is_exact() {
    let forger = Forger::new();
    let issuers = issuers(&forger, settings());
    for iss in
        ["https://idp.example/", "https://IDP.example", "http://idp.example", "https://idp.example.evil"]
    {
        let token = forger.token(&claims_with("iss", Some(iss.into())));
        assert_eq!(label(issuers.verify(&token, NOW)), "unknown_issuer", "{iss}");
    }
}

#[test]
fn only_the_configured_types_are_access_tokens() {
    let forger = Forger::new();
    let default = issuers(&forger, settings());
    let typ = |issuers: &Issuers, header| label(issuers.verify(&forger.with_header(&header, &claims()), NOW));
    assert_eq!(typ(&default, json!({"typ": "application/at+jwt"})), "accepted");
    assert_eq!(typ(&default, json!({"typ": "AT+JWT"})), "accepted");
    for other in [
        json!({"typ": "JWT"}),
        json!({"typ": null}),
        json!({"typ": ""}),
        json!({"typ": "txntoken+jwt"}),
        json!({"typ": ["at+jwt"]}),
    ] {
        assert_eq!(typ(&default, other.clone()), "wrong_type", "{other}");
    }
    let old = issuers(&forger, IssuerSettings { token_types: vec!["JWT".into()], ..settings() });
    assert_eq!(typ(&old, json!({"typ": "jwt"})), "accepted");
    assert_eq!(typ(&old, json!({"typ": "at+jwt"})), "wrong_type");
}

#[test]
fn an_id_token_is_no_access_token() {
    let forger = Forger::new();
    let default = issuers(&forger, settings());
    for sign in ["nonce", "at_hash", "c_hash"] {
        let token = forger.token(&claims_with(sign, Some("x".into())));
        assert_eq!(label(default.verify(&token, NOW)), "id_token", "{sign}");
    }
    // Where typ does not tell, an audience that is the client alone does.
    let old = issuers(&forger, IssuerSettings { token_types: vec!["JWT".into()], ..settings() });
    let token = forger.with_header(&json!({"typ": "JWT"}), &claims_with("client_id", Some("shop".into())));
    assert_eq!(label(old.verify(&token, NOW)), "id_token");
}

#[test]
fn a_token_bound_to_a_key_is_no_bearer_token() {
    let forger = Forger::new();
    for cnf in [json!({"jkt": "x"}), json!({"x5t#S256": "x"}), json!(null), json!({})] {
        let token = forger.token(&claims_with("cnf", Some(cnf)));
        assert_eq!(label(issuers(&forger, settings()).verify(&token, NOW)), "unproven_cnf");
    }
}

#[test]
fn scopes_come_from_the_configured_claim_as_a_string_or_an_array() {
    let forger = Forger::new();
    let issuers = issuers(&forger, IssuerSettings { scope_claim: "scp".into(), ..settings() });
    let scopes =
        |value: Value| issuers.verify(&forger.token(&claims_with("scp", Some(value))), NOW).unwrap().scopes;
    assert_eq!(scopes(json!("b a  b")), ["a", "b"]);
    assert_eq!(scopes(json!(["b", "a"])), ["a", "b"]);
    assert_eq!(scopes(json!([])), Vec::<String>::new());
    // The claim that is not configured counts for nothing.
    assert!(issuers.verify(&forger.token(&claims()), NOW).unwrap().scopes.is_empty());
}

#[test]
fn without_keys_or_with_old_ones_the_fault_is_not_the_tokens() {
    let forger = Forger::new();
    let issuer = || IssuerKeys::new(settings()).unwrap();
    let token = forger.token(&claims());
    let judge = |issuer: IssuerKeys| Issuers::new([issuer]).verify(&token, NOW);

    let error = judge(issuer()).unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert_eq!(error.label(), "keys_unavailable");
    assert!(judge(issuer().with_keys(Default::default(), NOW)).unwrap_err().is_unavailable());
    assert!(judge(issuer().with_keys(forger.jwks(), NOW - 24 * 3600)).is_ok());
    let error = judge(issuer().with_keys(forger.jwks(), NOW - 24 * 3600 - 1)).unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert_eq!(error.label(), "keys_stale");
    // An unknown issuer is not "unavailable": retrying would not help.
    let error = Issuers::default().verify(&token, NOW).unwrap_err();
    assert!(!error.is_unavailable());
}

#[test]
fn an_issuer_that_is_not_accepted_here_is_refused_whatever_it_signed() {
    let forger = Forger::new();
    let issuers = issuers(&forger, settings());
    let token = forger.token(&claims());
    assert!(issuers.verify_from(&token, NOW, |alias| alias == "idp").is_ok());
    let error = issuers.verify_from(&token, NOW, |alias| alias == "other").unwrap_err();
    assert_eq!(error.label(), "issuer_not_accepted");
}

#[test]
fn one_iss_under_two_aliases_is_ambiguous_until_one_is_chosen() {
    let forger = Forger::new();
    let issuer = |alias: &str| {
        IssuerKeys::new(IssuerSettings { alias: alias.into(), ..settings() })
            .unwrap()
            .with_keys(forger.jwks(), NOW)
    };
    let issuers = Issuers::new([issuer("a"), issuer("b")]);
    let token = forger.token(&claims());
    assert_eq!(label(issuers.verify(&token, NOW)), "ambiguous_issuer");
    let chosen = issuers.verify_from(&token, NOW, |alias| alias == "b").unwrap();
    assert_eq!(chosen.principal(), "b|248289761001");
}

#[test]
fn an_issuer_that_would_accept_too_much_cannot_be_configured() {
    let refused = |change: fn(&mut IssuerSettings)| {
        let mut settings = settings();
        change(&mut settings);
        IssuerKeys::new(settings).unwrap_err()
    };
    assert!(matches!(refused(|s| s.audiences.clear()), IssuerConfigError::EmptyAudience { .. }));
    assert!(matches!(refused(|s| s.audiences.push(String::new())), IssuerConfigError::EmptyAudience { .. }));
    assert!(matches!(refused(|s| s.issuer.clear()), IssuerConfigError::EmptyIssuer { .. }));
    assert!(matches!(refused(|s| s.alias = "a|b".into()), IssuerConfigError::Alias(_)));
    assert!(matches!(refused(|s| s.alias.clear()), IssuerConfigError::Alias(_)));
    assert!(matches!(refused(|s| s.skew = Some(61)), IssuerConfigError::Skew { .. }));
    assert!(matches!(refused(|s| s.max_lifetime = Some(0)), IssuerConfigError::Lifetime { .. }));
    for name in ["none", "HS256", "es256", "RS512", ""] {
        let mut settings = settings();
        settings.algorithms = vec![name.into()];
        assert!(matches!(IssuerKeys::new(settings), Err(IssuerConfigError::Algorithm { .. })), "{name}");
    }
    for typ in ["txntoken+jwt", "application/TXNTOKEN+jwt", "signet-delegation+jwt", ""] {
        let mut settings = settings();
        settings.token_types = vec![typ.into()];
        assert!(matches!(IssuerKeys::new(settings), Err(IssuerConfigError::TokenType { .. })), "{typ}");
    }
}
