//! The fuzz targets of this crate, bounded and the same in every run; the open-ended run is `tests/fuzz`.

#[path = "../../../tests/fuzz/replay.rs"]
mod replay;

#[path = "../../../tests/fuzz/bodies"]
mod bodies {
    pub(crate) mod crl;
    pub(crate) mod spiffe_id;
    pub(crate) mod svid_chain;
}

use replay::replay;

#[test]
fn a_revocation_list_that_is_taken_is_handed_on_byte_for_byte() {
    replay("crl", 10_000, bodies::crl::body);
}

#[test]
fn a_spiffe_id_that_is_taken_is_what_came() {
    replay("spiffe_id", 20_000, bodies::spiffe_id::body);
}

#[test]
fn a_chain_that_is_taken_names_a_workload() {
    replay("svid_chain", 10_000, bodies::svid_chain::body);
}
