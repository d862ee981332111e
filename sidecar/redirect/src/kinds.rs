//! The kinds of iptables that are installed. What one kind sets the other does not see, so both are looked through.
//!
//! A kind is settled for all its families or for none: what fails in the second is taken back in the first. What
//! something else changes in between is seen, because the result is read back.

use std::path::{Path, PathBuf};

use super::error::{RedirectError, Result, kernel_lacks, refused};
use super::host::{Host, Said};
use super::iptables::State;
use super::plan::{Family, Plan};

/// Attempts at a state that something else may be changing at the same time.
pub(super) const ATTEMPTS: usize = 3;

/// The programs of one kind of iptables, for one family.
pub(super) struct Set {
    pub(super) family: Family,
    save: PathBuf,
    pub(super) restore: PathBuf,
}

/// One kind of iptables. What one kind sets the other does not see.
pub(super) struct Iptables {
    pub(super) flavour: &'static str,
    pub(super) sets: Vec<Set>,
}

pub(super) fn prefix(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The kinds that are installed: by their own names, or else the one that has no other name.
pub(super) fn iptables(host: &dyn Host) -> Vec<Iptables> {
    let kind = |flavour: &'static str| {
        let sets: Vec<_> = [Family::V4, Family::V6]
            .into_iter()
            .filter_map(|family| {
                let find = |what| host.find(&format!("{}tables{flavour}-{what}", prefix(family)));
                Some(Set { family, save: find("save")?, restore: find("restore")? })
            })
            .collect();
        sets.iter().any(|set| set.family == Family::V4).then_some(Iptables { flavour, sets })
    };
    let named: Vec<_> = ["-nft", "-legacy"].into_iter().filter_map(kind).collect();
    if named.is_empty() { kind("").into_iter().collect() } else { named }
}

impl Iptables {
    /// What it is called.
    pub(super) fn name(&self) -> &'static str {
        match self.flavour {
            "-nft" => "iptables (nft)",
            "-legacy" => "iptables (legacy)",
            _ => "iptables",
        }
    }

    /// What there is of ours.
    pub(super) fn state(&self, host: &dyn Host, set: &Set) -> Result<State> {
        if self.flavour == "-legacy" {
            // To ask for a table that is not there would make it.
            let tables = host.read(&format!("/proc/thread-self/net/{}_tables_names", prefix(set.family)));
            if tables.unwrap_or_default().trim().is_empty() {
                return Ok(State::default());
            }
        }
        let said = start(host, &set.save, &[], "")?;
        if said.ok {
            return Ok(State::read(&said.output));
        }
        if kernel_lacks(&said.errors) {
            return Ok(State::default());
        }
        Err(refused(&set.save, &said.errors))
    }

    /// Makes every family what the plan asks, or empty; all of them, or none.
    pub(super) fn settle(&self, host: &dyn Host, plan: Option<&Plan>) -> Result<()> {
        if plan.is_some_and(|plan| plan.ipv6) && self.sets.iter().all(|set| set.family != Family::V6) {
            return Err(RedirectError::NoProgram {
                expected: "ip6tables-restore",
                install: "iptables with IPv6, or leave IPv6 alone with --ipv6 off",
            });
        }
        let target = |family: Family| match plan {
            Some(plan) if plan.families().contains(&family) => State::of(plan, family),
            _ => State::default(),
        };
        let mut difference = String::new();
        for _ in 0..ATTEMPTS {
            let mut work = Vec::new();
            for set in &self.sets {
                let now = self.state(host, set)?;
                if let Some(script) = now.script_to(&target(set.family)) {
                    work.push((set, now, script));
                }
            }
            for (set, _, script) in &work {
                call(host, &set.restore, &["--noflush", "--wait", "5", "--test"], script)?;
            }
            for (at, (set, _, script)) in work.iter().enumerate() {
                if let Err(failure) = call(host, &set.restore, &["--noflush", "--wait", "5"], script) {
                    return Err(self.back(host, work.get(..=at).unwrap_or_default(), failure));
                }
            }
            let mut lines = Vec::new();
            for set in &self.sets {
                let now = self.state(host, set)?;
                match plan {
                    Some(plan) => lines.extend(now.differences(plan, set.family)),
                    None if !now.is_empty() => lines.push("chains SIGNET_* are there".to_owned()),
                    None => {}
                }
            }
            match lines.into_iter().next() {
                None => return Ok(()),
                Some(line) => difference = line,
            }
        }
        Err(RedirectError::Unsettled { program: self.name().to_owned(), difference })
    }

    /// Puts back what was there before; the failure, or both.
    fn back(&self, host: &dyn Host, done: &[(&Set, State, String)], failure: RedirectError) -> RedirectError {
        for (set, before, _) in done.iter().rev() {
            let back = self.state(host, set).and_then(|now| match now.script_to(before) {
                Some(script) if now != *before => {
                    call(host, &set.restore, &["--noflush", "--wait", "5"], &script).map(drop)
                }
                _ => Ok(()),
            });
            if let Err(back) = back {
                return RedirectError::HalfDone { failure: Box::new(failure), back: Box::new(back) };
            }
        }
        failure
    }
}

pub(super) fn start(host: &dyn Host, program: &Path, arguments: &[&str], input: &str) -> Result<Said> {
    host.run(program, arguments, input)
        .map_err(|source| RedirectError::Start { program: program.display().to_string(), source })
}

/// Runs a program that must end well.
pub(super) fn call(host: &dyn Host, program: &Path, arguments: &[&str], input: &str) -> Result<String> {
    let said = start(host, program, arguments, input)?;
    if said.ok { Ok(said.output) } else { Err(refused(program, &said.errors)) }
}
