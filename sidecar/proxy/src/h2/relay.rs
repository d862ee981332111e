//! Both directions of one exchange, once it has a place on a link.
//!
//! One task polls them: the request's body to the other side, its answer to the client, and a reset from either.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::Reason as Code;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use http::Response;
use signet_wire::grpc;
use signet_wire::h1::ResponseError;
use signet_wire::h2::check_answer;

use super::exchange::{Clock, Failure, Progress, came, unless_gone};
use super::link::Lease;
use super::pump::{self, Broken, Pump};
use crate::answer::{Reason, Refusal};
use crate::shared::{INTERIM, Shared};
use crate::stage::Forward;
use crate::state::Endpoint;
use crate::tries::{Outcome, Tries};
use crate::worker::Deadline;

/// The status of a call for somebody who is not believed any more.
const UNAUTHENTICATED: u8 = 16;

/// Sends the request on a link and brings the answer back.
#[allow(clippy::too_many_arguments)]
pub(super) async fn relay(
    lease: &mut Lease,
    request: http::Request<()>,
    respond: &mut SendResponse<Bytes>,
    upload: &mut Pump,
    deadline: &Deadline,
    clock: &Clock,
    forward: &Forward,
    shared: &Shared,
    progress: &mut Progress,
    tries: &Tries,
) -> Result<(), Failure> {
    unless_gone(respond, deadline, |cx| lease.sender.poll_ready(cx)).await?.map_err(|_| gone(lease))?;
    let is_grpc = request.headers().get(http::header::CONTENT_TYPE);
    let is_grpc = is_grpc.is_some_and(|kind| grpc::is_grpc(kind.as_bytes()));
    let ended = upload.is_empty();
    let (response, stream) = lease.sender.send_request(request, ended).map_err(|_| gone(lease))?;
    upload.aim(stream, ended);
    let endpoint = lease.endpoint();
    let mut relay = Relay {
        response,
        respond,
        upload,
        forward,
        shared,
        down: None,
        interim: 0,
        done: progress,
        tries,
        endpoint,
        is_grpc,
    };
    let result = poll_fn(|cx| {
        if let Some(by) = deadline.struck() {
            return Poll::Ready(Err(Failure::UserRevoked(by)));
        }
        let before = relay.moved();
        let step = relay.poll(cx);
        if step.is_pending() {
            if relay.moved() != before {
                clock.progressed(deadline, relay.done.status != 0);
            }
            return deadline.poll(cx).map(|()| Err(came(deadline)));
        }
        step
    })
    .await;
    match &result {
        // Its driver may hear of it later than we do: who tries again must not be given the same link.
        Err(Failure::Died) => lease.retire(),
        Err(Failure::Unprocessed(code)) if *code != Code::REFUSED_STREAM => lease.retire(),
        _ => {}
    }
    if let (Some(down), Err(failure)) = (&mut relay.down, &result) {
        match failure {
            // A caller of gRPC tells this from a server that died.
            Failure::UserRevoked(by) if is_grpc && down.end_call(UNAUTHENTICATED, by.label()) => {}
            Failure::Reset(code) | Failure::Unprocessed(code) if *code != Code::NO_ERROR => down.reset(*code),
            Failure::TimedOut | Failure::UserRevoked(_) => down.reset(Code::CANCEL),
            _ => down.reset(Code::INTERNAL_ERROR),
        }
    }
    result
}

/// The link takes no more requests; nothing of this one was sent.
fn gone(lease: &Lease) -> Failure {
    lease.retire();
    Failure::Unprocessed(Code::NO_ERROR)
}

/// Both directions of one exchange.
struct Relay<'a> {
    response: ResponseFuture,
    respond: &'a mut SendResponse<Bytes>,
    upload: &'a mut Pump,
    forward: &'a Forward,
    shared: &'a Shared,
    /// The answer's body, once its head is sent.
    down: Option<Pump>,
    /// Interim answers so far.
    interim: u32,
    done: &'a mut Progress,
    tries: &'a Tries,
    /// Where the request went, if that is an endpoint of the mesh.
    endpoint: Option<&'a Arc<Endpoint>>,
    is_grpc: bool,
}

