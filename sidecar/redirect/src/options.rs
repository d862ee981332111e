//! What `redirect` is asked for: the command line, and the sidecar's configuration instead of its ports.
//!
//! A [`Wanted`] exists only when every part of it can be acted on. What cannot be meant is refused with what was
//! expected and what came: a range with host bits, the sidecar as user 0, a listener that nothing could reach.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use signet_model::Network;

use super::plan::{Family, Owner};
use super::values::{Ids, Listener, NOBODY, Ports};

/// Of each list: more is a mistake, and rules are looked at one by one. A pod may name 256, and the sidecar has two ports of
/// its own that go past it.
const MOST: usize = 258;

/// Why options are refused.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A value that cannot be acted on.
    #[error("{option}: expected {expected}, got {got}")]
    Value {
        /// The option, or the field of the configuration.
        option: String,
        /// What would be right.
        expected: String,
        /// What came.
        got: String,
    },
    /// The sidecar's configuration.
    #[error("{0}")]
    Config(String),
}

/// What a sidecar listens on, as its configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listeners {
    /// For redirected connections.
    pub transparent: Option<Transparent>,
    /// For captured queries.
    pub dns: Option<Vec<SocketAddr>>,
    /// What peers, Prometheus and the kubelet dial by themselves.
    pub direct: Vec<SocketAddr>,
}

/// Listeners for redirected connections; empty for a direction that is not redirected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transparent {
    /// For what the app dials.
    pub outbound: Vec<SocketAddr>,
    /// For what dials the app.
    pub inbound: Vec<SocketAddr>,
}

/// Reads the file of `--config`; an error is what is wrong with it.
pub type Load<'a> = &'a dyn Fn(&Path) -> Result<Listeners, String>;

fn wrong<T>(option: &str, expected: &str, got: impl fmt::Display) -> Result<T, OptionsError> {
    Err(OptionsError::Value {
        option: option.to_owned(),
        expected: expected.to_owned(),
        got: got.to_string(),
    })
}

/// The options of `redirect apply` and `redirect check`.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// The uid that only the sidecar runs as: its connections are left alone.
    #[arg(long, value_name = "UID")]
    pub uid: Option<u32>,
    /// The gid that only the sidecar runs as: the same, by group.
    #[arg(long, value_name = "GID")]
    pub gid: Option<u32>,
    /// Take the ports from the `transparent` and `dns` sections of this sidecar.yaml, and leave its `inbound`,
    /// `metrics` and `probes` ports alone.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["outbound_port", "inbound_port", "dns_port"])]
    pub config: Option<PathBuf>,
    /// The sidecar's port for what the app dials, or `none` [default: 15001].
    #[arg(long, value_name = "PORT")]
    pub outbound_port: Option<Listener>,
    /// The sidecar's port for what dials the app, or `none` [default: 15006].
    #[arg(long, value_name = "PORT")]
    pub inbound_port: Option<Listener>,
    /// Ports of this host that are reached directly: `22,9000-9010`.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub exclude_inbound_ports: Vec<Ports>,
    /// Ports elsewhere that are dialled directly.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub exclude_outbound_ports: Vec<Ports>,
    /// Addresses that are dialled directly: `10.1.0.0/16,fd00::/8`.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    pub exclude_outbound_ranges: Vec<Network>,
    /// Users whose connections are left alone: `0,100-199`.
    #[arg(long, value_name = "UIDS", value_delimiter = ',')]
    pub exclude_uids: Vec<Ids>,
    /// Redirect only these ports of what arrives; for hosts.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub only_inbound_ports: Vec<Ports>,
    /// Redirect only what is dialled at these addresses; for hosts.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    pub only_outbound_ranges: Vec<Network>,
    /// Redirect only what these users dial; for hosts.
    #[arg(long, value_name = "UIDS", value_delimiter = ',')]
    pub only_uids: Vec<Ids>,
    /// What happens to DNS [default: leave; with --config, capture where it has a `dns` section].
    #[arg(long, value_enum)]
    pub dns: Option<Dns>,
    /// The sidecar's port for captured DNS, UDP and TCP [default: 15053].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub dns_port: Option<u16>,
    /// Whether IPv6 is redirected; `auto`: where this network namespace has it.
    #[arg(long, value_enum, default_value_t = Ipv6::Auto)]
    pub ipv6: Ipv6,
}

/// What happens to DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dns {
    /// Port 53 is left alone, UDP as everything that is not TCP.
    Leave,
    /// Port 53 of both goes to the sidecar's name server.
    Capture,
}

/// Where queries go that are captured, if nothing says another port.
const DNS_PORT: u16 = 15053;

