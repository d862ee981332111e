//! The door for other trust domains: GET of public documents, nothing else.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use super::page::{Page, Pages};
use crate::listen::public::Answer;
use crate::metrics::Metrics;

/// What is behind the door.
#[derive(Clone)]
pub struct Documents {
    pub pages: Arc<Pages>,
    pub path: Arc<str>,
    pub metrics: Metrics,
}

impl Answer for Documents {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let answer = self.read(&request);
        self.metrics.bundle_requests.with_label_values(&[answer.status().as_str()]).inc();
        answer
    }
}

impl Documents {
    /// The answer to one request, whose body is never read.
    fn read<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let page = if path == &*self.path {
            match self.pages.bundle() {
                Ok(page) => Some(Page::clone(&page)),
                Err(error) => {
                    tracing::error!(target: "signet::bundle", %error, "the bundle cannot be published");
                    return bare(StatusCode::INTERNAL_SERVER_ERROR);
                }
            }
        } else {
            let issuer = path.strip_prefix("/crl/").and_then(|name| name.strip_suffix(".crl"));
            issuer.and_then(|issuer| self.pages.crl(issuer))
        };
        let Some(page) = page else { return bare(StatusCode::NOT_FOUND) };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = bare(StatusCode::METHOD_NOT_ALLOWED);
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        let known = request.headers().get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let known = known.flat_map(|list| list.split(',')).map(str::trim);
        let is_known =
            known.map(|tag| tag.strip_prefix("W/").unwrap_or(tag)).any(|tag| tag == page.etag || tag == "*");
        let mut answer = match is_known {
            true => Response::new(Full::default()),
            // hyper sends no body to a HEAD, and counts it all the same.
            false => Response::new(Full::new(page.body)),
        };
        let headers = answer.headers_mut();
        // A copy of a copy would add its age to how long a key that was taken back is believed.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Ok(etag) = HeaderValue::try_from(page.etag) {
            headers.insert(ETAG, etag);
        }
        if is_known {
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
        }
        answer
    }
}

fn bare(status: StatusCode) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(format!("{status}\n")));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
