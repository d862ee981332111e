//! The control plane's side of this process: dialling it, and what it tells us.
//!
//! * [`link`]: one connection; [`plane`]: the shared one, under the current credentials.
//! * [`convert`]: messages to domain types, the only file that knows both.
//! * [`delivery`]: what we were told, delta by delta, pure; [`stream`]: the stream that brings it.

pub mod convert;
pub mod delivery;
pub mod heads;
mod hops;
pub mod link;
pub mod plane;
pub mod refused;
pub mod stream;
pub mod witness;
