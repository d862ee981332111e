//! From a JSON schema to a structural one (apiextensions.k8s.io/v1, "Specifying a structural schema").
//!
//! What our types give rise to is little: objects, lists, maps, texts, numbers, words, what may be absent, and choices
//! between objects of one field. Choices become one object that has exactly one of these fields.

use serde_json::{Map, Value, json};
use signet_model::schema::{ALSO, EXPECTED};

/// Longest number of items in a list, and of entries in a map, that says nothing itself. The API server needs a bound to
/// tell what a rule may cost; an object has room for fewer.
pub(crate) const MAX_ITEMS: u64 = 4096;

pub(super) fn of(schema: Value) -> Value {
    let Value::Object(schema) = schema else { return json!({"x-kubernetes-preserve-unknown-fields": true}) };
    let schema = chosen(schema);
    let mut out = Map::new();
    let mut words = text(&schema, "description").map(plain).into_iter().collect::<Vec<_>>();
    if let Some(expected) = text(&schema, EXPECTED) {
        words.push(format!("Expects {expected}."));
    }
    match kind(&schema) {
        "object" => object(&schema, &mut out),
        "array" => {
            out.insert("type".into(), "array".into());
            let items = schema.get("items").cloned().map_or_else(|| of(json!({})), of);
            out.insert("items".into(), items);
            copy(&schema, &mut out, &["minItems", "maxItems"]);
            out.entry("maxItems").or_insert_with(|| MAX_ITEMS.into());
        }
        "string" => {
            out.insert("type".into(), "string".into());
            copy(&schema, &mut out, &["enum"]);
            let also = schema.get(ALSO).and_then(Value::as_array).cloned().unwrap_or_default();
            if let Some(words) = out.get_mut("enum").and_then(Value::as_array_mut) {
                words.extend(also);
            }
        }
        "integer" => integer(&schema, &mut out),
        "boolean" => drop(out.insert("type".into(), "boolean".into())),
        "number" => drop(out.insert("type".into(), "number".into())),
        _ => drop(out.insert("x-kubernetes-preserve-unknown-fields".into(), true.into())),
    }
    if !words.is_empty() {
        out.insert("description".into(), words.join("\n").into());
    }
    Value::Object(out)
}

fn object(schema: &Map<String, Value>, out: &mut Map<String, Value>) {
    out.insert("type".into(), "object".into());
    let fields = schema.get("properties").and_then(Value::as_object);
    match (fields, schema.get("additionalProperties")) {
        (None, Some(values @ Value::Object(_))) => {
            out.insert("additionalProperties".into(), of(values.clone()));
            copy(schema, out, &["minProperties"]);
            out.insert("maxProperties".into(), MAX_ITEMS.into());
        }
        _ => {
            let fields = fields.cloned().unwrap_or_default();
            let fields: Map<String, Value> =
                fields.into_iter().map(|(name, field)| (name, of(field))).collect();
            out.insert("properties".into(), Value::Object(fields));
            // See the module above: what is not known is refused by who reads it, and not lost before.
            out.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
            copy(schema, out, &["required", "oneOf"]);
        }
    }
}

fn integer(schema: &Map<String, Value>, out: &mut Map<String, Value>) {
    out.insert("type".into(), "integer".into());
    copy(schema, out, &["minimum", "maximum"]);
    let most: Option<u64> = match text(schema, "format") {
        Some("uint8") => Some(u8::MAX.into()),
        Some("uint16") => Some(u16::MAX.into()),
        Some("uint32") => Some(u32::MAX.into()),
        _ => None,
    };
    if let Some(most) = most {
        out.entry("maximum").or_insert_with(|| most.into());
        out.entry("minimum").or_insert_with(|| 0.into());
    }
    out.insert("format".into(), "int64".into());
}

/// One schema in place of a choice of schemas.
fn chosen(mut schema: Map<String, Value>) -> Map<String, Value> {
    let choices = ["anyOf", "oneOf"].iter().find_map(|word| schema.remove(*word));
    let Some(Value::Array(choices)) = choices else { return schema };
    let choices: Vec<Map<String, Value>> = choices
        .into_iter()
        .filter_map(|choice| match choice {
            Value::Object(choice) if kind(&choice) != "null" => Some(chosen(choice)),
            _ => None,
        })
        .collect();
    if let [only] = choices.as_slice() {
        let mut only = only.clone();
        only.extend(schema.into_iter().filter(|(name, _)| name == "description"));
        return only;
    }
    if choices.iter().all(|choice| kind(choice) == "string") {
        return words(schema, &choices);
    }
    if choices.iter().all(|choice| kind(choice) == "object") {
        return one_of(schema, choices);
    }
    // A word or an object: whoever reads it tells them apart.
    schema.remove("type");
    schema
}

fn words(mut schema: Map<String, Value>, choices: &[Map<String, Value>]) -> Map<String, Value> {
    let mut said: Vec<String> = text(&schema, "description").map(str::to_owned).into_iter().collect();
    let mut all = Vec::new();
    for choice in choices {
        let word = choice.get("const").into_iter().cloned();
        let list = choice.get("enum").and_then(Value::as_array).cloned().unwrap_or_default();
        let before = all.len();
        all.extend(word.chain(list).filter(|word| !word.is_null()));
        if let (Some(word), Some(meaning)) =
            (all.get(before).and_then(Value::as_str), text(choice, "description"))
        {
            said.push(format!("`{word}`: {meaning}"));
        }
    }
    schema.insert("type".into(), "string".into());
    schema.insert("enum".into(), Value::Array(all));
    if !said.is_empty() {
        schema.insert("description".into(), said.join("\n").into());
    }
    schema
}

fn one_of(mut schema: Map<String, Value>, choices: Vec<Map<String, Value>>) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut either = Vec::new();
    for mut choice in choices {
        let meaning = text(&choice, "description").map(str::to_owned);
        either.push(json!({"required": choice.get("required").cloned().unwrap_or_default()}));
        let Some(Value::Object(own)) = choice.remove("properties") else { continue };
        for (name, mut field) in own {
            if let (Some(meaning), Some(field)) = (&meaning, field.as_object_mut()) {
                field.entry("description").or_insert_with(|| meaning.clone().into());
            }
            fields.insert(name, field);
        }
    }
    schema.insert("type".into(), "object".into());
    schema.insert("properties".into(), Value::Object(fields));
    schema.insert("oneOf".into(), Value::Array(either));
    schema
}

/// The type, apart from `null`.
fn kind(schema: &Map<String, Value>) -> &str {
    match schema.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => {
            kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("null")
        }
        _ if schema.contains_key("const") || schema.contains_key("enum") => "string",
        _ => "",
    }
}

fn text<'a>(schema: &'a Map<String, Value>, word: &str) -> Option<&'a str> {
    schema.get(word).and_then(Value::as_str)
}

fn copy(schema: &Map<String, Value>, out: &mut Map<String, Value>, words: &[&str]) {
    for word in words {
        let value = match (*word, schema.get(*word)) {
            ("enum", None) => schema.get("const").map(|only| json!([only])),
            ("enum", Some(Value::Array(all))) => {
                Some(all.iter().filter(|value| !value.is_null()).cloned().collect())
            }
            (_, value) => value.cloned(),
        };
        if let Some(value) = value {
            out.insert((*word).to_owned(), value);
        }
    }
}

/// Documentation of code as prose: one line per paragraph, links by their text.
fn plain(text: &str) -> String {
    let paragraphs =
        text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    paragraphs.collect::<Vec<_>>().join("\n").replace("[`", "`").replace("`]", "`")
}
