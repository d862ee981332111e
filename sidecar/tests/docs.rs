//! `docs/configuration.md` and `docs/operations.md` say what this version does: examples are read by the real
//! parsers, and every field, label and metric of the code has its place on the page.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use clap::Subcommand as _;
use signet_sidecar::config::{Config, Role};
use signet_sidecar::join::JoinBundle;
use signet_sidecar::redirect::nftables;
use signet_sidecar::redirect::options::Options;
use signet_sidecar::redirect::plan::Plan;

const CONFIGURATION: &str = include_str!("../../docs/configuration.md");
const OPERATIONS: &str = include_str!("../../docs/operations.md");
const WORKLOAD_API: &str = include_str!("../../docs/workload-api.md");

fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let open = format!("```{language}\n");
    page.split(open.as_str()).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("docs/configuration.md"), text).map_err(|error| error.to_string())
}

/// The section of a page under this heading.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("\n## {heading}\n")).expect("the heading");
    rest.split("\n## ").next().expect("text")
}

/// What stands in double quotes after each `before`.
fn quoted(source: &str, before: &str) -> Vec<String> {
    let after = source.split(before).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
    after.filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
}

#[test]
fn every_example_of_a_sidecar_and_its_join_bundle_is_taken() {
    let files = blocks(CONFIGURATION, "yaml");
    let parsed: Vec<Config> = files
        .iter()
        .filter(|text| text.starts_with("# sidecar.yaml\n"))
        .map(|text| parse(text).unwrap_or_else(|error| panic!("{error}\n{text}")))
        .collect();
    assert!(parsed.iter().any(|config| config.role == Role::Sidecar));
    assert!(parsed.iter().any(|config| config.role == Role::Gateway));
    assert!(parsed.iter().any(|config| config.role == Role::Agent));

    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("join.json");
    for text in blocks(CONFIGURATION, "json") {
        std::fs::write(&file, text).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("0600");
        JoinBundle::load(&file).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
    assert_eq!(blocks(CONFIGURATION, "json").len(), 1);
}

#[test]
fn every_field_of_a_sidecar_is_in_its_table() {
    // The parser itself says which fields there are, when it meets one that is none of them.
    let table = section(CONFIGURATION, "sidecar.yaml");
    for (text, within) in [
        ("none: 1", ""),
        ("identity: {none: 1}", "identity."),
        ("identity: {kubernetes: {none: 1}}", "identity.kubernetes."),
        ("inbound: [{none: 1}]", "inbound[]."),
        ("outbound: [{none: 1}]", "outbound[]."),
        ("forwardProxy: {none: 1}", "forwardProxy."),
        ("transparent: {none: 1}", "transparent."),
        ("dns: {none: 1}", "dns."),
        ("gateway: {none: 1}", "gateway."),
        ("gateway: {listeners: [{none: 1}]}", "gateway.listeners[]."),
        ("gateway: {eastWest: {none: 1}}", "gateway.eastWest."),
        ("gateway: {listeners: [{tls: {none: 1}}]}", "gateway.listeners[].tls."),
        ("admin: {none: 1}", "admin."),
        ("workloadApi: {none: 1}", "workloadApi."),
        ("appApi: {none: 1}", "appApi."),
        ("userContext: {none: 1}", "userContext."),
        ("metrics: {none: 1}", "metrics."),
        ("metrics: {app: {none: 1}}", "metrics.app."),
        ("probes: {none: 1}", "probes."),
        ("tls: {none: 1}", "tls."),
        ("log: {none: 1}", "log."),
    ] {
        let message = parse(text).expect_err("an unknown field");
        let known = message.split_once("expected one of ").or_else(|| message.split_once("expected "));
        let (_, known) = known.unwrap_or_else(|| panic!("{message}"));
        let each = known.split(", ").flat_map(|fields| fields.split(" or "));
        for field in each.map(|field| field.trim_matches('`')) {
            let (whole, open) = (format!("`{within}{field}`"), format!("`{within}{field}"));
            let of_list = [format!("{open}[]."), format!("{open}.")];
            let found = table.contains(&whole) || of_list.iter().any(|start| table.contains(start));
            assert!(found, "{whole} is not in the table of docs/configuration.md");
        }
    }
}

#[test]
fn every_reason_of_a_failed_handshake_has_its_row() {
    let source = include_str!("../../core/identity/src/failure.rs");
    let labels = source.split("fn label").nth(1).and_then(|rest| rest.split("\n    }\n").next());
    let labels = quoted(labels.expect("the labels"), "=>");
    assert!(labels.len() > 20, "{labels:?}");
    let table = section(OPERATIONS, "When handshakes fail");
    for label in &labels {
        assert!(table.contains(&format!("\n| `{label}` | ")), "{label} has no row in docs/operations.md");
    }
    let rows = table.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, labels.len(), "a row for a reason that is no longer there");
}

