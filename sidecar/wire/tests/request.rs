//! What the request parser takes, what it refuses and with which answer, and what it forwards.

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, header};
use signet_wire::{
    Edits, Known,
    canon::{HostError, PathError},
    h1::{Framing, Limits, RequestError, RequestHead, RequestParser, Upgrade, Version},
    protected::Protected,
};

fn parse(text: impl AsRef<[u8]>) -> Result<RequestHead, RequestError> {
    let mut input = BytesMut::from(text.as_ref());
    RequestParser::new(Limits::default()).parse(&mut input).map(|head| head.expect("a complete head"))
}

fn forwarded(head: &RequestHead, edits: &Edits) -> (String, u32) {
    let mut out = BytesMut::new();
    let dropped = head.write(edits, &Protected::default(), &mut out);
    (String::from_utf8(out.to_vec()).unwrap(), dropped)
}

#[test]
fn another_version_is_told_from_a_line_that_is_none() {
    for line in ["GET / HTTP/2.0", "GET / HTTP/1.2", "PRI * HTTP/9.9"] {
        let error = parse(format!("{line}\r\nHost: x\r\n\r\n")).unwrap_err();
        assert_eq!((error, error.status()), (RequestError::Version, 505), "{line}");
    }
    for line in ["GET /a b HTTP/1.1", "GET / http/1.1", "GET / HTTP/1.1 ", "GET / HTTP/11", "GET / x"] {
        let error = parse(format!("{line}\r\nHost: x\r\n\r\n")).unwrap_err();
        assert!(matches!(error, RequestError::Malformed(_)), "{line}: {error}");
    }
}

#[test]
fn a_plain_request_is_read_and_its_body_left_in_the_buffer() {
    let mut input = BytesMut::from(
        "POST /a/b?x=%zz HTTP/1.1\r\nHost: Shop.Example:8080\r\nContent-Length: 3\r\n\r\nabcGET",
    );
    let head = RequestParser::new(Limits::default()).parse(&mut input).unwrap().unwrap();
    assert_eq!(head.method(), "POST");
    assert_eq!(head.target().path(), "/a/b");
    assert_eq!(head.target().query(), Some("x=%zz"));
    assert_eq!(head.authority().unwrap().to_string(), "shop.example:8080");
    assert_eq!(head.framing(), Framing::Length(3));
    assert!(head.keep_alive());
    assert_eq!(&input[..], b"abcGET");
}

