//! What the kernel says of a process that is held.
//!
//! Everything is read from `/proc` by the process's number while a pidfd is held, and counts only if that process has
//! not ended when all of it was read: until then the number is nobody else's. The program is opened once, through
//! `/proc/<pid>/exe`, and is that file and no other, deleted or of another mount namespace as it may be. It has a path
//! only where that path leads to the same file from here: what a container calls `/usr/bin/orders` is not ours.
//!
//! All of this blocks, possibly for long: a program may lie on a file system that its owner wrote. So it runs on threads
//! of its own, a few at a time for each user ([`Turns`]).

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use signet_model::ProcessFacts;
use signet_workload::{Caller, Process, process};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::host::Names;

/// Larger programs have no digest.
const MAX_PROGRAM: u64 = 1024 * 1024 * 1024;
/// Longer paths can stand in no entry.
const MAX_PATH: usize = 1024;
/// How often a program is looked at whose file changes its state meanwhile.
const LOOKS: usize = 3;
/// Digests that are remembered.
const MAX_DIGESTS: usize = 256;
/// Processes of one user that are looked at at the same time.
const TURNS_OF_USER: usize = 4;
/// Users of whom turns are counted; those beyond share their turns.
const USERS: usize = 4096;

/// Why nothing is known of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Blind {
    #[error("the process has ended")]
    Ended,
    #[error("the process cannot be looked at; the agent needs to be root, or to have CAP_SYS_PTRACE")]
    Hidden,
    #[error("the process changed its user or group since it connected")]
    User,
    #[error("the process became another program since it connected")]
    Program,
    #[error("the process became another program while it was looked at")]
    Moving,
}

impl Blind {
    /// What the caller is told.
    pub(super) fn outward(self) -> &'static str {
        match self {
            Blind::Ended => "the process has ended",
            Blind::Hidden => "the agent cannot look at this process",
            Blind::User => "the process changed its user or group since it connected",
            Blind::Program | Blind::Moving => "the process became another program since it connected",
        }
    }
}

/// One file and one state of it, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Program {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Cannot be set by whoever may write the file.
    changed: (i64, i64),
}

impl Program {
    fn of(file: &File) -> std::io::Result<Self> {
        Ok(Self::found(&file.metadata()?))
    }

