//! Custom resource definitions, made of the types that read the resources.
//!
//! An API server drops what a structural schema does not name, unless its caller asks it not to: of a policy with a
//! misspelt condition it would keep the policy and lose the condition. So every object keeps what it does not know of, and
//! whoever reads it refuses it: the admission webhook at once, the control plane in its status. What the schema itself
//! refuses is refused without either.

mod rules;
mod structural;

use serde_json::{Map, Value, json};
use signet_model::schema::{SpecSchema, specs};

use self::rules::{Column, columns, rules};
pub(crate) use self::structural::MAX_ITEMS;

const GROUP: &str = "signet.mesh";
const VERSION: &str = "v1alpha1";

/// One definition, and the file that it is kept in.
#[derive(Debug, Clone)]
pub struct Definition {
    pub kind: &'static str,
    /// As in paths and in its name.
    pub plural: String,
    pub object: Value,
}

impl Definition {
    /// The name of the file that it is kept in.
    #[must_use]
    pub fn file(&self) -> String {
        format!("{}.yaml", self.plural)
    }

    /// As it stands in that file.
    ///
    /// # Errors
    /// None that is known: it is made of plain values.
    pub fn yaml(&self) -> std::io::Result<String> {
        let text = serde_saphyr::to_string(&self.object).map_err(std::io::Error::other)?;
        Ok(format!("# Made of the types in core/model: see core/kubernetes/examples/crds.rs.\n{text}"))
    }
}

/// All of our own group, as objects of `apiextensions.k8s.io/v1`.
#[must_use]
pub fn definitions() -> Vec<Definition> {
    specs().into_iter().map(definition).collect()
}

/// The plural of a kind, as paths have it.
fn plural(kind: &str) -> String {
    let lower = kind.to_ascii_lowercase();
    match lower.strip_suffix('y') {
        Some(stem) if !stem.ends_with('a') => format!("{stem}ies"),
        None if lower.ends_with("sh") => format!("{lower}es"),
        _ => format!("{lower}s"),
    }
}

fn definition(spec: SpecSchema) -> Definition {
    let plural = plural(spec.kind);
    let singular = spec.kind.to_ascii_lowercase();
    let mut described = structural::of(spec.schema);
    if let Some(described) = described.as_object_mut() {
        let validations: Vec<Value> =
            rules(spec.kind).map(|rule| json!({"rule": rule.0, "message": rule.1})).collect();
        if !validations.is_empty() {
            described.insert("x-kubernetes-validations".into(), validations.into());
        }
    }
    let mut names = Map::new();
    names.insert("kind".into(), spec.kind.into());
    names.insert("listKind".into(), format!("{}List", spec.kind).into());
    names.insert("plural".into(), plural.clone().into());
    names.insert("singular".into(), singular.into());
    names.insert("categories".into(), json!(["signet"]));
    let mut shape = json!({
        "type": "object",
        "description": format!("See docs/registry.md, {}.", spec.kind),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": described,
            "status": status(),
        },
    });
    if spec.kind == "Mesh"
        && let Some(shape) = shape.as_object_mut()
    {
        let only = json!([{"rule": "self.metadata.name == 'default'", "message": "there is one mesh, and its name is default"}]);
        shape.insert("x-kubernetes-validations".into(), only);
    }
    let object = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{GROUP}"),
            "annotations": {"helm.sh/resource-policy": "keep"},
            "labels": {"app.kubernetes.io/part-of": "signet"},
        },
        "spec": {
            "group": GROUP,
            "names": names,
            "scope": if spec.namespaced { "Namespaced" } else { "Cluster" },
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns(spec.kind).map(Column::written).collect::<Vec<_>>(),
                "schema": {"openAPIV3Schema": shape},
            }],
        },
    });
    Definition { kind: spec.kind, plural, object }
}

/// Conditions as every controller writes them.
fn status() -> Value {
    json!({
        "type": "object",
        "description": "What became of it. Written by the control plane.",
        "properties": {
            "conditions": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["type", "status", "lastTransitionTime", "reason", "message"],
                    "properties": {
                        "type": {"type": "string", "maxLength": 316},
                        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                        "lastTransitionTime": {"type": "string", "format": "date-time"},
                        "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
                        "message": {"type": "string", "maxLength": 32768},
                    },
                },
            },
        },
    })
}
