//! Who may become somebody.

use serde_json::json;
use signet_proto::v1::{ListIssuancesRequest, RevokeRequest, revoke_request};
use signet_tests::client::get;
use signet_tests::mesh::{Mesh, Sidecar, bundle_json};

use crate::pair::Pair;

async fn mesh_with(workload: &str) -> (Mesh, Sidecar) {
    let (name, namespace) = workload.split_once('.').unwrap();
    let document = format!(
        "kind: Workload\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{class: sidecar}}\n"
    );
    (Mesh::builder().registry(document).start().await, Sidecar::new(workload, ""))
}

async fn last_refusal(mesh: &Mesh) -> String {
    let records =
        mesh.operator().await.list_issuances(ListIssuancesRequest { limit: 50 }).await.unwrap().into_inner();
    let refused: Vec<_> = records.records.iter().filter(|it| it.event == "refused").collect();
    refused.iter().max_by_key(|it| it.sequence).map(|it| it.reason.clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_join_token_admits_once() {
    let (mut mesh, late) = mesh_with("late.shop").await;
    let bundle = bundle_json(&mesh.join_bundle(&late.spiffe_id(), "sidecar").await);
    let first = mesh.spawn_sidecar(&late, &bundle);
    first.logged("test.signet/ns/shop/sa/late").await;
    signet_tests::process::until("the first to be ready", || {
        mesh.path("late/data/addresses.json").exists().then_some(())
    })
    .await;
    // The same token in the hands of a second process.
    let mut second = mesh.spawn_sidecar(&Sidecar { name: "late2".into(), ..late.clone() }, &bundle);
    let status = second.wait().await;
    assert!(!status.success(), "a used token admitted a second process");
    assert!(!last_refusal(&mesh).await.is_empty(), "the refusal is not in the issuance log");
    mesh.assert_unharmed();
}

#[tokio::test]
async fn a_forged_token_and_a_foreign_root_are_refused() {
    let (mut mesh, late) = mesh_with("late.shop").await;
    let good = bundle_json(&mesh.join_bundle(&late.spiffe_id(), "sidecar").await);
    let mut forged = good.clone();
    let token = good["token"].as_str().unwrap();
    forged["token"] = json!(format!("{}{}", &token[..token.len() - 4], "AAAA"));
    let mut process = mesh.spawn_sidecar(&late, &forged);
    assert!(!process.wait().await.success());
    let mut elsewhere = good.clone();
    elsewhere["rootSha256"] = json!("00".repeat(32));
    let process = mesh.spawn_sidecar(&late, &elsewhere);
    // The token was not even sent: the server is not who the bundle says.
    process.logged("root").await;
    assert!(!mesh.path("late/data/addresses.json").exists());
    drop(process);
    let mut process = mesh.spawn_sidecar(&late, &good);
    signet_tests::process::until("the right bundle to admit", || {
        process.assert_runs();
        mesh.path("late/data/addresses.json").exists().then_some(())
    })
    .await;
    mesh.assert_unharmed();
}

#[tokio::test]
async fn a_token_is_only_made_for_a_workload_of_the_registry_and_its_class() {
    let (mesh, late) = mesh_with("late.shop").await;
    for (id, class) in [
        ("spiffe://test.signet/ns/shop/sa/nobody", "sidecar"),
        (late.spiffe_id().as_str(), "gateway"),
        (late.spiffe_id().as_str(), "control-plane"),
        ("spiffe://other.domain/ns/shop/sa/late", "sidecar"),
        ("spiffe://test.signet/ns/signet-system/sa/signet-control-plane", "control-plane"),
        ("not an id", "sidecar"),
    ] {
        let request = signet_proto::v1::CreateJoinTokenRequest {
            spiffe_id: id.to_owned(),
            peer_class: class.to_owned(),
            ttl_seconds: 60,
        };
        let answer = mesh.operator().await.create_join_token(request).await;
        assert!(answer.is_err(), "{id} as {class} got a token");
    }
}

#[tokio::test]
async fn a_revoked_identity_loses_its_connections_and_gets_no_certificate() {
    let mut pair = Pair::start("http").await;
    assert_eq!(get(&pair.entry, "/", &[]).await.status(), 200);
    let what = revoke_request::What::SpiffeId("spiffe://test.signet/ns/shop/sa/client".into());
    let request = RevokeRequest { what: Some(what), reason: "test".into() };
    pair.mesh.operator().await.revoke(request).await.unwrap();
    // The pool holds a connection that was good: it must be closed, not only new ones refused.
    let mut answers = 0;
    while get(&pair.entry, "/", &[]).await.status() == 200 {
        answers += 1;
        assert!(answers < 100_000, "a revoked identity still calls");
    }
    let seen = pair.app.seen();
    for _ in 0..5 {
        assert_ne!(get(&pair.entry, "/", &[]).await.status(), 200);
    }
    assert_eq!(pair.app.seen(), seen);
    pair.mesh.assert_unharmed();
}
