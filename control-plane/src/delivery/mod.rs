//! What each sidecar is told, and nothing more.
//!
//! [`catalog`] holds everything that could be sent and decides who may have what; [`session`] makes
//! deltas of it and follows their answers; both are pure. [`stream`] is the gRPC shell around them, and
//! [`table`] remembers who is connected.

pub mod catalog;
mod convert;
pub mod session;
pub mod stream;
pub mod table;

pub(crate) use convert::bundle;
