//! A token issuer with two users and no passwords: for trying things out, never for anything else.
//! `POST /token/alice` answers with a signed access token (RFC 9068) as a token endpoint does, `GET /alice`
//! with the bare token for a command line; `/jwks` has the key.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::http::{Place, json as reply, serve, text};

const LIFE_SECONDS: u64 = 3600;

struct Issuer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    url: String,
    audience: String,
}

pub(crate) async fn run(listen: Place, url: String, audience: String) -> anyhow::Result<()> {
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).ok().context("making a key")?;
    let key =
        EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).ok().context("reading the key")?;
    let issuer = Arc::new(Issuer { key, random, url, audience });
    serve(listen, move |request| {
        let issuer = issuer.clone();
        async move {
            match (request.method().as_str(), request.uri().path()) {
                ("GET", "/.well-known/openid-configuration") => reply(
                    200,
                    &json!({"issuer": issuer.url, "jwks_uri": format!("{}/jwks", issuer.url),
                            "token_endpoint": format!("{}/token", issuer.url), "response_types_supported": ["token"]}),
                ),
                ("GET", "/jwks") => reply(200, &issuer.jwks()),
                ("POST", path) => match path.strip_prefix("/token/").and_then(|user| issuer.token(user)) {
                    Some(token) => reply(
                        200,
                        &json!({"access_token": token, "token_type": "Bearer", "expires_in": LIFE_SECONDS}),
                    ),
                    None => reply(404, &json!({"error": "expected POST /token/alice or /token/bob"})),
                },
                ("GET", path) => match issuer.token(path.trim_start_matches('/')) {
                    Some(token) => text(token),
                    None => reply(404, &json!({"error": "expected /alice, /bob, /jwks or POST /token/{user}"})),
                },
                _ => reply(405, &json!({"error": "expected GET or POST"})),
            }
        }
    })
    .await
}

impl Issuer {
    fn jwks(&self) -> Value {
        // An uncompressed point: 4, then x and y of 32 bytes each.
        let point = self.key.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap_or_default().split_at(32);
        json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "demo",
                         "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}]})
    }

    fn token(&self, user: &str) -> Option<String> {
        let (scope, groups) = match user {
            "alice" => ("orders:read orders:write", json!(["staff"])),
            "bob" => ("profile", json!([])),
            _ => return None,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        let header = json!({"typ": "at+jwt", "alg": "ES256", "kid": "demo"});
        let claims = json!({
            "iss": self.url, "aud": self.audience, "sub": user, "client_id": "demo-cli", "iat": now,
            "exp": now + LIFE_SECONDS, "jti": format!("{user}-{now}"), "scope": scope, "groups": groups,
            "email": format!("{user}@shop.example.com"),
        });
        let part = |value: &Value| Some(URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).ok()?));
        let signed = format!("{}.{}", part(&header)?, part(&claims)?);
        let signature = self.key.sign(&self.random, signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }
}
