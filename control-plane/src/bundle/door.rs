//! The door for other trust domains: TLS without a client certificate, GET of public documents, nothing else.
//!
//! Whoever comes is a stranger and stays one, so everything is bounded before it is read: connections at once,
//! attempts per address, the handshake's time, the head's size and time, one request a connection, and the
//! connection's whole life.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use signet_daemon::{Drain, Shutdown};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;

use super::certificate::Certificate;
use super::page::{Page, Pages};
use crate::listen::limit::AttemptLimit;
use crate::listen::{accept, handshake};
use crate::metrics::Metrics;

/// One small document over a slow network.
const LIFE: Duration = Duration::from_secs(15);
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// hyper's smallest.
const HEAD_BYTES: usize = 8_192;
const CONNECTIONS: usize = 256;
/// Per address. A partner asks once in minutes; a few of them may share an address.
const BURST: u32 = 32;
const PER_SECOND: f64 = 4.0;

/// What the door needs.
#[derive(Clone)]
pub struct Door {
    pub certificate: Certificate,
    pub pages: Arc<Pages>,
    pub path: Arc<str>,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
    pub drain: Drain,
}

/// Serves the door until the process begins to end; connections under way get their grace.
pub async fn listen(listener: TcpListener, door: Door) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let attempts = Mutex::new(AttemptLimit::new(BURST, PER_SECOND));
    let fate = |fate: &str| door.metrics.connections.with_label_values(&["bundle", fate]).inc();
    while let Some((stream, address)) = accept(&listener, &door.shutdown).await {
        let admitted =
            attempts.lock().unwrap_or_else(PoisonError::into_inner).admit(address.ip(), Instant::now());
        if !admitted {
            fate("address_limit");
            continue;
        }
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            fate("connection_limit");
            continue;
        };
        fate("accepted");
        let config = match door.certificate.config() {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(target: "signet::bundle", %error, "no TLS for the bundle endpoint");
                continue;
            }
        };
        let (door, guard) = (door.clone(), door.drain.guard());
        tokio::spawn(async move {
            match handshake(stream, config).await {
                Ok(stream) => {
                    tokio::select! {
                        () = tokio::time::sleep(LIFE) => {}
                        () = door.shutdown.stopping() => {}
                        () = door.serve(stream) => {}
                    }
                }
                Err(failure) => {
                    door.metrics.handshake_failed("bundle", address, &failure, None);
                }
            }
            drop((permit, guard));
        });
    }
}

impl Door {
    async fn serve(&self, stream: TlsStream<TcpStream>) {
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            let answer = self.answer(&request);
            self.metrics.bundle_requests.with_label_values(&[answer.status().as_str()]).inc();
            async move { Ok::<_, Infallible>(answer) }
        });
        // An error is the client's: it went away, was too slow, or spoke no HTTP. hyper has answered what it could.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .keep_alive(false)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    /// The answer to one request, whose body is never read.
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
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
