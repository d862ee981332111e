//! `docs/reference/values.md`: every value of the chart, of `values.yaml` and its schema.
//!
//! `values.yaml` says the default, and in the comment before it what the value is for; the schema says what it takes. A
//! comment before a group is the group's, and stands at each of its values that has none of its own.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::{Chart, MADE, cell, code};

/// Why no page can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValuesError {
    /// `values.yaml` is not written as it is read here.
    #[error("values.yaml, line {0}: expected `name: value` or a comment, indented by two spaces a level")]
    Line(usize),
    /// The schema is none.
    #[error("values.schema.json: {0}")]
    Schema(String),
    /// Whoever sets it is refused.
    #[error("values.schema.json has no {0}, which is in values.yaml")]
    NoSchema(String),
    /// Nobody knows of it.
    #[error("values.yaml has no {0}, which is in values.schema.json")]
    NoDefault(String),
    /// Nobody knows what it is for.
    #[error("values.yaml: expected a comment before {0}, or before what it is part of")]
    NoWords(String),
}

/// One value.
struct Value {
    /// As `--set` has it; `[]` is each entry of a list.
    path: String,
    /// As `values.yaml` has it.
    default: String,
    /// Of which kind, in words.
    takes: String,
    /// What for.
    meaning: String,
}

/// A group or a value that is open while its lines are read.
struct Open {
    name: String,
    words: Option<String>,
}

/// All values, in the order of the file.
fn read(values: &str, schema: &str) -> Result<Vec<Value>, ValuesError> {
    let schema: Json =
        serde_json::from_str(schema).map_err(|error| ValuesError::Schema(error.to_string()))?;
    let mut all = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let mut words: Vec<&str> = Vec::new();
    let lines: Vec<&str> = values.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let wrong = || ValuesError::Line(at.saturating_add(1));
        let text = line.trim_start();
        let spaces = line.len().saturating_sub(text.len());
        if text.is_empty() {
            words.clear();
            continue;
        }
        if let Some(said) = text.strip_prefix('#') {
            words.push(said.trim());
            continue;
        }
        let mut level = spaces / 2;
        if spaces % 2 != 0 || level > open.len() {
            return Err(wrong());
        }
        // An entry of a list: the first of its fields stands behind the dash, and the others below that.
        let text = match text.strip_prefix("- ") {
            Some(field) => {
                open.truncate(level);
                open.push(Open { name: "[]".to_owned(), words: None });
                level = level.saturating_add(1);
                field
            }
            None => text,
        };
        let (name, default) = text.split_once(':').ok_or_else(wrong)?;
        if name.contains(' ') {
            return Err(wrong());
        }
        open.truncate(level);
        let said = (!words.is_empty()).then(|| words.join(" "));
        words.clear();
        open.push(Open { name: name.to_owned(), words: said });
        let default = default.trim();
        if default.is_empty() {
            continue;
        }
        let parts: Vec<&str> = open.iter().map(|part| part.name.as_str()).collect();
        let path = parts.join(".").replace(".[]", "[]");
        let of = find(&schema, &parts).ok_or_else(|| ValuesError::NoSchema(path.clone()))?;
        let meaning = open.iter().rev().find_map(|part| part.words.clone());
        let meaning = meaning.ok_or_else(|| ValuesError::NoWords(path.clone()))?;
        all.push(Value { path, default: default.to_owned(), takes: takes(of), meaning });
    }
    let known: BTreeSet<&str> = all.iter().map(|value| value.path.as_str()).collect();
    let mut leaves = Vec::new();
    leaf(&schema, "", &known, &mut leaves);
    match leaves.into_iter().find(|path| !known.contains(path.as_str())) {
        Some(path) => Err(ValuesError::NoDefault(path)),
        None => Ok(all),
    }
}

/// The schema at a path. What stands in one line as a map is one value, and so is what is within it.
fn find<'a>(schema: &'a Json, path: &[&str]) -> Option<&'a Json> {
    path.iter().try_fold(schema, |schema, name| match *name {
        "[]" => schema.get("items"),
        name => schema.get("properties")?.get(name),
    })
}

fn leaf(schema: &Json, place: &str, known: &BTreeSet<&str>, out: &mut Vec<String>) {
    let fields = schema.get("properties").and_then(Json::as_object);
    for (name, field) in fields.into_iter().flatten() {
        let at = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
        // Helm's own, which every chart must take.
        if at == "global" {
            continue;
        }
        let each = format!("{at}[]");
        let within = known
            .iter()
            .any(|path| path.strip_prefix(each.as_str()).is_some_and(|rest| rest.starts_with('.')));
        match (field.get("properties"), field.get("items")) {
            (Some(_), _) if !known.contains(at.as_str()) => leaf(field, &at, known, out),
            (_, Some(entry)) if within => leaf(entry, &each, known, out),
            _ => out.push(at),
        }
    }
}

