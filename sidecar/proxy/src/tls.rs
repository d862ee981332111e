//! TLS at both ends of a mesh connection.
//!
//! Every handshake, resumed or not, is followed by [`Generation::check`] before the first application byte
//! goes either way. What goes wrong is a [`HandshakeFailure`]: counted under its label, logged, and kept for the admin
//! socket, with what was expected and what came.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::AlertDescription;
use rustls_pki_types::UnixTime;
use signet_identity::{Alpn, Expected, Failed, Generation, HandshakeFailure, Own, Peer, RoutedName, visible};
use signet_wire::hello::{self, Hello, Peek};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::flood::PerSecond;
use crate::io::{Dialled, ReadAhead, Stream};
use crate::shared::Shared;
use crate::stage::Direction;
use crate::state::{Endpoint, InboundPort, Tls};

/// A caller that is not one of the mesh.
pub(crate) struct Rejected {
    pub(crate) failure: HandshakeFailure,
    /// The socket, where it is still there.
    pub(crate) socket: Option<TcpStream>,
    /// What is to be said on it.
    pub(crate) word: Word,
}

/// Last words to a caller that is none of the mesh.
pub(crate) enum Word {
    /// Nothing, or it was said by the TLS library; it has to arrive.
    Said,
    /// A TLS alert.
    Alert([u8; 7]),
    /// That this is no place for plaintext, if the port's protocol has words for it.
    Plaintext,
}

/// A fatal alert as a plaintext record (RFC 8446, 5.1 and 6): what a client can show its user.
pub(crate) fn alert(description: AlertDescription) -> Word {
    Word::Alert([21, 3, 3, 0, 2, 2, description.into()])
}

/// What is said where a server name decides and none came (RFC 8446, 9.2).
pub(crate) fn missing_name() -> Word {
    alert(AlertDescription::MissingExtension)
}

/// What is said where a hello was expected and something else came.
pub(crate) fn no_hello() -> Word {
    alert(AlertDescription::UnexpectedMessage)
}

impl From<HandshakeFailure> for Rejected {
    fn from(failure: HandshakeFailure) -> Self {
        Rejected { failure, socket: None, word: Word::Said }
    }
}

