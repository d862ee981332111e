//! The one HTTP client that speaks with the provider: discovery, and what the flows of OAuth 2.0 ask for.
//!
//! HTTPS, and plain HTTP to this machine only. No redirect is followed, since none of these endpoints has reason to
//! send a secret elsewhere; answers and waiting are bounded.

use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// One request, from the name's resolution to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Metadata and tokens are a few kilobytes.
const MAX_ANSWER: usize = 1 << 20;

/// Why a request failed. No part of an answer is in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebError {
    #[error("{0} is not usable: expected https, or http to this machine itself")]
    Url(String),
    #[error("{file}: {reason}")]
    Roots { file: String, reason: String },
    #[error("cannot connect to {host}: {source}")]
    Connect { host: String, source: std::io::Error },
    #[error("no TLS with {host}: {reason}")]
    Tls { host: String, reason: String },
    #[error("HTTP with {host} failed: {reason}")]
    Http { host: String, reason: String },
    #[error("{host} did not answer within {} s", TIMEOUT.as_secs())]
    Timeout { host: String },
    #[error("{url} answered {status}, expected 200")]
    Status { url: String, status: u16 },
    #[error("the provider's metadata at {url} cannot be read: {reason}")]
    Metadata { url: String, reason: String },
    #[error("the metadata of {expected} is that of {found:?}")]
    ForeignIssuer { expected: String, found: String },
}

/// OpenID Connect Discovery 1.0, section 3, and RFC 8628, section 4: what a login needs of it.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) issuer: String,
    pub(crate) authorization_endpoint: Option<String>,
    pub(crate) token_endpoint: String,
    pub(crate) device_authorization_endpoint: Option<String>,
    #[serde(default)]
    pub(crate) code_challenge_methods_supported: Option<Vec<String>>,
    /// RFC 9207.
    #[serde(default)]
    pub(crate) authorization_response_iss_parameter_supported: bool,
}

pub(crate) struct Web {
    tls: Arc<rustls::ClientConfig>,
}

struct Target {
    https: bool,
    host: String,
    port: u16,
}

impl Web {
    /// Trusts the public web's roots, or those of a file.
    pub(crate) fn new(ca_file: Option<&Path>) -> Result<Self, WebError> {
        let mut roots = rustls::RootCertStore::empty();
        match ca_file {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(path) => {
                let failed = |reason: String| WebError::Roots { file: path.display().to_string(), reason };
                let read = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
                for certificate in read {
                    let certificate = certificate.map_err(|error| failed(error.to_string()))?;
                    roots.add(certificate).map_err(|error| failed(error.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(failed("expected certificates in PEM, found none".into()));
                }
            }
        }
        let mut tls = rustls::ClientConfig::builder_with_provider(signet_identity::crypto_provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| WebError::Tls { host: "anybody".into(), reason: error.to_string() })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Arc::new(tls) })
    }

    /// What the issuer says of itself; it must name itself exactly (Discovery, section 4.3).
    pub(crate) async fn discover(&self, issuer: &str) -> Result<Metadata, WebError> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let request = http::Request::get(&url)
            .header("accept", "application/json")
            .body(Vec::new())
            .map_err(|_| WebError::Url(url.clone()))?;
        let answer = self.send(request).await?;
        if answer.status() != http::StatusCode::OK {
            return Err(WebError::Status { url, status: answer.status().as_u16() });
        }
        let metadata: Metadata = serde_json::from_slice(answer.body())
            .map_err(|error| WebError::Metadata { url, reason: error.to_string() })?;
        if metadata.issuer != issuer {
            return Err(WebError::ForeignIssuer { expected: issuer.to_owned(), found: metadata.issuer });
        }
        Ok(metadata)
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, WebError> {
        let target = Target::of(request.uri())?;
        let host = target.host.clone();
        tokio::time::timeout(TIMEOUT, self.exchange(target, request))
            .await
            .unwrap_or(Err(WebError::Timeout { host }))
    }

    async fn exchange(&self, target: Target, request: HttpRequest) -> Result<HttpResponse, WebError> {
        let host = target.host;
        let tcp = TcpStream::connect((host.as_str(), target.port))
            .await
            .map_err(|source| WebError::Connect { host: host.clone(), source })?;
        if !target.https {
            return speak(tcp, host, request).await;
        }
        let failed = |reason: String| WebError::Tls { host: host.clone(), reason };
        let name = ServerName::try_from(host.clone()).map_err(|error| failed(error.to_string()))?;
        let tls = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, tcp)
            .await
            .map_err(|error| failed(error.to_string()))?;
        speak(tls, host, request).await
    }
}

impl Target {
    fn of(uri: &http::Uri) -> Result<Self, WebError> {
        let bad = || WebError::Url(format!("{uri}"));
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if is_this_machine(&host) => false,
            _ => return Err(bad()),
        };
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        Ok(Self { https, host, port })
    }
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

async fn speak<S>(stream: S, host: String, request: HttpRequest) -> Result<HttpResponse, WebError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed = |reason: String| WebError::Http { host: host.clone(), reason };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(error.to_string()))?;
    tokio::spawn(connection);
    let (mut parts, body) = request.into_parts();
    // To an origin server: the path, and the authority in its header (RFC 9112, section 3.2.1).
    let authority = parts.uri.authority().map(ToString::to_string).unwrap_or_default();
    let authority = authority.parse().map_err(|_| failed("the authority is no header".into()))?;
    parts.headers.insert(http::header::HOST, authority);
    let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    parts.uri = path.parse().map_err(|_| failed("the path is no path".into()))?;
    let request = http::Request::from_parts(parts, Full::new(Bytes::from(body)));
    let answer = sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER)
        .collect()
        .await
        .map_err(|error| failed(error.to_string()))?
        .to_bytes()
        .to_vec();
    Ok(http::Response::from_parts(parts, body))
}

impl<'c> AsyncHttpClient<'c> for Web {
    type Error = WebError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, WebError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.send(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_over_https_or_stay_on_this_machine() {
        let target = |url: &str| Target::of(&url.parse().unwrap());
        assert!(target("https://login.example.com/token").is_ok_and(|it| it.https && it.port == 443));
        for local in ["http://127.0.0.1:5556/token", "http://[::1]:5556/", "http://localhost/"] {
            assert!(target(local).is_ok_and(|it| !it.https), "{local}");
        }
        for bad in
            ["http://login.example.com/", "http://127.0.0.1.example.com/", "http://10.0.0.1/", "/token"]
        {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
