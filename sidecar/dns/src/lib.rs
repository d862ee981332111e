//! The pod's name server: services of the mesh by their names, everything else as the pod's resolvers say.
//!
//! ```text
//!  app ──(port 53, redirected)──► serve ─ message ─► names ── known here ──────► answer
//!                                                      └─ everything else ─► upstream ──► the pod's resolvers
//! ```
//!
//! * [`names`]: which service a name means, and what is known of it. Pure, but for the first use of a name.
//! * `message`: reads queries, writes answers. `upstream`, [`resolvers`]: asks those whom `resolv.conf` lists.
//! * `serve`: sockets, and the bounds of what is under way. [`metrics`]: what became of queries.
//!
//! What it promises: a name of the mesh that has virtual addresses gets those and nothing else; all other queries pass as
//! they came, under an id and from a port that nobody can know, and so do their answers, if they are of whom was asked, to
//! what was asked. Every query is answered within [`PATIENCE`], if only by SERVFAIL; a flood of them costs what is bounded
//! here, on a thread of its own, and no connection of the data plane waits for it.
//!
//! What it never does: remember an answer of a resolver, or believe one. Where a call goes that leaves the mesh is looked
//! up again by whoever dials (`signet_proxy`), since an app chooses what it asks and what it dials.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]
#![forbid(unsafe_code)]

pub mod metrics;
pub mod names;
pub mod resolvers;

mod message;
mod serve;
mod upstream;

pub use serve::{Bound, Limits, Running, Server, StartError};
pub use upstream::PATIENCE;
