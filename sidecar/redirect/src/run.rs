//! `redirect apply`, `remove`, `check` and `verify`: which programs are run with which text, and what is said of it.
//!
//! Exit codes: 0 done, or all is as asked; 1 failed, or `check` found differences, or `verify` no redirection; 2 the
//! options are refused, or `check` could not look.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use super::asks;
use super::check::differences;
use super::error::{RedirectError, Result, kernel_lacks, refused};
use super::host::{Host, has_ipv6, may_change_netfilter};
use super::iptables::State;
use super::kinds::{Iptables, call, iptables, prefix, start};
use super::nftables;
use super::options::{Load, Options};
use super::plan::{Hook, Plan};
use super::verify::verify;

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put the redirection in place, instead of whatever redirection of Signet is there.
    Apply {
        #[command(flatten)]
        /// What is redirected.
        options: Options,
        /// By which program.
        #[arg(long, value_enum, default_value_t = Backend::Auto)]
        backend: Backend,
        /// Say what would be handed to which program, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Take the redirection away, by whichever program it was put there.
    Remove {
        /// Say what would be handed to which program, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Compare what is in force with what the options ask for: exit code 0 if it is that, 1 if not.
    Check {
        #[command(flatten)]
        /// What should be redirected.
        options: Options,
        /// By which program.
        #[arg(long, value_enum, default_value_t = Backend::Auto)]
        backend: Backend,
    },
    /// Prove that redirection is in force, as the sidecar's user and without any capability: for the init container of a pod
    /// whose rules the CNI agent sets.
    Verify {
        #[command(flatten)]
        /// What should be redirected.
        options: Options,
        /// How long it may take until it is.
        #[arg(long, value_name = "SECONDS", default_value_t = 120)]
        wait: u64,
    },
}

/// By which program rules are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Backend {
    /// nftables where it works, otherwise iptables.
    #[default]
    Auto,
    /// `nft`.
    Nftables,
    /// `iptables-restore` and `ip6tables-restore`, of the kind that works.
    Iptables,
    /// `iptables-nft-restore` and `ip6tables-nft-restore`.
    IptablesNft,
    /// `iptables-legacy-restore` and `ip6tables-legacy-restore`.
    IptablesLegacy,
}

impl Backend {
    /// Whether this kind of iptables is meant.
    fn takes(self, kind: &Iptables) -> bool {
        match self {
            Backend::Auto | Backend::Iptables => true,
            Backend::Nftables => false,
            Backend::IptablesNft => kind.flavour == "-nft",
            Backend::IptablesLegacy => kind.flavour == "-legacy",
        }
    }

