//! The rules as chains of iptables, for each family by itself: `SIGNET_OUTPUT`, `SIGNET_DNS` and `SIGNET_INBOUND` in the
//! table `nat`, `SIGNET_INVALID` in `mangle` (in `nat` nothing can be dropped), `SIGNET_ZONE` and `SIGNET_ERRORS` in `raw` (before conntrack), and one jump to each.
//!
//! A state is what `iptables-save` says of them. From the state that is to the one that should be there is one text
//! for `iptables-restore --noflush`, which leaves all that is not named in it: to apply, to remove and to go back
//! after a failure are the same function. Each table of a text is one transaction.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use signet_model::Network;

use super::check::{Found, differences};
use super::plan::{Destination, Family, Hook, Owner, Plan, Rule, Verdict};
use super::values::{Ids, Ports};

/// A chain of ours: its table, its name, and the chain that jumps to it.
fn chain(hook: Hook) -> (&'static str, &'static str, &'static str) {
    match hook {
        Hook::Output => ("nat", "SIGNET_OUTPUT", "OUTPUT"),
        Hook::Zone => ("raw", "SIGNET_ZONE", "OUTPUT"),
        Hook::Errors => ("raw", "SIGNET_ERRORS", "OUTPUT"),
        Hook::Dns => ("nat", "SIGNET_DNS", "OUTPUT"),
        Hook::Prerouting => ("nat", "SIGNET_INBOUND", "PREROUTING"),
        Hook::Invalid => ("mangle", "SIGNET_INVALID", "PREROUTING"),
    }
}

/// The rule that leads to it.
fn jump(hook: Hook, family: Family) -> String {
    format!("-p {} -j {}", hook.transport(Some(family)).0, chain(hook).1)
}

/// What there is of ours for one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Rules, without `-A CHAIN`.
    chains: BTreeMap<Hook, Vec<String>>,
    /// Jumps to them: from where, and the rule.
    jumps: Vec<(Hook, String, String)>,
}

impl State {
    /// Whether there is nothing of ours.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.jumps.is_empty()
    }

    /// What the plan asks for.
    pub fn of(plan: &Plan, family: Family) -> Self {
        let mut state = State::default();
        for hook in Hook::ALL {
            let rules: Vec<_> =
                plan.at(hook).filter_map(|step| step.rule.within(family)).map(|it| rule(&it)).collect();
            if !rules.is_empty() {
                state.chains.insert(hook, rules);
                state.jumps.push((hook, chain(hook).2.to_owned(), jump(hook, family)));
            }
        }
        state
    }

    /// Reads what `iptables-save` says.
    pub fn read(saved: &str) -> Self {
        let mut state = State::default();
        let mut table = "";
        for line in saved.lines() {
            let hook_of = |name: &str| {
                Hook::ALL.into_iter().find(|hook| chain(*hook).0 == table && chain(*hook).1 == name)
            };
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if let Some(declared) = line.strip_prefix(':') {
                if let Some(hook) = declared.split(' ').next().and_then(hook_of) {
                    state.chains.entry(hook).or_default();
                }
            } else if let Some((name, rest)) = line.strip_prefix("-A ").and_then(|it| it.split_once(' ')) {
                let mut words = rest.split(' ').skip_while(|word| !matches!(*word, "-j" | "-g")).skip(1);
                if let Some(hook) = hook_of(name) {
                    state.chains.entry(hook).or_default().push(rest.to_owned());
                } else if let Some(hook) = words.next().and_then(hook_of) {
                    state.jumps.push((hook, name.to_owned(), rest.to_owned()));
                }
            }
        }
        state
    }

    /// From this state to another; `None` where nothing is to be done because there is nothing in either.
    pub fn script_to(&self, target: &State) -> Option<String> {
        let mut text = String::new();
        for table in ["raw", "nat", "mangle"] {
            let here = |hook: &Hook| chain(*hook).0 == table;
            let hooks: Vec<_> = Hook::ALL
                .into_iter()
                .filter(here)
                .filter(|hook| self.chains.contains_key(hook) || target.chains.contains_key(hook))
                .collect();
            if hooks.is_empty() {
                continue;
            }
            let _ = writeln!(text, "*{table}");
            // Makes it, or empties it where it is.
            for hook in &hooks {
                let _ = writeln!(text, ":{} - [0:0]", chain(*hook).1);
            }
            for (_, from, jump) in self.jumps.iter().filter(|(hook, ..)| here(hook)) {
                let _ = writeln!(text, "-D {from} {jump}");
            }
            for (hook, rules) in target.chains.iter().filter(|(hook, _)| here(hook)) {
                for rule in rules {
                    let _ = writeln!(text, "-A {} {rule}", chain(*hook).1);
                }
            }
            // First: what the app dialled must be seen before others rewrite it.
            for (_, from, jump) in target.jumps.iter().rev().filter(|(hook, ..)| here(hook)) {
                let _ = writeln!(text, "-I {from} 1 {jump}");
            }
            for hook in hooks.iter().filter(|hook| !target.chains.contains_key(hook)) {
                let _ = writeln!(text, "-X {}", chain(*hook).1);
            }
            text.push_str("COMMIT\n");
        }
        (!text.is_empty()).then_some(text)
    }

    /// What is not as the plan asks.
    pub fn differences(&self, plan: &Plan, family: Family) -> Vec<String> {
        let asked = plan.families().contains(&family);
        let mut lines = Vec::new();
        for hook in Hook::ALL {
            let (_, name, from) = chain(hook);
            let expected: Vec<_> =
                plan.at(hook).filter(|_| asked).filter_map(|step| step.rule.within(family)).collect();
            let found: Vec<_> = self
                .chains
                .get(&hook)
                .into_iter()
                .flatten()
                .map(|text| read_rule(hook, family, text))
                .collect();
            let mut of_chain = differences(name, &expected, &found, rule);
            let own = jump(hook, family);
            let jumps: Vec<_> = self.jumps.iter().filter(|(other, ..)| *other == hook).collect();
            let right = jumps.iter().filter(|(_, at, jump)| at == from && *jump == own).count();
            if !expected.is_empty() && right != 1 {
                of_chain.push(format!("{from}: expected one jump `{own}`, got {right}"));
            }
            for (_, at, jump) in jumps {
                if expected.is_empty() || at != from || *jump != own {
                    of_chain.push(format!("{at}: not asked for: {jump}"));
                }
            }
            lines.extend(of_chain.into_iter().map(|line| format!("{family} {line}")));
        }
        lines
    }

    /// Jumps of different chains have no order among each other.
    #[cfg(test)]
    pub(crate) fn jumps_in_order(&mut self) {
        self.jumps.sort();
    }

    /// How many rules.
    pub fn len(&self) -> usize {
        self.chains.values().map(Vec::len).sum()
    }
}

