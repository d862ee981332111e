//! The public gRPC interoperability cases, between grpcio and tonic, each as client and as server.

use futures_util::{StreamExt as _, stream};
use http::uri::PathAndQuery;
use prost::Message;
use signet_tests::peers::python;
use signet_tests::process::PATIENCE;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::client::Grpc;
use tonic::metadata::{BinaryMetadataValue, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::grpc_service::{
    EchoStatus, Empty, INITIAL, ResponseParameters, SimpleRequest, StreamingInputCallResponse,
    StreamingOutputCallRequest, TRAILING, WithPayload, body, payload, start,
};
use crate::scene::{Peer, Scene};

#[tokio::test]
async fn grpcio_calls_tonic_through_the_pair() {
    let Some(python) = python() else { return };
    let app = start().await;
    let mut scene = Scene::start("grpc", &app).await;
    let client = Peer::start(&python, "grpc_interop.py", &[]);
    let report = client.finish(format!("{} {}", scene.outbound, scene.gateway)).await;
    assert_eq!(good(&report), 2 * 22, "{report}");
    scene.mesh.assert_unharmed();
}

#[tokio::test]
async fn grpcio_calls_grpcio_through_the_pair() {
    let Some(python) = python() else { return };
    let peer = Peer::start(&python, "grpc_interop.py", &[]);
    let mut scene = Scene::start("grpc", &peer.address()).await;
    let report = peer.finish(format!("{}+gzip {}+gzip", scene.outbound, scene.gateway)).await;
    assert_eq!(good(&report), 2 * 22, "{report}");
    scene.mesh.assert_unharmed();
}

fn good(report: &str) -> usize {
    report.lines().filter(|line| line.starts_with("ok\t")).count()
}

#[tokio::test]
async fn tonic_calls_grpcio_through_the_pair() {
    let Some(python) = python() else { return };
    let peer = Peer::start(&python, "grpc_interop.py", &[]);
    let mut scene = Scene::start("grpc", &peer.address()).await;
    for address in [&scene.outbound, &scene.gateway] {
        every_case(address).await;
    }
    scene.mesh.assert_unharmed();
}

#[tokio::test]
async fn tonic_calls_tonic_through_the_pair() {
    let app = start().await;
    let mut scene = Scene::start("grpc", &app).await;
    for address in [&scene.outbound, &scene.gateway] {
        every_case(address).await;
    }
    scene.mesh.assert_unharmed();
}

struct Client(Grpc<Channel>);

impl Client {
    async fn ready(&mut self) {
        self.0.ready().await.expect("a channel");
    }

    async fn unary<M: Message + 'static, R: Message + Default + 'static>(
        &mut self,
        method: &str,
        request: Request<M>,
    ) -> Result<Response<R>, Status> {
        self.ready().await;
        let call = self.0.unary(request, path(method), ProstCodec::<M, R>::default());
        timeout(PATIENCE, call).await.expect("an answer")
    }

    async fn duplex<S>(&mut self, request: Request<S>) -> Result<Response<Streaming<WithPayload>>, Status>
    where
        S: futures_util::Stream<Item = StreamingOutputCallRequest> + Send + 'static,
    {
        self.ready().await;
        let codec = ProstCodec::<StreamingOutputCallRequest, WithPayload>::default();
        timeout(PATIENCE, self.0.streaming(request, path("TestService/FullDuplexCall"), codec))
            .await
            .expect("an answer")
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/grpc.testing.{method}").parse().expect("a method's path")
}

fn output(sizes: &[i32], interval_us: i32) -> StreamingOutputCallRequest {
    let response_parameters = sizes.iter().map(|size| ResponseParameters { size: *size, interval_us });
    StreamingOutputCallRequest { response_parameters: response_parameters.collect(), ..Default::default() }
}

fn large() -> SimpleRequest {
    SimpleRequest { response_size: 314_159, payload: Some(body(271_828)), response_status: None }
}

fn size(message: &WithPayload) -> i32 {
    message.payload.as_ref().map_or(0, |payload| i32::try_from(payload.body.len()).expect("a size"))
}

async fn sizes(mut answers: Streaming<WithPayload>) -> Result<Vec<i32>, Status> {
    let mut sizes = Vec::new();
    while let Some(answer) = timeout(PATIENCE, answers.message()).await.expect("a message")? {
        sizes.push(size(&answer));
    }
    Ok(sizes)
}

const SIZES: [i32; 4] = [31_415, 9, 2_653, 58_979];
const SENT: [i32; 4] = [27_182, 8, 1_828, 45_904];
const SPECIAL: &str = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";

/// All cases that tonic can play, by their public names.
async fn every_case(address: &str) {
    let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address").connect().await;
    let mut client = Client(Grpc::new(channel.expect("the listener")));
    Box::pin(unary_cases(&mut client)).await;
    Box::pin(streaming_cases(&mut client)).await;
    Box::pin(failing_cases(&mut client)).await;
    Box::pin(abandoned_cases(&mut client)).await;
}

async fn unary_cases(client: &mut Client) {
    // empty_unary
    let answer: Response<Empty> =
        client.unary("TestService/EmptyCall", Request::new(Empty {})).await.expect("empty_unary");
    assert_eq!(answer.into_inner(), Empty {});
    // large_unary, and concurrent_large_unary
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let mut client = Client(client.0.clone());
        all.spawn(async move {
            let answer: Response<WithPayload> =
                client.unary("TestService/UnaryCall", Request::new(large())).await.expect("large_unary");
            assert_eq!(size(answer.get_ref()), 314_159);
        });
    }
    all.join_all().await;
    // custom_metadata
    let trailing = BinaryMetadataValue::from_bytes(b"\xab\xab\xab");
    let initial = MetadataValue::from_static("test_initial_metadata_value");
    let with_metadata = |metadata: &mut tonic::metadata::MetadataMap| {
        metadata.insert(INITIAL, initial.clone());
        metadata.insert_bin(TRAILING, trailing.clone());
    };
    let mut request = Request::new(large());
    with_metadata(request.metadata_mut());
    let answer: Response<WithPayload> =
        client.unary("TestService/UnaryCall", request).await.expect("custom_metadata");
    assert_eq!(answer.metadata().get(INITIAL), Some(&initial));
    assert_eq!(answer.metadata().get_bin(TRAILING), Some(&trailing));
    let mut request = Request::new(stream::iter([output(&[31_415], 0)]));
    with_metadata(request.metadata_mut());
    let answer = client.duplex(request).await.expect("custom_metadata");
    assert_eq!(answer.metadata().get(INITIAL), Some(&initial));
    let mut answers = answer.into_inner();
    assert_eq!(answers.message().await.expect("custom_metadata").as_ref().map(size), Some(31_415));
    let trailers = answers.trailers().await.expect("custom_metadata").expect("trailers");
    assert_eq!(trailers.get_bin(TRAILING), Some(&trailing));
}

async fn streaming_cases(client: &mut Client) {
    // client_streaming
    client.ready().await;
    let codec = ProstCodec::<WithPayload, StreamingInputCallResponse>::default();
    let requests = Request::new(stream::iter(SENT.map(payload)));
    let call = client.0.client_streaming(requests, path("TestService/StreamingInputCall"), codec);
    let answer = timeout(PATIENCE, call).await.expect("an answer").expect("client_streaming");
    assert_eq!(answer.get_ref().aggregated_payload_size, 74_922);
    // server_streaming
    client.ready().await;
    let codec = ProstCodec::<StreamingOutputCallRequest, WithPayload>::default();
    let request = Request::new(output(&SIZES, 0));
    let call = client.0.server_streaming(request, path("TestService/StreamingOutputCall"), codec);
    let answers = timeout(PATIENCE, call).await.expect("an answer").expect("server_streaming");
    assert_eq!(sizes(answers.into_inner()).await.expect("server_streaming"), SIZES);
    // ping_pong: each request waits for the answer to the one before.
    let (turn, requests) = mpsc::unbounded_channel();
    let request =
        |at: usize| StreamingOutputCallRequest { payload: Some(body(SENT[at])), ..output(&[SIZES[at]], 0) };
    turn.send(request(0)).expect("a stream");
    let answers = client.duplex(Request::new(UnboundedReceiverStream::new(requests))).await;
    let mut answers = answers.expect("ping_pong").into_inner();
    for (at, wanted) in SIZES.iter().enumerate() {
        let answer = timeout(PATIENCE, answers.message()).await.expect("a message").expect("ping_pong");
        assert_eq!(answer.as_ref().map(size), Some(*wanted));
        if at + 1 < SIZES.len() {
            turn.send(request(at + 1)).expect("a stream");
        }
    }
    drop(turn);
    assert_eq!(answers.message().await.expect("ping_pong"), None);
    // empty_stream
    let answers = client.duplex(Request::new(stream::empty())).await.expect("empty_stream");
    assert_eq!(sizes(answers.into_inner()).await.expect("empty_stream"), [0; 0]);
}

async fn failing_cases(client: &mut Client) {
    // status_code_and_message, special_status_message, and every code there is
    let codes = (1..=16).map(|code| (code, "test status message")).chain([(2, SPECIAL)]);
    for (code, message) in codes {
        let status = EchoStatus { code, message: message.into() };
        let request = SimpleRequest { response_status: Some(status.clone()), ..Default::default() };
        let answer: Result<Response<WithPayload>, _> =
            client.unary("TestService/UnaryCall", Request::new(request)).await;
        let failed = answer.expect_err("status_code_and_message");
        assert_eq!((failed.code(), failed.message()), (Code::from(code), message));
        let request = StreamingOutputCallRequest { response_status: Some(status), ..Default::default() };
        let failed = match client.duplex(Request::new(stream::iter([request]))).await {
            Ok(answers) => sizes(answers.into_inner()).await.expect_err("status_code_and_message"),
            Err(failed) => failed,
        };
        assert_eq!((failed.code(), failed.message()), (Code::from(code), message));
    }
    // unimplemented_method, unimplemented_service
    for method in ["TestService/UnimplementedCall", "UnimplementedService/UnimplementedCall"] {
        let answer: Result<Response<Empty>, _> = client.unary(method, Request::new(Empty {})).await;
        assert_eq!(answer.expect_err(method).code(), Code::Unimplemented);
    }
}

async fn abandoned_cases(client: &mut Client) {
    // cancel_after_begin: the request never ends, and its caller goes.
    client.ready().await;
    let codec = ProstCodec::<WithPayload, StreamingInputCallResponse>::default();
    let (begun, mut has_begun) = mpsc::unbounded_channel();
    let endless = stream::once(async move {
        let _ = begun.send(());
        payload(1)
    });
    let requests = Request::new(endless.chain(stream::pending()));
    let call = client.0.client_streaming(requests, path("TestService/StreamingInputCall"), codec);
    tokio::select! {
        answer = call => panic!("cancel_after_begin: {answer:?}"),
        _ = has_begun.recv() => {}
    }
    // cancel_after_first_response
    let endless = stream::iter([output(&[31_415], 0)]).chain(stream::pending());
    let answers = client.duplex(Request::new(endless)).await.expect("cancel_after_first_response");
    let mut answers = answers.into_inner();
    let first = timeout(PATIENCE, answers.message()).await.expect("a message");
    assert_eq!(first.expect("cancel_after_first_response").as_ref().map(size), Some(31_415));
    drop(answers);
    // timeout_on_sleeping_server: tonic's own clock says `Cancelled`, everybody else's `DeadlineExceeded`.
    let mut request = Request::new(stream::iter([output(&[31_415], 30_000_000)]));
    request.set_timeout(std::time::Duration::from_millis(1));
    let failed = match client.duplex(request).await {
        Ok(answers) => sizes(answers.into_inner()).await.expect_err("timeout_on_sleeping_server"),
        Err(failed) => failed,
    };
    assert!(matches!(failed.code(), Code::DeadlineExceeded | Code::Cancelled), "{failed}");
    // And the connection is as good as ever.
    let answer: Response<Empty> =
        client.unary("TestService/EmptyCall", Request::new(Empty {})).await.expect("empty_unary");
    assert_eq!(answer.into_inner(), Empty {});
}
