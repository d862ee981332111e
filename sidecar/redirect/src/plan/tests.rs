use proptest::prelude::*;

use super::*;
use crate::options::{Dns, Options};

/// What the rules look at.
#[derive(Debug, Clone, Copy)]
struct Packet {
    source: IpAddr,
    destination: IpAddr,
    /// From this port.
    from: u16,
    port: u16,
    uid: u32,
    gid: u32,
    /// Over the loopback interface.
    loopback: bool,
    /// To an address of this host.
    here: bool,
    invalid: bool,
}

fn fits(rule: &Rule, packet: &Packet) -> bool {
    let owned = |owner| match owner {
        Owner::Uid(ids) => (ids.first..=ids.last).contains(&packet.uid),
        Owner::Gid(ids) => (ids.first..=ids.last).contains(&packet.gid),
    };
    rule.family.is_none_or(|family| family == Family::of(packet.destination))
        && (!rule.loopback || packet.loopback)
        && rule.owner.is_none_or(owned)
        && rule.source.is_none_or(|source| source.contains(packet.source))
        && rule.destination.is_none_or(|to| to.range.contains(packet.destination) != to.except)
        && (!rule.elsewhere || !packet.here)
        && rule.from.is_none_or(|ports| (ports.first..=ports.last).contains(&packet.from))
        && rule.ports.is_none_or(|ports| (ports.first..=ports.last).contains(&packet.port))
        && (!rule.invalid || packet.invalid)
}

/// What the kernel would do: the first rule that fits.
fn decide(plan: &Plan, hook: Hook, packet: &Packet) -> Verdict {
    let found = plan.at(hook).find(|step| fits(&step.rule, packet));
    found.map_or(Verdict::Leave, |step| step.rule.verdict)
}

const SIDECAR: u32 = 2102;
const NAMES: Verdict = Verdict::Redirect(15053);
const ZONE: Verdict = Verdict::Zone(15053);
const OUT: Verdict = Verdict::Redirect(15001);
const IN: Verdict = Verdict::Redirect(15006);

fn plan(edit: impl FnOnce(&mut Options)) -> Plan {
    let mut options = Options { uid: Some(SIDECAR), ..Options::default() };
    edit(&mut options);
    Plan::of(&options.resolve(None, true).unwrap())
}

