//! Calls to places outside the mesh: which one a connection means, and dialling it.
//!
//! A redirected connection says where it goes by an address, which is the app's word and chooses nothing but the port: the
//! name in its requests or in its own TLS chooses the place, and the place's name is resolved here. Bytes that say no
//! name go where their address is listed, or is one of those that a listed name resolves to. Private, link-local and loopback
//! addresses are dialled only where an entry says so, and addresses of the mesh or of our own listeners never.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use signet_identity::HandshakeFailure;
use signet_model::ExternalProtocol;
use signet_wire::first::{First, first};
use signet_wire::hello::{self, Peek};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::answer::{Reason, Refusal};
use crate::io::{Conn, Dialled, ReadAhead, Stream};
use crate::stage::Direction;
use crate::state::{Origin, PlacePort, Protocol, Snapshot};
use crate::tls;
use crate::worker::{Watch, Worker};

/// How long one address of a name may be silent before the next is tried beside it (RFC 8305, section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// What a connection's first bytes show.
#[derive(Debug)]
pub(crate) enum Spoken {
    /// HTTP of this kind.
    Http(Protocol),
    /// TLS, for this name.
    Tls(Option<String>),
    /// Anything else, or nothing in time.
    Bytes,
}

/// Reads until the first bytes show what they are, for so long. They stay where they are.
pub(crate) async fn look(watch: &Watch, conn: &mut Conn, patience: Duration) -> Spoken {
    // Finer than the wheel that all other waits go by.
    let mut patience = pin!(tokio::time::sleep(patience));
    watch.within(None);
    let looked = watch
        .wait(|cx| {
            loop {
                let input = conn.input();
                let decided = match hello::peek(input) {
                    Peek::Client(hello) => Some(Spoken::Tls(hello.sni)),
                    Peek::Malformed(_) => Some(Spoken::Bytes),
                    Peek::Partial => None,
                    Peek::Plaintext => match first(input) {
                        First::Http1 => Some(Spoken::Http(Protocol::Http1)),
                        First::Http2 => Some(Spoken::Http(Protocol::Http2)),
                        First::Bytes => Some(Spoken::Bytes),
                        First::More => None,
                    },
                };
                if let Some(decided) = decided {
                    return Poll::Ready(decided);
                }
                match conn.poll_fill_up(cx) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) => return Poll::Ready(Spoken::Bytes),
                    Poll::Pending => return patience.as_mut().poll(cx).map(|()| Spoken::Bytes),
                }
            }
        })
        .await;
    looked.unwrap_or(Spoken::Bytes)
}

/// Whether a place's port takes what is spoken.
pub(crate) fn speaks(declared: ExternalProtocol, spoken: Protocol) -> bool {
    match declared {
        ExternalProtocol::Http1 => spoken == Protocol::Http1,
        ExternalProtocol::Http2 | ExternalProtocol::Grpc => {
            matches!(spoken, Protocol::Http2 | Protocol::Grpc)
        }
        ExternalProtocol::Tls | ExternalProtocol::Tcp => false,
    }
}

/// Which of the places with this port number is meant by an address alone.
pub(crate) async fn by_address<E>(
    worker: &Worker<E>,
    view: &Snapshot,
    destination: SocketAddr,
) -> Option<Arc<PlacePort>> {
    let of_bytes = || {
        let ports = view.endpoints.places().at(destination.port()).iter();
        ports.filter(|port| port.protocol == ExternalProtocol::Tcp)
    };
    if let Some(listed) = of_bytes().find(|port| port.takes_address(destination.ip())) {
        return Some(listed.clone());
    }
    for port in of_bytes() {
        for name in port.names() {
            let Some(origin) = port.origin(name) else { continue };
            let addresses = addresses(worker, &origin).await;
            if addresses.is_ok_and(|addresses| addresses.contains(&destination.ip())) {
                return Some(port.clone());
            }
        }
    }
    None
}

async fn addresses<E>(worker: &Worker<E>, origin: &Origin) -> Result<Arc<[IpAddr]>, Refusal> {
    if !origin.addresses.is_empty() {
        return Ok(origin.addresses.as_slice().into());
    }
    worker.shared.names.resolve(&origin.host).await.map_err(|why| {
        Refusal::new(Reason::NameUnresolved)
            .detail(format_args!("{} of {}: {why}", origin.host, origin.place))
    })
}

