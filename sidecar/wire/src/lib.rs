//! The wire formats that a Signet proxy speaks, as pure functions of bytes: no sockets, no clock, no task.
//!
//! * [`h1`] reads and writes HTTP/1.1 heads and follows bodies, strictly, so that two proxies and an app never disagree
//!   about where a message ends. Start at its usage notes.
//! * [`h2`] checks a decoded HTTP/2 request head against the same rules.
//! * [`RequestView`] is one request as policy and user context see it, whichever version carried it; [`Edits`] is
//!   what they want changed before it is forwarded.
//! * [`canon`] makes path and host canonical before anybody decides on them; [`protected`] knows the header names
//!   that only the mesh may set; [`names`] the few that a proxy looks at.
//! * [`carrier`] finds, strips and offers handles in the two headers that tracing libraries copy.
//! * [`hello`] peeks at a TLS ClientHello, [`xfcc`] speaks Envoy's client-certificate header, [`grpc`] the parts of
//!   gRPC that a proxy must answer in.
//!
//! Promise: no input makes these functions panic, loop, or hold more memory than the limit they were given.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod canon;
pub mod carrier;
pub mod edits;
pub mod first;
pub mod grpc;
pub mod h1;
pub mod h2;
pub mod hello;
pub mod names;
pub mod protected;
pub mod view;
pub mod websocket;
pub mod xfcc;

pub use edits::Edits;
pub use names::Known;
pub use view::RequestView;
