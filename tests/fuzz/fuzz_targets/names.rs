//! Names of headers: what is the mesh's own is so in every spelling, and nothing of it passes edits that do not say so, over
//! HTTP/1 or HTTP/2. The lines are names, each with a value behind a colon.
#![no_main]

#[path = "../bodies/names.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::body(bytes));
