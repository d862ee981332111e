//! The service that apps call: it answers with whom its sidecar verified, and counts for whom that was right.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use signet_tests::process::PATIENCE;
use tokio::net::TcpListener;

/// Calls of one kind, by whose user came with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub own: usize,
    pub crossed: usize,
    pub nobody: usize,
}

#[derive(Default)]
struct Inner {
    seen: Mutex<HashMap<String, Seen>>,
    takes: Mutex<Duration>,
}

pub struct Back {
    pub address: String,
    inner: Arc<Inner>,
}

impl Back {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("an app's port");
        let address = listener.local_addr().expect("its address").to_string();
        let inner = Arc::new(Inner::default());
        let shared = inner.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                let service = service_fn(move |request| answer(shared.clone(), request));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, inner }
    }

    /// From now on an answer takes so long.
    pub fn takes(&self, time: Duration) {
        *self.inner.takes.lock().unwrap_or_else(PoisonError::into_inner) = time;
    }

    pub fn seen(&self, kind: &str) -> Seen {
        self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner).get(kind).copied().unwrap_or_default()
    }

    /// Once so many calls of a kind have come.
    pub async fn wait_for(&self, kind: &str, count: usize) -> Seen {
        let come = async {
            loop {
                let seen = self.seen(kind);
                if seen.own + seen.crossed + seen.nobody >= count {
                    return seen;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let come = tokio::time::timeout(PATIENCE, come).await;
        come.unwrap_or_else(|_| panic!("{count} calls of {kind}, got {:?}", self.seen(kind)))
    }
}

/// The path says for whom the app means the call: `/<kind>/<user>`.
async fn answer(inner: Arc<Inner>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let mut parts = path.split('/').skip(1);
    let (kind, user) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let sub = request.headers().get("signet-user").map(|value| sub_of(value.as_bytes()));
    for name in ["baggage", "tracestate"] {
        for line in request.headers().get_all(name) {
            assert!(!String::from_utf8_lossy(line.as_bytes()).contains("signet"), "{name}: {line:?}");
        }
    }
    {
        let mut all = inner.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all.entry(kind.to_owned()).or_default();
        match &sub {
            Some(sub) if sub == user => seen.own += 1,
            Some(_) => seen.crossed += 1,
            None => seen.nobody += 1,
        }
    }
    let takes = *inner.takes.lock().unwrap_or_else(PoisonError::into_inner);
    if !takes.is_zero() {
        tokio::time::sleep(takes).await;
    }
    let sent_at = request.headers().get("x-sent-at").and_then(|value| value.to_str().ok());
    let body = json!({"for": user, "sub": sub, "sentAt": sent_at}).to_string();
    Ok(Response::new(Full::new(body.into())))
}

fn sub_of(header: &[u8]) -> String {
    let raw = URL_SAFE_NO_PAD.decode(header).expect("base64url");
    let claims: Value = serde_json::from_slice(&raw).expect("claims in JSON");
    let sub = claims["sub"].as_str().expect("a sub");
    sub.strip_prefix("idp|").expect("our issuer's").to_owned()
}
