//! The socket: who may connect, and how many.
//!
//! Who calls is asked of the kernel at the moment of connecting (uid, gid, pid), written down, and compared with the
//! list, if there is one. In a pod the mount decides who reaches the socket at all, on a host its folder and mode.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use signet_daemon::{Clock, Shutdown};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::api::Api;
use crate::feed::Connection;
use crate::metrics::Metrics;
use crate::process::Process;
use crate::provider::{Caller, Provider};
use crate::sds::Sds;
use crate::serve::{Services, serve};

/// After a failed accept (no descriptors): long enough for some to come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections and each one may hold.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at once, and of one uid.
    pub connections: usize,
    pub connections_of_uid: usize,
    /// Calls at once on one connection.
    pub streams: u32,
    pub header_list: u32,
    /// Bytes that wait for the peer, of one stream.
    pub send_buffer: usize,
    /// How long a stream may wait for something to tell, or for its first request.
    pub first: Duration,
    /// A message that is not taken for so long cuts the connection.
    pub unread: Duration,
    /// A silent peer is asked after this long, and dropped when it does not answer.
    pub ping_every: Duration,
    pub ping_timeout: Duration,
    /// How long calls may finish once the process drains.
    pub grace: Duration,
}

impl Bounds {
    /// Of a socket that serves one app.
    pub const DEFAULT: Self = Self {
        connections: 256,
        connections_of_uid: 128,
        // Source, bundles, tokens, a stream per Envoy secret.
        streams: 64,
        header_list: 8 * 1024,
        send_buffer: 64 * 1024,
        first: Duration::from_secs(10),
        unread: Duration::from_secs(30),
        ping_every: Duration::from_secs(30),
        ping_timeout: Duration::from_secs(10),
        grace: Duration::from_secs(1),
    };
}

impl Default for Bounds {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What the listener needs.
pub struct Listen {
    pub provider: Arc<dyn Provider>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Metrics,
    /// Who may connect; `None`: whoever the socket's mode and folder let in.
    pub uids: Option<Vec<u32>>,
    pub bounds: Bounds,
    pub shutdown: Shutdown,
}

/// Serves the socket until the process begins to end.
pub async fn listen(listener: UnixListener, listen: Listen) {
    let Listen { provider, clock, metrics, uids, bounds, shutdown } = listen;
    let services = Services::new(
        Api::new(provider.clone(), clock, metrics.clone()),
        Sds::new(provider.clone(), metrics.clone()),
    );
    let permits = Arc::new(Semaphore::new(bounds.connections));
    let places = Arc::new(Places::default());
    let apart = provider.tells_processes_apart();
    let mut connection = 0_u64;
    loop {
        let accepted = tokio::select! {
            () = shutdown.draining() => return,
            accepted = listener.accept() => accepted.and_then(|(stream, _)| {
                connection = connection.saturating_add(1);
                let caller = caller(&stream, connection)?;
                Ok((stream, caller))
            }),
        };
        let (stream, caller) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(target: "signet::workload", %error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Caller { uid, gid, pid, .. } = caller;
        if uids.as_ref().is_some_and(|listed| !listed.contains(&uid)) {
            metrics.fate("uid_refused");
            tracing::warn!(target: "signet::workload", uid, gid, pid, "refused: this uid is not in workloadApi.allowedUids");
            continue;
        }
        let Some(place) = places.take(uid, bounds.connections_of_uid) else {
            metrics.fate("uid_limit");
            continue;
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            metrics.fate("connection_limit");
            continue;
        };
        let process = match apart.then(|| held(&stream, pid)).transpose() {
            Ok(process) => process,
            Err(error) => {
                metrics.fate("process_unknown");
                tracing::warn!(target: "signet::workload", uid, gid, pid, %error, "refused: this process cannot be held");
                continue;
            }
        };
        metrics.fate("accepted");
        tracing::info!(target: "signet::workload", uid, gid, pid, "an app connected");
        provider.greet(&caller, process);
        let guest = Guest { provider: provider.clone(), caller };
        let (services, shutdown, metrics) = (services.clone(), shutdown.clone(), metrics.clone());
        tokio::spawn(async move {
            metrics.open.inc();
            let connection = Connection::new(caller, &bounds);
            serve(stream, services, connection, bounds, shutdown.draining()).await;
            metrics.open.dec();
            drop((guest, permit, place));
        });
    }
}

/// The kernel's word on who connected.
fn caller(stream: &UnixStream, connection: u64) -> std::io::Result<Caller> {
    let said = stream.peer_cred()?;
    Ok(Caller { uid: said.uid(), gid: said.gid(), pid: said.pid().filter(|pid| *pid != 0), connection })
}

fn held(stream: &UnixStream, pid: Option<i32>) -> std::io::Result<Process> {
    let pid = pid.ok_or_else(|| std::io::Error::other("it is of another PID namespace"))?;
    Process::of(stream, pid)
}

/// Somebody who was greeted, and is parted with however the connection ends.
struct Guest {
    provider: Arc<dyn Provider>,
    caller: Caller,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.provider.part(&self.caller);
    }
}

/// How many connections each uid has now.
#[derive(Default)]
struct Places(Mutex<HashMap<u32, usize>>);

/// One of them, given back when dropped.
struct Place {
    places: Arc<Places>,
    uid: u32,
}

impl Places {
    fn take(self: &Arc<Self>, uid: u32, each: usize) -> Option<Place> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(uid).or_default();
        if *count >= each {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Place { places: Arc::clone(self), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.uid) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.remove(&self.uid);
            }
        }
    }
}
