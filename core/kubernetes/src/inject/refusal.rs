//! Pods that must not run beside a sidecar as they are.

use serde_json::Value;

use super::parts::{OUR_PORTS, VOLUMES};
use super::settings::Settings;
use super::switch::{self, Namespace};
use super::{CHECK, INJECTED, REDIRECT, SIDECAR, is_ours, list, meta, name, own_containers};

/// Why a pod is refused. The message is what its owner reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no pod.
    #[error("expected a pod with {expected} in {field}, got {got}")]
    Shape {
        /// Where.
        field: &'static str,
        /// What should be there.
        expected: &'static str,
        /// What is.
        got: &'static str,
    },
    /// An annotation, or the label of the same name.
    #[error("{name}: expected {expected}, got {got:?}")]
    Annotation {
        /// Its name.
        name: &'static str,
        /// What would be right.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// The redirection leaves the sidecar's user alone.
    #[error(
        "the container {0:?} runs as the sidecar's user {1}, whose connections are not governed: run it as another"
    )]
    SidecarUser(String, u32),
    /// The app could look into the sidecar.
    #[error(
        "the pod shares one process namespace (shareProcessNamespace), so that the app sees the sidecar's process: expected false, got true"
    )]
    SharedProcesses,
    /// The app could look into the sidecar, and into everything else on its node.
    #[error(
        "the pod is in the process namespace of its node (hostPID), so that the app sees the sidecar's process: expected false, got true"
    )]
    NodesProcesses,
    /// It is to be in the mesh, and nothing led it there.
    #[error(
        "the pod is to be in the mesh and nobody injected it{}: expected the containers signet-redirect or signet-check, and signet-proxy, first among its init containers; in signet.mesh/rev of the pod and of the namespace a revision that there is, or signet.mesh/inject: disabled",
        .0.as_ref().map(|revision| format!(": its label signet.mesh/rev says {revision:?}")).unwrap_or_default(),
    )]
    NotInjected(Option<String>),
    /// The sidecar listens there.
    #[error("the container {0:?} has the port {1}, which is the sidecar's: take another")]
    Port(String, u64),
    /// Ours.
    #[error("the container name {0:?} is the mesh's: take another")]
    Name(String),
    /// What is in there is for the sidecar alone.
    #[error("the container {0:?} mounts the volume {1:?}, which is for the sidecar alone")]
    Mount(String, String),
    /// They were rewritten, and nothing says what they were.
    #[error(
        "the probe {0} was rewritten by an earlier injection, and the annotation signet.mesh/original-probes does not say what it was: take the pod from its source again"
    )]
    ProbeLost(String),
}

impl Refusal {
    /// A short name for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Shape { .. } => "shape",
            Self::Annotation { .. } => "annotation",
            Self::SidecarUser(..) => "sidecar-user",
            Self::SharedProcesses => "shared-processes",
            Self::NodesProcesses => "nodes-processes",
            Self::NotInjected(_) => "not-injected",
            Self::Port(..) => "port",
            Self::Name(_) => "name",
            Self::Mount(..) => "mount",
            Self::ProbeLost(_) => "probe-lost",
        }
    }
}

fn kind(value: Option<&Value>) -> &'static str {
    match value {
        None => "nothing",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "a boolean",
        Some(Value::Number(_)) => "a number",
        Some(Value::String(_)) => "a text",
        Some(Value::Array(list)) if list.is_empty() => "an empty list",
        Some(Value::Array(_)) => "a list",
        Some(Value::Object(_)) => "an object",
    }
}

/// That everything that is looked at, or added to, is what it must be.
pub(super) fn shape(pod: &Value) -> Result<(), Refusal> {
    let wrong =
        |field, expected, value: Option<&Value>| Err(Refusal::Shape { field, expected, got: kind(value) });
    if !pod.get("spec").is_some_and(Value::is_object) {
        return wrong("spec", "an object", pod.get("spec"));
    }
    for (pointer, field) in [
        ("/metadata", "metadata"),
        ("/metadata/annotations", "metadata.annotations"),
        ("/metadata/labels", "metadata.labels"),
        ("/spec/securityContext", "spec.securityContext"),
    ] {
        let value = pod.pointer(pointer);
        if !value.is_none_or(|value| value.is_null() || value.is_object()) {
            return wrong(field, "an object", value);
        }
    }
    for (key, field) in [
        ("containers", "spec.containers"),
        ("initContainers", "spec.initContainers"),
        ("ephemeralContainers", "spec.ephemeralContainers"),
        ("volumes", "spec.volumes"),
    ] {
        let value = pod.get("spec").and_then(|spec| spec.get(key));
        match value {
            None | Some(Value::Null) if key != "containers" => {}
            Some(Value::Array(list)) => {
                if let Some(other) = list.iter().find(|item| !item.is_object()) {
                    return wrong(field, "objects", Some(other));
                }
                if list.is_empty() && key == "containers" {
                    return wrong(field, "at least one container", value);
                }
            }
            _ => return wrong(field, "a list", value),
        }
    }
    Ok(())
}

