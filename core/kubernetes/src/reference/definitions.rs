//! `docs/reference/resources.md`: every field of every custom resource, as their definitions have it.

use serde_json::{Map, Value};

use super::{MADE, cell, code};
use crate::crd::{Definition, MAX_ITEMS, definitions};

pub(super) fn page() -> String {
    let mut text = format!(
        "{MADE}# Custom resources\n\n\
         Kinds of `signet.mesh/v1alpha1`, as the API server knows them. What they mean together, with examples, is told in \
         [registry.md](../registry.md). A field that is not here is kept by the API server and refused by the mesh: the \
         [webhook](../kubernetes.md#objects-as-they-are-written) at once, the control plane in `status`.\n\n\
         `[]` is each entry of a list, `*` each key of a map. Fields in **bold** must be there wherever what they are part of is.\n"
    );
    let all = definitions();
    text += "\n| kind | `kubectl get` | of |\n| --- | --- | --- |\n";
    for definition in &all {
        let scope = definition.object.pointer("/spec/scope").and_then(Value::as_str).unwrap_or_default();
        let of = if scope == "Cluster" { "the whole cluster" } else { "a namespace" };
        let anchor = definition.kind.to_lowercase();
        text += &format!(
            "| [{}](#{anchor}) | {} | {of} |\n",
            definition.kind,
            code(&format!("{}.signet.mesh", definition.plural))
        );
    }
    all.iter().for_each(|definition| kind(definition, &mut text));
    text
}

fn kind(definition: &Definition, text: &mut String) {
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let Some(spec) = definition.object.pointer(schema).and_then(Value::as_object) else { return };
    *text += &format!("\n## {}\n\n", definition.kind);
    if let Some(words) = words(spec) {
        *text += &format!("{words}\n\n");
    }
    *text += "| field | type | meaning |\n| --- | --- | --- |\n";
    fields(spec, "spec", text);
    let rules = spec.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten();
    let rules: Vec<&Value> = rules.collect();
    if !rules.is_empty() {
        *text += "\nThe API server refuses by itself what does not hold:\n\n";
    }
    for rule in rules {
        let part = |name: &str| rule.get(name).and_then(Value::as_str).unwrap_or_default();
        *text += &format!("- `{}`: {}\n", part("rule"), part("message"));
    }
}

/// A row for each field, and for each within it.
fn fields(schema: &Map<String, Value>, place: &str, text: &mut String) {
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let Some(field) = field.as_object() else { continue };
        let at = format!("{place}.{name}");
        let shown = if required.contains(&name.as_str()) { format!("**{}**", code(&at)) } else { code(&at) };
        *text += &format!("| {shown} | {} | {} |\n", shape(field), cell(&words(field).unwrap_or_default()));
        within(field, &at, text);
    }
}

fn within(field: &Map<String, Value>, place: &str, text: &mut String) {
    fields(field, place, text);
    for (word, end) in [("items", "[]"), ("additionalProperties", ".*")] {
        if let Some(inner) = field.get(word).and_then(Value::as_object) {
            within(inner, &format!("{place}{end}"), text);
        }
    }
}

fn words(schema: &Map<String, Value>) -> Option<String> {
    schema.get("description").and_then(Value::as_str).map(str::to_owned)
}

/// What kind of value it is, with its bounds.
fn shape(field: &Map<String, Value>) -> String {
    let inner = |word: &str| {
        let inner = field.get(word).and_then(Value::as_object).map(shape).unwrap_or_default();
        if inner.contains(',') { format!("({inner})") } else { inner }
    };
    let kind = field.get("type").and_then(Value::as_str);
    let mut said = match kind {
        Some("string") => match field.get("enum").and_then(Value::as_array) {
            Some(all) => all.iter().filter_map(Value::as_str).map(code).collect::<Vec<_>>().join(", "),
            None => "text".to_owned(),
        },
        Some("array") => format!("list of {}", inner("items")),
        Some("object") if field.contains_key("additionalProperties") => {
            format!("map of {}", inner("additionalProperties"))
        }
        Some("object") => match field.contains_key("oneOf") {
            true => "object, one of its fields".to_owned(),
            false => "object".to_owned(),
        },
        Some(other) => other.to_owned(),
        None => "any".to_owned(),
    };
    // What only keeps the cost of rules finite is no bound that anybody meets.
    let bound = |word: &str| field.get(word).and_then(Value::as_u64).filter(|most| *most != MAX_ITEMS);
    let mut bounds = Vec::new();
    for words in [["minimum", "maximum"], ["minItems", "maxItems"], ["minProperties", "maxProperties"]] {
        match words.map(bound) {
            [Some(least), Some(most)] => bounds.push(format!("{least} to {most}")),
            [Some(least), None] => bounds.push(format!("at least {least}")),
            [None, Some(most)] => bounds.push(format!("at most {most}")),
            [None, None] => {}
        }
    }
    if !bounds.is_empty() {
        said += &format!(", {}", bounds.join(", "));
    }
    cell(&said)
}
