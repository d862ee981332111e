//! The fuzz target of this crate, bounded and the same in every run; the open-ended run is `tests/fuzz`.

#[path = "../../../tests/fuzz/replay.rs"]
mod replay;

#[path = "../../../tests/fuzz/bodies/external.rs"]
mod external;

#[test]
fn no_answer_of_a_provider_says_more_than_its_lists_name() {
    replay::replay("external", 20_000, external::body);
}
