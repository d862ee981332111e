//! A handle is offered to an app: one line for each carrier, ours first, within what libraries bear.
//!
//! The limits are those past which a library that was measured loses everything and not just the tail. Where they leave no
//! room the app's own members go on as they came, and the other carrier has to do.

use super::{Carrier, Handle, join, put, rewrite, spelling};
use crate::{Edits, Known, RequestView};

/// Which carriers say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offered {
    /// `baggage`
    pub baggage: bool,
    /// `tracestate`
    pub tracestate: bool,
    /// Members that spoke of handles and were not ours: taken out.
    pub stripped: u32,
}

impl Offered {
    /// Whether the app hears of it at all.
    pub fn any(&self) -> bool {
        self.baggage || self.tracestate
    }
}

/// Says the handle in every carrier that has room, and takes out whatever else speaks of one. `tracestate` without a valid
/// `traceparent` is thrown away by every library, and a `traceparent` is not ours to make: it would decide on sampling.
pub fn offer(head: RequestView<'_>, edits: &mut Edits, handle: &Handle) -> Offered {
    let (baggage, in_baggage) = say(Carrier::Baggage, head, edits, handle, true);
    let (tracestate, in_tracestate) =
        say(Carrier::Tracestate, head, edits, handle, has_valid_traceparent(head));
    Offered { baggage, tracestate, stripped: in_baggage.saturating_add(in_tracestate) }
}

/// Bytes and members that a line may have, ours among them.
const fn room(carrier: Carrier) -> (usize, usize) {
    match carrier {
        Carrier::Baggage => (8192, 64),
        // A vendor in the app puts a member of its own before ours.
        Carrier::Tracestate => (460, 31),
    }
}

/// Whether the carrier says it now, and how many members were taken out.
fn say(
    carrier: Carrier,
    head: RequestView<'_>,
    edits: &mut Edits,
    handle: &Handle,
    may: bool,
) -> (bool, u32) {
    let (bytes, most) = room(carrier);
    let mut line = Vec::with_capacity(64);
    line.extend_from_slice(carrier.key().as_bytes());
    line.push(b'=');
    line.extend_from_slice(handle.as_bytes());
    let (mut members, mut stripped) = (1usize, 0u32);
    let mut keys: Vec<&[u8]> = Vec::new();
    for member in carrier.members(head) {
        if spelling::is_ours(carrier, member) {
            stripped = stripped.saturating_add(1);
        } else if may && members <= most && line.len() <= bytes {
            match key(carrier, member) {
                // One library throws a line away in which a key stands twice.
                Some(key) if carrier == Carrier::Tracestate && keys.contains(&key) => {}
                Some(key) => {
                    if carrier == Carrier::Tracestate {
                        keys.push(key);
                    }
                    members = members.saturating_add(1);
                    join(&mut line, member);
                }
                None => {}
            }
        }
    }
    let says = may && members <= most && line.len() <= bytes;
    if says {
        edits.remove(carrier.name());
        put(carrier, line, edits);
    } else if stripped > 0 {
        rewrite(carrier, head, edits);
    }
    (says, stripped)
}

/// The key of a member that the grammar allows; no other stays in a line that we write.
fn key(carrier: Carrier, member: &[u8]) -> Option<&[u8]> {
    let at = member.iter().position(|byte| *byte == b'=')?;
    let (key, rest) = (member.get(..at)?, member.get(at.saturating_add(1)..)?);
    match carrier {
        Carrier::Baggage => {
            let key = key.trim_ascii_end();
            let value = rest.split(|byte| *byte == b';').next()?.trim_ascii();
            let is_octet = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b'\\');
            (is_token(key) && value.iter().all(is_octet) && rest.is_ascii()).then_some(key)
        }
        Carrier::Tracestate => {
            let is_of_key = |byte: &u8| {
                byte.is_ascii_lowercase()
                    || byte.is_ascii_digit()
                    || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@')
            };
            let begins = key.first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
            let is_of_value = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'=';
            let fits = key.len() <= 256 && (1..=256).contains(&rest.len());
            (begins && fits && key.iter().all(is_of_key) && rest.iter().all(is_of_value)).then_some(key)
        }
    }
}

/// RFC 9110, 5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

/// Trace Context, 2.2: one line; in version 00 nothing after the flags.
fn has_valid_traceparent(head: RequestView<'_>) -> bool {
    if head.get(Known::Traceparent).is_none() {
        return false;
    }
    let mut lines = head.get_all(Known::Traceparent.text());
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    let mut parts = line.split(|byte| *byte == b'-');
    let mut part = |len: usize| {
        let part = parts.next()?;
        let is_hex = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
        (part.len() == len && part.iter().all(is_hex)).then_some(part)
    };
    let (Some(version), Some(trace), Some(parent), Some(_flags)) = (part(2), part(32), part(16), part(2))
    else {
        return false;
    };
    let is_something = |part: &[u8]| part.iter().any(|digit| *digit != b'0');
    version != b"ff"
        && is_something(trace)
        && is_something(parent)
        && (version != b"00" || parts.next().is_none())
}
