//! Whatever answer we accept, hyper reads the same, as it came and as we forward it. The first byte says what was asked.
#![no_main]

#[path = "../bodies/h1_response_vs_hyper.rs"]
mod body;
#[allow(dead_code)]
#[path = "../../../sidecar/wire/tests/differential/readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::body(bytes));
