//! The head of an HTTP/2 request: what is taken is canonical, is passed on as what was judged, and reads as the same again.
//! The first line is method, scheme, authority and path by blanks; each other one a field.
#![no_main]

#[path = "../bodies/h2_head.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::body(bytes));
