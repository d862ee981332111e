//! Which addresses a name that somebody else resolves may lead to.
//!
//! A name is configuration, but the answer of a resolver is not: a name that points inward would turn whoever dials it
//! into a probe of its own network and of the cloud's metadata service. So the check is made on the address that is about
//! to be dialled, after resolution, for every dial.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is not dialled; `None` when it may be.
///
/// `allow_private` opens loopback and private ranges. Link-local addresses, where
/// the clouds' metadata services live, are never opened: nobody serves anything there.
#[must_use]
pub fn forbidden(address: IpAddr, allow_private: bool) -> Option<&'static str> {
    let reach = match address {
        IpAddr::V4(v4) => reach_v4(v4),
        IpAddr::V6(v6) => reach_v6(v6),
    };
    match reach {
        Reach::Public => None,
        Reach::Private(_) if allow_private => None,
        Reach::Private(why) | Reach::Never(why) => Some(why),
    }
}

enum Reach {
    Public,
    Private(&'static str),
    Never(&'static str),
}

fn reach_v4(ip: Ipv4Addr) -> Reach {
    let [a, b, c, _] = ip.octets();
    match (a, b, c) {
        (0, ..) => Reach::Never("unspecified"),
        (127, ..) => Reach::Private("loopback"),
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => Reach::Private("private"),
        // Shared address space, RFC 6598; one cloud's metadata service is in it.
        (100, 64..=127, _) => Reach::Private("shared address space"),
        (169, 254, _) => Reach::Never("link-local, where metadata services live"),
        (192, 0, 0) => Reach::Never("reserved for protocols"),
        (198, 18..=19, _) => Reach::Never("reserved for benchmarks"),
        (224..=239, ..) => Reach::Never("multicast"),
        (240..=255, ..) => Reach::Never("reserved"),
        _ => Reach::Public,
    }
}

fn reach_v6(ip: Ipv6Addr) -> Reach {
    if let Some(v4) = ip.to_ipv4_mapped() {
        return reach_v4(v4);
    }
    if ip.is_loopback() {
        return Reach::Private("loopback");
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7] = ip.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        reach_v4(Ipv4Addr::new(a, b, c, d))
    };
    match s0 {
        // ::/96, the unspecified address among them.
        0 if [s1, s2, s3, s4, s5] == [0; 5] => Reach::Never("unspecified"),
        // Translated to v4 by a NAT64 gateway or a 6to4 relay: judged by what it becomes.
        0x64 if s1 == 0xff9b && [s2, s3, s4, s5] == [0; 4] => embedded(s6, s7),
        0x64 if s1 == 0xff9b => Reach::Never("local-use translation prefix"),
        0x2002 => embedded(s1, s2),
        _ if s0 & 0xfe00 == 0xfc00 => Reach::Private("unique local"),
        _ if s0 & 0xffc0 == 0xfe80 => Reach::Never("link-local, where metadata services live"),
        _ if s0 & 0xffc0 == 0xfec0 => Reach::Never("site-local"),
        _ if s0 & 0xff00 == 0xff00 => Reach::Never("multicast"),
        _ => Reach::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str, allow_private: bool) -> bool {
        forbidden(address.parse().unwrap(), allow_private).is_some()
    }

    #[test]
    fn inward_addresses_are_refused_in_every_spelling() {
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.100.100.200",
            "169.254.169.254",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:a9fe:a9fe::1",
            "fe80::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(refused(address, false), "{address}");
        }
    }

    #[test]
    fn public_addresses_pass() {
        for address in ["192.0.2.1", "172.32.0.1", "100.128.0.1", "2001:db8::1", "64:ff9b::c000:201"] {
            assert!(!refused(address, false), "{address}");
        }
    }

    #[test]
    fn development_opens_private_addresses_and_never_the_metadata_service() {
        for address in ["127.0.0.1", "::1", "10.0.0.1", "fd00::1"] {
            assert!(!refused(address, true), "{address}");
        }
        for address in ["169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1", "::ffff:169.254.169.254"] {
            assert!(refused(address, true), "{address}");
        }
    }
}
