//! Copies of requests, for those who are to see the same traffic: sent after the request has had its answer, their own
//! answers thrown away.
//!
//! A copy carries no user and no token; it is sent at most so many at a time, within one time for all of it, and whatever
//! becomes of it, the request has had its answer.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use signet_identity::Alpn;
use signet_wire::Edits;
use signet_wire::h1::{Body, RequestHead, ResponseParser};

use super::body::{Passing, Step};
use crate::io::Lent;
use crate::stage::{Forward, Stage, Target};
use crate::upstream::obtain;
use crate::worker::Worker;

/// Bytes of a body that is copied; a request with a larger one is not.
const MOST: usize = 64 * 1024;
/// Copies of one worker that are under way.
const AT_ONCE: usize = 64;
/// For a copy and its answer.
const TIME: Duration = Duration::from_secs(15);

thread_local! {
    static UNDER_WAY: Cell<usize> = const { Cell::new(0) };
}

/// One copy under way.
pub(crate) struct Place;

impl Place {
    /// None where there are too many.
    pub(crate) fn take() -> Option<Self> {
        UNDER_WAY.with(|count| {
            (count.get() < AT_ONCE).then(|| {
                count.set(count.get() + 1);
                Place
            })
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        UNDER_WAY.with(|count| count.set(count.get() - 1));
    }
}

/// Bytes of the body that must be kept for copies.
pub(crate) fn keeps(forward: &Forward) -> usize {
    if forward.copies().is_empty() { 0 } else { MOST }
}

/// The changes for a copy: those of the request, without what says for whom it is.
pub(crate) fn edits(forward: &Forward) -> Edits {
    let mut edits = forward.edits.clone();
    for name in ["txn-token", "signet-context", "signet-hop"] {
        edits.withhold(&http::HeaderName::from_static(name));
    }
    edits.remove(http::header::AUTHORIZATION);
    edits.remove(http::header::COOKIE);
    edits
}

/// Sends what is to be copied. `body`: all of it, as it was sent.
pub(super) fn send<E: Stage>(
    worker: &Rc<Worker<E>>,
    head: &RequestHead,
    forward: &Forward,
    body: Option<&[u8]>,
) {
    for port in forward.copies() {
        let (Some(body), Some(place)) = (body, Place::take()) else {
            worker.shared.metrics.copied("skipped");
            continue;
        };
        let mut bytes = BytesMut::new();
        head.write(&edits(forward), &worker.shared.protected(), &mut bytes);
        bytes.extend_from_slice(body);
        let (worker, head, target) = (worker.clone(), head.clone(), Target::Service(port.clone()));
        tokio::task::spawn_local(async move {
            let sent = tokio::time::timeout(TIME, Box::pin(copy(&worker, &head, &target, &bytes))).await;
            let outcome = if matches!(sent, Ok(Some(()))) { "sent" } else { "failed" };
            worker.shared.metrics.copied(outcome);
            drop(place);
        });
    }
}

/// `None`: it did not get an answer.
async fn copy<E: Stage>(
    worker: &Rc<Worker<E>>,
    head: &RequestHead,
    target: &Target,
    bytes: &[u8],
) -> Option<()> {
    let watch = worker.registry.watch();
    let view = worker.shared.state.view();
    let obtained = obtain(worker, &watch, &view, target, Alpn::Http1, true, &[]).await.ok()?;
    let mut upstream = obtained.upstream;
    let limits = worker.shared.limits.http1;
    watch.within(Some(TIME));
    let mut at = 0;
    watch.wait(|cx| upstream.conn.poll_send(cx, bytes, &mut at)).await.ok()?.ok()?;
    let mut parser = ResponseParser::new(limits);
    let framing = loop {
        match parser.parse(upstream.conn.input(), head.asked()).ok()? {
            Some(answer) if answer.is_interim() => {}
            Some(answer) => break answer.framing(),
            None => {
                let read = watch.wait(|cx| upstream.conn.poll_fill(cx)).await.ok()?.ok()?;
                (read > 0).then_some(())?;
            }
        }
    };
    let mut rest = Passing::new(Body::new(framing, limits), false);
    let mut nowhere = Lent::take();
    while !rest.is_done() {
        match rest.step(&mut upstream.conn, &mut nowhere, &worker.shared.protected()).ok()? {
            Step::Direct(progress) => upstream.conn.consume(progress.consumed),
            Step::Buffered | Step::Starved => nowhere.clear(),
        }
        if !rest.is_done() && upstream.conn.input().is_empty() {
            let read = watch.wait(|cx| upstream.conn.poll_fill(cx)).await.ok()?.ok()?;
            if read == 0 {
                break;
            }
        }
    }
    Some(())
}
