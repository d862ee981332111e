//! The registry as a folder of YAML, kept current while the process runs.
//!
//! Level-triggered: the folder is read again every second and on SIGHUP, and what counts is its content,
//! not an event about it. A folder that is not valid is refused whole; the last good state serves on,
//! and what is wrong is in the log once, in the metrics, and in `signet status` until it is mended.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use signet_model::{MAX_FILE_BYTES, MAX_FILES, Options, Registry, RegistryErrors};
use tokio::sync::{Notify, watch};

use crate::clock::unix_now;

/// An edit is in force after at most this long and a push.
const EVERY: Duration = Duration::from_secs(1);

/// What is in force, and what is wrong.
#[derive(Debug, Clone)]
pub struct State {
    /// The last good state.
    pub registry: Arc<Registry>,
    /// When it was loaded, seconds since the epoch.
    pub loaded_at: i64,
    /// What is wrong with the folder, or keeps the cluster from being followed, now; empty when nothing.
    pub errors: Vec<String>,
    /// What is in force and may not do what it was meant to, beside what the registry itself says.
    pub warnings: Vec<String>,
    /// How often the folder was refused since the start.
    pub refused: u64,
}

/// The watcher of one folder.
pub struct Folder {
    path: PathBuf,
    options: Options,
    /// Digest of what was looked at last; `None` after a look that failed.
    seen: Option<[u8; 32]>,
    state: watch::Sender<State>,
}

impl Folder {
    /// Reads the folder for the first time: here there is no last good state to serve, so what is wrong
    /// is an error.
    ///
    /// # Errors
    /// Every mistake found, each with file, field and reason.
    pub fn open(path: &Path, options: Options) -> Result<Self, RegistryErrors> {
        // Before the load: what changes in between is seen as a change.
        let seen = digest(path).ok();
        let registry = Arc::new(signet_model::parse_folder(path, &options)?);
        warn(&registry);
        let state =
            State { registry, loaded_at: unix_now(), errors: Vec::new(), warnings: Vec::new(), refused: 0 };
        Ok(Self { path: path.to_owned(), options, seen, state: watch::Sender::new(state) })
    }

    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Reads the folder again if its content is not what was seen last.
    pub fn reload(&mut self) {
        let seen = digest(&self.path).ok();
        if seen.is_some() && seen == self.seen {
            return;
        }
        self.seen = seen;
        match signet_model::parse_folder(&self.path, &self.options) {
            Ok(registry) => self.accept(registry),
            Err(errors) => self.refuse(&errors),
        }
    }

    fn accept(&self, registry: Registry) {
        self.state.send_if_modified(|state| {
            let changed = *state.registry != registry || !state.errors.is_empty();
            if changed {
                tracing::info!(target: "signet::registry", folder = %self.path.display(), "registry loaded");
                warn(&registry);
                state.registry = Arc::new(registry);
                state.loaded_at = unix_now();
                state.errors.clear();
            }
            changed
        });
    }

    fn refuse(&self, errors: &RegistryErrors) {
        let messages: Vec<String> = errors.iter().map(ToString::to_string).collect();
        self.state.send_if_modified(|state| {
            if state.errors == messages {
                return false;
            }
            for error in errors.iter() {
                tracing::error!(target: "signet::registry", file = %error.file.display(), field = error.field, reason = error.reason, "registry refused; the last good one stays");
            }
            state.errors = messages;
            state.refused = state.refused.saturating_add(1);
            true
        });
    }

    /// Follows the folder until the future is dropped. `hint` makes the next look happen at once.
    pub async fn follow(mut self, hint: Arc<Notify>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = hint.notified() => {}
            }
            // A few small files: the read is short, but it is a disk's.
            let looked = tokio::task::spawn_blocking(move || {
                self.reload();
                self
            });
            match looked.await {
                Ok(folder) => self = folder,
                Err(error) => {
                    tracing::error!(target: "signet::registry", %error, "the registry is no longer followed");
                    return;
                }
            }
        }
    }
}

/// Says what is in force and yet may not be what its author meant.
fn warn(registry: &Registry) {
    for warning in registry.warnings() {
        tracing::warn!(target: "signet::registry", warning, "the registry may not do what it was meant to");
    }
}

