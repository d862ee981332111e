//! Tokens that nobody signed.
#![no_main]

#[path = "../bodies/jwt.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::body(bytes));
