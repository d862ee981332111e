//! HTTP/2 and gRPC through the pair of proxies.

mod failures;
mod limits;
pub mod peers;

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use signet_proxy::Limits;
use signet_proxy::state::Protocol;

use crate::support::Pair;
use crate::support::caller::within;
use peers::{answer, answer_ok, app, call, connect, connect_with, drain, send, write};

fn pair(app: std::net::SocketAddr) -> Pair {
    Pair::new(Protocol::Grpc, app, Limits::default())
}

#[tokio::test]
async fn a_unary_call_arrives_with_its_trailers_both_ways() {
    let (app, connections) = app(|request, mut respond| async move {
        let (head, body) = request.into_parts();
        let (body, trailers) = drain(body).await.unwrap();
        let trailers = trailers.unwrap();
        let mut out = Response::builder().header("content-type", "application/grpc");
        for name in ["te", "x-forwarded-client-cert", "txn-token", "x-mine", "signet-user"] {
            if let Some(value) = head.headers.get(name) {
                out = out.header(format!("saw-{name}"), value);
            }
        }
        let out = out
            .header("saw-path", head.uri.path_and_query().unwrap().as_str())
            .header("saw-authority", head.uri.authority().unwrap().as_str())
            .header("saw-trailer", trailers.get("x-checksum").unwrap())
            .header("saw-forged", trailers.contains_key("txn-token").to_string())
            .header("signet-deny-reason", "forged by the app")
            .body(())
            .unwrap();
        let mut stream = respond.send_response(out, false).unwrap();
        stream.send_data(body.into(), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        trailers.insert("signet_user", "forged".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    })
    .await;
    let pair = pair(app);
    let mut client = connect(pair.out).await;
    for _ in 0..3 {
        let mut request = call("/shop.v1.Orders/%4cist?x=%2f");
        request.headers_mut().insert("x-mine", "1".parse().unwrap());
        request.headers_mut().insert("txn-token", "not.received.here".parse().unwrap());
        request.headers_mut().insert("signet-user", "forged".parse().unwrap());
        let (response, mut stream) = client.send_request(request, false).unwrap();
        write(&mut stream, Bytes::from_static(b"\0\0\0\0\x02hi"), false).await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "7".parse().unwrap());
        trailers.insert("txn-token", "forged".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
        let answer = answer(response).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"\0\0\0\0\x02hi"[..]));
        assert_eq!(answer.header("saw-path"), Some("/shop.v1.Orders/List?x=%2f"), "the canonical path");
        assert_eq!(answer.header("saw-authority"), Some("orders.shop"));
        assert_eq!((answer.header("saw-x-mine"), answer.header("saw-te")), (Some("1"), Some("trailers")));
        assert_eq!((answer.header("saw-txn-token"), answer.header("saw-signet-user")), (None, None));
        assert!(
            answer
                .header("saw-x-forwarded-client-cert")
                .unwrap()
                .contains("URI=spiffe://demo.signet/ns/shop/sa/web")
        );
        assert_eq!((answer.header("saw-trailer"), answer.header("saw-forged")), (Some("7"), Some("false")));
        assert_eq!(answer.header("signet-deny-reason"), None, "only the mesh says this");
        assert_eq!((answer.trailer("grpc-status"), answer.trailer("signet_user")), (Some("0"), None));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1, "one connection for all");
}

