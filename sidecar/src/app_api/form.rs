//! The form of a token exchange (RFC 8693, section 2.1), as the draft of transaction tokens profiles it.
//!
//! Strict where leniency would be guessed at: each parameter once, a body that is a form, a subject of a kind that is
//! named. What RFC 6749 says of empty and of unknown parameters holds: the first count as left out, the others as nothing.

use std::fmt;

use zeroize::Zeroizing;

/// The value of `grant_type`.
const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// Asked for, or handed in as subject or actor.
pub(crate) const TXN_TOKEN: &str = "urn:ietf:params:oauth:token-type:txn_token";
/// A context that is put off.
pub(crate) const DEFERRED: &str = "urn:signet:params:oauth:token-type:deferred-context";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const UNSIGNED_JSON: &str = "urn:ietf:params:oauth:token-type:unsigned_json";

/// More parameters than the standards know.
const MAX_PARAMETERS: usize = 32;
/// Of `request_context`, of which nothing is used.
const MAX_CONTEXT: usize = 2048;

/// A bearer token on its way: it does not print.
#[derive(PartialEq, Eq)]
pub(crate) struct Token(Zeroizing<String>);

impl Token {
    fn new(text: &str) -> Token {
        Token(Zeroizing::new(text.to_owned()))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// For whom a token is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Txn(Token),
    Access(Token),
    /// `<alias>|<sub>`.
    Named(String),
    Deferred(Token),
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Txn,
    /// With the workload that may open it.
    Deferred(String),
}

/// A request that can be answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) subject: Subject,
    /// A transaction token.
    pub(crate) actor: Option<Token>,
    pub(crate) wanted: Wanted,
    pub(crate) scope: Option<String>,
    /// A JSON object, or empty.
    pub(crate) details: String,
}

/// Why a request gets no token: the error of RFC 6749 section 5.2 or RFC 8693 section 2.2.2, and what was expected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) error: &'static str,
    pub(crate) description: String,
}

impl Refused {
    pub(crate) fn new(error: &'static str, description: impl Into<String>) -> Refused {
        Refused { error, description: description.into() }
    }

    pub(crate) fn invalid(description: impl Into<String>) -> Refused {
        Refused::new("invalid_request", description)
    }
}

/// The parameters, each at most once.
struct Parameters(Vec<(String, Zeroizing<String>)>);

