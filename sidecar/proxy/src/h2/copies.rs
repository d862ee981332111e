//! Copies of requests over HTTP/2, see [`crate::h1::copies`].

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use signet_wire::h2::RequestHead;

use super::exchange::outgoing;
use super::link;
use super::pump::Pump;
use crate::h1::copies::{Place, edits};
use crate::stage::{Forward, Stage, Target};
use crate::worker::Worker;

/// For a copy and its answer.
const TIME: Duration = Duration::from_secs(15);

/// Sends what is to be copied.
pub(super) fn send<E: Stage>(worker: &Rc<Worker<E>>, head: &RequestHead, forward: &Forward, upload: &Pump) {
    let body = upload.taken().filter(|_| upload.is_done());
    for port in forward.copies() {
        let (Some(body), Some(place)) = (body.clone(), Place::take()) else {
            worker.shared.metrics.copied("skipped");
            continue;
        };
        let target = Target::Service(port.clone());
        let request = outgoing(head.clone(), &edits(forward), &target, &worker.shared);
        let worker = worker.clone();
        tokio::task::spawn_local(async move {
            let copied = async { copy(&worker, request.ok()?, &target, body).await };
            let sent = tokio::time::timeout(TIME, Box::pin(copied)).await;
            let outcome = if matches!(sent, Ok(Some(()))) { "sent" } else { "failed" };
            worker.shared.metrics.copied(outcome);
            drop(place);
        });
    }
}

/// `None`: it did not get an answer.
async fn copy<E: Stage>(
    worker: &Rc<Worker<E>>,
    request: http::Request<()>,
    target: &Target,
    body: Vec<Bytes>,
) -> Option<()> {
    let view = worker.shared.state.view();
    let mut lease = link::lease(worker, &view, target, &[]).await.ok()?;
    poll_fn(|cx| lease.sender.poll_ready(cx)).await.ok()?;
    let (response, mut stream) = lease.sender.send_request(request, body.is_empty()).ok()?;
    let count = body.len();
    for (at, mut bytes) in body.into_iter().enumerate() {
        loop {
            stream.reserve_capacity(bytes.len());
            let room = match stream.capacity() {
                0 if !bytes.is_empty() => poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?,
                room => room,
            };
            let part = bytes.split_to(room.min(bytes.len()));
            let last = bytes.is_empty();
            stream.send_data(part, last && at + 1 == count).ok()?;
            if last {
                break;
            }
        }
    }
    let mut answer = response.await.ok()?.into_body();
    while let Some(bytes) = answer.data().await {
        let _ = answer.flow_control().release_capacity(bytes.ok()?.len());
    }
    Some(())
}
