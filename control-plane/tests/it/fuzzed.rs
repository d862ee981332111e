//! The fuzz target of this crate, bounded and the same in every run; the open-ended run is `tests/fuzz`.

#[path = "../../../tests/fuzz/replay.rs"]
mod replay;

#[path = "../../../tests/fuzz/bodies/token_review.rs"]
mod token_review;

#[test]
fn an_answer_about_a_token_names_nobody_unless_it_speaks_of_ours() {
    replay::replay("token_review", 10_000, token_review::body);
}
