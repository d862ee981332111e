//! A planned restart: the listeners, and who we are, go to a successor without a refused connection.
//!
//! On SIGUSR2 this process starts its own program once more (whatever lies at its path by now) with the same configuration
//! file (as it reads by now), and hands over through the successor's standard input: its listening sockets, its
//! certificate with the key, the roots. Nobody else can ask for that: there is no socket to connect to. The successor
//! connects to the control plane, learns everything, begins to accept, and says so; only then this process stops accepting,
//! frees its admin, metrics and workload sockets, and lets its connections finish. If the successor fails before, this
//! process goes on as if nothing had been.
//!
//! * One of both renews the certificate, never both: a serial that two keys renew is a stolen one to the authority. From
//!   the moment of the handover it is the successor's, which waits until it is told so.
//! * Requests that the one serves and calls that the app makes through the other belong together: both tell each other
//!   which tokens are presentable ([`shared`]).

pub mod estate;
pub mod shared;

use std::ffi::OsString;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

pub use estate::{Estate, EstateError};

/// The successor accepts.
const READY: u8 = b'R';
/// It is the successor's from now on.
const YOURS: u8 = b'C';
/// From its start until it accepts: it joins nothing, so the control plane's answers are all that it waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// How this process was started, to do so again.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The program's path when it was started.
    pub program: PathBuf,
    /// The configuration file.
    pub config: PathBuf,
}

/// Why the successor does not go on. This process does.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// A renewal may be under way whose outcome nobody knows.
    #[error(
        "the certificate is being renewed just now, or its renewal failed and may yet have been granted: try again"
    )]
    Renewing,
    /// There is nothing to hand over.
    #[error("there is no certificate in force")]
    NoCertificate,
    /// It cannot be started.
    #[error("cannot start {}: {source}", .program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its standard input does not take everything.
    #[error("cannot hand over: {0}")]
    Send(#[from] EstateError),
    /// It ended, or said something else.
    #[error("the successor ended before it accepted; its log says why")]
    Ended,
    /// It takes too long.
    #[error("the successor did not accept within {} s", PATIENCE.as_secs())]
    TooSlow,
    /// A system call failed.
    #[error("cannot hand over: {0}")]
    Io(#[from] std::io::Error),
}

/// A successor that accepts, and to which everything else is to be left.
#[derive(Debug)]
pub struct Successor {
    stream: UnixStream,
    /// Its process.
    pub pid: u32,
}

/// The predecessor, for a successor that accepts.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
}

/// Starts a successor and waits until it accepts. It is ended if it does not.
pub async fn pass_on(origin: &Origin, estate: Estate) -> Result<Successor, HandoverError> {
    let (ours, theirs) = StdStream::pair()?;
    let arguments: [OsString; 3] = ["--config".into(), origin.config.clone().into(), "--successor".into()];
    let child = Command::new(&origin.program)
        .args(arguments)
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .spawn()
        .map_err(|source| HandoverError::Start { program: origin.program.clone(), source })?;
    let mut child = Started(Some(child));
    let pid = child.0.as_ref().map_or(0, Child::id);
    tracing::info!(target: "signet::handover", pid, "a successor was started");
    let sent = tokio::task::spawn_blocking(move || {
        ours.set_write_timeout(Some(Duration::from_secs(10)))?;
        estate.send(&ours)?;
        ours.set_nonblocking(true)?;
        Ok::<_, EstateError>(ours)
    });
    let ours = sent.await.map_err(|error| std::io::Error::other(error.to_string()))??;
    let mut stream = UnixStream::from_std(ours)?;
    match tokio::time::timeout(PATIENCE, stream.read_u8()).await {
        Ok(Ok(READY)) => {
            // It lives on without us.
            child.0 = None;
            Ok(Successor { stream, pid })
        }
        Ok(_) => Err(HandoverError::Ended),
        Err(_) => Err(HandoverError::TooSlow),
    }
}

/// A child that ends with us unless it is let go.
struct Started(Option<Child>);

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Successor {
    /// Leaves the rest to it.
    pub async fn leave(mut self) -> std::io::Result<UnixStream> {
        self.stream.write_u8(YOURS).await?;
        Ok(self.stream)
    }
}

impl Predecessor {
    /// What is at the other end of our standard input.
    pub fn of(stream: StdStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream: UnixStream::from_std(stream)? })
    }

    /// Says that we accept, and waits until the rest is ours. A predecessor that dies meanwhile leaves it, too.
    pub async fn accepts(mut self) -> Option<UnixStream> {
        self.stream.write_u8(READY).await.ok()?;
        match self.stream.read_u8().await {
            Ok(YOURS) => Some(self.stream),
            _ => None,
        }
    }
}
