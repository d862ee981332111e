//! Refusals, resets, and connections that go away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use signet_identity::testing::SvidOptions;
use signet_identity::{Alpn, PeerClass};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::pair;
use super::peers::{answer, answer_ok, app, call, connect, drain, send, serve, write};
use crate::support::caller::within;
use crate::support::generation_with;

#[tokio::test]
async fn a_refused_call_is_told_in_trailers_alone() {
    let (app, connections) = app(|_, _| async move { panic!("nothing may arrive") }).await;
    let pair = pair(app);
    pair.orders.permits(&[]);
    let mut client = connect(pair.out).await;
    let (response, mut stream) = client.send_request(call("/s/M"), false).unwrap();
    let head = within(response).await.unwrap();
    assert!(head.body().is_end_stream(), "no body and no second block");
    assert_eq!((head.status().as_u16(), head.headers()["grpc-status"].as_bytes()), (200, &b"7"[..]));
    assert_eq!(head.headers()["content-type"], "application/grpc");
    assert_eq!(head.headers()["signet-deny-reason"], "policy");
    assert!(head.headers().contains_key("signet-decision-id"));
    // What is left of the request is not wanted, which is no error.
    assert_eq!(within(std::future::poll_fn(|cx| stream.poll_reset(cx))).await.unwrap(), Reason::NO_ERROR);

    let plain = Request::get("http://orders.shop/a").body(()).unwrap();
    let answer = send(&mut client, plain, "").await.unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (403, Some("application/problem+json")));
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_two_readers_could_read_differently_is_refused_before_policy() {
    let (app, connections) = app(|_, _| async move { panic!("nothing may arrive") }).await;
    let pair = pair(app);
    let mut client = connect(pair.out).await;
    for path in ["/a/../b", "/a%2fb", "//a", "/%00"] {
        let answer = send(&mut client, call(path), "").await.unwrap();
        assert_eq!(answer.header("grpc-status"), Some("3"), "{path}");
    }
    let mut twice = call("/a");
    twice.headers_mut().append("authorization", "Bearer a".parse().unwrap());
    twice.headers_mut().append("authorization", "Bearer b".parse().unwrap());
    assert_eq!(send(&mut client, twice, "").await.unwrap().header("grpc-status"), Some("3"));
    let mut other = call("/a");
    other.headers_mut().insert("host", "billing.shop".parse().unwrap());
    assert_eq!(send(&mut client, other, "").await.unwrap().header("grpc-status"), Some("3"));
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_clients_reset_reaches_the_app() {
    let (told, mut hear) = mpsc::unbounded_channel();
    let (app, _) = app(move |request, mut respond| {
        let told = told.clone();
        async move {
            let waits = request.uri().path() == "/before";
            let mut body = request.into_body();
            if waits {
                told.send(None).unwrap();
                let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                told.send(Some(reset.unwrap())).unwrap();
            } else {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                assert!(body.data().await.unwrap().is_ok());
                told.send(None).unwrap();
                let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                told.send(Some(reset.unwrap())).unwrap();
            }
        }
    })
    .await;
    let pair = pair(app);
    let mut client = connect(pair.out).await;
    for path in ["/before", "/amid"] {
        let (_response, mut stream) = client.send_request(call(path), false).unwrap();
        write(&mut stream, Bytes::from_static(b"part"), false).await.unwrap();
        assert_eq!(within(hear.recv()).await.unwrap(), None);
        stream.send_reset(Reason::CANCEL);
        assert_eq!(within(hear.recv()).await.unwrap(), Some(Reason::CANCEL), "{path}");
    }
    // The connections live on.
    let (_response, mut stream) = client.send_request(call("/before"), false).unwrap();
    assert_eq!(within(hear.recv()).await.unwrap(), None);
    stream.send_reset(Reason::CANCEL);
    within(hear.recv()).await.unwrap();
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_calls_at_the_app() {
    let (told, mut hear) = mpsc::unbounded_channel();
    let (app, _) = app(move |_request, mut respond| {
        let told = told.clone();
        async move {
            told.send(()).unwrap();
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            told.send(()).unwrap();
        }
    })
    .await;
    let pair = pair(app);
    let (mut client, driver) = super::connect_with(h2::client::Builder::new(), pair.out).await;
    let (_response, _stream) = client.send_request(call("/s/M"), false).unwrap();
    within(hear.recv()).await.unwrap();
    driver.abort();
    drop(client);
    within(hear.recv()).await.unwrap();
}

#[tokio::test]
async fn the_apps_reset_reaches_the_client() {
    let (app, _) = app(|request, mut respond| async move {
        if request.uri().path() == "/before" {
            respond.send_reset(Reason::ENHANCE_YOUR_CALM);
            return;
        }
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        write(&mut stream, Bytes::from_static(b"part"), false).await.unwrap();
        stream.send_reset(Reason::INTERNAL_ERROR);
    })
    .await;
    let pair = pair(app);
    let mut client = connect(pair.out).await;
    for (path, reason) in [("/before", Reason::ENHANCE_YOUR_CALM), ("/amid", Reason::INTERNAL_ERROR)] {
        let error = send(&mut client, call(path), "body").await.err().expect(path);
        assert!(error.is_reset() && error.is_remote(), "{error}");
        assert_eq!(error.reason(), Some(reason), "{path}");
    }
}

#[tokio::test]
async fn an_app_that_dies_before_its_answer_is_unavailable_and_amid_it_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(socket).await.unwrap();
            let Some(Ok((request, mut respond))) = connection.accept().await else { continue };
            if request.uri().path() == "/amid" {
                let _stream = respond.send_response(Response::new(()), false).unwrap();
                let _ = tokio::time::timeout(Duration::from_millis(50), connection.accept()).await;
            }
            // The connection is dropped, with its socket.
        }
    });
    let pair = pair(app);
    let mut client = connect(pair.out).await;
    let answer = send(&mut client, call("/before"), "body").await.unwrap();
    assert_eq!(answer.header("grpc-status"), Some("14"));
    assert_eq!(answer.header("signet-deny-reason"), Some("upstream-reset"));
    let error = send(&mut client, call("/amid"), "body").await.err().unwrap();
    assert!(error.is_reset(), "{error}");
}

