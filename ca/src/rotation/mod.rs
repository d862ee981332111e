//! How one authority follows another: the rotation of roots, issuers, token keys and JWT keys.
//!
//! [`machine`] is pure: it looks at the journal (a [`Slot`] for each authority), at what is known of the fleet
//! ([`Facts`]) and at the clock, and names the one step that is due, or none. It keeps nothing in between, so a
//! process that died after any write goes on where the journal stands. [`drive`] asks it until none is; [`steps`] performs them, each
//! as one transaction of the store; [`force`] opens the keys that the journal says are in force, and makes the [`view`]
//! that everybody else goes by; [`material`] is what belongs to a slot beside its phase (certificate, public key).
//!
//! What it promises: a root is in every live sidecar's bundle, or that sidecar was given up on past the deadline,
//! before anything is signed under it; a root leaves the bundle only when nothing that it vouches for can still be
//! valid (or it is tainted and its successor has replaced what it signed); the last root never leaves.

mod drive;
mod force;
pub(crate) mod machine;
pub(crate) mod material;
mod operate;
pub(crate) mod steps;
pub(crate) mod view;

pub use machine::{Kind, Phase, RotationConfig};
pub use view::{Published, SlotStatus};

#[cfg(test)]
mod simulation;
