//! Processes that connect to a Unix socket, and whose connection a test then speaks on.
//!
//! The process is a real one (Perl, which every Debian has, as one binary that can be copied): the kernel says of the
//! connection that it is this process's, whoever holds the descriptor. So a test can see what a server makes of a
//! process that ended or became another program after it connected.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Connects, says which descriptor it is, and waits: for a line, to become another program, or for the end.
const PROGRAM: &str = "$^F = 255; socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die; \
    connect($s, sockaddr_un($ARGV[0])) or die \"connect: $!\"; $| = 1; print fileno($s), \"\\n\"; \
    my $line = <STDIN>; exec('/bin/sleep', '600') if defined $line;";

/// The Perl that is copied.
pub const PERL: &str = "/usr/bin/perl";

/// Who a process is to be.
#[derive(Clone, Debug)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

impl User {
    /// A user with a group of the same number.
    #[must_use]
    pub fn new(uid: u32) -> Self {
        Self { uid, gid: uid, groups: Vec::new() }
    }
}

/// See the module's story.
pub struct Caller {
    child: Child,
    descriptor: i32,
}

impl Caller {
    /// Starts `program` (Perl, perhaps under another name) as this user (needs root); returns when it has connected.
    pub fn start(program: &Path, user: &User, socket: &Path) -> Self {
        let groups = match user.groups.as_slice() {
            [] => "--clear-groups".to_owned(),
            groups => format!("--groups={}", groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
        };
        let mut child = Command::new("setpriv")
            .arg(format!("--reuid={}", user.uid))
            .arg(format!("--regid={}", user.gid))
            .arg(groups)
            .arg(program)
            .args(["-MSocket", "-e", PROGRAM])
            .arg(socket)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting a process as another user");
        let mut line = String::new();
        let out = child.stdout.take().expect("its output");
        BufReader::new(out).read_line(&mut line).expect("reading its output");
        let descriptor = line.trim().parse().expect("the number of its descriptor: did it connect?");
        Self { child, descriptor }
    }

    /// Its end of the connection, as another descriptor of ours.
    pub fn connection(&self) -> UnixStream {
        // SAFETY: two system calls that take numbers and give new descriptors, which are owned from here on.
        let fd = unsafe {
            let pidfd = libc::syscall(libc::SYS_pidfd_open, self.child.id(), 0);
            assert!(pidfd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
            let pidfd = OwnedFd::from_raw_fd(i32::try_from(pidfd).expect("a descriptor"));
            let fd = libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), self.descriptor, 0);
            assert!(fd >= 0, "pidfd_getfd: {}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor"))
        };
        let stream = UnixStream::from(fd);
        stream.set_nonblocking(true).expect("a stream for tokio");
        stream
    }

    /// It becomes `/bin/sleep`, with the connection still open; returns when it is.
    pub fn becomes_another_program(&mut self) {
        let mut input = self.child.stdin.take().expect("its input");
        input.write_all(b"now\n").expect("telling it");
        drop(input);
        let exe = format!("/proc/{}/exe", self.child.id());
        let begun = std::time::Instant::now();
        while !std::fs::read_link(&exe).is_ok_and(|path| path.ends_with("sleep")) {
            assert!(begun.elapsed() < crate::process::PATIENCE, "it does not become another program");
            std::thread::yield_now();
        }
    }

    /// Ends it, and frees its number.
    pub fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.end();
    }
}
