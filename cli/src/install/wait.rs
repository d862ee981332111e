//! Waiting for what helm applied, with the reason where it does not come.

use std::time::Duration;

use anyhow::bail;
use serde_json::Value;
use tokio::time::Instant;

use crate::cluster::Kubectl;
use crate::cluster::kubectl::escaped;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Until the API server serves each of these definitions.
pub(super) async fn for_definitions(kubectl: &Kubectl, all: &[Value], limit: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + limit;
    for definition in all.iter().filter(|it| text(it, "/kind") == "CustomResourceDefinition") {
        let name = text(definition, "/metadata/name");
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        loop {
            let found = kubectl.find(&path)?.unwrap_or_default();
            if condition(&found, "Established") {
                break;
            }
            if Instant::now() >= end {
                bail!("{name}: expected it to be established within {} s: {}", limit.as_secs(), said(&found));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten()
}

fn condition(object: &Value, kind: &str) -> bool {
    conditions(object).any(|it| text(it, "/type") == kind && text(it, "/status") == "True")
}

fn said(object: &Value) -> String {
    let wrong = conditions(object).filter(|it| text(it, "/status") != "True");
    let words: Vec<_> = wrong.map(|it| format!("{} {}", text(it, "/type"), text(it, "/message"))).collect();
    if words.is_empty() { "the API server says nothing of it".into() } else { words.join("; ") }
}

/// Until all replicas are of the newest template, and ready.
pub(super) async fn for_replicas(
    kubectl: &Kubectl,
    namespace: &str,
    name: &str,
    limit: Duration,
) -> anyhow::Result<()> {
    let end = Instant::now() + limit;
    let path = format!("/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}");
    loop {
        let set = kubectl.get(&path)?;
        let number = |pointer: &str| set.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        let wanted = number("/spec/replicas");
        let is_seen = number("/status/observedGeneration") >= number("/metadata/generation");
        let (updated, ready) = (number("/status/updatedReplicas"), number("/status/readyReplicas"));
        if is_seen && updated >= wanted && ready >= wanted {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!(
                "{name}: expected {wanted} ready replicas of the new template within {} s, found {ready}, {updated} of the new one: {}",
                limit.as_secs(),
                why(kubectl, namespace, name)
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What its pods wait for, in Kubernetes' words.
fn why(kubectl: &Kubectl, namespace: &str, name: &str) -> String {
    let query = format!("labelSelector={}", escaped(&format!("app.kubernetes.io/instance={name}")));
    let pods = match kubectl.list(&format!("/api/v1/namespaces/{namespace}/pods"), &query) {
        Ok(pods) if pods.is_empty() => {
            return "it has no pods; `kubectl describe statefulset` may say why".into();
        }
        Ok(pods) => pods,
        Err(error) => return error.to_string(),
    };
    let words: Vec<String> = pods.iter().flat_map(of_pod).collect();
    if words.is_empty() { "its pods say nothing".into() } else { words.join("; ") }
}

/// What a pod that is not ready says.
pub(crate) fn of_pod(pod: &Value) -> Vec<String> {
    let name = text(pod, "/metadata/name");
    let lists = ["/status/initContainerStatuses", "/status/containerStatuses"];
    let containers = lists.iter().filter_map(|list| pod.pointer(list)?.as_array()).flatten();
    let mut words: Vec<String> = containers
        .filter_map(|it| {
            let waiting = it.pointer("/state/waiting")?;
            let (reason, message) = (text(waiting, "/reason"), text(waiting, "/message"));
            Some(format!("{name}/{}: {reason} {message}", text(it, "/name")).trim_end().to_owned())
        })
        .collect();
    let unscheduled =
        conditions(pod).filter(|it| text(it, "/type") == "PodScheduled" && text(it, "/status") == "False");
    words.extend(unscheduled.map(|it| format!("{name}: {}", text(it, "/message"))));
    words
}
