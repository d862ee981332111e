//! Which connections are redirected, as an ordered list of rules; the first that fits decides.
//!
//! All rules are about TCP, but for those that capture DNS over UDP. They look at the first packet of a connection
//! only, so that their number costs nothing later. Each is simple enough that both backends say it in one line, and that it can be read back.
//!
//! What leaves (`output`):
//! 1. The sidecar calls its own pod: to its inbound listener, as a peer's call would. The sidecar marks such a
//!    call by its source, the loopback address, which no other connection to a non-loopback address has.
//! 2. Anything else of the sidecar is left alone, so that nothing of it ever comes back to it.
//! 3. What stays on the loopback interface is left alone: `127.0.0.1`, `::1`, the pod's own addresses.
//! 4. DNS, and what is excluded, is left alone. The rest goes to the outbound listener.
//!
//! Where DNS is captured (`output` for TCP, `dns` for UDP), what is excluded is left alone before 3, and then port 53
//! goes to the sidecar's name server: on the loopback interface, too, where many hosts have their resolver. Nothing
//! else over UDP is touched. Only the first packet of what conntrack takes for one flow is looked at, and for UDP that is
//! whatever has the same addresses and ports within half a minute: a query that went past the sidecar before, or one of
//! the sidecar's own, would lead the next one past it. So captured queries and their answers are flows of a zone of their own (`zone`),
//! as is what the kernel says of them (`errors`), since an app would not recognise its query in it otherwise.
//!
//! What arrives (`prerouting`): for an address of this host, unless excluded, to the inbound listener. Packets that
//! conntrack does not know for a part of a connection (`invalid`) would go past the redirect, to a port where the
//! app knows nothing of them, and its reset would end the peer's connection: they are dropped.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use signet_model::Network;

use super::options::Wanted;
use super::values::{Ids, Ports};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Where a rule is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Connections that begin here, before their destination is decided.
    Output,
    /// What leaves over UDP, before conntrack has looked at it.
    Zone,
    /// The same over ICMP.
    Errors,
    /// The same as `Output` over UDP, for DNS.
    Dns,
    /// Connections that arrive, before their destination is decided.
    Prerouting,
    /// Every packet that arrives, once conntrack has looked at it.
    Invalid,
}

impl Hook {
    /// All of them, in the order in which they are written.
    pub const ALL: [Hook; 6] =
        [Hook::Output, Hook::Zone, Hook::Errors, Hook::Dns, Hook::Prerouting, Hook::Invalid];

    /// What all its rules of a family are about: the name, and the number in IP.
    pub fn transport(self, family: Option<Family>) -> (&'static str, u64) {
        match (self, family) {
            (Hook::Zone | Hook::Dns, _) => ("udp", 17),
            (Hook::Errors, Some(Family::V6)) => ("ipv6-icmp", 58),
            (Hook::Errors, _) => ("icmp", 1),
            (Hook::Output | Hook::Prerouting | Hook::Invalid, _) => ("tcp", 6),
        }
    }

    /// Whether it sees what leaves.
    pub fn leaves(self) -> bool {
        matches!(self, Hook::Output | Hook::Zone | Hook::Errors | Hook::Dns)
    }
}

/// Whose socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A user.
    Uid(Ids),
    /// A group.
    Gid(Ids),
}

/// What is done with what fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It goes where it was going.
    Leave,
    /// To this port of this host.
    Redirect(u16),
    /// Conntrack takes it for a flow of this zone.
    Zone(u16),
    /// The packet goes nowhere.
    Drop,
}

/// A destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// The range.
    pub range: Network,
    /// Everything but the range.
    pub except: bool,
}

/// One rule about its hook's transport: everything that is set must fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Where.
    pub hook: Hook,
    /// Of this family only.
    pub family: Option<Family>,
    /// Over the loopback interface.
    pub loopback: bool,
    /// Of this owner.
    pub owner: Option<Owner>,
    /// From there.
    pub source: Option<Network>,
    /// To there.
    pub destination: Option<Destination>,
    /// To an address that is none of this host's.
    pub elsewhere: bool,
    /// From one of these ports.
    pub from: Option<Ports>,
    /// To one of these ports.
    pub ports: Option<Ports>,
    /// What conntrack calls invalid.
    pub invalid: bool,
    /// Then this.
    pub verdict: Verdict,
}

impl Rule {
    /// A rule that everything fits.
    pub fn all(hook: Hook, verdict: Verdict) -> Self {
        Rule {
            hook,
            family: None,
            loopback: false,
            owner: None,
            source: None,
            destination: None,
            elsewhere: false,
            from: None,
            ports: None,
            invalid: false,
            verdict,
        }
    }

