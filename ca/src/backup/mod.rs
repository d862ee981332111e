//! A copy of the authority, made while it works, from which it can be started again.
//!
//! What is copied belongs to one moment: no act of the authority is under way while the store's view is taken hold of
//! and the few small files beside it are read. A key lies in its file before the journal names it, and until after the
//! journal has forgotten it, so every key that the copied journal names is in the copy. The store itself is copied from
//! that view afterwards, while acts go on. Copied is what a start needs, by name: the key that seals the others never is.
//!
//! A copy is made under a name that nobody takes for one ([`folder`]), flushed to the disk, and renamed when it is whole
//! and the issuance log says so. In it lies a marked list of its files ([`manifest`]), which the start from a copy checks.

mod files;
mod folder;
pub(crate) mod manifest;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crate::authority::{Authority, Inner, interrupted};
use crate::config::{AuthorityConfig, SharedKeys};
use crate::error::AuthorityError;
use crate::files::FileError;
use crate::hierarchy::HierarchyError;
use crate::record::{Entry, Event};
use crate::seal::{SealSource, Shelf};
use crate::store::RowMac;

use folder::{Folder, Place};
use manifest::Manifest;

/// Where copies go, and how many of them stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupConfig {
    /// Mode 0700; made when missing. Each control plane has its own.
    pub dir: PathBuf,
    /// The newest ones; at least one.
    pub keep: usize,
    /// Files of the data directory that are copied beside the authority's own, where they are there.
    pub also: Vec<String>,
}

/// Why no copy was made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("no folder for copies is configured: set backup.dir in control-plane.yaml and restart")]
    NotConfigured,
    #[error("a copy is being made already: wait for it")]
    Busy,
    #[error("{path} is used by another control plane: give each a backup.dir of its own")]
    FolderTaken { path: PathBuf },
    #[error("{path} has no free name for a copy of this second: try again")]
    NoName { path: PathBuf },
    #[error("the control plane is stopping: the copy was given up")]
    Stopping,
    #[error("the copied store is damaged, as is the store then: {what}")]
    Damaged { what: String },
    #[error("the list of the copy's files could not be made: {0}")]
    Manifest(#[from] serde_json::Error),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the keys that control planes share could not be copied: {0}")]
    Shared(#[from] HierarchyError),
    #[error("the store could not be copied: {0}")]
    Store(#[from] crate::store::CopyError),
}

/// A copy that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    pub folder: PathBuf,
    pub name: String,
    /// The moment of everything in it, in seconds since the epoch.
    pub at: i64,
    /// The last record of this control plane's issuance log that is in it.
    pub log_sequence: u64,
    pub files: u64,
    pub bytes: u64,
    /// Whether the store is in it. PostgreSQL's is not.
    pub store: bool,
    /// Older copies that were removed.
    pub removed: Vec<String>,
}

/// What the authority knows of its copies.
pub(crate) struct Backups {
    config: BackupConfig,
    /// Never copied, whatever its name is.
    seal: Option<PathBuf>,
    data_dir: PathBuf,
    /// Holds what control planes share, where that is another folder.
    shared: Option<PathBuf>,
    one: tokio::sync::Mutex<()>,
    stopping: Arc<AtomicBool>,
    /// When the newest copy was made; none: `i64::MIN`.
    last: AtomicI64,
}

impl Backups {
    pub(crate) fn of(config: &AuthorityConfig) -> Option<Backups> {
        let seal = match &config.seal.source {
            SealSource::KeyFile(path) | SealSource::PassphraseFile(path) => Some(path.clone()),
            SealSource::Passphrase(_) => None,
        };
        Some(Backups {
            config: config.backup.clone()?,
            seal,
            data_dir: config.data_dir.clone(),
            shared: match &config.shared_keys {
                SharedKeys::Folder(folder) if *folder != config.data_dir => Some(folder.clone()),
                _ => None,
            },
            one: tokio::sync::Mutex::default(),
            stopping: Arc::default(),
            last: AtomicI64::new(i64::MIN),
        })
    }

    /// A copy that is under way is given up.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    fn last(&self) -> Option<i64> {
        Some(self.last.load(Ordering::Acquire)).filter(|at| *at != i64::MIN)
    }
}

impl Authority {
    /// Copies everything from which this authority can be started again into a new folder under the configured one.
    ///
    /// # Errors
    /// When no copy was made. Nothing is left then that could be taken for one.
    pub async fn backup(&self, actor: &str) -> Result<Backup, AuthorityError> {
        if self.inner.backups.is_none() {
            return Err(BackupError::NotConfigured.into());
        }
        let by = actor.to_owned();
        let made = self.act(move |inner| async move { inner.backup(&by).await }).await;
        if made.is_err() {
            self.inner.metrics.backup_failures.inc();
        }
        made
    }

    /// Seconds since the newest copy was made; none: there is no copy.
    #[must_use]
    pub fn backup_age(&self) -> Option<i64> {
        let last = self.inner.backups.as_ref()?.last()?;
        Some(self.inner.clock.unix_seconds().saturating_sub(last))
    }
}

