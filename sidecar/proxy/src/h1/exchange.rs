//! One request and its answer.
//!
//! 1. The head is read and parsed, or answered with what is wrong with it.
//! 2. The stage decides, and who else has a say is asked. A refusal is answered; the connection goes on if the request had no body.
//! 3. A connection to the target is taken or dialled, and the head goes out in one write with as much of
//!    the body as is there.
//! 4. The rest of the body and the answer pass each other: both directions are polled by this one task.
//! 5. The upstream connection returns to the pool if both messages ended cleanly.
//!
//! A request is sent again once, on a fresh connection, if a reused one died before a byte of an answer, and nothing of
//! it had been sent or its method is idempotent; elsewhere, if the other sidecar says that it reached no app; and as often
//! as its route or port says ([`crate::tries`]). Once an answer
//! has begun, a failure is a reset: the client must not take a cut answer for a whole one.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use signet_identity::Alpn;
use signet_wire::RequestView;
use signet_wire::h1::{Body, Framing, RequestError, RequestHead, RequestParser};
use signet_wire::websocket::Frames;
use tokio::time::Instant;

use super::failure::Failure;
use super::run::{Asked, Done, Finish, Run};
use super::upload::Upload;
use super::{connect, copies};
use crate::answer::{Dialect, Reason, Refusal};
use crate::authz;
use crate::exchange::Exchange;
use crate::handle;
use crate::hop_proof;
use crate::io::Conn;
use crate::metrics::RouteMetrics;
use crate::session::Session;
use crate::stage::{Forward, Stage, Target};
use crate::state::Snapshot;
use crate::state::{InFlight, Timeouts};
use crate::tries::{Outcome, Tries, judge};
use crate::upstream::{Obtained, ended, obtain};
use crate::worker::End;

/// What becomes of the client's connection.
pub(crate) enum Next {
    /// Another request may come.
    Again,
    /// It ends, cleanly.
    Close,
    /// It ends, and bytes that nobody will use may still be coming.
    Linger,
    /// It ends in the middle of an answer, and the client must see that.
    Abort,
    /// It is bytes from now on.
    Tunnel(Box<Tunnel>),
}

/// What an upgrade leaves: the connection to the other side, and what says that the exchange is open.
pub(crate) struct Tunnel {
    pub(crate) conn: Conn,
    pub(crate) timeouts: Timeouts,
    /// What follows the frames of a WebSocket that is a user's.
    pub(crate) frames: Option<Frames>,
    /// Of the service that it leads to, where the connection did not know it.
    pub(crate) metrics: Option<Arc<RouteMetrics>>,
    pub(super) _in_flight: Option<InFlight>,
    pub(super) _exchange: Option<Exchange>,
    pub(super) _handle: Option<handle::Open>,
}

/// Reads one request and sees it through.
pub(crate) async fn exchange<E: Stage>(
    session: &Session<E>,
    client: &mut Conn,
    parser: &mut RequestParser,
) -> Next {
    let head = match read_head(session, client, parser).await {
        Ok(head) => head,
        Err(next) => return next,
    };
    if head.method_bytes() == b"CONNECT" {
        return Box::pin(connect::open(session, client, &head)).await;
    }
    let began = Instant::now();
    let shared = &session.worker().shared;
    let mut view = shared.state.view();
    let admitted = session.stage.admit(&session.conn, &mut view, RequestView::H1(&head)).await;
    let mut forward = match admitted {
        Ok(forward) => forward,
        Err(refusal) => {
            let status = refusal.status();
            session.conn.metrics.answered(status, began.elapsed());
            return refuse(session, client, Some(&head), &refusal).await;
        }
    };
    let known = if forward.subjects.is_empty() {
        Ok(())
    } else {
        // News may have come while it was being admitted.
        session.watch.set_subjects(forward.subjects.clone(), &shared.state.view())
    };
    let next = match known {
        Ok(()) => match asked(session, &view, &head, &mut forward, began).await {
            Ok(()) => carry(session, client, &view, &head, &mut forward, began).await,
            Err(refusal) => Err((refusal, head.framing() == Framing::None)),
        },
        Err(by) => Err((Reason::ContextInvalid(by.label()).into(), head.framing() == Framing::None)),
    };
    session.watch.no_later_than(None);
    if !matches!(next, Ok(Next::Tunnel(_))) {
        session.watch.clear_exchange();
    }
    match next {
        Ok(next) => next,
        Err((refusal, uploaded)) => {
            let next = refuse(session, client, Some(&head), &refusal).await;
            if uploaded { next } else { Next::Linger }
        }
    }
}

/// Whether it is told why it ends when its user is revoked.
fn is_a_users_websocket(head: &RequestHead, forward: &Forward) -> bool {
    let mut upgrades = head.get_all("upgrade");
    !forward.subjects.is_empty() && upgrades.any(|word| word.eq_ignore_ascii_case(b"websocket"))
}

