//! The sockets that apps' queries come to, and the bounds of what is under way.
//!
//! All of it is on one thread of its own: a flood of queries takes that thread's time and nobody else's.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, timeout};

use crate::message::{Heard, Query, Transport, read};
use crate::metrics::{Metrics, Outcome};
use crate::names::Names;
use crate::resolvers::Resolvers;
use crate::upstream::{PATIENCE, ask, read_framed, received, write_framed};

/// The largest query that is read: a question is at most 271 bytes, the rest is options.
const LARGEST_QUERY: usize = 4096;
/// The first and the longest pause after an accept or a receive failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(10);
/// Connections that wait for an accept.
const BACKLOG: i32 = 128;

/// Bounds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Queries under way, of both kinds. One more is told SERVFAIL at once.
    pub queries: usize,
    /// TCP connections. One more is closed at once.
    pub connections: usize,
    /// How long a TCP connection may be idle, and an answer may take to be written.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { queries: 512, connections: 64, idle: Duration::from_secs(10) }
    }
}

/// The name server, before it runs.
pub struct Server {
    /// Who is in the mesh.
    pub names: Names,
    /// Who knows the rest.
    pub resolvers: Resolvers,
    /// Bounds.
    pub limits: Limits,
    /// Counters.
    pub metrics: Metrics,
}

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be taken.
    #[error("dns.listen: cannot listen on {address} ({kind}): {error}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// `UDP` or `TCP`
        kind: &'static str,
        /// Why.
        error: io::Error,
    },
    /// No thread or runtime.
    #[error("cannot start the name server's thread: {0}")]
    Thread(#[source] io::Error),
}

/// The sockets of one address: the same port for both kinds.
#[derive(Debug)]
pub struct Bound {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
}

impl Bound {
    /// Takes an address. Port 0 takes one that is free for both kinds.
    pub fn take(address: SocketAddr) -> Result<Self, StartError> {
        let failed = |kind| move |error| StartError::Bind { address, kind, error };
        // The other kind may have that port taken: then another one is tried.
        for _ in 0..16 {
            let udp = udp(address).map_err(failed("UDP"))?;
            let taken = udp.local_addr().map_err(failed("UDP"))?;
            match tcp(taken) {
                Ok(tcp) => return Ok(Bound { udp, tcp }),
                Err(error) if address.port() != 0 => return Err(failed("TCP")(error)),
                Err(_) => {}
            }
        }
        Err(failed("TCP")(io::ErrorKind::AddrInUse.into()))
    }