#[tokio::test]
async fn an_app_that_is_not_there_is_unavailable() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let pair = pair(nobody);
    let mut client = connect(pair.out).await;
    let answer = send(&mut client, call("/s/M"), "body").await.unwrap();
    assert_eq!(answer.header("grpc-status"), Some("14"));
    assert_eq!(answer.header("signet-deny-reason"), Some("connect-failed"));
}

#[tokio::test]
async fn a_request_that_was_refused_unprocessed_is_sent_again_whole() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let (app, _) = app(move |request, mut respond| {
        let count = count.clone();
        async move {
            let (body, trailers) = drain(request.into_body()).await.unwrap();
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                respond.send_reset(Reason::REFUSED_STREAM);
            } else {
                assert_eq!(trailers.unwrap()["x-end"], "1");
                answer_ok(&mut respond, body);
            }
        }
    })
    .await;
    let pair = pair(app);
    let mut client = connect(pair.out).await;
    let (response, mut stream) = client.send_request(call("/s/M"), false).unwrap();
    write(&mut stream, Bytes::from(vec![3; 20_000]), false).await.unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-end", "1".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
    assert_eq!(answer(response).await.unwrap().body, vec![3; 20_000]);
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_body_that_is_too_long_to_remember_is_not_sent_twice() {
    let (app, _) = app(move |request, mut respond| async move {
        let _ = drain(request.into_body()).await.unwrap();
        respond.send_reset(Reason::REFUSED_STREAM);
    })
    .await;
    let pair = pair(app);
    let mut client = connect(pair.out).await;
    let error = send(&mut client, call("/s/M"), vec![0; 200_000]).await.err().unwrap();
    assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM), "the caller may decide");
}

