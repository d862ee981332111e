//! The control plane from outside: real sockets, a real authority, real clients.

mod attacks;
mod audit;
mod delivery;
mod docs;
mod federation;
mod harness;
mod istio;
mod joining;
mod keys;
mod kubernetes;
mod operator;
mod operators;
#[path = "../../../ca/tests/support/softhsm.rs"]
mod softhsm;
mod token;
mod workloads;
