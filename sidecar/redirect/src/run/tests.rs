use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use clap::Parser;
use proptest::prelude::*;

use super::*;
use crate::host::Said;
use crate::options::Listeners;
use crate::plan::Family;
use crate::plan::tests::wanted;

/// A kernel and the programs that are installed: iptables by what its texts say, nftables by whether the table is
/// there.
struct Machine {
    programs: BTreeSet<&'static str>,
    /// Lines of a table, as `iptables-save` prints them, by family (`ip`, `ip6`) and flavour.
    iptables: RefCell<BTreeMap<String, Vec<(String, String)>>>,
    /// The script that made the table of nftables.
    table: RefCell<Option<String>>,
    /// Programs that refuse, and their words.
    refuses: RefCell<BTreeMap<&'static str, &'static str>>,
    /// What somebody else does after the next commit.
    meanwhile: RefCell<Option<(&'static str, &'static str)>>,
    capabilities: &'static str,
    calls: RefCell<Vec<String>>,
}

const NFT_KIND: [&str; 4] =
    ["iptables-nft-save", "iptables-nft-restore", "ip6tables-nft-save", "ip6tables-nft-restore"];
const LEGACY_KIND: [&str; 4] =
    ["iptables-legacy-save", "iptables-legacy-restore", "ip6tables-legacy-save", "ip6tables-legacy-restore"];
const OTHERS: &str = "-A OUTPUT -p tcp -m tcp --dport 9 -j DOCKER";

impl Machine {
    fn with(programs: &[&[&'static str]]) -> Self {
        Machine {
            programs: programs.iter().flat_map(|list| list.iter().copied()).collect(),
            iptables: RefCell::default(),
            table: RefCell::default(),
            refuses: RefCell::default(),
            meanwhile: RefCell::default(),
            capabilities: "CapEff:\t0000000000001000\n",
            calls: RefCell::default(),
        }
    }

    fn saved(&self, place: &str) -> String {
        let all = self.iptables.borrow();
        let mut text = String::new();
        for table in ["nat", "mangle", "raw"] {
            text += &format!("*{table}\n{OTHERS}\n");
            for (_, line) in all.get(place).into_iter().flatten().filter(|(own, _)| own == table) {
                text += &format!("{line}\n");
            }
            text += "COMMIT\n";
        }
        text
    }

    /// `iptables-restore --noflush`: nothing of it happens where one line is wrong.
    fn restore(&self, place: &str, script: &str, test: bool) -> Result<(), String> {
        let mut all = self.iptables.borrow_mut();
        let lines = all.entry(place.to_owned()).or_default();
        let mut next = lines.clone();
        let mut table = String::new();
        for line in script.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name.to_owned();
            } else if let Some(chain) = line.strip_prefix(':') {
                let chain = chain.split(' ').next().unwrap();
                let own = format!("-A {chain} ");
                let declared = format!(":{chain} - [0:0]");
                next.retain(|(at, line)| *at != table || !line.starts_with(&own) && *line != declared);
                next.push((table.clone(), declared));
            } else if let Some(rest) = line.strip_prefix("-D ") {
                let wanted = (table.clone(), format!("-A {rest}"));
                let at = next.iter().position(|line| *line == wanted).ok_or("Bad rule (does it exist?)")?;
                next.remove(at);
            } else if let Some(rest) = line.strip_prefix("-I ") {
                let (chain, rest) = rest.split_once(" 1 ").ok_or("no place")?;
                next.push((table.clone(), format!("-A {chain} {rest}")));
            } else if let Some(chain) = line.strip_prefix("-X ") {
                let used = format!("-j {chain}");
                if next.iter().any(|(at, line)| *at == table && line.ends_with(&used)) {
                    return Err("CHAIN_USER_DEL failed (Device or resource busy)".into());
                }
                let declared = (table.clone(), format!(":{chain} - [0:0]"));
                next.retain(|line| *line != declared);
            } else if line.starts_with("-A ") {
                next.push((table.clone(), line.to_owned()));
            } else if line != "COMMIT" {
                return Err(format!("unknown line {line}"));
            }
        }
        if !test {
            *lines = next;
            if let Some((at, line)) = self.meanwhile.take() {
                lines.push((at.to_owned(), line.to_owned()));
            }
        }
        Ok(())
    }

    fn state(&self, place: &str) -> State {
        State::read(&self.saved(place))
    }

