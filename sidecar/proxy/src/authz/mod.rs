//! Somebody else is asked about requests that our own policies permit: Envoy's external authorisation, as its client.
//!
//! * [`provider`](Provider): who is asked, and what of an answer counts.
//! * `question`: what is told of a request: who calls, for which user, what is asked for; of headers those that are
//!   listed, and never a token of the mesh.
//! * [`answer`](rule): what an answer means. Pure. Whatever is not plainly a yes is a no.
//! * `ask`: the call itself, over mutual TLS on the links that all requests have, or to the same pod.
//!
//! It can only say no. A request comes here after policy has permitted it, and goes on if everybody who was to be asked
//! has said yes in time. How many questions are open at a time has a bound, and with the caller its question goes away.

mod answer;
mod ask;
mod provider;
mod question;

pub use answer::{Change, Changes, Denial, Dropped, Invalid, Ruling, rule};
pub use ask::Check;
pub(crate) use ask::ask;
pub use provider::Provider;
