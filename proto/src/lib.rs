//! Signet's own protocol, generated from `signet/v1/*.proto`.
//!
//! Nothing here is written by hand: conversions to the domain's types live in one `convert.rs` of
//! each consumer, so that a change to the wire shows up in one file per side.

#![allow(clippy::all, clippy::disallowed_methods, unreachable_pub)]

/// What the `.proto` files say, as a `FileDescriptorSet`: for those who must know of every call that there is.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/signet.v1.bin"));

pub mod v1 {
    tonic::include_proto!("signet.v1");
}
