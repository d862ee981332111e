//! What changes in the cluster changes in the registry, and nothing else does.

use std::time::Duration;

use serde_json::{Value, json};

use super::{cluster, follow, object, ours, pod, slice};

#[tokio::test]
async fn a_registry_is_there_when_everything_was_listed_and_follows_what_happens() {
    let (api, folder) = cluster().await;
    let mut followed = follow(&api, folder.path()).await;
    followed.endpoints(&["10.1.0.1"]).await;
    api.put(pod("shop/web-2", "10.1.0.2"));
    api.put(slice(&[("web-1", "10.1.0.1"), ("web-2", "10.1.0.2")]));
    followed.endpoints(&["10.1.0.1", "10.1.0.2"]).await;
    api.put(slice(&[("web-2", "10.1.0.2")]));
    api.remove(&pod("shop/web-1", ""));
    followed.endpoints(&["10.1.0.2"]).await;
    api.put(ours("MeshPolicy", "shop/may", json!({"effect": "permit", "target": {"service": "web"}})));
    let state = followed.until("the policy", |state| state.registry.policies().count() == 1).await;
    assert!(state.errors.is_empty() && state.warnings.is_empty(), "{:?}", state.warnings);
    api.remove(&object("v1", "Service", "shop/web", json!({})));
    let state = followed.until("the service to go", |state| state.registry.services().count() == 0).await;
    assert!(
        state.warnings.iter().any(|it| it.contains("may.shop") && it.contains("left out")),
        "{:?}",
        state.warnings
    );
}

#[tokio::test]
async fn what_does_not_count_makes_no_registry() {
    let (api, folder) = cluster().await;
    let mut followed = follow(&api, folder.path()).await;
    followed.endpoints(&["10.1.0.1"]).await;
    let before = std::sync::Arc::clone(&followed.state.borrow().registry);
    let mut changed = pod("shop/web-1", "10.1.0.1");
    changed["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    changed["metadata"]["annotations"]["example.com/note"] = "x".into();
    api.put(changed);
    // Something that counts, behind it on the same stream.
    api.put(pod("shop/web-2", "10.1.0.2"));
    api.put(slice(&[("web-1", "10.1.0.1"), ("web-2", "10.1.0.2")]));
    followed.endpoints(&["10.1.0.1", "10.1.0.2"]).await;
    assert_ne!(before, followed.state.borrow().registry);
    let counted = followed.metrics.rebuilds.with_label_values(&["same"]).get();
    assert!(counted <= 1, "{counted}");
}

#[tokio::test]
async fn bookmarks_as_a_real_server_writes_them_move_the_place_to_go_on_from() {
    let (api, folder) = cluster().await;
    let mut followed = follow(&api, folder.path()).await;
    followed.endpoints(&["10.1.0.1"]).await;
    for (path, object) in [
        (
            "/api/v1/pods",
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {}, "spec": {"containers": null}, "status": {}}),
        ),
        (
            "/apis/discovery.k8s.io/v1/endpointslices",
            json!({"metadata": {}, "addressType": "", "endpoints": null, "ports": null}),
        ),
        (
            "/apis/signet.mesh/v1alpha1/meshpolicies",
            json!({"metadata": {"annotations": {"k8s.io/initial-events-end": "true"}}}),
        ),
    ] {
        api.bookmark(path, object);
    }
    api.put(slice(&[]));
    followed.endpoints(&[]).await;
    api.put(slice(&[("web-1", "10.1.0.1")]));
    followed.endpoints(&["10.1.0.1"]).await;
}

#[tokio::test]
async fn lists_come_in_pages() {
    let (api, folder) = cluster().await;
    for number in 0..25 {
        api.put(object("v1", "ServiceAccount", &format!("shop/account-{number}"), json!({})));
    }
    api.pages_of(7);
    let followed = follow(&api, folder.path()).await;
    assert_eq!(followed.state.borrow().registry.workloads().count(), 26);
    let pages = api
        .seen()
        .iter()
        .filter(|it| it.path.contains("/serviceaccounts?") && it.path.contains("continue="))
        .count();
    assert_eq!(pages, 3);
}

#[tokio::test]
async fn a_kind_that_comes_later_is_found_and_one_that_restricts_is_waited_for() {
    let (api, folder) = cluster().await;
    api.lacks("/apis/gateway.networking.k8s.io/v1/httproutes", true);
    api.lacks("/apis/signet.mesh/v1alpha1/guardrails", true);
    let opening = follow(&api, folder.path());
    tokio::pin!(opening);
    // Served before guard rails are known, somebody might be let in who is forbidden.
    assert!(tokio::time::timeout(Duration::from_secs(2), &mut opening).await.is_err());
    api.put(ours("GuardRail", "closed", json!({"forbid": {}})));
    api.lacks("/apis/signet.mesh/v1alpha1/guardrails", false);
    let followed = tokio::time::timeout(Duration::from_secs(90), opening).await.unwrap();
    assert_eq!(followed.state.borrow().registry.guard_rails().count(), 1);
}

#[tokio::test]
async fn an_older_version_of_a_kind_is_taken_where_the_cluster_has_no_newer_one() {
    let (api, folder) = cluster().await;
    for version in ["v1", "v1alpha3"] {
        api.lacks(&format!("/apis/gateway.networking.k8s.io/{version}/tlsroutes"), true);
    }
    let followed = follow(&api, folder.path()).await;
    let tls = signet_kubernetes::kinds::KindId::TlsRoute;
    assert_eq!(followed.store.version(tls), Some("v1alpha2"));
}

#[tokio::test]
async fn a_restart_keeps_the_last_good_version_of_what_restricts() {
    let (api, folder) = cluster().await;
    let forbid =
        json!({"effect": "forbid", "target": {"service": "web"}, "from": {"workloads": ["ns/x/sa/y"]}});
    api.put(ours("MeshPolicy", "shop/no", forbid));
    let mut followed = follow(&api, folder.path()).await;
    let good = followed.until("the policy", |state| state.registry.policies().count() == 1).await.registry;
    api.put(ours(
        "MeshPolicy",
        "shop/no",
        json!({"effect": "forbid", "target": {"service": "web"}, "frm": 1}),
    ));
    followed.until("what is wrong to be said", |state| !state.warnings.is_empty()).await;
    assert_eq!(followed.state.borrow().registry, good);
    drop(followed);
    let again = follow(&api, folder.path()).await;
    assert_eq!(again.state.borrow().registry, good);
    // Another control plane has never seen it right: the target denies.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = follow(&api, elsewhere.path()).await;
    let denies: Value =
        serde_json::from_str(&other.state.borrow().registry.policies().next().unwrap().canonical_json())
            .unwrap();
    assert_eq!(denies["spec"], json!({"effect": "forbid", "target": {"service": "web"}}));
}
