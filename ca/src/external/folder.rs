//! A root with its key in a folder that somebody else keeps, cert-manager for one.
//!
//! What counts is what lies there now, compared with the journal, at the start and again and again: an event that was
//! lost changes nothing. `tls.crt`, `tls.key` and `ca.crt` are read as one and believed as one: where they do not fit
//! each other, half written or swapped between two reads, nothing changes and it is said. A new pair becomes a new
//! root, published and acknowledged before it signs; one that is in force is never replaced in place.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use super::RootSource;
use super::chain::{self, Chain, RootChainError, Which};
use super::import::proved;
use crate::authority::{Authority, Inner};
use crate::csr::sha256;
use crate::error::AuthorityError;
use crate::keys::{CaKey, key_name};
use crate::keystore::StoredKey;
use crate::record::{Entry as LogEntry, Event};
use crate::rotation::machine::{Hurry, Kind, Phase, Slot};
use crate::rotation::material::Entry;
use crate::rotation::steps::Outcome;
use crate::store::Journal;

/// No file of the three is longer.
const MAX_FILE: u64 = 64 * 1024;
/// Kubernetes swaps this link, and with it all files of a mounted Secret at once.
const SWAPPED: &str = "..data";
const TRIES: usize = 8;

/// Why what lies in the folder is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    #[error("cannot read {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} is longer than {MAX_FILE} bytes")]
    TooLong { path: PathBuf },
    #[error(
        "{path} has mode {mode:04o}: a root's key is not for everybody; `chmod o= {path}`, or `defaultMode: 0440` for a mounted Secret"
    )]
    Loose { path: PathBuf, mode: u32 },
    #[error(
        "{path}: expected one private key as PKCS #8 PEM text (-----BEGIN PRIVATE KEY-----) on P-256 or P-384: {reason}; cert-manager writes it with `privateKey: {{algorithm: ECDSA, encoding: PKCS8}}`, openssl with `openssl pkcs8 -topk8 -nocrypt`"
    )]
    Key { path: PathBuf, reason: String },
    #[error(
        "tls.key is not the key of the certificate in tls.crt: a half written pair, or two that do not belong together"
    )]
    Mismatch,
    #[error("{file}: {source}")]
    Chain { file: &'static str, source: RootChainError },
    #[error("tls.crt: expected one certificate, or one and then its root; found {0}")]
    Count(usize),
    #[error("ca.crt: expected the root's certificate alone; found {0} certificates")]
    Roots(usize),
    #[error(
        "the key {id} was used for a root before, with another certificate: a new root needs a new key; cert-manager makes one with `privateKey: {{rotationPolicy: Always}}`"
    )]
    SameKey { id: String },
    #[error("the root {id} is {phase}: one that was replaced does not come back")]
    Replaced { id: String, phase: &'static str },
}

/// What one look at the folder came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// What lies there is in force, or on its way.
    AsBefore,
    /// There is a new root; it is published and waits for the fleet.
    New { id: String },
    /// Nothing was changed.
    Refused(String),
    /// Another replica looks after it, or there is no folder.
    NotOurs,
}

/// What was said about the folder last, so that it is said once.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    digest: [u8; 32],
    refused: Option<String>,
}

/// The pair, whole.
struct Pair {
    id: String,
    stored: StoredKey,
    key: CaKey,
    chain: Chain,
}

impl Authority {
    /// Looks at the folder with the root, where there is one, and begins a rotation if a new root lies there. To be
    /// called every half a minute.
    pub async fn look_at_root(&self) -> Result<Look, AuthorityError> {
        if !matches!(self.inner.root_source, RootSource::Folder(_)) {
            return Ok(Look::NotOurs);
        }
        self.act(|inner| async move {
            let now = inner.clock.unix_seconds();
            let look = inner.look_at_root(now).await?;
            if matches!(look, Look::New { .. }) {
                inner.advance(now).await?;
            }
            Ok(look)
        })
        .await
    }
}

