//! Files that hold secrets or grant things: written whole or not at all, readable by their owner alone, and
//! refused when somebody else could have written them.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::Secret;

/// The largest secret file that is read: keys, tokens and join bundles are a few kilobytes.
const MAX_SECRET_FILE: u64 = 1024 * 1024;

/// Why a file is refused, or could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} belongs to uid {owner}, expected uid {expected} or root; chown it", path = .path.display())]
    Owner { path: PathBuf, owner: u32, expected: u32 },
    #[error("{path} may be written by others (mode {mode:04o}); expected no write permission for group and others: chmod go-w", path = .path.display())]
    Writable { path: PathBuf, mode: u32 },
    #[error("{path} may be read by others (mode {mode:04o}); expected 0600: chmod go-rwx", path = .path.display())]
    Readable { path: PathBuf, mode: u32 },
    #[error("{path} is not a regular file", path = .path.display())]
    NotAFile { path: PathBuf },
    #[error("{path} is larger than {MAX_SECRET_FILE} bytes", path = .path.display())]
    TooLarge { path: PathBuf },
}

impl FileError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// The user that this process acts as.
pub(crate) fn own_uid() -> u32 {
    // SAFETY: geteuid takes nothing, touches nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Refuses a file or folder that anybody but we or root could have written: wrong owner, or write permission
/// for group or others. What a symbolic link points to is what counts.
pub fn refuse_if_writable_by_others(path: &Path) -> Result<(), FileError> {
    not_writable(path, &fs::metadata(path).map_err(FileError::io(path))?)
}

/// Refuses a file or folder that anybody but its owner could read, or that others could have written.
pub fn refuse_if_readable_by_others(path: &Path) -> Result<(), FileError> {
    not_readable(path, &fs::metadata(path).map_err(FileError::io(path))?)
}

fn not_writable(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    let (owner, expected) = (metadata.uid(), own_uid());
    if owner != expected && owner != 0 {
        return Err(FileError::Owner { path: path.to_owned(), owner, expected });
    }
    let mode = metadata.mode() & 0o7777;
    match mode & 0o022 {
        0 => Ok(()),
        _ => Err(FileError::Writable { path: path.to_owned(), mode }),
    }
}

fn not_readable(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    not_writable(path, metadata)?;
    let mode = metadata.mode() & 0o7777;
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(FileError::Readable { path: path.to_owned(), mode }),
    }
}

/// Reads a file that holds a secret: ours, mode 0600 or narrower, a regular file of at most 1 MiB. The
/// permissions are those of the file that was opened, not of the name.
pub fn read_secret_file(path: &Path) -> Result<Secret<Vec<u8>>, FileError> {
    let at = || FileError::io(path);
    // Not blocking, so that a FIFO in the file's place cannot hold us.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(at())?;
    let metadata = file.metadata().map_err(at())?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile { path: path.to_owned() });
    }
    not_readable(path, &metadata)?;
    if metadata.len() > MAX_SECRET_FILE {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    // Room for all of it at once: a vector that grows leaves copies behind.
    let mut content = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0).saturating_add(1));
    let read = file.take(MAX_SECRET_FILE).read_to_end(&mut content);
    let secret = Secret::new(content);
    read.map_err(at())?;
    Ok(secret)
}

/// Makes a folder of mode 0700, or refuses an existing one that others may read or write.
pub fn create_private_dir(path: &Path) -> Result<(), FileError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => refuse_if_readable_by_others(path),
        Err(error) => Err(FileError::io(path)(error)),
    }
}

/// Writes a file of mode 0600 so that a reader sees the old content or the new, never half of it, even after
/// a crash: a new file beside it, flushed to disk, renamed over it, and the folder flushed too.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = temporary_beside(path);
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        // Best effort: the error that matters is the first one.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(FileError::io(path))
}

/// A name in the same folder that no other write of this or another process uses.
pub(crate) fn temporary_beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}.{count}", std::process::id()))
}

/// Writes `<dataDir>/addresses.json`: the addresses that were really bound, by name, so that whoever started
/// us with port 0 can find us. Its presence says that we are ready.
pub fn write_addresses<N: AsRef<str>, A: ToString>(
    data_dir: &Path,
    addresses: impl IntoIterator<Item = (N, A)>,
) -> Result<(), FileError> {
    let path = data_dir.join("addresses.json");
    let map: BTreeMap<String, String> = addresses
        .into_iter()
        .map(|(name, address)| (name.as_ref().to_owned(), address.to_string()))
        .collect();
    let mut text = serde_json::to_vec_pretty(&map).map_err(|error| FileError::io(&path)(error.into()))?;
    text.push(b'\n');
    write_private(&path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::SocketAddr, os::unix::fs::PermissionsExt};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_private_file_is_replaced_whole_and_stays_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "something longer than what follows").unwrap();
        chmod(&path, 0o644);
        write_private(&path, b"short").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(mode(&path), 0o600);
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["key"], "nothing is left beside it");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        let error = write_private(&path, b"x").unwrap_err();
        assert!(error.to_string().contains("taken"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        fs::write(&path, "").unwrap();
        for bad in [0o620, 0o602, 0o666] {
            chmod(&path, bad);
            assert!(
                matches!(refuse_if_writable_by_others(&path), Err(FileError::Writable { mode, .. }) if mode == bad)
            );
        }
        chmod(&path, 0o644);
        refuse_if_writable_by_others(&path).unwrap();
        assert!(matches!(refuse_if_readable_by_others(&path), Err(FileError::Readable { .. })));
        chmod(&path, 0o600);
        refuse_if_readable_by_others(&path).unwrap();
    }

    #[test]
    fn a_secret_is_read_only_from_a_private_regular_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("join.json");
        write_private(&path, b"token").unwrap();
        assert_eq!(read_secret_file(&path).unwrap().expose(), b"token");
        chmod(&path, 0o640);
        let error = read_secret_file(&path).err().unwrap();
        assert!(error.to_string().contains("chmod"), "{error}");
        assert!(matches!(read_secret_file(dir.path()).err(), Some(FileError::NotAFile { .. })));
        assert!(matches!(read_secret_file(&dir.path().join("none")).err(), Some(FileError::Io { .. })));
    }

    #[test]
    fn a_private_folder_is_made_once_and_an_open_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        create_private_dir(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        create_private_dir(&path).unwrap();
        chmod(&path, 0o755);
        assert!(matches!(create_private_dir(&path), Err(FileError::Readable { .. })));
    }

    #[test]
    fn the_addresses_that_were_bound_are_written_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let address: SocketAddr = "127.0.0.1:4711".parse().unwrap();
        write_addresses(dir.path(), [("mesh", address), ("bootstrap", address)]).unwrap();
        let text = fs::read_to_string(dir.path().join("addresses.json")).unwrap();
        let read: BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
        assert_eq!(read["mesh"], "127.0.0.1:4711");
        assert_eq!(read.len(), 2);
    }
}
