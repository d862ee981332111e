//! YAML that every reader takes for the same, those of YAML 1.1 (kubectl's) and of 1.2: a text is bare only where nobody could
//! take it for anything else.

use serde_json::{Map, Value};

/// Words that some reader takes for something else than text.
const WORDS: [&str; 13] =
    ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "none", "~"];

/// A whole document, with a newline at its end.
pub(super) fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => members(map, 0, true, &mut out),
        Value::Array(list) if !list.is_empty() => elements(list, 0, &mut out),
        other => {
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
    out
}

/// `indented`: whether the first line has its indentation yet to come.
fn members(map: &Map<String, Value>, depth: usize, indented: bool, out: &mut String) {
    // People look for these first.
    let first = ["apiVersion", "kind", "name", "metadata"];
    let place = |key: &str| first.iter().position(|known| *known == key).unwrap_or(first.len());
    let mut all: Vec<_> = map.iter().collect();
    all.sort_by_key(|(key, _)| place(key));
    for (at, (key, value)) in all.into_iter().enumerate() {
        if at > 0 || indented {
            out.push_str(&"  ".repeat(depth));
        }
        out.push_str(&text(key));
        out.push(':');
        match value {
            Value::Object(map) if !map.is_empty() => {
                out.push('\n');
                members(map, depth.saturating_add(1), true, out);
            }
            Value::Array(list) if !list.is_empty() => {
                out.push('\n');
                elements(list, depth, out);
            }
            other => line(other, out),
        }
    }
}

fn elements(list: &[Value], depth: usize, out: &mut String) {
    for value in list {
        out.push_str(&"  ".repeat(depth));
        out.push('-');
        match value {
            Value::Object(map) if !map.is_empty() => {
                out.push(' ');
                members(map, depth.saturating_add(1), false, out);
            }
            Value::Array(list) if !list.is_empty() => {
                out.push('\n');
                elements(list, depth.saturating_add(1), out);
            }
            other => line(other, out),
        }
    }
}

fn line(value: &Value, out: &mut String) {
    out.push(' ');
    out.push_str(&scalar(value));
    out.push('\n');
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(found) => text(found),
        // `{}` and `[]` too: JSON is YAML.
        other => other.to_string(),
    }
}

fn text(found: &str) -> String {
    let plain = found.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && found.ends_with(|c: char| c.is_ascii_alphanumeric())
        && found.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte))
        && !WORDS.contains(&found.to_ascii_lowercase().as_str());
    // Quoted as JSON, whose escapes YAML has, too.
    if plain { found.to_owned() } else { Value::from(found).to_string() }
}
