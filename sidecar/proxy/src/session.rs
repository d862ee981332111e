//! A connection from its accept to its engine.
//!
//! What is established here holds for the connection's life: who calls, what the listener or the original
//! destination chose, and which engine speaks. Setting up is boxed and gone before the engine begins, so
//! that an idle connection does not carry a handshake's state.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use signet_identity::HandshakeFailure;
use tokio::net::{TcpStream, UnixStream};

use crate::answer::{Audience, Dialect, Reason, Refusal};
use crate::io::{Conn, Stream};
use crate::listener::Kind;
use crate::original_dst::original_destination;
use crate::stage::{ConnContext, Direction, Forward, Inbound, Outbound, Role, Stage};
use crate::state::{App, InboundPort, Protocol, Snapshot, Wanted, alpn_of};
use crate::tls::{self, Rejected};
use crate::upstream::part_of_life;
use crate::worker::{Open, Watch, Worker, tune};
use crate::{h1, h2, tcp};

/// An accepted socket.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The stage that decides about a connection's requests.
pub(crate) enum AnyStage<E> {
    Inbound(Inbound),
    Outbound(Outbound),
    Edge(Arc<E>),
}

impl<E: Stage> Stage for AnyStage<E> {
    fn audience(&self) -> Audience {
        match self {
            AnyStage::Inbound(stage) => stage.audience(),
            AnyStage::Outbound(stage) => stage.audience(),
            AnyStage::Edge(stage) => stage.audience(),
        }
    }

    async fn admit(
        &self,
        conn: &ConnContext,
        view: &mut Arc<Snapshot>,
        head: signet_wire::RequestView<'_>,
    ) -> Result<Forward, Refusal> {
        match self {
            AnyStage::Inbound(stage) => stage.admit(conn, view, head).await,
            AnyStage::Outbound(stage) => stage.admit(conn, view, head).await,
            AnyStage::Edge(stage) => stage.admit(conn, view, head).await,
        }
    }
}

/// What an engine works with.
pub(crate) struct Session<E> {
    pub(crate) open: Open<E>,
    pub(crate) watch: Watch,
    pub(crate) stage: AnyStage<E>,
    pub(crate) conn: ConnContext,
    /// After this second of the epoch no further request begins: a certificate nears its end.
    pub(crate) until: Option<u64>,
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

    /// Counts, logs and records a refusal.
    pub(crate) fn note(&self, refusal: &Refusal) {
        let shared = &self.worker().shared;
        note(shared, self.conn.direction, &self.conn.role, self.conn.peer.as_ref(), refusal);
    }
}

impl<E> Drop for Session<E> {
    fn drop(&mut self) {
        self.conn.metrics.connections.dec();
    }
}