    fn found(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Whether it is the same file, as it is now or as it was.
    pub(super) fn is_file_of(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// What was seen.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) facts: ProcessFacts,
    pub(super) program: Program,
}

/// Looks, for everybody.
#[derive(Clone)]
pub(super) struct Eyes {
    names: Names,
    digests: Arc<Mutex<HashMap<Program, [u8; 32]>>>,
    turns: Arc<Turns>,
}

impl Eyes {
    pub(super) fn new(names: Names) -> Self {
        Self { names, digests: Arc::default(), turns: Arc::default() }
    }

    /// Looks at who connected; at the digest of its program only where `digest` says that somebody asks for it.
    pub(super) async fn look(
        &self,
        caller: Caller,
        process: Arc<Process>,
        digest: bool,
    ) -> Result<Seen, Blind> {
        let turn = self.turns.take(caller.uid).await;
        let eyes = self.clone();
        let looked = tokio::task::spawn_blocking(move || {
            // Given back when the thread is, and not when nobody waits any more.
            let _turn = turn;
            eyes.see(&caller, &process, digest)
        });
        looked.await.unwrap_or(Err(Blind::Hidden))
    }

    fn see(&self, caller: &Caller, process: &Process, digest: bool) -> Result<Seen, Blind> {
        let pid = process.pid();
        // A program that is renamed, linked or deleted meanwhile, as by an upgrade, is still the program that runs.
        let seen = (0..LOOKS).find_map(|_| self.read(pid, digest).transpose()).unwrap_or(Err(Blind::Moving));
        // Whatever was read or could not be read is of the held process only if that has not ended.
        if process.has_ended() || process::started(pid).ok() != Some(process.started()) {
            return Err(Blind::Ended);
        }
        let seen = seen?;
        if (seen.facts.uid, seen.facts.gid) != (caller.uid, caller.gid) {
            return Err(Blind::User);
        }
        Ok(seen)
    }

    /// `None` if the program's file changed its state while this was read, and is to be looked at again.
    fn read(&self, pid: i32, digest: bool) -> Result<Option<Seen>, Blind> {
        let hidden = |_: std::io::Error| Blind::Hidden;
        let link = format!("/proc/{pid}/exe");
        let file = File::open(&link).map_err(hidden)?;
        let program = Program::of(&file).map_err(hidden)?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(hidden)?;
        let status = Status::parse(&status).ok_or(Blind::Hidden)?;
        let path = std::fs::read_link(&link).ok().and_then(|path| path.into_os_string().into_string().ok());
        let path = path.filter(|path| path.len() <= MAX_PATH).filter(|path| {
            // Not opened: whoever chose the name may have put something there that does not open.
            std::fs::metadata(path).is_ok_and(|other| program.is_file_of(&Program::found(&other)))
        });
        let sha256 = if digest { self.digest(file, program) } else { None };
        // It may have become another program between two of these.
        let after = File::open(&link).and_then(|file| Program::of(&file)).map_err(hidden)?;
        if !after.is_file_of(&program) {
            return Err(Blind::Moving);
        }
        if after != program {
            return Ok(None);
        }
        let facts = ProcessFacts {
            uid: status.uid,
            gid: status.gid,
            user: self.names.user(status.uid),
            group: self.names.group(status.gid),
            supplementary_gids: status.groups,
            path,
            sha256,
        };
        Ok(Some(Seen { facts, program }))
    }

    /// The digest of a program, read once for each state of the file.
    fn digest(&self, mut file: File, program: Program) -> Option<[u8; 32]> {
        if let Some(digest) = self.digests().get(&program) {
            return Some(*digest);
        }
        if program.size > MAX_PROGRAM {
            return None;
        }
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        let (mut buffer, mut read) = (vec![0; 256 * 1024], 0_u64);
        loop {
            let count = file.read(&mut buffer).ok()?;
            if count == 0 {
                break;
            }
            read = read.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            if read > MAX_PROGRAM {
                return None;
            }
            context.update(buffer.get(..count)?);
        }
        // What was read is this state only if it is still in this state.
        if Program::of(&file).ok()? != program || read != program.size {
            return None;
        }
        let digest: [u8; 32] = context.finish().as_ref().try_into().ok()?;
        let mut digests = self.digests();
        if digests.len() >= MAX_DIGESTS {
            digests.clear();
        }
        digests.insert(program, digest);
        Some(digest)
    }

    fn digests(&self) -> std::sync::MutexGuard<'_, HashMap<Program, [u8; 32]>> {
        // Every change is a single one of the map.
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of `/proc/<pid>/status` matters.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    /// Effective, as the kernel says of who connects.
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Status {
    fn parse(text: &str) -> Option<Self> {
        let numbers = |name: &str| -> Option<Vec<u32>> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_ascii_whitespace().map(|number| number.parse().ok()).collect()
        };
        let effective = |name: &str| numbers(name)?.get(1).copied();
        Some(Self { uid: effective("Uid")?, gid: effective("Gid")?, groups: numbers("Groups")? })
    }
}

/// Who may look now: a few processes of each user at the same time, so that a file system which does not answer costs
/// its owner's turns and nobody else's.
#[derive(Default)]
struct Turns(Mutex<HashMap<u32, Arc<Semaphore>>>);

impl Turns {
    async fn take(&self, uid: u32) -> Option<OwnedSemaphorePermit> {
        let turns = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= USERS {
                all.retain(|_, turns| turns.available_permits() < TURNS_OF_USER);
            }
            let uid = if all.len() >= USERS && !all.contains_key(&uid) { u32::MAX } else { uid };
            Arc::clone(all.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(TURNS_OF_USER))))
        };
        turns.acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_numbers_of_a_status_count() {
        let text = "Name:\tUid: 0\nUid:\t1000\t1001\t1002\t1003\nGid:\t7\t8\t9\t10\nGroups:\t4 24 1000 \nThreads:\t1\n";
        let read = Status::parse(text).unwrap();
        assert_eq!(read, Status { uid: 1001, gid: 8, groups: vec![4, 24, 1000] });
        let none = Status::parse("Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t \n").unwrap();
        assert!(none.groups.is_empty());
        for bad in ["", "Uid:\t1\nGid:\t1\t1\nGroups:\n", "Uid:\t1\tx\nGid:\t1\t1\nGroups:\n"] {
            assert_eq!(Status::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_digest_is_remembered_for_one_state_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let eyes = Eyes::new(Names::of_this_host());
        let digest = |content: &str| {
            std::fs::write(&path, content).unwrap();
            let file = File::open(&path).unwrap();
            let program = Program::of(&file).unwrap();
            let again = File::open(&path).unwrap();
            let (first, second) = (eyes.digest(file, program), eyes.digest(again, program));
            assert_eq!(first, second);
            first.unwrap()
        };
        let of = |text: &str| ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref().to_vec();
        assert_eq!(digest("one").to_vec(), of("one"));
        assert_eq!(digest("other").to_vec(), of("other"));
        assert!(eyes.digests().len() <= 2);
    }
}
