//! One HTTP/2 request and its answer.
//!
//! 1. The head is checked by the same rules as an HTTP/1 one, and the stage decides. Who else has a say is asked.
//! 2. A place on a link is taken and the request sent; body and answer pass each other from then on.
//! 3. A request that the other side never processed is sent again on another link, and so is, once, an idempotent one whose
//!    link ended without a word.
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
use signet_token::UserRevokedBy;
use signet_wire::h2::{HeadError, RequestHead};
use signet_wire::{Edits, Known, RequestView, grpc};
use tokio::time::Instant;

use super::link;
use super::pump::Pump;
use super::relay::relay;
use super::serve::Request;
use super::{connect, copies};
use crate::answer::{Dialect, Reason, Refusal};
use crate::authz;
use crate::hop_proof;
use crate::metrics::RouteMetrics;
use crate::shared::Shared;
use crate::stage::{Forward, Stage, Target};
use crate::tries::{Outcome, Tries, is_idempotent, judge};
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
    /// The other side's connection broke the rules.
    Broken,
    /// The other side's connection ended without a word.
    Died,
    /// A deadline passed.
    TimedOut,
    /// The user for whom it is made is revoked.
    UserRevoked(UserRevokedBy),
    /// An answer was thrown away for another try, which the budget has paid for.
    Again,
    /// An answer was thrown away, since the request reached no app: it is tried elsewhere.
    Unreached,
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
    /// What the other side answered, as far as it did.
    pub(super) outcome: Option<Outcome>,
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
    if parts.method == http::Method::CONNECT {
        if let Err(refusal) = Box::pin(connect::open(&request, &parts, body, &mut respond)).await {
            session.conn.metrics.answered(refusal.status(), request.took());
            session.note(&refusal);
            answer(&refusal, session.stage.audience(), Dialect::Http, false, &mut respond);
        }
        return;
    }
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
        Failure::UserRevoked(by) => Reason::ContextInvalid(by.label()).into(),
        Failure::TimedOut => Reason::UpstreamTimeout.into(),
        _ => Reason::UpstreamReset.into(),
    };
    metrics.answered(refusal.status(), request.took());
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
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(&*name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
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
    let mut forward = admitted?;
    if let Some(of_route) = &forward.metrics {
        *metrics = of_route.clone();
    }
    let _held = if forward.subjects.is_empty() {
        None
    } else {
        let held = worker.registry.hold(&forward.subjects, deadline, &shared.state.view());
        held.map_err(|by| Refusal::new(Reason::ContextInvalid(by.label())))?
    };
    if forward.check.is_some() {
        let mut asked = Box::pin(authz::ask(session, &view, RequestView::H2(&head), &mut forward));
        unless_gone(respond, deadline, |cx| asked.as_mut().poll(cx)).await??;
    }
    let clock = Clock::new(&head, &forward, shared);
    if let Some(delay) = forward.delay() {
        pause(respond, &clock, deadline, delay).await?;
        if clock.is_over() {
            return Err(Failure::TimedOut);
        }
    }
    if let Some(reason) = forward.abort() {
        return Err(Failure::Refused(reason.into()));
    }
    let tries = Tries::new(&forward, RequestView::H2(&head));
    upload.remember_up_to(tries.keeps(&forward.target));
    let is_idempotent = is_idempotent(head.method().as_str());
    let copy = (!forward.copies().is_empty()).then(|| head.clone());
    let mut outgoing = Some(outgoing(head, &forward.edits, &forward.target, shared)?);
    let mut unprocessed = 0;
    let mut died = false;
    loop {
        clock.start(deadline);
        let tried = tries.tried();
        let mut leased = {
            let mut lease = pin!(link::lease(worker, &view, &forward.target, &tried));
            unless_gone(respond, deadline, |cx| lease.as_mut().poll(cx)).await??
        };
        let (endpoint, end) = (leased.endpoint().cloned(), leased.end());
        if let Some(endpoint) = &endpoint {
            tries.note(endpoint.id);
        }
        forward.answer_edits.distrust(!leased.has_a_voice());
        let reused = leased.is_reused();
        let replayable = upload.is_replayable();
        let this = if replayable { outgoing.clone() } else { outgoing.take() };
        let Some(mut this) = this else { return Err(Failure::Broken) };
        if let (Some(prove), Some(endpoint)) = (&forward.prove, &endpoint) {
            this.headers_mut().insert(hop_proof::HEADER, prove.header(&view, endpoint)?);
        }
        progress.outcome = None;
        let result =
            relay(&mut leased, this, respond, upload, deadline, &clock, &forward, shared, progress, &tries)
                .await;
        drop(leased);
        if let (Some(endpoint), Target::Service(port)) = (&endpoint, &forward.target)
            && let Some(outcome) = outcome(&result, progress, upload, &clock)
        {
            judge(endpoint, port, outcome, shared);
        }
        let replayable = upload.is_replayable() && progress.status == 0;
        let again = match &result {
            Err(Failure::Again) => true,
            Err(Failure::Unreached) => continue,
            // A link that had stood may have been dead already, as a reused connection of HTTP/1.
            Err(Failure::Died) if replayable && reused && is_idempotent && !died => {
                died = true;
                shared.metrics.retried("reused");
                continue;
            }
            Err(Failure::Unprocessed(_)) if replayable && unprocessed + 1 < TRIES => {
                unprocessed += 1;
                shared.metrics.retried("unprocessed");
                continue;
            }
            Err(Failure::Broken | Failure::Died | Failure::Reset(_)) if replayable => {
                tries.again(Outcome::Reset, shared)
            }
            Err(Failure::TimedOut) if replayable && upload.is_done() && !clock.is_over() => {
                tries.again(Outcome::TimedOut, shared)
            }
            _ => false,
        };
        if !again {
            if result.is_ok()
                && let Some(head) = copy
            {
                copies::send(worker, &head, &forward, upload);
            }
            return result.map_err(|failure| match failure {
                Failure::Broken | Failure::Died => Failure::Refused(end.refusal()),
                failure => failure,
            });
        }
        pause(respond, &clock, deadline, tries.pause()).await?;
        if clock.is_over() {
            return Err(Failure::TimedOut);
        }
    }
}

