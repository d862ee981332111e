//! What gRPC says in headers: a timeout is read within its bounds and written no longer than it was, and a message is
//! written in printable ASCII from which it can be read back.
#![no_main]

#[path = "../bodies/grpc.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::body(bytes));