/// A frame by hand.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn a_request_above_a_goaways_last_stream_is_sent_again_elsewhere() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            if count.fetch_add(1, Ordering::SeqCst) > 0 {
                let handler = |request: Request<h2::RecvStream>,
                               mut respond: h2::server::SendResponse<Bytes>| async move {
                    let (body, _) = drain(request.into_body()).await.unwrap();
                    answer_ok(&mut respond, body);
                };
                tokio::spawn(serve(h2::server::Builder::new(), socket, Arc::new(handler)));
                continue;
            }
            // SETTINGS, and at the first HEADERS a GOAWAY that covers none of them; then it stays, mute.
            tokio::spawn(async move {
                socket.write_all(&frame(4, 0, 0, &[])).await.unwrap();
                let mut heard = Vec::new();
                let mut buffer = [0; 4096];
                while !heard.windows(8).any(|w| w == b"shop.v1.") && !heard.windows(2).any(|w| w == [0, 1]) {
                    let count = socket.read(&mut buffer).await.unwrap();
                    assert!(count > 0);
                    heard.extend_from_slice(&buffer[..count]);
                }
                socket.write_all(&frame(7, 0, 0, &[0; 8])).await.unwrap();
                while socket.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            });
        }
    });
    let pair = pair(app);
    let mut client = connect(pair.out).await;
    for _ in 0..3 {
        let answer = send(&mut client, call("/shop.v1.Orders/Add"), "body").await.unwrap();
        assert_eq!(
            (answer.body, answer.trailers.unwrap()["grpc-status"].as_bytes()),
            (b"body".to_vec(), &b"0"[..])
        );
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2, "nothing was dispatched after the GOAWAY");
}

#[tokio::test]
async fn a_call_ends_at_its_own_deadline() {
    let (told, mut hear) = mpsc::unbounded_channel();
    let (app, _) = app(move |_request, mut respond| {
        let told = told.clone();
        async move {
            let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            told.send(reset.unwrap()).unwrap();
        }
    })
    .await;
    let pair = pair(app);
    let mut client = connect(pair.out).await;
    let mut request = call("/s/M");
    request.headers_mut().insert("grpc-timeout", "150m".parse().unwrap());
    let answer = send(&mut client, request, "body").await.unwrap();
    assert_eq!(answer.header("grpc-status"), Some("4"));
    assert_eq!(within(hear.recv()).await.unwrap(), Reason::CANCEL);
}

#[tokio::test]
async fn a_connection_takes_no_request_after_its_peers_svid_has_ended() {
    let (seen, mut told) = tokio::sync::mpsc::channel(4);
    let (app, _) = app(move |request, mut respond| {
        let seen = seen.clone();
        async move {
            seen.send(request.uri().path().to_owned()).await.unwrap();
            // The first one lasts until its caller's SVID has ended.
            drain(request.into_body()).await.unwrap();
            answer_ok(&mut respond, "");
        }
    })
    .await;
    let pair = pair(app);
    let options = SvidOptions { from: 0, until: 3, ..Default::default() };
    let short = generation_with(&pair.ca, "ns/shop/sa/web", PeerClass::Sidecar, options);
    let orders = pair.ca.id("ns/shop/sa/orders");
    let stream = crate::support::caller::peer(pair.at, &short, Alpn::H2, &orders).await.unwrap().stream;
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut client = within(client.ready()).await.unwrap();
    let (response, mut body) = client.send_request(call("/first"), false).unwrap();
    assert_eq!(within(told.recv()).await.as_deref(), Some("/first"));

    let end = u64::try_from(short.own().svid().not_after).unwrap();
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    while now() <= end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if let Ok((late, _)) = client.send_request(call("/late"), true)
        && let Ok(late) = within(late).await
    {
        assert_eq!(late.headers()["signet-deny-reason"], "expired");
    }
    // What began in time is answered, and the connection ends with it.
    body.send_data(Bytes::new(), true).unwrap();
    assert_eq!(within(response).await.unwrap().status(), 200);
    let _ = within(driver).await.unwrap();
    assert!(told.try_recv().is_err());
}