/// Patterns that are said in words.
#[rustfmt::skip] // One a line, as a table.
const WORDS: [(&str, &str); 13] = [
    (r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "a name"),
    (r"^$|^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "a name, or nothing"),
    (r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", "a label of DNS"),
    (r"^[a-z0-9]([-a-z0-9._]*[a-z0-9])?$", "a trust domain"),
    (r"^$|^[a-z]([-a-z0-9]{0,28}[a-z0-9])?$", "at most 30 of `a-z`, `0-9` and `-`, or nothing"),
    (r"^$|^[a-z]([-a-z0-9]{0,51}[a-z0-9])?$", "at most 53 of `a-z`, `0-9` and `-`, or nothing"),
    (r"^[a-z]([-a-z0-9]{0,13}[a-z0-9])?$", "at most 15 of `a-z`, `0-9` and `-`"),
    (r"^[A-Za-z0-9][-A-Za-z0-9._:/@]*$", "an image"),
    (r"^$|^[A-Za-z0-9][-A-Za-z0-9._:/@]*$", "an image, or nothing"),
    (r"^/[-A-Za-z0-9._/]+$", "a folder"),
    (r"^$|^/[-A-Za-z0-9._/]+$", "a folder, or nothing"),
    (r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$", "a quantity"),
    (r"^[0-9a-fA-F.:]+/[0-9]{1,3}$", "a network, such as 10.0.0.0/8"),
];

fn takes(schema: &Json) -> String {
    if let Some(all) = schema.get("enum").and_then(Json::as_array) {
        return all.iter().filter_map(Json::as_str).map(code).collect::<Vec<_>>().join(", ");
    }
    let kind = match schema.get("type") {
        Some(Json::Array(kinds)) => kinds.first().and_then(Json::as_str).unwrap_or_default(),
        Some(kind) => kind.as_str().unwrap_or_default(),
        None => "",
    };
    let bound = |word: &str| schema.get(word).and_then(Json::as_i64);
    match kind {
        "string" => match schema.get("pattern").and_then(Json::as_str) {
            Some(pattern) => {
                let words = WORDS.iter().find(|(known, _)| *known == pattern);
                words.map_or_else(
                    || format!("text that matches `{pattern}`"),
                    |(_, words)| (*words).to_owned(),
                )
            }
            None => "text".to_owned(),
        },
        "integer" => match (bound("minimum"), bound("maximum")) {
            (Some(least), Some(most)) => format!("{least} to {most}"),
            (Some(least), None) => format!("a number, at least {least}"),
            _ => "a number".to_owned(),
        },
        "boolean" => "`true`, `false`".to_owned(),
        "array" => format!("a list: {}", schema.get("items").map(takes).unwrap_or_default()),
        "object" => match schema.get("properties").and_then(Json::as_object) {
            Some(fields) => {
                let each = fields.iter().map(|(name, field)| format!("{}: {}", code(name), takes(field)));
                format!("{{{}}}", each.collect::<Vec<_>>().join(", "))
            }
            None => match schema.get("additionalProperties").filter(|inner| inner.is_object()) {
                Some(inner) => format!("a map: {}", takes(inner)),
                None => "an object of Kubernetes".to_owned(),
            },
        },
        other => other.to_owned(),
    }
}

pub(super) fn page(charts: &[Chart<'_>]) -> Result<String, ValuesError> {
    let mut text = format!(
        "{MADE}# Values of the charts\n\n\
         Of the charts in `deploy/helm`; those of `signet` for `signet install -f` and helm alike. A value that is not here, or that is of another \
         kind, is refused. How they go together is told in [kubernetes.md](../kubernetes.md#the-chart). `[]` is each entry of a list.\n"
    );
    for chart in charts {
        text += &format!(
            "\n## {}\n\n| value | default | takes | meaning |\n| --- | --- | --- | --- |\n",
            chart.name
        );
        for Value { path, default, takes, meaning } in read(chart.values, chart.schema)? {
            let cells = [&code(&path), &code(&default), &takes, &meaning].map(|text| cell(text));
            text += &format!("| {} |\n", cells.join(" | "));
        }
    }
    Ok(text)
}
