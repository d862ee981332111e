//! Answers: framing by status and question, refusals, persistence, and what is forwarded.

use bytes::BytesMut;
use signet_wire::{
    Edits,
    h1::{
        Asked, Framing, Limits, Persist, RequestParser, ResponseError, ResponseHead, ResponseParser,
        write_answer,
    },
    protected::Protected,
};

const GET: Asked = Asked { head: false, connect: false, websocket: false };
const HEAD: Asked = Asked { head: true, ..GET };
const CONNECT: Asked = Asked { connect: true, ..GET };
const WEBSOCKET: Asked = Asked { websocket: true, ..GET };

fn parse(text: &str, asked: Asked) -> Result<ResponseHead, ResponseError> {
    let mut input = BytesMut::from(text);
    ResponseParser::new(Limits::default()).parse(&mut input, asked).map(|head| head.expect("a complete head"))
}

fn answer(line: &str, fields: &str, asked: Asked) -> Result<ResponseHead, ResponseError> {
    let fields: String = fields.split('|').filter(|f| !f.is_empty()).map(|f| format!("{f}\r\n")).collect();
    parse(&format!("HTTP/1.1 {line}\r\n{fields}\r\n"), asked)
}

#[test]
fn framing_follows_status_and_question() {
    const CHUNKED: &str = "Transfer-Encoding: chunked";
    for (line, fields, asked, framing) in [
        ("200 OK", "Content-Length: 5", GET, Framing::Length(5)),
        ("200 OK", CHUNKED, GET, Framing::Chunked),
        ("200 OK", "", GET, Framing::UntilClose),
        ("200 OK", "Content-Length: 5", HEAD, Framing::None),
        ("200 OK", CHUNKED, HEAD, Framing::None),
        ("304 Not Modified", "Content-Length: 5", GET, Framing::None),
        ("204 No Content", "", GET, Framing::None),
        ("204 No Content", "Content-Length: 0", GET, Framing::None),
        ("100 Continue", "", GET, Framing::None),
        ("103 Early Hints", "Link: a", GET, Framing::None),
        ("200", "", CONNECT, Framing::Tunnel),
        ("407 Proxy", "Content-Length: 1", CONNECT, Framing::Length(1)),
        ("101 Switching Protocols", "Connection: Upgrade|Upgrade: websocket", WEBSOCKET, Framing::Tunnel),
        ("400 Bad", "Content-Length: 0", WEBSOCKET, Framing::Length(0)),
    ] {
        assert_eq!(answer(line, fields, asked).unwrap().framing(), framing, "{line} {fields}");
    }
}

#[test]
fn ambiguous_answers_are_refused() {
    const CHUNKED: &str = "Transfer-Encoding: chunked";
    for (line, fields, asked, error) in [
        ("200 OK", "Content-Length: 5|Content-Length: 5", GET, ResponseError::ContentLength),
        ("200 OK", "Content-Length: -1", GET, ResponseError::ContentLength),
        ("200 OK", "Content-Length: 5|Transfer-Encoding: chunked", GET, ResponseError::LengthAndChunked),
        ("200 OK", "Transfer-Encoding: gzip, chunked", GET, ResponseError::TransferEncoding),
        (
            "200 OK",
            "Transfer-Encoding: chunked|Transfer-Encoding: chunked",
            GET,
            ResponseError::TransferEncoding,
        ),
        ("204 No Content", CHUNKED, GET, ResponseError::BodyNotAllowed),
        ("204 No Content", "Content-Length: 5", GET, ResponseError::BodyNotAllowed),
        ("100 Continue", "Content-Length: 5", GET, ResponseError::BodyNotAllowed),
        ("200 OK", CHUNKED, CONNECT, ResponseError::BodyNotAllowed),
        ("101 Switching", "Connection: Upgrade|Upgrade: websocket", GET, ResponseError::UnaskedUpgrade),
        ("101 Switching", "Connection: Upgrade|Upgrade: h2c", WEBSOCKET, ResponseError::UnaskedUpgrade),
        ("101 Switching", "Upgrade: websocket", WEBSOCKET, ResponseError::UnaskedUpgrade),
        ("099 Odd", "", GET, ResponseError::Status),
        ("600 Odd", "", GET, ResponseError::Status),
        ("200 OK", "Connection: a b", GET, ResponseError::Connection),
    ] {
        assert_eq!(answer(line, fields, asked).unwrap_err(), error, "{line} {fields}");
    }
    assert_eq!(
        parse("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", GET).unwrap_err(),
        ResponseError::TransferEncoding
    );
    for bare in ["HTTP/1.1 200 OK\nA: b\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\n\r\n", "HTTP/1.1 200 OK\n\n"] {
        assert_eq!(parse(bare, GET).unwrap_err(), ResponseError::BareLineEnd);
    }
    for garbage in [
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
    ] {
        assert!(matches!(parse(garbage, GET), Err(ResponseError::Malformed(_))), "{garbage:?}");
    }
}

