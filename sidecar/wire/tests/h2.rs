//! HTTP/2 request heads under the same rules as HTTP/1 ones.

use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use signet_wire::{
    Edits, Known, RequestView,
    canon::{HostError, PathError},
    h2::{AnswerError, HeadError, RequestHead, are_trimmed, check_answer},
    protected::Protected,
};

fn head(
    build: impl FnOnce(http::request::Builder) -> http::request::Builder,
) -> Result<RequestHead, HeadError> {
    let builder = build(Request::post("http://Orders.Shop:80/a/%62?q"));
    RequestHead::new(builder.body(()).unwrap().into_parts().0)
}

#[test]
fn a_head_is_read_canonically_and_seen_as_a_view() {
    let head = head(|b| {
        b.header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("content-length", "5")
            .header("host", "orders.shop")
            .header("txn-token", "t")
            .header("signet_user", "forged")
            .header("x-a", "1")
            .header("x-a", "2")
    })
    .unwrap();
    let view = RequestView::H2(&head);
    assert_eq!((view.method(), view.path(), view.target().as_str()), ("POST", "/a/b", "/a/b?q"));
    assert_eq!(view.authority().unwrap().to_string(), "orders.shop:80");
    assert!(view.is_grpc());
    assert_eq!((view.get(Known::TxnToken), view.get(Known::Authorization)), (Some(&b"t"[..]), None));
    assert_eq!(view.get_all("x-a").collect::<Vec<_>>(), [b"1", b"2"]);
    assert_eq!((view.protected_count(), head.content_length()), (2, Some(5)));
    let mut edits = Edits::new();
    edits.keep(Known::TxnToken);
    let mut headers = head.into_headers();
    assert_eq!(edits.apply(&mut headers, &Protected::default()), 1);
    assert!(headers.contains_key("txn-token") && !headers.contains_key("signet_user"));
    assert!(!headers.contains_key("host"), ":authority says it");
}

#[test]
fn what_may_not_stand_in_http_2_is_refused() {
    type Change = fn(http::request::Builder) -> http::request::Builder;
    let cases: &[(Change, HeadError)] = &[
        (|b| b.method("CONNECT"), HeadError::Connect),
        (|b| b.uri("ftp://a/"), HeadError::Scheme),
        (|b| b.header("connection", "x"), HeadError::ConnectionSpecific("connection")),
        (|b| b.header("keep-alive", "1"), HeadError::ConnectionSpecific("keep-alive")),
        (|b| b.header("proxy-connection", "x"), HeadError::ConnectionSpecific("proxy-connection")),
        (|b| b.header("transfer-encoding", "chunked"), HeadError::ConnectionSpecific("transfer-encoding")),
        (|b| b.header("upgrade", "websocket"), HeadError::ConnectionSpecific("upgrade")),
        (|b| b.header("te", "gzip"), HeadError::Te),
        (|b| b.header("x-a", " b"), HeadError::OuterSpace),
        (|b| b.header("x-a", "b\t"), HeadError::OuterSpace),
        (|b| b.header("expect", "tea"), HeadError::Expectation),
        (|b| b.header("content-length", "+1"), HeadError::ContentLength),
        (
            |b| b.header("content-length", "1").header("content-length", "1"),
            HeadError::Repeated("content-length"),
        ),
        (
            |b| b.header("authorization", "a").header("authorization", "b"),
            HeadError::Repeated("authorization"),
        ),
        (|b| b.header("host", "a").header("host", "a"), HeadError::Repeated("host")),
        (|b| b.header("host", "billing.shop"), HeadError::AuthorityDiffers),
        (|b| b.header("host", "a b"), HeadError::Host(HostError::Name)),
        (|b| b.uri("http://u@orders.shop/"), HeadError::Host(HostError::UserInfo)),
        (|b| b.uri("/a"), HeadError::AuthorityMissing),
        (|b| b.uri("http://a/b/../c"), HeadError::Target(PathError::DotSegment)),
        (|b| b.uri("http://a/b%2fc"), HeadError::Target(PathError::EncodedSlash)),
        (|b| b.uri("http://a//b"), HeadError::Target(PathError::EmptySegment)),
    ];
    for (change, error) in cases {
        assert_eq!(head(change).err(), Some(*error));
    }
}

#[test]
fn host_stands_in_for_a_missing_authority() {
    let head = head(|b| b.uri("/a").header("host", "A.b.")).unwrap();
    assert_eq!(head.authority().to_string(), "a.b");
}

#[test]
fn options_may_ask_of_the_server_as_a_whole() {
    let mut parts = Request::options("*").header("host", "a").body(()).unwrap().into_parts().0;
    assert_eq!(RequestHead::new(parts.clone()).unwrap().target().as_str(), "*");
    parts.method = http::Method::GET;
    assert_eq!(RequestHead::new(parts).err(), Some(HeadError::Target(PathError::Asterisk)));
}

#[test]
fn an_answer_that_the_library_lets_through_may_be_malformed_all_the_same() {
    let check = |status: u16, name: &'static str, value: &'static str| {
        let headers =
            HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]);
        check_answer(StatusCode::from_u16(status).unwrap(), &headers)
    };
    for status in [100, 103, 200, 204, 304, 404, 599] {
        assert_eq!(check(status, "x-a", "b c"), Ok(()), "{status}");
    }
    for status in [101, 600, 999] {
        assert_eq!(check(status, "x-a", "b"), Err(AnswerError::Status), "{status}");
    }
    for value in [" b", "b ", "\tb", "b\t", " "] {
        assert_eq!(check(200, "x-a", value), Err(AnswerError::OuterSpace), "{value:?}");
    }
    for name in
        ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings"]
    {
        assert_eq!(check(200, name, "x"), Err(AnswerError::ConnectionSpecific(name)));
    }
    let trailers = |value| HeaderMap::from_iter([(HeaderName::from_static("x-sum"), value)]);
    assert!(are_trimmed(&trailers(HeaderValue::from_static("1 2"))));
    assert!(are_trimmed(&trailers(HeaderValue::from_static(""))));
    assert!(!are_trimmed(&trailers(HeaderValue::from_static("1 "))));
}
