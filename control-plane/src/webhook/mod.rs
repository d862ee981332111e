//! The door where the API server has pods injected (`POST /inject`), and what is written judged (`POST /validate`), each
//! with an `AdmissionReview`.
//!
//! What becomes of a pod is a pure function ([`signet_kubernetes::inject`]), and what is said of an object is the registry's
//! own reading of it ([`resources`]); here are the bounds around them. Whoever reaches the door may ask: nothing is
//! changed, and of the registry it is told whether what an object names is there, and for a wrong issuer which ones
//! there are. The door presents our own SVID under the names that the API server dials, so that its certificate is renewed
//! as ours is.

pub mod publish;
pub mod resources;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use ring::rand::{SecureRandom as _, SystemRandom};
use signet_kubernetes::inject::review::{Answer as Reviewed, Question, answer, judged};
use signet_kubernetes::inject::{ProbeKey, Settings};
use tokio::sync::{Semaphore, SemaphorePermit};

use self::resources::Resources;
use crate::listen::public::{Answer, Bounds};
use crate::metrics::Metrics;

/// An object is 1.5 MiB at most; an update brings two, and who asks.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// The API server sends at once what it has.
const BODY_WITHIN: Duration = Duration::from_secs(5);
/// As large as nobody's pods are: larger ones take turns, so that the process keeps its memory, and others do not wait for them.
const LARGE_BODY: usize = 256 * 1024;
const LARGE_AT_ONCE: usize = 2;
/// Values in a body: each takes half a kilobyte of memory at worst, however few bytes it has. A pod has hundreds.
const MOST_VALUES: usize = 50_000;
/// With more than these it is a large one.
const LARGE_VALUES: usize = 5_000;
/// One address is the API server's, and a rollout makes hundreds of pods.
pub const BOUNDS: Bounds = Bounds { burst: 2_000, per_second: 500.0, at_once: 64 };

/// What is behind the door.
#[derive(Clone)]
pub struct Webhook {
    settings: Arc<Settings>,
    /// None: the registry is no cluster's, and nobody asks about its objects.
    resources: Option<Arc<Resources>>,
    large: Arc<Semaphore>,
    metrics: Metrics,
}

/// What is asked for.
#[derive(Clone, Copy)]
enum Door {
    Inject,
    Validate,
}

impl Answer for Webhook {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let door = match request.uri().path() {
            "/inject" => Door::Inject,
            "/validate" => Door::Validate,
            _ => return said(StatusCode::NOT_FOUND, "expected /inject or /validate".to_owned()),
        };
        if request.method() != Method::POST {
            let mut refusal = said(StatusCode::METHOD_NOT_ALLOWED, "expected POST".to_owned());
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return refusal;
        }
        let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return self
                .no_review(StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected application/json".to_owned());
        }
        let read = async {
            let turn = self.turn(&request).await;
            (turn, Limited::new(request.into_body(), MAX_BODY).collect().await)
        };
        match tokio::time::timeout(BODY_WITHIN, read).await {
            Ok((turn, Ok(body))) => {
                let body = body.to_bytes();
                let values = values_in(&body);
                if values > MOST_VALUES {
                    let expected = format!("expected at most {MOST_VALUES} values, got {values}");
                    return self.no_review(StatusCode::PAYLOAD_TOO_LARGE, expected);
                }
                let _turn = match turn {
                    None if values > LARGE_VALUES => self.large.acquire().await.ok(),
                    turn => turn,
                };
                self.review(door, &body).await
            }
            Ok((_, Err(error))) if error.is::<LengthLimitError>() => {
                self.no_review(StatusCode::PAYLOAD_TOO_LARGE, format!("expected at most {MAX_BODY} bytes"))
            }
            Ok((_, Err(_))) => self.no_review(StatusCode::BAD_REQUEST, "expected a whole body".to_owned()),
            Err(_) => {
                let expected = format!("expected a body within {} seconds", BODY_WITHIN.as_secs());
                self.no_review(StatusCode::REQUEST_TIMEOUT, expected)
            }
        }
    }
}

impl Webhook {
    #[must_use]
    pub fn new(settings: Arc<Settings>, resources: Option<Resources>, metrics: Metrics) -> Self {
        let large = Arc::new(Semaphore::new(LARGE_AT_ONCE));
        Self { settings, resources: resources.map(Arc::new), large, metrics }
    }

    /// The turn of a large body, by what it says of itself; a small one needs none.
    async fn turn(&self, request: &Request<Incoming>) -> Option<SemaphorePermit<'_>> {
        let length =
            request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if length.unwrap_or(MAX_BODY) <= LARGE_BODY {
            return None;
        }
        self.large.acquire().await.ok()
    }

    async fn review(&self, door: Door, body: &[u8]) -> Response<Full<Bytes>> {
        let reviewed = match door {
            Door::Inject => {
                let mut bytes = [0; 16];
                if SystemRandom::new().fill(&mut bytes).is_err() {
                    // Without a key of its own a pod's hooks could be run by everybody.
                    let failed = "no random numbers".to_owned();
                    return self.no_review(StatusCode::INTERNAL_SERVER_ERROR, failed);
                }
                answer(body, &self.settings, &ProbeKey::new(u128::from_be_bytes(bytes)))
            }
            Door::Validate => match Question::read(body) {
                Err(expected) => Reviewed::NoReview(expected),
                Ok(question) => match (judged(&question, &self.settings), &self.resources) {
                    (Some(answer), _) => answer,
                    (None, Some(resources)) => resources.answer(&question).await,
                    (None, None) => question.allowed("ignored", "", &[]),
                },
            },
        };
        match reviewed {
            Reviewed::NoReview(expected) => self.no_review(StatusCode::BAD_REQUEST, expected),
            Reviewed::Review { body, outcome, reason } => {
                self.metrics.injections.with_label_values(&[outcome, reason]).inc();
                let mut answer = Response::new(Full::from(body.to_string()));
                let headers = answer.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                answer
            }
        }
    }

    fn no_review(&self, status: StatusCode, expected: String) -> Response<Full<Bytes>> {
        self.metrics.injections.with_label_values(&["no-review", ""]).inc();
        tracing::warn!(target: "signet::webhook", status = status.as_u16(), expected, "a request that is no review");
        said(status, expected)
    }
}

/// How many values a JSON text has, or a few more: before anything is made of it.
fn values_in(body: &[u8]) -> usize {
    body.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count()
}

fn said(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(format!("{text}\n")));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
