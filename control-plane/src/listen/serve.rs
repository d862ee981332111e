//! One HTTP/2 connection of gRPC, with its bounds and its end.
//!
//! tonic's own server would hide the connection; ours is served here so that it can be cut: when the
//! peer's certificate ends or is revoked, when the process drains, when a bootstrap caller has had its
//! time. Who the caller is goes into every request's extensions and nowhere else.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::service::Routes;
use tower::Service;

/// What one connection may hold.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub max_streams: u32,
    pub max_header_list: u32,
    /// A silent peer is asked after this long, and dropped when it does not answer.
    pub ping_every: Duration,
    pub ping_timeout: Duration,
    /// How long requests may finish once the connection is told to end.
    pub grace: Duration,
}

/// Serves `routes` until the peer is done or `end` resolves; then the peer is told (GOAWAY), open
/// requests get the grace, and the connection is closed.
pub async fn serve<S, C, E>(stream: S, routes: Routes, caller: C, bounds: Bounds, end: E)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: Clone + Send + Sync + 'static,
    E: Future<Output = ()>,
{
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        // A router is always ready.
        let mut routes = routes.clone();
        routes.call(request)
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds.max_streams)
        .max_header_list_size(bounds.max_header_list)
        // Rapid reset: a peer that opens and resets is cut and not served.
        .max_pending_accept_reset_streams(32)
        .max_local_error_reset_streams(64)
        .keep_alive_interval(bounds.ping_every)
        .keep_alive_timeout(bounds.ping_timeout);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut end = pin!(end);
    tokio::select! {
        result = connection.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(target: "signet::listen", %error, "connection ended with an error");
            }
            return;
        }
        () = end.as_mut() => {}
    }
    connection.as_mut().graceful_shutdown();
    if tokio::time::timeout(bounds.grace, connection).await.is_err() {
        tracing::debug!(target: "signet::listen", "connection cut: requests still open after the grace");
    }
}
