//! Words to the service manager that started us, where one listens (`sd_notify(3)`): `NOTIFY_SOCKET` in the environment
//! names its socket. It is the manager's own convention, and nothing else is read from the environment.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says `state`, one assignment per line: `READY=1`, `MAINPID=42`. Nothing where no manager listens.
pub fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = say(name.as_encoded_bytes(), state) {
        tracing::warn!(target: "signet::daemon", %error, "the service manager does not listen at NOTIFY_SOCKET");
    }
}

fn say(name: &[u8], state: &str) -> io::Result<()> {
    let address = match name.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        Some((b'/', _)) => {
            use std::os::unix::ffi::OsStrExt as _;
            SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?
        }
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a path or `@` and a name")),
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(manager: &UnixDatagram) -> String {
        let mut bytes = [0; 32];
        let count = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    #[test]
    fn a_manager_hears_at_a_path_and_at_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        say(path.as_os_str().as_encoded_bytes(), "READY=1").unwrap();
        assert_eq!(heard(&manager), "READY=1");
        let name = format!("signet-test-{}", std::process::id());
        let abstracted = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&abstracted).unwrap();
        say(format!("@{name}").as_bytes(), "MAINPID=42").unwrap();
        assert_eq!(heard(&manager), "MAINPID=42");
        assert!(say(b"relative", "READY=1").is_err());
    }
}
