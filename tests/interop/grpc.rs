//! grpcio through the pair.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::peers::{python, root, run, said};

#[tokio::test]
async fn grpcio_makes_all_four_kinds_of_calls_with_trailers_and_cancellation() {
    let Some(python) = python() else { return };
    let script = root().join("tests/interop/grpc_peer.py");
    let mut server = Command::new(&python)
        .arg(&script)
        .arg("server")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let app = format!("127.0.0.1:{}", port.trim());
    let (entry, inbound) = (free_address(), free_address());
    let mut mesh = Mesh::builder()
        .registry(service("server", "shop", "main", "grpc", &inbound))
        .registry(permit(
            "client-may",
            "shop",
            "server",
            "ns/shop/sa/client",
            "  to: {grpc: [test.Kinds/*]}\n",
        ))
        .sidecar(Sidecar::new(
            "server.shop",
            format!(
                "inbound: [{{service: server.shop, port: main, listen: '{inbound}', app: 'tcp:{app}'}}]\n"
            ),
        ))
        .sidecar(Sidecar::new(
            "client.shop",
            format!("outbound: [{{listen: '{entry}', service: server.shop, port: main}}]\n"),
        ))
        .start()
        .await;
    let mut client = Command::new(&python);
    client.arg(&script).arg("client").arg(&entry);
    let output = run(client).await;
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("ok"));
    mesh.assert_unharmed();
}
