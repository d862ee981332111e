//! Live connections are governed.
//!
//! Every connection has a [`Watch`] in its worker's [`Registry`]. It ends the connection when a peer of it
//! is revoked, its root removed, a policy turned, nobody vouches any more for a peer whose SVID has ended, or a
//! port takes no plaintext any more; it tells it of the drain; and it carries the one
//! deadline that covers whatever the connection waits for. All waits of the engines go through it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use signet_identity::Peer;
use signet_token::UserRevokedBy;
use tokio::time::Instant;

use super::wheel::{Deadline, Strike};
use crate::stage::Subjects;
use crate::state::Snapshot;

/// Why a wait ended before what it waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The deadline passed. The connection may set another one and go on.
    TimedOut,
    /// The client's peer is revoked, or its root removed.
    Revoked,
    /// The upstream's peer is: this exchange is over, the client's connection is not.
    UpstreamRevoked,
    /// The upstream's SVID has ended, and nothing vouches for it any more: this exchange is over.
    UpstreamExpired,
    /// A policy that was decided at connection turned.
    Policy,
    /// The port takes mutual TLS only from now on, and the caller is nobody.
    Strict,
    /// The user for whom the exchange is made is revoked: it is over, the client's connection is not.
    UserRevoked(UserRevokedBy),
    /// A peer's SVID has ended and nothing vouches for it any more, or the port wants no more than the SVID.
    Expired,
    /// The process ends.
    Shutdown,
}

impl End {
    pub(crate) fn label(self) -> &'static str {
        match self {
            End::TimedOut => "timeout",
            End::Revoked => "revoked",
            End::UpstreamRevoked => "upstream revoked",
            End::UpstreamExpired => "upstream expired",
            End::Policy => "policy",
            End::Strict => "strict",
            End::UserRevoked(by) => by.label(),
            End::Expired => "expired",
            End::Shutdown => "shutdown",
        }
    }
}

type Recheck = Box<dyn Fn(&Snapshot) -> bool>;

/// A stream of bytes: it has no requests after which it could end, so its SVIDs may end before it.
#[derive(Clone, Copy)]
struct Opaque {
    /// It ends with them.
    cut: bool,
    /// The last second of our own.
    own_end: i64,
}

struct Inner {
    id: u64,
    end: Cell<Option<End>>,
    upstream_end: Cell<Option<End>>,
    /// Of the exchange at hand, whatever upstream it has.
    exchange_end: Cell<Option<End>>,
    waker: RefCell<Option<Waker>>,
    /// Who is at the client's end, and at the upstream's.
    peers: RefCell<[Option<Peer>; 2]>,
    recheck: RefCell<Option<Recheck>>,
    /// For whom its exchange is made.
    subjects: RefCell<Subjects>,
    opaque: Cell<Option<Opaque>>,
    /// The service and port that a caller without the mesh is at.
    plaintext: RefCell<Option<(Arc<str>, Arc<str>)>>,
    deadline: Deadline,
    /// No wait goes past this.
    cap: Cell<Option<Instant>>,
}

impl Inner {
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn leave_upstream(&self, end: End) {
        if self.upstream_end.get().is_none() {
            self.upstream_end.set(Some(end));
        }
        self.wake();
    }

    /// Ends an exchange that goes on although a peer's SVID has ended and nothing vouches for it. No other begins then.
    fn lapse(&self, now: i64) {
        let ended = self
            .peers
            .borrow()
            .each_ref()
            .map(|peer| peer.as_ref().is_some_and(|peer| peer.not_after() < now));
        let [client, upstream] = ended;
        if client {
            self.finish(End::Expired);
        } else if upstream {
            self.leave_upstream(End::UpstreamExpired);
        }
    }

