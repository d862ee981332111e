//! No bytes panic the peek, and more bytes never take back what a hello said.
#![no_main]

#[path = "../bodies/client_hello.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::body(bytes));
