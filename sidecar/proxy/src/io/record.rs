//! The socket under TLS.
//!
//! rustls reads 4 KiB at a time, five system calls for one full record. This reads as much as there is
//! into a lent buffer and feeds rustls from it; when the buffer is empty it goes back to the shelf. It is
//! also where a connection's first bytes wait after the hello was looked at.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Buf as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::lend::{BUFFER, BULK, Lent};

/// A TCP socket that reads ahead.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    socket: TcpStream,
    ahead: Lent,
    /// The last read filled all the room that it had.
    bulk: bool,
}

impl ReadAhead {
    pub(crate) fn new(socket: TcpStream) -> Self {
        ReadAhead { socket, ahead: Lent::none(), bulk: false }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// What has been read and not been taken.
    pub(crate) fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// The bare socket and what was read ahead of it.
    pub(crate) fn into_parts(self) -> (TcpStream, Lent) {
        (self.socket, self.ahead)
    }

    /// Reads more behind what is there. 0 is the end of the stream.
    pub(crate) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = if self.bulk { BULK } else { BUFFER / 2 };
        self.ahead.make_room(room);
        let had = self.ahead.capacity() - self.ahead.len();
        let read = pin!(self.socket.read_buf(&mut *self.ahead)).poll(cx);
        match read {
            Poll::Ready(Ok(count)) => {
                self.bulk = count == had;
                Poll::Ready(Ok(count))
            }
            other => {
                self.ahead.release_if_empty();
                other
            }
        }
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() && ready!(self.poll_more(cx))? == 0 {
            self.ahead.release_if_empty();
            return Poll::Ready(Ok(()));
        }
        let count = self.ahead.len().min(buf.remaining());
        buf.put_slice(self.ahead.get(..count).unwrap_or_default());
        self.ahead.advance(count);
        self.ahead.release_if_empty();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
