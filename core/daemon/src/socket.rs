//! Unix sockets that only their owner can connect to, or whose server asks the kernel who did.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use crate::files::{FileError, own_uid, refuse_if_writable_by_others, temporary_beside};

/// Connections that wait for their turn.
const BACKLOG: i32 = 128;

/// Why a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("the folder of a private socket must be its owner's alone to write: {0}")]
    Folder(FileError),
    #[error("{path} is in use by a running process; stop that one, or choose another path", path = .0.display())]
    InUse(PathBuf),
    #[error("{path} exists and is not a socket of ours; remove it by hand if it may go", path = .0.display())]
    NotOurs(PathBuf),
    #[error("{path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Binds a socket of mode 0600. Its folder may not be writable by others, who could put a socket of theirs in
/// its place. A socket that a dead process left is replaced; one that somebody listens on, or anything else
/// of that name, is refused.
///
/// There is no moment at which others may connect: the socket is bound under a temporary name, made private,
/// set to listen, and only then renamed into place.
pub fn bind_private_socket(path: &Path) -> Result<UnixListener, SocketError> {
    bind_with_mode(path, 0o600)
}

/// As [`bind_private_socket`], but everybody may connect (mode 0666): for a server that asks the kernel for each
/// caller's uid and hangs up on those whom it does not know. Who may reach it at all is its folder's matter.
pub fn bind_open_socket(path: &Path) -> Result<UnixListener, SocketError> {
    bind_with_mode(path, 0o666)
}

/// As [`bind_private_socket`], with the mode that somebody chose who knows whom the folder lets in.
pub fn bind_socket_with_mode(path: &Path, mode: u32) -> Result<UnixListener, SocketError> {
    bind_with_mode(path, mode & 0o777)
}

fn bind_with_mode(path: &Path, mode: u32) -> Result<UnixListener, SocketError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    refuse_if_writable_by_others(folder).map_err(SocketError::Folder)?;
    refuse_if_in_use(path)?;
    let temporary = temporary_beside(path);
    bind_through(&temporary, path, mode).map_err(|source| {
        let _ = fs::remove_file(&temporary);
        SocketError::Io { path: path.to_owned(), source }
    })
}

fn refuse_if_in_use(path: &Path) -> Result<(), SocketError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(SocketError::Io { path: path.to_owned(), source }),
    };
    if !metadata.file_type().is_socket() || metadata.uid() != own_uid() {
        return Err(SocketError::NotOurs(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(source) => Err(SocketError::Io { path: path.to_owned(), source }),
    }
}

fn bind_through(temporary: &Path, path: &Path, mode: u32) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.bind(&SockAddr::unix(temporary)?)?;
    fs::set_permissions(temporary, fs::Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    fs::rename(temporary, path)?;
    UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_private_socket_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let listener = bind_private_socket(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let _client = UnixStream::connect(&path).unwrap();
        listener.accept().await.unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary name is left");
    }

    #[tokio::test]
    async fn an_open_socket_lets_others_connect_but_not_replace_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operator.sock");
        let _listener = bind_open_socket(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = bind_open_socket(&dir.path().join("other.sock")).unwrap_err();
        assert!(matches!(error, SocketError::Folder(FileError::Writable { .. })), "{error}");
    }

    #[tokio::test]
    async fn a_dead_process_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let first = bind_private_socket(&path).unwrap();
        assert!(matches!(bind_private_socket(&path), Err(SocketError::InUse(_))));
        UnixStream::connect(&path).expect("the live one is untouched");
        drop(first);
        assert!(path.exists(), "a dead process leaves its socket behind");
        let _second = bind_private_socket(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn what_is_not_a_socket_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind_private_socket(&path), Err(SocketError::NotOurs(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let link = dir.path().join("link.sock");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(bind_private_socket(&link), Err(SocketError::NotOurs(_))));
    }

    #[tokio::test]
    async fn a_folder_that_others_may_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = bind_private_socket(&dir.path().join("admin.sock")).unwrap_err();
        assert!(matches!(error, SocketError::Folder(FileError::Writable { .. })), "{error}");
    }
}
