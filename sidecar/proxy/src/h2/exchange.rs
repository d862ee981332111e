//! One HTTP/2 request and its answer.
//!
//! 1. The head is checked by the same rules as an HTTP/1 one, and the stage decides.
//! 2. A place on a link is taken and the request sent; body and answer pass each other from then on.
//! 3. A request that the other side never processed is sent again on another link.
//! 4. A failure before the answer's head is an answer of ours (trailers only, for gRPC); after it, a reset.
//!
//! The client's reset ends everything at once, whatever is waited for.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason as Code, RecvStream};
use http::{HeaderName, HeaderValue, Response, Uri};
use signet_wire::h2::{HeadError, RequestHead};
use signet_wire::{Known, RequestView, grpc};
use tokio::time::Instant;

use super::link;
use super::pump::Pump;
use super::relay::relay;
use super::serve::Request;
use crate::answer::{Dialect, Reason, Refusal};
use crate::metrics::RouteMetrics;
use crate::shared::Shared;
use crate::stage::{Forward, Stage, Target};
use crate::worker::Deadline;

/// Links tried for a request that nobody has processed.
const TRIES: usize = 3;

/// Why there is no whole answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The client reset the request, or is gone.
    ClientGone(Code),
    /// The other side reset it.
    Reset(Code),
    /// The other side never processed it.
    Unprocessed(Code),
    /// The other side's connection broke.
    Broken,
    /// A deadline passed.
    TimedOut,
    /// We refuse.
    Refused(Refusal),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::Refused(refusal)
    }
}

/// What became of the answer so far.
#[derive(Default)]
pub(super) struct Progress {
    /// The status whose head is on its way to the client; 0 before.
    pub(super) status: u16,
    pub(super) sent: u64,
}

/// Sees one request through.
pub(super) async fn exchange<E: Stage>(
    request: Request<E>,
    received: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let session = &request.served.session;
    let shared = &session.worker().shared;
    let (parts, body) = received.into_parts();
    let dialect = match parts.headers.get(http::header::CONTENT_TYPE) {
        Some(kind) if grpc::is_grpc(kind.as_bytes()) => Dialect::Grpc,
        _ => Dialect::Http,
    };
    let to_head = parts.method == http::Method::HEAD;
    let mut upload = Pump::new(body, true);
    let mut progress = Progress::default();
    let deadline = Deadline::new();
    let mut metrics = session.conn.metrics.clone();
    let run = run(&request, parts, &mut respond, &mut upload, &deadline, &mut progress, &mut metrics);
    let result = Box::pin(run).await;
    metrics.received.inc_by(upload.moved);
    metrics.sent.inc_by(progress.sent);
    session.conn.metrics.stripped.inc_by(u64::from(upload.stripped));
    let failure = match result {
        Ok(()) => {
            metrics.answered(progress.status, request.took());
            return;
        }
        Err(failure) => failure,
    };
    tracing::debug!(target: "signet::h2", ?failure, status = progress.status, "an exchange failed");
    match (&failure, progress.status) {
        (Failure::ClientGone(code), _) => {
            request.was_reset();
            upload.reset(*code);
            return;
        }
        (_, 1..) => {
            // The answer has begun: the client must see that it is cut. the relay has reset it with its reason.
            upload.reset(Code::CANCEL);
            metrics.answered(progress.status, request.took());
            return;
        }
        (Failure::Reset(code) | Failure::Unprocessed(code), _) if *code != Code::NO_ERROR => {
            metrics.answered(Reason::UpstreamReset.status(), request.took());
            shared.metrics.refused(session.conn.direction, Reason::UpstreamReset.label());
            respond.send_reset(*code);
            return;
        }
        _ => upload.reset(Code::CANCEL),
    }
    let refusal = match failure {
        Failure::Refused(refusal) => refusal,
        Failure::TimedOut => Reason::UpstreamTimeout.into(),
        _ => Reason::UpstreamReset.into(),
    };
    metrics.answered(refusal.reason.status(), request.took());
    session.note(&refusal);
    answer(&refusal, session.stage.audience(), dialect, to_head, &mut respond);
}

/// Answers for ourselves. What is left of the request is refused by the library, without an error.
fn answer(
    refusal: &Refusal,
    audience: crate::answer::Audience,
    dialect: Dialect,
    to_head: bool,
    respond: &mut SendResponse<Bytes>,
) {
    let answer = refusal.answer(audience, dialect);
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(answer.status).unwrap_or_default();
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().append(HeaderName::from_static(name), value);
        }
    }
    if dialect == Dialect::Http {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(answer.body.len()));
    }
    let ended = to_head || answer.body.is_empty();
    // Fails only when the client is gone.
    if let Ok(mut stream) = respond.send_response(response, ended)
        && !ended
    {
        let _ = stream.send_data(answer.body, true);
    }
}

