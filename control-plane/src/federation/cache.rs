//! Bundles across a restart: a file in the data directory.
//!
//! Under `https_spiffe` what is held is what the endpoint is authenticated by, so it may not be lost: the initial
//! bundle may have been replaced by the partner long ago. What is read back is used only for exactly the endpoint
//! that it was fetched from, and only from a file that nobody else could have written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use signet_bundle::Document;
use signet_identity::{KeyId, TrustDomain};
use signet_model::{EndpointProfile, FederatedSpec};

use super::DomainState;
use super::held::Held;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Kept {
    /// URL and profile: another endpoint's bundle says nothing.
    endpoint: String,
    document: String,
    revision: u64,
    highest: Option<u64>,
    initial: Option<KeyId>,
    is_initial: bool,
    confirmed_at: i64,
}

/// The file.
#[derive(Debug)]
pub(super) struct Cache {
    path: PathBuf,
    kept: BTreeMap<TrustDomain, Kept>,
}

impl Cache {
    /// Reads the file. One that is missing or not ours is as good as empty.
    pub(super) fn open(path: &Path) -> Self {
        let kept = match signet_daemon::read_secret_file(path) {
            Ok(text) => serde_json::from_slice(text.expose()).unwrap_or_else(|error| {
                tracing::warn!(target: "signet::federation", file = %path.display(), %error, "kept bundles cannot be read");
                BTreeMap::new()
            }),
            Err(signet_daemon::FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                BTreeMap::new()
            }
            Err(error) => {
                tracing::warn!(target: "signet::federation", %error, "kept bundles are not used");
                BTreeMap::new()
            }
        };
        Self { path: path.to_owned(), kept }
    }

    /// What was held, and when it was confirmed.
    pub(super) fn held(&self, spec: &FederatedSpec) -> Option<(Held, i64)> {
        let kept = self.kept.get(&spec.trust_domain).filter(|kept| kept.endpoint == endpoint(spec))?;
        let document = Document::parse(&spec.trust_domain, kept.document.as_bytes()).ok()?;
        let held = Held {
            document,
            text: kept.document.as_str().into(),
            revision: kept.revision,
            highest: kept.highest,
            initial: kept.initial,
            is_initial: kept.is_initial,
        };
        Some((held, kept.confirmed_at))
    }

    /// Keeps what is held now. The disk's failure is not the partner's: it is logged and goes on.
    pub(super) fn keep(&mut self, state: &DomainState) {
        let Some(held) = &state.held else { return };
        let kept = Kept {
            endpoint: endpoint(&state.spec),
            document: held.text.to_string(),
            revision: held.revision,
            highest: held.highest,
            initial: held.initial,
            is_initial: held.is_initial,
            confirmed_at: state.confirmed_at,
        };
        if self.kept.insert(state.spec.trust_domain.clone(), kept.clone()) == Some(kept) {
            return;
        }
        let written = serde_json::to_vec(&self.kept)
            .map_err(|e| e.to_string())
            .and_then(|text| signet_daemon::write_private(&self.path, &text).map_err(|e| e.to_string()));
        if let Err(error) = written {
            tracing::warn!(target: "signet::federation", error, "fetched bundles could not be kept for a restart");
        }
    }

    /// Forgets domains that are no longer federated.
    pub(super) fn retain(&mut self, wanted: impl Fn(&TrustDomain) -> bool) {
        self.kept.retain(|domain, _| wanted(domain));
    }
}

/// Where it came from, and by whom it was believed.
fn endpoint(spec: &FederatedSpec) -> String {
    match &spec.profile {
        EndpointProfile::Spiffe(profile) => format!("https_spiffe {} {}", profile.endpoint_id, spec.url),
        EndpointProfile::Web(profile) => {
            format!("https_web {} {}", profile.ca_file.as_ref().map_or("", |file| file.as_str()), spec.url)
        }
    }
}
