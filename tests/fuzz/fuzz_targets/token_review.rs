//! The API server's answer to a TokenReview: whatever the bytes, no panic, and nobody is named unless our token and our
//! audience stand in it.
#![no_main]

#[path = "../bodies/token_review.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::body(bytes));
