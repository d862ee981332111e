//! A stream whose writes wait for each other.
//!
//! `h2` flushes after almost every DATA frame: a system call and a TLS record for each small answer. Here a write goes
//! into a lent buffer and a flush does nothing; the task that drives the connection calls [`Flusher::poll`] when the
//! connection has nothing more to say. A full buffer goes out at once, and while it cannot, writes wait: that is the
//! connection's back pressure.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use signet_identity::HandshakeFailure;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::io::{BUFFER, Lent, Stream};

/// Bytes that wait at most: two of the largest frames, and still a buffer that the shelf takes back.
const MOST: usize = 2 * BUFFER;

struct Inner {
    stream: Stream,
    /// What was read before `h2` took over.
    ahead: BytesMut,
    out: Lent,
    /// How much of `out` the stream has taken.
    at: usize,
    /// Something was read since this was last asked.
    heard: bool,
    /// The stream holds bytes of its own (TLS) that a flush would move.
    unflushed: bool,
}

impl Inner {
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.out.get(self.at..).filter(|rest| !rest.is_empty()) {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.at += count;
            self.unflushed = true;
        }
        self.at = 0;
        self.out.clear();
        self.out.release_if_empty();
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Makes room for at least one byte.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.out.len() >= MOST {
            ready!(self.poll_out(cx))?;
        }
        Poll::Ready(Ok(MOST - self.out.len()))
    }

    fn put(&mut self, bytes: &[u8]) {
        self.out.make_room(bytes.len());
        self.out.extend_from_slice(bytes);
    }
}

/// What `h2` reads and writes.
pub(super) struct Coalesced(Rc<RefCell<Inner>>);

/// What the connection's driver flushes.
pub(super) struct Flusher(Rc<RefCell<Inner>>);

/// Splits a stream into the two, with what was read ahead.
pub(super) fn coalesce(stream: Stream, ahead: BytesMut) -> (Coalesced, Flusher) {
    let inner = Inner { stream, ahead, out: Lent::none(), at: 0, heard: false, unflushed: false };
    let inner = Rc::new(RefCell::new(inner));
    (Coalesced(inner.clone()), Flusher(inner))
}

impl Flusher {
    /// Sends what waits. Ready when all is out.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_out(cx)
    }

    /// Whether anything was read since the last call.
    pub(super) fn heard(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().heard)
    }

    /// How the peer refused us, if it did.
    pub(super) fn refusal(&self) -> Option<HandshakeFailure> {
        self.0.borrow().stream.refusal().cloned()
    }
}

impl AsyncRead for Coalesced {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        if !inner.ahead.is_empty() {
            let count = inner.ahead.len().min(buf.remaining());
            buf.put_slice(&inner.ahead.split_to(count));
            return Poll::Ready(Ok(()));
        }
        ready!(inner.stream.poll_maybe_readable(cx));
        let before = buf.filled().len();
        let read = Pin::new(&mut inner.stream).poll_read(cx, buf);
        inner.heard |= buf.filled().len() > before;
        read
    }
}

impl AsyncWrite for Coalesced {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        let count = ready!(inner.poll_room(cx))?.min(buf.len());
        inner.put(buf.get(..count).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        let mut room = ready!(inner.poll_room(cx))?;
        let mut taken = 0;
        for buf in bufs {
            let count = room.min(buf.len());
            inner.put(buf.get(..count).unwrap_or_default());
            room -= count;
            taken += count;
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing: see the module.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_out(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap().block_on(test);
    }

    #[test]
    fn small_writes_leave_together_and_only_when_the_driver_flushes() {
        run(async {
            let (near, mut far) = UnixStream::pair().unwrap();
            let (mut io, flusher) = coalesce(Stream::Unix(near), BytesMut::new());
            for _ in 0..100 {
                io.write_all(b"frame").await.unwrap();
                io.flush().await.unwrap();
            }
            let mut buffer = [0; 1024];
            assert!(far.try_read(&mut buffer).is_err(), "nothing has left yet");
            poll_fn(|cx| flusher.poll(cx)).await.unwrap();
            assert_eq!(far.read(&mut buffer).await.unwrap(), 500, "one write for all");
        });
    }

    #[test]
    fn a_receiver_that_does_not_read_stops_the_writer_at_the_bound() {
        run(async {
            let (near, mut far) = UnixStream::pair().unwrap();
            let (mut io, flusher) = coalesce(Stream::Unix(near), BytesMut::new());
            let frame = vec![7; 16 * 1024];
            let mut written = 0;
            loop {
                let mut write = std::pin::pin!(io.write(&frame));
                match poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx))).await {
                    Poll::Ready(count) => written += count.unwrap(),
                    Poll::Pending => break,
                }
                assert!(written < 64 << 20, "the bound holds");
            }
            assert!(flusher.0.borrow().out.len() <= MOST);
            let mut read = 0;
            let mut buffer = vec![0; 1 << 20];
            while read < written {
                let mut reading = std::pin::pin!(far.read(&mut buffer));
                read += poll_fn(|cx| {
                    assert!(!matches!(flusher.poll(cx), Poll::Ready(Err(_))));
                    reading.as_mut().poll(cx)
                })
                .await
                .unwrap();
            }
            assert_eq!(read, written);
        });
    }

    #[test]
    fn bytes_read_ahead_come_first() {
        run(async {
            let (near, mut far) = UnixStream::pair().unwrap();
            let (mut io, flusher) = coalesce(Stream::Unix(near), BytesMut::from("first "));
            far.write_all(b"second").await.unwrap();
            let mut text = [0; 12];
            io.read_exact(&mut text).await.unwrap();
            assert_eq!(&text, b"first second");
            assert!(flusher.heard() && !flusher.heard());
        });
    }
}