    /// Whether an SVID has ended under a stream of bytes, and nothing keeps it.
    fn has_lapsed(&self, Opaque { cut, own_end }: Opaque, now: i64, vouched: bool) -> bool {
        let peers = self.peers.borrow();
        let peer_ended = peers.iter().flatten().any(|peer| peer.not_after() < now);
        peer_ended && (cut || !vouched) || cut && own_end < now
    }

    fn finish(&self, end: End) {
        if self.end.get().is_none() {
            self.end.set(Some(end));
        }
        self.wake();
    }
}

/// All live connections of a worker.
#[derive(Default)]
pub(crate) struct Registry {
    live: RefCell<HashMap<u64, Rc<Inner>>>,
    next: Cell<u64>,
    draining: Cell<bool>,
    /// Idle connections end as well.
    hurried: Cell<bool>,
    /// How many of them are streams of bytes.
    opaque: Cell<usize>,
    /// How many of them are nobody's.
    plaintext: Cell<usize>,
    /// Exchanges for users that share a connection with others.
    held: RefCell<HashMap<u64, (Subjects, Strike)>>,
    /// Told when the last connection of a draining worker is gone.
    empty: tokio::sync::Notify,
}

impl Registry {
    /// Registers a connection.
    pub(crate) fn watch(self: &Rc<Self>) -> Watch {
        let id = self.next.get();
        self.next.set(id + 1);
        let inner = Rc::new(Inner {
            id,
            end: Cell::new(None),
            upstream_end: Cell::new(None),
            exchange_end: Cell::new(None),
            waker: RefCell::new(None),
            peers: RefCell::new([None, None]),
            recheck: RefCell::new(None),
            subjects: RefCell::default(),
            opaque: Cell::new(None),
            plaintext: RefCell::new(None),
            deadline: Deadline::new(),
            cap: Cell::new(None),
        });
        self.live.borrow_mut().insert(id, inner.clone());
        Watch { inner, registry: self.clone() }
    }

    /// How many connections are live.
    pub(crate) fn len(&self) -> usize {
        self.live.borrow().len()
    }

    /// Ends every connection with a peer that this view no longer believes.
    pub(crate) fn enforce_tls(&self, view: &Snapshot) {
        self.each(|inner| {
            let gone = inner
                .peers
                .borrow()
                .each_ref()
                .map(|peer| peer.as_ref().is_some_and(|peer| !is_believed(peer, view)));
            let [client, upstream] = gone;
            if client {
                inner.finish(End::Revoked);
            }
            if upstream {
                inner.leave_upstream(End::UpstreamRevoked);
            }
        });
    }

    /// Ends every exchange for a user who is revoked.
    pub(crate) fn enforce_users(&self, view: &Snapshot) {
        let revoked = &view.keys.revoked_users;
        if revoked.is_empty() {
            return;
        }
        self.each(|inner| {
            if let Some(by) = inner.subjects.borrow().revoked_by(revoked) {
                inner.exchange_end.set(Some(End::UserRevoked(by)));
                inner.wake();
            }
        });
        for (subjects, strike) in self.held.borrow().values() {
            if let Some(by) = subjects.revoked_by(revoked) {
                strike.strike(by);
            }
        }
    }

    /// From now on, and until the guard is dropped, the deadline comes when one of these is revoked. The error: one is.
    pub(crate) fn hold(
        self: &Rc<Self>,
        subjects: &Subjects,
        deadline: &Deadline,
        view: &Snapshot,
    ) -> Result<Option<Held>, UserRevokedBy> {
        if subjects.is_empty() {
            return Ok(None);
        }
        // News may have come while the exchange was being admitted.
        if let Some(by) = subjects.revoked_by(&view.keys.revoked_users) {
            return Err(by);
        }
        let id = self.next.get();
        self.next.set(id + 1);
        self.held.borrow_mut().insert(id, (subjects.clone(), deadline.striker()));
        Ok(Some(Held { id, registry: self.clone() }))
    }

