//! Who answers at a bundle endpoint, and by what it is believed.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use signet_bundle::{Document, DocumentError, MAX_BYTES};
use signet_identity::{KeyId, TrustDomain, bundle_client_config};
use signet_model::{EndpointProfile, InitialBundle};

use super::held::{Brought, Held};
use crate::fetch::web_config;

/// Why an endpoint cannot even be asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    #[error("{file}: {reason}")]
    File { file: PathBuf, reason: String },
    #[error("{file}: not the bundle document of this trust domain: {reason}")]
    Initial { file: PathBuf, reason: DocumentError },
    #[error("the initial bundle: {0}")]
    Inline(DocumentError),
    #[error(
        "the bundle held has no root, so that its endpoint cannot be authenticated: bring a new initial bundle"
    )]
    NoRoot,
    #[error("{file}: expected certificates of authorities in PEM: {reason}")]
    Authorities { file: PathBuf, reason: String },
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl SourceError {
    /// A short name for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::File { .. } | Self::Initial { .. } | Self::Inline(_) | Self::NoRoot => "initial_bundle",
            Self::Authorities { .. } => "authorities",
            Self::Tls(_) => "tls",
        }
    }
}

/// The bundle that an operator brought, as it is now.
///
/// # Errors
/// [`SourceError`] naming the file.
pub async fn initial(domain: &TrustDomain, bundle: &InitialBundle) -> Result<Brought, SourceError> {
    let (text, file) = match bundle {
        InitialBundle::Inline(text) => (text.clone(), None),
        InitialBundle::File(file) => {
            let path = PathBuf::from(file.as_str());
            (read(path.clone()).await?, Some(path))
        }
    };
    let document = Document::parse(domain, text.as_bytes()).map_err(|reason| match file {
        Some(file) => SourceError::Initial { file, reason },
        None => SourceError::Inline(reason),
    })?;
    let digest = KeyId::of(text.as_bytes());
    Ok(Brought { document, text: text.into(), digest })
}

/// How this endpoint is authenticated now; none is as any web site.
///
/// # Errors
/// [`SourceError`] where there is nothing to authenticate it by.
pub async fn tls(
    profile: &EndpointProfile,
    held: Option<&Held>,
) -> Result<Option<Arc<rustls::ClientConfig>>, SourceError> {
    match profile {
        EndpointProfile::Spiffe(profile) => {
            let roots = held.and_then(|held| held.document.roots()).ok_or(SourceError::NoRoot)?;
            Ok(Some(bundle_client_config(roots.clone(), profile.endpoint_id.clone())?))
        }
        EndpointProfile::Web(profile) => match &profile.ca_file {
            None => Ok(None),
            Some(file) => {
                let file = PathBuf::from(file.as_str());
                let pem = read(file.clone()).await?;
                Ok(Some(web_config(authorities(&file, &pem)?)?))
            }
        },
    }
}

fn authorities(file: &Path, pem: &str) -> Result<rustls::RootCertStore, SourceError> {
    let failed = |reason: String| SourceError::Authorities { file: file.to_owned(), reason };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    match roots.is_empty() {
        true => Err(failed("found none".to_owned())),
        false => Ok(roots),
    }
}

/// A file that says whom to believe: nobody else may have written it.
async fn read(file: PathBuf) -> Result<String, SourceError> {
    let named = file.clone();
    let reading = tokio::task::spawn_blocking(move || {
        signet_daemon::refuse_if_writable_by_others(&file).map_err(|error| error.to_string())?;
        // Asked before opening: opening a pipe would wait for whoever writes it.
        if !std::fs::metadata(&file).map_err(|error| error.to_string())?.is_file() {
            return Err("expected a regular file".to_owned());
        }
        let mut text = String::new();
        let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        let opened = std::fs::File::open(&file).map_err(|error| error.to_string())?;
        opened.take(limit).read_to_string(&mut text).map_err(|error| error.to_string())?;
        match text.len() > MAX_BYTES {
            true => Err(format!("larger than {MAX_BYTES} bytes")),
            false => Ok(text),
        }
    });
    let read = reading.await.unwrap_or_else(|error| Err(error.to_string()));
    read.map_err(|reason| SourceError::File { file: named, reason })
}