    /// Goes on with sockets that another process bound, as [`Bound::to_fds`] gave them, if they are of this address.
    pub fn inherited(address: SocketAddr, sockets: Vec<OwnedFd>) -> Result<Self, StartError> {
        let failed = |kind| move |error| StartError::Bind { address, kind, error };
        let mut sockets = sockets.into_iter();
        let (Some(udp), Some(tcp)) = (sockets.next(), sockets.next()) else {
            return Self::take(address);
        };
        let (udp, tcp) = (std::net::UdpSocket::from(udp), std::net::TcpListener::from(tcp));
        let found = udp.local_addr().map_err(failed("UDP"))?;
        if found.ip() != address.ip() || address.port() != 0 && found.port() != address.port() {
            let error = format!("the socket that was handed over is at {found}");
            return Err(failed("UDP")(io::Error::new(io::ErrorKind::InvalidInput, error)));
        }
        udp.set_nonblocking(true).map_err(failed("UDP"))?;
        tcp.set_nonblocking(true).map_err(failed("TCP"))?;
        Ok(Bound { udp, tcp })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// The same sockets once more, for a successor.
    pub fn to_fds(&self) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![self.udp.try_clone()?.into(), self.tcp.try_clone()?.into()])
    }

    fn again(&self) -> io::Result<Self> {
        Ok(Bound { udp: self.udp.try_clone()?, tcp: self.tcp.try_clone()? })
    }
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn udp(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

fn tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    // Of connections that have ended, not of another listener.
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A running name server. When this is dropped it receives nothing more, and finishes what is under way.
#[derive(Debug)]
pub struct Running {
    end: oneshot::Sender<()>,
    ended: Option<oneshot::Receiver<()>>,
    finished: oneshot::Receiver<()>,
    kept: Vec<Bound>,
}

impl Running {
    /// The sockets of each address, for a process that is to go on with them.
    pub fn sockets(&self) -> io::Result<Vec<Vec<OwnedFd>>> {
        self.kept.iter().map(Bound::to_fds).collect()
    }

    /// Receives nothing more, and comes when what is under way is answered, or after [`PATIENCE`].
    pub async fn leave(self) {
        drop(self.end);
        let _ = self.finished.await;
    }

    /// Comes when it is over, which before its end is a failure of its thread. The first that asks is told.
    pub fn ended(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let ended = self.ended.take();
        async move {
            match ended {
                Some(ended) => drop(ended.await),
                None => std::future::pending().await,
            }
        }
    }
}

impl Server {
    /// Serves these sockets.
    pub fn start(self, bound: Vec<Bound>) -> Result<Running, StartError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let kept = bound.iter().map(Bound::again).collect::<io::Result<_>>().map_err(StartError::Thread)?;
        let (end, told) = oneshot::channel::<()>();
        let (tell, ended) = oneshot::channel();
        let (tell_too, finished) = oneshot::channel();
        let serve = move || {
            let _tell = (tell, tell_too);
            runtime.block_on(tokio::task::LocalSet::new().run_until(self.serve(bound, told)));
        };
        std::thread::Builder::new().name("dns".to_owned()).spawn(serve).map_err(StartError::Thread)?;
        Ok(Running { end, ended: Some(ended), finished, kept })
    }

    /// Until it is told, or has lost its sockets. What is under way then is finished.
    async fn serve(self, bound: Vec<Bound>, told: oneshot::Receiver<()>) {
        let serving = Rc::new(Serving {
            queries: Semaphore::new(self.limits.queries),
            under_way: Cell::new(0),
            rest: Notify::new(),
            connections: Semaphore::new(self.limits.connections),
            server: self,
        });
        let mut receiving = tokio::task::JoinSet::new();
        for Bound { udp, tcp } in bound {
            match (UdpSocket::from_std(udp), TcpListener::from_std(tcp)) {
                (Ok(udp), Ok(tcp)) => {
                    receiving.spawn_local(serving.clone().datagrams(Rc::new(udp)));
                    receiving.spawn_local(serving.clone().connections(tcp));
                }
                (Err(error), _) | (_, Err(error)) => {
                    tracing::error!(target: "signet::dns", %error, "the name server has lost its sockets");
                    return;
                }
            }
        }
        tokio::select! {
            _ = told => {}
            // They do not end by themselves.
            _ = receiving.join_next() => return,
        }
        drop(receiving);
        let _ = timeout(PATIENCE, serving.at_rest()).await;
    }
}

struct Serving {
    server: Server,
    queries: Semaphore,
    connections: Semaphore,
    /// Queries that were received and whose answer is not on its way yet.
    under_way: Cell<usize>,
    /// Told when there are none.
    rest: Notify,
}

/// A query under way, from when it was received until its answer was handed to the system.
struct UnderWay(Rc<Serving>);

impl UnderWay {
    fn begin(serving: &Rc<Serving>) -> Self {
        serving.server.metrics.under_way.inc();
        serving.under_way.set(serving.under_way.get().saturating_add(1));
        UnderWay(Rc::clone(serving))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.server.metrics.under_way.dec();
        self.0.under_way.set(self.0.under_way.get().saturating_sub(1));
        if self.0.under_way.get() == 0 {
            self.0.rest.notify_one();
        }
    }
}

impl Serving {
    /// Waits until no query is under way.
    async fn at_rest(&self) {
        while self.under_way.get() > 0 {
            self.rest.notified().await;
        }
    }

