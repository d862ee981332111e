//! What the bundle endpoint presents: our own SVID, or a certificate of the web from files.
//!
//! The SVID is that of the generation in force when a connection comes. Files are read again every few seconds,
//! whatever told or did not tell of a change; what cannot be used is reported once, and the certificate before
//! goes on.

use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use ring::digest::{Context, SHA256};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use signet_identity::Generation;

use crate::config::WebTls;

/// A renewed certificate is presented after at most this long.
const EVERY: Duration = Duration::from_secs(10);
/// A chain and a key are a few kilobytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Why the files are not a certificate to present.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{file}: {reason}")]
    File { file: String, reason: String },
    #[error(transparent)]
    Key(#[from] signet_daemon::FileError),
    #[error("the certificate and the key cannot be used together: {0}")]
    Tls(#[from] rustls::Error),
}

/// Where TLS configs for new connections come from.
#[derive(Clone)]
pub enum Certificate {
    Own(Arc<Own>),
    Files(Arc<Files>),
}

/// Our own SVID, and the config made of it last.
pub struct Own {
    generation: Arc<ArcSwap<Generation>>,
    made: Mutex<Option<(u64, Arc<ServerConfig>)>>,
}

/// A certificate of the web.
pub struct Files {
    files: WebTls,
    config: ArcSwap<ServerConfig>,
}

impl Certificate {
    /// Presents our own SVID.
    #[must_use]
    pub fn own(generation: Arc<ArcSwap<Generation>>) -> Self {
        Self::Own(Arc::new(Own { generation, made: Mutex::new(None) }))
    }

    /// Presents what is in these files, and follows them until the process ends.
    ///
    /// # Errors
    /// [`CertificateError`]: there is nothing to present yet.
    pub async fn files(
        files: WebTls,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), CertificateError> {
        let (seen, config) = load(files.clone()).await?;
        let config = ArcSwap::new(make(config)?);
        let files = Arc::new(Files { files, config });
        let followed = Arc::clone(&files);
        Ok((Self::Files(files), async move { followed.follow(seen).await }))
    }

    /// The config for one new connection.
    ///
    /// # Errors
    /// When the provider cannot do TLS 1.3 (never, with ring).
    pub fn config(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        match self {
            Self::Files(files) => Ok(files.config.load_full()),
            Self::Own(own) => own.config(),
        }
    }
}

impl Own {
    fn config(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let generation = self.generation.load_full();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((number, config)) = made.as_ref()
            && *number == generation.number()
        {
            return Ok(Arc::clone(config));
        }
        let config = generation.bundle_endpoint_config()?;
        *made = Some((generation.number(), Arc::clone(&config)));
        Ok(config)
    }
}

/// What the files held: a digest of it, and the chain and key in it.
type Loaded = ([u8; 32], (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>));

impl Files {
    async fn follow(&self, mut seen: [u8; 32]) {
        let mut reported = String::new();
        loop {
            tokio::time::sleep(EVERY).await;
            let result = load(self.files.clone()).await.and_then(|(digest, parts)| match digest == seen {
                true => Ok(None),
                false => Ok(Some((digest, make(parts)?))),
            });
            match result {
                Ok(None) => reported.clear(),
                Ok(Some((digest, config))) => {
                    tracing::info!(target: "signet::bundle", file = %self.files.cert_file.display(), "presenting the bundle endpoint's new certificate");
                    self.config.store(config);
                    seen = digest;
                    reported.clear();
                }
                Err(error) => {
                    let error = error.to_string();
                    if error != reported {
                        tracing::error!(target: "signet::bundle", error, "the bundle endpoint's certificate cannot be read; the one before goes on");
                        reported = error;
                    }
                }
            }
        }
    }
}

async fn load(files: WebTls) -> Result<Loaded, CertificateError> {
    let failed =
        |file: &Path, reason: String| CertificateError::File { file: file.display().to_string(), reason };
    let named = files.cert_file.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let key = signet_daemon::read_secret_file(&files.key_file)?;
        let chain = read(&files.cert_file).map_err(|error| failed(&files.cert_file, error.to_string()))?;
        let mut context = Context::new(&SHA256);
        for part in [chain.as_slice(), key.expose()] {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
        let certificates = certificates.map_err(|error| failed(&files.cert_file, error.to_string()))?;
        if certificates.is_empty() {
            return Err(failed(&files.cert_file, "expected certificates in PEM, leaf first".to_owned()));
        }
        // Words of our own: what the parser says may hold a piece of the key.
        let key = PrivateKeyDer::from_pem_slice(key.expose())
            .map_err(|_| failed(&files.key_file, "expected a private key in PEM".to_owned()))?;
        Ok((digest, (certificates, key)))
    });
    reading.await.unwrap_or_else(|error| Err(failed(&named, error.to_string())))
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    // Asked before opening: opening a pipe would wait for whoever writes it.
    if !std::fs::metadata(file)?.is_file() {
        return Err(std::io::Error::other("expected a regular file"));
    }
    let mut content = Vec::new();
    std::fs::File::open(file)?.take(MAX_FILE).read_to_end(&mut content)?;
    Ok(content)
}

fn make(
    (chain, key): (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
) -> Result<Arc<ServerConfig>, CertificateError> {
    let mut config = ServerConfig::builder_with_provider(signet_identity::crypto_provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
