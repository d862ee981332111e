//! The fuzz target of this crate, bounded and the same in every run; the open-ended run is `tests/fuzz`.

#[path = "../../../tests/fuzz/replay.rs"]
mod replay;

#[path = "../../../tests/fuzz/bodies/policy.rs"]
mod policy;

#[test]
fn a_condition_that_is_read_decides_what_it_explains() {
    replay::replay("policy", 20_000, policy::body);
}