/// What the pod has of its own, without ours.
pub(super) fn check(pod: &Value, settings: &Settings) -> Result<(), Refusal> {
    let is = |pointer: &str| pod.pointer(pointer).and_then(Value::as_bool) == Some(true);
    if is("/spec/shareProcessNamespace") && !settings.allow_shared_process_namespace {
        return Err(Refusal::SharedProcesses);
    }
    // No setting for this one: who sees the node's processes sees those of every sidecar there.
    if is("/spec/hostPID") {
        return Err(Refusal::NodesProcesses);
    }
    let everybody = pod.pointer("/spec/securityContext/runAsUser").and_then(Value::as_u64);
    let all = ["initContainers", "containers"].into_iter().flat_map(|field| list(pod, field));
    for container in all {
        if is_ours(container) {
            return Err(Refusal::Name(name(container).to_owned()));
        }
        governed(container, everybody, settings.uid)?;
        let ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
        let ports = ports.filter_map(|port| port.get("containerPort").and_then(Value::as_u64));
        if let Some(port) =
            ports.into_iter().find(|port| OUR_PORTS.iter().any(|ours| u64::from(*ours) == *port))
        {
            return Err(Refusal::Port(name(container).to_owned(), port));
        }
    }
    Ok(())
}

/// That a container is governed by the sidecar, and does not reach into it.
fn governed(container: &Value, everybody: Option<u64>, sidecar: u32) -> Result<(), Refusal> {
    let user = container.pointer("/securityContext/runAsUser").and_then(Value::as_u64).or(everybody);
    if user == Some(u64::from(sidecar)) {
        return Err(Refusal::SidecarUser(name(container).to_owned(), sidecar));
    }
    for field in ["volumeMounts", "volumeDevices"] {
        let mounts = container.get(field).and_then(Value::as_array).into_iter().flatten();
        if let Some(volume) = mounts.map(name).find(|volume| VOLUMES.contains(volume)) {
            return Err(Refusal::Mount(name(container).to_owned(), volume.to_owned()));
        }
    }
    Ok(())
}

/// The pod's sidecar, with the user that it runs as.
fn sidecar(pod: &Value, settings: &Settings) -> Option<u32> {
    let found = list(pod, "initContainers").iter().find(|container| name(container) == SIDECAR)?;
    let user = found.pointer("/securityContext/runAsUser").and_then(Value::as_u64);
    // Another control plane may give its sidecars another user.
    Some(user.and_then(|user| user.try_into().ok()).unwrap_or(settings.uid))
}

/// Whether a pod that is to be in the mesh is governed by its sidecar, as it stands now that everybody has changed it. Whose
/// sidecar it is does not matter; one that is left alone for a reason of its own is.
///
/// # Errors
/// [`Refusal`]: nobody injected it, or what was added since goes past the sidecar.
pub fn member(pod: &Value, namespace: &str, settings: &Settings) -> Result<(), Refusal> {
    shape(pod)?;
    let namespace = Namespace { name: namespace.to_owned(), injects: true };
    let revision = meta(pod, "labels", switch::REVISION).map(str::to_owned);
    // As the control plane of its own revision decides.
    let theirs =
        Settings { revision: revision.clone().unwrap_or(settings.revision.clone()), ..settings.clone() };
    if switch::skip(pod, &namespace, &theirs)?.is_some() {
        return Ok(());
    }
    let mut first = list(pod, "initContainers").iter().map(name);
    let in_place = matches!(first.next(), Some(REDIRECT | CHECK))
        && first.next() == Some(SIDECAR)
        && meta(pod, "annotations", INJECTED) == Some("true");
    let Some(sidecar) = sidecar(pod, settings).filter(|_| in_place) else {
        return Err(Refusal::NotInjected(revision));
    };
    let everybody = pod.pointer("/spec/securityContext/runAsUser").and_then(Value::as_u64);
    own_containers(pod).try_for_each(|container| governed(container, everybody, sidecar))
}

/// Whether a debugging container of an injected pod may come in: it is in the pod's network, and as the sidecar's user it would be
/// past the sidecar.
///
/// # Errors
/// [`Refusal`] for the first that may not.
pub fn forbids_debugging(pod: &Value, settings: &Settings) -> Result<(), Refusal> {
    shape(pod)?;
    let Some(sidecar) = sidecar(pod, settings) else { return Ok(()) };
    let everybody = pod.pointer("/spec/securityContext/runAsUser").and_then(Value::as_u64);
    for container in list(pod, "ephemeralContainers") {
        governed(container, everybody, sidecar)?;
        let target = container.get("targetContainerName").and_then(Value::as_str);
        if target == Some(SIDECAR) && !settings.allow_shared_process_namespace {
            return Err(Refusal::SharedProcesses);
        }
    }
    Ok(())
}

/// What is allowed, and not what it seems.
pub(super) fn warnings(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for container in own_containers(pod) {
        let added = container.pointer("/securityContext/capabilities/add").and_then(Value::as_array);
        let mut added = added.into_iter().flatten().filter_map(Value::as_str);
        let strong = added.any(|capability| {
            ["ALL", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"].contains(&capability.trim_start_matches("CAP_"))
        });
        let privileged =
            container.pointer("/securityContext/privileged").and_then(Value::as_bool) == Some(true);
        if strong || privileged {
            found.push(format!(
                "signet: the container {:?} has capabilities with which it can go past its sidecar",
                name(container)
            ));
        }
    }
    found
}
