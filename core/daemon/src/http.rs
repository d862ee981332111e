//! The small HTTP/1 server behind the admin socket and the metrics port.
//!
//! It serves people and scrapers, not traffic, so it is strict: one request a connection, a bounded number
//! of connections, small heads and bodies, and one deadline over the whole exchange. A slow or silent client
//! loses its place when the deadline passes; garbage gets a 400 or nothing.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

use crate::Shutdown;

/// What a client may take of us.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at once; more wait in the kernel's backlog.
    pub(crate) connections: usize,
    /// Of these from one address; one more is closed at once.
    pub(crate) from_one: usize,
    /// For the request's head.
    pub(crate) head: Duration,
    /// For the whole exchange.
    pub(crate) exchange: Duration,
    /// Bytes of a request's body.
    pub(crate) body: usize,
}

/// Room for a request's head: hyper's smallest.
const HEAD_BYTES: usize = 8192;

/// How long accepting rests after an error such as too many open files.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// An answer in full.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Builds an answer with a content type.
pub(crate) fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A status with its own name as body.
pub(crate) fn bare(status: StatusCode) -> Answer {
    answer(status, "text/plain; charset=utf-8", format!("{status}\n"))
}

/// A request whose body was read.
pub(crate) type Whole = Request<Bytes>;

/// Which of our addresses the client dialled, among a request's extensions; absent for a Unix socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dialled(pub(crate) IpAddr);

/// A listening socket of either kind.
pub(crate) trait Accept: Send + Sync {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Self::Io>>;
    fn dialled(_: &Self::Io) -> Option<Dialled> {
        None
    }
    fn caller(_: &Self::Io) -> Option<IpAddr> {
        None
    }
}

impl Accept for TcpListener {
    type Io = TcpStream;
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        Self::poll_accept(self, context).map_ok(|(io, _)| io)
    }
    fn dialled(io: &TcpStream) -> Option<Dialled> {
        io.local_addr().ok().map(|address| Dialled(address.ip().to_canonical()))
    }
    fn caller(io: &TcpStream) -> Option<IpAddr> {
        io.peer_addr().ok().map(|address| address.ip().to_canonical())
    }
}

impl Accept for UnixListener {
    type Io = UnixStream;
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        Self::poll_accept(self, context).map_ok(|(io, _)| io)
    }
}

/// How many connections each address has.
type Callers = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// One connection of an address, until it is dropped.
struct Share(Callers, IpAddr);

impl Share {
    /// None where the address has so many already.
    fn take(callers: &Callers, caller: IpAddr, most: usize) -> Option<Self> {
        let mut all = callers.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(caller).or_default();
        if *own >= most {
            return None;
        }
        *own = own.saturating_add(1);
        Some(Self(callers.clone(), caller))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(&self.1) {
            Some(own) if *own > 1 => *own = own.saturating_sub(1),
            _ => drop(all.remove(&self.1)),
        }
    }
}

/// Accepts connections until the process stops, and answers each with `handle`.
pub(crate) async fn serve<A, H, F>(listener: A, limits: Limits, shutdown: Shutdown, handle: H)
where
    A: Accept,
    H: Fn(Whole) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.connections));
    let (handle, callers) = (Arc::new(handle), Callers::default());
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let io = tokio::select! {
            () = shutdown.stopping() => return,
            accepted = poll_fn(|context| listener.poll_accept(context)) => match accepted {
                Ok(io) => io,
                Err(error) => {
                    tracing::warn!(target: "signet::daemon", %error, "accepting failed");
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            },
        };
        let share = match A::caller(&io) {
            // Somebody who holds many leaves the others theirs.
            Some(caller) => match Share::take(&callers, caller, limits.from_one) {
                Some(share) => Some(share),
                None => continue,
            },
            None => None,
        };
        let (handle, stopping, dialled) = (handle.clone(), shutdown.clone(), A::dialled(&io));
        tokio::spawn(async move {
            tokio::select! {
                () = stopping.stopping() => {}
                _ = timeout(limits.exchange, exchange(io, dialled, limits, handle)) => {}
            }
            drop((place, share));
        });
    }
}

async fn exchange<IO, H, F>(io: IO, dialled: Option<Dialled>, limits: Limits, handle: Arc<H>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Whole) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let handle = handle.clone();
        async move {
            let (mut parts, body) = request.into_parts();
            if let Some(dialled) = dialled {
                parts.extensions.insert(dialled);
            }
            let answer = match Limited::new(body, limits.body).collect().await {
                Ok(body) => handle(Request::from_parts(parts, body.to_bytes())).await,
                Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                    bare(StatusCode::PAYLOAD_TOO_LARGE)
                }
                Err(_) => bare(StatusCode::BAD_REQUEST),
            };
            Ok::<_, Infallible>(answer)
        }
    });
    // An error is the client's: it went away, was too slow, or spoke no HTTP. hyper has answered what it could.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(io), service)
        .await;
}
