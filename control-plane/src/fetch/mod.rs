//! One fetch of a small document over HTTP, with every bound that a hostile server would test: issuers' key
//! sets, and the bundles of federated trust domains.
//!
//! Promises: only addresses that [`signet_model::reach`] allows are dialled, checked after resolution and
//! for each redirect; a redirect never leaves the scheme, host and port that it began at; the answer
//! is at most [`MAX_BODY`]; everything together takes at most the client's timeout, of which the caller
//! takes care ([`Client::within`]). Nothing here decides what to do with a failure; [`schedule`] says when to
//! fetch again.

pub mod schedule;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, HOST, IF_NONE_MATCH, LOCATION, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Key sets of real issuers, and bundles, are under 20 KiB.
pub const MAX_BODY: usize = 256 * 1024;
/// One fetch, discovery and redirects included.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// More hops than this is a loop.
const MAX_REDIRECTS: usize = 3;

/// Why a fetch brought nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("`{url}` is not usable: expected {expected}")]
    Url { url: String, expected: &'static str },
    #[error("`{host}` cannot be resolved: {reason}")]
    Resolve { host: String, reason: String },
    #[error("`{host}` resolves only to addresses that are not dialled ({address} is {reason})")]
    AddressRefused { host: String, address: String, reason: &'static str },
    #[error("cannot connect to `{host}`: {reason}")]
    Connect { host: String, reason: String },
    #[error("no TLS with `{host}`: {reason}")]
    Tls { host: String, reason: String },
    #[error("HTTP failed: {0}")]
    Http(String),
    #[error("expected 200, got {0}")]
    Status(u16),
    #[error(
        "redirected to `{0}`: another scheme, host or port than asked; configure the URL that it leads to"
    )]
    RedirectRefused(String),
    #[error("more than {MAX_REDIRECTS} redirects")]
    TooManyRedirects,
    #[error("the answer is larger than {MAX_BODY} bytes")]
    TooLarge,
    #[error("the answer is not UTF-8")]
    NotText,
    #[error("the discovery document cannot be read: {0}")]
    Discovery(String),
    #[error("the discovery document is of issuer `{found}`, expected `{expected}`")]
    ForeignIssuer { expected: String, found: String },
    #[error("the key set cannot be read: {0}")]
    Keys(String),
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
}

impl FetchError {
    /// A short name for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Url { .. } => "url",
            Self::Resolve { .. } => "resolve",
            Self::AddressRefused { .. } => "address_refused",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Http(_) => "http",
            Self::Status(_) => "status",
            Self::RedirectRefused(_) | Self::TooManyRedirects => "redirect",
            Self::TooLarge => "too_large",
            Self::NotText | Self::Keys(_) => "keys",
            Self::Discovery(_) | Self::ForeignIssuer { .. } => "discovery",
            Self::Timeout(_) => "timeout",
        }
    }
}

/// What may be dialled, and how.
#[derive(Clone)]
pub struct Client {
    allow_private: bool,
    allow_http: bool,
    timeout: Duration,
    tls: Arc<rustls::ClientConfig>,
}

/// An entity tag and the URL that it belongs to: another URL's tag says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validator {
    url: String,
    etag: String,
}

impl Validator {
    /// What this answer of this URL can be confirmed by.
    #[must_use]
    pub fn of(url: &str, headers: &HeaderMap) -> Option<Self> {
        let etag = headers.get(ETAG)?.to_str().ok()?.to_owned();
        Some(Self { url: url.to_owned(), etag })
    }
}

impl Client {
    /// A client that trusts the public web's roots.
    ///
    /// # Errors
    /// When the provider cannot do TLS 1.3 (never, with ring).
    pub fn new(allow_private: bool, allow_http: bool, timeout: Duration) -> Result<Self, rustls::Error> {
        let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        Ok(Self { allow_private, allow_http, timeout, tls: web_config(roots)? })
    }

