//! RFC 9112 and RFC 9110 by clause, for HTTP/1.0 and 1.1, with bare sockets on both sides of the pair.
//!
//! Where the pair is stricter than the standard demands, the case says `stricter` and what the standard would allow: two readers
//! could understand such a message differently, and somebody behind the pair would be one of them.

use signet_tests::client::raw;
use signet_tests::process::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::raw_app::{RawApp, Reply};
use crate::scene::Scene;

/// What must come of a request.
enum Expected {
    /// One answer with this status, the end of the connection, and nothing at the app.
    Refused(u16),
    /// The app gets these lines (the first one is the request line) and this body, and none of the lines that are left out.
    Arrives { lines: &'static [&'static str], lacks: &'static [&'static str], body: &'static str },
    /// The connection ends without an answer that looks whole, and the app gets no whole request.
    Cut,
}
use Expected::{Cut, Refused};

const fn arrives(lines: &'static [&'static str]) -> Expected {
    Expected::Arrives { lines, lacks: &[], body: "" }
}

const fn with_body(lines: &'static [&'static str], body: &'static str) -> Expected {
    Expected::Arrives { lines, lacks: &[], body }
}

const fn without(lines: &'static [&'static str], lacks: &'static [&'static str]) -> Expected {
    Expected::Arrives { lines, lacks, body: "" }
}

