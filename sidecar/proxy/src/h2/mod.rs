//! The HTTP/2 engine, for gRPC and plain HTTP/2 alike, on the `h2` crate.
//!
//! ```text
//!  client ══ connection task ══► one task per request ──► link (one task) ══ endpoint or app
//!            accepts, GOAWAY,     stage, lease, relay      shared by all requests of the worker
//!            keepalive            of body and trailers     to that endpoint
//! ```
//!
//! * [`coalesce`]: `h2` writes every small frame by itself; ours go out together when the connection yields.
//! * [`serve`](serve()): the client's connection. Limits hold before anybody is authenticated: streams, header lists,
//!   resets.
//! * `exchange`: one request through its stage and onto a link; `relay`: its two directions from there.
//! * `pump`: a body's way from one connection to the other. What is not yet forwarded is not yet acknowledged, so a
//!   slow receiver slows the sender and nobody else.
//! * `unary`: calls of our own.
//! * `link`: connections to endpoints and apps, by the same keys as HTTP/1's pool.
//!
//! A reset travels on as the reset that it was, either way. A request that the other side says it never processed
//! (REFUSED_STREAM, or above a GOAWAY's last stream) is sent again on another connection; anything else only where its
//! route or port says so ([`crate::tries`]).

mod coalesce;
mod connect;
mod copies;
mod exchange;
mod link;
mod pump;
mod relay;
mod serve;
mod unary;

use std::time::Duration;

pub(crate) use link::Links;
pub(crate) use serve::serve;
pub(crate) use unary::{Unanswered, unary};

/// Requests that a client may have open: memory per connection is this times the stream window.
const STREAMS: u32 = 256;
/// Bytes that a sender may have under way on one stream. Not below the protocol's default of 65,535: a window that
/// shrinks under a stream's first bytes is where implementations stop for ever.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Every stream's window at once: with less, readers that do not read would stop one that does.
const CONNECTION_WINDOW: u32 = STREAMS * STREAM_WINDOW;
/// Most bytes of a decoded header list; past it the library answers 431.
const HEADER_LIST: u32 = 32 * 1024;
/// Bytes that wait in one stream for the socket.
const SEND_BUFFER: usize = STREAM_WINDOW as usize;
/// How often a connection looks at its age, its silence and its certificates.
const TICK: Duration = Duration::from_secs(10);
/// How long the last words of a connection may take.
const GOODBYE: Duration = Duration::from_secs(1);
