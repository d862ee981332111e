//! What believing a token costs: `cargo run --release -p signet-token --example verify`.
//!
//! Each line is measured over batches, of which the median and the 99th percentile are printed, per token. The bare check
//! is that of one ES256 signature over a text that was taken apart before: no token is believed for less.

#![allow(clippy::print_stdout, reason = "what it measures is what it is for")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value, json};
use signet_token::delegation::{self, Delegation, ScopeCeiling, TokenRoots};
use signet_token::jws::Compact;
use signet_token::txn::{self, Rctx, Remembered, Request, Tctx, Trust};
use signet_token::{IssuerKeys, IssuerSettings, Issuers, Jwks, SigningKey, TokenCache};

type Failure = Box<dyn std::error::Error>;

const NOW: u64 = 1_800_000_000;
const DOMAIN: &str = "demo.signet";

fn main() -> Result<(), Failure> {
    let idp = SigningKey::generate()?;
    let claims = object(json!({
        "iss": "https://idp.example", "sub": "248289761001", "aud": "shop", "exp": NOW + 300, "iat": NOW - 10, "jti": "t-1",
        "client_id": "web", "scope": "orders:read orders:write", "email": "alice@example.com", "groups": ["staff"],
    }));
    let access = idp.sign("at+jwt", Map::new(), &claims)?;
    let settings = IssuerSettings {
        alias: "idp".into(),
        issuer: "https://idp.example".into(),
        audiences: vec!["shop".into()],
        algorithms: vec!["ES256".into()],
        claims: vec!["email".into(), "groups".into()],
        ..IssuerSettings::default()
    };
    let keys = IssuerKeys::new(settings)?.with_keys(Arc::new(Jwks::of([idp.public_jwk().clone()])), NOW - 60);
    let issuers = Issuers::new([keys]);

    let (root, gateway) = (SigningKey::generate()?, SigningKey::generate()?);
    let terms = terms(&gateway);
    let delegation = delegation::issue(&root, &terms)?;
    let (transaction, _) = txn::mint(&gateway, &delegation, &terms, request(), NOW)?;
    let roots = TokenRoots::of([root.public_jwk().clone()]);
    let delegations = TokenCache::new(64);
    let trust = |remembered| Trust {
        trust_domain: DOMAIN,
        issuer: "https://tts.demo.signet",
        roots: &roots,
        revoked: &|_| false,
        remembered,
    };
    let apart = trust(None);
    let together = trust(Some(Remembered { cache: &delegations, generation: 1 }));

    let parsed = Compact::parse(&access, 16 * 1024)?;
    measure("the bare check of an ES256 signature", 50, || parsed.verify(idp.public_jwk()).is_ok());
    measure("a new access token", 50, || issuers.verify(&access, NOW).is_ok());
    measure("a new transaction token, its delegation known", 50, || {
        txn::verify(&transaction, &together, NOW).is_ok()
    });
    measure("a new transaction token, its delegation new", 50, || {
        txn::verify(&transaction, &apart, NOW).is_ok()
    });

    let remembered = TokenCache::new(4096);
    for n in 0..4000 {
        remembered.insert(1, &format!("{access}{n}"), Arc::new(issuers.verify(&access, NOW)?), NOW + 300);
    }
    remembered.insert(1, &access, Arc::new(issuers.verify(&access, NOW)?), NOW + 300);
    measure("the same access token again", 1000, || remembered.get(1, &access, NOW).is_some());
    let minted = TokenCache::new(4096);
    minted.insert(1, &transaction, Arc::new(txn::verify(&transaction, &apart, NOW)?), NOW + 60);
    measure("the same transaction token again", 1000, || minted.get(1, &transaction, NOW).is_some());
    println!("an access token of {} bytes, a transaction token of {}", access.len(), transaction.len());
    Ok(())
}

fn measure(name: &str, batch: u32, mut believed: impl FnMut() -> bool) {
    const BATCHES: usize = 1000;
    assert!(believed(), "{name}");
    let mut batches: Vec<f64> = (0..BATCHES)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..batch {
                black_box(believed());
            }
            start.elapsed().as_secs_f64() * 1e6 / f64::from(batch)
        })
        .collect();
    batches.sort_by(f64::total_cmp);
    println!("{name:<52} {:8.2} µs median {:8.2} µs p99", batches[BATCHES / 2], batches[BATCHES * 99 / 100]);
}

fn terms(gateway: &SigningKey) -> Delegation {
    let set = |text: &str| [text.to_owned()].into();
    Delegation {
        issuer: DOMAIN.into(),
        subject: "spiffe://demo.signet/ns/edge/sa/gw".into(),
        issued_at: NOW - 60,
        expires_at: NOW + 3000,
        id: "d-1".into(),
        key: gateway.public_jwk().clone(),
        scope_ceiling: ScopeCeiling::Any,
        aliases: set("idp"),
        credentials: set("jwt"),
    }
}

fn request() -> Request {
    Request {
        issuer: "https://tts.demo.signet".into(),
        alias: "idp".into(),
        subject: "248289761001".into(),
        scopes: vec!["orders:read".into()],
        ttl: 60,
        tctx: Tctx {
            route: "shop".into(),
            method: "GET".into(),
            claims: object(json!({"email": "alice@example.com", "groups": ["staff"]})),
            ..Tctx::default()
        },
        rctx: Rctx {
            cred: "jwt".into(),
            issuer: Some("https://idp.example".into()),
            client_id: Some("web".into()),
            src_exp: Some(NOW + 300),
            ..Rctx::default()
        },
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
