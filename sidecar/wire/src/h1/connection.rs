//! The `Connection` header: whether the connection stays, and which further fields belong to it alone.

use super::fields::Fields;
use crate::names::Known;

/// A legitimate sender names a handful; each one is compared with every field.
const MAX_TOKENS: usize = 32;

/// What the `Connection` headers of a head say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

/// Reads the tokens and marks the fields that they name as hop-by-hop. Protected names, and those by which somebody
/// behind the proxy decides, cannot be removed this way. None: not a list of tokens, or too long a one.
pub(super) fn read(fields: &mut Fields) -> Option<Connection> {
    let mut connection = Connection::default();
    if !fields.present.contains(Known::Connection) {
        return Some(connection);
    }
    let bytes = fields.bytes.clone();
    let values: Vec<std::ops::Range<usize>> = fields
        .places()
        .iter()
        .filter(|place| place.known == Known::Connection)
        .map(|place| {
            let start = usize::from(place.value);
            start..start.saturating_add(usize::from(place.value_len))
        })
        .collect();
    let mut count = 0usize;
    for range in values {
        for token in bytes.get(range)?.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            if token.is_empty() {
                continue;
            }
            count = count.saturating_add(1);
            if count > MAX_TOKENS || !is_token(token) {
                return None;
            }
            if token.eq_ignore_ascii_case(b"close") {
                connection.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                connection.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                connection.upgrade = true;
            } else {
                mark(fields, &bytes, token);
            }
        }
    }
    Some(connection)
}

fn mark(fields: &mut Fields, bytes: &[u8], token: &[u8]) {
    for place in fields.places_mut() {
        let start = usize::from(place.start);
        let name = bytes.get(start..start.saturating_add(usize::from(place.name_len))).unwrap_or(&[]);
        if name.eq_ignore_ascii_case(token) && !place.protected && !place.known.is_not_removable() {
            place.hop = true;
        }
    }
}

/// RFC 9110, 5.6.2.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}
