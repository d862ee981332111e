//! A whole mesh of real processes, seen from outside: each module is one of the things it promises.

mod agent;
mod backup;
mod bootstrap;
mod calls;
mod context;
mod crash;
mod delivery;
mod demo;
mod edge;
mod federation;
mod fleet;
mod handover;
mod killed;
mod lifecycle;
mod memory;
mod migrate;
mod minting;
mod pair;
mod pods;
mod readme;
mod recovery;
mod revocation;
mod rotation;
mod stale;
mod traffic;
mod witness;
