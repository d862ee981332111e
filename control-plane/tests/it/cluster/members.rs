//! Pods that should be in the mesh and are not: counted, said, told to their owner once, and forgotten when they are gone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use signet_control_plane::cluster::api::Api;
use signet_control_plane::cluster::members::{Times, Watcher};
use signet_kubernetes::translate::Settings;
use signet_kubernetes::translate::members::Why;
use signet_tests::apiserver::{ApiServer, Fault};
use signet_tests::process::until;
use tokio::sync::watch;

use super::{Followed, cluster, follow, object, ours, place};

const EVENTS: &str = "/apis/events.k8s.io/v1/events";

/// A pod without a sidecar, with more fields.
fn plain(name: &str, more: Value) -> Value {
    let mut pod = object(
        "v1",
        "Pod",
        name,
        json!({"spec": {"serviceAccountName": "web"}, "status": {"phase": "Running", "podIPs": [{"ip": "10.1.0.8"}]}}),
    );
    for (pointer, value) in more.as_object().unwrap() {
        let (parent, field) = pointer.split_once('/').unwrap();
        pod[parent][field] = value.clone();
    }
    pod
}

fn counted(followed: &Followed, why: Why) -> i64 {
    followed.metrics.missing.with_label_values(&[why.label()]).get()
}

fn events(api: &ApiServer) -> Vec<Value> {
    api.objects(EVENTS)
}

fn watcher(api: &ApiServer, folder: &Path, followed: &Followed, leads: watch::Receiver<bool>) -> Watcher {
    Watcher {
        api: Arc::new(Api::new(&place(api, folder))),
        store: Arc::clone(&followed.store),
        settings: Settings::default(),
        leads,
        metrics: followed.metrics.clone(),
        instance: "one".into(),
        times: Times { every: Duration::from_millis(20), grace: Duration::from_millis(100) },
    }
}

