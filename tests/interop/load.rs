//! Load tools: not one error.

use std::process::Command;

use signet_tests::apps::Echo;
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::peers::{run, said, tool};

async fn pair(protocol: &str) -> (Mesh, String) {
    let app = Echo::start().await;
    let (entry, inbound) = (free_address(), free_address());
    let mesh = Mesh::builder()
        .registry(service("server", "shop", "main", protocol, &inbound))
        .registry(permit("client-may", "shop", "server", "ns/shop/sa/client", ""))
        .sidecar(Sidecar::new(
            "server.shop",
            format!(
                "inbound: [{{service: server.shop, port: main, listen: '{inbound}', app: 'tcp:{}'}}]\n",
                app.address
            ),
        ))
        .sidecar(Sidecar::new(
            "client.shop",
            format!("outbound: [{{listen: '{entry}', service: server.shop, port: main}}]\n"),
        ))
        .start()
        .await;
    (mesh, entry)
}

#[tokio::test]
async fn h2load_drives_many_streams_without_an_error() {
    let Some(h2load) = tool("h2load") else { return };
    let (mut mesh, entry) = pair("http2").await;
    let mut command = Command::new(h2load);
    command.args(["-n", "5000", "-c", "8", "-m", "32", &format!("http://{entry}/")]);
    let text = said(&run(command).await);
    assert!(text.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    assert!(text.contains("5000 2xx"), "{text}");
    mesh.assert_unharmed();
}

#[tokio::test]
async fn wrk_drives_many_connections_without_an_error() {
    let Some(wrk) = tool("wrk") else { return };
    let (mut mesh, entry) = pair("http").await;
    let mut command = Command::new(wrk);
    command.args(["-t", "1", "-c", "32", "-d", "3s", &format!("http://{entry}/")]);
    let text = said(&run(command).await);
    assert!(text.contains("Requests/sec"), "{text}");
    assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
    mesh.assert_unharmed();
}
