//! Objects as an API server sends them: the few fields that count, and nothing else.
//!
//! Lists may be null, fields may be missing, and fields that nobody knows are passed over: the API server has checked
//! Kubernetes' own kinds, and a newer one may say more. Ours and those of the Gateway API are kept as they are, since there
//! a field that is not understood must be noticed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::kinds::KindId;

/// Namespace (empty for what has none) and name.
pub type Key = (Arc<str>, Arc<str>);

/// What all objects have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    #[serde(deserialize_with = "absent")]
    pub name: String,
    #[serde(deserialize_with = "absent")]
    pub namespace: String,
    #[serde(deserialize_with = "absent")]
    pub uid: String,
    #[serde(deserialize_with = "absent")]
    pub resource_version: String,
    #[serde(deserialize_with = "absent")]
    pub generation: i64,
    #[serde(deserialize_with = "absent")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "absent")]
    pub annotations: BTreeMap<String, String>,
    pub deletion_timestamp: Option<String>,
    pub creation_timestamp: Option<String>,
}

/// A null is what is not there.
pub(crate) fn absent<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// The container of ours in a pod, and the annotation that says that it was put there.
pub const SIDECAR: &str = "signet-proxy";
pub const INJECTED: &str = "signet.mesh/injected";
/// The label by which pods of a namespace are injected.
pub const INJECT: &str = "signet.mesh/inject";
/// The label of a namespace whose objects may concern others: set by whoever runs the mesh.
pub const MESH_ADMIN: &str = "signet.mesh/mesh-admin";
/// The label that says which of several control planes injects.
pub const REVISION: &str = "signet.mesh/rev";
/// The sidecars of other meshes.
const OTHERS: [&str; 2] = ["istio-proxy", "linkerd-proxy"];
/// What a node writes to a pod that it made by itself.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub account: String,
    pub node: String,
    pub labels: BTreeMap<String, String>,
    pub addresses: Vec<IpAddr>,
    pub host_network: bool,
    /// It has our sidecar.
    pub meshed: bool,
    /// Its containers have ended and will not run again.
    pub ended: bool,
    /// The container of our sidecar is in it, whoever put it there.
    pub sidecar: bool,
    /// Nothing of ours can be in it: host network, Windows, static, or of another mesh.
    pub apart: bool,
    /// Who makes pods like it.
    pub owner: Option<Arc<Owner>>,
}

/// The controller of an object, as events name it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    pub controller: bool,
}

/// A Service of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CoreService {
    #[serde(rename = "type", deserialize_with = "absent")]
    pub kind: String,
    #[serde(rename = "clusterIPs", deserialize_with = "absent")]
    pub cluster_ips: Vec<String>,
    #[serde(rename = "clusterIP", deserialize_with = "absent")]
    pub cluster_ip: String,
    #[serde(deserialize_with = "absent")]
    pub external_name: String,
    #[serde(deserialize_with = "absent")]
    pub selector: BTreeMap<String, String>,
    #[serde(deserialize_with = "absent")]
    pub ports: Vec<CorePort>,
    #[serde(deserialize_with = "absent")]
    pub traffic_distribution: String,
    /// Addresses and names at which a load balancer takes it, by its status.
    #[serde(skip)]
    pub balanced_at: Vec<String>,
}

/// A port of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CorePort {
    #[serde(deserialize_with = "absent")]
    pub name: String,
    #[serde(deserialize_with = "absent")]
    pub protocol: String,
    #[serde(deserialize_with = "absent")]
    pub app_protocol: String,
    #[serde(deserialize_with = "absent")]
    pub port: u16,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slice {
    pub service: String,
    pub endpoints: Vec<SliceEndpoint>,
    pub ports: Vec<SlicePort>,
}

/// An endpoint of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SliceEndpoint {
    pub addresses: Vec<IpAddr>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// The pod by name, if it is one.
    pub pod: Option<String>,
}

/// Where a port of the service is there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct SlicePort {
    #[serde(deserialize_with = "absent")]
    pub name: String,
    #[serde(deserialize_with = "absent")]
    pub protocol: String,
    #[serde(deserialize_with = "absent")]
    pub port: u16,
}

