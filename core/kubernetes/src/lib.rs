//! Kubernetes as Signet reads and writes it.
//!
//! [`translate`] makes the registry's resources of a cluster's objects, and says of each object what became of it;
//! [`inject`] makes a pod one of the mesh. Both are pure: what is read comes as values, what is to be done goes out as
//! values. Who asks an API server, or answers one, lives in the control plane; the command line calls the same functions
//! on files. [`kinds`] are the kinds that the registry follows, [`rbac`] the rights that this takes.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

#[cfg(feature = "crd")]
pub mod crd;
pub mod inject;
pub mod kinds;
pub mod rbac;
#[cfg(feature = "crd")]
pub mod reference;
pub mod translate;
