//! A client's HTTP/2 connection: accepts its requests, each into a task of its own, and sees to its end.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use signet_identity::PeerClass;
use tokio::time::Instant;

use super::coalesce::{Coalesced, Flusher, coalesce};
use super::exchange;
use super::{CONNECTION_WINDOW, GOODBYE, HEADER_LIST, SEND_BUFFER, STREAM_WINDOW, STREAMS, TICK};
use crate::io::Conn;
use crate::session::Session;
use crate::stage::Stage;
use crate::worker::End;

/// Requests after which the share of early resets counts, and how young a reset request is early: a client that opens
/// and resets makes us work for nothing (CVE-2023-44487). Calls that are cancelled for good reason live longer.
const RESETS_COUNT_FROM: usize = 500;
const EARLY: Duration = Duration::from_secs(1);
/// Resets that the library allows of requests which it has not even handed to us.
const PENDING_RESETS: usize = 20;
/// The same, of a sidecar or gateway. Its connection carries the requests of many callers, and one of them who resets
/// must not end it for the others: that caller is met where its own connection ends.
const PENDING_RESETS_OF_MANY: usize = 1024;

/// What the requests of one connection share with it.
pub(super) struct Served<E> {
    pub(super) session: Session<E>,
    active: Cell<usize>,
    requests: Cell<usize>,
    early_resets: Cell<usize>,
    idle_since: Cell<Instant>,
    /// The client is a proxy of ours and speaks for many callers.
    of_many: bool,
}

/// One request under way.
pub(super) struct Request<E> {
    pub(super) served: Rc<Served<E>>,
    began: Instant,
}

impl<E> Request<E> {
    fn begin(served: &Rc<Served<E>>) -> Self {
        served.active.set(served.active.get() + 1);
        served.requests.set(served.requests.get() + 1);
        Request { served: served.clone(), began: Instant::now() }
    }

    /// How long it has taken.
    pub(super) fn took(&self) -> Duration {
        self.began.elapsed()
    }

    /// The client reset it.
    pub(super) fn was_reset(&self) {
        if self.took() < EARLY {
            self.served.early_resets.set(self.served.early_resets.get() + 1);
        }
    }
}

impl<E> Drop for Request<E> {
    fn drop(&mut self) {
        self.served.active.set(self.served.active.get() - 1);
        if self.served.active.get() == 0 {
            self.served.idle_since.set(Instant::now());
        }
    }
}

type Connection = h2::server::Connection<Coalesced, Bytes>;

/// Serves a connection to its end.
pub(crate) async fn serve<E: Stage>(session: Session<E>, conn: Conn) {
    // Connections of every protocol are tasks of one size: that of HTTP/1's, which are the many.
    Box::pin(run(session, conn)).await;
}

async fn run<E: Stage>(session: Session<E>, conn: Conn) {
    let (stream, ahead) = conn.into_parts();
    let (io, flusher) = coalesce(stream, ahead);
    let of_many = session
        .conn
        .peer
        .as_ref()
        .is_some_and(|peer| matches!(peer.class(), PeerClass::Sidecar | PeerClass::Gateway));
    let Some(connection) = Box::pin(handshake(&session, io, &flusher, of_many)).await else { return };
    let served = Rc::new(Served {
        session,
        active: Cell::new(0),
        requests: Cell::new(0),
        early_resets: Cell::new(0),
        idle_since: Cell::new(Instant::now()),
        of_many,
    });
    let end = drive(&served, connection, flusher).await;
    tracing::debug!(target: "signet::h2", end, "a client's connection ended");
}

async fn handshake<E: Stage>(
    session: &Session<E>,
    io: Coalesced,
    flusher: &Flusher,
    of_many: bool,
) -> Option<Connection> {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(if of_many { PENDING_RESETS_OF_MANY } else { PENDING_RESETS });
    let mut handshake = pin!(builder.handshake(io));
    session.watch.within(Some(session.worker().shared.limits.head_time));
    let done = session.watch.wait(|cx| {
        let done = handshake.as_mut().poll(cx);
        match (&done, flusher.poll(cx)) {
            (Poll::Pending, Poll::Ready(Err(_))) => Poll::Ready(Err(Reason::CONNECT_ERROR.into())),
            _ => done,
        }
    });
    match done.await {
        Ok(Ok(connection)) => Some(connection),
        Ok(Err(error)) => {
            tracing::debug!(target: "signet::h2", %error, "no HTTP/2 preface");
            None
        }
        Err(_) => None,
    }
}