    /// The same rule where there is only this family; `None`: it is about the other one.
    pub fn within(mut self, family: Family) -> Option<Self> {
        if self.family.is_some_and(|own| own != family) {
            return None;
        }
        self.family = Some(family);
        // Every address: nothing is asked.
        if self.destination.is_some_and(|to| to.range.length() == 0 && !to.except) {
            self.destination = None;
        }
        Some(self)
    }
}

/// A rule and the reason for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The rule.
    pub rule: Rule,
    /// Why it is there: a comment in the kernel's table, where the backend has comments.
    pub why: &'static str,
}

/// All rules in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Hook by hook.
    pub steps: Vec<Step>,
    /// Whether IPv6 is redirected too.
    pub ipv6: bool,
}

impl Plan {
    /// What the options ask for.
    pub fn of(wanted: &Wanted) -> Self {
        let mut steps = Vec::new();
        if let Some(port) = wanted.outbound {
            output(wanted, port, &mut steps);
            if let Some(port) = wanted.dns {
                zone(wanted, port, &mut steps);
                dns(wanted, port, &mut steps);
            }
        }
        if let Some(port) = wanted.inbound {
            if wanted.outbound.is_none() {
                own_calls(wanted, port, &mut steps);
            }
            let redirect = Verdict::Redirect(port);
            inbound(wanted, Hook::Prerouting, redirect, "to the inbound listener", &mut steps);
            inbound(wanted, Hook::Invalid, Verdict::Drop, "no part of a known connection", &mut steps);
        }
        Plan { steps, ipv6: wanted.ipv6 }
    }

    /// The rules of one hook.
    pub fn at(&self, hook: Hook) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(move |step| step.rule.hook == hook)
    }

    /// The families that are redirected.
    pub fn families(&self) -> &'static [Family] {
        if self.ipv6 { &[Family::V4, Family::V6] } else { &[Family::V4] }
    }
}

/// Where the backend has one table for both families, the one that is not redirected is left first.
fn without_ipv6(wanted: &Wanted, hook: Hook, steps: &mut Vec<Step>) {
    if !wanted.ipv6 {
        let rule = Rule { family: Some(Family::V6), ..Rule::all(hook, Verdict::Leave) };
        steps.push(Step { rule, why: "IPv6 is left alone" });
    }
}

/// Calls of the sidecar to its own pod come in as a peer's would.
fn own_calls(wanted: &Wanted, port: u16, steps: &mut Vec<Step>) {
    without_ipv6(wanted, Hook::Output, steps);
    let loopbacks = [
        (Family::V4, Network::host(Ipv4Addr::LOCALHOST.into()), Network::LOOPBACK_V4),
        (Family::V6, Network::host(Ipv6Addr::LOCALHOST.into()), Network::host(Ipv6Addr::LOCALHOST.into())),
    ];
    for owner in &wanted.sidecar {
        for (family, source, loopback) in loopbacks {
            let rule = Rule {
                family: Some(family),
                loopback: true,
                owner: Some(*owner),
                source: Some(source),
                destination: Some(Destination { range: loopback, except: true }),
                ..Rule::all(Hook::Output, Verdict::Redirect(port))
            };
            if family == Family::V4 || wanted.ipv6 {
                steps.push(Step { rule, why: "the sidecar calls its own pod" });
            }
        }
    }
}

fn output(wanted: &Wanted, port: u16, steps: &mut Vec<Step>) {
    match wanted.inbound {
        Some(inbound) => own_calls(wanted, inbound, steps),
        None => without_ipv6(wanted, Hook::Output, steps),
    }
    let leave = Rule::all(Hook::Output, Verdict::Leave);
    the_sidecar(wanted, Hook::Output, steps);
    let local = Step { rule: Rule { loopback: true, ..leave }, why: "stays on this host" };
    match wanted.dns {
        Some(dns) => {
            excluded(wanted, Hook::Output, steps);
            let redirect = Verdict::Redirect(dns);
            names(wanted, Hook::Output, redirect, "DNS, to the sidecar's name server", steps);
            steps.push(local);
        }
        None => {
            steps.push(local);
            steps.push(Step { rule: Rule { ports: Some(Ports::DNS), ..leave }, why: "DNS" });
            excluded(wanted, Hook::Output, steps);
        }
    }
    let mut push = |rule, why| steps.push(Step { rule, why });
    let redirect = Rule::all(Hook::Output, Verdict::Redirect(port));
    for owner in only(wanted) {
        let rule = Rule { owner, ..redirect };
        if wanted.only_outbound_ranges.is_empty() {
            push(rule, "to the outbound listener");
        }
        for range in &wanted.only_outbound_ranges {
            if let Some(rule) = to(rule, *range, wanted.ipv6) {
                push(rule, "to the outbound listener");
            }
        }
    }
}

