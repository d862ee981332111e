//! CONNECT over HTTP/1: the connection becomes a stream of bytes (RFC 9110, 9.3.6).

use signet_identity::Alpn;
use signet_wire::h1::{Framing, RequestHead};
use tokio::time::Instant;

use super::exchange::{Next, Tunnel, refuse};
use crate::answer::{Reason, Refusal};
use crate::io::Conn;
use crate::outside::{Spoken, look};
use crate::session::{AnyStage, Session};
use crate::stage::{Opening, Stage};
use crate::upstream::{Obtained, obtain};

/// It has neither a length nor fields: what follows are the other side's bytes.
const OPENED: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// Opens the stream that a CONNECT asks for. Refused, the connection ends with the answer: what an eager client sent behind
/// its CONNECT was meant for the other side and is no request to us.
pub(super) async fn open<E: Stage>(session: &Session<E>, client: &mut Conn, head: &RequestHead) -> Next {
    let began = Instant::now();
    match opened(session, head).await {
        Ok((opening, obtained)) => {
            opening.metrics.answered(200, began.elapsed());
            begin(session, client, opening, obtained).await
        }
        Err(refusal) => {
            session.conn.metrics.answered(refusal.status(), began.elapsed());
            refuse(session, client, None, &refusal).await
        }
    }
}

async fn opened<E: Stage>(session: &Session<E>, head: &RequestHead) -> Result<(Opening, Obtained), Refusal> {
    let AnyStage::Explicit(stage) = &session.stage else { return Err(Reason::MethodNotAllowed.into()) };
    if !matches!(head.framing(), Framing::None | Framing::Length(0)) {
        return Err(Refusal::new(Reason::BadRequest("connect_content"))
            .detail("expected CONNECT without content, which it gives no meaning"));
    }
    let authority = head.authority().ok_or(Reason::BadRequest("host_missing"))?;
    let worker = session.worker();
    let mut view = worker.shared.state.view();
    let opening = stage.opening(&mut view, authority).await?;
    let obtained = obtain(worker, &session.watch, &view, &opening.target, Alpn::Tcp, true, &[]).await?;
    Ok((opening, obtained))
}

async fn begin<E: Stage>(
    session: &Session<E>,
    client: &mut Conn,
    opening: Opening,
    Obtained { upstream, in_flight }: Obtained,
) -> Next {
    let shared = &session.worker().shared;
    let permission = opening.permission.clone();
    session.watch.set_recheck(move |view| permission.stands(view));
    // What changed before there was anybody to ask again.
    if !opening.permission.stands(&shared.state.view()) {
        return refuse(session, client, None, &Reason::EgressDenied.into()).await;
    }
    session.watch.within(Some(shared.limits.head_time));
    let mut at = 0;
    if !matches!(session.watch.wait(|cx| client.poll_send(cx, OPENED, &mut at)).await, Ok(Ok(()))) {
        return Next::Abort;
    }
    if let Some(name) = &opening.hello {
        let spoken = look(&session.watch, client, shared.limits.head_time).await;
        if !matches!(&spoken, Spoken::Tls(Some(said)) if **said == **name) {
            session.note(&other_name(name, &spoken));
            return Next::Abort;
        }
    }
    Next::Tunnel(Box::new(Tunnel {
        conn: upstream.conn,
        timeouts: opening.timeouts,
        frames: None,
        metrics: Some(opening.metrics),
        _in_flight: in_flight,
        _exchange: None,
        _handle: None,
    }))
}

/// Another name inside than the one that was asked for could lead to another site at the same address.
pub(crate) fn other_name(name: &str, spoken: &Spoken) -> Refusal {
    Refusal::new(Reason::EgressDenied)
        .detail(format_args!("expected a TLS hello for `{name}` after CONNECT, got {spoken:?}"))
}
