//! HTTP/2 connections to endpoints and apps: dialled on first use, shared by all requests of a worker, driven by a task
//! of their own.
//!
//! A link is offered to new requests until it is old, stale (another generation of ours, a certificate near its end),
//! long idle, larger than what it carries needs, or going away by its peer's word; then it finishes what it has and closes. One link per target is the
//! rule; a second one is opened only while the peer's limit of streams leaves no room on the first.

use std::cell::{Cell, RefCell};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foldhash::HashMap;
use h2::client::SendRequest;
use signet_identity::{Alpn, HandshakeFailure};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::coalesce::{Flusher, coalesce};
use super::{CONNECTION_WINDOW, GOODBYE, HEADER_LIST, SEND_BUFFER, STREAM_WINDOW, TICK};
use crate::age::{Age, calls_until};
use crate::answer::{Reason, Refusal};
use crate::balance;
use crate::outside;
use crate::pool::Key;
use crate::stage::{Stage, Target, check_endpoints};
use crate::state::{App, Endpoint, InFlight, Origin, ServicePort, Snapshot};
use crate::tries::{Outcome, judge};
use crate::upstream::{dial_app, dial_endpoint};
use crate::worker::{End as Ended, Watch, Worker};

/// Links to one target at most. Past it requests wait for a stream.
const LINKS: usize = 4;
/// Requests at a time that leave a link large.
const LARGE: usize = 128;
/// Streams that a link is trusted with before its peer has said its limit.
const UNTOLD: usize = 100;

/// The links of one worker.
#[derive(Default)]
pub(crate) struct Links {
    by_key: HashMap<Key, Vec<Rc<Link>>>,
}

enum State {
    Dialling,
    Open(SendRequest<Bytes>),
    Failed(Refusal),
    Closed,
}

/// One connection, or the attempt at one.
struct Link {
    key: Key,
    state: RefCell<State>,
    /// Told when the state changes.
    changed: Notify,
    /// Requests that have it, or wait for it.
    active: Cell<usize>,
    /// The most that it has had at a time, in all its life and since the last look.
    most: Cell<usize>,
    lately: Cell<usize>,
    /// No further request may begin on it.
    closing: Cell<bool>,
    idle_since: Cell<Instant>,
    /// The peer is one of the mesh whose words of users and refusals do not count.
    is_voiceless: Cell<bool>,
    /// How the peer refused us after our own handshake was over.
    refused: RefCell<Option<HandshakeFailure>>,
    /// The driver's.
    waker: RefCell<Option<Waker>>,
}

impl Link {
    fn new(key: Key) -> Rc<Self> {
        Rc::new(Link {
            key,
            state: RefCell::new(State::Dialling),
            changed: Notify::new(),
            active: Cell::new(0),
            most: Cell::new(0),
            lately: Cell::new(0),
            closing: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
            is_voiceless: Cell::new(false),
            refused: RefCell::new(None),
            waker: RefCell::new(None),
        })
    }

    /// Streams that may begin now without waiting.
    fn room(&self) -> usize {
        let limit = match &*self.state.borrow() {
            State::Open(sender) => sender.current_max_send_streams(),
            State::Dialling => UNTOLD,
            State::Failed(_) | State::Closed => 0,
        };
        if self.closing.get() { 0 } else { limit.saturating_sub(self.active.get()) }
    }

    fn set(&self, state: State) {
        *self.state.borrow_mut() = state;
        self.changed.notify_waiters();
    }

    /// Whether it is large for what it carries: the library's tables are as long for ever as a burst has made them. To be
    /// asked at intervals.
    fn has_outgrown(&self) -> bool {
        let lately = self.lately.replace(self.active.get());
        let most = self.most.get().max(lately);
        self.most.set(most);
        most >= LARGE && lately <= most / 8
    }

    /// Offers it to nobody any more.
    fn close(&self) {
        self.closing.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Why a request on it that was not answered failed.
    fn broken(&self) -> Refusal {
        match &*self.refused.borrow() {
            Some(failure) => Refusal::new(Reason::PeerHandshake(failure.label())).detail(failure),
            None => Reason::UpstreamReset.into(),
        }
    }

    /// Waits until it is open, or is known never to be.
    async fn opened(&self) -> Result<SendRequest<Bytes>, Refusal> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            match &*self.state.borrow() {
                State::Dialling => {}
                State::Open(sender) => return Ok(sender.clone()),
                State::Failed(refusal) => return Err(refusal.clone()),
                State::Closed => return Err(self.broken()),
            }
            changed.await;
        }
    }
}

/// One request's use of a link.
pub(super) struct Lease {
    pub(super) sender: SendRequest<Bytes>,
    place: Place,
    in_flight: Option<InFlight>,
    /// The link stood before this request came.
    reused: bool,
}

