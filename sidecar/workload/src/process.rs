//! The process at the other end, held so that its number can mean nobody else.
//!
//! A process id is reused as soon as its process was waited for. A pidfd is not: it means the process that it was
//! opened for, whatever becomes of the number, and it becomes readable when that process ends. Where the kernel keeps
//! one for a connection (`SO_PEERPIDFD`, Linux 6.5) it is of whoever connected. An older kernel only has the number;
//! then a pidfd is opened for it, and whoever has it must have begun before the connection was taken.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// The same on every architecture that has no numbers of its own here (those are alpha, mips, parisc and sparc).
const SO_PEERPIDFD: libc::c_int = 77;

/// A process that connected.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    /// When it began, in clock ticks since the host did: with the number, a name that is never used again.
    started: u64,
    held: AsyncFd<OwnedFd>,
}

impl Process {
    /// Whoever is at the other end of this stream, which has this number.
    pub(crate) fn of(stream: &UnixStream, pid: i32) -> io::Result<Self> {
        let now = ticks_now()?;
        let (held, by_number) = match peer_pidfd(stream) {
            Ok(held) => (held, false),
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => (pidfd_open(pid)?, true),
            Err(error) => return Err(error),
        };
        let process = Self { pid, started: started(pid)?, held: watched(held)? };
        if by_number && process.started > now {
            return Err(io::Error::other(
                "the process id belongs to a process that began after the connection",
            ));
        }
        // What was read by number is of the one that is held only if that one has not ended meanwhile.
        if process.has_ended() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(process)
    }

    /// Its number, good for as long as it has not ended.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// When it began, in clock ticks since the host did.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Whether it has ended: then whatever was read by its number may be another's.
    pub fn has_ended(&self) -> bool {
        let mut asked =
            libc::pollfd { fd: self.held.get_ref().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one element, which outlives the call; the descriptor is open.
        let found = unsafe { libc::poll(&raw mut asked, 1, 0) };
        // What cannot be asked is not vouched for.
        found != 0
    }

    /// Resolves when it ends.
    pub async fn ended(&self) {
        // An error says that nothing can be heard of it any more.
        let _ = self.held.readable().await;
    }
}

/// The pidfd that the kernel kept when the other end connected.
fn peer_pidfd(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(size_of_val(&fd)).unwrap_or(0);
    // SAFETY: the descriptor is open, and the two pointers are to values of the sizes that are said.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    owned(fd)
}

fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers and gives a new descriptor, closed on exec.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    owned(libc::c_int::try_from(fd).unwrap_or(-1))
}

fn watched(held: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(held, Interest::READABLE) }?)
}

fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave it to us, and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// When the process that has this number now began (proc_pid_stat(5), field 22).
pub fn started(pid: i32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Its name stands in parentheses and may hold anything, more of them too.
    let after = text.rsplit_once(") ").map(|(_, after)| after);
    after
        .and_then(|after| after.split(' ').nth(19))
        .and_then(|ticks| ticks.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/<pid>/stat cannot be read"))
}

/// Now, as [`started`] counts.
fn ticks_now() -> io::Result<u64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value of that type, which outlives the call.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes a number and gives one.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100).max(1);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let parts = u64::try_from(now.tv_nsec).unwrap_or(0).saturating_mul(per_second) / 1_000_000_000;
    Ok(seconds.saturating_mul(per_second).saturating_add(parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_ways_hold_the_process_at_the_other_end() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let process = Process::of(&ours, own).unwrap();
        assert!(!process.has_ended());
        assert_eq!(process.started(), started(own).unwrap());
        assert!(process.started() <= ticks_now().unwrap());
        pidfd_open(own).unwrap();
    }

    #[tokio::test]
    async fn a_process_that_was_waited_for_is_known_to_have_ended() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let held = watched(pidfd_open(pid).unwrap()).unwrap();
        let process = Process { pid, started: started(pid).unwrap(), held };
        assert!(!process.has_ended());
        child.kill().unwrap();
        child.wait().unwrap();
        process.ended().await;
        assert!(process.has_ended());
        assert!(pidfd_open(pid).is_err(), "the number means nobody");
    }
}