    /// The same client, which believes a server by another rule.
    #[must_use]
    pub fn with_tls(&self, tls: Arc<rustls::ClientConfig>) -> Self {
        Self { tls, ..self.clone() }
    }

    /// Work that must end within the client's timeout.
    ///
    /// # Errors
    /// The work's own, or that it took too long.
    pub async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, FetchError>>,
    ) -> Result<T, FetchError> {
        tokio::time::timeout(self.timeout, work).await.unwrap_or(Err(FetchError::Timeout(self.timeout)))
    }

    /// Asks for a document; `validator` is that of the one at hand.
    ///
    /// # Errors
    /// [`FetchError`]; what is at hand is the caller's to keep.
    pub async fn get(&self, url: &str, validator: Option<&Validator>) -> Result<Answer, FetchError> {
        let etag = validator.filter(|v| v.url == url).map(|v| v.etag.as_str());
        self.get_from(url, etag).await
    }

    async fn get_from(&self, url: &str, etag: Option<&str>) -> Result<Answer, FetchError> {
        let first = Target::parse(url, self.allow_http)?;
        let mut target = first.clone();
        for _ in 0..=MAX_REDIRECTS {
            let (status, headers, body) = self.exchange(&target, etag).await?;
            match status {
                StatusCode::OK => {
                    return String::from_utf8(body)
                        .map(|text| Answer::Body(headers, text))
                        .map_err(|_| FetchError::NotText);
                }
                StatusCode::NOT_MODIFIED if etag.is_some() => return Ok(Answer::NotModified(headers)),
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => target = first.follow(&headers, self.allow_http)?,
                other => return Err(FetchError::Status(other.as_u16())),
            }
        }
        Err(FetchError::TooManyRedirects)
    }

    async fn exchange(
        &self,
        target: &Target,
        etag: Option<&str>,
    ) -> Result<(StatusCode, HeaderMap, Vec<u8>), FetchError> {
        let tcp = self.dial(target).await?;
        if !target.https {
            return request(tcp, target, etag).await;
        }
        let tls_failed = |reason: String| FetchError::Tls { host: target.host.clone(), reason };
        let name = ServerName::try_from(target.host.clone()).map_err(|e| tls_failed(e.to_string()))?;
        let stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, tcp)
            .await
            .map_err(|e| tls_failed(signet_identity::HandshakeFailure::from_io(&e).to_string()))?;
        request(stream, target, etag).await
    }

    async fn dial(&self, target: &Target) -> Result<TcpStream, FetchError> {
        let host = &target.host;
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), target.port))
            .await
            .map_err(|e| FetchError::Resolve { host: host.clone(), reason: e.to_string() })?
            .collect();
        let mut refused = None;
        let mut failed = None;
        for address in found {
            if let Some(reason) = signet_model::reach::forbidden(address.ip(), self.allow_private) {
                refused = Some((address.ip(), reason));
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(e) => failed = Some(e),
            }
        }
        Err(match (failed, refused) {
            (Some(e), _) => FetchError::Connect { host: host.clone(), reason: e.to_string() },
            (None, Some((address, reason))) => {
                FetchError::AddressRefused { host: host.clone(), address: address.to_string(), reason }
            }
            (None, None) => FetchError::Resolve { host: host.clone(), reason: "no address".into() },
        })
    }
}

/// What came.
#[derive(Debug)]
pub enum Answer {
    Body(HeaderMap, String),
    /// The server says that what we have is still right.
    NotModified(HeaderMap),
}

/// TLS as on the web, with these authorities.
///
/// # Errors
/// When the provider cannot do TLS 1.3 (never, with ring).
pub fn web_config(roots: rustls::RootCertStore) -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

/// -1..=1, so that replicas do not fetch in step.
pub(crate) fn jitter() -> f64 {
    let mut bytes = [0_u8; 4];
    // No randomness is no reason not to fetch.
    let _ = SystemRandom::new().fill(&mut bytes);
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX) * 2.0 - 1.0
}

