//! The door for our app: `POST /txn` exchanges transaction tokens (RFC 8693), `GET /jwks` gives the keys to verify them by.
//!
//! Who may ask is whoever reaches a loopback address of this pod, or a socket as a listed uid. A browser or a server that is
//! made to fetch URLs reaches it too, and gets no token: a request for one needs the header `Signet-App: true`, which neither
//! sends by itself; any needs a `Host` that is this machine, and no `Origin`. The app's own tokens are all that it can hand in: of
//! transaction tokens those that it may present at this moment.
//!
//! Nothing is minted here. The control plane judges and signs, under our certificate and in our name; what it answers is
//! verified as any token before the app gets it.

pub(crate) mod form;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN, PRAGMA, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use prometheus::{IntCounterVec, Opts, Registry};
use serde_json::{Value, json};
use signet_proto::v1;
use signet_proto::v1::exchange_request::Subject as Handed;
use signet_proto::v1::exchanged::Outcome;
use signet_proto::v1::transaction_tokens_client::TransactionTokensClient;
use signet_proxy::Shared;
use signet_proxy::app_tokens::{NotTaken, Of};
use tokio::sync::Semaphore;
use tonic::Code;

use crate::clock;
use crate::control::plane::ControlPlane;
use crate::identity::{MAX_ANSWER, call, said};
use form::{Ask, DEFERRED, Refused, Subject, TXN_TOKEN, Wanted};

/// A header that nothing sends by itself; also at a cloud's metadata service this is what keeps forged requests out.
const APP_HEADER: &str = "signet-app";
/// Exchanges under way at once. One is a call to the control plane.
const AT_ONCE: usize = 32;
/// After so many seconds an app that was too fast may ask again.
const PAUSE: u64 = 5;

/// See the module's story.
pub struct AppApi {
    shared: Arc<Shared>,
    plane: Arc<ControlPlane>,
    places: Semaphore,
    exchanges: IntCounterVec,
}

/// What is answered.
enum Answer {
    Granted(v1::GrantedToken, &'static str),
    Refused(Refused),
    /// Too much at once.
    SlowDown,
    /// Not now, and that is no fault of the app's.
    Later(String),
}

impl From<Refused> for Answer {
    fn from(refused: Refused) -> Answer {
        Answer::Refused(refused)
    }
}

impl AppApi {
    /// Registers its counter in `registry`.
    pub fn new(
        shared: Arc<Shared>,
        plane: Arc<ControlPlane>,
        registry: &Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let exchanges = IntCounterVec::new(
            Opts::new("signet_app_exchanges_total", "Token exchanges that the app asked for"),
            &["outcome"],
        )?;
        registry.register(Box::new(exchanges.clone()))?;
        Ok(Arc::new(Self { shared, plane, places: Semaphore::new(AT_ONCE), exchanges }))
    }

    /// Answers one request of the app.
    pub async fn answer(self: Arc<Self>, request: Request<Bytes>) -> Response<Bytes> {
        // Keys are nobody's secret, and libraries that fetch them send no header of ours.
        let asks_for_keys = request.uri().path() == "/jwks";
        if let Err(refused) = from_here(request.headers(), !asks_for_keys) {
            return respond(StatusCode::FORBIDDEN, &problem(&refused));
        }
        match (request.uri().path(), request.method()) {
            ("/jwks", &Method::GET | &Method::HEAD) => {
                let mut answer = respond(StatusCode::OK, &self.shared.minting_keys());
                let kind = HeaderValue::from_static("application/jwk-set+json");
                answer.headers_mut().insert(CONTENT_TYPE, kind);
                answer
            }
            ("/txn", &Method::POST) => {
                let answer = self.exchange(&request).await.unwrap_or_else(|refused| refused);
                self.exchanges.with_label_values(&[answer.label()]).inc();
                answer.respond()
            }
            ("/jwks" | "/txn", _) => {
                let allowed = if request.uri().path() == "/txn" { "POST" } else { "GET, HEAD" };
                let mut answer = respond(
                    StatusCode::METHOD_NOT_ALLOWED,
                    &problem(&Refused::invalid(format!("expected {allowed}"))),
                );
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
                answer
            }
            _ => {
                respond(StatusCode::NOT_FOUND, &problem(&Refused::invalid("expected POST /txn or GET /jwks")))
            }
        }
    }

