//! What we publish, read by libraries that others wrote.

use std::process::Command;

use signet_proto::v1::{ExportBundleRequest, RevokeRequest, revoke_request};
use signet_tests::mesh::Mesh;
use signet_tests::peers::{python, root, run, said};
use signet_tests::svid::Svid;

#[tokio::test]
async fn jwcrypto_and_cryptography_read_our_bundle_and_our_revocation_list() {
    let Some(python) = python() else { return };
    let bundle = signet_tests::mesh::free_address();
    let mesh = Mesh::builder()
        .control_plane(&format!("bundle: {{listen: '{bundle}'}}\n"))
        .registry("kind: Workload\nmetadata: {namespace: shop, name: web}\nspec: {class: sidecar}\n")
        .start()
        .await;
    let web = Svid::join(&mesh, "spiffe://test.signet/ns/shop/sa/web", "sidecar").await;
    let [chain, _, root_file, issuer] = web.files(&mesh, "web");
    let serial = signet_identity::Svid::parse(&web.chain()).unwrap().serial.to_string();
    let request = RevokeRequest { what: Some(revoke_request::What::Serial(serial)), reason: "test".into() };
    mesh.operator().await.revoke(request).await.unwrap();
    let document = mesh.federation().await.export_bundle(ExportBundleRequest {}).await.unwrap().into_inner();
    std::fs::write(mesh.path("bundle.json"), document.document).unwrap();
    let mut command = Command::new(python);
    command.arg(root().join("tests/interop/bundle.py")).arg(mesh.path("bundle.json"));
    command.args([&root_file, &chain, &issuer]).arg(&bundle);
    let output = run(command).await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("all claims hold"), "{}", said(&output));
}