/// Asks who else has a say, if anybody has.
async fn asked<E: Stage>(
    session: &Session<E>,
    view: &Arc<Snapshot>,
    head: &RequestHead,
    forward: &mut Forward,
    began: Instant,
) -> Result<(), Refusal> {
    if forward.check.is_none() {
        return Ok(());
    }
    let mut asked = Box::pin(authz::ask(session, view, RequestView::H1(head), forward));
    // Each question has its own time.
    session.watch.within(None);
    let done = session.watch.wait(|cx| asked.as_mut().poll(cx)).await;
    let done = done.unwrap_or_else(|end| Err(ended(end, format_args!("while a provider was asked"))));
    done.inspect_err(|refusal| session.conn.metrics.answered(refusal.status(), began.elapsed()))
}

/// Carries an admitted request to where it goes, as often as that may be tried. The refusal says what to answer, and
/// whether the request was whole by then.
async fn carry<E: Stage>(
    session: &Session<E>,
    client: &mut Conn,
    view: &Snapshot,
    head: &RequestHead,
    forward: &mut Forward,
    began: Instant,
) -> Result<Next, (Refusal, bool)> {
    let shared = &session.worker().shared;
    let metrics = forward.metrics.as_ref().unwrap_or(&session.conn.metrics).clone();
    let has_body = head.framing() != Framing::None;
    let refused = |refusal: Refusal, uploaded: bool| {
        metrics.answered(refusal.status(), began.elapsed());
        Err((refusal, uploaded))
    };
    if let Some(delay) = forward.delay()
        && !pause(session, delay).await
    {
        return Ok(Next::Abort);
    }
    if let Some(reason) = forward.abort() {
        return refused(reason.into(), !has_body);
    }
    let tries = Tries::new(forward, RequestView::H1(head));
    let body = Body::new(head.framing(), shared.limits.http1);
    let body = RefCell::new(Upload::new(body, tries.keeps(&forward.target).max(copies::keeps(forward))));
    let end = |limit: Option<Duration>| limit.and_then(|limit| began.checked_add(limit));
    let whole = end(forward.stream());
    let to_head = end(forward.timeouts.request)
        .map_or(whole, |to_head| Some(whole.map_or(to_head, |w| w.min(to_head))));
    session.watch.no_later_than(to_head);

    let mut fresh = false;
    let mut received = 0;
    loop {
        let tried = tries.tried();
        let obtained =
            obtain(session.worker(), &session.watch, view, &forward.target, Alpn::Http1, fresh, &tried).await;
        let Obtained { upstream, in_flight } = match obtained {
            Ok(obtained) => obtained,
            Err(_) if session.watch.is_too_late() => {
                return refused(Reason::UpstreamTimeout.into(), !has_body);
            }
            Err(refusal) => return refused(refusal, !has_body),
        };
        if let Some(in_flight) = &in_flight {
            tries.note(in_flight.endpoint().id);
            if let Some(prove) = &forward.prove {
                match prove.header(view, in_flight.endpoint()) {
                    Ok(proof) => forward.edits.set(hop_proof::HEADER, proof),
                    Err(refusal) => return refused(refusal, !has_body),
                }
            }
        }
        forward.answer_edits.distrust(upstream.peer.as_ref().is_some_and(|peer| !peer.has_a_voice()));
        let reused = upstream.reused;
        let endpoint = in_flight.as_ref().map(InFlight::endpoint);
        let asked = Asked { head, forward, body: &body, tries: &tries, endpoint, whole };
        let run = Run::new(session, client, upstream, asked);
        let result = run.run().await;
        let Done { upstream, status, uploaded, answered, discarded, may_retry, sent } = run.done();
        let payload = body.borrow().payload();
        metrics.received.inc_by(payload - received);
        received = payload;
        metrics.sent.inc_by(sent);
        if let (Some(in_flight), Target::Service(port)) = (&in_flight, &forward.target)
            && let Some(outcome) = outcome(&result, answered, uploaded)
        {
            judge(in_flight.endpoint(), port, outcome, shared);
        }
        if let Ok(Finish { tunnel: true, .. }) = result {
            metrics.answered(status, began.elapsed());
            return Ok(Next::Tunnel(Box::new(Tunnel {
                conn: upstream.conn,
                timeouts: forward.timeouts,
                frames: (status == 101 && is_a_users_websocket(head, forward)).then(Frames::default),
                metrics: None,
                _in_flight: in_flight,
                _exchange: forward.exchange.take(),
                _handle: forward.handle.take(),
            })));
        }
        drop(in_flight);
        session.watch.set_upstream(None);
        let failure = match result {
            Ok(finish) => {
                let now = Instant::now();
                metrics.answered(status, now.saturating_duration_since(began));
                if finish.reusable && uploaded {
                    session.worker().pool.borrow_mut().put(upstream, &shared.limits, now);
                }
                copies::send(session.worker(), head, forward, body.borrow().kept().filter(|_| uploaded));
                return Ok(match (finish.persist.closes(), uploaded) {
                    (false, true) => Next::Again,
                    (true, true) => Next::Close,
                    // The answer came before the request was whole; what is left of it goes nowhere.
                    (_, false) => Next::Linger,
                });
            }
            Err(failure) => failure,
        };
        if matches!(failure, Failure::Upstream(_)) && reused && !fresh && may_retry {
            shared.metrics.retried("reused");
            fresh = true;
            continue;
        }
        if discarded {
            session.worker().pool.borrow_mut().put(upstream, &shared.limits, Instant::now());
        }
        let again = match &failure {
            Failure::Unreached => {
                fresh = false;
                continue;
            }
            Failure::Again => true,
            _ if status != 0 || session.watch.is_too_late() || !body.borrow().is_replayable() => false,
            Failure::Upstream(_) | Failure::UpstreamInvalid(_) => tries.again(Outcome::Reset, shared),
            Failure::Ended(End::TimedOut) if uploaded => tries.again(Outcome::TimedOut, shared),
            _ => false,
        };
        if again {
            fresh = false;
            if !pause(session, tries.pause()).await {
                return Ok(Next::Abort);
            }
            continue;
        }
        let refusal = failure.refusal(uploaded);
        if status != 0 {
            tracing::debug!(target: "signet::h1", ?failure, "an answer was cut");
            metrics.answered(status, began.elapsed());
            return Ok(Next::Abort);
        }
        return match refusal {
            Some(refusal) => refused(refusal, uploaded),
            None => Ok(Next::Abort),
        };
    }
}

