//! A request's body on its way, over all tries of the request.
//!
//! What was passed on is kept, up to a limit, where another try may need it: then the head goes out again, with what was
//! kept behind it, and the rest follows from where the client is.

use bytes::BytesMut;
use signet_wire::h1::{Body, BodyError};
use signet_wire::protected::Protected;

use super::body::{Passing, Step};
use crate::io::Conn;

/// See the module.
pub(super) struct Upload {
    passing: Passing,
    /// As it was passed on; `None` once it is too much, or where nobody will need it.
    kept: Option<BytesMut>,
    limit: usize,
    /// Bytes at the front of the client's input that are passed on and not yet done with.
    owed: usize,
}

impl Upload {
    /// Keeps so many bytes.
    pub(super) fn new(body: Body, limit: usize) -> Self {
        let kept = (limit > 0 || body.is_done()).then(BytesMut::new);
        Upload { passing: Passing::new(body, false), kept, limit, owed: 0 }
    }

    /// Whether another try could send everything that was sent so far.
    pub(super) fn is_replayable(&self) -> bool {
        self.kept.is_some()
    }

    /// What was passed on so far; `None` where it is not known any more.
    pub(super) fn kept(&self) -> Option<&[u8]> {
        self.kept.as_deref()
    }

    pub(super) fn is_done(&self) -> bool {
        self.passing.is_done()
    }

    /// Content bytes so far.
    pub(super) fn payload(&self) -> u64 {
        self.passing.payload
    }

    /// Protected fields dropped from its trailers.
    pub(super) fn stripped(&self) -> u32 {
        self.passing.stripped
    }

    /// Takes what is there, see [`Passing::step`]. What `Direct` says is to be passed on and then [`Upload::settle`]d.
    pub(super) fn step(
        &mut self,
        from: &mut Conn,
        out: &mut BytesMut,
        protected: &Protected,
    ) -> Result<Step, BodyError> {
        let before = out.len();
        let step = self.passing.step(from, out, protected)?;
        match &step {
            Step::Buffered => self.keep(out.get(before..).unwrap_or_default()),
            Step::Direct(progress) => {
                self.keep(from.input().get(..progress.forward).unwrap_or_default());
                self.owed = progress.consumed;
            }
            Step::Starved => {}
        }
        Ok(step)
    }

    /// What is owed has been passed on, or will be by another try.
    pub(super) fn settle(&mut self, from: &mut Conn) {
        from.consume(std::mem::take(&mut self.owed));
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(kept) = &mut self.kept {
            if kept.len() + bytes.len() > self.limit && !bytes.is_empty() {
                self.kept = None;
            } else {
                kept.extend_from_slice(bytes);
            }
        }
    }
}
