//! HTTP/1.1 on borrowed buffers: strict heads, bodies that pass through untouched, one write per message.
//!
//! # Usage
//! ```
//! use bytes::BytesMut;
//! use signet_wire::{Edits, h1::{Body, Framing, Limits, Persist, RequestParser, ResponseParser}, protected::Protected};
//!
//! let protected = Protected::default();
//! // 1. A head. `None` means: read more. On success its bytes have left `input`; what follows is body.
//! let mut parser = RequestParser::new(Limits::default());      // one per connection, a few words
//! let mut input = BytesMut::from("POST /a?b=1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
//! let head = parser.parse(&mut input).unwrap().unwrap();       // Err(e): answer e.status(), close
//! assert_eq!((head.method(), head.target().path(), head.framing()), ("POST", "/a", Framing::Chunked));
//!
//! // 2. Forward it: stages decide on `head` (see RequestView) and fill `edits`; hop-by-hop headers go, protected
//! //    ones go unless kept, everything else is copied in bulk.
//! let mut edits = Edits::new();
//! edits.set(http::header::VIA, http::HeaderValue::from_static("signet"));
//! let mut output = BytesMut::new();
//! let dropped = head.write(&edits, &protected, &mut output);   // count `dropped` protected headers
//!
//! // 3. The body: `forward` leading bytes go on as they are, then `consumed` of the input are done with.
//! let mut body = Body::new(head.framing(), Limits::default());
//! let progress = body.advance(&input).unwrap();                // Err: close both sides, never answer
//! output.extend_from_slice(&input[..progress.forward]);        // (or write it from where it lies)
//! let _ = input.split_to(progress.consumed);
//! if progress.done { body.write_end(&protected, &mut output); } // filtered trailers, if there were any
//! // At end of input before `done`: body.end_of_input() says whether that was a legal end.
//!
//! // 4. The answer needs to know what was asked. 1xx heads: forward, call `parse` again for the next one.
//! let mut answers = ResponseParser::new(Limits::default());
//! let mut input = BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
//! let answer = answers.parse(&mut input, head.asked()).unwrap().unwrap();
//! assert_eq!((answer.status(), answer.framing()), (200, Framing::Length(2)));
//! let persist = Persist::between(&head, &answer);              // Close when either side or the framing demands it
//! answer.write(&Edits::new(), persist, &protected, &mut output);
//! // Upstream connection is reusable iff answer.keep_alive() and both bodies are done.
//! ```
//! * `Expect: 100-continue`: [`RequestHead::expects_continue`]; it is forwarded, the upstream's 100 comes back as a 1xx.
//! * Upgrade: [`RequestHead::upgrade`] is `Websocket` or nothing (every other `Upgrade` is dropped from the forwarded
//!   head). Forward nothing after the head until a 101 came back ([`Framing::Tunnel`]); if another status comes, what
//!   the client sent meanwhile is the next request.
//! * HTTP/1.0 clients: the request is forwarded as 1.1. If the answer is chunked, [`Persist::between`] says
//!   `Unchunk`: use [`Body::advance_payload`] for it and close at the end.
//! * Own answers: [`write_answer`].

mod body;
mod connection;
mod error;
mod fields;
mod parse;
mod request;
mod response;
mod write;

pub use body::{Body, BodyError, Progress};
pub use error::{RequestError, ResponseError};
pub use fields::Field;
pub(crate) use parse::content_length;
pub use request::{RequestHead, RequestParser, Upgrade, Values};
pub use response::{Asked, Persist, ResponseHead, ResponseParser};
pub use write::{reason, write_answer};

/// Bounds of one message. The defaults hold before authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a head (line and fields); at most 65,535. More is 431.
    pub head: usize,
    /// Most fields in a head; at most [`Limits::MAX_FIELDS`]. More is 431.
    pub fields: usize,
    /// Most bytes of a trailer section.
    pub trailers: usize,
    /// Whether CONNECT is taken at all.
    pub connect: bool,
}

impl Limits {
    /// The hard bound on fields: the parser's table has this many places.
    pub const MAX_FIELDS: usize = 100;
    /// The hard bound on a head: offsets are 16 bits.
    pub const MAX_HEAD: usize = 65_535;
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { head: 32 * 1024, fields: Limits::MAX_FIELDS, trailers: 8 * 1024, connect: false }
    }
}

/// How the end of a message is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// Exactly this many bytes.
    Length(u64),
    /// Chunks, checked on the way through.
    Chunked,
    /// Answers only: until the peer closes.
    UntilClose,
    /// Answers only: 101 or a CONNECT's 2xx; from here on the connection is bytes.
    Tunnel,
}

/// HTTP/1.0 or HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0: no chunks, closes unless `keep-alive` was asked for.
    Http10,
    /// HTTP/1.1.
    Http11,
}
