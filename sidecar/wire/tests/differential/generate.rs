//! Messages by grammar, with anomalies put in where parsers have disagreed before.

use proptest::{prelude::*, sample::select};

/// A line's end: nearly always right.
fn line_end() -> impl Strategy<Value = &'static str> {
    prop_oneof![60 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r"), 1 => Just("\r\r\n"), 1 => Just(" \r\n")]
}

fn field() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        4 => select(vec!["Accept", "X-A", "Cookie", "txn-token", "Txn_Token", "TE", "Via", "Authorization"]),
        1 => select(vec!["Content-Length", "Transfer-Encoding", "Host", "Connection", "Upgrade", "Expect", "content_length"]),
        1 => select(vec!["X A", "", "X\tA", "Transfer-Encoding ", "\u{b}X", "X:"]),
    ];
    let colon =
        prop_oneof![30 => Just(": "), 3 => Just(":"), 2 => Just(":\t "), 1 => Just(" : "), 1 => Just("")];
    let value = prop_oneof![
        6 => select(vec!["a", "", "a, b", "chunked", "5", "x", "close", "keep-alive", "trailers", "é", "\"q\""]),
        1 => select(vec!["websocket", "h2c", "upgrade", "100-continue", "gzip, chunked", "identity", "+5", "5, 5", "0x5", "\u{b}chunked", "chunked\u{0}", "a\rb", "a\r\n b", " a "]),
    ];
    (name, colon, value, line_end())
        .prop_map(|(name, colon, value, end)| format!("{name}{colon}{value}{end}"))
}

fn fields() -> impl Strategy<Value = String> {
    prop_oneof![2 => Just(String::new()), 3 => proptest::collection::vec(field(), 0..4).prop_map(|f| f.concat())]
}

/// A body's announcement and its bytes, matching or not.
fn body() -> impl Strategy<Value = (String, String)> {
    let chunk = prop_oneof![
        12 => "[a-z]{1,12}".prop_map(|data| format!("{:x}\r\n{data}\r\n", data.len())),
        2 => "[a-z]{1,12}".prop_map(|data| format!("0{:X}\r\n{data}\r\n", data.len())),
        1 => select(vec!["5;x=y\r\nhello\r\n", "5 \r\nhello\r\n", "5\nhello\n", "5\r\nhello", "0x5\r\nhello\r\n", "\r\n", "ffffffffffffffff\r\na\r\n", "5\r\nhello\r\r\n"]).prop_map(str::to_owned),
    ];
    let last = prop_oneof![
        12 => Just("0\r\n\r\n"),
        2 => Just("0\r\nX-T: 1\r\n\r\n"),
        1 => select(vec!["0\r\nTxn-Token: a\r\nContent-Length: 4\r\n\r\n", "0\n\n", "0\r\n", "00\r\n\r\n", "0\r\nX-T : 1\r\n\r\n", "0;a\r\n\r\n", "0\r\n\n", "-0\r\n\r\n"]),
    ];
    let chunked = (proptest::collection::vec(chunk, 0..4), last).prop_map(|(c, last)| c.concat() + last);
    prop_oneof![
        4 => Just((String::new(), String::new())),
        3 => "[a-zA-Z /\r\n]{0,20}".prop_map(|data| (format!("Content-Length: {}\r\n", data.len()), data)),
        5 => chunked.clone().prop_map(|data| ("Transfer-Encoding: chunked\r\n".to_owned(), data)),
        1 => ("[a-z]{0,9}", 0usize..9).prop_map(|(data, n)| (format!("Content-Length: 0{n}\r\n"), data)),
        1 => (chunked, select(vec!["Transfer-Encoding: Chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "Transfer-Encoding: gzip, chunked\r\n", "Transfer-Encoding: chunked, chunked\r\n", "Transfer-Encoding:\r\n chunked\r\n", "Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length: 5\r\nContent-Length: 6\r\n", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"]))
            .prop_map(|(data, announced)| (announced.to_owned(), data)),
    ]
}

