//! Being a pod: who we are is what the cluster says of our service account.
//!
//! Two files that the kubelet keeps current are all that there is: our token, projected for the authority's audience, and
//! the roots by which the control plane is recognised. Both are read again for every certificate, so that
//! nothing that was true yesterday counts today. Nothing is trusted on first use: without a root in
//! the file the token is shown to nobody.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use signet_identity::{BundleError, SpiffeId, TrustBundle, TrustDomain};
use zeroize::Zeroizing;

use crate::config::KubernetesIdentity;

/// Longer is no token.
const MAX_TOKEN: u64 = 16 * 1024;
/// Longer is no list of roots.
const MAX_ROOTS: u64 = 1024 * 1024;

/// Why there is nothing to show, or nobody to show it to.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// A file is missing, too long, or not what it should be.
    #[error("{}: {reason}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What was expected and what came.
        reason: String,
    },
    /// The roots are of another trust domain, or no roots.
    #[error("{}: {source}", .file.display())]
    Roots {
        /// The file.
        file: PathBuf,
        /// What is wrong with them.
        source: BundleError,
    },
}

/// See the module's story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Our projected token.
    pub token_file: PathBuf,
    /// The roots of the mesh, PEM.
    pub roots_file: PathBuf,
    /// `host:port` of the listener that attests.
    pub bootstrap_address: String,
    /// `host:port` of the listener for everything else.
    pub mesh_address: String,
    /// The trust domain that we join.
    pub trust_domain: TrustDomain,
    /// Who answers at both addresses.
    pub control_plane: SpiffeId,
}

impl Pod {
    /// What the configuration says.
    pub fn new(config: &KubernetesIdentity) -> Self {
        Self {
            token_file: config.token_file.clone(),
            roots_file: config.roots_file.clone(),
            bootstrap_address: config.bootstrap_address.clone(),
            mesh_address: config.mesh_address.clone(),
            trust_domain: config.control_plane.trust_domain().clone(),
            control_plane: config.control_plane.clone(),
        }
    }

    /// Our token as it is now.
    pub fn token(&self) -> Result<Zeroizing<String>, PodError> {
        let wrong =
            |reason: &str| PodError::File { file: self.token_file.clone(), reason: reason.to_owned() };
        let text = Zeroizing::new(read(&self.token_file, MAX_TOKEN)?);
        let text = std::str::from_utf8(&text).map_err(|_| wrong("expected a token, found no text"))?.trim();
        if text.is_empty() {
            return Err(wrong("expected a token, found none"));
        }
        Ok(Zeroizing::new(text.to_owned()))
    }

    /// The roots as they are now; all of those in the file.
    pub fn roots(&self) -> Result<TrustBundle, PodError> {
        let pem = read(&self.roots_file, MAX_ROOTS)?;
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let roots = roots.map_err(|error| PodError::File {
            file: self.roots_file.clone(),
            reason: format!("expected certificates in PEM: {error}"),
        })?;
        TrustBundle::new(self.trust_domain.clone(), roots)
            .map_err(|source| PodError::Roots { file: self.roots_file.clone(), source })
    }
}

fn read(file: &Path, most: u64) -> Result<Vec<u8>, PodError> {
    let failed = |reason: String| PodError::File { file: file.to_owned(), reason };
    let cannot = |error: std::io::Error| failed(format!("cannot be read: {error}"));
    let mut content = Vec::new();
    let open = std::fs::File::open(file).map_err(cannot)?;
    open.take(most.saturating_add(1)).read_to_end(&mut content).map_err(cannot)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > most {
        return Err(failed(format!("expected at most {most} bytes, found more")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(folder: &Path) -> Pod {
        let control_plane =
            SpiffeId::parse("spiffe://demo.signet/ns/signet-system/sa/signet-control-plane").unwrap();
        Pod {
            token_file: folder.join("token"),
            roots_file: folder.join("roots.pem"),
            bootstrap_address: "a:1".into(),
            mesh_address: "a:2".into(),
            trust_domain: control_plane.trust_domain().clone(),
            control_plane,
        }
    }

    #[test]
    fn a_token_is_read_anew_each_time_and_a_bad_file_is_named_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let pod = pod(folder.path());
        assert!(pod.token().unwrap_err().to_string().contains("token: cannot be read"));
        for (content, expected) in [("one\n", Some("one")), ("two", Some("two")), (" \n", None)] {
            std::fs::write(&pod.token_file, content).unwrap();
            assert_eq!(pod.token().ok().as_ref().map(|token| token.as_str()), expected);
        }
        std::fs::write(&pod.token_file, "s3cret".repeat(10_000)).unwrap();
        let message = pod.token().unwrap_err().to_string();
        assert!(message.contains("16384 bytes") && !message.contains("s3cret"), "{message}");
    }

    #[test]
    fn a_file_of_roots_holds_at_least_one_and_nothing_broken() {
        let folder = tempfile::tempdir().unwrap();
        let pod = pod(folder.path());
        for content in ["", "no pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&pod.roots_file, content).unwrap();
            let message = pod.roots().unwrap_err().to_string();
            assert!(message.contains("roots.pem"), "{message}");
        }
    }
}
