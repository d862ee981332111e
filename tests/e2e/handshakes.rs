//! A handshake that fails, as the operators of either side see it: by the metric, and by `signet handshakes`.

use std::process::Command;

use serde_json::Value;
use signet_proto::v1::{RevokeRequest, revoke_request};
use signet_tests::client::get;
use signet_tests::mesh::Mesh;
use signet_tests::process::{binary, until};

use crate::pair::Pair;

/// What `signet handshakes` prints with these arguments.
pub(crate) fn shown(mesh: &Mesh, arguments: &[&str]) -> String {
    let mut command = Command::new(binary("signet"));
    command.arg("--socket").arg(mesh.path("op.sock")).arg("handshakes").args(arguments);
    let output = command.output().expect("the command line");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The failures that a process tells of, by its admin socket; none for the control plane.
pub(crate) fn failures(mesh: &Mesh, of: Option<&str>) -> Vec<Value> {
    let socket = of.map(|name| mesh.path(name).join("admin.sock").display().to_string());
    let mut arguments = vec!["--json"];
    if let Some(socket) = &socket {
        arguments.extend(["--of", socket.as_str()]);
    }
    let mut report: Value = serde_json::from_str(&shown(mesh, &arguments)).expect("JSON");
    serde_json::from_value(report["failures"].take()).expect("a list")
}

/// The one of this direction and reason.
pub(crate) fn find(mesh: &Mesh, of: Option<&str>, direction: &str, reason: &str) -> Option<Value> {
    let all = failures(mesh, of);
    all.into_iter().find(|one| one["direction"] == direction && one["reason"] == reason)
}

const CLIENT: &str = "spiffe://test.signet/ns/shop/sa/client";

#[tokio::test]
async fn a_revoked_caller_its_callee_and_the_control_plane_all_say_that_it_is() {
    let mut pair = Pair::start("http").await;
    assert_eq!(get(&pair.entry, "/", &[]).await.status(), 200);
    assert!(failures(&pair.mesh, Some("client")).is_empty());
    assert!(shown(&pair.mesh, &[]).starts_with("no handshake failed"));
    let what = Some(revoke_request::What::SpiffeId(CLIENT.into()));
    pair.mesh.operator().await.revoke(RevokeRequest { what, reason: "test".into() }).await.unwrap();

    let mesh = &pair.mesh;
    let refused = loop {
        get(&pair.entry, "/", &[]).await;
        if let Some(found) = find(mesh, Some("client"), "outbound", "alert_received") {
            break found;
        }
    };
    assert_eq!(refused["alert"], "certificate_revoked");
    assert_eq!(refused["service"], "server.shop");
    assert_eq!(refused["own"]["identity"], CLIENT);
    let refusing = find(mesh, Some("server"), "inbound", "revoked").expect("the callee's side");
    for field in ["identity", "class", "serial", "notBefore", "notAfter"] {
        assert_eq!(refusing["received"][field], refused["own"][field], "{field}");
    }
    let what = refusing["whatToDo"].as_str().unwrap();
    assert!(what.contains("signet ca audit search") && what.contains("signet ca reinstate"), "{what}");

    // It also comes back to the control plane, whose stream was closed with the revocation.
    let away =
        until("the control plane to refuse it", || find(mesh, Some("client"), "control", "alert_received"));
    assert_eq!(away.await["alert"], "certificate_revoked");
    let refusing = find(mesh, None, "mesh", "revoked").expect("the control plane's side");
    assert_eq!(refusing["received"]["identity"], CLIENT);
    assert!(refusing["own"]["identity"].as_str().unwrap().contains("signet-control-plane"));
    let counted = mesh.metrics("client").await;
    assert!(
        counted.contains("signet_control_handshake_failures_total{reason=\"alert_received\"}"),
        "{counted}"
    );

    let socket = mesh.path("client/admin.sock").display().to_string();
    let text = shown(mesh, &["--of", &socket, "--long", "--reason", "alert_received"]);
    assert!(text.contains("outbound alert_received") && text.contains("  do        "), "{text}");
    let table = shown(mesh, &["--peer", CLIENT]);
    assert!(table.lines().any(|line| line.contains("mesh") && line.contains(CLIENT)), "{table}");
    pair.mesh.assert_unharmed();
}
