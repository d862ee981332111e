//! A connection to where a request goes: pooled, or dialled and checked.
//!
//! Until a connection stands nothing was sent, so another endpoint may be tried; how often is a limit. Every
//! wait is covered by the watch of the client's connection, so a revoked caller waits for nothing.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use signet_identity::{Alpn, HandshakeFailure, Peer};
use tokio::net::{TcpStream, UnixStream};

use crate::age::{Age, calls_until};
use crate::answer::{Reason, Refusal};
use crate::balance;
use crate::io::{Conn, Stream};
use crate::outside;
use crate::own_pod;
use crate::pool::{Key, Upstream};
use crate::stage::{Direction, Target, check_endpoints};
use crate::state::{App, AppAddress, Endpoint, InFlight, ServicePort, Snapshot};
use crate::tls;
use crate::tries::{Outcome, judge};
use crate::worker::{End, Watch, Worker, is_believed};

/// A connection, and its place in the endpoint's count.
pub(crate) struct Obtained {
    pub(crate) upstream: Upstream,
    pub(crate) in_flight: Option<InFlight>,
}

/// Takes a connection of this protocol to the target from the pool, or dials. `fresh` dials in any case; `avoid` are endpoints that had
/// their try.
pub(crate) async fn obtain<E>(
    worker: &Rc<Worker<E>>,
    watch: &Watch,
    view: &Snapshot,
    target: &Target,
    alpn: Alpn,
    fresh: bool,
    avoid: &[u64],
) -> Result<Obtained, Refusal> {
    let limits = &worker.shared.limits;
    match target {
        Target::App(app) => {
            let key = Key::App(app.id);
            let pooled = if fresh { None } else { worker.pool.borrow_mut().take(key, limits) };
            let upstream = match pooled {
                Some(upstream) => upstream,
                None => {
                    let conn = Conn::new(dial_app(worker, watch, app).await?);
                    Upstream::new(conn, key, None, Age::begin(limits, None))
                }
            };
            Ok(Obtained { upstream, in_flight: None })
        }
        Target::Outside(origin) => {
            let key = Key::Outside(origin.id);
            let pooled = if fresh { None } else { worker.pool.borrow_mut().take(key, limits) };
            let upstream = match pooled {
                Some(upstream) => upstream,
                None => {
                    let stream = Box::pin(outside::dial(worker, watch, view, origin)).await?;
                    Upstream::new(Conn::new(stream), key, None, Age::begin(limits, None))
                }
            };
            Ok(Obtained { upstream, in_flight: None })
        }
        Target::Service(port) => {
            check_endpoints(port)?;
            let generation = view.tls.generation.number();
            let first = balance::pick(port, avoid).or_else(|| balance::pick(port, &[]));
            let first = first.ok_or(Reason::NoEndpoint)?;
            let key = Key::Endpoint { id: first.id, generation };
            let pooled = if fresh { None } else { worker.pool.borrow_mut().take(key, limits) };
            // The sweep may not have run since the news came that this view has.
            let believed =
                |upstream: &Upstream| upstream.peer.as_ref().is_none_or(|peer| is_believed(peer, view));
            if let Some(upstream) = pooled.filter(believed) {
                watch.set_upstream(upstream.peer.clone());
                return Ok(Obtained { upstream, in_flight: Some(first.begin()) });
            }
            // The rare and large part has a future of its own.
            Box::pin(dial_service(worker, watch, view, port, alpn, first.clone())).await
        }
    }
}

/// Dials our app.
pub(crate) async fn dial_app<E>(worker: &Worker<E>, watch: &Watch, app: &App) -> Result<Stream, Refusal> {
    watch.within(Some(worker.shared.limits.connect_time));
    let dialled = match &app.address {
        AppAddress::Unix(path) => {
            let mut dial = pin!(UnixStream::connect(path));
            watch.wait(|cx| dial.as_mut().poll(cx)).await.map(|dialled| dialled.map(Stream::Unix))
        }
        AppAddress::Tcp(address) => {
            let mut dial = pin!(TcpStream::connect(*address));
            watch.wait(|cx| dial.as_mut().poll(cx)).await.map(|dialled| {
                dialled.map(|socket| {
                    let _ = socket.set_nodelay(true);
                    Stream::Tcp(socket)
                })
            })
        }
    };
    match dialled {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            Err(Refusal::new(Reason::ConnectFailed)
                .detail(format_args!("the app at {}: {error}", app.address)))
        }
        Err(end) => Err(ended(end, format_args!("the app at {}", app.address))),
    }
}

