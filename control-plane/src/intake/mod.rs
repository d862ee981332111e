//! Where others say that a token or a user is not to be believed any more.
//!
//! * `POST /oauth2/revoke`: a token (RFC 7009). The token is its own proof: whoever holds it could use it, and may end it.
//! * `POST /backchannel-logout`: a logout token of an issuer (OpenID Connect Back-Channel Logout 1.0).
//!
//! Both become revocations like those of an operator, recorded with who brought them. Nothing is believed of a token before
//! its signature, and what is revoked already is not revoked anew.

mod seen;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, PRAGMA, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use signet_ca::{Authority, Revocation, UserName};
use signet_model::Registry;
use signet_token::{IssuerKeys, IssuerSettings, Issuers, Jwks, Logout, Subject, TokenError};
use tokio::sync::watch;

use crate::clock::unix_now;
use crate::issuers::{Issuers as Fetched, KeyState};
use crate::listen::public::Answer;
use crate::metrics::Metrics;
use crate::registry::State;
use seen::Seen;

/// The largest body: a token of 8 KiB, percent-encoded, and a few words beside it.
const MAX_BODY: usize = 32 * 1024;

/// Both endpoints.
#[derive(Clone)]
pub struct Intake {
    authority: Authority,
    registry: watch::Receiver<State>,
    fetched: Arc<Fetched>,
    metrics: Metrics,
    /// Logout tokens of the last minutes.
    seen: Arc<Mutex<Seen>>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Revoked,
    /// A token that is good for nothing as it is, or is revoked already.
    Nothing,
    /// Not what the endpoint takes: the error code of its standard, and what was expected.
    Bad(&'static str, &'static str),
    /// It cannot be judged or carried out now, and that is our fault.
    Later,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Outcome::Revoked => "revoked",
            Outcome::Nothing => "nothing",
            Outcome::Bad(code, _) => code,
            Outcome::Later => "unavailable",
        }
    }

    fn answer(self) -> Response<Full<Bytes>> {
        let (status, body) = match self {
            Outcome::Revoked | Outcome::Nothing => (StatusCode::OK, String::new()),
            Outcome::Bad(error, expected) => {
                let body = serde_json::json!({"error": error, "error_description": expected});
                (StatusCode::BAD_REQUEST, body.to_string())
            }
            Outcome::Later => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
        };
        let mut answer = Response::new(Full::from(body));
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
        if matches!(self, Outcome::Bad(..)) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if self == Outcome::Later {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        answer
    }
}

impl Answer for Intake {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let endpoint = match request.uri().path() {
            "/oauth2/revoke" => "revoke",
            "/backchannel-logout" => "logout",
            _ => {
                let mut answer = Response::new(Full::default());
                *answer.status_mut() = StatusCode::NOT_FOUND;
                return answer;
            }
        };
        if request.method() != Method::POST {
            let mut answer = Response::new(Full::default());
            *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return answer;
        }
        let outcome = match form(request).await {
            Err(outcome) => outcome,
            Ok(form) if endpoint == "revoke" => self.revoke(&form).await,
            Ok(form) => self.log_out(&form).await,
        };
        self.metrics.intake_requests.with_label_values(&[endpoint, outcome.label()]).inc();
        outcome.answer()
    }
}

/// The members of a form, in their order.
type Form = Vec<(String, String)>;

async fn form(request: Request<Incoming>) -> Result<Form, Outcome> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Outcome::Bad("invalid_request", "expected a form: application/x-www-form-urlencoded"));
    }
    let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let body = body.map_err(|_| Outcome::Bad("invalid_request", "expected a form of 32 KiB at most"))?;
    Ok(form_urlencoded::parse(&body.to_bytes()).into_owned().collect())
}

/// The one value of a member.
fn member<'a>(form: &'a Form, name: &str) -> Result<Option<&'a str>, Outcome> {
    let mut values = form.iter().filter(|(had, _)| had == name).map(|(_, value)| value.as_str());
    match (values.next(), values.next()) {
        (value, None) => Ok(value.filter(|value| !value.is_empty())),
        // RFC 6749, 3.1: parameters must not be included more than once.
        _ => Err(Outcome::Bad("invalid_request", "expected each parameter once")),
    }
}

impl Intake {
    #[must_use]
    pub fn new(
        authority: Authority,
        registry: watch::Receiver<State>,
        fetched: Arc<Fetched>,
        metrics: Metrics,
    ) -> Self {
        Self { authority, registry, fetched, metrics, seen: Arc::default() }
    }

    /// RFC 7009, section 2.
    async fn revoke(&self, form: &Form) -> Outcome {
        let (token, client) = match (member(form, "token"), member(form, "client_id")) {
            (Ok(Some(token)), Ok(client)) => (token, client),
            (Ok(None), _) => return Outcome::Bad("invalid_request", "expected the parameter `token`"),
            (Err(outcome), _) | (_, Err(outcome)) => return outcome,
        };
        let registry = self.registry.borrow().registry.clone();
        let access = match believed(&registry, &self.fetched.states()).verify(token, seconds()) {
            Ok(access) => access,
            Err(error) => return self.not_believed("revoke", &error),
        };
        if client.is_some_and(|client| access.client_id.as_deref().is_some_and(|own| own != client)) {
            return Outcome::Bad("unauthorized_client", "the token was issued to another client");
        }
        let Some(id) = &access.revocable.token else {
            return Outcome::Bad(
                "unsupported_token_type",
                "the token has no jti by which it could be revoked",
            );
        };
        self.carry_out("revoke", &registry, &access.alias, Revocation::Token, id, &access.revocable).await
    }

