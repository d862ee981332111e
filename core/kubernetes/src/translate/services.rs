//! Services of Kubernetes as services of the mesh.
//!
//! A Service is one of the mesh when a pod that its selector means has a sidecar, or when its namespace is injected and it
//! has no pods yet. Who answers for it are the service accounts of those pods; where, what the EndpointSlices say of them,
//! for each pod its own port. Anything else that is called a Service is a place outside: see `docs/kubernetes.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Map, Value, json};
use signet_model::{Earlier, Protocol, Resource, Stand};

use super::custom::{limits, strict};
use super::views::{Content, CorePort, CoreService, Metadata, Pod, Slice, SliceEndpoint};
use super::{Object, Work, id, spec_of};
use crate::kinds::KindId;

/// The port of a gateway's Service at which peers come that have it call places outside.
const EGRESS: &str = "signet-egress";

/// Slices of a Service, by namespace and name.
type Slices<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a Slice>>;

impl Work<'_> {
    pub(super) fn services(&mut self) {
        let snapshot = self.snapshot;
        let mut slices = Slices::new();
        for object in snapshot.of(KindId::EndpointSlice) {
            let Content::Slice(slice) = &object.content else { continue };
            slices.entry((&object.metadata.namespace, &slice.service)).or_default().push(slice);
        }
        for object in snapshot.of(KindId::CoreService) {
            let Content::Service(service) = &object.content else { continue };
            let metadata = &object.metadata;
            let own = slices.get(&(metadata.namespace.as_str(), metadata.name.as_str()));
            self.service(metadata, service, own.map(Vec::as_slice).unwrap_or_default());
        }
    }

    fn service(&mut self, metadata: &Metadata, service: &CoreService, slices: &[&Slice]) {
        let Some(space) = self.namespaces.get(metadata.namespace.as_str()) else { return };
        // Ours of the same name says more, and may list who answers.
        let finer = self.refinement(metadata);
        let listed = finer.map(|(_, spec)| identities_of(spec)).unwrap_or_default();
        let is_selected = !service.selector.is_empty();
        let meant: Vec<(&str, &Pod)> = match is_selected {
            true => space.selected(&service.selector),
            false if listed.is_empty() => Vec::new(),
            false => {
                let lists = |pod: &Pod| listed.contains(&identity(&metadata.namespace, &pod.account));
                space.pods.iter().filter(|(_, pod)| lists(pod)).copied().collect()
            }
        };
        // A gateway is in the mesh by itself, and takes peers at its door to places outside alone.
        let is_gateway = !meant.is_empty()
            && self.is_admin(&metadata.namespace)
            && meant.iter().all(|(_, pod)| !pod.meshed && self.is_gateway(&metadata.namespace, &pod.account));
        if is_gateway && !service.ports.iter().any(|port| port.name == EGRESS) {
            return;
        }
        let is_member = |pod: &Pod| (pod.meshed || is_gateway) && !pod.host_network;
        let meshed: Vec<_> = meant.iter().filter(|(_, pod)| is_member(pod)).copied().collect();
        let injects = space.injects;
        let is_place = service.kind == "ExternalName" || (!is_selected && listed.is_empty());
        let is_ours = !is_place && (!meshed.is_empty() || (injects && meant.is_empty()));
        if !is_ours {
            if injects && finer.is_none() {
                self.outside(metadata, service, meant.len());
            }
            return;
        }
        let mut warnings = Vec::new();
        let mut ports = Vec::new();
        for port in service.ports.iter().filter(|port| !is_gateway || port.name == EGRESS) {
            match port.protocol.as_str() {
                "" | "TCP" => ports.push(port),
                other => {
                    warnings.push(format!("port {} is {other}, which the mesh does not carry", port.port))
                }
            }
        }
        let declared: Vec<(String, &CorePort)> = ports.iter().map(|port| (port_name(port), *port)).collect();
        let (endpoints, plain, shared) = endpoints(&metadata.namespace, &declared, slices, &meshed);
        if plain > 0 {
            warnings.push(format!(
                "{plain} of its endpoints have no sidecar and are called by nobody of the mesh"
            ));
        }
        warnings.extend(shared);
        if !service.traffic_distribution.is_empty() {
            warnings.push(format!(
                "trafficDistribution {} is not followed: calls go to every endpoint alike",
                service.traffic_distribution
            ));
        }
        let identities: BTreeSet<String> =
            meshed.iter().map(|(_, pod)| identity(&metadata.namespace, &pod.account)).collect();
        let document = json!({
            "apiVersion": signet_model::API_VERSION, "kind": "Service",
            "metadata": {"name": metadata.name, "namespace": metadata.namespace},
            "spec": {
                "identities": identities, "addresses": addresses(service),
                "ports": declared.iter().map(|(name, port)| written(name, port)).collect::<Vec<_>>(),
                "endpoints": endpoints,
            },
        });
        let named = format!("Service `{}.{}`", metadata.name, metadata.namespace);
        self.warnings.extend(warnings.into_iter().map(|warning| format!("{named}: {warning}")));
        if declared.is_empty() {
            self.warnings.push(format!("{named}: it has no TCP port and is none of the mesh"));
            return;
        }
        let own = id("Service", metadata);
        // Whatever is wrong with it, nobody dials these addresses past the mesh.
        let bare = Resource::from_document(json!({
            "apiVersion": signet_model::API_VERSION, "kind": "Service",
            "metadata": {"name": metadata.name, "namespace": metadata.namespace},
            "spec": {
                "identities": [], "addresses": addresses(service),
                "ports": declared.iter().map(|(name, port)| written(name, port)).collect::<Vec<_>>(),
            },
        }));
        let bare = bare.ok();
        let (read, earlier, of) = match finer {
            None => (Resource::from_document(document), Earlier::Kept, None),
            Some((object, spec)) => {
                let problems = limits(KindId::Service, spec, self.is_admin(&metadata.namespace));
                // What its author said last that was right, and what Kubernetes says now: endpoints come and go while a
                // mistake stands there.
                let before = self.kept(&own, &metadata.uid).and_then(|kept| {
                    let mut said = strict(spec_of(kept));
                    let fields = said.as_object_mut()?;
                    ["addresses", "endpoints"].iter().for_each(|live| drop(fields.remove(*live)));
                    let as_said = Resource::from_document(refine(document.clone(), &said));
                    // Perhaps it was Kubernetes that said who answers.
                    said.as_object_mut()?.remove("identities");
                    as_said.or_else(|_| Resource::from_document(refine(document.clone(), &said))).ok()
                });
                let earlier = before.map_or(Earlier::Forfeit, |it| Earlier::Is(Box::new(it)));
                let read = match problems.is_empty() {
                    true => Resource::from_document(refine(document, spec)),
                    false => Err(problems),
                };
                (read, earlier, Some((KindId::Service, object)))
            }
        };
        self.offer(own, metadata, read, (Stand::Nothing, earlier), of);
        if let Some(last) = self.offered.last_mut() {
            last.offer.bare = bare.map(Box::new);
        }
    }

    /// Says why a Service in a namespace of the mesh is not one of the mesh.
    fn outside(&mut self, metadata: &Metadata, service: &CoreService, pods: usize) {
        let why = match service.kind.as_str() {
            "ExternalName" => {
                "an ExternalName leads out of the mesh, and is called as an ExternalService lets it"
            }
            _ if service.selector.is_empty() => {
                "without a selector nobody knows whose endpoints these are: list its identities in a Service of signet.mesh of \
                 the same name, or the place in an ExternalService"
            }
            _ if pods > 0 => "none of its pods has a sidecar",
            _ => return,
        };
        self.warnings
            .push(format!("Service `{}.{}` is none of the mesh: {why}", metadata.name, metadata.namespace));
    }
}

