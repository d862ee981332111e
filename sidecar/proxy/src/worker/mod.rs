//! Threads, sockets, and the end of a process.
//!
//! Each worker is one thread with one current-thread runtime: its connections, buffers and pool are its
//! own. Listeners are bound before any thread starts, so that a taken address is an error of the start.
//! With several workers each has a socket of its own (`SO_REUSEPORT`), and one that is clearly busier than
//! the idlest hands what it accepts over. The drain stops accepting, lets every connection finish what
//! it is doing, and cuts what is left at its deadline.

mod accept;
mod bind;
mod watch;
mod wheel;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch as channel};

use crate::listener::{Bind, Kind, ListenerSpec};
use crate::pool::Pool;
use crate::shared::Shared;
use crate::stage::{NoEdge, Stage};
use crate::state::{App, AppAddress};

use accept::Handed;
pub(crate) use accept::{Open, tune};
use bind::Bound;
pub(crate) use watch::{End, Registry, Watch, is_believed};
pub(crate) use wheel::Deadline;

/// The data plane of one process, before it runs.
pub struct Proxy<E: Stage = NoEdge> {
    /// What its workers share.
    pub shared: Arc<Shared>,
    /// The gateway's stage, for listeners of the edge.
    pub edge: Option<Arc<E>>,
    /// Threads; at least one.
    pub workers: usize,
}

/// Why the data plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be taken.
    #[error("cannot listen on {bind}: {error}")]
    Bind {
        /// Which.
        bind: Bind,
        /// Why.
        error: io::Error,
    },
    /// A listener of the edge without a gateway.
    #[error("the listener on {0} is for a gateway, but this process has no gateway role")]
    NoGateway(Bind),
    /// No thread or runtime.
    #[error("cannot start a worker thread: {0}")]
    Thread(#[source] io::Error),
}

/// How far a process is on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Serving,
    Draining { limit: Duration, gently: bool },
}

/// A running data plane.
pub struct Running {
    addresses: Vec<Bind>,
    phase: channel::Sender<Phase>,
    done: Vec<oneshot::Receiver<usize>>,
    /// The listening sockets once more, for a successor.
    sockets: Vec<Vec<Bound>>,
}

impl Running {
    /// The listening sockets, in the order of the listeners, for a process that is to go on with them.
    pub fn sockets(&self) -> io::Result<Vec<Vec<OwnedFd>>> {
        self.sockets.iter().map(|of_one| of_one.iter().map(Bound::to_fd).collect()).collect()
    }

    /// Leaves the listeners to a successor that has them by now, and lets connections finish for at most `limit`. None is
    /// closed for being idle before its next request, which is answered and told so, or three quarters of that time.
    /// Returns how many were cut.
    pub async fn leave(self, limit: Duration) -> usize {
        self.end(Phase::Draining { limit, gently: true }).await
    }

    /// The addresses in the order of the listeners, with the ports that were free.
    pub fn addresses(&self) -> &[Bind] {
        &self.addresses
    }

    /// Stops accepting, lets connections finish for at most `limit`, cuts the rest. Returns how many were
    /// cut.
    pub async fn drain(self, limit: Duration) -> usize {
        let addresses = self.addresses.clone();
        let cut = self.end(Phase::Draining { limit, gently: false }).await;
        for bind in &addresses {
            if let Bind::Unix(path) = bind {
                let _ = std::fs::remove_file(path);
            }
        }
        cut
    }

    async fn end(self, phase: Phase) -> usize {
        // Whoever knocks from now on is the successor's, or nobody's.
        drop(self.sockets);
        self.phase.send_replace(phase);
        let mut cut = 0;
        for worker in self.done {
            cut += worker.await.unwrap_or(0);
        }
        cut
    }
}

impl<E: Stage> Proxy<E> {
    /// Binds every listener and starts the workers.
    pub fn start(self, listeners: Vec<ListenerSpec>) -> Result<Running, StartError> {
        self.start_with(listeners, HashMap::new())
    }

