//! Whether a pod is to be injected at all.

use serde_json::Value;

use super::annotations::{Switch, read_switch};
use super::refusal::Refusal;
use super::settings::Settings;
use super::{list, meta, name};

/// Turns injection on for a namespace, and on or off for a pod.
pub(super) const INJECT: &str = "signet.mesh/inject";
/// Which of several control planes injects.
pub(super) const REVISION: &str = "signet.mesh/rev";

/// Where the cluster's own machinery is; a mesh that fails must not take it along.
const CLUSTER: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// The sidecars of other meshes.
const OTHERS: [&str; 2] = ["istio-proxy", "linkerd-proxy"];

/// What is known of a pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name; empty where nothing says it yet.
    pub name: String,
    /// Whether its pods are injected unless they say otherwise.
    pub injects: bool,
}

/// Why a pod is left alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// Nobody asked for it.
    #[error("neither the namespace nor the pod asks for injection (signet.mesh/inject: enabled)")]
    NotEnabled,
    /// It says so itself.
    #[error("the pod says signet.mesh/inject: disabled")]
    Disabled,
    /// It has no network namespace of its own: its rules would be the node's.
    #[error("the pod is on the host's network")]
    HostNetwork,
    /// Linux only.
    #[error("the pod is for Windows")]
    Windows,
    /// It is in another mesh.
    #[error("the pod has the sidecar of another mesh, the container {0}")]
    OtherMesh(String),
    /// The cluster's machinery, or the control plane.
    #[error("pods of the namespace {0} are never injected")]
    SystemNamespace(String),
    /// A node made it by itself, and only shows it here.
    #[error("the pod is a static one of its node")]
    Static,
    /// Another control plane injects it.
    #[error("the pod is of the revision {0:?}")]
    OtherRevision(String),
}

impl Skip {
    /// A short name for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotEnabled => "not-enabled",
            Self::Disabled => "disabled",
            Self::HostNetwork => "host-network",
            Self::Windows => "windows",
            Self::OtherMesh(_) => "other-mesh",
            Self::SystemNamespace(_) => "system-namespace",
            Self::Static => "static",
            Self::OtherRevision(_) => "other-revision",
        }
    }
}

pub(super) fn skip(pod: &Value, namespace: &Namespace, settings: &Settings) -> Result<Option<Skip>, Refusal> {
    if CLUSTER.contains(&namespace.name.as_str()) || namespace.name == settings.system_namespace.as_str() {
        return Ok(Some(Skip::SystemNamespace(namespace.name.clone())));
    }
    let said = [meta(pod, "labels", INJECT), meta(pod, "annotations", INJECT)];
    let said = said.into_iter().flatten().map(|text| read_switch(INJECT, text));
    let said = said.collect::<Result<Vec<_>, _>>()?;
    if said.contains(&Switch::Disabled) {
        return Ok(Some(Skip::Disabled));
    }
    if said.is_empty() && !namespace.injects {
        return Ok(Some(Skip::NotEnabled));
    }
    if let Some(revision) = meta(pod, "labels", REVISION).filter(|revision| *revision != settings.revision) {
        return Ok(Some(Skip::OtherRevision(revision.to_owned())));
    }
    let is = |pointer: &str| pod.pointer(pointer).and_then(Value::as_bool) == Some(true);
    if is("/spec/hostNetwork") {
        return Ok(Some(Skip::HostNetwork));
    }
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str);
    if text("/spec/os/name") == Some("windows")
        || text("/spec/nodeSelector/kubernetes.io~1os") == Some("windows")
    {
        return Ok(Some(Skip::Windows));
    }
    if meta(pod, "annotations", "kubernetes.io/config.mirror").is_some() {
        return Ok(Some(Skip::Static));
    }
    let containers = ["containers", "initContainers"].into_iter().flat_map(|field| list(pod, field));
    let other = containers.map(name).find(|name| OTHERS.contains(name));
    Ok(other.map(|name| Skip::OtherMesh(name.to_owned())))
}
