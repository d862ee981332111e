//! Further tries, and endpoints that are left out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt as _;

use super::{BUSY, Mesh, OK, in_turn, read_body};
use crate::support::app::{read_head, scripted};
use crate::support::caller::{Client, within};

const RETRY: &str = r#""retry":{"attempts":2,"statuses":[503],"onReset":true,"backoff":"1ms"}"#;

#[tokio::test]
async fn an_answer_worth_another_try_is_thrown_away_and_the_next_one_counts() {
    let (app, count) = in_turn(&[BUSY, BUSY, OK]).await;
    let mesh = Mesh::http(&[("orders", &[app])]);
    mesh.traffic(RETRY);
    let mut client = Client::to(mesh.out).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(count.load(Ordering::SeqCst), 3);
    assert_eq!(mesh.web.counter("signet_upstream_retries_total", &[("reason", "status")]), 2);
    // And the connection is as good as before.
    assert_eq!(client.get("/").await.text(), "ok");
}

#[tokio::test]
async fn the_last_answer_is_passed_on_when_no_try_is_left() {
    let (app, count) = in_turn(&[BUSY]).await;
    let mesh = Mesh::http(&[("orders", &[app])]);
    mesh.traffic(RETRY);
    let answer = Client::to(mesh.out).await.get("/").await;
    assert_eq!((answer.status, answer.text()), (503, "busy"));
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

/// An app that refuses every other request, and tells all bodies.
async fn every_other() -> (std::net::SocketAddr, Arc<std::sync::Mutex<Vec<Vec<u8>>>>) {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let keeping = seen.clone();
    let app = scripted(move |mut socket| {
        let seen = keeping.clone();
        async move {
            while let Some(head) = read_head(&mut socket).await {
                let body = read_body(&mut socket, &head).await;
                let count = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(body);
                    seen.len()
                };
                let answer = if count % 2 == 1 { BUSY } else { OK };
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        }
    })
    .await;
    (app, seen)
}

#[tokio::test]
async fn bodies_up_to_the_limit_are_sent_again_as_they_were() {
    let (app, seen) = every_other().await;
    let mesh = Mesh::http(&[("orders", &[app])]);
    mesh.traffic(r#""retry":{"attempts":2,"statuses":[503],"backoff":"1ms","maxBodyBytes":20000}"#);
    let mut client = Client::to(mesh.out).await;
    for length in [1usize, 500, 19_999, 20_000] {
        let body: String = (0..length).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
        // In two parts, so that the second follows after the first was passed on.
        let (first, second) = body.split_at(length / 2);
        client.send(format!("PUT / HTTP/1.1\r\nhost: o\r\ncontent-length: {length}\r\n\r\n{first}")).await;
        client.send(second).await;
        assert_eq!(client.answer().await.status, 200, "{length}");
        let two = seen.lock().unwrap().split_off(0);
        assert_eq!(two, [body.as_bytes(), body.as_bytes()], "{length}");
    }
    let body = "x".repeat(20_001);
    client.send(format!("PUT / HTTP/1.1\r\nhost: o\r\ncontent-length: 20001\r\n\r\n{body}")).await;
    assert_eq!(client.answer().await.status, 503);
    assert_eq!(seen.lock().unwrap().len(), 1, "one byte too many is tried once");
}

#[tokio::test]
async fn what_must_not_be_repeated_is_not_unless_the_operator_says_so() {
    let (app, count) = in_turn(&[BUSY]).await;
    let mesh = Mesh::http(&[("orders", &[app])]);
    mesh.traffic(RETRY);
    let mut client = Client::to(mesh.out).await;
    let post = "POST / HTTP/1.1\r\nhost: o\r\ncontent-length: 0\r\n\r\n";
    client.send(post).await;
    assert_eq!(client.answer().await.status, 503);
    assert_eq!(count.load(Ordering::SeqCst), 1);
    mesh.traffic(r#""retry":{"attempts":2,"statuses":[503],"nonIdempotent":true,"backoff":"1ms"}"#);
    client.send(post).await;
    assert_eq!(client.answer().await.status, 503);
    assert_eq!(count.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn an_app_that_goes_away_before_its_answer_is_tried_again_and_after_it_is_not() {
    const CUT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut";
    let (app, count) = in_turn(&["", OK, CUT, ""]).await;
    let mesh = Mesh::http(&[("orders", &[app])]);
    // The sidecar before the app answers 502 for it.
    mesh.traffic(r#""retry":{"attempts":2,"statuses":[502],"onReset":true,"backoff":"1ms"}"#);
    let mut client = Client::to(mesh.out).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(count.load(Ordering::SeqCst), 2);
    client.send("GET / HTTP/1.1\r\nhost: o\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    // The app waits for its next request: nothing more of the body comes, and nothing is sent twice.
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_try_that_takes_too_long_makes_way_for_the_next_one_and_all_tries_have_one_end() {
    let turn = Arc::new(AtomicUsize::new(0));
    let counting = turn.clone();
    let app = scripted(move |mut socket| {
        let turn = counting.clone();
        async move {
            while read_head(&mut socket).await.is_some() {
                if turn.fetch_add(1, Ordering::SeqCst) == 1 {
                    let _ = socket.write_all(OK.as_bytes()).await;
                }
                // All others wait for ever.
            }
        }
    })
    .await;
    let mesh = Mesh::http(&[("orders", &[app])]);
    mesh.traffic(r#""retry":{"attempts":5,"statuses":[504],"perTryTimeout":"100ms","backoff":"1ms"}"#);
    let mut client = Client::to(mesh.out).await;
    assert_eq!(client.get("/").await.status, 200, "the second try");
    assert_eq!(turn.load(Ordering::SeqCst), 2);
    mesh.routes(r#"[{"backendRefs":[{"name":"orders","port":80}],"timeouts":{"request":"800ms"}}]"#);
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.header("signet-deny-reason")), (504, Some("upstream-timeout")));
    let tries = turn.load(Ordering::SeqCst) - 2;
    assert!((2..=6).contains(&tries), "{tries} tries of 100 ms in 800 ms");
}

#[tokio::test]
async fn tries_beyond_the_budget_are_not_made() {
    let (app, count) = in_turn(&[BUSY]).await;
    let mesh = Mesh::http(&[("orders", &[app])]);
    mesh.traffic(
        r#""retry":{"attempts":10,"statuses":[503],"backoff":"1ms","budget":{"percent":50,"minPerSecond":0}}"#,
    );
    let mut client = Client::to(mesh.out).await;
    for _ in 0..100 {
        assert_eq!(client.get("/").await.status, 503);
    }
    assert_eq!(count.load(Ordering::SeqCst), 150, "fifty further tries for a hundred requests");
    assert!(mesh.web.counter("signet_upstream_retries_total", &[("reason", "budget")]) > 0);
}

#[tokio::test]
async fn a_routes_own_retries_have_one_budget_for_all_requests() {
    let (app, count) = in_turn(&[BUSY]).await;
    let mesh = Mesh::http(&[("orders", &[app])]);
    mesh.routes(
        r#"[{"backendRefs":[{"name":"orders","port":80}],"retry":{"codes":[503],"attempts":10,"backoff":"0s"}}]"#,
    );
    let mut client = Client::to(mesh.out).await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.status, 503);
    }
    // A fifth of fifty, and ten for each second that this took.
    let further = count.load(Ordering::SeqCst) - 50;
    assert!((10..250).contains(&further), "{further} of at most 500");
    assert!(mesh.web.counter("signet_upstream_retries_total", &[("reason", "budget")]) > 0);
}

#[tokio::test]
async fn another_endpoint_is_tried_where_there_is_one() {
    let (bad, bad_count) = in_turn(&[BUSY]).await;
    let (good, _) = in_turn(&[OK]).await;
    let mesh = Mesh::http(&[("orders", &[bad, good])]);
    mesh.traffic(
        r#""retry":{"attempts":1,"statuses":[503],"backoff":"1ms","budget":{"percent":100,"minPerSecond":1000}}"#,
    );
    let mut client = Client::to(mesh.out).await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert!(bad_count.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_is_left_out_and_the_last_half_never_is() {
    let (bad, bad_count) = in_turn(&[BUSY]).await;
    let (good, good_count) = in_turn(&[OK]).await;
    let mesh = Mesh::http(&[("orders", &[bad, good])]);
    mesh.traffic(r#""outlierDetection":{"consecutiveFailures":3,"baseEjection":"1h","maxEjection":"2h"}"#);
    let mut client = Client::to(mesh.out).await;
    for _ in 0..200 {
        client.get("/").await;
    }
    assert_eq!(bad_count.load(Ordering::SeqCst), 3);
    assert_eq!(good_count.load(Ordering::SeqCst), 197);
    assert_eq!(mesh.web.counter("signet_endpoint_ejections_total", &[]), 1);
    // One that never connects is left out as well; but of a service that fails as a whole, half is still called.
    let (worse, worse_count) = in_turn(&[BUSY]).await;
    let mesh = Mesh::http(&[("orders", &[worse, bad])]);
    mesh.traffic(r#""outlierDetection":{"consecutiveFailures":3,"baseEjection":"1h","maxEjection":"2h"}"#);
    let mut client = Client::to(mesh.out).await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.status, 503);
    }
    let counts = (worse_count.load(Ordering::SeqCst), bad_count.load(Ordering::SeqCst) - 3);
    assert_eq!(counts.0 + counts.1, 50);
    assert!(counts.0.min(counts.1) <= 25 && mesh.web.counter("signet_endpoint_ejections_total", &[]) == 1);
}

#[tokio::test]
async fn faults_happen_as_often_as_they_say_and_only_where() {
    let (app, count) = in_turn(&[OK]).await;
    let mesh = Mesh::http(&[("orders", &[app])]);
    mesh.traffic(
        r#""faults":[{"to":{"paths":["/broken/{rest=**}"]},"abort":{"percent":100,"status":418}},
                     {"to":{"methods":["PUT"]},"abort":{"percent":0,"status":500}},
                     {"to":{"paths":["/slow"]},"delay":{"percent":100,"time":"50ms"}}]"#,
    );
    let mut client = Client::to(mesh.out).await;
    let answer = client.get("/broken/a").await;
    assert_eq!((answer.status, answer.header("signet-deny-reason")), (418, Some("fault")));
    assert_eq!(client.get("/whole").await.status, 200);
    client.send("PUT / HTTP/1.1\r\nhost: o\r\ncontent-length: 2\r\n\r\nhi").await;
    assert_eq!(client.answer().await.status, 200);
    let began = std::time::Instant::now();
    assert_eq!(within(client.get("/slow")).await.status, 200);
    assert!(began.elapsed() >= std::time::Duration::from_millis(50));
    assert_eq!(count.load(Ordering::SeqCst), 3);
}