fn wall_clock() -> UnixTime {
    UnixTime::since_unix_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Waits until the first bytes say what they are. Nothing is worked for a stranger who has not said that much, so
/// that this takes no turn of the handshakes.
pub(crate) async fn hello(io: &mut ReadAhead) -> Result<Peek, HandshakeFailure> {
    loop {
        match hello::peek(io.ahead()) {
            Peek::Partial => {
                let more = poll_fn(|cx| io.poll_more(cx)).await;
                if more.map_err(|error| HandshakeFailure::from_io(&error))? == 0 {
                    return Err(HandshakeFailure::Closed);
                }
            }
            whole => return Ok(whole),
        }
    }
}

/// A hello for the mesh, if these first bytes are one.
pub(crate) fn ours(peeked: Peek) -> Result<Hello, HandshakeFailure> {
    match peeked {
        Peek::Plaintext => Err(HandshakeFailure::Plaintext),
        Peek::Malformed(_) | Peek::Partial => Err(HandshakeFailure::NotTls),
        Peek::Client(hello) if !hello.tls13 => Err(HandshakeFailure::TlsVersion),
        Peek::Client(hello) if !hello.is_ours() => Err(HandshakeFailure::ForeignHello { sni: hello.sni }),
        Peek::Client(hello) => Ok(hello),
    }
}

/// The port that a hello is for, of those that are served where it came. A gateway on the way may have brought it to
/// another one than it names; the caller, who sees the same identity, would not notice. Where there are several it has to
/// say which: by whose policy it is judged is not left to chance.
pub(crate) fn for_these_ports(
    hello: &Hello,
    ports: &[Arc<InboundPort>],
) -> Result<Arc<InboundPort>, HandshakeFailure> {
    let named = hello.sni.as_deref().and_then(RoutedName::parse);
    let is_meant = |port: &&Arc<InboundPort>| {
        let is = |named: &RoutedName| named.service_name() == *port.service && named.port == *port.name;
        named.as_ref().map_or(ports.len() == 1, is)
    };
    ports.iter().find(is_meant).cloned().ok_or_else(|| {
        let expected: Vec<_> =
            ports.iter().map(|port| format!("{} of {}", port.name, port.service)).collect();
        HandshakeFailure::WrongPort {
            expected: expected.join(" or "),
            named: named.map_or_else(
                || "none".to_owned(),
                |named| format!("{} of {}", named.port, named.service_name()),
            ),
        }
    })
}

/// What is said to a caller that is refused for its hello.
pub(crate) fn word_for(failure: &HandshakeFailure) -> Word {
    match failure {
        HandshakeFailure::Plaintext => Word::Plaintext,
        HandshakeFailure::NotTls => alert(AlertDescription::DecodeError),
        HandshakeFailure::TlsVersion => alert(AlertDescription::ProtocolVersion),
        HandshakeFailure::ForeignHello { .. } | HandshakeFailure::WrongPort { .. } => unrecognised_name(),
        _ => Word::Said,
    }
}

/// The name in the hello is not to be had here (RFC 6066, 3).
pub(crate) fn unrecognised_name() -> Word {
    alert(AlertDescription::UnrecognisedName)
}

/// Looks at the first bytes and, if they are a hello for the mesh that fits here, takes the connection when it is its turn. What fits
/// says which ALPN is spoken; without one any of the mesh's will do, and which one it became comes back.
pub(crate) async fn accept(
    mut io: ReadAhead,
    tls: &Tls,
    fits: impl Fn(&Hello) -> Result<Option<Alpn>, HandshakeFailure>,
    turns: &Semaphore,
) -> Result<(Stream, Peer, Option<Alpn>), Rejected> {
    let peeked = hello(&mut io).await?;
    let alpn = match ours(peeked).and_then(|hello| fits(&hello)) {
        Ok(alpn) => alpn,
        Err(failure) => {
            let (socket, _) = io.into_parts();
            let word = word_for(&failure);
            return Err(Rejected { failure, socket: Some(socket), word });
        }
    };
    // Closed only with the process.
    let _turn = turns.acquire().await;
    let config = match alpn {
        Some(alpn) => tls.generation.server_config(alpn),
        None => tls.generation.server_config_of_any(),
    };
    let accepted = TlsAcceptor::from(config).accept(io).into_fallible().await;
    let stream = accepted.map_err(|(error, io)| {
        let failure = HandshakeFailure::from_io(&error);
        // A close with bytes unread would be a reset, which may overtake the alert that says why.
        let socket = matches!(error.kind(), io::ErrorKind::InvalidData).then(|| io.into_parts().0);
        Rejected { failure, socket, word: Word::Said }
    })?;
    let session = stream.get_ref().1;
    // rustls refuses a client whose ALPNs do not fit, but not one that sends none at all. For bytes that
    // is a client outside Signet; for HTTP the declared protocol holds, whatever the client leaves open.
    let spoken = session.alpn_protocol().and_then(Alpn::of);
    let peer = tls.generation.check(
        session.peer_certificates(),
        // Somebody of a federated trust domain gets as far as policy, which lets in whom it names.
        &Expected::AnyTrusted,
        &tls.revoked,
        wall_clock(),
    )?;
    Ok((Stream::Accepted(Box::new(stream)), peer, spoken))
}

/// Dials an endpoint and makes sure that exactly the expected identity answers.
pub(crate) async fn connect(
    socket: TcpStream,
    endpoint: &Endpoint,
    tls: &Tls,
    alpn: Alpn,
) -> Result<(Stream, Peer), HandshakeFailure> {
    let generation: &Arc<Generation> = &tls.generation;
    let config = endpoint.client_config(generation, alpn);
    let expected = Expected::Exact(&endpoint.identity);
    let stream = TlsConnector::from(config)
        .connect(endpoint.hello_name(&generation.own().svid().id), ReadAhead::new(socket))
        .await
        .map_err(|error| HandshakeFailure::from_io(&error).expecting(&endpoint.identity))?;
    let session = stream.get_ref().1;
    match generation.check(session.peer_certificates(), &expected, &tls.revoked, wall_clock()) {
        // A peer of the mesh answers in the mesh's own protocol; no ALPN is somebody else's server.
        Ok(_) if session.alpn_protocol() != Some(alpn.signet()) => Err(HandshakeFailure::NoCommonAlpn),
        Ok(peer) => Ok((Stream::Dialled(Box::new(Dialled::new(stream))), peer)),
        Err(failure) => {
            endpoint.forget_sessions();
            generation.forget_sessions(&endpoint.identity);
            Err(failure)
        }
    }
}

/// Log lines a second for failures that strangers can cause.
const LOGGED_PER_SECOND: u64 = 10;
static LOGGED: PerSecond = PerSecond::new();

/// Counts a failure, keeps it, and logs it unless there are too many. `tls` is what we were by then; none where that
/// has no part in it.
pub(crate) fn report(
    shared: &Shared,
    tls: Option<&Tls>,
    failure: &HandshakeFailure,
    direction: Direction,
    remote: Option<SocketAddr>,
    service: &str,
) {
    let second = crate::pool::now();
    let now = i64::try_from(second).unwrap_or(i64::MAX);
    let own = tls.map(|tls| Own::of(&tls.generation, &tls.revoked));
    if LOGGED.admits(second, LOGGED_PER_SECOND) {
        let received = failure.received();
        tracing::warn!(
            target: "signet::handshake",
            reason = failure.label(),
            direction = direction.as_str(),
            service,
            remote = remote.map(tracing::field::display),
            expected = failure.expected().map(|expected| visible(&expected)),
            expected_class = failure.expected_class().map(tracing::field::display),
            received = received.map(|one| visible(one.id().as_str())),
            class = received.map(|one| tracing::field::display(one.class())),
            serial = received.map(|one| tracing::field::display(one.serial())),
            not_before = received.map(|one| one.not_before()),
            not_after = received.map(|one| one.not_after()),
            now,
            skew_seconds = failure.skew(),
            alert = failure.alert(),
            what_to_do = visible(&failure.what_to_do(own.as_ref(), now)),
            "{}", visible(&failure.to_string()),
        );
    }
    let dialled = direction == Direction::Outbound;
    let way = direction.as_str();
    shared.incidents.note(Failed { direction: way, service, remote, dialled, failure, own, now });
    shared.metrics.handshake_failed(direction, failure.label());
}
