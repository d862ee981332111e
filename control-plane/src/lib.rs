//! The control plane: who may join, what each sidecar is told, and by whom it is told.
//!
//! One process. A folder of YAML ([`registry`]), or a cluster's objects ([`cluster`]), say what the mesh is; the authority (`signet-ca`) says who
//! is who; [`issuers`] fetches outside issuers' keys, [`federation`] the bundles of other trust domains. Whenever
//! one of them changes, [`world`] makes one consistent snapshot of them, and [`delivery`] sends each sidecar the part that its identity may have.
//!
//! Three doors, apart ([`listen`]): *bootstrap*, where strangers become somebody and nothing else is
//! served; *mesh*, mutual TLS, everything else; the *operator's* Unix socket. Two more, only where they are asked for: one
//! for clients of [`istio`]'s authority, and one ([`bundle`]) that hands other trust domains our public bundle.
//! [`attest`] is what pods prove themselves by. [`services`] is what stands
//! behind each door, and [`operators`] who may do what behind two of them. [`run`] puts the parts together and takes them down again.
//!
//! What it never does: decide on a name that a request states (the TLS peer is who calls), serve half of
//! a configuration, or keep a connection whose certificate has ended or was revoked.

pub mod attest;
mod backup;
pub mod bundle;
pub mod chains;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod decisions;
pub mod delivery;
pub mod federation;
pub mod fetch;
pub mod intake;
pub mod issuers;
pub mod istio;
pub mod listen;
pub mod metrics;
mod observe;
pub mod operators;
pub mod own;
pub mod registrar;
pub mod registry;
pub mod run;
pub mod services;
mod store;
mod waiting;
pub mod webhook;
pub mod world;
