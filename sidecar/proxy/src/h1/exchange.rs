//! One request and its answer.
//!
//! 1. The head is read and parsed, or answered with what is wrong with it.
//! 2. The stage decides. A refusal is answered; the connection goes on if the request had no body.
//! 3. A connection to the target is taken or dialled, and the head goes out in one write with as much of
//!    the body as is there.
//! 4. The rest of the body and the answer pass each other: both directions are polled by this one task.
//! 5. The upstream connection returns to the pool if both messages ended cleanly.
//!
//! A request is sent again once, on a fresh connection, if a reused one died before a byte of an answer and
//! nothing was sent or the method is idempotent and its body was sent whole. Once an answer has begun, a
//! failure is a reset: the client must not take a cut answer for a whole one.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Instant;

use signet_wire::RequestView;
use signet_wire::h1::{Body, Framing, Persist, RequestError, RequestHead, RequestParser, ResponseParser};

use super::body::{Passing, Step};
use super::failure::Failure;
use crate::answer::{Dialect, Reason, Refusal};
use crate::exchange::Exchange;
use crate::io::{BUFFER, Conn, Lent};
use crate::pool::Upstream;
use crate::session::Session;
use crate::stage::{Forward, Stage};
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
        let Upstream { reused, .. } = upstream;
        let run = Run {
            session,
            client: RefCell::new(client),
            upstream: RefCell::new(upstream),
            head: &head,
            forward: &forward,
            status: Cell::new(0),
            uploaded: Cell::new(false),
            upload_broken: Cell::new(false),
            sent: Cell::new(0),
            replayable: Cell::new(false),
            received_bytes: Cell::new(0),
            sent_bytes: Cell::new(0),
        };
        let result = run.run().await;
        metrics.received.inc_by(run.received_bytes.get());
        metrics.sent.inc_by(run.sent_bytes.get());
        let status = run.status.get();
        let (may_retry, upload_done) = (run.may_retry(), run.uploaded.get());
        let upstream = run.upstream.into_inner();
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
                if finish.reusable && upload_done {
                    session.worker().pool.borrow_mut().put(upstream, &shared.limits);
                }
                return match (finish.persist.closes(), upload_done) {
                    (false, true) => Next::Again,
                    (true, true) => Next::Close,
                    // The answer came before the request was whole; what is left of it goes nowhere.
                    (_, false) => Next::Linger,
                };
            }
            Err(Failure::Upstream(_)) if reused && !fresh && status == 0 && may_retry => {
                shared.metrics.retries.inc();
                fresh = true;
            }
            Err(failure) => {
                let refusal = failure.refusal(upload_done);
                if status != 0 {
                    tracing::debug!(target: "signet::h1", ?failure, "an answer was cut");
                    metrics.answered(status, began.elapsed());
                    return Next::Abort;
                }
                let Some(refusal) = refusal else { return Next::Abort };
                metrics.answered(refusal.reason.status(), began.elapsed());
                let next = refuse(session, client, Some(&head), &refusal).await;
                return if upload_done { next } else { Next::Linger };
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

/// How an exchange ended well.
struct Finish {
    persist: Persist,
    reusable: bool,
    tunnel: bool,
}

/// One try at one upstream. Both directions borrow the connections for the length of a poll only.
struct Run<'a, E> {
    session: &'a Session<E>,
    client: RefCell<&'a mut Conn>,
    upstream: RefCell<Upstream>,
    head: &'a RequestHead,
    forward: &'a Forward,
    /// The answer's status once its head is on the way to the client; 0 before.
    status: Cell<u16>,
    /// The request is on its way as a whole.
    uploaded: Cell<bool>,
    /// The upstream takes no more of the request; its answer may still come.
    upload_broken: Cell<bool>,
    /// Bytes of the request that the upstream's socket took.
    sent: Cell<usize>,
    /// Nothing of the body has left the client's connection but what a second try would write again.
    replayable: Cell<bool>,
    received_bytes: Cell<u64>,
    sent_bytes: Cell<u64>,
}

