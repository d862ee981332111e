//! The door where the API server has pods injected: `POST /inject` with an `AdmissionReview`.
//!
//! What becomes of a pod is a pure function ([`signet_kubernetes::inject`]); here are the bounds around it. Whoever reaches the
//! door may ask: it tells nothing that its caller did not bring, and changes nothing. It presents our own SVID under the names that the API
//! server dials, so that its certificate is renewed as ours is.

pub mod publish;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use ring::rand::{SecureRandom as _, SystemRandom};
use signet_kubernetes::inject::review::{Answer as Reviewed, answer};
use signet_kubernetes::inject::{ProbeKey, Settings};

use crate::listen::public::{Answer, Bounds};
use crate::metrics::Metrics;

/// An object is 1.5 MiB at most; an update brings two, and who asks.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// The API server sends at once what it has.
const BODY_WITHIN: Duration = Duration::from_secs(5);
/// One address is the API server's, and a rollout makes hundreds of pods.
pub const BOUNDS: Bounds = Bounds { burst: 2_000, per_second: 500.0 };

/// What is behind the door.
#[derive(Clone)]
pub struct Webhook {
    pub settings: Arc<Settings>,
    pub metrics: Metrics,
}

impl Answer for Webhook {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != "/inject" {
            return said(StatusCode::NOT_FOUND, "expected /inject".to_owned());
        }
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
        let body = Limited::new(request.into_body(), MAX_BODY).collect();
        match tokio::time::timeout(BODY_WITHIN, body).await {
            Ok(Ok(body)) => self.review(&body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                self.no_review(StatusCode::PAYLOAD_TOO_LARGE, format!("expected at most {MAX_BODY} bytes"))
            }
            Ok(Err(_)) => self.no_review(StatusCode::BAD_REQUEST, "expected a whole body".to_owned()),
            Err(_) => {
                let expected = format!("expected a body within {} seconds", BODY_WITHIN.as_secs());
                self.no_review(StatusCode::REQUEST_TIMEOUT, expected)
            }
        }
    }
}

impl Webhook {
    fn review(&self, body: &[u8]) -> Response<Full<Bytes>> {
        let mut bytes = [0; 16];
        if SystemRandom::new().fill(&mut bytes).is_err() {
            // Without a key of its own a pod's hooks could be run by everybody.
            return self.no_review(StatusCode::INTERNAL_SERVER_ERROR, "no random numbers".to_owned());
        }
        match answer(body, &self.settings, &ProbeKey::new(u128::from_be_bytes(bytes))) {
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

fn said(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(format!("{text}\n")));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