fn note(
    shared: &crate::Shared,
    direction: Direction,
    role: &Role,
    peer: Option<&signet_identity::Peer>,
    refusal: &Refusal,
) {
    shared.metrics.refused(direction, refusal.reason.label());
    let service = match role {
        Role::Inbound { service, .. } | Role::Outbound { service, .. } => &**service,
        Role::Outside(_) => "outside",
        Role::Edge => "edge",
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
    let Some(Established { conn, context, stage, until }) = established else { return };
    watch.set_client(context.peer.clone());
    context.metrics.connections_total.inc();
    context.metrics.connections.inc();
    let protocol = context.protocol;
    let session = Session { open, watch, stage, conn: context, until };
    // A peer may have been revoked between its check and its place in the registry.
    if session.watch.ended().is_some() {
        return;
    }
    match protocol {
        Protocol::Http1 => h1::serve(session, conn).await,
        Protocol::Tcp => tcp::serve(session, conn).await,
        Protocol::Http2 | Protocol::Grpc => h2::serve(session, conn).await,
    }
}

struct Established<E> {
    conn: Conn,
    context: ConnContext,
    stage: AnyStage<E>,
    until: Option<u64>,
}

async fn establish<E: Stage>(
    open: &Open<E>,
    watch: &Watch,
    socket: Socket,
    remote: Option<SocketAddr>,
    kind: &Kind,
) -> Option<Established<E>> {
    let worker = open.worker();
    let mut view = worker.shared.state.view();
    if let Socket::Tcp(tcp) = &socket {
        tune(tcp);
    }
    match kind {
        Kind::Inbound { service, port, app } => {
            let Some(port) = view.routes.inbound(service, port).cloned() else {
                refuse_stream(worker, Direction::Inbound, service, Reason::PortUnknown);
                return None;
            };
            inbound(worker, watch, &view, socket, remote, port, app.clone()).await
        }
        Kind::TransparentInbound => {
            let destination = destination(worker, &socket)?;
            let Some(port) = view.routes.inbound_number(destination.port()).cloned() else {
                refuse_stream(worker, Direction::Inbound, "unknown", Reason::PortUnknown);
                return None;
            };
            let app = worker.app(destination);
            inbound(worker, watch, &view, socket, remote, port, app).await
        }
        Kind::Outbound { service, port } => {
            outbound(worker, &mut view, socket, remote, service.clone(), port.clone()).await
        }
        Kind::TransparentOutbound => {
            let destination = destination(worker, &socket)?;
            match transparent(worker, &mut view, destination).await? {
                Behind::Port(service, port) => {
                    outbound(worker, &mut view, socket, remote, service, port).await
                }
                Behind::Outside => Some(outside(worker, socket, remote, destination)),
            }
        }
        Kind::Edge { protocol, tls } => edge(worker, watch, socket, remote, *protocol, tls.as_ref()).await,
    }
}

async fn inbound<E: Stage>(
    worker: &Rc<Worker<E>>,
    watch: &Watch,
    view: &Snapshot,
    socket: Socket,
    remote: Option<SocketAddr>,
    port: Arc<InboundPort>,
    app: Arc<App>,
) -> Option<Established<E>> {
    let Socket::Tcp(socket) = socket else {
        refuse_stream(worker, Direction::Inbound, &port.service, Reason::Plaintext);
        return None;
    };
    let local = socket.local_addr().ok();
    let shared = &worker.shared;
    watch.within(Some(shared.limits.handshake_time));
    let mut accepting = std::pin::pin!(async {
        // Closed only with the process.
        let _turn = shared.handshakes.acquire().await;
        tls::accept(socket, &view.tls, alpn_of(port.protocol)).await
    });
    let accepted = match watch.wait(|cx| accepting.as_mut().poll(cx)).await {
        Ok(accepted) => accepted,
        Err(_) => Err(Rejected::from(HandshakeFailure::Timeout)),
    };
    let (stream, peer) = match accepted {
        Ok(accepted) => accepted,
        Err(Rejected { failure, socket }) => {
            tls::report(&failure, Direction::Inbound, remote, &port.service, &shared.metrics);
            if let (Some(socket), Protocol::Http1) = (socket, port.protocol) {
                answer_plaintext(watch, socket).await;
            }
            return None;
        }
    };
    let xfcc = match &stream {
        Stream::Accepted(tls) => tls
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first)
            .and_then(|leaf| crate::stage::xfcc(&peer, leaf, &view.tls.generation.own().svid().id)),
        _ => None,
    };
    Some(Established {
        until: Some(part_of_life(peer.svid(), view, 4, 5)),
        conn: Conn::new(stream),
        stage: AnyStage::Inbound(Inbound::new(shared.clone())),
        context: ConnContext {
            direction: Direction::Inbound,
            protocol: port.protocol,
            peer: Some(peer),
            xfcc,
            remote,
            local,
            tls: true,
            metrics: shared.metrics.route(Direction::Inbound, &port.service),
            role: Role::Inbound { service: port.service.clone(), port: port.name.clone(), app },
        },
    })
}

/// Tells a caller in plaintext HTTP what is wrong, as far as it may know.
async fn answer_plaintext(watch: &Watch, socket: TcpStream) {
    let refusal = Refusal::new(Reason::Plaintext);
    let answer = refusal.answer(Audience::Mesh, Dialect::Http).to_http1(true, false);
    let mut conn = Conn::new(Stream::Tcp(socket));
    watch.within(Some(Duration::from_secs(1)));
    let mut at = 0;
    if let Ok(Ok(())) = watch.wait(|cx| conn.poll_send(cx, &answer, &mut at)).await {
        h1::linger(watch, &mut conn).await;
    }
}