/// The client asked for too much, by the library's count or by ours.
const CALMED: &str = "told to calm down";

/// What a turn of the connection brought. Lives from one line to the next, so its size costs nothing.
#[allow(clippy::large_enum_variant)]
enum Turn {
    Request(http::Request<RecvStream>, SendResponse<Bytes>),
    Ended(&'static str),
}

/// Drives a connection; returns how it ended, for the log.
async fn drive<E: Stage>(
    served: &Rc<Served<E>>,
    mut connection: Connection,
    flusher: Flusher,
) -> &'static str {
    let session = &served.session;
    let watch = &session.watch;
    let limits = &session.worker().shared.limits;
    let mut pings = connection.ping_pong();
    let mut asked = false;
    let mut leaving: Option<Instant> = None;
    let mut calming = false;
    watch.within(Some(limits.head_time.min(next_tick(session))));
    loop {
        let turn = watch.wait(|cx| {
            if leaving.is_none() && watch.draining() {
                leaving = Some(Instant::now());
                connection.graceful_shutdown();
            }
            poll_turn(&mut connection, &flusher, cx)
        });
        match turn.await {
            Ok(Turn::Request(request, respond)) => {
                let (early, all) = (served.early_resets.get(), served.requests.get());
                if !served.of_many && all >= RESETS_COUNT_FROM && early > all / 2 {
                    // Its own requests end with it; the next turn is the last.
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    calming = true;
                    continue;
                }
                let request_guard = Request::begin(served);
                // In a box, since a task is moved three times before it begins.
                tokio::task::spawn_local(Box::pin(exchange::exchange(request_guard, request, respond)));
            }
            Ok(Turn::Ended(how)) => {
                if calming || how == CALMED {
                    session.worker().shared.metrics.over_limit.inc();
                }
                return how;
            }
            Err(End::TimedOut) => {
                let active = served.active.get() > 0;
                let since_use = served.idle_since.get().elapsed();
                if let Some(since) = leaving {
                    // The client neither answers our goodbye nor sends anything that would be lost.
                    if !active && since.elapsed() >= GOODBYE {
                        return "left";
                    }
                } else {
                    // A connection that never asked for anything has no more time than a head.
                    let idle = if served.requests.get() == 0 { limits.head_time } else { limits.client_idle };
                    if session.is_leaving() || !active && since_use >= idle {
                        leaving = Some(Instant::now());
                        connection.graceful_shutdown();
                    }
                }
                match (flusher.heard(), active) {
                    (true, _) | (false, false) => asked = false,
                    (false, true) if asked => return "silent",
                    (false, true) => {
                        asked = pings.as_mut().is_some_and(|p| p.send_ping(h2::Ping::opaque()).is_ok());
                    }
                }
                watch.within(Some(if leaving.is_some() { GOODBYE } else { next_tick(session) }));
            }
            Err(end) => return end.label(),
        }
    }
}

/// When to look again: in time for the certificate's end and for an idle one's.
fn next_tick<E>(session: &Session<E>) -> Duration {
    TICK.min(session.idle_time()).max(Duration::from_millis(100))
}

fn poll_turn(connection: &mut Connection, flusher: &Flusher, cx: &mut Context<'_>) -> Poll<Turn> {
    match connection.poll_accept(cx) {
        Poll::Ready(Some(Ok((request, respond)))) => Poll::Ready(Turn::Request(request, respond)),
        Poll::Ready(Some(Err(error))) => {
            // What was said last (a GOAWAY) may still go out.
            let _ = flusher.poll(cx);
            let calmed = !error.is_remote() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
            Poll::Ready(Turn::Ended(if calmed { CALMED } else { "broken" }))
        }
        Poll::Ready(None) => Poll::Ready(Turn::Ended("closed")),
        Poll::Pending => match flusher.poll(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(Turn::Ended("broken")),
            _ => Poll::Pending,
        },
    }
}
