//! Accepting, under limits, without ever spinning.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::bind::Listening;
use super::{Phase, Worker};
use crate::session::{self, Socket};
use crate::stage::Stage;

/// How much busier than the idlest a worker is before it hands a connection over.
const MARGIN: usize = 2;

/// The first and the longest pause after an accept failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection on its way to another worker.
pub(crate) struct Handed {
    socket: std::net::TcpStream,
    remote: SocketAddr,
    listener: usize,
}

/// Accepts at one listener until the process drains. What the kernel has taken by then is served, too.
pub(crate) async fn accept<E: Stage>(
    worker: Rc<Worker<E>>,
    socket: Listening,
    listener: usize,
    handers: Vec<mpsc::UnboundedSender<Handed>>,
    mut phase: watch::Receiver<Phase>,
) {
    let mut pause = PAUSE;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.changed() => {
                while let Some(Ok((socket, remote))) = next(&socket).now_or_never() {
                    place(&worker, socket, remote, listener, &handers);
                }
                return;
            }
            accepted = next(&socket) => accepted,
        };
        match accepted {
            Ok((socket, remote)) => {
                pause = PAUSE;
                place(&worker, socket, remote, listener, &handers);
            }
            // The caller went away before we came: the next one may be there.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                worker.shared.metrics.accept_errors.inc();
                tracing::warn!(target: "signet::worker", %error, "accept failed; pausing {pause:?}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

async fn next(socket: &Listening) -> io::Result<(Socket, Option<SocketAddr>)> {
    match socket {
        Listening::Tcp(socket) => {
            socket.accept().await.map(|(socket, remote)| (Socket::Tcp(socket), Some(remote)))
        }
        Listening::Unix(socket) => socket.accept().await.map(|(socket, _)| (Socket::Unix(socket), None)),
    }
}

/// Takes what other workers hand over.
pub(crate) async fn take<E: Stage>(worker: Rc<Worker<E>>, mut handed: mpsc::UnboundedReceiver<Handed>) {
    while let Some(Handed { socket, remote, listener }) = handed.recv().await {
        match TcpStream::from_std(socket) {
            Ok(socket) => begin(&worker, Socket::Tcp(socket), Some(remote), listener),
            Err(error) => {
                worker.common.loads[worker.index].fetch_sub(1, Ordering::Relaxed);
                worker.shared.open.fetch_sub(1, Ordering::Relaxed);
                tracing::warn!(target: "signet::worker", %error, "a connection was lost between workers");
            }
        }
    }
}

fn place<E: Stage>(
    worker: &Rc<Worker<E>>,
    socket: Socket,
    remote: Option<SocketAddr>,
    listener: usize,
    handers: &[mpsc::UnboundedSender<Handed>],
) {
    if worker.shared.open.fetch_add(1, Ordering::Relaxed) >= worker.shared.limits.connections {
        worker.shared.open.fetch_sub(1, Ordering::Relaxed);
        worker.shared.metrics.over_limit.inc();
        return;
    }
    let loads = &worker.common.loads;
    let own = loads[worker.index].load(Ordering::Relaxed);
    let idlest = loads.iter().enumerate().map(|(index, load)| (load.load(Ordering::Relaxed), index)).min();
    if let (Some((least, index)), Socket::Tcp(_), Some(remote)) = (idlest, &socket, remote)
        && own > least + MARGIN
        && let Socket::Tcp(tcp) = socket
    {
        loads[index].fetch_add(1, Ordering::Relaxed);
        let handed = tcp.into_std().map(|socket| Handed { socket, remote, listener });
        let placed = handed.is_ok_and(|handed| handers.get(index).is_some_and(|to| to.send(handed).is_ok()));
        if !placed {
            loads[index].fetch_sub(1, Ordering::Relaxed);
            worker.shared.open.fetch_sub(1, Ordering::Relaxed);
        }
        return;
    }
    loads[worker.index].fetch_add(1, Ordering::Relaxed);
    begin(worker, socket, remote, listener);
}

fn begin<E: Stage>(worker: &Rc<Worker<E>>, socket: Socket, remote: Option<SocketAddr>, listener: usize) {
    let open = Open(worker.clone());
    // Registered at once: a drain waits for connections that are still in their handshake, too.
    let watch = worker.registry.watch();
    let kind = worker.common.listeners[listener].clone();
    tokio::task::spawn_local(session::serve(open, watch, socket, remote, kind));
}

/// Counts one open connection until it is dropped.
pub(crate) struct Open<E>(Rc<Worker<E>>);

impl<E> Open<E> {
    pub(crate) fn worker(&self) -> &Rc<Worker<E>> {
        &self.0
    }
}

impl<E> Drop for Open<E> {
    fn drop(&mut self) {
        self.0.common.loads[self.0.index].fetch_sub(1, Ordering::Relaxed);
        self.0.shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Nagle's algorithm waits for acknowledgements; whoever writes whole messages gains nothing by it.
pub(crate) fn tune(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
}
