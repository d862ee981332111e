//! No bytes panic the reader of revocation lists, and what it takes is handed on byte for byte and reads the same again.
#![no_main]

#[path = "../bodies/crl.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::body(bytes));
