//! An API server that fails costs time and nothing else: what was known stays in force.

use serde_json::json;
use signet_tests::apiserver::Fault;

use super::{cluster, follow, ours, pod, slice};

#[tokio::test]
async fn a_list_is_tried_again_whatever_the_server_says() {
    let (api, folder) = cluster().await;
    let status = |code, headers| Fault::Status(code, headers);
    for (words, fault) in [
        ("/pods?", status(429, vec![("Retry-After", "1")])),
        ("/services?", status(503, vec![])),
        ("/endpointslices?", status(504, vec![("Retry-After", "1")])),
        ("/namespaces?", status(500, vec![])),
        ("/serviceaccounts?", Fault::Hangup),
        ("/meshpolicies?", Fault::Half),
        ("/guardrails?", Fault::Body(b"{}x".to_vec())),
        ("/meshes?", status(401, vec![])),
        ("/trafficpolicies?", status(403, vec![])),
        ("/httproutes?", status(410, vec![])),
    ] {
        api.fails_at("GET", words, fault);
    }
    let mut followed = follow(&api, folder.path()).await;
    followed.endpoints(&["10.1.0.1"]).await;
    followed.until("no trouble", |state| state.errors.is_empty()).await;
}

#[tokio::test]
async fn a_page_that_grew_too_old_begins_the_list_again() {
    let (api, folder) = cluster().await;
    for number in 0..9 {
        api.put(pod(&format!("shop/web-{}", number + 2), "10.1.0.9"));
    }
    api.pages_of(4);
    api.fails_at("GET", "/pods?limit=250&continue=", Fault::Status(410, vec![]));
    let followed = follow(&api, folder.path()).await;
    assert_eq!(followed.store.count(signet_kubernetes::kinds::KindId::Pod), 10);
}

#[tokio::test]
async fn a_watch_that_breaks_goes_on_where_it_was_and_one_that_is_too_old_lists_again() {
    let (api, folder) = cluster().await;
    let mut followed = follow(&api, folder.path()).await;
    followed.endpoints(&["10.1.0.1"]).await;
    let lists = |api: &signet_tests::apiserver::ApiServer| {
        api.seen()
            .iter()
            .filter(|it| it.path.starts_with("/apis/discovery.k8s.io/v1/endpointslices?limit"))
            .count()
    };
    assert_eq!(lists(&api), 1);
    api.cut_watches();
    api.put(slice(&[]));
    followed.endpoints(&[]).await;
    assert_eq!(lists(&api), 1, "it went on from the version that it had");
    // While the watch is down, the server forgets what came after.
    api.put(pod("shop/web-2", "10.1.0.2"));
    api.cut_watches();
    api.put(slice(&[("web-2", "10.1.0.2")]));
    api.forgets();
    followed.endpoints(&["10.1.0.2"]).await;
    assert!(lists(&api) > 1);
}

#[tokio::test]
async fn an_outage_changes_nothing_and_is_said_until_it_is_over() {
    let (api, folder) = cluster().await;
    let mut followed = follow(&api, folder.path()).await;
    followed.endpoints(&["10.1.0.1"]).await;
    let before = followed.state.borrow().clone();
    api.is_away(true);
    api.cut_watches();
    let state = followed.until("the outage to be said", |state| !state.errors.is_empty()).await;
    assert!(state.errors[0].contains("not followed since 20"), "{:?}", state.errors);
    assert_eq!((state.registry, state.loaded_at), (before.registry, before.loaded_at));
    api.put(slice(&[]));
    api.is_away(false);
    followed.endpoints(&[]).await;
    followed.until("no trouble", |state| state.errors.is_empty()).await;
}

#[tokio::test]
async fn a_kind_that_the_server_no_longer_finds_stays_as_it_was() {
    let (api, folder) = cluster().await;
    api.put(ours("GuardRail", "closed", json!({"forbid": {}})));
    let mut followed = follow(&api, folder.path()).await;
    followed.until("the guard rail", |state| state.registry.guard_rails().count() == 1).await;
    // As while an API server starts: a path that nobody serves yet.
    api.lacks("/apis/signet.mesh/v1alpha1/guardrails", true);
    api.cut_watches();
    let state =
        followed.until("the trouble", |state| state.errors.iter().any(|it| it.contains("guardrails"))).await;
    assert_eq!(state.registry.guard_rails().count(), 1);
}

#[tokio::test]
async fn one_object_that_cannot_be_read_leaves_the_rest_as_it_is() {
    let (api, folder) = cluster().await;
    let mut odd = pod("shop/odd", "10.1.0.9");
    odd["spec"]["initContainers"] = "?".into();
    api.put(odd);
    let mut followed = follow(&api, folder.path()).await;
    followed.endpoints(&["10.1.0.1"]).await;
    let mut odd = slice(&[]);
    odd["metadata"]["name"] = "web-b".into();
    odd["endpoints"] = json!({"surprise": 1});
    api.put(odd);
    api.put(pod("shop/web-2", "10.1.0.2"));
    api.put(slice(&[("web-1", "10.1.0.1"), ("web-2", "10.1.0.2")]));
    followed.endpoints(&["10.1.0.1", "10.1.0.2"]).await;
}
