//! Whether redirection is in force, as seen from within a pod by a process that may not read a single rule.
//!
//! The first rule of every plan leads what the sidecar's user dials from the loopback address at its own pod to the
//! inbound listener. So a process of that user dials a port of its own pod that it holds and does not listen on: without
//! redirection the kernel refuses that at once, and no packet leaves the pod; with it the connection comes to the
//! inbound port, where this process waits for the number that it sends. All rules of a kind come and go in one
//! transaction, so that where the first is the others are.
//!
//! It is asked before anything of the pod's own has run, and what it does not see it takes for missing.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, socket_with};

use super::error::{RedirectError, Result};
use super::host::Host;
use super::options::{OptionsError, Wanted};
use super::plan::Owner;

/// Nothing leaves the pod: what takes longer than this does not come.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// Proves it for every family in which the pod has an address, and tries again while `patience` lasts.
///
/// # Errors
/// [`RedirectError::NotInForce`], and what keeps this process from looking.
pub fn verify(
    wanted: &Wanted,
    host: &dyn Host,
    patience: Duration,
    answer: &mut dyn Write,
) -> Result<Vec<IpAddr>> {
    let Some(port) = wanted.inbound else {
        return Err(wrong("--inbound-port", "a port, by which it is proved", "none"));
    };
    let own = status(host, "Uid:").unwrap_or_default();
    if !wanted.sidecar.iter().any(|owner| matches!(owner, Owner::Uid(ids) if ids.first == own)) {
        return Err(wrong("--uid", "the user that this process runs as", &own.to_string()));
    }
    let end = Instant::now().checked_add(patience);
    let mut said = false;
    loop {
        match once(wanted, host, port) {
            Ok(addresses) => return Ok(addresses),
            Err(error) if end.is_none_or(|end| Instant::now() >= end) => return Err(error),
            Err(error) => {
                if !said {
                    writeln!(answer, "waiting: {error}")?;
                    answer.flush()?;
                }
                said = true;
                std::thread::sleep(PAUSE);
            }
        }
    }
}

fn wrong(option: &str, expected: &str, got: &str) -> RedirectError {
    RedirectError::Options(OptionsError::Value {
        option: option.to_owned(),
        expected: expected.to_owned(),
        got: got.to_owned(),
    })
}

/// The effective one of four ids in a line of this process' status.
fn status(host: &dyn Host, line: &str) -> Option<u32> {
    let status = host.read("/proc/thread-self/status")?;
    let ids = status.lines().find_map(|it| it.strip_prefix(line))?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

fn once(wanted: &Wanted, host: &dyn Host, port: u16) -> Result<Vec<IpAddr>> {
    // One of each family is enough: a rule asks for none of them.
    let all = addresses(host);
    let first = |is_it: fn(&IpAddr) -> bool| all.iter().copied().find(is_it);
    let v6 = first(IpAddr::is_ipv6).filter(|_| wanted.ipv6);
    let addresses: Vec<IpAddr> = first(IpAddr::is_ipv4).into_iter().chain(v6).collect();
    if addresses.is_empty() {
        let none = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address of this pod");
        return Err(RedirectError::NotInForce {
            dialled: "an address of this pod".to_owned(),
            port,
            got: none,
        });
    }
    for address in &addresses {
        attempt(*address, port).map_err(|got| RedirectError::NotInForce {
            dialled: address.to_string(),
            port,
            got,
        })?;
    }
    Ok(addresses)
}

/// The addresses of this network namespace by which others reach it: IPv4 first.
pub fn addresses(host: &dyn Host) -> Vec<IpAddr> {
    let v4 = v4(host).into_iter().map(IpAddr::V4);
    v4.chain(v6(host).into_iter().map(IpAddr::V6)).collect()
}

/// Of `fib_trie`, in which such a one is a line `|-- 10.0.0.7` before a line `/32 host LOCAL`.
fn v4(host: &dyn Host) -> Vec<Ipv4Addr> {
    let text = host.read("/proc/thread-self/net/fib_trie").unwrap_or_default();
    // A pod may have given itself any number of them.
    let (mut last, mut found, mut known) = (None, Vec::new(), HashSet::new());
    for line in text.lines().map(str::trim) {
        if let Some(leaf) = line.strip_prefix("|-- ") {
            last = leaf.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = last.filter(|address| !address.is_loopback() && known.insert(*address))
        {
            found.push(address);
        }
    }
    found
}

/// Of `if_inet6`, whose fourth field is the scope and whose fifth has the flags: those that are global and in use.
fn v6(host: &dyn Host) -> Vec<Ipv6Addr> {
    const TENTATIVE_OR_FAILED: u32 = 0x40 | 0x08;
    let text = host.read("/proc/thread-self/net/if_inet6").unwrap_or_default();
    let read = |line: &str| {
        let mut fields = line.split_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        let scope = fields.nth(2)?;
        let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
        (scope == "00" && flags & TENTATIVE_OR_FAILED == 0).then(|| Ipv6Addr::from(address))
    };
    text.lines().filter_map(read).collect()
}

/// One proof. An error of kind `ConnectionRefused` means that nothing is redirected.
fn attempt(own: IpAddr, port: u16) -> io::Result<()> {
    let loopback: IpAddr = match own {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let listener = match TcpListener::bind((loopback, port)) {
        Ok(listener) => Some(listener),
        // The sidecar of this pod, where this is asked once more: whoever comes through comes to it.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
        Err(error) => return Err(error),
    };
    // Held and not listened on, so that nobody else answers there.
    let held = bound(own)?;
    let to: SocketAddr = getsockname(&held)?.try_into()?;
    let caller = bound(loopback)?;
    set_socket_timeout(&caller, Timeout::Send, Some(ANSWER))?;
    connect(&caller, &to)?;
    let Some(listener) = listener else { return Ok(()) };
    let mut nonce = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut nonce)?;
    let mut caller = TcpStream::from(caller);
    caller.write_all(&nonce)?;
    set_socket_timeout(&listener, Timeout::Recv, Some(ANSWER))?;
    let (mut accepted, _) = listener.accept()?;
    accepted.set_read_timeout(Some(ANSWER))?;
    let mut came = [0; 16];
    accepted.read_exact(&mut came)?;
    match came == nonce {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "somebody else's connection")),
    }
}