#[test]
fn interim_answers_precede_the_final_one() {
    let mut input = BytesMut::from(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    );
    let mut parser = ResponseParser::new(Limits::default());
    let mut statuses = Vec::new();
    while let Some(head) = parser.parse(&mut input, GET).unwrap() {
        statuses.push((head.status(), head.is_interim()));
    }
    assert_eq!(statuses, [(100, true), (103, true), (200, false)]);
}

#[test]
fn persistence_follows_client_and_framing() {
    let request = |version: &str, connection: &str| {
        let mut input = BytesMut::from(&*format!("GET / HTTP/{version}\r\nHost: x\r\n{connection}\r\n"));
        RequestParser::new(Limits::default()).parse(&mut input).unwrap().unwrap()
    };
    let length = answer("200 OK", "Content-Length: 5|Connection: close", GET).unwrap();
    let chunked = answer("200 OK", "Transfer-Encoding: chunked", GET).unwrap();
    let until_close = answer("200 OK", "", GET).unwrap();
    let interim = answer("100 Continue", "", GET).unwrap();
    let new = request("1.1", "");
    let closing = request("1.1", "Connection: close\r\n");
    let old = request("1.0", "");
    let old_keeping = request("1.0", "Connection: keep-alive\r\n");
    for (request, answer, expected) in [
        (&new, &length, Persist::Keep),
        (&new, &chunked, Persist::Keep),
        (&new, &until_close, Persist::Close),
        (&closing, &length, Persist::Close),
        (&closing, &interim, Persist::Keep),
        (&old, &length, Persist::Close),
        (&old, &chunked, Persist::Unchunk),
        (&old_keeping, &length, Persist::KeepAlive),
        (&old_keeping, &chunked, Persist::Unchunk),
        (&old_keeping, &until_close, Persist::Close),
    ] {
        assert_eq!(Persist::between(request, answer), expected);
    }
    assert!(!length.keep_alive() && chunked.keep_alive() && !until_close.keep_alive());
}

fn forwarded(head: &ResponseHead, edits: &Edits, persist: Persist) -> String {
    let mut out = BytesMut::new();
    head.write(edits, persist, &Protected::default(), &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn an_answer_is_forwarded_with_its_reason_and_without_connection_fields() {
    let head = answer(
        "404 Nothing Here",
        "Connection: X-A|X-A: 1|Date: now|Signet-Deny-Reason: forged|Content-Length: 0",
        GET,
    )
    .unwrap();
    assert_eq!(
        forwarded(&head, &Edits::new(), Persist::Keep),
        "HTTP/1.1 404 Nothing Here\r\nDate: now\r\nContent-Length: 0\r\n\r\n"
    );
    assert_eq!(
        forwarded(&head, &Edits::new(), Persist::Close),
        "HTTP/1.1 404 Nothing Here\r\nDate: now\r\nContent-Length: 0\r\nconnection: close\r\n\r\n"
    );
    let mut edits = Edits::new();
    edits.keep_all_protected();
    assert!(forwarded(&head, &edits, Persist::Keep).contains("Signet-Deny-Reason: forged\r\n"));
}

#[test]
fn an_old_answer_becomes_http_1_1_and_an_unchunked_one_loses_its_encoding() {
    let head = parse("HTTP/1.0 200\r\nServer: a\r\n\r\n", GET).unwrap();
    assert_eq!(
        forwarded(&head, &Edits::new(), Persist::Close),
        "HTTP/1.1 200\r\nServer: a\r\nconnection: close\r\n\r\n"
    );
    let head = answer("200 OK", "Transfer-Encoding: chunked|A: b", GET).unwrap();
    assert_eq!(
        forwarded(&head, &Edits::new(), Persist::Unchunk),
        "HTTP/1.1 200 OK\r\nA: b\r\nconnection: close\r\n\r\n"
    );
}

#[test]
fn a_switch_is_announced_again() {
    let head = answer(
        "101 Switching Protocols",
        "Upgrade: websocket|Connection: Upgrade|Sec-WebSocket-Accept: a",
        WEBSOCKET,
    )
    .unwrap();
    assert_eq!(
        forwarded(&head, &Edits::new(), Persist::Keep),
        "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
}

#[test]
fn own_answers_are_read_back_as_written() {
    for (status, to_head, body) in
        [(403, false, "no"), (200, true, "hidden"), (204, false, ""), (304, false, "")]
    {
        let mut out = BytesMut::new();
        let fields = [(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"))];
        write_answer(status, &fields, body.as_bytes(), Persist::Close, to_head, &mut out);
        let asked = if to_head { HEAD } else { GET };
        let head = ResponseParser::new(Limits::default()).parse(&mut out, asked).unwrap().unwrap();
        assert_eq!(head.status(), status);
        assert!(!head.keep_alive());
        let expected = if to_head { "" } else { body };
        assert_eq!(&out[..], expected.as_bytes());
    }
}
