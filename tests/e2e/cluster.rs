//! The registry from Kubernetes, as sidecars see it: what changes in the cluster reaches them, and an outage of its API
//! server, or a restart of the control plane, takes nothing away.

use serde_json::{Value, json};
use signet_tests::Mesh;
use signet_tests::apiserver::{ApiServer, PodOf};
use signet_tests::apps::Echo;
use signet_tests::client::get;
use signet_tests::mesh::{Sidecar, free_address};
use signet_tests::process::until;

pub(crate) fn object(version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let mut object =
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}});
    for (field, value) in rest.as_object().expect("fields") {
        match field.as_str() {
            "labels" | "annotations" => object["metadata"][field] = value.clone(),
            _ => object[field] = value.clone(),
        }
    }
    object
}

pub(crate) fn pod(of: &PodOf) -> Value {
    let sidecar = json!([{"name": "signet-proxy", "restartPolicy": "Always"}]);
    object(
        "v1",
        "Pod",
        &format!("shop/{}", of.name),
        json!({
            "labels": {"app": of.account}, "annotations": {"signet.mesh/injected": "true"},
            "spec": {"serviceAccountName": of.account, "initContainers": sidecar},
            "status": {"phase": "Running", "podIPs": [{"ip": of.address}]},
        }),
    )
}