/// One rule, in the order in which `iptables-save` prints it.
pub fn rule(rule: &Rule) -> String {
    let mut words = Vec::new();
    if let Some(source) = rule.source {
        words.push(format!("-s {source}"));
    }
    if let Some(Destination { range, except }) = rule.destination {
        words.push(format!("{}-d {range}", if except { "! " } else { "" }));
    }
    if rule.loopback {
        words.push(if rule.hook.leaves() { "-o lo" } else { "-i lo" }.to_owned());
    }
    let (transport, _) = rule.hook.transport(rule.family);
    words.push(format!("-p {transport}"));
    for (option, ports) in [("--sport", rule.from), ("--dport", rule.ports)] {
        let Some(Ports { first, last }) = ports else { continue };
        let ports = if first == last { first.to_string() } else { format!("{first}:{last}") };
        words.push(format!("-m {transport} {option} {ports}"));
    }
    match rule.owner {
        Some(Owner::Uid(ids)) => words.push(format!("-m owner --uid-owner {ids}")),
        Some(Owner::Gid(ids)) => words.push(format!("-m owner --gid-owner {ids}")),
        None => {}
    }
    if rule.elsewhere {
        words.push("-m addrtype ! --dst-type LOCAL".to_owned());
    }
    if rule.invalid {
        words.push("-m conntrack --ctstate INVALID".to_owned());
    }
    words.push(match rule.verdict {
        Verdict::Leave => "-j RETURN".to_owned(),
        Verdict::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
        Verdict::Zone(zone) => format!("-j CT --zone {zone}"),
        Verdict::Drop => "-j DROP".to_owned(),
    });
    words.join(" ")
}

fn read_rule(hook: Hook, family: Family, text: &str) -> Found {
    parse(hook, family, text).map_or_else(|| Found::Unknown(text.to_owned()), Found::Rule)
}

/// `None` where there is anything that we never write.
fn parse(hook: Hook, family: Family, text: &str) -> Option<Rule> {
    let mut rule = Rule { family: Some(family), ..Rule::all(hook, Verdict::Leave) };
    let (own, _) = hook.transport(Some(family));
    let (mut transport, mut decided, mut not) = (false, false, false);
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        if word == "!" {
            if std::mem::replace(&mut not, true) {
                return None;
            }
            continue;
        }
        let value = words.next()?;
        let negated = std::mem::take(&mut not);
        match word {
            "-d" => {
                let range: Network = value.parse().ok()?;
                rule.destination = Some(Destination { range, except: negated });
                continue;
            }
            "--dst-type" if negated && value == "LOCAL" => {
                rule.elsewhere = true;
                continue;
            }
            _ if negated => return None,
            "-s" => rule.source = Some(value.parse().ok()?),
            "-o" if hook.leaves() && value == "lo" => rule.loopback = true,
            "-i" if !hook.leaves() && value == "lo" => rule.loopback = true,
            "-p" if value == own => transport = true,
            "-m" if value == own || matches!(value, "owner" | "addrtype" | "conntrack") => {}
            "--sport" => rule.from = Some(value.replace(':', "-").parse().ok()?),
            "--dport" => rule.ports = Some(value.replace(':', "-").parse().ok()?),
            "--uid-owner" if rule.owner.is_none() => rule.owner = Some(Owner::Uid(ids(value)?)),
            "--gid-owner" if rule.owner.is_none() => rule.owner = Some(Owner::Gid(ids(value)?)),
            "--ctstate" if value == "INVALID" => rule.invalid = true,
            "-j" if !decided => {
                decided = true;
                rule.verdict = match value {
                    "RETURN" => Verdict::Leave,
                    "DROP" => Verdict::Drop,
                    target @ ("REDIRECT" | "CT") => {
                        let (option, of): (_, fn(u16) -> Verdict) = match target {
                            "CT" => ("--zone", Verdict::Zone),
                            _ => ("--to-ports", Verdict::Redirect),
                        };
                        if words.next()? != option {
                            return None;
                        }
                        of(words.next()?.parse().ok()?)
                    }
                    _ => return None,
                };
            }
            _ => return None,
        }
    }
    (transport && decided && !not).then_some(rule)
}

fn ids(text: &str) -> Option<Ids> {
    text.parse().ok()
}

#[cfg(test)]
mod tests;
