//! One try of a request at one upstream: both messages on their way, past each other.
//!
//! The two directions borrow the connections for the length of a poll only, so one task runs both without
//! locks. A request that is whole in the first write (most are) never needs the second direction.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use signet_wire::h1::{
    Body, Framing, Persist, RequestHead, ResponseError, ResponseHead, ResponseParser, Version,
};

use super::body::{Passing, Step};
use super::failure::Failure;
use super::upload::Upload;
use crate::answer::Reason;
use crate::io::{BUFFER, Conn, Lent};
use crate::pool::Upstream;
use crate::session::Session;
use crate::shared::INTERIM;
use crate::stage::{Forward, Stage};
use crate::state::Endpoint;
use crate::tries::{Outcome, Tries, is_idempotent};

/// How an exchange ended well.
pub(super) struct Finish {
    /// What the client was told of its connection.
    pub(super) persist: Persist,
    /// The upstream connection may serve another request.
    pub(super) reusable: bool,
    /// Both connections are bytes from now on.
    pub(super) tunnel: bool,
}

/// What all tries of a request have in common.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) head: &'a RequestHead,
    pub(super) forward: &'a Forward,
    pub(super) body: &'a RefCell<Upload>,
    pub(super) tries: &'a Tries,
    /// Where this try goes, if that is an endpoint of the mesh.
    pub(super) endpoint: Option<&'a Arc<Endpoint>>,
    /// The end of the whole exchange, if it has one.
    pub(super) whole: Option<Instant>,
}

/// One try.
pub(super) struct Run<'a, E> {
    session: &'a Session<E>,
    client: RefCell<&'a mut Conn>,
    upstream: RefCell<Upstream>,
    head: &'a RequestHead,
    forward: &'a Forward,
    /// Of all tries.
    body: &'a RefCell<Upload>,
    tries: &'a Tries,
    endpoint: Option<&'a Arc<Endpoint>>,
    /// The answer's status once its head is on the way to the client; 0 before.
    status: Cell<u16>,
    /// The request is on its way as a whole.
    uploaded: Cell<bool>,
    /// The upstream takes no more of the request; its answer may still come.
    upload_broken: Cell<bool>,
    /// Bytes of the request that the upstream's socket took.
    sent: Cell<usize>,
    /// The status of an answer that came, whatever became of it; 0 before.
    answered: Cell<u16>,
    /// The answer was thrown away, and its connection is as good as new.
    discarded: Cell<bool>,
    /// The end of the whole exchange, if it has one.
    whole: Option<Instant>,
    sent_bytes: Cell<u64>,
}

/// What a try has done, however it ended.
pub(super) struct Done {
    /// The connection to the upstream.
    pub(super) upstream: Upstream,
    /// The answer's status if its head is on the way to the client; 0 otherwise.
    pub(super) status: u16,
    /// The request was passed on as a whole.
    pub(super) uploaded: bool,
    /// The status of an answer that came, whatever became of it; 0 if none did.
    pub(super) answered: u16,
    /// That answer was thrown away, and its connection is as good as new.
    pub(super) discarded: bool,
    /// It may be sent once more, if the upstream's connection was a reused one.
    pub(super) may_retry: bool,
    /// Content bytes to the client.
    pub(super) sent: u64,
}

impl<'a, E: Stage> Run<'a, E> {
    pub(super) fn new(
        session: &'a Session<E>,
        client: &'a mut Conn,
        upstream: Upstream,
        Asked { head, forward, body, tries, endpoint, whole }: Asked<'a>,
    ) -> Self {
        Run {
            session,
            client: RefCell::new(client),
            upstream: RefCell::new(upstream),
            head,
            forward,
            body,
            tries,
            endpoint,
            status: Cell::new(0),
            uploaded: Cell::new(false),
            upload_broken: Cell::new(false),
            sent: Cell::new(0),
            answered: Cell::new(0),
            discarded: Cell::new(false),
            whole,
            sent_bytes: Cell::new(0),
        }
    }

    pub(super) fn done(self) -> Done {
        Done {
            status: self.status.get(),
            uploaded: self.uploaded.get(),
            answered: self.answered.get(),
            discarded: self.discarded.get(),
            may_retry: self.status.get() == 0 && self.may_retry(),
            sent: self.sent_bytes.get(),
            upstream: self.upstream.into_inner(),
        }
    }

    fn may_retry(&self) -> bool {
        self.body.borrow().is_replayable() && (self.sent.get() == 0 || is_idempotent(self.head.method()))
    }

    pub(super) async fn run(&self) -> Result<Finish, Failure> {
        let shared = &self.session.worker().shared;
        let limit = self.forward.per_try().or(self.forward.timeouts.request);
        self.session.watch.within(Some(limit.unwrap_or(shared.limits.stall)));
        if self.head.framing() == Framing::None {
            let mut out = Lent::take();
            self.write_head(&mut out);
            self.send_upstream(&out).await?;
            drop(out);
            self.uploaded.set(true);
            return self.download().await;
        }
        let mut upload = pin!(self.upload());
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
        let protected = self.session.worker().shared.protected();
        // What the stage let through or counted, it counted; the codec's own count is the same.
        self.head.write(&self.forward.edits, &protected, out);
    }

