//! The root is replaced under load: nothing fails, and whoever was away comes back.

use signet_proto::v1::{
    AuthorityStatus, IssuanceRecord, ListAuthoritiesRequest, RotateAuthorityRequest, TaintAuthorityRequest,
    WatchIssuancesRequest,
};
use signet_tests::Mesh;
use signet_tests::client::get;

use tonic::Streaming;

use crate::lifecycle::Load;
use crate::pair::Pair;

/// A rotation that a test can watch: certificates of a quarter of a minute, and nobody who only fetches the bundle.
const QUICK: &str = "rotation: {ackDeadlineSeconds: 600, consumersWaitSeconds: 0}\n";

async fn authorities(mesh: &Mesh) -> Vec<AuthorityStatus> {
    let answer = mesh.rotation().await.list_authorities(ListAuthoritiesRequest {}).await;
    answer.expect("the authorities").into_inner().authorities
}

fn active<'a>(all: &'a [AuthorityStatus], kind: &str) -> &'a AuthorityStatus {
    all.iter().find(|one| one.kind == kind && one.phase == "active").expect("an active one")
}

/// Returns once the authority's log says that this root is removed.
async fn removed(records: &mut Streaming<IssuanceRecord>, id: &str) {
    loop {
        let record = records.message().await.unwrap().expect("the stream goes on");
        if record.event == "removed" && record.reason == format!("root {id}") {
            return;
        }
    }
}

#[tokio::test]
async fn a_root_rotates_under_load_and_no_request_fails() {
    let pair = Pair::start_with(Mesh::builder().svid_seconds(15).control_plane(QUICK), "http").await;
    let old = active(&authorities(&pair.mesh).await, "root").clone();
    let mut records =
        pair.mesh.operator().await.watch_issuances(WatchIssuancesRequest {}).await.unwrap().into_inner();
    let load = Load::start(&pair.entry, 4);
    let request = RotateAuthorityRequest { kind: "root".into() };
    let new = pair.mesh.rotation().await.rotate_authority(request).await.unwrap().into_inner().id;
    removed(&mut records, &old.id).await;
    let (good, failures) = load.end().await;
    assert!(failures.is_empty(), "{} of {good}: {failures:?}", failures.len());
    assert!(good > 100, "only {good} requests were made");
    let all = authorities(&pair.mesh).await;
    assert_eq!(active(&all, "root").id, new);
    assert_ne!(active(&all, "root").sha256, old.sha256);
    // Whoever joins now knows the new root alone.
    assert_eq!(get(&pair.entry, "/", &[]).await.status(), 200);
}

#[tokio::test]
async fn a_tainted_root_is_gone_as_soon_as_everybody_has_renewed() {
    let pair = Pair::start_with(Mesh::builder().svid_seconds(600).control_plane(QUICK), "http").await;
    let old = active(&authorities(&pair.mesh).await, "root").clone();
    let mut records =
        pair.mesh.operator().await.watch_issuances(WatchIssuancesRequest {}).await.unwrap().into_inner();
    let load = Load::start(&pair.entry, 2);
    let request = TaintAuthorityRequest { id: old.id[..12].to_owned() };
    pair.mesh.rotation().await.taint_authority(request).await.unwrap();
    // Certificates live ten minutes: they are replaced because the root is tainted, not because they end.
    removed(&mut records, &old.id).await;
    let (good, failures) = load.end().await;
    // Connections that rest on the removed root end at once; each costs its client at most what was in flight.
    assert!(failures.len() <= 8, "{} of {good}: {failures:?}", failures.len());
    assert_eq!(get(&pair.entry, "/", &[]).await.status(), 200);
}