/// Our own Service of the same name, and its spec.
type Finer<'a> = (&'a Object, &'a Value);

impl<'a> Work<'a> {
    /// Whether pods of an account are a gateway, by their Workload.
    fn is_gateway(&self, namespace: &str, account: &str) -> bool {
        let workload = self.snapshot.get(KindId::Workload, &(namespace.into(), account.into()));
        workload.is_some_and(|it| match &it.content {
            Content::Custom(custom) => custom.spec.get("class").and_then(Value::as_str) == Some("gateway"),
            _ => false,
        })
    }

    fn refinement(&self, metadata: &Metadata) -> Option<Finer<'a>> {
        let key = (metadata.namespace.as_str().into(), metadata.name.as_str().into());
        let object = self.snapshot.get(KindId::Service, &key)?;
        match &object.content {
            Content::Custom(custom) if custom.spec.is_object() => Some((object, &custom.spec)),
            _ => None,
        }
    }
}

fn identity(namespace: &str, account: &str) -> String {
    format!("ns/{namespace}/sa/{account}")
}

fn identities_of(spec: &Value) -> BTreeSet<String> {
    let list = spec.get("identities").and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|it| it.as_str().map(str::to_owned)).collect()
}

/// What our own object says is taken; for the rest Kubernetes' word counts. Ports are taken by their names.
fn refine(mut document: Value, finer: &Value) -> Value {
    let (Some(spec), Some(finer)) =
        (document.get_mut("spec").and_then(Value::as_object_mut), finer.as_object())
    else {
        return document;
    };
    for (name, value) in finer {
        spec.insert(name.clone(), value.clone());
    }
    let names: BTreeSet<String> = spec
        .get("ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|port| port.get("name").and_then(Value::as_str).map(str::to_owned))
        .collect();
    let is_federated = spec.contains_key("federatedIdentity");
    if is_federated {
        spec.remove("identities");
    }
    let own = finer.contains_key("endpoints");
    if let Some(endpoints) = spec.get_mut("endpoints").and_then(Value::as_array_mut).filter(|_| !own) {
        for endpoint in endpoints.iter_mut() {
            if let Some(ports) = endpoint.get_mut("ports").and_then(Value::as_object_mut) {
                ports.retain(|name, _| names.contains(name));
            }
        }
        endpoints.retain(|it| it.get("ports").and_then(Value::as_object).is_some_and(|it| !it.is_empty()));
        if is_federated {
            endpoints.clear();
        }
    }
    document
}

/// The virtual addresses; a headless Service has none. External ones are anybody's to write.
fn addresses(service: &CoreService) -> Vec<String> {
    let all = if service.cluster_ips.is_empty() {
        std::slice::from_ref(&service.cluster_ip)
    } else {
        service.cluster_ips.as_slice()
    };
    all.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).map(|ip| ip.to_string()).collect()
}

