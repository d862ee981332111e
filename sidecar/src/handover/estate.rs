//! What a successor is handed, and how it crosses: length-prefixed parts over a socket pair, then descriptors.
//!
//! The key goes as bytes that are wiped on both sides; it is in no argument, environment or file.

use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What both must agree about. A successor of another one refuses, and its predecessor goes on.
const FORMAT: u32 = 1;
/// No part is larger.
const MAX_PART: usize = 256 * 1024;
/// Descriptors in one message.
const BATCH: usize = 64;
/// Certificates, roots and listeners at most.
const MAX_PARTS: usize = 4096;

/// Why nothing was handed over.
#[derive(Debug, thiserror::Error)]
pub enum EstateError {
    /// The other side is gone, or says nothing.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A system call refused.
    #[error(transparent)]
    System(#[from] rustix::io::Errno),
    /// It is not what was expected.
    #[error("{0}")]
    Malformed(String),
}

/// What a successor is handed.
#[derive(Debug)]
pub struct Estate {
    /// What is no secret.
    pub header: Header,
    /// The certificate's private key, PKCS #8.
    pub key: Zeroizing<Vec<u8>>,
    /// The certificate, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// The roots of our own trust domain, DER.
    pub roots: Vec<Vec<u8>>,
    /// Listening sockets, in the order of the header's list.
    pub sockets: Vec<OwnedFd>,
}

/// What is no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Header {
    /// [`FORMAT`] of who wrote it.
    pub format: u32,
    /// Who we are.
    pub spiffe_id: String,
    /// `host:port` of the control plane's mesh listener.
    pub mesh_address: String,
    /// Who answers there.
    pub control_plane: String,
    /// The number of the roots' set.
    pub bundle_sequence: u64,
    /// When the certificate was issued and is to be renewed, in seconds since the epoch.
    pub issued_at: i64,
    /// See above.
    pub renew_at: i64,
    /// Names of listeners, each with how many sockets it has.
    pub listeners: Vec<(String, usize)>,
    certificates: usize,
    roots: usize,
}

impl Header {
    /// Of the present format.
    pub fn new(spiffe_id: String, mesh_address: String, control_plane: String) -> Self {
        Header {
            format: FORMAT,
            spiffe_id,
            mesh_address,
            control_plane,
            bundle_sequence: 0,
            issued_at: 0,
            renew_at: 0,
            listeners: Vec::new(),
            certificates: 0,
            roots: 0,
        }
    }
}

impl Estate {
    /// Writes all of it. Blocks, for as long as the socket's timeout says.
    pub fn send(mut self, to: &UnixStream) -> Result<(), EstateError> {
        (self.header.certificates, self.header.roots) = (self.chain.len(), self.roots.len());
        let header = serde_json::to_vec(&self.header).map_err(|error| malformed(error.to_string()))?;
        write(to, &header)?;
        write(to, &self.key)?;
        for part in self.chain.iter().chain(&self.roots) {
            write(to, part)?;
        }
        for batch in self.sockets.chunks(BATCH) {
            let descriptors: Vec<BorrowedFd<'_>> = batch.iter().map(|socket| socket.as_fd()).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(malformed("too many descriptors in one message".to_owned()));
            }
            sendmsg(to, &[IoSlice::new(&[0])], &mut control, SendFlags::empty())?;
        }
        Ok(())
    }

    /// Reads all of it. Blocks, for as long as the socket's timeout says.
    pub fn receive(from: &UnixStream) -> Result<Self, EstateError> {
        let header: Header =
            serde_json::from_slice(&read(from)?).map_err(|error| malformed(error.to_string()))?;
        if header.format != FORMAT {
            return Err(malformed(format!(
                "expected a predecessor that hands over in format {FORMAT}, got format {}: end it and start anew",
                header.format
            )));
        }
        let sockets: usize =
            header.listeners.iter().map(|(_, count)| *count).fold(0, |all, count| all.saturating_add(count));
        if [header.certificates, header.roots, sockets].iter().any(|count| *count > MAX_PARTS) {
            return Err(malformed(format!("expected at most {MAX_PARTS} parts of each kind")));
        }
        let key = read(from)?;
        let chain =
            (0..header.certificates).map(|_| Ok(read(from)?.to_vec())).collect::<Result<_, EstateError>>()?;
        let roots =
            (0..header.roots).map(|_| Ok(read(from)?.to_vec())).collect::<Result<_, EstateError>>()?;
        let mut received = Vec::with_capacity(sockets);
        while received.len() < sockets {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let got =
                recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let before = received.len();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    received.extend(descriptors);
                }
            }
            if got.bytes == 0 || received.len() == before {
                return Err(malformed(format!("expected {sockets} sockets, got {before}")));
            }
        }
        Ok(Estate { header, key, chain, roots, sockets: received })
    }

    /// The sockets of each listener by its name.
    pub fn take_sockets(&mut self) -> std::collections::HashMap<String, Vec<OwnedFd>> {
        let mut sockets = std::mem::take(&mut self.sockets).into_iter();
        self.header
            .listeners
            .iter()
            .map(|(name, count)| (name.clone(), sockets.by_ref().take(*count).collect()))
            .collect()
    }
}