/// An object of ours or of the Gateway API.
#[derive(Debug, Clone, PartialEq)]
pub struct Custom {
    pub spec: Value,
    pub status: Value,
}

/// An object's content.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    Namespace,
    Account,
    Pod(Pod),
    Service(CoreService),
    Slice(Slice),
    Custom(Custom),
}

/// An object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub metadata: Metadata,
    pub content: Content,
}

impl Object {
    /// Reads one.
    ///
    /// # Errors
    /// What is missing or of another form, in words.
    pub fn read(kind: KindId, value: Value) -> Result<Object, String> {
        #[derive(Deserialize)]
        struct Head {
            metadata: Metadata,
        }
        let mut value = value;
        let head = Head::deserialize(&value).map_err(|error| format!("metadata: {error}"))?;
        let mut metadata = head.metadata;
        let owner =
            (kind == KindId::Pod).then(|| owner(value.pointer("/metadata/ownerReferences"))).flatten();
        if metadata.name.is_empty() {
            return Err("metadata.name: expected a name, got none".into());
        }
        let mut part = |name: &str| value.get_mut(name).map(Value::take).unwrap_or_default();
        let content = match kind {
            KindId::Namespace => Content::Namespace,
            KindId::ServiceAccount => Content::Account,
            KindId::Pod => Content::Pod(pod(&mut metadata, owner, part("spec"), part("status"))?),
            KindId::CoreService => {
                let spec = Option::<CoreService>::deserialize(part("spec"));
                let spec = spec.map_err(|error| format!("spec: {error}"))?.unwrap_or_default();
                Content::Service(CoreService { balanced_at: balanced_at(&part("status")), ..spec })
            }
            KindId::EndpointSlice => Content::Slice(slice(&metadata, part("endpoints"), part("ports"))?),
            _ => Content::Custom(Custom { spec: part("spec"), status: part("status") }),
        };
        if !matches!(content, Content::Namespace) {
            // Nobody reads them, and there are many.
            metadata.labels = BTreeMap::new();
        }
        metadata.annotations.retain(|name, _| name.starts_with("signet.mesh/"));
        Ok(Object { metadata, content })
    }

    #[must_use]
    pub fn key(&self) -> Key {
        (self.metadata.namespace.as_str().into(), self.metadata.name.as_str().into())
    }

    /// Whether a registry made of the one is that made of the other: only version and status differ.
    #[must_use]
    pub fn says_the_same(&self, other: &Object) -> bool {
        let (one, two) = (&self.metadata, &other.metadata);
        let content = match (&self.content, &other.content) {
            (Content::Custom(one), Content::Custom(two)) => one.spec == two.spec,
            (one, two) => one == two,
        };
        content
            && one.uid == two.uid
            && one.generation == two.generation
            && one.labels == two.labels
            && one.annotations == two.annotations
            && one.deletion_timestamp.is_some() == two.deletion_timestamp.is_some()
    }
}

