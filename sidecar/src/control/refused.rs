//! Handshakes with the control plane that failed: counted, and kept for the admin socket.
//!
//! With TLS 1.3 the control plane looks at our certificate when our own handshake is over, so that its refusal comes as
//! an alert where its first word would be. [`Heard`] is the stream on which that is noticed.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use prometheus::{IntCounterVec, Opts, Registry};
use signet_identity::{Failed, HandshakeFailure, Incidents, Own};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::clock;

/// Told of a failure, and where.
pub type Told = Arc<dyn Fn(&HandshakeFailure, Option<SocketAddr>) + Send + Sync>;

/// Failures of this process with its control plane.
#[derive(Default)]
pub struct Refusals {
    incidents: Incidents,
    /// There once metrics are.
    counter: OnceLock<IntCounterVec>,
}

impl Refusals {
    /// Counts from now on.
    pub fn count(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let options = Opts::new(
            "signet_control_handshake_failures_total",
            "Handshakes with the control plane that failed, by why",
        );
        let counter = IntCounterVec::new(options, &["reason"])?;
        registry.register(Box::new(counter.clone()))?;
        // Only the first registration gets this far.
        let _ = self.counter.set(counter);
        Ok(())
    }

    /// Those that are kept.
    pub fn incidents(&self) -> &Incidents {
        &self.incidents
    }

    /// Keeps one. `own` is who we were.
    pub fn note(&self, failure: &HandshakeFailure, remote: Option<SocketAddr>, own: Option<Own>) {
        let now = clock::now();
        let (direction, service) = ("control", "");
        self.incidents.note(Failed { direction, service, remote, dialled: true, failure, own, now });
        if let Some(counter) = self.counter.get() {
            counter.with_label_values(&[failure.label()]).inc();
        }
    }
}

/// A TLS stream to the control plane, on which its refusal is heard.
pub struct Heard {
    tls: TlsStream<TcpStream>,
    /// Gone with the first byte that came.
    told: Option<Told>,
}

impl Heard {
    /// Tells of a refusal until the first byte comes.
    pub fn new(tls: TlsStream<TcpStream>, told: Told) -> Self {
        Heard { tls, told: Some(told) }
    }

    fn look(&mut self, error: &io::Error) {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<tokio_rustls::rustls::Error>());
        if let Some(tokio_rustls::rustls::Error::AlertReceived(alert)) = tls
            && let Some(told) = self.told.take()
        {
            told(&HandshakeFailure::AlertReceived(*alert), self.tls.get_ref().0.peer_addr().ok());
        }
    }
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let had = buf.filled().len();
        let read = Pin::new(&mut self.tls).poll_read(cx, buf);
        match &read {
            Poll::Ready(Ok(())) if buf.filled().len() > had => self.told = None,
            Poll::Ready(Err(error)) => self.look(error),
            _ => {}
        }
        read
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
