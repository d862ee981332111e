//! The data plane of Signet: what carries requests between apps, with mutual TLS and the user's context.
//!
//! ```text
//!  app ──► listener ─► engine ─► stage ─► pool/balance ─► mTLS ───► listener ─► engine ─► stage ─► app
//!         (worker)    h1|h2|tcp  outbound                            (worker)   h1|h2|tcp  inbound
//! ```
//!
//! * [`state`]: the five snapshots (tls, endpoints, routes, policy, keys). A request takes one view.
//! * [`listener`], `worker`: threads with a runtime each, sockets, limits, drain, live governance.
//! * [`stage`]: decides about one request: verify, route, policy, headers. [`answer`] is the one table in
//!   which a refusal becomes HTTP, gRPC or a closed stream.
//! * `h1`, `h2`, `tcp`: the engines. They carry out what a stage decided. `undeclared`: which of them, where nobody says.
//! * `tls`, `pool`, `balance`, `age`: connections to peers, every one of them checked after its handshake.
//! * [`plaintext`]: callers without the mesh, at ports that still let them in.
//! * `east_west`: hellos of other clusters, passed on unopened.
//! * `original_dst`, `own_pod`: redirected connections, and calls of a pod to itself.
//! * `outside`, `names`: calls to places outside the mesh, and what their names resolve to.
//! * [`limit`]: how many requests in how long. `tries`: what may still be tried, and which endpoint is to blame.
//! * [`authz`]: who else is asked about what policies permit.
//! * [`exchange`]: the presenter rule's memory. [`handle`]: users of apps that forward nothing. [`decision`], [`hops`]: refusals, and which transactions came from whom, on their way to the control plane.
//!
//! Everything on a worker is single-threaded; what must be one for the process (in-flight counts, the
//! presenter table, limits) is atomic or behind a short lock in [`Shared`].

pub mod answer;
pub mod app_tokens;
pub mod authz;
pub mod decision;
pub mod exchange;
pub mod handle;
pub mod hop_proof;
pub mod hops;
pub mod limit;
pub mod listener;
pub mod metrics;
pub mod plaintext;
pub mod stage;
pub mod state;

mod age;
mod balance;
mod east_west;
mod establish;
mod flood;
mod h1;
mod h2;
mod io;
mod names;
mod once;
mod original_dst;
mod outside;
mod own_pod;
mod pool;
mod session;
mod shared;
mod sync;
mod tcp;
mod tls;
mod tries;
mod undeclared;
mod upstream;
mod worker;

pub use io::Dialled;
pub use shared::{Limits, Shared};
pub use worker::{Proxy, Running, StartError};