fn request() -> impl Strategy<Value = String> {
    let method = select(vec![
        "GET", "GET", "POST", "POST", "HEAD", "PUT", "OPTIONS", "DELETE", "PATCH", "CONNECT", "get", "X-Y",
    ]);
    let target = prop_oneof![
        6 => select(vec!["/", "/a/b?c=d", "/%61?x=%zz", "/a;b", "/[x]|^", "/?{}`^\\"]),
        1 => select(vec!["*", "http://x/a", "http://x", "http://X:80?q", "https://y/", "x:80", "//x/", "/a/../b", "/%2e%2e/", "a", "/a#b", "/é", "/a\"b", "?q", "http://x\\y/"]),
    ];
    let version = prop_oneof![20 => Just("HTTP/1.1"), 4 => Just("HTTP/1.0"), 1 => select(vec!["HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", "HTTP/01.1", ""])];
    let host = prop_oneof![20 => Just("Host: x\r\n"), 1 => select(vec!["", "Host: X:80\r\n", "Host: x\r\nHost: x\r\n", "Host: a b\r\n", "Host:\r\n"])];
    let before = prop_oneof![20 => Just(""), 2 => Just("\r\n"), 1 => Just("\r\n\r\n"), 1 => Just("\n")];
    let space = prop_oneof![30 => Just(" "), 1 => Just("  "), 1 => Just("\t")];
    (
        before,
        method,
        space,
        target,
        version,
        line_end(),
        host,
        fields(),
        body(),
        prop_oneof![30 => Just("\r\n"), 1 => Just("\n"), 1 => Just("")],
    )
        .prop_map(
            |(before, method, space, target, version, end, host, fields, (announced, data), empty)| {
                format!(
                    "{before}{method}{space}{target} {version}{end}{host}{fields}{announced}{empty}{data}"
                )
            },
        )
}

fn response() -> impl Strategy<Value = String> {
    let interim = prop_oneof![6 => Just(""), 1 => Just("HTTP/1.1 100 Continue\r\n\r\n"), 1 => Just("HTTP/1.1 103 Hints\r\nLink: a\r\n\r\n"), 1 => Just("HTTP/1.1 102\r\nContent-Length: 3\r\n\r\n")];
    let version = prop_oneof![12 => Just("HTTP/1.1"), 2 => Just("HTTP/1.0"), 1 => select(vec!["HTTP/1.2", "HTTP/2", "\r\nHTTP/1.1"])];
    let status = prop_oneof![
        5 => select(vec!["200 OK", "404 Not Found", "200", "500 ", "302 Found é"]),
        3 => select(vec!["204 No Content", "304 Not Modified", "101 Switching Protocols", "205 Reset Content"]),
        1 => select(vec!["099 Odd", "600 Odd", "2000 OK", "20 OK", "200\tOK", "+20 OK"]),
    ];
    let switch = prop_oneof![6 => Just(""), 1 => Just("Connection: upgrade\r\nUpgrade: websocket\r\n"), 1 => Just("Connection: close\r\n")];
    (
        interim,
        version,
        status,
        line_end(),
        switch,
        fields(),
        body(),
        prop_oneof![30 => Just("\r\n"), 1 => Just("\n")],
    )
        .prop_map(|(interim, version, status, end, switch, fields, (announced, data), empty)| {
            format!("{interim}{version} {status}{end}{switch}{fields}{announced}{empty}{data}")
        })
}

/// A few bytes changed, put in, or taken out.
fn mutated(text: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![select(b"\r\n\t :;,0159afx/%?#\x0b\0".to_vec()), any::<u8>()];
    let edit = (any::<prop::sample::Index>(), 0..3u8, byte);
    let edits = prop_oneof![3 => Just(vec![]), 1 => proptest::collection::vec(edit, 1..4)];
    (text, edits).prop_map(|(text, edits)| {
        let mut bytes = text.into_bytes();
        for (index, kind, byte) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

/// One to three requests on one connection.
pub(crate) fn requests() -> impl Strategy<Value = Vec<u8>> {
    mutated(proptest::collection::vec(request(), 1..4).prop_map(|requests| requests.concat()))
}

/// An answer, possibly after interim ones, possibly followed by bytes that belong to nothing.
pub(crate) fn responses() -> impl Strategy<Value = Vec<u8>> {
    mutated(
        (response(), prop_oneof![3 => Just(""), 1 => Just("HTTP/1.1 200 OK\r\n\r\n")])
            .prop_map(|(a, b)| a + b),
    )
}