    async fn exchange(&self, request: &Request<Bytes>) -> Result<Answer, Answer> {
        is_form(request.headers())?;
        let trust_domain = self.shared.state.view().keys.trust_domain.clone();
        let ask = Ask::read(request.body(), &trust_domain)?;
        let Ok(_place) = self.places.try_acquire() else { return Err(Answer::SlowDown) };

        // What the app hands in it must be able to present.
        let of = match (&ask.subject, &ask.actor) {
            (Subject::Txn(token), None) => Some(("subject_token", token)),
            (Subject::Txn(_), Some(_)) => {
                return Err(Refused::invalid("expected no actor_token beside a transaction token").into());
            }
            (_, Some(actor)) => Some(("actor_token", actor)),
            (_, None) => None,
        };
        if let Some((name, token)) = of
            && !self.shared.is_presentable(token.expose())
        {
            return Err(not_open(name).into());
        }

        let granted = self.ask(&ask).await?;
        let of = of.map(|(_, token)| token.expose());
        if let Wanted::Deferred(_) = ask.wanted {
            return Ok(Answer::Granted(granted, DEFERRED));
        }
        match self.shared.take(&granted.token, of.map_or(Of::Nothing, Of::Request)) {
            Ok(_) => Ok(Answer::Granted(granted, TXN_TOKEN)),
            Err(NotTaken::Ended) => Err(not_open("subject_token or actor_token").into()),
            Err(NotTaken::TooMany) => Err(Answer::SlowDown),
            Err(NotTaken::Refused(refusal)) => {
                tracing::warn!(target: "signet::app", reason = refusal.reason.label(),
                    "a token that the control plane signed does not verify here");
                Err(Answer::Later("the token that was signed is not believed here yet".to_owned()))
            }
        }
    }

    /// Asks the control plane.
    async fn ask(&self, ask: &Ask) -> Result<v1::GrantedToken, Answer> {
        let text = |token: &form::Token| token.expose().to_owned();
        let request = v1::ExchangeRequest {
            subject: Some(match &ask.subject {
                Subject::Txn(token) => Handed::TxnToken(text(token)),
                Subject::Access(token) => Handed::AccessToken(text(token)),
                Subject::Named(name) => Handed::Named(name.clone()),
                Subject::Deferred(token) => Handed::Deferred(text(token)),
            }),
            actor_token: ask.actor.as_ref().map(text).unwrap_or_default(),
            scope: ask.scope.clone(),
            details: ask.details.clone(),
            defer_for: match &ask.wanted {
                Wanted::Deferred(consumer) => consumer.clone(),
                Wanted::Txn => String::new(),
            },
            ttl_seconds: 0,
        };
        let (_, link) = self.plane.link().await.map_err(|error| {
            tracing::warn!(target: "signet::app", %error, "no exchange");
            Answer::Later("the control plane cannot be reached".to_owned())
        })?;
        let origin = link.origin();
        let mut client =
            TransactionTokensClient::with_origin(link, origin).max_decoding_message_size(MAX_ANSWER);
        match call(client.exchange(request)).await {
            Ok(v1::Exchanged { outcome: Some(Outcome::Granted(granted)) }) => Ok(granted),
            Ok(v1::Exchanged { outcome: Some(Outcome::Refused(refused)) }) => {
                Err(Refused::new(known(&refused.error), shown(&refused.description)).into())
            }
            Ok(v1::Exchanged { outcome: None }) => {
                Err(Answer::Later("the control plane's answer is none".to_owned()))
            }
            Err(status) => {
                let why = said(&status);
                tracing::warn!(target: "signet::app", code = ?status.code(), reason = why, "no exchange");
                Err(match status.code() {
                    Code::ResourceExhausted => Answer::SlowDown,
                    Code::PermissionDenied | Code::Unauthenticated => {
                        Refused::new("unauthorized_client", why).into()
                    }
                    _ => Answer::Later(why),
                })
            }
        }
    }
}

/// The error of the standards that the control plane names; whatever else it says is none that a client knows.
fn known(error: &str) -> &'static str {
    let all = ["invalid_scope", "invalid_target", "unauthorized_client", "unsupported_grant_type"];
    all.into_iter().find(|known| *known == error).unwrap_or("invalid_request")
}

/// On one line, bounded, of the characters of an `error_description` (RFC 6749, section 5.2).
fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() && c != '"' && c != '\\' || c == ' ' { c } else { '\'' };
    text.chars().take(300).map(plain).collect()
}

fn not_open(name: &str) -> Refused {
    Refused::invalid(format!(
        "the {name} is of no request that is open here: a transaction token is exchanged while the request that brought it is"
    ))
}

