//! The HTTP/1.1 engine: server half and client half in one task.
//!
//! A connection is idle or in an exchange. Idle it holds its session, a stream and a parser: no buffer, no
//! head. With the first bytes of a request the exchange is boxed, and freed with the answer's last.
//! Requests that came together are answered in order, one after the other. Nothing is spawned.

mod body;
pub(crate) mod connect;
pub(crate) mod copies;
mod exchange;
mod failure;
mod run;
mod upload;

use std::task::Poll;
use std::time::Duration;

use signet_wire::h1::RequestParser;

use crate::io::Conn;
use crate::session::{AnyStage, Session};
use crate::stage::Stage;
use crate::tcp;
use crate::worker::Watch;

use exchange::Next;

/// Serves a connection to its end.
pub(crate) async fn serve<E: Stage>(mut session: Session<E>, mut conn: Conn) {
    let mut limits = session.worker().shared.limits.http1;
    // Nobody else's listener takes it.
    limits.connect = matches!(session.stage, AnyStage::Explicit(_));
    let mut parser = RequestParser::new(limits);
    let mut first = true;
    loop {
        if conn.input().is_empty() && !idle(&session, &mut conn, first).await {
            break;
        }
        first = false;
        match Box::pin(exchange::exchange(&session, &mut conn, &mut parser)).await {
            Next::Again => {}
            Next::Close if conn.input().is_empty() => break,
            Next::Close | Next::Linger => {
                linger(&session.watch, &mut conn).await;
                return;
            }
            Next::Abort => {
                conn.stream().reset_on_close();
                return;
            }
            Next::Tunnel(mut tunnel) => {
                if let Some(metrics) = tunnel.metrics.take() {
                    session.counts_as(metrics);
                }
                session.watch.within(tunnel.timeouts.idle);
                Box::pin(tcp::tunnel(&session, conn, &mut tunnel.conn, tunnel.timeouts, tunnel.frames)).await;
                return;
            }
        }
    }
    close(&session.watch, &mut conn).await;
}

/// Waits for a request's first bytes. `false`: the connection is over.
async fn idle<E: Stage>(session: &Session<E>, conn: &mut Conn, first: bool) -> bool {
    let limits = &session.worker().shared.limits;
    // A fresh connection that says nothing costs a stranger nothing: it has no more time than a head.
    session.watch.within(Some(if first { limits.head_time } else { session.idle_time() }));
    let mut hurried = false;
    let filled = session
        .watch
        .wait(|cx| {
            let filled = conn.poll_fill(cx);
            if filled.is_pending() && session.watch.hurried() {
                if !first {
                    // Nothing is under way, so nothing is lost by going.
                    return Poll::Ready(Ok(0));
                }
                // Whoever has just come has a request on the way.
                if !std::mem::replace(&mut hurried, true) {
                    session.watch.within(Some(GOODBYE));
                }
            }
            filled
        })
        .await;
    matches!(filled, Ok(Ok(1..)))
}

/// How long the last words of a connection may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Ends our half, so that the other side sees a whole stream.
async fn close(watch: &Watch, conn: &mut Conn) {
    if watch.ended().is_some() {
        return;
    }
    watch.within(Some(GOODBYE));
    let _ = watch.wait(|cx| conn.poll_close(cx)).await;
}

/// Ends our half and reads what still comes, for a moment: closing with unread bytes would reset the
/// connection, and the answer could be lost with it.
pub(crate) async fn linger(watch: &Watch, conn: &mut Conn) {
    close(watch, conn).await;
    watch.within(Some(GOODBYE));
    let mut left: usize = 256 * 1024;
    while left > 0 {
        let unread = conn.input().len();
        conn.consume(unread);
        match watch.wait(|cx| conn.poll_fill(cx)).await {
            Ok(Ok(count @ 1..)) => left = left.saturating_sub(count),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::NoEdge;

    #[test]
    fn an_idle_connection_is_small_and_its_exchange_boxed() {
        fn size<F>(_: impl FnOnce(Session<NoEdge>, Conn) -> F) -> usize {
            std::mem::size_of::<F>()
        }
        let idle = size(serve);
        assert!(idle <= 1280, "an idle HTTP/1 connection's future has {idle} bytes");
        let exchange = exchange::size();
        assert!(exchange <= 8192, "an exchange's future has {exchange} bytes");
    }
}
