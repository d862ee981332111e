//! The fuzz target of this crate, bounded and the same in every run; the open-ended run is `tests/fuzz`.

#[path = "../../tests/fuzz/replay.rs"]
mod replay;

#[path = "../../tests/fuzz/bodies/csr.rs"]
mod csr;

#[test]
fn the_key_that_is_taken_from_a_request_stands_in_it() {
    replay::replay("csr", 3_000, |bytes| {
        csr::body(bytes, |der, ed25519| {
            crate::csr::ProvenKey::from_csr_allowing(der, ed25519)
                .map(|key| rcgen::PublicKeyData::der_bytes(&key).to_vec())
        });
    });
}
