//! The control plane from outside: real sockets, a real authority, real clients.

mod attacks;
mod audit;
mod chains;
mod chart;
mod cluster;
mod delivery;
mod docs;
mod federation;
mod fuzzed;
mod harness;
mod istio;
mod joining;
mod keys;
mod kubernetes;
mod operator;
mod operators;
mod processes;
mod roots;
#[path = "../../../ca/tests/support/softhsm.rs"]
mod softhsm;
mod token;
mod webhook;
mod workloads;