#[test]
fn each_refused_shape_has_its_reason_and_status() {
    let many_fields = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(100));
    let many_tokens = format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: {}\r\n\r\n", "a,".repeat(40));
    let big = format!("GET / HTTP/1.1\r\nHost: x\r\na: {}\r\n\r\n", "b".repeat(40_000));
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n");
    let get = |line: &str| format!("GET {line} HTTP/1.1\r\nHost: x\r\n\r\n");
    let cases: Vec<(String, RequestError)> = vec![
        (many_fields, RequestError::TooManyFields),
        (big, RequestError::TooLarge),
        (many_tokens, RequestError::Connection),
        (post("Connection: a b"), RequestError::Connection),
        ("GET / HTTP/1.1\r\n\r\n".into(), RequestError::HostMissing),
        ("GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n".into(), RequestError::Repeated("host")),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n".into(), RequestError::Host(HostError::Empty)),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".into(), RequestError::Host(HostError::UserInfo)),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), RequestError::Host(HostError::Name)),
        ("GET / HTTP/1.1\r\nHost: a:0\r\n\r\n".into(), RequestError::Host(HostError::Port)),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n".into(), RequestError::Host(HostError::Name)),
        ("GET / HTTP/2.0\r\nHost: x\r\n\r\n".into(), RequestError::Version),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), RequestError::Version),
        (post("Content-Length: +1"), RequestError::ContentLength),
        (post("Content-Length: 1,1"), RequestError::ContentLength),
        (post("Content-Length: 0x1"), RequestError::ContentLength),
        (post("Content-Length:"), RequestError::ContentLength),
        (post("Content-Length: 1 1"), RequestError::ContentLength),
        (post("Content-Length: 9999999999999999999999"), RequestError::ContentLength),
        (post("Content-Length: 1\r\nContent-Length: 1"), RequestError::Repeated("content-length")),
        (post("Content-Length: 1\r\nTransfer-Encoding: chunked"), RequestError::LengthAndChunked),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 1"), RequestError::LengthAndChunked),
        (post("Transfer-Encoding: gzip, chunked"), RequestError::TransferEncoding),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), RequestError::TransferEncoding),
        (post("Transfer-Encoding: xchunked"), RequestError::TransferEncoding),
        (post("Transfer-Encoding: chunked, identity"), RequestError::TransferEncoding),
        (post("Transfer-Encoding: Chunked"), RequestError::TransferEncoding),
        (post("Transfer-Encoding: \"chunked\""), RequestError::TransferEncoding),
        (post("Transfer-Encoding:"), RequestError::TransferEncoding),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(), RequestError::TransferEncodingInHttp10),
        (post("Expect: 200-ok"), RequestError::Expectation),
        (post("Authorization: Bearer a\r\nAuthorization: Bearer b"), RequestError::Repeated("authorization")),
        (post("Txn-Token: a\r\nTXN-TOKEN: b"), RequestError::Repeated("txn-token")),
        (post("Dpop: a\r\ndpop: b"), RequestError::Repeated("dpop")),
        (post("X-Api-Key: a\r\nx-api-key: b"), RequestError::Repeated("x-api-key")),
        ("CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n".into(), RequestError::Connect),
        (get("*"), RequestError::Target(PathError::Asterisk)),
        (get("a"), RequestError::Target(PathError::NoLeadingSlash)),
        (get("ftp://x/"), RequestError::Target(PathError::Scheme)),
        (get("//x/"), RequestError::Target(PathError::EmptySegment)),
        (get("http://y/"), RequestError::AuthorityDiffers),
        (get("http://x:81/"), RequestError::AuthorityDiffers),
        (get("http://u@x/"), RequestError::Host(HostError::UserInfo)),
        ("POST / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".into(), RequestError::Upgrade),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n".into(),
            RequestError::Upgrade,
        ),
        ("GET / HTTP/1.1\nHost: x\n\n".into(), RequestError::BareLineEnd),
        ("GET / HTTP/1.1\nHost: x\r\n\r\n".into(), RequestError::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: x\na: b\r\n\r\n".into(), RequestError::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: x\r\na: b\n\r\n".into(), RequestError::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: x\r\n\n".into(), RequestError::BareLineEnd),
    ];
    for (text, expected) in cases {
        let error = parse(&text).expect_err(&text);
        assert_eq!(error, expected, "{text:?}");
        let status = match expected {
            RequestError::TooLarge | RequestError::TooManyFields => 431,
            RequestError::Connect => 405,
            RequestError::Expectation => 417,
            RequestError::Version => 505,
            _ => 400,
        };
        assert_eq!(error.status(), status);
    }
}

#[test]
fn what_is_not_http_is_malformed() {
    for text in [
        "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\na: b\r\n c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\na: b\rc\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\na: b\0c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /  HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        "G@T / HTTP/1.1\r\nHost: x\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03",
    ] {
        let error = parse(text).unwrap_err();
        assert!(matches!(error, RequestError::Malformed(_)), "{text:?}: {error}");
    }
}

#[test]
fn a_head_may_come_byte_by_byte() {
    let text = b"\r\nGET /slow HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n";
    let mut parser = RequestParser::new(Limits::default());
    let mut input = BytesMut::new();
    for (index, byte) in text.iter().enumerate() {
        input.extend_from_slice(&[*byte]);
        let head = parser.parse(&mut input).unwrap();
        assert_eq!(head.is_some(), index + 1 == text.len(), "after {} bytes", index + 1);
    }
    assert!(input.is_empty());
}

#[test]
fn an_endless_head_is_refused_at_the_limit() {
    for unit in [&b"a"[..], b"\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n", b"\n"] {
        let limits = Limits { head: 1000, ..Limits::default() };
        let mut parser = RequestParser::new(limits);
        let mut input = BytesMut::from("GET / HTTP/1.1\r\nx: ");
        let refused = (0..2000).any(|_| {
            input.extend_from_slice(unit);
            assert!(input.len() <= limits.head + unit.len() + 1);
            parser.parse(&mut input).is_err()
        });
        assert!(refused);
    }
}

