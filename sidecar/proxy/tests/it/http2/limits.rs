//! Bounds, and the end of a process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Response;
use tokio::sync::{Semaphore, mpsc};

use super::pair;
use super::peers::{answer, answer_ok, app, app_with, call, connect, connect_with, drain, send};
use crate::support::caller::within;

#[tokio::test]
async fn the_apps_limit_of_streams_is_kept_and_nobody_waits_for_ever() {
    let mut one = h2::server::Builder::new();
    one.max_concurrent_streams(1);
    let now = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (count, peak) = (now.clone(), most.clone());
    let (app, connections) = app_with(one, move |request, mut respond| {
        let (count, peak) = (count.clone(), peak.clone());
        async move {
            peak.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let (body, _) = drain(request.into_body()).await.unwrap();
            tokio::task::yield_now().await;
            count.fetch_sub(1, Ordering::SeqCst);
            answer_ok(&mut respond, body);
        }
    })
    .await;
    let pair = pair(app);
    let mut client = connect(pair.out).await;
    // The first one learns the limit.
    send(&mut client, call("/s/M"), "first").await.unwrap();
    let mut answers = tokio::task::JoinSet::new();
    for n in 0..40u8 {
        let mut client = client.clone();
        answers.spawn(async move {
            let body = Bytes::from(vec![n; 10]);
            client = within(client.ready()).await.unwrap();
            assert_eq!(send(&mut client, call("/s/M"), body.clone()).await.unwrap().body, body);
        });
    }
    while let Some(done) = within(answers.join_next()).await {
        done.unwrap();
    }
    assert!(connections.load(Ordering::SeqCst) <= 4);
    assert!(most.load(Ordering::SeqCst) <= 4);
}

#[tokio::test]
async fn a_client_that_opens_and_resets_is_told_to_calm_down() {
    let (app, _) = app(|_request, mut respond| async move {
        let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
    })
    .await;
    let pair = pair(app);
    let (mut client, driver) = connect_with(h2::client::Builder::new(), pair.out).await;
    for _ in 0..2000 {
        let Ok(ready) = within(client.ready()).await else { break };
        client = ready;
        match client.send_request(call("/s/M"), false) {
            Ok((_response, mut stream)) => stream.send_reset(Reason::CANCEL),
            Err(_) => break,
        }
        tokio::task::yield_now().await;
        if driver.is_finished() {
            break;
        }
        client = match within(futures_ready(client)).await {
            Some(client) => client,
            None => break,
        };
    }
    // The word for it may be lost with the connection.
    let error = within(driver).await.unwrap().unwrap_err();
    assert!(error.is_io() || error.reason() == Some(Reason::ENHANCE_YOUR_CALM), "{error}");
    pair.web.counts("signet_over_limit_total", &[], 1).await;
    // Others are served as ever.
    let mut other = connect(pair.out).await;
    let mut request = call("/s/M");
    request.headers_mut().insert("grpc-timeout", "100m".parse().unwrap());
    assert_eq!(send(&mut other, request, "").await.unwrap().header("grpc-status"), Some("4"));
}

async fn futures_ready(client: h2::client::SendRequest<Bytes>) -> Option<h2::client::SendRequest<Bytes>> {
    client.ready().await.ok()
}

#[tokio::test]
async fn more_streams_than_the_limit_wait_at_the_client() {
    let gate = Arc::new(Semaphore::new(0));
    let here = Arc::new(AtomicUsize::new(0));
    let (open, count) = (gate.clone(), here.clone());
    let mut wide = h2::server::Builder::new();
    wide.max_concurrent_streams(10_000);
    let (app, _) = app_with(wide, move |_request, mut respond| {
        let (open, count) = (open.clone(), count.clone());
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = open.acquire().await;
            answer_ok(&mut respond, "");
        }
    })
    .await;
    let pair = pair(app);
    let mut client = connect(pair.out).await;
    // The server's settings have come with the first answer.
    gate.add_permits(1);
    send(&mut client, call("/s/M"), "").await.unwrap();
    assert_eq!(client.current_max_send_streams(), 256);
    drop(client);
    gate.close();
}

#[tokio::test]
async fn a_draining_proxy_finishes_its_calls_and_says_goodbye() {
    let (came, mut told) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let open = gate.clone();
    let (app, _) = app(move |request, mut respond| {
        let (came, open) = (came.clone(), open.clone());
        async move {
            let (body, _) = drain(request.into_body()).await.unwrap();
            came.send(()).unwrap();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            let _ = open.acquire().await;
            stream.send_data(body.into(), true).unwrap();
        }
    })
    .await;
    let mut pair = pair(app);
    let (mut client, driver) = connect_with(h2::client::Builder::new(), pair.out).await;
    let (response, mut stream) = client.send_request(call("/s/M"), false).unwrap();
    stream.send_data(Bytes::from_static(b"body"), true).unwrap();
    within(told.recv()).await.unwrap();
    let out = pair.out;
    let drained = tokio::spawn(async move {
        let cut = pair.web.drain(Duration::from_secs(10)).await;
        (cut, pair)
    });
    within(async {
        while tokio::net::TcpStream::connect(out).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    // The goodbye: no request begins on this connection any more.
    within(async {
        while client.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gate.close();
    assert_eq!(answer(response).await.unwrap().body, b"body");
    let (cut, mut pair) = within(drained).await.unwrap();
    assert_eq!(cut, 0);
    drop(client);
    let _ = within(driver).await;
    assert_eq!(
        within(pair.orders.drain(Duration::from_secs(10))).await,
        0,
        "the peers' connections end as well"
    );
}

#[tokio::test]
async fn a_peer_that_is_revoked_loses_its_calls() {
    let (came, mut told) = mpsc::unbounded_channel();
    let (app, _) = app(move |_request, mut respond| {
        let came = came.clone();
        async move {
            came.send(()).unwrap();
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            came.send(()).unwrap();
        }
    })
    .await;
    let pair = pair(app);
    let mut client = connect(pair.out).await;
    let (response, _stream) = client.send_request(call("/s/M"), false).unwrap();
    within(told.recv()).await.unwrap();
    let mut revoked = signet_identity::RevocationSet::new(1);
    revoked.identities.insert(pair.ca.id("ns/shop/sa/web"));
    let revoked = Arc::new(revoked);
    pair.orders.state.update_tls(|tls| tls.with_revoked(revoked.clone()));
    within(told.recv()).await.unwrap();
    let answer = answer(response).await.unwrap();
    assert_eq!(answer.header("grpc-status"), Some("14"));
}