/// Requests: section, what it is, the bytes, what must come of them.
const REQUESTS: &[(&str, &str, &[u8], Expected)] = &[
    ("9112 2.2", "an empty line in front", b"\r\nGET /a HTTP/1.1\r\nhost: x\r\n\r\n", arrives(&["GET /a HTTP/1.1"])),
    ("9112 2.2", "lines that end in LF alone (stricter: a server may take them)", b"GET / HTTP/1.1\nhost: x\n\n", Refused(400)),
    ("9112 2.2", "a CR by itself", b"GET / HTTP/1.1\r\nhost: x\r\nx-a: a\rb\r\n\r\n", Refused(400)),
    ("9112 2.2", "white space in front of the first field", b"GET / HTTP/1.1\r\n host: x\r\n\r\n", Refused(400)),
    ("9112 2.2", "a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", Refused(400)),
    ("9112 2.3", "HTTP/0.9", b"GET /\r\n\r\n", Refused(400)),
    ("9112 2.3", "a version in small letters", b"GET / http/1.1\r\nhost: x\r\n\r\n", Refused(400)),
    ("9112 2.3", "HTTP/1.2 (stricter: it would be taken as 1.1)", b"GET / HTTP/1.2\r\nhost: x\r\n\r\n", Refused(505)),
    ("9112 2.3", "HTTP/2.0 in text", b"GET / HTTP/2.0\r\nhost: x\r\n\r\n", Refused(505)),
    ("9113 3.4", "HTTP/2's preface at an HTTP/1 port", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refused(505)),
    ("9112 3", "two spaces", b"GET  / HTTP/1.1\r\nhost: x\r\n\r\n", Refused(400)),
    ("9112 3", "a tab for a space", b"GET\t/ HTTP/1.1\r\nhost: x\r\n\r\n", Refused(400)),
    ("9112 3", "a space behind the version", b"GET / HTTP/1.1 \r\nhost: x\r\n\r\n", Refused(400)),
    ("9112 3", "a space in the target", b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n", Refused(400)),
    ("9112 3.1", "a method is case-sensitive", b"get / HTTP/1.1\r\nhost: x\r\n\r\n", arrives(&["get / HTTP/1.1"])),
    ("9112 3.1", "a method of the app's own", b"M-SEARCH / HTTP/1.1\r\nhost: x\r\n\r\n", arrives(&["M-SEARCH / HTTP/1.1"])),
    ("9112 3.1", "a method that is no token", b"GE(T / HTTP/1.1\r\nhost: x\r\n\r\n", Refused(400)),
    ("9112 3.2", "no Host", b"GET / HTTP/1.1\r\n\r\n", Refused(400)),
    ("9112 3.2", "two Host", b"GET / HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n", Refused(400)),
    ("9112 3.2", "a Host that is none", b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n", Refused(400)),
    ("9112 3.2", "an empty Host (stricter: a target without authority may have one)", b"GET / HTTP/1.1\r\nhost:\r\n\r\n", Refused(400)),
    ("9112 3.2", "user information in Host", b"GET / HTTP/1.1\r\nhost: a@x\r\n\r\n", Refused(400)),
    ("9112 3.2", "HTTP/1.0 without Host", b"GET /a HTTP/1.0\r\n\r\n", arrives(&["GET /a HTTP/1.1", "host: server.shop"])),
    ("9112 3.2.1", "origin form with a query", b"GET /a?b=c&d HTTP/1.1\r\nhost: x\r\n\r\n", arrives(&["GET /a?b=c&d HTTP/1.1", "host: x"])),
    ("9112 3.2.2", "absolute form", b"GET http://x/a?b HTTP/1.1\r\nhost: x\r\n\r\n", arrives(&["GET /a?b HTTP/1.1", "host: x"])),
    ("9112 3.2.2", "absolute form without a path", b"GET http://x?b HTTP/1.1\r\nhost: x\r\n\r\n", arrives(&["GET /?b HTTP/1.1", "host: x"])),
    ("9112 3.2.2", "absolute form and another Host (stricter: the target would win)", b"GET http://x/ HTTP/1.1\r\nhost: y\r\n\r\n", Refused(400)),
    ("9112 3.2.3", "CONNECT", b"CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\n\r\n", Refused(405)),
    ("9112 3.2.3", "authority form for another method", b"GET x:443 HTTP/1.1\r\nhost: x:443\r\n\r\n", Refused(400)),
    ("9112 3.2.4", "asterisk form for another method", b"GET * HTTP/1.1\r\nhost: x\r\n\r\n", Refused(400)),
    ("9112 5", "an empty value, and one of bytes beyond ASCII", b"GET / HTTP/1.1\r\nhost: x\r\nx-e:\r\nx-o: caf\xc3\xa9\r\n\r\n", arrives(&["GET / HTTP/1.1", "x-e:", "x-o: caf\u{e9}"])),
    ("9112 5", "fields of one name stay in their order", b"GET / HTTP/1.1\r\nhost: x\r\nx-a: 1\r\nx-b: 2\r\nX-A: 3\r\n\r\n", arrives(&["GET / HTTP/1.1", "x-a: 1", "x-b: 2", "X-A: 3"])),
    ("9112 5.1", "white space between name and colon", b"GET / HTTP/1.1\r\nhost: x\r\nx-a : b\r\n\r\n", Refused(400)),
    ("9112 5.1", "a line without a colon", b"GET / HTTP/1.1\r\nhost: x\r\nx-a\r\n\r\n", Refused(400)),
    ("9112 5.1", "an empty name", b"GET / HTTP/1.1\r\nhost: x\r\n: b\r\n\r\n", Refused(400)),
    ("9112 5.1", "a name with a control character", b"GET / HTTP/1.1\r\nhost: x\r\nx\x01a: b\r\n\r\n", Refused(400)),
    ("9112 5.2", "a folded field", b"GET / HTTP/1.1\r\nhost: x\r\nx-a: b\r\n\tc\r\n\r\n", Refused(400)),
    ("9110 5.5", "NUL in a value", b"GET / HTTP/1.1\r\nhost: x\r\nx-a: b\0c\r\n\r\n", Refused(400)),
    ("9112 6.1", "Transfer-Encoding and Content-Length", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("9112 6.1", "a coding that nobody knows (stricter: 501 would do)", b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: br, chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("9112 6.1", "chunked not last", b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", Refused(400)),
    ("9112 6.1", "Transfer-Encoding in HTTP/1.0", b"POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("9112 6.2", "a body by its length", b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello", with_body(&["POST /a HTTP/1.1", "content-length: 5"], "hello")),
    ("9112 6.2", "a length of 0", b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", arrives(&["POST /a HTTP/1.1", "content-length: 0"])),
    ("9112 6.2", "a GET with a body", b"GET /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi", with_body(&["GET /a HTTP/1.1", "content-length: 2"], "hi")),
    ("9112 6.2", "two lengths that agree (stricter: they may be taken as one)", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello", Refused(400)),
    ("9112 6.2", "two lengths that differ", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello", Refused(400)),
    ("9112 6.2", "a negative length", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\nhello", Refused(400)),
    ("9112 6.2", "a length beyond 64 bits", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 18446744073709551621\r\n\r\nhello", Refused(400)),
    ("9112 6.3", "a POST without framing has no body", b"POST /a HTTP/1.1\r\nhost: x\r\n\r\n", arrives(&["POST /a HTTP/1.1"])),
    ("9112 6.3", "a body that ends before its length", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhel", Cut),
    ("9112 7.1", "chunks", b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n00A\r\n0123456789\r\n0\r\n\r\n", with_body(&["POST /a HTTP/1.1", "transfer-encoding: chunked"], "3\r\nabc\r\n00A\r\n0123456789\r\n0\r\n\r\n")),
    ("9112 7", "a coding's name is case-insensitive (stricter: only `chunked` as it stands)", b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("9112 7.1", "a size that is none", b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nxy\r\n", Cut),
    ("9112 7.1", "a size beyond 64 bits", b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n", Cut),
    ("9112 7.1", "data longer than its size", b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n", Cut),
    ("9112 7.1", "chunks that end before the last one", b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", Cut),
    ("9112 7.1.1", "a chunk extension (stricter: a recipient would ignore it)", b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n", Cut),
    ("9112 7.1.2", "trailers, without those that may not be there", b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\ncontent-length: 9\r\nauthorization: b\r\n\r\n", with_body(&["POST /a HTTP/1.1"], "3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n")),
    ("9112 7.1.2", "a trailer that is folded", b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-sum: 1\r\n 2\r\n\r\n", Cut),
    ("9110 7.6.1", "what Connection names goes no further", b"GET / HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nte: trailers\r\nx-end: 2\r\n\r\n", without(&["GET / HTTP/1.1", "x-end: 2"], &["x-hop:", "keep-alive:", "proxy-connection:"])),
    ("9110 7.6.1", "Connection takes away nothing by which somebody decides", b"POST / HTTP/1.1\r\nhost: x\r\nconnection: host, authorization, content-length\r\nauthorization: Basic eA==\r\ncontent-length: 2\r\n\r\nhi", with_body(&["POST / HTTP/1.1", "host: x", "authorization: Basic eA==", "content-length: 2"], "hi")),
    // The pair stands for the app and not beside it, so it is no hop that anybody counts or names.
    ("9110 7.6.2", "Max-Forwards is the app's to answer (known: an intermediary would count it down)", b"OPTIONS /a HTTP/1.1\r\nhost: x\r\nmax-forwards: 0\r\n\r\n", arrives(&["OPTIONS /a HTTP/1.1", "max-forwards: 0"])),
    ("9110 7.6.3", "Via stays as it came (known: an intermediary would add itself)", b"GET / HTTP/1.1\r\nhost: x\r\nvia: 1.1 edge\r\n\r\n", arrives(&["GET / HTTP/1.1", "via: 1.1 edge"])),
    ("9110 7.8", "an upgrade to h2c is not passed on", b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n", without(&["GET / HTTP/1.1"], &["upgrade:", "http2-settings:", "connection:"])),
    ("9110 7.8", "an upgrade to a protocol of the app's own is not passed on", b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: IRC/6.9\r\n\r\n", without(&["GET / HTTP/1.1"], &["upgrade:"])),
    ("9110 9.3.8", "TRACE", b"TRACE /a HTTP/1.1\r\nhost: x\r\n\r\n", arrives(&["TRACE /a HTTP/1.1"])),
    ("9110 10.1.1", "an expectation that nobody knows", b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 200-ok\r\ncontent-length: 2\r\n\r\nhi", Refused(417)),
];

#[tokio::test]
async fn every_clause_of_rfc_9112_that_a_client_can_violate_is_answered_as_it_says() {
    let app = RawApp::start(|_, _| Reply::ok()).await;
    let mut scene = Scene::start("http1", &app.address).await;
    let mut failures = Vec::new();
    for address in [&scene.outbound, &scene.gateway] {
        for (section, what, bytes, expected) in REQUESTS {
            let answer = String::from_utf8_lossy(&raw(address, bytes).await).into_owned();
            if let Err(came) = check(&answer, &app.take(), expected) {
                failures.push(format!("{section}: {what}: {came}: {answer:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    scene.mesh.assert_unharmed();
}

/// Whether it came as it must; else what is wrong.
fn check(answer: &str, arrived: &[String], expected: &Expected) -> Result<(), String> {
    let answers = answer.matches("HTTP/1.1 ").count();
    match expected {
        Refused(status) => {
            let line = format!("HTTP/1.1 {status} ");
            let alone = answer.starts_with(&line) && answers == 1 && arrived.is_empty();
            alone
                .then_some(())
                .ok_or(format!("expected {status} and nothing at the app, which got {arrived:?}"))
        }
        Cut => {
            let cut = answers <= 1 && !answer.starts_with("HTTP/1.1 200") && arrived.is_empty();
            cut.then_some(()).ok_or(format!("expected no whole request; the app got {arrived:?}"))
        }
        Expected::Arrives { lines, lacks, body } => {
            let [request] = arrived else {
                return Err(format!("expected one request, the app got {arrived:?}"));
            };
            let Some((head, came)) = request.split_once("\r\n\r\n") else { return Err("no head".into()) };
            let mut left = head.split("\r\n").map(str::trim_end);
            if lines.first() != head.split("\r\n").next().as_ref() {
                return Err(format!("another request line at the app: {head:?}"));
            }
            // In this order.
            if let Some(missing) = lines.iter().find(|line| !left.any(|came| came == **line)) {
                return Err(format!("the app got no {missing:?}: {head:?}"));
            }
            let lower = head.to_ascii_lowercase();
            if let Some(extra) = lacks.iter().find(|name| lower.contains(&format!("\r\n{name}"))) {
                return Err(format!("the app got {extra:?}: {head:?}"));
            }
            if came != *body {
                return Err(format!("another body at the app: {came:?}"));
            }
            (answer.starts_with("HTTP/1.1 200") && answers == 1)
                .then_some(())
                .ok_or("expected its answer".into())
        }
    }
}

/// What a client must get of an app's answer.
enum Passed {
    /// Exactly this much, head and body, whatever the case.
    Whole(&'static str),
    /// A 502 of ours.
    Invalid,
    /// The head and this of the body, and then not an end that looks whole.
    Broken(&'static str),
}
use Passed::{Broken, Invalid, Whole};

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nhost: x\r\n\r\n";
const OLD: &str = "GET / HTTP/1.0\r\nhost: x\r\n\r\n";
const OLD_KEPT: &str = "GET / HTTP/1.0\r\nhost: x\r\nconnection: keep-alive\r\n\r\n";
const LAST: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// Answers: section, what it is, the request, the app's bytes (after which it ends the connection), what the client must get.
const ANSWERS: &[(&str, &str, &str, &str, Passed)] = &[
    (
        "9112 6.3",
        "a length",
        GET,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Whole("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ),
    (
        "9112 6.3",
        "until the end of the connection",
        GET,
        "HTTP/1.1 200 OK\r\n\r\nall of it",
        Whole("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall of it"),
    ),
    (
        "9112 6.3",
        "chunks",
        GET,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Whole("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    ),
    (
        "9112 7.1.2",
        "trailers",
        GET,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\nset-cookie: a=b\r\n\r\n",
        Whole(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\nset-cookie: a=b\r\n\r\n",
        ),
    ),
    (
        "9112 7.1",
        "chunks to an HTTP/1.0 client",
        OLD,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 1\r\n\r\n",
        Whole("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabcde"),
    ),
    (
        "9112 9.3",
        "an HTTP/1.0 client's connection closes",
        OLD,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Whole("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"),
    ),
    (
        "9112 9.3",
        "unless it asks to keep it",
        OLD_KEPT,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Whole("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok"),
    ),
    (
        "9112 9.6",
        "a client that says close",
        LAST,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Whole("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"),
    ),
    (
        "9112 9.6",
        "an app that says close does not close the client's connection",
        GET,
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        Whole("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ),
    (
        "9110 7.6.1",
        "what the app's Connection names goes no further",
        GET,
        "HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\ncontent-length: 2\r\n\r\nok",
        Whole("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ),
    (
        "9110 9.3.2",
        "HEAD with a length",
        HEAD,
        "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
        Whole("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"),
    ),
    (
        "9110 9.3.2",
        "HEAD with chunks announced",
        HEAD,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        Whole("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
    ),
    (
        "9110 9.3.2",
        "HEAD answered with a body all the same",
        HEAD,
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nleak",
        Whole("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"),
    ),
    ("9110 15.3.5", "204", GET, "HTTP/1.1 204 No Content\r\n\r\n", Whole("HTTP/1.1 204 No Content\r\n\r\n")),
    (
        "9110 15.3.5",
        "204 with a body",
        GET,
        "HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nleak",
        Invalid,
    ),
    (
        "9110 15.4.5",
        "304 with the length that a 200 would have",
        GET,
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\n\r\n",
        Whole("HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\n\r\n"),
    ),
    (
        "9110 15.2",
        "100 that nobody asked for",
        GET,
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Whole("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ),
    (
        "8297 2",
        "103 twice, then the answer",
        GET,
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </b>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Whole(
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </b>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ),
    ),
    (
        "9110 15.2",
        "no 1xx to an HTTP/1.0 client",
        OLD,
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Whole("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"),
    ),
    (
        "9110 15.2",
        "a 1xx that announces a body",
        GET,
        "HTTP/1.1 103 Early Hints\r\ncontent-length: 4\r\n\r\nleakHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Invalid,
    ),
    (
        "9110 15.2.2",
        "101 that nobody asked for",
        GET,
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        Invalid,
    ),
    (
        "9112 4",
        "no reason",
        GET,
        "HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok",
        Whole("HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok"),
    ),
    (
        "9112 4",
        "a status of the app's own",
        GET,
        "HTTP/1.1 299 Fine\r\ncontent-length: 2\r\n\r\nok",
        Whole("HTTP/1.1 299 Fine\r\ncontent-length: 2\r\n\r\nok"),
    ),
    ("9112 4", "a status beyond 599", GET, "HTTP/1.1 600 No\r\ncontent-length: 2\r\n\r\nok", Invalid),
    ("9112 4", "a status of two digits", GET, "HTTP/1.1 20 No\r\ncontent-length: 2\r\n\r\nok", Invalid),
    ("9112 4", "what is not HTTP", GET, "SSH-2.0-OpenSSH_9.2\r\n", Invalid),
    (
        "9112 4",
        "an HTTP/1.0 app",
        GET,
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Whole("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ),
    (
        "9112 5.1",
        "white space between name and colon (stricter: a proxy would take it out)",
        GET,
        "HTTP/1.1 200 OK\r\nx-a : b\r\ncontent-length: 2\r\n\r\nok",
        Invalid,
    ),
    (
        "9112 5.2",
        "a folded field (stricter: a proxy would unfold it)",
        GET,
        "HTTP/1.1 200 OK\r\nx-a: b\r\n c\r\ncontent-length: 2\r\n\r\nok",
        Invalid,
    ),
    (
        "9112 2.2",
        "lines that end in LF alone (stricter)",
        GET,
        "HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
        Invalid,
    ),
    (
        "9112 6.1",
        "Transfer-Encoding and Content-Length",
        GET,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Invalid,
    ),
    (
        "9112 6.1",
        "a coding that nobody knows",
        GET,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        Invalid,
    ),
    (
        "9112 6.1",
        "Transfer-Encoding in HTTP/1.0",
        GET,
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        Invalid,
    ),
    (
        "9112 6.3",
        "two lengths that differ",
        GET,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        Invalid,
    ),
    ("9112 6.3", "a length that is none", GET, "HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok", Invalid),
    (
        "9112 8",
        "a body that ends before its length",
        GET,
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        Broken("half"),
    ),
    (
        "9112 8",
        "chunks that end before the last one",
        GET,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        Broken("4\r\nhalf\r\n"),
    ),
    ("9112 8", "a head that ends before its end", GET, "HTTP/1.1 200 OK\r\ncontent-le", Invalid),
    (
        "9112 9.2",
        "a second answer that nobody asked for",
        GET,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nleak",
        Whole("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ),
];

#[tokio::test]
async fn an_apps_answer_comes_as_it_was_meant_or_not_at_all() {
    let app = RawApp::start(|line, _| {
        match line.split(' ').nth(1).and_then(|path| path[1..].parse::<usize>().ok()) {
            Some(index) => Reply::of(ANSWERS[index].3).closing(),
            None => Reply::ok(),
        }
    })
    .await;
    let mut scene = Scene::start("http1", &app.address).await;
    let mut failures = Vec::new();
    for address in [&scene.outbound, &scene.gateway] {
        for (index, (section, what, request, _, passed)) in ANSWERS.iter().enumerate() {
            let request = request.replacen(" / ", &format!(" /{index} "), 1);
            let answer = String::from_utf8_lossy(&raw(address, request.as_bytes()).await).into_owned();
            let good = match passed {
                Whole(expected) => answer == *expected,
                Invalid => answer.starts_with("HTTP/1.1 502 ") && !answer.contains("leak"),
                // Whatever arrived of it, it does not look whole.
                Broken(most) => answer.split_once("\r\n\r\n").is_none_or(|(_, body)| most.starts_with(body)),
            };
            if !good {
                failures.push(format!("{section}: {what}: {answer:?}"));
            }
        }
        assert_eq!(raw(address, GET.as_bytes()).await, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    scene.mesh.assert_unharmed();
}

/// One connection of a client, spoken to a piece at a time.
struct Line {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Line {
    async fn open(address: &str) -> Self {
        Self { stream: TcpStream::connect(address).await.expect("connecting"), read: Vec::new() }
    }

    async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("the connection is open");
    }

    /// Waits until all of `text` has come, and nothing before it.
    async fn hears(&mut self, text: &str) {
        let heard = async {
            while self.read.len() < text.len() {
                assert!(
                    self.stream.read_buf(&mut self.read).await.unwrap_or(0) > 0,
                    "closed after {:?}",
                    self.read
                );
            }
        };
        timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("waited for {text:?}"));
        let came: Vec<u8> = self.read.drain(..text.len()).collect();
        assert_eq!(String::from_utf8_lossy(&came), text);
    }

    /// Waits for the end, with nothing before it.
    async fn ends(mut self) {
        let ended = timeout(PATIENCE, self.stream.read_to_end(&mut self.read)).await;
        assert!(ended.is_ok(), "the connection stays open");
        assert_eq!(String::from_utf8_lossy(&self.read), "");
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// RFC 9112, 9.3: one connection, one request after the other, on one connection to the app.
#[tokio::test]
async fn connections_are_kept_and_pipelined_requests_answered_in_order() {
    let app = RawApp::start(|line, before| {
        Reply::of(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line} {before}", line.len() + 2))
    })
    .await;
    let scene = Scene::start("http1", &app.address).await;
    let mut line = Line::open(&scene.outbound).await;
    let echo = |path: &str, before: usize| {
        let said = format!("GET {path} HTTP/1.1 {before}");
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{said}", said.len())
    };
    for n in 0..3 {
        line.say(&format!("GET /{n} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        line.hears(&echo(&format!("/{n}"), n)).await;
    }
    let many: String = (3..9).map(|n| format!("GET /{n} HTTP/1.1\r\nhost: x\r\n\r\n")).collect();
    line.say(&many).await;
    for n in 3..9 {
        line.hears(&echo(&format!("/{n}"), n)).await;
    }
    // RFC 9112, 9.6: what comes behind a request that says close is not looked at.
    line.say(
        "GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\nGET /behind HTTP/1.1\r\nhost: x\r\n\r\n",
    )
    .await;
    line.hears(&echo("/last", 9).replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1)).await;
    line.ends().await;
    assert_eq!(app.take().len(), 10);
    assert_eq!(app.connections(), 1);
    // What comes behind a request that is refused is not looked at either.
    let answer = raw(&scene.outbound, b"GET /first HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\n\r\nGET /behind HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 400").count(), 1, "{answer}");
    assert_eq!(app.take().len(), 1);
}

const EXPECTS: &str = "POST /in HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";

/// RFC 9110, 10.1.1.
#[tokio::test]
async fn a_client_that_asks_before_it_sends_gets_the_apps_word() {
    let app = RawApp::start(|line, _| match line {
        "POST /in HTTP/1.1" => Reply::ok().early("HTTP/1.1 100 Continue\r\n\r\n"),
        "POST /no HTTP/1.1" => Reply::default().early("HTTP/1.1 413 No\r\ncontent-length: 0\r\n\r\n"),
        _ => Reply::ok(),
    })
    .await;
    let scene = Scene::start("http1", &app.address).await;
    for address in [&scene.outbound, &scene.gateway] {
        let mut line = Line::open(address).await;
        line.say(EXPECTS).await;
        line.hears("HTTP/1.1 100 Continue\r\n\r\n").await;
        line.say("body").await;
        line.hears(OK).await;
        // It may as well not wait; the connection is the same.
        line.say(&format!("{EXPECTS}body")).await;
        line.hears(&format!("HTTP/1.1 100 Continue\r\n\r\n{OK}")).await;
        assert_eq!(app.take().iter().filter(|it| it.ends_with("\r\n\r\nbody")).count(), 2);
        // Refused at once: no 100, and no guess where the next request would begin.
        line.say(&EXPECTS.replace("/in", "/no")).await;
        line.hears("HTTP/1.1 413 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        line.ends().await;
        // RFC 9110, 10.1.1 and 15.2: in HTTP/1.0 there is neither the question nor the answer.
        let mut old = Line::open(address).await;
        old.say(&format!("{}body", EXPECTS.replace("HTTP/1.1", "HTTP/1.0"))).await;
        old.hears("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
        old.ends().await;
        app.take();
    }
}

/// RFC 9112, 3.2.4. A gateway's routes lead paths to services, and this is none.
#[tokio::test]
async fn options_may_ask_of_the_server_as_a_whole() {
    let app = RawApp::start(|_, _| Reply::ok()).await;
    let scene = Scene::start("http1", &app.address).await;
    for form in ["*", "http://x"] {
        let request = format!("OPTIONS {form} HTTP/1.1\r\nhost: x\r\n\r\n");
        assert_eq!(raw(&scene.outbound, request.as_bytes()).await, OK.as_bytes());
        assert!(app.take()[0].starts_with("OPTIONS * HTTP/1.1\r\n"));
        let answer = raw(&scene.gateway, request.as_bytes()).await;
        assert!(answer.starts_with(b"HTTP/1.1 404 "), "{}", String::from_utf8_lossy(&answer));
        assert_eq!(app.take().len(), 0);
    }
}

/// What an app wrote beside its answer goes to nobody, however the next request comes.
#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_given_to_nobody() {
    let app = RawApp::start(|line, _| match line {
        "GET /more HTTP/1.1" => Reply::of(format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nleak")),
        _ => Reply::ok(),
    })
    .await;
    let scene = Scene::start("http1", &app.address).await;
    let mut line = Line::open(&scene.outbound).await;
    for _ in 0..20 {
        line.say("GET /more HTTP/1.1\r\nhost: x\r\n\r\n").await;
        line.hears(OK).await;
        line.say("GET /next HTTP/1.1\r\nhost: x\r\n\r\n").await;
        line.hears(OK).await;
    }
}

/// One that sends nothing but interim answers is not an app.
#[tokio::test]
async fn interim_answers_without_end_are_not_passed_on_for_ever() {
    let app = RawApp::start(|_, _| Reply::of("HTTP/1.1 102 Processing\r\n\r\n".repeat(200))).await;
    let scene = Scene::start("http1", &app.address).await;
    let answer = String::from_utf8_lossy(&raw(&scene.outbound, GET.as_bytes()).await).into_owned();
    assert!(answer.matches("HTTP/1.1 102 ").count() <= 100, "{answer}");
    assert!(answer.contains("\r\n\r\nHTTP/1.1 502 "), "{answer}");
}
