//! RFC 6455 by section.

use signet_tests::peers::python;

use crate::scene::{Peer, Scene};

#[tokio::test]
async fn a_websocket_is_what_its_two_ends_make_of_it() {
    let Some(python) = python() else { return };
    let peer = Peer::start(&python, "websocket_peer.py", &[]);
    let mut scene = Scene::start("http1", &peer.address()).await;
    let report = peer.finish(format!("{} {}", scene.outbound, scene.gateway)).await;
    // So that a list that shrinks by mistake is noticed.
    assert!(report.lines().filter(|line| line.starts_with("ok\t")).count() >= 2 * 55, "{report}");
    scene.mesh.assert_unharmed();
}