/// A port without a name, as the only one may be, is called by its number.
fn port_name(port: &CorePort) -> String {
    match port.name.as_str() {
        "" => format!("port-{}", port.port),
        name => name.to_owned(),
    }
}

fn written(name: &str, port: &CorePort) -> Value {
    json!({"name": name, "port": port.port, "protocol": protocol(port).as_str()})
}

/// What is spoken on it: `appProtocol` first, then the name.
fn protocol(port: &CorePort) -> Protocol {
    let said = match port.app_protocol.as_str() {
        "kubernetes.io/h2c" => Protocol::Http2,
        "kubernetes.io/ws" => Protocol::Http1,
        // Encrypted by the app itself.
        "kubernetes.io/wss" => Protocol::Tcp,
        "" => Protocol::Auto,
        other => Protocol::of_name(&other.to_ascii_lowercase()),
    };
    if said == Protocol::Auto { Protocol::of_name(&port.name) } else { said }
}

/// The endpoints that have a sidecar; how many have none; and ports that lead where another one does.
fn endpoints(
    namespace: &str,
    ports: &[(String, &CorePort)],
    slices: &[&Slice],
    meshed: &[(&str, &Pod)],
) -> (Vec<Value>, usize, BTreeSet<String>) {
    let usable = usable(slices);
    let meshed: BTreeMap<&str, &Pod> = meshed.iter().copied().collect();
    let declared_as: BTreeMap<&str, &str> =
        ports.iter().map(|(name, declared)| (declared.name.as_str(), name.as_str())).collect();
    let mut found: BTreeMap<IpAddr, (&str, BTreeMap<&str, u16>)> = BTreeMap::new();
    let mut plain = BTreeSet::new();
    let mut shared = BTreeSet::new();
    for (slice, endpoint) in usable {
        let pod = endpoint.pod.as_deref().and_then(|name| meshed.get(name));
        for address in &endpoint.addresses {
            // Whoever writes a slice may write any address: the pod has it, or it is nobody's.
            let Some(pod) = pod.filter(|pod| pod.addresses.contains(address)) else {
                plain.insert(*address);
                continue;
            };
            let (_, numbers) = found.entry(*address).or_insert_with(|| (&pod.account, BTreeMap::new()));
            for port in slice.ports.iter().filter(|it| it.port != 0 && matches!(&*it.protocol, "" | "TCP")) {
                let Some(name) = declared_as.get(port.name.as_str()).copied() else { continue };
                if numbers.iter().any(|(other, number)| *number == port.port && *other != name) {
                    shared.insert(format!(
                        "port `{name}` leads to the same port of a pod as another one of it, and is not called: a receiver \
                         could not tell them apart"
                    ));
                    continue;
                }
                numbers.insert(name, port.port);
            }
        }
    }
    let endpoints = found.into_iter().filter(|(_, (_, ports))| !ports.is_empty());
    let values = endpoints.map(|(address, (account, ports))| {
        let ports: Map<String, Value> =
            ports.into_iter().map(|(name, number)| (name.to_owned(), number.into())).collect();
        json!({"address": address.to_string(), "ports": ports, "identity": identity(namespace, account)})
    });
    (values.collect(), plain.len(), shared)
}

/// Endpoints that are ready; where none is, those that still serve while they end, as kube-proxy has it.
fn usable<'a>(slices: &[&'a Slice]) -> Vec<(&'a Slice, &'a SliceEndpoint)> {
    let all = slices.iter().flat_map(|slice| slice.endpoints.iter().map(move |endpoint| (*slice, endpoint)));
    let all: Vec<_> = all.collect();
    let ready: Vec<_> = all.iter().filter(|(_, endpoint)| endpoint.ready).copied().collect();
    if !ready.is_empty() {
        return ready;
    }
    all.into_iter().filter(|(_, endpoint)| endpoint.serving && endpoint.terminating).collect()
}
