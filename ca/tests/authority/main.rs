//! The authority, used as its callers use it: opened on a directory, asked over its public functions, and
//! looked at by independent eyes. Here with its store in SQLite; `on_postgres.rs` is the same with PostgreSQL.

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
mod keys;
mod log;
mod operators;
mod pitfalls;
mod recovery;
mod renewal;
mod requests;
mod revocation;
mod rotation;
mod server;
mod shared_keys;
mod sharing;
#[path = "../support/softhsm.rs"]
mod softhsm;
mod sqlite_file;
mod store;
mod verifiers;
mod vouched;
mod workload;

use harness::*;

const ON_POSTGRES: bool = false;
