//! Callers from outside, at a gateway.
//!
//! What the gateway's resource says of the port decides. Where a hello comes first it is read and left as it is; its server
//! name, and nothing else, chooses the listener, which ends TLS here or sends the bytes on to an app that does. There
//! is no way from the one to the other: a name that is sent on has no certificate here, and a request on a connection that
//! was opened here must be for the listener that it came in by. A hello that hides its real name (ECH) is judged
//! by the one that it shows.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use signet_identity::HandshakeFailure;
use signet_wire::hello::Peek;
use tokio::net::TcpStream;

use super::{Established, plain, say};
use crate::answer::{Reason, Refusal};
use crate::east_west::{Turned, read};
use crate::io::{Conn, ReadAhead, Stream};
use crate::session::{AnyStage, Socket, note};
use crate::shared::Shared;
use crate::stage::{ConnContext, Direction, Entered, Outbound, Passed, Role, Stage};
use crate::state::{PortIs, Protocol, Shares, Snapshot, Takes};
use crate::tls::{self, Word};
use crate::worker::{Watch, Worker};

/// What the process is configured with for a listener.
pub(super) struct Listens<'a> {
    /// What it speaks where TLS does not say.
    pub(super) protocol: Protocol,
    /// The port of the gateway's resource that it is.
    pub(super) port: u16,
    /// Its certificate.
    pub(super) tls: Option<&'a Arc<rustls::ServerConfig>>,
}

/// From an accepted socket to requests, or to bytes that go on.
pub(super) async fn establish<E: Stage>(
    worker: &Rc<Worker<E>>,
    watch: &Watch,
    view: &Snapshot,
    socket: Socket,
    remote: Option<SocketAddr>,
    listens: Listens<'_>,
) -> Option<Established<E>> {
    let shared = &worker.shared;
    let came = Came { worker, remote, local: local(&socket), port: listens.port };
    match (view.routes.doors().port(listens.port), listens.tls, socket) {
        (PortIs::Undeclared | PortIs::Plain, None, socket) => {
            came.requests(plain(socket).0, listens.protocol, None, false)
        }
        (PortIs::Undeclared, Some(config), Socket::Tcp(socket)) => {
            let io = ReadAhead::new(socket);
            let opened = open(shared, watch, io, config, true).await;
            came.opened(opened, listens.protocol, None)
        }
        (PortIs::Hello, config, Socket::Tcp(socket)) => {
            Box::pin(came.by_name(watch, view, socket, listens.protocol, config)).await
        }
        (PortIs::Bytes(shares), _, socket) => {
            let conn = plain(socket).0;
            match chosen(shares) {
                Ok(share) => Some(came.passed(conn, Entered { port: listens.port, name: None }, share)),
                Err(refusal) => {
                    turn_away(shared, refusal);
                    conn.stream().reset_on_close();
                    None
                }
            }
        }
        (PortIs::Plain, Some(_), _) => {
            let detail = format_args!(
                "listeners of port {} are of protocol HTTP, and the process has a certificate there",
                listens.port
            );
            turn_away(shared, Refusal::new(Reason::PortUnknown).detail(detail));
            None
        }
        (PortIs::Undeclared | PortIs::Hello, _, Socket::Unix(_)) => None,
    }
}

fn local(socket: &Socket) -> Option<SocketAddr> {
    match socket {
        Socket::Tcp(socket) => socket.local_addr().ok(),
        Socket::Unix(_) => None,
    }
}

/// Counts and notes what got nowhere.
fn turn_away(shared: &Shared, refusal: Refusal) {
    note(shared, Direction::Edge, &Role::Passed(Passed::nowhere()), None, &refusal);
}

/// Ends TLS here. `unread`: its first bytes have not been looked at.
async fn open(
    shared: &Shared,
    watch: &Watch,
    mut io: ReadAhead,
    config: &Arc<rustls::ServerConfig>,
    unread: bool,
) -> Result<Stream, HandshakeFailure> {
    watch.within(Some(shared.limits.handshake_time));
    let mut accepting = pin!(async {
        if unread && let Peek::Plaintext = tls::hello(&mut io).await? {
            return Err(HandshakeFailure::Plaintext);
        }
        let _turn = shared.handshakes.acquire().await;
        let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
        acceptor.accept(io).await.map_err(|error| HandshakeFailure::from_io(&error))
    });
    match watch.wait(|cx| accepting.as_mut().poll(cx)).await {
        Ok(opened) => opened.map(|stream| Stream::Accepted(Box::new(stream))),
        Err(_) => Err(HandshakeFailure::Timeout),
    }
}

/// A backend of the route that takes a connection.
fn chosen(shares: Option<&Arc<Shares>>) -> Result<&crate::state::Share, Refusal> {
    let none = || Refusal::new(Reason::NoRoute).detail("no route is attached to the listener for it");
    shares.ok_or_else(none)?.choose()
}

/// Where a connection came from, and where it came in.
struct Came<'a, E> {
    worker: &'a Rc<Worker<E>>,
    remote: Option<SocketAddr>,
    local: Option<SocketAddr>,
    port: u16,
}

/// What a hello's name leads to.
enum Leads {
    /// Here.
    Here,
    /// On.
    On(Passed),
}