impl Lease {
    /// Where it leads, if that is an endpoint of the mesh.
    pub(super) fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.in_flight.as_ref().map(InFlight::endpoint)
    }

    /// What to say once the link broke.
    pub(super) fn end(&self) -> End {
        End(self.place.0.clone())
    }

    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Whether the peer's words of users and refusals count, if it is one of the mesh.
    pub(super) fn has_a_voice(&self) -> bool {
        !self.place.0.is_voiceless.get()
    }

    /// The peer said that it goes away: no request begins on this link any more.
    pub(super) fn retire(&self) {
        self.place.0.close();
    }
}

/// What is known of a link after a request on it.
pub(super) struct End(Rc<Link>);

impl End {
    /// Why a request that the broken link did not answer failed.
    pub(super) fn refusal(&self) -> Refusal {
        self.0.broken()
    }
}

/// Counts a request until it is dropped.
struct Place(Rc<Link>);

impl Place {
    fn on(link: &Rc<Link>) -> Self {
        let active = link.active.get() + 1;
        link.active.set(active);
        link.lately.set(link.lately.get().max(active));
        Place(link.clone())
    }

    fn is_on_standing_link(&self) -> bool {
        matches!(&*self.0.state.borrow(), State::Open(_))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let link = &self.0;
        link.active.set(link.active.get() - 1);
        if link.active.get() == 0 {
            link.idle_since.set(Instant::now());
            // The driver decides whether that was the last one.
            if let Some(waker) = link.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

/// Takes a place on a link to the target, dialling as needed. Until a link stands nothing was sent, so another endpoint
/// may be tried; `avoid` are those that had their try.
pub(super) async fn lease<E: Stage>(
    worker: &Rc<Worker<E>>,
    view: &Arc<Snapshot>,
    target: &Target,
    avoid: &[u64],
) -> Result<Lease, Refusal> {
    match target {
        Target::App(app) => {
            let place = place(worker, Key::App(app.id), || Dial::App(app.clone()));
            let reused = place.is_on_standing_link();
            let sender = place.0.opened().await?;
            Ok(Lease { sender, place, in_flight: None, reused })
        }
        Target::Outside(origin) => {
            let dial = || Dial::Outside { view: view.clone(), origin: origin.clone() };
            let place = place(worker, Key::Outside(origin.id), dial);
            let reused = place.is_on_standing_link();
            let sender = place.0.opened().await?;
            Ok(Lease { sender, place, in_flight: None, reused })
        }
        Target::Service(port) => {
            check_endpoints(port)?;
            let generation = view.tls.generation.number();
            // Who had a try is left out, unless nobody else is there.
            let others = port.endpoints.iter().any(|endpoint| !avoid.contains(&endpoint.id));
            let mut tried = if others { avoid.to_vec() } else { Vec::new() };
            let most = tried.len() + worker.shared.limits.connect_tries;
            // Made only when needed: a refusal's id is random, and that costs a system call.
            let mut refusal = None;
            while let Some(endpoint) = balance::pick(port, &tried).filter(|_| tried.len() < most) {
                let in_flight = endpoint.begin();
                let key = Key::Endpoint { id: endpoint.id, generation };
                let place = place(worker, key, || Dial::Service {
                    view: view.clone(),
                    port: port.clone(),
                    endpoint: endpoint.clone(),
                });
                let reused = place.is_on_standing_link();
                match place.0.opened().await {
                    Ok(sender) => return Ok(Lease { sender, place, in_flight: Some(in_flight), reused }),
                    Err(failed) => refusal = Some(failed),
                }
                judge(endpoint, port, Outcome::Reset, &worker.shared);
                tried.push(endpoint.id);
            }
            Err(refusal.unwrap_or_else(|| Reason::NoEndpoint.into()))
        }
    }
}

/// A place on the link with most room; on a new one when none has any.
fn place<E: Stage>(worker: &Rc<Worker<E>>, key: Key, dial: impl FnOnce() -> Dial) -> Place {
    let mut links = worker.links.borrow_mut();
    let links = links.by_key.entry(key).or_default();
    let open = links.iter().filter(|link| !link.closing.get());
    let count = open.clone().count();
    if let Some(best) = open.max_by_key(|link| link.room())
        && (best.room() > 0 || count >= LINKS)
    {
        return Place::on(best);
    }
    let link = Link::new(key);
    links.push(link.clone());
    let place = Place::on(&link);
    tokio::task::spawn_local(run(worker.clone(), link, dial()));
    place
}

/// How a link comes about.
enum Dial {
    App(Arc<App>),
    Outside { view: Arc<Snapshot>, origin: Arc<Origin> },
    Service { view: Arc<Snapshot>, port: Arc<ServicePort>, endpoint: Arc<Endpoint> },
}

/// A link's life.
async fn run<E: Stage>(worker: Rc<Worker<E>>, link: Rc<Link>, dial: Dial) {
    let watch = worker.registry.watch();
    match Box::pin(open(&worker, &watch, &dial)).await {
        Ok(Opened { sender, connection, flusher, age, is_voiceless }) => {
            drop(dial);
            link.is_voiceless.set(is_voiceless);
            link.set(State::Open(sender));
            let end = drive(&worker, &watch, &link, connection, flusher, age).await;
            tracing::debug!(target: "signet::h2", key = ?link.key, end, "a link ended");
            link.set(State::Closed);
        }
        Err(refusal) => link.set(State::Failed(refusal)),
    }
    link.closing.set(true);
    let mut links = worker.links.borrow_mut();
    if let Some(list) = links.by_key.get_mut(&link.key) {
        list.retain(|other| !Rc::ptr_eq(other, &link));
        if list.is_empty() {
            links.by_key.remove(&link.key);
        }
    }
}

type Connection = h2::client::Connection<super::coalesce::Coalesced, Bytes>;

struct Opened {
    sender: SendRequest<Bytes>,
    connection: Connection,
    flusher: Flusher,
    age: Age,
    is_voiceless: bool,
}

async fn open<E: Stage>(worker: &Rc<Worker<E>>, watch: &Watch, dial: &Dial) -> Result<Opened, Refusal> {
    let mut is_voiceless = false;
    let (stream, until) = match dial {
        Dial::App(app) => (dial_app(worker, watch, app).await?, None),
        Dial::Outside { view, origin } => (outside::dial(worker, watch, view, origin).await?, None),
        Dial::Service { view, port, endpoint } => {
            let dialled = dial_endpoint(worker, watch, view, port, Alpn::H2, endpoint).await;
            endpoint.connected(dialled.is_ok());
            let (stream, peer) = dialled?;
            let until = calls_until(peer.svid(), view);
            is_voiceless = !peer.has_a_voice();
            watch.set_upstream(Some(peer));
            (stream, Some(until))
        }
    };
    let (io, flusher) = coalesce(stream, BytesMut::new());
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .initial_max_send_streams(UNTOLD);
    let mut handshake = pin!(builder.handshake(io));
    watch.within(Some(worker.shared.limits.connect_time));
    match watch.wait(|cx| handshake.as_mut().poll(cx)).await {
        Ok(Ok((sender, connection))) => {
            let age = Age::begin(&worker.shared.limits, until);
            Ok(Opened { sender, connection, flusher, age, is_voiceless })
        }
        Ok(Err(error)) => Err(Refusal::new(Reason::ConnectFailed).detail(error)),
        Err(Ended::TimedOut) => {
            Err(Refusal::new(Reason::ConnectFailed).detail("no HTTP/2 connection in time"))
        }
        Err(Ended::Revoked) => Err(Reason::Revoked.into()),
        Err(_) => Err(Reason::Overloaded.into()),
    }
}

/// Drives a link to its end; returns what that was, for the log.
async fn drive<E: Stage>(
    worker: &Worker<E>,
    watch: &Watch,
    link: &Link,
    mut connection: Connection,
    flusher: Flusher,
    age: Age,
) -> &'static str {
    let limits = &worker.shared.limits;
    let tick = (TICK / 2).min(limits.pool_idle).max(Duration::from_millis(100));
    let mut pings = connection.ping_pong();
    // Turns since a ping.
    let mut asked = 0u8;
    let mut goodbye = false;
    watch.within(Some(tick));
    loop {
        let turn = watch.wait(|cx| {
            *link.waker.borrow_mut() = Some(cx.waker().clone());
            if !goodbye && link.active.get() == 0 && (link.closing.get() || watch.draining()) {
                return Poll::Ready(Turn::Unused);
            }
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Turn::Ended(ended.is_ok()));
            }
            match flusher.poll(cx) {
                Poll::Ready(Err(_)) => Poll::Ready(Turn::Ended(false)),
                _ => Poll::Pending,
            }
        });
        match turn.await {
            Ok(Turn::Unused) => {
                // The last handle: the library says goodbye and closes.
                goodbye = true;
                link.closing.set(true);
                link.set(State::Closed);
                watch.within(Some(GOODBYE));
            }
            Ok(Turn::Ended(true)) => return "closed",
            Ok(Turn::Ended(false)) => {
                *link.refused.borrow_mut() = flusher.refusal();
                return "broken";
            }
            Err(Ended::TimedOut) if goodbye => return "closed without an answer",
            Err(Ended::TimedOut) => {
                let idle = link.active.get() == 0 && link.idle_since.get().elapsed() >= limits.pool_idle;
                let generation = worker.shared.state.view().tls.generation.number();
                let stale = matches!(link.key, Key::Endpoint { generation: made, .. } if made != generation);
                if idle || stale || age.is_over(Instant::now()) || link.has_outgrown() {
                    link.closing.set(true);
                }
                // Two turns for the answer to a ping.
                match (flusher.heard(), link.active.get() > 0) {
                    (true, _) | (false, false) => asked = 0,
                    (false, true) if asked > 1 => return "silent",
                    (false, true) if asked == 1 => asked = 2,
                    (false, true) => {
                        asked =
                            pings.as_mut().is_some_and(|p| p.send_ping(h2::Ping::opaque()).is_ok()).into();
                    }
                }
                watch.within(Some(tick));
            }
            Err(end) => return end.label(),
        }
    }
}

enum Turn {
    /// Nobody uses it and nobody will.
    Unused,
    Ended(bool),
}
