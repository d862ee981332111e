//! Bytes, both ways, until both have ended.
//!
//! For ports that declare nothing else, and for what an HTTP/1.1 upgrade leaves. Each direction ends by
//! itself (half-close); a reset, a cut TLS stream or the death of this process on one side is a reset on the other, so
//! that nobody takes a part for the whole. A stream is admitted once, watched for as long as it lives, decided again
//! when policy changes, and ends at the mesh's maximum age or when nobody vouches for its peer any more.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use signet_identity::{Alpn, HandshakeFailure};
use signet_wire::first::{FirstLine, Line};
use signet_wire::hello::{self, Peek};
use signet_wire::websocket::{self, Frames};

use crate::age::spread;
use crate::answer::{Reason, Refusal};
use crate::balance::random;
use crate::east_west;
use crate::io::Conn;
use crate::session::{AnyStage, Session};
use crate::stage::{Egress, Outbound, Role, Stage, Target};
use crate::state::{InFlight, Protocol, Timeouts};
use crate::tls;
use crate::upstream::{dial_app, obtain};
use crate::worker::End;

/// Serves a stream of bytes to its end.
///
/// `app`: where it was dialled before it was known that bytes are to be carried there.
pub(crate) async fn serve<E: Stage>(session: Session<E>, mut client: Conn, app: Option<Conn>) {
    match Box::pin(dial(&session, app)).await {
        Ok((mut upstream, _in_flight, timeouts)) => {
            session.watch.within(timeouts.idle);
            Box::pin(tunnel(&session, client, &mut upstream, timeouts, None)).await;
        }
        Err(refusal) => {
            session.note(&refusal);
            // Whatever the caller sent unread, it is told: nothing of this worked.
            client.stream().reset_on_close();
            client.input().clear();
        }
    }
}

pub(crate) type Dialled = (Conn, Option<InFlight>, Timeouts);

pub(crate) async fn dial<E: Stage>(session: &Session<E>, dialled: Option<Conn>) -> Result<Dialled, Refusal> {
    let worker = session.worker();
    let mut view = worker.shared.state.view();
    match (&session.stage, &session.conn.role, &session.conn.peer) {
        (AnyStage::Inbound(stage), Role::Inbound { service, port, app }, Some(peer)) => {
            let admitted = stage.admit_stream(&view, service, port, peer)?;
            let (service, port, peer) = (service.clone(), port.clone(), peer.clone());
            session
                .watch
                .set_recheck(move |view| crate::stage::Inbound::still_admits(view, &service, &port, &peer));
            let stream = dial_app(worker, &session.watch, app).await?;
            Ok((Conn::new(stream), None, admitted.timeouts))
        }
        (AnyStage::Inbound(stage), Role::Inbound { service, port, app }, None) => {
            // The watch asks again: it knows that this is nobody's.
            let admitted = stage.admit_nobody(&view, service, port)?;
            let upstream = match dialled {
                Some(upstream) => upstream,
                None => Conn::new(dial_app(worker, &session.watch, app).await?),
            };
            Ok((upstream, None, admitted.timeouts))
        }
        (AnyStage::Outbound(stage), Role::Outbound { service, port, endpoint }, _) => {
            let port = stage.find(&mut view, service, port, *endpoint).await?;
            let timeouts = port.timeouts;
            let target = Target::Service(port);
            let obtained = obtain(worker, &session.watch, &view, &target, Alpn::Tcp, true, &[]).await?;
            Ok((obtained.upstream.conn, obtained.in_flight, timeouts))
        }
        (AnyStage::Egress(_), Role::Egress(outward), peer) => {
            let Some(port) = Egress::port(&view, outward, peer.as_ref())? else {
                let place = outward.unlisted.as_ref().filter(|_| outward.may_leave(&view));
                let stream = dial_app(worker, &session.watch, place.ok_or(Reason::EgressDenied)?).await?;
                return Ok((Conn::new(stream), None, Timeouts::default()));
            };
            let target = port.target_of(outward.host.as_deref())?;
            let obtained = obtain(worker, &session.watch, &view, &target, Alpn::Tcp, true, &[]).await?;
            Ok((obtained.upstream.conn, obtained.in_flight, port.timeouts))
        }
        (_, Role::Passed(passed), _) => {
            let stands = passed.clone();
            session.watch.set_recheck(move |view| stands.stands(view));
            // What changed before there was anybody to ask again.
            if !passed.stands(&view) {
                return Err(Reason::NoRoute.into());
            }
            let port = passed.find(&Outbound::new(worker.shared.clone()), &mut view).await?;
            let timeouts = port.timeouts;
            let target = Target::Service(port);
            let obtained = obtain(worker, &session.watch, &view, &target, Alpn::Tcp, true, &[]).await?;
            Ok((obtained.upstream.conn, obtained.in_flight, timeouts))
        }
        (_, Role::EastWest(passage), _) => {
            let service = passage.port.service.clone();
            session.watch.set_recheck(move |view| view.routes.is_passed_on(&service));
            let (conn, in_flight) = east_west::dial(worker, &session.watch, passage).await?;
            // Whose SVIDs are under it only the two ends see.
            Ok((conn, Some(in_flight), Timeouts { cut_on_expiry: false, ..passage.port.timeouts }))
        }
        _ => Err(Refusal::new(Reason::NotImplemented).detail("bytes at a listener for requests")),
    }
}

