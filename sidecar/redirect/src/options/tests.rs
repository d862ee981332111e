use std::path::Path;

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

fn parse(line: &str) -> Result<Options, String> {
    let words = std::iter::once("redirect").chain(line.split(' ').filter(|word| !word.is_empty()));
    Line::try_parse_from(words).map(|line| line.options).map_err(|error| error.to_string())
}

fn resolve(line: &str) -> Result<Wanted, String> {
    parse(line)?.resolve(None, true).map_err(|error| error.to_string())
}

fn at(addresses: &[&str]) -> Vec<SocketAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

fn listening(outbound: &[&str], inbound: &[&str]) -> Listeners {
    let transparent = Some(Transparent { outbound: at(outbound), inbound: at(inbound) });
    Listeners { transparent, ..Listeners::default() }
}

fn follow(listeners: &Listeners, ipv6: bool) -> Result<Wanted, String> {
    parse("--uid 2102")?.resolve(Some(listeners), ipv6).map_err(|error| error.to_string())
}

#[track_caller]
fn refused<T>(result: Result<T, String>, words: &[&str]) {
    let message = result.err().expect("a refusal");
    for word in words {
        assert!(message.contains(word), "{word:?} in {message:?}");
    }
}

#[test]
fn what_is_not_said_is_as_the_docs_have_it() {
    let wanted = resolve("--uid 2102").unwrap();
    assert_eq!((wanted.outbound, wanted.inbound, wanted.ipv6), (Some(15001), Some(15006), true));
    assert_eq!(wanted.dns, None);
    assert_eq!(resolve("--uid 2102 --dns capture").unwrap().dns, Some(15053));
    assert_eq!(resolve("--uid 2102 --dns capture --dns-port 5353").unwrap().dns, Some(5353));
    assert_eq!(wanted.sidecar, [Owner::Uid(Ids::one(2102))]);
    assert!(wanted.exclude_inbound_ports.is_empty() && wanted.only_uids.is_empty());
    let wanted = resolve("--gid 7 --inbound-port none --ipv6 off --dns leave").unwrap();
    assert_eq!((wanted.outbound, wanted.inbound, wanted.ipv6), (Some(15001), None, false));
    assert_eq!(wanted.sidecar, [Owner::Gid(Ids::one(7))]);
}

