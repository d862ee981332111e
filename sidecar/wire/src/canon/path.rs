//! The strict path rule (see the parent module).

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};

/// Why a request target is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("a path must start with `/`")]
    NoLeadingSlash,
    #[error("an empty segment (`//`)")]
    EmptySegment,
    #[error("a dot segment, plain or encoded")]
    DotSegment,
    #[error("an encoded slash (%2F)")]
    EncodedSlash,
    #[error("a backslash, plain or encoded")]
    Backslash,
    #[error("an encoded NUL or control character")]
    EncodedControl,
    #[error("a `%` without two hexadecimal digits")]
    BadTriplet,
    #[error("encoded bytes that are not UTF-8")]
    NotUtf8,
    #[error("a fragment (`#`)")]
    Fragment,
    #[error("a byte that is not ASCII")]
    NonAscii,
    #[error("a character that must be percent-encoded")]
    InvalidCharacter,
    #[error("`*` is for OPTIONS only")]
    Asterisk,
    #[error("an absolute target must start with http:// or https://")]
    Scheme,
}

impl PathError {
    /// A short constant for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            PathError::NoLeadingSlash => "path_no_leading_slash",
            PathError::EmptySegment => "path_empty_segment",
            PathError::DotSegment => "path_dot_segment",
            PathError::EncodedSlash => "path_encoded_slash",
            PathError::Backslash => "path_backslash",
            PathError::EncodedControl => "path_encoded_control",
            PathError::BadTriplet => "path_bad_triplet",
            PathError::NotUtf8 => "path_not_utf8",
            PathError::Fragment => "path_fragment",
            PathError::NonAscii => "path_non_ascii",
            PathError::InvalidCharacter => "path_invalid_character",
            PathError::Asterisk => "path_asterisk",
            PathError::Scheme => "path_scheme",
        }
    }
}

/// A canonical request target: path and query, or `*`. ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    text: Bytes,
    path_len: usize,
}

impl Target {
    /// Canonicalises `path?query`. When nothing changes, the result shares the memory of `raw`.
    pub fn new(raw: Bytes) -> Result<Target, PathError> {
        let path_len = raw.iter().position(|b| *b == b'?').unwrap_or(raw.len());
        let (before, query) = raw.split_at_checked(path_len).unwrap_or((&raw, &[]));
        check_query(query)?;
        match path(before)? {
            Cow::Borrowed(_) => Ok(Target { path_len, text: raw }),
            Cow::Owned(changed) => {
                let mut text = BytesMut::with_capacity(changed.len().saturating_add(query.len()));
                text.put_slice(changed.as_bytes());
                text.put_slice(query);
                Ok(Target { path_len: changed.len(), text: text.freeze() })
            }
        }
    }

    /// The target `*` of `OPTIONS *`.
    pub fn asterisk() -> Target {
        Target { text: Bytes::from_static(b"*"), path_len: 1 }
    }

    /// CONNECT's target: an authority and no path.
    pub(crate) fn of_connect(authority: Bytes) -> Target {
        Target { text: authority, path_len: 0 }
    }

    /// Path and query as they are forwarded.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text).unwrap_or_default()
    }

    /// [`Target::as_str`], sharing the memory.
    pub fn as_bytes(&self) -> &Bytes {
        &self.text
    }

    /// The path alone; `*` for `OPTIONS *`, empty for CONNECT.
    pub fn path(&self) -> &str {
        self.as_str().get(..self.path_len).unwrap_or_default()
    }

    /// The query without its `?`; None when there is no `?`.
    pub fn query(&self) -> Option<&str> {
        self.as_str().get(self.path_len..)?.strip_prefix('?')
    }
}

fn check_query(query: &[u8]) -> Result<(), PathError> {
    for byte in query {
        match byte {
            b'#' => return Err(PathError::Fragment),
            b'"' | b'<' | b'>' | 0..=0x20 | 0x7f => return Err(PathError::InvalidCharacter),
            0x80.. => return Err(PathError::NonAscii),
            _ => {}
        }
    }
    Ok(())
}

