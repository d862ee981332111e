//! The fuzz target of this crate, bounded and the same in every run; the open-ended run is `tests/fuzz`.

#[path = "../../../tests/fuzz/replay.rs"]
mod replay;

#[path = "../../../tests/fuzz/bodies/bundle.rs"]
mod bundle;

#[test]
fn a_document_that_is_read_is_written_so_that_it_is_read_again() {
    replay::replay("bundle", 10_000, bundle::body);
}
