//! A pod that waits for its redirection says so in its own network namespace: `redirect verify` holds an abstract socket whose
//! name is the digest of its options. Such names are of a network namespace, and only who is in it can hold one. So whoever sets rules
//! from outside need not believe what is said elsewhere about whose namespace it is: none gets rules but those that it asks for.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use super::host::Host;
use super::options::{Dns, Options};

/// What all such names begin with.
const PREFIX: &str = "signet-redirect/";

/// The arguments of `redirect verify` for a pod, as injection writes them: what else options can say is none of a pod's.
#[must_use]
pub fn words(options: &Options) -> Vec<String> {
    fn list<T: ToString>(all: &[T]) -> Option<String> {
        let all: Vec<_> = all.iter().map(T::to_string).collect();
        (!all.is_empty()).then(|| all.join(","))
    }
    let mut words = vec!["verify".to_owned()];
    for (option, value) in [
        ("--uid", options.uid.map(|uid| uid.to_string())),
        ("--dns", (options.dns == Some(Dns::Capture)).then(|| "capture".to_owned())),
        ("--exclude-inbound-ports", list(&options.exclude_inbound_ports)),
        ("--exclude-outbound-ports", list(&options.exclude_outbound_ports)),
        ("--exclude-outbound-ranges", list(&options.exclude_outbound_ranges)),
    ] {
        if let Some(value) = value {
            words.extend([option.to_owned(), value]);
        }
    }
    words
}

/// The name that stands for these options.
#[must_use]
pub fn name(options: &Options) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, words(options).join("\n").as_bytes());
    digest.as_ref().iter().fold(PREFIX.to_owned(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

/// Asks for as long as the value lives. None: another process here asks for the same, or it cannot be asked.
#[must_use]
pub fn ask(options: &Options) -> Option<UnixDatagram> {
    let name = SocketAddr::from_abstract_name(name(options)).ok()?;
    UnixDatagram::bind_addr(&name).ok()
}

/// What is asked for in this network namespace.
#[must_use]
pub fn asked(host: &dyn Host) -> BTreeSet<String> {
    let text = host.read("/proc/thread-self/net/unix").unwrap_or_default();
    let names = text.lines().filter_map(|line| line.split_whitespace().nth(7)?.strip_prefix('@'));
    names.filter(|name| name.starts_with(PREFIX)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Machine;

    #[test]
    fn what_is_asked_for_is_seen_while_it_is_asked() {
        // Of no other test, and of no pod.
        let ports = |last| crate::values::Ports { first: 7, last };
        let options = |last| Options {
            uid: Some(u32::MAX - 2),
            exclude_inbound_ports: vec![ports(last), ports(7)],
            ..Default::default()
        };
        assert_eq!(words(&options(9)), ["verify", "--uid", "4294967293", "--exclude-inbound-ports", "7-9,7"]);
        let asks = ask(&options(9)).expect("a name");
        assert!(ask(&options(9)).is_none(), "somebody asks already");
        let all = asked(&Machine);
        assert!(all.contains(&name(&options(9))) && !all.contains(&name(&options(10))), "{all:?}");
        drop(asks);
        assert!(!asked(&Machine).contains(&name(&options(9))));
    }
}
