//! Network namespaces of pods: entering one, and finding one that asks to be redirected.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use signet_redirect::asks::{asked, name};
use signet_redirect::host::Stranger;
use signet_redirect::options::{Listeners, Options};
use signet_redirect::run::{Backend, Command, Done, apply_first, run};
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
    let done = run(command, &Stranger, &no_file, &mut answer).map_err(|error| error.to_string())?;
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

/// Puts redirection in force there, where there is nothing of Signet: what somebody else's pod has is never replaced. False: it
/// was as asked already.
///
/// # Errors
/// There is other redirection, or what the programs that set rules said.
pub fn redirect_first(namespace: &impl AsFd, options: &Options) -> Result<bool, String> {
    let apply = || apply_first(options, &Stranger, &no_file, &mut Vec::new());
    let done = within(namespace, apply).map_err(|error| error.to_string())?;
    let set = done.map_err(|error| error.to_string())?;
    match (differences(namespace, options)?, set) {
        (missing, _) if missing.is_empty() => Ok(set),
        (missing, true) => Err(missing),
        (missing, false) => Err(format!("it has rules of Signet, which are never replaced: {missing}")),
    }
}

/// A network namespace of the node, as it is from within.
pub struct Place {
    file: File,
    addresses: HashSet<IpAddr>,
    asked: BTreeSet<String>,
}

/// Those of a folder, each entered once.
///
/// # Errors
/// The folder cannot be read.
pub fn look(folder: &Path) -> io::Result<Vec<Place>> {
    let mut places = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let Ok(file) = entry.and_then(|entry| File::open(entry.path())) else { continue };
        // What is none, or ours, or gone meanwhile.
        let seen = within(&file, || (addresses(&Stranger).into_iter().collect(), asked(&Stranger)));
        let Ok((addresses, asked)) = seen else { continue };
        places.push(Place { file, addresses, asked });
    }
    Ok(places)
}

/// The namespace with these addresses, in which somebody asks for just these options. Addresses alone are no proof: a status may say
/// another's, or those that a pod had before. Who asks is in the namespace, so nobody gets rules for which nobody there asks.
/// `node`: the node's own addresses, whose network is nobody's pod.
///
/// # Errors
/// There is none, or more than one, or it does not ask.
pub fn pick<'a>(
    places: &'a [Place],
    of: &[IpAddr],
    node: &BTreeSet<IpAddr>,
    options: &Options,
) -> Result<&'a File, String> {
    if node.is_empty() {
        return Err("which addresses are the node's own is not known yet".to_owned());
    }
    let has = |place: &&Place| !of.is_empty() && of.iter().all(|address| place.addresses.contains(address));
    let mut found = places.iter().filter(has);
    let (Some(place), None) = (found.next(), found.next()) else {
        let count = places.iter().filter(has).count();
        return Err(format!("expected one network namespace with the addresses {of:?}, found {count}"));
    };
    if node.iter().any(|address| place.addresses.contains(address)) {
        return Err(format!("expected the network of a pod with the addresses {of:?}, got the node's own"));
    }
    match place.asked.contains(&name(options)) {
        true => Ok(&place.file),
        false => {
            Err(format!("in the network with the addresses {of:?} nobody asks for what this pod would have"))
        }
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
        assert!(look(folder.path()).unwrap().is_empty());
    }

    #[test]
    fn a_network_is_a_pods_by_its_addresses_and_by_what_is_asked_there() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let options = |uid| Options { uid: Some(uid), ..Default::default() };
        let place = |addresses: &[&str], uid: Option<u32>| Place {
            file: File::open("/dev/null").unwrap(),
            addresses: addresses.iter().map(|text| ip(text)).collect(),
            asked: uid.map(|uid| name(&options(uid))).into_iter().collect(),
        };
        let node = BTreeSet::from([ip("192.0.2.1")]);
        let places = [
            place(&["10.0.0.7", "fd00::7"], Some(2102)),
            place(&["10.0.0.8"], None),
            place(&["10.0.0.9"], Some(2103)),
            place(&["10.0.0.5"], Some(2102)),
            place(&["10.0.0.5", "10.0.0.6"], Some(2102)),
            place(&["192.0.2.1", "10.0.0.1"], Some(2102)),
        ];
        let picked = |of: &[&str], node: &BTreeSet<IpAddr>| {
            let of: Vec<_> = of.iter().map(|text| ip(text)).collect();
            pick(&places, &of, node, &options(2102)).map(drop)
        };
        for good in [&["10.0.0.7"][..], &["10.0.0.7", "fd00::7"], &["10.0.0.6"]] {
            assert_eq!(picked(good, &node), Ok(()), "{good:?}");
        }
        for (bad, words) in [
            (&[][..], "found 0"),
            (&["10.0.0.7", "fd00::8"], "found 0"),
            (&["10.0.0.5"], "found 2"),
            (&["10.0.0.8"], "nobody asks"),
            (&["10.0.0.9"], "nobody asks"),
            (&["10.0.0.1"], "the node's own"),
            (&["192.0.2.1"], "the node's own"),
        ] {
            let error = picked(bad, &node).unwrap_err();
            assert!(error.contains(words), "{bad:?}: {error}");
        }
        assert!(picked(&["10.0.0.7"], &BTreeSet::new()).unwrap_err().contains("not known yet"));
    }
}
