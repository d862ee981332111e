//! Network namespaces of pods: entering one, and finding one by the pod's addresses.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use signet_redirect::host::Machine;
use signet_redirect::options::{Listeners, Options};
use signet_redirect::run::{Backend, Command, Done, run};
use signet_redirect::verify::addresses;

/// Does something in a network namespace, on a thread of its own that ends with it. Programs that it starts are there, too.
///
/// # Errors
/// It is no network namespace, or the one that this process is in.
pub fn within<T: Send>(namespace: &impl AsFd, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let file = File::from(namespace.as_fd().try_clone_to_owned()?);
    let (own, its) = (std::fs::metadata("/proc/thread-self/ns/net")?, file.metadata()?);
    if (own.dev(), own.ino()) == (its.dev(), its.ino()) {
        return Err(io::Error::other("expected the network namespace of a pod, got the agent's own"));
    }
    let entered = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // SAFETY: it concerns this thread alone, which ends with the work; no memory is involved. The kernel refuses what is
            // no network namespace.
            if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(work())
        });
        worker.join()
    });
    entered.unwrap_or_else(|_| Err(io::Error::other("the thread in the network namespace panicked")))
}

/// Nothing is read as root because a pod names it.
fn no_file(file: &Path) -> Result<Listeners, String> {
    Err(format!("{}: no files are read here", file.display()))
}

fn command(command: &Command) -> Result<(Done, String), String> {
    let mut answer = Vec::new();
    let done = run(command, &Machine, &no_file, &mut answer).map_err(|error| error.to_string())?;
    Ok((done, String::from_utf8_lossy(&answer).trim().to_owned()))
}

/// Puts redirection in force there, and looks whether it is.
///
/// # Errors
/// What the programs that set rules said.
pub fn redirect(namespace: &impl AsFd, options: &Options) -> Result<String, String> {
    let apply = Command::Apply { options: options.clone(), backend: Backend::Auto, dry_run: false };
    let (_, said) =
        within(namespace, || command(&apply)).map_err(|error| error.to_string()).and_then(|said| said)?;
    let missing = differences(namespace, options)?;
    if missing.is_empty() { Ok(said) } else { Err(missing) }
}

/// What is not as these options ask; empty where all is.
///
/// # Errors
/// It could not be looked at.
pub fn differences(namespace: &impl AsFd, options: &Options) -> Result<String, String> {
    let check = Command::Check { options: options.clone(), backend: Backend::Auto };
    let looked = within(namespace, || command(&check)).map_err(|error| error.to_string());
    match looked.and_then(|said| said)? {
        (Done::AsAsked, _) => Ok(String::new()),
        (Done::Differs, said) => Ok(said),
    }
}

/// The namespace with these addresses among those of a folder. A pod that gives itself another's address makes it two: then
/// it is neither.
///
/// # Errors
/// There is none, or more than one.
pub fn find(folder: &Path, of: &[IpAddr]) -> io::Result<File> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let Ok(file) = entry.and_then(|entry| File::open(entry.path())) else { continue };
        // What is none, or ours, or gone meanwhile.
        let Ok(there) = within(&file, || addresses(&Machine)) else { continue };
        if !of.is_empty() && of.iter().all(|address| there.contains(address)) {
            found.push(file);
        }
    }
    let count = found.len();
    match (found.pop(), count) {
        (Some(file), 1) => Ok(file),
        _ => Err(io::Error::other(format!(
            "expected one network namespace in {} with the addresses {of:?}, found {count}",
            folder.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_own_network_and_what_is_none_are_never_entered() {
        let own = File::open("/proc/self/ns/net").unwrap();
        assert!(within(&own, || ()).unwrap_err().to_string().contains("the agent's own"));
        for other in ["/dev/null", "/proc/self/ns/mnt", "/proc/self/exe"] {
            let file = File::open(other).unwrap();
            assert!(within(&file, || unreachable!()).is_err(), "{other}");
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x"), "").unwrap();
        let error = find(folder.path(), &["10.0.0.1".parse().unwrap()]).unwrap_err();
        assert!(error.to_string().contains("found 0"), "{error}");
    }
}
