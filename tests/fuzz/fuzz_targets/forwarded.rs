//! The header that names the calling workload: no value panics its reader, what is read is written so that it reads the
//! same, and no name in it forges a pair or an element.
#![no_main]

#[path = "../bodies/forwarded.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::body(bytes));