impl Parameters {
    fn read(body: &[u8]) -> Result<Parameters, Refused> {
        let mut all: Vec<(String, Zeroizing<String>)> = Vec::new();
        for (name, value) in form_urlencoded::parse(body) {
            if all.len() >= MAX_PARAMETERS {
                return Err(Refused::invalid(format!("expected at most {MAX_PARAMETERS} parameters")));
            }
            if all.iter().any(|(known, _)| *known == name) {
                return Err(Refused::invalid("expected each parameter once"));
            }
            // What was no UTF-8 is something else now.
            if name.contains(char::REPLACEMENT_CHARACTER) || value.contains(char::REPLACEMENT_CHARACTER) {
                return Err(Refused::invalid("expected parameters in UTF-8"));
            }
            all.push((name.into_owned(), Zeroizing::new(value.into_owned())));
        }
        Ok(Parameters(all))
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn required(&self, name: &str) -> Result<&str, Refused> {
        self.get(name).ok_or_else(|| Refused::invalid(format!("expected the parameter `{name}`")))
    }
}

impl Ask {
    /// Reads a body. `trust_domain` is the one audience of transaction tokens.
    pub(crate) fn read(body: &[u8], trust_domain: &str) -> Result<Ask, Refused> {
        let form = Parameters::read(body)?;
        if form.required("grant_type")? != GRANT {
            return Err(Refused::new("unsupported_grant_type", format!("expected the grant_type `{GRANT}`")));
        }
        if form.get("resource").is_some() {
            return Err(Refused::new("invalid_target", "expected an audience and no resource"));
        }
        let wanted = wanted(&form, trust_domain)?;
        let subject = subject(&form)?;
        if let Some(context) = form.get("request_context") {
            // What the mesh knows of the request it knows by itself.
            is_object("request_context", context, MAX_CONTEXT)?;
        }
        Ok(Ask {
            actor: actor(&form)?,
            subject,
            wanted,
            scope: form.get("scope").map(str::to_owned),
            details: form.get("request_details").unwrap_or_default().to_owned(),
        })
    }
}

fn wanted(form: &Parameters, trust_domain: &str) -> Result<Wanted, Refused> {
    let kind = form.required("requested_token_type")?;
    let audience = form.get("audience");
    match kind {
        TXN_TOKEN if audience == Some(trust_domain) => Ok(Wanted::Txn),
        TXN_TOKEN => Err(Refused::new(
            "invalid_target",
            format!("expected the trust domain `{trust_domain}` as audience"),
        )),
        DEFERRED => match audience {
            Some(consumer) if consumer.starts_with("spiffe://") => Ok(Wanted::Deferred(consumer.to_owned())),
            _ => Err(Refused::new(
                "invalid_target",
                "expected the SPIFFE ID of the workload that may open it as audience",
            )),
        },
        _ => {
            Err(Refused::invalid(format!("expected the requested_token_type `{TXN_TOKEN}` or `{DEFERRED}`")))
        }
    }
}

fn subject(form: &Parameters) -> Result<Subject, Refused> {
    let text = form.required("subject_token")?;
    match form.required("subject_token_type")? {
        TXN_TOKEN => Ok(Subject::Txn(Token::new(text))),
        ACCESS_TOKEN | JWT => Ok(Subject::Access(Token::new(text))),
        DEFERRED => Ok(Subject::Deferred(Token::new(text))),
        UNSIGNED_JSON => named(text).map(Subject::Named),
        // A refresh token among them, which the draft forbids as a subject.
        _ => Err(Refused::invalid(format!(
            "expected the subject_token_type `{TXN_TOKEN}`, `{ACCESS_TOKEN}`, `{JWT}`, `{UNSIGNED_JSON}` or `{DEFERRED}`"
        ))),
    }
}

/// `{"sub": "<alias>|<sub>"}`, and nothing else: no claim of a user is believed on a workload's word.
fn named(text: &str) -> Result<String, Refused> {
    let expected = || Refused::invalid("expected a subject_token of the form {\"sub\": \"<alias>|<sub>\"}");
    let map = signet_token::json::object(text.as_bytes()).map_err(|_| expected())?;
    match (map.len(), map.get("sub").and_then(|sub| sub.as_str())) {
        (1, Some(sub)) => Ok(sub.to_owned()),
        _ => Err(expected()),
    }
}

fn actor(form: &Parameters) -> Result<Option<Token>, Refused> {
    match (form.get("actor_token"), form.get("actor_token_type")) {
        (None, None) => Ok(None),
        (Some(text), Some(TXN_TOKEN)) => Ok(Some(Token::new(text))),
        (Some(_), Some(_)) => Err(Refused::invalid(format!("expected the actor_token_type `{TXN_TOKEN}`"))),
        // RFC 8693, section 2.1: both or neither.
        _ => Err(Refused::invalid("expected actor_token and actor_token_type, or neither")),
    }
}

fn is_object(name: &str, text: &str, most: usize) -> Result<(), Refused> {
    let is_one = text.len() <= most && signet_token::json::object(text.as_bytes()).is_ok();
    is_one
        .then_some(())
        .ok_or_else(|| Refused::invalid(format!("{name}: expected a JSON object of at most {most} bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TD: &str = "example.com";

    fn read(parameters: &[(&str, &str)]) -> Result<Ask, Refused> {
        let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        Ask::read(body.as_bytes(), TD)
    }

    fn good() -> Vec<(&'static str, &'static str)> {
        vec![
            ("grant_type", GRANT),
            ("requested_token_type", TXN_TOKEN),
            ("audience", TD),
            ("subject_token", "a.b.c"),
            ("subject_token_type", TXN_TOKEN),
        ]
    }

    fn with(name: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
        let mut all = good();
        all.retain(|(known, _)| *known != name);
        all.push((name, value));
        all
    }

    #[test]
    fn a_request_is_read_as_the_standards_have_it() {
        let ask = read(&with("scope", "orders:read profile")).unwrap();
        assert_eq!(ask.subject, Subject::Txn(Token::new("a.b.c")));
        assert_eq!((ask.wanted, ask.scope.as_deref()), (Wanted::Txn, Some("orders:read profile")));
        assert!(read(&with("scope", "")).unwrap().scope.is_none(), "empty is left out");
        assert!(read(&with("colour", "blue")).is_ok(), "what nobody knows is nothing");
        let mut all = with("subject_token_type", UNSIGNED_JSON);
        all.retain(|(name, _)| *name != "subject_token");
        all.push(("subject_token", r#"{"sub":"idp|alice"}"#));
        assert_eq!(read(&all).unwrap().subject, Subject::Named("idp|alice".into()));
        let mut all = with("requested_token_type", DEFERRED);
        all.retain(|(name, _)| *name != "audience");
        all.push(("audience", "spiffe://example.com/ns/shop/sa/worker"));
        assert_eq!(
            read(&all).unwrap().wanted,
            Wanted::Deferred("spiffe://example.com/ns/shop/sa/worker".into())
        );
    }

    #[test]
    fn what_is_not_a_request_is_refused_with_the_error_of_its_standard() {
        let error = |parameters: &[(&str, &str)]| read(parameters).unwrap_err().error;
        for missing in ["grant_type", "requested_token_type", "subject_token", "subject_token_type"] {
            let mut all = good();
            all.retain(|(name, _)| *name != missing);
            assert_eq!(error(&all), "invalid_request", "{missing}");
        }
        assert_eq!(error(&with("grant_type", "client_credentials")), "unsupported_grant_type");
        for audience in ["other.example", "", "example.com "] {
            assert_eq!(error(&with("audience", audience)), "invalid_target", "{audience:?}");
        }
        assert_eq!(error(&with("resource", "https://example.com")), "invalid_target");
        assert_eq!(error(&with("requested_token_type", ACCESS_TOKEN)), "invalid_request");
        for kind in ["refresh_token", "id_token", "saml2", "self_signed"] {
            let kind = format!("urn:ietf:params:oauth:token-type:{kind}");
            let mut all = good();
            all.retain(|(name, _)| *name != "subject_token_type");
            all.push(("subject_token_type", &kind));
            assert_eq!(error(&all), "invalid_request", "{kind}");
        }
        for (name, value) in [
            ("actor_token", "a.b.c"),
            ("actor_token_type", TXN_TOKEN),
            ("request_context", "[]"),
            ("request_context", "{\"a\":1,\"a\":2}"),
        ] {
            assert_eq!(error(&with(name, value)), "invalid_request", "{name}={value}");
        }
        let twice: Vec<_> = good().into_iter().chain([("scope", "a"), ("scope", "a")]).collect();
        assert_eq!(error(&twice), "invalid_request");
        let twice: Vec<_> = good().into_iter().chain([("colour", "a"), ("colour", "b")]).collect();
        assert_eq!(error(&twice), "invalid_request", "also of what nobody knows");
    }

    #[test]
    fn no_claim_of_a_user_is_taken_on_a_workloads_word() {
        for text in [
            "idp|alice",
            r#""idp|alice""#,
            "{}",
            r#"{"sub":1}"#,
            r#"{"sub":"idp|alice","email":"mallory@example.com"}"#,
            r#"{"sub":"idp|alice","sub":"idp|bob"}"#,
        ] {
            assert!(named(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_token_prints() {
        let ask = read(&[good(), vec![("actor_token", "secret"), ("actor_token_type", TXN_TOKEN)]].concat())
            .unwrap();
        let shown = format!("{ask:?}");
        assert!(!shown.contains("a.b.c") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn nothing_makes_it_panic() {
        for body in [&b""[..], b"&&&", b"=", b"%", b"%zz=%ff", b"a=%ff", b"grant_type=%00", &[0xff; 64]] {
            assert!(Ask::read(body, TD).is_err());
        }
        let many: Vec<String> = (0..100).map(|n| format!("p{n}=1")).collect();
        assert_eq!(Ask::read(many.join("&").as_bytes(), TD).unwrap_err().error, "invalid_request");
    }
}
