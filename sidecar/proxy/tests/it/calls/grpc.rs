//! GRPCRoutes, and tries of gRPC calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Response};
use signet_proxy::state::Protocol;

use super::Mesh;
use crate::http2::peers::{answer, app, call, connect, drain, write};

/// Answers with its name, and with these codes in turn, the last one for ever.
async fn named(
    name: &'static str,
    codes: &'static [&'static str],
) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let (app, _) = app(move |request, mut respond| {
        let turn = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let path = request.uri().path().to_owned();
            let (body, _) = drain(request.into_body()).await.unwrap();
            let code = codes[turn.min(codes.len() - 1)];
            let head = Response::builder().header("content-type", "application/grpc").header("x-app", name);
            let head = head.header("x-path", path);
            if code != "0" {
                let head = head.header("grpc-status", code).body(()).unwrap();
                respond.send_response(head, true).unwrap();
                return;
            }
            let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
            stream.send_data(body.into(), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        }
    })
    .await;
    (app, count)
}

async fn ask(mesh: &Mesh, path: &str, body: &'static [u8]) -> crate::http2::peers::Answer {
    let mut client = connect(mesh.out).await;
    let (response, mut stream) = client.send_request(call(path), false).unwrap();
    write(&mut stream, Bytes::from_static(body), true).await.unwrap();
    answer(response).await.unwrap()
}

#[tokio::test]
async fn calls_go_by_service_and_method_and_others_nowhere() {
    let (a, _) = named("a", &["0"]).await;
    let (b, _) = named("b", &["0"]).await;
    let mesh = Mesh::new(Protocol::Grpc, &[("orders", &[a]), ("b", &[b])]);
    mesh.routes(
        r#"[{"matches":[{"method":{"service":"shop.v1.Orders"}}],"backendRefs":[{"name":"orders","port":80}]},
            {"matches":[{"method":{"service":"shop.v1.Orders","method":"List"}},{"method":{"method":"Watch"}}],
             "backendRefs":[{"name":"b","port":80}]}]"#,
    );
    for (path, app) in [
        ("/shop.v1.Orders/Get", Some("a")),
        ("/shop.v1.Orders/List", Some("b")),
        ("/shop.v1.Orders/Watch", Some("a")),
        ("/shop.v1.Stock/Watch", Some("b")),
        ("/shop.v1.Stock/Get", None),
    ] {
        let answer = ask(&mesh, path, b"hi").await;
        assert_eq!(answer.header("x-app"), app, "{path}");
        if app.is_none() {
            assert_eq!(answer.header("grpc-status"), Some("12"), "{path}");
        }
    }
}

#[tokio::test]
async fn codes_are_tried_again_with_the_whole_message() {
    let (app, count) = named("a", &["14", "14", "0"]).await;
    let mesh = Mesh::new(Protocol::Grpc, &[("orders", &[app])]);
    mesh.traffic(r#""retry":{"attempts":2,"grpcCodes":["UNAVAILABLE"],"backoff":"1ms"}"#);
    let answer = ask(&mesh, "/shop.v1.Orders/Get", b"\0\0\0\0\x02hi").await;
    assert_eq!((&answer.body[..], answer.trailer("grpc-status")), (&b"\0\0\0\0\x02hi"[..], Some("0")));
    assert_eq!(count.load(Ordering::SeqCst), 3);
    assert_eq!(mesh.web.counter("signet_upstream_retries_total", &[("reason", "grpc")]), 2);
}

#[tokio::test]
async fn other_codes_are_the_answer() {
    let (app, count) = named("a", &["7"]).await;
    let mesh = Mesh::new(Protocol::Grpc, &[("orders", &[app])]);
    mesh.traffic(r#""retry":{"attempts":2,"grpcCodes":["UNAVAILABLE"],"backoff":"1ms"}"#);
    let answer = ask(&mesh, "/shop.v1.Orders/Get", b"hi").await;
    assert_eq!(answer.header("grpc-status"), Some("7"));
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_endpoint_whose_calls_end_badly_is_left_out_even_if_only_the_trailers_say_so() {
    let (bad, bad_count) = {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let (app, _) = app(move |request, mut respond| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                drain(request.into_body()).await.unwrap();
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data(Bytes::from_static(b"part"), false).unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "13".parse().unwrap());
                stream.send_trailers(trailers).unwrap();
            }
        })
        .await;
        (app, count)
    };
    let (good, _) = named("good", &["0"]).await;
    let mesh = Mesh::new(Protocol::Grpc, &[("orders", &[bad, good])]);
    mesh.traffic(r#""outlierDetection":{"consecutiveFailures":2,"baseEjection":"1h","maxEjection":"2h"}"#);
    for _ in 0..40 {
        ask(&mesh, "/shop.v1.Orders/Get", b"hi").await;
    }
    assert_eq!(bad_count.load(Ordering::SeqCst), 2);
    assert_eq!(mesh.web.counter("signet_endpoint_ejections_total", &[]), 1);
}

#[tokio::test]
async fn faults_answer_calls_in_their_own_form() {
    let (app, count) = named("a", &["0"]).await;
    let mesh = Mesh::new(Protocol::Grpc, &[("orders", &[app])]);
    mesh.traffic(
        r#""faults":[{"to":{"grpc":["shop.v1.Orders/Get"]},"abort":{"percent":100,"status":503,"grpcCode":"ABORTED"}}]"#,
    );
    let answer = ask(&mesh, "/shop.v1.Orders/Get", b"hi").await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("10")));
    assert_eq!(ask(&mesh, "/shop.v1.Orders/List", b"hi").await.trailer("grpc-status"), Some("0"));
    assert_eq!(count.load(Ordering::SeqCst), 1);
}
