//! The one TCP port for machines: metrics, liveness, readiness, and nothing else.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Method, StatusCode, header};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;

use crate::{
    Shutdown,
    http::{Answer, Limits, Whole, answer, bare, serve},
};

/// Anybody who reaches the address may ask, so little is given: a few places, each for a short time.
const LIMITS: Limits =
    Limits { connections: 64, head: Duration::from_secs(3), exchange: Duration::from_secs(10), body: 1024 };

const TEXT: &str = "text/plain; charset=utf-8";
/// The Prometheus text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

type Ready = dyn Fn() -> Result<(), String> + Send + Sync;

/// Serves `/metrics`, `/live` and `/ready`, to GET and HEAD.
pub struct MetricsServer {
    listener: TcpListener,
    registry: Registry,
    ready: Arc<Ready>,
}

impl MetricsServer {
    /// Binds the address. `ready` says whether the process is, or why not; it is asked at every probe, so it
    /// must be quick, and its words are public.
    pub async fn bind(
        address: SocketAddr,
        registry: Registry,
        ready: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Ok(Self { listener: crate::listen(address)?, registry, ready: Arc::new(ready) })
    }

    /// The address that was bound, for port 0.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the process stops; while it drains it is alive and not ready.
    pub async fn run(self, shutdown: Shutdown) {
        let Self { listener, registry, ready } = self;
        let token = shutdown.clone();
        let handle = move |request: Whole| {
            let answer = respond(&request, &registry, &*ready, &token);
            async move { answer }
        };
        serve(listener, LIMITS, shutdown, handle).await;
    }
}

fn respond(request: &Whole, registry: &Registry, ready: &Ready, shutdown: &Shutdown) -> Answer {
    let path = request.uri().path();
    if !matches!(path, "/metrics" | "/live" | "/ready") {
        return bare(StatusCode::NOT_FOUND);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = bare(StatusCode::METHOD_NOT_ALLOWED);
        refusal.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match path {
        "/live" => answer(StatusCode::OK, TEXT, "live\n"),
        "/ready" if shutdown.is_draining() => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n"),
        "/ready" => match ready() {
            Ok(()) => answer(StatusCode::OK, TEXT, "ready\n"),
            Err(reason) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
        },
        _ => {
            let mut text = Vec::new();
            match TextEncoder::new().encode(&registry.gather(), &mut text) {
                Ok(()) => answer(StatusCode::OK, PROMETHEUS, text),
                Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
            }
        }
    }
}
