//! GatewayClasses and Gateways of the Gateway API, as far as a Gateway of the mesh can do what they say.
//!
//! Whole connections: listeners of protocol TCP, and of TLS that stays closed. Requests from outside come with credentials,
//! for which the Gateway API has no words: those go by a Gateway of `signet.mesh`.

use serde_json::{Value, json};
use signet_model::{Earlier, Lenient, ObjectName, Registry, Resource, Stand};

use super::conditions::{list, of_verdict};
use super::views::{Content, CoreService, MESH_ADMIN, Object, Pod};
use super::{CONTROLLER, CameTo, Condition, ListenerStatus, ObjectStatus, Said, Snapshot, Work, id};
use crate::kinds::KindId;

/// The service account whose pods are the gateway; absent is the one of the Gateway's own name.
pub(super) const ACCOUNT: &str = "signet.mesh/service-account";

/// A Gateway that is ours.
pub(super) struct ApiGateway<'a> {
    pub(super) object: &'a Object,
    listeners: Vec<ApiListener>,
    /// Why it is nothing at all.
    refused: Option<String>,
    stands: Stands,
}

/// What there is of it in the cluster.
struct Stands {
    addresses: Vec<String>,
    /// Why nobody reaches it yet.
    pending: Option<(&'static str, String)>,
}

struct ApiListener {
    name: String,
    protocol: String,
    refused: Option<(&'static str, String)>,
}

/// Classes that name us.
pub(super) fn classes(snapshot: &Snapshot) -> Vec<ObjectStatus> {
    let ours = snapshot.of(KindId::GatewayClass).filter(|object| is_ours(object));
    let status = |object: &std::sync::Arc<Object>| {
        status_of(
            KindId::GatewayClass,
            object,
            Said::Conditions(vec![Condition::yes("Accepted", "Accepted")]),
        )
    };
    ours.map(status).collect()
}

fn is_ours(class: &Object) -> bool {
    let Content::Custom(custom) = &class.content else { return false };
    custom.spec.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER)
}

pub(super) fn status_of(kind: KindId, object: &Object, said: Said) -> ObjectStatus {
    let metadata = &object.metadata;
    ObjectStatus {
        kind,
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        generation: metadata.generation,
        said,
    }
}

impl<'a> Work<'a> {
    pub(super) fn gateways(&mut self) -> Vec<ApiGateway<'a>> {
        let snapshot = self.snapshot;
        let mut all = Vec::new();
        for object in snapshot.of(KindId::ApiGateway) {
            let (Content::Custom(custom), metadata) = (&object.content, &object.metadata) else { continue };
            let class = custom.spec.get("gatewayClassName").and_then(Value::as_str).unwrap_or_default();
            let class = snapshot.get(KindId::GatewayClass, &("".into(), class.into()));
            if self.space(&metadata.namespace).is_none() || !class.is_some_and(|class| is_ours(class)) {
                continue;
            }
            let given = custom.spec.get("listeners").and_then(Value::as_array).into_iter().flatten();
            let (mut listeners, mut taken) = (Vec::new(), Vec::new());
            for listener in given {
                let (named, written) = listener_of(listener);
                taken.extend(written.filter(|_| named.refused.is_none()));
                listeners.push(named);
            }
            let account = metadata.annotations.get(ACCOUNT).unwrap_or(&metadata.name);
            let refused = if !self.is_admin(&metadata.namespace) {
                Some(format!(
                    "expected a namespace with the label `{MESH_ADMIN}: \"true\"`: a gateway speaks for users"
                ))
            } else if self.has(KindId::Gateway, metadata) {
                Some("expected a name that no Gateway of signet.mesh has in the namespace".into())
            } else if taken.is_empty() {
                Some("expected a listener of protocol TCP, or of TLS with mode Passthrough, got none".into())
            } else {
                None
            };
            if refused.is_none() {
                let document = json!({
                    "apiVersion": signet_model::API_VERSION, "kind": "Gateway",
                    "metadata": {"name": metadata.name, "namespace": metadata.namespace},
                    "spec": {"identity": format!("ns/{}/sa/{account}", metadata.namespace), "listeners": taken},
                });
                let read = Resource::from_document(document);
                let of = Some((KindId::ApiGateway, &**object));
                self.offer(id("Gateway", metadata), metadata, read, (Stand::Nothing, Earlier::Kept), of);
            }
            let stands = self.stands(&metadata.namespace, account);
            all.push(ApiGateway { object, listeners, refused, stands });
        }
        all
    }

