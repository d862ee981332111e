//! From an accepted socket to a connection that is known: who calls, for what, over which protocol.
//!
//! The listener says what comes in. For redirected connections the original destination chooses the
//! service, and nothing else does; inbound ones are authenticated before anything is read of them.
//! Whatever fails here is a typed reason in the log and a counter, and the caller gets nothing but a close,
//! except for plaintext HTTP, which is told that it is plaintext.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use signet_identity::{Alpn, HandshakeFailure};
use signet_wire::first::First;
use signet_wire::hello::Hello;
use tokio::net::TcpStream;

use crate::age::called_until;
use crate::answer::{Audience, Dialect, Reason, Refusal};
mod edge;
mod egress;
mod passed;
mod redirected;

pub(crate) use redirected::Places;

use crate::east_west;
use crate::h1;
use crate::io::{Conn, ReadAhead, Stream};
use crate::listener::Kind;
use crate::original_dst::original_destination;
use crate::plaintext::{self, Caller, Failed, Room};
use crate::session::{AnyStage, Socket, note};
use crate::stage::{ConnContext, Direction, Explicit, Inbound, Outbound, Role, Stage};
use crate::state::{App, Dialled, InboundPort, Protocol, Snapshot, Wanted, alpn_of};
use crate::tls::{self, Rejected, Word};
use crate::undeclared;
use crate::worker::{Open, Watch, Worker, tune};

/// A connection that is ready for its engine.
pub(crate) struct Established<E> {
    pub(crate) conn: Conn,
    pub(crate) context: ConnContext,
    pub(crate) stage: AnyStage<E>,
    /// After this second of the epoch no further request begins.
    pub(crate) until: Option<u64>,
    /// A caller without the mesh.
    pub(crate) nobody: Option<Nobody>,
}

/// What a caller has that has no identity.
pub(crate) struct Nobody {
    /// Its place among its like.
    pub(crate) room: Room,
    /// The connection to the app, where that was needed to know it.
    pub(crate) app: Option<Conn>,
}

/// Establishes a connection. `None`: it was refused, and that is noted.
pub(crate) async fn establish<E: Stage>(
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
            inbound(worker, watch, &view, socket, remote, &[port], app.clone()).await
        }
        Kind::TransparentInbound => {
            let destination = destination(worker, &socket)?;
            let ports = redirected::served_at(worker, &mut view, destination).await;
            let app = worker.app(destination);
            inbound(worker, watch, &view, socket, remote, &ports, app).await
        }
        Kind::Outbound { service, port } => {
            if let Some(outward) = egress::listed(&view, service, port) {
                return egress::ours(worker, watch, socket, remote, outward).await;
            }
            let meant = Meant { service: service.clone(), port: port.clone(), endpoint: None };
            outbound(worker, watch, &mut view, socket, remote, meant).await
        }
        Kind::Explicit => explicit(worker, watch, socket, remote).await,
        Kind::TransparentOutbound => {
            let destination = destination(worker, &socket)?;
            match transparent(worker, &mut view, destination).await? {
                Behind::Port(meant) => outbound(worker, watch, &mut view, socket, remote, meant).await,
                Behind::Outside => {
                    egress::redirected(worker, watch, &view, socket, remote, destination).await
                }
            }
        }
        Kind::EastWest => Box::pin(east_west::establish(worker, watch, &view, socket, remote)).await,
        Kind::Egress => egress::of_peer(worker, watch, &view, socket, remote).await,
        Kind::Edge { protocol, port, tls } => {
            let listens = edge::Listens { protocol: *protocol, port: *port, tls: tls.as_ref() };
            edge::establish(worker, watch, &view, socket, remote, listens).await
        }
    }
}

