//! Heads in any split of the input, against a reader and writer that take their time.
//!
//! The reference looks at whole lines only: it knows nothing of buffers, tables or runs of bytes. What it says is passed on
//! is what the codec passes on, wherever the input was cut, and what was passed on reads as the same again.

use bytes::BytesMut;
use proptest::prelude::*;
use signet_wire::{
    Edits,
    h1::{Asked, Limits, Persist, RequestHead, RequestParser, ResponseHead, ResponseParser},
    protected::Protected,
};

const GET: Asked = Asked { head: false, connect: false, websocket: false };

/// Feeds the input in pieces of these sizes, then the rest at once.
fn in_pieces<T>(
    input: &[u8],
    pieces: &[usize],
    mut parse: impl FnMut(&mut BytesMut) -> Option<T>,
) -> Option<(T, Vec<u8>)> {
    let mut buffer = BytesMut::new();
    let mut rest = input;
    let mut pieces = pieces.iter().copied();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(pieces.next().unwrap_or(rest.len()).clamp(1, rest.len()));
        buffer.extend_from_slice(now);
        rest = later;
        if let Some(parsed) = parse(&mut buffer) {
            return Some((parsed, [&buffer[..], rest].concat()));
        }
    }
    None
}

fn request(input: &[u8], pieces: &[usize]) -> Option<(RequestHead, Vec<u8>)> {
    let mut parser = RequestParser::new(Limits::default());
    in_pieces(input, pieces, |buffer| parser.parse(buffer).expect("a good request"))
}

fn response(input: &[u8], pieces: &[usize]) -> Option<(ResponseHead, Vec<u8>)> {
    let mut parser = ResponseParser::new(Limits::default());
    in_pieces(input, pieces, |buffer| parser.parse(buffer, GET).expect("a good answer"))
}

/// The lines of fields that go on, and how many of the mesh's own do not.
fn pass_on(fields: &[(String, String)]) -> (String, u32) {
    let named: Vec<String> = fields
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
        .flat_map(|(_, value)| {
            value.split(',').map(|token| token.trim().to_ascii_lowercase()).collect::<Vec<_>>()
        })
        .collect();
    let (mut lines, mut dropped) = (String::new(), 0);
    for (name, value) in fields {
        let lower = name.to_ascii_lowercase();
        if lower == "connection" || lower == "keep-alive" || named.contains(&lower) {
            continue;
        }
        let compared = lower.replace('_', "-");
        if compared.starts_with("signet-") || compared == "txn-token" || compared == "x-forwarded-client-cert"
        {
            dropped += 1;
            continue;
        }
        lines += &format!("{name}: {value}\r\n");
    }
    (lines, dropped)
}

fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    let plain = (
        prop_oneof!["[xX]-[a-z]{1,6}", "[Aa]ccept", "[uU]ser-[aA]gent", "cookie"],
        prop_oneof!["[a-z0-9]{0,12}", "[a-z]{1,4}[ \\t,;=\"]{0,3}[a-z]{1,4}", "[a-z]{500,900}"],
    );
    let own = (
        prop_oneof!["[sS]ignet[-_][a-z]{1,6}", "[tT]xn_token", "x_forwarded[-_]client[-_]cert"],
        "[a-z]{0,6}",
    );
    let hop = prop_oneof![
        Just(("Connection".to_owned(), "keep-alive".to_owned())),
        "[xX]-[a-c]{1,2}".prop_map(|named| ("Connection".to_owned(), named)),
        Just(("Keep-Alive".to_owned(), "timeout=5".to_owned())),
    ];
    proptest::collection::vec(prop_oneof![8 => plain, 2 => own, 1 => hop], 0..30)
}

fn text(fields: &[(String, String)]) -> String {
    fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![proptest::collection::vec(1usize..4, 0..3000), proptest::collection::vec(1usize..200, 0..100),]
}

