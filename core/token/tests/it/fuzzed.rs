//! The fuzzer's targets without a fuzzer.

#[path = "../../../../tests/fuzz/bodies/jwks.rs"]
mod jwks;
#[path = "../../../../tests/fuzz/bodies/jwt.rs"]
mod jwt;
#[path = "../../../../tests/fuzz/replay.rs"]
mod replay;

#[test]
fn tokens_that_nobody_signed() {
    replay::replay("jwt", 20_000, jwt::body);
}

#[test]
fn key_sets() {
    replay::replay("jwks", 20_000, jwks::body);
}
