//! Keys and tokens for tests, including the ones that no honest signer makes.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Map, Value, json};
use signet_token::{IssuerKeys, IssuerSettings, Issuers, Jwks, Secret, SigningKey};

pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const ISSUER: &str = "https://idp.example";

pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An ES256 key that signs whatever text it is given.
pub(crate) struct Forger {
    pub(crate) key: SigningKey,
    secret: Secret,
}

impl Forger {
    pub(crate) fn new() -> Forger {
        let (key, secret) = SigningKey::generate_sealed().unwrap();
        Forger { key, secret }
    }

    pub(crate) fn kid(&self) -> &str {
        self.key.thumbprint()
    }

    /// Signs these two texts as they are.
    pub(crate) fn raw(&self, header: &str, payload: &str) -> String {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, self.secret.expose(), &random)
            .unwrap();
        let input = format!("{}.{}", b64(header), b64(payload));
        let signature = pair.sign(&random, input.as_bytes()).unwrap();
        format!("{input}.{}", b64(signature))
    }

    pub(crate) fn token(&self, claims: &Value) -> String {
        self.with_header(&json!({}), claims)
    }

    /// An at+jwt with these members of the header added or replaced.
    pub(crate) fn with_header(&self, header: &Value, claims: &Value) -> String {
        let mut full = object(json!({ "typ": "at+jwt", "alg": "ES256", "kid": self.kid() }));
        full.extend(object(header.clone()));
        self.raw(&Value::Object(full).to_string(), &claims.to_string())
    }

    pub(crate) fn jwks(&self) -> Arc<Jwks> {
        Arc::new(Jwks::of([self.key.public_jwk().clone()]))
    }
}

pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

pub(crate) fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "248289761001", "aud": "shop", "exp": NOW + 300, "iat": NOW - 10,
        "nbf": NOW - 10, "jti": "t-1", "client_id": "web", "scope": "orders:read orders:write",
        "email": "alice@example.com", "groups": ["staff"], "internal": "not copied",
    })
}

/// The claims with one replaced, or removed when `value` is none.
pub(crate) fn claims_with(name: &str, value: Option<Value>) -> Value {
    let mut map = object(claims());
    match value {
        Some(value) => map.insert(name.to_owned(), value),
        None => map.remove(name),
    };
    Value::Object(map)
}

pub(crate) fn settings() -> IssuerSettings {
    IssuerSettings {
        alias: "idp".into(),
        issuer: ISSUER.into(),
        audiences: vec!["shop".into(), "shop-2".into()],
        algorithms: vec!["ES256".into()],
        claims: vec!["email".into(), "groups".into()],
        max_lifetime: Some(3600),
        ..IssuerSettings::default()
    }
}

pub(crate) fn issuers(forger: &Forger, settings: IssuerSettings) -> Issuers {
    Issuers::new([IssuerKeys::new(settings).unwrap().with_keys(forger.jwks(), NOW - 60)])
}
