//! Requests, watches, and why they fail.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Place;
use crate::access::{Access, Credentials};

/// Kept connections: as many as reviews may run at once.
const MAX_IDLE: usize = 32;
/// The server closes idle connections after minutes.
const IDLE: Duration = Duration::from_secs(30);
/// The longest line of a watch, which is one object: etcd takes 1.5 MiB.
const MAX_LINE: usize = 4 * 1024 * 1024;
/// A watch brings a bookmark about every minute.
const SILENCE: Duration = Duration::from_secs(150);
const JSON: &str = "application/json";

/// Why the API server did not answer, or not with what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{}: {reason}", file.display())]
    File { file: PathBuf, reason: String },
    #[error("cannot connect to {server}: {reason}")]
    Connect { server: String, reason: String },
    #[error("no TLS with {server}: {reason}")]
    Tls { server: String, reason: String },
    #[error("HTTP failed: {0}")]
    Http(String),
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("it answered {code}: {message}")]
    Status { code: u16, message: String, retry_after: Option<Duration> },
    #[error("its answer cannot be read: {0}")]
    Unreadable(&'static str),
}

impl ApiError {
    /// A short name for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Http(_) => "http",
            Self::Timeout(_) => "timeout",
            Self::TooLarge(_) => "too_large",
            Self::Status { code: 401 | 403, .. } => "forbidden",
            Self::Status { code: 429, .. } => "busy",
            Self::Status { .. } => "status",
            Self::Unreadable(_) => "unreadable",
        }
    }

    /// The status code, if it answered with one.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// For how long it asks to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

type Sender = SendRequest<Full<Bytes>>;

struct Idle {
    sender: Sender,
    since: Instant,
    generation: u64,
}

/// The client. One per process.
pub struct Api {
    host: String,
    port: u16,
    credentials: Credentials,
    idle: Mutex<Vec<Idle>>,
}

impl Api {
    #[must_use]
    pub fn new(place: &Place) -> Self {
        let (host, port) = place.server.clone();
        Self {
            host,
            port,
            credentials: Credentials::new(&place.token_file, &place.ca_file),
            idle: Mutex::default(),
        }
    }

