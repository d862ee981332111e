//! Whether a member speaks of a handle, however it is spelled.
//!
//! Libraries decode a key and send it on as plain text, some decode properties, some cut at what they decoded; a second one
//! on the way decodes again. So a member is looked at with everything decoded, as often as it can be. That is done in one
//! pass: what three bytes decode to can only complete a triple that ends where it stands.

use std::borrow::Cow;

use super::{BAGGAGE_KEY, Carrier, TRACESTATE_KEY};

/// Whether a member is the mesh's own.
///
/// In `baggage` it is if it says `signet.ctx` anywhere (also in its value and its properties, of which one library makes
/// members), or if its key is `signet` or begins with that and a character that is neither letter nor digit. In
/// `tracestate`, which nobody decodes and whose values are vendors' own, the key alone tells.
pub fn is_ours(carrier: Carrier, member: &[u8]) -> bool {
    let text = decoded(member);
    let says_handle = || carrier == Carrier::Baggage && contains(&text, BAGGAGE_KEY.as_bytes());
    // Nearly every member ends here: no word of ours, nothing that could become one.
    contains(&text, TRACESTATE_KEY.as_bytes())
        && (says_handle() || text.split(|byte| matches!(byte, b',' | b';')).any(is_our_key))
}

/// Whether this piece of a member begins with a key of ours.
fn is_our_key(piece: &[u8]) -> bool {
    let key = piece.split(|byte| *byte == b'=').next().unwrap_or_default();
    // What readers trim: blanks of any alphabet, and a plus sign that was one.
    let start = key.iter().position(u8::is_ascii_alphanumeric).unwrap_or(key.len());
    let key = key.get(start..).unwrap_or_default();
    let (word, rest) = key.split_at_checked(TRACESTATE_KEY.len()).unwrap_or((key, &[]));
    word.eq_ignore_ascii_case(TRACESTATE_KEY.as_bytes())
        && !rest.first().is_some_and(u8::is_ascii_alphanumeric)
}

/// Everything decoded that is percent-encoded, and what comes of that again.
fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    for byte in text {
        out.push(*byte);
        while let [.., b'%', high, low] = out.as_slice()
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            out.truncate(out.len().saturating_sub(3));
            out.push(high << 4 | low);
        }
    }
    Cow::Owned(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Whether it is in there, in any case. The needle begins with `s`.
fn contains(text: &[u8], needle: &[u8]) -> bool {
    memchr::memchr2_iter(b's', b'S', text).any(|at| {
        let found = text.get(at..).and_then(|rest| rest.get(..needle.len()));
        found.is_some_and(|found| found.eq_ignore_ascii_case(needle))
    })
}
