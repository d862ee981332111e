//! What the agent asks the API server: for single pods, for those of its node, and at its end whether it is to come again.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use signet_apiserver::api::{Api, ApiError, Lines};

const JSON: &str = "application/json";
/// An object is 1.5 MiB at most.
const OBJECT: usize = 4 * 1024 * 1024;
/// A node has hundreds of pods, thousands at the very most.
const LIST: usize = 128 * 1024 * 1024;
const WITHIN: Duration = Duration::from_secs(5);

/// One node's view.
pub(super) struct Cluster {
    pub(super) api: Api,
    pub(super) node: String,
    /// Namespace and name of the DaemonSet that this process is of.
    pub(super) daemonset: (String, String),
}

fn read(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|_| ApiError::Unreadable("expected an object in JSON"))
}

/// What is looked at of a pod that may wait; hundreds of them whole would be hundreds of megabytes.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Slim {
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    namespace: String,
    name: String,
    uid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion_timestamp: Option<String>,
    resource_version: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: String,
    host_network: bool,
    #[serde(deserialize_with = "nullable")]
    init_containers: Vec<Container>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
    command: Value,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: String,
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    host_ip: Option<String>,
    #[serde(rename = "hostIPs", skip_serializing_if = "Value::is_null")]
    host_ips: Value,
    #[serde(rename = "podIPs")]
    pod_ips: Value,
    init_container_statuses: Value,
}

/// An empty list may come as null.
fn nullable<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Option::<Vec<T>>::deserialize(from).map(Option::unwrap_or_default)
}

#[derive(Deserialize)]
struct List {
    metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    items: Vec<Slim>,
}

/// What happened to a pod.
#[derive(Deserialize)]
pub(super) struct Event {
    r#type: String,
    #[serde(default)]
    object: Slim,
}

impl Event {
    /// What kind of event a line of a watch is, and of which pod; none where it is no line of one.
    pub(super) fn read(line: &[u8]) -> Option<(String, Value)> {
        let event: Self = serde_json::from_slice(line).ok()?;
        Some((event.r#type, serde_json::to_value(event.object).ok()?))
    }
}

/// Whether a text can stand in a path as it is: names of Kubernetes have small letters, digits, dashes and dots.
pub(super) fn is_name(text: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.len() <= 253 && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|byte| allowed(*byte))
}

impl Cluster {
    async fn get(&self, path: &str, limit: usize) -> Result<Value, ApiError> {
        read(&self.api.get(path, JSON, limit, WITHIN).await?)
    }

    /// A pod; both are names.
    pub(super) async fn pod(&self, namespace: &str, name: &str) -> Result<Value, ApiError> {
        self.get(&format!("/api/v1/namespaces/{namespace}/pods/{name}"), OBJECT).await
    }

    fn pods(&self) -> String {
        format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.node)
    }

    /// The node's pods, and the version that they are of.
    pub(super) async fn list(&self) -> Result<(Vec<Value>, String), ApiError> {
        // From the server's memory: what comes later, the watch says.
        let body = self.api.get(&format!("{}&resourceVersion=0", self.pods()), JSON, LIST, WITHIN).await?;
        let list: List =
            serde_json::from_slice(&body).map_err(|_| ApiError::Unreadable("expected a list of pods"))?;
        let pods = list.items.into_iter().filter_map(|pod| serde_json::to_value(pod).ok()).collect();
        Ok((pods, list.metadata.resource_version))
    }

    /// What becomes of them from that version on.
    pub(super) async fn watch(&self, version: &str) -> Result<Lines, ApiError> {
        let path = format!("{}&watch=true&allowWatchBookmarks=true&resourceVersion={version}", self.pods());
        self.api.watch(&path, WITHIN).await
    }

