//! Claims with types. A claim of the wrong type is an error of its own, never "absent": half of the
//! field's token bugs began with that confusion.

use serde_json::{Map, Value};

/// Why a claims set is not the shape that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    #[error("claim {claim} is missing")]
    Missing { claim: &'static str },
    #[error("claim {claim} is {found}, expected {expected}")]
    Type { claim: &'static str, expected: &'static str, found: &'static str },
}

impl ClaimError {
    pub const fn label(&self) -> &'static str {
        match self {
            ClaimError::Missing { .. } => "missing_claim",
            ClaimError::Type { .. } => "claim_type",
        }
    }
}

/// A claims set being read.
#[derive(Clone, Copy)]
pub(crate) struct Claims<'a>(pub(crate) &'a Map<String, Value>);

impl<'a> Claims<'a> {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A string that is neither empty nor longer than `MAX_TEXT`, and has no control characters.
    pub(crate) fn text(&self, claim: &'static str) -> Result<Option<&'a str>, ClaimError> {
        match self.0.get(claim) {
            None => Ok(None),
            Some(Value::String(text)) if is_plain(text) => Ok(Some(text)),
            Some(Value::String(_)) => Err(ClaimError::Type {
                claim,
                expected: "1 to 1024 bytes without control characters",
                found: "another string",
            }),
            Some(other) => Err(ClaimError::Type { claim, expected: "a string", found: kind(other) }),
        }
    }

    pub(crate) fn required_text(&self, claim: &'static str) -> Result<&'a str, ClaimError> {
        self.text(claim)?.ok_or(ClaimError::Missing { claim })
    }

    /// `sub` of any length that the token's own bound allows: a SPIFFE ID may have 2048 bytes.
    pub(crate) fn required_subject(&self) -> Result<&'a str, ClaimError> {
        match self.0.get("sub") {
            None => Err(ClaimError::Missing { claim: "sub" }),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(ClaimError::Type { claim: "sub", expected: "a string", found: kind(other) }),
        }
    }

    /// A NumericDate (RFC 7519 §2), whole seconds only: a fraction is refused, as no issuer of the
    /// field sends one and a float that is silently rounded is a date that nobody signed.
    pub(crate) fn date(&self, claim: &'static str) -> Result<Option<u64>, ClaimError> {
        match self.0.get(claim) {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or(ClaimError::Type {
                claim,
                expected: "whole seconds since the epoch",
                found: kind(value),
            }),
        }
    }

    pub(crate) fn required_date(&self, claim: &'static str) -> Result<u64, ClaimError> {
        self.date(claim)?.ok_or(ClaimError::Missing { claim })
    }

    /// A string, or an array of strings with at least one.
    pub(crate) fn one_or_more(&self, claim: &'static str) -> Result<Vec<&'a str>, ClaimError> {
        let values = match self.0.get(claim) {
            None => return Err(ClaimError::Missing { claim }),
            Some(Value::Array(_)) => self.list(claim)?,
            Some(_) => vec![self.required_text(claim)?],
        };
        if values.is_empty() {
            return Err(ClaimError::Type { claim, expected: "at least one string", found: "an empty array" });
        }
        Ok(values)
    }

    /// An array of strings; absent is empty.
    pub(crate) fn list(&self, claim: &'static str) -> Result<Vec<&'a str>, ClaimError> {
        let wrong =
            |value: &Value| ClaimError::Type { claim, expected: "an array of strings", found: kind(value) };
        match self.0.get(claim) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| match item {
                    Value::String(text) if is_plain(text) => Ok(text.as_str()),
                    other => Err(wrong(other)),
                })
                .collect(),
            Some(other) => Err(wrong(other)),
        }
    }

    pub(crate) fn object(&self, claim: &'static str) -> Result<Claims<'a>, ClaimError> {
        match self.0.get(claim) {
            None => Err(ClaimError::Missing { claim }),
            Some(Value::Object(map)) => Ok(Claims(map)),
            Some(other) => Err(ClaimError::Type { claim, expected: "an object", found: kind(other) }),
        }
    }
}

/// Longest `sub`, `iss` and the like, in bytes.
pub(crate) const MAX_TEXT: usize = 1024;

pub(crate) fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(n) if n.is_u64() => "a whole number",
        Value::Number(_) => "a negative or fractional number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
