//! The Python library `spiffe` and plain grpcio, unmodified, on our socket.

use std::process::Command;

use signet_tests::peers::{python, root, run, said};

use crate::workload::{APP, Shop};

#[tokio::test]
async fn the_python_library_fetches_follows_a_rotation_and_validates() {
    let Some(python) = python() else { return };
    let mut shop = Shop::with(|mesh| mesh.svid_seconds(12)).await;
    let mut command = Command::new(python);
    command.arg(root().join("tests/interop/spiffe_peer.py")).arg(shop.socket()).arg(APP);
    let output = run(command).await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("ok"), "{}", said(&output));
    shop.mesh.assert_unharmed();
}

#[tokio::test]
async fn grpcio_gets_secrets_by_both_protocols_with_aliases_answered_together() {
    let Some(python) = python() else { return };
    let mut shop = Shop::with(|mesh| mesh.svid_seconds(12)).await;
    let mut command = Command::new(python);
    command.arg(root().join("tests/interop/sds_peer.py")).arg(shop.socket()).arg(APP);
    let output = run(command).await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("ok"), "{}", said(&output));
    shop.mesh.assert_unharmed();
}
