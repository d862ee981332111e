//! One connection to the control plane: TCP, our own TLS, HTTP/2, and nothing that reconnects by itself.
//!
//! A [`Link`] is made under one set of credentials and dies with its connection; whoever uses it dials
//! again. So it is always plain under which certificate a call was made, and a rotation needs no more than
//! a new link. Every step of dialling has one common deadline.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, ServerName};
use signet_identity::HandshakeFailure;
use signet_proxy::Dialled;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::body::Body;

use super::refused::Told;

/// TCP, TLS and HTTP/2 prefaces together. A control plane that takes longer is as good as gone: another
/// attempt, perhaps at another replica, is worth more than waiting.
const DIAL: Duration = Duration::from_secs(10);
/// A dead peer is noticed after interval + timeout; a proxy or NAT on the way keeps idle flows at least
/// this long.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10));
/// Within so long a link that died without a word is given up.
pub const SILENCE: Duration = Duration::from_secs(20);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody answers there.
    #[error("cannot connect to the control plane at {address}: {source}")]
    Connect {
        /// As configured.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Somebody answers, but it is not the control plane, or it did not want us.
    #[error("TLS with the control plane at {address} failed: {failure}")]
    Tls {
        /// As configured.
        address: String,
        /// What went wrong.
        failure: Box<HandshakeFailure>,
    },
    /// It did not finish in time.
    #[error("the control plane at {address} did not answer within {} s", DIAL.as_secs())]
    Deadline {
        /// As configured.
        address: String,
    },
    /// TLS stands, HTTP/2 does not.
    #[error("HTTP/2 with the control plane at {address} failed: {source}")]
    Http {
        /// As configured.
        address: String,
        /// What hyper said.
        source: hyper::Error,
    },
}

/// Decides about the server after the handshake, by its certificates and whether the session was resumed.
pub type Check =
    Arc<dyn Fn(Option<&[CertificateDer<'static>]>) -> Result<(), HandshakeFailure> + Send + Sync>;

/// What a link is made of.
#[derive(Clone)]
pub struct Target {
    /// `host:port`
    pub address: String,
    /// The name derived from the identity that we expect.
    pub server_name: ServerName<'static>,
    /// Whom to trust and who we are.
    pub tls: Arc<rustls::ClientConfig>,
    /// Run after every handshake, before the first byte of HTTP.
    pub check: Check,
    /// Told of a handshake that failed.
    pub told: Told,
}

/// An open connection. Cloning shares it.
#[derive(Clone)]
pub struct Link {
    requests: http2::SendRequest<Body>,
    origin: Uri,
}

impl Link {
    /// Dials. Must be called within a tokio runtime, which then drives the connection.
    pub async fn dial(target: &Target) -> Result<Self, LinkError> {
        let address = || target.address.clone();
        // Boxed: a handshake's state is large, and whoever dials is not always about to.
        match tokio::time::timeout(DIAL, Box::pin(Self::connect(target))).await {
            Ok(done) => done,
            Err(_) => Err(LinkError::Deadline { address: address() }),
        }
    }

    async fn connect(target: &Target) -> Result<Self, LinkError> {
        let address = || target.address.clone();
        let tcp = TcpStream::connect(&target.address)
            .await
            .and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp))
            .map_err(|source| LinkError::Connect { address: address(), source })?;
        let at = tcp.peer_addr().ok();
        let refused = |failure| {
            (target.told)(&failure, at);
            LinkError::Tls { address: address(), failure: Box::new(failure) }
        };
        let tls = TlsConnector::from(target.tls.clone())
            .connect(target.server_name.clone(), tcp)
            .await
            .map_err(|error| refused(HandshakeFailure::from_io(&error)))?;
        (target.check)(tls.get_ref().1.peer_certificates()).map_err(refused)?;

        let mut tls: Dialled<TcpStream, dyn Fn(&HandshakeFailure) + Send + Sync> = Dialled::new(tls);
        let told = target.told.clone();
        tls.on_refusal(Box::new(move |failure| told(failure, at)));
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(|source| LinkError::Http { address: address(), source })?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(target: "signet::control", %error, "connection to the control plane ended");
            }
        });
        // `:authority` is never looked at by our own control plane; a proxy on the way may.
        let origin = Uri::builder()
            .scheme("https")
            .authority(target.address.as_str())
            .path_and_query("/")
            .build()
            .unwrap_or_else(|_| Uri::from_static("https://control-plane.signet.internal"));
        Ok(Self { requests, origin })
    }

    /// What generated clients want to know beside the service itself.
    pub fn origin(&self) -> Uri {
        self.origin.clone()
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }
}

impl tower::Service<http::Request<Body>> for Link {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, hyper::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.requests.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.requests.send_request(request))
    }
}