#[test]
fn every_refusal_has_its_row_with_its_statuses() {
    let source = include_str!("../proxy/src/answer.rs");
    let code = |name: &str| {
        let (_, rest) = source.split_once(&format!("const {name}: u8 = ")).expect("the code");
        rest.split(';').next().expect("a number").to_owned()
    };
    let rows = source.split("fn row").nth(1).and_then(|rest| rest.split("\n    }\n").next());
    let mut known = BTreeSet::new();
    for row in rows.expect("the table").split("(\"").skip(1) {
        let mut cells = row.split(',').map(str::trim);
        let label = cells.next().expect("label").trim_end_matches('"');
        let configured = || "as configured".to_owned();
        let status = cells.next().expect("status");
        let status = if status.starts_with(char::is_numeric) { status.to_owned() } else { configured() };
        let grpc = cells.next().expect("gRPC").strip_prefix("grpc::").map_or_else(configured, code);
        known.insert(format!("| `{label}` | {status} | {grpc} |"));
    }
    assert!(known.len() > 25, "{known:?}");
    let table = section(OPERATIONS, "When requests are refused");
    let rows: BTreeSet<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    for row in &known {
        assert!(rows.iter().any(|line| line.starts_with(row)), "docs/operations.md has no row {row}");
    }
    assert_eq!(rows.len(), known.len(), "a row for a reason that is no longer there");
}

#[test]
fn every_metric_of_the_data_plane_has_its_row() {
    let mut names = BTreeSet::new();
    for source in [
        include_str!("../proxy/src/metrics.rs"),
        include_str!("../gateway/src/events.rs"),
        include_str!("../dns/src/metrics.rs"),
        include_str!("../src/metrics.rs"),
        include_str!("../src/agent.rs"),
        include_str!("../src/probes/mod.rs"),
        include_str!("../src/scrape/mod.rs"),
        include_str!("../workload/src/metrics.rs"),
    ] {
        let quoted = source.split('"').filter(|text| text.starts_with("signet_"));
        names.extend(quoted.filter(|text| text.bytes().all(|b| b == b'_' || b.is_ascii_lowercase())));
    }
    assert!(names.len() > 20, "{names:?}");
    let table = section(OPERATIONS, "Metrics");
    for name in names {
        assert!(table.contains(&format!("\n| `{name}` | ")), "{name} has no row in docs/operations.md");
    }
}

#[test]
fn the_page_on_the_workload_socket_is_read_by_the_real_parsers_and_says_the_real_bounds() {
    let blocks = blocks(WORKLOAD_API, "yaml");
    let registry = blocks.iter().find(|text| text.contains("kind: Workload")).expect("a Workload");
    let registry = signet_model::parse_text(Path::new("registry.yaml"), registry, &Default::default())
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(registry.workloads().all(|workload| workload.spec.workload_api));
    let socket = blocks.iter().find(|text| text.starts_with("workloadApi:")).expect("a socket");
    let config = format!("{{role: sidecar, identity: {{joinBundle: /j}}, dataDir: /d, {}}}", socket.trim());
    assert!(parse(&config).expect("a configuration").workload_api.is_some());
    let bounds = signet_workload::Bounds::default();
    let said = format!(
        "cut after {} seconds; one user has at most {} connections, and a connection {}\ncalls at once",
        bounds.unread.as_secs(),
        bounds.connections_of_uid,
        bounds.streams
    );
    assert!(WORKLOAD_API.contains(&said), "docs/workload-api.md does not say: {said}");
}

#[test]
fn every_option_of_redirect_and_its_rules_are_on_the_page() {
    let section = section(OPERATIONS, "Redirecting an app's connections");
    let apply = signet_sidecar::redirect::run::Command::augment_subcommands(clap::Command::new("redirect"));
    let apply = apply.find_subcommand("apply").expect("the command");
    for option in apply.get_arguments().filter_map(clap::Arg::get_long).filter(|name| *name != "dry-run") {
        let row = section.lines().any(|line| {
            line.starts_with("| `--")
                && line.split('|').nth(1).is_some_and(|cell| cell.contains(&format!("`--{option}`")))
        });
        assert!(row, "--{option} has no row");
    }
    for value in apply.get_arguments().flat_map(clap::Arg::get_possible_values) {
        let name = value.get_name();
        assert!(name == "true" || name == "false" || section.contains(&format!("`{name}`")), "{name}");
    }
    let options = Options { uid: Some(2102), ..Options::default() };
    let plan = Plan::of(&options.resolve(None, true).expect("plain options"));
    assert!(section.contains(&nftables::script(&plan)), "{}", nftables::script(&plan));
}
