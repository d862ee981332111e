//! Certificates that end under what is under way, and news that grow old.

use std::time::Duration;

use signet_identity::testing::SvidOptions;
use signet_identity::{Generation, GenerationOptions, PeerClass};
use signet_proxy::state::{MeshSettings, Timeouts};

use super::scene::{ALL, Carried, Live, Scene, all_live};
use crate::support::Node;

fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

/// The wall clock has no event to wait for but itself.
async fn passed(second: i64) {
    while now() <= second {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lets this node's certificate end soon, and begins.
async fn short_lived(scene: &Scene, node: &Node, name: &str) -> (Live, [Live; 2], i64) {
    let both = node.state.view().tls.generation.bundles().clone();
    let options = SvidOptions::default().ends_in(2).at_wall_clock();
    let own = scene.ca.svid(&scene.ca.id(&format!("ns/shop/sa/{name}")), PeerClass::Sidecar, options);
    let next = Generation::build(501, own, both, GenerationOptions::default()).unwrap();
    node.state.update_tls(|tls| tls.with_generation(next.clone()));
    let (subject, bystanders) = scene.begin().await;
    (subject, bystanders, next.own().svid().not_after)
}

/// Whose certificate ends, and what follows for what is under way then.
async fn expiry(carried: Carried, whose: &str, stale: &[&str], cut_on_expiry: bool, ends: bool) {
    let timeouts = Timeouts { cut_on_expiry, ..Timeouts::default() };
    let scene = Scene::with(carried, timeouts, |node| {
        let mesh = MeshSettings { max_staleness: Duration::from_secs(3600), ..Default::default() };
        node.state.update_policy(|policy| policy.with_mesh(mesh));
    })
    .await;
    let node = if whose == "web" { &scene.web } else { &scene.orders };
    let (mut subject, mut bystanders, end) = short_lived(&scene, node, whose).await;
    for name in stale {
        let node = if *name == "web" { &scene.web } else { &scene.orders };
        node.state.freshness.lost(u64::try_from(now()).unwrap() - 7200);
    }
    let what = format!("{carried:?}, {whose}'s end, stale {stale:?}, cut {cut_on_expiry}");
    if ends {
        subject.ends().await;
        assert!(now() > end, "{what}: before its end");
        assert!(!subject.carries().await, "{what}");
    } else {
        passed(end + 2).await;
        assert!(subject.carries().await, "{what}: was ended");
    }
    // Of the one whose certificate ended the bystander is under it, too: that one is judged by its own other side.
    let untouched = if whose == "web" { 0 } else { 1 };
    assert!(bystanders[untouched].carries().await, "{what}: a bystander was ended");
}

/// All at once: each waits for a clock.
async fn every(whose: &'static str, stale: &'static [&'static str], cut: bool, ends: fn(Carried) -> bool) {
    let cells = ALL.map(|carried| expiry(carried, whose, stale, cut, ends(carried)));
    futures_util::future::join_all(cells).await;
}

#[tokio::test]
async fn what_is_under_way_outlives_its_callers_svid_while_the_authority_vouches() {
    every("web", &[], false, |_| false).await;
}

#[tokio::test]
async fn what_is_under_way_ends_with_its_callers_svid_when_the_callee_has_old_news() {
    every("web", &["orders"], false, |_| true).await;
}

#[tokio::test]
async fn what_is_under_way_outlives_the_servers_svid_while_the_authority_vouches() {
    every("orders", &[], false, |_| false).await;
}

#[tokio::test]
async fn what_is_under_way_ends_with_the_servers_svid_when_the_caller_has_old_news() {
    every("orders", &["web"], false, |_| true).await;
}

#[tokio::test]
async fn old_news_end_nothing_whose_svids_are_good() {
    for carried in ALL {
        let scene = Scene::with(carried, Timeouts::default(), |node| {
            let mesh = MeshSettings { max_staleness: Duration::from_secs(3600), ..Default::default() };
            node.state.update_policy(|policy| policy.with_mesh(mesh));
        })
        .await;
        all_live(&scene, "old news", async |scene| {
            for node in [&scene.web, &scene.orders] {
                node.state.freshness.lost(u64::try_from(now()).unwrap() - 7200);
            }
            passed(now() + 1).await;
        })
        .await;
    }
}

#[tokio::test]
async fn where_the_port_says_so_bytes_end_with_either_svid_and_exchanges_do_not() {
    let is_bytes = |carried| matches!(carried, Carried::Tcp | Carried::WebSocket);
    every("web", &[], true, is_bytes).await;
    every("orders", &[], true, is_bytes).await;
}