    fn run(&self, line: &str) -> (Result<Done, String>, String) {
        let mut answer = Vec::new();
        let command = parse(line);
        let done = run(&command, self, &nothing, &mut answer)
            .map_err(|error| format!("{}: {error}", error.code(&command)));
        (done, String::from_utf8(answer).unwrap())
    }

    #[track_caller]
    fn done(&self, line: &str) -> String {
        let (done, answer) = self.run(line);
        assert_eq!(done, Ok(Done::AsAsked), "{answer}");
        answer
    }

    #[track_caller]
    fn refused(&self, line: &str, words: &[&str]) {
        let message = self.run(line).0.expect_err("a refusal");
        for word in words {
            assert!(message.contains(word), "{word:?} in {message:?}");
        }
    }
}

impl Host for Machine {
    fn find(&self, program: &str) -> Option<PathBuf> {
        self.programs.contains(program).then(|| Path::new("/usr/sbin").join(program))
    }

    fn run(&self, program: &Path, arguments: &[&str], input: &str) -> io::Result<Said> {
        let name = program.file_name().unwrap().to_str().unwrap();
        let test = arguments.contains(&"--test") || arguments.contains(&"--check");
        self.calls.borrow_mut().push(format!("{name} {}", arguments.join(" ")));
        let bad = |errors: &str| Said { errors: errors.to_owned(), ..Said::default() };
        let good = |output: String| Said { ok: true, output, errors: String::new() };
        if let Some(errors) = self.refuses.borrow().get(name)
            && !test
        {
            return Ok(bad(errors));
        }
        if name == "nft" {
            return Ok(match arguments {
                ["--check", "-f", "-"] => match self.refuses.borrow().get("nft --check") {
                    Some(errors) => bad(errors),
                    None => good(String::new()),
                },
                ["-f", "-"] => {
                    *self.table.borrow_mut() = (input != nftables::REMOVE).then(|| input.to_owned());
                    good(String::new())
                }
                _ if self.table.borrow().is_some() => good(r#"{"nftables": []}"#.to_owned()),
                _ => bad("Error: No such file or directory\nlist table inet signet"),
            });
        }
        let place = name.rsplit_once('-').unwrap().0;
        if name.ends_with("-save") {
            return Ok(good(self.saved(place)));
        }
        Ok(match self.restore(place, input, test) {
            Ok(()) => good(String::new()),
            Err(errors) => bad(&errors),
        })
    }

    fn read(&self, file: &str) -> Option<String> {
        match file {
            "/proc/thread-self/status" => Some(self.capabilities.to_owned()),
            "/proc/thread-self/net/if_inet6" => Some("0…1 01 80 10 80 lo\n".to_owned()),
            "/proc/thread-self/net/ip_tables_names" | "/proc/thread-self/net/ip6_tables_names" => {
                Some("nat\n".to_owned())
            }
            _ => None,
        }
    }

    fn lock(&self) -> io::Result<Option<std::fs::File>> {
        Ok(None)
    }
}

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

fn parse(line: &str) -> Command {
    Line::parse_from(std::iter::once("redirect").chain(line.split(' '))).command
}

fn nothing(file: &Path) -> Result<Listeners, String> {
    Err(format!("{}: no files here", file.display()))
}

fn plan(line: &str) -> Plan {
    match parse(line) {
        Command::Apply { options, .. } | Command::Check { options, .. } => {
            Plan::of(&options.resolve(None, true).unwrap())
        }
        Command::Remove { .. } | Command::Verify { .. } => unreachable!(),
    }
}

#[test]
fn nftables_is_one_program_once_and_iptables_of_before_is_taken_away() {
    let machine = Machine::with(&[&["nft"], &NFT_KIND]);
    machine.done("apply --uid 2102 --backend iptables");
    assert!(!machine.state("iptables-nft").is_empty() && machine.table.borrow().is_none());
    machine.calls.borrow_mut().clear();
    let answer = machine.done("apply --uid 2102");
    assert!(answer.starts_with("nftables: ") && answer.contains("IPv4 and IPv6"), "{answer}");
    let commits = machine.calls.borrow().iter().filter(|call| *call == "nft -f -").count();
    assert_eq!(commits, 1);
    assert_eq!(machine.table.borrow().as_deref(), Some(nftables::script(&plan("apply --uid 2102")).as_str()));
    assert!(machine.state("iptables-nft").is_empty() && machine.state("ip6tables-nft").is_empty());
    machine.done("apply --uid 2102 --backend iptables");
    assert!(machine.table.borrow().is_none());
}

#[test]
fn iptables_twice_is_as_once_and_other_options_replace() {
    let machine = Machine::with(&[&LEGACY_KIND]);
    let once = "apply --uid 2102 --exclude-outbound-ports 5432";
    machine.done(once);
    let first = machine.iptables.borrow().clone();
    machine.done(once);
    assert_eq!(*machine.iptables.borrow(), first);
    assert_eq!(machine.run("check --uid 2102 --exclude-outbound-ports 5432").0, Ok(Done::AsAsked));
    machine.done("apply --uid 2102 --ipv6 off");
    assert_eq!(machine.state("iptables-legacy").differences(&plan("apply --uid 2102"), Family::V4), [""; 0]);
    assert!(machine.state("ip6tables-legacy").is_empty());
    let (done, lines) = machine.run(&once.replace("apply", "check"));
    assert_eq!(done, Ok(Done::Differs));
    assert!(
        lines.contains(
            "iptables (legacy): IPv4 SIGNET_OUTPUT: missing: -p tcp -m tcp --dport 5432 -j RETURN\n"
        )
    );
    assert!(
        lines.contains("IPv6 PREROUTING: expected one jump `-p tcp -j SIGNET_INVALID`, got 0\n"),
        "{lines}"
    );
    machine.done("remove");
    assert!(machine.state("iptables-legacy").is_empty());
    assert_eq!(machine.done("remove"), "there is nothing to remove\n");
    assert!(machine.saved("iptables-legacy").contains(OTHERS));
}

#[test]
fn a_failure_in_the_second_family_puts_the_first_one_back() {
    let machine = Machine::with(&[&NFT_KIND]);
    machine
        .refuses
        .borrow_mut()
        .insert("ip6tables-nft-restore", "Could not fetch rule set: Operation not permitted");
    machine
        .refused("apply --uid 2102", &["1: ", "ip6tables-nft-restore refused", "not permitted", "NET_ADMIN"]);
    assert!(machine.state("iptables-nft").is_empty(), "nothing was there before");
    machine.refuses.borrow_mut().clear();
    machine.done("apply --uid 2102");
    machine.refuses.borrow_mut().insert("ip6tables-nft-restore", "no");
    machine.refused("apply --uid 2103", &["no"]);
    assert_eq!(machine.run("check --uid 2102").0, Ok(Done::AsAsked), "what was there before");
}

#[test]
fn rules_of_before_that_cannot_be_taken_away_are_said() {
    let machine = Machine::with(&[&["nft"], &NFT_KIND]);
    machine.done("apply --uid 2102 --backend iptables");
    machine.refuses.borrow_mut().insert("iptables-nft-restore", "Resource temporarily unavailable.");
    machine.refused(
        "apply --uid 2102",
        &["1: ", "in force by nftables", "temporarily unavailable", "redirect remove"],
    );
    assert!(machine.table.borrow().is_some());
}

#[test]
fn what_somebody_else_does_meanwhile_is_seen_and_settled() {
    let machine = Machine::with(&[&NFT_KIND]);
    machine.done("apply --uid 2102");
    *machine.meanwhile.borrow_mut() = Some(("nat", "-A OUTPUT -p tcp -j SIGNET_OUTPUT"));
    machine.done("apply --uid 2102");
    assert_eq!(machine.run("check --uid 2102").0, Ok(Done::AsAsked));
}

#[test]
fn where_nftables_does_not_work_iptables_is_taken_and_said() {
    let machine = Machine::with(&[&["nft"], &NFT_KIND]);
    machine
        .refuses
        .borrow_mut()
        .insert("nft --check", "Error: Could not process rule: No such file or directory");
    assert!(machine.done("apply --uid 2102").starts_with("iptables (nft): "));
    assert!(machine.table.borrow().is_none());
    let alone = Machine::with(&[&["nft"]]);
    alone
        .refuses
        .borrow_mut()
        .insert("nft --check", "Error: Could not process rule: No such file or directory");
    alone.refused(
        "apply --uid 2102",
        &["nft refused", "No such file", "the modules nft_chain_nat", "--backend"],
    );
}

#[test]
fn the_first_kind_of_iptables_that_works_is_taken() {
    let machine = Machine::with(&[&NFT_KIND, &LEGACY_KIND]);
    machine.refuses.borrow_mut().insert("iptables-nft-restore", "Protocol not supported");
    assert!(machine.done("apply --uid 2102").starts_with("iptables (legacy): "));
    assert!(machine.state("iptables-nft").is_empty());
    let plain = ["iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore"];
    assert!(Machine::with(&[&plain]).done("apply --uid 2102").starts_with("iptables: "));
    let without_ipv6 = Machine::with(&[&plain[..2]]);
    without_ipv6.refused("apply --uid 2102", &["ip6tables-restore", "--ipv6 off"]);
    assert!(without_ipv6.done("apply --uid 2102 --ipv6 off").contains("IPv4 only"));
}

#[test]
fn without_the_capability_or_any_program_nothing_is_run() {
    let mut machine = Machine::with(&[&["nft"], &NFT_KIND]);
    machine.capabilities = "CapEff:\t0000000000000000\n";
    machine.refused("apply --uid 2102", &["1: ", "NET_ADMIN", "init container"]);
    machine.refused("remove", &["1: ", "NET_ADMIN"]);
    machine.refused("check --uid 2102", &["2: ", "NET_ADMIN"]);
    assert!(machine.calls.borrow().is_empty());
    let bare = Machine::with(&[]);
    bare.refused("apply --uid 2102", &["nft or iptables-restore", "/usr/sbin", "install nftables"]);
    bare.refused("apply --uid 2102 --backend nftables", &["expected nft in", "install nftables"]);
    bare.refused("apply --uid 2102 --backend iptables", &["expected iptables-restore"]);
    bare.refused("remove", &["nft or iptables"]);
    bare.refused("check --uid 2102", &["2: "]);
    bare.refused("apply --uid 0", &["2: ", "--uid"]);
}

#[test]
fn a_dry_run_says_the_text_and_runs_nothing() {
    let mut machine = Machine::with(&[&["nft"], &NFT_KIND]);
    machine.capabilities = "";
    let line = "apply --uid 2102 --dry-run";
    assert_eq!(machine.done(line), format!("# nft -f -\n{}", nftables::script(&plan("apply --uid 2102"))));
    let answer = machine.done("apply --uid 2102 --dry-run --backend iptables");
    assert!(
        answer.contains("# iptables-restore --noflush") && answer.contains("# ip6tables-restore"),
        "{answer}"
    );
    assert!(machine.calls.borrow().is_empty());
    machine.capabilities = "CapEff:\t0000000000001000\n";
    machine.done("apply --uid 2102 --backend iptables");
    assert!(machine.done("remove --dry-run").contains("-X SIGNET_OUTPUT"));
    assert!(!machine.state("iptables-nft").is_empty());
}

#[test]
fn check_says_where_there_is_nothing_and_where_there_is_too_much() {
    let machine = Machine::with(&[&["nft"], &NFT_KIND]);
    let (done, lines) = machine.run("check --uid 2102");
    assert_eq!(done, Ok(Done::Differs));
    assert_eq!(lines, "nothing is redirected: neither a table inet signet nor chains SIGNET_*\n");
    machine.done("apply --uid 2102 --backend iptables");
    let (done, lines) = machine.run("check --uid 2102 --backend nftables");
    assert_eq!(done, Ok(Done::Differs));
    assert!(
        lines.starts_with("nothing is redirected: no table inet signet\niptables (nft): not asked for"),
        "{lines}"
    );
    // By both at once.
    *machine.table.borrow_mut() = Some(String::new());
    let (done, lines) = machine.run("check --uid 2102");
    assert_eq!(
        (done, lines.as_str()),
        (Ok(Done::Differs), "nftables: not asked for: rules of Signet here too\n")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_was_asked_before_only_the_last_is_in_force(before in wanted(), after in wanted()) {
        let machine = Machine::with(&[&NFT_KIND]);
        for wanted in [&before, &after, &after] {
            apply(&machine, &Plan::of(wanted), Backend::Auto, &mut Vec::new()).unwrap();
        }
        let plan = Plan::of(&after);
        for (place, family) in [("iptables-nft", Family::V4), ("ip6tables-nft", Family::V6)] {
            let expected =
                if plan.families().contains(&family) { State::of(&plan, family) } else { State::default() };
            let mut found = machine.state(place);
            found.jumps_in_order();
            let mut sorted = expected.clone();
            sorted.jumps_in_order();
            prop_assert_eq!(found, sorted);
            prop_assert!(machine.saved(place).contains(OTHERS));
        }
        remove(&machine, false, &mut Vec::new()).unwrap();
        prop_assert!(machine.state("iptables-nft").is_empty() && machine.state("ip6tables-nft").is_empty());
    }
}