/// Captured queries over UDP.
fn dns(wanted: &Wanted, port: u16, steps: &mut Vec<Step>) {
    without_ipv6(wanted, Hook::Dns, steps);
    the_sidecar(wanted, Hook::Dns, steps);
    excluded(wanted, Hook::Dns, steps);
    names(wanted, Hook::Dns, Verdict::Redirect(port), "DNS, to the sidecar's name server", steps);
}

/// Captured queries, and what the name server answers, apart from all other flows. The zone has the number of its port.
fn zone(wanted: &Wanted, port: u16, steps: &mut Vec<Step>) {
    let zone = Verdict::Zone(port);
    without_ipv6(wanted, Hook::Zone, steps);
    for owner in &wanted.sidecar {
        let from = Some(Ports { first: port, last: port });
        let rule = Rule { owner: Some(*owner), from, ..Rule::all(Hook::Zone, zone) };
        steps.push(Step { rule, why: "answers of the name server" });
    }
    the_sidecar(wanted, Hook::Zone, steps);
    excluded(wanted, Hook::Zone, steps);
    names(wanted, Hook::Zone, zone, "captured DNS", steps);
    for family in [Family::V4, Family::V6] {
        let rule = Rule { family: Some(family), loopback: true, ..Rule::all(Hook::Errors, zone) };
        if family == Family::V4 || wanted.ipv6 {
            steps.push(Step { rule, why: "that nobody listens there" });
        }
    }
}

fn the_sidecar(wanted: &Wanted, hook: Hook, steps: &mut Vec<Step>) {
    for owner in &wanted.sidecar {
        let rule = Rule { owner: Some(*owner), ..Rule::all(hook, Verdict::Leave) };
        steps.push(Step { rule, why: "the sidecar itself" });
    }
}

fn excluded(wanted: &Wanted, hook: Hook, steps: &mut Vec<Step>) {
    let leave = Rule::all(hook, Verdict::Leave);
    let mut push = |rule, why| steps.push(Step { rule, why });
    for ids in &wanted.exclude_uids {
        push(Rule { owner: Some(Owner::Uid(*ids)), ..leave }, "excluded uid");
    }
    for ports in &wanted.exclude_outbound_ports {
        push(Rule { ports: Some(*ports), ..leave }, "excluded port");
    }
    for range in &wanted.exclude_outbound_ranges {
        if let Some(rule) = to(leave, *range, wanted.ipv6) {
            push(rule, "excluded range");
        }
    }
}

/// Queries go to the sidecar's name server, whoever was asked: a resolver is rarely in the ranges that are redirected.
fn names(wanted: &Wanted, hook: Hook, verdict: Verdict, why: &'static str, steps: &mut Vec<Step>) {
    for owner in only(wanted) {
        let rule = Rule { owner, ports: Some(Ports::DNS), ..Rule::all(hook, verdict) };
        steps.push(Step { rule, why });
    }
}

/// Whose connections are redirected: everybody's, or these users'.
fn only(wanted: &Wanted) -> Vec<Option<Owner>> {
    if wanted.only_uids.is_empty() {
        return vec![None];
    }
    wanted.only_uids.iter().map(|ids| Some(Owner::Uid(*ids))).collect()
}

/// A rule about a range; none where its family is not redirected anyway.
fn to(rule: Rule, range: Network, ipv6: bool) -> Option<Rule> {
    let family = Family::of(range.ip());
    let destination = Some(Destination { range, except: false });
    (family == Family::V4 || ipv6).then_some(Rule { family: Some(family), destination, ..rule })
}

/// What arrives. Redirected and dropped are the same ports: what is excluded is not touched at all.
fn inbound(wanted: &Wanted, hook: Hook, verdict: Verdict, why: &'static str, steps: &mut Vec<Step>) {
    without_ipv6(wanted, hook, steps);
    let leave = Rule::all(hook, Verdict::Leave);
    let mut push = |rule, why| steps.push(Step { rule, why });
    push(Rule { loopback: true, ..leave }, "stays on this host");
    push(Rule { elsewhere: true, ..leave }, "passes through");
    for ports in &wanted.exclude_inbound_ports {
        push(Rule { ports: Some(*ports), ..leave }, "excluded port");
    }
    let rule = Rule { invalid: hook == Hook::Invalid, ..Rule::all(hook, verdict) };
    if wanted.only_inbound_ports.is_empty() {
        push(rule, why);
    }
    for ports in &wanted.only_inbound_ports {
        push(Rule { ports: Some(*ports), ..rule }, why);
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

impl Family {
    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

#[cfg(test)]
pub(crate) mod tests;