fn bound(ip: IpAddr) -> io::Result<OwnedFd> {
    let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddr::new(ip, 0))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::host::Said;

    struct Files(Vec<(&'static str, &'static str)>);

    impl Host for Files {
        fn find(&self, _: &str) -> Option<PathBuf> {
            None
        }

        fn run(&self, _: &Path, _: &[&str], _: &str) -> io::Result<Said> {
            Err(io::ErrorKind::NotFound.into())
        }

        fn read(&self, file: &str) -> Option<String> {
            self.0.iter().find(|(name, _)| *name == file).map(|(_, text)| (*text).to_owned())
        }

        fn lock(&self) -> io::Result<Option<File>> {
            Ok(None)
        }
    }

    const TRIE: &str = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 10.77.0.0/24 2 0 2\n\
        Local:\n     +-- 10.77.0.0/24 2 0 2\n        |-- 10.77.0.0\n           /24 link UNICAST\n        |-- 10.77.0.1\n           /32 host LOCAL\n\
        |-- 127.0.0.1\n           /32 host LOCAL\n";

    #[test]
    fn the_addresses_of_a_pod_are_those_that_are_its_own_and_in_use() {
        let files = Files(vec![
            ("/proc/thread-self/net/fib_trie", TRIE),
            (
                "/proc/thread-self/net/if_inet6",
                "00000000000000000000000000000001 01 80 10 80       lo\n\
                 fe80000000000000000000000000000a 02 40 20 80     eth0\n\
                 fd770000000000000000000000000002 02 40 00 c0     eth0\n\
                 fd770000000000000000000000000001 02 40 00 80     eth0\n",
            ),
        ]);
        let found: Vec<_> = addresses(&files).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.77.0.1", "fd77::1"], "neither local nor tentative");
        let loopback = Files(vec![(
            "/proc/thread-self/net/fib_trie",
            "|-- 127.0.0.1\n   /32 host LOCAL\n|-- 10.0.0.0\n   /8 link UNICAST\n",
        )]);
        assert!(addresses(&loopback).is_empty());
    }

    #[test]
    fn who_is_not_the_sidecars_user_proves_nothing() {
        let options = crate::options::Options { uid: Some(2102), ..Default::default() };
        let wanted = options.resolve(None, false).unwrap();
        let files = Files(vec![("/proc/thread-self/status", "Name:\tx\nUid:\t7\t1000\t7\t7\n")]);
        let error = verify(&wanted, &files, Duration::ZERO, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("--uid: expected the user") && error.to_string().contains("1000"));
    }

    #[test]
    fn a_hundred_thousand_addresses_are_read_in_no_time() {
        let line = |at: u32| format!("|-- {}\n   /32 host LOCAL\n", Ipv4Addr::from(0x0a00_0000 | at));
        let trie: String = (1..=100_000).chain(1..=100_000).map(line).collect();
        let files = Files(vec![("/proc/thread-self/net/fib_trie", Box::leak(trie.into_boxed_str()))]);
        let begun = Instant::now();
        assert_eq!(addresses(&files).len(), 100_000);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[test]
    fn without_redirection_a_pod_refuses_its_own_call() {
        // This machine as the pod: it has an address, or there is nothing to dial.
        let Some(own) = v4(&crate::host::Machine).into_iter().next() else { return };
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        drop(held);
        assert_eq!(attempt(own.into(), port).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
