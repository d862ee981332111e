//! What a connection speaks is the same wherever its first bytes were cut, and is never taken back; and a request that is
//! carried as bytes is known as one by its first line in any two pieces.
#![no_main]

#[path = "../bodies/first_bytes.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::body(bytes));
