use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::h1::{Limits, RequestParser};
use crate::protected::Protected;

const ONE: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA1";
const TWO: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA2";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn handle(text: &str) -> Handle {
    Handle::parse(text.as_bytes()).unwrap()
}

/// A head with these lines over HTTP/1 and over HTTP/2.
fn heads(lines: &[(&str, &str)]) -> (crate::h1::RequestHead, crate::h2::RequestHead) {
    let mut text = "GET / HTTP/1.1\r\nhost: o\r\n".to_owned();
    let mut request = http::Request::builder().uri("https://o/");
    for (name, value) in lines {
        text += &format!("{name}: {value}\r\n");
        request = request.header(*name, value.trim());
    }
    text += "\r\n";
    let limits = Limits { head: 64 * 1024, ..Limits::default() };
    let head = RequestParser::new(limits).parse(&mut BytesMut::from(&*text)).unwrap().unwrap();
    let (parts, ()) = request.body(()).unwrap().into_parts();
    (head, crate::h2::RequestHead::new(parts).unwrap())
}

/// What goes on under a name after these edits, by both versions alike.
fn lines(
    heads: &(crate::h1::RequestHead, crate::h2::RequestHead),
    edit: impl Fn(RequestView<'_>, &mut Edits),
) -> Vec<String> {
    let (mut first, mut second) = (Edits::new(), Edits::new());
    edit(RequestView::H1(&heads.0), &mut first);
    edit(RequestView::H2(&heads.1), &mut second);
    let mut written = BytesMut::new();
    heads.0.write(&first, &Protected::default(), &mut written);
    let written = String::from_utf8_lossy(&written).into_owned();
    let is_carrier = |name: &str| matches!(name, "baggage" | "tracestate");
    let h1: Vec<String> = written
        .split("\r\n")
        .filter(|line| line.split_once(": ").is_some_and(|(name, _)| is_carrier(&name.to_ascii_lowercase())))
        .map(str::to_owned)
        .collect();
    let mut headers = heads.1.headers().clone();
    second.apply(&mut headers, &Protected::default());
    let of = |name: &'static str| {
        headers
            .get_all(name)
            .iter()
            .map(move |value| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect::<Vec<_>>()
    };
    let mut h2 = [of("baggage"), of("tracestate")].concat();
    let mut sorted = h1.clone();
    sorted.sort();
    h2.sort();
    assert_eq!(sorted, h2, "one request is the same over both versions");
    h1
}

fn stripped(sent: &[(&str, &str)]) -> Vec<String> {
    lines(&heads(sent), |head, edits| _ = strip(head, edits))
}

fn offered(sent: &[(&str, &str)]) -> Vec<String> {
    lines(&heads(sent), |head, edits| _ = offer(head, edits, &handle(ONE)))
}

fn taken(sent: &[(&str, &str)]) -> Found {
    let heads = heads(sent);
    let found = take(RequestView::H1(&heads.0), &mut Edits::new());
    assert_eq!(found, take(RequestView::H2(&heads.1), &mut Edits::new()));
    found
}

#[test]
fn what_speaks_of_a_handle_goes_in_every_spelling() {
    // What libraries made of such members stands beside this code in `docs/user-context.md`.
    for member in [
        "signet.ctx=F",
        "Signet.Ctx=F",
        "SIGNET.CTX = F",
        "signet.ctx\t=F",
        "signet.ctx+=F",
        "+signet.ctx=F",
        "signet%2Ectx=F",
        "signet%2ectx=F",
        "%73ignet.ctx=F",
        "%2573ignet.ctx=F",
        "%25252573ignet%25252Ectx=F",
        "%25%37%33ignet.ctx=F",
        "signet%252Ectx=F",
        "%20signet.ctx=F",
        "signet.ctx%20=F",
        "%C2%A0signet.ctx%EF%BB%BF=F",
        "signet.ctx%00=F",
        "x=a;p=b%2Csignet.ctx%3DF",
        "x=a%2Csignet.ctx%3DF",
        "x=a%252Csignet.ctx%253DF",
        "x=a;signet.ctx=F",
        "x=\"signet.ctx=F\"",
        "signet.ctx",
        "signet.ctx;p=1",
        "signet=F",
        "signet-ctx=F",
        "signet_x=F",
    ] {
        let lone = stripped(&[("baggage", member)]);
        assert!(lone.is_empty(), "{member:?} left {lone:?}");
        let line = format!("a=1,{member}, b=2;p=3");
        assert_eq!(stripped(&[("baggage", &line)]), ["baggage: a=1,b=2;p=3"], "{member:?}");
        assert_eq!(
            stripped(&[("Baggage", "a=1"), ("baggage", member), ("BAGGAGE", "b=2;p=3")]),
            ["baggage: a=1,b=2;p=3"]
        );
    }
    for member in
        ["signet=F", "signet =F", "Signet=F", "%73ignet=F", "signet@x=F", "x=a%2Csignet%3DF", "signet"]
    {
        let line = format!("dd=s:1;t.dm:-0,{member},rojo=00f067aa0ba902b7");
        let kept = ["tracestate: dd=s:1;t.dm:-0,rojo=00f067aa0ba902b7"];
        assert_eq!(stripped(&[("tracestate", &line)]), kept, "{member:?}");
    }
}

#[test]
fn what_is_others_passes_byte_for_byte() {
    for line in [
        "a=1;p=2, b=2",
        "user=signet",
        "signets=4",
        "x=not-a-signet%2Fctx",
        "a=%E2%82%AC,,b=%zz,c",
        "session=%73%69gnet",
        "mysignet.id=1",
    ] {
        assert_eq!(stripped(&[("baggage", line)]), [format!("baggage: {line}")]);
    }
    let state = "dd=s:1;t.signet.x:2,vendor=signet,rojo=signet.ctx";
    assert_eq!(stripped(&[("tracestate", state)]), [format!("tracestate: {state}")]);
    assert_eq!(stripped(&[("baggage", "a=1"), ("baggage", "b=2")]), ["baggage: a=1", "baggage: b=2"]);
    // One carrier loses its handle, and the other, which has none, stays as it is.
    let heads = heads(&[("baggage", "signet.ctx=F"), ("tracestate", "a=1 , ,b=2,")]);
    assert_eq!(lines(&heads, |head, edits| _ = take(head, edits)), ["tracestate: a=1 , ,b=2,"]);
}

#[test]
fn one_handle_is_found_whichever_carrier_brings_it() {
    let ours = handle(ONE);
    let one = |baggage, tracestate| Found::One { handle: ours, baggage, tracestate };
    let (b, t) = (format!("signet.ctx={ONE}"), format!("signet={ONE}"));
    assert_eq!(taken(&[]), Found::Nothing);
    assert_eq!(taken(&[("baggage", "a=1"), ("tracestate", "dd=1")]), Found::Nothing);
    assert_eq!(taken(&[("baggage", &b)]), one(true, false));
    assert_eq!(taken(&[("tracestate", &format!("dd=s:1,{t}"))]), one(false, true));
    assert_eq!(taken(&[("baggage", &format!("x=1 , {b}")), ("tracestate", &t)]), one(true, true));
    assert_eq!(taken(&[("baggage", &b), ("baggage", &b)]), one(true, false), "the same twice is one");
    assert_eq!(taken(&[("baggage", &format!("signet.ctx = {ONE}"))]), one(true, false));
}

#[test]
fn two_that_differ_are_none_in_whatever_lines_and_spellings_they_come() {
    let (b, t) = (format!("signet.ctx={ONE}"), format!("signet={TWO}"));
    let both = [Some(handle(ONE)), Some(handle(TWO))];
    assert_eq!(taken(&[("baggage", &b), ("tracestate", &t)]), Found::Several(both));
    assert_eq!(taken(&[("baggage", &format!("{b},signet.ctx={TWO}"))]), Found::Several(both));
    assert_eq!(taken(&[("baggage", &b), ("baggage", &format!("signet.ctx={TWO}"))]), Found::Several(both));
    for odd in [
        format!("signet%2Ectx={ONE}"),
        format!("signet.ctx={ONE};ttl=5"),
        "signet.ctx=FORGED".to_owned(),
        format!("x=a;p=b%2Csignet.ctx%3D{TWO}"),
    ] {
        assert_eq!(taken(&[("baggage", &odd)]), Found::Malformed, "{odd}");
        for line in [format!("{b},{odd}"), format!("{odd},{b}")] {
            assert_eq!(taken(&[("baggage", &line)]), Found::Several([Some(handle(ONE)), None]), "{line}");
        }
    }
    for line in [format!("{b},{b}x"), format!("{b}="), format!("signet.ctx={}", &ONE[1..])] {
        assert!(!matches!(taken(&[("baggage", &line)]), Found::One { .. }), "{line}");
    }
}

#[test]
fn a_handle_is_offered_first_in_one_line_without_blanks_and_empty_members() {
    let (b, t) = (format!("signet.ctx={ONE}"), format!("signet={ONE}"));
    assert_eq!(offered(&[]), [format!("baggage: {b}")]);
    assert_eq!(
        offered(&[("traceparent", TRACEPARENT)]),
        [format!("baggage: {b}"), format!("tracestate: {t}")]
    );
    assert_eq!(
        offered(&[
            ("baggage", "a=1 , ,b=2;p=3,"),
            ("traceparent", TRACEPARENT),
            ("baggage", "c = 3"),
            ("tracestate", "dd=s:1 , ,rojo=1,"),
            ("tracestate", "dd=s:2,congo=2"),
        ]),
        [format!("baggage: {b},a=1,b=2;p=3,c = 3"), format!("tracestate: {t},dd=s:1,rojo=1,congo=2")]
    );
    // What libraries would throw the whole line away for.
    assert_eq!(
        offered(&[("baggage", "a,b={},{c}=1,d e=1,f=\u{20ac},g=1,h=\"x\",=1,i=")]),
        [format!("baggage: {b},b={{}},g=1,i=")]
    );
    assert_eq!(
        offered(&[("traceparent", TRACEPARENT), ("tracestate", "A=1,b==,c=1,d,e=")])[1],
        format!("tracestate: {t},c=1")
    );
}

#[test]
fn whatever_somebody_else_offers_is_replaced() {
    for forged in ["signet.ctx=F", "signet%2Ectx=F", "signet.ctx\t=F", "x=a;p=b%2Csignet.ctx%3DF"] {
        let line = format!("a=1,{forged}");
        assert_eq!(offered(&[("baggage", &line)]), [format!("baggage: signet.ctx={ONE},a=1")]);
    }
    // Not offered in tracestate, and yet not left in it.
    assert_eq!(
        offered(&[("tracestate", "signet=F,dd=1")]),
        [format!("baggage: signet.ctx={ONE}"), "tracestate: dd=1".to_owned()]
    );
}

#[test]
fn tracestate_needs_one_valid_traceparent() {
    for bad in [
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "abc",
    ] {
        assert_eq!(offered(&[("traceparent", bad)]).len(), 1, "{bad}");
    }
    assert_eq!(offered(&[("traceparent", &TRACEPARENT.replacen("00", "01", 1))]).len(), 2);
    assert_eq!(offered(&[("traceparent", &(TRACEPARENT.replacen("00", "01", 1) + "-more"))]).len(), 2);
    assert_eq!(offered(&[("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)]).len(), 1);
    assert_eq!(offered(&[("traceparent", &TRACEPARENT.replace("-01", "-00"))]).len(), 2, "not sampled");
}

#[test]
fn the_apps_own_members_are_never_pushed_out() {
    let (b, t) = (format!("signet.ctx={ONE}"), format!("signet={ONE}"));
    let many = |count: usize| (0..count).map(|at| format!("k{at}=v")).collect::<Vec<_>>().join(",");
    assert_eq!(offered(&[("baggage", &many(63))]), [format!("baggage: {b},{}", many(63))]);
    assert_eq!(offered(&[("baggage", &many(64))]), [format!("baggage: {}", many(64))]);
    let exact = format!("a={}", "x".repeat(8192 - b.len() - 3));
    assert_eq!(offered(&[("baggage", &exact)]), [format!("baggage: {b},{exact}")]);
    assert_eq!(offered(&[("baggage", &format!("{exact}y"))]), [format!("baggage: {exact}y")]);
    let traced =
        |state: &str| offered(&[("traceparent", TRACEPARENT), ("tracestate", state), ("baggage", &many(64))]);
    assert_eq!(traced(&many(30))[1..], [format!("tracestate: {t},{}", many(30))]);
    assert_eq!(traced(&many(31))[1..].len(), 1);
    assert!(traced(&many(31)).contains(&format!("tracestate: {}", many(31))));
    let long = format!("a={}", "x".repeat(256));
    let longer = format!("{long},b={}", "x".repeat(200));
    assert!(traced(&long).contains(&format!("tracestate: {t},{long}")));
    assert!(traced(&longer).contains(&format!("tracestate: {longer}")), "no room for a vendor's own");
}

#[test]
fn a_route_that_says_a_carrier_itself_has_the_last_word() {
    let heads = heads(&[("baggage", "signet.ctx=F,a=1")]);
    let said = lines(&heads, |head, edits| {
        edits.set(http::HeaderName::from_static("baggage"), http::HeaderValue::from_static("routed=1"));
        take(head, edits);
    });
    assert_eq!(said, ["baggage: routed=1"]);
}

/// What readers make of a line: split, decoded once or twice, trimmed, properties included.
fn readers_find_a_handle(carrier: Carrier, line: &str) -> bool {
    let decode = |text: &str| {
        let mut out = Vec::new();
        let mut rest = text.as_bytes();
        while let [first, tail @ ..] = rest {
            let pair = tail.get(..2).filter(|pair| pair.iter().all(u8::is_ascii_hexdigit));
            let pair = pair.and_then(|pair| std::str::from_utf8(pair).ok());
            match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).filter(|_| *first == b'%') {
                Some(byte) => {
                    out.push(byte);
                    rest = &tail[2..];
                }
                None => {
                    out.push(if *first == b'+' { b' ' } else { *first });
                    rest = tail;
                }
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    let mut texts = vec![line.to_owned()];
    for _ in 0..3 {
        let last = texts.last().unwrap();
        texts.push(decode(last));
    }
    texts.iter().any(|text| {
        text.split([',', ';']).any(|piece| {
            let (key, _) = piece.split_once('=').unwrap_or((piece, ""));
            key.trim().eq_ignore_ascii_case(carrier.key())
        })
    })
}

/// Lines in which our key is likely, in pieces and layers of encoding.
fn line() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => Just("signet.ctx".to_owned()), 4 => Just("signet".to_owned()),
        1 => Just("s%69gnet".to_owned()), 1 => Just("%2Ectx".to_owned()), 1 => Just("%73ignet".to_owned()),
        1 => Just("%2573ignet%252Ectx".to_owned()), 1 => Just("%25".to_owned()), 1 => Just("73".to_owned()),
        2 => Just("=".to_owned()), 2 => Just(",".to_owned()), 1 => Just(";".to_owned()), 1 => Just("%2C".to_owned()),
        1 => Just("%3D".to_owned()), 1 => Just("%3B".to_owned()), 1 => Just("+".to_owned()), 1 => Just(" ".to_owned()),
        1 => Just("\t".to_owned()), 1 => Just("%".to_owned()), 1 => "[ -~]{0,4}", 1 => Just(ONE.to_owned()),
        1 => Just(TWO.to_owned()), 1 => "[a-z]{1,3}=[a-z]{1,3}",
    ];
    proptest::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat().trim().to_owned())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn whatever_comes_no_handle_but_ours_goes_on(baggage in proptest::collection::vec(line(), 0..3), state in line(), traced: bool) {
        let mut sent: Vec<(&str, &str)> = baggage.iter().map(|line| ("baggage", line.as_str())).collect();
        sent.push(("tracestate", &state));
        if traced {
            sent.push(("traceparent", TRACEPARENT));
        }
        let heads = heads(&sent);
        let taken = lines(&heads, |head, edits| _ = take(head, edits));
        let stripped = lines(&heads, |head, edits| _ = strip(head, edits));
        prop_assert_eq!(&taken, &stripped);
        for line in &taken {
            let carrier = if line.to_ascii_lowercase().starts_with("baggage") { Carrier::Baggage } else { Carrier::Tracestate };
            let (_, value) = line.split_once(": ").unwrap();
            prop_assert!(!readers_find_a_handle(carrier, value), "{}", line);
        }
        let offered = lines(&heads, |head, edits| _ = offer(head, edits, &handle(ONE)));
        for line in &offered {
            let (name, value) = line.split_once(": ").unwrap();
            let carrier = if name.eq_ignore_ascii_case("baggage") { Carrier::Baggage } else { Carrier::Tracestate };
            let ours = format!("{}={ONE}", carrier.key());
            let rest = value.strip_prefix(&ours).unwrap_or(value);
            prop_assert!(!readers_find_a_handle(carrier, rest), "{}", line);
        }
        prop_assert!(offered.iter().filter(|line| line.to_ascii_lowercase().starts_with("baggage")).count() <= 1 || baggage.len() > 1);
    }

    #[test]
    fn decoding_costs_one_pass(depth in 0usize..4000) {
        // Layers upon layers of encoded percent signs.
        let member = format!("%{}73ignet.ctx=F", "25".repeat(depth));
        prop_assert!(spelling::is_ours(Carrier::Baggage, member.as_bytes()));
    }
}
