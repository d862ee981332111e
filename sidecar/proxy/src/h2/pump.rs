//! One body's way from one HTTP/2 connection to another, with its trailers.
//!
//! A chunk is acknowledged to its sender when the other connection has taken it, which it does within its receiver's
//! window: the two windows are coupled and nothing piles up here. The first bytes of a request are remembered (shared, not
//! copied), so that one which was never processed can be sent again.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue};
use signet_wire::h2::are_trimmed;
use signet_wire::protected::{Protected, is_protected};
use signet_wire::{Edits, Known};

/// Bytes of a request that are remembered: gRPC's usual unary message with room to spare.
const REMEMBERED: usize = 64 * 1024;

/// Which side failed.
#[derive(Debug)]
pub(super) enum Broken {
    /// The sender's.
    From(h2::Error),
    /// The receiver's. `None`: it takes no more.
    To(Option<h2::Error>),
    /// The sender's trailers are not HTTP.
    Trailers,
}

enum Source {
    Data,
    Trailers,
    Ended(Option<HeaderMap>),
}

struct Chunk {
    bytes: Bytes,
    /// Not yet acknowledged to its sender.
    owed: bool,
}

/// A body under way.
pub(super) struct Pump {
    from: RecvStream,
    to: Option<SendStream<Bytes>>,
    source: Source,
    queue: VecDeque<Chunk>,
    /// What was taken from the sender so far; `None` once that is too much.
    taken: Option<Vec<Bytes>>,
    /// How many bytes that may be.
    most: usize,
    done: bool,
    /// Bytes of content passed on.
    pub(super) moved: u64,
    /// Protected names dropped from trailers.
    pub(super) stripped: u32,
    /// `grpc-status` of the trailers.
    pub(super) grpc_status: Option<u8>,
}

impl Pump {
    /// From here, to wherever [`Pump::aim`] says. With `remember`, it can be aimed again.
    pub(super) fn new(from: RecvStream, remember: bool) -> Self {
        let source = if from.is_end_stream() { Source::Ended(None) } else { Source::Data };
        Pump {
            from,
            to: None,
            source,
            queue: VecDeque::new(),
            taken: remember.then(Vec::new),
            most: REMEMBERED,
            done: false,
            moved: 0,
            stripped: 0,
            grpc_status: None,
        }
    }

    /// From now on up to so many bytes are remembered, if that is more.
    pub(super) fn remember_up_to(&mut self, most: usize) {
        self.most = self.most.max(most);
    }

