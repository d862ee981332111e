use super::*;
use crate::options::{Dns, Options};

fn plan(options: &Options, ipv6: bool) -> Plan {
    Plan::of(&options.resolve(None, ipv6).unwrap())
}

#[test]
fn the_script_makes_the_table_anew_in_one_transaction() {
    let options = Options {
        uid: Some(2102),
        exclude_inbound_ports: vec!["9091".parse().unwrap()],
        exclude_outbound_ports: vec!["9000-9010".parse().unwrap()],
        exclude_outbound_ranges: vec!["10.1.0.0/16".parse().unwrap(), "fd00::1".parse().unwrap()],
        exclude_uids: vec!["100-199".parse().unwrap()],
        ..Options::default()
    };
    let expected = r#"table inet signet
delete table inet signet
table inet signet {
	chain output {
		type nat hook output priority -110; policy accept;
		meta nfproto ipv4 meta l4proto tcp oifname "lo" meta skuid 2102 ip saddr 127.0.0.1 ip daddr != 127.0.0.0/8 redirect to :15006 comment "the sidecar calls its own pod"
		meta nfproto ipv6 meta l4proto tcp oifname "lo" meta skuid 2102 ip6 saddr ::1 ip6 daddr != ::1 redirect to :15006 comment "the sidecar calls its own pod"
		meta l4proto tcp meta skuid 2102 return comment "the sidecar itself"
		meta l4proto tcp oifname "lo" return comment "stays on this host"
		meta l4proto tcp tcp dport 53 return comment "DNS"
		meta l4proto tcp meta skuid 100-199 return comment "excluded uid"
		meta l4proto tcp tcp dport 9000-9010 return comment "excluded port"
		meta nfproto ipv4 meta l4proto tcp ip daddr 10.1.0.0/16 return comment "excluded range"
		meta nfproto ipv6 meta l4proto tcp ip6 daddr fd00::1 return comment "excluded range"
		meta l4proto tcp redirect to :15001 comment "to the outbound listener"
	}
	chain prerouting {
		type nat hook prerouting priority -110; policy accept;
		meta l4proto tcp iifname "lo" return comment "stays on this host"
		meta l4proto tcp fib daddr type != local return comment "passes through"
		meta l4proto tcp tcp dport 9091 return comment "excluded port"
		meta l4proto tcp redirect to :15006 comment "to the inbound listener"
	}
	chain invalid {
		type filter hook prerouting priority -160; policy accept;
		meta l4proto tcp iifname "lo" return comment "stays on this host"
		meta l4proto tcp fib daddr type != local return comment "passes through"
		meta l4proto tcp tcp dport 9091 return comment "excluded port"
		meta l4proto tcp ct state invalid drop comment "no part of a known connection"
	}
}
"#;
    assert_eq!(script(&plan(&options, true)), expected);
}

#[test]
fn captured_dns_is_a_chain_of_its_own_and_goes_before_the_loopback_interface() {
    let options = Options {
        uid: Some(2102),
        dns: Some(Dns::Capture),
        exclude_uids: vec!["101".parse().unwrap()],
        only_uids: vec!["1000".parse().unwrap()],
        inbound_port: Some("none".parse().unwrap()),
        ..Options::default()
    };
    let expected = r#"table inet signet {
	chain output {
		type nat hook output priority -110; policy accept;
		meta l4proto tcp meta skuid 2102 return comment "the sidecar itself"
		meta l4proto tcp meta skuid 101 return comment "excluded uid"
		meta l4proto tcp meta skuid 1000 tcp dport 53 redirect to :15053 comment "DNS, to the sidecar's name server"
		meta l4proto tcp oifname "lo" return comment "stays on this host"
		meta l4proto tcp meta skuid 1000 redirect to :15001 comment "to the outbound listener"
	}
	chain zone {
		type filter hook output priority -300; policy accept;
		meta l4proto udp meta skuid 2102 udp sport 15053 ct zone set 15053 comment "answers of the name server"
		meta l4proto udp meta skuid 2102 return comment "the sidecar itself"
		meta l4proto udp meta skuid 101 return comment "excluded uid"
		meta l4proto udp meta skuid 1000 udp dport 53 ct zone set 15053 comment "captured DNS"
	}
	chain errors {
		type filter hook output priority -300; policy accept;
		meta l4proto icmp oifname "lo" ct zone set 15053 comment "that nobody listens there"
		meta l4proto ipv6-icmp oifname "lo" ct zone set 15053 comment "that nobody listens there"
	}
	chain dns {
		type nat hook output priority -110; policy accept;
		meta l4proto udp meta skuid 2102 return comment "the sidecar itself"
		meta l4proto udp meta skuid 101 return comment "excluded uid"
		meta l4proto udp meta skuid 1000 udp dport 53 redirect to :15053 comment "DNS, to the sidecar's name server"
	}
}
"#;
    let text = script(&plan(&options, true));
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn where_ipv6_is_left_alone_each_chain_says_so_first() {
    let text = script(&plan(&Options { gid: Some(7), ..Options::default() }, false));
    assert_eq!(text.matches("meta nfproto ipv6 meta l4proto tcp return").count(), 3, "{text}");
    assert!(!text.contains("ip6 "), "{text}");
}

