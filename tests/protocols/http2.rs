//! RFC 9113 by clause.

use signet_tests::peers::python;

use crate::scene::{Peer, Scene};

/// How many cases were as they must be.
fn good(report: &str) -> usize {
    report.lines().filter(|line| line.starts_with("ok\t") || line.starts_with("known\t")).count()
}

#[tokio::test]
async fn every_clause_of_rfc_9113_that_a_client_can_violate_is_answered_as_it_says() {
    let Some(python) = python() else { return };
    let peer = Peer::start(&python, "http2_clauses.py", &[]);
    let mut scene = Scene::start("http2", &peer.address()).await;
    let report = peer.finish(format!("{} {}", scene.outbound, scene.gateway)).await;
    // So that a list that shrinks by mistake is noticed.
    assert!(good(&report) >= 2 * 150, "{report}");
    scene.mesh.assert_unharmed();
}

#[tokio::test]
async fn an_app_that_breaks_rfc_9113_harms_its_own_request_and_no_other() {
    let Some(python) = python() else { return };
    let peer = Peer::start(&python, "http2_misbehaving.py", &[]);
    let mut scene = Scene::start("http2", &peer.address()).await;
    let report = peer.finish(format!("{} {}", scene.outbound, scene.gateway)).await;
    assert!(good(&report) >= 2 * 70, "{report}");
    scene.mesh.assert_unharmed();
}