/// Dialled by this user.
fn dials(uid: u32, source: &str, destination: &str, port: u16) -> Packet {
    let (source, destination): (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
    // The kernel sends over the loopback interface what is for itself.
    let here = destination.is_loopback() || source == destination || source.is_loopback();
    Packet { source, destination, from: 40_000, port, uid, gid: uid, loopback: here, here, invalid: false }
}

#[test]
fn the_app_to_elsewhere_goes_through_the_sidecar_and_to_itself_does_not() {
    let plan = plan(|_| {});
    for (own, service, loopback) in [("10.1.0.2", "10.96.0.7", "127.0.0.1"), ("fd00::2", "fd96::7", "::1")] {
        let decide = |packet| decide(&plan, Hook::Output, &packet);
        assert_eq!(decide(dials(1000, own, service, 8080)), OUT);
        assert_eq!(decide(dials(1000, loopback, loopback, 8080)), Verdict::Leave);
        assert_eq!(decide(dials(1000, own, own, 8080)), Verdict::Leave);
        assert_eq!(decide(dials(1000, own, service, 53)), Verdict::Leave, "DNS");
    }
}

#[test]
fn captured_queries_go_to_the_name_server_wherever_they_were_going_and_the_sidecars_own_do_not() {
    let plan = plan(|options| {
        options.dns = Some(Dns::Capture);
        options.exclude_uids = vec!["101".parse().unwrap()];
        options.exclude_outbound_ranges = vec!["10.96.0.11".parse().unwrap(), "fd96::11".parse().unwrap()];
        options.only_outbound_ranges = vec!["10.100.0.0/16".parse().unwrap()];
    });
    for hook in [Hook::Output, Hook::Dns] {
        for (own, resolver, excluded, loopback) in [
            ("10.1.0.2", "10.96.0.10", "10.96.0.11", "127.0.0.53"),
            ("fd00::2", "fd96::10", "fd96::11", "::1"),
        ] {
            let decide = |packet| decide(&plan, hook, &packet);
            assert_eq!(decide(dials(1000, own, resolver, 53)), NAMES);
            assert_eq!(decide(dials(1000, loopback, loopback, 53)), NAMES, "a resolver of this host");
            assert_eq!(decide(dials(SIDECAR, own, resolver, 53)), Verdict::Leave, "what it passes on");
            assert_eq!(decide(dials(SIDECAR, loopback, loopback, 53)), Verdict::Leave);
            assert_eq!(decide(dials(101, own, resolver, 53)), Verdict::Leave, "an excluded uid");
            assert_eq!(decide(dials(1000, own, excluded, 53)), Verdict::Leave, "an excluded range");
            assert_eq!(decide(dials(1000, own, resolver, 54)), Verdict::Leave, "another port");
        }
    }
}

#[test]
fn the_sidecar_is_left_alone_but_for_its_calls_to_its_own_pod() {
    let plan = plan(|_| {});
    for (own, peer, loopback) in [("10.1.0.2", "10.1.0.3", "127.0.0.1"), ("fd00::2", "fd00::3", "::1")] {
        let decide = |packet| decide(&plan, Hook::Output, &packet);
        assert_eq!(decide(dials(SIDECAR, own, peer, 8080)), Verdict::Leave, "a peer");
        assert_eq!(decide(dials(SIDECAR, own, own, 8080)), Verdict::Leave, "the app, from the inbound side");
        assert_eq!(decide(dials(SIDECAR, loopback, loopback, 8080)), Verdict::Leave, "the app on loopback");
        assert_eq!(decide(dials(SIDECAR, loopback, own, 8080)), IN, "its own pod, from the outbound side");
        assert_eq!(decide(dials(1000, loopback, own, 8080)), Verdict::Leave, "somebody else");
    }
}

#[test]
fn what_arrives_for_this_host_goes_to_the_inbound_listener_and_what_passes_does_not() {
    let plan = plan(|options| options.exclude_inbound_ports = vec!["9091".parse().unwrap()]);
    let arrives = Packet { here: true, loopback: false, ..dials(0, "10.1.0.9", "10.1.0.2", 8080) };
    assert_eq!(decide(&plan, Hook::Prerouting, &arrives), IN);
    assert_eq!(decide(&plan, Hook::Prerouting, &Packet { here: false, ..arrives }), Verdict::Leave);
    assert_eq!(decide(&plan, Hook::Prerouting, &Packet { loopback: true, ..arrives }), Verdict::Leave);
    assert_eq!(decide(&plan, Hook::Prerouting, &Packet { port: 9091, ..arrives }), Verdict::Leave);
    // Dropped is what would have been redirected, had conntrack known it.
    assert_eq!(decide(&plan, Hook::Invalid, &arrives), Verdict::Leave);
    let invalid = Packet { invalid: true, ..arrives };
    assert_eq!(decide(&plan, Hook::Invalid, &invalid), Verdict::Drop);
    assert_eq!(decide(&plan, Hook::Invalid, &Packet { port: 9091, ..invalid }), Verdict::Leave);
    assert_eq!(decide(&plan, Hook::Invalid, &Packet { here: false, ..invalid }), Verdict::Leave);
    assert_eq!(decide(&plan, Hook::Invalid, &Packet { loopback: true, ..invalid }), Verdict::Leave);
}

#[test]
fn only_what_is_named_is_redirected_where_something_is_named() {
    let plan = plan(|options| {
        options.only_uids = vec!["1000-1001".parse().unwrap()];
        options.only_outbound_ranges = vec!["10.96.0.0/16".parse().unwrap(), "fd96::/64".parse().unwrap()];
        options.only_inbound_ports = vec!["8080".parse().unwrap()];
    });
    let out = |uid, source, destination| decide(&plan, Hook::Output, &dials(uid, source, destination, 443));
    assert_eq!(out(1001, "10.1.0.2", "10.96.0.7"), OUT);
    assert_eq!(out(1001, "fd00::2", "fd96::7"), OUT);
    assert_eq!(out(1001, "10.1.0.2", "192.0.2.1"), Verdict::Leave);
    assert_eq!(out(1002, "10.1.0.2", "10.96.0.7"), Verdict::Leave);
    let arrives = Packet { here: true, loopback: false, ..dials(0, "10.1.0.9", "10.1.0.2", 8080) };
    assert_eq!(decide(&plan, Hook::Prerouting, &arrives), IN);
    assert_eq!(decide(&plan, Hook::Prerouting, &Packet { port: 22, ..arrives }), Verdict::Leave);
    assert_eq!(decide(&plan, Hook::Invalid, &Packet { port: 22, invalid: true, ..arrives }), Verdict::Leave);
}

#[test]
fn without_ipv6_nothing_of_it_is_redirected_and_iptables_has_no_rules_for_it() {
    let wanted = Options { uid: Some(SIDECAR), ..Options::default() }.resolve(None, false).unwrap();
    let plan = Plan::of(&wanted);
    assert_eq!(decide(&plan, Hook::Output, &dials(1000, "fd00::2", "fd96::7", 80)), Verdict::Leave);
    let own = dials(SIDECAR, "::1", "fd00::2", 80);
    assert_eq!(decide(&plan, Hook::Output, &own), Verdict::Leave);
    let arrives = Packet { here: true, loopback: false, invalid: true, ..dials(0, "fd00::9", "fd00::2", 80) };
    assert_eq!(decide(&plan, Hook::Prerouting, &arrives), Verdict::Leave);
    assert_eq!(decide(&plan, Hook::Invalid, &arrives), Verdict::Leave);
    assert_eq!(plan.families(), [Family::V4]);
    assert_eq!(decide(&plan, Hook::Output, &dials(1000, "10.1.0.2", "10.96.0.7", 80)), OUT);
}

#[test]
fn with_one_listener_only_its_side_is_redirected() {
    let outbound = plan(|options| options.inbound_port = Some("none".parse().unwrap()));
    assert!(outbound.at(Hook::Prerouting).next().is_none() && outbound.at(Hook::Invalid).next().is_none());
    let own = dials(SIDECAR, "127.0.0.1", "10.1.0.2", 80);
    assert_eq!(decide(&outbound, Hook::Output, &own), Verdict::Leave);
    let inbound = plan(|options| options.outbound_port = Some("none".parse().unwrap()));
    assert_eq!(decide(&inbound, Hook::Output, &dials(1000, "10.1.0.2", "10.96.0.7", 80)), Verdict::Leave);
    assert_eq!(decide(&inbound, Hook::Output, &own), IN);
}

fn address() -> impl Strategy<Value = IpAddr> {
    // Here and below: few enough that exclusions are met.
    prop_oneof![
        any::<u16>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | u32::from(bits)))),
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        any::<u16>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits((0xfd << 120) | u128::from(bits)))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        Just(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Just(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ]
}

