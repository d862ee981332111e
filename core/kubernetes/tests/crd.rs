//! The definitions of the custom resources: structural, in step with what is shipped, and never stricter than the model.

use std::path::Path;

use serde_json::{Map, Value};
use signet_kubernetes::crd::definitions;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn spec_of(object: &Value) -> &Value {
    object.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").expect("a schema")
}

/// What a structural schema may have at each node, as far as ours go (apiextensions.k8s.io/v1).
fn assert_structural(schema: &Value, place: &str, nodes: &mut usize) {
    const WORDS: [&str; 17] = [
        "type",
        "description",
        "properties",
        "required",
        "items",
        "enum",
        "minimum",
        "maximum",
        "format",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        "additionalProperties",
        "oneOf",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-validations",
    ];
    *nodes += 1;
    let schema = schema.as_object().unwrap_or_else(|| panic!("{place}: {schema}"));
    for word in schema.keys() {
        assert!(WORDS.contains(&word.as_str()), "{place}: {word}");
    }
    match schema.get("type").and_then(Value::as_str) {
        None => assert_eq!(schema.get("x-kubernetes-preserve-unknown-fields"), Some(&true.into()), "{place}"),
        Some("object") => {
            let fields = schema.get("properties").and_then(Value::as_object);
            let values = schema.get("additionalProperties");
            assert!(fields.is_some() != values.is_some(), "{place}: either fields or any");
            for (name, field) in fields.into_iter().flatten() {
                assert_structural(field, &format!("{place}.{name}"), nodes);
            }
            for one in schema.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
                assert_eq!(one.as_object().unwrap().keys().collect::<Vec<_>>(), ["required"], "{place}");
            }
            if let Some(values) = values {
                assert_structural(values, &format!("{place}.*"), nodes);
            }
        }
        Some("array") => assert_structural(&schema["items"], &format!("{place}[]"), nodes),
        Some(other) => {
            assert!(["string", "integer", "boolean", "number"].contains(&other), "{place}: {other}")
        }
    }
}

/// What an API server would say of a value, but for rules in CEL.
fn refusals(schema: &Map<String, Value>, value: &Value, place: &str, out: &mut Vec<String>) {
    let mut refuse = |why: &str| out.push(format!("{place}: {why}: {value}"));
    let number = |word: &str| schema.get(word).and_then(Value::as_i64);
    match schema.get("type").and_then(Value::as_str) {
        None => {}
        Some("object") => {
            let Some(fields) = value.as_object() else { return refuse("no object") };
            let has = |names: &Value| {
                names.as_array().into_iter().flatten().all(|name| fields.contains_key(name.as_str().unwrap()))
            };
            if schema.get("required").is_some_and(|names| !has(names)) {
                refuse("required");
            }
            if let Some(one) = schema.get("oneOf").and_then(Value::as_array)
                && one.iter().filter(|it| has(&it["required"])).count() != 1
            {
                refuse("oneOf");
            }
            for (name, field) in fields {
                let known = schema
                    .get("properties")
                    .and_then(|known| known.get(name))
                    .or(schema.get("additionalProperties"));
                match known.and_then(Value::as_object) {
                    Some(known) => refusals(known, field, &format!("{place}.{name}"), out),
                    None => out.push(format!("{place}.{name}: unknown")),
                }
            }
        }
        Some("array") => {
            let Some(items) = value.as_array() else { return refuse("no list") };
            let count = items.len() as i64;
            if number("minItems").is_some_and(|least| count < least)
                || number("maxItems").is_some_and(|most| count > most)
            {
                refuse("number of items");
            }
            for (at, item) in items.iter().enumerate() {
                refusals(schema["items"].as_object().unwrap(), item, &format!("{place}[{at}]"), out);
            }
        }
        Some("string") => {
            if !value.is_string() {
                return refuse("no text");
            }
            if schema.get("enum").and_then(Value::as_array).is_some_and(|words| !words.contains(value)) {
                refuse("no such word");
            }
        }
        Some("integer") => {
            let Some(value) = value.as_i64() else { return refuse("no integer") };
            if number("minimum").is_some_and(|least| value < least)
                || number("maximum").is_some_and(|most| value > most)
            {
                refuse("out of range");
            }
        }
        Some("boolean") if !value.is_boolean() => refuse("neither true nor false"),
        Some(_) => {}
    }
}

