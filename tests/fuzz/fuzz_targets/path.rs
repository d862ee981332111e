//! A canonical path is its own canon, a valid `http` path, and hides neither a dot segment nor a slash.
#![no_main]

#[path = "../bodies/path.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::body(bytes));
