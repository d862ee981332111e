//! Whatever requests we accept, hyper reads the same, as they came and as we forward them.
#![no_main]

#[path = "../bodies/h1_request_vs_hyper.rs"]
mod body;
#[allow(dead_code)]
#[path = "../../../sidecar/wire/tests/differential/readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::body(bytes));