/// How long the one direction may still go on after the other was reset: not at all.
enum Over {
    /// Both directions ended by themselves.
    Clean,
    /// One side broke.
    Broken,
}

/// Copies both ways. An idle time without a byte in either direction ends it, and so may the end of an SVID. `frames` follows
/// what goes to a WebSocket's client, so that it can be told why it ends.
pub(crate) async fn tunnel<E: Stage>(
    session: &Session<E>,
    mut client: Conn,
    upstream: &mut Conn,
    Timeouts { idle, cut_on_expiry, .. }: Timeouts,
    frames: Option<Frames>,
) {
    let metrics = &session.conn.metrics;
    let view = session.worker().shared.state.view();
    let max_age = view.policy.mesh.max_connection_age;
    session.watch.set_opaque(cut_on_expiry, view.tls.generation.own().svid().not_after);
    drop(view);
    // Until both have ended a close is a reset, also the kernel's when this process dies in the middle.
    client.stream().reset_on_close();
    upstream.stream().reset_on_close();
    let (client, upstream) = (RefCell::new(&mut client), RefCell::new(upstream));
    let moved = Cell::new(false);
    let mut up = Copy { guard: guard(session), hello: is_nobodys(session), ..Copy::default() };
    let mut down = Copy { frames, ..Copy::default() };
    let mut reset = None;
    let mut age = std::pin::pin!(async {
        match max_age {
            Some(most) => tokio::time::sleep(spread(most, random())).await,
            None => std::future::pending().await,
        }
    });
    let over = session
        .watch
        .wait(|cx| {
            if age.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Over::Broken);
            }
            let a = up.poll(cx, &client, &upstream, &moved);
            let b = down.poll(cx, &upstream, &client, &moved);
            if moved.take() {
                session.watch.within(idle);
            }
            match (a, b) {
                // Of a side that has ended nothing is read any more, by which its reset would be met.
                (Poll::Ready(Ok(())), Poll::Pending) if is_reset(cx, &mut reset, &client) => {
                    Poll::Ready(Over::Broken)
                }
                (Poll::Pending, Poll::Ready(Ok(()))) if is_reset(cx, &mut reset, &upstream) => {
                    Poll::Ready(Over::Broken)
                }
                (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(Over::Broken),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Over::Clean),
                _ => Poll::Pending,
            }
        })
        .await;
    metrics.received.inc_by(up.total);
    metrics.sent.inc_by(down.total);
    match over {
        Ok(Over::Clean) => {
            client.borrow().stream().end_on_close();
            upstream.borrow().stream().end_on_close();
        }
        Ok(Over::Broken) if up.late => too_late(session),
        Ok(Over::Broken) if up.smuggles => {
            session.note(&Refusal::new(Reason::Undetected).detail("a request came in a stream of bytes"));
        }
        Ok(Over::Broken) => {}
        Err(end) => {
            session.worker().shared.metrics.stream_cut(session.conn.direction, end.label());
            tracing::info!(target: "signet::tcp", reason = end.label(), "a stream was ended");
            if let End::UserRevoked(by) = end
                && down.may_say_more()
            {
                say_why(client.into_inner(), by.label()).await;
            }
        }
    }
}

/// Tells a WebSocket's client that it is no longer welcome (RFC 6455, 7.4.1), and waits for its answer, but not for long.
async fn say_why(client: &mut Conn, words: &str) {
    let frame = websocket::close(POLICY_VIOLATION, words);
    let mut at = 0;
    let said = async {
        poll_fn(|cx| client.poll_send(cx, &frame, &mut at)).await?;
        poll_fn(|cx| client.poll_close(cx)).await?;
        loop {
            let count = client.input().len();
            client.consume(count);
            if poll_fn(|cx| client.poll_fill_up(cx)).await? == 0 {
                return io::Result::Ok(());
            }
        }
    };
    if let Ok(Ok(())) = tokio::time::timeout(GOODBYE, said).await {
        client.stream().end_on_close();
    }
}

