//! What is asked of the API server is what the table of rights says, and nothing in the table is never asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;
use signet_control_plane::cluster::api::Api;
use signet_control_plane::cluster::lease::Lease;
use signet_control_plane::cluster::status::Writer;
use signet_kubernetes::rbac::{asked, registry};
use signet_tests::process::until;
use tokio::sync::watch;

use super::{cluster, follow, ours, place, route, times};

#[tokio::test]
async fn the_requests_are_those_of_the_table() {
    let (api, folder) = cluster().await;
    api.put_all([ours("MeshPolicy", "shop/may", json!({"effect": "permit"})), route("shop/r", "web")]);
    let followed = follow(&api, folder.path()).await;
    let client = Arc::new(Api::new(&place(&api, folder.path())));
    let (leads, leading) = watch::channel(false);
    let lease = Lease {
        api: Arc::clone(&client),
        namespace: "signet-system".into(),
        identity: "a".into(),
        times: times(1500),
    };
    let writer = Writer {
        api: client,
        store: Arc::clone(&followed.store),
        statuses: followed.statuses.clone(),
        leads: leading,
        metrics: followed.metrics.clone(),
    };
    let tasks = [tokio::spawn(lease.contend(leads, std::future::pending())), tokio::spawn(writer.follow())];
    until("statuses and renewals", || {
        let seen = api.seen();
        let of = |method: &str| seen.iter().filter(|it| it.method == method).count();
        (of("PATCH") >= 2 && of("PUT") >= 2).then_some(())
    })
    .await;
    let rights = registry();
    let mut used = BTreeSet::new();
    for seen in api.seen() {
        let (verb, group, resource, namespace) = asked(&seen.method, &seen.path).unwrap();
        let right = rights.iter().find(|it| {
            it.group == group
                && it.resource == resource
                && it.verbs.contains(&verb)
                && (!it.own_namespace || namespace.as_deref() == Some("signet-system"))
        });
        let right = right.unwrap_or_else(|| panic!("no right to {verb} {resource}.{group}: {}", seen.path));
        used.insert((right.clone(), verb));
    }
    for right in &rights {
        for verb in right.verbs {
            // Statuses of kinds that are not here are written by the same call.
            let by_example = right.resource.ends_with("/status") || right.resource == "events";
            assert!(by_example || used.contains(&(right.clone(), *verb)), "{verb} is never asked: {right:?}");
        }
    }
    assert!(used.iter().any(|(right, _)| right.resource == "meshpolicies/status"));
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
}
