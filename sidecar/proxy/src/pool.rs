//! Idle connections to endpoints and apps, of one worker.
//!
//! A connection is kept under what it was made for: the endpoint (address and expected identity), our
//! generation, and the protocol that its port declares; or the app. No task watches it: whether it is
//! still good is asked when it is taken, and once a second. It leaves when it is old, idle for long, of an
//! older generation, near the end of an SVID, or when its peer is no longer believed. What a burst has left behind goes
//! sooner: past a few to one target, those that the last seconds have not needed.

use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use foldhash::HashMap;
use prometheus::IntGauge;
use signet_identity::Peer;
use tokio::time::Instant;

use crate::age::Age;
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
    age: Age,
}

struct Idle {
    upstream: Upstream,
    since: Instant,
}

/// Idle connections to one target that are kept for their time, and how long the others are.
const FEW: usize = 8;
const SURPLUS: Duration = Duration::from_secs(10);

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
    pub(crate) fn new(conn: Conn, key: Key, peer: Option<Peer>, age: Age) -> Self {
        Upstream { conn, key, peer, reused: false, age }
    }

    /// Whether the other side is quiet: anything else than silence on an idle connection is its end.
    fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.conn.poll_fill(&mut cx), Poll::Pending)
    }
}

impl Pool {
    pub(crate) fn new(gauge: IntGauge) -> Self {
        Pool { idle: HashMap::default(), gauge }
    }

    /// Takes the connection that was used last: the others grow old together and leave.
    pub(crate) fn take(&mut self, key: Key, limits: &Limits) -> Option<Upstream> {
        let idle = self.idle.get_mut(&key)?;
        let now = Instant::now();
        while let Some(Idle { mut upstream, since }) = idle.pop() {
            self.gauge.dec();
            if now.saturating_duration_since(since) < limits.pool_idle
                && !upstream.age.is_over(now)
                && upstream.is_quiet()
            {
                upstream.reused = true;
                return Some(upstream);
            }
        }
        None
    }

    /// Keeps a connection whose last exchange ended cleanly, now.
    pub(crate) fn put(&mut self, upstream: Upstream, limits: &Limits, now: Instant) {
        let idle = self.idle.entry(upstream.key).or_default();
        if idle.len() < limits.pool_per_endpoint && !upstream.age.is_past(now) {
            self.gauge.inc();
            idle.push(Idle { upstream, since: now });
        }
    }

    /// Closes what is old, dead, of an older generation or of a peer that is no longer believed.
    pub(crate) fn sweep(&mut self, view: &Snapshot, limits: &Limits) {
        let current = view.tls.generation.number();
        let gauge = &self.gauge;
        let now = Instant::now();
        self.idle.retain(|key, idle| {
            let stale = matches!(key, Key::Endpoint { generation, .. } if *generation != current);
            // The one that was used last is at the end.
            let mut surplus = idle.len().saturating_sub(FEW);
            idle.retain_mut(|idle| {
                let is_surplus = surplus > 0;
                surplus = surplus.saturating_sub(1);
                let most = if is_surplus { SURPLUS.min(limits.pool_idle) } else { limits.pool_idle };
                let keep = !stale
                    && now.saturating_duration_since(idle.since) < most
                    && !idle.upstream.age.is_over(now)
                    && idle.upstream.peer.as_ref().is_none_or(|peer| is_believed(peer, view))
                    && idle.upstream.is_quiet();
                if !keep {
                    gauge.dec();
                }
                keep
            });
            idle.shrink_to(FEW);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Stream;
    use tokio::net::UnixStream;

    const KEY: Key = Key::App(1);

    fn pool() -> Pool {
        Pool::new(IntGauge::new("idle", "idle").unwrap())
    }

    /// What somebody knows who knows nobody.
    fn nobodys_view() -> std::sync::Arc<Snapshot> {
        let ca = signet_identity::testing::TestCa::new("demo.signet");
        let generation = ca.generation("ns/shop/sa/web", signet_identity::PeerClass::Sidecar);
        let revoked = std::sync::Arc::new(signet_identity::RevocationSet::new(0));
        crate::state::State::new(crate::state::Tls { generation, revoked }).0.view()
    }

    /// A new connection, and its other end.
    fn connection(limits: &Limits) -> (Upstream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Upstream::new(Conn::new(Stream::Unix(ours)), KEY, None, Age::begin(limits, None)), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_is_neither_taken_nor_kept_and_those_of_one_moment_leave_apart() {
        let limits = Limits {
            pool_idle: Duration::from_secs(3600),
            pool_age: Duration::from_secs(600),
            ..Limits::default()
        };
        let mut pool = pool();
        let mut others = Vec::new();
        let mut used = Vec::new();
        for _ in 0..100 {
            let (upstream, other) = connection(&limits);
            pool.put(upstream, &limits, Instant::now());
            others.push(other);
        }
        tokio::time::advance(Duration::from_secs(570)).await;
        used.extend(std::iter::from_fn(|| pool.take(KEY, &limits)));
        assert!((20..80).contains(&used.len()), "{} of 100 are left in the middle of the spread", used.len());
        tokio::time::advance(Duration::from_secs(30)).await;
        used.drain(..).for_each(|upstream| pool.put(upstream, &limits, Instant::now()));
        assert!(pool.take(KEY, &limits).is_none());
        assert_eq!(pool.gauge.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_burst_left_goes_in_seconds_and_a_few_stay_for_their_time() {
        let limits = Limits::default();
        let view = nobodys_view();
        let mut pool = pool();
        let mut others = Vec::new();
        for _ in 0..100 {
            let (upstream, other) = connection(&limits);
            pool.put(upstream, &limits, Instant::now());
            others.push(other);
        }
        // Twelve are needed all the time.
        for _ in 0..12 {
            tokio::time::advance(Duration::from_secs(1)).await;
            let used: Vec<_> = (0..12).map(|_| pool.take(KEY, &limits).unwrap()).collect();
            used.into_iter().for_each(|upstream| pool.put(upstream, &limits, Instant::now()));
            pool.sweep(&view, &limits);
        }
        assert_eq!(pool.gauge.get(), 12);
        tokio::time::advance(Duration::from_secs(30)).await;
        pool.sweep(&view, &limits);
        assert_eq!(usize::try_from(pool.gauge.get()).unwrap(), FEW);
        tokio::time::advance(Duration::from_secs(31)).await;
        pool.sweep(&view, &limits);
        assert_eq!(pool.gauge.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_other_end_spoke_or_left_is_not_taken() {
        let limits = Limits::default();
        let mut pool = pool();
        let (quiet, _kept) = connection(&limits);
        pool.put(quiet, &limits, Instant::now());
        let (gone, other) = connection(&limits);
        pool.put(gone, &limits, Instant::now());
        drop(other);
        let (talks, other) = connection(&limits);
        pool.put(talks, &limits, Instant::now());
        other.try_write(b"HTTP/1.1 408 Request Timeout\r\n\r\n").unwrap();
        // The one that was put last is asked first.
        tokio::task::yield_now().await;
        let taken = std::iter::from_fn(|| pool.take(KEY, &limits)).count();
        assert_eq!(taken, 1);
    }
}
