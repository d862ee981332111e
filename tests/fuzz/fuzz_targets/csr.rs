//! No bytes panic the reader of certificate requests, and the key that it takes is the one that stands in them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for ed25519 in [false, true] {
        if let Ok(key) = signet_ca::fuzzing::key_of_request(bytes, ed25519) {
            assert!(bytes.windows(key.len()).any(|window| window == key));
        }
    }
});
