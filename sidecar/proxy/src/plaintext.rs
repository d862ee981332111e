//! Callers without the mesh, at a port that still lets them in (decision 16).
//!
//! On such a port both kinds come, and their first bytes tell them apart: a hello of ours is taken as ever, and fails as
//! ever; nothing that a hello says turns it into plaintext. Everything else is let in as nobody. A hello that is
//! not ours is the app's own TLS, which a port of bytes carries as they are and a port of requests refuses.
//!
//! A client may also wait for its server to speak first. One that has said nothing for [`SILENCE`] is taken for that: the
//! app is dialled, and whoever speaks next decides. So a peer whose hello was late is still a peer, unless
//! the app has spoken before: then it has read plaintext where it expects TLS, and its connection is cut (`tcp.rs`), since
//! its hello is nothing for the app, and the next one it makes is as good as any.
//!
//! Who came is counted by its address, up to a bound, for whoever must find the last callers before the port is strict.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use signet_identity::HandshakeFailure;
use signet_wire::hello::Peek;

use crate::answer::Refusal;
use crate::io::{Conn, ReadAhead, Stream};
use crate::shared::Shared;
use crate::state::{App, InboundPort, Protocol};
use crate::tls;
use crate::upstream::dial_app;
use crate::worker::{End, Watch, Worker};

/// Who says nothing for so long waits for the server. A peer's hello comes with its first packet.
const SILENCE: Duration = Duration::from_millis(100);

/// What a connection to a permissive port is.
pub(crate) enum Caller {
    /// A peer, or somebody who is refused: whatever mutual TLS makes of it.
    Mesh(ReadAhead),
    /// Nobody, and the connection to the app if it had to be dialled already.
    Nobody(Conn, Option<Conn>),
}

/// Why it is neither.
pub(crate) enum Failed {
    /// It did not say enough to be anything.
    Hello(HandshakeFailure),
    /// The app was not there.
    App(Refusal),
    /// It was ended meanwhile.
    Ended(End),
}

impl From<HandshakeFailure> for Failed {
    fn from(failure: HandshakeFailure) -> Self {
        Failed::Hello(failure)
    }
}

/// Finds out who calls. Before that the watch must know that the connection may be nobody's.
pub(crate) async fn sort<E>(
    worker: &Worker<E>,
    watch: &Watch,
    mut io: ReadAhead,
    port: &InboundPort,
    app: &App,
) -> Result<Caller, Failed> {
    let is_bytes = port.protocol == Protocol::Tcp;
    let hello_time = Some(worker.shared.limits.handshake_time);
    watch.within(hello_time);
    let mut dialled = None;
    if is_bytes {
        let mut silence = pin!(tokio::time::sleep(SILENCE));
        let spoke = watch.wait(|cx| match io.poll_more(cx) {
            Poll::Ready(read) => Poll::Ready(Some(read)),
            Poll::Pending => silence.as_mut().poll(cx).map(|()| None),
        });
        match spoke.await.map_err(Failed::Ended)? {
            Some(read) => {
                if read.map_err(broken)? == 0 {
                    return Ok(Caller::Nobody(nobody(io), None));
                }
            }
            None => {
                let stream = dial_app(worker, watch, app).await.map_err(Failed::App)?;
                // Unless both have ended: it is not the app's fault if this comes to nothing.
                stream.reset_on_close();
                let mut upstream = Conn::new(stream);
                watch.within(port.timeouts.idle);
                let spoke = watch.wait(|cx| match io.poll_more(cx) {
                    Poll::Ready(read) => Poll::Ready(Spoke::Caller(read)),
                    Poll::Pending => upstream.poll_fill(cx).map(Spoke::App),
                });
                match spoke.await.map_err(Failed::Ended)? {
                    Spoke::Caller(read) => {
                        if read.map_err(broken)? == 0 {
                            return Ok(Caller::Nobody(nobody(io), Some(upstream)));
                        }
                        watch.within(hello_time);
                        dialled = Some(upstream);
                    }
                    Spoke::App(read) => {
                        if let Err(error) = read {
                            return Err(Failed::App(
                                Refusal::new(crate::answer::Reason::UpstreamReset).detail(error),
                            ));
                        }
                        return Ok(Caller::Nobody(nobody(io), Some(upstream)));
                    }
                }
            }
        }
    }
    let peek = {
        let mut hello = pin!(tls::hello(&mut io));
        match watch.wait(|cx| hello.as_mut().poll(cx)).await {
            Ok(peek) => peek?,
            Err(End::TimedOut) => return Err(HandshakeFailure::Timeout.into()),
            Err(end) => return Err(Failed::Ended(end)),
        }
    };
    Ok(match peek {
        Peek::Plaintext => Caller::Nobody(nobody(io), dialled),
        Peek::Client(hello) if hello.is_ours() => Caller::Mesh(io),
        Peek::Client(_) | Peek::Malformed(_) if is_bytes => Caller::Nobody(nobody(io), dialled),
        Peek::Client(_) | Peek::Malformed(_) | Peek::Partial => Caller::Mesh(io),
    })
}

