//! What an app asks its host for: an identity of its own, by the two protocols that existing programs speak.
//!
//! ```text
//!  app ── Unix socket ── listen ── serve ─┬─ api   the SPIFFE Workload API
//!         (the kernel says who)           └─ sds   Envoy's secret discovery, v3
//!                                              └── provider: what this caller may have
//! ```
//!
//! * [`listen`]: the socket, who may connect, how many. `serve`: one connection, with its bounds and its end.
//! * [`provider`]: who is this caller, and what is it? Everything that is served comes from there, and changes there;
//!   a sidecar answers the same to every caller, an agent of a host to each process what it may have.
//! * [`process`]: the process at the other end, held so that its number can mean nobody else.
//! * `authority`: what some gRPC libraries say of a Unix socket, made legal.
//! * `api` and `sds`: the two protocols. `feed`: how both tell of changes, and cut whoever does not listen.
//!
//! It promises: nobody is told by what they say themselves but by what the kernel says of them; a message is the whole
//! state, never a difference to something that was lost; a reader that does not read costs a few messages, and then its
//! connection. Keys are in no log, no error, and wiped where they are ours to wipe.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod api;
mod authority;
mod feed;
pub mod listen;
mod metrics;
mod pem;
pub mod process;
pub mod provider;
mod sds;
mod serve;

pub use listen::{Bounds, Listen, listen};
pub use metrics::Metrics;
pub use process::Process;
pub use provider::{Bundles, Caller, Identity, JwtBundle, JwtSvid, Provider, Refused, Served, State};
