//! Redirected connections, in network namespaces laid out as two pods on a link: the app dials a
//! service's address, knows of no sidecar, and netfilter hands the connection over. Needs root.

mod pods;

use std::process::Command;

use signet_tests::mesh::{Mesh, Sidecar, permit};
use signet_tests::peers::{run, said};
use signet_tests::process::{Process, binary, until};

use crate::pods::{Pods, SIDECAR_UID};

/// Two pods, a service in the second one on the same port as its app, reached by a virtual address.
async fn transparent(pods: &Pods, mesh: &str, virtual_ip: &str, server_ip: &str) -> Mesh {
    let registry = format!(
        "kind: Service\nmetadata: {{namespace: shop, name: server}}\nspec:\n  addresses: ['{virtual_ip}']\n  \
         ports: [{{name: http, port: 8080, protocol: http}}]\n  \
         endpoints: [{{address: '{server_ip}', ports: {{http: 8080}}, identity: ns/shop/sa/server}}]\n"
    );
    let config =
        "transparent: {outbound: ['0.0.0.0:15001', '[::]:15001'], inbound: ['0.0.0.0:15006', '[::]:15006']";
    Mesh::builder()
        .control_plane_in(&pods.server, mesh)
        .registry(registry)
        .registry(permit(
            "client-may",
            "shop",
            "server",
            "ns/shop/sa/client",
            "  to: {paths: ['/stock/{sku}']}\n",
        ))
        .sidecar(
            Sidecar::new("server.shop", format!("{config}, serves: [server.shop]}}\n"))
                .in_pod(&pods.server, SIDECAR_UID),
        )
        .sidecar(
            Sidecar::new("client.shop", "transparent: {outbound: ['0.0.0.0:15001', '[::]:15001']}\n")
                .in_pod(&pods.client, SIDECAR_UID),
        )
        .start()
        .await
}

async fn app(pods: &Pods, listen: &str, folder: &std::path::Path) -> Process {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &pods.server]).arg(binary("signet-sample")).args([
        "inventory",
        "--listen",
        listen,
    ]);
    let process = Process::start("app", command, folder);
    let listens = || {
        let mut sockets = Command::new("ip");
        sockets.args(["netns", "exec", &pods.server, "ss", "-ltnH"]);
        let sockets = sockets.output().expect("ss runs");
        String::from_utf8_lossy(&sockets.stdout).contains(listen).then_some(())
    };
    until("the app listens", listens).await;
    process
}

async fn curl(netns: &str, url: &str) -> String {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns, "curl", "-sS", "-i", "-m", "20", "-g", url]);
    said(&run(command).await)
}

#[tokio::test]
async fn an_app_dials_a_service_and_the_mesh_carries_it_over_ipv4_and_ipv6() {
    let Some(pods) = Pods::make() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (host, virtual_ip, listen) in
        [("10.77.0.2", "10.96.0.7", "10.77.0.2:8080"), ("fd77::2", "fd96::7", "[fd77::2]:8080")]
    {
        let mesh = transparent(&pods, "10.77.0.2", virtual_ip, host).await;
        let app = app(&pods, listen, folder.path()).await;
        let bracketed =
            if virtual_ip.contains(':') { format!("[{virtual_ip}]") } else { virtual_ip.to_owned() };
        let answer = curl(&pods.client, &format!("http://{bracketed}:8080/stock/apple")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("\"in_stock\": 35"), "{answer}");
        let answer = curl(&pods.client, &format!("http://{bracketed}:8080/other")).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("signet-decision-id"), "{answer}");
        // Straight to the pod, past the caller's own sidecar: plaintext is refused at the receiver.
        let target = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let answer = curl(&pods.outside, &format!("http://{target}:8080/stock/apple")).await;
        assert!(!answer.contains("in_stock"), "{answer}");
        // An address that no service has goes nowhere while the mesh denies by default.
        let answer = curl(&pods.client, &format!("http://{}:8080/", bracketed.replace('7', "9"))).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        // A sidecar's own listeners are never an original destination.
        let answer = curl(
            &pods.client,
            &format!("http://{}:15001/", if host.contains(':') { "[fd77::1]" } else { "10.77.0.1" }),
        )
        .await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        drop(app);
        drop(mesh);
    }
}
