//! Rate limits where a service is served.

use super::{Mesh, OK, in_turn, traffic};
use crate::support::caller::Client;

#[tokio::test]
async fn a_caller_reads_how_it_stands_and_is_told_when_to_come_again() {
    let (app, count) = in_turn(&[OK]).await;
    let mesh = Mesh::http(&[("orders", &[app])]);
    let limits = [traffic(
        r#""rateLimits":[{"name":"each","key":["workload"],"to":{"methods":["GET"]},"requests":3,"per":"1h"}]"#,
    )];
    mesh.orders.state.update_routes(|routes| routes.with_limits("orders.shop", &limits));
    let mut client = Client::to(mesh.out).await;
    for left in [2, 1, 0] {
        let answer = client.get("/").await;
        assert_eq!(answer.status, 200);
        let standing = answer.header("ratelimit").unwrap().to_owned();
        assert!(standing.starts_with(&format!("\"each\";r={left};t=")), "{standing}");
        assert_eq!(answer.header("ratelimit-policy"), Some("\"each\";q=3;w=3600"));
    }
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.header("signet-deny-reason")), (429, Some("too-many-requests")));
    let again: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1190..=1200).contains(&again), "{again}");
    assert!(answer.header("ratelimit").unwrap().starts_with("\"each\";r=0;t="));
    // What the limit does not speak of passes; and a change of something else does not forget the count.
    client.send("PUT / HTTP/1.1\r\nhost: o\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    mesh.orders.state.update_routes(|routes| routes.with_limits("orders.shop", &limits));
    assert_eq!(client.get("/").await.status, 429);
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 4);
    let labels = [("service", "orders.shop"), ("limit", "each")];
    assert_eq!(mesh.orders.counter("signet_rate_limited_total", &labels), 2);
    mesh.orders.state.update_routes(|routes| routes.with_limits("orders.shop", &[]));
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.header("ratelimit")), (200, None));
}