    /// Whether no other agent will come to this node after this one: its DaemonSet goes, or is gone, or all that it is in. Whoever
    /// takes away a release takes away our rights as well, perhaps before we ask; so no right is an answer, too. A wrong yes
    /// costs injected pods a wait for the next agent, which puts everything in place again; a wrong no would keep pods from
    /// starting on this node for good.
    pub(super) async fn is_over(&self) -> Result<bool, ApiError> {
        let (namespace, name) = &self.daemonset;
        for path in [
            format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"),
            format!("/api/v1/namespaces/{namespace}"),
        ] {
            match self.get(&path, OBJECT).await {
                Ok(object) if object.pointer("/metadata/deletionTimestamp").is_some() => return Ok(true),
                Ok(_) => {}
                Err(error) if matches!(error.code(), Some(401 | 403 | 404)) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

/// A pod's own addresses.
pub(super) fn addresses(pod: &Value) -> Vec<IpAddr> {
    listed(pod, "/status/podIPs").collect()
}

/// Addresses of the node that a pod is on.
pub(super) fn of_node(pod: &Value) -> Vec<IpAddr> {
    let one = pod.pointer("/status/hostIP").and_then(Value::as_str).and_then(|ip| ip.parse().ok());
    listed(pod, "/status/hostIPs").chain(one).collect()
}

fn listed(pod: &Value, pointer: &str) -> impl Iterator<Item = IpAddr> {
    let all = pod.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|one| one.get("ip")?.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::judge::{Verdict, of, waits};

    #[test]
    fn of_a_line_of_a_watch_is_kept_what_the_judgement_asks() {
        let pod = json!({
            "metadata": {"namespace": "shop", "name": "web-1", "uid": "u", "annotations": {"a": "b"}, "managedFields": [{}]},
            "spec": {"nodeName": "node1", "containers": [{"name": "app"}], "initContainers": [
                {"name": "signet-check", "command": ["signet-sidecar", "redirect", "verify", "--uid", "2102"], "image": "i"},
                {"name": "signet-proxy"},
            ]},
            "status": {"phase": "Pending", "hostIP": "192.0.2.1", "hostIPs": [{"ip": "192.0.2.1"}, {"ip": "fd00::1"}], "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}],
                       "initContainerStatuses": [{"name": "signet-check", "state": {"running": {}}}]},
        });
        let (kind, kept) =
            Event::read(json!({"type": "MODIFIED", "object": pod}).to_string().as_bytes()).unwrap();
        assert_eq!(kind, "MODIFIED");
        assert!(waits(&kept) && matches!(of(&kept, 2102), Ok(Verdict::Redirect(_))));
        assert_eq!((addresses(&kept).len(), of_node(&kept).len()), (2, 3));
        assert!(!kept.to_string().contains("managedFields"));
        let plain = json!({"type": "ADDED", "object": {"metadata": {"uid": "u"}, "spec": {"initContainers": null, "hostNetwork": true}}});
        let (_, kept) = Event::read(plain.to_string().as_bytes()).unwrap();
        assert!(!waits(&kept) && matches!(of(&kept, 2102), Ok(Verdict::Leave)) && of_node(&kept).is_empty());
        // What a server says when it has forgotten the version.
        let gone = json!({"type": "ERROR", "object": {"kind": "Status", "metadata": {}, "status": "Failure", "code": 410}});
        assert!(Event::read(gone.to_string().as_bytes()).is_none_or(|(kind, _)| kind == "ERROR"));
        assert!(Event::read(b"{").is_none());
        let empty: List =
            serde_json::from_str(r#"{"metadata": {"resourceVersion": "7"}, "items": null}"#).unwrap();
        assert!(empty.items.is_empty() && empty.metadata.resource_version == "7");
    }

    #[test]
    fn only_names_stand_in_a_path() {
        for good in ["a", "web-1", "web.shop", "0a", &"a".repeat(253)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "A", "a/b", "..", ".a", "a.", "-a", "a?b", "a%2fb", "a b", "ä", &"a".repeat(254)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
