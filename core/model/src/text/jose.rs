//! Texts that come from tokens.

use super::checked_text;

checked_text!(
    /// One scope (RFC 6749, section 3.3: visible ASCII without blank, `"` and `\`).
    Scope, "one scope: visible ASCII without blanks, `\"` and `\\`",
    |text| is_bounded(text) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
);

checked_text!(
    /// How a user logged in, as their issuer calls it (OpenID Connect Core, section 2, `acr`).
    AcrValue, "one value of `acr`: visible ASCII without blanks, `\"` and `\\`",
    |text| is_bounded(text) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
);

checked_text!(
    /// The name of a top-level claim. Not a path: a dot is part of the name.
    ClaimName, "the name of a top-level claim: visible text, at most 256 bytes",
    |text| is_bounded(text) && !text.chars().any(|c| c.is_control() || c.is_whitespace())
);

impl ClaimName {
    /// The usual place of scopes (RFC 9068, section 2.2.3).
    pub(crate) fn scope() -> ClaimName {
        ClaimName("scope".into())
    }
}

checked_text!(
    /// A value to compare with: any text without control characters.
    ClaimValue, "a text without control characters, at most 256 bytes",
    |text| is_bounded(text) && !text.chars().any(char::is_control)
);

fn is_bounded(text: &str) -> bool {
    !text.is_empty() && text.len() <= 256
}
