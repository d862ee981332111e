//! The fuzz targets of this crate, bounded and the same in every run; the open-ended run is `tests/fuzz`.

#[path = "../../../tests/fuzz/replay.rs"]
mod replay;

#[allow(dead_code)]
#[path = "differential/readers.rs"]
mod readers;

#[path = "../../../tests/fuzz/bodies"]
mod bodies {
    pub(crate) mod client_hello;
    pub(crate) mod first_bytes;
    pub(crate) mod forwarded;
    pub(crate) mod grpc;
    pub(crate) mod h1_request_vs_hyper;
    pub(crate) mod h1_response_vs_hyper;
    pub(crate) mod h2_head;
    pub(crate) mod names;
    pub(crate) mod path;
}

use replay::replay;

#[test]
fn no_client_hello_takes_back_what_its_beginning_said() {
    replay("client_hello", 100_000, bodies::client_hello::body);
}

#[test]
fn first_bytes_say_the_same_wherever_they_are_cut() {
    replay("first_bytes", 20_000, bodies::first_bytes::body);
}

#[test]
fn no_name_forges_a_pair_of_the_callers_header() {
    replay("forwarded", 30_000, bodies::forwarded::body);
}

#[test]
fn what_grpc_says_in_headers_is_bounded_and_read_back() {
    replay("grpc", 100_000, bodies::grpc::body);
}

#[test]
fn requests_are_read_as_hyper_reads_them() {
    replay("h1_request_vs_hyper", 20_000, bodies::h1_request_vs_hyper::body);
}

#[test]
fn answers_are_read_as_hyper_reads_them() {
    replay("h1_response_vs_hyper", 20_000, bodies::h1_response_vs_hyper::body);
}

#[test]
fn an_http2_head_that_is_taken_is_canonical_and_stays_so() {
    replay("h2_head", 50_000, bodies::h2_head::body);
}

#[test]
fn the_meshs_own_names_pass_in_no_spelling() {
    replay("names", 20_000, bodies::names::body);
}

#[test]
fn a_path_that_is_taken_hides_nothing() {
    replay("path", 100_000, bodies::path::body);
}