/// Whether it is the app that asks, as far as a request can show: no page of a browser, no name that leads here by a trick.
fn from_here(headers: &HeaderMap, marked: bool) -> Result<(), Refused> {
    let denied = |description: &str| Err(Refused::new("unauthorized_client", description));
    let mut marks = headers.get_all(APP_HEADER).iter();
    if marked && !matches!((marks.next(), marks.next()), (Some(mark), None) if mark == "true") {
        return denied("expected the header `Signet-App: true`");
    }
    if headers.contains_key(ORIGIN) {
        return denied("expected no Origin: this is for the app beside the sidecar, and for no browser");
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        _ => return denied("expected one Host"),
    };
    if is_here(host) { Ok(()) } else { denied("expected the Host `localhost` or a loopback address") }
}

fn is_here(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    if host.contains('@') {
        return false;
    }
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

fn is_form(headers: &HeaderMap) -> Result<(), Refused> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    match kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        true => Ok(()),
        false => Err(Refused::invalid("expected a form: application/x-www-form-urlencoded")),
    }
}

impl Answer {
    fn label(&self) -> &'static str {
        match self {
            Answer::Granted(..) => "granted",
            Answer::Refused(refused) => refused.error,
            Answer::SlowDown => "slow_down",
            Answer::Later(_) => "temporarily_unavailable",
        }
    }

    fn respond(self) -> Response<Bytes> {
        let error = self.label();
        let (status, body, wait) = match self {
            Answer::Granted(granted, kind) => {
                let mut body = json!({
                    "access_token": granted.token,
                    "issued_token_type": kind,
                    "token_type": "N_A",
                    "expires_in": granted.expires_at.saturating_sub(clock::now()).max(0),
                });
                if let Some(map) = body.as_object_mut()
                    && !granted.scope.is_empty()
                {
                    map.insert("scope".to_owned(), granted.scope.clone().into());
                }
                (StatusCode::OK, body, None)
            }
            Answer::Refused(refused) => (StatusCode::BAD_REQUEST, problem(&refused), None),
            Answer::SlowDown => {
                let refused = Refused::new(error, "too many exchanges at once: ask again later");
                (StatusCode::TOO_MANY_REQUESTS, problem(&refused), Some(PAUSE))
            }
            Answer::Later(why) => {
                let refused = Refused::new(error, shown(&why));
                (StatusCode::SERVICE_UNAVAILABLE, problem(&refused), Some(PAUSE))
            }
        };
        let mut answer = respond(status, &body);
        if let Some(seconds) = wait {
            answer.headers_mut().insert(RETRY_AFTER, Duration::from_secs(seconds).as_secs().into());
        }
        answer
    }
}

fn problem(refused: &Refused) -> Value {
    json!({ "error": refused.error, "error_description": refused.description })
}

fn respond(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(body.to_string()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn neither_a_browser_nor_a_name_that_leads_here_is_the_app() {
        let good = [("signet-app", "true"), ("host", "127.0.0.1:15021")];
        assert!(from_here(&headers(&good), true).is_ok());
        for host in ["localhost", "LOCALHOST:1", "[::1]:15021", "127.9.9.9", "[::ffff:127.0.0.1]"] {
            assert!(from_here(&headers(&[("signet-app", "true"), ("host", host)]), true).is_ok(), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:15021",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost@evil.example",
            "evil.example@localhost",
            "10.0.0.1",
            "",
        ] {
            assert!(from_here(&headers(&[("signet-app", "true"), ("host", host)]), true).is_err(), "{host}");
        }
        let bad: [&[(&'static str, &str)]; 6] = [
            &[("host", "localhost")],
            &[("signet-app", "yes"), ("host", "localhost")],
            &[("signet-app", "true"), ("signet-app", "true"), ("host", "localhost")],
            &[("signet-app", "true")],
            &[("signet-app", "true"), ("host", "localhost"), ("host", "localhost")],
            &[("signet-app", "true"), ("host", "localhost"), ("origin", "null")],
        ];
        for bad in bad {
            assert!(from_here(&headers(bad), true).is_err(), "{bad:?}");
        }
        // Who fetches keys need not say so, and must be here all the same.
        assert!(from_here(&headers(&[("host", "localhost")]), false).is_ok());
        for bad in [&[("host", "evil.example")][..], &[("host", "localhost"), ("origin", "null")]] {
            assert!(from_here(&headers(bad), false).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_the_control_plane_says_stays_on_one_line_and_within_the_standard() {
        assert_eq!(shown("scope `a\"b\\c`\r\nx"), "scope `a'b'c`''x");
        assert_eq!(shown(&"x".repeat(1000)).len(), 300);
        assert_eq!((known("invalid_scope"), known("access_denied")), ("invalid_scope", "invalid_request"));
    }
}