    async fn datagrams(self: Rc<Self>, socket: Rc<UdpSocket>) {
        loop {
            let heard = match socket.readable().await {
                Ok(()) => received(|buffer| {
                    let (count, from) = socket.try_recv_from(buffer)?;
                    // Longer ones are cut, and so are none.
                    let packet = buffer.get(..count).filter(|packet| packet.len() <= LARGEST_QUERY);
                    Ok((packet.map(<[u8]>::to_vec).unwrap_or_default(), from))
                }),
                Err(error) => Err(error),
            };
            match heard {
                Ok((packet, from)) => self.clone().datagram(socket.clone(), packet, from),
                Err(error) if io::Error::kind(&error) == io::ErrorKind::WouldBlock => {}
                // Also: somebody whom we answered is gone.
                Err(error) => {
                    tracing::debug!(target: "signet::dns", %error, "a datagram was not received");
                    if error.kind() != io::ErrorKind::ConnectionRefused {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    fn datagram(self: Rc<Self>, socket: Rc<UdpSocket>, packet: Vec<u8>, from: SocketAddr) {
        // From here on: whoever ends meanwhile waits for a task that has not begun, too.
        let under_way = UnderWay::begin(&self);
        tokio::task::spawn_local(async move {
            let _under_way = under_way;
            if let Some(answer) = self.answer(&packet, Transport::Udp).await
                && let Err(error) = socket.send_to(&answer, from).await
            {
                tracing::debug!(target: "signet::dns", %error, "an answer was not sent");
            }
        });
    }

    async fn connections(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let serving = self.clone();
                    tokio::task::spawn_local(async move {
                        let Ok(_place) = serving.connections.try_acquire() else {
                            serving.server.metrics.count(Outcome::Refused);
                            return;
                        };
                        if let Err(error) = serving.connection(stream).await {
                            tracing::debug!(target: "signet::dns", %error, "a connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(target: "signet::dns", %error, "accept failed; pausing {PAUSE:?}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// One query after the other. What cannot be answered ends it.
    async fn connection(self: &Rc<Self>, mut stream: TcpStream) -> io::Result<()> {
        let _ = stream.set_nodelay(true);
        let idle = self.server.limits.idle;
        loop {
            let packet = match timeout(idle, read_framed(&mut stream, LARGEST_QUERY)).await {
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                packet => packet??,
            };
            let _under_way = UnderWay::begin(self);
            let Some(answer) = self.answer(&packet, Transport::Tcp).await else { return Ok(()) };
            timeout(idle, write_framed(&mut stream, &answer)).await??;
        }
    }

    /// What a query is told; `None`: nothing.
    async fn answer(&self, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let metrics = &self.server.metrics;
        let (outcome, answer) = match read(packet) {
            Heard::Nothing => (Outcome::Refused, None),
            Heard::Wrong(answer) => (Outcome::Refused, Some(answer)),
            Heard::Query(query) => match self.queries.try_acquire() {
                Ok(_turn) => self.decide(&query, packet, transport).await,
                Err(_) => (Outcome::Refused, query.refused(ResponseCode::ServFail)),
            },
        };
        metrics.count(outcome);
        answer
    }

    async fn decide(&self, query: &Query, packet: &[u8], transport: Transport) -> (Outcome, Option<Vec<u8>>) {
        let now = Instant::now();
        let end = now.checked_add(PATIENCE).unwrap_or(now);
        if query.is_of_the_internet()
            && let Some(addresses) = self.server.names.find(query.question.name()).await
        {
            return (Outcome::Answered, query.answer(packet, &addresses, transport));
        }
        let Server { resolvers, metrics, .. } = &self.server;
        match ask(resolvers, metrics, query, packet, transport, end).await {
            Some(answer) => (Outcome::Forwarded, Some(answer)),
            None => (Outcome::Failed, query.refused(ResponseCode::ServFail)),
        }
    }
}
