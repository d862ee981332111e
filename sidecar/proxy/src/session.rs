//! A connection from its accept to its engine.
//!
//! What is established here holds for the connection's life: who calls, what the listener or the original
//! destination chose, and which engine speaks. Setting up is boxed and gone before the engine begins, so
//! that an idle connection does not carry a handshake's state.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use crate::answer::{Audience, Reason, Refusal};
use crate::establish::{Established, Nobody, establish};
use crate::flood::PerSecond;
use crate::listener::Kind;
use crate::metrics::RouteMetrics;
use crate::plaintext::Room;
use crate::stage::{ConnContext, Direction, Egress, Explicit, Forward, Inbound, Outbound, Role, Stage};
use crate::state::{Protocol, Snapshot};
use crate::worker::{Open, Watch, Worker};
use crate::{h1, h2, tcp, undeclared};

/// An accepted socket.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The stage that decides about a connection's requests.
pub(crate) enum AnyStage<E> {
    Inbound(Inbound),
    Outbound(Outbound),
    Egress(Egress),
    /// Larger than the others, and rarer.
    Explicit(Box<Explicit>),
    Edge(Arc<E>),
}

impl<E: Stage> Stage for AnyStage<E> {
    fn audience(&self) -> Audience {
        match self {
            AnyStage::Inbound(stage) => stage.audience(),
            AnyStage::Outbound(stage) => stage.audience(),
            AnyStage::Egress(stage) => stage.audience(),
            AnyStage::Explicit(stage) => stage.audience(),
            AnyStage::Edge(stage) => stage.audience(),
        }
    }

    async fn admit(
        &self,
        conn: &ConnContext,
        view: &mut Arc<Snapshot>,
        head: signet_wire::RequestView<'_>,
    ) -> Result<Forward, Refusal> {
        still_in_force(conn)?;
        match self {
            AnyStage::Inbound(stage) => stage.admit(conn, view, head).await,
            AnyStage::Outbound(stage) => stage.admit(conn, view, head).await,
            AnyStage::Egress(stage) => stage.admit(conn, view, head).await,
            // Rare, and it holds the futures of two others.
            AnyStage::Explicit(stage) => Box::pin(stage.admit(conn, view, head)).await,
            AnyStage::Edge(stage) => stage.admit(conn, view, head).await,
        }
    }
}

/// A connection drains before the end of its SVIDs. A request that comes late all the same, since the one before it took
/// so long or its head came so slowly, is not served under an identity that has ended.
fn still_in_force(conn: &ConnContext) -> Result<(), Refusal> {
    match &conn.peer {
        Some(peer) if u64::try_from(peer.not_after()).unwrap_or(0) < crate::pool::now() => {
            Err(Reason::Expired.into())
        }
        _ => Ok(()),
    }
}

/// What an engine works with.
pub(crate) struct Session<E> {
    pub(crate) open: Open<E>,
    pub(crate) watch: Watch,
    pub(crate) stage: AnyStage<E>,
    pub(crate) conn: ConnContext,
    /// After this second of the epoch no further request begins: a certificate nears its end, or the port's being
    /// permissive.
    pub(crate) until: Option<u64>,
    /// Its place among the connections without the mesh, if it is one.
    pub(crate) _room: Option<Room>,
}

impl<E> Session<E> {
    pub(crate) fn worker(&self) -> &Rc<Worker<E>> {
        self.open.worker()
    }

    /// Whether the connection should end with its current exchange.
    pub(crate) fn is_leaving(&self) -> bool {
        self.watch.draining() || self.until.is_some_and(|until| crate::pool::now() >= until)
    }

    /// How long an idle connection may be kept now.
    pub(crate) fn idle_time(&self) -> Duration {
        let most = self.worker().shared.limits.client_idle;
        let left = self.until.map(|until| Duration::from_secs(until.saturating_sub(crate::pool::now())));
        left.map_or(most, |left| left.min(most))
    }

    /// From now on it is a connection to another service than its listener's.
    pub(crate) fn counts_as(&mut self, metrics: Arc<RouteMetrics>) {
        metrics.connections_total.inc();
        metrics.connections.inc();
        let before = std::mem::replace(&mut self.conn.metrics, metrics);
        before.connections.dec();
    }

