//! What policies decide, and why. One program, since each costs a build of its own.

#[path = "../common/mod.rs"]
mod common;
mod decide;
mod docs;
mod exceptions;
mod explain;
mod external;
mod reference;
mod when;