/// Why this address is not dialled for a place; `None` where it may be. `listed`: ranges that the place may lead into.
fn forbidden<E>(
    worker: &Worker<E>,
    view: &Snapshot,
    origin: &Origin,
    address: SocketAddr,
) -> Option<&'static str> {
    if view.endpoints.is_of_the_mesh(address) || worker.is_own(address) {
        return Some("of the mesh");
    }
    let ip = address.ip();
    if origin.addresses.contains(&ip) || origin.networks.iter().any(|network| network.contains(ip)) {
        return None;
    }
    signet_model::reach::forbidden(ip, false)
}

/// Dials a place: resolves its name, connects to what it resolved to, and begins TLS where the place asks for it.
pub(crate) async fn dial<E>(
    worker: &Worker<E>,
    watch: &Watch,
    view: &Snapshot,
    origin: &Origin,
) -> Result<Stream, Refusal> {
    let limits = &worker.shared.limits;
    watch.within(Some(limits.connect_time));
    let mut dialling = pin!(connect(worker, view, origin));
    match watch.wait(|cx| dialling.as_mut().poll(cx)).await {
        Ok(dialled) => dialled,
        Err(end) => Err(crate::upstream::ended(end, format_args!("{} at {}", origin.place, origin.host))),
    }
}

async fn connect<E>(worker: &Worker<E>, view: &Snapshot, origin: &Origin) -> Result<Stream, Refusal> {
    let resolved = addresses(worker, origin).await?;
    let mut allowed = Vec::with_capacity(resolved.len());
    let mut refused = None;
    for ip in resolved.iter() {
        let address = SocketAddr::new(*ip, origin.port);
        match forbidden(worker, view, origin, address) {
            None => allowed.push(address),
            Some(why) => refused = Some((address, why)),
        }
    }
    if let (true, Some((address, why))) = (allowed.is_empty(), refused) {
        return Err(Refusal::new(Reason::AddressRefused).detail(format_args!(
            "{} of {} is at {address}, which is {why}: list it under networks, if that is meant",
            origin.host, origin.place
        )));
    }
    let socket = first_to_connect(alternating(allowed)).await.map_err(|error| {
        Refusal::new(Reason::ConnectFailed)
            .detail(format_args!("{} at {} port {}: {error}", origin.place, origin.host, origin.port))
    })?;
    let _ = socket.set_nodelay(true);
    let Some((name, config)) = &origin.tls else { return Ok(Stream::Tcp(socket)) };
    let remote = socket.peer_addr().ok();
    let failed = |failure: HandshakeFailure| {
        tls::report(&worker.shared, None, &failure, Direction::Outbound, remote, &origin.place);
        Refusal::new(Reason::OutsideHandshake(failure.label()))
            .detail(format_args!("{} at {}: {failure}", origin.place, origin.host))
    };
    let stream = TlsConnector::from(config.clone())
        .connect(name.clone(), ReadAhead::new(socket))
        .await
        .map_err(|error| failed(HandshakeFailure::from_io(&error)))?;
    // A server that says nothing of protocols speaks HTTP/1.1, and nobody else's.
    let spoken = stream.get_ref().1.alpn_protocol();
    let wanted = config.alpn_protocols.first().map(Vec::as_slice);
    if spoken != wanted && !(spoken.is_none() && wanted != Some(b"h2")) {
        return Err(failed(HandshakeFailure::NoCommonAlpn));
    }
    Ok(Stream::Dialled(Box::new(Dialled::new(stream))))
}

/// Both families by turns, IPv6 first (RFC 8305, section 4).
fn alternating(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (six, four): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv6);
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    let mut mixed = Vec::new();
    loop {
        let (a, b) = (six.next(), four.next());
        if a.is_none() && b.is_none() {
            return mixed;
        }
        mixed.extend(a);
        mixed.extend(b);
    }
}

/// Connects to these in order, each a moment after the one before, and keeps the first that succeeds.
async fn first_to_connect(addresses: Vec<SocketAddr>) -> std::io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut under_way = FuturesUnordered::new();
    let mut last = std::io::Error::other("no address");
    let mut pause = pin!(tokio::time::sleep(Duration::ZERO));
    loop {
        let more = waiting.len() > 0;
        let turn = poll_fn(|cx| {
            if let Poll::Ready(Some(connected)) = under_way.poll_next_unpin(cx) {
                return Poll::Ready(Some(connected));
            }
            match more && (under_way.is_empty() || pause.as_mut().poll(cx).is_ready()) {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        });
        match turn.await {
            Some(Ok(socket)) => return Ok(socket),
            Some(Err(error)) => last = error,
            None => {}
        }
        match waiting.next() {
            Some(address) => {
                under_way.push(TcpStream::connect(address));
                pause.as_mut().reset(tokio::time::Instant::now() + NEXT_ADDRESS);
            }
            None if under_way.is_empty() => return Err(last),
            None => {}
        }
    }
}
