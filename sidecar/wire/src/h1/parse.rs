//! What request and response heads share: when to try, where the fields lie, and the strictness that httparse leaves
//! to its caller.

use bytes::BytesMut;

use super::{
    Framing, Limits, Version,
    fields::{Fields, Place},
};
use crate::{names::Known, protected};

/// Decides when another parse can succeed, so that a head that comes byte by byte costs n log n and not n².
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scan {
    /// Bytes already looked at.
    seen: usize,
    /// Try anyway at this length: finds garbage early.
    retry_at: usize,
}

impl Scan {
    /// Whether to parse now: the head may be complete, or doubled since the last try.
    pub(super) fn is_due(&mut self, input: &[u8]) -> bool {
        if input.is_empty() {
            return false;
        }
        // An end of head may straddle the last look by up to two bytes.
        let fresh = input.get(self.seen.saturating_sub(2)..).unwrap_or(input);
        self.seen = input.len();
        // The first empty line: what a body behind it holds is not looked at.
        let ended = memchr::memchr_iter(b'\n', fresh).any(|at| {
            let next = fresh.get(at.saturating_add(1)..).unwrap_or_default();
            next.starts_with(b"\n") || next.starts_with(b"\r\n")
        });
        if !ended && input.len() < self.retry_at {
            return false;
        }
        self.retry_at = input.len().saturating_mul(2);
        true
    }

    pub(super) fn reset(&mut self) {
        *self = Scan::default();
    }
}

/// RFC 9112, 2.2: one empty line before a message is forgiven.
pub(super) fn skip_empty_line(input: &mut BytesMut) {
    if input.starts_with(b"\r\n") {
        let _ = input.split_to(2);
    }
}

/// What went wrong with the fields; each caller has its own error for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldsError {
    BareLineEnd,
    TooLarge,
}

/// Fills the table of fields. `head` is the whole head, and the parsed headers point into it. The caller sets
/// `bytes` when it has split the head off.
pub(super) fn collect(head: &[u8], headers: &[httparse::Header<'_>]) -> Result<Fields, FieldsError> {
    if !head.ends_with(b"\r\n\r\n") {
        return Err(FieldsError::BareLineEnd);
    }
    collect_lines(head, headers, true)
}

/// The same for a trailer section, which has no line before its first field.
pub(super) fn collect_trailers(
    section: &[u8],
    headers: &[httparse::Header<'_>],
) -> Result<Fields, FieldsError> {
    if !section.ends_with(b"\r\n\r\n") {
        return Err(FieldsError::BareLineEnd);
    }
    collect_lines(section, headers, false)
}

fn collect_lines(
    head: &[u8],
    headers: &[httparse::Header<'_>],
    after_line: bool,
) -> Result<Fields, FieldsError> {
    let mut fields = Fields::with_capacity(headers.len());
    let offset = |part: &[u8]| {
        let distance = (part.as_ptr() as usize).wrapping_sub(head.as_ptr() as usize);
        u16::try_from(distance).map_err(|_| FieldsError::TooLarge)
    };
    for (index, header) in headers.iter().enumerate() {
        let name = header.name.as_bytes();
        let start = offset(name)?;
        if after_line || index > 0 {
            let before =
                usize::from(start).checked_sub(2).and_then(|from| head.get(from..usize::from(start)));
            if before != Some(b"\r\n") {
                return Err(FieldsError::BareLineEnd);
            }
        }
        let name_len = u16::try_from(name.len()).map_err(|_| FieldsError::TooLarge)?;
        // httparse gives an empty value as a slice of its own.
        let value = match header.value {
            [] => start.saturating_add(name_len).saturating_add(1),
            value => offset(value)?,
        };
        let value_len = u16::try_from(header.value.len()).map_err(|_| FieldsError::TooLarge)?;
        let end = match headers.get(index.saturating_add(1)) {
            Some(next) => offset(next.name.as_bytes())?,
            None => u16::try_from(head.len().saturating_sub(2)).map_err(|_| FieldsError::TooLarge)?,
        };
        let known = Known::of(name);
        let protected = protected::is_protected(name);
        fields.push(Place {
            start,
            name_len,
            value,
            value_len,
            end,
            known,
            hop: known.is_hop_by_hop(),
            protected,
        });
    }
    Ok(fields)
}

/// Why the framing headers are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FramingError {
    Length,
    LengthRepeated,
    LengthAndChunked,
    Encoding,
    EncodingInHttp10,
}

/// What the framing headers announce (RFC 9112, 6.1–6.3, without its leniencies). None: neither is present.
pub(super) fn framing(fields: &Fields, version: Version) -> Result<Option<Framing>, FramingError> {
    let encodings = fields.count(Known::TransferEncoding);
    let lengths = fields.count(Known::ContentLength);
    match (encodings, lengths) {
        (0, 0) => Ok(None),
        (0, 1) => {
            let digits = fields.get(Known::ContentLength).unwrap_or_default();
            content_length(digits).map(|n| Some(Framing::Length(n))).ok_or(FramingError::Length)
        }
        (0, _) => Err(FramingError::LengthRepeated),
        (_, 1..) => Err(FramingError::LengthAndChunked),
        _ if version == Version::Http10 => Err(FramingError::EncodingInHttp10),
        (1, _) if fields.get(Known::TransferEncoding) == Some(b"chunked") => Ok(Some(Framing::Chunked)),
        _ => Err(FramingError::Encoding),
    }
}

/// Decimal digits only, at most 18 of them: no sign, no list, no overflow.
pub(crate) fn content_length(digits: &[u8]) -> Option<u64> {
    if !(1..=18).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// httparse's complaint in words that name the part.
pub(super) fn complaint(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => {
            "a field name has a character that is not allowed, or space before its colon"
        }
        httparse::Error::HeaderValue => "a field value has a control character, or is folded over lines",
        httparse::Error::NewLine => "a line does not end in CR LF",
        httparse::Error::Status => "the status is not three digits",
        httparse::Error::Token => "the first line has a character that is not allowed",
        httparse::Error::TooManyHeaders => "too many fields",
        httparse::Error::Version => "the version is not HTTP/1.0 or HTTP/1.1",
    }
}

/// The hard limits, whatever the caller asked for.
pub(super) fn bounded(limits: Limits) -> Limits {
    Limits {
        head: limits.head.min(Limits::MAX_HEAD),
        fields: limits.fields.min(Limits::MAX_FIELDS),
        trailers: limits.trailers.min(Limits::MAX_HEAD),
        ..limits
    }
}
