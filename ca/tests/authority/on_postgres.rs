//! The tests of the authority with its store in PostgreSQL, and those of several control planes on one.

mod attested;
mod audit;
mod backup;
mod crl;
mod exchange;
mod external;
mod harness;
mod hierarchy;
mod issuance;
mod join;
mod log;
mod operators;
mod pitfalls;
mod recovery;
mod renewal;
mod replicas;
mod revocation;
mod roles;
mod rotation;
mod server;
mod shared_keys;
mod sharing;
mod store;
mod vouched;

use harness::*;

const ON_POSTGRES: bool = true;
