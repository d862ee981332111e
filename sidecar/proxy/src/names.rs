//! From names outside the mesh to addresses, as the host's own resolver says.
//!
//! One look-up at a time for each name, few at once for all; an answer serves for some seconds, and while the resolver
//! does not answer the last one serves for a minute. An app decides which names are looked up, so that everything here is
//! bounded.

use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How long an answer serves. The host's resolver says no life; short enough for whoever moves by DNS.
const FRESH: Duration = Duration::from_secs(5);
/// How long it serves while there is no newer one.
const STALE: Duration = Duration::from_secs(60);
/// How long a name that cannot be resolved is not asked for again.
const MISSED: Duration = Duration::from_secs(1);
/// Names remembered.
const NAMES: usize = 1024;
/// Read by ourselves: the system's resolver does not look there for a name with a final dot.
const HOSTS: &str = "/etc/hosts";
/// Look-ups at once: each takes a thread.
const TURNS: usize = 16;

#[derive(Clone, Debug, Default)]
struct Known {
    addresses: Arc<[IpAddr]>,
    resolved: Option<Instant>,
    failed: Option<(Instant, Arc<str>)>,
}

type Entry = Arc<tokio::sync::Mutex<Known>>;

/// Names and what they resolve to.
#[derive(Debug)]
pub(crate) struct Resolver {
    known: Mutex<HashMap<Arc<str>, Entry>>,
    turns: Arc<Semaphore>,
}

impl Default for Resolver {
    fn default() -> Self {
        Resolver { known: Mutex::default(), turns: Arc::new(Semaphore::new(TURNS)) }
    }
}

impl Resolver {
    /// The addresses of a name; at least one, or why there is none.
    pub(crate) async fn resolve(&self, host: &str) -> Result<Arc<[IpAddr]>, Arc<str>> {
        let entry = self.entry(host);
        // Whoever comes second waits for the answer of the first.
        let mut known = entry.lock().await;
        if known.resolved.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(known.addresses.clone());
        }
        if let Some((_, why)) = known.failed.as_ref().filter(|(at, _)| at.elapsed() < MISSED) {
            return stale(&known).ok_or_else(|| why.clone());
        }
        match self.look_up(host).await {
            Ok(addresses) => {
                *known = Known { addresses: addresses.into(), resolved: Some(Instant::now()), failed: None };
                Ok(known.addresses.clone())
            }
            Err(why) => {
                let why: Arc<str> = why.into();
                known.failed = Some((Instant::now(), why.clone()));
                stale(&known).ok_or(why)
            }
        }
    }

    fn entry(&self, host: &str) -> Entry {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = known.get(host) {
            return entry.clone();
        }
        if known.len() >= NAMES {
            // What nobody waits for may go; it is looked up again.
            let idle = known.iter().find(|(_, entry)| Arc::strong_count(entry) == 1);
            let idle = idle.map(|(host, _)| host.clone());
            idle.and_then(|host| known.remove(&host));
        }
        let entry = Entry::default();
        known.insert(host.into(), entry.clone());
        entry
    }

    async fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let turn = self.turns.clone().acquire_owned().await.map_err(|error| error.to_string())?;
        let host = host.to_owned();
        let looked_up = tokio::task::spawn_blocking(move || {
            // Who waited may be gone; the thread is not.
            let _turn = turn;
            let hosts = std::fs::read_to_string(HOSTS).unwrap_or_default();
            let here = in_hosts(&hosts, &host);
            if !here.is_empty() {
                return Ok(here);
            }
            // With the final dot no search domain is tried: the name is the one that is listed, and no other that whoever
            // may make names in the cluster puts before it.
            let found = (format!("{host}.").as_str(), 0).to_socket_addrs()?;
            let mut addresses: Vec<IpAddr> = Vec::new();
            for address in found.map(|found| found.ip().to_canonical()) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            Ok::<_, std::io::Error>(addresses)
        });
        match looked_up.await {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            Ok(Ok(_)) => Err("the name has no address".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// What the hosts file (hosts(5)) says of a name.
fn in_hosts(hosts: &str, host: &str) -> Vec<IpAddr> {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let address: IpAddr = words.next()?.parse().ok()?;
            words.any(|name| name.eq_ignore_ascii_case(host)).then(|| address.to_canonical())
        })
        .collect()
}

fn stale(known: &Known) -> Option<Arc<[IpAddr]>> {
    known.resolved.filter(|at| at.elapsed() < STALE).map(|_| known.addresses.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_is_read_as_the_system_reads_it() {
        let hosts = "127.0.0.1 localhost\n# 10.0.0.1 api.example.com\n192.0.2.7\tAPI.example.com api # 10.0.0.2 x\n\
                     2001:db8::7 api.example.com\nnonsense api.example.com\n";
        let found = in_hosts(hosts, "api.example.com");
        assert_eq!(found, ["192.0.2.7".parse::<IpAddr>().unwrap(), "2001:db8::7".parse().unwrap()]);
        assert!(in_hosts(hosts, "x").is_empty() && in_hosts(hosts, "example.com").is_empty());
    }

    #[tokio::test]
    async fn names_of_an_app_do_not_pile_up() {
        let resolver = Resolver::default();
        for number in 0..2 * NAMES {
            drop(resolver.entry(&format!("{number}.example.com")));
        }
        assert_eq!(resolver.known.lock().unwrap().len(), NAMES);
    }
}