/// Dials endpoints until one takes the connection and proves to be who it must be.
pub(crate) async fn dial_service<E>(
    worker: &Worker<E>,
    watch: &Watch,
    view: &Snapshot,
    port: &Arc<ServicePort>,
    alpn: Alpn,
    first: Arc<Endpoint>,
) -> Result<Obtained, Refusal> {
    let limits = &worker.shared.limits;
    let mut tried = Vec::new();
    let mut endpoint = first;
    loop {
        let in_flight = endpoint.begin();
        let refusal = match dial_endpoint(worker, watch, view, port, alpn, &endpoint).await {
            Ok((stream, peer)) => {
                endpoint.connected(true);
                watch.set_upstream(Some(peer.clone()));
                let generation = view.tls.generation.number();
                let key = Key::Endpoint { id: endpoint.id, generation };
                let age = Age::begin(limits, Some(calls_until(peer.svid(), view)));
                let upstream = Upstream::new(Conn::new(stream), key, Some(peer), age);
                return Ok(Obtained { upstream, in_flight: Some(in_flight) });
            }
            Err(refusal) => refusal,
        };
        endpoint.connected(false);
        judge(&endpoint, port, Outcome::Reset, &worker.shared);
        tried.push(endpoint.id);
        if watch.ended().is_some() || tried.len() >= limits.connect_tries {
            return Err(refusal);
        }
        match balance::pick(port, &tried) {
            Some(next) => endpoint = next.clone(),
            None => return Err(refusal),
        }
    }
}

pub(crate) async fn dial_endpoint<E>(
    worker: &Worker<E>,
    watch: &Watch,
    view: &Snapshot,
    port: &ServicePort,
    alpn: Alpn,
    endpoint: &Endpoint,
) -> Result<(Stream, Peer), Refusal> {
    watch.within(Some(worker.shared.limits.connect_time));
    let connected = Cell::new(false);
    let mut dial = pin!(async {
        let socket = own_pod::dial(&worker.common, endpoint.address).await.map_err(Failed::Connect)?;
        let _ = socket.set_nodelay(true);
        connected.set(true);
        tls::connect(socket, endpoint, &view.tls, alpn).await.map_err(Failed::Handshake)
    });
    match watch.wait(|cx| dial.as_mut().poll(cx)).await {
        Ok(Ok((mut stream, peer))) => {
            // It may still refuse us: with TLS 1.3 it has not looked at our certificate yet.
            let (shared, tls) = (worker.shared.clone(), view.tls.clone());
            let (address, service) = (endpoint.address, port.service.clone());
            stream.on_refusal(Box::new(move |failure| {
                tls::report(&shared, Some(&tls), failure, Direction::Outbound, Some(address), &service);
            }));
            Ok((stream, peer))
        }
        Ok(Err(Failed::Connect(error))) => Err(Refusal::new(Reason::ConnectFailed)
            .detail(format_args!("{} at {}: {error}", port.service, endpoint.address))),
        Ok(Err(Failed::Handshake(failure))) => {
            let at = Some(endpoint.address);
            tls::report(&worker.shared, Some(&view.tls), &failure, Direction::Outbound, at, &port.service);
            Err(Refusal::new(Reason::PeerHandshake(failure.label())).detail(failure))
        }
        Err(end) => {
            if end == End::TimedOut && connected.get() {
                let (failure, at) = (HandshakeFailure::Timeout, Some(endpoint.address));
                tls::report(
                    &worker.shared,
                    Some(&view.tls),
                    &failure,
                    Direction::Outbound,
                    at,
                    &port.service,
                );
            }
            Err(ended(end, format_args!("{} at {}", port.service, endpoint.address)))
        }
    }
}

enum Failed {
    Connect(io::Error),
    Handshake(HandshakeFailure),
}

pub(crate) fn ended(end: End, whom: std::fmt::Arguments<'_>) -> Refusal {
    match end {
        End::TimedOut => {
            Refusal::new(Reason::ConnectFailed).detail(format_args!("{whom}: no connection in time"))
        }
        End::Revoked => Reason::Revoked.into(),
        End::UpstreamRevoked => Reason::PeerHandshake("revoked").into(),
        End::UpstreamExpired => Reason::PeerHandshake("expired").into(),
        End::UserRevoked(by) => Reason::ContextInvalid(by.label()).into(),
        End::Policy => Reason::Policy.into(),
        End::Strict => Reason::Plaintext.into(),
        End::Expired => Reason::Expired.into(),
        End::Shutdown => Reason::Overloaded.into(),
    }
}