/// As `nft` 1.0.6 lists it, in numbers.
fn listed(rules: &[&str]) -> String {
    let mut objects = vec![
        r#"{"metainfo": {"version": "1.0.6", "json_schema_version": 1}}"#.to_owned(),
        r#"{"table": {"family": "inet", "name": "signet", "handle": 3}}"#.to_owned(),
        r#"{"chain": {"family": "inet", "table": "signet", "name": "output", "handle": 1, "type": "nat", "hook": "output", "prio": -110, "policy": "accept"}}"#.to_owned(),
    ];
    objects.extend(rules.iter().map(|rule| {
        format!(r#"{{"rule": {{"family": "inet", "table": "signet", "chain": "output", "handle": 4, "comment": "x", "expr": [{rule}]}}}}"#)
    }));
    format!(r#"{{"nftables": [{}]}}"#, objects.join(","))
}

const TCP: &str = r#"{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": 6}}"#;

fn one(rule: &str) -> Found {
    read(&listed(&[rule])).unwrap().0.remove(&Hook::Output).unwrap().remove(0)
}

#[test]
fn what_nft_lists_is_read_as_the_rule_that_was_written() {
    let own_pod = format!(
        r#"{TCP},{{"match": {{"op": "==", "left": {{"meta": {{"key": "oifname"}}}}, "right": "lo"}}}},
        {{"match": {{"op": "==", "left": {{"meta": {{"key": "skuid"}}}}, "right": 2102}}}},
        {{"match": {{"op": "==", "left": {{"payload": {{"protocol": "ip", "field": "saddr"}}}}, "right": "127.0.0.1"}}}},
        {{"match": {{"op": "!=", "left": {{"payload": {{"protocol": "ip", "field": "daddr"}}}}, "right": {{"prefix": {{"addr": "127.0.0.0", "len": 8}}}}}}}},
        {{"redirect": {{"port": 15006}}}}"#
    );
    let options = Options { uid: Some(2102), ..Options::default() };
    let plan = plan(&options, true);
    let expected: Vec<_> = plan.at(Hook::Output).map(|step| step.rule).collect();
    assert_eq!(one(&own_pod), Found::Rule(expected[0]));
    // The dependency on TCP is left out where the port says it; names stand where others ask without -n.
    let dns = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 53}}, {"return": null}"#;
    assert_eq!(one(dns), Found::Rule(expected[4]));
    let named = TCP.replace('6', r#""tcp""#) + r#", {"redirect": {"port": 15001}}"#;
    assert_eq!(one(&named), Found::Rule(expected[5]));
}

#[test]
fn what_we_never_write_is_kept_as_it_came() {
    for rule in [
        // All protocols, and UDP.
        r#"{"return": null}"#.to_owned(),
        TCP.replace('6', "17") + r#", {"return": null}"#,
        // No verdict, two of them, or one that is not ours.
        TCP.to_owned(),
        format!(r#"{TCP}, {{"return": null}}, {{"drop": null}}"#),
        format!(r#"{TCP}, {{"accept": null}}"#),
        format!(r#"{TCP}, {{"redirect": {{"port": 1, "flags": "random"}}}}"#),
        // A condition more.
        format!(r#"{TCP}, {{"limit": {{"rate": 1, "per": "second"}}}}, {{"return": null}}"#),
        format!(
            r#"{TCP}, {{"match": {{"op": "==", "left": {{"meta": {{"key": "mark"}}}}, "right": 1}}}}, {{"return": null}}"#
        ),
        format!(
            r#"{TCP}, {{"match": {{"op": "!=", "left": {{"meta": {{"key": "oifname"}}}}, "right": "lo"}}}}, {{"return": null}}"#
        ),
        format!(
            r#"{TCP}, {{"match": {{"op": "==", "left": {{"meta": {{"key": "oifname"}}}}, "right": "eth0"}}}}, {{"return": null}}"#
        ),
        format!(
            r#"{TCP}, {{"match": {{"op": "==", "left": {{"meta": {{"key": "skuid"}}}}, "right": {{"set": [1, 2]}}}}}}, {{"return": null}}"#
        ),
    ] {
        assert!(matches!(one(&rule), Found::Unknown(_)), "{rule}");
    }
}

#[test]
fn a_chain_that_hangs_elsewhere_or_is_not_ours_is_said() {
    let odd = |from: &str, to: &str| read(&listed(&[]).replace(from, to)).unwrap().1.join("\n");
    assert_eq!(odd("", ""), "");
    assert!(odd(r#""prio": -110"#, r#""prio": 100"#).contains("priority -110"));
    assert!(odd(r#""policy": "accept""#, r#""policy": "drop""#).contains("policy accept"));
    assert!(odd(r#""name": "output""#, r#""name": "other""#).contains("unexpected chain \"other\""));
    assert!(odd(r#"{"table":"#, r#"{"set":"#).contains("unexpected"));
    assert!(read("table inet signet {").is_err());
    assert!(read("{}").is_err());
}
