//! Answers the kubelet's probes for the app.
//!
//! The kubelet has no identity, and where plaintext is refused it would be, too; so a pod's probes are led here: `GET
//! /probe/<key>/<index>`. Exactly what the pod declares is asked, by index, at the address where the kubelet came, as the
//! kubelet would; what is given back is a status, never a body. Who does not know the key, which stands in the pod alone,
//! gets nothing asked. Each caller has few places and little time, so that none of them takes the kubelet's.

mod ask;
mod grpc;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{IntCounterVec, Opts, Registry};
use signet_daemon::Shutdown;
use subtle::ConstantTimeEq as _;
use tokio::net::{TcpListener, TcpStream};

use crate::config::{Asked, Probe, Probes};

/// A node asks its pods' probes a few at a time, and each is one connection.
const PER_CALLER: usize = 16;
/// Of all callers together.
const CONNECTIONS: usize = 512;
/// The kubelet sends its head at once.
const HEAD: Duration = Duration::from_secs(2);
/// Beyond the probe's own time.
const SLACK: Duration = Duration::from_secs(5);
/// hyper's smallest.
const HEAD_BYTES: usize = 8192;
/// After an accept that failed for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Why there is no such server.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The address cannot be taken.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A metric is registered twice.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// A bound server.
pub struct ProbeServer {
    listener: TcpListener,
    table: Arc<Table>,
}

struct Table {
    key: String,
    declared: Vec<Probe>,
    longest: Duration,
    tls: Arc<rustls::ClientConfig>,
    asked: IntCounterVec,
    places: Mutex<HashMap<IpAddr, usize>>,
}

impl ProbeServer {
    /// Binds the address.
    pub async fn bind(probes: &Probes, registry: &Registry) -> Result<Self, ProbeError> {
        let asked = IntCounterVec::new(
            Opts::new("signet_probes_total", "Probes of the kubelet that were answered for the app."),
            &["kind", "result"],
        )?;
        // A successor's doors may open after ones that failed before.
        match registry.register(Box::new(asked.clone())) {
            Ok(()) | Err(prometheus::Error::AlreadyReg) => {}
            Err(error) => return Err(error.into()),
        }
        let longest = probes.declared.iter().map(|probe| probe.timeout_seconds).max().unwrap_or(1);
        let tls = ask::any_certificate().map_err(io::Error::other)?;
        let table = Table {
            key: probes.key.clone(),
            declared: probes.declared.clone(),
            longest: Duration::from_secs(longest),
            tls,
            asked,
            places: Mutex::default(),
        };
        Ok(Self { listener: signet_daemon::listen(probes.listen)?, table: Arc::new(table) })
    }

    /// The address that was bound, for port 0.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the process stops: while it drains, the app still runs.
    pub async fn run(self, shutdown: Shutdown) {
        loop {
            let (stream, caller) = tokio::select! {
                () = shutdown.stopping() => return,
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(target: "signet::probes", %error, "accepting failed");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                },
            };
            let Some(place) = Place::take(&self.table, caller.ip()) else { continue };
            let stopping = shutdown.clone();
            tokio::spawn(async move {
                let life = place.table.longest.saturating_add(SLACK);
                tokio::select! {
                    () = stopping.stopping() => {}
                    _ = tokio::time::timeout(life, serve(stream, &place.table)) => {}
                }
            });
        }
    }
}

/// One connection's place; given back when it is dropped.
struct Place {
    table: Arc<Table>,
    caller: IpAddr,
}

impl Place {
    fn take(table: &Arc<Table>, caller: IpAddr) -> Option<Self> {
        let mut places = table.places.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = places.values().sum();
        let own = places.get(&caller).copied().unwrap_or(0);
        if all >= CONNECTIONS || own >= PER_CALLER {
            return None;
        }
        places.insert(caller, own + 1);
        Some(Self { table: table.clone(), caller })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.table.places.lock().unwrap_or_else(PoisonError::into_inner);
        match places.get_mut(&self.caller) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(places.remove(&self.caller)),
        }
    }
}

async fn serve(stream: TcpStream, table: &Arc<Table>) {
    // Where the kubelet found the pod, the app is.
    let Ok(pod) = stream.local_addr() else { return };
    let service = service_fn(move |request: Request<Incoming>| async move {
        let status = table.answer(request.method(), request.uri().path(), pod.ip()).await;
        let mut answer = Response::new(String::new());
        *answer.status_mut() = status;
        Ok::<_, Infallible>(answer)
    });
    // An error is the caller's: it went away, was too slow, or spoke no HTTP.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Table {
    async fn answer(&self, method: &Method, path: &str, pod: IpAddr) -> StatusCode {
        let Some(probe) = self.find(path) else { return StatusCode::NOT_FOUND };
        if method != Method::GET {
            return StatusCode::METHOD_NOT_ALLOWED;
        }
        let limit = Duration::from_secs(probe.timeout_seconds);
        let answered = tokio::time::timeout(limit, ask::ask(&probe.asked, pod, &self.tls)).await;
        let status = match answered {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => {
                tracing::debug!(target: "signet::probes", %error, path = path_without_key(path), "the app does not answer");
                StatusCode::SERVICE_UNAVAILABLE
            }
            Err(_) => StatusCode::GATEWAY_TIMEOUT,
        };
        let kind = match probe.asked {
            Asked::Http { .. } => "http",
            Asked::Tcp { .. } => "tcp",
            Asked::Grpc { .. } => "grpc",
        };
        let result = if status.is_success() { "good" } else { "bad" };
        self.asked.with_label_values(&[kind, result]).inc();
        status
    }

    fn find(&self, path: &str) -> Option<&Probe> {
        let (key, index) = path.strip_prefix("/probe/")?.split_once('/')?;
        let known: bool = key.as_bytes().ct_eq(self.key.as_bytes()).into();
        // As it is written, and in no other way.
        let index = index.parse::<usize>().ok().filter(|number| number.to_string() == index)?;
        self.declared.get(index).filter(|_| known)
    }
}

fn path_without_key(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}
