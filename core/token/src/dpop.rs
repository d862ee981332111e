//! Proofs of possession that come with an access token (DPoP, RFC 9449).
//!
//! The caller signs, with the key that its token is bound to (`cnf.jkt`), which method and which place it calls, and the
//! digest of the token (`ath`). [`verify`] believes a proof but for whether it came before: that is its caller's to know,
//! by [`Proof::id`], for [`REMEMBERED`].

use serde_json::Value;

use crate::algorithm::Algorithm;
use crate::b64::{self, sha256};
use crate::claims::{ClaimError, Claims};
use crate::jwk::{Jwk, JwkRefused};
use crate::jws::{Compact, JoseError};

/// The header's type.
pub const TYPE: &str = "dpop+jwt";
/// A key of 8192 bits and a place of some length.
pub const MAX_PROOF: usize = 8 * 1024;
/// How far `iat` may be from our clock, in seconds (RFC 9449 §11.1).
pub const WINDOW: u64 = 60;
/// For how long a proof that was believed could be believed again, in seconds.
pub const REMEMBERED: u64 = 2 * WINDOW + 1;

/// What a receiver knows by itself.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Of the request, as it came: methods have case.
    pub method: &'a str,
    /// `https`, or `http` where the caller came in without TLS.
    pub scheme: &'a str,
    /// Host, with the port where one was named.
    pub authority: &'a str,
    /// Without query.
    pub path: &'a str,
    /// The access token beside it.
    pub token: &'a str,
}

/// A proof that was believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The key's thumbprint (RFC 7638), to be compared with the token's `cnf.jkt`.
    pub thumbprint: String,
    /// Unlike that of any other proof of the same key: a digest of `jti`.
    pub id: [u8; 16],
}

/// Why a proof is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DpopError {
    #[error(transparent)]
    Jose(#[from] JoseError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("expected the type {TYPE}")]
    Type,
    #[error("the header's jwk: {0}")]
    Key(#[from] JwkRefused),
    #[error("it is for another method than that of the request")]
    Method,
    #[error("it is for another place than that of the request")]
    Place,
    #[error("it is for another access token (ath)")]
    Token,
    #[error("it was made at {issued_at}, and it is {now}: at most {WINDOW} s apart are taken")]
    Time { issued_at: u64, now: u64 },
}

impl DpopError {
    /// For counters and logs.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            DpopError::Jose(JoseError::Signature) => "dpop_bad_signature",
            DpopError::Jose(_) | DpopError::Claim(_) => "dpop_malformed",
            DpopError::Type => "dpop_type",
            DpopError::Key(_) => "dpop_key",
            DpopError::Method => "dpop_method",
            DpopError::Place => "dpop_place",
            DpopError::Token => "dpop_token",
            DpopError::Time { .. } => "dpop_time",
        }
    }
}

/// Believes a proof (RFC 9449 §4.3), but for whether it came before and whether its key is the token's.
///
/// # Errors
/// What is wrong with it; nothing of it is to be told to the caller.
pub fn verify(proof: &str, expected: &Expected<'_>, now: u64) -> Result<Proof, DpopError> {
    let compact = Compact::parse(proof, MAX_PROOF)?;
    if compact.typ()? != Some(TYPE) {
        return Err(DpopError::Type);
    }
    let Some(Value::Object(jwk)) = compact.header_member("jwk") else {
        return Err(JoseError::Header { member: "jwk" }.into());
    };
    let key = Jwk::from_map(jwk)?;
    compact.verify(&key)?;
    let claims = compact.claims()?;
    let claims = Claims(&claims);
    let id = claims.required_text("jti")?;
    let issued_at = claims.required_date("iat")?;
    if claims.required_text("htm")? != expected.method {
        return Err(DpopError::Method);
    }
    let asked = format!("{}://{}{}", expected.scheme, expected.authority, expected.path);
    match (place(place_text(claims)?), place(&asked)) {
        (Some(named), Some(asked)) if named == asked => {}
        _ => return Err(DpopError::Place),
    }
    if claims.required_text("ath")? != b64::encode(&sha256(expected.token.as_bytes())) {
        return Err(DpopError::Token);
    }
    if issued_at.abs_diff(now) > WINDOW {
        return Err(DpopError::Time { issued_at, now });
    }
    let [first, ..] = *sha256(id.as_bytes()).as_chunks::<16>().0 else {
        return Err(JoseError::Header { member: "jti" }.into());
    };
    Ok(Proof { thumbprint: key.thumbprint().to_owned(), id: first })
}

/// `htu`, which may be longer than other texts: it is compared whole.
fn place_text(claims: Claims<'_>) -> Result<&str, ClaimError> {
    match claims.0.get("htu") {
        Some(Value::String(text)) => Ok(text),
        Some(other) => {
            Err(ClaimError::Type { claim: "htu", expected: "a string", found: crate::claims::kind(other) })
        }
        None => Err(ClaimError::Missing { claim: "htu" }),
    }
}

/// An http or https URI without query and fragment in its one spelling (RFC 3986 §6.2.2, §6.2.3): scheme and host in
/// lower case, no default port, at least `/` as path, escapes in upper case and only where they are needed. None for
/// anything else; names of users are nothing that a place has.
fn place(uri: &str) -> Option<String> {
    let uri = uri.split(['?', '#']).next()?;
    let (scheme, rest) = uri.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let default = match scheme.as_str() {
        "https" => ":443",
        "http" => ":80",
        _ => return None,
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let authority = authority.to_ascii_lowercase();
    let authority = authority.strip_suffix(default).unwrap_or(&authority);
    let authority = authority.strip_suffix(':').unwrap_or(authority);
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~[]:%".contains(&byte);
    if authority.is_empty() || !authority.bytes().all(is_host) {
        return None;
    }
    let path = if path.is_empty() { "/".to_owned() } else { escapes(path)? };
    Some(format!("{scheme}://{authority}{path}"))
}

fn escapes(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(char::from(byte).is_ascii_graphic().then_some(char::from(byte))?);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
        let byte = (high << 4) | low;
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    Some(out)
}

/// What offers a proof: the algorithms, for a challenge (RFC 9449 §7.1).
#[must_use]
pub fn algorithms() -> String {
    Algorithm::ALL.map(Algorithm::name).join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_has_one_spelling() {
        for (uri, expected) in [
            ("https://api.example.com/a", Some("https://api.example.com/a")),
            ("HTTPS://API.example.com:443/a?b=c#d", Some("https://api.example.com/a")),
            ("https://api.example.com", Some("https://api.example.com/")),
            ("https://api.example.com:8443/", Some("https://api.example.com:8443/")),
            ("http://api.example.com:80/%7Ea%2fb", Some("http://api.example.com/~a%2Fb")),
            ("https://[2001:DB8::1]:443/a", Some("https://[2001:db8::1]/a")),
            ("https://user@api.example.com/", None),
            ("https:///a", None),
            ("ftp://api.example.com/", None),
            ("/a", None),
            ("https://api.example.com/%zz", None),
            ("https://api.example.com/a b", None),
            ("https://api.example.com/ä", None),
        ] {
            assert_eq!(place(uri).as_deref(), expected, "{uri}");
        }
    }
}
