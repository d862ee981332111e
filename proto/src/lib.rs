//! Signet's own protocol, generated from `signet/v1/*.proto`, and the standard ones that it serves.
//!
//! Nothing here is written by hand: conversions to the domain's types live in one `convert.rs` of
//! each consumer, so that a change to the wire shows up in one file per side.

#![allow(clippy::all, clippy::disallowed_methods, unreachable_pub)]

pub mod v1 {
    tonic::include_proto!("signet.v1");
}

/// How clients of Istio's authority ask for a certificate; served beside our own protocol.
pub mod istio {
    tonic::include_proto!("istio.v1.auth");
}
