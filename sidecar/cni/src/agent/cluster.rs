//! What the agent asks the API server: for single pods, for those of its node, and at its end whether it is to come again.

use std::net::IpAddr;
use std::time::Duration;

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
        let mut all = self.get(&format!("{}&resourceVersion=0", self.pods()), LIST).await?;
        let version = all.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
        let version = version.to_owned();
        let items = all.get_mut("items").map(Value::take);
        let items = match items {
            Some(Value::Array(items)) => items,
            // An empty list may come as null.
            Some(Value::Null) => Vec::new(),
            _ => return Err(ApiError::Unreadable("expected a list of pods")),
        };
        Ok((items, version))
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
    let all = pod.pointer("/status/podIPs").and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|one| one.get("ip")?.as_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
