//! Key sets of an issuer.
#![no_main]

#[path = "../bodies/jwks.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::body(bytes));
