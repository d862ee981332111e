//! Pods that should be in the mesh and are not.
//!
//! A pod gets its sidecar when it is made: one that runs without it was made before somebody asked for it, while nobody
//! injected, or past the webhook. Only pods that run count, and none that is left alone for a reason of its own
//! (`docs/kubernetes.md` lists them): what is said here, somebody is to do something about.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::views::{Content, INJECT, INJECTED, Object, Owner, Pod, REVISION};
use super::{Settings, Snapshot};
use crate::kinds::KindId;

/// Where the cluster's own machinery is.
const CLUSTER: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// A pod that should be in the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    /// Who makes pods like it, if anybody does.
    pub owner: Option<Owner>,
    pub why: Why,
}

/// What it lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// A sidecar.
    NoSidecar,
    /// A part of one: its container, or the annotation that says that it was put there.
    Incomplete,
}

impl Why {
    pub const ALL: [Why; 2] = [Why::NoSidecar, Why::Incomplete];

    /// A short name for metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Why::NoSidecar => "no-sidecar",
            Why::Incomplete => "incomplete",
        }
    }
}

/// All of them.
#[must_use]
pub fn missing(snapshot: &Snapshot, settings: &Settings) -> Vec<Missing> {
    let gateways = gateways(snapshot);
    let namespaces: BTreeMap<&str, bool> = snapshot
        .of(KindId::Namespace)
        .filter(|it| it.metadata.deletion_timestamp.is_none() && counts(&it.metadata.name, settings))
        .map(|it| {
            let label = |name: &str| it.metadata.labels.get(name).map_or("", String::as_str);
            let asks = label(INJECT) == "enabled" && label(REVISION) == settings.revision;
            (it.metadata.name.as_str(), asks)
        })
        .collect();
    let found = snapshot.of(KindId::Pod).filter_map(|object| {
        let Content::Pod(pod) = &object.content else { return None };
        let metadata = &object.metadata;
        let asks = namespaces.get(metadata.namespace.as_str())?;
        let runs = !pod.ended && !pod.addresses.is_empty() && metadata.deletion_timestamp.is_none();
        let is_gateway = gateways.contains(&(metadata.namespace.as_str(), pod.account.as_str()));
        if !runs || pod.meshed || pod.apart || is_gateway || !wants(object, pod, *asks, settings) {
            return None;
        }
        let injected = metadata.annotations.get(INJECTED).is_some_and(|it| it == "true");
        Some(Missing {
            namespace: metadata.namespace.clone(),
            pod: metadata.name.clone(),
            uid: metadata.uid.clone(),
            owner: pod.owner.as_deref().cloned(),
            why: if injected || pod.sidecar { Why::Incomplete } else { Why::NoSidecar },
        })
    });
    found.collect()
}

/// The same in words, for each namespace once: whoever reads it looks at the pods.
pub(super) fn words(snapshot: &Snapshot, settings: &Settings) -> Vec<String> {
    let namespaces: BTreeSet<String> =
        missing(snapshot, settings).into_iter().map(|it| it.namespace).collect();
    let say = |namespace: String| {
        format!(
            "Namespace `{namespace}`: pods that should be in the mesh run without a sidecar: restart their workloads (`signet check` lists them)"
        )
    };
    namespaces.into_iter().map(say).collect()
}

fn counts(namespace: &str, settings: &Settings) -> bool {
    let is_listed = settings.namespaces.is_empty() || settings.namespaces.contains(namespace);
    is_listed
        && !settings.excluded.contains(namespace)
        && !CLUSTER.contains(&namespace)
        && namespace != settings.options.system_namespace.as_str()
}

/// Whether the pod or its namespace asks for a sidecar of ours.
fn wants(object: &Object, pod: &Pod, namespace_asks: bool, settings: &Settings) -> bool {
    let label = pod.labels.get(INJECT).map(String::as_str);
    let annotation = object.metadata.annotations.get(INJECT).map(String::as_str);
    let says_no = |it: Option<&str>| matches!(it, Some("disabled" | "false"));
    if says_no(label) || says_no(annotation) {
        return false;
    }
    let own = pod.labels.get(REVISION).map(String::as_str);
    // The API server goes by labels alone.
    let asks = namespace_asks || matches!(label, Some("enabled" | "true"));
    asks && own.is_none_or(|revision| revision == settings.revision)
}

/// Accounts whose pods are in the mesh by themselves.
fn gateways(snapshot: &Snapshot) -> BTreeSet<(&str, &str)> {
    let workloads = snapshot.of(KindId::Workload).filter(|it| match &it.content {
        Content::Custom(custom) => custom.spec.get("class").and_then(Value::as_str) == Some("gateway"),
        _ => false,
    });
    workloads.map(|it| (it.metadata.namespace.as_str(), it.metadata.name.as_str())).collect()
}
