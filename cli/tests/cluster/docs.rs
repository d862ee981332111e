//! The pages about clusters say what the program says of itself, and their examples are taken by it.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{Cluster, out, said};

const INSTALL: &str = include_str!("../../../docs/install.md");
const ANALYZE: &str = include_str!("../../../docs/analyze.md");
const FIRST: &str = include_str!("../../../docs/first-mesh.md");
const NEIGHBOURS: &str = include_str!("../../../docs/neighbours.md");
/// Pages with commands.
const PAGES: [(&str, &str); 9] = [
    ("install", INSTALL),
    ("analyze", ANALYZE),
    ("first-mesh", FIRST),
    ("neighbours", NEIGHBOURS),
    ("production", include_str!("../../../docs/production.md")),
    ("upgrade", include_str!("../../../docs/upgrade.md")),
    ("cluster-keys", include_str!("../../../docs/cluster-keys.md")),
    ("cluster-recovery", include_str!("../../../docs/cluster-recovery.md")),
    ("kubernetes", include_str!("../../../docs/kubernetes.md")),
];

fn signet(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_signet")).args(words).output().expect("signet")
}

fn help(words: &[&str]) -> String {
    let output = signet(&[words, &["--help"]].concat());
    assert!(output.status.success(), "{words:?}: {}", said(&output));
    out(&output)
}

/// Each call of `signet` on a page, in a pod or not.
fn calls(page: &str) -> impl Iterator<Item = &str> {
    let commands = page.lines().filter_map(|line| line.trim_start().strip_prefix("$ "));
    commands.filter_map(|line| match line.split_once(" -- signet ") {
        Some((_, inside)) => Some(inside),
        None => line.strip_prefix("signet "),
    })
}

/// The blocks of a page that are this file.
fn files<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let open = format!("```yaml\n# {name}\n");
    page.split(open.as_str()).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// Every file that a page shows, by its name.
fn shown(page: &str) -> Vec<(&str, &str)> {
    let blocks = page.split("```yaml\n# ").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.filter_map(|block| block.split_once('\n')).collect()
}

#[test]
fn every_command_and_flag_of_the_pages_is_one_of_the_program() {
    let mut count = 0;
    for (name, page) in PAGES {
        for line in calls(page) {
            count += 1;
            let call = line.split(['|', '&', '#', '>']).next().expect("a command");
            // What every command takes may stand before it.
            let mut words = call.split_whitespace().peekable();
            while words.next_if(|word| *word == "--socket").is_some() {
                words.next();
            }
            let mut command = vec![words.next().unwrap_or_else(|| panic!("{name}: {line}"))];
            let mut known = help(&command);
            while known.contains("\nCommands:\n") {
                command.push(words.next().unwrap_or_else(|| panic!("{name}: {line}: expected a subcommand")));
                known = help(&command);
            }
            for flag in words.filter(|word| word.starts_with("--")) {
                let flag = flag.split('=').next().expect("a flag");
                assert!(known.contains(flag), "{name}: `{line}`: {command:?} does not know {flag}");
            }
        }
    }
    assert!(count > 40, "{count}");
}

#[tokio::test]
async fn the_values_of_the_first_mesh_are_taken() {
    let Some(cluster) = Cluster::start().await else { return };
    let [values] = files(FIRST, "values.yaml")[..] else { panic!("one file of values") };
    std::fs::write(cluster.folder.path().join("values.yaml"), values).expect("written");
    let output = cluster.signet("install --dry-run -f values.yaml").await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(out(&output).contains("localhost/signet-sidecar:0.1.0"));
}

/// What is said of a page's example, and is what the example is about.
const EXPECTED: [(&str, &str); 1] = [("permissive.yaml", "SGN0504")];

#[test]
fn every_manifest_of_the_pages_is_taken_and_its_pods_are_injected() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut injected = 0;
    for (page, text) in [("first-mesh", FIRST), ("neighbours", NEIGHBOURS)] {
        for (name, manifest) in shown(text) {
            // Read by others: helm, above, and Prometheus.
            if ["values.yaml", "prometheus.yml"].contains(&name) {
                continue;
            }
            let file = folder.path().join(name);
            std::fs::write(&file, manifest).expect("written");
            let path = file.to_str().expect("a path");
            let found = signet(&["analyze", "-f", path, "-o", "json"]);
            let found: Value = serde_json::from_str(&out(&found))
                .unwrap_or_else(|error| panic!("{page}: {name}: {error}: {}", said(&found)));
            for message in found["messages"].as_array().expect("messages") {
                let code = message["code"].as_str().expect("a code");
                let known = EXPECTED.contains(&(name, code)) || message["severity"] == "info";
                assert!(known, "{page}: {name}: {message}");
            }
            let done = signet(&["inject", "-f", path, "--settings", &settings(folder.path())]);
            assert!(done.status.success(), "{page}: {name}: {}", said(&done));
            let pods = said(&done).matches(": injected").count();
            assert_eq!(pods, manifest.matches("kind: Deployment").count(), "{page}: {name}: {}", said(&done));
            assert!(!said(&done).contains("signet:"), "a warning: {}", said(&done));
            injected += pods;
        }
    }
    assert!(injected > 5, "{injected}");
}

/// Injection's own.
fn settings(folder: &std::path::Path) -> String {
    let file = folder.join("settings.yaml");
    let text = "image: a\nredirectImage: b\nbootstrapAddress: c:1\nmeshAddress: c:2\n\
                controlPlane: spiffe://example.com/ns/signet-system/sa/signet-control-plane\n";
    std::fs::write(&file, text).expect("written");
    file.to_str().expect("a path").to_owned()
}

#[test]
fn every_flag_of_the_commands_is_on_a_page() {
    for command in ["install", "upgrade", "uninstall", "check", "analyze"] {
        let help = help(&[command]);
        let flags = help
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
            .filter(|word| word.starts_with("--"));
        for flag in flags.filter(|flag| flag.len() > 3) {
            // Those of every command.
            if ["--socket", "--login", "--config", "--json", "--help", "--version"].contains(&flag) {
                continue;
            }
            let told = PAGES.iter().any(|(_, page)| page.contains(flag));
            assert!(told, "{command}: {flag} is on no page");
        }
    }
}