/// What came of a try, for the endpoint that had it; none where it was not its doing.
fn outcome(result: &Result<Finish, Failure>, answered: u16, uploaded: bool) -> Option<Outcome> {
    match result {
        Ok(_) | Err(Failure::Again | Failure::Unreached) => Some(Outcome::Status(answered)),
        Err(Failure::Upstream(_) | Failure::UpstreamInvalid(_) | Failure::UpstreamBody(_)) => {
            Some(Outcome::Reset)
        }
        // A body that does not come is not its fault.
        Err(Failure::Ended(End::TimedOut)) if answered == 0 && uploaded => Some(Outcome::TimedOut),
        Err(_) => None,
    }
}

/// Waits. `false`: the connection is over.
async fn pause<E: Stage>(session: &Session<E>, time: Duration) -> bool {
    // Finer than the wheel that all other waits go by.
    let mut over = std::pin::pin!(tokio::time::sleep(time));
    session.watch.within(None);
    let ended = session.watch.wait(|cx| over.as_mut().poll(cx)).await;
    matches!(ended, Ok(()) | Err(End::TimedOut))
}

/// Reads until a head is whole.
async fn read_head<E: Stage>(
    session: &Session<E>,
    client: &mut Conn,
    parser: &mut RequestParser,
) -> Result<RequestHead, Next> {
    let mut timed = false;
    loop {
        match parser.parse(client.input()) {
            Ok(Some(head)) => {
                client.consume(0);
                return Ok(head);
            }
            Ok(None) => {}
            Err(error) => return Err(refuse(session, client, None, &bad_request(error)).await),
        }
        if !timed {
            // One deadline for the whole head: a byte now and then does not move it.
            session.watch.within(Some(session.worker().shared.limits.head_time));
            timed = true;
        }
        match session.watch.wait(|cx| client.poll_fill(cx)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => return Err(Next::Close),
            Err(End::TimedOut) => {
                return Err(refuse(session, client, None, &Reason::RequestTimeout.into()).await);
            }
            Err(_) => return Err(Next::Abort),
        }
    }
}

fn bad_request(error: RequestError) -> Refusal {
    let reason = match error.status() {
        431 => Reason::HeadTooLarge,
        405 => Reason::MethodNotAllowed,
        417 => Reason::ExpectationFailed,
        505 => Reason::VersionNotSupported,
        _ => Reason::BadRequest(error.label()),
    };
    Refusal::new(reason).detail(error)
}

/// Answers for ourselves. Without a head, or with a body still to come, the connection ends with it.
pub(super) async fn refuse<E: Stage>(
    session: &Session<E>,
    client: &mut Conn,
    head: Option<&RequestHead>,
    refusal: &Refusal,
) -> Next {
    session.note(refusal);
    let goes_on = head.is_some_and(|head| head.framing() == Framing::None && head.keep_alive())
        && !session.is_leaving()
        && session.watch.ended().is_none();
    let to_head = head.is_some_and(|head| head.method_bytes() == b"HEAD");
    let answer = refusal.answer(session.stage.audience(), Dialect::Http).to_http1(!goes_on, to_head);
    session.watch.within(Some(session.worker().shared.limits.head_time));
    let mut at = 0;
    match session.watch.wait(|cx| client.poll_send(cx, &answer, &mut at)).await {
        Ok(Ok(())) if goes_on => Next::Again,
        Ok(Ok(())) => Next::Linger,
        _ => Next::Abort,
    }
}

/// The size of an exchange's future, for the test that bounds it.
#[cfg(test)]
pub(super) fn size() -> usize {
    fn of<'a, F>(
        _: impl FnOnce(&'a Session<crate::stage::NoEdge>, &'a mut Conn, &'a mut RequestParser) -> F,
    ) -> usize {
        std::mem::size_of::<F>()
    }
    of(exchange)
}
