//! What came of an object stands in its status, once, beside what others say there.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use signet_control_plane::cluster::api::Api;
use signet_control_plane::cluster::status::Writer;
use signet_tests::apiserver::{ApiServer, Fault};
use signet_tests::process::until;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Followed, cluster, follow, ours, place, route};

struct Writing {
    leads: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn write(api: &ApiServer, folder: &std::path::Path, followed: &Followed) -> Writing {
    let (leads, leading) = watch::channel(true);
    let writer = Writer {
        api: Arc::new(Api::new(&place(api, folder))),
        store: Arc::clone(&followed.store),
        statuses: followed.statuses.clone(),
        leads: leading,
        metrics: followed.metrics.clone(),
    };
    Writing { leads, task: tokio::spawn(writer.follow()) }
}

/// Waits until a condition of an object is this: status and reason.
async fn condition(api: &ApiServer, object: &Value, kind: &str, expected: (&str, &str)) -> Value {
    until(&format!("{kind} {expected:?} of {}", object["metadata"]["name"]), || {
        let now = api.object(object)?;
        let status = &now["status"];
        let own = status["conditions"].as_array();
        let parents = status["parents"].as_array().into_iter().flatten();
        let ours = parents.filter(|it| it["controllerName"] == "signet.mesh/gateway-controller");
        let of_parents = ours.filter_map(|it| it["conditions"].as_array()).flatten();
        let found = own.into_iter().flatten().chain(of_parents).find(|it| it["type"] == kind).cloned()?;
        (found["status"] == expected.0 && found["reason"] == expected.1).then_some(found)
    })
    .await
}

fn patches(api: &ApiServer) -> usize {
    api.seen().iter().filter(|it| it.method == "PATCH").count()
}

#[tokio::test]
async fn each_object_is_told_once_what_became_of_it_and_again_when_that_changes() {
    let (api, folder) = cluster().await;
    let policy = ours("MeshPolicy", "shop/may", json!({"effect": "permit", "target": {"service": "web"}}));
    let late = ours("MeshPolicy", "shop/late", json!({"effect": "permit", "target": {"service": "later"}}));
    api.put_all([policy.clone(), late.clone(), route("shop/r", "later")]);
    let followed = follow(&api, folder.path()).await;
    let _writing = write(&api, folder.path(), &followed);
    let found = condition(&api, &policy, "Accepted", ("True", "Accepted")).await;
    assert_eq!(found["observedGeneration"], 1);
    condition(&api, &late, "Accepted", ("False", "Invalid")).await;
    condition(&api, &route("shop/r", ""), "ResolvedRefs", ("False", "BackendNotFound")).await;
    assert_eq!(patches(&api), 3, "our own writes come back and make no others");
    let mut broken = policy.clone();
    broken["spec"]["frm"] = 1.into();
    api.put(broken);
    let found = condition(&api, &policy, "Accepted", ("False", "Invalid")).await;
    assert!(found["message"].as_str().unwrap().contains("frm"), "{found}");
    assert_eq!(found["observedGeneration"], 2);
    assert_eq!(patches(&api), 4);
}

#[tokio::test]
async fn what_others_say_in_a_status_stays() {
    let (api, folder) = cluster().await;
    let foreign =
        json!({"parentRef": {"name": "x"}, "controllerName": "example.com/other", "conditions": []});
    let mut theirs = route("shop/r", "web");
    theirs["status"] = json!({"parents": [foreign]});
    let mut policy =
        ours("MeshPolicy", "shop/may", json!({"effect": "permit", "target": {"service": "web"}}));
    policy["status"] = json!({"conditions": [{"type": "Reviewed", "status": "True"}], "note": "x"});
    api.put_all([theirs.clone(), policy.clone()]);
    let followed = follow(&api, folder.path()).await;
    let _writing = write(&api, folder.path(), &followed);
    condition(&api, &theirs, "Accepted", ("True", "Accepted")).await;
    assert_eq!(api.object(&theirs).unwrap()["status"]["parents"][0], foreign);
    condition(&api, &policy, "Accepted", ("True", "Accepted")).await;
    let now = api.object(&policy).unwrap();
    assert_eq!(now["status"]["note"], "x");
    assert!(now["status"]["conditions"].as_array().unwrap().iter().any(|it| it["type"] == "Reviewed"));
}

#[tokio::test]
async fn a_write_that_fails_is_made_again_and_one_that_is_refused_is_not() {
    let (api, folder) = cluster().await;
    let policy = |name: &str| {
        ours("MeshPolicy", &format!("shop/{name}"), json!({"effect": "permit", "target": {"service": "web"}}))
    };
    api.put_all([policy("busy"), policy("refused")]);
    api.fails_at("PATCH", "/busy/status", Fault::Status(429, vec![("Retry-After", "1")]));
    api.fails_at("PATCH", "/refused/status", Fault::Status(422, vec![]));
    let mut followed = follow(&api, folder.path()).await;
    let _writing = write(&api, folder.path(), &followed);
    condition(&api, &policy("busy"), "Accepted", ("True", "Accepted")).await;
    // A change of it, and it is tried again.
    assert!(api.object(&policy("refused")).unwrap()["status"].is_null());
    let mut changed = policy("refused");
    changed["spec"]["to"] = json!({"ports": ["http"]});
    api.put(changed);
    followed.until("the change", |state| state.registry.policies().any(|it| it.spec.to.is_some())).await;
    condition(&api, &policy("refused"), "Accepted", ("True", "Accepted")).await;
}

#[tokio::test]
async fn somebody_who_writes_over_us_is_answered_with_longer_and_longer_rests() {
    let (api, folder) = cluster().await;
    let policy = ours("MeshPolicy", "shop/may", json!({"effect": "permit", "target": {"service": "web"}}));
    api.put(policy.clone());
    let followed = follow(&api, folder.path()).await;
    let _writing = write(&api, folder.path(), &followed);
    let end = tokio::time::Instant::now() + Duration::from_secs(6);
    let mut overwritten = 0;
    while tokio::time::Instant::now() < end {
        let now = api.object(&policy).unwrap();
        if now["status"]["conditions"].as_array().is_some_and(|all| !all.is_empty()) {
            let mut theirs = policy.clone();
            theirs["status"] = json!({"conditions": []});
            api.put(theirs);
            overwritten += 1;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!((1..=4).contains(&overwritten), "{overwritten}");
}

#[tokio::test]
async fn only_the_leader_writes() {
    let (api, folder) = cluster().await;
    let policy = ours("MeshPolicy", "shop/may", json!({"effect": "permit", "target": {"service": "web"}}));
    let mut followed = follow(&api, folder.path()).await;
    let writing = write(&api, folder.path(), &followed);
    writing.leads.send_replace(false);
    api.put(policy.clone());
    followed.until("the policy", |state| state.registry.policies().count() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(patches(&api), 0);
    writing.leads.send_replace(true);
    condition(&api, &policy, "Accepted", ("True", "Accepted")).await;
}

/// What others do meanwhile, for so long.
async fn stir(api: &ApiServer, time: Duration) {
    let end = tokio::time::Instant::now() + time;
    let mut number = 0;
    while tokio::time::Instant::now() < end {
        number += 1;
        api.put(super::object("v1", "ServiceAccount", &format!("shop/account-{number}"), json!({})));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_server_that_asks_for_rest_has_it_whatever_changes_meanwhile() {
    let (api, folder) = cluster().await;
    let policy = ours("MeshPolicy", "shop/may", json!({"effect": "permit", "target": {"service": "web"}}));
    api.put(policy.clone());
    api.fails_at("PATCH", "/may/status", Fault::Status(429, vec![("Retry-After", "3")]));
    let followed = follow(&api, folder.path()).await;
    let writing = write(&api, folder.path(), &followed);
    until("the first try", || (patches(&api) == 1).then_some(())).await;
    stir(&api, Duration::from_secs(1)).await;
    // Nor does another turn at leading make it shorter.
    writing.leads.send_replace(false);
    writing.leads.send_replace(true);
    stir(&api, Duration::from_millis(800)).await;
    assert_eq!(patches(&api), 1);
    condition(&api, &policy, "Accepted", ("True", "Accepted")).await;
}

#[tokio::test]
async fn a_kind_whose_statuses_may_not_be_written_holds_up_no_other_and_is_left_alone_for_a_while() {
    let (api, folder) = cluster().await;
    let policy = ours("MeshPolicy", "shop/may", json!({"effect": "permit", "target": {"service": "web"}}));
    api.put_all([policy.clone(), route("shop/here", "web")]);
    api.fails_at("PATCH", "/may/status", Fault::Status(403, vec![]));
    let followed = follow(&api, folder.path()).await;
    let _writing = write(&api, folder.path(), &followed);
    condition(&api, &route("shop/here", "web"), "Accepted", ("True", "Accepted")).await;
    stir(&api, Duration::from_millis(1500)).await;
    let tries = api.seen().iter().filter(|it| it.method == "PATCH" && it.path.contains("/may/")).count();
    assert_eq!(tries, 1);
    assert!(api.object(&policy).unwrap()["status"].is_null());
}