    /// Which Services lead to the pods of an account, and whether there are any.
    fn stands(&self, namespace: &str, account: &str) -> Stands {
        let space = self.space(namespace);
        let pods = space.into_iter().flat_map(|space| &space.pods).map(|(_, pod)| *pod);
        let pods: Vec<&Pod> =
            pods.filter(|pod| pod.account == account && !pod.addresses.is_empty()).collect();
        if pods.is_empty() {
            let why = format!("no pod of the service account `{account}` runs in the namespace");
            return Stands { addresses: Vec::new(), pending: Some(("Pending", why)) };
        }
        let means = |service: &CoreService, pod: &Pod| {
            !service.selector.is_empty()
                && service.selector.iter().all(|(name, value)| pod.labels.get(name) == Some(value))
        };
        let (mut balanced, mut inside, mut waits) = (Vec::new(), Vec::new(), None);
        for object in self.snapshot.of(KindId::CoreService) {
            let Content::Service(service) = &object.content else { continue };
            if object.metadata.namespace != namespace || !pods.iter().any(|pod| means(service, pod)) {
                continue;
            }
            if service.kind == "LoadBalancer" && service.balanced_at.is_empty() {
                waits = Some(&object.metadata.name);
            }
            balanced.extend(service.balanced_at.iter().cloned());
            inside.extend(service.cluster_ips.iter().filter(|ip| *ip != "None").cloned());
        }
        let pending = waits.filter(|_| balanced.is_empty()).map(|name| {
            ("AddressNotAssigned", format!("the Service `{name}` has no address of a load balancer yet"))
        });
        let mut addresses = if balanced.is_empty() { inside } else { balanced };
        addresses.sort();
        addresses.dedup();
        // As many as the Gateway API takes.
        addresses.truncate(16);
        Stands { addresses, pending }
    }
}

/// A listener, and what the model reads of it.
fn listener_of(listener: &Value) -> (ApiListener, Option<Value>) {
    let text = |pointer: &str| listener.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (name, protocol) = (text("/name").to_owned(), text("/protocol").to_owned());
    let mode = match text("/tls/mode") {
        "" => "Terminate",
        mode => mode,
    };
    let from = match text("/allowedRoutes/namespaces/from") {
        "" => "Same",
        from => from,
    };
    let refused = match (protocol.as_str(), mode, from) {
        ("TCP" | "TLS", _, from) if !["Same", "All"].contains(&from) => Some((
            "UnsupportedValue",
            format!("allowedRoutes.namespaces.from: expected `Same` or `All`, got `{from}`"),
        )),
        ("TCP", ..) | ("TLS", "Passthrough", _) => None,
        ("TLS", mode, _) => Some((
            "UnsupportedValue",
            format!("tls.mode: expected `Passthrough` with protocol TLS, got `{mode}`"),
        )),
        (other, ..) => Some((
            "UnsupportedProtocol",
            format!(
                "expected TCP, or TLS with mode Passthrough, got {other}: requests go by a Gateway of signet.mesh"
            ),
        )),
    };
    let mut written = json!({
        "name": name, "port": listener.get("port"), "protocol": protocol,
        "allowedRoutes": {"namespaces": {"from": from}},
    });
    if let Some(fields) = written.as_object_mut() {
        if protocol == "TLS" {
            fields.insert("tls".into(), json!({"mode": mode}));
        }
        if !text("/hostname").is_empty() {
            fields.insert("hostname".into(), text("/hostname").into());
        }
    }
    (ApiListener { name, protocol, refused }, Some(written))
}