/// Whether IPv6 is redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Ipv6 {
    /// Where there is IPv6.
    #[default]
    Auto,
    /// Yes.
    On,
    /// No: it goes past the sidecar.
    Off,
}

/// Options that can be acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Whose connections are the sidecar's own.
    pub sidecar: Vec<Owner>,
    /// The listener for what the app dials.
    pub outbound: Option<u16>,
    /// The listener for what dials the app.
    pub inbound: Option<u16>,
    /// The name server's port, where DNS is captured.
    pub dns: Option<u16>,
    /// See [`Options`].
    pub exclude_inbound_ports: Vec<Ports>,
    /// See [`Options`].
    pub exclude_outbound_ports: Vec<Ports>,
    /// See [`Options`].
    pub exclude_outbound_ranges: Vec<Network>,
    /// See [`Options`].
    pub exclude_uids: Vec<Ids>,
    /// See [`Options`]; empty: all.
    pub only_inbound_ports: Vec<Ports>,
    /// See [`Options`]; empty: all.
    pub only_outbound_ranges: Vec<Network>,
    /// See [`Options`]; empty: all.
    pub only_uids: Vec<Ids>,
    /// Whether IPv6 is redirected.
    pub ipv6: bool,
}

impl Options {
    /// Reads the configuration where one is named, and decides. `ipv6_here`: whether the namespace has IPv6.
    pub fn wanted(&self, load: Load<'_>, ipv6_here: bool) -> Result<Wanted, OptionsError> {
        let config = self.config.as_deref().map(load).transpose().map_err(OptionsError::Config)?;
        self.resolve(config.as_ref(), ipv6_here)
    }

    /// Decides by the options, and by these listeners instead of ports where there are some.
    pub fn resolve(&self, config: Option<&Listeners>, ipv6_here: bool) -> Result<Wanted, OptionsError> {
        let ipv6 = match self.ipv6 {
            Ipv6::Auto => ipv6_here,
            Ipv6::On => true,
            Ipv6::Off => false,
        };
        let mut sidecar = Vec::new();
        for (option, id, owner) in [
            ("--uid", self.uid, Owner::Uid as fn(Ids) -> Owner),
            ("--gid", self.gid, Owner::Gid as fn(Ids) -> Owner),
        ] {
            match id {
                // Whoever else is root, or in root's group, would go past the sidecar.
                Some(0) => return wrong(option, "an id that only the sidecar has", "0"),
                Some(NOBODY) => return wrong(option, "an id", "the one that stands for none"),
                Some(id) => sidecar.push(owner(Ids::one(id))),
                None => {}
            }
        }
        if sidecar.is_empty() {
            return wrong("--uid or --gid", "the id that only the sidecar runs as", "neither");
        }
        self.bounded()?;
        let mut wanted = Wanted {
            sidecar,
            outbound: self.outbound_port.unwrap_or(Listener(Some(15001))).0,
            inbound: self.inbound_port.unwrap_or(Listener(Some(15006))).0,
            dns: (self.dns == Some(Dns::Capture)).then(|| self.dns_port.unwrap_or(DNS_PORT)),
            exclude_inbound_ports: self.exclude_inbound_ports.clone(),
            exclude_outbound_ports: self.exclude_outbound_ports.clone(),
            exclude_outbound_ranges: self.exclude_outbound_ranges.clone(),
            exclude_uids: self.exclude_uids.clone(),
            only_inbound_ports: self.only_inbound_ports.clone(),
            only_outbound_ranges: self.only_outbound_ranges.clone(),
            only_uids: self.only_uids.clone(),
            ipv6,
        };
        if let Some(config) = config {
            wanted.follow(config, self.dns)?;
        } else if let (Some(port), None) = (self.dns_port, wanted.dns) {
            return wrong("--dns-port", "--dns capture beside it", port);
        }
        wanted.check()?;
        Ok(wanted)
    }

    fn bounded(&self) -> Result<(), OptionsError> {
        for (option, length) in [
            ("--exclude-inbound-ports", self.exclude_inbound_ports.len()),
            ("--exclude-outbound-ports", self.exclude_outbound_ports.len()),
            ("--exclude-outbound-ranges", self.exclude_outbound_ranges.len()),
            ("--exclude-uids", self.exclude_uids.len()),
            ("--only-inbound-ports", self.only_inbound_ports.len()),
            ("--only-outbound-ranges", self.only_outbound_ranges.len()),
            ("--only-uids", self.only_uids.len()),
        ] {
            if length > MOST {
                return wrong(option, "at most 258 entries", length);
            }
        }
        Ok(())
    }
}

