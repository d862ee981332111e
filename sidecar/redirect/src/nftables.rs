//! The rules as a table of nftables, `inet signet`: of our own, for both families, made and replaced whole.
//!
//! Written as text for `nft -f -`, where one file is one transaction. Read back as JSON, whose shape versions of
//! `nft` agree on where their texts differ; what cannot be understood is kept as it came, and so is a difference.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use signet_model::Network;

use super::check::Found;
use super::plan::{Destination, Family, Hook, Owner, Plan, Rule, Verdict};
use super::values::{Ids, Ports};

/// Asks for our table as JSON, everything in numbers.
pub const LIST: [&str; 6] = ["-j", "-n", "list", "table", "inet", "signet"];

/// Takes our table away, whether or not it is there.
pub const REMOVE: &str = "table inet signet\ndelete table inet signet\n";

/// The name of a hook's chain, and how it hangs there: before others rewrite destinations (-100), before
/// others look at packets (-150) but after conntrack (-200), and before conntrack.
fn chain(hook: Hook) -> (&'static str, &'static str, &'static str, i64) {
    match hook {
        Hook::Output => ("output", "nat", "output", -110),
        Hook::Zone => ("zone", "filter", "output", -300),
        Hook::Errors => ("errors", "filter", "output", -300),
        Hook::Dns => ("dns", "nat", "output", -110),
        Hook::Prerouting => ("prerouting", "nat", "prerouting", -110),
        Hook::Invalid => ("invalid", "filter", "prerouting", -160),
    }
}

/// The name of a hook's chain.
pub fn name(hook: Hook) -> &'static str {
    chain(hook).0
}

