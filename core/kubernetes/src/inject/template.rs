//! Where pods are in the objects of a manifest.

use serde_json::Value;

/// Lists within lists, at most.
const DEPTH: usize = 4;

/// One pod, or the template of many, within an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// JSON Pointer to what has `metadata` and `spec`.
    pub pointer: String,
    /// The object that it is of, as people say it: `Deployment orders`.
    pub object: String,
    /// The object's namespace, if it says one.
    pub namespace: Option<String>,
}

/// All pods of an object, of the kinds that Kubernetes has by itself.
#[must_use]
pub fn places(object: &Value) -> Vec<Place> {
    let mut found = Vec::new();
    look(object, String::new(), DEPTH, &mut found);
    found
}

fn look(object: &Value, path: String, depth: usize, into: &mut Vec<Place>) {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let (version, kind) = (text("/apiVersion").unwrap_or_default(), text("/kind").unwrap_or_default());
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let within = match (group, kind) {
        ("", "Pod") => "",
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job")
        | ("", "ReplicationController") => "/spec/template",
        ("batch", "CronJob") => "/spec/jobTemplate/spec/template",
        ("", "PodTemplate") => "/template",
        ("", "List" | "PodList") | ("apps", "DeploymentList" | "StatefulSetList" | "DaemonSetList") => {
            let items = object.get("items").and_then(Value::as_array).into_iter().flatten().enumerate();
            if let Some(depth) = depth.checked_sub(1) {
                items.for_each(|(index, item)| look(item, format!("{path}/items/{index}"), depth, into));
            }
            return;
        }
        _ => return,
    };
    if object.pointer(within).is_some_and(Value::is_object) {
        let name = text("/metadata/name").or_else(|| text("/metadata/generateName"));
        into.push(Place {
            pointer: format!("{path}{within}"),
            object: format!("{kind} {}", name.unwrap_or("(unnamed)")),
            namespace: text("/metadata/namespace").map(str::to_owned),
        });
    }
}
