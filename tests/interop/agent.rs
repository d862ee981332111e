//! The same unmodified clients at the socket of a host's agent: there each of them is a process of a user.

use std::process::Command;

use signet_tests::mesh::{Mesh, Sidecar};
use signet_tests::peers::{python, root, run, said};

use crate::workload::APP;

/// A host on which the processes of our own user are `app.shop`.
async fn host() -> Mesh {
    // SAFETY: takes nothing, cannot fail.
    let uid = unsafe { libc::geteuid() };
    Mesh::builder()
        .svid_seconds(12)
        .registry(format!(
            "kind: Workload\nmetadata: {{namespace: shop, name: app}}\nspec: {{class: sidecar, workloadApi: true}}\n---\n\
             kind: Registration\nmetadata: {{name: app}}\nspec: {{unix: {{agents: [ns/hosts/sa/host-a], uid: {uid}}}, \
             identity: ns/shop/sa/app}}\n"
        ))
        .sidecar(Sidecar::agent("host-a.hosts"))
        .start()
        .await
}

#[tokio::test]
async fn the_python_library_fetches_follows_a_rotation_and_validates_at_an_agent() {
    let Some(python) = python() else { return };
    let mut mesh = host().await;
    let mut command = Command::new(python);
    command.arg(root().join("tests/interop/spiffe_peer.py")).arg(mesh.workload_socket("host-a")).arg(APP);
    let output = run(command).await;
    assert!(output.status.success() && said(&output).contains("ok"), "{}", said(&output));
    mesh.assert_unharmed();
}

#[tokio::test]
async fn grpcio_gets_secrets_by_both_protocols_at_an_agent() {
    let Some(python) = python() else { return };
    let mut mesh = host().await;
    let mut command = Command::new(python);
    command.arg(root().join("tests/interop/sds_peer.py")).arg(mesh.workload_socket("host-a")).arg(APP);
    let output = run(command).await;
    assert!(output.status.success() && said(&output).contains("ok"), "{}", said(&output));
    mesh.assert_unharmed();
}

#[tokio::test]
async fn the_rust_library_gets_an_identity_and_a_token_at_an_agent() {
    let mut mesh = host().await;
    let endpoint = format!("unix:{}", mesh.workload_socket("host-a").display());
    let source = spiffe::X509Source::builder()
        .endpoint(endpoint.clone())
        .build()
        .await
        .expect("a source of certificates");
    assert_eq!(source.svid().expect("an identity").spiffe_id().to_string(), APP);
    let source = spiffe::JwtSource::builder().endpoint(endpoint).build().await.expect("a source of tokens");
    let token = source.fetch_jwt_svid(["db"]).await.expect("a token");
    assert_eq!(token.spiffe_id().to_string(), APP);
    mesh.assert_unharmed();
}
