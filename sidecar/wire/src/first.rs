//! What a connection speaks, by its first bytes: HTTP/1, HTTP/2 with prior knowledge, or anything else.
//!
//! The answer for some bytes never changes by more of them: only [`First::More`] does. So it makes no difference in how
//! many pieces they come.

/// What some first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// A whole request line of HTTP/1.0 or 1.1.
    Http1,
    /// The connection preface of HTTP/2 (RFC 9113, 3.4).
    Http2,
    /// Neither of them.
    Bytes,
    /// It may still become one of them.
    More,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// No method is longer, and no request line.
const MAX_METHOD: usize = 32;
const MAX_LINE: usize = 16 * 1024;

/// Looks at the first bytes of a connection.
pub fn first(bytes: &[u8]) -> First {
    if bytes.is_empty() || PREFACE.starts_with(bytes) {
        return if bytes.len() == PREFACE.len() { First::Http2 } else { First::More };
    }
    if bytes.starts_with(PREFACE) {
        return First::Http2;
    }
    let method = bytes.iter().take_while(|byte| is_token(**byte)).count();
    match bytes.get(method) {
        _ if method > MAX_METHOD || method == 0 => return First::Bytes,
        None => return First::More,
        Some(b' ') => {}
        Some(_) => return First::Bytes,
    }
    let rest = bytes.get(method.saturating_add(1)..).unwrap_or_default();
    // RFC 9112, 3.2: a target has no blanks and no control characters.
    let target = rest.iter().take_while(|byte| byte.is_ascii_graphic()).count();
    match rest.get(target) {
        _ if target > MAX_LINE => return First::Bytes,
        None => return First::More,
        Some(b' ') if target > 0 => {}
        Some(_) => return First::Bytes,
    }
    let version = rest.get(target.saturating_add(1)..).unwrap_or_default();
    for wanted in [&b"HTTP/1.1\r\n"[..], b"HTTP/1.0\r\n", b"HTTP/1.1\n", b"HTTP/1.0\n"] {
        if version.starts_with(wanted) {
            return First::Http1;
        }
        if wanted.starts_with(version) {
            return First::More;
        }
    }
    First::Bytes
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Watches the first line of bytes that are passed on as no request, for one that a server of HTTP would take for a request
/// all the same: servers skip empty lines and blanks before it, and none reads a head without `HTTP/` in the line before.
///
/// It never takes back what it said, and holds nothing: a request is nothing until its line has ended.
#[derive(Debug, Clone, Default)]
pub struct FirstLine {
    begun: bool,
    /// How much of `HTTP/` the last bytes are.
    matched: usize,
}

/// What a first line turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// It names HTTP.
    Http,
    /// It is none that does.
    Other,
    /// It has not ended.
    More,
}

const NAME: &[u8] = b"http/";

impl FirstLine {
    /// Looks at the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Line {
        for byte in bytes {
            match byte {
                b'\r' | b'\n' | b' ' | b'\t' | 0x0b | 0x0c if !self.begun => {}
                b'\n' => return Line::Other,
                // No server takes these within a request line.
                0..=0x08 | 0x0e..=0x1f => return Line::Other,
                byte => {
                    self.begun = true;
                    let byte = byte.to_ascii_lowercase();
                    self.matched = match NAME.get(self.matched) {
                        Some(wanted) if *wanted == byte => self.matched.saturating_add(1),
                        _ => usize::from(byte == b'h'),
                    };
                    if self.matched == NAME.len() {
                        return Line::Http;
                    }
                }
            }
        }
        Line::More
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: &[(&[u8], First)] = &[
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", First::Http1),
        (b"POST http://a/b?c HTTP/1.0\r\n", First::Http1),
        (b"m-search * HTTP/1.1\n", First::Http1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", First::Http2),
        (b"PRI * HTTP/2.0\r\n\r\nXX", First::Bytes),
        (b"GET / HTTP/2.0\r\n", First::Bytes),
        (b"GET /\r\n", First::Bytes),
        (b"GET  / HTTP/1.1\r\n", First::Bytes),
        (b"EHLO mail.example.com\r\n", First::Bytes),
        (b"PING\r\n", First::Bytes),
        (b"*1\r\n$4\r\nPING\r\n", First::Bytes),
        (b"\x16\x03\x01\x02\0\x01", First::Bytes),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", First::Bytes),
        (b"SSH-2.0-OpenSSH_9\r\n", First::Bytes),
        (b"GET /\x01 HTTP/1.1\r\n", First::Bytes),
    ];

    #[test]
    fn a_line_that_a_lenient_server_takes_for_a_request_is_known_in_any_pieces() {
        for (bytes, wanted) in [
            (&b"GET / HTTP/1.1\r\n"[..], Line::Http),
            (b"\r\n\r\nGET / HTTP/1.1\n", Line::Http),
            (b" \t GET  /  HtTp/1.0", Line::Http),
            (b"PRI * HTTP/2.0\r\n", Line::Http),
            (b"GET /hhttp/ ", Line::Http),
            (b"EHLO mail.example.com\r\nGET / HTTP/1.1", Line::Other),
            (b"*1\r\n", Line::Other),
            (b"\x16\x03\x01 HTTP/", Line::Other),
            (b"\0\0HTTP/1.1", Line::Other),
            (b"GET / HTT", Line::More),
            (b"", Line::More),
        ] {
            for cut in 0..=bytes.len() {
                let mut line = FirstLine::default();
                let said = match line.feed(&bytes[..cut]) {
                    Line::More => line.feed(&bytes[cut..]),
                    said => said,
                };
                assert_eq!(said, wanted, "{} cut at {cut}", String::from_utf8_lossy(bytes));
            }
        }
    }

    #[test]
    fn protocols_are_told_by_their_first_bytes() {
        for (bytes, wanted) in CASES {
            assert_eq!(first(bytes), *wanted, "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(first(&[b'A'; 40]), First::Bytes);
        let long = [b"GET /".as_slice(), &[b'a'; 20_000]].concat();
        assert_eq!(first(&long), First::Bytes);
    }

    #[test]
    fn however_the_bytes_are_split_the_answer_is_the_same_and_never_taken_back() {
        for (bytes, wanted) in CASES {
            let mut said = First::More;
            for length in 0..=bytes.len() {
                let now = first(&bytes[..length]);
                assert!(
                    said == First::More || now == said,
                    "{said:?} became {now:?} at {length} of {bytes:?}"
                );
                said = now;
            }
            assert_eq!(said, *wanted);
        }
    }
}
