//! Tokens: whatever bytes come, they are taken apart without a panic, and nobody believes what no key of theirs has signed.

use std::sync::LazyLock;

use signet_token::delegation::{self, TokenRoots};
use signet_token::dpop::{self, Expected};
use signet_token::jws::Compact;
use signet_token::txn::{self, Trust};
use signet_token::{IssuerKeys, IssuerSettings, Issuers, Jwks, SigningKey};

const NOW: u64 = 1_800_000_000;

/// An issuer, and token roots, whose keys nobody has.
static KEYS: LazyLock<(Issuers, TokenRoots)> = LazyLock::new(|| {
    let (idp, root) = (SigningKey::generate().expect("a key"), SigningKey::generate().expect("a key"));
    let settings = IssuerSettings {
        alias: "idp".into(),
        issuer: "https://idp.example".into(),
        audiences: vec!["shop".into()],
        algorithms: vec!["ES256".into()],
        ..IssuerSettings::default()
    };
    let keys = IssuerKeys::new(settings).expect("settings");
    let keys = keys.with_keys(std::sync::Arc::new(Jwks::of([idp.public_jwk().clone()])), NOW - 60);
    (Issuers::new([keys]), TokenRoots::of([root.public_jwk().clone()]))
});

/// Good for `/a` and nothing else.
static PROOF: LazyLock<String> = LazyLock::new(|| {
    let key = SigningKey::generate().expect("a key");
    let object = |value: serde_json::Value| value.as_object().cloned().unwrap_or_default();
    let header = object(serde_json::json!({"jwk": key.public_jwk().to_json()}));
    let claims = serde_json::json!({
        "jti": "1", "htm": "GET", "htu": "https://shop.example/a", "iat": NOW,
        // SHA-256 of `t`
        "ath": "47mKTaMaEn1L3m5DAz9muidMqw636xxw7EFAK_YnPdg",
    });
    key.sign(dpop::TYPE, header, &object(claims)).expect("a proof")
});

pub(crate) fn body(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (issuers, roots) = &*KEYS;
    assert!(issuers.verify(text, NOW).is_err());
    let trust = Trust {
        trust_domain: "demo.signet",
        issuer: "https://tts.demo.signet",
        roots,
        revoked: &|_| false,
        remembered: None,
    };
    assert!(txn::verify(text, &trust, NOW).is_err());
    assert!(delegation::verify(text, roots, "demo.signet", NOW).is_err());
    // As a proof of possession, and as the place that one is for.
    let asked = Expected { method: "GET", scheme: "https", authority: "shop.example", path: "/", token: "t" };
    assert!(dpop::verify(text, &asked, NOW).is_err());
    assert!(dpop::verify(&PROOF, &Expected { path: "/a", ..asked }, NOW).is_ok());
    if text.starts_with('/') && dpop::verify(&PROOF, &Expected { path: text, ..asked }, NOW).is_ok() {
        let path = text.split(['?', '#']).next();
        assert!(matches!(path, Some("/a" | "/%61")), "{text}");
    }
    // Read without being believed: whom a token claims to be of.
    let _ = signet_token::unverified_issuer(text);
    let _ = delegation::peek(text);
    if let Ok(compact) = Compact::parse(text, 16 * 1024) {
        assert_eq!(text.matches('.').count(), 2, "three parts");
        let _ = (compact.kid(), compact.media_type(), compact.typ(), compact.claims());
    }
}
