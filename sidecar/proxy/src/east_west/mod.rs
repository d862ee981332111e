//! Hellos of other clusters, passed on.
//!
//! A peer of another cluster dials our gateway and means a service of ours. Its hello says which, and which identity must
//! answer ([`signet_identity::RoutedName`]); we read that much, choose an endpoint of that identity, and carry all bytes
//! both ways, the hello included. Nothing is opened here and no key is held: who calls, what it may and on whose behalf
//! is between the two ends. Whoever stands in our place could send the bytes elsewhere, where nobody can answer
//! for the identity that the caller verifies; and to another port of the same identity, which that end notices.
//!
//! Strangers reach this port. Before a whole hello has come nothing is dialled, there is a time for it, and of those who
//! still owe theirs only so many wait: the one that has waited longest goes first ([`Hellos`]). With a hello a stranger
//! gets no further than a sidecar's handshake, and only to services that the Gateway lists.

mod hellos;
mod passing;

use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use signet_identity::{Alpn, HandshakeFailure, RoutedName};
use signet_wire::hello::{Hello, Peek};
use tokio::net::TcpStream;

use crate::answer::{Reason, Refusal};
use crate::balance;
use crate::establish::{Established, say};
use crate::io::{Conn, ReadAhead, Stream};
use crate::own_pod;
use crate::session::{AnyStage, Socket, note};
use crate::shared::Shared;
use crate::stage::{ConnContext, Direction, Outbound, Role, Stage};
use crate::state::{InFlight, Protocol, ServicePort, Snapshot};
use crate::tls::{self, Word};
use crate::tries::{Outcome, judge};
use crate::upstream::ended;
use crate::worker::{End, Watch, Worker};

pub(crate) use hellos::Hellos;
pub(crate) use passing::{Passing, Token};

/// Where a hello goes.
pub struct Passage {
    /// The port that is meant, with the endpoints of the identity that must answer and no others.
    pub(crate) port: Arc<ServicePort>,
    /// As long as it is held the same hello is not passed on again.
    _token: Token,
}

impl fmt::Debug for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passage").field("service", &self.port.service).field("port", &self.port.name).finish()
    }
}

/// Why a connection goes nowhere.
pub(crate) enum Turned {
    /// It is no hello for us.
    Hello(HandshakeFailure),
    /// It is, and what it names is not to be had.
    Refused(Refusal),
    /// Others came while it waited to be a hello.
    Crowded,
    /// The process ends.
    Ended,
}

/// Reads a hello and finds where it goes. `None`: nowhere, and that is noted.
pub(crate) async fn establish<E: Stage>(
    worker: &Rc<Worker<E>>,
    watch: &Watch,
    view: &Snapshot,
    socket: Socket,
    remote: Option<SocketAddr>,
) -> Option<Established<E>> {
    let Socket::Tcp(socket) = socket else { return None };
    let shared = &worker.shared;
    let local = socket.local_addr().ok();
    let mut io = ReadAhead::new(socket);
    let found = match read(shared, &shared.hellos, watch, &mut io).await {
        Ok(peeked) => passage(shared, view, peeked),
        Err(turned) => Err(turned),
    };
    let (socket, input) = io.into_parts();
    let passage = match found {
        Ok(passage) => Arc::new(passage),
        Err(turned) => {
            turn_away(shared, watch, socket, remote, turned).await;
            return None;
        }
    };
    let conn = Conn::with_input(Stream::Tcp(socket), input);
    Some(Established {
        conn,
        stage: AnyStage::Outbound(Outbound::new(shared.clone())),
        nobody: None,
        until: None,
        context: ConnContext {
            direction: Direction::EastWest,
            protocol: Protocol::Tcp,
            peer: None,
            xfcc: None,
            remote,
            local,
            tls: true,
            metrics: shared.metrics.route(Direction::EastWest, &passage.port.service),
            role: Role::EastWest(passage),
        },
    })
}

/// What the first bytes are, within the time and the room that there is for them.
pub(crate) async fn read(
    shared: &Shared,
    waiting: &Hellos,
    watch: &Watch,
    io: &mut ReadAhead,
) -> Result<Peek, Turned> {
    watch.within(Some(shared.limits.handshake_time));
    let turn = waiting.wait();
    let mut crowded = pin!(turn.crowded_out());
    let mut reading = pin!(tls::hello(io));
    let read = watch.wait(|cx| match reading.as_mut().poll(cx) {
        Poll::Ready(read) => Poll::Ready(read.map_err(Turned::Hello)),
        Poll::Pending => crowded.as_mut().poll(cx).map(|()| Err(Turned::Crowded)),
    });
    match read.await {
        Ok(read) => read,
        Err(End::TimedOut) => Err(Turned::Hello(HandshakeFailure::Timeout)),
        Err(_) => Err(Turned::Ended),
    }
}

