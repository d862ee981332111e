//! `docs/configuration.md` and `docs/operations.md` say what this version does.

use std::collections::BTreeSet;
use std::path::Path;

use signet_control_plane::config::Config;

const CONFIGURATION: &str = include_str!("../../../docs/configuration.md");
const OPERATORS: &str = include_str!("../../../docs/operators.md");
const OPERATIONS: &str = include_str!("../../../docs/operations.md");

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("docs/configuration.md"), text).map_err(|error| error.to_string())
}

#[test]
fn the_example_of_the_configuration_page_is_taken() {
    let examples: Vec<&str> = CONFIGURATION
        .split("```yaml\n")
        .skip(1)
        .filter(|text| text.starts_with("# control-plane.yaml\n"))
        .filter_map(|text| text.split("```").next())
        .collect();
    assert_eq!(examples.len(), 1);
    for text in examples {
        parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
}

#[test]
fn every_field_of_the_control_plane_is_in_its_table() {
    // The parser itself says which fields there are, when it meets one that is none of them.
    let (_, table) = CONFIGURATION.split_once("\n## control-plane.yaml\n").unwrap();
    let table = table.split("\n## ").next().unwrap();
    for section in [
        "",
        "seal",
        "store",
        "store.postgres",
        "replica",
        "issuanceLog",
        "backup",
        "keys",
        "keys.pkcs11",
        "registry",
        "registry.kubernetes",
        "listen",
        "advertise",
        "operator",
        "operators",
        "metrics",
        "svid",
        "rotation",
        "hierarchy",
        "jwtSvid",
        "issuers",
        "bundle",
        "federation",
        "system",
        "attestation",
        "attestation.kubernetes",
        "istio",
        "webhook",
        "log",
    ] {
        let (text, within) = match section {
            "" => ("none: 1".to_owned(), String::new()),
            _ => {
                let nested = section
                    .split('.')
                    .rev()
                    .fold("{none: 1}".to_owned(), |inner, name| format!("{{{name}: {inner}}}"));
                (nested, format!("{section}."))
            }
        };
        let message = parse(&text).unwrap_err();
        let (_, known) = message
            .split_once("expected one of ")
            .or_else(|| message.split_once("expected "))
            .unwrap_or_else(|| panic!("{message}"));
        let known = known.split(" (line ").next().unwrap();
        for field in
            known.split(", ").flat_map(|fields| fields.split(" or ")).map(|field| field.trim_matches('`'))
        {
            let found = ["`", "."].iter().any(|end| table.contains(&format!("`{within}{field}{end}")));
            assert!(found, "`{within}{field}` is not in the table of docs/configuration.md");
        }
    }
}

#[test]
fn the_page_of_operators_has_an_example_that_is_taken_and_names_every_call_that_can_wait() {
    let example = OPERATORS.split("   ```yaml\n").nth(1).unwrap().split("   ```").next().unwrap();
    let example: String =
        example.lines().map(|line| format!("{}\n", line.strip_prefix("   ").unwrap())).collect();
    let rest = "trustDomain: example.com\ndataDir: /d\nseal: {keyFile: /k}\nregistry: {folder: /r}\n\
                listen: {bootstrap: '127.0.0.1:0', mesh: '127.0.0.1:0'}\noperator: {socket: /s}\n";
    let config = parse(&format!("{rest}{example}")).unwrap();
    assert_eq!(config.operators.roles.0.len(), 4);
    let (_, names) = OPERATORS.split_once("Names for `secondPerson`: ").unwrap();
    let names: BTreeSet<&str> = names.split("\n\n").next().unwrap().split('`').skip(1).step_by(2).collect();
    let rows = signet_control_plane::operators::table::TABLE.iter();
    let known: BTreeSet<&str> = rows.filter(|row| row.can_wait()).map(|row| row.name).collect();
    assert_eq!(names, known);
}

#[test]
fn every_metric_and_every_refusal_of_the_authority_has_its_row() {
    let row = |name: &str| assert!(OPERATIONS.contains(&format!("\n| `{name}` | ")), "no row for {name}");
    let own = include_str!("../../src/metrics.rs");
    let mut count = 0;
    for call in ["counters(", "gauges(", "counter(", "gauge("] {
        for rest in own.split(call).skip(1) {
            let name = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
            if let Some(name) = name {
                row(&format!("signet_control_plane_{name}"));
                count += 1;
            }
        }
    }
    assert!(count > 15, "{count}");
    let attest = include_str!("../../src/attest/metrics.rs").split('"');
    let names: Vec<&str> = attest.filter(|text| text.starts_with("signet_attest_")).collect();
    assert_eq!(names.len(), 6, "{names:?}");
    names.into_iter().for_each(row);
    let cluster = include_str!("../../src/cluster/metrics.rs").split('"');
    let names: Vec<&str> = cluster.filter(|text| text.starts_with("signet_cluster_")).collect();
    assert_eq!(names.len(), 8, "{names:?}");
    names.into_iter().for_each(row);
    let authority = include_str!("../../../ca/src/metrics.rs").split('"');
    let names: Vec<&str> = authority.filter(|text| text.starts_with("signet_ca_")).collect();
    assert!(names.len() > 5, "{names:?}");
    names.into_iter().for_each(row);
    let labels = include_str!("../../../ca/src/refusal.rs").split("fn label").nth(1).unwrap();
    let labels = labels.split("\n    }\n").next().unwrap().split("=> \"").skip(1);
    let labels: Vec<&str> = labels.filter_map(|rest| rest.split('"').next()).collect();
    assert!(labels.len() > 25, "{labels:?}");
    labels.into_iter().for_each(row);
}