fn refused(object: &Value, value: &Value) -> Vec<String> {
    let mut out = Vec::new();
    refusals(spec_of(object).as_object().unwrap(), value, "spec", &mut out);
    out
}

#[test]
fn every_schema_is_structural_and_every_object_keeps_what_it_does_not_know() {
    for definition in definitions() {
        let mut nodes = 0;
        let schema =
            definition.object.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
        assert_structural(schema, definition.kind, &mut nodes);
        assert!(nodes > 1, "{}", definition.kind);
        let text = schema.to_string();
        let (objects, keep) = (
            text.matches("\"properties\":{").count(),
            text.matches("preserve-unknown-fields\":true").count(),
        );
        assert!(keep >= objects, "{}: {keep} of {objects}", definition.kind);
    }
}

#[test]
fn what_the_documentation_writes_is_taken() {
    let all = definitions();
    let docs = std::fs::read_to_string(Path::new(ROOT).join("docs/registry.md")).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let blocks = docs.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    for document in blocks.flat_map(|block| block.split("---\n")) {
        let Ok(value) = serde_saphyr::from_str::<Value>(document) else { continue };
        if value["apiVersion"] != "signet.mesh/v1alpha1" {
            continue;
        }
        let Some(definition) = all.iter().find(|one| value["kind"] == one.kind) else { continue };
        assert_eq!(refused(&definition.object, &value["spec"]), [""; 0], "{document}");
        seen.insert(definition.kind);
    }
    assert_eq!(seen.len(), all.len(), "an example of each kind: {seen:?}");
}

#[test]
fn what_is_plainly_wrong_is_refused_by_the_schema_alone() {
    let all = definitions();
    for (kind, spec, why) in [
        ("MeshPolicy", r#"{"effect": "allow"}"#, "spec.effect: no such word"),
        ("MeshPolicy", r#"{}"#, "spec: required"),
        (
            "MeshPolicy",
            r#"{"effect": "permit", "from": {"workloads": []}}"#,
            "spec.from.workloads: number of items",
        ),
        ("Workload", r#"{"class": "root"}"#, "spec.class: no such word"),
        ("Service", r#"{"ports": [{"name": "http", "port": 0}]}"#, "spec.ports[0].port: out of range"),
        ("Service", r#"{"ports": [{"name": "http", "port": "80"}]}"#, "spec.ports[0].port: no integer"),
        (
            "FederatedTrustDomain",
            r#"{"trustDomain": "a", "url": "https://a.example.com", "profile": {}}"#,
            "spec.profile: oneOf",
        ),
    ] {
        let definition = all.iter().find(|one| one.kind == kind).unwrap();
        let said = refused(&definition.object, &serde_json::from_str(spec).unwrap());
        assert!(said.iter().any(|one| one.starts_with(why)), "{kind} {spec}: {said:?}");
    }
}

#[test]
fn what_is_shipped_is_what_the_types_say() {
    let folder = Path::new(ROOT).join("deploy/helm/signet-crds/templates");
    let mut files: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let mut made = Vec::new();
    for definition in definitions() {
        let text = definition.yaml().unwrap();
        assert!(!text.contains("{{"), "{}: Helm would take it for a template", definition.kind);
        let shipped = std::fs::read_to_string(folder.join(definition.file())).unwrap_or_default();
        assert!(
            shipped == text,
            "{} is out of date: cargo run -p signet-kubernetes --features crd --example crds",
            definition.file()
        );
        assert_eq!(serde_saphyr::from_str::<Value>(&shipped).unwrap(), definition.object);
        made.push(definition.file());
    }
    made.sort();
    assert_eq!(files, made);
}
