//! A process on its way out.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::support::Pair;
use crate::support::app::{echo, read_head, scripted};
use crate::support::caller::{Client, within};

#[tokio::test]
async fn a_request_under_way_is_finished_and_the_connection_closed() {
    let (came, mut told) = tokio::sync::mpsc::channel(1);
    let (go, may) = tokio::sync::mpsc::channel::<()>(1);
    let may = std::sync::Arc::new(tokio::sync::Mutex::new(may));
    let app = scripted(move |mut socket| {
        let (came, may) = (came.clone(), may.clone());
        async move {
            read_head(&mut socket).await;
            came.send(()).await.unwrap();
            may.lock().await.recv().await;
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            read_head(&mut socket).await;
        }
    })
    .await;
    let mut pair = Pair::http(app);
    let mut client = Client::to(pair.out).await;
    client.send("GET / HTTP/1.1\r\nhost: o\r\n\r\n").await;
    within(told.recv()).await.unwrap();
    let out = pair.out;
    let drained = tokio::spawn(async move { (pair.web.drain(Duration::from_secs(10)).await, pair) });
    // Nobody new is let in.
    within(async {
        while tokio::net::TcpStream::connect(out).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    go.send(()).await.unwrap();
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "ok"));
    assert_eq!(answer.header("connection"), Some("close"));
    let (cut, _pair) = within(drained).await.unwrap();
    assert_eq!(cut, 0);
}

#[tokio::test]
async fn idle_connections_end_at_once() {
    let mut pair = Pair::http(echo().await);
    let mut client = Client::to(pair.out).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(within(pair.web.drain(Duration::from_secs(60))).await, 0);
    assert_eq!(client.ended().await, Some(true));
}

#[tokio::test]
async fn what_does_not_end_is_cut_at_the_deadline_and_counted() {
    let app = scripted(|mut socket| async move {
        read_head(&mut socket).await;
        std::future::pending::<()>().await;
    })
    .await;
    let mut pair = Pair::http(app);
    let mut client = Client::to(pair.out).await;
    client.send("GET / HTTP/1.1\r\nhost: o\r\n\r\n").await;
    // Accepted for sure once a second connection has been served after it.
    let mut second = Client::to(pair.out).await;
    second.send("GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(second.answer().await.status, 400);
    drop(second);
    assert_eq!(within(pair.web.drain(Duration::from_millis(100))).await, 1);
    assert_ne!(client.ended().await, Some(false));
}
