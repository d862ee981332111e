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
    #[error("{path} may be read by others (mode {mode:04o}, group {group}); expected root's own file that only a group of this process may read, as of a Secret mounted with `defaultMode: 0440` in a pod with `fsGroup`, or 0600", path = .path.display())]
    Mounted { path: PathBuf, mode: u32, group: u32 },
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

/// The groups that this process acts with.
fn own_groups() -> Vec<u32> {
    // SAFETY: getegid takes nothing, touches nothing and cannot fail.
    let mut groups = vec![unsafe { libc::getegid() }];
    // More than any kernel gives to a process in practice; a list that is longer counts as none.
    let mut more = [0; 1024];
    // SAFETY: the kernel writes at most as many as it is told that there is room for.
    let found = unsafe { libc::getgroups(1024, more.as_mut_ptr()) };
    groups.extend(more.iter().take(usize::try_from(found).unwrap_or(0)));
    groups
}

/// As [`not_readable`], or as the kubelet mounts a Secret for a pod with `fsGroup`: root's, read by that group.
fn not_readable_beyond_the_pod(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    not_writable(path, metadata)?;
    let (mode, group) = (metadata.mode() & 0o7777, metadata.gid());
    match mode & 0o077 {
        0 => Ok(()),
        0o040 if metadata.uid() == 0 && own_groups().contains(&group) => Ok(()),
        _ => Err(FileError::Mounted { path: path.to_owned(), mode, group }),
    }
}

/// Reads a file that holds a secret: ours, mode 0600 or narrower, a regular file of at most 1 MiB. The
/// permissions are those of the file that was opened, not of the name.
pub fn read_secret_file(path: &Path) -> Result<Secret<Vec<u8>>, FileError> {
    read_if(path, not_readable)
}

/// Reads a secret that the kubelet mounted: the same, but root's file may be read by a group of ours. Only in a pod, where
/// such a group is the pod's own: on a host it may be anybody's.
pub fn read_mounted_secret(path: &Path) -> Result<Secret<Vec<u8>>, FileError> {
    read_if(path, not_readable_beyond_the_pod)
}

fn read_if(
    path: &Path,
    may: fn(&Path, &Metadata) -> Result<(), FileError>,
) -> Result<Secret<Vec<u8>>, FileError> {
    let at = || FileError::io(path);
    // Not blocking, so that a FIFO in the file's place cannot hold us.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(at())?;
    let metadata = file.metadata().map_err(at())?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile { path: path.to_owned() });
    }
    may(path, &metadata)?;
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
    fn a_mounted_secret_may_be_read_by_a_group_of_ours_and_nobody_else() {
        if own_uid() != 0 {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        // As the kubelet lays it out: the name leads to a folder that is exchanged whole.
        let folder = dir.path().join("..2026_11_27");
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink("..2026_11_27", dir.path().join("..data")).unwrap();
        let (file, name) = (folder.join("tls.key"), dir.path().join("tls.key"));
        std::os::unix::fs::symlink("..data/tls.key", &name).unwrap();
        fs::write(&file, "key").unwrap();
        let ours = own_groups()[0];
        let own = |owner, group| std::os::unix::fs::chown(&file, Some(owner), Some(group)).unwrap();
        own(0, ours);
        for good in [0o440, 0o400, 0o600, 0o640] {
            chmod(&file, good);
            assert_eq!(read_mounted_secret(&name).unwrap().expose(), b"key", "{good:o}");
        }
        chmod(&file, 0o440);
        assert!(matches!(read_secret_file(&name).err(), Some(FileError::Readable { .. })), "not on a host");
        for bad in [0o444, 0o644, 0o450, 0o441] {
            chmod(&file, bad);
            let error = read_mounted_secret(&name).err().unwrap();
            assert!(error.to_string().contains("fsGroup"), "{error}");
        }
        chmod(&file, 0o460);
        assert!(matches!(read_mounted_secret(&name).err(), Some(FileError::Writable { .. })));
        chmod(&file, 0o440);
        own(0, 54_321);
        assert!(matches!(read_mounted_secret(&name).err(), Some(FileError::Mounted { group: 54_321, .. })));
        own(54_321, ours);
        assert!(matches!(read_mounted_secret(&name).err(), Some(FileError::Owner { .. })));
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
