//! A service account's token as it came: bounded, taken apart, and not believed.
//!
//! What is read here decides nothing by itself. It is compared with what the API server, or the signature,
//! vouches for afterwards, so that what was verified and what is used cannot be two things.

use serde::Deserialize;
use signet_ca::Refusal;
use signet_token::jws::Compact;

/// The longest token that is looked at. Real ones have 1 to 2 KiB; a list of audiences makes them longer.
pub const MAX_TOKEN: usize = 16 * 1024;
/// The longest subject, issuer or name in it.
const MAX_TEXT: usize = 1024;

/// The claims that matter (Kubernetes' bound service account tokens).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub sub: String,
    #[serde(default)]
    pub aud: Audiences,
    /// Seconds since the epoch. A token without an end is none of ours.
    pub exp: i64,
    #[serde(default)]
    pub nbf: Option<i64>,
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
}

/// One audience or several (RFC 7519, section 4.1.3).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "OneOrMore")]
pub struct Audiences(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl From<OneOrMore> for Audiences {
    fn from(from: OneOrMore) -> Self {
        match from {
            OneOrMore::One(one) => Self(vec![one]),
            OneOrMore::More(more) => Self(more),
        }
    }
}

/// What the token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Bound {
    pub namespace: String,
    pub serviceaccount: Named,
    #[serde(default)]
    pub pod: Option<Named>,
    #[serde(default)]
    pub node: Option<Named>,
}

/// An object by its name and by the id that is never used again.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Named {
    pub name: String,
    #[serde(default)]
    pub uid: String,
}

/// Takes a token apart. A text that is too long is not even looked at.
///
/// # Errors
/// `EvidenceTooLarge`, `EvidenceMalformed`.
pub fn parse(token: &str) -> Result<(Compact<'_>, Claims), Refusal> {
    if token.len() > MAX_TOKEN {
        return Err(Refusal::EvidenceTooLarge);
    }
    let compact = Compact::parse(token, MAX_TOKEN).map_err(|_| Refusal::EvidenceMalformed)?;
    let claims = claims(compact.payload())?;
    Ok((compact, claims))
}

/// The claims of a token whatever its header says, for comparison with what somebody else verified.
///
/// # Errors
/// `EvidenceTooLarge`, `EvidenceMalformed`.
pub fn claims(payload: &[u8]) -> Result<Claims, Refusal> {
    let map = signet_token::json::object(payload).map_err(|_| Refusal::EvidenceMalformed)?;
    let claims: Claims = serde_json::from_value(map.into()).map_err(|_| Refusal::EvidenceMalformed)?;
    let short = [&claims.iss, &claims.sub, &claims.bound.namespace].into_iter().all(|t| t.len() <= MAX_TEXT);
    if short { Ok(claims) } else { Err(Refusal::EvidenceMalformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_read_strictly() {
        let good = r#"{"iss":"i","sub":"s","aud":"a","exp":5,"kubernetes.io":{"namespace":"shop","serviceaccount":{"name":"web","uid":"u"}}}"#;
        let read = claims(good.as_bytes()).unwrap();
        assert_eq!(
            (read.aud.0.as_slice(), read.exp, &read.bound.pod),
            (["a".to_owned()].as_slice(), 5, &None)
        );
        for (from, to) in [
            (r#""exp":5,"#, ""),
            (r#""exp":5"#, r#""exp":"5""#),
            (r#""exp":5"#, r#""exp":5.5"#),
            (r#""iss":"i""#, r#""iss":"i","iss":"i""#),
            (r#""sub":"s""#, r#""sub":7"#),
            (r#""aud":"a""#, r#""aud":[1]"#),
            (r#""namespace":"shop","#, ""),
        ] {
            assert_eq!(claims(good.replace(from, to).as_bytes()), Err(Refusal::EvidenceMalformed), "{to}");
        }
    }

    #[test]
    fn a_token_that_is_too_long_is_not_taken_apart() {
        assert_eq!(parse(&"a".repeat(MAX_TOKEN + 1)).unwrap_err(), Refusal::EvidenceTooLarge);
        assert_eq!(parse("a.b").unwrap_err(), Refusal::EvidenceMalformed);
    }
}