    /// Decides again about streams that were admitted once for all their life.
    pub(crate) fn enforce_policy(&self, view: &Snapshot) {
        self.each(|inner| {
            let turned = inner.recheck.borrow().as_ref().is_some_and(|stands| !stands(view));
            if turned {
                inner.finish(End::Policy);
            }
        });
    }

    /// Ends what outlived an SVID (decision 15): the mesh vouches for a peer as long as our view of it is new enough to say
    /// that nobody revoked it. Streams of bytes have no requests after which they could have ended; an exchange may take as
    /// long.
    pub(crate) fn enforce_expiry(&self, view: &Snapshot, age: Duration, now: u64) {
        let vouched = age <= view.policy.mesh.max_staleness;
        if vouched && self.opaque.get() == 0 {
            return;
        }
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        self.each(|inner| match inner.opaque.get() {
            Some(opaque) if inner.has_lapsed(opaque, now, vouched) => inner.finish(End::Expired),
            None if !vouched => inner.lapse(now),
            _ => {}
        });
    }

    /// Tells every connection to end with the next thing that it does.
    pub(crate) fn leave(&self) {
        self.draining.set(true);
        self.each(Inner::wake);
    }

    /// Ends connections without the mesh at ports that are strict now (decision 16).
    pub(crate) fn enforce_strict(&self, view: &Snapshot, now: u64) {
        if self.plaintext.get() == 0 {
            return;
        }
        self.each(|inner| {
            let at = inner.plaintext.borrow();
            let turned =
                at.as_ref().is_some_and(|(service, port)| !view.still_lets_in_plaintext(service, port, now));
            if turned {
                inner.finish(End::Strict);
            }
        });
    }

    /// Tells every connection to end with what it is doing; one that does nothing ends now.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        self.hurried.set(true);
        self.each(Inner::wake);
    }

    /// Ends every connection.
    pub(crate) fn cut(&self) {
        self.each(|inner| inner.finish(End::Shutdown));
    }

    /// Ready when no connection is left.
    pub(crate) async fn emptied(&self) {
        while self.len() > 0 {
            self.empty.notified().await;
        }
    }

    fn each(&self, act: impl Fn(&Inner)) {
        // Waking never runs a task here, so nobody changes the map meanwhile.
        for inner in self.live.borrow().values() {
            act(inner);
        }
    }
}

/// Whether a peer that was checked before would pass again: not revoked, and its root still in the bundle.
pub(crate) fn is_believed(peer: &Peer, view: &Snapshot) -> bool {
    peer.revoked_by(&view.tls.revoked).is_none()
        && view
            .tls
            .generation
            .bundles()
            .get(peer.id().trust_domain())
            .is_some_and(|bundle| bundle.contains(&peer.root()))
}

/// An exchange for a user that shares a connection with others.
pub(crate) struct Held {
    id: u64,
    registry: Rc<Registry>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.registry.held.borrow_mut();
        held.remove(&self.id);
        if held.capacity() > 1024 && held.len() < held.capacity() / 8 {
            let room = 2 * held.len();
            held.shrink_to(room);
        }
    }
}

/// One connection's place in the registry.
pub(crate) struct Watch {
    inner: Rc<Inner>,
    registry: Rc<Registry>,
}

impl Watch {
    /// Who is at the client's end.
    pub(crate) fn set_client(&self, peer: Option<Peer>) {
        self.inner.peers.borrow_mut()[0] = peer;
    }

    /// Who is at the upstream's end now.
    pub(crate) fn set_upstream(&self, peer: Option<Peer>) {
        self.inner.peers.borrow_mut()[1] = peer;
        self.inner.upstream_end.set(None);
    }

    /// For whom the exchange on it is made from now on. The error: one of them is revoked.
    pub(crate) fn set_subjects(&self, subjects: Subjects, view: &Snapshot) -> Result<(), UserRevokedBy> {
        let revoked = subjects.revoked_by(&view.keys.revoked_users);
        *self.inner.subjects.borrow_mut() = subjects;
        revoked.map_or(Ok(()), Err)
    }

