//! What a connection speaks is the same wherever its first bytes were cut, and is never taken back; and a request that is
//! carried as bytes is known as one by its first line in any two pieces.

use signet_wire::first::{First, FirstLine, Line, first};

/// Where it is cut: at every offset of the beginning, and of what decides last.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    (0..=length.min(96)).chain(length.saturating_sub(32).max(97)..=length)
}

pub(crate) fn body(bytes: &[u8]) {
    let whole = first(bytes);
    let mut said = First::More;
    for cut in cuts(bytes.len()) {
        let now = first(&bytes[..cut]);
        assert!(said == First::More || now == said, "{said:?} became {now:?} at {cut}");
        said = now;
    }
    assert_eq!(said, whole);
    if whole == First::Http2 {
        assert!(bytes.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
    }

    let line = FirstLine::default().feed(bytes);
    for cut in cuts(bytes.len()) {
        let mut pieces = FirstLine::default();
        let said = match pieces.feed(&bytes[..cut]) {
            Line::More => pieces.feed(&bytes[cut..]),
            said => said,
        };
        assert_eq!(said, line, "cut at {cut}");
    }
    // Whatever is HTTP/1 or HTTP/2 by its first bytes may not be called bytes.
    if matches!(whole, First::Http1 | First::Http2) {
        assert_eq!(line, Line::Http);
    }
}
