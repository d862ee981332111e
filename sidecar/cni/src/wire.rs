//! What plugin and agent say to each other over the agent's socket: one question with a network namespace, one answer.
//!
//! Each is JSON behind its length in four bytes; the namespace comes as an open file beside the first of them. So the agent
//! never looks a path up that somebody else names, and needs no view of the host's files.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg,
    socket_with,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Names, and texts for people.
const MOST: usize = 16 * 1024;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// A pod is about to start.
    Add,
    /// Whether a pod is as it should be.
    Check,
    /// Whether the agent does its work; about no pod.
    Health,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    pub action: Action,
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub name: String,
    /// As the runtime knows it.
    #[serde(default)]
    pub uid: String,
    /// For logs.
    #[serde(default)]
    pub container: String,
}

/// Why not, as the runtime is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// CNI's, or ours from 100 on.
    pub code: u32,
    pub message: String,
}

impl Failure {
    /// It may go well in a moment: the kubelet tries again.
    pub const AGAIN: u32 = 11;
    /// The agent will not have this pod.
    pub const REFUSED: u32 = 100;
    /// It is not redirected as it should be.
    pub const DIFFERS: u32 = 101;

    /// With this code.
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// The answer.
pub type Answer = Result<(), Failure>;

/// Asks, and waits this long for each step.
///
/// # Errors
/// Nobody answers there, or not in these words.
pub fn ask(
    socket: &Path,
    question: &Question,
    namespace: Option<&dyn AsFd>,
    patience: Duration,
) -> io::Result<Answer> {
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // A listener whose queue is full keeps who connects waiting for this long, too.
    set_socket_timeout(&stream, Timeout::Send, Some(patience))?;
    set_socket_timeout(&stream, Timeout::Recv, Some(patience))?;
    connect(&stream, &SocketAddrUnix::new(socket)?)?;
    let mut stream = UnixStream::from(stream);
    let text = serde_json::to_vec(question)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?.to_be_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptor = namespace.map(|it| [it.as_fd()]);
    if let Some(descriptor) = &descriptor
        && !control.push(SendAncillaryMessage::ScmRights(descriptor))
    {
        return Err(io::Error::other("no room for a descriptor"));
    }
    let sent = sendmsg(&stream, &[IoSlice::new(&length)], &mut control, SendFlags::NOSIGNAL)?;
    stream.write_all(length.get(sent..).unwrap_or_default())?;
    stream.write_all(&text)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    read(&mut stream, length)
}

/// Reads a question, and the namespace that came with it.
///
/// # Errors
/// It did not come, or not in these words.
pub fn receive(stream: &mut UnixStream) -> io::Result<(Question, Option<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(&*stream, &mut [IoSliceMut::new(&mut length)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut namespace = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            namespace = descriptors.into_iter().last();
        }
    }
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    stream.read_exact(length.get_mut(got.bytes..).unwrap_or_default())?;
    Ok((read(stream, length)?, namespace))
}

/// Writes the answer.
///
/// # Errors
/// Nobody waits for it any more.
pub fn reply(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let text = serde_json::to_vec(answer)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&text)
}

fn read<T: DeserializeOwned>(stream: &mut UnixStream, length: [u8; 4]) -> io::Result<T> {
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MOST {
        let words = format!("expected at most {MOST} bytes, got {length}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, words));
    }
    let mut text = vec![0; length];
    stream.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn question(action: Action) -> Question {
        let text = |text: &str| text.to_owned();
        Question {
            action,
            namespace: text("shop"),
            name: text("web-1"),
            uid: text("u"),
            container: text("c"),
        }
    }

    #[test]
    fn a_question_comes_with_its_namespace_and_goes_back_with_an_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let mut seen = Vec::new();
            for answer in [Ok(()), Err(Failure::new(Failure::AGAIN, "later"))] {
                let (mut stream, _) = listener.accept().unwrap();
                seen.push(receive(&mut stream).unwrap());
                reply(&mut stream, &answer).unwrap();
            }
            seen
        });
        let place = File::open("/proc/self/ns/net").unwrap();
        let patience = Duration::from_secs(20);
        assert_eq!(ask(&path, &question(Action::Add), Some(&place), patience).unwrap(), Ok(()));
        let again = ask(&path, &question(Action::Health), None, patience).unwrap();
        assert_eq!(again, Err(Failure::new(11, "later")));
        let seen = server.join().unwrap();
        assert_eq!((&seen[0].0, &seen[1].0), (&question(Action::Add), &question(Action::Health)));
        let came = File::from(seen[0].1.as_ref().unwrap().try_clone().unwrap());
        assert_eq!(came.metadata().unwrap().ino(), place.metadata().unwrap().ino());
        assert!(seen[1].1.is_none());
        assert!(ask(&folder.path().join("nobody"), &question(Action::Add), None, patience).is_err());
    }

    #[test]
    fn what_is_too_long_or_no_question_is_refused_before_it_is_kept() {
        for bytes in [&[0xff, 0xff, 0xff, 0xff][..], b"\0\0\0\x02{}", b"\0\0\0\x09not json!", b"\0\0"] {
            let (mut here, mut there) = UnixStream::pair().unwrap();
            there.write_all(bytes).unwrap();
            drop(there);
            assert!(receive(&mut here).is_err(), "{bytes:?}");
        }
    }
}
