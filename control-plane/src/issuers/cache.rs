//! Key sets across a restart: a file in the data directory.
//!
//! Without it, a control plane that restarts while an issuer is down would have no keys for it and would
//! take them away from every gateway. What is read back is used only for exactly the source that it was
//! fetched from, only while it is not stale, and only from a file that nobody else could have written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use signet_token::Jwks;

use super::fetch::Source;
use super::{KeyState, stale};

/// One issuer's set as it was last confirmed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Kept {
    issuer: String,
    jwks_uri: Option<String>,
    jwks: String,
    fetched_at: i64,
}

/// The file.
#[derive(Debug)]
pub(super) struct Cache {
    path: PathBuf,
    kept: BTreeMap<String, Kept>,
}

impl Cache {
    /// Reads the file. One that is missing or not ours is as good as empty: keys are fetched anyway.
    pub(super) fn open(path: &Path) -> Self {
        let kept = match signet_daemon::read_secret_file(path) {
            Ok(text) => serde_json::from_slice(text.expose()).unwrap_or_else(|error| {
                tracing::warn!(target: "signet::issuers", file = %path.display(), %error, "kept keys cannot be read");
                BTreeMap::new()
            }),
            Err(signet_daemon::FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                BTreeMap::new()
            }
            Err(error) => {
                tracing::warn!(target: "signet::issuers", %error, "kept keys are not used");
                BTreeMap::new()
            }
        };
        Self { path: path.to_owned(), kept }
    }

    /// The state to begin with.
    pub(super) fn state(&self, alias: &str, source: &Source, now: i64) -> KeyState {
        let fitting = self.kept.get(alias).filter(|kept| {
            kept.issuer == source.issuer && kept.jwks_uri == source.jwks_uri && !stale(kept.fetched_at, now)
        });
        let parsed = fitting.and_then(|kept| Some((kept, Jwks::parse(&kept.jwks).ok()?)));
        parsed.map_or_else(KeyState::default, |(kept, set)| KeyState {
            jwks: Some(set.to_json().into()),
            keys: set.len(),
            fetched_at: kept.fetched_at,
            ..KeyState::default()
        })
    }

    /// Keeps what was just confirmed. The disk's failure is not the issuer's: it is logged and goes on.
    pub(super) fn keep(&mut self, alias: &str, source: &Source, state: &KeyState) {
        let Some(jwks) = &state.jwks else { return };
        let kept = Kept {
            issuer: source.issuer.clone(),
            jwks_uri: source.jwks_uri.clone(),
            jwks: jwks.to_string(),
            fetched_at: state.fetched_at,
        };
        self.kept.insert(alias.to_owned(), kept);
        let written = serde_json::to_vec(&self.kept)
            .map_err(|e| e.to_string())
            .and_then(|text| signet_daemon::write_private(&self.path, &text).map_err(|e| e.to_string()));
        if let Err(error) = written {
            tracing::warn!(target: "signet::issuers", error, "fetched keys could not be kept for a restart");
        }
    }

    /// Forgets issuers that are no longer followed.
    pub(super) fn retain(&mut self, wanted: &BTreeMap<String, Source>) {
        self.kept.retain(|alias, _| wanted.contains_key(alias));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"k1","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

    fn source(uri: &str) -> Source {
        Source { issuer: "https://idp.example".into(), jwks_uri: Some(uri.into()) }
    }

    fn kept(path: &Path) {
        let state = KeyState { jwks: Some(SET.into()), keys: 1, fetched_at: 1_000, ..KeyState::default() };
        Cache::open(path).keep("idp", &source("https://idp.example/jwks"), &state);
    }

    #[test]
    fn keys_survive_a_restart_for_the_same_source_until_they_are_stale() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("issuer-keys.json");
        kept(&path);
        let cache = Cache::open(&path);
        let state = cache.state("idp", &source("https://idp.example/jwks"), 2_000);
        assert_eq!((state.keys, state.fetched_at), (1, 1_000));
        let moved = cache.state("idp", &source("https://elsewhere.example/jwks"), 2_000);
        assert_eq!(moved, KeyState::default());
        let old = cache.state("idp", &source("https://idp.example/jwks"), 1_001 + 86_400);
        assert_eq!(old, KeyState::default());
    }

    #[test]
    fn a_file_that_others_could_write_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("issuer-keys.json");
        kept(&path);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let state = Cache::open(&path).state("idp", &source("https://idp.example/jwks"), 2_000);
        assert_eq!(state, KeyState::default());
    }
}