/// Where these first bytes go.
fn passage(shared: &Shared, view: &Snapshot, peeked: Peek) -> Result<Passage, Turned> {
    let hello = tls::ours(peeked).map_err(Turned::Hello)?;
    // A name of the mesh is not enough: what is passed on is between two ends of Signet.
    if !hello.alpn.iter().any(|protocol| Alpn::is_signet(Some(protocol))) {
        return Err(Turned::Hello(HandshakeFailure::ForeignHello { sni: hello.sni }));
    }
    let port = find(view, &hello).map_err(Turned::Refused)?;
    let token = shared.passing.enter(hello.random).ok_or_else(|| {
        let twice = "the same hello is on its way already: do two gateways lead to each other?";
        Turned::Refused(Refusal::new(Reason::NoRoute).detail(twice))
    })?;
    Ok(Passage { port, _token: token })
}

/// The port that a hello names, with those endpoints that can answer for the identity that it expects.
fn find(view: &Snapshot, hello: &Hello) -> Result<Arc<ServicePort>, Refusal> {
    let sni = hello.sni.as_deref().unwrap_or_default();
    let refuse = |reason: Reason, why: &str| Refusal::new(reason).detail(format_args!("{why}: `{sni}`"));
    let Some(name) = RoutedName::parse(sni) else {
        return Err(refuse(
            Reason::NoRoute,
            "expected a server name that says a port, a service and an identity",
        ));
    };
    let service = name.service_name();
    // Nobody is asked for more: a stranger chose the name.
    let Some(known) = view.endpoints.service(&service).filter(|_| view.routes.is_passed_on(&service)) else {
        return Err(refuse(Reason::ServiceUnknown, "no service that this gateway passes on to"));
    };
    let Some(port) = known.port(&name.port) else {
        return Err(refuse(Reason::PortUnknown, "no port of that service"));
    };
    let Some(expected) = known.identities.iter().find(|id| name.identity_hash.is_of(id)) else {
        return Err(refuse(Reason::NoIdentity, "nobody of that identity answers for that service"));
    };
    // What is behind another gateway is reached by that one.
    let fits =
        |endpoint: &&Arc<crate::state::Endpoint>| endpoint.behind.is_none() && endpoint.identity == *expected;
    let endpoints: Vec<_> = port.endpoints.iter().filter(fits).cloned().collect();
    match endpoints.len() {
        0 => Err(refuse(Reason::NoEndpoint, "no endpoint of that identity in this cluster")),
        all if all == port.endpoints.len() => Ok(port.clone()),
        _ => Ok(Arc::new(ServicePort { endpoints, ..ServicePort::clone(port) })),
    }
}

/// Notes why, and says as much as TLS has words for.
async fn turn_away(
    shared: &Shared,
    watch: &Watch,
    socket: TcpStream,
    remote: Option<SocketAddr>,
    turned: Turned,
) {
    let word = match turned {
        Turned::Hello(failure) => {
            tls::report(shared, None, &failure, Direction::EastWest, remote, "east-west");
            tls::word_for(&failure)
        }
        Turned::Refused(refusal) => {
            let role = Role::Outbound { service: "east-west".into(), port: "".into(), endpoint: None };
            note(shared, Direction::EastWest, &role, None, &refusal);
            tls::unrecognised_name()
        }
        Turned::Crowded => {
            shared.metrics.over_limit.inc();
            Word::Said
        }
        Turned::Ended => Word::Said,
    };
    if let Word::Alert(alert) = word {
        say(watch, socket, &alert).await;
    }
}

/// Dials an endpoint, and another one as long as none takes the connection. Its handshake is the caller's business.
pub(crate) async fn dial<E>(
    worker: &Worker<E>,
    watch: &Watch,
    passage: &Passage,
) -> Result<(Conn, InFlight), Refusal> {
    let (shared, port) = (&worker.shared, &passage.port);
    let mut tried = Vec::new();
    loop {
        let Some(endpoint) = balance::pick(port, &tried) else { return Err(Reason::NoEndpoint.into()) };
        let in_flight = endpoint.begin();
        watch.within(Some(shared.limits.connect_time));
        let mut dialling = pin!(own_pod::dial(&worker.common, endpoint.address));
        let whom = format!("{} at {}", port.service, endpoint.address);
        let refusal = match watch.wait(|cx| dialling.as_mut().poll(cx)).await {
            Ok(Ok(socket)) => {
                endpoint.connected(true);
                let _ = socket.set_nodelay(true);
                return Ok((Conn::new(Stream::Tcp(socket)), in_flight));
            }
            Ok(Err(error)) => Refusal::new(Reason::ConnectFailed).detail(format_args!("{whom}: {error}")),
            Err(end) => ended(end, format_args!("{whom}")),
        };
        endpoint.connected(false);
        judge(endpoint, port, Outcome::Reset, shared);
        tried.push(endpoint.id);
        let is_last = tried.len() >= port.endpoints.len().min(shared.limits.connect_tries);
        if watch.ended().is_some() || is_last {
            return Err(refusal);
        }
    }
}