    /// The exchange is over, and what ended it.
    pub(crate) fn clear_exchange(&self) {
        *self.inner.subjects.borrow_mut() = Subjects::default();
        self.inner.exchange_end.set(None);
    }

    /// Asked again when policy changes; `false` ends the connection.
    pub(crate) fn set_recheck(&self, recheck: impl Fn(&Snapshot) -> bool + 'static) {
        *self.inner.recheck.borrow_mut() = Some(Box::new(recheck));
    }

    /// From now on it is a stream of bytes. `cut`: it ends with the SVIDs, of which our own has this last second.
    pub(crate) fn set_opaque(&self, cut: bool, own_end: i64) {
        if self.inner.opaque.replace(Some(Opaque { cut, own_end })).is_none() {
            self.registry.opaque.set(self.registry.opaque.get() + 1);
        }
    }

    /// The caller is, or may be, without the mesh at this service's port; with `None` it is not.
    pub(crate) fn set_plaintext(&self, at: Option<(Arc<str>, Arc<str>)>) {
        let (is, was) = (at.is_some(), self.inner.plaintext.replace(at).is_some());
        let count = &self.registry.plaintext;
        count.set(count.get() + usize::from(is) - usize::from(was));
    }

    /// From now on a wait may take this long, and never past the [cap](Watch::no_later_than).
    pub(crate) fn within(&self, limit: Option<Duration>) {
        let left = self.inner.cap.get().map(|cap| cap.saturating_duration_since(Instant::now()));
        self.inner.deadline.set(match (limit, left) {
            (Some(limit), Some(left)) => Some(limit.min(left)),
            (limit, left) => limit.or(left),
        });
    }

    /// However many waits follow, they end then. Takes effect with the next [`Watch::within`].
    pub(crate) fn no_later_than(&self, cap: Option<Instant>) {
        self.inner.cap.set(cap);
    }

    /// Whether that time has come.
    pub(crate) fn is_too_late(&self) -> bool {
        self.inner.cap.get().is_some_and(|cap| cap <= Instant::now())
    }

    /// Whether the connection should end after what it is doing.
    pub(crate) fn draining(&self) -> bool {
        self.registry.draining.get()
    }

    /// Whether it should end although it does nothing.
    pub(crate) fn hurried(&self) -> bool {
        self.registry.hurried.get()
    }

    /// What ended the connection for good, or its exchange, or that with this upstream.
    pub(crate) fn ended(&self) -> Option<End> {
        self.inner.end.get().or(self.inner.exchange_end.get()).or(self.inner.upstream_end.get())
    }

    /// Ready when the connection is over or its deadline has passed.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<End> {
        if let Some(end) = self.ended() {
            return Poll::Ready(end);
        }
        let mut kept = self.inner.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *kept = Some(cx.waker().clone());
        }
        drop(kept);
        self.inner.deadline.poll(cx).map(|()| End::TimedOut)
    }

    /// Waits for `ready`, unless the connection ends before.
    pub(crate) async fn wait<T>(&self, mut ready: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Result<T, End> {
        poll_fn(|cx| {
            // A connection that is over does nothing more, however ready its bytes are.
            if let Some(end) = self.ended() {
                return Poll::Ready(Err(end));
            }
            match ready(cx) {
                Poll::Ready(done) => Poll::Ready(Ok(done)),
                Poll::Pending => self.poll(cx).map(Err),
            }
        })
        .await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.inner.opaque.get().is_some() {
            self.registry.opaque.set(self.registry.opaque.get() - 1);
        }
        self.set_plaintext(None);
        let mut live = self.registry.live.borrow_mut();
        live.remove(&self.inner.id);
        if live.is_empty() {
            self.registry.empty.notify_one();
        }
        if live.capacity() > 1024 && live.len() < live.capacity() / 8 {
            let room = 2 * live.len();
            live.shrink_to(room);
        }
    }
}