    /// The same, with sockets for some listeners (by their place) that another process bound before.
    pub fn start_with(
        self,
        listeners: Vec<ListenerSpec>,
        mut inherited: HashMap<usize, Vec<OwnedFd>>,
    ) -> Result<Running, StartError> {
        let workers = self.workers.max(1);
        let mut sockets: Vec<Vec<(usize, Bound)>> = (0..workers).map(|_| Vec::new()).collect();
        let mut kept = Vec::with_capacity(listeners.len());
        let mut addresses = Vec::with_capacity(listeners.len());
        for (number, listener) in listeners.iter().enumerate() {
            if matches!(listener.kind, Kind::Edge { .. }) && self.edge.is_none() {
                return Err(StartError::NoGateway(listener.bind.clone()));
            }
            let bound = match inherited.remove(&number) {
                Some(sockets) => bind::inherit(&listener.bind, sockets, workers),
                None => bind::bind(&listener.bind, bind::means_both(&listener.bind, &listeners), workers),
            };
            let failed = |error| StartError::Bind { bind: listener.bind.clone(), error };
            let (address, bound) = bound.map_err(failed)?;
            addresses.push(address);
            kept.push(bound.iter().map(Bound::again).collect::<io::Result<Vec<_>>>().map_err(failed)?);
            for (at, socket) in bound.into_iter().enumerate() {
                if let Some(worker) = sockets.get_mut(at % workers) {
                    worker.push((number, socket));
                }
            }
        }
        let redirected = listeners.iter().any(|listener| matches!(listener.kind, Kind::TransparentInbound));
        let common = Arc::new(Common {
            shared: self.shared,
            edge: self.edge,
            listeners: listeners.into_iter().map(|listener| Arc::new(listener.kind)).collect(),
            own: addresses
                .iter()
                .filter_map(|bind| match bind {
                    Bind::Tcp(address) => Some(*address),
                    Bind::Unix(_) => None,
                })
                .collect(),
            redirected,
            loads: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
        });
        let (phase, _) = channel::channel(Phase::Serving);
        let (handers, takers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let mut done = Vec::with_capacity(workers);
        for (index, (bound, taker)) in sockets.into_iter().zip(takers).enumerate() {
            let (finished, end) = oneshot::channel();
            let start = Start {
                index,
                common: common.clone(),
                bound,
                handers: handers.clone(),
                taker,
                phase: phase.subscribe(),
                finished,
            };
            thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || start.run())
                .map_err(StartError::Thread)?;
            done.push(end);
        }
        Ok(Running { addresses, phase, done, sockets: kept })
    }
}

/// What all workers have in common.
pub(crate) struct Common<E> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) edge: Option<Arc<E>>,
    pub(crate) listeners: Vec<Arc<Kind>>,
    /// Our own TCP addresses: never an original destination.
    pub(crate) own: Vec<SocketAddr>,
    /// Whether netfilter redirects what arrives to us.
    pub(crate) redirected: bool,
    /// Connections of each worker.
    pub(crate) loads: Vec<AtomicUsize>,
}

/// What the connections of one worker share.
pub(crate) struct Worker<E> {
    pub(crate) index: usize,
    pub(crate) common: Arc<Common<E>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: Rc<Registry>,
    pub(crate) pool: RefCell<Pool>,
    pub(crate) links: RefCell<crate::h2::Links>,
    /// Apps that redirected connections were for.
    apps: RefCell<HashMap<SocketAddr, Arc<App>>>,
}

/// Destinations of redirected inbound connections are addresses of our own pod: few.
const APPS: usize = 1024;

impl<E> Worker<E> {
    /// Whether this is a listener of ours. One on every address is ours under any address of this host; which
    /// those are is not asked, since what is dialled for an app on our own port is never right.
    pub(crate) fn is_own(&self, destination: SocketAddr) -> bool {
        self.common.own.iter().any(|own| {
            own.port() == destination.port()
                && (own.ip().to_canonical() == destination.ip()
                    || (own.ip().is_unspecified() && destination.ip().is_loopback()))
        })
    }

    /// The app at an original destination.
    pub(crate) fn app(&self, address: SocketAddr) -> Arc<App> {
        let mut apps = self.apps.borrow_mut();
        if apps.len() >= APPS {
            apps.clear();
        }
        apps.entry(address).or_insert_with(|| App::new(AppAddress::Tcp(address))).clone()
    }
}

struct Start<E> {
    index: usize,
    common: Arc<Common<E>>,
    /// Sockets, each with the number of its listener.
    bound: Vec<(usize, Bound)>,
    handers: Vec<mpsc::UnboundedSender<Handed>>,
    taker: mpsc::UnboundedReceiver<Handed>,
    phase: channel::Receiver<Phase>,
    finished: oneshot::Sender<usize>,
}