/// The slice of `server`, with its one pod at this port, or none.
pub(crate) fn slice(port: Option<u16>) -> Value {
    let endpoints = match port {
        Some(_) => {
            json!([{"addresses": ["127.0.0.1"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": "server-1"}}])
        }
        None => Value::Null,
    };
    object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "shop/server-a",
        json!({
            "labels": {"kubernetes.io/service-name": "server"}, "addressType": "IPv4",
            "endpoints": endpoints, "ports": port.map(|port| json!([{"name": "http", "port": port}])),
        }),
    )
}

pub(crate) fn permit(to: &str) -> Value {
    let spec = json!({"effect": "permit", "target": {"service": "server"}, "from": {"workloads": ["ns/shop/sa/client"]},
                      "to": {"paths": [to]}});
    object("signet.mesh/v1alpha1", "MeshPolicy", "shop/client-may", json!({"spec": spec}))
}

pub(crate) fn port_of(address: &str) -> u16 {
    address.rsplit_once(':').expect("host:port").1.parse().expect("a port")
}

struct Cluster {
    api: ApiServer,
    mesh: Mesh,
    entry: String,
    inbound: String,
    _app: Echo,
    _folder: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Cluster {
        let (api, app) = (ApiServer::start().await, Echo::start().await);
        let folder = tempfile::tempdir().expect("a folder");
        let (entry, inbound) = (free_address(), free_address());
        let pods = [PodOf::new("server.shop"), PodOf::new("client.shop")];
        for one in &pods {
            api.run(one);
            api.put(pod(one));
            api.put(object("v1", "ServiceAccount", &format!("shop/{}", one.account), json!({})));
        }
        let ports = json!([{"name": "http", "port": 80, "targetPort": "http"}]);
        let spec = json!({"clusterIPs": ["10.96.0.7"], "selector": {"app": "server"}, "ports": ports});
        api.put_all([
            object("v1", "Namespace", "shop", json!({"labels": {"signet.mesh/inject": "enabled"}})),
            object("v1", "Service", "shop/server", json!({"spec": spec})),
            slice(Some(port_of(&inbound))),
            permit("/{rest=**}"),
        ]);
        let mut mesh = Mesh::builder()
            .control_plane(&api.configuration(folder.path(), ""))
            .registry_from(&api.registry(folder.path(), ", leaseSeconds: 3"))
            .start()
            .await;
        let server = format!(
            "inbound: [{{service: server.shop, port: http, listen: '{inbound}', app: 'tcp:{}'}}]\n",
            app.address
        );
        let client = format!("outbound: [{{listen: '{entry}', service: server.shop, port: http}}]\n");
        for (pod, config) in pods.iter().zip([server, client]) {
            let name = format!("{}.shop", pod.account);
            mesh.arrive(Sidecar::new(&name, config), &api.token(pod, "signet-ca")).await;
        }
        Cluster { api, mesh, entry, inbound, _app: app, _folder: folder }
    }

    async fn status(&self, path: &str) -> u16 {
        get(&self.entry, path, &[]).await.status().as_u16()
    }

    /// Waits until a call is answered so.
    async fn answers(&self, path: &str, expected: u16) {
        let mut last = 0;
        let asked = async {
            while last != expected {
                last = self.status(path).await;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(signet_tests::process::PATIENCE, asked).await;
        assert!(waited.is_ok(), "expected {expected} for {path}, got {last}");
    }
}

#[tokio::test]
async fn what_changes_in_the_cluster_reaches_the_sidecars() {
    let mut cluster = Cluster::start().await;
    assert_eq!(cluster.status("/a").await, 200);
    // Nobody is there any more, then somebody is again.
    cluster.api.put(slice(None));
    cluster.answers("/a", 503).await;
    cluster.api.put(slice(Some(port_of(&cluster.inbound))));
    cluster.answers("/a", 200).await;
    cluster.api.put(permit("/b"));
    cluster.answers("/a", 403).await;
    cluster.answers("/b", 200).await;
    // A version that cannot be read lets nobody in: its change may have been to end what it let in before.
    let mut broken = permit("/a");
    broken["spec"]["surprise"] = 1.into();
    cluster.api.put(broken.clone());
    let said = until("the status to say so", || {
        let now = cluster.api.object(&broken)?;
        let conditions = now["status"]["conditions"].as_array()?.clone();
        conditions.into_iter().find(|it| it["type"] == "Accepted" && it["observedGeneration"] == 3)
    })
    .await;
    assert_eq!(said["reason"], "Invalid", "{said}");
    cluster.answers("/b", 403).await;
    assert_eq!(cluster.status("/a").await, 403);
    cluster.api.put(permit("/b"));
    cluster.answers("/b", 200).await;
    // A forbid that never was right denies.
    let forbid = json!({"effect": "forbid", "target": {"service": "server"}, "surprise": 1});
    let forbid = object("signet.mesh/v1alpha1", "MeshPolicy", "shop/no", json!({"spec": forbid}));
    cluster.api.put(forbid.clone());
    cluster.answers("/b", 403).await;
    cluster.api.remove(&forbid);
    cluster.answers("/b", 200).await;
    cluster.mesh.assert_unharmed();
}

#[tokio::test]
async fn an_outage_of_the_api_server_and_a_restart_beside_it_take_nothing_away() {
    let mut cluster = Cluster::start().await;
    assert_eq!(cluster.status("/a").await, 200);
    cluster.api.is_away(true);
    cluster.api.cut_watches();
    cluster.mesh.control_plane.as_ref().expect("it runs").logged("a kind is not followed").await;
    assert_eq!(cluster.status("/a").await, 200);
    // The next one waits for the cluster, and the sidecars go on with what they have.
    let process = cluster.mesh.control_plane.take().expect("it runs");
    drop(process);
    {
        let Cluster { api, mesh, entry, .. } = &mut cluster;
        let starting = mesh.start_control_plane();
        tokio::pin!(starting);
        for _ in 0..20 {
            let waits = tokio::time::timeout(std::time::Duration::from_millis(100), &mut starting).await;
            assert!(waits.is_err(), "an empty registry is never served");
            assert_eq!(get(entry, "/a", &[]).await.status(), 200);
        }
        api.put(permit("/b"));
        api.is_away(false);
        starting.await;
    }
    cluster.answers("/a", 403).await;
    cluster.answers("/b", 200).await;
    cluster.mesh.assert_unharmed();
}