impl Relay<'_> {
    fn moved(&self) -> u64 {
        self.upload.moved + self.down.as_ref().map_or(0, |down| down.moved)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let reset = match &mut self.down {
            None => self.respond.poll_reset(cx),
            Some(down) => down.poll_reset(cx),
        };
        if let Poll::Ready(reset) = reset {
            return Poll::Ready(Err(Failure::ClientGone(reset.unwrap_or(Code::CANCEL))));
        }
        if !self.upload.is_done() {
            match self.upload.poll(cx, &self.shared.protected()) {
                Poll::Ready(Err(Broken::From(error))) => {
                    return Poll::Ready(Err(Failure::ClientGone(error.reason().unwrap_or(Code::CANCEL))));
                }
                Poll::Ready(Err(Broken::Trailers)) => {
                    let refusal = Refusal::new(Reason::BadRequest("trailers")).detail(OUTER_SPACE);
                    return Poll::Ready(Err(Failure::Refused(refusal)));
                }
                // The other side takes no more of the request. Its answer, or its reset, says why.
                Poll::Ready(_) | Poll::Pending => {}
            }
        }
        if self.down.is_none() {
            match self.poll_head(cx) {
                Poll::Ready(Ok(ended)) if ended => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                Poll::Pending => return Poll::Pending,
            }
        }
        let Some(down) = &mut self.down else { return Poll::Pending };
        let passed = down.poll(cx, &self.shared.protected());
        self.done.sent = down.moved;
        if let Some(code) = down.grpc_status {
            self.done.outcome = Some(Outcome::Grpc(code));
        }
        match passed {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(Broken::From(error))) => Poll::Ready(Err(upstream_failure(&error))),
            Poll::Ready(Err(Broken::Trailers)) => Poll::Ready(Err(invalid(OUTER_SPACE))),
            Poll::Ready(Err(Broken::To(error))) => {
                let code = error.and_then(|error| error.reason()).unwrap_or(Code::CANCEL);
                Poll::Ready(Err(Failure::ClientGone(code)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Waits for the answer's head and sends it on. `true`: it is the whole answer.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Failure>> {
        while let Poll::Ready(Some(Ok(mut interim))) = self.response.poll_informational(cx) {
            self.interim += 1;
            if self.interim > INTERIM {
                return Poll::Ready(Err(invalid(ResponseError::TooManyInterim)));
            }
            if let Err(error) = check_answer(interim.status(), interim.headers()) {
                return Poll::Ready(Err(invalid(error)));
            }
            self.forward.answer_edits.apply(interim.headers_mut(), &self.shared.protected());
            if self.respond.send_informational(interim).is_err() {
                break;
            }
        }
        let response = match Pin::new(&mut self.response).poll(cx) {
            Poll::Ready(Ok(response)) => response,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(upstream_failure(&error))),
            Poll::Pending => return Poll::Pending,
        };
        let (mut parts, body) = response.into_parts();
        if let Err(error) = check_answer(parts.status, &parts.headers) {
            return Poll::Ready(Err(invalid(error)));
        }
        let is_all = self.is_grpc && body.is_end_stream();
        let code = if is_all { pump::grpc_status(&parts.headers) } else { None };
        let outcome = code.map_or(Outcome::Status(parts.status.as_u16()), Outcome::Grpc);
        self.done.outcome = Some(outcome);
        // In gRPC a refusal is such an answer with the status 200.
        let says = (is_all || parts.status.as_u16() == Reason::ConnectFailed.status())
            .then(|| parts.headers.get("signet-deny-reason"))
            .flatten()
            .map(http::HeaderValue::as_bytes);
        let replayable = self.upload.is_replayable();
        // Asked in any case: it also notes how the endpoint stands.
        if self.tries.elsewhere(says, &self.forward.target, self.endpoint, self.shared) && replayable {
            return Poll::Ready(Err(Failure::Unreached));
        }
        if replayable && self.tries.again(outcome, self.shared) {
            return Poll::Ready(Err(Failure::Again));
        }
        if self.forward.copies().is_empty() {
            self.upload.forget();
        }
        self.forward.answer_edits.apply(&mut parts.headers, &self.shared.protected());
        self.done.status = parts.status.as_u16();
        let ended = body.is_end_stream();
        match self.respond.send_response(Response::from_parts(parts, ()), ended) {
            Ok(_) if ended => Poll::Ready(Ok(true)),
            Ok(stream) => {
                let mut down = Pump::new(body, false);
                down.aim(stream, false);
                self.down = Some(down);
                Poll::Ready(Ok(false))
            }
            Err(error) => Poll::Ready(Err(Failure::ClientGone(error.reason().unwrap_or(Code::CANCEL)))),
        }
    }
}

const OUTER_SPACE: &str = "a value of the trailers begins or ends with white space";

/// The other side's answer is not HTTP.
fn invalid(error: impl std::fmt::Display) -> Failure {
    Failure::Refused(Refusal::new(Reason::UpstreamInvalid).detail(error))
}

/// What an error of the other side's stream means for this request.
fn upstream_failure(error: &h2::Error) -> Failure {
    let code = error.reason().unwrap_or(Code::INTERNAL_ERROR);
    match (error.is_remote(), error.is_reset(), error.is_go_away()) {
        // RFC 9113, 8.7: nothing of it was processed.
        (true, true, _) if code == Code::REFUSED_STREAM => Failure::Unprocessed(code),
        // The library gives this error to streams above the GOAWAY's last one only.
        (true, _, true) => Failure::Unprocessed(code),
        (true, true, _) => Failure::Reset(code),
        _ if error.is_io() => Failure::Died,
        _ => Failure::Broken,
    }
}
