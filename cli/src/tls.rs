//! The way to the control plane over the network: our own TLS under gRPC, the exact identity expected at the other end.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, UnixTime};
use signet_identity::{
    Bundles, Expected, Generation, GenerationOptions, HandshakeFailure, OwnSvid, RevocationSet, SpiffeId,
    TrustBundle, TrustDomain, server_name,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use zeroize::Zeroizing;

use crate::operator::when;
use crate::place::Session;

/// TCP, TLS and HTTP/2 together.
const DIAL: Duration = Duration::from_secs(15);

/// Whom to dial.
#[derive(Clone)]
pub(crate) struct Target {
    /// host:port
    pub(crate) address: String,
    pub(crate) control_plane: SpiffeId,
    pub(crate) config: Arc<rustls::ClientConfig>,
    /// Looks at the peer once more after the handshake.
    pub(crate) check: Option<Arc<Generation>>,
}

/// Opens a connection; calls on it do not reconnect unless they must.
pub(crate) async fn dial(target: Target) -> anyhow::Result<Channel> {
    let address = target.address.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let target = target.clone();
        async move { connect(&target).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://control-plane.signet.internal")
        .connect_timeout(DIAL)
        .connect_with_connector(connector)
        .await
        .map_err(|error| {
            // tonic's own words say "transport error" and hide the cause.
            let mut cause: &dyn std::error::Error = &error;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            anyhow!("connecting to the control plane at {address}: {cause}")
        })
}

async fn connect(target: &Target) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(&target.address).await?;
    tcp.set_nodelay(true)?;
    let tls = TlsConnector::from(Arc::clone(&target.config))
        .connect(server_name(&target.control_plane), tcp)
        .await
        .map_err(|error| std::io::Error::other(HandshakeFailure::from_io(&error)))?;
    if let Some(generation) = &target.check {
        let certificates = tls.get_ref().1.peer_certificates();
        let expected = Expected::ControlPlane(&target.control_plane);
        generation
            .check(certificates, &expected, &RevocationSet::default(), UnixTime::now())
            .map_err(std::io::Error::other)?;
    }
    Ok(tls)
}

/// What a session is good for: the TLS of one who has its certificate.
pub(crate) fn credentials(session: &Session) -> anyhow::Result<(SpiffeId, Arc<Generation>)> {
    let damaged = || "the session's file is damaged: run `signet login`";
    let der =
        |text: &String| STANDARD.decode(text).map(CertificateDer::from).map_err(|_| anyhow!("{}", damaged()));
    let chain = session.chain.iter().map(der).collect::<anyhow::Result<Vec<_>>>()?;
    let roots = session.roots.iter().map(der).collect::<anyhow::Result<Vec<_>>>()?;
    let key = Zeroizing::new(STANDARD.decode(session.key.as_str()).map_err(|_| anyhow!("{}", damaged()))?);
    let domain = TrustDomain::parse(&session.trust_domain).with_context(damaged)?;
    let control_plane = SpiffeId::parse(&session.control_plane).with_context(damaged)?;
    let own = OwnSvid::new(chain, key).with_context(damaged)?;
    let bundle = TrustBundle::new(domain, roots).with_context(damaged)?;
    let options = GenerationOptions { resumption: false, ..GenerationOptions::default() };
    let generation =
        Generation::build(1, own, Arc::new(Bundles::from(bundle)), options).with_context(damaged)?;
    Ok((control_plane, generation))
}

/// A connection as the person who logged in.
pub(crate) async fn of_session(session: &Session) -> anyhow::Result<Channel> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if i64::try_from(now).unwrap_or(i64::MAX) > session.not_after {
        bail!("your session ended at {}: run `signet login`", when(session.not_after));
    }
    let (control_plane, generation) = credentials(session)?;
    dial(Target {
        address: session.server.clone(),
        control_plane,
        config: generation.control_plane_client_config(),
        check: Some(generation),
    })
    .await
}