#[test]
fn lists_are_separated_by_commas() {
    let wanted = resolve(
        "--uid 1 --exclude-inbound-ports 22,9000-9010 --exclude-outbound-ranges 10.1.0.0/16,fd00::/8,192.0.2.1 \
         --exclude-uids 0,100-199",
    )
    .unwrap();
    assert_eq!(wanted.exclude_inbound_ports[1], Ports { first: 9000, last: 9010 });
    let ranges: Vec<_> = wanted.exclude_outbound_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.1.0.0/16", "fd00::/8", "192.0.2.1/32"]);
    assert_eq!(wanted.exclude_uids[1], Ids { first: 100, last: 199 });
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_was_expected_and_what_came() {
    refused(resolve(""), &["--uid or --gid", "only the sidecar", "got neither"]);
    refused(resolve("--uid 0"), &["--uid", "only the sidecar", "got 0"]);
    refused(resolve("--gid 0"), &["--gid", "got 0"]);
    refused(resolve("--uid 4294967295"), &["--uid"]);
    refused(resolve("--uid sidecar"), &["--uid", "sidecar"]);
    refused(resolve("--uid 1 --outbound-port 0"), &["--outbound-port", "1-65535", "\"0\""]);
    refused(resolve("--uid 1 --outbound-port 99999"), &["--outbound-port", "99999"]);
    refused(resolve("--uid 1 --exclude-inbound-ports 9010-9000"), &["9000-9010", "9010-9000"]);
    refused(resolve("--uid 1 --exclude-inbound-ports +22"), &["a port", "+22"]);
    refused(resolve("--uid 1 --exclude-inbound-ports 22,,23"), &["a port", "\"\""]);
    refused(resolve("--uid 1 --exclude-outbound-ranges 10.1.0.1/16"), &["10.1.0.0/16", "10.1.0.1/32"]);
    refused(resolve("--uid 1 --exclude-outbound-ranges 10.1.0.0/33"), &["10.1.0.0/33"]);
    refused(resolve("--uid 1 --exclude-outbound-ranges example.com"), &["addresses", "example.com"]);
    refused(resolve("--uid 1 --exclude-uids 5-1"), &["100-199", "5-1"]);
    refused(resolve("--uid 1 --dns maybe"), &["--dns", "leave", "capture"]);
    refused(resolve("--uid 1 --dns capture --outbound-port none"), &["--dns", "outbound port", "capture"]);
    refused(resolve("--uid 1 --dns capture --dns-port 15006"), &["--dns-port", "another port", "15006"]);
    refused(resolve("--uid 1 --dns capture --dns-port 0"), &["--dns-port", "0"]);
    refused(resolve("--uid 1 --dns-port 5353"), &["--dns-port", "--dns capture", "5353"]);
    refused(resolve("--uid 1 --config x --dns-port 5353"), &["--config", "--dns-port"]);
    refused(resolve("--uid 1 --ipv6 maybe"), &["--ipv6", "auto", "maybe"]);
    refused(resolve("--uid 1 --outbound-port none --inbound-port none"), &["at least one port"]);
    refused(resolve("--uid 1 --outbound-port 15006"), &["--inbound-port", "another port", "15006"]);
    refused(resolve("--uid 1 --outbound-port none --exclude-uids 5"), &["--exclude-uids", "nothing"]);
    refused(resolve("--uid 1 --inbound-port none --only-inbound-ports 5"), &["--only-inbound-ports"]);
    refused(resolve("--uid 1 --ipv6 off --only-outbound-ranges fd00::/8"), &["IPv4 only", "fd00::/8"]);
    refused(resolve("--uid 150 --only-uids 100-199"), &["--only-uids", "other than the sidecar's"]);
    refused(resolve("--uid 1 --config x --inbound-port 5"), &["--config", "--inbound-port"]);
    let many = (1..=259).map(|port| port.to_string()).collect::<Vec<_>>().join(",");
    refused(resolve(&format!("--uid 1 --exclude-inbound-ports {many}")), &["at most 258", "259"]);
}

#[test]
fn a_range_holds_what_begins_as_it_does() {
    let holds = |range: &str, ip: &str| range.parse::<Network>().unwrap().contains(ip.parse().unwrap());
    assert!(holds("10.1.0.0/16", "10.1.255.255") && !holds("10.1.0.0/16", "10.2.0.0"));
    assert!(holds("0.0.0.0/0", "192.0.2.1") && !holds("0.0.0.0/0", "::1"));
    assert!(holds("fd00::/8", "fdff::1") && !holds("fd00::/8", "fe80::1"));
    assert!(holds("192.0.2.1", "192.0.2.1") && !holds("192.0.2.1", "192.0.2.2"));
}

#[test]
fn the_configuration_says_the_ports_and_what_comes_in_by_itself() {
    let mut both = listening(&["127.0.0.1:16001", "[::1]:16001"], &["0.0.0.0:16006", "[::]:16006"]);
    both.direct = at(&["0.0.0.0:15008", "0.0.0.0:9091"]);
    let wanted = follow(&both, true).unwrap();
    assert_eq!((wanted.outbound, wanted.inbound), (Some(16001), Some(16006)));
    let excluded: Vec<_> = wanted.exclude_inbound_ports.iter().map(ToString::to_string).collect();
    assert_eq!(excluded, ["15008", "9091"]);
    let mut outbound = listening(&["0.0.0.0:15001"], &[]);
    outbound.direct = at(&["127.0.0.1:9091"]);
    let outbound = follow(&outbound, false).unwrap();
    assert_eq!((outbound.outbound, outbound.inbound), (Some(15001), None));
    assert!(outbound.exclude_inbound_ports.is_empty());
}

#[test]
fn the_configuration_says_whether_dns_is_captured_and_the_command_line_that_it_is_not() {
    let outbound = listening(&["127.0.0.1:15001", "[::1]:15001"], &[]);
    let both = Listeners { dns: Some(at(&["127.0.0.1:16053", "[::1]:16053"])), ..outbound.clone() };
    assert_eq!(follow(&both, true).unwrap().dns, Some(16053));
    assert_eq!(follow(&outbound, true).unwrap().dns, None);
    let with = |line: &str| parse(line).unwrap().resolve(Some(&both), true).map_err(|it| it.to_string());
    assert_eq!(with("--uid 1 --dns leave").unwrap().dns, None);
    assert_eq!(with("--uid 1 --dns capture").unwrap().dns, Some(16053));
    let none = parse("--uid 1 --dns capture").unwrap().resolve(Some(&outbound), true);
    refused(none.map_err(|it| it.to_string()), &["dns", "a section", "none"]);
    let one = Listeners { dns: Some(at(&["127.0.0.1:16053"])), ..outbound };
    refused(follow(&one, true), &["dns.listen", "IPv6", "--ipv6 off", "127.0.0.1:16053"]);
}

#[test]
fn a_configuration_whose_listeners_nothing_would_reach_is_refused() {
    refused(follow(&Listeners::default(), true), &["transparent", "a section", "none"]);
    refused(
        follow(&listening(&["0.0.0.0:15001"], &[]), true),
        &["transparent.outbound", "IPv6", "'[::]:15001'", "--ipv6 off", "got 0.0.0.0:15001"],
    );
    refused(follow(&listening(&["10.1.0.2:15001"], &[]), false), &["IPv4", "0.0.0.0:15001"]);
    refused(
        follow(&listening(&["0.0.0.0:15001", "[::]:15002"], &[]), true),
        &["one port", "15001", "[::]:15002"],
    );
    refused(follow(&listening(&["0.0.0.0:0"], &[]), false), &["transparent.outbound", "port 0"]);
    refused(
        follow(&listening(&[], &["127.0.0.1:15006"]), false),
        &["transparent.inbound", "0.0.0.0:15006", "127.0.0.1:15006"],
    );
    let load = |file: &Path| Err(format!("{}: cannot be read", file.display()));
    let options = parse("--uid 1 --config /no/such/sidecar.yaml").unwrap();
    assert!(options.wanted(&load, true).unwrap_err().to_string().contains("/no/such/sidecar.yaml"));
}
