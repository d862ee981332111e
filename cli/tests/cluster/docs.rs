//! docs/install.md and docs/analyze.md say what the program says of itself.

use std::process::Command;

const INSTALL: &str = include_str!("../../../docs/install.md");
const ANALYZE: &str = include_str!("../../../docs/analyze.md");

fn help(command: &str) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_signet")).args([command, "--help"]).output().expect("signet");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn every_flag_of_the_pages_is_one_of_the_commands() {
    for (page, commands) in
        [(INSTALL, &["install", "upgrade", "uninstall", "check", "analyze"][..]), (ANALYZE, &["analyze"])]
    {
        for line in page.lines() {
            let Some(rest) = line.strip_prefix("$ signet ") else { continue };
            let rest = rest.split(['|', '&', '#']).next().expect("a command");
            let mut words = rest.split_whitespace();
            let command = words.next().expect("a command");
            assert!(commands.contains(&command), "{line}");
            let help = help(command);
            for flag in words.filter(|word| word.starts_with("--")) {
                assert!(help.contains(flag), "`{line}`: `signet {command} --help` does not know {flag}");
            }
        }
    }
}

#[test]
fn every_flag_of_the_commands_is_on_a_page() {
    for command in ["install", "upgrade", "uninstall", "check", "analyze"] {
        let help = help(command);
        let flags = help
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
            .filter(|word| word.starts_with("--"));
        for flag in flags.filter(|flag| flag.len() > 3) {
            // Those of every command.
            if ["--socket", "--login", "--config", "--json", "--help", "--version"].contains(&flag) {
                continue;
            }
            assert!(INSTALL.contains(flag) || ANALYZE.contains(flag), "{command}: {flag} is on no page");
        }
    }
}