fn malformed(reason: String) -> EstateError {
    EstateError::Malformed(reason)
}

fn write(mut to: &UnixStream, part: &[u8]) -> Result<(), EstateError> {
    let length = u32::try_from(part.len()).map_err(|_| malformed("a part is too large".to_owned()))?;
    to.write_all(&length.to_be_bytes())?;
    Ok(to.write_all(part)?)
}

fn read(mut from: &UnixStream) -> Result<Zeroizing<Vec<u8>>, EstateError> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_PART {
        return Err(malformed(format!("expected a part of at most {MAX_PART} bytes, got {length}")));
    }
    let mut part = Zeroizing::new(vec![0; length]);
    from.read_exact(&mut part)?;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estate(sockets: usize) -> (Estate, Vec<u16>) {
        let listeners: Vec<_> =
            (0..sockets).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports = listeners.iter().map(|one| one.local_addr().unwrap().port()).collect();
        let mut header = Header::new("spiffe://a/b".into(), "127.0.0.1:1".into(), "spiffe://a/c".into());
        header.listeners = vec![("one".into(), 1), ("rest".into(), sockets - 1)];
        let estate = Estate {
            header,
            key: Zeroizing::new(vec![7; 138]),
            chain: vec![vec![1; 900], vec![2; 800]],
            roots: vec![vec![3; 700]],
            sockets: listeners.into_iter().map(OwnedFd::from).collect(),
        };
        (estate, ports)
    }

    #[test]
    fn everything_crosses_and_the_sockets_still_listen() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (estate, ports) = estate(150);
        let sender = std::thread::spawn(move || estate.send(&ours).unwrap());
        let mut got = Estate::receive(&theirs).unwrap();
        sender.join().unwrap();
        assert_eq!((&got.key[..], got.chain.len(), got.roots.len()), (&[7u8; 138][..], 2, 1));
        let sockets = got.take_sockets();
        assert_eq!((sockets["one"].len(), sockets["rest"].len()), (1, 149));
        let _dialled = std::net::TcpStream::connect(("127.0.0.1", ports[149])).unwrap();
        let last = sockets["rest"].last().unwrap().try_clone().unwrap();
        std::net::TcpListener::from(last).accept().unwrap();
    }

    #[test]
    fn a_stranger_at_the_other_end_is_an_error_and_never_a_panic() {
        let forged = |bytes: &[u8]| {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(bytes).unwrap();
            drop(ours);
            Estate::receive(&theirs).unwrap_err().to_string()
        };
        assert!(forged(b"").contains("fill whole buffer"));
        assert!(forged(&u32::MAX.to_be_bytes()).contains("at most"));
        assert!(forged(b"\0\0\0\x02{}").contains("missing field"));
        let (estate, _) = estate(2);
        let mut header = estate.header.clone();
        header.format = 9;
        let text = serde_json::to_vec(&header).unwrap();
        let mut bytes = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(text);
        assert!(forged(&bytes).contains("format 9"));
    }
}
