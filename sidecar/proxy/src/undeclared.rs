//! Ports that do not say what they speak: each connection shows it by its first bytes.
//!
//! A caller that sends a request line, or HTTP/2's preface, is served as HTTP; anything else is bytes. Who waits for the
//! server to speak first is not kept waiting: the server is dialled, as bytes, before anything has come. What a port was
//! seen to speak is remembered, and tells how long the next connection is looked at ([`Manner`]); never what it may do.
//! Where policy speaks of requests, bytes are refused: here, and by the receiver, whatever a client calls them.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use signet_wire::first::{First, first};

use crate::answer::{Reason, Refusal};
use crate::io::Conn;
use crate::session::Session;
use crate::stage::{Role, Stage};
use crate::state::{Manner, Protocol, ServicePort};
use crate::tcp::{dial, tunnel};
use crate::worker::Watch;

/// How long a caller is waited for where callers spoke first before; and for the rest of what may become a request line.
const FIRST_BYTES: Duration = Duration::from_millis(100);
/// The same where nobody was seen yet: a caller that asks has its request on the way when it is accepted, and one that
/// waits for the server does not notice.
const FIRST_LOOK: Duration = Duration::from_millis(2);

/// What a caller of such a port speaks, as far as that can be said now. It stays open ([`Protocol::Auto`]) where the
/// server may be the one to speak first: [`serve`] goes on from there.
pub(crate) async fn look(
    watch: &Watch,
    conn: &mut Conn,
    port: &ServicePort,
    head_time: Duration,
) -> Result<Protocol, Refusal> {
    if port.manner.is_bytes() && !port.requests_only {
        return Ok(Protocol::Tcp);
    }
    let patience = match (port.requests_only, port.manner.is_asked()) {
        (true, _) => head_time,
        (false, true) => FIRST_BYTES,
        (false, false) => FIRST_LOOK,
    };
    let said = first_bytes(watch, conn, patience).await;
    match said {
        First::Http1 | First::Http2 => port.manner.asked(),
        First::Bytes if !port.requests_only => port.manner.bytes(),
        First::Bytes | First::More => {}
    }
    match said {
        First::Http1 => Ok(Protocol::Http1),
        First::Http2 => Ok(Protocol::Http2),
        First::Bytes | First::More if port.requests_only => Err(Refusal::new(Reason::Undetected)
            .detail(format_args!("{} takes requests only at port {}", port.service, port.name))),
        First::Bytes => Ok(Protocol::Tcp),
        First::More => Ok(Protocol::Auto),
    }
}

/// Reads until the first bytes say what they are, for so long.
pub(crate) async fn first_bytes(watch: &Watch, conn: &mut Conn, patience: Duration) -> First {
    // Finer than the wheel that all other waits go by.
    let mut patience = pin!(tokio::time::sleep(patience));
    watch.within(None);
    let decided = watch
        .wait(|cx| match poll_first(conn, cx) {
            First::More => patience.as_mut().poll(cx).map(|()| First::More),
            said => Poll::Ready(said),
        })
        .await;
    decided.unwrap_or(First::More)
}

/// What the first bytes say by now.
fn poll_first(client: &mut Conn, cx: &mut Context<'_>) -> First {
    loop {
        let said = first(client.input());
        if said != First::More {
            return said;
        }
        match client.poll_fill_up(cx) {
            Poll::Ready(Ok(1..)) => {}
            // Its half has ended, or all of it: what came are bytes.
            Poll::Ready(_) => return First::Bytes,
            Poll::Pending => return First::More,
        }
    }
}

/// Serves a connection of our app to a port that declares nothing, whose first bytes have not come yet: the server may be
/// the one to speak first, and must not wait for us. So it is dialled at once, as bytes; if the app turns out to ask by
/// HTTP instead, nothing was sent there, and the connection comes back for its engine.
pub(crate) async fn serve<E: Stage>(mut session: Session<E>, mut client: Conn) -> Option<(Session<E>, Conn)> {
    let manner = manner(&session);
    let (said, dialled) = {
        let mut dialling = pin!(dial(&session, None));
        let mut dialled = None;
        // Its own time: the waits of the dial have theirs.
        let mut patience = pin!(tokio::time::sleep(FIRST_BYTES));
        let mut started = false;
        let said = poll_fn(|cx| {
            let said = poll_first(&mut client, cx);
            if said != First::More {
                return Poll::Ready(said);
            }
            // What began like a request line gets as long as any to become one.
            if !client.input().is_empty() {
                if !std::mem::replace(&mut started, true) {
                    patience.as_mut().reset(tokio::time::Instant::now() + FIRST_BYTES);
                }
                if patience.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(First::Bytes);
                }
            }
            if dialled.is_none() {
                match dialling.as_mut().poll(cx) {
                    Poll::Ready(done) => {
                        // From here on both may be silent for as long as any idle client.
                        session.watch.within(Some(session.idle_time()));
                        dialled = Some(done);
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            match &mut dialled {
                Some(Ok((upstream, ..))) => match upstream.poll_fill(cx) {
                    // It spoke first, or went without a word.
                    Poll::Ready(_) => Poll::Ready(First::Bytes),
                    Poll::Pending => session.watch.poll(cx).map(|_| First::More),
                },
                // Nobody will speak to it.
                _ => Poll::Ready(First::Bytes),
            }
        })
        .await;
        let dialled = match (said, dialled) {
            (First::Bytes, None) => Some(dialling.await),
            (_, dialled) => dialled,
        };
        (said, dialled)
    };
    match (said, dialled) {
        (First::Http1 | First::Http2, dialled) => {
            manner.asked();
            if let Some(Ok((mut upstream, ..))) = dialled {
                // A clean end: nothing was said on it.
                session.watch.within(Some(FIRST_BYTES));
                let _ = session.watch.wait(|cx| upstream.poll_close(cx)).await;
            }
            session.watch.set_upstream(None);
            session.conn.protocol = if said == First::Http1 { Protocol::Http1 } else { Protocol::Http2 };
            Some((session, client))
        }
        // Nobody said anything in time, or the connection is over.
        (First::More, _) => None,
        (_, Some(Ok((mut upstream, _in_flight, timeouts)))) => {
            manner.bytes();
            session.conn.protocol = Protocol::Tcp;
            session.watch.within(timeouts.idle);
            Box::pin(tunnel(&session, client, &mut upstream, timeouts, None)).await;
            None
        }
        (_, Some(Err(refusal))) => {
            session.note(&refusal);
            client.stream().reset_on_close();
            client.input().clear();
            None
        }
        (_, None) => None,
    }
}

/// What was seen of the port so far.
fn manner<E>(session: &Session<E>) -> Arc<Manner> {
    let view = session.worker().shared.state.view();
    let port = match &session.conn.role {
        Role::Outbound { service, port, .. } => {
            view.endpoints.service(service).and_then(|known| known.port(port)).cloned()
        }
        _ => None,
    };
    port.map(|port| port.manner.clone()).unwrap_or_default()
}