    /// Sends JSON, and returns the body of a 200 or 201 of at most `limit` bytes.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn post(
        &self,
        path: &str,
        body: String,
        limit: usize,
        timeout: Duration,
    ) -> Result<Bytes, ApiError> {
        self.send_as(Method::POST, path, JSON, body, limit, timeout).await
    }

    /// Sends a body of a media type by any method, and returns the body of a 200 or 201 of at most `limit` bytes.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn send_as(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: String,
        limit: usize,
        timeout: Duration,
    ) -> Result<Bytes, ApiError> {
        // Boxed: a handshake is large, and most of the time nobody makes one.
        let work = Box::pin(self.exchange(method, path, (JSON, content_type), body.into(), limit));
        tokio::time::timeout(timeout, work).await.unwrap_or(Err(ApiError::Timeout(timeout)))
    }

    /// Asks for something, and returns the body of a 200 of at most `limit` bytes.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get(
        &self,
        path: &str,
        accept: &'static str,
        limit: usize,
        timeout: Duration,
    ) -> Result<Bytes, ApiError> {
        let work = Box::pin(self.exchange(Method::GET, path, (accept, JSON), Bytes::new(), limit));
        tokio::time::timeout(timeout, work).await.unwrap_or(Err(ApiError::Timeout(timeout)))
    }

    /// Opens a watch on a connection of its own; `timeout` is for the answer to begin.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn watch(&self, path: &str, timeout: Duration) -> Result<Lines, ApiError> {
        let work = Box::pin(async {
            let access = self.credentials.access().await?;
            let mut sender = self.dial(&access).await?;
            let request = self.request(&access, Method::GET, path, (JSON, JSON), Bytes::new())?;
            let answer =
                sender.send_request(request).await.map_err(|error| ApiError::Http(error.to_string()))?;
            if answer.status() == StatusCode::OK {
                return Ok(Lines { body: answer.into_body(), buffer: BytesMut::new(), _sender: sender });
            }
            let (head, body) = answer.into_parts();
            Err(self.not_ok(head.status, &head.headers, &bounded(body, MAX_LINE).await?))
        });
        tokio::time::timeout(timeout, work).await.unwrap_or(Err(ApiError::Timeout(timeout)))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        types: (&'static str, &'static str),
        body: Bytes,
        limit: usize,
    ) -> Result<Bytes, ApiError> {
        let access = self.credentials.access().await?;
        let request = self.request(&access, method, path, types, body)?;
        let (mut sender, answer) = self.send(&access, request).await?;
        let (head, body) = answer.into_parts();
        let body = bounded(body, limit).await?;
        // Put back only when it can carry another request: a server that closes says so by now.
        if sender.ready().await.is_ok() {
            self.put_back(sender, access.generation);
        }
        match head.status {
            StatusCode::OK | StatusCode::CREATED => Ok(body),
            status => Err(self.not_ok(status, &head.headers, &body)),
        }
    }

    async fn send(
        &self,
        access: &Access,
        request: Request<Full<Bytes>>,
    ) -> Result<(Sender, Response<Incoming>), ApiError> {
        while let Some(mut sender) = self.take_idle(access.generation) {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.send_request(request.clone()).await {
                Ok(answer) => return Ok((sender, answer)),
                // It had died while it was kept.
                Err(error) if error.is_canceled() || error.is_incomplete_message() || error.is_closed() => {}
                Err(error) => return Err(ApiError::Http(error.to_string())),
            }
        }
        let mut sender = self.dial(access).await?;
        let answer = sender.send_request(request).await.map_err(|error| ApiError::Http(error.to_string()))?;
        Ok((sender, answer))
    }

    fn request(
        &self,
        access: &Access,
        method: Method,
        path: &str,
        (accept, content_type): (&'static str, &'static str),
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, ApiError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.server())
            .header(ACCEPT, accept)
            .header(USER_AGENT, concat!("signet/", env!("CARGO_PKG_VERSION")))
            .header(AUTHORIZATION, access.bearer.clone());
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, content_type);
        }
        request.body(Full::new(body)).map_err(|error| ApiError::Http(error.to_string()))
    }

    async fn dial(&self, access: &Access) -> Result<Sender, ApiError> {
        let failed = |reason: String| ApiError::Connect { server: self.server(), reason };
        let tls_failed = |reason: String| ApiError::Tls { server: self.server(), reason };
        let tcp = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| failed(error.to_string()))?;
        let _ = tcp.set_nodelay(true);
        let name = ServerName::try_from(self.host.clone()).map_err(|error| tls_failed(error.to_string()))?;
        let stream = TlsConnector::from(Arc::clone(&access.tls))
            .connect(name, tcp)
            .await
            .map_err(|error| tls_failed(error.to_string()))?;
        let (sender, connection) = Builder::new()
            .max_buf_size(64 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ApiError::Http(error.to_string()))?;
        // Ends when the sender is dropped and the answer read; how it ended, the exchange says.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn not_ok(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ApiError {
        if status == StatusCode::UNAUTHORIZED {
            // The token may have been replaced just now.
            self.credentials.forget();
        }
        let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        ApiError::Status {
            code: status.as_u16(),
            message: message(body),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    fn server(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    fn take_idle(&self, generation: u64) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|one| {
            one.generation == generation && one.since.elapsed() < IDLE && !one.sender.is_closed()
        });
        idle.pop().map(|one| one.sender)
    }

    fn put_back(&self, sender: Sender, generation: u64) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(Idle { sender, since: Instant::now(), generation });
        }
    }
}

/// The lines of a watch as they come.
pub struct Lines {
    body: Incoming,
    buffer: BytesMut,
    _sender: Sender,
}

impl Lines {
    /// The next line; `None` when the server ended the watch in order.
    ///
    /// # Errors
    /// [`ApiError`]: the connection broke, a line has no end, or nothing came for too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let mut searched = 0;
        loop {
            let rest = self.buffer.get(searched..).unwrap_or_default();
            if let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(searched.saturating_add(at).saturating_add(1));
                return Ok(Some(line.freeze()));
            }
            searched = self.buffer.len();
            if searched > MAX_LINE {
                return Err(ApiError::TooLarge(MAX_LINE));
            }
            let frame = tokio::time::timeout(SILENCE, self.body.frame())
                .await
                .map_err(|_| ApiError::Timeout(SILENCE))?;
            match frame {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(ApiError::Http("the watch ended within a line".into())),
                Some(Err(error)) => return Err(ApiError::Http(error.to_string())),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

async fn bounded(body: Incoming, limit: usize) -> Result<Bytes, ApiError> {
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(ApiError::TooLarge(limit)),
        Err(error) => Err(ApiError::Http(error.to_string())),
    }
}

/// The words of a `Status`, bounded and on one line.
fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Status {
        message: String,
    }
    let text = serde_json::from_slice::<Status>(body).map(|status| status.message).unwrap_or_default();
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}
