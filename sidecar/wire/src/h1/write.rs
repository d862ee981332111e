//! Writing heads: everything that is not changed is copied in runs, in one pass over the table of fields.

use bytes::{BufMut, BytesMut};
use http::{HeaderName, HeaderValue};

use super::{Framing, Persist, RequestHead, ResponseHead, Upgrade, fields::Fields};
use crate::{
    edits::{Edits, Verdict},
    names::{Known, KnownSet},
    protected::Protected,
};

/// Room for what the codec adds by itself.
const SLACK: usize = 128;

impl RequestHead {
    /// Appends the head as it is forwarded, always as HTTP/1.1 and in origin form. Returns how many protected fields
    /// were dropped.
    pub fn write(&self, edits: &Edits, protected: &Protected, out: &mut BytesMut) -> u32 {
        reserve(&self.fields, edits, out);
        out.put_slice(self.method_bytes());
        out.put_u8(b' ');
        out.put_slice(edits.target.as_ref().unwrap_or(self.target()).as_bytes());
        out.put_slice(b" HTTP/1.1\r\n");
        let mut ours = KnownSet::EMPTY;
        if self.rewrite_host || edits.authority.is_some() {
            ours.insert(Known::Host);
            out.put_slice(b"host: ");
            match (&edits.authority, self.authority()) {
                (Some(authority), _) => out.put_slice(authority),
                (None, Some(authority)) => put_authority(authority, out),
                (None, None) => {}
            }
            out.put_slice(b"\r\n");
        }
        let dropped = copy_fields(&self.fields, edits, protected, ours, out);
        if self.upgrade() == Upgrade::Websocket {
            out.put_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        }
        put_additions(edits, out);
        out.put_slice(b"\r\n");
        dropped
    }
}

impl ResponseHead {
    /// Appends the head as it is forwarded, always as HTTP/1.1. Returns how many protected fields were dropped.
    pub fn write(&self, edits: &Edits, persist: Persist, protected: &Protected, out: &mut BytesMut) -> u32 {
        reserve(&self.fields, edits, out);
        out.put_slice(b"HTTP/1.1");
        // Status and reason as they came: after `HTTP/1.x`, up to the first field or the empty line.
        let line_end =
            self.fields.bytes.iter().position(|b| *b == b'\n').map_or(0, |at| at.saturating_add(1));
        out.put_slice(self.fields.bytes.get(8..line_end).unwrap_or(b"\r\n"));
        let mut ours = KnownSet::EMPTY;
        if persist == Persist::Unchunk || self.framing() == Framing::Tunnel {
            ours.insert(Known::TransferEncoding);
        }
        if matches!(self.status(), 100..=199 | 204) {
            ours.insert(Known::ContentLength);
        }
        let dropped = copy_fields(&self.fields, edits, protected, ours, out);
        match (self.status(), persist) {
            (101, _) => out.put_slice(b"connection: upgrade\r\nupgrade: websocket\r\n"),
            (_, Persist::Close | Persist::Unchunk) => out.put_slice(b"connection: close\r\n"),
            (_, Persist::KeepAlive) => out.put_slice(b"connection: keep-alive\r\n"),
            (_, Persist::Keep) => {}
        }
        put_additions(edits, out);
        out.put_slice(b"\r\n");
        dropped
    }
}

fn put_authority(authority: &crate::canon::Host, out: &mut BytesMut) {
    out.put_slice(authority.name().as_bytes());
    if let Some(port) = authority.port() {
        out.put_u8(b':');
        put_decimal(u64::from(port), out);
    }
}

fn reserve(fields: &Fields, edits: &Edits, out: &mut BytesMut) {
    let added: usize = edits
        .additions()
        .iter()
        .map(|(name, value)| name.as_str().len().saturating_add(value.len()).saturating_add(4))
        .sum();
    let authority = edits.authority.as_ref().map_or(0, bytes::Bytes::len);
    let target = edits.target.as_ref().map_or(0, |target| target.as_bytes().len());
    let authority = authority.saturating_add(target);
    out.reserve(fields.bytes.len().saturating_add(added).saturating_add(authority).saturating_add(SLACK));
}

/// Copies what stays. `ours` are names that the caller writes (or leaves out) itself.
pub(super) fn copy_fields(
    fields: &Fields,
    edits: &Edits,
    protected: &Protected,
    ours: KnownSet,
    out: &mut BytesMut,
) -> u32 {
    let mut dropped = 0u32;
    let mut run = fields.places().first().map_or(0, |place| usize::from(place.start));
    for place in fields.places() {
        let goes = if place.hop || ours.contains(place.known) {
            true
        } else {
            match edits.verdict(fields.name(place), place.known, place.protected, protected) {
                Verdict::Forwarded => false,
                Verdict::Removed => true,
                Verdict::Protected => {
                    dropped = dropped.saturating_add(1);
                    true
                }
            }
        };
        if goes {
            out.put_slice(fields.bytes.get(run..usize::from(place.start)).unwrap_or_default());
            run = usize::from(place.end);
        }
    }
    if let Some(last) = fields.places().last() {
        out.put_slice(fields.bytes.get(run..usize::from(last.end)).unwrap_or_default());
    }
    dropped
}

fn put_additions(edits: &Edits, out: &mut BytesMut) {
    for (name, value) in edits.additions() {
        put_field(name.as_str(), value.as_bytes(), out);
    }
}

fn put_field(name: &str, value: &[u8], out: &mut BytesMut) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

fn put_decimal(number: u64, out: &mut BytesMut) {
    let mut digits = [b'0'; 20];
    let mut rest = number;
    let mut used = 0usize;
    for digit in digits.iter_mut().rev() {
        *digit = b'0'.saturating_add(u8::try_from(rest % 10).unwrap_or(0));
        used = used.saturating_add(1);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.put_slice(digits.get(20usize.saturating_sub(used)..).unwrap_or_default());
}

/// Appends an answer of our own: status line, the given fields, length, and the body unless the request was HEAD.
pub fn write_answer(
    status: u16,
    fields: &[(HeaderName, HeaderValue)],
    body: &[u8],
    persist: Persist,
    to_head: bool,
    out: &mut BytesMut,
) {
    let size: usize =
        fields.iter().map(|(n, v)| n.as_str().len().saturating_add(v.len()).saturating_add(4)).sum();
    out.reserve(size.saturating_add(body.len()).saturating_add(SLACK));
    out.put_slice(b"HTTP/1.1 ");
    put_decimal(u64::from(status), out);
    out.put_u8(b' ');
    out.put_slice(reason(status).as_bytes());
    out.put_slice(b"\r\n");
    for (name, value) in fields {
        put_field(name.as_str(), value.as_bytes(), out);
    }
    if !matches!(status, 100..=199 | 204 | 304) {
        out.put_slice(b"content-length: ");
        put_decimal(u64::try_from(body.len()).unwrap_or(u64::MAX), out);
        out.put_slice(b"\r\n");
    }
    match persist {
        Persist::Close | Persist::Unchunk => out.put_slice(b"connection: close\r\n"),
        Persist::KeepAlive => out.put_slice(b"connection: keep-alive\r\n"),
        Persist::Keep => {}
    }
    out.put_slice(b"\r\n");
    if !to_head && !matches!(status, 100..=199 | 204 | 304) {
        out.put_slice(body);
    }
}

/// The reason phrase of a status (IANA's registry); empty for those without one.
pub fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default()
}
