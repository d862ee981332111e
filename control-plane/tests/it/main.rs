//! The control plane from outside: real sockets, a real authority, real clients.

mod attacks;
mod delivery;
mod docs;
mod harness;
mod joining;
mod keys;
mod operator;
#[path = "../../../ca/tests/support/softhsm.rs"]
mod softhsm;
mod token;
