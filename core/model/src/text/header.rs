//! Header fields and query parameters that a route looks at or changes.

use std::fmt;
use std::str::FromStr;

use super::{Invalid, checked_text, serde_as_text};

/// A field name (RFC 9110, 5.1), kept in lower case: names are compared so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderField(Box<str>);

const FIELD: &str = "the name of a header (letters, digits and `!#$%&'*+-.^_`|~`), at most 256 characters";

impl HeaderField {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether only the mesh may set it, in this spelling or with `_` for `-`: see the wire crate's list.
    pub fn is_of_the_mesh(&self) -> bool {
        let name = self.0.replace('_', "-");
        name.starts_with("signet-") || matches!(&*name, "txn-token" | "x-forwarded-client-cert")
    }

    /// Why the mesh tells nobody of users by this name.
    pub fn unfit_for_users(&self) -> Option<&'static str> {
        if self.0.contains('_') {
            return Some("with `_`, which many servers take for `-` or drop");
        }
        if self.is_of_the_mesh() {
            return Some("it is the mesh's own already");
        }
        let is_others = self.is_of_the_connection()
            || ["content-", "accept", "access-control-", "sec-", "grpc-", "x-forwarded-", "if-"]
                .iter()
                .any(|prefix| self.0.starts_with(prefix))
            || matches!(
                &*self.0,
                "authorization"
                    | "cookie"
                    | "set-cookie"
                    | "date"
                    | "range"
                    | "via"
                    | "forwarded"
                    | "origin"
                    | "referer"
                    | "user-agent"
                    | "dpop"
                    | "traceparent"
                    | "tracestate"
                    | "baggage"
                    | "x-request-id"
                    | "x-api-key"
            );
        is_others.then_some("it has a meaning of its own, and would be taken from every request")
    }

    /// Whether it frames a message, says where it goes, or is for one connection alone.
    pub fn is_of_the_connection(&self) -> bool {
        let name = self.0.replace('_', "-");
        name.starts_with("proxy-")
            || matches!(
                &*name,
                "host"
                    | "content-length"
                    | "transfer-encoding"
                    | "connection"
                    | "keep-alive"
                    | "te"
                    | "trailer"
                    | "upgrade"
                    | "expect"
                    | "http2-settings"
            )
    }
}

impl FromStr for HeaderField {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<HeaderField, Invalid> {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if text.is_empty() || text.len() > 256 || !text.bytes().all(is_token) {
            return Err(Invalid::new(FIELD, text));
        }
        Ok(HeaderField(text.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for HeaderField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
serde_as_text!(HeaderField, FIELD);

checked_text!(
    /// The value of a field: visible ASCII and blanks, none at either end.
    HeaderText,
    "a header's value: visible ASCII characters, blanks between them, at most 4096",
    |text| text.len() <= 4096
        && text.bytes().all(|b| b == b' ' || b == b'\t' || b.is_ascii_graphic())
        && text.trim_matches([' ', '\t']) == text
);

checked_text!(
    /// The name or value of a query parameter as it means, not as it is encoded.
    QueryText,
    "a query parameter of at most 1024 characters without control characters",
    |text| text.len() <= 1024 && !text.chars().any(char::is_control)
);
