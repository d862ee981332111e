//! One type for whatever bytes run over: TCP, Unix, and TLS from either end.

use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use signet_identity::HandshakeFailure;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server;

use super::dialled::Dialled;
use super::record::ReadAhead;

/// A connection that we dialled, and who is told of a refusal on this thread.
type Own = Dialled<ReadAhead, dyn Fn(&HandshakeFailure)>;

/// An established stream. TLS is boxed, so that a plaintext connection does not pay for its size.
pub(crate) enum Stream {
    /// Plaintext TCP, with what was read ahead of it.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// We took the connection.
    Accepted(Box<server::TlsStream<ReadAhead>>),
    /// We dialled.
    Dialled(Box<Own>),
}

macro_rules! each {
    ($self:expr, $stream:ident => $do:expr) => {
        match $self {
            Stream::Tcp($stream) => $do,
            Stream::Unix($stream) => $do,
            Stream::Accepted($stream) => $do,
            Stream::Dialled($stream) => $do,
        }
    };
}

impl Stream {
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Stream::Tcp(socket) => Some(socket),
            Stream::Unix(_) => None,
            Stream::Accepted(tls) => Some(tls.get_ref().0.socket()),
            Stream::Dialled(tls) => Some(tls.get_ref().0.socket()),
        }
    }

    /// Whom to tell if the peer that we dialled refuses us after our own handshake is over.
    pub(crate) fn on_refusal(&mut self, refused: Box<dyn Fn(&HandshakeFailure)>) {
        if let Stream::Dialled(dialled) = self {
            dialled.on_refusal(refused);
        }
    }

    /// How the peer that we dialled refused us, if it did.
    pub(crate) fn refusal(&self) -> Option<&HandshakeFailure> {
        match self {
            Stream::Dialled(dialled) => dialled.refusal(),
            _ => None,
        }
    }

    /// Pending, and woken when that changes, while a read would find nothing: cheaper than to try one. Ready does not
    /// promise bytes.
    pub(crate) fn poll_maybe_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        // With no plaintext left and no bytes read ahead, only the socket can bring more.
        let (bytes, waits) = match self {
            Stream::Tcp(socket) => return socket.poll_read_ready(cx).map(drop),
            Stream::Unix(socket) => return socket.poll_read_ready(cx).map(drop),
            Stream::Accepted(tls) => (tls.get_ref().0, tls.get_ref().1.wants_read()),
            Stream::Dialled(tls) => (tls.get_ref().0, tls.get_ref().1.wants_read()),
        };
        if !waits || !bytes.ahead().is_empty() {
            return Poll::Ready(());
        }
        bytes.socket().poll_read_ready(cx).map(drop)
    }

    /// Makes the close of this socket a reset: the other side must not take a cut stream for a whole one.
    pub(crate) fn reset_on_close(&self) {
        if let Some(socket) = self.tcp() {
            // Fails only for a socket that is gone already.
            let _ = SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO));
        }
    }

    /// Ready when the peer resets the connection, although nothing is read of it any more. Takes a descriptor of its own
    /// for as long as it is waited for. Never ready for a Unix socket, which has no resets, nor without a descriptor.
    pub(crate) fn reset_by_peer(&self) -> impl Future<Output = ()> + use<> {
        let socket = self.tcp().and_then(|socket| socket.as_fd().try_clone_to_owned().ok());
        async move {
            let watched = socket.and_then(|socket| TcpStream::from_std(socket.into()).ok());
            match watched {
                Some(watched) if watched.ready(Interest::ERROR).await.is_ok() => {}
                _ => std::future::pending().await,
            }
        }
    }

    /// Makes it an ordinary close again: what was sent arrives, and then the end.
    pub(crate) fn end_on_close(&self) {
        if let Some(socket) = self.tcp() {
            let _ = SockRef::from(socket).set_linger(None);
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}