impl<E: Stage> Start<E> {
    fn run(self) {
        // Only fails without file descriptors; then this worker serves nothing and says so by ending.
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(Default::default())
        {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(target: "signet::worker", %error, "a worker has no runtime");
                return;
            }
        };
        let finished = runtime.block_on(serve(self));
        drop(runtime);
        if let Some((finished, cut)) = finished {
            let _ = finished.send(cut);
        }
    }
}

async fn serve<E: Stage>(start: Start<E>) -> Option<(oneshot::Sender<usize>, usize)> {
    let Start { index, common, bound, handers, taker, mut phase, finished } = start;
    let shared = common.shared.clone();
    let worker = Rc::new(Worker {
        index,
        pool: RefCell::new(Pool::new(shared.metrics.pooled.clone())),
        links: RefCell::default(),
        registry: Rc::default(),
        apps: RefCell::default(),
        shared,
        common,
    });
    tokio::task::spawn_local(wheel::turn());
    tokio::task::spawn_local(govern(worker.clone()));
    let mut accepting = tokio::task::JoinSet::new();
    for (number, socket) in bound {
        match socket.listen() {
            Ok(socket) => {
                let served = accept::accept(worker.clone(), socket, number, handers.clone(), phase.clone());
                accepting.spawn_local(served);
            }
            Err(error) => tracing::error!(target: "signet::worker", %error, "a listener is lost"),
        }
    }
    accepting.spawn_local(accept::take(worker.clone(), taker));
    drop(handers);

    let (limit, gently) = loop {
        if let Phase::Draining { limit, gently } = *phase.borrow_and_update() {
            break (limit, gently);
        }
        // A process that drops its `Running` goes at once.
        if phase.changed().await.is_err() {
            break (Duration::ZERO, false);
        }
    };
    let until = tokio::time::Instant::now() + limit;
    // Each ends by itself; with the last of all workers nobody hands anything over any more.
    while accepting.join_next().await.is_some() {}
    if gently {
        worker.registry.leave();
        let _ = tokio::time::timeout(limit * 3 / 4, worker.registry.emptied()).await;
    }
    worker.registry.drain();
    if tokio::time::timeout_at(until, worker.registry.emptied()).await.is_ok() {
        return Some((finished, 0));
    }
    let left = worker.registry.len();
    worker.registry.cut();
    // What was cut sees it at its next turn; nothing in it waits for the network.
    let _ = tokio::time::timeout(Duration::from_secs(1), worker.registry.emptied()).await;
    Some((finished, left))
}

/// How often the pool is looked through, and streams that may have outlived an SVID.
const SWEEP: Duration = Duration::from_secs(1);

/// Carries news of identity and policy to live connections, and sweeps the pool and the shelf of buffers.
async fn govern<E: Stage>(worker: Rc<Worker<E>>) {
    let state = &worker.shared.state;
    let mut tls = state.watch_tls();
    let mut policy = state.watch_policy();
    let mut users = state.watch_users();
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = tls.changed() => {
                if changed.is_err() {
                    return;
                }
                let view = state.view();
                worker.registry.enforce_tls(&view);
                worker.pool.borrow_mut().sweep(&view, &worker.shared.limits);
            }
            changed = policy.changed() => {
                if changed.is_err() {
                    return;
                }
                let view = state.view();
                worker.registry.enforce_policy(&view);
                worker.registry.enforce_strict(&view, crate::pool::now());
            }
            changed = users.changed() => {
                if changed.is_err() {
                    return;
                }
                worker.registry.enforce_users(&state.view());
            }
            _ = tick.tick() => {
                let now = crate::pool::now();
                let view = state.view();
                worker.registry.enforce_expiry(&view, state.freshness.age(now), now);
                worker.registry.enforce_strict(&view, now);
                // What was decided for a connection may turn without news.
                if view.policy.depends_on_time() {
                    worker.registry.enforce_policy(&view);
                }
                let mut pool = worker.pool.borrow_mut();
                if !pool.is_empty() {
                    pool.sweep(&state.view(), &worker.shared.limits);
                }
                crate::io::tidy();
            }
        }
    }
}
