//! The control plane from outside: real sockets, a real authority, real clients.

mod attacks;
mod audit;
mod delivery;
mod docs;
mod harness;
mod joining;
mod keys;
mod operator;
mod operators;
#[path = "../../../ca/tests/support/softhsm.rs"]
mod softhsm;
mod token;
mod workloads;
