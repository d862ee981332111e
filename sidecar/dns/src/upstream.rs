//! Asking the pod's resolvers.
//!
//! Each attempt has a socket of its own, at a port that the system chose by chance, connected to the one resolver that it
//! asks, and an id from the system's randomness: whoever would forge an answer has to guess both, from that resolver's
//! address. What comes and fits no question is dropped; when much of that comes somebody is guessing, and the question
//! goes over TCP.
//!
//! An app's resolver waits five seconds. So it has our answer within [`PATIENCE`], whoever is asked.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep_until, timeout};

use crate::message::{Query, Transport, is_unable, under};
use crate::metrics::Metrics;
use crate::resolvers::Resolvers;

/// How long a query may take altogether.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// How long one attempt is waited for before the next one begins beside it.
const NEXT: Duration = Duration::from_secs(1);
/// Attempts, where there are no more resolvers than that.
const ATTEMPTS: usize = 3;
/// Answers that fit nothing, of one attempt, before it goes over TCP.
const MISFITS: usize = 8;
/// The largest datagram.
const LARGEST: usize = 65_535;

thread_local! {
    /// What a datagram is received into. Nothing waits while it is in use.
    static DATAGRAM: RefCell<Box<[u8]>> = RefCell::new(vec![0; LARGEST].into());
}

/// Receives one datagram that is there.
pub(crate) fn received<T>(receive: impl FnOnce(&mut [u8]) -> T) -> T {
    DATAGRAM.with_borrow_mut(|buffer| receive(buffer))
}

/// Asks all resolvers that it needs; their answer under the app's id, or `None` when nobody answers until then.
pub(crate) async fn ask(
    resolvers: &Resolvers,
    metrics: &Metrics,
    query: &Query,
    packet: &[u8],
    transport: Transport,
    mut end: Instant,
) -> Option<Vec<u8>> {
    let servers = resolvers.now();
    let attempts = servers.len().max(if servers.is_empty() { 0 } else { ATTEMPTS });
    let mut waiting = servers.iter().cycle().take(attempts);
    let mut asked: usize = 0;
    let mut under_way = FuturesUnordered::new();
    // That a resolver cannot say is an answer, too, if nobody else can.
    let mut unable = None;
    let mut next = Instant::now();
    loop {
        // Who cannot say would only say it again.
        let enough =
            |asked, unable: &Option<_>| asked >= attempts || unable.is_some() && asked >= servers.len();
        if !enough(asked, &unable)
            && next <= Instant::now()
            && let Some(server) = waiting.next()
        {
            asked = asked.saturating_add(1);
            under_way.push(attempt(*server, metrics, query, packet, transport));
            next = Instant::now().checked_add(NEXT).unwrap_or(end);
        }
        let all_asked = enough(asked, &unable);
        if under_way.is_empty() && all_asked {
            return unable;
        }
        tokio::select! {
            biased;
            Some(answer) = under_way.next() => match answer {
                Ok(answer) if is_unable(&answer) => {
                    unable.get_or_insert_with(|| under(&answer, query.id()));
                    next = Instant::now();
                    // Another one that was asked before may still know.
                    if asked >= servers.len() {
                        end = end.min(next.checked_add(NEXT).unwrap_or(end));
                    }
                }
                Ok(answer) => return Some(under(&answer, query.id())),
                Err(error) => {
                    tracing::debug!(target: "signet::dns", %error, "a resolver does not answer");
                    next = Instant::now();
                }
            },
            () = sleep_until(next), if !all_asked => {}
            () = sleep_until(end) => return unable,
        }
    }
}

async fn attempt(
    server: SocketAddr,
    metrics: &Metrics,
    query: &Query,
    packet: &[u8],
    transport: Transport,
) -> io::Result<Vec<u8>> {
    match transport {
        Transport::Tcp => over_tcp(server, metrics, query, packet).await,
        Transport::Udp => match over_udp(server, metrics, query, packet).await? {
            Some(answer) => Ok(answer),
            None => over_tcp(server, metrics, query, packet).await,
        },
    }
}

/// `None`: so much came that fits nothing that somebody may be guessing.
async fn over_udp(
    server: SocketAddr,
    metrics: &Metrics,
    query: &Query,
    packet: &[u8],
) -> io::Result<Option<Vec<u8>>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // From here on nothing of another source is received.
    socket.connect(server).await?;
    let id = by_chance()?;
    socket.send(&under(packet, id)).await?;
    let mut misfits = 0..MISFITS;
    while misfits.next().is_some() {
        let answer = loop {
            let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
            if ready.is_error() {
                // Nobody listens there, say: that is no datagram to read.
                if let Some(error) = socket.take_error()? {
                    return Err(error);
                }
                let cleared =
                    socket.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                drop(cleared);
            }
            let answer = received(|buffer| {
                let count = socket.try_recv(buffer)?;
                Ok(buffer.get(..count).filter(|answer| query.is_answered_by(answer, id)).map(<[u8]>::to_vec))
            });
            match answer {
                Err(error) if io::Error::kind(&error) == io::ErrorKind::WouldBlock => {}
                answer => break answer?,
            }
        };
        match answer {
            Some(answer) => return Ok(Some(answer)),
            None => metrics.discarded.inc(),
        }
    }
    tracing::warn!(target: "signet::dns", %server,
        "many answers that fit no question came from a resolver's address; asking it over TCP");
    Ok(None)
}

async fn over_tcp(
    server: SocketAddr,
    metrics: &Metrics,
    query: &Query,
    packet: &[u8],
) -> io::Result<Vec<u8>> {
    let id = by_chance()?;
    let mut stream = timeout(PATIENCE, TcpStream::connect(server)).await??;
    write_framed(&mut stream, &under(packet, id)).await?;
    let answer = read_framed(&mut stream, LARGEST).await?;
    if query.is_answered_by(&answer, id) {
        return Ok(answer);
    }
    metrics.discarded.inc();
    Err(io::Error::new(io::ErrorKind::InvalidData, "expected the answer to the question, got another one"))
}

/// A message over TCP goes with its length before it, in one piece.
pub(crate) async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = Vec::with_capacity(message.len().saturating_add(2));
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// The next message, of at most so many bytes.
pub(crate) async fn read_framed(stream: &mut TcpStream, most: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > most {
        let error = format!("expected a message of at most {most} bytes, got {length}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    let mut message = Vec::new();
    // Grows with what comes, not with what is said.
    let mut rest = stream.take(u64::try_from(length).unwrap_or_default());
    rest.read_to_end(&mut message).await?;
    if message.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(message)
}

fn by_chance() -> io::Result<u16> {
    let mut id = [0; 2];
    SystemRandom::new().fill(&mut id).map_err(|_| io::Error::other("the system has no randomness"))?;
    Ok(u16::from_be_bytes(id))
}
