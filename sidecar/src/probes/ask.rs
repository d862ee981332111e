//! Asking an app as the kubelet would.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::grpc;
use crate::config::{Asked, Header};

/// As the kubelet does, within one app.
const REDIRECTS: usize = 10;
/// A status comes behind a head of this size at most.
const HEAD_BYTES: usize = 64 * 1024;

/// Why an app did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("expected a request that can be sent: {0}")]
    Request(#[from] http::Error),
    #[error("it answers {0}")]
    Grpc(String),
}

/// The status that its answer means to the kubelet.
pub(super) async fn ask(asked: &Asked, pod: IpAddr, tls: &Arc<ClientConfig>) -> Result<StatusCode, AskError> {
    match asked {
        Asked::Tcp { port } => {
            TcpStream::connect((pod, port.get())).await?;
            Ok(StatusCode::OK)
        }
        Asked::Grpc { port, service } => {
            let stream = TcpStream::connect((pod, port.get())).await?;
            grpc::check(stream, SocketAddr::new(pod, port.get()), service).await.map(|()| StatusCode::OK)
        }
        Asked::Http { port, path, https, headers } => {
            let app = SocketAddr::new(pod, port.get());
            let tls = https.then_some(tls);
            let mut path = path.clone();
            for _ in 0..REDIRECTS {
                let (status, location) = get(app, tls, &path, headers).await?;
                match location.filter(|_| status.is_redirection()) {
                    Some(location) => match within(&location, app, *https) {
                        Some(next) => path = next,
                        // Elsewhere nobody looks: the app sends us there, so it is alive.
                        None => return Ok(StatusCode::OK),
                    },
                    // Clients take a redirection without a place for an error; it is none of the app's.
                    None if status.is_redirection() => return Ok(StatusCode::OK),
                    None => return Ok(status),
                }
            }
            Ok(StatusCode::LOOP_DETECTED)
        }
    }
}

/// The path, where a redirection stays with this app.
fn within(location: &str, app: SocketAddr, https: bool) -> Option<String> {
    let place: Uri = location.parse().ok()?;
    let path = place.path_and_query()?.as_str().to_owned();
    match (place.scheme_str(), place.authority()) {
        (None, None) => path.starts_with('/').then_some(path),
        (scheme, Some(authority)) => {
            let same = scheme == Some(if https { "https" } else { "http" });
            (same && authority.as_str() == app.to_string()).then_some(path)
        }
        _ => None,
    }
}

async fn get(
    app: SocketAddr,
    tls: Option<&Arc<ClientConfig>>,
    path: &str,
    headers: &[Header],
) -> Result<(StatusCode, Option<String>), AskError> {
    let stream = TcpStream::connect(app).await?;
    let host = wanted_host(headers);
    match tls {
        None => exchange(stream, app, path, headers).await,
        Some(tls) => {
            // The name that the app may choose a certificate by; an address is not sent.
            let name = host.as_deref().and_then(|host| ServerName::try_from(host.to_owned()).ok());
            let name = name.unwrap_or_else(|| ServerName::IpAddress(app.ip().into()));
            let stream = TlsConnector::from(tls.clone()).connect(name, stream).await?;
            exchange(stream, app, path, headers).await
        }
    }
}

fn wanted_host(headers: &[Header]) -> Option<String> {
    let found = headers.iter().find(|header| header.name.eq_ignore_ascii_case("host"))?;
    Some(found.value.rsplit_once(':').map_or(found.value.as_str(), |(host, _)| host).to_owned())
}

async fn exchange<S>(
    stream: S,
    app: SocketAddr,
    path: &str,
    headers: &[Header],
) -> Result<(StatusCode, Option<String>), AskError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut request = Request::get(path).body(String::new())?;
    *request.headers_mut() = sent(app, headers);
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(HEAD_BYTES).handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        Ok((answer.status(), location.map(str::to_owned)))
    };
    tokio::pin!(connection, answer);
    // Nobody reads the body: the connection goes with this function.
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

/// What the kubelet sends, and what the pod declares, which wins.
fn sent(app: SocketAddr, headers: &[Header]) -> HeaderMap {
    let mut all = HeaderMap::new();
    if let Ok(host) = HeaderValue::try_from(app.to_string()) {
        all.insert(HOST, host);
    }
    all.insert(USER_AGENT, HeaderValue::from_static("kube-probe/signet"));
    all.insert(ACCEPT, HeaderValue::from_static("*/*"));
    all.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut declared = HeaderMap::new();
    for header in headers {
        let name = HeaderName::try_from(&header.name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(&header.value)) {
            declared.append(name, value);
        }
    }
    for name in declared.keys() {
        all.remove(name);
    }
    all.extend(declared);
    all
}

/// TLS with whoever is there: a probe asks whether an app answers, in its own pod.
pub(super) fn any_certificate() -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(signet_identity::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        signet_identity::crypto_provider().signature_verification_algorithms.supported_schemes()
    }
}
