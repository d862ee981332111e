//! No bytes panic the reader of chains. A two-byte length stands before each certificate; what is taken names a
//! workload, and its dates and names can be looked at.
#![no_main]

#[path = "../bodies/svid_chain.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::body(bytes));