async fn outbound<E: Stage>(
    worker: &Rc<Worker<E>>,
    view: &mut Arc<Snapshot>,
    socket: Socket,
    remote: Option<SocketAddr>,
    service: Arc<str>,
    port: Arc<str>,
) -> Option<Established<E>> {
    let shared = &worker.shared;
    let stage = Outbound::new(shared.clone());
    // The port's protocol chooses the engine. A port without endpoints is still one: its requests are told.
    let protocol = match stage.find(view, &service, &port).await {
        Ok(found) => found.protocol,
        Err(refusal) => match view.endpoints.service(&service).and_then(|known| known.port(&port)) {
            Some(known) => known.protocol,
            None => {
                let role = Role::Outbound { service, port };
                note(shared, Direction::Outbound, &role, None, &refusal);
                return None;
            }
        },
    };
    let (conn, local) = plain(socket);
    Some(Established {
        conn,
        stage: AnyStage::Outbound(stage),
        until: None,
        context: ConnContext {
            direction: Direction::Outbound,
            protocol,
            peer: None,
            xfcc: None,
            remote,
            local,
            tls: false,
            metrics: shared.metrics.route(Direction::Outbound, &service),
            role: Role::Outbound { service, port },
        },
    })
}

async fn edge<E: Stage>(
    worker: &Rc<Worker<E>>,
    watch: &Watch,
    socket: Socket,
    remote: Option<SocketAddr>,
    protocol: Protocol,
    config: Option<&Arc<rustls::ServerConfig>>,
) -> Option<Established<E>> {
    let shared = &worker.shared;
    let stage = AnyStage::Edge(worker.common.edge.clone()?);
    let (conn, local, protocol) = match (config, socket) {
        (None, socket) => {
            let (conn, local) = plain(socket);
            (conn, local, protocol)
        }
        (Some(_), Socket::Unix(_)) => return None,
        (Some(config), Socket::Tcp(socket)) => {
            let local = socket.local_addr().ok();
            watch.within(Some(shared.limits.handshake_time));
            let mut accepting = std::pin::pin!(async {
                let _turn = shared.handshakes.acquire().await;
                let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
                acceptor.accept(crate::io::ReadAhead::new(socket)).await
            });
            let failure = match watch.wait(|cx| accepting.as_mut().poll(cx)).await {
                Ok(Ok(stream)) => {
                    let protocol = match stream.get_ref().1.alpn_protocol() {
                        Some(b"h2") => Protocol::Http2,
                        Some(b"http/1.1") => Protocol::Http1,
                        _ => protocol,
                    };
                    let conn = Conn::new(Stream::Accepted(Box::new(stream)));
                    return Some(edge_context(worker, stage, conn, remote, local, protocol, true));
                }
                Ok(Err(error)) => HandshakeFailure::from_io(&error),
                Err(_) => HandshakeFailure::Timeout,
            };
            tls::report(&failure, Direction::Edge, remote, "edge", &shared.metrics);
            return None;
        }
    };
    Some(edge_context(worker, stage, conn, remote, local, protocol, false))
}

fn edge_context<E: Stage>(
    worker: &Rc<Worker<E>>,
    stage: AnyStage<E>,
    conn: Conn,
    remote: Option<SocketAddr>,
    local: Option<SocketAddr>,
    protocol: Protocol,
    tls: bool,
) -> Established<E> {
    Established {
        conn,
        stage,
        until: None,
        context: ConnContext {
            direction: Direction::Edge,
            role: Role::Edge,
            protocol,
            peer: None,
            xfcc: None,
            remote,
            local,
            tls,
            metrics: worker.shared.metrics.route(Direction::Edge, &Arc::from("edge")),
        },
    }
}