    /// The programs, and the packages that bring them.
    fn programs(self) -> RedirectError {
        let (expected, install) = match self {
            Backend::Auto => ("nft or iptables-restore", "nftables, or iptables"),
            Backend::Nftables => ("nft", "nftables"),
            Backend::Iptables => ("iptables-restore", "iptables"),
            Backend::IptablesNft => ("iptables-nft-restore", "iptables"),
            Backend::IptablesLegacy => {
                ("iptables-legacy-restore", "iptables (where it is apart, iptables-legacy)")
            }
        };
        RedirectError::NoProgram { expected, install }
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It did what was asked; for `check`: all is as asked.
    AsAsked,
    /// `check` found differences.
    Differs,
}

impl RedirectError {
    /// The exit code of the command that failed so.
    pub fn code(&self, command: &Command) -> u8 {
        match (self, command) {
            (RedirectError::Options(_), _) | (_, Command::Check { .. }) => 2,
            _ => 1,
        }
    }
}

/// Runs a command; what it has to say goes to `answer`.
pub fn run(command: &Command, host: &dyn Host, load: Load<'_>, answer: &mut dyn Write) -> Result<Done> {
    match command {
        Command::Apply { options, backend, dry_run } => {
            let plan = Plan::of(&options.wanted(load, has_ipv6(host))?);
            if *dry_run {
                show(host, &plan, *backend, answer)?;
            } else {
                capable(host)?;
                let _alone = host.lock().map_err(RedirectError::Busy)?;
                apply(host, &plan, *backend, answer)?;
            }
            Ok(Done::AsAsked)
        }
        Command::Remove { dry_run } => {
            capable(host)?;
            let _alone = host.lock().map_err(RedirectError::Busy)?;
            remove(host, *dry_run, answer)?;
            Ok(Done::AsAsked)
        }
        Command::Check { options, backend } => {
            let plan = Plan::of(&options.wanted(load, has_ipv6(host))?);
            capable(host)?;
            check(host, &plan, *backend, answer)
        }
        Command::Verify { options, wait } => {
            let wanted = options.wanted(load, has_ipv6(host))?;
            // Whoever redirects this pod from outside sees by it that the pod waits for just that.
            let _asked = asks::ask(options);
            let addresses = verify(&wanted, host, Duration::from_secs(*wait), answer)?;
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            writeln!(answer, "in force: {}", addresses.join(" and "))?;
            Ok(Done::AsAsked)
        }
    }
}

/// Puts the redirection in place where there is none of Signet. False: there is some, whatever it is, and it stays.
///
/// # Errors
/// As of `apply`.
pub fn apply_first(
    options: &Options,
    host: &dyn Host,
    load: Load<'_>,
    answer: &mut dyn Write,
) -> Result<bool> {
    let plan = Plan::of(&options.wanted(load, has_ipv6(host))?);
    capable(host)?;
    let _alone = host.lock().map_err(RedirectError::Busy)?;
    if is_there(host)? {
        return Ok(false);
    }
    apply(host, &plan, Backend::Auto, answer)?;
    Ok(true)
}

/// Whether there is anything of Signet, by whichever program.
fn is_there(host: &dyn Host) -> Result<bool> {
    if let Some(nft) = host.find("nft")
        && table(host, &nft)?.is_some()
    {
        return Ok(true);
    }
    for tool in iptables(host) {
        for set in &tool.sets {
            if !tool.state(host, set)?.is_empty() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn capable(host: &dyn Host) -> Result<()> {
    may_change_netfilter(host).map_err(RedirectError::NoCapability)
}

/// What `apply` would do.
fn show(host: &dyn Host, plan: &Plan, backend: Backend, answer: &mut dyn Write) -> Result<()> {
    let by_nft = match backend {
        Backend::Nftables => true,
        Backend::Auto => host.find("nft").is_some() || iptables(host).is_empty(),
        _ => false,
    };
    if by_nft {
        write!(answer, "# nft -f -\n{}", nftables::script(plan))?;
        return Ok(());
    }
    for family in plan.families() {
        let script = State::default().script_to(&State::of(plan, *family)).unwrap_or_default();
        write!(
            answer,
            "# {}tables-restore --noflush (a jump that is there already is deleted first)\n{script}",
            prefix(*family)
        )?;
    }
    Ok(())
}

fn apply(host: &dyn Host, plan: &Plan, backend: Backend, answer: &mut dyn Write) -> Result<()> {
    let nft = host.find("nft");
    let tools = iptables(host);
    let nft = match (backend, nft) {
        (Backend::Nftables, None) => return Err(backend.programs()),
        // Tried before anything is changed, kernel included.
        (Backend::Auto, Some(nft)) => {
            match call(host, &nft, &["--check", "-f", "-"], &nftables::script(plan)) {
                Ok(_) => Some(nft),
                Err(error) if tools.is_empty() => return Err(error),
                Err(_) => None,
            }
        }
        (Backend::Auto | Backend::Nftables, nft) => nft,
        _ => None,
    };
    if let Some(nft) = nft {
        call(host, &nft, &["-f", "-"], &nftables::script(plan))?;
        let leftover = |failure| RedirectError::Leftover { by: "nftables", failure: Box::new(failure) };
        for tool in &tools {
            tool.settle(host, None).map_err(leftover)?;
        }
        writeln!(
            answer,
            "nftables: {} rules in the table inet signet{}",
            plan.steps.len(),
            of_families(plan)
        )?;
        return Ok(());
    }
    let mut failure = None;
    for tool in tools.iter().filter(|tool| backend.takes(tool)) {
        match tool.settle(host, Some(plan)) {
            Ok(()) => {
                only(host, tool, &tools).map_err(|failure| RedirectError::Leftover {
                    by: tool.name(),
                    failure: Box::new(failure),
                })?;
                let rules: usize = plan.families().iter().map(|family| State::of(plan, *family).len()).sum();
                writeln!(
                    answer,
                    "{}: {rules} rules in the chains SIGNET_*{}",
                    tool.name(),
                    of_families(plan)
                )?;
                return Ok(());
            }
            // A way back that failed is not made worse by another program.
            Err(error @ RedirectError::HalfDone { .. }) => return Err(error),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Err(failure.unwrap_or_else(|| backend.programs()))
}

/// Takes away what was set by another program than this kind of iptables.
fn only(host: &dyn Host, kind: &Iptables, all: &[Iptables]) -> Result<()> {
    if let Some(nft) = host.find("nft")
        && table(host, &nft)?.is_some()
    {
        call(host, &nft, &["-f", "-"], nftables::REMOVE)?;
    }
    all.iter().filter(|other| other.flavour != kind.flavour).try_for_each(|other| other.settle(host, None))
}

fn of_families(plan: &Plan) -> &'static str {
    if plan.ipv6 { ", IPv4 and IPv6" } else { ", IPv4 only" }
}

fn remove(host: &dyn Host, dry_run: bool, answer: &mut dyn Write) -> Result<()> {
    let nft = host.find("nft");
    let tools = iptables(host);
    if nft.is_none() && tools.is_empty() {
        return Err(Backend::Auto.programs());
    }
    let mut any = false;
    if let Some(nft) = &nft
        && table(host, nft)?.is_some()
    {
        any = true;
        if dry_run {
            write!(answer, "# nft -f -\n{}", nftables::REMOVE)?;
        } else {
            call(host, nft, &["-f", "-"], nftables::REMOVE)?;
            writeln!(answer, "nftables: the table inet signet is gone")?;
        }
    }
    for tool in &tools {
        let mut scripts = Vec::new();
        for set in &tool.sets {
            scripts.extend(tool.state(host, set)?.script_to(&State::default()).map(|script| (set, script)));
        }
        if scripts.is_empty() {
            continue;
        }
        any = true;
        if dry_run {
            for (set, script) in scripts {
                write!(answer, "# {} --noflush\n{script}", set.restore.display())?;
            }
        } else {
            tool.settle(host, None)?;
            writeln!(answer, "{}: the chains SIGNET_* are gone", tool.name())?;
        }
    }
    if !any {
        writeln!(answer, "there is nothing to remove")?;
    }
    Ok(())
}

fn check(host: &dyn Host, plan: &Plan, backend: Backend, answer: &mut dyn Write) -> Result<Done> {
    let nft = host.find("nft");
    let tools = iptables(host);
    if nft.is_none() && tools.is_empty() {
        return Err(Backend::Auto.programs());
    }
    // Every place where there is something of ours: whether it is meant, its name, what differs there.
    let mut places: Vec<(bool, &str, Vec<String>)> = Vec::new();
    if let Some(nft) = &nft
        && let Some(json) = table(host, nft)?
    {
        let lines = of_table(plan, &json)
            .map_err(|reason| RedirectError::Unreadable { program: nft.display().to_string(), reason })?;
        places.push((matches!(backend, Backend::Auto | Backend::Nftables), "nftables", lines));
    }
    for tool in &tools {
        let mut states = Vec::new();
        for set in &tool.sets {
            states.push((set.family, tool.state(host, set)?));
        }
        if states.iter().any(|(_, state)| !state.is_empty()) {
            let lines = states.iter().flat_map(|(family, state)| state.differences(plan, *family)).collect();
            places.push((backend.takes(tool), tool.name(), lines));
        }
    }
    // The one that is right, if any is.
    let in_force = places
        .iter()
        .position(|place| place.0 && place.2.is_empty())
        .or_else(|| places.iter().position(|place| place.0));
    let mut lines = match in_force {
        Some(at) => {
            let (_, name, lines) = places.remove(at);
            if lines.is_empty() && places.is_empty() {
                writeln!(answer, "{name}: as asked{}", of_families(plan))?;
                return Ok(Done::AsAsked);
            }
            lines.into_iter().map(|line| format!("{name}: {line}")).collect()
        }
        None => {
            let what = match backend {
                Backend::Nftables => "no table inet signet",
                Backend::Auto => "neither a table inet signet nor chains SIGNET_*",
                _ => "no chains SIGNET_* of this kind of iptables",
            };
            vec![format!("nothing is redirected: {what}")]
        }
    };
    lines
        .extend(places.iter().map(|(_, name, _)| format!("{name}: not asked for: rules of Signet here too")));
    for line in lines {
        writeln!(answer, "{line}")?;
    }
    Ok(Done::Differs)
}

/// What is not as the plan asks in the table of nftables.
fn of_table(plan: &Plan, json: &str) -> Result<Vec<String>, String> {
    let (found, mut lines) = nftables::read(json)?;
    for hook in Hook::ALL {
        let expected: Vec<_> = plan.at(hook).map(|step| step.rule).collect();
        let there = found.get(&hook).map(Vec::as_slice);
        let name = nftables::name(hook);
        if there.is_some() && expected.is_empty() {
            lines.push(format!("{name}: a chain that is not asked for"));
        }
        lines.extend(differences(name, &expected, there.unwrap_or_default(), nftables::rule));
    }
    Ok(lines)
}

/// Our table of nftables as JSON, if it is there.
fn table(host: &dyn Host, nft: &Path) -> Result<Option<String>> {
    let said = start(host, nft, &nftables::LIST, "")?;
    if said.ok {
        return Ok(Some(said.output));
    }
    if said.errors.contains("No such file or directory") || kernel_lacks(&said.errors) {
        return Ok(None);
    }
    Err(refused(nft, &said.errors))
}

#[cfg(test)]
mod tests;