impl Inner {
    pub(crate) async fn look_at_root(&self, now: i64) -> Result<Look, AuthorityError> {
        let RootSource::Folder(folder) = self.root_source.clone() else { return Ok(Look::NotOurs) };
        if !self.leads().await {
            return Ok(Look::NotOurs);
        }
        for _ in 0..TRIES {
            let _one_at_a_time = self.rotating.lock().await;
            let (folder, measure) =
                (folder.clone(), (self.rules.trust_domain.clone(), self.svid_ttl, self.lives.issuer));
            let read = tokio::task::spawn_blocking(move || {
                let (domain, svid_life, issuer_life) = measure;
                read(&folder, &chain::Measure { domain: &domain, svid_life, issuer_life, now })
            });
            let (digest, read) = read.await.map_err(crate::authority::interrupted)?;
            let journal = self.store.journal().await?;
            let pair = match read.and_then(|pair| known(&journal, pair)) {
                Ok(Some(pair)) => pair,
                Ok(None) => {
                    self.said(digest, None, now);
                    return Ok(Look::AsBefore);
                }
                Err(error) => {
                    let error = error.to_string();
                    self.said(digest, Some(&error), now);
                    return Ok(Look::Refused(error));
                }
            };
            let id = pair.id.clone();
            let Pair { key, chain, stored, .. } = pair;
            let (name, domain) = (self.rules.control_plane.clone(), self.rules.trust_domain.clone());
            if let Err(error) = proved(&domain, &chain, key, name, (self.svid_ttl, now)) {
                let error = error.to_string();
                self.said(digest, Some(&error), now);
                return Ok(Look::Refused(error));
            }
            // One that lay there before and never signed makes room.
            let on_its_way =
                journal.entries.iter().find(|entry| entry.is(Kind::Root) && entry.slot.is_next());
            if let Some(next) = on_its_way {
                let next = next.slot.id.clone();
                self.remove(&journal, &next, now).await?;
                continue;
            }
            if let Outcome::Done = self.give(&journal, &id, stored, &chain, now).await? {
                self.said(digest, None, now);
                for warning in &chain.warnings {
                    tracing::warn!(target: "signet::ca", id, warning, "the root in the folder is taken");
                }
                tracing::info!(target: "signet::ca", id, not_after = chain.validity().not_after,
                    "there is a new root in the folder");
                return Ok(Look::New { id });
            }
        }
        Err(AuthorityError::Interrupted("another replica keeps changing the journal".into()))
    }

    async fn give(
        &self,
        journal: &Journal,
        id: &str,
        stored: StoredKey,
        chain: &Chain,
        now: i64,
    ) -> Result<Outcome, AuthorityError> {
        let name = id.to_owned();
        // Durable before the journal names it.
        self.with_vault(move |vault| vault.keep(Kind::Root, &name, &stored)).await?;
        let slot = Slot {
            id: id.to_owned(),
            kind: Kind::Root,
            owner: String::new(),
            phase: Phase::Prepared,
            not_before: 0,
            not_after: 0,
            sequence: 0,
            since: now,
            parent: None,
            tainted_at: None,
            hurry: Hurry::Acknowledged,
        };
        let mut entry = Entry::new(slot, Vec::new());
        entry.take(chain);
        let log = LogEntry::new(now, Event::RootImported, "folder")
            .certificate(&chain.signing().serial.to_string(), entry.slot.not_after);
        self.change(journal, vec![entry], false, Some(log), now).await
    }

    /// Tells people, once for each thing that is told.
    fn said(&self, digest: [u8; 32], refused: Option<&str>, now: i64) {
        let mut seen = self.root_seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let news = seen.digest != digest || seen.refused.as_deref() != refused;
        *seen = Seen { digest, refused: refused.map(str::to_owned) };
        match refused {
            None => {
                self.metrics.root_folder_good.set(1);
                self.metrics.root_folder_read.set(now);
            }
            Some(error) => {
                self.metrics.root_folder_good.set(0);
                if news {
                    tracing::error!(target: "signet::ca", error,
                        "the root in the folder is not taken; what is in force goes on");
                }
            }
        }
    }
}