    /// Passes the request on, from its beginning.
    async fn upload(&self) -> Result<(), Failure> {
        let shared = &self.session.worker().shared;
        let mut out = Lent::take();
        self.write_head(&mut out);
        let again = {
            let mut body = self.body.borrow_mut();
            body.settle(&mut self.client.borrow_mut());
            let kept = body.kept().unwrap_or_default();
            out.extend_from_slice(kept);
            !kept.is_empty() || body.is_done()
        };
        if again {
            self.send_upstream(&out).await?;
            out = Lent::none();
        }
        while !self.body.borrow().is_done() {
            let step = self
                .body
                .borrow_mut()
                .step(&mut self.client.borrow_mut(), &mut out, &shared.protected())
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
                    self.body.borrow_mut().settle(&mut self.client.borrow_mut());
                }
                Step::Starved => {}
            }
            if self.body.borrow().is_done() {
                break;
            }
            if self.client.borrow_mut().input().is_empty() {
                if self.fill_client().await? == 0 {
                    return Err(Failure::ClientGone);
                }
                self.progressed();
            }
        }
        self.session.conn.metrics.stripped.inc_by(u64::from(self.body.borrow().stripped()));
        Ok(())
    }

    /// Why this answer is thrown away for another try, if it is.
    fn thrown_away(&self, answer: &ResponseHead) -> Option<Failure> {
        let shared = &self.session.worker().shared;
        if answer.framing() == Framing::Tunnel {
            return None;
        }
        let says = (answer.status() == Reason::ConnectFailed.status())
            .then(|| answer.get_all("signet-deny-reason").next())
            .flatten();
        let replayable = self.body.borrow().is_replayable();
        // Asked in any case: it also notes how the endpoint stands.
        if self.tries.elsewhere(says, &self.forward.target, self.endpoint, shared) && replayable {
            return Some(Failure::Unreached);
        }
        (replayable && self.tries.again(Outcome::Status(answer.status()), shared)).then_some(Failure::Again)
    }

    /// Keeps the connection of an answer that is thrown away, if all of it is here already.
    fn discard(&self, answer: &ResponseHead) {
        let shared = &self.session.worker().shared;
        let mut upstream = self.upstream.borrow_mut();
        let mut rest = Passing::new(Body::new(answer.framing(), shared.limits.http1), false);
        let mut nowhere = Lent::take();
        while !rest.is_done() && !upstream.conn.input().is_empty() {
            match rest.step(&mut upstream.conn, &mut nowhere, &shared.protected()) {
                Ok(Step::Direct(progress)) => upstream.conn.consume(progress.consumed),
                Ok(_) => nowhere.clear(),
                Err(_) => break,
            }
        }
        let whole = rest.is_done() && upstream.conn.input().is_empty();
        self.discarded.set(whole && answer.keep_alive() && self.uploaded.get());
    }

    /// Brings the answer back.
    async fn download(&self) -> Result<Finish, Failure> {
        let shared = &self.session.worker().shared;
        let mut parser = ResponseParser::new(shared.limits.http1);
        let mut out = Lent::none();
        let mut interim = 0;
        let answer = loop {
            let parsed = parser.parse(self.upstream.borrow_mut().conn.input(), self.head.asked())?;
            match parsed {
                Some(answer) if answer.is_interim() => {
                    interim += 1;
                    if interim > INTERIM {
                        return Err(ResponseError::TooManyInterim.into());
                    }
                    // RFC 9110, 15.2: HTTP/1.0 has no interim answers, and its clients would take one for the answer.
                    if self.head.version() == Version::Http11 {
                        out.make_room(0);
                        answer.write(
                            &self.forward.answer_edits,
                            Persist::Keep,
                            &shared.protected(),
                            &mut out,
                        );
                        self.send_client(&out).await?;
                        out = Lent::none();
                    }
                }
                Some(answer) => {
                    self.answered.set(answer.status());
                    if let Some(why) = self.thrown_away(&answer) {
                        self.discard(&answer);
                        return Err(why);
                    }
                    break answer;
                }
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
        answer.write(&self.forward.answer_edits, persist, &shared.protected(), &mut out);
        let reusable = answer.keep_alive() && answer.framing() != Framing::UntilClose;
        let mut passing =
            Passing::new(Body::new(answer.framing(), shared.limits.http1), persist == Persist::Unchunk);
        let status = answer.status();
        drop(answer);
        // The head's deadline has done its duty; what is left is that of the whole.
        self.session.watch.no_later_than(self.whole);
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
                .step(&mut self.upstream.borrow_mut().conn, &mut out, &shared.protected())
                .map_err(Failure::UpstreamBody)?;
            self.sent_bytes.set(passing.payload);
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
        let quiet =
            self.upstream.borrow_mut().conn.input().is_empty() && !self.upstream.borrow().conn.ended();
        Ok(Finish { persist, reusable: reusable && quiet, tunnel })
    }

    fn is_uploading_well(&self) -> bool {
        !self.upload_broken.get() && !self.head.expects_continue()
    }

    /// Something moved: from now on the exchange may stand still for so long.
    fn progressed(&self) {
        let has_head_deadline = self.forward.timeouts.request.is_some() || self.forward.per_try().is_some();
        if self.status.get() == 0 && has_head_deadline {
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
        self.session
            .watch
            .wait(|cx| {
                let filled = self.upstream.borrow_mut().conn.poll_fill_up(cx);
                if filled.is_pending() && self.client_left(cx) {
                    return Poll::Ready(Err(Failure::ClientGone));
                }
                filled.map_err(|error| Failure::Upstream(Some(error)))
            })
            .await?
    }

    /// Whether the client went away while it waits for an answer: by a reset, or by a TLS stream cut short, as
    /// a sidecar does whose own client went. One that ended its half in good order still gets its answers.
    /// What it sends meanwhile is its next request and waits in its buffer.
    fn client_left(&self, cx: &mut Context<'_>) -> bool {
        let mut client = self.client.borrow_mut();
        if !self.uploaded.get() || client.ended() || client.input().len() >= BUFFER {
            return false;
        }
        match client.poll_fill(cx) {
            Poll::Ready(Ok(0)) => client.cut(),
            Poll::Ready(Err(_)) => true,
            _ => false,
        }
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
