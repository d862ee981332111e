//! Idle connections to endpoints and apps, of one worker.
//!
//! A connection is kept under what it was made for: the endpoint (address and expected identity), our
//! generation, and the protocol that its port declares; or the app. No task watches it: whether it is
//! still good is asked when it is taken, and once a second. It leaves when it is old, idle for long, of an
//! older generation, near the end of an SVID, or when its peer is no longer believed.

use std::collections::HashMap;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::IntGauge;
use signet_identity::Peer;
use tokio::time::Instant;

use crate::io::Conn;
use crate::shared::Limits;
use crate::state::Snapshot;
use crate::worker::is_believed;

/// What a pooled connection was made for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Key {
    /// An endpoint under one generation. A port has one protocol, so the endpoint says the ALPN as well.
    Endpoint { id: u64, generation: u64 },
    /// Our app.
    App(u64),
    /// A place outside the mesh.
    Outside(u64),
}

/// A connection that we made.
pub(crate) struct Upstream {
    pub(crate) conn: Conn,
    pub(crate) key: Key,
    pub(crate) peer: Option<Peer>,
    pub(crate) reused: bool,
    born: Instant,
    /// After this second of the epoch no request begins on it.
    until: Option<u64>,
}

struct Idle {
    upstream: Upstream,
    since: Instant,
}

/// The pool.
pub(crate) struct Pool {
    idle: HashMap<Key, Vec<Idle>>,
    gauge: IntGauge,
}

/// The epoch's second.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

impl Upstream {
    pub(crate) fn new(conn: Conn, key: Key, peer: Option<Peer>, until: Option<u64>) -> Self {
        Upstream { conn, key, peer, reused: false, born: Instant::now(), until }
    }

    /// Whether it may serve another request, judged without its bytes.
    fn is_young(&self, limits: &Limits) -> bool {
        self.born.elapsed() < limits.pool_age && self.until.is_none_or(|until| now() < until)
    }

    /// Whether the other side is quiet: anything else than silence on an idle connection is its end.
    fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.conn.poll_fill(&mut cx), Poll::Pending)
    }
}

impl Pool {
    pub(crate) fn new(gauge: IntGauge) -> Self {
        Pool { idle: HashMap::new(), gauge }
    }

    /// Takes the connection that was used last: the others grow old together and leave.
    pub(crate) fn take(&mut self, key: Key, limits: &Limits) -> Option<Upstream> {
        let idle = self.idle.get_mut(&key)?;
        while let Some(Idle { mut upstream, since }) = idle.pop() {
            self.gauge.dec();
            if since.elapsed() < limits.pool_idle && upstream.is_young(limits) && upstream.is_quiet() {
                upstream.reused = true;
                return Some(upstream);
            }
        }
        None
    }

    /// Keeps a connection whose last exchange ended cleanly.
    pub(crate) fn put(&mut self, upstream: Upstream, limits: &Limits) {
        let idle = self.idle.entry(upstream.key).or_default();
        if idle.len() < limits.pool_per_endpoint && upstream.is_young(limits) {
            self.gauge.inc();
            idle.push(Idle { upstream, since: Instant::now() });
        }
    }

    /// Closes what is old, dead, of an older generation or of a peer that is no longer believed.
    pub(crate) fn sweep(&mut self, view: &Snapshot, limits: &Limits) {
        let current = view.tls.generation.number();
        let gauge = &self.gauge;
        self.idle.retain(|key, idle| {
            let stale = matches!(key, Key::Endpoint { generation, .. } if *generation != current);
            idle.retain_mut(|idle| {
                let keep = !stale
                    && idle.since.elapsed() < limits.pool_idle
                    && idle.upstream.is_young(limits)
                    && idle.upstream.peer.as_ref().is_none_or(|peer| is_believed(peer, view))
                    && idle.upstream.is_quiet();
                if !keep {
                    gauge.dec();
                }
                keep
            });
            idle.shrink_to(8);
            !idle.is_empty()
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.idle.is_empty()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let left: usize = self.idle.values().map(Vec::len).sum();
        self.gauge.sub(i64::try_from(left).unwrap_or(0));
    }
}
