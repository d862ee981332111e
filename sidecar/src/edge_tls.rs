//! The certificates by which a gateway proves itself to callers from outside.
//!
//! Read before anything is bound, so that a mistake is found before the join token is used, and again while the process
//! runs: the kubelet exchanges a mounted Secret, a host's certificate is renewed by whoever keeps it. A pair that cannot
//! be used changes nothing: the one before stays, and the log says why. In a pod a key may be readable by a group of this
//! process, as the kubelet mounts it ([`signet_daemon::read_mounted_secret`]); on a host it must be ours alone.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use signet_daemon::FileError;

use crate::config::{EdgeProtocol, GatewayTls};
use crate::metrics::Metrics;

/// How often the files are looked at. The kubelet takes a minute to bring a changed Secret.
const EVERY: Duration = Duration::from_secs(5);

/// Why a pair of files is no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum EdgeTlsError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its content cannot.
    #[error("{}: {reason}", .file.display())]
    Content {
        /// The file.
        file: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// One listener's certificate, as it is now.
#[derive(Debug)]
pub struct EdgeCertificate {
    name: String,
    files: GatewayTls,
    in_pod: bool,
    now: RwLock<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for EdgeCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

impl EdgeCertificate {
    /// Reads the pair; `name` is the listener's.
    pub fn load(name: &str, files: &GatewayTls, in_pod: bool) -> Result<Arc<Self>, EdgeTlsError> {
        let chain = chain(&files.cert)?;
        let pair = pair(chain, &files.key, in_pod)?;
        let (name, files) = (name.to_owned(), files.clone());
        Ok(Arc::new(Self { name, files, in_pod, now: RwLock::new(Arc::new(pair)) }))
    }

    /// TLS towards callers from outside: 1.3 only, and the listener's one protocol. A service port speaks one protocol and
    /// nothing translates, so a caller who could choose would choose for routes that it does not know.
    pub fn config(
        self: &Arc<Self>,
        protocol: EdgeProtocol,
    ) -> Result<Arc<rustls::ServerConfig>, EdgeTlsError> {
        let mut config = rustls::ServerConfig::builder_with_provider(signet_identity::crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| wrong(&self.files.cert, error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        Ok(Arc::new(config))
    }

    fn now(&self) -> Arc<CertifiedKey> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When it ends, seconds since the epoch.
    fn not_after(&self) -> Option<i64> {
        self.now().cert.first().and_then(|leaf| signet_identity::not_after(leaf))
    }

    /// Takes what the files have now; whether that is another certificate than before.
    fn renew(&self) -> Result<bool, EdgeTlsError> {
        let chain = chain(&self.files.cert)?;
        // A key belongs to one certificate: while that is the same, so is the key.
        if chain == self.now().cert {
            return Ok(false);
        }
        let pair = Arc::new(pair(chain, &self.files.key, self.in_pod)?);
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = pair;
        Ok(true)
    }
}

/// Keeps certificates current until the future is dropped.
pub async fn keep(certificates: Vec<Arc<EdgeCertificate>>, metrics: Arc<Metrics>) {
    let mut said = vec![String::new(); certificates.len()];
    loop {
        for (certificate, said) in certificates.iter().zip(&mut said) {
            let own = certificate.clone();
            // Files may be on a disk that hangs.
            let renewed = match tokio::task::spawn_blocking(move || own.renew()).await {
                Ok(renewed) => renewed.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Some(end) = certificate.not_after() {
                metrics.edge(&certificate.name, end);
            }
            match renewed {
                Ok(changed) => {
                    if changed {
                        tracing::info!(target: "signet::gateway", listener = certificate.name, "a new certificate is shown to callers");
                    }
                    said.clear();
                }
                Err(error) if *said != error => {
                    tracing::warn!(target: "signet::gateway", listener = certificate.name, error, "the certificate's files cannot be used; the one before stays");
                    *said = error;
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn wrong(file: &Path, reason: String) -> EdgeTlsError {
    EdgeTlsError::Content { file: file.to_owned(), reason }
}

fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, EdgeTlsError> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(file, format!("expected certificates in PEM: {error}")))?;
    match chain.is_empty() {
        false => Ok(chain),
        true => Err(wrong(file, "expected certificates in PEM, found none".to_owned())),
    }
}

fn pair(
    chain: Vec<CertificateDer<'static>>,
    file: &Path,
    in_pod: bool,
) -> Result<CertifiedKey, EdgeTlsError> {
    let secret = match in_pod {
        true => signet_daemon::read_mounted_secret(file)?,
        false => signet_daemon::read_secret_file(file)?,
    };
    let key = PrivateKeyDer::from_pem_slice(secret.expose())
        .map_err(|error| wrong(file, format!("expected a private key in PEM: {error}")))?;
    CertifiedKey::from_der(chain, key, &signet_identity::crypto_provider())
        .map_err(|error| wrong(file, format!("expected the key of the certificate beside it: {error}")))
}

#[cfg(test)]
mod tests;
