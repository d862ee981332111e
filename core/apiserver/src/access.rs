//! What connections to the API server are made with: our token and the cluster's roots, from their files.
//!
//! Both are read again while we run, by time and when the server does not know the token: the kubelet replaces the one,
//! an operator of the cluster the other. Connections made under other roots are not used again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::HeaderValue;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::api::ApiError;

/// Projected tokens are replaced at four fifths of their hour; half a minute is soon enough.
const READ_AGAIN: Duration = Duration::from_secs(30);
/// The longest token or file of roots.
const MAX_FILE: u64 = 256 * 1024;

/// What one connection is made with.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) bearer: HeaderValue,
    /// Grows when the roots change: connections made under others are not used again.
    pub(crate) generation: u64,
}

struct Read {
    access: Access,
    roots: Vec<u8>,
    /// `None`: it may be wrong by now.
    at: Option<Instant>,
}

/// The two files, and what was read in them last.
pub(crate) struct Credentials {
    token_file: PathBuf,
    ca_file: PathBuf,
    read: Mutex<Option<Read>>,
}

impl Credentials {
    pub(crate) fn new(token_file: &Path, ca_file: &Path) -> Self {
        Self { token_file: token_file.to_owned(), ca_file: ca_file.to_owned(), read: Mutex::default() }
    }

    /// The files are to be read before the next connection.
    pub(crate) fn forget(&self) {
        if let Some(read) = self.read.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            read.at = None;
        }
    }

    /// What connections are made with now, read anew where it may have changed.
    pub(crate) async fn access(&self) -> Result<Access, ApiError> {
        {
            let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = |read: &&Read| read.at.is_some_and(|at| at.elapsed() < READ_AGAIN);
            if let Some(read) = read.as_ref().filter(fresh) {
                return Ok(read.access.clone());
            }
        }
        let (token_file, ca_file) = (self.token_file.clone(), self.ca_file.clone());
        let (token, roots) =
            tokio::task::spawn_blocking(move || Ok::<_, ApiError>((file(&token_file)?, file(&ca_file)?)))
                .await
                .map_err(|error| ApiError::Http(error.to_string()))??;
        let bearer = bearer(&token).map_err(|reason| wrong(&self.token_file, reason))?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let (tls, generation) = match read.as_ref() {
            Some(before) if before.roots == roots => {
                (Arc::clone(&before.access.tls), before.access.generation)
            }
            before => {
                let tls = trusting(&roots).map_err(|reason| wrong(&self.ca_file, reason))?;
                (Arc::new(tls), before.map_or(0, |before| before.access.generation).saturating_add(1))
            }
        };
        let access = Access { tls, bearer, generation };
        *read = Some(Read { access: access.clone(), roots, at: Some(Instant::now()) });
        Ok(access)
    }
}

fn wrong(file: &Path, reason: String) -> ApiError {
    ApiError::File { file: file.to_owned(), reason }
}

fn file(path: &Path) -> Result<Vec<u8>, ApiError> {
    use std::io::Read as _;
    let failed = |reason: String| ApiError::File { file: path.to_owned(), reason };
    let file = std::fs::File::open(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
    let mut content = Vec::new();
    file.take(MAX_FILE.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(|error| failed(format!("cannot be read: {error}")))?;
    let longer = u64::try_from(content.len()).unwrap_or(u64::MAX) > MAX_FILE;
    if longer { Err(failed(format!("is longer than {MAX_FILE} bytes"))) } else { Ok(content) }
}

fn bearer(token: &[u8]) -> Result<HeaderValue, String> {
    let token = std::str::from_utf8(token).unwrap_or_default().trim();
    if token.is_empty() {
        return Err("expected a token, found none".into());
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| "expected a token, found what no header can carry".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

fn trusting(pem: &[u8]) -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("expected certificates in PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("a certificate cannot be a root: {error}"))?;
    }
    if roots.is_empty() {
        return Err("expected certificates in PEM, found none".into());
    }
    let mut config = rustls::ClientConfig::builder_with_provider(signet_identity::crypto_provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