impl Wanted {
    /// Takes over what the sidecar is configured to listen on.
    fn follow(&mut self, config: &Listeners, dns: Option<Dns>) -> Result<(), OptionsError> {
        let Some(transparent) = &config.transparent else {
            return wrong("transparent", "a section with the listeners to redirect to", "none");
        };
        self.outbound = self.port("transparent.outbound", &transparent.outbound, true)?;
        self.inbound = self.port("transparent.inbound", &transparent.inbound, false)?;
        self.dns = match (dns, &config.dns) {
            (Some(Dns::Leave), _) | (None, None) => None,
            (_, Some(section)) => self.port("dns.listen", section, true)?,
            (Some(Dns::Capture), None) => {
                return wrong("dns", "a section with the listener for captured queries", "none");
            }
        };
        // Peers and Prometheus come to these by themselves.
        for listen in config.direct.iter().filter(|listen| !listen.ip().is_loopback()) {
            let ports = Ports { first: listen.port(), last: listen.port() };
            if !self.exclude_inbound_ports.contains(&ports) {
                self.exclude_inbound_ports.push(ports);
            }
        }
        Ok(())
    }

    /// The one port of these listeners, if a redirected connection of each family gets there: netfilter sends what
    /// begins here to the loopback address, the sidecar's calls to its own pod among it, and what arrives to an
    /// address of the interface. `local`: only what begins here comes.
    fn port(&self, field: &str, listeners: &[SocketAddr], local: bool) -> Result<Option<u16>, OptionsError> {
        let Some(first) = listeners.first() else { return Ok(None) };
        if first.port() == 0 {
            return wrong(field, "a port that can be known before the start", "port 0");
        }
        if let Some(other) = listeners.iter().find(|other| other.port() != first.port()) {
            return wrong(field, &format!("one port for all, such as {}", first.port()), other);
        }
        let families: &[(Family, &str)] = if self.ipv6 {
            &[(Family::V4, "0.0.0.0"), (Family::V6, "[::]")]
        } else {
            &[(Family::V4, "0.0.0.0")]
        };
        for (family, every) in families {
            let loopbacks: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            let reached = |ip: IpAddr| {
                Family::of(ip) == *family && (ip.is_unspecified() || local && loopbacks.contains(&ip))
            };
            if !listeners.iter().any(|listener| reached(listener.ip())) {
                let off = if *family == Family::V6 { ", or --ipv6 off" } else { "" };
                let expected = format!("a listener for {family}, such as '{every}:{}'{off}", first.port());
                let got: Vec<_> = listeners.iter().map(ToString::to_string).collect();
                return wrong(field, &expected, got.join(", "));
            }
        }
        Ok(Some(first.port()))
    }

    fn check(&self) -> Result<(), OptionsError> {
        if self.outbound.is_none() && self.inbound.is_none() {
            return wrong("--outbound-port and --inbound-port", "at least one port", "none for both");
        }
        if self.outbound == self.inbound {
            return wrong(
                "--inbound-port",
                "another port than --outbound-port",
                self.inbound.unwrap_or_default(),
            );
        }
        if let Some(dns) = self.dns
            && (self.outbound == Some(dns) || self.inbound == Some(dns))
        {
            return wrong("--dns-port", "another port than --outbound-port and --inbound-port", dns);
        }
        if self.outbound.is_none() && self.dns.is_some() {
            // The addresses that it answers with lead nowhere else.
            return wrong("--dns", "leave without an outbound port", "capture");
        }
        if self.outbound.is_none() {
            for (option, used) in [
                ("--exclude-outbound-ports", !self.exclude_outbound_ports.is_empty()),
                ("--exclude-outbound-ranges", !self.exclude_outbound_ranges.is_empty()),
                ("--exclude-uids", !self.exclude_uids.is_empty()),
                ("--only-outbound-ranges", !self.only_outbound_ranges.is_empty()),
                ("--only-uids", !self.only_uids.is_empty()),
            ] {
                if used {
                    return wrong(option, "nothing without an outbound port", "a list");
                }
            }
        }
        if self.inbound.is_none() && !self.only_inbound_ports.is_empty() {
            return wrong("--only-inbound-ports", "nothing without an inbound port", "a list");
        }
        if !self.ipv6
            && let Some(range) =
                self.only_outbound_ranges.iter().find(|range| Family::of(range.ip()) == Family::V6)
        {
            return wrong("--only-outbound-ranges", "IPv4 only, since IPv6 is not redirected", range);
        }
        for ids in &self.only_uids {
            for owner in &self.sidecar {
                if let Owner::Uid(own) = owner
                    && ids.first <= own.last
                    && own.first <= ids.last
                {
                    return wrong("--only-uids", "users other than the sidecar's", ids);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