/// The status of a close frame.
const POLICY_VIOLATION: u16 = 1008;
/// How long a client may take to close its side, too.
const GOODBYE: Duration = Duration::from_secs(1);

/// Whether the caller was let in without the mesh.
fn is_nobodys<E>(session: &Session<E>) -> bool {
    matches!(session.conn.role, Role::Inbound { .. }) && session.conn.peer.is_none()
}

/// A peer was taken for nobody, since it said nothing for so long, and our app has spoken to it: its handshake cannot be
/// met any more, and its hello is nothing for the app.
fn too_late<E>(session: &Session<E>) {
    let Role::Inbound { service, .. } = &session.conn.role else { return };
    let shared = &session.worker().shared;
    let (tls, remote) = (shared.state.view().tls.clone(), session.conn.remote);
    tls::report(shared, Some(&tls), &HandshakeFailure::Timeout, session.conn.direction, remote, service);
}

/// On a port of ours that does not say what it speaks, a peer must not call requests bytes: the app would read them with
/// whatever they say of users and callers.
fn guard<E>(session: &Session<E>) -> Option<FirstLine> {
    let Role::Inbound { service, port, .. } = &session.conn.role else { return None };
    let view = session.worker().shared.state.view();
    let open = view.routes.inbound(service, port).is_some_and(|port| port.protocol == Protocol::Auto);
    (open && session.conn.protocol == Protocol::Tcp).then(FirstLine::default)
}

/// Whether the side that has ended was reset since; otherwise the task is woken then. A stream has one such side at
/// most: when both have ended it is over.
fn is_reset(cx: &mut Context<'_>, waiting: &mut Option<Waiting>, ended: &RefCell<&mut Conn>) -> bool {
    let waiting = waiting.get_or_insert_with(|| Box::pin(ended.borrow().stream().reset_by_peer()));
    waiting.as_mut().poll(cx).is_ready()
}

type Waiting = Pin<Box<dyn Future<Output = ()>>>;

/// One direction.
#[derive(Default)]
struct Copy {
    at: usize,
    total: u64,
    state: State,
    /// Looks for a request at the beginning.
    guard: Option<FirstLine>,
    /// The guard has seen the input.
    seen: bool,
    /// The guard found one.
    smuggles: bool,
    /// Looks for a hello of the mesh at the beginning.
    hello: bool,
    /// That found one.
    late: bool,
    /// Follows the frames of a WebSocket.
    frames: Option<Frames>,
}

#[derive(Default, PartialEq)]
enum State {
    #[default]
    Copying,
    /// The sender has ended; so do we, towards the receiver.
    Closing,
    Done,
}

/// Turns of a direction before it lets others have the thread: 16 buffers.
const TURNS: usize = 16;

impl Copy {
    /// Whether a frame of ours would fall between two of the other side's.
    fn may_say_more(&self) -> bool {
        self.at == 0 && self.state == State::Copying && self.frames.as_ref().is_some_and(Frames::between)
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &RefCell<&mut Conn>,
        to: &RefCell<&mut Conn>,
        moved: &Cell<bool>,
    ) -> Poll<io::Result<()>> {
        for _ in 0..TURNS {
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Closing => {
                    std::task::ready!(to.borrow_mut().poll_close(cx))?;
                    self.state = State::Done;
                }
                State::Copying => {
                    let mut from = from.borrow_mut();
                    if from.input().is_empty() && std::task::ready!(from.poll_fill_up(cx))? == 0 {
                        if from.cut() {
                            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                        }
                        self.state = State::Closing;
                        continue;
                    }
                    if self.hello {
                        match hello::peek(from.input()) {
                            Peek::Client(hello) if hello.is_ours() => {
                                self.late = true;
                                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                            }
                            Peek::Partial => match std::task::ready!(from.poll_fill_up(cx))? {
                                // Half a hello is nothing that an app should get.
                                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                                _ => continue,
                            },
                            _ => self.hello = false,
                        }
                    }
                    if !std::mem::replace(&mut self.seen, true)
                        && let Some(guard) = &mut self.guard
                    {
                        match guard.feed(from.input()) {
                            Line::Http => {
                                self.smuggles = true;
                                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                            }
                            Line::Other => self.guard = None,
                            Line::More => {}
                        }
                    }
                    let sent = to.borrow_mut().poll_send(cx, from.input(), &mut self.at);
                    moved.set(true);
                    std::task::ready!(sent)?;
                    let count = self.at;
                    self.at = 0;
                    self.seen = false;
                    self.total += count as u64;
                    if let Some(frames) = &mut self.frames {
                        frames.pass(from.input().get(..count).unwrap_or_default());
                    }
                    from.consume(count);
                }
            }
        }
        // Both sides are fast: the other connections of this thread come first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