/// Replaces what there is of ours by the plan.
pub fn script(plan: &Plan) -> String {
    let mut text = REMOVE.to_owned();
    text.push_str("table inet signet {\n");
    for hook in Hook::ALL {
        if plan.at(hook).next().is_none() {
            continue;
        }
        let (name, kind, at, priority) = chain(hook);
        let _ = writeln!(text, "\tchain {name} {{");
        let _ = writeln!(text, "\t\ttype {kind} hook {at} priority {priority}; policy accept;");
        for step in plan.at(hook) {
            let _ = writeln!(text, "\t\t{} comment \"{}\"", rule(&step.rule), step.why);
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    text
}

/// One rule.
pub fn rule(rule: &Rule) -> String {
    let mut words = Vec::new();
    match rule.family {
        // Its transport says it, and `nft` leaves out what that implies.
        _ if rule.hook == Hook::Errors => {}
        Some(Family::V4) => words.push("meta nfproto ipv4".to_owned()),
        Some(Family::V6) => words.push("meta nfproto ipv6".to_owned()),
        None => {}
    }
    let (transport, _) = rule.hook.transport(rule.family);
    words.push(format!("meta l4proto {transport}"));
    if rule.loopback {
        words.push(format!("{} \"lo\"", interface(rule.hook)));
    }
    match rule.owner {
        Some(Owner::Uid(ids)) => words.push(format!("meta skuid {ids}")),
        Some(Owner::Gid(ids)) => words.push(format!("meta skgid {ids}")),
        None => {}
    }
    if let Some(source) = rule.source {
        words.push(format!("{} saddr {}", protocol(source), address(source)));
    }
    if let Some(Destination { range, except }) = rule.destination {
        let not = if except { "!= " } else { "" };
        words.push(format!("{} daddr {not}{}", protocol(range), address(range)));
    }
    if rule.elsewhere {
        words.push("fib daddr type != local".to_owned());
    }
    if let Some(ports) = rule.from {
        words.push(format!("{transport} sport {ports}"));
    }
    if let Some(ports) = rule.ports {
        words.push(format!("{transport} dport {ports}"));
    }
    if rule.invalid {
        words.push("ct state invalid".to_owned());
    }
    words.push(match rule.verdict {
        Verdict::Leave => "return".to_owned(),
        Verdict::Redirect(port) => format!("redirect to :{port}"),
        Verdict::Zone(zone) => format!("ct zone set {zone}"),
        Verdict::Drop => "drop".to_owned(),
    });
    words.join(" ")
}

fn interface(hook: Hook) -> &'static str {
    if hook.leaves() { "oifname" } else { "iifname" }
}

fn protocol(range: Network) -> &'static str {
    match Family::of(range.ip()) {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn address(range: Network) -> String {
    if range.is_host() { range.ip().to_string() } else { range.to_string() }
}

/// Rules by the hook whose chain they stand in.
pub type Chains = BTreeMap<Hook, Vec<Found>>;

/// What is in our table: the rules by hook, and what else is not as it must be.
pub fn read(json: &str) -> Result<(Chains, Vec<String>), String> {
    let document: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let objects = document.get("nftables").and_then(Value::as_array).ok_or("no list `nftables`")?;
    let mut rules = Chains::new();
    let mut odd = Vec::new();
    let hook_of = |name: &Value| Hook::ALL.into_iter().find(|hook| name == chain(*hook).0);
    for object in objects {
        if let Some(found) = object.get("chain") {
            match hook_of(&found["name"]) {
                Some(hook) => {
                    rules.entry(hook).or_default();
                    let (name, kind, at, priority) = chain(hook);
                    let policy = found.get("policy").and_then(Value::as_str).unwrap_or("accept");
                    if found["type"] != kind
                        || found["hook"] != at
                        || found["prio"] != priority
                        || policy != "accept"
                    {
                        odd.push(format!(
                            "{name}: expected type {kind} hook {at} priority {priority} policy accept, got {found}"
                        ));
                    }
                }
                None => odd.push(format!("unexpected chain {}", found["name"])),
            }
        } else if let Some(found) = object.get("rule") {
            match hook_of(&found["chain"]) {
                Some(hook) => {
                    let parsed = read_rule(hook, &found["expr"]);
                    rules
                        .entry(hook)
                        .or_default()
                        .push(parsed.map_or_else(|| Found::Unknown(found["expr"].to_string()), Found::Rule));
                }
                None => odd.push(format!("unexpected rule in chain {}: {}", found["chain"], found["expr"])),
            }
        } else if object.get("metainfo").is_none() && object.get("table").is_none() {
            odd.push(format!("unexpected {object}"));
        }
    }
    Ok((rules, odd))
}

/// One rule from its expressions; `None` where there is anything that we never write.
fn read_rule(hook: Hook, expressions: &Value) -> Option<Rule> {
    let mut rule = Rule::all(hook, Verdict::Leave);
    let (mut transport, mut decided) = (false, false);
    for expression in expressions.as_array()? {
        let (kind, value) = expression.as_object()?.iter().next()?;
        if decided {
            return None;
        }
        match kind.as_str() {
            "match" => read_match(&mut rule, &mut transport, value)?,
            "return" => (rule.verdict, decided) = (Verdict::Leave, true),
            "drop" => (rule.verdict, decided) = (Verdict::Drop, true),
            "redirect" => {
                let port = value.get("port")?.as_u64().and_then(|port| u16::try_from(port).ok())?;
                if value.as_object()?.len() != 1 {
                    return None;
                }
                (rule.verdict, decided) = (Verdict::Redirect(port), true);
            }
            "mangle" if value.get("key")? == &serde_json::json!({"ct": {"key": "zone"}}) => {
                let zone = value.get("value")?.as_u64().and_then(|zone| u16::try_from(zone).ok())?;
                (rule.verdict, decided) = (Verdict::Zone(zone), true);
            }
            // Others' tools add these to look on; they change nothing.
            "counter" => {}
            _ => return None,
        }
    }
    (transport && decided).then_some(rule)
}

/// `transport`: the rule says which it is about.
fn read_match(rule: &mut Rule, transport: &mut bool, value: &Value) -> Option<()> {
    let (left, right) = (value.get("left")?, value.get("right")?);
    let not = match value.get("op")?.as_str()? {
        "==" | "in" => false,
        "!=" => true,
        _ => return None,
    };
    let means = |name: &str, number: u64| right == name || right.as_u64() == Some(number);
    let (own, number) = rule.hook.transport(rule.family);
    if let Some(meta) = left.get("meta") {
        match meta.get("key")?.as_str()? {
            "nfproto" if !not && means("ipv4", 2) => family(rule, Family::V4)?,
            "nfproto" if !not && means("ipv6", 10) => family(rule, Family::V6)?,
            "l4proto" if !not && rule.hook == Hook::Errors => {
                let said = [Family::V4, Family::V6].into_iter().find(|family| {
                    let (name, number) = rule.hook.transport(Some(*family));
                    means(name, number)
                });
                family(rule, said?)?;
                *transport = true;
            }
            "l4proto" if !not && means(own, number) => *transport = true,
            key if !not && key == interface(rule.hook) && right == "lo" => rule.loopback = true,
            "skuid" if !not && rule.owner.is_none() => rule.owner = Some(Owner::Uid(ids(right)?)),
            "skgid" if !not && rule.owner.is_none() => rule.owner = Some(Owner::Gid(ids(right)?)),
            _ => return None,
        }
    } else if let Some(payload) = left.get("payload") {
        match (payload.get("protocol")?.as_str()?, payload.get("field")?.as_str()?) {
            (protocol @ ("ip" | "ip6"), "saddr") if !not && rule.source.is_none() => {
                let range = range(protocol, right)?;
                family(rule, Family::of(range.ip()))?;
                rule.source = Some(range);
            }
            (protocol @ ("ip" | "ip6"), "daddr") if rule.destination.is_none() => {
                let range = range(protocol, right)?;
                family(rule, Family::of(range.ip()))?;
                rule.destination = Some(Destination { range, except: not });
            }
            (protocol, "dport") if protocol == own && !not && rule.ports.is_none() => {
                rule.ports = Some(ports(right)?);
                *transport = true;
            }
            (protocol, "sport") if protocol == own && !not && rule.from.is_none() => {
                rule.from = Some(ports(right)?);
                *transport = true;
            }
            _ => return None,
        }
    } else if let Some(fib) = left.get("fib") {
        let destination = fib["flags"] == "daddr" || fib["flags"] == serde_json::json!(["daddr"]);
        if fib["result"] != "type" || !destination || !not || !means("local", 2) {
            return None;
        }
        rule.elsewhere = true;
    } else if left.get("ct").is_some_and(|ct| ct["key"] == "state") && !not && means("invalid", 1) {
        rule.invalid = true;
    } else {
        return None;
    }
    Some(())
}

fn family(rule: &mut Rule, family: Family) -> Option<()> {
    if rule.family.is_some_and(|known| known != family) {
        return None;
    }
    rule.family = Some(family);
    Some(())
}

/// A number, or from one to another.
fn span(value: &Value) -> Option<(u64, u64)> {
    if let Some(one) = value.as_u64() {
        return Some((one, one));
    }
    match value.get("range")?.as_array()?.as_slice() {
        [first, last] => Some((first.as_u64()?, last.as_u64()?)),
        _ => None,
    }
}

fn ports(value: &Value) -> Option<Ports> {
    let (first, last) = span(value)?;
    Some(Ports { first: u16::try_from(first).ok()?, last: u16::try_from(last).ok()? })
}

fn ids(value: &Value) -> Option<Ids> {
    let (first, last) = span(value)?;
    Some(Ids { first: u32::try_from(first).ok()?, last: u32::try_from(last).ok()? })
}

fn range(protocol: &str, value: &Value) -> Option<Network> {
    let text = match value.get("prefix") {
        Some(prefix) => format!("{}/{}", prefix.get("addr")?.as_str()?, prefix.get("len")?.as_u64()?),
        None => value.as_str()?.to_owned(),
    };
    let range: Network = text.parse().ok()?;
    ((protocol == "ip") == (Family::of(range.ip()) == Family::V4)).then_some(range)
}

#[cfg(test)]
mod tests;
