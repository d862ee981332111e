//! The doors for strangers: server-authenticated TLS, one unary call, nothing kept.
//!
//! Whoever comes here has proved nothing yet, so everything is bounded before it is read: connections
//! at once, attempts per address, the handshake's time, the connection's whole life, HTTP/2 streams and
//! header size, and the message itself (in [`crate::services::bootstrap`]).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use signet_daemon::{Drain, Shutdown};
use signet_identity::{Generation, RevocationSet};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::service::Routes;

use super::limit::AttemptLimit;
use super::serve::{Bounds, serve};
use super::{accept, handshake};
use crate::metrics::Metrics;

/// One call on one connection, and a slow network.
const LIFE: Duration = Duration::from_secs(15);

const BOUNDS: Bounds = Bounds {
    max_streams: 2,
    max_header_list: 8 * 1024,
    ping_every: Duration::from_secs(10),
    ping_timeout: Duration::from_secs(5),
    grace: Duration::from_secs(1),
};

/// What tells one such door from another.
#[derive(Debug, Clone, Copy)]
pub struct Door {
    /// In metrics and logs.
    pub name: &'static str,
    bounds: Bounds,
}

/// Where our own programs come: evidence is in the message.
pub const BOOTSTRAP: Door = Door { name: "bootstrap", bounds: BOUNDS };
/// Where clients of Istio's authority come: their token is in a header.
pub const ISTIO: Door = Door {
    name: "istio",
    bounds: Bounds { max_header_list: 8 * 1024 + crate::attest::token::MAX_TOKEN as u32, ..BOUNDS },
};

/// How much strangers may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub connections: usize,
    /// Per address: so many at once, then so many per second.
    pub burst: u32,
    pub per_second: f64,
}

impl Default for Limits {
    fn default() -> Self {
        // A host that starts a hundred workloads at once joins them all in under a minute.
        Self { connections: 256, burst: 64, per_second: 4.0 }
    }
}

/// Who calls: nobody yet.
#[derive(Debug, Clone, Copy)]
pub struct Stranger {
    pub address: SocketAddr,
}

/// Serves the door until the process begins to end; connections under way get their grace.
#[allow(clippy::too_many_arguments, reason = "each is one part of the process, named once, where it starts")]
pub async fn listen(
    door: Door,
    listener: TcpListener,
    generation: Arc<ArcSwap<Generation>>,
    routes: Routes,
    limits: Limits,
    metrics: Metrics,
    shutdown: Shutdown,
    drain: Drain,
) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let attempts = Mutex::new(AttemptLimit::new(limits.burst, limits.per_second));
    let fate = |fate: &str| metrics.connections.with_label_values(&[door.name, fate]).inc();
    while let Some((stream, address)) = accept(&listener, &shutdown).await {
        let admitted =
            attempts.lock().unwrap_or_else(PoisonError::into_inner).admit(address.ip(), Instant::now());
        if !admitted {
            fate("address_limit");
            tracing::debug!(target: "signet::listen", %address, "too many attempts from this address");
            continue;
        }
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            fate("connection_limit");
            continue;
        };
        fate("accepted");
        let generation = generation.load_full();
        let config = generation.bootstrap_server_config();
        let (routes, metrics, shutdown) = (routes.clone(), metrics.clone(), shutdown.clone());
        let guard = drain.guard();
        tokio::spawn(async move {
            match handshake(stream, config).await {
                Ok(stream) => {
                    let end = async {
                        tokio::select! {
                            () = tokio::time::sleep(LIFE) => {}
                            () = shutdown.draining() => {}
                        }
                    };
                    serve(stream, routes, Stranger { address }, door.bounds, end).await;
                }
                Err(failure) => {
                    let own = Some((&*generation, &RevocationSet::default()));
                    metrics.handshake_failed(door.name, address, &failure, own);
                }
            }
            drop((permit, guard));
        });
    }
}
