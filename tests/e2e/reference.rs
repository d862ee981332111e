//! `docs/reference/commands.md` is what the programs say of themselves.

use std::path::{Path, PathBuf};
use std::process::Command;

use signet_tests::peers::root;
use signet_tests::process::binary;

/// What every command takes, and is told once.
const EVERYWHERE: [&str; 2] = ["--help", "--version"];
/// What every command of `signet` takes besides.
const OF_SIGNET: [&str; 4] = ["--socket", "--login", "--config", "--json"];

fn help(program: &str, words: &[String]) -> String {
    let mut command = Command::new(binary(program));
    // Nothing of the machine: neither its width nor its colours.
    let output = command.args(words).arg("--help").env_clear().output().expect("the program runs");
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

/// The names under `Commands:`.
fn commands(help: &str) -> Vec<String> {
    let Some((_, rest)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let list = rest.split("\n\n").next().unwrap_or_default();
    // A command's name is indented by two spaces; what is said of it further.
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Without the options that every command has.
fn own(program: &str, help: &str) -> String {
    let mut kept = Vec::new();
    let mut dropping = false;
    for line in help.lines() {
        if line.trim_start().starts_with('-') && line.starts_with("  ") {
            let mut flags = line.split([' ', ',']).filter(|word| word.starts_with("--"));
            dropping = flags
                .any(|flag| EVERYWHERE.contains(&flag) || (program == "signet" && OF_SIGNET.contains(&flag)));
        } else if !line.is_empty() && !line.starts_with(' ') {
            dropping = false;
        }
        if !dropping {
            kept.push(line.trim_end());
        }
    }
    kept.join("\n").trim_end().trim_end_matches("Options:").trim_end().to_owned()
}

fn describe(program: &str, words: &[String], out: &mut String) {
    let text = help(program, words);
    let inner = commands(&text);
    if !words.is_empty() {
        let (about, rest) = text.split_once("\n\n").expect("what it is for, then how it is called");
        *out += &format!(
            "\n### {program} {}\n\n{about}\n\n```text\n{}\n```\n",
            words.join(" "),
            own(program, rest)
        );
    }
    for name in inner {
        let mut words = words.to_vec();
        words.push(name);
        describe(program, &words, out);
    }
}

fn page() -> String {
    let mut out = "<!-- Made of the programs: make references. -->\n# Commands\n\n\
                   What each program says with `--help`. What they are for is told in [operations.md](../operations.md), \
                   [install.md](../install.md) and [operators.md](../operators.md).\n"
        .to_owned();
    for program in ["signet", "signet-control-plane", "signet-sidecar"] {
        let text = help(program, &[]);
        out += &format!("\n## {program}\n\n```text\n{text}\n```\n");
        describe(program, &[], &mut out);
    }
    out
}

#[test]
fn the_reference_of_commands_is_what_the_programs_say() {
    let file = root().join("docs/reference/commands.md");
    let said = page();
    // One of each program, one with options of its own, one two levels down.
    for heading in [
        "## signet-sidecar\n",
        "### signet install\n",
        "### signet ca rotate\n",
        "### signet-sidecar redirect apply\n",
    ] {
        assert!(said.contains(heading), "{heading}");
    }
    if std::env::var_os("SIGNET_GOLDEN").is_some() {
        std::fs::write(&file, &said).expect("written");
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(there == said, "docs/reference/commands.md is out of date: make references");
}

/// Every page, by its path from the repository's root.
fn pages() -> Vec<PathBuf> {
    let mut all = Vec::new();
    for folder in ["", "docs", "docs/reference", "deploy/containers"] {
        for entry in std::fs::read_dir(root().join(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name().into_string().expect("text");
            if name.ends_with(".md") {
                all.push(Path::new(folder).join(name));
            }
        }
    }
    all
}

/// Without what is shown as code.
fn prose(page: &Path) -> String {
    let text = std::fs::read_to_string(root().join(page)).expect("a page");
    let mut shown = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        shown ^= fence;
        !fence && !shown
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What a heading is called in a link.
fn anchor(heading: &str) -> String {
    let plain = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = plain.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() {
    let mut count = 0;
    for page in pages() {
        // What stands in backticks is code, too.
        let text: String = prose(&page).split('`').step_by(2).collect();
        for rest in text.split("](").skip(1) {
            let link = rest.split([')', ' ']).next().expect("a link");
            // A pattern in a line of code may look like a link.
            if link.contains("://") || link.starts_with(['[', '?']) {
                continue;
            }
            count += 1;
            let (file, place) =
                link.split_once('#').map_or((link, None), |(file, place)| (file, Some(place)));
            let target = match file {
                "" => page.clone(),
                file => page.parent().expect("a folder").join(file),
            };
            assert!(root().join(&target).exists(), "{}: {link} leads nowhere", page.display());
            if let Some(place) = place {
                let known = prose(&target).lines().any(|line| line.starts_with('#') && anchor(line) == place);
                assert!(known, "{}: {link}: there is no such heading", page.display());
            }
        }
    }
    assert!(count > 300, "{count}");
}
