//! One request and its answer.
//!
//! 1. The head is read and parsed, or answered with what is wrong with it.
//! 2. The stage decides. A refusal is answered; the connection goes on if the request had no body.
//! 3. A connection to the target is taken or dialled, and the head goes out in one write with as much of
//!    the body as is there.
//! 4. The rest of the body and the answer pass each other: both directions are polled by this one task.
//! 5. The upstream connection returns to the pool if both messages ended cleanly.
//!
//! A request without a body is sent again once, on a fresh connection, if a reused one died before a byte of
//! an answer, and nothing of it had been sent or its method is idempotent. Once an answer has begun, a
//! failure is a reset: the client must not take a cut answer for a whole one.

use std::time::Instant;

use signet_wire::RequestView;
use signet_wire::h1::{Framing, RequestError, RequestHead, RequestParser};

use super::failure::Failure;
use super::run::{Done, Finish, Run};
use crate::answer::{Dialect, Reason, Refusal};
use crate::exchange::Exchange;
use crate::io::Conn;
use crate::session::Session;
use crate::stage::Stage;
use crate::state::{InFlight, Timeouts};
use crate::upstream::{Obtained, obtain};
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
    _in_flight: Option<InFlight>,
    _exchange: Option<Exchange>,
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
    let began = Instant::now();
    let shared = &session.worker().shared;
    let mut view = shared.state.view();
    let admitted = session.stage.admit(&session.conn, &mut view, RequestView::H1(&head)).await;
    let forward = match admitted {
        Ok(forward) => forward,
        Err(refusal) => {
            let status = refusal.reason.status();
            session.conn.metrics.answered(status, began.elapsed());
            return refuse(session, client, Some(&head), &refusal).await;
        }
    };
    let metrics = forward.metrics.as_ref().unwrap_or(&session.conn.metrics).clone();

    let mut fresh = false;
    loop {
        let obtained = obtain(session.worker(), &session.watch, &view, &forward.target, fresh).await;
        let Obtained { upstream, in_flight } = match obtained {
            Ok(obtained) => obtained,
            Err(refusal) => {
                metrics.answered(refusal.reason.status(), began.elapsed());
                return refuse(session, client, Some(&head), &refusal).await;
            }
        };
        let reused = upstream.reused;
        let run = Run::new(session, client, upstream, &head, &forward);
        let result = run.run().await;
        let Done { upstream, status, uploaded, may_retry, bytes } = run.done();
        metrics.received.inc_by(bytes.0);
        metrics.sent.inc_by(bytes.1);
        if let Ok(Finish { tunnel: true, .. }) = result {
            metrics.answered(status, began.elapsed());
            return Next::Tunnel(Box::new(Tunnel {
                conn: upstream.conn,
                timeouts: forward.timeouts,
                _in_flight: in_flight,
                _exchange: forward.exchange,
            }));
        }
        drop(in_flight);
        session.watch.set_upstream(None);
        match result {
            Ok(finish) => {
                metrics.answered(status, began.elapsed());
                if finish.reusable && uploaded {
                    session.worker().pool.borrow_mut().put(upstream, &shared.limits);
                }
                return match (finish.persist.closes(), uploaded) {
                    (false, true) => Next::Again,
                    (true, true) => Next::Close,
                    // The answer came before the request was whole; what is left of it goes nowhere.
                    (_, false) => Next::Linger,
                };
            }
            Err(Failure::Upstream(_)) if reused && !fresh && may_retry => {
                shared.metrics.retries.inc();
                fresh = true;
            }
            Err(failure) => {
                let refusal = failure.refusal(uploaded);
                if status != 0 {
                    tracing::debug!(target: "signet::h1", ?failure, "an answer was cut");
                    metrics.answered(status, began.elapsed());
                    return Next::Abort;
                }
                let Some(refusal) = refusal else { return Next::Abort };
                metrics.answered(refusal.reason.status(), began.elapsed());
                let next = refuse(session, client, Some(&head), &refusal).await;
                return if uploaded { next } else { Next::Linger };
            }
        }
    }
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
async fn refuse<E: Stage>(
    session: &Session<E>,
    client: &mut Conn,
    head: Option<&RequestHead>,
    refusal: &Refusal,
) -> Next {
    session.note(refusal);
    let goes_on = head.is_some_and(|head| head.framing() == Framing::None && head.keep_alive())
        && !session.is_leaving()
        && session.watch.ended().is_none();
    let to_head = head.is_some_and(|head| head.method() == "HEAD");
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