impl<E: Stage> Run<'_, E> {
    fn may_retry(&self) -> bool {
        self.replayable.get() && (self.sent.get() == 0 || is_idempotent(self.head.method()))
    }

    async fn run(&self) -> Result<Finish, Failure> {
        let shared = &self.session.worker().shared;
        self.session.watch.within(Some(self.forward.timeouts.request.unwrap_or(shared.limits.stall)));
        let body = Body::new(self.head.framing(), shared.limits.http1);
        if body.is_done() {
            self.replayable.set(true);
            let mut out = Lent::take();
            self.write_head(&mut out);
            self.send_upstream(&out).await?;
            drop(out);
            self.uploaded.set(true);
            return self.download().await;
        }
        let mut upload = pin!(self.upload(body));
        let mut download = pin!(self.download());
        poll_fn(|cx| {
            if !self.uploaded.get() && !self.upload_broken.get() {
                match upload.as_mut().poll(cx) {
                    Poll::Ready(Ok(())) => self.uploaded.set(true),
                    // It may have answered already (413, say) and stopped reading: the answer counts.
                    Poll::Ready(Err(Failure::Upstream(_))) if self.sent.get() > 0 => {
                        self.upload_broken.set(true)
                    }
                    Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                    Poll::Pending => {}
                }
            }
            download.as_mut().poll(cx)
        })
        .await
    }

    fn write_head(&self, out: &mut Lent) {
        let protected = &self.session.worker().shared.protected;
        // What the stage let through or counted, it counted; the codec's own count is the same.
        self.head.write(&self.forward.edits, protected, out);
    }

    /// Passes the request on.
    async fn upload(&self, body: Body) -> Result<(), Failure> {
        let shared = &self.session.worker().shared;
        let mut out = Lent::take();
        self.write_head(&mut out);
        let mut passing = Passing::new(body, false);
        loop {
            let step = passing
                .step(&mut self.client.borrow_mut(), &mut out, &shared.protected)
                .map_err(Failure::ClientBody)?;
            match step {
                Step::Buffered => {
                    self.send_upstream(&out).await?;
                    out = Lent::none();
                }
                Step::Direct(progress) => {
                    if !out.is_empty() {
                        self.send_upstream(&out).await?;
                        out = Lent::none();
                    }
                    self.pass_up(progress.forward).await?;
                    self.client.borrow_mut().consume(progress.consumed);
                }
                Step::Starved => {}
            }
            if passing.is_done() {
                break;
            }
            if self.client.borrow_mut().input().is_empty() {
                if self.fill_client().await? == 0 {
                    return Err(Failure::ClientGone);
                }
                self.progressed();
            }
        }
        self.session.conn.metrics.stripped.inc_by(u64::from(passing.stripped));
        self.received_bytes.set(passing.payload);
        Ok(())
    }

    /// Brings the answer back.
    async fn download(&self) -> Result<Finish, Failure> {
        let shared = &self.session.worker().shared;
        let mut parser = ResponseParser::new(shared.limits.http1);
        let mut out = Lent::none();
        let answer = loop {
            let parsed = parser.parse(self.upstream.borrow_mut().conn.input(), self.head.asked())?;
            match parsed {
                Some(answer) if answer.is_interim() => {
                    out.make_room(0);
                    answer.write(&self.forward.answer_edits, Persist::Keep, &shared.protected, &mut out);
                    self.send_client(&out).await?;
                    out = Lent::none();
                }
                Some(answer) => break answer,
                None => {
                    if self.fill_upstream().await? == 0 {
                        return Err(Failure::Upstream(None));
                    }
                }
            }
        };
        let tunnel = answer.framing() == Framing::Tunnel;
        let mut persist = Persist::between(self.head, &answer);
        let leaving = self.session.is_leaving() || !self.uploaded.get() && !self.is_uploading_well();
        if !tunnel && leaving && !persist.closes() {
            persist = Persist::Close;
        }
        out = Lent::take();
        answer.write(&self.forward.answer_edits, persist, &shared.protected, &mut out);
        let reusable = answer.keep_alive() && answer.framing() != Framing::UntilClose;
        let mut passing =
            Passing::new(Body::new(answer.framing(), shared.limits.http1), persist == Persist::Unchunk);
        let status = answer.status();
        drop(answer);
        if tunnel {
            self.status.set(status);
            self.send_client(&out).await?;
            return Ok(Finish { persist, reusable: false, tunnel });
        }
        self.progressed();
        // Head and first bytes often come in two writes of the app, a moment apart: one look at what is
        // there now may save a write.
        if !passing.is_done() && self.upstream.borrow_mut().conn.input().is_empty() {
            self.peek_upstream().await?;
        }
        loop {
            let step = passing
                .step(&mut self.upstream.borrow_mut().conn, &mut out, &shared.protected)
                .map_err(Failure::UpstreamBody)?;
            match step {
                Step::Buffered => {
                    self.status.set(status);
                    self.send_client(&out).await?;
                    out = Lent::none();
                }
                Step::Direct(progress) => {
                    self.status.set(status);
                    if !out.is_empty() {
                        self.send_client(&out).await?;
                        out = Lent::none();
                    }
                    self.pass_down(progress.forward).await?;
                    self.upstream.borrow_mut().conn.consume(progress.consumed);
                }
                Step::Starved => {}
            }
            if passing.is_done() {
                break;
            }
            if self.upstream.borrow_mut().conn.input().is_empty() {
                if self.fill_upstream().await? == 0 {
                    let cut = self.upstream.borrow().conn.cut();
                    passing.end_of_input(cut).map_err(Failure::UpstreamBody)?;
                    break;
                }
                self.progressed();
            }
        }
        self.sent_bytes.set(passing.payload);
        let quiet =
            self.upstream.borrow_mut().conn.input().is_empty() && !self.upstream.borrow().conn.ended();
        Ok(Finish { persist, reusable: reusable && quiet, tunnel })
    }

    fn is_uploading_well(&self) -> bool {
        !self.upload_broken.get() && !self.head.expects_continue()
    }

    /// Something moved: from now on the exchange may stand still for so long.
    fn progressed(&self) {
        if self.status.get() == 0 && self.forward.timeouts.request.is_some() {
            return; // the deadline of the answer's head does not move
        }
        let stall = self.session.worker().shared.limits.stall;
        self.session.watch.within(Some(self.forward.timeouts.idle.unwrap_or(stall)));
    }

    async fn send_upstream(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut at = 0;
        let sent = self
            .session
            .watch
            .wait(|cx| {
                let sent = self.upstream.borrow_mut().conn.poll_send(cx, bytes, &mut at);
                // A write that failed at once, of one record, sent nothing.
                self.sent.set(self.sent.get().max(if bytes.len() > BUFFER { 1 } else { at }));
                sent
            })
            .await?;
        sent.map_err(|error| Failure::Upstream(Some(error)))
    }

    async fn send_client(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut at = 0;
        let sent =
            self.session.watch.wait(|cx| self.client.borrow_mut().poll_send(cx, bytes, &mut at)).await?;
        sent.map_err(|_| Failure::ClientGone)
    }

    /// Writes the front of the client's input to the upstream.
    async fn pass_up(&self, count: usize) -> Result<(), Failure> {
        let mut at = 0;
        let sent = self
            .session
            .watch
            .wait(|cx| {
                let mut client = self.client.borrow_mut();
                let bytes = client.input().get(..count).unwrap_or_default();
                self.upstream.borrow_mut().conn.poll_send(cx, bytes, &mut at)
            })
            .await?;
        self.sent.set(self.sent.get() + at);
        sent.map_err(|error| Failure::Upstream(Some(error)))
    }

    /// Writes the front of the upstream's input to the client.
    async fn pass_down(&self, count: usize) -> Result<(), Failure> {
        let mut at = 0;
        let sent = self
            .session
            .watch
            .wait(|cx| {
                let mut upstream = self.upstream.borrow_mut();
                let bytes = upstream.conn.input().get(..count).unwrap_or_default();
                self.client.borrow_mut().poll_send(cx, bytes, &mut at)
            })
            .await?;
        sent.map_err(|_| Failure::ClientGone)
    }

    async fn fill_client(&self) -> Result<usize, Failure> {
        let filled = self.session.watch.wait(|cx| self.client.borrow_mut().poll_fill_up(cx)).await?;
        filled.map_err(|_| Failure::ClientGone)
    }

    /// Reads from the upstream, and meanwhile notices a client that leaves.
    async fn fill_upstream(&self) -> Result<usize, Failure> {
        let filled = self
            .session
            .watch
            .wait(|cx| {
                let filled = self.upstream.borrow_mut().conn.poll_fill_up(cx);
                if filled.is_pending() && self.client_left(cx) {
                    return Poll::Ready(Err(Failure::ClientGone));
                }
                filled.map_err(|error| Failure::Upstream(Some(error)))
            })
            .await?;
        filled
    }

    /// Whether the client ended its stream while it waits for an answer. What it sends meanwhile is its next
    /// request and waits in its buffer.
    fn client_left(&self, cx: &mut Context<'_>) -> bool {
        if !self.uploaded.get() {
            return false;
        }
        let mut client = self.client.borrow_mut();
        if client.input().len() >= BUFFER {
            return false;
        }
        matches!(client.poll_fill(cx), Poll::Ready(Ok(0) | Err(_)))
    }

    /// Reads what is there now, if anything is.
    async fn peek_upstream(&self) -> Result<(), Failure> {
        poll_fn(|cx| match self.upstream.borrow_mut().conn.poll_fill(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(Failure::Upstream(Some(error)))),
            _ => Poll::Ready(Ok(())),
        })
        .await
    }
}

/// RFC 9110, 9.2.2.
fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// The size of an exchange's future, for the test that bounds it.
#[cfg(test)]
pub(super) fn size() -> usize {
    fn of<'a, F>(
        _: impl FnOnce(&'a Session<crate::stage::NoEdge>, &'a mut Conn, &'a mut RequestParser) -> F,
    ) -> usize {
        std::mem::size_of::<F>()
    }
    of(|session, client, parser| exchange(session, client, parser))
}
