//! The one TCP port for machines: metrics, liveness, readiness, and nothing else.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;

use crate::{
    Shutdown,
    http::{Answer, Dialled, Limits, Whole, answer, bare, serve},
};

/// Anybody who reaches the address may ask, so little is given: a few places, each for a short time.
const LIMITS: Limits = Limits {
    connections: 64,
    // Kubelets and scrapers ask a few at a time.
    from_one: 16,
    head: Duration::from_secs(3),
    exchange: Duration::from_secs(10),
    body: 1024,
};

const TEXT: &str = "text/plain; charset=utf-8";
/// The Prometheus text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How long Prometheus waits for all of it, in seconds.
const PATIENCE: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");

type Ready = dyn Fn() -> Result<(), String> + Send + Sync;

/// What a scraper said of itself.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// Which of our addresses it dialled.
    pub dialled: IpAddr,
    /// Whether it takes OpenMetrics (application/openmetrics-text).
    pub takes_openmetrics: bool,
    /// How long it waits.
    pub patience: Option<Duration>,
}

impl Scrape {
    fn new(dialled: IpAddr, headers: &HeaderMap) -> Self {
        let texts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut kinds = texts.flat_map(|text| text.split(','));
        let takes_openmetrics = kinds.any(|kind| {
            let name = kind.split(';').next().unwrap_or_default();
            name.trim().eq_ignore_ascii_case("application/openmetrics-text")
        });
        let patience = headers.get(PATIENCE).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let patience = patience.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Self { dialled, takes_openmetrics, patience }
    }
}

/// What is said to a scraper.
#[derive(Debug, Clone)]
pub struct Exposition {
    /// Its format, as HTTP names it.
    pub content_type: &'static str,
    /// All metrics.
    pub body: Bytes,
}

impl Exposition {
    /// The registry's metrics in the Prometheus text format.
    ///
    /// # Errors
    /// A metric without a name or a value, which no registry takes.
    pub fn text(registry: &Registry) -> Result<Self, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text)?;
        Ok(Self { content_type: PROMETHEUS, body: text.into() })
    }
}

/// Somebody who answers in the registry's place.
type Source = dyn Fn(Scrape) -> Pin<Box<dyn Future<Output = Exposition> + Send>> + Send + Sync;

/// Serves `/metrics`, `/live` and `/ready`, to GET and HEAD.
pub struct MetricsServer {
    listener: TcpListener,
    asked: Asked,
}

struct Asked {
    registry: Registry,
    source: Option<Box<Source>>,
    ready: Box<Ready>,
}

impl MetricsServer {
    /// Binds the address. `ready` says whether the process is, or why not; it is asked at every probe, so it
    /// must be quick, and its words are public.
    pub async fn bind(
        address: SocketAddr,
        registry: Registry,
        ready: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let asked = Asked { registry, source: None, ready: Box::new(ready) };
        Ok(Self { listener: crate::listen(address)?, asked })
    }

    /// Has somebody else say what is said at `GET /metrics`. An exchange has ten seconds, those in which the answer
    /// is sent included; what takes longer is no answer at all.
    #[must_use]
    pub fn with_source<F>(mut self, source: impl Fn(Scrape) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Exposition> + Send + 'static,
    {
        self.asked.source = Some(Box::new(move |scrape| Box::pin(source(scrape))));
        self
    }

    /// The address that was bound, for port 0.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the process stops; while it drains it is alive and not ready.
    pub async fn run(self, shutdown: Shutdown) {
        let Self { listener, asked } = self;
        let (token, asked) = (shutdown.clone(), Arc::new(asked));
        let handle = move |request: Whole| {
            let (asked, token) = (asked.clone(), token.clone());
            async move { asked.respond(&request, &token).await }
        };
        serve(listener, LIMITS, shutdown, handle).await;
    }
}

impl Asked {
    async fn respond(&self, request: &Whole, shutdown: &Shutdown) -> Answer {
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
            "/ready" => match (self.ready)() {
                Ok(()) => answer(StatusCode::OK, TEXT, "ready\n"),
                Err(reason) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
            },
            _ => self.metrics(request).await,
        }
    }

    async fn metrics(&self, request: &Whole) -> Answer {
        let dialled = request.extensions().get::<Dialled>().map(|dialled| dialled.0);
        let said = match (&self.source, dialled) {
            // Nobody is asked for what HEAD would not give back.
            (Some(source), Some(dialled)) if request.method() == Method::GET => {
                Ok(source(Scrape::new(dialled, request.headers())).await)
            }
            _ => Exposition::text(&self.registry),
        };
        match said {
            Ok(Exposition { content_type, body }) => answer(StatusCode::OK, content_type, body),
            Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        }
    }
}
