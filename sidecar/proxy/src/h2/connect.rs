//! CONNECT over HTTP/2: one stream of a connection carries bytes (RFC 9113, 8.5).
//!
//! It is governed by itself, as a connection of its own would be: revocation, policy, idle time, age and drain end it and
//! leave the connection's other streams alone. Flow control is coupled: what the other side has not taken is not
//! acknowledged.

use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason as Code, RecvStream, SendStream};
use signet_identity::Alpn;
use signet_wire::canon::Host;
use signet_wire::hello::{self, Peek};

use super::pump::{Broken, poll_room};
use super::serve::Request;
use crate::age::spread;
use crate::answer::{Reason, Refusal};
use crate::balance::random;
use crate::h1::connect::other_name;
use crate::io::Conn;
use crate::outside::Spoken;
use crate::session::AnyStage;
use crate::stage::{Opening, Stage};
use crate::upstream::{Obtained, obtain};
use crate::worker::Watch;

/// Opens the stream that a CONNECT asks for and carries it to its end. The refusal is to be answered.
pub(super) async fn open<E: Stage>(
    request: &Request<E>,
    parts: &http::request::Parts,
    from: RecvStream,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), Refusal> {
    let session = &request.served.session;
    let worker = session.worker();
    let shared = &worker.shared;
    let AnyStage::Explicit(stage) = &session.stage else { return Err(Reason::MethodNotAllowed.into()) };
    let asked = asked(parts)?;
    let watch = worker.registry.watch();
    let mut view = shared.state.view();
    let opening = stage.opening(&mut view, &asked).await?;
    let Obtained { upstream, in_flight: _in_flight } =
        obtain(worker, &watch, &view, &opening.target, Alpn::Tcp, true, &[]).await?;
    let permission = opening.permission.clone();
    watch.set_recheck(move |view| permission.stands(view));
    // What changed before there was anybody to ask again.
    let view = shared.state.view();
    if !opening.permission.stands(&view) {
        return Err(Reason::EgressDenied.into());
    }
    watch.set_opaque(opening.timeouts.cut_on_expiry, view.tls.generation.own().svid().not_after);
    let max_age = view.policy.mesh.max_connection_age;
    drop(view);
    let Ok(to) = respond.send_response(http::Response::new(()), false) else { return Ok(()) };
    opening.metrics.answered(200, request.took());
    let mut both = Both {
        up: Up { from, held: Bytes::new(), at: 0, owed: 0, done: false },
        down: Down { to, done: false },
        upstream: upstream.conn,
    };
    if let Some(name) = &opening.hello {
        let spoken = both.up.look(&watch, shared.limits.head_time).await;
        if !matches!(&spoken, Spoken::Tls(Some(said)) if **said == **name) {
            session.note(&other_name(name, &spoken));
            both.down.to.send_reset(Code::CONNECT_ERROR);
            return Ok(());
        }
    }
    both.run(&watch, &opening, max_age).await;
    Ok(())
}

/// The authority of a CONNECT, whose port has no default, with which a host field agrees.
fn asked(parts: &http::request::Parts) -> Result<Host, Refusal> {
    let bad = |label| Refusal::new(Reason::BadRequest(label));
    let read =
        |text: &[u8]| Host::new(&Bytes::copy_from_slice(text)).map_err(|error| bad("host").detail(error));
    if parts.uri.scheme().is_some() || parts.uri.path_and_query().is_some() {
        return Err(bad("connect_target"));
    }
    let named = parts.uri.authority().ok_or_else(|| bad("host_missing"))?;
    let named = read(named.as_str().as_bytes())?;
    let port = named.port().ok_or_else(|| bad("connect_port"))?;
    for host in parts.headers.get_all(http::header::HOST) {
        if !read(host.as_bytes())?.agrees_with(&named, port) {
            return Err(bad("authority_differs"));
        }
    }
    Ok(named)
}

struct Both {
    up: Up,
    down: Down,
    upstream: Conn,
}

/// From the client.
struct Up {
    from: RecvStream,
    held: Bytes,
    at: usize,
    /// Of what is held, not yet acknowledged.
    owed: usize,
    done: bool,
}

/// To the client.
struct Down {
    to: SendStream<Bytes>,
    done: bool,
}

/// Which side broke.
enum Side {
    Client,
    Upstream,
}

