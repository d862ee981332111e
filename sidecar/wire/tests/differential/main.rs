//! The codec against hyper: a bounded, seeded run over generated messages, and the kept corpus. The open-ended run is
//! `tests/fuzz`.
//!
//! Where we are stricter, on purpose (`hyper_takes_what_we_refuse` keeps the list honest):
//! * chunk extensions, white space around a chunk's size: RFC 9112 allows them, parsers disagree about their end;
//! * equal `Content-Length` twice, `Content-Length` with `Transfer-Encoding`: RFC 9112 lets a server repair them;
//! * codings before `chunked`, or `chunked` in other case: nobody sends them, smugglers do;
//! * a bare LF as a line's end;
//! * a missing, doubled or odd `Host`, an absolute target that disagrees with it, CONNECT;
//! * paths that two servers could understand differently (see `canon`);
//! * single-valued headers twice, an expectation that is unknown, an empty line too many before a request.
mod generate;
mod readers;

use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed, TestRunner},
};
use readers::{
    compare_requests, compare_response, hypers_requests, hypers_response, our_requests, our_response,
};
use signet_wire::h1::Asked;

const GET: Asked = Asked { head: false, connect: false, websocket: false };

/// Bounded and the same in every run: a failure here is a change of ours.
fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        rng_seed: RngSeed::Fixed(0x5167),
        failure_persistence: None,
        ..Config::default()
    })
}

#[test]
fn every_request_that_we_accept_is_read_by_hyper_the_same() {
    let accepted = std::cell::Cell::new(0);
    runner(4000)
        .run(&generate::requests(), |wire| {
            accepted.set(accepted.get() + compare_requests(&wire));
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert!(accepted.get() > 800, "the generator makes too few valid requests: {}", accepted.get());
}

#[test]
fn every_answer_that_we_accept_is_read_by_hyper_the_same() {
    let asked = prop_oneof![
        4 => Just(GET),
        1 => Just(Asked { head: true, ..GET }),
        1 => Just(Asked { connect: true, ..GET }),
        1 => Just(Asked { websocket: true, ..GET }),
    ];
    let accepted = std::cell::Cell::new(0);
    runner(4000)
        .run(&(generate::responses(), asked), |(wire, asked)| {
            accepted.set(accepted.get() + compare_response(&wire, asked));
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert!(accepted.get() > 800, "the generator makes too few valid answers: {}", accepted.get());
}

fn corpus(kind: &str) -> Vec<(String, Vec<u8>)> {
    let folder = format!("{}/tests/corpus/{kind}", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.display().to_string(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn the_kept_corpus_is_read_the_same_or_refused() {
    let requests = corpus("request");
    assert!(requests.len() > 20);
    for (file, wire) in requests {
        let accepted = compare_requests(&wire);
        assert_eq!(accepted > 0, file.contains("ok-"), "{file}: {accepted} accepted");
    }
    let responses = corpus("response");
    assert!(responses.len() > 8);
    for (file, wire) in responses {
        let accepted = compare_response(&wire, GET);
        assert_eq!(accepted > 0, file.contains("ok-"), "{file}: {accepted} accepted");
    }
}

#[test]
fn hyper_takes_what_we_refuse() {
    for wire in [
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\nHost: x\n\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        "GET http://y/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /a/../b HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        assert_eq!(hypers_requests(wire.as_bytes()).len(), 1, "hyper no longer takes {wire:?}");
        let ours = our_requests(wire.as_bytes());
        assert!(ours.messages.is_empty() && ours.refused, "we take {wire:?}");
    }
    for wire in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    ] {
        assert!(hypers_response(wire.as_bytes(), GET).is_some(), "hyper no longer takes {wire:?}");
        let ours = our_response(wire.as_bytes(), GET);
        assert!(ours.messages.is_empty() && ours.refused, "we take {wire:?}");
    }
}
