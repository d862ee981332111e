//! An API server that is slow, away or out of its mind: nothing is decided, and the process goes on.

use std::time::Duration;

use signet_control_plane::attest::kubernetes::Failure;
use signet_tests::apiserver::{ApiServer, Fault, PodOf};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use super::{Cluster, come, last_reason, listed_plane, reason};
use crate::harness::Plane;

#[tokio::test]
async fn each_fault_of_the_server_is_neither_a_refusal_nor_a_certificate() {
    let web = PodOf::new("web.shop");
    for fault in [
        Fault::Status(401, vec![]),
        Fault::Status(403, vec![]),
        Fault::Status(429, vec![("Retry-After", "1")]),
        Fault::Status(500, vec![]),
        Fault::Status(503, vec![]),
        Fault::Half,
        Fault::Hangup,
        Fault::Body(vec![b'{'; 1 << 20]),
        Fault::Body(b"<html>a proxy's own page</html>".to_vec()),
        Fault::Body(b"{\"kind\":\"Status\",\"status\":\"Success\"}".to_vec()),
        Fault::Body(b"[[[[".repeat(10_000)),
        Fault::Body(vec![]),
    ] {
        let cluster = Cluster::start().await;
        cluster.api.run(&web);
        let token = cluster.api.token(&web, "signet-ca");
        cluster.api.then([fault.clone()]);
        assert_eq!(cluster.attest(&token).await, Err(Failure::Unavailable), "{fault:?}");
        if !matches!(fault, Fault::Status(429, _)) {
            assert!(cluster.attest(&token).await.is_ok(), "the next question is asked: {fault:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_and_one_token_is_asked_about_once_at_a_time() {
    let cluster = Cluster::start().await;
    let kubernetes = cluster.kubernetes.with_timeout(Duration::from_millis(300));
    let (web, orders) = (PodOf::new("web.shop"), PodOf::new("orders.shop"));
    cluster.api.run(&web);
    cluster.api.run(&orders);
    cluster.api.then([Fault::Slow]);
    let token = cluster.api.token(&web, "signet-ca");
    let ask = |token: String| {
        let kubernetes = &kubernetes;
        async move { kubernetes.attest(&token, "signet-ca", super::LOOPBACK, |_| false).await }
    };
    let second = async {
        while cluster.api.reviews() == 0 {
            tokio::task::yield_now().await;
        }
        let same = ask(token.clone()).await;
        let other = ask(cluster.api.token(&orders, "signet-ca")).await;
        (same, other)
    };
    let (first, (same, other)) =
        crate::harness::soon(async { tokio::join!(ask(token.clone()), second) }).await;
    assert_eq!(first, Err(Failure::Unavailable));
    assert_eq!(reason(same), signet_ca::Refusal::EvidenceInFlight);
    assert_eq!(other.unwrap().account.to_string(), "ns/shop/sa/orders", "other tokens do not wait for it");
    assert!(ask(token).await.is_ok(), "and then it may be asked about again");
}

#[tokio::test]
async fn a_server_that_is_away_is_soon_not_asked_any_longer() {
    let cluster = Cluster::start().await;
    cluster.api.is_away(true);
    let web = PodOf::new("web.shop");
    for _ in 0..5 {
        let token = cluster.api.token(&web, "signet-ca");
        assert_eq!(cluster.attest(&token).await, Err(Failure::Unavailable));
    }
    cluster.api.is_away(false);
    let token = cluster.api.token(&web, "signet-ca");
    assert_eq!(cluster.attest(&token).await, Err(Failure::Unavailable), "told at once");
    assert_eq!(cluster.api.reviews(), 0);
}

/// Pitfall 19: the health of the control plane is its own.
#[tokio::test]
async fn the_control_plane_is_alive_and_ready_without_the_api_server_and_issues_nothing_for_tokens() {
    let api = ApiServer::start().await;
    api.is_away(true);
    let mut plane = listed_plane(&api).await;
    let status = come(&mut plane, api.token(&PodOf::new("web.shop"), "signet-ca")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "not refused: {status}");
    for path in ["/live", "/ready"] {
        assert!(health(&plane, path).await.starts_with("HTTP/1.1 200"), "{path}");
    }
    let last = last_reason(&mut plane).await;
    assert!(last.starts_with("join "), "no refusal is recorded, the join token was the last act: {last}");
    // Who needs no cluster is served as ever.
    plane.join(crate::harness::ORDERS, "sidecar").await;
}

async fn health(plane: &Plane, path: &str) -> String {
    let mut stream = TcpStream::connect(plane.metrics).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_caller_token_that_was_replaced_is_read_again() {
    let cluster = Cluster::start().await;
    let web = PodOf::new("web.shop");
    cluster.api.run(&web);
    assert!(cluster.attest(&cluster.api.token(&web, "signet-ca")).await.is_ok());
    cluster.api.expect_caller("another");
    std::fs::write(cluster.folder.path().join("api-token"), "another\n").unwrap();
    // The server says 401 once, and the next question carries the new token.
    let first = cluster.attest(&cluster.api.token(&web, "signet-ca")).await;
    assert_eq!(first, Err(Failure::Unavailable));
    assert!(cluster.attest(&cluster.api.token(&web, "signet-ca")).await.is_ok());
}

#[tokio::test]
async fn an_api_server_under_another_root_is_not_told_any_token() {
    let cluster = Cluster::start().await;
    let other = ApiServer::start().await;
    std::fs::write(cluster.folder.path().join("api-ca.pem"), &other.ca_pem).unwrap();
    let token = cluster.api.token(&PodOf::new("web.shop"), "signet-ca");
    assert_eq!(cluster.attest(&token).await, Err(Failure::Unavailable));
    assert!(cluster.api.seen().is_empty());
}

#[tokio::test]
async fn files_that_cannot_be_used_make_it_unavailable_and_not_wrong() {
    for (file, content) in
        [("api-token", ""), ("api-token", "a\nb"), ("api-ca.pem", ""), ("api-ca.pem", "no pem")]
    {
        let cluster = Cluster::start().await;
        std::fs::write(cluster.folder.path().join(file), content).unwrap();
        let token = cluster.api.token(&PodOf::new("web.shop"), "signet-ca");
        assert_eq!(cluster.attest(&token).await, Err(Failure::Unavailable), "{file} {content:?}");
    }
}
