//! What a process that holds keys does to itself first.

use std::io;

/// What [`harden`] achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hardened {
    /// The limit of open files after it was raised to the hard limit.
    pub open_files: u64,
}

/// Forbids core files and other processes' look at our memory (`PR_SET_DUMPABLE` 0, `RLIMIT_CORE` 0), and
/// raises the soft limit of open files to the hard one, since every connection is a file. Call it before the
/// first key is in memory.
pub fn harden() -> io::Result<Hardened> {
    // SAFETY: prctl with this option reads only its integer arguments.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })?;
    set_limit(libc::RLIMIT_CORE, libc::rlimit { rlim_cur: 0, rlim_max: 0 })?;
    let mut files = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `files` is a valid rlimit for the call to fill.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut files) })?;
    files.rlim_cur = files.rlim_max;
    set_limit(libc::RLIMIT_NOFILE, files)?;
    Ok(Hardened { open_files: files.rlim_cur })
}

#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

fn set_limit(resource: Resource, limit: libc::rlimit) -> io::Result<()> {
    // SAFETY: `limit` is a valid rlimit that outlives the call.
    check(unsafe { libc::setrlimit(resource, &raw const limit) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardened_process_leaves_no_core_and_opens_all_the_files_it_may() {
        let hardened = harden().unwrap();
        // SAFETY: reads one integer.
        assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }, 0);
        // /proc/self/limits is root's once we are not dumpable, so ask the kernel directly.
        let mut core = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
        // SAFETY: `core` is a valid rlimit for the call to fill.
        unsafe { libc::getrlimit(libc::RLIMIT_CORE, &raw mut core) };
        assert_eq!((core.rlim_cur, core.rlim_max), (0, 0));
        let mut files = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: as above.
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut files) };
        assert_eq!((files.rlim_cur, files.rlim_max), (hardened.open_files, hardened.open_files));
    }
}