impl<E: Stage> Came<'_, E> {
    /// Reads the hello and does what its name says.
    async fn by_name(
        &self,
        watch: &Watch,
        view: &Snapshot,
        socket: TcpStream,
        protocol: Protocol,
        config: Option<&Arc<rustls::ServerConfig>>,
    ) -> Option<Established<E>> {
        let shared = &self.worker.shared;
        let mut io = ReadAhead::new(socket);
        let hello = match read(shared, &shared.outside_hellos, watch, &mut io).await {
            Ok(Peek::Client(hello)) => Ok(hello),
            Ok(Peek::Plaintext) => Err(Turned::Hello(HandshakeFailure::Plaintext)),
            Ok(Peek::Malformed(_) | Peek::Partial) => Err(Turned::Hello(HandshakeFailure::NotTls)),
            Err(turned) => Err(turned),
        };
        let led = hello.and_then(|hello| {
            let name: Option<Arc<str>> = hello.sni.as_deref().map(Into::into);
            self.leads(view, name.as_ref(), config.is_some()).map(|leads| (leads, name))
        });
        match led {
            Ok((Leads::On(passed), _)) => {
                let (socket, input) = io.into_parts();
                Some(self.stream(Conn::with_input(Stream::Tcp(socket), input), passed))
            }
            Ok((Leads::Here, name)) => {
                // The time for the hello and that for the handshake are one each.
                let opened = open(shared, watch, io, config?, false).await;
                self.opened(opened, protocol, name)
            }
            Err(turned) => {
                self.turned(watch, io.into_parts().0, turned).await;
                None
            }
        }
    }

    fn leads(&self, view: &Snapshot, name: Option<&Arc<str>>, ends_here: bool) -> Result<Leads, Turned> {
        let refuse = |reason, why: &str| {
            let shown = name.map_or("(none)", |name| name);
            Turned::Refused(
                Refusal::new(reason).detail(format_args!("{why}: `{shown}` at port {}", self.port)),
            )
        };
        let shown = name.map(|name| &**name);
        let Some(door) = view.routes.doors().of_name(self.port, shown) else {
            return Err(match name {
                None => refuse(Reason::NoServerName, "expected a server name in the hello"),
                Some(_) => refuse(Reason::NoRoute, "no listener is for this server name"),
            });
        };
        match door.takes() {
            Takes::Requests(_) if ends_here => Ok(Leads::Here),
            Takes::Requests(_) => Err(refuse(
                Reason::PortUnknown,
                "the listener is of protocol HTTPS, and the process has no certificate there",
            )),
            Takes::Names(_) | Takes::Bytes(_) => {
                if name.is_none() {
                    return Err(refuse(Reason::NoServerName, "expected a server name in the hello"));
                }
                let shares = view.routes.doors().passes(self.port, shown);
                let entered = Entered { port: self.port, name: name.cloned() };
                let share = match shares {
                    None => return Err(refuse(Reason::NoRoute, "no TLSRoute takes this server name")),
                    Some(shares) => shares.choose().map_err(Turned::Refused)?,
                };
                Ok(Leads::On(Passed::outside(entered, share)))
            }
        }
    }

    /// Notes why a connection goes nowhere, and says as much as TLS has words for.
    async fn turned(&self, watch: &Watch, socket: TcpStream, turned: Turned) {
        let shared = &self.worker.shared;
        let word = match turned {
            Turned::Hello(failure) => {
                tls::report(shared, None, &failure, Direction::Edge, self.remote, "edge");
                match failure {
                    HandshakeFailure::Plaintext => tls::no_hello(),
                    other => tls::word_for(&other),
                }
            }
            Turned::Refused(refusal) => {
                let word = match refusal.reason {
                    Reason::NoServerName => tls::missing_name(),
                    _ => tls::unrecognised_name(),
                };
                turn_away(shared, refusal);
                word
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

    fn opened(
        &self,
        opened: Result<Stream, HandshakeFailure>,
        protocol: Protocol,
        name: Option<Arc<str>>,
    ) -> Option<Established<E>> {
        match opened {
            Ok(stream) => {
                let spoken = match &stream {
                    Stream::Accepted(tls) => tls.get_ref().1.alpn_protocol(),
                    _ => None,
                };
                let protocol = match spoken {
                    Some(b"h2") => Protocol::Http2,
                    Some(b"http/1.1") => Protocol::Http1,
                    _ => protocol,
                };
                self.requests(Conn::new(stream), protocol, name, true)
            }
            Err(failure) => {
                tls::report(&self.worker.shared, None, &failure, Direction::Edge, self.remote, "edge");
                None
            }
        }
    }

    fn requests(
        &self,
        conn: Conn,
        protocol: Protocol,
        name: Option<Arc<str>>,
        tls: bool,
    ) -> Option<Established<E>> {
        let stage = AnyStage::Edge(self.worker.common.edge.clone()?);
        let role = Role::Edge(Entered { port: self.port, name });
        Some(self.established(conn, stage, role, protocol, tls, &Arc::from("edge")))
    }

    fn passed(&self, conn: Conn, entered: Entered, share: &crate::state::Share) -> Established<E> {
        self.stream(conn, Passed::outside(entered, share))
    }

    fn stream(&self, conn: Conn, passed: Passed) -> Established<E> {
        let stage = AnyStage::Outbound(Outbound::new(self.worker.shared.clone()));
        let service = Arc::from(passed.service());
        self.established(conn, stage, Role::Passed(passed), Protocol::Tcp, false, &service)
    }

    fn established(
        &self,
        conn: Conn,
        stage: AnyStage<E>,
        role: Role,
        protocol: Protocol,
        tls: bool,
        service: &Arc<str>,
    ) -> Established<E> {
        Established {
            conn,
            stage,
            nobody: None,
            until: None,
            context: ConnContext {
                direction: Direction::Edge,
                role,
                protocol,
                peer: None,
                xfcc: None,
                remote: self.remote,
                local: self.local,
                tls,
                metrics: self.worker.shared.metrics.route(Direction::Edge, service),
            },
        }
    }
}
