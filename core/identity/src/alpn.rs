//! The application protocols of the mesh, one per connection.

use serde::{Deserialize, Serialize};

/// What a connection carries. Between Signet peers each has an ALPN of its own; other clients with an SVID
/// of ours use the plain one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Alpn {
    /// HTTP/2, gRPC included.
    H2,
    /// HTTP/1.1.
    Http1,
    /// Bytes.
    Tcp,
}

impl Alpn {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::H2, Self::Http1, Self::Tcp];

    /// The ALPN between Signet peers.
    pub const fn signet(self) -> &'static [u8] {
        match self {
            Self::H2 => b"signet-h2",
            Self::Http1 => b"signet-http/1.1",
            Self::Tcp => b"signet-tcp",
        }
    }

    /// The ALPN that a client outside Signet may use instead; bytes have none.
    pub const fn plain(self) -> Option<&'static [u8]> {
        match self {
            Self::H2 => Some(b"h2"),
            Self::Http1 => Some(b"http/1.1"),
            Self::Tcp => None,
        }
    }

    /// The protocol that a negotiated ALPN stands for, Signet's own or a plain one.
    pub fn of(negotiated: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.signet() == negotiated || known.plain() == Some(negotiated))
    }

    /// Whether a negotiated ALPN is one between Signet peers.
    pub fn is_signet(negotiated: Option<&[u8]>) -> bool {
        negotiated.is_some_and(|alpn| Self::ALL.iter().any(|known| known.signet() == alpn))
    }

    pub(crate) fn offered_by_client(self) -> Vec<Vec<u8>> {
        vec![self.signet().to_vec()]
    }

    pub(crate) fn accepted_by_server(self) -> Vec<Vec<u8>> {
        std::iter::once(self.signet()).chain(self.plain()).map(<[u8]>::to_vec).collect()
    }
}
