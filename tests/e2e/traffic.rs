//! What the mesh carries between two workloads, and what arrives.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use signet_tests::apps::{counter, greeter};
use signet_tests::client::{get, header, raw, send, text};
use signet_tests::mesh::{Mesh, free_address};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::pair::{Pair, pair};

#[tokio::test]
async fn a_request_arrives_as_it_was_sent_with_the_callers_identity() {
    let mut pair = Pair::start("http").await;
    let answer = send("POST", &pair.entry, "/a/b?x=1&y=%20", &[("x-own", "kept")], "a body").await;
    assert_eq!(answer.status(), 200, "{}", text(&answer));
    let seen = pair.app.last();
    assert_eq!(seen["method"], "POST");
    assert_eq!(seen["path"], "/a/b");
    assert_eq!(seen["query"], "x=1&y=%20");
    assert_eq!(seen["body"], "a body");
    assert_eq!(seen["headers"]["x-own"][0], "kept");
    let caller = seen["headers"]["x-forwarded-client-cert"][0].as_str().unwrap();
    assert!(caller.contains("URI=spiffe://test.signet/ns/shop/sa/client"), "{caller}");
    assert!(caller.contains("By=spiffe://test.signet/ns/shop/sa/server"), "{caller}");
    assert!(seen["headers"].get("txn-token").is_none(), "there is no user: {seen}");
    pair.mesh.assert_unharmed();
}

#[tokio::test]
async fn a_body_of_many_megabytes_is_carried_whole_both_ways() {
    let pair = Pair::start("http").await;
    let body: Vec<u8> = (0..8_000_000u32).map(|n| b'a' + u8::try_from(n % 23).unwrap()).collect();
    let answer = send("PUT", &pair.entry, "/big", &[], body.clone()).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(pair.app.last()["body"].as_str().unwrap().as_bytes(), body);
    assert!(answer.body().len() > body.len());
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let pair = Pair::start("http").await;
    let mut bytes = Vec::new();
    for n in 0..5 {
        let close = if n == 4 { "connection: close\r\n" } else { "" };
        bytes.extend(format!("GET /{n} HTTP/1.1\r\nhost: server\r\n{close}\r\n").bytes());
    }
    let answers = String::from_utf8(raw(&pair.entry, &bytes).await).unwrap();
    let places: Vec<_> = (0..5)
        .map(|n| {
            answers
                .find(&format!("\"path\":\"/{n}\""))
                .unwrap_or_else(|| panic!("no answer to {n}: {answers}"))
        })
        .collect();
    assert!(places.is_sorted(), "{places:?}");
}

#[tokio::test]
async fn http2_streams_are_multiplexed_to_the_app() {
    let mut pair = Pair::start("http2").await;
    let stream = TcpStream::connect(&pair.entry).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let calls = (0..100).map(|n| {
        let mut sender = sender.clone();
        tokio::spawn(async move {
            let request = Request::post(format!("http://server.shop/{n}"))
                .body(Full::new(Bytes::from(vec![b'x'; n * 100])));
            let answer = sender.send_request(request.unwrap()).await.unwrap();
            assert_eq!(answer.status(), 200);
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let seen: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(seen["path"], format!("/{n}"));
            assert_eq!(seen["body"].as_str().unwrap().len(), n * 100);
            assert_eq!(seen["version"], "HTTP/2.0");
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert_eq!(pair.app.seen(), 100);
    pair.mesh.assert_unharmed();
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let (app, entry, inbound) = (greeter().await, free_address(), free_address());
    let _mesh = pair(Mesh::builder(), "tcp", &app, &entry, &inbound).start().await;
    let mut stream = TcpStream::connect(&entry).await.unwrap();
    let mut greeting = [0; 6];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"hello\n");
    stream.write_all(b"and back").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"and back");
}

#[tokio::test]
async fn a_half_closed_connection_still_brings_the_answer() {
    let (app, entry, inbound) = (counter().await, free_address(), free_address());
    let _mesh = pair(Mesh::builder(), "tcp", &app, &entry, &inbound).start().await;
    let answer = raw(&entry, &vec![7; 3_000_000]).await;
    assert_eq!(answer, b"3000000");
}

#[tokio::test]
async fn a_workload_that_no_policy_names_is_refused_and_told_only_an_id() {
    let builder = Mesh::builder().sidecar(signet_tests::Sidecar::new("other.shop", ""));
    let pair = Pair::start_with(builder, "http").await;
    pair.mesh.write_registry(
        "test-1.yaml",
        &signet_tests::mesh::permit("other-may", "shop", "server", "ns/shop/sa/other", ""),
    );
    let refused = loop {
        let answer = get(&pair.entry, "/", &[]).await;
        if answer.status() != 200 {
            break answer;
        }
    };
    assert_eq!(refused.status(), 403);
    let id = header(&refused, "signet-decision-id");
    assert!(!id.is_empty());
    let body = text(&refused);
    assert!(!body.contains("other-may"), "the answer names a policy: {body}");
    let why = pair.mesh.explain(id).await.to_string();
    assert!(why.contains("other-may") && why.contains("ns/shop/sa/client"), "{why}");
}

#[tokio::test]
async fn an_app_that_is_gone_is_a_bad_gateway_and_not_a_hang() {
    let (entry, inbound, nobody) = (free_address(), free_address(), free_address());
    let mesh = pair(Mesh::builder(), "http", &nobody, &entry, &inbound).start().await;
    let answer = get(&entry, "/", &[]).await;
    assert!([502, 503].contains(&answer.status().as_u16()), "{}", answer.status());
    drop(mesh);
}
