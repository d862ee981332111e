//! Connections whose way leads out of the mesh.
//!
//! Three kinds come here: redirected ones to an address that is nobody's in the mesh, those to a listener of their own for a
//! place outside, and, at an egress gateway, those of peers. Which engine speaks is the listed port's to say, or, where several
//! ports with one number are listed, what the first bytes are.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use signet_identity::{Alpn, HandshakeFailure, Peer, RoutedName};
use signet_model::ExternalProtocol;

use super::{Established, plain, say};
use crate::age::called_until;
use crate::answer::{Reason, Refusal};
use crate::io::{Conn, ReadAhead, Stream};
use crate::outside::{self, Spoken, look};
use crate::session::{AnyStage, Socket, note};
use crate::stage::{ConnContext, Direction, Egress, Outward, Role, Stage};
use crate::state::{PlacePort, Protocol, Snapshot};
use crate::tls::{self, Rejected, Word};
use crate::worker::{Watch, Worker};

/// How long an app may take to show what it speaks where it may call what is not listed, and so perhaps a server that
/// speaks first.
const FIRST_LOOK: Duration = Duration::from_millis(100);

/// A listener's own port of a place outside.
pub(super) fn listed(view: &Snapshot, place: &Arc<str>, port: &Arc<str>) -> Option<Arc<PlacePort>> {
    view.endpoints.places().port(place, port).cloned()
}

/// What comes out of the mesh, or to an egress gateway.
struct From {
    conn: Conn,
    remote: Option<SocketAddr>,
    local: Option<SocketAddr>,
    peer: Option<Peer>,
    until: Option<u64>,
}

/// Our app, at a listener of its own for this port.
pub(super) async fn ours<E: Stage>(
    worker: &Rc<Worker<E>>,
    watch: &Watch,
    socket: Socket,
    remote: Option<SocketAddr>,
    port: Arc<PlacePort>,
) -> Option<Established<E>> {
    let (conn, local) = plain(socket);
    of_port(worker, watch, From { conn, remote, local, peer: None, until: None }, port).await
}

/// Our app, redirected on its way to an address that is nobody's.
pub(super) async fn redirected<E: Stage>(
    worker: &Rc<Worker<E>>,
    watch: &Watch,
    view: &Snapshot,
    socket: Socket,
    remote: Option<SocketAddr>,
    destination: SocketAddr,
) -> Option<Established<E>> {
    let (mut conn, local) = plain(socket);
    let places = view.endpoints.places();
    // Inward addresses are nobody's to call by default: the cloud's metadata service is at one.
    let inward = signet_model::reach::forbidden(destination.ip(), false);
    let unlisted = (view.policy.mesh.egress_allow && inward.is_none()).then(|| worker.app(destination));
    let number = destination.port();
    let refused = |worker: &Worker<E>, conn: &mut Conn, detail: &dyn std::fmt::Display| {
        let outward = Outward { port: None, number, host: None, unlisted: None };
        refuse(worker, conn, None, outward, Refusal::new(Reason::EgressDenied).detail(detail));
    };
    if let Some(port) = outside::by_address(worker, view, destination).await {
        let outward = Outward {
            port: Some((port.place.clone(), port.name.clone())),
            number,
            host: Some(destination.ip().to_string().into()),
            unlisted: None,
        };
        let from = From { conn, remote, local, peer: None, until: None };
        return Some(established(worker, from, Protocol::Tcp, outward));
    }
    let says_a_name = places.at(number).iter().any(|port| port.protocol != ExternalProtocol::Tcp);
    let spoken = match (says_a_name, &unlisted) {
        (true, None) => look(watch, &mut conn, worker.shared.limits.head_time).await,
        (true, Some(_)) => look(watch, &mut conn, FIRST_LOOK).await,
        // For HTTP that is refused in its own words.
        (false, None) => look(watch, &mut conn, super::SNIFF).await,
        (false, Some(_)) => Spoken::Bytes,
    };
    let mut outward = Outward { port: None, number, host: None, unlisted };
    let protocol = match spoken {
        Spoken::Http(protocol) => protocol,
        Spoken::Tls(name) => {
            let is_tls = |declared| declared == ExternalProtocol::Tls;
            let found = name.as_deref().and_then(|name| places.find(number, name, is_tls));
            match (found, name, &outward.unlisted) {
                (Some(port), Some(name), _) => {
                    outward.port = Some((port.place.clone(), port.name.clone()));
                    outward.host = Some(name.into());
                    outward.unlisted = None;
                }
                (_, _, Some(_)) => {}
                (_, name, None) => {
                    let name = name.as_deref().unwrap_or("(none)");
                    let detail = format_args!(
                        "expected a server name that an ExternalService lists for port {number}, got {name}, to {destination}"
                    );
                    refused(worker, &mut conn, &detail);
                    return None;
                }
            }
            Protocol::Tcp
        }
        Spoken::Bytes if outward.unlisted.is_some() => Protocol::Tcp,
        Spoken::Bytes => {
            let why = inward.map(|why| format!(", which is {why}")).unwrap_or_default();
            let detail = format_args!("no ExternalService lists {destination}{why}");
            refused(worker, &mut conn, &detail);
            return None;
        }
    };
    Some(established(worker, From { conn, remote, local, peer: None, until: None }, protocol, outward))
}