proptest! {
    #[test]
    fn a_request_is_read_and_passed_on_as_its_lines_say_however_it_came(
        method in prop_oneof![Just("GET"), Just("POST"), Just("DELETE"), Just("PURGE")],
        target in "/([a-z][a-z0-9._-]{0,4}(/[a-z][a-z0-9._-]{0,4}){0,3})?(\\?[a-z=&%0-9A-F]{0,10})?",
        fields in fields(),
        length in proptest::option::of(0usize..40),
        behind in "[ -~]{0,40}",
        pieces in pieces(),
    ) {
        let mut all = vec![("Host".to_owned(), "orders.shop".to_owned())];
        all.extend(fields);
        all.extend(length.map(|length| ("Content-Length".to_owned(), length.to_string())));
        let input = format!("{method} {target} HTTP/1.1\r\n{}\r\n{behind}", text(&all));
        let (head, left) = request(input.as_bytes(), &pieces).expect("it is whole");
        prop_assert_eq!(head.method(), method);
        prop_assert_eq!(&left, behind.as_bytes());
        let (lines, dropped) = pass_on(&all);
        let mut out = BytesMut::new();
        prop_assert_eq!(head.write(&Edits::new(), &Protected::default(), &mut out), dropped);
        prop_assert_eq!(std::str::from_utf8(&out).unwrap(), format!("{method} {target} HTTP/1.1\r\n{lines}\r\n"));
        // And once more: the same.
        let (again, _) = request(&out, &[]).expect("what was written is a request");
        prop_assert_eq!(again.framing(), head.framing());
        let mut twice = BytesMut::new();
        prop_assert_eq!(again.write(&Edits::new(), &Protected::default(), &mut twice), 0);
        prop_assert_eq!(twice, out);
    }

    #[test]
    fn an_answer_is_read_and_passed_on_as_its_lines_say_however_it_came(
        status in prop_oneof![Just(200u16), Just(201), Just(301), Just(404), Just(500), Just(599)],
        reason in "[ -~]{0,20}",
        fields in fields(),
        length in 0usize..40,
        behind in "[ -~]{0,40}",
        pieces in pieces(),
    ) {
        let mut all = fields;
        all.push(("Content-Length".to_owned(), length.to_string()));
        let line = format!("HTTP/1.1 {status} {reason}\r\n");
        let input = format!("{line}{}\r\n{behind}", text(&all));
        let (head, left) = response(input.as_bytes(), &pieces).expect("it is whole");
        prop_assert_eq!(head.status(), status);
        prop_assert_eq!(&left, behind.as_bytes());
        let (lines, dropped) = pass_on(&all);
        let mut out = BytesMut::new();
        prop_assert_eq!(head.write(&Edits::new(), Persist::Keep, &Protected::default(), &mut out), dropped);
        prop_assert_eq!(std::str::from_utf8(&out).unwrap(), format!("{line}{lines}\r\n"));
        let (again, _) = response(&out, &[]).expect("what was written is an answer");
        prop_assert_eq!(again.framing(), head.framing());
    }

    #[test]
    fn whether_bytes_are_taken_for_a_head_does_not_depend_on_how_they_came(
        bytes in proptest::collection::vec(prop_oneof![
            Just(b'\r'), Just(b'\n'), Just(b' '), Just(b':'), Just(b'/'), Just(b'G'), Just(0u8), any::<u8>()
        ], 0..200),
        start in prop_oneof![Just(""), Just("GET / HTTP/1.1\r\nhost: x\r\n"), Just("POST /a HTTP/1.")],
        pieces in pieces(),
    ) {
        let input = [start.as_bytes(), &bytes].concat();
        let outcome = |pieces: &[usize]| {
            let mut parser = RequestParser::new(Limits::default());
            let mut buffer = BytesMut::new();
            let mut rest = &input[..];
            let mut pieces = pieces.iter().copied();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(pieces.next().unwrap_or(rest.len()).clamp(1, rest.len()));
                buffer.extend_from_slice(now);
                rest = later;
                match parser.parse(&mut buffer) {
                    Ok(None) => {}
                    Ok(Some(head)) => return Some(Ok(head.wire_len())),
                    Err(error) => return Some(Err(error.status())),
                }
            }
            None
        };
        // What is refused may be so before its end has come, or only then. Never is the one taken and the other not.
        let (whole, parts) = (outcome(&[]), outcome(&pieces));
        let taken = |outcome: &Option<Result<usize, u16>>| outcome.and_then(Result::ok);
        prop_assert_eq!(taken(&whole), taken(&parts), "{:?} but in parts {:?}", whole, parts);
    }
}
