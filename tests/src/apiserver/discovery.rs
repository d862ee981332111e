//! What an API server says of itself, for clients that ask before they do anything: its version, its kinds, and what becomes
//! of objects that other parts of a cluster would look after.

use hyper::Response;
use serde_json::{Value, json};

use super::{Body, object};

/// As a real one of the version that recordings are of.
pub(super) const VERSION: &str = "v1.36.0";

const OPENAPI: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Group and version, resource, kind, and whether it is of a namespace.
const KINDS: &[(&str, &str, &str, bool)] = &[
    ("v1", "namespaces", "Namespace", false),
    ("v1", "nodes", "Node", false),
    ("v1", "pods", "Pod", true),
    ("v1", "services", "Service", true),
    ("v1", "secrets", "Secret", true),
    ("v1", "configmaps", "ConfigMap", true),
    ("v1", "serviceaccounts", "ServiceAccount", true),
    ("v1", "persistentvolumeclaims", "PersistentVolumeClaim", true),
    ("apps/v1", "deployments", "Deployment", true),
    ("apps/v1", "daemonsets", "DaemonSet", true),
    ("apps/v1", "statefulsets", "StatefulSet", true),
    ("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", false),
    ("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding", false),
    ("rbac.authorization.k8s.io/v1", "roles", "Role", true),
    ("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding", true),
    ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", true),
    ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy", true),
    ("coordination.k8s.io/v1", "leases", "Lease", true),
    ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice", true),
    (
        "admissionregistration.k8s.io/v1",
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        false,
    ),
    (
        "admissionregistration.k8s.io/v1",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        false,
    ),
    ("admissionregistration.k8s.io/v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", false),
    (
        "admissionregistration.k8s.io/v1",
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        false,
    ),
    ("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", false),
    ("authorization.k8s.io/v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", false),
];

/// The answer to a question about the server, if it is one. `definitions` are the CustomResourceDefinitions.
pub(super) fn answer(path: &str, definitions: &[Value]) -> Option<Response<Body>> {
    let kinds = kinds(definitions);
    let versions = |group: &str| -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for (version, ..) in &kinds {
            let is_of = version.split_once('/').is_some_and(|(of, _)| of == group);
            if is_of && !all.contains(version) {
                all.push(version.clone());
            }
        }
        all
    };
    if path == "/openapi/v2" {
        // A description of nothing (in protobuf, that is no bytes): clients then check nothing by themselves.
        let answer = Response::builder().header("Content-Type", OPENAPI);
        return Some(answer.body(super::full(bytes::Bytes::new())).expect("an answer"));
    }
    let value = match path.trim_end_matches('/') {
        "/version" => json!({"major": "1", "minor": "36", "gitVersion": VERSION, "platform": "linux/amd64"}),
        "/api" => json!({"kind": "APIVersions", "versions": ["v1"]}),
        "/apis" => {
            let mut groups: Vec<&str> =
                kinds.iter().filter_map(|(version, ..)| Some(version.split_once('/')?.0)).collect();
            groups.dedup();
            let groups = groups.into_iter().map(|group| {
                let versions: Vec<Value> = versions(group)
                    .iter()
                    .map(|it| json!({"groupVersion": it, "version": it.split_once('/').expect("a group").1}))
                    .collect();
                json!({"name": group, "versions": versions, "preferredVersion": versions[0]})
            });
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups.collect::<Vec<_>>()})
        }
        path => {
            let version = path.strip_prefix("/apis/").or_else(|| path.strip_prefix("/api/"))?;
            let of = kinds.iter().filter(|(it, ..)| it == version);
            let resources: Vec<Value> = of
                .map(|(_, resource, kind, namespaced)| {
                    json!({"name": resource, "singularName": kind.to_lowercase(), "kind": kind, "namespaced": namespaced,
                           "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"]})
                })
                .collect();
            if resources.is_empty() {
                return None;
            }
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources})
        }
    };
    Some(object(200, &value))
}

fn kinds(definitions: &[Value]) -> Vec<(String, String, String, bool)> {
    let mut all: Vec<(String, String, String, bool)> = KINDS
        .iter()
        .map(|(version, resource, kind, namespaced)| {
            ((*version).to_owned(), (*resource).to_owned(), (*kind).to_owned(), *namespaced)
        })
        .collect();
    for definition in definitions {
        let spec = &definition["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for version in spec["versions"].as_array().into_iter().flatten() {
            all.push((
                format!("{}/{}", text(&spec["group"]), text(&version["name"])),
                text(&spec["names"]["plural"]),
                text(&spec["names"]["kind"]),
                spec["scope"] == "Namespaced",
            ));
        }
    }
    all
}

/// What the controllers of a cluster would soon say of an object.
pub(super) fn looked_after(object: &mut Value) {
    match object["kind"].as_str() {
        Some("CustomResourceDefinition") => {
            object["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
        }
        Some("DaemonSet") => {
            object["status"] = json!({
                "observedGeneration": object["metadata"]["generation"], "desiredNumberScheduled": 1,
                "currentNumberScheduled": 1, "updatedNumberScheduled": 1, "numberReady": 1, "numberAvailable": 1,
            });
        }
        Some("StatefulSet") => {
            let replicas = object["spec"]["replicas"].clone();
            object["status"] = json!({
                "observedGeneration": object["metadata"]["generation"], "replicas": replicas,
                "readyReplicas": replicas, "updatedReplicas": replicas,
            });
        }
        _ => {}
    }
}
