//! The registry from Kubernetes, against an API server that keeps objects and fails in the ways that servers do.

mod faults;
mod follow;
mod leases;
mod members;
mod rights;
mod statuses;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use signet_control_plane::cluster::config::{Cluster, LeaseTimes, Place};
use signet_control_plane::cluster::metrics::Metrics;
use signet_control_plane::cluster::source::Source;
use signet_control_plane::cluster::status::Statuses;
use signet_control_plane::cluster::store::Store;
use signet_control_plane::registry::State;
use signet_model::Options;
use signet_tests::apiserver::ApiServer;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A source that follows, until it is dropped.
pub(crate) struct Followed {
    pub(crate) state: watch::Receiver<State>,
    pub(crate) statuses: watch::Receiver<Statuses>,
    pub(crate) store: Arc<Store>,
    pub(crate) metrics: Metrics,
    _background: JoinSet<()>,
}

pub(crate) fn place(api: &ApiServer, folder: &std::path::Path) -> Place {
    // Writes the files.
    api.configuration(folder, "");
    Place {
        server: ("127.0.0.1".into(), api.address.port()),
        token_file: folder.join("api-token"),
        ca_file: folder.join("api-ca.pem"),
    }
}

pub(crate) fn times(millis: u64) -> LeaseTimes {
    LeaseTimes {
        duration: Duration::from_secs(1).max(Duration::from_millis(millis)),
        renew_deadline: Duration::from_millis(millis * 2 / 3),
        retry_period: Duration::from_millis(millis * 2 / 15),
    }
}

pub(crate) fn config(api: &ApiServer, folder: &std::path::Path) -> Cluster {
    Cluster {
        roots: "signet-roots".into(),
        place: place(api, folder),
        namespaces: Default::default(),
        excluded: Default::default(),
        statuses: true,
        lease: times(15_000),
        revision: String::new(),
    }
}

pub(crate) async fn follow(api: &ApiServer, folder: &std::path::Path) -> Followed {
    let config = config(api, folder);
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    let mut background = JoinSet::new();
    let source = Source::open(&config, Options::default(), folder, metrics.clone(), &mut background).await;
    let followed = (source.subscribe(), source.statuses(), Arc::clone(&source.store));
    background.spawn(source.follow());
    let (state, statuses, store) = followed;
    Followed { state, statuses, store, metrics, _background: background }
}

impl Followed {
    /// Waits until the state is so.
    pub(crate) async fn until(&mut self, what: &str, is: impl FnMut(&State) -> bool) -> State {
        let waited = tokio::time::timeout(Duration::from_secs(60), self.state.wait_for(is)).await;
        waited.unwrap_or_else(|_| panic!("waited for {what}")).unwrap().clone()
    }

    /// Waits until `web.shop` has these endpoints.
    pub(crate) async fn endpoints(&mut self, expected: &[&str]) {
        self.until(&format!("endpoints {expected:?}"), |state| endpoints(state) == expected).await;
    }
}

pub(crate) fn endpoints(state: &State) -> Vec<String> {
    let service = state.registry.service(&"web.shop".parse().unwrap());
    service
        .map(|it| it.spec.endpoints.iter().map(|end| end.address.to_string()).collect())
        .unwrap_or_default()
}

pub(crate) fn object(version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}});
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    for (field, value) in rest.as_object().unwrap() {
        match field.as_str() {
            "labels" | "annotations" => object["metadata"][field] = value.clone(),
            _ => object[field] = value.clone(),
        }
    }
    object
}

pub(crate) fn ours(kind: &str, name: &str, spec: Value) -> Value {
    object("signet.mesh/v1alpha1", kind, name, json!({"spec": spec}))
}

pub(crate) fn route(name: &str, backend: &str) -> Value {
    let parent = json!({"group": "", "kind": "Service", "name": "web"});
    let spec = json!({"parentRefs": [parent], "rules": [{"backendRefs": [{"name": backend, "port": 80}]}]});
    object("gateway.networking.k8s.io/v1", "HTTPRoute", name, json!({"spec": spec}))
}

pub(crate) fn pod(name: &str, ip: &str) -> Value {
    let sidecar = json!([{"name": "signet-proxy", "restartPolicy": "Always"}]);
    object(
        "v1",
        "Pod",
        name,
        json!({
            "labels": {"app": "web"}, "annotations": {"signet.mesh/injected": "true"},
            "spec": {"serviceAccountName": "web", "initContainers": sidecar},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}]},
        }),
    )
}

/// The slice of `web`, with these pods.
pub(crate) fn slice(pods: &[(&str, &str)]) -> Value {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|(name, ip)| json!({"addresses": [ip], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": name}}))
        .collect();
    object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "shop/web-a",
        json!({
            "labels": {"kubernetes.io/service-name": "web"}, "addressType": "IPv4",
            "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}],
        }),
    )
}

/// `web.shop` with one pod.
pub(crate) fn shop() -> Vec<Value> {
    vec![
        object("v1", "Namespace", "shop", json!({"labels": {"signet.mesh/inject": "enabled"}})),
        object("v1", "ServiceAccount", "shop/web", json!({})),
        object(
            "v1",
            "Service",
            "shop/web",
            json!({"spec": {"clusterIPs": ["10.96.0.7"], "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]}}),
        ),
        pod("shop/web-1", "10.1.0.1"),
        slice(&[("web-1", "10.1.0.1")]),
    ]
}

pub(crate) async fn cluster() -> (ApiServer, tempfile::TempDir) {
    let api = ApiServer::start().await;
    api.put_all(shop());
    (api, tempfile::tempdir().unwrap())
}