enum Spoke {
    Caller(io::Result<usize>),
    App(io::Result<usize>),
}

fn broken(error: io::Error) -> Failed {
    Failed::Hello(HandshakeFailure::from_io(&error))
}

/// The connection as it came, with what was read of it.
fn nobody(io: ReadAhead) -> Conn {
    let (socket, ahead) = io.into_parts();
    Conn::with_input(Stream::Tcp(socket), ahead)
}

/// Addresses remembered for each port; callers from others are counted together.
const MAX_SOURCES: usize = 128;

/// By name, both of them.
type ServiceAndPort = (Arc<str>, Arc<str>);

/// Who came without the mesh.
#[derive(Debug, Default)]
pub struct Sources {
    ports: Mutex<HashMap<ServiceAndPort, Seen>>,
    open: AtomicUsize,
}

/// Who came to one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Connections by address.
    pub connections: BTreeMap<IpAddr, u64>,
    /// Those from addresses that are not listed any more.
    pub others: u64,
}

impl Sources {
    /// Who came to this port.
    pub fn seen(&self, service: &str, port: &str) -> Seen {
        let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let found = ports.iter().find(|((known, name), _)| &**known == service && &**name == port);
        found.map(|(_, seen)| seen.clone()).unwrap_or_default()
    }

    /// Counts a connection; whether its address is listed and new.
    pub(crate) fn count(&self, port: &InboundPort, from: IpAddr) -> bool {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = ports.entry((port.service.clone(), port.name.clone())).or_default();
        let known = seen.connections.len();
        if known >= MAX_SOURCES && !seen.connections.contains_key(&from) {
            seen.others = seen.others.saturating_add(1);
            return false;
        }
        let count = seen.connections.entry(from).or_default();
        *count = count.saturating_add(1);
        seen.connections.len() > known
    }
}

/// A place among the connections that may be nobody's. They get at most half of all, so that strangers who open
/// connections and say nothing leave room for peers.
pub(crate) struct Room(Arc<Shared>);

impl Room {
    /// A place, if there is one.
    pub(crate) fn take(shared: &Arc<Shared>) -> Option<Self> {
        let open = shared.plaintext.open.fetch_add(1, Ordering::Relaxed);
        let room = Room(shared.clone());
        (open < shared.limits.connections / 2).then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.plaintext.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Timeouts, UserContext};

    #[test]
    fn callers_are_counted_by_address_and_the_table_does_not_grow_with_strangers() {
        let port = InboundPort {
            hop_proof: false,
            service: "orders.shop".into(),
            name: "db".into(),
            port: 5432,
            protocol: Protocol::Tcp,
            timeouts: Timeouts::default(),
            user_context: UserContext::Transaction,
            user_headers: Arc::default(),
            permissive_until: Some(1),
        };
        let sources = Sources::default();
        let from = |number: usize| {
            IpAddr::from([10, 0, u8::try_from(number / 256).unwrap(), u8::try_from(number % 256).unwrap()])
        };
        for number in 0..1000 {
            assert_eq!(sources.count(&port, from(number)), number < MAX_SOURCES, "{number}");
        }
        assert!(!sources.count(&port, from(0)), "known");
        let seen = sources.seen("orders.shop", "db");
        assert_eq!((seen.connections.len(), seen.others), (MAX_SOURCES, 1000 - MAX_SOURCES as u64));
        assert_eq!(seen.connections[&from(0)], 2);
        assert_eq!(sources.seen("orders.shop", "http"), Seen::default());
    }
}
