//! What changes in the cluster changes in the registry, and nothing else does.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use signet_control_plane::cluster::api::Api;
use signet_control_plane::cluster::metrics::Metrics;
use signet_control_plane::cluster::reflect::Reflector;
use signet_control_plane::cluster::source::Source;
use signet_control_plane::cluster::store::Store;
use signet_control_plane::registry::State;
use signet_kubernetes::kinds::KindId;
use signet_model::Options;
use tokio::task::JoinSet;

use super::{cluster, follow, object, ours, place, pod, slice};

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
    let forbid = json!({"effect": "forbid", "target": {"service": "web"}, "to": {"ports": ["http"]}});
    api.put(ours("MeshPolicy", "shop/no", forbid.clone()));
    let spec = |state: &State| {
        let policy = state.registry.policies().next()?.canonical_json();
        Some(serde_json::from_str::<Value>(&policy).unwrap()["spec"].clone())
    };
    let mut followed = follow(&api, folder.path()).await;
    followed.until("the policy", |state| spec(state).as_ref() == Some(&forbid)).await;
    let web = object("v1", "Service", "shop/web", json!({}));
    let service = api.object(&web).unwrap();
    api.remove(&web);
    followed.until("what is wrong to be said", |state| !state.warnings.is_empty()).await;
    assert_eq!(spec(&followed.state.borrow()).as_ref(), Some(&forbid));
    drop(followed);
    let mut again = follow(&api, folder.path()).await;
    assert_eq!(spec(&again.state.borrow()).as_ref(), Some(&forbid));
    // Another control plane has never seen it right: the target denies.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = follow(&api, elsewhere.path()).await;
    let denies = json!({"effect": "forbid", "target": {"service": "web"}});
    assert_eq!(spec(&other.state.borrow()).as_ref(), Some(&denies));
    // Who changes it, and does so wrongly, meant something else: the target denies, too.
    api.put(service);
    again.until("the service", |state| state.registry.services().count() == 1).await;
    let mut wrong = forbid.clone();
    wrong["frm"] = 1.into();
    api.put(ours("MeshPolicy", "shop/no", wrong));
    again.until("the denial", |state| spec(state).as_ref() == Some(&denies)).await;
}

#[tokio::test]
async fn what_changes_between_the_first_registry_and_its_following_is_not_lost() {
    let (api, folder) = cluster().await;
    let config = super::config(&api, folder.path());
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    let mut background = JoinSet::new();
    let source = Source::open(&config, Options::default(), folder.path(), metrics, &mut background).await;
    let mut state = source.subscribe();
    let before = source.store.changes().content;
    api.put(ours("MeshPolicy", "shop/may", json!({"effect": "permit", "target": {"service": "web"}})));
    let mut changes = source.store.subscribe();
    changes.wait_for(|now| now.content != before).await.unwrap();
    assert_eq!(state.borrow().registry.policies().count(), 0);
    background.spawn(source.follow());
    let is_there = state.wait_for(|state| state.registry.policies().count() == 1);
    tokio::time::timeout(Duration::from_secs(30), is_there).await.expect("the policy").unwrap();
}

#[tokio::test]
async fn a_page_of_large_objects_is_asked_for_in_halves_until_it_can_be_read() {
    let (api, folder) = cluster().await;
    for number in 0..20 {
        let annotations = json!({"signet.mesh/x": "x".repeat(1000)});
        api.put(object(
            "v1",
            "ServiceAccount",
            &format!("shop/account-{number}"),
            json!({"annotations": annotations}),
        ));
    }
    let store = Arc::new(Store::default());
    let reflector = |largest_page| Reflector {
        api: Arc::new(Api::new(&place(&api, folder.path()))),
        kind: KindId::ServiceAccount.kind(),
        store: Arc::clone(&store),
        metrics: Metrics::new(&prometheus::Registry::new()).unwrap(),
        longest_pause: Duration::from_millis(50),
        largest_page,
    };
    let mut background = JoinSet::new();
    background.spawn(reflector(6_000).follow());
    let mut changes = store.subscribe();
    let listed = changes.wait_for(|_| store.count(KindId::ServiceAccount) == 21);
    tokio::time::timeout(Duration::from_secs(30), listed).await.expect("all accounts").unwrap();
    let first_pages = api.seen().iter().filter(|it| it.path.contains("/serviceaccounts?limit=250")).count();
    assert_eq!(first_pages, 1, "what was too large once is not asked for again");
    // One that is too large by itself is said, and not tried without end.
    background.abort_all();
    let lone = Arc::new(Store::default());
    background.spawn(Reflector { store: Arc::clone(&lone), ..reflector(500) }.follow());
    let mut changes = lone.subscribe();
    let said = changes.wait_for(|_| lone.troubles().iter().any(|(.., why)| why.contains("larger than")));
    tokio::time::timeout(Duration::from_secs(30), said).await.expect("the trouble").unwrap();
}

#[tokio::test]
async fn what_comes_and_goes_with_pods_is_not_written_down() {
    let (api, folder) = cluster().await;
    api.put(ours("MeshPolicy", "shop/no", json!({"effect": "forbid", "target": {"service": "web"}})));
    let mut followed = follow(&api, folder.path()).await;
    let file = folder.path().join("registry-kept.json");
    let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&file).unwrap());
    let first = inode();
    api.put(pod("shop/web-2", "10.1.0.2"));
    api.put(slice(&[("web-1", "10.1.0.1"), ("web-2", "10.1.0.2")]));
    followed.endpoints(&["10.1.0.1", "10.1.0.2"]).await;
    assert_eq!(inode(), first, "the file is replaced when it is written");
    api.put(ours("MeshPolicy", "shop/no", json!({"effect": "forbid"})));
    followed.until("the change", |state| state.registry.policies().any(|it| it.spec.target.is_none())).await;
    assert_ne!(inode(), first);
}
