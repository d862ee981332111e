//! What the control plane tells sidecars, and what it refuses to take from a folder.

use signet_proto::v1::{ListSidecarsRequest, StatusRequest};
use signet_tests::client::get;
use signet_tests::process::until;

use crate::pair::Pair;

#[tokio::test]
async fn an_invalid_registry_file_is_refused_whole_and_the_last_good_state_serves_on() {
    let mut pair = Pair::start("http").await;
    // The file would take the permit away as well, if it were taken in part.
    pair.mesh.write_registry(
        "test-1.yaml",
        "kind: MeshPolicy\nmetadata: {namespace: shop, name: p}\nspec: {effect: permit, target: {service: server}, colour: red}\n",
    );
    let control_plane = pair.mesh.control_plane.as_ref().unwrap();
    let line = control_plane.logged("colour").await;
    assert!(line.contains("test-1.yaml"), "the file is not named: {line}");
    let status = pair.mesh.operator().await.status(StatusRequest {}).await.unwrap().into_inner();
    let error = status.registry_errors.join("\n");
    assert!(error.contains("test-1.yaml") && error.contains("colour"), "{error}");
    for _ in 0..10 {
        assert_eq!(get(&pair.entry, "/", &[]).await.status(), 200);
    }
    pair.mesh.assert_unharmed();
}

#[tokio::test]
async fn a_registry_change_is_served_without_a_restart() {
    let pair = Pair::start("http").await;
    assert_eq!(get(&pair.entry, "/admin", &[]).await.status(), 200);
    pair.mesh.write_registry(
        "forbid.yaml",
        "kind: MeshPolicy\nmetadata: {namespace: shop, name: no-admin}\nspec: {effect: forbid, target: {service: server}, to: {paths: [/admin]}}\n",
    );
    while get(&pair.entry, "/admin", &[]).await.status() == 200 {}
    assert_eq!(get(&pair.entry, "/admin", &[]).await.status(), 403);
    assert_eq!(get(&pair.entry, "/other", &[]).await.status(), 200);
}

#[tokio::test]
async fn sidecars_go_on_without_the_control_plane_and_find_it_again() {
    let mut pair = Pair::start("http").await;
    drop(pair.mesh.control_plane.take());
    for _ in 0..20 {
        assert_eq!(get(&pair.entry, "/", &[]).await.status(), 200);
    }
    pair.mesh.start_control_plane().await;
    let mut operator = pair.mesh.operator().await;
    loop {
        let sidecars = operator.list_sidecars(ListSidecarsRequest {}).await.unwrap().into_inner().sidecars;
        if sidecars.len() == 2 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(get(&pair.entry, "/", &[]).await.status(), 200);
}

#[tokio::test]
async fn a_sidecar_says_when_it_is_ready() {
    let pair = Pair::start("http").await;
    let address = pair.mesh.addresses("client")["metrics"].as_str().unwrap().to_owned();
    assert_eq!(get(&address, "/ready", &[]).await.status(), 200);
    assert_eq!(
        get(&address, "/config", &[]).await.status(),
        404,
        "configuration is for the admin socket only"
    );
    let metrics = pair.mesh.metrics("client").await;
    assert!(metrics.contains("signet_"), "{metrics}");
    until("the admin socket", || pair.mesh.path("client/admin.sock").exists().then_some(())).await;
    let mode = std::fs::metadata(pair.mesh.path("client/admin.sock")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
}
