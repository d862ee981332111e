//! Callers: an app that sends exact bytes, and a peer with any SVID.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use signet_identity::{Alpn, Generation, SpiffeId};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longer than anything here takes; a hang fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub async fn within<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("it took too long")
}

/// A connection that was taken, even where it was reset before `connect` had returned: whoever reads sees its end.
pub async fn connected(from: Option<SocketAddr>, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None).unwrap();
    if let Some(from) = from {
        socket.bind(&from.into()).unwrap();
    }
    if let Err(error) = socket.connect(&to.into()) {
        assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS), "{to}: {error}");
    }
    let stream = TcpStream::from_std(socket.into()).unwrap();
    within(stream.writable()).await.unwrap();
    match stream.take_error().unwrap() {
        Some(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{to}: {error}"),
        _ => stream,
    }
}

/// One answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Whether the echoed request had this header.
    pub fn echoed(&self, name: &str) -> Option<&str> {
        self.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// A connection that speaks HTTP/1.1 by hand.
pub struct Client<S> {
    pub stream: S,
    pub unread: Vec<u8>,
}

impl Client<TcpStream> {
    pub async fn to(address: SocketAddr) -> Self {
        Client { stream: connected(None, address).await, unread: Vec::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.stream.write_all(bytes.as_ref())).await.unwrap();
        within(self.stream.flush()).await.unwrap();
    }

    /// Sends a request without a body and reads the answer.
    pub async fn get(&mut self, path: &str) -> Answer {
        self.request(path, &[]).await
    }

    pub async fn request(&mut self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut text = format!("GET {path} HTTP/1.1\r\nhost: orders\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        self.send(text + "\r\n").await;
        self.answer().await
    }

    /// Whether the connection ended; `None` after a reset.
    pub async fn ended(&mut self) -> Option<bool> {
        let mut byte = [0];
        match within(self.stream.read(&mut byte)).await {
            Ok(0) => Some(true),
            Ok(_) => Some(false),
            Err(_) => None,
        }
    }

    pub async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.unread.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap();
            }
            assert!(self.more().await > 0, "ended in a head: {:?}", String::from_utf8_lossy(&self.unread));
        }
    }

    async fn more(&mut self) -> usize {
        within(self.stream.read_buf(&mut self.unread)).await.unwrap()
    }

    pub async fn take(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count {
            assert!(self.more().await > 0, "ended in a body");
        }
        self.unread.drain(..count).collect()
    }

    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await > 0 {}
        std::mem::take(&mut self.unread)
    }

    /// Reads an answer with a length, or with chunks (kept as they came).
    pub async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new() };
        if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            answer.body = self.take(length).await;
        } else if answer.header("transfer-encoding").is_some() {
            while !self.unread.ends_with(b"0\r\n\r\n") && !ends_with_trailers(&self.unread) {
                assert!(self.more().await > 0, "ended in chunks");
            }
            answer.body = std::mem::take(&mut self.unread);
        }
        answer
    }
}

fn ends_with_trailers(bytes: &[u8]) -> bool {
    bytes.ends_with(b"\r\n\r\n") && bytes.windows(5).any(|five| five == b"\r\n0\r\n")
}

/// A peer with any identity, straight at a sidecar.
pub async fn peer(
    at: SocketAddr,
    generation: &Arc<Generation>,
    alpn: Alpn,
    expected: &SpiffeId,
) -> std::io::Result<Client<TlsStream<TcpStream>>> {
    dial(at, generation, alpn, signet_identity::server_name(expected)).await
}

pub async fn dial(
    at: SocketAddr,
    generation: &Arc<Generation>,
    alpn: Alpn,
    name: ServerName<'static>,
) -> std::io::Result<Client<TlsStream<TcpStream>>> {
    let socket = within(TcpStream::connect(at)).await?;
    let connector = TlsConnector::from(generation.client_config(alpn));
    let stream = within(connector.connect(name, socket)).await?;
    Ok(Client { stream, unread: Vec::new() })
}
