//! Where connections come in, as configured.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::state::{App, Protocol};

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// TCP; port 0 takes any free one.
    Tcp(SocketAddr),
    /// A Unix socket. A stale file under this path is replaced, a live one is an error.
    Unix(PathBuf),
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp(address) => write!(f, "{address}"),
            Bind::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What comes in at a listener.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Peers of the mesh, over mutual TLS, to one of our ports.
    Inbound {
        /// `name.namespace`
        service: Arc<str>,
        /// The port's name.
        port: Arc<str>,
        /// Where our app listens.
        app: Arc<App>,
    },
    /// Our app, in plaintext, to one service port.
    Outbound {
        /// `name.namespace`
        service: Arc<str>,
        /// The port's name.
        port: Arc<str>,
    },
    /// Our app, which uses us as its HTTP proxy: its requests say where they go.
    Explicit,
    /// Our app, redirected: the original destination chooses the service port.
    TransparentOutbound,
    /// Peers, redirected: the original destination is the app's address, its port the service port.
    TransparentInbound,
    /// Peers of the mesh, over mutual TLS, that have this gateway call places outside: the server name says which.
    Egress,
    /// Peers of other clusters, to services that the gateway passes their hellos on to.
    EastWest,
    /// Callers from outside, to the gateway's routes.
    Edge {
        /// What it speaks where TLS does not say.
        protocol: Protocol,
        /// The port of the gateway's resource that this is, which says what it takes; 0 is none of them.
        port: u16,
        /// The server's TLS config; its ALPN decides between `h2` and `http/1.1`. `None` is plaintext.
        tls: Option<Arc<rustls::ServerConfig>>,
    },
}

/// One listener.
#[derive(Clone, Debug)]
pub struct ListenerSpec {
    /// Where.
    pub bind: Bind,
    /// What comes in.
    pub kind: Kind,
}