fn bad_request(error: HeadError) -> Refusal {
    let reason = match error {
        HeadError::Connect => Reason::MethodNotAllowed,
        HeadError::Expectation => Reason::ExpectationFailed,
        other => Reason::BadRequest(other.label()),
    };
    Refusal::new(reason).detail(error)
}

async fn run<E: Stage>(
    request: &Request<E>,
    parts: http::request::Parts,
    respond: &mut SendResponse<Bytes>,
    upload: &mut Pump,
    deadline: &Deadline,
    progress: &mut Progress,
    metrics: &mut Arc<RouteMetrics>,
) -> Result<(), Failure> {
    let session = &request.served.session;
    let worker = session.worker();
    let shared = &worker.shared;
    let head = RequestHead::new(parts).map_err(bad_request)?;
    let mut view = shared.state.view();
    let admitted = {
        let mut admit = pin!(session.stage.admit(&session.conn, &mut view, RequestView::H2(&head)));
        unless_gone(respond, deadline, |cx| admit.as_mut().poll(cx)).await?
    };
    let forward = admitted?;
    if let Some(of_route) = &forward.metrics {
        *metrics = of_route.clone();
    }
    let clock = Clock::new(&head, &forward, shared);
    clock.start(deadline);
    let mut outgoing = Some(outgoing(head, &forward, shared)?);
    let mut tries = 0;
    loop {
        tries += 1;
        let leased = {
            let mut lease = pin!(link::lease(worker, &view, &forward.target));
            unless_gone(respond, deadline, |cx| lease.as_mut().poll(cx)).await??
        };
        let again = tries < TRIES && upload.is_replayable();
        let this = if again { outgoing.clone() } else { outgoing.take() };
        let Some(this) = this else { return Err(Failure::Broken) };
        match relay(leased, this, respond, upload, deadline, &clock, &forward, shared, progress).await {
            Err(Failure::Unprocessed(_)) if again && upload.is_replayable() && progress.status == 0 => {
                shared.metrics.retries.inc();
            }
            result => return result,
        }
    }
}

/// The deadlines of one exchange.
pub(super) struct Clock {
    /// To the answer's head, and for nothing after it.
    head: Option<Duration>,
    /// Without progress.
    stall: Duration,
    /// When the caller gives up by its own word (`grpc-timeout`).
    end: Option<Instant>,
}

impl Clock {
    fn new(head: &RequestHead, forward: &Forward, shared: &Shared) -> Self {
        let view = RequestView::H2(head);
        let timeout = view.get(Known::GrpcTimeout).filter(|_| view.is_grpc()).and_then(grpc::timeout);
        Clock {
            head: forward.timeouts.request,
            stall: forward.timeouts.idle.unwrap_or(shared.limits.stall),
            end: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        }
    }

    fn set(&self, deadline: &Deadline, limit: Duration) {
        let left = self.end.map(|end| end.saturating_duration_since(Instant::now()));
        deadline.set(Some(left.map_or(limit, |left| left.min(limit))));
    }

    fn start(&self, deadline: &Deadline) {
        self.set(deadline, self.head.unwrap_or(self.stall));
    }

    /// Something moved.
    pub(super) fn progressed(&self, deadline: &Deadline, answered: bool) {
        if answered || self.head.is_none() {
            self.set(deadline, self.stall);
        }
    }
}

/// The head as it is sent.
fn outgoing(head: RequestHead, forward: &Forward, shared: &Shared) -> Result<http::Request<()>, Refusal> {
    let scheme = match forward.target {
        Target::App(_) => http::uri::Scheme::HTTP,
        Target::Service(_) => http::uri::Scheme::HTTPS,
    };
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(scheme);
    uri.authority = match forward.edits.authority() {
        Some(authority) => http::uri::Authority::from_maybe_shared(authority.clone()).ok(),
        None => head.uri_authority(),
    };
    uri.path_and_query = head.uri_target();
    let uri =
        Uri::from_parts(uri).map_err(|error| Refusal::new(Reason::BadRequest("target")).detail(error))?;
    let mut request = http::Request::new(());
    *request.method_mut() = head.method().clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = head.into_headers();
    // What the stage let through or dropped, it has counted.
    forward.edits.apply(request.headers_mut(), &shared.protected);
    Ok(request)
}

/// Waits, unless the client resets the request or the deadline passes.
pub(super) async fn unless_gone<T>(
    respond: &mut SendResponse<Bytes>,
    deadline: &Deadline,
    mut ready: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Result<T, Failure> {
    poll_fn(|cx| {
        if let Poll::Ready(done) = ready(cx) {
            return Poll::Ready(Ok(done));
        }
        if let Poll::Ready(reset) = respond.poll_reset(cx) {
            return Poll::Ready(Err(Failure::ClientGone(reset.unwrap_or(Code::CANCEL))));
        }
        deadline.poll(cx).map(|()| Err(Failure::TimedOut))
    })
    .await
}
