//! Which files of the data directory a copy holds.
//!
//! Only what is named here is copied, so that what an operator put into the folder (the key that seals the others, in
//! development) stays where it is.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{BackupError, io};
use crate::files::FileError;
use crate::hierarchy::HierarchyError;
use crate::seal::{Role, Shelf};

/// Of a copy, what control planes share.
pub(super) const SHARED: &str = "shared";

/// Beside the sealed keys: who this control plane is, records that the log did not take, and what is public.
const NAMES: [&str; 5] = ["replica", "log-missed.jsonl", "log-missed.taken.jsonl", "root.pem", "audit.pem"];

/// Where they lie.
pub(super) struct Sources {
    pub(super) own: PathBuf,
    pub(super) shared: Option<Shelf>,
    pub(super) also: Vec<String>,
    pub(super) seal: Option<PathBuf>,
}

fn is_sealed(name: &str) -> bool {
    Role::of_file_name(name).is_some()
        || [Role::RowMac, Role::Audit].iter().any(|role| role.file_name() == name)
}

/// Copies them into the folder.
pub(super) fn copy(from: &Sources, to: &Path) -> Result<(), BackupError> {
    let seal = from.seal.as_deref().and_then(|path| std::fs::metadata(path).ok());
    let is_seal = |meta: &std::fs::Metadata| {
        seal.as_ref().is_some_and(|it| (it.dev(), it.ino()) == (meta.dev(), meta.ino()))
    };
    copy_named(&from.own, to, is_seal, |name| {
        is_sealed(name) || NAMES.contains(&name) || from.also.iter().any(|also| also == name)
    })?;
    if let Some(shared) = &from.shared {
        let to = to.join(SHARED);
        DirBuilder::new().mode(0o700).create(&to).map_err(io("create the directory", &to))?;
        match shared {
            Shelf::Folder(folder) => copy_named(folder, &to, is_seal, is_sealed)?,
            store => {
                let names = store.list().map_err(HierarchyError::from)?.into_iter().map(|it| it.0);
                let names: Vec<String> = names.filter(|name| is_sealed(name)).collect();
                store.copy_first(&names, &Shelf::from(to.as_path())).map_err(HierarchyError::from)?;
            }
        }
    }
    Ok(())
}

fn copy_named(
    from: &Path,
    to: &Path,
    is_seal: impl Fn(&std::fs::Metadata) -> bool,
    wanted: impl Fn(&str) -> bool,
) -> Result<(), FileError> {
    for entry in std::fs::read_dir(from).map_err(io("read", from))? {
        let entry = entry.map_err(io("read", from))?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if !wanted(&name) {
            continue;
        }
        let path = entry.path();
        match entry.metadata() {
            Ok(meta) if meta.is_file() && !is_seal(&meta) => copy_one(&path, &to.join(name))?,
            Ok(meta) if is_seal(&meta) => {
                tracing::error!(target: "signet::ca", path = %path.display(), "the seal key has the name of another file of the data directory: it was not copied");
            }
            Ok(_) => return Err(FileError::WrongKind { path, expected: "a regular file" }),
            // The key of what the journal has forgotten already.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io("inspect", &path)(error)),
        }
    }
    Ok(())
}

fn copy_one(from: &Path, to: &Path) -> Result<(), FileError> {
    let mut source = match File::open(from) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("open", from)(error)),
    };
    let mut target = create(to)?;
    std::io::copy(&mut source, &mut target).map(drop).map_err(io("write", to))
}

/// A new file that only we may read.
pub(super) fn create(path: &Path) -> Result<File, FileError> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io("create", path))
}

/// Flushes every file of the folder, then the folder.
pub(super) fn sync_folder(path: &Path) -> Result<(), FileError> {
    for entry in std::fs::read_dir(path).map_err(io("read", path))? {
        let path = entry.map_err(io("read", path))?.path();
        if path.is_dir() {
            sync_folder(&path)?;
        } else {
            File::open(&path).and_then(|file| file.sync_all()).map_err(io("sync", &path))?;
        }
    }
    File::open(path).and_then(|folder| folder.sync_all()).map_err(io("sync", path))
}
