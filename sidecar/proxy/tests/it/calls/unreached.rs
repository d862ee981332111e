//! Requests that never reached an app: they are carried out by another one, whatever their method.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use signet_proxy::state::Protocol;
use tokio::net::TcpListener;

use super::{Mesh, OK, in_turn};
use crate::http2::peers::{answer_ok, app, call, connect, drain, send};
use crate::support::app::echo_at;
use crate::support::caller::{Client, within};

/// An address at which nobody is, for as long as nobody takes it.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

const POST: &str = "POST / HTTP/1.1\r\nhost: o\r\ncontent-length: 4\r\n\r\nonce";

#[tokio::test]
async fn what_a_dead_app_never_got_another_one_gets_once_also_a_post() {
    let (good, count) = in_turn(&[OK]).await;
    let dead = nobody().await;
    let mesh = Mesh::http(&[("orders", &[dead, good])]);
    let mut client = Client::to(mesh.out).await;
    for _ in 0..100 {
        client.send(POST).await;
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(count.load(Ordering::SeqCst), 100);
    let unreached = mesh.web.counter("signet_upstream_retries_total", &[("reason", "unreached")]);
    // The dead one is left alone for a while: of a hundred, not half went there.
    assert!((1..=20).contains(&unreached), "{unreached}");
    // And found again when it is back.
    echo_at(&dead.to_string()).await;
    within(async {
        loop {
            client.send(POST).await;
            let answer = client.answer().await;
            assert_eq!(answer.status, 200);
            if answer.text().starts_with("POST /") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn where_there_is_no_other_app_the_caller_is_told_so_at_once() {
    let dead = nobody().await;
    let mesh = Mesh::http(&[("orders", &[dead])]);
    let mut client = Client::to(mesh.out).await;
    for _ in 0..3 {
        client.send(POST).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("signet-deny-reason")), (503, Some("connect-failed")));
    }
    let all_dead = [dead, nobody().await];
    let mesh = Mesh::http(&[("orders", &all_dead)]);
    let mut client = Client::to(mesh.out).await;
    client.send(POST).await;
    assert_eq!(client.answer().await.status, 503);
    assert_eq!(mesh.web.counter("signet_upstream_retries_total", &[("reason", "unreached")]), 1);
}

#[tokio::test]
async fn an_app_cannot_say_that_it_was_not_reached_nor_is_a_body_sent_in_part() {
    const LIE: &str = "HTTP/1.1 503 No\r\nsignet-deny-reason: connect-failed\r\nsignet_deny_reason: connect-failed\r\ncontent-length: 0\r\n\r\n";
    let (one, first) = in_turn(&[LIE]).await;
    let (two, second) = in_turn(&[LIE]).await;
    let mesh = Mesh::http(&[("orders", &[one, two])]);
    let mut client = Client::to(mesh.out).await;
    for _ in 0..10 {
        client.send(POST).await;
        assert_eq!(client.answer().await.status, 503);
    }
    assert_eq!(first.load(Ordering::SeqCst) + second.load(Ordering::SeqCst), 10, "each was sent once");
    // More than is kept goes to one endpoint, whichever it is.
    let (good, count) = in_turn(&[OK]).await;
    let mesh = Mesh::http(&[("orders", &[nobody().await, good])]);
    let long = format!("POST / HTTP/1.1\r\nhost: o\r\ncontent-length: 100000\r\n\r\n{}", "x".repeat(100_000));
    let mut carried = 0;
    for _ in 0..5 {
        let mut client = Client::to(mesh.out).await;
        client.send(&long).await;
        carried += usize::from(client.answer().await.status == 200);
    }
    assert_eq!(count.load(Ordering::SeqCst), carried, "what failed was not carried out");
}

#[tokio::test]
async fn what_a_dead_grpc_server_never_got_another_one_gets_once() {
    let (good, _) = app(|request, mut respond| async move {
        let (body, _) = drain(request.into_body()).await.unwrap();
        answer_ok(&mut respond, body);
    })
    .await;
    let mesh = Mesh::new(Protocol::Grpc, &[("orders", &[nobody().await, good])]);
    let mut client = connect(mesh.out).await;
    for _ in 0..50 {
        let answer = send(&mut client, call("/shop.v1.Orders/Add"), "once").await.unwrap();
        assert_eq!((answer.body.as_slice(), answer.trailer("grpc-status")), (&b"once"[..], Some("0")));
    }
    assert!(mesh.web.counter("signet_upstream_retries_total", &[("reason", "unreached")]) >= 1);
}

#[tokio::test]
async fn an_http2_link_that_died_costs_a_safe_request_nothing() {
    // Answers one request of each connection; the second one is taken, and the connection dropped.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                if let Some(Ok((request, mut respond))) = connection.accept().await {
                    drop(request);
                    let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                    stream.send_data(Bytes::from_static(b"ok"), true).unwrap();
                    let _ = connection.accept().await;
                }
            });
        }
    });
    let mesh = Mesh::new(Protocol::Http2, &[("orders", &[at])]);
    let mut client = connect(mesh.out).await;
    let get = || http::Request::get("http://orders.shop/").body(()).unwrap();
    for _ in 0..10 {
        let answer = send(&mut client, get(), "").await.unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
    }
    assert!(mesh.orders.counter("signet_upstream_retries_total", &[("reason", "reused")]) >= 9);
    // Whether a POST was carried out nobody knows: it is not sent twice.
    let answer = send(&mut client, call("/"), "hi").await.unwrap();
    assert_eq!(answer.header("signet-deny-reason"), Some("upstream-reset"));
}