/// What it is that a deadline came for.
pub(super) fn came(deadline: &Deadline) -> Failure {
    deadline.struck().map_or(Failure::TimedOut, Failure::UserRevoked)
}

/// Waits for so long, unless the client goes or its time is over.
async fn pause(
    respond: &mut SendResponse<Bytes>,
    clock: &Clock,
    deadline: &Deadline,
    time: Duration,
) -> Result<(), Failure> {
    clock.start(deadline);
    // Finer than the wheel that all other waits go by.
    let mut over = pin!(tokio::time::sleep(time));
    match unless_gone(respond, deadline, |cx| over.as_mut().poll(cx)).await {
        Ok(()) | Err(Failure::TimedOut) => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// What came of a try, for the endpoint that had it; none where it was not its doing.
fn outcome(
    result: &Result<(), Failure>,
    progress: &Progress,
    upload: &Pump,
    clock: &Clock,
) -> Option<Outcome> {
    match result {
        Ok(()) | Err(Failure::Again | Failure::Unreached) => progress.outcome,
        Err(Failure::Broken | Failure::Died) => Some(Outcome::Reset),
        Err(Failure::Reset(code)) => (*code != Code::NO_ERROR).then_some(Outcome::Reset),
        // How long its caller would wait is not the endpoint's fault, nor is a body that does not come.
        Err(Failure::TimedOut) => {
            (progress.status == 0 && upload.is_done() && !clock.is_callers_end()).then_some(Outcome::TimedOut)
        }
        Err(
            Failure::ClientGone(_) | Failure::Unprocessed(_) | Failure::Refused(_) | Failure::UserRevoked(_),
        ) => None,
    }
}

/// The deadlines of one exchange.
pub(super) struct Clock {
    /// When the answer's head must be there, whatever the tries.
    head: Option<Instant>,
    /// How long one try may take to it.
    per_try: Option<Duration>,
    /// Without progress.
    stall: Duration,
    /// When the caller gives up by its own word (`grpc-timeout`).
    callers: Option<Instant>,
    /// When all of it must be over.
    whole: Option<Instant>,
}

impl Clock {
    fn new(head: &RequestHead, forward: &Forward, shared: &Shared) -> Self {
        let view = RequestView::H2(head);
        let timeout = view.get(Known::GrpcTimeout).filter(|_| view.is_grpc()).and_then(grpc::timeout);
        let end = |limit: Option<Duration>| limit.and_then(|limit| Instant::now().checked_add(limit));
        Clock {
            head: end(forward.timeouts.request),
            per_try: forward.per_try(),
            stall: forward.timeouts.idle.unwrap_or(shared.limits.stall),
            callers: end(timeout),
            whole: end(forward.stream()),
        }
    }

    /// The end of everything.
    fn end(&self) -> Option<Instant> {
        [self.callers, self.whole].into_iter().flatten().min()
    }

    fn set(&self, deadline: &Deadline, limit: Duration) {
        let left = self.end().map(|end| end.saturating_duration_since(Instant::now()));
        deadline.set(Some(left.map_or(limit, |left| left.min(limit))));
    }

    /// A try begins.
    fn start(&self, deadline: &Deadline) {
        let left = self.head.map(|head| head.saturating_duration_since(Instant::now()));
        let limit = [left, self.per_try].into_iter().flatten().min();
        self.set(deadline, limit.unwrap_or(self.stall));
    }

    /// Something moved.
    pub(super) fn progressed(&self, deadline: &Deadline, answered: bool) {
        if answered || self.head.is_none() && self.per_try.is_none() {
            self.set(deadline, self.stall);
        }
    }

    /// Whether no try could come in time.
    fn is_over(&self) -> bool {
        let now = Instant::now();
        self.end().into_iter().chain(self.head).any(|end| end <= now)
    }

    /// Whether the caller has given up.
    fn is_callers_end(&self) -> bool {
        self.callers.is_some_and(|end| end <= Instant::now())
    }
}

/// The head as it is sent.
pub(super) fn outgoing(
    head: RequestHead,
    edits: &Edits,
    target: &Target,
    shared: &Shared,
) -> Result<http::Request<()>, Refusal> {
    let scheme = match target {
        Target::App(_) => http::uri::Scheme::HTTP,
        Target::Outside(origin) if origin.tls.is_none() => http::uri::Scheme::HTTP,
        Target::Service(_) | Target::Outside(_) => http::uri::Scheme::HTTPS,
    };
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(scheme);
    uri.authority = match edits.authority() {
        Some(authority) => http::uri::Authority::from_maybe_shared(authority.clone()).ok(),
        None => head.uri_authority(),
    };
    uri.path_and_query = match edits.target() {
        Some(target) => http::uri::PathAndQuery::from_maybe_shared(target.as_bytes().clone()).ok(),
        None => head.uri_target(),
    };
    let uri =
        Uri::from_parts(uri).map_err(|error| Refusal::new(Reason::BadRequest("target")).detail(error))?;
    let mut request = http::Request::new(());
    *request.method_mut() = head.method().clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = head.into_headers();
    // What the stage let through or dropped, it has counted.
    edits.apply(request.headers_mut(), &shared.protected());
    Ok(request)
}

/// Waits, unless the client resets the request or the deadline passes.
pub(super) async fn unless_gone<T>(
    respond: &mut SendResponse<Bytes>,
    deadline: &Deadline,
    mut ready: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Result<T, Failure> {
    poll_fn(|cx| {
        if let Some(by) = deadline.struck() {
            return Poll::Ready(Err(Failure::UserRevoked(by)));
        }
        if let Poll::Ready(done) = ready(cx) {
            return Poll::Ready(Ok(done));
        }
        if let Poll::Ready(reset) = respond.poll_reset(cx) {
            return Poll::Ready(Err(Failure::ClientGone(reset.unwrap_or(Code::CANCEL))));
        }
        deadline.poll(cx).map(|()| Err(came(deadline)))
    })
    .await
}