/// Of every Gateway that is ours.
pub(super) fn statuses(
    gateways: &[ApiGateway<'_>],
    came_to: &CameTo<'_>,
    made: &Lenient,
) -> Vec<ObjectStatus> {
    let of = |gateway: &ApiGateway<'_>| {
        let metadata = &gateway.object.metadata;
        let verdict = came_to.get(&(KindId::ApiGateway, gateway.object.key()));
        let (accepted, why) = match (&gateway.refused, verdict) {
            (Some(why), _) => (false, why.clone()),
            (None, Some((_, verdict))) => {
                (of_verdict(verdict).iter().all(|it| it.status), list(&verdict.problems))
            }
            (None, None) => (false, String::new()),
        };
        let conditions = match accepted {
            true => vec![
                Condition::yes("Accepted", "Accepted"),
                match &gateway.stands.pending {
                    None => Condition::yes("Programmed", "Programmed"),
                    Some((reason, why)) => Condition::no("Programmed", reason, why.clone()),
                },
            ],
            false => vec![
                Condition::no("Accepted", "ListenersNotValid", why.clone()),
                Condition::no("Programmed", "Invalid", why),
            ],
        };
        let name = format!("{}.{}", metadata.name, metadata.namespace).parse::<ObjectName>().ok();
        let listeners = gateway.listeners.iter().map(|listener| {
            let attached = name.as_ref().map_or(0, |name| attached(&made.registry, name, &listener.name));
            listener_status(listener, accepted, attached)
        });
        let listeners = listeners.collect();
        let addresses = gateway.stands.addresses.clone();
        let said = Said::Gateway { conditions, listeners, addresses };
        status_of(KindId::ApiGateway, gateway.object, said)
    };
    gateways.iter().map(of).collect()
}

fn attached(registry: &Registry, gateway: &ObjectName, listener: &str) -> usize {
    let Some(found) = registry.gateway(gateway) else { return 0 };
    let Some(listener) = found.spec.listeners.iter().find(|it| it.name.as_str() == listener) else {
        return 0;
    };
    let routes = registry.routes_of_gateway(gateway).filter(|route| {
        let own = &route.name().namespace;
        listener.lets(own, &gateway.namespace)
            && route.parents().iter().any(|parent| {
                parent.is_gateway(own, gateway) && parent.takes(listener.name.as_str(), listener.port.get())
            })
    });
    routes.count()
}

fn listener_status(listener: &ApiListener, accepted: bool, attached: usize) -> ListenerStatus {
    let kinds = match listener.protocol.as_str() {
        "TCP" => vec!["TCPRoute"],
        "TLS" => vec!["TLSRoute"],
        _ => Vec::new(),
    };
    let conditions = match &listener.refused {
        Some((reason, why)) => vec![
            Condition::no("Accepted", reason, why.clone()),
            Condition::no("Programmed", "Invalid", why.clone()),
            Condition::yes("ResolvedRefs", "ResolvedRefs"),
        ],
        None => vec![
            Condition::yes("Accepted", "Accepted"),
            match accepted {
                true => Condition::yes("Programmed", "Programmed"),
                false => Condition::no("Programmed", "Pending", "the Gateway is not accepted"),
            },
            Condition::yes("ResolvedRefs", "ResolvedRefs"),
        ],
    };
    ListenerStatus { name: listener.name.clone(), kinds, attached, conditions }
}

impl ApiGateway<'_> {
    /// Whether it is the one of this name, and why routes cannot attach, if they cannot.
    pub(super) fn is(&self, namespace: &str, name: &str) -> bool {
        self.object.metadata.namespace == namespace && self.object.metadata.name == name
    }

    pub(super) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }
}