pub(crate) fn range() -> impl Strategy<Value = Network> {
    (address(), 0..=128_u8).prop_map(|(ip, length)| {
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let length = length.min(bits);
        let text = match ip {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Ipv4Addr::from_bits(ip.to_bits() & mask).to_string()
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Ipv6Addr::from_bits(ip.to_bits() & mask).to_string()
            }
        };
        format!("{text}/{length}").parse().unwrap()
    })
}

fn ports() -> impl Strategy<Value = Ports> {
    (1..100_u16, 0..10_u16).prop_map(|(first, more)| Ports { first, last: first.saturating_add(more) })
}

fn ids() -> impl Strategy<Value = Ids> {
    (0..40_u32, 0..10_u32).prop_map(|(first, more)| Ids { first, last: first + more })
}

prop_compose! {
    /// Any options that are taken.
    pub(crate) fn wanted()(
        gid in any::<bool>(),
        listeners in 0..3_u8,
        exclude_inbound_ports in prop::collection::vec(ports(), 0..4),
        exclude_outbound_ports in prop::collection::vec(ports(), 0..4),
        exclude_outbound_ranges in prop::collection::vec(range(), 0..4),
        exclude_uids in prop::collection::vec(ids(), 0..3),
        only_inbound_ports in prop::collection::vec(ports(), 0..3),
        only_outbound_ranges in prop::collection::vec(range(), 0..3),
        only_uids in prop::collection::vec((40..60_u32).prop_map(Ids::one), 0..3),
        ipv6 in any::<bool>(),
        dns in any::<bool>(),
    ) -> Wanted {
        let mut sidecar = vec![Owner::Uid(Ids::one(SIDECAR))];
        if gid {
            sidecar.push(Owner::Gid(Ids::one(SIDECAR)));
        }
        Wanted {
            sidecar,
            outbound: (listeners != 1).then_some(15001),
            inbound: (listeners != 2).then_some(15006),
            dns: (dns && listeners != 1).then_some(15053),
            exclude_inbound_ports, exclude_outbound_ports, exclude_outbound_ranges, exclude_uids,
            only_inbound_ports, only_outbound_ranges, only_uids, ipv6,
        }
    }
}

