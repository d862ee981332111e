//! `docs/reference` says what the code says, and leaves nothing out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use signet_kubernetes::reference::{Chart, ValuesError, pages};

const CHARTS: [Chart<'static>; 2] = [
    Chart {
        name: "signet",
        values: include_str!("../../../deploy/helm/signet/values.yaml"),
        schema: include_str!("../../../deploy/helm/signet/values.schema.json"),
    },
    Chart {
        name: "signet-gateway",
        values: include_str!("../../../deploy/helm/signet-gateway/values.yaml"),
        schema: include_str!("../../../deploy/helm/signet-gateway/values.schema.json"),
    },
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_reference_pages_are_what_the_code_says() {
    for page in pages(&CHARTS).expect("pages") {
        let file = root().join("docs/reference").join(page.file);
        let there = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(there == page.text, "docs/reference/{} is out of date: make references", page.file);
    }
}

/// Every `signet.mesh/<name>` in a text.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split("signet.mesh/").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).unwrap_or(rest.len());
        rest.get(..end).filter(|name| !name.is_empty())
    })
}

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            sources(&entry, out);
        } else {
            out.push(entry);
        }
    }
}

#[test]
fn every_label_and_annotation_of_the_code_is_in_the_reference() {
    let page = std::fs::read_to_string(root().join("docs/reference/annotations.md")).expect("the page");
    let known: BTreeSet<&str> = names(&page).collect();
    let mut files = Vec::new();
    for folder in
        ["core/kubernetes/src", "control-plane/src", "sidecar/src", "cli/src", "deploy/helm/signet/templates"]
    {
        sources(&root().join(folder), &mut files);
    }
    assert!(files.len() > 100, "{}", files.len());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("text");
        for name in names(&text) {
            // The group's version, and the names of controllers, are neither.
            if ["v1alpha1", "gateway-controller", "control-plane"].contains(&name) {
                continue;
            }
            assert!(known.contains(name), "{}: signet.mesh/{name} is not in the reference", file.display());
        }
    }
}

#[test]
fn a_value_without_words_schema_or_default_is_found() {
    let schema =
        r#"{"properties": {"a": {"properties": {"b": {"type": "boolean"}, "c": {"type": "integer"}}}}}"#;
    let said = |values: &str| pages(&[Chart { name: "a", values, schema }]).map(|_| ());
    assert_eq!(said("# What for.\na:\n  b: false\n  c: 1\n"), Ok(()));
    assert_eq!(said("a:\n  # What for.\n  b: false\n  c: 1\n"), Err(ValuesError::NoWords("a.c".into())));
    assert_eq!(said("# What for.\na:\n  b: false\n"), Err(ValuesError::NoDefault("a.c".into())));
    assert_eq!(
        said("# What for.\na:\n  b: false\n  c: 1\n  d: 2\n"),
        Err(ValuesError::NoSchema("a.d".into()))
    );
    assert_eq!(said("# What for.\na:\n   b: false\n"), Err(ValuesError::Line(3)));
    // Entries of a list are values, too.
    let schema = r#"{"properties": {"a": {"items": {"properties": {"b": {"type": "boolean"}, "c": {"type": "integer"}}}}}}"#;
    let said = |values: &str| pages(&[Chart { name: "a", values, schema }]).map(|_| ());
    assert_eq!(said("# What for.\na:\n  - b: false\n    c: 1\n"), Ok(()));
    assert_eq!(said("# What for.\na: []\n"), Ok(()));
    assert_eq!(said("# What for.\na:\n  - b: false\n"), Err(ValuesError::NoDefault("a[].c".into())));
    assert_eq!(said("# What for.\na:\n  - d: 1\n"), Err(ValuesError::NoSchema("a[].d".into())));
}

#[test]
fn a_bar_in_a_meaning_does_not_end_its_cell() {
    let schema = r#"{"properties": {"a": {"type": "string", "pattern": "^x|y$"}}}"#;
    let chart = Chart { name: "a", values: "# One | other.\na: \"x|y\"\n", schema };
    let made = pages(&[chart]).expect("pages");
    let values = made.iter().find(|page| page.file == "values.md").expect("the page");
    let row = values.text.lines().last().expect("a row");
    assert_eq!(row, r#"| `a` | `"x\|y"` | text that matches `^x\|y$` | One \| other. |"#);
}
