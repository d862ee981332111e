//! What one address may take: attempts per time, and places at once.
//!
//! [`AttemptLimit`] is a token bucket per address in a map that cannot grow. It stands in front of the TLS handshake, so an address that floods costs an accept and a close and
//! nothing else. The map keeps two generations: when the young one is full, the old one is dropped
//! and the young one takes its place. A flood from many addresses can make the limiter forget, never
//! grow; what it forgets starts again with a full bucket, and the bound on concurrent handshakes
//! holds all the same.
//! [`Places`] counts what each address, or each certificate, holds at this moment, so that one of them cannot take
//! all of it.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Addresses remembered per generation. 16,384 × about 48 bytes: under a megabyte.
const GENERATION: usize = 16_384;

/// Attempts per address: `burst` at once, then `per_second` of them each second.
#[derive(Debug)]
pub struct AttemptLimit {
    burst: f64,
    per_second: f64,
    young: HashMap<IpAddr, Bucket>,
    old: HashMap<IpAddr, Bucket>,
    generation: usize,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl AttemptLimit {
    #[must_use]
    pub fn new(burst: u32, per_second: f64) -> Self {
        Self {
            burst: f64::from(burst),
            per_second,
            young: HashMap::new(),
            old: HashMap::new(),
            generation: GENERATION,
        }
    }

    /// Whether `address` may try now; takes one attempt if so.
    pub fn admit(&mut self, address: IpAddr, now: Instant) -> bool {
        let key = network(address);
        let mut bucket = self
            .young
            .get(&key)
            .or_else(|| self.old.get(&key))
            .copied()
            .unwrap_or(Bucket { tokens: self.burst, at: now });
        let idle: Duration = now.saturating_duration_since(bucket.at);
        bucket.tokens = (bucket.tokens + idle.as_secs_f64() * self.per_second).min(self.burst);
        bucket.at = now;
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        if !self.young.contains_key(&key) && self.young.len() >= self.generation {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, bucket);
        admitted
    }

    /// Addresses remembered now.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.young.len().saturating_add(self.old.len())
    }
}

/// Places that somebody holds at this moment: as many entries as there are holders.
#[derive(Debug)]
pub struct Places<K: Eq + Hash = IpAddr> {
    each: usize,
    held: Mutex<HashMap<K, usize>>,
}

/// A place, given back when dropped.
#[derive(Debug)]
pub struct Place<K: Eq + Hash = IpAddr> {
    places: Arc<Places<K>>,
    key: K,
}

impl Places<IpAddr> {
    /// A place for `address`, unless it holds all of its own already.
    #[must_use]
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        self.take_for(network(address))
    }
}

impl<K: Clone + Eq + Hash> Places<K> {
    /// At most `each` places per holder.
    #[must_use]
    pub fn new(each: usize) -> Arc<Self> {
        Arc::new(Self { each, held: Mutex::default() })
    }

    /// A place for this holder, unless it holds all of its own already.
    #[must_use]
    pub fn take_for(self: &Arc<Self>, key: K) -> Option<Place<K>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.get(&key).copied().unwrap_or(0);
        if count >= self.each {
            return None;
        }
        held.insert(key.clone(), count.saturating_add(1));
        Some(Place { places: Arc::clone(self), key })
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut held = self.places.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}

/// One customer of IPv6 owns a /64 and would otherwise own 2^64 buckets.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & 0xffff_ffff_ffff_ffff_0000_0000_0000_0000))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_rest_waits_for_its_tokens() {
        let mut limit = AttemptLimit::new(3, 1.0);
        let start = Instant::now();
        let from: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!((0..5).filter(|_| limit.admit(from, start)).count(), 3);
        assert!(!limit.admit(from, start + Duration::from_millis(900)));
        assert!(limit.admit(from, start + Duration::from_millis(1_900)));
        assert!(limit.admit("192.0.2.2".parse().unwrap(), start), "another address has a bucket of its own");
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let mut limit = AttemptLimit::new(1, 0.1);
        let now = Instant::now();
        assert!(limit.admit("2001:db8::1".parse().unwrap(), now));
        assert!(!limit.admit("2001:db8::2".parse().unwrap(), now));
        assert!(limit.admit("2001:db8:0:1::1".parse().unwrap(), now));
        assert!(limit.admit("::ffff:192.0.2.7".parse().unwrap(), now));
        assert!(!limit.admit("192.0.2.7".parse().unwrap(), now), "a mapped address is the v4 address");
    }

    #[test]
    fn a_flood_from_many_addresses_is_forgotten_and_not_kept() {
        let mut limit = AttemptLimit::new(1, 0.0);
        limit.generation = 100;
        let now = Instant::now();
        for i in 0..10_000u32 {
            limit.admit(IpAddr::from(i.to_be_bytes()), now);
        }
        assert!(limit.remembered() <= 200, "{}", limit.remembered());
    }

    #[test]
    fn an_address_holds_its_places_until_it_gives_them_back() {
        let places = Places::new(2);
        let (one, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = places.take(one).unwrap();
        let _second = places.take(one).unwrap();
        assert!(places.take(one).is_none());
        let third = places.take(other).unwrap();
        drop((first, third));
        assert!(places.take(one).is_some());
        assert_eq!(places.held.lock().unwrap().len(), 1, "who holds nothing is forgotten");
    }
}