fn plain(socket: Socket) -> (Conn, Option<SocketAddr>) {
    match socket {
        Socket::Tcp(socket) => {
            let local = socket.local_addr().ok();
            (Conn::new(Stream::Tcp(socket)), local)
        }
        Socket::Unix(socket) => (Conn::new(Stream::Unix(socket)), None),
    }
}

/// The original destination of a redirected connection. One that was not redirected, or that names a
/// listener of ours, would come back to us for ever.
fn destination<E>(worker: &Worker<E>, socket: &Socket) -> Option<SocketAddr> {
    let Socket::Tcp(socket) = socket else { return None };
    let local = socket.local_addr().ok();
    let found =
        original_destination(socket).map(|found| SocketAddr::new(found.ip().to_canonical(), found.port()));
    match found {
        Ok(found) if Some(found) != local.map(canonical) && !is_own(worker, found) => Some(found),
        Ok(found) => {
            refuse_stream(worker, Direction::Outbound, "unknown", Reason::DestinationUnknown);
            tracing::warn!(target: "signet::refusal", %found, "a connection straight to a redirect listener");
            None
        }
        Err(error) => {
            refuse_stream(worker, Direction::Outbound, "unknown", Reason::DestinationUnknown);
            tracing::warn!(target: "signet::refusal", %error, "a connection without an original destination");
            None
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether this is a listener of ours. One on every address is ours under any address of this host; which
/// those are is not asked, since a redirected destination on our own port is never right.
fn is_own<E>(worker: &Worker<E>, destination: SocketAddr) -> bool {
    worker.common.own.iter().any(|own| {
        own.port() == destination.port()
            && (own.ip().to_canonical() == destination.ip()
                || (own.ip().is_unspecified() && destination.ip().is_loopback()))
    })
}

/// What is behind an original destination.
enum Behind {
    /// A service's port.
    Port(Arc<str>, Arc<str>),
    /// Nothing of the mesh.
    Outside,
}

/// A destination outside the mesh, where its default lets apps call out.
fn outside<E: Stage>(
    worker: &Rc<Worker<E>>,
    socket: Socket,
    remote: Option<SocketAddr>,
    destination: SocketAddr,
) -> Established<E> {
    let shared = &worker.shared;
    let (conn, local) = plain(socket);
    Established {
        conn,
        stage: AnyStage::Outbound(Outbound::new(shared.clone())),
        until: None,
        context: ConnContext {
            direction: Direction::Outbound,
            protocol: Protocol::Tcp,
            peer: None,
            xfcc: None,
            remote,
            local,
            tls: false,
            metrics: shared.metrics.route(Direction::Outbound, &Arc::from("outside")),
            role: Role::Outside(worker.app(destination)),
        },
    }
}

/// The service port behind an original destination.
async fn transparent<E>(
    worker: &Worker<E>,
    view: &mut Arc<Snapshot>,
    destination: SocketAddr,
) -> Option<Behind> {
    let ip = destination.ip();
    let found = worker
        .shared
        .state
        .first_use(
            view,
            || Wanted::Address(ip),
            |endpoints| {
                let known = endpoints.by_address(ip).cloned();
                (known.is_some() || endpoints.refusal(&ip.to_string()).is_some()).then_some(known)
            },
        )
        .await
        .flatten();
    let Some(service) = found else {
        if view.policy.mesh.default_allow && !view.endpoints.is_of_the_mesh(destination) {
            return Some(Behind::Outside);
        }
        refuse_stream(worker, Direction::Outbound, "unknown", Reason::DestinationUnknown);
        return None;
    };
    match service.port_number(destination.port()) {
        Some(port) => Some(Behind::Port(service.name.clone(), port.name.clone())),
        None => {
            refuse_stream(worker, Direction::Outbound, &service.name, Reason::PortUnknown);
            None
        }
    }
}

/// Notes a connection that is closed without a word.
fn refuse_stream<E>(worker: &Worker<E>, direction: Direction, service: &str, reason: Reason) {
    let role = Role::Outbound { service: service.into(), port: "".into() };
    note(&worker.shared, direction, &role, None, &Refusal::new(reason));
}