fn balanced_at(status: &Value) -> Vec<String> {
    let list = status.pointer("/loadBalancer/ingress").and_then(Value::as_array).into_iter().flatten();
    let text = |entry: &Value, name: &str| {
        entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    list.filter_map(|entry| text(entry, "ip").or_else(|| text(entry, "hostname"))).collect()
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    #[serde(deserialize_with = "absent")]
    service_account_name: String,
    #[serde(deserialize_with = "absent")]
    node_name: String,
    #[serde(deserialize_with = "absent")]
    host_network: bool,
    #[serde(deserialize_with = "absent")]
    init_containers: Vec<Container>,
    #[serde(deserialize_with = "absent")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "absent")]
    os: System,
    #[serde(deserialize_with = "absent")]
    node_selector: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct System {
    #[serde(deserialize_with = "absent")]
    name: String,
}

fn owner(references: Option<&Value>) -> Option<Arc<Owner>> {
    let list = references.and_then(Value::as_array)?;
    let owners = list.iter().filter_map(|it| Owner::deserialize(it).ok());
    owners.into_iter().find(|owner| owner.controller).map(Arc::new)
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    #[serde(deserialize_with = "absent")]
    name: String,
    #[serde(deserialize_with = "absent")]
    restart_policy: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PodStatus {
    #[serde(deserialize_with = "absent")]
    phase: String,
    #[serde(rename = "podIPs", deserialize_with = "absent")]
    addresses: Vec<PodAddress>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PodAddress {
    #[serde(deserialize_with = "absent")]
    ip: String,
}

fn pod(
    metadata: &mut Metadata,
    owner: Option<Arc<Owner>>,
    spec: Value,
    status: Value,
) -> Result<Pod, String> {
    let spec =
        Option::<PodSpec>::deserialize(spec).map_err(|error| format!("spec: {error}"))?.unwrap_or_default();
    let status = Option::<PodStatus>::deserialize(status)
        .map_err(|error| format!("status: {error}"))?
        .unwrap_or_default();
    let sidecar = spec.init_containers.iter().any(|it| it.name == SIDECAR && it.restart_policy == "Always");
    let injected = metadata.annotations.get(INJECTED).is_some_and(|it| it == "true");
    let mut containers = spec.init_containers.iter().chain(&spec.containers);
    let apart = spec.host_network
        || spec.os.name == "windows"
        || spec.node_selector.get("kubernetes.io/os").is_some_and(|os| os == "windows")
        || metadata.annotations.contains_key(MIRROR)
        || containers.any(|it| OTHERS.contains(&it.name.as_str()));
    Ok(Pod {
        account: match spec.service_account_name {
            name if name.is_empty() => "default".into(),
            name => name,
        },
        node: spec.node_name,
        labels: std::mem::take(&mut metadata.labels),
        addresses: status.addresses.iter().filter_map(|it| it.ip.parse().ok()).collect(),
        host_network: spec.host_network,
        meshed: sidecar && injected,
        sidecar: spec.init_containers.iter().any(|it| it.name == SIDECAR),
        apart,
        owner,
        ended: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
    })
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawEndpoint {
    #[serde(deserialize_with = "absent")]
    addresses: Vec<String>,
    #[serde(deserialize_with = "absent")]
    conditions: Conditions,
    target_ref: Option<TargetRef>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TargetRef {
    #[serde(deserialize_with = "absent")]
    kind: String,
    #[serde(deserialize_with = "absent")]
    namespace: String,
    #[serde(deserialize_with = "absent")]
    name: String,
}

fn slice(metadata: &Metadata, endpoints: Value, ports: Value) -> Result<Slice, String> {
    let read = |error: serde_json::Error| format!("endpoints: {error}");
    let endpoints = Option::<Vec<RawEndpoint>>::deserialize(endpoints).map_err(read)?.unwrap_or_default();
    let ports = Option::<Vec<SlicePort>>::deserialize(ports).map_err(|error| format!("ports: {error}"))?;
    let endpoint = |raw: RawEndpoint| {
        // Unknown counts as ready, and as serving what is ready (EndpointConditions).
        let ready = raw.conditions.ready.unwrap_or(true);
        let of = raw
            .target_ref
            .filter(|it| it.kind == "Pod" && (it.namespace.is_empty() || it.namespace == metadata.namespace));
        SliceEndpoint {
            addresses: raw.addresses.iter().filter_map(|it| it.parse().ok()).collect(),
            ready,
            serving: raw.conditions.serving.unwrap_or(ready),
            terminating: raw.conditions.terminating.unwrap_or(false),
            pod: of.map(|it| it.name),
        }
    };
    let mut endpoints: Vec<_> = endpoints.into_iter().map(endpoint).collect();
    // Their order changes from event to event and says nothing.
    endpoints.sort_by(|one, two| (&one.addresses, &one.pod).cmp(&(&two.addresses, &two.pod)));
    Ok(Slice {
        service: metadata.labels.get("kubernetes.io/service-name").cloned().unwrap_or_default(),
        endpoints,
        ports: ports.unwrap_or_default(),
    })
}
