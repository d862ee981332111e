//! The registry as a cluster has it: lists and watches of an API server, kept current while the process runs.
//!
//! [`reflect`] follows each kind and puts what it hears into the [`store`]; whenever something changed that counts,
//! [`source`] makes a registry of all of it (`signet_kubernetes::translate` says how) and hands it on as a folder would.
//! [`status`] writes what came of each object into its status, on one control plane at a time: the one that [`lease`] says.
//! That one looks for pods that should be in the mesh and are not, too ([`members`]).
//! [`api`] is the client, of a crate of its own, which attestation uses as well.
//!
//! What it never does: serve before every kind that can forbid something has been listed once, take an API server's
//! silence, or its word that a kind is not there, for the end of objects that it knew, or let one broken object hold up
//! another.

pub mod config;
pub mod lease;
pub mod members;
pub mod metrics;
pub mod reflect;
pub mod source;
pub mod status;
pub mod store;

pub use signet_apiserver::api;
