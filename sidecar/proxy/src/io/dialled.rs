//! A TLS connection that we dialled, until its peer has shown that it takes us.
//!
//! With TLS 1.3 the client's handshake is over before the server has looked at its certificate. A server that refuses it
//! says so by an alert where the first byte of an answer would be. That is a handshake that failed, though the engine
//! that meets it is already in the middle of its first request, and it may meet it as a write that no longer works.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use signet_identity::HandshakeFailure;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

/// See the module's story. `R` is told of the peer's refusal.
pub struct Dialled<S, R: ?Sized> {
    tls: TlsStream<S>,
    /// Gone with the first byte that came.
    refused: Option<Box<R>>,
    /// The refusal that came.
    refusal: Option<HandshakeFailure>,
}

impl<S, R: ?Sized> Dialled<S, R> {
    /// A connection whose handshake is over on our side. Nobody is told of a refusal yet.
    pub fn new(tls: TlsStream<S>) -> Self {
        Dialled { tls, refused: None, refusal: None }
    }

    /// Whom to tell if the peer refuses us.
    pub fn on_refusal(&mut self, refused: Box<R>) {
        self.refused = Some(refused);
    }

    /// How the peer refused us, if it did.
    pub(super) fn refusal(&self) -> Option<&HandshakeFailure> {
        self.refusal.as_ref()
    }

    pub(super) fn get_ref(&self) -> (&S, &tokio_rustls::rustls::ClientConnection) {
        self.tls.get_ref()
    }
}

impl<S, R> Dialled<S, R>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: Fn(&HandshakeFailure) + ?Sized,
{
    /// Tells of a refusal, if that is what the error is.
    fn look(&mut self, error: &io::Error) {
        if let Some(alert) = refusal(error)
            && let Some(refused) = self.refused.take()
        {
            refused(&alert);
            self.refusal = Some(alert);
        }
    }

    /// A write did not work: whether the peer had said why.
    fn last_words(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        self.refused.as_ref()?;
        let (io, session) = self.tls.get_mut();
        while matches!(session.read_tls(&mut Now { io, cx }), Ok(1..)) {
            if let Err(error) = session.process_new_packets() {
                let error = io::Error::new(io::ErrorKind::InvalidData, error);
                self.look(&error);
                return Some(error);
            }
        }
        None
    }

    fn wrote<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match done {
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.last_words(cx).unwrap_or(error))),
            done => done,
        }
    }
}

/// The alert by which the peer refused the handshake, where that is the error of a connection.
pub(crate) fn refusal(error: &io::Error) -> Option<HandshakeFailure> {
    match error.get_ref()?.downcast_ref::<tokio_rustls::rustls::Error>()? {
        tokio_rustls::rustls::Error::AlertReceived(alert) => Some(HandshakeFailure::AlertReceived(*alert)),
        _ => None,
    }
}

/// What can be read without waiting.
struct Now<'a, 'b, 'c, S> {
    io: &'a mut S,
    cx: &'b mut Context<'c>,
}

impl<S: AsyncRead + Unpin> io::Read for Now<'_, '_, '_, S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        match Pin::new(&mut *self.io).poll_read(self.cx, &mut buf) {
            Poll::Ready(read) => read.map(|()| buf.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<S, R> AsyncRead for Dialled<S, R>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: Fn(&HandshakeFailure) + ?Sized,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let had = buf.filled().len();
        let read = Pin::new(&mut self.tls).poll_read(cx, buf);
        match &read {
            Poll::Ready(Ok(())) if buf.filled().len() > had => self.refused = None,
            Poll::Ready(Err(error)) => self.look(error),
            _ => {}
        }
        read
    }
}

impl<S, R> AsyncWrite for Dialled<S, R>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: Fn(&HandshakeFailure) + ?Sized,
{
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.tls).poll_write(cx, buf);
        self.wrote(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.tls).poll_write_vectored(cx, bufs);
        self.wrote(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.tls).poll_flush(cx);
        self.wrote(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
