//! `signet dev`: what an app would see in a mesh, for whoever writes one without a mesh.
//!
//! The headers of a request as a sidecar sets them, for a user who is made up, and the key set by which an app checks the
//! token. The key is made for this one run and known to no mesh: outside of a test the token is worth nothing.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use clap::{Args, Subcommand};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use signet_identity::{SpiffeId, TrustDomain};
use signet_token::txn::{self, Rctx, Tctx};
use signet_token::{Delegation, Jwks, ScopeCeiling, SigningKey, delegation};
use tokio::net::TcpListener;

use crate::operator::Context;

#[derive(Subcommand)]
pub(crate) enum Dev {
    /// Print the headers of a request that is made for this user, as the app's sidecar would set them.
    User(User),
}

#[derive(Args)]
pub(crate) struct User {
    /// The user as the issuer names it.
    #[arg(long)]
    sub: String,
    /// The alias of the issuer that knows it.
    #[arg(long, default_value = "dev")]
    issuer: String,
    /// A scope; as often as there are some.
    #[arg(long = "scope")]
    scopes: Vec<String>,
    /// Claims, a JSON object.
    #[arg(long, default_value = "{}")]
    claims: String,
    /// How long the token lives, in seconds, from 15 to 300.
    #[arg(long, default_value_t = 300)]
    ttl: u64,
    #[arg(long, default_value = "dev.signet")]
    trust_domain: String,
    /// Who calls the app.
    #[arg(long, default_value = "ns/dev/sa/caller")]
    caller: String,
    /// Who the app is.
    #[arg(long, default_value = "ns/dev/sa/app")]
    app: String,
    /// Serve the key set (`/jwks`) and, at `/headers`, headers with a fresh token, on this loopback address, until
    /// interrupted.
    #[arg(long, value_name = "ADDRESS")]
    serve: Option<SocketAddr>,
}

impl Dev {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let Dev::User(user) = self;
        let serve = user.serve;
        let double = Double::new(user)?;
        print(&double.headers()?, context.json)?;
        match serve {
            None => Ok(()),
            Some(address) if !address.ip().is_loopback() => {
                bail!(
                    "expected a loopback address for --serve, got {address}: who has the key set's port is believed"
                )
            }
            Some(address) => serve_at(address, Arc::new(double)).await,
        }
    }
}

fn print(headers: &[(&'static str, String)], as_json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        let all: Map<_, _> = headers.iter().map(|(name, value)| ((*name).into(), json!(value))).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(());
    }
    for (name, value) in headers {
        writeln!(out, "{name}: {value}")?;
    }
    Ok(())
}

/// A gateway and a sidecar that are made up.
struct Double {
    user: User,
    claims: Map<String, Value>,
    key: SigningKey,
    delegation: String,
    terms: Delegation,
    caller: SpiffeId,
    app: SpiffeId,
}

impl Double {
    fn new(user: User) -> anyhow::Result<Self> {
        let claims = serde_json::from_str(&user.claims).context("--claims: expected a JSON object")?;
        let domain = TrustDomain::parse(&user.trust_domain).context("--trust-domain")?;
        let id = |path: &str| SpiffeId::parse(format!("spiffe://{domain}/{path}"));
        let (root, key) = (SigningKey::generate()?, SigningKey::generate()?);
        let now = now();
        let terms = Delegation {
            issuer: domain.to_string(),
            subject: format!("spiffe://{domain}/ns/dev/sa/gateway"),
            issued_at: now.saturating_sub(10),
            expires_at: now.saturating_add(3500),
            id: "dev".into(),
            key: key.public_jwk().clone(),
            scope_ceiling: ScopeCeiling::Any,
            aliases: BTreeSet::from([user.issuer.clone()]),
            credentials: BTreeSet::from(["jwt".to_owned()]),
        };
        let delegation = delegation::issue(&root, &terms)?;
        let caller = id(&user.caller).context("--caller: expected ns/<namespace>/sa/<account>")?;
        let app = id(&user.app).context("--app: expected ns/<namespace>/sa/<account>")?;
        Ok(Double { caller, app, user, claims, key, delegation, terms })
    }

    /// As a sidecar sets them, with a token from now on.
    fn headers(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let request = txn::Request {
            issuer: txn::default_issuer(&self.user.trust_domain),
            alias: self.user.issuer.clone(),
            subject: self.user.sub.clone(),
            scopes: self.user.scopes.clone(),
            ttl: self.user.ttl,
            tctx: Tctx {
                route: "dev".into(),
                method: "GET".into(),
                claims: self.claims.clone(),
                ..Tctx::default()
            },
            rctx: Rctx { cred: "jwt".into(), ..Rctx::default() },
        };
        let now = now();
        // A delegation is for an hour; the double lives longer.
        let mut terms = self.terms.clone();
        terms.expires_at = terms.expires_at.max(now.saturating_add(3600));
        let (token, claims) = txn::mint(&self.key, &self.delegation, &terms, request, now)?;
        let told = json!({
            "sub": claims.subject,
            "scope": claims.scope,
            "claims": claims.tctx.claims,
            "cred": claims.rctx.cred,
            "txn": claims.txn,
        });
        let digest = ring::digest::digest(&ring::digest::SHA256, self.caller.as_str().as_bytes());
        let hash: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(vec![
            ("Txn-Token", token),
            ("Signet-User", URL_SAFE_NO_PAD.encode(serde_json::to_vec(&told)?)),
            ("X-Forwarded-Client-Cert", format!("By={};Hash={hash};URI={}", self.app, self.caller)),
        ])
    }

    /// The key under which its tokens are signed.
    fn key_set(&self) -> String {
        let keys: Vec<_> =
            Jwks::of([self.key.public_jwk().clone()]).keys().iter().map(signet_token::Jwk::to_json).collect();
        json!({ "keys": keys }).to_string()
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

async fn serve_at(address: SocketAddr, double: Arc<Double>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    let address = listener.local_addr().context("listening")?;
    eprintln!("serving http://{address}/jwks and http://{address}/headers until interrupted");
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("accepting")?;
                let double = double.clone();
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let answer = answer(&double, &request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(Duration::from_secs(30))
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

fn answer(double: &Double, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&http::Method::GET, "/jwks") => (StatusCode::OK, double.key_set()),
        (&http::Method::GET, "/headers") => match double.headers() {
            Ok(headers) => {
                let all: Map<_, _> =
                    headers.into_iter().map(|(name, value)| (name.into(), json!(value))).collect();
                (StatusCode::OK, Value::Object(all).to_string())
            }
            Err(error) => {
                (StatusCode::INTERNAL_SERVER_ERROR, json!({ "error": error.to_string() }).to_string())
            }
        },
        _ => (StatusCode::NOT_FOUND, json!({ "error": "expected GET /jwks or GET /headers" }).to_string()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response.headers_mut().insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}
