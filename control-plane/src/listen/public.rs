//! A door for strangers: TLS without a client certificate, and one request a connection.
//!
//! Whoever comes is a stranger and stays one, so everything is bounded before it is read: connections at once, of all and
//! of each address, attempts per address, the handshake's time, the head's size and time, one request a connection, and the
//! connection's whole life.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use signet_daemon::{Drain, Shutdown};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;

use super::limit::{AttemptLimit, Places};
use super::{accept, handshake};
use crate::bundle::certificate::Certificate;
use crate::metrics::Metrics;

/// One small message over a slow network.
const LIFE: Duration = Duration::from_secs(15);
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// hyper's smallest.
const HEAD_BYTES: usize = 8_192;
const CONNECTIONS: usize = 256;
/// Per address. A partner asks once in minutes; a few of them may share an address.
pub const STRANGERS: Bounds = Bounds { burst: 32, per_second: 4.0, at_once: 32 };

/// How often one address may come, and how many connections of it there may be.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub burst: u32,
    pub per_second: f64,
    /// Fewer than all: no address shuts the others out.
    pub at_once: usize,
}

/// What answers there.
pub trait Answer: Clone + Send + Sync + 'static {
    /// The answer to one request; it says itself how much of the body it reads.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// What such a door needs.
#[derive(Clone)]
pub struct Public {
    /// In metrics and logs.
    pub name: &'static str,
    pub certificate: Certificate,
    pub bounds: Bounds,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
    pub drain: Drain,
}

/// Serves the door until the process begins to end; connections under way get their grace.
pub async fn listen<A: Answer>(listener: TcpListener, door: Public, answer: A) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let attempts = Mutex::new(AttemptLimit::new(door.bounds.burst, door.bounds.per_second));
    let places = Places::new(door.bounds.at_once);
    let fate = |fate: &str| door.metrics.connections.with_label_values(&[door.name, fate]).inc();
    while let Some((stream, address)) = accept(&listener, &door.shutdown).await {
        let admitted =
            attempts.lock().unwrap_or_else(PoisonError::into_inner).admit(address.ip(), Instant::now());
        if !admitted {
            fate("address_limit");
            continue;
        }
        let Some(place) = places.take(address.ip()) else {
            fate("address_limit");
            continue;
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            fate("connection_limit");
            continue;
        };
        fate("accepted");
        let config = match door.certificate.config() {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(target: "signet::listen", door = door.name, %error, "no TLS for this door");
                continue;
            }
        };
        let (door, answer, guard) = (door.clone(), answer.clone(), door.drain.guard());
        tokio::spawn(async move {
            match handshake(stream, config).await {
                Ok(stream) => {
                    tokio::select! {
                        () = tokio::time::sleep(LIFE) => {}
                        () = door.shutdown.stopping() => {}
                        () = serve(stream, answer) => {}
                    }
                }
                Err(failure) => {
                    door.metrics.handshake_failed(door.name, address, &failure, None);
                }
            }
            drop((place, permit, guard));
        });
    }
}

async fn serve<A: Answer>(stream: TlsStream<TcpStream>, answer: A) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer.clone();
        async move { Ok::<_, Infallible>(answer.answer(request).await) }
    });
    // An error is the client's: it went away, was too slow, or spoke no HTTP. hyper has answered what it could.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
