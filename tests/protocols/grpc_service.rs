//! The public gRPC interoperability service (`interop.proto`) on tonic.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Payload {
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) body: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EchoStatus {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SimpleRequest {
    #[prost(int32, tag = "2")]
    pub(crate) response_size: i32,
    #[prost(message, optional, tag = "3")]
    pub(crate) payload: Option<Payload>,
    #[prost(message, optional, tag = "7")]
    pub(crate) response_status: Option<EchoStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WithPayload {
    #[prost(message, optional, tag = "1")]
    pub(crate) payload: Option<Payload>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StreamingInputCallResponse {
    #[prost(int32, tag = "1")]
    pub(crate) aggregated_payload_size: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ResponseParameters {
    #[prost(int32, tag = "1")]
    pub(crate) size: i32,
    #[prost(int32, tag = "2")]
    pub(crate) interval_us: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StreamingOutputCallRequest {
    #[prost(message, repeated, tag = "2")]
    pub(crate) response_parameters: Vec<ResponseParameters>,
    #[prost(message, optional, tag = "3")]
    pub(crate) payload: Option<Payload>,
    #[prost(message, optional, tag = "7")]
    pub(crate) response_status: Option<EchoStatus>,
}

/// `SimpleResponse`, `StreamingInputCallRequest` and `StreamingOutputCallResponse` are the same on the wire.
pub(crate) fn payload(size: i32) -> WithPayload {
    WithPayload { payload: Some(body(size)) }
}

pub(crate) fn body(size: i32) -> Payload {
    Payload { body: vec![0; usize::try_from(size).unwrap_or(0)] }
}

/// Serves on a free port, whose address this is.
pub(crate) async fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("an app's port");
    let address = listener.local_addr().expect("its address").to_string();
    let server = tonic::transport::Server::builder().add_service(TestService);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))));
    address
}

#[derive(Clone)]
struct TestService;

impl NamedService for TestService {
    const NAME: &'static str = "grpc.testing.TestService";
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl tower::Service<http::Request<Body>> for TestService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        Box::pin(async move {
            let asked = request.headers().clone();
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            Ok(echo(&asked, answer(&method, request).await))
        })
    }
}

async fn answer(method: &str, request: http::Request<Body>) -> http::Response<Body> {
    match method {
        "EmptyCall" => {
            let call = |_: Request<Empty>| async { Ok(Response::new(Empty {})) };
            Grpc::new(ProstCodec::default()).unary(service_fn(call), request).await
        }
        "UnaryCall" => {
            let call = |request: Request<SimpleRequest>| async {
                let request = request.into_inner();
                status(request.response_status.as_ref())?;
                Ok(Response::new(payload(request.response_size)))
            };
            Grpc::new(ProstCodec::default()).unary(service_fn(call), request).await
        }
        "StreamingOutputCall" => {
            let call = |request: Request<StreamingOutputCallRequest>| async {
                Ok(Response::new(answers(request.into_inner())))
            };
            Grpc::new(ProstCodec::default()).server_streaming(service_fn(call), request).await
        }
        "StreamingInputCall" => {
            let call = |request: Request<Streaming<WithPayload>>| async {
                let (mut requests, mut sum) = (request.into_inner(), 0);
                while let Some(next) = requests.message().await? {
                    sum += next.payload.map_or(0, |payload| payload.body.len());
                }
                let sum = i32::try_from(sum).unwrap_or(i32::MAX);
                Ok(Response::new(StreamingInputCallResponse { aggregated_payload_size: sum }))
            };
            Grpc::new(ProstCodec::default()).client_streaming(service_fn(call), request).await
        }
        "FullDuplexCall" => {
            let call = |request: Request<Streaming<StreamingOutputCallRequest>>| async {
                let all = request.into_inner().flat_map(|request| match request {
                    Ok(request) => answers(request),
                    Err(status) => stream::once(async { Err(status) }).boxed(),
                });
                Ok(Response::new(all.boxed()))
            };
            Grpc::new(ProstCodec::default()).streaming(service_fn(call), request).await
        }
        _ => Status::unimplemented("").into_http(),
    }
}

fn status(asked: Option<&EchoStatus>) -> Result<(), Status> {
    match asked {
        Some(asked) if asked.code != 0 => Err(Status::new(asked.code.into(), &asked.message)),
        _ => Ok(()),
    }
}

fn answers(
    request: StreamingOutputCallRequest,
) -> Pin<Box<dyn Stream<Item = Result<WithPayload, Status>> + Send>> {
    if let Err(status) = status(request.response_status.as_ref()) {
        return stream::once(async { Err(status) }).boxed();
    }
    let each = stream::iter(request.response_parameters).then(|parameters| async move {
        // The pause that the caller asked for.
        tokio::time::sleep(Duration::from_micros(parameters.interval_us.unsigned_abs().into())).await;
        Ok(payload(parameters.size))
    });
    each.boxed()
}

pub(crate) const INITIAL: &str = "x-grpc-test-echo-initial";
pub(crate) const TRAILING: &str = "x-grpc-test-echo-trailing-bin";

/// What a caller asked to get back, in the head and in the trailers.
fn echo(asked: &HeaderMap, mut response: http::Response<Body>) -> http::Response<Body> {
    if let Some(value) = asked.get(INITIAL) {
        response.headers_mut().insert(INITIAL, value.clone());
    }
    let Some(trailing) = asked.get(TRAILING).cloned() else { return response };
    response.map(|body| {
        Body::new(body.map_frame(move |mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                trailers.insert(TRAILING, trailing.clone());
            }
            frame
        }))
    })
}
