//! The doors: [`bootstrap`] for who wants to join, [`mesh`] for peers with an SVID, [`unix`] for operators, [`public`] for
//! strangers who read what is published or hand something in.
//!
//! Limits stand in front of parsing: connections at once, attempts per address, the time of a
//! handshake, then HTTP/2's own bounds. Every refusal is counted with a typed reason.

pub mod bootstrap;
pub mod limit;
pub mod mesh;
pub mod public;
pub mod serve;
pub mod unix;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use signet_daemon::Shutdown;
use signet_identity::HandshakeFailure;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A handshake between two machines that are well takes milliseconds.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// After an accept that failed for want of file descriptors or memory: the cause will not be gone sooner.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The next connection; `None` when the process begins to end. Never fails: an accept error is
/// logged and waited out.
pub(crate) async fn accept(listener: &TcpListener, shutdown: &Shutdown) -> Option<(TcpStream, SocketAddr)> {
    loop {
        tokio::select! {
            () = shutdown.draining() => return None,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    let _ = stream.set_nodelay(true);
                    return Some((stream, address));
                }
                Err(error) => {
                    tracing::warn!(target: "signet::listen", %error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// TLS with the handshake's time bound. A first byte that cannot begin a TLS record is told apart, so
/// that the log says "plaintext" and not "corrupt message".
pub(crate) async fn handshake(
    stream: TcpStream,
    config: Arc<rustls::ServerConfig>,
) -> Result<TlsStream<TcpStream>, HandshakeFailure> {
    let work = async {
        let mut first = [0_u8; 1];
        if stream.peek(&mut first).await? == 0 {
            return Err(HandshakeFailure::Closed);
        }
        // RFC 8446, section 5.1: a ClientHello comes in a record of type 22. Plaintext HTTP begins with a letter.
        if let [b'A'..=b'Z'] = first {
            return Err(HandshakeFailure::Plaintext);
        }
        let stream =
            TlsAcceptor::from(config).accept(stream).await.map_err(|e| HandshakeFailure::from_io(&e))?;
        Ok(stream)
    };
    tokio::time::timeout(HANDSHAKE_TIMEOUT, work).await.unwrap_or(Err(HandshakeFailure::Timeout))
}
