//! Certificates and processes come and go; requests do not notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signet_proto::v1::WatchIssuancesRequest;
use signet_tests::Mesh;
use signet_tests::client::{get, send};

use crate::pair::Pair;

/// Requests from several clients until told to stop; how many went well, and what went wrong.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    pub(crate) fn start(address: &str, clients: usize) -> Self {
        let (stop, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = (0..clients)
            .map(|_| {
                let (address, stop, good) = (address.to_owned(), stop.clone(), good.clone());
                tokio::spawn(async move {
                    let mut failures = Vec::new();
                    while !stop.load(Ordering::SeqCst) {
                        match signet_tests::client::try_send("GET", &address, "/", &[], "").await {
                            Ok(answer) if answer.status() == 200 => {
                                good.fetch_add(1, Ordering::SeqCst);
                            }
                            Ok(answer) => failures.push(format!(
                                "{}: {}",
                                answer.status(),
                                signet_tests::client::text(&answer)
                            )),
                            Err(error) => failures.push(format!("{error:#}")),
                        }
                    }
                    failures
                })
            })
            .collect();
        Self { stop, good, clients }
    }

    pub(crate) async fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        let mut failures = Vec::new();
        for client in self.clients {
            failures.extend(client.await.expect("a client"));
        }
        (self.good.load(Ordering::SeqCst), failures)
    }
}

#[tokio::test]
async fn certificates_rotate_under_load_and_no_request_fails() {
    let pair = Pair::start_with(Mesh::builder().svid_seconds(15), "http").await;
    let mut events =
        pair.mesh.operator().await.watch_issuances(WatchIssuancesRequest {}).await.unwrap().into_inner();
    let load = Load::start(&pair.entry, 4);
    let mut renewals = std::collections::HashMap::<String, u32>::new();
    // Three lives of a certificate: the first ones have ended for certain.
    while renewals.len() < 2 || renewals.values().any(|count| *count < 6) {
        let record = events.message().await.unwrap().expect("the stream goes on");
        if record.event == "renewed" {
            *renewals.entry(record.spiffe_id).or_default() += 1;
        }
    }
    let (good, failures) = load.end().await;
    assert!(failures.is_empty(), "{} of {good}: {failures:?}", failures.len());
    assert!(good > 100, "only {good} requests were made");
}

#[tokio::test]
async fn sigterm_drains_what_is_in_flight_and_exits_in_order() {
    let mut pair = Pair::start("http").await;
    let body = vec![b'x'; 1 << 20];
    let (entry, sent) = (pair.entry.clone(), body.clone());
    // A request is under way when the signal comes.
    let in_flight = tokio::spawn(async move { send("POST", &entry, "/slow", &[], sent).await });
    assert_eq!(get(&pair.entry, "/", &[]).await.status(), 200);
    pair.mesh.sidecar("client").terminate();
    let answer = in_flight.await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut client = pair.mesh.sidecars.remove("client").unwrap();
    let status = client.wait().await;
    assert!(status.success(), "{status}");
}
