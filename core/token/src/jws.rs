//! Compact JWS (RFC 7515 §3.1, §5.2): taken apart strictly, verified against one chosen key, and made.

use serde_json::{Map, Value};

use crate::algorithm::Algorithm;
use crate::b64;
use crate::json::{self, JsonError};
use crate::jwk::Jwk;

/// Why a text is no compact JWS that we verify. Labels are for counters; messages carry no text of the
/// token beyond its algorithm's name, escaped and clipped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoseError {
    #[error("the token is {got} bytes, at most {max} are read")]
    TooLarge { got: usize, max: usize },
    #[error("a compact token has three parts separated by dots, this has {got}")]
    Parts { got: usize },
    #[error("the {part} is not unpadded base64url in its one canonical spelling")]
    Base64 { part: &'static str },
    #[error("the {part} is {source}")]
    Json { part: &'static str, source: JsonError },
    #[error("the header's {member} is missing or not a string")]
    Header { member: &'static str },
    #[error("algorithm {name} is not offered: ES256, ES384, RS256, PS256 and EdDSA are")]
    Algorithm { name: String },
    #[error("the header lists critical extensions (crit), and none is implemented")]
    Critical,
    #[error("the signature does not verify under the key that the header names")]
    Signature,
}

impl JoseError {
    pub const fn label(&self) -> &'static str {
        match self {
            JoseError::TooLarge { .. } => "too_large",
            JoseError::Parts { .. } => "malformed",
            JoseError::Base64 { .. } => "bad_base64",
            JoseError::Json { source: JsonError::Duplicate, .. } => "duplicate_member",
            JoseError::Json { source: JsonError::TooDeep, .. } => "too_deep",
            JoseError::Json { .. } => "bad_json",
            JoseError::Header { .. } => "bad_header",
            JoseError::Algorithm { .. } => "unknown_algorithm",
            JoseError::Critical => "critical_extension",
            JoseError::Signature => "bad_signature",
        }
    }
}

/// A compact JWS taken apart. Nothing in it is believed yet.
#[derive(Debug)]
pub struct Compact<'t> {
    header: Map<String, Value>,
    algorithm: Algorithm,
    kid: Option<String>,
    payload: Vec<u8>,
    signed: &'t [u8],
    signature: Vec<u8>,
}

impl<'t> Compact<'t> {
    /// Takes a token apart: at most `max` bytes, exactly three parts, a header that is an object with
    /// an algorithm of ours, no `crit`. `jku`, `x5u`, `jwk` and `x5c` are ignored wherever they stand.
    pub fn parse(token: &'t str, max: usize) -> Result<Compact<'t>, JoseError> {
        if token.len() > max {
            return Err(JoseError::TooLarge { got: token.len(), max });
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JoseError::Parts { got: token.split('.').count() });
        };
        let signed = header.len().checked_add(payload.len()).and_then(|n| n.checked_add(1));
        let signed = signed.and_then(|n| token.as_bytes().get(..n)).unwrap_or_default();

        let decoded = |part, text| b64::decode(text).ok_or(JoseError::Base64 { part });
        let header = decoded("header", header)?;
        let payload = decoded("payload", payload)?;
        let signature = decoded("signature", signature)?;
        let header = json::object(&header).map_err(|source| JoseError::Json { part: "header", source })?;

        let Some(Value::String(name)) = header.get("alg") else {
            return Err(JoseError::Header { member: "alg" });
        };
        let algorithm = Algorithm::from_name(name).ok_or_else(|| JoseError::Algorithm {
            name: name.chars().take(16).collect::<String>().escape_debug().to_string(),
        })?;
        // Present at all, whatever its value: an empty list is malformed (RFC 7515 §4.1.11).
        if header.contains_key("crit") {
            return Err(JoseError::Critical);
        }
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(JoseError::Header { member: "kid" }),
        };
        Ok(Compact { header, algorithm, kid, payload, signed, signature })
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The header's media type without `application/`, in lower case (RFC 7515 §4.1.9).
    pub fn media_type(&self) -> Option<String> {
        self.header.get("typ")?.as_str().map(short_media_type)
    }

    /// Whether `typ` is absent or a string: another value is no media type, and not "none" either.
    pub fn typ_is_text(&self) -> bool {
        self.header.get("typ").is_none_or(Value::is_string)
    }

    /// The header's `typ` as it stands, if there is one.
    pub fn typ(&self) -> Result<Option<&str>, JoseError> {
        match self.header.get("typ") {
            None => Ok(None),
            Some(typ) => typ.as_str().map(Some).ok_or(JoseError::Header { member: "typ" }),
        }
    }

    /// A header member as it stands.
    pub(crate) fn header_member(&self, member: &str) -> Option<&Value> {
        self.header.get(member)
    }

    /// A header member as a string.
    pub fn header_text(&self, member: &'static str) -> Result<&str, JoseError> {
        self.header.get(member).and_then(Value::as_str).ok_or(JoseError::Header { member })
    }

    /// The payload as it came.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload as a claims set.
    pub fn claims(&self) -> Result<Map<String, Value>, JoseError> {
        json::object(&self.payload).map_err(|source| JoseError::Json { part: "payload", source })
    }

    /// Whether `key` made this signature with this header's algorithm.
    pub fn verify(&self, key: &Jwk) -> Result<(), JoseError> {
        if key.signature_holds(self.algorithm, self.signed, &self.signature) {
            Ok(())
        } else {
            Err(JoseError::Signature)
        }
    }
}

pub(crate) fn short_media_type(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    match lower.strip_prefix("application/") {
        Some(short) if !short.contains('/') => short.to_owned(),
        _ => lower,
    }
}

/// Header and claims, encoded and joined: what gets signed.
pub(crate) fn signing_input(header: &Map<String, Value>, claims: &Map<String, Value>) -> String {
    // Maps of strings and numbers always serialise.
    let part = |map: &Map<String, Value>| b64::encode(Value::Object(map.clone()).to_string().as_bytes());
    format!("{}.{}", part(header), part(claims))
}
