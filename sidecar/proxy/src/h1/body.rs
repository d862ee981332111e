//! A body on its way from one side to the other.
//!
//! Bytes pass through as they came, checked for where they end; only trailers are held back, filtered and
//! written by us. What fits goes out together with the head; the rest is written from where it was read.

use bytes::BytesMut;
use signet_wire::h1::{Body, BodyError, Progress};
use signet_wire::protected::Protected;

use crate::io::{BUFFER, Conn};

/// What may share a write with a head: one TLS record.
const TOGETHER: usize = BUFFER;

/// A body and how it is written.
pub(crate) struct Passing {
    body: Body,
    /// The receiver does not know chunks: they are taken out.
    unchunk: bool,
    /// Content bytes so far.
    pub(crate) payload: u64,
    /// Protected fields dropped from its trailers.
    pub(crate) stripped: u32,
}

/// What a look at the input found.
pub(crate) enum Step {
    /// Nothing can be written until more was read.
    Starved,
    /// `out` holds what can go now.
    Buffered,
    /// So many bytes at the front of the input go as they are, then so many are done with.
    Direct(Progress),
}

impl Passing {
    pub(crate) fn new(body: Body, unchunk: bool) -> Self {
        Passing { body, unchunk, payload: 0, stripped: 0 }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.body.is_done()
    }

    /// Takes what is there. Small pieces join what waits in `out` (a head); large ones are written directly.
    pub(crate) fn step(
        &mut self,
        from: &mut Conn,
        out: &mut BytesMut,
        protected: &Protected,
    ) -> Result<Step, BodyError> {
        if self.body.is_done() || from.input().is_empty() {
            return Ok(if out.is_empty() { Step::Starved } else { Step::Buffered });
        }
        let progress = match self.unchunk {
            true => self.body.advance_payload(from.input(), out)?,
            false => self.body.advance(from.input())?,
        };
        self.payload += progress.payload;
        if !progress.done
            && progress.forward > 0
            && (out.is_empty() || out.len() + progress.forward > TOGETHER)
        {
            return Ok(Step::Direct(progress));
        }
        if let Some(bytes) = from.input().get(..progress.forward) {
            out.extend_from_slice(bytes);
        }
        from.consume(progress.consumed);
        if progress.done && !self.unchunk {
            self.stripped += self.body.write_end(protected, out);
        }
        Ok(if out.is_empty() { Step::Starved } else { Step::Buffered })
    }

    /// The sender ended its stream. Whether that was an end of the body.
    pub(crate) fn end_of_input(&mut self, cut: bool) -> Result<(), BodyError> {
        // A TLS stream without close_notify may have been cut by anybody.
        if cut { Err(BodyError::Truncated) } else { self.body.end_of_input() }
    }
}