    /// Whether there is no body at all: the head can say so.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.source, Source::Ended(None)) && self.queue.is_empty() && self.moved == 0
    }

    /// Whether all has been passed on.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether a second try would send everything that the first one did.
    pub(super) fn is_replayable(&self) -> bool {
        self.taken.is_some()
    }

    /// No second try will come.
    pub(super) fn forget(&mut self) {
        self.taken = None;
    }

    /// All that was taken of the body, if it is known still.
    pub(super) fn taken(&self) -> Option<Vec<Bytes>> {
        self.taken.clone()
    }

    /// Sends to this stream, from the body's beginning. `ended`: the head said that there is no body.
    pub(super) fn aim(&mut self, to: SendStream<Bytes>, ended: bool) {
        self.to = Some(to);
        self.done = ended;
        self.moved = 0;
        if let Some(taken) = &self.taken {
            // What waits in the queue is owed still and is the end of what was taken.
            let owed: usize =
                self.queue.iter().filter(|chunk| chunk.owed).map(|chunk| chunk.bytes.len()).sum();
            let all: usize = taken.iter().map(Bytes::len).sum();
            let mut acknowledged = all.saturating_sub(owed);
            self.queue.clear();
            for bytes in taken {
                let mut bytes = bytes.clone();
                let before = bytes.split_to(acknowledged.min(bytes.len()));
                acknowledged -= before.len();
                for (bytes, owed) in [(before, false), (bytes, true)] {
                    if !bytes.is_empty() {
                        self.queue.push_back(Chunk { bytes, owed });
                    }
                }
            }
        }
    }

    /// Ends a call whose answer has begun by the status that says why (gRPC over HTTP/2, Responses). `false`: bytes are on
    /// their way still, or it has ended.
    pub(super) fn end_call(&mut self, status: u8, message: &'static str) -> bool {
        let Some(to) = self.to.as_mut().filter(|_| self.queue.is_empty() && !self.done) else { return false };
        let mut trailers = HeaderMap::with_capacity(2);
        trailers.insert("grpc-status", HeaderValue::from(u16::from(status)));
        trailers.insert("grpc-message", HeaderValue::from_static(message));
        to.send_trailers(trailers).is_ok()
    }

    /// Ends the receiving stream with a reset.
    pub(super) fn reset(&mut self, reason: h2::Reason) {
        if let Some(to) = &mut self.to {
            to.send_reset(reason);
        }
    }

    /// The receiver's reset, if one came.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<h2::Reason, h2::Error>> {
        match &mut self.to {
            Some(to) => to.poll_reset(cx),
            None => Poll::Pending,
        }
    }

    /// Passes on what it can. Ready when all is passed on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, protected: &Protected) -> Poll<Result<(), Broken>> {
        let Some(to) = self.to.as_mut().filter(|_| !self.done) else { return Poll::Ready(Ok(())) };
        loop {
            while let Some(chunk) = self.queue.front_mut() {
                let room = ready!(poll_room(to, cx, chunk.bytes.len()))?;
                let part = chunk.bytes.split_to(room.min(chunk.bytes.len()));
                let (count, owed) = (part.len(), chunk.owed);
                if chunk.bytes.is_empty() {
                    self.queue.pop_front();
                }
                self.done = self.queue.is_empty() && matches!(self.source, Source::Ended(None));
                to.send_data(part, self.done).map_err(|error| Broken::To(Some(error)))?;
                self.moved += count as u64;
                if owed {
                    // Fails only for a stream that is gone, which the next poll will tell.
                    let _ = self.from.flow_control().release_capacity(count);
                }
                if self.done {
                    return Poll::Ready(Ok(()));
                }
            }
            match &mut self.source {
                Source::Data => match ready!(self.from.poll_data(cx)) {
                    Some(Ok(bytes)) => {
                        if self.from.is_end_stream() {
                            self.source = Source::Ended(None);
                        }
                        if !bytes.is_empty() {
                            remember(&mut self.taken, &bytes, self.most);
                            self.queue.push_back(Chunk { bytes, owed: true });
                        }
                    }
                    Some(Err(error)) => return Poll::Ready(Err(Broken::From(error))),
                    None => self.source = Source::Trailers,
                },
                Source::Trailers => {
                    let mut trailers = ready!(self.from.poll_trailers(cx)).map_err(Broken::From)?;
                    if let Some(trailers) = &mut trailers {
                        if !are_trimmed(trailers) {
                            return Poll::Ready(Err(Broken::Trailers));
                        }
                        self.grpc_status = grpc_status(trailers);
                        self.stripped += strip(trailers, protected);
                    }
                    self.source = Source::Ended(trailers);
                }
                Source::Ended(trailers) => {
                    let sent = match trailers {
                        Some(trailers) => to.send_trailers(trailers.clone()),
                        None => to.send_data(Bytes::new(), true),
                    };
                    self.done = true;
                    return Poll::Ready(sent.map_err(|error| Broken::To(Some(error))));
                }
            }
        }
    }
}

/// The code of an answer, of its trailers or of a head that is all there is.
pub(super) fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn remember(taken: &mut Option<Vec<Bytes>>, bytes: &Bytes, most: usize) {
    if let Some(list) = taken {
        if list.iter().map(Bytes::len).sum::<usize>() + bytes.len() > most {
            *taken = None;
        } else {
            list.push(bytes.clone());
        }
    }
}

/// How much the receiver takes now; at least one byte.
pub(super) fn poll_room(
    to: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    wanted: usize,
) -> Poll<Result<usize, Broken>> {
    to.reserve_capacity(wanted);
    loop {
        match to.capacity() {
            0 => match ready!(to.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(Broken::To(Some(error)))),
                None => return Poll::Ready(Err(Broken::To(None))),
            },
            room => return Poll::Ready(Ok(room)),
        }
    }
}

/// Takes out of trailers what may not pass: the mesh's own names, and what frames, routes or authenticates
/// (RFC 9110, 6.5.1). Returns how many protected names went.
fn strip(trailers: &mut HeaderMap, protected: &Protected) -> u32 {
    let dropped = Edits::new().apply(trailers, protected);
    let doomed: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| {
            let known = Known::of_lower_case(name.as_str().as_bytes());
            debug_assert!(!is_protected(name.as_str().as_bytes()));
            known.is_not_removable() || known.is_hop_by_hop()
        })
        .cloned()
        .collect();
    for name in doomed {
        trailers.remove(name);
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_lose_the_meshs_names_and_what_frames_or_authenticates() {
        let mut trailers = HeaderMap::new();
        for name in [
            "grpc-status",
            "grpc-message",
            "txn-token",
            "txn_token",
            "signet_user",
            "authorization",
            "content-length",
        ] {
            trailers.insert(HeaderName::from_static(name), http::HeaderValue::from_static("1"));
        }
        assert_eq!(strip(&mut trailers, &Protected::default()), 3);
        let mut left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["grpc-message", "grpc-status"]);
    }
}
