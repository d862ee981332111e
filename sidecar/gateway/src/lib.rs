//! The edge: who calls from outside, for which user, and where to.
//!
//! [`Edge`] is the gateway's stage. For each request head it finds the route ([`Compiled`]), authenticates
//! the caller by the methods that the route lists (`auth`, one file per method, each a pure function of the
//! request, the keys and the time), checks the route's scopes, mints a transaction token under the gateway's
//! delegation (`context`), rewrites the head (`head`) and hands over to the service's endpoints.
//!
//! What it promises: no header of the mesh's own passes from outside; a consumed credential does not travel on
//! unless the route says so; every refusal follows one contract (`challenge`) and tells the caller nothing that
//! the caller does not know; when keys or the delegation are missing the answer is 503, never 401 and never
//! "let in". Each attempt is one event of one schema and one count (`events`), without the credential.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use signet_proxy::listener::ListenerSpec;
use signet_proxy::{Proxy, Running, StartError};

mod auth;
mod challenge;
mod context;
mod edge;
mod events;
mod head;
mod routes;

pub use edge::Edge;
pub use routes::Compiled;

/// Starts a data plane that may have a gateway's listeners; `inherited` are sockets for some of them, by their place.
///
/// The engine is generic over the edge, and so is made where that is named: here, where it is made to be fast. The rest of
/// the program is made to be small.
///
/// # Errors
/// An address that cannot be taken, a listener of the edge without an edge, no thread.
pub fn start(
    proxy: Proxy<Edge>,
    listeners: Vec<ListenerSpec>,
    inherited: HashMap<usize, Vec<OwnedFd>>,
) -> Result<Running, StartError> {
    proxy.start_with(listeners, inherited)
}
