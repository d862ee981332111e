//! The HTTP/1 server for the app beside us: whole requests in, whole answers out.
//!
//! On a loopback address whoever is in the same network namespace may ask; on a Unix socket the kernel says who does, and a
//! uid that is not listed is hung up on before a byte is read.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::Path,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::{
    Shutdown,
    http::{Accept, Limits, Whole, serve},
    socket::{SocketError, bind_socket_with_mode},
};

/// A stuck app keeps its own places and nobody else's; an answer may wait for the control plane.
const LIMITS: Limits = Limits {
    connections: 64,
    // It is the app that asks.
    from_one: 64,
    head: Duration::from_secs(5),
    exchange: Duration::from_secs(30),
    body: LocalServer::MAX_BODY,
};

/// A server that is bound and does not answer yet.
pub struct LocalServer(Listener);

enum Listener {
    Tcp(TcpListener),
    Unix(OfUids),
}

impl LocalServer {
    /// The largest body that is read.
    pub const MAX_BODY: usize = 32 * 1024;

    /// Binds an address, which should be a loopback one.
    pub async fn on_loopback(address: SocketAddr) -> io::Result<Self> {
        Ok(Self(Listener::Tcp(TcpListener::bind(address).await?)))
    }

    /// Binds a socket of this mode, for these uids; for whoever can connect where there are none.
    pub fn on_socket(path: &Path, mode: u32, uids: Option<Vec<u32>>) -> Result<Self, SocketError> {
        let listener = bind_socket_with_mode(path, mode)?;
        Ok(Self(Listener::Unix(OfUids { listener, uids })))
    }

    /// The address that was bound, for port 0; none of a socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(_) => None,
        }
    }

    /// Answers until the process stops.
    pub async fn run<H, F>(self, shutdown: Shutdown, handle: H)
    where
        H: Fn(Request<Bytes>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Bytes>> + Send + 'static,
    {
        let handle = move |request: Whole| {
            let answer = handle(request);
            async move { answer.await.map(Full::new) }
        };
        match self.0 {
            Listener::Tcp(listener) => serve(listener, LIMITS, shutdown, handle).await,
            Listener::Unix(listener) => serve(listener, LIMITS, shutdown, handle).await,
        }
    }
}

struct OfUids {
    listener: UnixListener,
    uids: Option<Vec<u32>>,
}

impl Accept for OfUids {
    type Io = UnixStream;

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        loop {
            let (stream, _) = ready!(self.listener.poll_accept(context))?;
            let Some(uids) = &self.uids else { return Poll::Ready(Ok(stream)) };
            match stream.peer_cred() {
                Ok(peer) if uids.contains(&peer.uid()) => return Poll::Ready(Ok(stream)),
                Ok(peer) => {
                    tracing::warn!(target: "signet::daemon", uid = peer.uid(), "a caller of the app's socket is not served");
                }
                Err(error) => {
                    tracing::warn!(target: "signet::daemon", %error, "a caller of the app's socket is nobody");
                }
            }
        }
    }
}
