//! A service that knows nothing of the mesh: it calls another one for each request. Traced as its users are told to trace
//! one on axum and reqwest: one layer, one middleware, and the two propagators of W3C.

use std::env;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum_tracing_opentelemetry::middleware::{OtelAxumLayer, OtelInResponseLayer};
use opentelemetry::propagation::TextMapCompositePropagator;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use opentelemetry_sdk::trace::SdkTracerProvider;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_tracing::TracingMiddleware;
use serde::Deserialize;
use tracing::Instrument as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Where calls go, over one pool for everybody.
#[derive(Clone)]
struct App {
    client: ClientWithMiddleware,
    out: String,
}

#[derive(Deserialize)]
struct Asked {
    user: String,
    /// Milliseconds.
    #[serde(default)]
    delay: f64,
    /// Seconds.
    #[serde(default)]
    after: f64,
}

impl App {
    async fn call(&self, kind: &str, user: &str) -> reqwest_middleware::Result<(StatusCode, String)> {
        let answer = self.client.get(format!("{}/{kind}/{user}", self.out)).send().await?;
        let status = answer.status();
        Ok((status, answer.text().await?))
    }
}

async fn direct(State(app): State<App>, Query(asked): Query<Asked>) -> impl IntoResponse {
    tokio::time::sleep(Duration::from_secs_f64(asked.delay / 1000.0 * by_chance())).await;
    let (status, body) = app
        .call("direct", &asked.user)
        .await
        .unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, error.to_string()));
    (status, [(header::CONTENT_TYPE, "application/json")], body)
}

/// From nothing to one.
fn by_chance() -> f64 {
    let drawn = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(drawn >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

/// Long after the answer, in the span of the request.
async fn later(State(app): State<App>, Query(asked): Query<Asked>) -> String {
    let answer = asked.user.clone();
    let work = async move {
        tokio::time::sleep(Duration::from_secs_f64(asked.after)).await;
        let _ = app.call("later", &asked.user).await;
    };
    tokio::spawn(work.in_current_span());
    answer
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    opentelemetry::global::set_text_map_propagator(TextMapCompositePropagator::new(vec![
        Box::new(TraceContextPropagator::new()),
        Box::new(BaggagePropagator::new()),
    ]));
    let tracer = SdkTracerProvider::builder().build().tracer("front");
    tracing_subscriber::registry().with(tracing_opentelemetry::layer().with_tracer(tracer)).init();
    let client = ClientBuilder::new(reqwest::Client::new()).with(TracingMiddleware::default()).build();
    let app = App { client, out: env::var("OUT").expect("OUT") };
    let router = Router::new()
        .route("/direct", get(direct))
        .route("/anon/direct", get(direct))
        .route("/later", get(later))
        .layer(OtelInResponseLayer)
        .layer(OtelAxumLayer::default())
        .with_state(app);
    let port: u16 = env::var("PORT").expect("PORT").parse().expect("a port");
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the port");
    axum::serve(listener, router).await.expect("served");
}
