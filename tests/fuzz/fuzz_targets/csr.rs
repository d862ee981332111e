//! No bytes panic the reader of certificate requests, and the key that it takes is the one that stands in them.
#![no_main]

#[path = "../bodies/csr.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::body(bytes, signet_ca::fuzzing::key_of_request));
