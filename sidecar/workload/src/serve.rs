//! One connection: HTTP/2 of gRPC, with its bounds and its end.
//!
//! The two services are told apart by path, without a router in between; whatever else is called is answered
//! `UNIMPLEMENTED`. Who the caller is goes into every request's extensions and nowhere else.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use signet_proto::envoy::service::secret::v3::secret_discovery_service_server::{
    self as sds_server, SecretDiscoveryServiceServer,
};
use signet_proto::spiffe::spiffe_workload_api_server::{self as api_server, SpiffeWorkloadApiServer};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::Status;
use tonic::body::Body;
use tower::Service as _;

use crate::api::Api;
use crate::authority::Lenient;
use crate::feed::Connection;
use crate::listen::Bounds;
use crate::sds::Sds;

/// A name, a token, a list of versions: nothing that is sent to us is longer.
const MAX_MESSAGE: usize = 64 * 1024;

/// Both services.
#[derive(Clone)]
pub(crate) struct Services {
    api: SpiffeWorkloadApiServer<Api>,
    sds: SecretDiscoveryServiceServer<Sds>,
}

impl Services {
    pub(crate) fn new(api: Api, sds: Sds) -> Self {
        Self {
            api: SpiffeWorkloadApiServer::new(api).max_decoding_message_size(MAX_MESSAGE),
            sds: SecretDiscoveryServiceServer::new(sds).max_decoding_message_size(MAX_MESSAGE),
        }
    }

    async fn call(&self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        // Both are always ready.
        match service {
            api_server::SERVICE_NAME => self.api.clone().call(request).await,
            sds_server::SERVICE_NAME => self.sds.clone().call(request).await,
            _ => Ok(Status::unimplemented("this socket has the SPIFFE Workload API and Envoy's SDS v3")
                .into_http()),
        }
    }
}

/// Serves until the peer is done, until one of its streams is not read, or until `end` resolves; then the peer is told
/// (GOAWAY), and open calls get the grace.
pub(crate) async fn serve<S, E>(stream: S, services: Services, connection: Connection, bounds: Bounds, end: E)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    E: Future<Output = ()>,
{
    let of_call = connection.clone();
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(of_call.clone());
        let services = services.clone();
        async move { services.call(request).await }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds.streams)
        .max_header_list_size(bounds.header_list)
        .max_send_buf_size(bounds.send_buffer)
        // Rapid reset: a peer that opens and resets is cut and not served.
        .max_pending_accept_reset_streams(32)
        .max_local_error_reset_streams(64)
        .keep_alive_interval(bounds.ping_every)
        .keep_alive_timeout(bounds.ping_timeout);
    let mut served = pin!(builder.serve_connection(TokioIo::new(Lenient::new(stream)), service));
    let mut end = pin!(end);
    tokio::select! {
        result = served.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(target: "signet::workload", %error, "connection ended with an error");
            }
            return;
        }
        () = connection.is_cut() => return,
        () = end.as_mut() => {}
    }
    served.as_mut().graceful_shutdown();
    // Streams never end by themselves: whoever did not hang up by then is hung up on.
    let _ = tokio::time::timeout(bounds.grace, served).await;
}
