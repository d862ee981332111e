//! How an app reads of the verified user: one header with everything, and a header for each claim that it asks for.
//!
//! Two users never look the same. A claim's value is written in percent encoding: every byte but visible ASCII and blanks
//! inside, and `%` and `,` themselves, so that a text with a comma is not taken for a list. What cannot be written so is
//! left out, and a header that is left out is removed, whoever sent it.

use std::fmt::Write as _;

use http::{HeaderName, HeaderValue};
use serde_json::Value;
use signet_policy::User;
use signet_wire::Edits;

/// The name that an app reads unless it asks for another.
const USUAL: HeaderName = HeaderName::from_static("signet-user");

/// Bytes of one claim's header; a longer value is left out.
const MOST: usize = 4 * 1024;

/// Names for one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserHeaders {
    all: HeaderName,
    /// Each with the claim that it holds.
    claims: Vec<(HeaderName, Box<str>)>,
}

impl Default for UserHeaders {
    fn default() -> Self {
        UserHeaders { all: USUAL, claims: Vec::new() }
    }
}

impl UserHeaders {
    /// Such names; `None` for everything is the usual one. The error: one is no header's, or not to be set.
    pub fn new<'a>(
        all: Option<&str>,
        claims: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, String> {
        let read = |name: &str| match name.parse::<signet_model::HeaderField>() {
            Ok(field) => match field.unfit_for_users() {
                None => HeaderName::try_from(name).map_err(|error| format!("{name}: {error}")),
                Some(why) => Err(format!("expected another header than `{name}`: {why}")),
            },
            Err(error) => Err(error.to_string()),
        };
        let claims = claims.into_iter().map(|(name, claim)| Ok((read(name)?, claim.into())));
        Ok(UserHeaders { all: all.map_or(Ok(USUAL), read)?, claims: claims.collect::<Result<_, String>>()? })
    }

    /// The names beside the usual one, which is protected anyway.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let all = (self.all != USUAL).then_some(&self.all);
        all.into_iter().chain(self.claims.iter().map(|(name, _)| name)).map(HeaderName::as_str)
    }

    /// Tells the app of this user, and takes away whatever else says so. `all` is everything as one value.
    pub(crate) fn tell(&self, edits: &mut Edits, all: &HeaderValue, user: &User) {
        edits.set(self.all.clone(), all.clone());
        for (name, claim) in &self.claims {
            edits.overrule(name.clone(), value(user, claim));
        }
    }
}

/// What is said of a claim: of `sub` and `scope` as policy knows them, of all else as the token has it.
fn value(user: &User, claim: &str) -> Option<HeaderValue> {
    let mut out = String::new();
    match claim {
        "sub" => write(&mut out, &user.sub),
        "scope" if user.scopes.is_empty() => return None,
        "scope" => write(&mut out, &user.scopes.join(" ")),
        _ => match user.claims.get(claim)? {
            Value::String(text) => write(&mut out, text),
            Value::Bool(yes) => write(&mut out, if *yes { "true" } else { "false" }),
            Value::Number(number) => write(&mut out, &number.to_string()),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    // An empty one could not be told from none, and of what is no text nobody knows how it is read.
                    let text = item.as_str().filter(|text| !text.is_empty())?;
                    if index > 0 {
                        out.push(',');
                    }
                    write(&mut out, text);
                }
            }
            Value::Null | Value::Object(_) => return None,
        },
    }
    if out.is_empty() || out.len() > MOST {
        return None;
    }
    HeaderValue::try_from(out).ok()
}

fn write(out: &mut String, text: &str) {
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            // Readers of HTTP do not see blanks at the ends.
            b' ' if at != 0 && at != last => out.push(' '),
            b'%' | b',' => _ = write!(out, "%{byte:02X}"),
            0x21..=0x7e => out.push(char::from(byte)),
            _ => _ = write!(out, "%{byte:02X}"),
        }
        // Whatever is left of it, it is too long.
        if out.len() > MOST {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(claim: Value) -> Option<String> {
        let user = User {
            sub: "idp|1".into(),
            scopes: vec!["a".into(), "b".into()],
            claims: json!({"it": claim}).as_object().unwrap().clone(),
            cred: "jwt".into(),
            context: signet_policy::Context::Forwarded,
            actor: None,
        };
        assert_eq!(value(&user, "sub").unwrap(), "idp|1");
        assert_eq!(value(&user, "scope").unwrap(), "a b");
        assert_eq!(value(&user, "absent"), None);
        value(&user, "it").map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn no_two_values_look_the_same_and_what_cannot_be_said_is_left_out() {
        for (claim, expected) in [
            (json!("alice@example.com"), "alice@example.com"),
            (json!("Doe, Jane"), "Doe%2C Jane"),
            (json!(["Doe", " Jane"]), "Doe,%20Jane"),
            (json!(["ops", "admin"]), "ops,admin"),
            (json!("ops,admin"), "ops%2Cadmin"),
            (json!("100%25"), "100%2525"),
            (json!("Zoë"), "Zo%C3%AB"),
            (json!("a\r\nx-role: admin"), "a%0D%0Ax-role: admin"),
            (json!(true), "true"),
            (json!(42), "42"),
        ] {
            assert_eq!(said(claim.clone()).as_deref(), Some(expected), "{claim}");
        }
        for claim in
            [json!(""), json!(null), json!({}), json!([]), json!([""]), json!(["a", ""]), json!(["a", 1])]
        {
            assert_eq!(said(claim.clone()), None, "{claim}");
        }
        assert_eq!(said(json!("x".repeat(MOST))).map(|it| it.len()), Some(MOST));
        assert_eq!(said(json!("x".repeat(MOST + 1))), None);
        assert_eq!(said(json!("é".repeat(MOST))), None);
    }
}
