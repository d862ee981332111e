//! Whom the pod asks: the name servers of its `resolv.conf`, read again whenever that file changes.

use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Where name servers listen.
const PORT: u16 = 53;
/// As many as the system's own resolver asks.
const MOST: usize = 3;
/// Of the file; what is beyond is not read.
const LARGEST: u64 = 64 * 1024;

/// What tells one state of a file from another.
type Mark = (u64, u64, i64, i64, u64);

/// The name servers of a file.
#[derive(Debug)]
pub struct Resolvers {
    file: PathBuf,
    port: u16,
    /// Addresses that nothing is asked at: ours.
    own: Vec<SocketAddr>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    mark: Option<Mark>,
    servers: Arc<[SocketAddr]>,
    /// The file could not be read, and that was said.
    told: bool,
}

impl Resolvers {
    /// Those of this file, apart from these addresses.
    pub fn new(file: PathBuf, own: Vec<SocketAddr>) -> Self {
        Self::at_port(file, own, PORT)
    }

    /// The same, where they listen at another port.
    pub fn at_port(file: PathBuf, own: Vec<SocketAddr>, port: u16) -> Self {
        Resolvers { file, port, own, known: Mutex::default() }
    }

    /// Those that are there now. While the file cannot be read, those that it named last.
    pub fn now(&self) -> Arc<[SocketAddr]> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match mark(&self.file) {
            Ok(mark) if known.mark == Some(mark) => {}
            found => match found.and_then(|mark| Ok((mark, text(&self.file)?))) {
                Ok((mark, text)) => {
                    let (mine, servers): (Vec<_>, Vec<_>) =
                        servers(&text, self.port).into_iter().partition(|server| self.own.contains(server));
                    if !mine.is_empty() {
                        tracing::warn!(target: "signet::dns", file = %self.file.display(), ?mine,
                            "expected the pod's resolvers, found our own listener: it is not asked");
                    }
                    tracing::info!(target: "signet::dns", file = %self.file.display(), ?servers, "the pod's resolvers");
                    *known = Known { mark: Some(mark), servers: servers.into(), told: false };
                }
                Err(error) => {
                    if !std::mem::replace(&mut known.told, true) {
                        tracing::warn!(target: "signet::dns", file = %self.file.display(), %error,
                            "the pod's resolvers cannot be read; going on with those that were known");
                    }
                }
            },
        }
        known.servers.clone()
    }
}

fn mark(file: &Path) -> std::io::Result<Mark> {
    let metadata = std::fs::metadata(file)?;
    Ok((metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
}

fn text(file: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    File::open(file)?.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The name servers that a file names, as resolv.conf(5) says: the first three, and without any the local host.
fn servers(text: &str, port: u16) -> Vec<SocketAddr> {
    let lines = text.lines().map(str::trim_start).filter(|line| !line.starts_with(['#', ';']));
    let mut servers: Vec<SocketAddr> = Vec::new();
    for line in lines {
        let mut words = line.split_ascii_whitespace();
        if words.next() == Some("nameserver")
            && let Some(server) = words.next().and_then(|word| server(word, port))
            && servers.len() < MOST
            && !servers.contains(&server)
        {
            servers.push(server);
        }
    }
    if servers.is_empty() {
        servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    }
    servers
}

/// An address, of a link only with its interface.
fn server(word: &str, port: u16) -> Option<SocketAddr> {
    match word.split_once('%') {
        None => Some(SocketAddr::new(word.parse::<IpAddr>().ok()?, port)),
        Some((address, zone)) => {
            let index = zone.parse().ok().or_else(|| {
                let index = std::fs::read_to_string(format!("/sys/class/net/{zone}/ifindex")).ok()?;
                (!zone.contains('/')).then(|| index.trim().parse().ok())?
            });
            Some(SocketAddrV6::new(address.parse().ok()?, port, 0, index?).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        servers(text, 53).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_file_is_read_as_the_systems_resolver_reads_it() {
        let text = "# nameserver 192.0.2.9\n; nameserver 192.0.2.9\nsearch shop.svc.cluster.local\n\
                    nameserver 10.96.0.10\nnameserver\t2001:db8::53\nnameserver nonsense\noptions ndots:5\n\
                    nameserver 10.96.0.10\n nameserver fe80::1%7\nnameserver 192.0.2.1\n";
        assert_eq!(read(text), ["10.96.0.10:53", "[2001:db8::53]:53", "[fe80::1%7]:53"]);
        for text in [
            "",
            "search example.com\n",
            "nameserver\n",
            "nameserver fe80::1%nowhere\n",
            "nameserver ::1%../x\n",
        ] {
            assert_eq!(read(text), ["127.0.0.1:53"], "{text:?}");
        }
    }

    #[test]
    fn a_change_is_seen_with_the_next_question_and_an_unreadable_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        let own: SocketAddr = "127.0.0.1:53".parse().unwrap();
        let resolvers = Resolvers::new(file.clone(), vec![own]);
        assert!(resolvers.now().is_empty(), "nobody is known yet");
        std::fs::write(&file, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(resolvers.now()[..], ["192.0.2.1:53".parse().unwrap()]);
        // Replaced, as an editor or the kubelet does it.
        let other = folder.path().join("new");
        std::fs::write(&other, "nameserver 192.0.2.2\n").unwrap();
        std::fs::rename(&other, &file).unwrap();
        assert_eq!(resolvers.now()[..], ["192.0.2.2:53".parse().unwrap()]);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(resolvers.now()[..], ["192.0.2.2:53".parse().unwrap()]);
        // Our own listener would have us ask ourselves for ever.
        std::fs::write(&file, "nameserver 127.0.0.1\n").unwrap();
        assert!(resolvers.now().is_empty());
    }
}