/// Canonicalises a path without query. Borrowed when it was canonical already.
pub fn path(raw: &[u8]) -> Result<Cow<'_, str>, PathError> {
    let Some((b'/', rest)) = raw.split_first() else { return Err(PathError::NoLeadingSlash) };
    let mut changed = false;
    let mut beyond_ascii = false;
    let mut segment = Segment::default();
    let mut bytes = rest.iter();
    while let Some(byte) = bytes.next() {
        match *byte {
            b'/' => segment.end(false)?,
            b'%' => {
                let (high, low) = (bytes.next(), bytes.next());
                let (value, upper) = triplet(high, low)?;
                match value {
                    b'/' => return Err(PathError::EncodedSlash),
                    b'\\' => return Err(PathError::Backslash),
                    0..=0x1f | 0x7f => return Err(PathError::EncodedControl),
                    0x80.. => beyond_ascii = true,
                    _ => {}
                }
                changed |= is_unreserved(value) || !upper;
                segment.push(value);
            }
            b'\\' => return Err(PathError::Backslash),
            b'#' => return Err(PathError::Fragment),
            0x80.. => return Err(PathError::NonAscii),
            byte if is_allowed(byte) => segment.push(byte),
            _ => return Err(PathError::InvalidCharacter),
        }
    }
    segment.end(true)?;
    if beyond_ascii {
        decodes_to_utf8(raw)?;
    }
    if changed {
        return Ok(Cow::Owned(rewrite(raw)));
    }
    std::str::from_utf8(raw).map(Cow::Borrowed).map_err(|_| PathError::NonAscii)
}

/// What of a segment decides whether it is empty or a dot segment: servers that know path parameters cut it at `;`
/// first.
#[derive(Default)]
struct Segment {
    any: bool,
    dots: usize,
    other: bool,
    parameters: bool,
}

impl Segment {
    fn push(&mut self, byte: u8) {
        self.any = true;
        match byte {
            b';' => self.parameters = true,
            _ if self.parameters => {}
            b'.' => self.dots = self.dots.saturating_add(1),
            _ => self.other = true,
        }
    }

    fn end(&mut self, last: bool) -> Result<(), PathError> {
        if !self.any && !last {
            return Err(PathError::EmptySegment);
        }
        if !self.other && matches!(self.dots, 1 | 2) {
            return Err(PathError::DotSegment);
        }
        *self = Segment::default();
        Ok(())
    }
}

/// The value of two hexadecimal digits, and whether they are upper case.
fn triplet(high: Option<&u8>, low: Option<&u8>) -> Result<(u8, bool), PathError> {
    let (Some(high), Some(low)) = (high, low) else { return Err(PathError::BadTriplet) };
    let (Some(h), Some(l)) = (hex(*high), hex(*low)) else { return Err(PathError::BadTriplet) };
    Ok((h << 4 | l, !high.is_ascii_lowercase() && !low.is_ascii_lowercase()))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// RFC 3986, 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986's `pchar`, and the four that browsers send unencoded all the same.
const fn is_allowed(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
        || matches!(byte, b'[' | b']' | b'^' | b'|')
}

/// Overlong and otherwise broken UTF-8 has hidden slashes and dots from filters before.
fn decodes_to_utf8(raw: &[u8]) -> Result<(), PathError> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let (high, low) = (bytes.next(), bytes.next());
                decoded.push(triplet(high, low)?.0);
            }
            byte => decoded.push(*byte),
        }
    }
    std::str::from_utf8(&decoded).map(drop).map_err(|_| PathError::NotUtf8)
}

/// Decodes unreserved triplets and raises the case of the others. `raw` was checked.
fn rewrite(raw: &[u8]) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut bytes = raw.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'%' {
            text.push(char::from(*byte));
            continue;
        }
        let (high, low) = (bytes.next(), bytes.next());
        match triplet(high, low) {
            Ok((value, _)) if is_unreserved(value) => text.push(char::from(value)),
            _ => {
                text.push('%');
                text.extend([high, low].into_iter().flatten().map(|d| char::from(d.to_ascii_uppercase())));
            }
        }
    }
    text
}
