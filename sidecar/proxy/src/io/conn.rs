//! A stream with the bytes that were read from it and not yet used.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncReadExt as _, AsyncWrite as _};

use super::lend::{BUFFER, BULK, Lent};
use super::stream::Stream;

/// One connection as an engine uses it. Holds a buffer only while there are bytes in it.
pub(crate) struct Conn {
    stream: Stream,
    input: Lent,
    ended: bool,
    cut: bool,
    /// The last read filled the room that it had: more is coming than a buffer holds.
    bulk: bool,
    /// An error that was met after bytes which go first. A socket tells it only once.
    failed: Option<io::Error>,
}

impl Conn {
    /// A fresh connection.
    pub(crate) fn new(stream: Stream) -> Self {
        Conn { stream, input: Lent::none(), ended: false, cut: false, bulk: false, failed: None }
    }

    /// A connection of which this was read before.
    pub(crate) fn with_input(stream: Stream, input: Lent) -> Self {
        Conn { input, ..Conn::new(stream) }
    }

    /// The stream itself.
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The stream, for an engine that buffers by itself, and the bytes read ahead of it.
    pub(crate) fn into_parts(mut self) -> (Stream, bytes::BytesMut) {
        (self.stream, std::mem::take(&mut *self.input))
    }

    /// What was read and not used.
    pub(crate) fn input(&mut self) -> &mut bytes::BytesMut {
        &mut self.input
    }

    /// Whether the other side has ended its stream.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Whether it ended without a goodbye: TLS without close_notify, which anybody on the way could forge.
    pub(crate) fn cut(&self) -> bool {
        self.cut
    }

    /// Forgets bytes that were used, and gives the buffer back with the last of them.
    pub(crate) fn consume(&mut self, count: usize) {
        if count == self.input.len() {
            self.input.clear();
        } else {
            bytes::Buf::advance(&mut *self.input, count);
        }
        self.input.release_if_empty();
    }

    /// Reads more behind what is there. Zero bytes are the end of the stream.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        ready!(self.stream.poll_maybe_readable(cx));
        self.input.make_room(if self.bulk { BULK } else { BUFFER / 4 });
        let read = pin!(self.stream.read_buf(&mut *self.input)).poll(cx);
        if !matches!(read, Poll::Ready(Ok(1..))) {
            self.input.release_if_empty();
        }
        let count = match ready!(read) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.cut = true;
                0
            }
            Err(error) => return Poll::Ready(Err(error)),
        };
        self.ended = count == 0;
        // A full record, or a full buffer.
        self.bulk = count >= BUFFER;
        Poll::Ready(Ok(count))
    }

    /// As [`Conn::poll_fill`], and while much is coming goes on for as long as more is there now.
    pub(crate) fn poll_fill_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut total = ready!(self.poll_fill(cx))?;
        while self.bulk && self.input.len() < BULK {
            match self.poll_fill(cx) {
                Poll::Ready(Ok(count @ 1..)) => total += count,
                Poll::Ready(Err(error)) => {
                    self.failed = Some(error);
                    break;
                }
                // An end is met again by the next read, after what is here went on.
                _ => break,
            }
        }
        Poll::Ready(Ok(total))
    }

    /// Writes and flushes what it can of `bytes` from `at` on. Ready when all is out.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        at: &mut usize,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = bytes.get(*at..).filter(|rest| !rest.is_empty()) {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *at += count;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Ends our half of the stream.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