prop_compose! {
    fn packet()(
        source in address(),
        destination in address(),
        from in prop_oneof![4 => 1..120_u16, 1 => Just(15053)],
        port in prop_oneof![9 => 1..120_u16, 1 => Just(53)],
        uid in prop_oneof![4 => 0..60_u32, 1 => Just(SIDECAR)],
        gid in prop_oneof![4 => 0..60_u32, 1 => Just(SIDECAR)],
        loopback in any::<bool>(),
        here in any::<bool>(),
        invalid in any::<bool>(),
    ) -> Packet {
        Packet { source, destination, from, port, uid, gid, loopback, here, invalid }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]
    #[test]
    fn what_is_excluded_is_never_touched_and_everything_else_that_is_asked_for_is(
        wanted in wanted(),
        packet in packet(),
    ) {
        let plan = Plan::of(&wanted);
        let in_ports = |list: &[Ports]| list.iter().any(|it| (it.first..=it.last).contains(&packet.port));
        let in_ids = |list: &[Ids], id: u32| list.iter().any(|it| (it.first..=it.last).contains(&id));
        let in_ranges = |list: &[Network]| list.iter().any(|it| it.contains(packet.destination));
        let family = wanted.ipv6 || packet.destination.is_ipv4();
        let sidecar = wanted.sidecar.iter().any(|owner| match owner {
            Owner::Uid(ids) => ids.first == packet.uid,
            Owner::Gid(ids) => ids.first == packet.gid,
        });

        let out = decide(&plan, Hook::Output, &packet);
        if sidecar {
            // The one way back in, and never to the outbound listener.
            let loopbacks: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            let own_pod = packet.loopback && loopbacks.contains(&packet.source) && !packet.destination.is_loopback()
                && packet.source.is_ipv4() == packet.destination.is_ipv4();
            prop_assert_eq!(out == IN, own_pod && family && wanted.inbound.is_some());
            prop_assert_ne!(out, OUT);
            prop_assert_ne!(out, NAMES);
            prop_assert_eq!(decide(&plan, Hook::Dns, &packet), Verdict::Leave);
            let answers = wanted.dns.is_some() && family && packet.from == 15053;
            prop_assert_eq!(decide(&plan, Hook::Zone, &packet), if answers { ZONE } else { Verdict::Leave });
        } else {
            let excluded = in_ids(&wanted.exclude_uids, packet.uid)
                || in_ports(&wanted.exclude_outbound_ports)
                || in_ranges(&wanted.exclude_outbound_ranges);
            let user = wanted.only_uids.is_empty() || in_ids(&wanted.only_uids, packet.uid);
            let named = user && (wanted.only_outbound_ranges.is_empty() || in_ranges(&wanted.only_outbound_ranges));
            let captured = wanted.dns.is_some() && packet.port == 53 && family && user && !excluded;
            let left = packet.loopback || packet.port == 53 && wanted.dns.is_none() || excluded;
            let redirected = wanted.outbound.is_some() && family && !left && named;
            let expected = if redirected { OUT } else { Verdict::Leave };
            prop_assert_eq!(out, if captured { NAMES } else { expected });
            prop_assert_eq!(decide(&plan, Hook::Dns, &packet), if captured { NAMES } else { Verdict::Leave });
            // What is captured is what has a zone of its own, and nothing else.
            prop_assert_eq!(decide(&plan, Hook::Zone, &packet), if captured { ZONE } else { Verdict::Leave });
        }

        let touched = wanted.inbound.is_some() && family && packet.here && !packet.loopback
            && !in_ports(&wanted.exclude_inbound_ports)
            && (wanted.only_inbound_ports.is_empty() || in_ports(&wanted.only_inbound_ports));
        let arrived = decide(&plan, Hook::Prerouting, &packet);
        prop_assert_eq!(arrived, if touched { IN } else { Verdict::Leave });
        let dropped = decide(&plan, Hook::Invalid, &packet);
        prop_assert_eq!(dropped, if touched && packet.invalid { Verdict::Drop } else { Verdict::Leave });
    }

    #[test]
    fn the_rules_of_one_family_decide_as_all_rules_do(wanted in wanted(), packet in packet()) {
        let plan = Plan::of(&wanted);
        let family = Family::of(packet.destination);
        if !plan.families().contains(&family) || Family::of(packet.source) != family {
            return Ok(());
        }
        for hook in Hook::ALL {
            let mut rules = plan.at(hook).filter_map(|step| step.rule.within(family));
            let found = rules.find(|rule| fits(rule, &packet)).map_or(Verdict::Leave, |rule| rule.verdict);
            prop_assert_eq!(found, decide(&plan, hook, &packet));
        }
    }
}
