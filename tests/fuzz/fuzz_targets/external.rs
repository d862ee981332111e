//! Answers of authorisation providers.
#![no_main]

#[path = "../bodies/external.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::body(bytes));