#[test]
fn two_pipelined_requests_are_two_heads() {
    let mut input =
        BytesMut::from("GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let mut parser = RequestParser::new(Limits::default());
    let first = parser.parse(&mut input).unwrap().unwrap();
    let second = parser.parse(&mut input).unwrap().unwrap();
    assert_eq!((first.target().as_str(), first.version()), ("/1", Version::Http11));
    assert_eq!((second.target().as_str(), second.version()), ("/2", Version::Http10));
    assert!(second.keep_alive() && second.authority().is_none());
    assert!(parser.parse(&mut input).unwrap().is_none());
}

#[test]
fn keep_alive_follows_version_and_connection() {
    for (version, connection, expected) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: keep-alive, Close\r\n", false),
        ("1.1", "Connection: foo\r\nConnection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let head = parse(format!("GET / HTTP/{version}\r\nHost: x\r\n{connection}\r\n")).unwrap();
        assert_eq!(head.keep_alive(), expected, "{version} {connection}");
    }
}

#[test]
fn absolute_form_becomes_origin_form() {
    for (line, host, target) in [
        ("GET http://x/a?b", "x", "/a?b"),
        ("GET http://x", "x:80", "/"),
        ("GET HTTP://X:80?q", "x", "/?q"),
        ("GET https://x:443/", "x", "/"),
        ("OPTIONS http://x", "x", "*"),
        ("OPTIONS *", "x", "*"),
    ] {
        let head = parse(format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
        assert_eq!(head.target().as_str(), target);
        assert_eq!(head.authority().unwrap().name(), "x");
    }
}

#[test]
fn unchanged_fields_are_forwarded_byte_for_byte() {
    let text =
        "GET /a HTTP/1.1\r\nHost: x\r\nUser-Agent:curl  \r\nX-Odd:\t v\x20\r\nEmpty:\r\nAccept: */*\r\n\r\n";
    let head = parse(text).unwrap();
    assert_eq!(forwarded(&head, &Edits::new()), (text.to_owned(), 0));
}

#[test]
fn hop_by_hop_fields_and_those_named_in_connection_are_dropped() {
    let head = parse(
        "GET / HTTP/1.1\r\nConnection: keep-alive, X-Drop\r\nKeep-Alive: 5\r\nX-Drop: 1\r\nTE: trailers\r\nHost: x\r\n\
         Proxy-Connection: close\r\nProxy-Authorization: Basic a\r\nUpgrade: h2c\r\nHTTP2-Settings: a\r\nX-Keep: 1\r\n\r\n",
    )
    .unwrap();
    assert_eq!(head.upgrade(), Upgrade::None);
    assert_eq!(forwarded(&head, &Edits::new()).0, "GET / HTTP/1.1\r\nHost: x\r\nX-Keep: 1\r\n\r\n");
}

#[test]
fn connection_cannot_remove_what_others_decide_by() {
    for name in [
        "Host",
        "Authorization",
        "Cookie",
        "Txn-Token",
        "Signet-Context",
        "X-Forwarded-Client-Cert",
        "X-Forwarded-For",
        "Transfer-Encoding",
        "Signet-User",
        "X-Api-Key",
        "Traceparent",
    ] {
        let value = if name == "Transfer-Encoding" { "chunked" } else { "x" };
        let host = if name == "Host" { "" } else { "Host: x\r\n" };
        let text = format!("GET / HTTP/1.1\r\n{host}Connection: {name}\r\n{name}: {value}\r\n\r\n");
        let head = parse(&text).unwrap();
        let mut edits = Edits::new();
        edits.keep_all_protected();
        let (out, _) = forwarded(&head, &edits);
        assert!(out.contains(&format!("{name}: {value}\r\n")), "{out}");
        assert!(!out.contains("Connection"), "{out}");
    }
}

#[test]
fn protected_fields_go_unless_kept_and_are_counted() {
    let head = parse(
        "GET / HTTP/1.1\r\nHost: x\r\nTxn-Token: t\r\nTXN_TOKEN: forged\r\nSignet_User: forged\r\n\
         X_Forwarded-Client-Cert: forged\r\nsignet-context: forwarded\r\nA: b\r\n\r\n",
    )
    .unwrap();
    assert_eq!(head.protected_count(), 5);
    let (out, dropped) = forwarded(&head, &Edits::new());
    assert_eq!((out.as_str(), dropped), ("GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n", 5));

    let mut edits = Edits::new();
    edits.keep(Known::TxnToken);
    let (out, dropped) = forwarded(&head, &edits);
    assert_eq!((out.as_str(), dropped), ("GET / HTTP/1.1\r\nHost: x\r\nTxn-Token: t\r\nA: b\r\n\r\n", 4));
}

#[test]
fn edits_remove_set_and_append() {
    let head =
        parse("GET / HTTP/1.1\r\nHost: X.\r\nCookie: c\r\nVia: a\r\nfoo: 1\r\nFoo: 2\r\nbar: 3\r\n\r\n")
            .unwrap();
    let mut edits = Edits::new();
    edits.remove(header::COOKIE);
    edits.set(HeaderName::from_static("foo"), HeaderValue::from_static("9"));
    edits.set(HeaderName::from_static("signet-user"), HeaderValue::from_static("e30"));
    edits.append(header::VIA, HeaderValue::from_static("b"));
    edits.remove(header::HOST);
    edits.append(header::CONTENT_LENGTH, HeaderValue::from_static("7"));
    let (out, dropped) = forwarded(&head, &edits);
    assert_eq!(
        out,
        "GET / HTTP/1.1\r\nhost: x\r\nVia: a\r\nbar: 3\r\nfoo: 9\r\nsignet-user: e30\r\nvia: b\r\n\r\n"
    );
    assert_eq!(dropped, 0);
    edits.set_authority(Bytes::from_static(b"orders.shop:80"));
    assert!(forwarded(&head, &edits).0.starts_with("GET / HTTP/1.1\r\nhost: orders.shop:80\r\nVia"));
}

#[test]
fn more_fields_than_are_kept_inline_change_nothing() {
    let fields: String = (0..90).map(|n| format!("f{n}: v{n}\r\n")).collect();
    let text = format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    let head = parse(&text).unwrap();
    assert_eq!(forwarded(&head, &Edits::new()).0, text);
    assert_eq!(head.get_all("F77").collect::<Vec<_>>(), [b"v77"]);
    assert_eq!(head.fields().count(), 91);
}

#[test]
fn only_websocket_is_an_upgrade() {
    let upgrade = |fields: &str| parse(format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n")).unwrap();
    let head = upgrade("Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13");
    assert_eq!(head.upgrade(), Upgrade::Websocket);
    let (out, _) = forwarded(&head, &Edits::new());
    assert_eq!(
        out,
        "GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Version: 13\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
    for fields in [
        "Upgrade: websocket",
        "Connection: upgrade\r\nUpgrade: h2c",
        "Connection: upgrade\r\nUpgrade: websocket, h2c",
        "Connection: upgrade",
    ] {
        let head = upgrade(fields);
        assert_eq!(head.upgrade(), Upgrade::None, "{fields}");
        assert!(!forwarded(&head, &Edits::new()).0.to_ascii_lowercase().contains("upgrade"));
    }
}

#[test]
fn an_expectation_is_surfaced_and_forwarded() {
    let head =
        parse("PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n").unwrap();
    assert!(head.expects_continue());
    assert!(forwarded(&head, &Edits::new()).0.contains("Expect: 100-Continue"));
    let head = parse("PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n").unwrap();
    assert!(!head.expects_continue());
}

#[test]
fn connect_is_taken_where_allowed() {
    let limits = Limits { connect: true, ..Limits::default() };
    let parse = |text: &str| RequestParser::new(limits).parse(&mut BytesMut::from(text)).map(Option::unwrap);
    let head = parse("CONNECT db.shop:5432 HTTP/1.1\r\nHost: db.shop:5432\r\n\r\n").unwrap();
    assert_eq!(head.authority().unwrap().to_string(), "db.shop:5432");
    assert_eq!((head.target().path(), head.target().as_str()), ("", "db.shop:5432"));
    assert_eq!(
        parse("CONNECT db.shop HTTP/1.1\r\nHost: db.shop\r\n\r\n").unwrap_err(),
        RequestError::Host(HostError::Port)
    );
    assert_eq!(
        parse("CONNECT a:1 HTTP/1.1\r\nHost: b:1\r\n\r\n").unwrap_err(),
        RequestError::AuthorityDiffers
    );
}