#[tokio::test]
async fn both_directions_of_a_stream_flow_at_the_same_time() {
    let (app, _) = app(|request, mut respond| async move {
        let mut body = request.into_body();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        while let Some(part) = body.data().await {
            let part = part.unwrap();
            body.flow_control().release_capacity(part.len()).unwrap();
            write(&mut stream, part, false).await.unwrap();
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    })
    .await;
    let pair = pair(app);
    let mut client = connect(pair.out).await;
    let (response, mut up) = client.send_request(call("/s/Chat"), false).unwrap();
    let mut down = within(response).await.unwrap().into_body();
    for turn in 0..50u8 {
        write(&mut up, Bytes::from(vec![turn; 100]), false).await.unwrap();
        let mut heard = 0;
        while heard < 100 {
            let part = within(down.data()).await.unwrap().unwrap();
            assert!(part.iter().all(|byte| *byte == turn));
            heard += part.len();
            down.flow_control().release_capacity(part.len()).unwrap();
        }
    }
    up.send_data(Bytes::new(), true).unwrap();
    assert!(within(down.data()).await.is_none());
    let trailers = within(down.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers.get("grpc-status").unwrap(), "0");
}

#[tokio::test]
async fn a_plain_request_without_a_body_and_its_empty_answer_pass() {
    let (app, _) = app(|request, mut respond| async move {
        assert!(request.body().is_end_stream());
        let head = Response::builder().status(204).header("saw", request.method().as_str()).body(()).unwrap();
        respond.send_response(head, true).unwrap();
    })
    .await;
    let pair = pair(app);
    let mut client = connect(pair.out).await;
    let request = Request::delete("http://orders.shop/a").body(()).unwrap();
    let answer = send(&mut client, request, "").await.unwrap();
    assert_eq!((answer.status, answer.header("saw"), answer.body.len()), (204, Some("DELETE"), 0));
}

#[tokio::test]
async fn an_interim_answer_comes_before_the_answer() {
    let (app, _) = app(|request, mut respond| async move {
        let hints = Response::builder().status(100).body(()).unwrap();
        respond.send_informational(hints).unwrap();
        let (body, _) = drain(request.into_body()).await.unwrap();
        answer_ok(&mut respond, body);
    })
    .await;
    let pair = pair(app);
    let mut client = connect(pair.out).await;
    let mut request = Request::put("http://orders.shop/a").body(()).unwrap();
    request.headers_mut().insert("expect", "100-continue".parse().unwrap());
    let (mut response, mut stream) = client.send_request(request, false).unwrap();
    let interim = within(std::future::poll_fn(|cx| response.poll_informational(cx))).await.unwrap().unwrap();
    assert_eq!(interim.status(), 100);
    write(&mut stream, Bytes::from_static(b"body"), true).await.unwrap();
    assert_eq!(answer(response).await.unwrap().body, b"body");
}

#[tokio::test]
async fn large_bodies_pass_through_small_windows() {
    let mut small = h2::server::Builder::new();
    small.initial_window_size(3000).initial_connection_window_size(70_000);
    let (app, _) = peers::app_with(small, |request, mut respond| async move {
        let mut body = request.into_body();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        while let Some(part) = body.data().await {
            let part = part.unwrap();
            body.flow_control().release_capacity(part.len()).unwrap();
            write(&mut stream, part, false).await.unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
    })
    .await;
    let pair = pair(app);
    let mut small = h2::client::Builder::new();
    small.initial_window_size(2000).initial_connection_window_size(65_535);
    let (mut client, _driver) = connect_with(small, pair.out).await;
    // The app's settings must have come: a server of the `h2` crate that shrinks the window of a stream under way may
    // never open it again, whoever the sender is.
    assert_eq!(send(&mut client, call("/s/Echo"), "warm").await.unwrap().body, b"warm");
    let body: Bytes = (0..3_000_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
    let (response, mut up) = client.send_request(call("/s/Echo"), false).unwrap();
    let sent = body.clone();
    let upload = tokio::spawn(async move { write(&mut up, sent, true).await });
    let answer = answer(response).await.unwrap();
    within(upload).await.unwrap().unwrap();
    assert!(answer.body == body, "{} of {} bytes, or others", answer.body.len(), body.len());
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_nobody_else() {
    let (app, _) = app(|request, mut respond| async move {
        let endless = request.uri().path() == "/endless";
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        loop {
            if write(&mut stream, Bytes::from(vec![1; 16 * 1024]), !endless).await.is_err() || !endless {
                return;
            }
        }
    })
    .await;
    let pair = pair(app);
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(16 << 20);
    let (mut client, _driver) = connect_with(builder, pair.out).await;
    let mut unread = Vec::new();
    for _ in 0..20 {
        let request = Request::get("http://orders.shop/endless").body(()).unwrap();
        unread.push(within(client.send_request(request, true).unwrap().0).await.unwrap());
    }
    for _ in 0..20 {
        let request = Request::get("http://orders.shop/short").body(()).unwrap();
        assert_eq!(send(&mut client, request, "").await.unwrap().body.len(), 16 * 1024);
    }
}
