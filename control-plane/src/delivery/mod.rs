//! What each sidecar is told, and nothing more.
//!
//! [`catalog`] holds everything that could be sent and decides who may have what; [`session`] makes
//! deltas of it and follows their answers; both are pure. [`stream`] is the gRPC shell around them,
//! [`table`] remembers who is connected, [`acks`] hands on who goes by which bundle of roots and keys,
//! and [`spread`] measures how long revocations take.

pub mod acks;
pub mod catalog;
mod convert;
pub mod session;
pub mod spread;
pub mod stream;
pub mod table;

pub(crate) use convert::bundle;
