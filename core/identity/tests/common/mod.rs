//! Two rustls connections joined in memory.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    io::{Read, Write},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, ServerName},
};

/// Both ends of a connection and what crossed it.
pub(crate) struct Pair {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
}

/// How a handshake went on either side: the first error of each.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) client: Option<rustls::Error>,
    pub(crate) server: Option<rustls::Error>,
}

impl Outcome {
    pub(crate) fn is_ok(&self) -> bool {
        self.client.is_none() && self.server.is_none()
    }
}

impl Pair {
    pub(crate) fn new(
        client: Arc<ClientConfig>,
        server: Arc<ServerConfig>,
        name: ServerName<'static>,
    ) -> Self {
        Self {
            client: ClientConnection::new(client, name).unwrap(),
            server: ServerConnection::new(server).unwrap(),
        }
    }

    /// Moves bytes until neither side has anything to say.
    pub(crate) fn run(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        for _ in 0..32 {
            let mut moved = 0;
            let mut bytes = Vec::new();
            while self.client.wants_write() {
                moved += self.client.write_tls(&mut bytes).unwrap();
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() && self.server.read_tls(&mut rest).is_ok_and(|n| n > 0) {
                if let Err(error) = self.server.process_new_packets() {
                    outcome.server.get_or_insert(error);
                    break;
                }
            }
            let mut bytes = Vec::new();
            while self.server.wants_write() {
                moved += self.server.write_tls(&mut bytes).unwrap();
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() && self.client.read_tls(&mut rest).is_ok_and(|n| n > 0) {
                if let Err(error) = self.client.process_new_packets() {
                    outcome.client.get_or_insert(error);
                    break;
                }
            }
            if moved == 0 {
                break;
            }
        }
        outcome
    }

    /// What the server saw of the client's certificates.
    pub(crate) fn seen_by_server(&self) -> Option<&[CertificateDer<'static>]> {
        self.server.peer_certificates()
    }

    pub(crate) fn seen_by_client(&self) -> Option<&[CertificateDer<'static>]> {
        self.client.peer_certificates()
    }

    pub(crate) fn resumed(&self) -> bool {
        self.client.handshake_kind() == Some(HandshakeKind::Resumed)
            && self.server.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Sends a message each way, to show that the connection carries data (and delivers the tickets).
    pub(crate) fn talk(&mut self) {
        self.client.writer().write_all(b"ping").unwrap();
        self.server.writer().write_all(b"pong").unwrap();
        assert!(self.run().is_ok());
        let mut heard = [0; 4];
        self.server.reader().read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"ping");
        self.client.reader().read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"pong");
    }
}