    /// OpenID Connect Back-Channel Logout 1.0, section 2.
    async fn log_out(&self, form: &Form) -> Outcome {
        let token = match member(form, "logout_token") {
            Ok(Some(token)) => token,
            Ok(None) => return Outcome::Bad("invalid_request", "expected the parameter `logout_token`"),
            Err(outcome) => return outcome,
        };
        let registry = self.registry.borrow().registry.clone();
        let is_client = |alias: &str, client: &str| {
            let issuer = registry.issuer(alias);
            issuer
                .is_some_and(|issuer| issuer.spec.logout_clients.iter().any(|known| known.as_str() == client))
        };
        let issuers = believed(&registry, &self.fetched.states());
        let logout = match issuers.verify_logout(token, seconds(), is_client) {
            Ok(logout) => logout,
            Err(error) if error.is_unavailable() => return self.not_believed("logout", &error),
            Err(error) => {
                tracing::info!(target: "signet::intake", reason = error.label(), %error, "a logout token is not believed");
                return Outcome::Bad("invalid_request", "expected a logout token of an issuer of the mesh");
            }
        };
        let Logout { alias, subject, session, id, issued_at } = logout;
        let is_new = self.seen.lock().unwrap_or_else(PoisonError::into_inner).note(&alias, &id, seconds());
        if !is_new {
            return Outcome::Nothing;
        }
        // With both it is that session of that user's, and no other (section 2.6).
        let named = Subject { user: format!("{alias}|"), session: session.clone(), token: None, issued_at };
        match (session, subject) {
            (Some(session), _) => {
                self.carry_out("logout", &registry, &alias, Revocation::Session, &session, &named).await
            }
            (None, Some(subject)) => {
                let named = Subject { user: format!("{alias}|{subject}"), ..named };
                self.carry_out("logout", &registry, &alias, Revocation::Logout, &subject, &named).await
            }
            (None, None) => Outcome::Nothing,
        }
    }

    /// A token that does not verify revokes nothing. By RFC 7009 that is no error of the client's: it is as it wished.
    fn not_believed(&self, endpoint: &'static str, error: &TokenError) -> Outcome {
        tracing::info!(target: "signet::intake", endpoint, reason = error.label(), %error, "a token is not believed");
        if let TokenError::UnknownKey { alias, .. } = error {
            self.fetched.want(alias);
        }
        if error.is_unavailable() { Outcome::Later } else { Outcome::Nothing }
    }

    async fn carry_out(
        &self,
        endpoint: &'static str,
        registry: &Registry,
        alias: &str,
        what: fn(UserName) -> Revocation,
        name: &str,
        named: &Subject,
    ) -> Outcome {
        if self.authority.revocations().borrow().users.revokes(named).is_some() {
            return Outcome::Nothing;
        }
        let Ok(name) = format!("{alias}|{name}").parse::<UserName>() else {
            return Outcome::Bad("invalid_request", "expected names of 1024 bytes at most");
        };
        let lifetime = registry.issuer(alias).map_or(0, |issuer| issuer.spec.max_lifetime.seconds());
        let what = what(name.of_issuer(i64::try_from(lifetime).unwrap_or(i64::MAX)));
        let actor = format!("issuer:{alias}");
        match self.authority.revoke(what, &format!("handed in: {endpoint}"), &actor).await {
            Ok(_) => Outcome::Revoked,
            Err(error) => {
                tracing::error!(target: "signet::intake", endpoint, %error, "a revocation that was handed in failed");
                Outcome::Later
            }
        }
    }
}

/// The issuers of the registry with the keys that were fetched.
pub(crate) fn believed(registry: &Registry, keys: &std::collections::BTreeMap<String, KeyState>) -> Issuers {
    let issuers = registry.issuers().filter_map(|issuer| {
        let spec = &issuer.spec;
        let alias = issuer.name.to_string();
        let state = keys.get(&alias);
        let settings = IssuerSettings {
            alias,
            issuer: spec.issuer.to_string(),
            audiences: spec.audiences.iter().map(ToString::to_string).collect(),
            algorithms: spec.algorithms.iter().map(|algorithm| algorithm.as_str().to_owned()).collect(),
            token_types: spec.token_types.iter().map(ToString::to_string).collect(),
            scope_claim: spec.scope_claim.to_string(),
            max_lifetime: Some(spec.max_lifetime.seconds()),
            claims: spec.claims.iter().map(ToString::to_string).collect(),
            skew: None,
        };
        let issuer = IssuerKeys::new(settings).ok()?;
        let jwks = state.and_then(|state| Jwks::parse(state.jwks.as_deref()?).ok());
        let at = state.and_then(|state| u64::try_from(state.fetched_at).ok()).unwrap_or_default();
        Some(match jwks {
            Some(jwks) => issuer.with_keys(Arc::new(jwks), at),
            None => issuer,
        })
    });
    Issuers::new(issuers)
}

fn seconds() -> u64 {
    u64::try_from(unix_now()).unwrap_or_default()
}