/// The runtime's clock, which tests may pause.
pub(crate) fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

#[derive(Debug, Clone)]
struct Target {
    https: bool,
    host: String,
    port: u16,
    uri: Uri,
}

impl Target {
    fn parse(url: &str, allow_http: bool) -> Result<Self, FetchError> {
        let bad = |expected| FetchError::Url { url: url.to_owned(), expected };
        let uri: Uri = url.parse().map_err(|_| bad("an absolute URL"))?;
        let https = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP && allow_http => false,
            Some(_) => {
                return Err(bad("https (http for issuers only, with `issuers.allowHttp` in development)"));
            }
            None => return Err(bad("an absolute URL")),
        };
        let authority = uri.authority().ok_or_else(|| bad("a host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("no user in the URL"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(bad("a host"));
        }
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        Ok(Self { https, host, port, uri })
    }

    /// Where a redirect leads, if it stays where it began.
    fn follow(&self, headers: &HeaderMap, allow_http: bool) -> Result<Self, FetchError> {
        let location = headers
            .get(LOCATION)
            .and_then(|v| v.to_str().ok())
            .ok_or_else(|| FetchError::Http("a redirect without a location".into()))?;
        if location.starts_with('/') && !location.starts_with("//") {
            let uri = format!("{}://{}{location}", self.scheme(), self.authority());
            return Self::parse(&uri, allow_http);
        }
        let refused = || FetchError::RedirectRefused(location.chars().take(200).collect());
        let next = Self::parse(location, allow_http).map_err(|_| refused())?;
        let same =
            next.https == self.https && next.host.eq_ignore_ascii_case(&self.host) && next.port == self.port;
        if same { Ok(next) } else { Err(refused()) }
    }

    fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    fn authority(&self) -> &str {
        self.uri.authority().map_or("", http::uri::Authority::as_str)
    }
}

/// One request on a connection of its own: fetches are rare, and a pool would outlive its check.
async fn request<S>(
    stream: S,
    target: &Target,
    etag: Option<&str>,
) -> Result<(StatusCode, HeaderMap, Vec<u8>), FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |e: hyper::Error| FetchError::Http(e.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(64 * 1024)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let path = target.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut request = Request::get(path)
        .header(HOST, target.authority())
        .header(ACCEPT, "application/json, application/jwk-set+json")
        .header(USER_AGENT, concat!("signet-control-plane/", env!("CARGO_PKG_VERSION")));
    if let Some(etag) = etag {
        request = request.header(IF_NONE_MATCH, etag);
    }
    let request = request.body(Empty::new()).map_err(|e| FetchError::Http(e.to_string()))?;
    // The connection is driven beside the exchange and dies with it.
    let exchange = async {
        let (head, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await.map_err(|e| {
            if e.is::<http_body_util::LengthLimitError>() {
                FetchError::TooLarge
            } else {
                FetchError::Http(e.to_string())
            }
        })?;
        Ok((head.status, head.headers, body.to_bytes().to_vec()))
    };
    // However it ends, the exchange itself says what that meant.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        answer = exchange => answer,
        never = drive => match never {},
    }
}

/// `max-age` of Cache-Control (RFC 9111, section 5.2.2.1); `no-store` and `no-cache` count as zero.
pub(crate) fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let mut found = None;
    for value in headers.get_all(CACHE_CONTROL) {
        for directive in value.to_str().unwrap_or_default().split(',') {
            let directive = directive.trim().to_ascii_lowercase();
            if directive == "no-store" || directive == "no-cache" {
                return Some(Duration::ZERO);
            }
            if let Some(seconds) = directive.strip_prefix("max-age=") {
                found = seconds.trim_matches('"').parse().ok().map(Duration::from_secs).or(found);
            }
        }
    }
    found
}
