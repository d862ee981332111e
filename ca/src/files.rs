//! Files that only their owner may read.
//!
//! The data directory is 0700 and belongs to this process's user; every file in it that matters is
//! 0600, a regular file, and replaced by a rename of a synced temporary file, so that a crash leaves
//! either the old content or the new. Anything looser is refused with what was found and what to do.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

/// No file that the authority reads whole is longer: a key, a certificate and a header fit many times.
const MAX_FILE: u64 = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(
        "{path} has mode {mode:04o} but may be accessible to its owner only: run `chmod {wanted:04o} {path}`"
    )]
    LoosePermissions { path: PathBuf, mode: u32, wanted: u32 },
    #[error("{path} belongs to uid {owner}, but this process runs as uid {process}: give it to that user")]
    ForeignOwner { path: PathBuf, owner: u32, process: u32 },
    #[error("{path} is not {expected}: remove it or name another path")]
    WrongKind { path: PathBuf, expected: &'static str },
    #[error("{path} is longer than {MAX_FILE} bytes, so it is not what is expected there")]
    TooLong { path: PathBuf },
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the system's random number generator failed")]
    Random,
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> FileError {
    let path = path.to_path_buf();
    move |source| FileError::Io { action, path, source }
}

/// Makes the directory with mode 0700, or checks that an existing one is private and ours.
pub(crate) fn private_directory(path: &Path) -> Result<(), FileError> {
    match DirBuilder::new().mode(0o700).recursive(true).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            return Err(FileError::WrongKind { path: path.to_path_buf(), expected: "a directory" });
        }
        Err(e) => return Err(io("create the directory", path)(e)),
    }
    let meta = std::fs::symlink_metadata(path).map_err(io("inspect", path))?;
    if !meta.is_dir() {
        return Err(FileError::WrongKind { path: path.to_path_buf(), expected: "a directory" });
    }
    check(path, &meta, 0o700)
}

/// Reads a private file whole; `None` when there is none.
pub(crate) fn read_private(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => {}
        Ok(_) => return Err(FileError::WrongKind { path: path.to_path_buf(), expected: "a regular file" }),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io("inspect", path)(e)),
    }
    let file = File::open(path).map_err(io("open", path))?;
    // Asked of the opened file, so that what is checked is what is read.
    let meta = file.metadata().map_err(io("inspect", path))?;
    check(path, &meta, 0o600)?;
    if meta.len() > MAX_FILE {
        return Err(FileError::TooLong { path: path.to_path_buf() });
    }
    // Room for all of it at once: a growing buffer would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE as usize + 1));
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(io("read", path))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(FileError::TooLong { path: path.to_path_buf() });
    }
    Ok(Some(bytes))
}

/// Reads a file that anybody may read, whole; `None` when there is none.
pub(crate) fn read_public(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io("open", path)(e)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(io("read", path))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(FileError::TooLong { path: path.to_path_buf() });
    }
    Ok(Some(bytes))
}

/// Whether a private file is there, of any length. One that is not private is refused.
pub(crate) fn private_exists(path: &Path) -> Result<bool, FileError> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => check(path, &meta, 0o600).map(|()| true),
        Ok(_) => Err(FileError::WrongKind { path: path.to_path_buf(), expected: "a regular file" }),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(io("inspect", path)(e)),
    }
}

/// Replaces a file by one of mode 0600 with this content, durably and all at once.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write(path, bytes, 0o600, Over::Whatever)
}

/// The same where there is none yet. Of several that try at once one wins, also where the folder is shared by several
/// machines; the others' content is dropped.
pub(crate) fn write_private_first(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write(path, bytes, 0o600, Over::Nothing)
}

/// The same for what everybody may read, such as the root certificate.
pub(crate) fn write_public(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write(path, bytes, 0o644, Over::Whatever)
}

/// Removes a file, durably; none there is no error.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        removed => removed.map_err(io("remove", path))?,
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory).and_then(|d| d.sync_all()).map_err(io("sync", directory))
}

/// What may be replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Whatever,
    Nothing,
}

fn write(path: &Path, bytes: &[u8], mode: u32, over: Over) -> Result<(), FileError> {
    let mut suffix = [0u8; 8];
    SystemRandom::new().fill(&mut suffix).map_err(|_| FileError::Random)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{:016x}", u64::from_be_bytes(suffix)));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)
            .map_err(io("create", &temporary))?;
        file.write_all(bytes).map_err(io("write", &temporary))?;
        file.sync_all().map_err(io("sync", &temporary))?;
        match over {
            Over::Whatever => std::fs::rename(&temporary, path).map_err(io("replace", path))?,
            // A name is given once, by whoever is first.
            Over::Nothing => {
                match std::fs::hard_link(&temporary, path) {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    linked => linked.map_err(io("link", path))?,
                }
                std::fs::remove_file(&temporary).map_err(io("remove", &temporary))?;
            }
        }
        File::open(directory).and_then(|d| d.sync_all()).map_err(io("sync", directory))
    })();
    if written.is_err() {
        // What is left behind is at most a private temporary file; the error that matters is the first.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn check(path: &Path, meta: &std::fs::Metadata, wanted: u32) -> Result<(), FileError> {
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::LoosePermissions { path: path.to_path_buf(), mode, wanted });
    }
    // The owner of /proc/self is our effective user; where there is no /proc the mode has to do.
    if let Ok(own) = std::fs::metadata("/proc/self")
        && own.uid() != meta.uid()
    {
        return Err(FileError::ForeignOwner {
            path: path.to_path_buf(),
            owner: meta.uid(),
            process: own.uid(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_that_others_may_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_private(&path, b"secret").unwrap();
        assert_eq!(read_private(&path).unwrap().unwrap().as_slice(), b"secret");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = read_private(&path).unwrap_err();
        assert!(matches!(error, FileError::LoosePermissions { mode: 0o640, .. }), "{error}");
        assert!(error.to_string().contains("chmod 0600"), "{error}");
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        private_directory(&path).unwrap();
        private_directory(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(private_directory(&path), Err(FileError::LoosePermissions { .. })));
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        write_private(&real, b"secret").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(matches!(read_private(&link), Err(FileError::WrongKind { .. })));
    }
}