async fn inbound<E: Stage>(
    worker: &Rc<Worker<E>>,
    watch: &Watch,
    view: &Snapshot,
    socket: Socket,
    remote: Option<SocketAddr>,
    ports: &[Arc<InboundPort>],
    app: Arc<App>,
) -> Option<Established<E>> {
    let Some(mut port) = ports.first().cloned() else {
        refuse_stream(worker, Direction::Inbound, "unknown", Reason::PortUnknown);
        return None;
    };
    let Socket::Tcp(socket) = socket else {
        refuse_stream(worker, Direction::Inbound, &port.service, Reason::Plaintext);
        return None;
    };
    let local = socket.local_addr().ok();
    let shared = &worker.shared;
    let mut io = ReadAhead::new(socket);
    // Who says nothing means all that is served here.
    if ports.iter().all(|here| redirected::lets_in_plaintext(view, here, &port))
        && let Some(room) = Room::take(shared)
    {
        watch.set_plaintext(Some((port.service.clone(), port.name.clone())));
        match Box::pin(plaintext::sort(worker, watch, io, &port, &app)).await {
            Ok(Caller::Mesh(peers)) => io = peers,
            Ok(Caller::Nobody(conn, dialled)) => {
                let nobody = Nobody { room, app: dialled };
                return Some(let_in(worker, conn, remote, local, &port, app, nobody));
            }
            Err(failed) => {
                turn_away(worker, remote, &port, app, &failed);
                return None;
            }
        }
        watch.set_plaintext(None);
    }
    watch.within(Some(shared.limits.handshake_time));
    let meant = OnceCell::new();
    let fits = |hello: &Hello| {
        let port = tls::for_these_ports(hello, ports)?;
        let alpn = alpn_of(port.protocol);
        let _ = meant.set(port);
        Ok(alpn)
    };
    let accepted = {
        let mut accepting = std::pin::pin!(tls::accept(io, &view.tls, fits, &shared.handshakes));
        match watch.wait(|cx| accepting.as_mut().poll(cx)).await {
            Ok(accepted) => accepted,
            Err(_) => Err(Rejected::from(HandshakeFailure::Timeout)),
        }
    };
    if let Some(meant) = meant.into_inner() {
        port = meant;
    }
    let (stream, peer, spoken) = match accepted {
        Ok(accepted) => accepted,
        Err(Rejected { failure, socket, word }) => {
            tls::report(shared, Some(&view.tls), &failure, Direction::Inbound, remote, &port.service);
            match (socket, word, port.protocol) {
                (Some(socket), Word::Said, _) => say(watch, socket, &[]).await,
                (Some(socket), Word::Alert(alert), _) => say(watch, socket, &alert).await,
                // In plaintext HTTP a caller is told what is wrong, as far as it may know.
                (Some(socket), Word::Plaintext, Protocol::Http1) => {
                    let refusal = Refusal::new(Reason::Plaintext);
                    say(watch, socket, &refusal.answer(Audience::Mesh, Dialect::Http).to_http1(true, false))
                        .await;
                }
                _ => {}
            }
            return None;
        }
    };
    let protocol = match (port.protocol, spoken) {
        (Protocol::Auto, Some(Alpn::Http1)) => Protocol::Http1,
        (Protocol::Auto, Some(Alpn::H2)) => Protocol::Http2,
        // Without a word these are bytes, like those of a client outside Signet.
        (Protocol::Auto, Some(Alpn::Tcp) | None) => Protocol::Tcp,
        (declared, _) => declared,
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
        nobody: None,
        until: Some(called_until(peer.svid(), view)),
        conn: Conn::new(stream),
        stage: AnyStage::Inbound(Inbound::new(shared.clone())),
        context: ConnContext {
            direction: Direction::Inbound,
            protocol,
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

/// A caller without the mesh, at a port that lets it in.
fn let_in<E: Stage>(
    worker: &Rc<Worker<E>>,
    conn: Conn,
    remote: Option<SocketAddr>,
    local: Option<SocketAddr>,
    port: &InboundPort,
    app: Arc<App>,
    nobody: Nobody,
) -> Established<E> {
    let shared = &worker.shared;
    shared.metrics.plaintext(&port.service, &port.name);
    if let Some(from) = remote.map(|remote| remote.ip().to_canonical())
        && shared.plaintext.count(port, from)
    {
        tracing::info!(target: "signet::plaintext", %from, service = &*port.service, port = &*port.name,
            until = port.permissive_until, "a caller without the mesh was let in: the first connection from there");
    }
    Established {
        nobody: Some(nobody),
        until: port.permissive_until,
        conn,
        stage: AnyStage::Inbound(Inbound::new(shared.clone())),
        context: ConnContext {
            direction: Direction::Inbound,
            protocol: port.protocol,
            peer: None,
            xfcc: None,
            remote,
            local,
            tls: false,
            metrics: shared.metrics.route(Direction::Inbound, &port.service),
            role: Role::Inbound { service: port.service.clone(), port: port.name.clone(), app },
        },
    }
}

/// A connection that did not become anybody's, at a port that would have let anybody in.
fn turn_away<E>(
    worker: &Worker<E>,
    remote: Option<SocketAddr>,
    port: &InboundPort,
    app: Arc<App>,
    failed: &Failed,
) {
    let shared = &worker.shared;
    match failed {
        Failed::Hello(failure) => {
            let tls = &shared.state.view().tls;
            tls::report(shared, Some(tls), failure, Direction::Inbound, remote, &port.service);
        }
        Failed::App(refusal) => {
            let role = Role::Inbound { service: port.service.clone(), port: port.name.clone(), app };
            note(shared, Direction::Inbound, &role, None, refusal);
        }
        Failed::Ended(end) => shared.metrics.stream_cut(Direction::Inbound, end.label()),
    }
}

/// Last words to somebody who is refused.
pub(crate) async fn say(watch: &Watch, socket: TcpStream, words: &[u8]) {
    say_to(watch, Conn::new(Stream::Tcp(socket)), words).await;
}

async fn say_to(watch: &Watch, mut conn: Conn, words: &[u8]) {
    watch.within(Some(Duration::from_secs(1)));
    let mut at = 0;
    if let Ok(Ok(())) = watch.wait(|cx| conn.poll_send(cx, words, &mut at)).await {
        h1::linger(watch, &mut conn).await;
    }
}

async fn outbound<E: Stage>(
    worker: &Rc<Worker<E>>,
    watch: &Watch,
    view: &mut Arc<Snapshot>,
    socket: Socket,
    remote: Option<SocketAddr>,
    Meant { service, port, endpoint }: Meant,
) -> Option<Established<E>> {
    let shared = &worker.shared;
    let stage = Outbound::new(shared.clone());
    // The port's protocol chooses the engine. A port without endpoints is still one: its requests are told.
    let refusal = stage.find(view, &service, &port, endpoint).await.err();
    let (mut conn, local) = plain(socket);
    // Who dials one endpoint means it, whatever routes the service has.
    if endpoint.is_none()
        && let Some(routed) = passed::routed(view, &service, &port)
    {
        return Box::pin(passed::by_route(worker, watch, conn, (remote, local), routed)).await;
    }
    let protocol = match view.endpoints.service(&service).and_then(|known| known.port(&port)) {
        Some(known) if known.protocol == Protocol::Auto => {
            match undeclared::look(watch, &mut conn, known, shared.limits.head_time).await {
                Ok(protocol) => protocol,
                Err(refusal) => {
                    let role = Role::Outbound { service, port, endpoint };
                    note(shared, Direction::Outbound, &role, None, &refusal);
                    conn.stream().reset_on_close();
                    conn.input().clear();
                    return None;
                }
            }
        }
        Some(known) => known.protocol,
        // Nobody knows what it should speak. If it speaks HTTP it is told why it is refused.
        None => match sniff(watch, &mut conn).await {
            Some(protocol) => protocol,
            None => {
                let refusal = refusal.unwrap_or_else(|| Reason::ServiceUnknown.into());
                let role = Role::Outbound { service, port, endpoint };
                note(shared, Direction::Outbound, &role, None, &refusal);
                return None;
            }
        },
    };
    Some(Established {
        conn,
        stage: AnyStage::Outbound(stage),
        nobody: None,
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
            role: Role::Outbound { service, port, endpoint },
        },
    })
}

/// Our app, which uses us as its HTTP proxy. Which version it speaks its first bytes say.
async fn explicit<E: Stage>(
    worker: &Rc<Worker<E>>,
    watch: &Watch,
    socket: Socket,
    remote: Option<SocketAddr>,
) -> Option<Established<E>> {
    let shared = &worker.shared;
    let (mut conn, local) = plain(socket);
    let protocol = match undeclared::first_bytes(watch, &mut conn, shared.limits.head_time).await {
        First::Http1 => Protocol::Http1,
        First::Http2 => Protocol::Http2,
        First::Bytes | First::More => {
            let refusal = Refusal::new(Reason::NotImplemented).detail("expected a request to a proxy");
            note(shared, Direction::Outbound, &Role::Explicit, None, &refusal);
            conn.stream().reset_on_close();
            conn.input().clear();
            return None;
        }
    };
    Some(Established {
        conn,
        stage: AnyStage::Explicit(Box::new(Explicit::new(shared.clone()))),
        nobody: None,
        until: None,
        context: ConnContext {
            direction: Direction::Outbound,
            protocol,
            peer: None,
            xfcc: None,
            remote,
            local,
            tls: false,
            metrics: shared.metrics.route(Direction::Outbound, &Arc::from("forward-proxy")),
            role: Role::Explicit,
        },
    })
}

/// How long a caller of an unknown service may take to show that it speaks HTTP.
const SNIFF: Duration = Duration::from_secs(1);

/// What a caller's first bytes look like.
async fn sniff(watch: &Watch, conn: &mut Conn) -> Option<Protocol> {
    match undeclared::first_bytes(watch, conn, SNIFF).await {
        First::Http1 => Some(Protocol::Http1),
        First::Http2 => Some(Protocol::Grpc),
        First::Bytes | First::More => None,
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
        Ok(found) if Some(found) != local.map(canonical) && !worker.is_own(found) => Some(found),
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

/// A service's port that is called, or the one endpoint of it.
struct Meant {
    service: Arc<str>,
    port: Arc<str>,
    endpoint: Option<SocketAddr>,
}

/// What is behind an original destination.
enum Behind {
    /// A service's port.
    Port(Meant),
    /// Nothing of the mesh.
    Outside,
}

/// The service port behind an original destination, or the one endpoint of it that is there.
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
                // Of an address that several services share one may be known and the one that is meant not yet.
                let known = endpoints.dialled(destination).cloned();
                let is_all = endpoints.is_settled(ip) || endpoints.refusal(&ip.to_string()).is_some();
                (known.is_some() || is_all).then_some(known)
            },
        )
        .await
        .flatten();
    if let Some(dialled) = found {
        let port = dialled.port();
        let endpoint = matches!(dialled, Dialled::Endpoint(_)).then_some(destination);
        return Some(Behind::Port(Meant {
            service: port.service.clone(),
            port: port.name.clone(),
            endpoint,
        }));
    }
    let is_of_the_mesh = view.endpoints.is_of_the_mesh(destination);
    // Outside is what the control plane says is nobody's. While it has not answered, the address may be the mesh's,
    // which is never dialled in plaintext (decision 3).
    let is_nobodys = view.endpoints.refusal(&ip.to_string()).is_some();
    if is_nobodys && !is_of_the_mesh {
        return Some(Behind::Outside);
    }
    let reason = if is_of_the_mesh { Reason::PortUnknown } else { Reason::DestinationUnknown };
    refuse_stream(worker, Direction::Outbound, "unknown", reason);
    None
}

/// Notes a connection that is closed without a word.
fn refuse_stream<E>(worker: &Worker<E>, direction: Direction, service: &str, reason: Reason) {
    let role = Role::Outbound { service: service.into(), port: "".into(), endpoint: None };
    note(&worker.shared, direction, &role, None, &Refusal::new(reason));
}