/// The pair, unless the journal has it.
fn known(journal: &Journal, pair: Pair) -> Result<Option<Pair>, FolderError> {
    let Some(entry) = journal.entries.iter().find(|entry| entry.slot.id == pair.id) else {
        return Ok(Some(pair));
    };
    let id = pair.id;
    let mut same = entry.clone();
    same.take(&pair.chain);
    if (&same.public, &same.intermediate) != (&entry.public, &entry.intermediate) {
        return Err(FolderError::SameKey { id });
    }
    match entry.slot.phase {
        phase @ (Phase::Draining | Phase::Removed) => {
            Err(FolderError::Replaced { id, phase: phase.as_str() })
        }
        _ => Ok(None),
    }
}

/// What lies in the folder now, and its digest.
fn read(folder: &Path, measure: &chain::Measure<'_>) -> ([u8; 32], Result<Pair, FolderError>) {
    // Through the link that is swapped only once, so that all three are of one time.
    let swapped = folder.join(SWAPPED);
    let folder = std::fs::canonicalize(&swapped).unwrap_or_else(|_| folder.to_path_buf());
    let mut all = Zeroizing::new(Vec::new());
    let mut file = |name: &str, private: bool| -> Result<Zeroizing<Vec<u8>>, FolderError> {
        let bytes = bytes(&folder.join(name), private)?;
        all.extend_from_slice(&sha256(&bytes));
        Ok(bytes)
    };
    let read = (|| {
        let (certificate, key) = (file("tls.crt", false)?, file("tls.key", true)?);
        let roots = match file("ca.crt", false) {
            Ok(roots) => Some(roots),
            // A root that signs issuers itself is its own.
            Err(FolderError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        pair(&folder, &certificate, &key, roots.as_deref().map(Vec::as_slice), measure)
    })();
    (sha256(&all), read)
}

fn pair(
    folder: &Path,
    certificate: &[u8],
    key: &[u8],
    roots: Option<&[u8]>,
    measure: &chain::Measure<'_>,
) -> Result<Pair, FolderError> {
    let of = |file: &'static str| move |source| FolderError::Chain { file, source };
    let path = folder.join("tls.key");
    let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(key)
        .map_err(|error| FolderError::Key { path: path.clone(), reason: error.to_string() })?;
    let pkcs8 = Zeroizing::new(pkcs8.secret_pkcs8_der().to_vec());
    let key =
        CaKey::from_pkcs8(&pkcs8).map_err(|error| FolderError::Key { path, reason: error.to_string() })?;
    let found = chain::certificates(certificate).map_err(of("tls.crt"))?;
    let (own, with_it) = match found.as_slice() {
        [own] => (own, None),
        [own, root] => (own, Some(root.clone())),
        _ => return Err(FolderError::Count(found.len())),
    };
    let own = chain::read(Which::Signed, own).map_err(of("tls.crt"))?;
    if !own.is_of(&key) {
        return Err(FolderError::Mismatch);
    }
    let root = match roots.map(chain::certificates).transpose().map_err(of("ca.crt"))?.as_deref() {
        None => with_it.unwrap_or_else(|| own.der.clone()),
        Some([root]) => root.clone(),
        Some(roots) => return Err(FolderError::Roots(roots.len())),
    };
    let root = chain::read(Which::Root, &root).map_err(of("ca.crt"))?;
    let own = (own.der != root.der).then_some(own);
    let chain = chain::check(measure, root, own).map_err(of("tls.crt"))?;
    Ok(Pair { id: key_name(&key), stored: StoredKey::local(pkcs8), key, chain })
}

/// A file of the folder; links are followed, since that is how Secrets are mounted.
fn bytes(path: &Path, private: bool) -> Result<Zeroizing<Vec<u8>>, FolderError> {
    let io = |source| FolderError::Io { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(io)?;
    let mode = file.metadata().map_err(io)?.mode() & 0o7777;
    if private && mode & 0o007 != 0 {
        return Err(FolderError::Loose { path: path.to_path_buf(), mode });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_FILE + 1).unwrap_or(0)));
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(FolderError::TooLong { path: path.to_path_buf() });
    }
    Ok(bytes)
}