/// SHA-256 over modes, names and contents. Times and sizes would miss an edit within one tick of the clock.
/// Looks where [`signet_model::parse_folder`] looks; what is right or wrong there is not judged here.
fn digest(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let data = path.join("..data");
    let folder = if data.exists() { std::fs::canonicalize(&data)? } else { path.to_path_buf() };
    context.update(&std::fs::metadata(path)?.mode().to_be_bytes());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder)?.take(MAX_FILES.saturating_mul(2)) {
        files.push(entry?.path());
    }
    files.sort();
    for file in files {
        if !file.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            continue;
        }
        let meta = std::fs::metadata(&file)?;
        let mut content = Vec::new();
        // Opening a pipe would wait for whoever writes it.
        if meta.is_file() {
            std::fs::File::open(&file)?.take(MAX_FILE_BYTES.saturating_add(1)).read_to_end(&mut content)?;
        }
        context.update(&meta.mode().to_be_bytes());
        context.update(&meta.uid().to_be_bytes());
        for part in [file.as_os_str().as_encoded_bytes(), &content] {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
    }
    let mut out = [0_u8; 32];
    out.copy_from_slice(context.finish().as_ref());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: shop, name: web}
spec: {class: sidecar}
";

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.yaml"), WEB).unwrap();
        let folder = Folder::open(dir.path(), Options::default()).unwrap();
        (dir, folder)
    }

    fn names(folder: &Folder) -> Vec<String> {
        folder.state.borrow().registry.workloads().map(|w| w.name.to_string()).collect()
    }

    #[test]
    fn an_edit_is_taken_and_an_unchanged_folder_wakes_nobody() {
        let (dir, mut folder) = folder();
        let mut changes = folder.subscribe();
        folder.reload();
        assert!(!changes.has_changed().unwrap());
        std::fs::write(dir.path().join("b.yaml"), WEB.replace("web", "api")).unwrap();
        folder.reload();
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        assert_eq!(names(&folder), ["api.shop", "web.shop"]);
        std::fs::write(dir.path().join("b.yaml"), format!("# a comment\n{}", WEB.replace("web", "api")))
            .unwrap();
        folder.reload();
        assert!(!changes.has_changed().unwrap(), "the same resources in other words");
    }

    #[test]
    fn an_edit_of_the_same_size_within_the_same_instant_is_seen() {
        let (dir, mut folder) = folder();
        for round in 0..50 {
            let name = if round % 2 == 0 { "abc" } else { "xyz" };
            std::fs::write(dir.path().join("a.yaml"), WEB.replace("web", name)).unwrap();
            folder.reload();
            assert_eq!(names(&folder), [format!("{name}.shop")]);
        }
    }

    #[test]
    fn a_bad_file_refuses_the_folder_whole_and_the_last_good_state_stays() {
        let (dir, mut folder) = folder();
        std::fs::write(dir.path().join("b.yaml"), WEB.replace("web", "api")).unwrap();
        std::fs::write(
            dir.path().join("c.yaml"),
            WEB.replace("class: sidecar", "class: sidecar, surprise: 1"),
        )
        .unwrap();
        folder.reload();
        assert_eq!(names(&folder), ["web.shop"], "not even the good file of a bad folder");
        let errors = folder.state.borrow().errors.clone();
        assert_eq!(errors.len(), 1);
        assert!(errors[0].contains("c.yaml") && errors[0].contains("surprise"), "{errors:?}");
        folder.reload();
        assert_eq!(folder.state.borrow().refused, 1, "the same mistake is counted once");
        std::fs::remove_file(dir.path().join("c.yaml")).unwrap();
        folder.reload();
        assert!(folder.state.borrow().errors.is_empty());
        assert_eq!(names(&folder), ["api.shop", "web.shop"]);
    }

    #[test]
    fn a_folder_that_others_may_write_is_refused_until_it_is_closed() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, mut folder) = folder();
        let chmod =
            |mode| std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        chmod(0o777);
        folder.reload();
        assert_eq!(folder.state.borrow().errors.len(), 1);
        assert!(Folder::open(dir.path(), Options::default()).is_err());
        chmod(0o700);
        folder.reload();
        assert!(folder.state.borrow().errors.is_empty());
    }

    #[test]
    fn a_folder_that_vanishes_and_comes_back_is_read_again() {
        let (dir, mut folder) = folder();
        let (here, away) = (dir.path().join("a.yaml"), dir.path().join("a.gone"));
        std::fs::rename(&here, &away).unwrap();
        let aside = dir.path().with_extension("aside");
        std::fs::rename(dir.path(), &aside).unwrap();
        folder.reload();
        assert_eq!(folder.state.borrow().errors.len(), 1);
        assert_eq!(names(&folder), ["web.shop"]);
        std::fs::rename(&aside, dir.path()).unwrap();
        std::fs::rename(&away, &here).unwrap();
        folder.reload();
        assert!(folder.state.borrow().errors.is_empty());
    }
}