/// A peer, at an egress gateway: the server name of its hello says which place and port it means.
pub(super) async fn of_peer<E: Stage>(
    worker: &Rc<Worker<E>>,
    watch: &Watch,
    view: &Snapshot,
    socket: Socket,
    remote: Option<SocketAddr>,
) -> Option<Established<E>> {
    let Socket::Tcp(socket) = socket else { return None };
    let local = socket.local_addr().ok();
    let shared = &worker.shared;
    watch.within(Some(shared.limits.handshake_time));
    let mut accepting = pin!(tls::accept(
        ReadAhead::new(socket),
        &view.tls,
        // Which place it names is said to those who have proven who they are.
        |_| Ok(None),
        &shared.handshakes,
    ));
    let accepted = match watch.wait(|cx| accepting.as_mut().poll(cx)).await {
        Ok(accepted) => accepted,
        Err(_) => Err(Rejected::from(HandshakeFailure::Timeout)),
    };
    let (stream, peer, spoken) = match accepted {
        Ok(accepted) => accepted,
        Err(Rejected { failure, socket, word }) => {
            tls::report(shared, Some(&view.tls), &failure, Direction::Inbound, remote, "egress");
            match (socket, word) {
                (Some(socket), Word::Said) => say(watch, socket, &[]).await,
                (Some(socket), Word::Alert(alert)) => say(watch, socket, &alert).await,
                _ => {}
            }
            return None;
        }
    };
    let name = match &stream {
        Stream::Accepted(tls) => tls.get_ref().1.server_name().and_then(RoutedName::parse),
        _ => None,
    };
    let until = Some(called_until(peer.svid(), view));
    let mut from = From { conn: Conn::new(stream), remote, local, peer: Some(peer), until };
    let Some(name) = name else {
        let outward = Outward { port: None, number: 0, host: None, unlisted: None };
        let refusal = Refusal::new(Reason::EgressDenied).detail("the server name says no place");
        refuse(worker, &mut from.conn, from.peer.as_ref(), outward, refusal);
        return None;
    };
    let place = format!("{}.{}", name.service, name.namespace);
    let Some(port) = view.endpoints.places().port(&place, &name.port).cloned() else {
        let outward = Outward {
            port: Some((place.as_str().into(), name.port.as_str().into())),
            number: 0,
            host: None,
            unlisted: None,
        };
        let refusal = Refusal::new(Reason::EgressDenied)
            .detail(format_args!("no ExternalService {place} with a port {} goes through here", name.port));
        refuse(worker, &mut from.conn, from.peer.as_ref(), outward, refusal);
        return None;
    };
    // The port's declaration decides, and a peer that spoke otherwise is none of ours.
    let fits = match port.protocol.carried() {
        Protocol::Http1 => spoken == Some(Alpn::Http1),
        Protocol::Tcp => spoken == Some(Alpn::Tcp),
        _ => spoken == Some(Alpn::H2),
    };
    if !fits {
        let failure = HandshakeFailure::NoCommonAlpn;
        tls::report(shared, Some(&view.tls), &failure, Direction::Inbound, remote, &port.place);
        return None;
    }
    of_port(worker, watch, from, port).await
}

/// A connection of which the port is known.
async fn of_port<E: Stage>(
    worker: &Rc<Worker<E>>,
    watch: &Watch,
    mut from: From,
    port: Arc<PlacePort>,
) -> Option<Established<E>> {
    let mut outward = Outward {
        port: Some((port.place.clone(), port.name.clone())),
        number: port.port,
        host: port.sole_place().map(Into::into),
        unlisted: None,
    };
    let refusal = match port.protocol {
        ExternalProtocol::Tls if port.through.is_none() => {
            match look(watch, &mut from.conn, worker.shared.limits.head_time).await {
                Spoken::Tls(Some(name)) if port.rank(&name).is_some() => {
                    outward.host = Some(name.into());
                    None
                }
                spoken => {
                    Some(format!("expected a TLS hello for a host that {} lists, got {spoken:?}", port.place))
                }
            }
        }
        // The gateway looks.
        ExternalProtocol::Tls => None,
        ExternalProtocol::Tcp if outward.host.is_none() => {
            Some(format!("{} lists several places, and bytes do not say which", port.place))
        }
        _ => None,
    };
    if let Some(detail) = refusal {
        let refusal = Refusal::new(Reason::EgressDenied).detail(detail);
        refuse(worker, &mut from.conn, from.peer.as_ref(), outward, refusal);
        return None;
    }
    let protocol = port.protocol.carried();
    Some(established(worker, from, protocol, outward))
}

/// Notes a refusal, and breaks the connection, so that nobody takes it for an end.
fn refuse<E>(worker: &Worker<E>, conn: &mut Conn, peer: Option<&Peer>, outward: Outward, refusal: Refusal) {
    note(&worker.shared, Direction::Outbound, &Role::Egress(outward), peer, &refusal);
    conn.stream().reset_on_close();
    conn.input().clear();
}

fn established<E: Stage>(
    worker: &Rc<Worker<E>>,
    From { conn, remote, local, peer, until }: From,
    protocol: Protocol,
    outward: Outward,
) -> Established<E> {
    let shared = &worker.shared;
    let is_peer = peer.is_some();
    let service: Arc<str> = outward.service().into();
    Established {
        conn,
        stage: AnyStage::Egress(Egress::new(shared.clone())),
        nobody: None,
        until,
        context: ConnContext {
            direction: Direction::Outbound,
            protocol,
            peer,
            xfcc: None,
            remote,
            local,
            tls: is_peer,
            metrics: shared.metrics.route(Direction::Outbound, &service),
            role: Role::Egress(outward),
        },
    }
}