#[tokio::test]
async fn pods_past_the_mesh_are_counted_and_their_owners_told_once_and_nobody_else_is_meant() {
    let (api, folder) = cluster().await;
    let mut followed = follow(&api, folder.path()).await;
    let (leads, leading) = watch::channel(false);
    let task = tokio::spawn(watcher(&api, folder.path(), &followed, leading).follow());
    // Each for a reason of its own.
    for fine in [
        plain("shop/out-by-label", json!({"metadata/labels": {"signet.mesh/inject": "disabled"}})),
        plain("shop/out-by-annotation", json!({"metadata/annotations": {"signet.mesh/inject": "false"}})),
        plain("shop/host", json!({"spec/hostNetwork": true})),
        plain("shop/windows", json!({"spec/nodeSelector": {"kubernetes.io/os": "windows"}})),
        plain("shop/static", json!({"metadata/annotations": {"kubernetes.io/config.mirror": "x"}})),
        plain("shop/other-mesh", json!({"spec/containers": [{"name": "istio-proxy"}]})),
        plain("shop/canary", json!({"metadata/labels": {"signet.mesh/rev": "canary"}})),
        plain("shop/done", json!({"status/phase": "Succeeded"})),
        plain("shop/begins", json!({"status/podIPs": null, "status/phase": "Pending"})),
        plain("shop/ends", json!({"metadata/deletionTimestamp": "2026-01-01T00:00:00Z"})),
        plain("shop/gateway", json!({"spec/serviceAccountName": "edge"})),
        plain("other/nobody-asks", json!({})),
        plain("kube-system/dns", json!({"metadata/labels": {"signet.mesh/inject": "enabled"}})),
        plain("signet-system/self", json!({"metadata/labels": {"signet.mesh/inject": "enabled"}})),
    ] {
        api.put(fine);
    }
    api.put(ours("Workload", "shop/edge", json!({"class": "gateway"})));
    for name in ["other", "kube-system", "signet-system"] {
        api.put(object("v1", "Namespace", name, json!({})));
    }
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "old-7d9", "uid": "rs", "controller": true}]);
    for name in ["shop/old-1", "shop/old-2"] {
        api.put(plain(name, json!({"metadata/ownerReferences": owner})));
    }
    api.put(plain("other/asks", json!({"metadata/labels": {"signet.mesh/inject": "enabled"}})));
    // Somebody took a part away.
    api.put(plain("shop/half", json!({"metadata/annotations": {"signet.mesh/injected": "true"}})));
    let names = |state: &signet_control_plane::registry::State| {
        let said = state.warnings.iter().filter(|it| it.contains("without a sidecar"));
        said.map(|it| it.split('`').nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    followed.until("the namespaces to be named", |state| names(state) == ["other", "shop"]).await;
    assert!(events(&api).is_empty() && counted(&followed, Why::NoSidecar) == 0, "it does not lead");
    // Nobody can be told at first.
    api.fails_at("POST", "/events", Fault::Status(503, Vec::new()));
    leads.send_replace(true);
    until("all to be counted", || {
        (counted(&followed, Why::NoSidecar) == 3 && counted(&followed, Why::Incomplete) == 1).then_some(())
    })
    .await;
    // Another leader begins anew, and this one too.
    leads.send_replace(false);
    until("nothing to be counted", || (counted(&followed, Why::NoSidecar) == 0).then_some(())).await;
    leads.send_replace(true);
    until("three to be told", || (events(&api).len() == 3).then_some(())).await;
    let mut about: Vec<_> =
        events(&api).iter().map(|it| it["regarding"]["name"].as_str().unwrap().to_owned()).collect();
    about.sort();
    assert_eq!(about, ["asks", "half", "old-7d9"]);
    for event in events(&api) {
        assert_eq!((&event["reason"], &event["type"]), (&json!("NotInMesh"), &json!("Warning")), "{event}");
        assert_eq!(event["metadata"]["namespace"], event["regarding"]["namespace"]);
        assert!(
            event["eventTime"].is_string()
                && event["reportingInstance"] == "one"
                && event["action"].is_string()
        );
    }
    // They are mended.
    for name in ["shop/old-1", "shop/old-2", "other/asks", "shop/half"] {
        api.remove(&plain(name, json!({})));
    }
    until("nothing to be counted", || {
        (counted(&followed, Why::NoSidecar) == 0 && counted(&followed, Why::Incomplete) == 0).then_some(())
    })
    .await;
    followed.until("nothing to be said", |state| names(state).is_empty()).await;
    assert_eq!(events(&api).len(), 3, "each was told once");
    task.abort();
}

#[tokio::test]
async fn what_the_server_refuses_about_one_workload_silences_no_other() {
    let (api, folder) = cluster().await;
    let followed = follow(&api, folder.path()).await;
    api.put(object("v1", "Namespace", "a-tenant", json!({})));
    let asks = json!({"signet.mesh/inject": "enabled"});
    // Whose uid is another's, and who has a name that no event can have.
    let owner = |name: &str| json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": "rs", "controller": true}]);
    api.put(plain(
        "a-tenant/forged",
        json!({"metadata/labels": asks, "metadata/ownerReferences": owner("Not/a name!")}),
    ));
    api.put(plain("shop/old-1", json!({"metadata/ownerReferences": owner("old-7d9")})));
    api.put(plain("shop/other", json!({})));
    // The first in order is refused, again and again.
    for _ in 0..3 {
        api.fails_at("POST", "/namespaces/a-tenant/events", Fault::Status(422, Vec::new()));
    }
    let (_leads, leading) = watch::channel(true);
    let task = tokio::spawn(watcher(&api, folder.path(), &followed, leading).follow());
    until("the others to be told", || (events(&api).len() == 2).then_some(())).await;
    let about = |event: &Value| event["regarding"]["name"].as_str().unwrap().to_owned();
    let mut all: Vec<_> = events(&api).iter().map(about).collect();
    all.sort();
    assert_eq!(all, ["old-7d9", "other"]);
    task.abort();
}
