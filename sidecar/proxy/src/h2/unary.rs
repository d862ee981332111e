//! One gRPC call of our own, on the links that the requests of apps have too: pooled, balanced, and to nobody but the
//! expected identity.
//!
//! One message there and one back. Dropping the call resets its stream.

use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use signet_wire::grpc;

use super::link::{self, Lease};
use crate::answer::Refusal;
use crate::stage::{Stage, Target};
use crate::state::Snapshot;
use crate::worker::Worker;

/// Why there is no message.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// Nobody was reached, or whoever was went away.
    Unreached(Refusal),
    /// It says that it failed, by an HTTP or a gRPC status.
    Status(String),
    /// Longer than it may be.
    TooLong,
    /// What came is not one message.
    NoMessage(&'static str),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unanswered::Unreached(refusal) => refusal.fmt(f),
            Unanswered::Status(status) => write!(f, "it answered with {status}"),
            Unanswered::TooLong => f.write_str("its answer is longer than it may be"),
            Unanswered::NoMessage(why) => f.write_str(why),
        }
    }
}

/// Why a try has come to nothing.
enum Failed {
    /// The link broke, or took no more requests.
    Broken,
    Answered(Unanswered),
}

impl From<Unanswered> for Failed {
    fn from(why: Unanswered) -> Self {
        Failed::Answered(why)
    }
}

/// Sends a message (with its prefix) and returns the one that comes back (without), at most so long.
pub(crate) async fn unary<E: Stage>(
    worker: &Rc<Worker<E>>,
    view: &Arc<Snapshot>,
    target: &Target,
    request: http::Request<()>,
    message: Bytes,
    most: usize,
) -> Result<Bytes, Unanswered> {
    let mut again = true;
    loop {
        let mut lease = link::lease(worker, view, target, &[]).await.map_err(Unanswered::Unreached)?;
        match attempt(&mut lease, request.clone(), message.clone(), most).await {
            Ok(answer) => return Ok(answer),
            Err(Failed::Answered(why)) => return Err(why),
            // A link that had stood may have been dead already. To ask twice changes nothing.
            Err(Failed::Broken) if lease.is_reused() && again => {
                again = false;
                lease.retire();
            }
            Err(Failed::Broken) => {
                lease.retire();
                return Err(Unanswered::Unreached(lease.end().refusal()));
            }
        }
    }
}

async fn attempt(
    lease: &mut Lease,
    request: http::Request<()>,
    mut message: Bytes,
    most: usize,
) -> Result<Bytes, Failed> {
    let broken = |_| Failed::Broken;
    poll_fn(|cx| lease.sender.poll_ready(cx)).await.map_err(broken)?;
    let (response, mut stream) = lease.sender.send_request(request, false).map_err(broken)?;
    while message.has_remaining() {
        stream.reserve_capacity(message.len());
        let room = poll_fn(|cx| stream.poll_capacity(cx)).await.ok_or(Failed::Broken)?.map_err(broken)?;
        let part = message.split_to(room.min(message.len()));
        stream.send_data(part, message.is_empty()).map_err(broken)?;
    }
    let (head, mut body) = response.await.map_err(broken)?.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(Unanswered::Status(format!("HTTP status {}", head.status.as_u16())).into());
    }
    let kind = head.headers.get(http::header::CONTENT_TYPE);
    if !kind.is_some_and(|kind| grpc::is_grpc(kind.as_bytes())) {
        return Err(Unanswered::NoMessage("its answer is not gRPC").into());
    }
    // Without content, the head is the trailers.
    succeeded(&head.headers, body.is_end_stream())?;
    let mut answer = BytesMut::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(broken)?;
        let _ = body.flow_control().release_capacity(part.len());
        // The prefix is no part of the message.
        if answer.len().saturating_add(part.len()) > most.saturating_add(PREFIX) {
            return Err(Unanswered::TooLong.into());
        }
        answer.extend_from_slice(&part);
    }
    let trailers = body.trailers().await.map_err(broken)?.unwrap_or_default();
    succeeded(&trailers, true)?;
    unwrapped(answer.freeze()).map_err(|why| Unanswered::NoMessage(why).into())
}

/// A flag and a length.
const PREFIX: usize = 5;

/// Whether the call itself succeeded, by these trailers. `must`: they have to say so.
fn succeeded(trailers: &http::HeaderMap, must: bool) -> Result<(), Unanswered> {
    match trailers.get("grpc-status").map(http::HeaderValue::as_bytes) {
        Some(b"0") => Ok(()),
        None if !must => Ok(()),
        None => Err(Unanswered::NoMessage("its answer has no grpc-status")),
        Some(status) => {
            let status = String::from_utf8_lossy(status.get(..3).unwrap_or(status)).into_owned();
            Err(Unanswered::Status(format!("gRPC status {status}")))
        }
    }
}

/// The one message of an answer.
fn unwrapped(mut answer: Bytes) -> Result<Bytes, &'static str> {
    if answer.len() < PREFIX {
        return Err("its answer is cut");
    }
    if answer.get_u8() != 0 {
        return Err("its message is compressed, which nobody asked for");
    }
    let length = answer.get_u32();
    if usize::try_from(length) != Ok(answer.len()) {
        return Err("its answer is not one message");
    }
    Ok(answer)
}