impl Both {
    /// Carries bytes both ways until both have ended, or it is ended.
    async fn run(mut self, watch: &Watch, opening: &Opening, max_age: Option<std::time::Duration>) {
        // Until both have ended a close is a reset.
        self.upstream.stream().reset_on_close();
        let idle = opening.timeouts.idle;
        watch.within(idle);
        let mut age = pin!(async {
            match max_age {
                Some(most) => tokio::time::sleep(spread(most, random())).await,
                None => std::future::pending().await,
            }
        });
        let (received, sent) = (&opening.metrics.received, &opening.metrics.sent);
        let over = watch
            .wait(|cx| {
                if age.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(None));
                }
                let mut moved = (0, 0);
                let up = self.up.poll(cx, &mut self.upstream, &mut moved.0);
                let down = self.down.poll(cx, &mut self.upstream, &mut moved.1);
                if moved != (0, 0) {
                    watch.within(idle);
                    received.inc_by(moved.0);
                    sent.inc_by(moved.1);
                }
                if self.down.to.poll_reset(cx).is_ready() && !self.down.done {
                    return Poll::Ready(Err(Some(Side::Client)));
                }
                match (up, down) {
                    (Poll::Ready(Err(side)), _) | (_, Poll::Ready(Err(side))) => Poll::Ready(Err(Some(side))),
                    (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
                    _ => Poll::Pending,
                }
            })
            .await;
        match over {
            Ok(Ok(())) => self.upstream.stream().end_on_close(),
            Ok(Err(Some(Side::Client))) => {}
            // RFC 9113, 8.5: an error of the other connection is one of this stream.
            Ok(Err(_)) | Err(_) => self.down.to.send_reset(Code::CONNECT_ERROR),
        }
    }
}

impl Up {
    /// What its first bytes are, for so long. They stay.
    async fn look(&mut self, watch: &Watch, patience: std::time::Duration) -> Spoken {
        watch.within(Some(patience));
        let mut first = BytesMut::new();
        let looked = watch
            .wait(|cx| {
                loop {
                    match hello::peek(&first) {
                        Peek::Client(hello) => return Poll::Ready(Spoken::Tls(hello.sni)),
                        Peek::Malformed(_) | Peek::Plaintext => return Poll::Ready(Spoken::Bytes),
                        Peek::Partial => {}
                    }
                    match ready!(self.from.poll_data(cx)) {
                        Some(Ok(bytes)) => {
                            // Acknowledged at once: it is bounded by the peek itself.
                            let _ = self.from.flow_control().release_capacity(bytes.len());
                            first.extend_from_slice(&bytes);
                        }
                        _ => return Poll::Ready(Spoken::Bytes),
                    }
                }
            })
            .await;
        self.held = first.freeze();
        looked.unwrap_or(Spoken::Bytes)
    }

    fn poll(&mut self, cx: &mut Context<'_>, to: &mut Conn, moved: &mut u64) -> Poll<Result<(), Side>> {
        while !self.done {
            if self.held.is_empty() {
                match ready!(self.from.poll_data(cx)) {
                    Some(Ok(bytes)) => {
                        self.owed = bytes.len();
                        self.held = bytes;
                    }
                    Some(Err(_)) => return Poll::Ready(Err(Side::Client)),
                    None => {
                        ready!(to.poll_close(cx)).map_err(|_| Side::Upstream)?;
                        self.done = true;
                    }
                }
                continue;
            }
            ready!(to.poll_send(cx, &self.held, &mut self.at)).map_err(|_| Side::Upstream)?;
            *moved += self.held.len() as u64;
            // Fails only for a stream that is gone, which the next poll will tell.
            let _ = self.from.flow_control().release_capacity(self.owed);
            self.owed = 0;
            self.at = 0;
            self.held.advance(self.held.len());
        }
        Poll::Ready(Ok(()))
    }
}

impl Down {
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Conn, moved: &mut u64) -> Poll<Result<(), Side>> {
        while !self.done {
            if from.input().is_empty() && ready!(from.poll_fill_up(cx)).map_err(|_| Side::Upstream)? == 0 {
                if from.cut() {
                    return Poll::Ready(Err(Side::Upstream));
                }
                self.to.send_data(Bytes::new(), true).map_err(|_| Side::Client)?;
                self.done = true;
                continue;
            }
            let wanted = from.input().len();
            let room = ready!(poll_room(&mut self.to, cx, wanted)).map_err(|_: Broken| Side::Client)?;
            let count = room.min(wanted);
            let part = Bytes::copy_from_slice(from.input().get(..count).unwrap_or_default());
            from.consume(count);
            self.to.send_data(part, false).map_err(|_| Side::Client)?;
            *moved += count as u64;
        }
        Poll::Ready(Ok(()))
    }
}