    /// Counts, logs and records a refusal. A redirect is none.
    pub(crate) fn note(&self, refusal: &Refusal) {
        if refusal.location.is_some() {
            return;
        }
        let shared = &self.worker().shared;
        note(shared, self.conn.direction, &self.conn.role, self.conn.peer.as_ref(), refusal);
    }
}

impl<E> Drop for Session<E> {
    fn drop(&mut self) {
        self.conn.metrics.connections.dec();
    }
}

/// Refusals of strangers that are logged and recorded in a second.
const NOTED_PER_SECOND: u64 = 10;
static NOTED: PerSecond = PerSecond::new();

/// Counts, logs and records a refusal.
pub(crate) fn note(
    shared: &crate::Shared,
    direction: Direction,
    role: &Role,
    peer: Option<&signet_identity::Peer>,
    refusal: &Refusal,
) {
    shared.metrics.refused(direction, refusal.reason.label());
    // There a stranger can cause as many as it likes.
    let is_strangers =
        direction == Direction::EastWest || direction == Direction::Edge && matches!(role, Role::Passed(_));
    if is_strangers && !NOTED.admits(crate::pool::now(), NOTED_PER_SECOND) {
        return;
    }
    let service = match role {
        Role::Inbound { service, .. } | Role::Outbound { service, .. } => &**service,
        Role::Egress(outward) => outward.service(),
        Role::Explicit => "forward-proxy",
        Role::Edge(_) => "edge",
        Role::Passed(passed) => passed.service(),
        Role::EastWest(passage) => &*passage.port.service,
    };
    tracing::info!(
        target: "signet::refusal",
        id = %refusal.decision,
        direction = direction.as_str(),
        service,
        peer = peer.map(|peer| tracing::field::display(peer.id())),
        "{refusal}",
    );
    if !refusal.recorded {
        shared.decisions.record(refusal.decision, || {
            serde_json::json!({
                "reason": refusal.reason.label(),
                "fine": refusal.reason.fine(),
                "detail": refusal.detail.as_deref(),
                "service": service,
                "direction": direction.as_str(),
                "peer": peer.map(|peer| peer.id().to_string()),
            })
            .to_string()
        });
    }
}

/// Serves one accepted connection to its end.
pub(crate) async fn serve<E: Stage>(
    open: Open<E>,
    watch: Watch,
    socket: Socket,
    remote: Option<SocketAddr>,
    kind: Arc<Kind>,
) {
    let established = Box::pin(establish(&open, &watch, socket, remote, &kind)).await;
    let Some(Established { conn, context, stage, until, nobody }) = established else { return };
    watch.set_client(context.peer.clone());
    context.metrics.connections_total.inc();
    context.metrics.connections.inc();
    let protocol = context.protocol;
    let (room, app) = nobody.map_or((None, None), |Nobody { room, app }| (Some(room), app));
    let session = Session { open, watch, stage, conn: context, until, _room: room };
    // A peer may have been revoked between its check and its place in the registry.
    if session.watch.ended().is_some() {
        return;
    }
    // Each request is decided by itself. What is under way, and what an upgrade leaves, is cut when nothing could be
    // permitted any more; a stream of bytes has its own word on that.
    if let (Role::Inbound { service, port, .. }, Some(peer)) = (&session.conn.role, &session.conn.peer) {
        let (service, port, peer) = (service.clone(), port.clone(), peer.clone());
        session.watch.set_recheck(move |view| Inbound::may_ask(view, &service, &port, &peer));
    }
    if let Role::Egress(outward) = &session.conn.role {
        let (outward, peer) = (outward.clone(), session.conn.peer.clone());
        session.watch.set_recheck(move |view| {
            // What leads to the address itself is no place of ours.
            let bytes = protocol == Protocol::Tcp && outward.port.is_none();
            if bytes { outward.may_leave(view) } else { Egress::may_ask(view, &outward, peer.as_ref()) }
        });
    }
    match protocol {
        Protocol::Http1 => h1::serve(session, conn).await,
        Protocol::Tcp => tcp::serve(session, conn, app).await,
        Protocol::Http2 | Protocol::Grpc => h2::serve(session, conn).await,
        Protocol::Auto => {
            if let Some((session, conn)) = Box::pin(undeclared::serve(session, conn)).await {
                match session.conn.protocol {
                    Protocol::Http1 => h1::serve(session, conn).await,
                    _ => h2::serve(session, conn).await,
                }
            }
        }
    }
}
