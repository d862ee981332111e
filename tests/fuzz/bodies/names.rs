//! Names of headers: what is the mesh's own is so in every spelling, and nothing of it passes edits that do not say so, over
//! HTTP/1 or HTTP/2. The lines are names, each with a value behind a colon.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};
use signet_wire::h1::{Limits, RequestParser};
use signet_wire::protected::{Protected, is_protected};
use signet_wire::{Edits, Known};

pub(crate) fn body(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    let mut text = b"GET / HTTP/1.1\r\nhost: orders.shop\r\n".to_vec();
    let mut own = 0;
    for line in bytes.split(|byte| *byte == b'\n').take(64) {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':').unwrap_or(line.len()));
        let value = value.get(1..).unwrap_or_default();
        let known = Known::of(name);
        let spelled: Vec<u8> =
            name.iter().map(|byte| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() }).collect();
        let is_own = spelled.starts_with(b"signet-")
            || spelled == b"txn-token"
            || spelled == b"x-forwarded-client-cert";
        assert_eq!(is_protected(name), is_own, "{}", String::from_utf8_lossy(name));
        assert_eq!(Known::of(&name.to_ascii_uppercase()), known);
        let (Ok(parsed), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
            continue;
        };
        if parsed == "host" {
            continue;
        }
        own += u32::from(is_own);
        text.extend_from_slice(name);
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
        headers.append(parsed, value);
    }
    text.extend_from_slice(b"\r\n");

    let mut passed = headers.clone();
    assert_eq!(Edits::new().apply(&mut passed, &Protected::default()), own);
    assert!(passed.keys().all(|name| !is_protected(name.as_str().as_bytes())));
    assert!(passed.len() + own as usize == headers.len(), "only the mesh's own went");

    let mut input = BytesMut::from(&text[..]);
    if let Ok(Some(head)) = RequestParser::new(Limits::default()).parse(&mut input) {
        assert_eq!(head.protected_count(), own);
        let mut out = BytesMut::new();
        head.write(&Edits::new(), &Protected::default(), &mut out);
        let again = RequestParser::new(Limits::default()).parse(&mut out.clone());
        let again = again.ok().flatten().expect("what we write, we read");
        assert_eq!(again.protected_count(), 0);
        assert!(again.fields().all(|field| !is_protected(field.name)));
    }
}
