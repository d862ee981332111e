//! A token issuer inside the test: a key, a JWKS endpoint, and tokens with whatever claims a test wants.

use std::convert::Infallible;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub struct Issuer {
    pub url: String,
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl Issuer {
    pub async fn start() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).expect("the same key");
        let (x, y) = key.public_key().as_ref()[1..].split_at(32);
        let jwks = json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "k1",
                                    "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}]})
        .to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the issuer's port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let jwks = jwks.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |_| {
                        let answer = Response::new(Full::new(Bytes::from(jwks.clone())));
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { url, key, random }
    }

    /// The registry document that makes the mesh accept this issuer under `alias`.
    pub fn document(&self, alias: &str) -> String {
        format!(
            "kind: Issuer\nmetadata: {{name: {alias}}}\nspec: {{issuer: '{url}', jwksUri: '{url}/jwks', audiences: [shop], \
             algorithms: [ES256], tokenTypes: [at+jwt], scopeClaim: scope, claims: [email, groups]}}\n",
            url = self.url
        )
    }

    /// An access token (RFC 9068) for an hour.
    pub fn token(&self, user: &str, scope: &str) -> String {
        self.token_with(user, scope, &json!({}))
    }

    /// The same with claims added or replaced.
    pub fn token_with(&self, user: &str, scope: &str, more: &Value) -> String {
        let now = now();
        let mut claims = json!({"iss": self.url, "aud": "shop", "sub": user, "client_id": "cli", "iat": now,
                                "exp": now + 3600, "jti": format!("{user}-{now}"), "scope": scope});
        if let (Some(claims), Some(more)) = (claims.as_object_mut(), more.as_object()) {
            claims.extend(more.clone());
        }
        self.sign(&json!({"typ": "at+jwt", "alg": "ES256", "kid": "k1"}), &claims)
    }

    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.key.sign(&self.random, signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

/// Seconds since the epoch.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(since.as_secs()).expect("a clock before the end of time")
}
