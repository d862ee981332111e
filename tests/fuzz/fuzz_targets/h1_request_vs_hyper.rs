//! Whatever requests we accept, hyper reads the same, as they came and as we forward them.
#![no_main]

#[allow(dead_code)]
#[path = "../../../sidecar/wire/tests/differential/readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|wire: &[u8]| {
    if wire.len() <= 16 * 1024 {
        readers::compare_requests(wire);
    }
});
