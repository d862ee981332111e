//! No bytes panic the reader of SPIFFE IDs; what it takes is what came, in the alphabet of the standard, and reads back.
#![no_main]

#[path = "../bodies/spiffe_id.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::body(bytes));
