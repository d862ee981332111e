//! Taking addresses, before any thread runs.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::listener::{Bind, ListenerSpec};

/// Connections that wait for an accept.
const BACKLOG: i32 = 1024;

/// A socket that is bound and not yet part of a runtime.
#[derive(Debug)]
pub(crate) enum Bound {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// A socket that accepts.
pub(crate) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Bound {
    /// A socket that another process bound before, for such an address.
    pub(crate) fn inherited(bind: &Bind, socket: OwnedFd) -> io::Result<Self> {
        let bound = match bind {
            Bind::Tcp(_) => Bound::Tcp(socket.into()),
            Bind::Unix(_) => Bound::Unix(socket.into()),
        };
        match &bound {
            Bound::Tcp(socket) => socket.set_nonblocking(true)?,
            Bound::Unix(socket) => socket.set_nonblocking(true)?,
        }
        Ok(bound)
    }

    /// The same socket once more.
    pub(crate) fn again(&self) -> io::Result<Self> {
        Ok(match self {
            Bound::Tcp(socket) => Bound::Tcp(socket.try_clone()?),
            Bound::Unix(socket) => Bound::Unix(socket.try_clone()?),
        })
    }

    /// For another process.
    pub(crate) fn to_fd(&self) -> io::Result<OwnedFd> {
        Ok(match self {
            Bound::Tcp(socket) => socket.try_clone()?.into(),
            Bound::Unix(socket) => socket.try_clone()?.into(),
        })
    }

    /// Where it listens; for a Unix socket where it was asked to.
    pub(crate) fn address(&self, asked: &Bind) -> io::Result<Bind> {
        Ok(match self {
            Bound::Tcp(socket) => Bind::Tcp(socket.local_addr()?),
            Bound::Unix(_) => asked.clone(),
        })
    }

    /// Joins the current runtime.
    pub(crate) fn listen(self) -> io::Result<Listening> {
        Ok(match self {
            Bound::Tcp(socket) => Listening::Tcp(TcpListener::from_std(socket)?),
            Bound::Unix(socket) => Listening::Unix(UnixListener::from_std(socket)?),
        })
    }
}

/// Takes over sockets that another process bound, for so many workers: each of them is served, and no worker goes without.
pub(crate) fn inherit(bind: &Bind, sockets: Vec<OwnedFd>, workers: usize) -> io::Result<(Bind, Vec<Bound>)> {
    let mut bound =
        sockets.into_iter().map(|socket| Bound::inherited(bind, socket)).collect::<io::Result<Vec<_>>>()?;
    let first = bound.first().ok_or(io::ErrorKind::NotFound)?;
    let address = first.address(bind)?;
    if let (Bind::Tcp(asked), Bind::Tcp(found)) = (bind, &address)
        && (asked.ip() != found.ip() || asked.port() != 0 && asked.port() != found.port())
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the socket that was handed over listens on {found}"),
        ));
    }
    while bound.len() < workers {
        let again = bound.first().map(Bound::again).transpose()?;
        bound.extend(again);
    }
    Ok((address, bound))
}

/// Whether an address means callers of both families: `[::]`, unless somebody listens for those of IPv4 at the same port.
pub(crate) fn means_both(bind: &Bind, all: &[ListenerSpec]) -> bool {
    let Bind::Tcp(address) = bind else { return false };
    let is_twin = |other: &ListenerSpec| match &other.bind {
        Bind::Tcp(other) => other.is_ipv4() && other.port() == address.port() && other.port() != 0,
        Bind::Unix(_) => false,
    };
    address.is_ipv6() && address.ip().is_unspecified() && !all.iter().any(is_twin)
}

/// Takes an address for so many workers, of one family or `both`. Returns the address with the port that was free.
pub(crate) fn bind(bind: &Bind, both: bool, workers: usize) -> io::Result<(Bind, Vec<Bound>)> {
    match bind {
        Bind::Tcp(address) => {
            let first = tcp(*address, both, workers > 1)?;
            let taken = first.local_addr()?;
            let mut sockets = vec![Bound::Tcp(first)];
            for _ in 1..workers {
                sockets.push(Bound::Tcp(tcp(taken, both, true)?));
            }
            Ok((Bind::Tcp(taken), sockets))
        }
        Bind::Unix(path) => {
            let first = unix(path)?;
            // One socket for all: the kernel wakes whoever waits.
            let mut sockets = Vec::with_capacity(workers);
            for _ in 1..workers {
                sockets.push(Bound::Unix(first.try_clone()?));
            }
            sockets.push(Bound::Unix(first));
            Ok((bind.clone(), sockets))
        }
    }
}

fn tcp(address: SocketAddr, both: bool, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // So that `0.0.0.0` and `[::]` can be listened on at the same port, where somebody does.
        socket.set_only_v6(!both)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = SockAddr::unix(path)?;
    if let Err(error) = socket.bind(&address) {
        // A file that nobody listens on is left over from a process that died.
        if error.kind() != io::ErrorKind::AddrInUse || UnixStream::connect(path).is_ok() {
            return Err(error);
        }
        std::fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    // Before it listens nobody can connect. Owner and group: an app of another uid shares a group with
    // its sidecar.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