impl Inner {
    /// Reads when the newest copy was made.
    pub(crate) async fn note_last_backup(&self) -> Result<(), AuthorityError> {
        let Some(backups) = &self.backups else { return Ok(()) };
        let (dir, owner) = (backups.config.dir.clone(), self.owner());
        let newest = tokio::task::spawn_blocking(move || folder::newest(&dir, &owner));
        if let Some(at) = newest.await.map_err(interrupted)?.map_err(BackupError::from)? {
            self.copied_at(backups, at);
        }
        Ok(())
    }

    fn copied_at(&self, backups: &Backups, at: i64) {
        backups.last.store(at, Ordering::Release);
        self.metrics.backup_at.set(at);
    }

    fn owner(&self) -> folder::Owner {
        folder::Owner { mesh: self.store.mesh().to_string(), replica: self.replica.clone() }
    }

    async fn backup(&self, actor: &str) -> Result<Backup, AuthorityError> {
        let backups = self.backups.as_ref().ok_or(BackupError::NotConfigured)?;
        let _one = backups.one.try_lock().map_err(|_| BackupError::Busy)?;
        let (now, owner) = (self.clock.unix_seconds(), self.owner());
        let (dir, keep) = (backups.config.dir.clone(), backups.config.keep);
        let opened = tokio::task::spawn_blocking(move || {
            let folder = Folder::open(&dir, owner, keep)?;
            let place = folder.begin(now)?;
            Ok::<_, BackupError>((folder, place))
        });
        let (folder, place) = opened.await.map_err(interrupted)??;

        let view = self.store.copier(&backups.data_dir.join(crate::authority::DATABASE)).await?;
        // From here until the writer is dropped nothing else is done by the authority.
        let mut writer = self.store.begin_alone().await?;
        let head = writer.log_end().await?;
        let sources = files::Sources {
            own: backups.data_dir.clone(),
            shared: match (&backups.shared, &self.sealed_keys) {
                (Some(folder), _) => Some(Shelf::Folder(folder.clone())),
                (None, Some(table)) => Some(Shelf::Store(table.clone())),
                (None, None) => None,
            },
            also: backups.config.also.clone(),
            seal: backups.seal.clone(),
        };
        let taken = tokio::task::spawn_blocking(move || {
            let view = view.map(crate::store::Copier::hold).transpose()?;
            files::copy(&sources, place.path())?;
            Ok::<_, BackupError>((view, place))
        });
        let (view, place) = taken.await.map_err(interrupted)??;
        drop(writer);

        let (mac, stopping) = (self.store.row_mac(), Arc::clone(&backups.stopping));
        let manifest = Manifest {
            trust_domain: self.rules.trust_domain.to_string(),
            mesh: self.store.mesh().to_string(),
            replica: self.replica.clone(),
            at: now,
            log_sequence: head.map_or(0, |head| head.0),
            log_hash: head.map(|head| hex(&head.1)).unwrap_or_default(),
            store: view.is_some(),
            files: std::collections::BTreeMap::new(),
        };
        let finished = tokio::task::spawn_blocking(move || {
            if let Some(view) = view {
                let path = place.path().join(crate::authority::DATABASE);
                view.write(&path, &stopping)?;
            }
            let manifest = finish(&place, manifest, &mac)?;
            Ok::<_, BackupError>((place, manifest))
        });
        let (place, manifest) = finished.await.map_err(interrupted)??;

        let (files, bytes) = manifest.size();
        let name = place.name().to_owned();
        let words = format!(
            "{name}: {files} files, {bytes} bytes, up to record {}{}",
            manifest.log_sequence,
            if manifest.store { "" } else { ", without the database" }
        );
        // A copy of everything is an act: it is written down before there is one.
        let mut writer = self.store.begin().await?;
        writer.record(Entry::new(now, Event::BackedUp, actor).because(&words)).await?;
        writer.commit().await?;
        let published = tokio::task::spawn_blocking(move || {
            let path = place.publish()?;
            Ok::<_, BackupError>((path, folder.prune(&name)?, name))
        });
        let (path, removed, name) = published.await.map_err(interrupted)??;
        self.copied_at(backups, now);
        tracing::info!(target: "signet::ca", folder = %path.display(), files, bytes, store = manifest.store, ?removed, "made a copy of the authority");
        Ok(Backup {
            folder: path,
            name,
            at: now,
            log_sequence: manifest.log_sequence,
            files,
            bytes,
            store: manifest.store,
            removed,
        })
    }
}

/// Lists what was copied, and flushes all of it to the disk.
fn finish(place: &Place, manifest: Manifest, mac: &RowMac) -> Result<Manifest, BackupError> {
    let manifest = manifest.listing(place.path())?;
    manifest.write(place.path(), mac)?;
    files::sync_folder(place.path())?;
    Ok(manifest)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> FileError {
    let path = path.to_path_buf();
    move |source| FileError::Io { action, path, source }
}
