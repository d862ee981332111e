//! Redirected connections, in network namespaces laid out as two pods on a link: the app dials a
//! service's address, knows of no sidecar, and netfilter hands the connection over. Needs root.
//!
//! `redirect` is about the rules by themselves; here the mesh carries what they hand over.

mod churn;
mod cni;
mod families;
mod headless;
mod injected;
mod names;
mod node;
mod outside;
mod pair;
mod permissive;
mod pods;
mod redirect;
mod servers;
mod streams;
mod targets;

use std::process::Command;

use signet_tests::mesh::{Mesh, Sidecar, permit};
use signet_tests::peers::{run, said};
use signet_tests::process::{Process, binary, until};

use crate::pods::{APP_UID, OUTSIDE, Pods, SERVER, SIDECAR_UID, names_itself, reaches};
use crate::redirect::BACKENDS;

/// Two pods, and the control plane outside; in the second pod an HTTP service on the same port as its app, and one
/// that speaks first, reached by virtual addresses.
async fn transparent(pods: &Pods, backend: &str, family: usize) -> Mesh {
    transparent_by(pods, backend, family, OUTSIDE[0]).await
}

/// The same with the control plane at an address of its own.
async fn transparent_by(pods: &Pods, backend: &str, family: usize, plane: &str) -> Mesh {
    let (virtual_ip, server) = (SERVICE[family], SERVER[family]);
    let service = |name: &str, protocol: &str, port: u16| {
        format!(
            "kind: Service\nmetadata: {{namespace: shop, name: {name}}}\nspec:\n  identities: [ns/shop/sa/server]\n  addresses: ['{virtual_ip}']\n  \
             ports: [{{name: main, port: {port}, protocol: {protocol}}}]\n  \
             endpoints: [{{address: '{server}', ports: {{main: {port}}}, identity: ns/shop/sa/server}}]\n"
        )
    };
    // As an init container does it: before anything else runs.
    for (pod, listeners) in [(&pods.server, ""), (&pods.client, " --inbound-port none")] {
        let apply = format!("apply --uid {SIDECAR_UID} --backend {backend}{listeners}");
        pods.redirected(pod, &apply);
    }
    let outbound = "outbound: ['0.0.0.0:15001', '[::]:15001']";
    let inbound = "inbound: ['0.0.0.0:15006', '[::]:15006'], serves: [server.shop, greeter.shop]";
    let mesh = Mesh::builder()
        .control_plane_in(&pods.outside, plane)
        .registry(service("server", "http", 8080))
        .registry(service("greeter", "tcp", 7000).replace(virtual_ip, GREETER[family]))
        .registry(permit(
            "client-may",
            "shop",
            "server",
            "ns/shop/sa/client",
            "  to: {paths: ['/stock/{sku}']}\n",
        ))
        .registry(permit(
            "itself-may",
            "shop",
            "server",
            "ns/shop/sa/server",
            "  to: {paths: ['/stock/{sku}']}\n",
        ))
        .registry(permit("greeted", "shop", "greeter", "ns/shop/sa/client, ns/shop/sa/server", ""))
        .sidecar(
            Sidecar::new("server.shop", format!("transparent: {{{outbound}, {inbound}}}\n"))
                .in_pod(&pods.server, SIDECAR_UID),
        )
        .sidecar(
            Sidecar::new("client.shop", format!("transparent: {{{outbound}}}\n"))
                .in_pod(&pods.client, SIDECAR_UID),
        )
        .start()
        .await;
    // The same as the sidecars are configured.
    for (pod, name) in [(&pods.server, "server"), (&pods.client, "client")] {
        let config = mesh.path(name).join("sidecar.yaml");
        let options = format!("--uid {SIDECAR_UID} --backend {backend} --config {}", config.display());
        pods.redirected(pod, &format!("check {options}"));
    }
    mesh
}

/// The addresses of the services; nobody has them.
const SERVICE: [&str; 2] = ["10.96.0.7", "fd96::7"];
const GREETER: [&str; 2] = ["10.96.0.8", "fd96::8"];
const NOBODY: [&str; 2] = ["10.96.0.9", "fd96::9"];

/// An address in a URL.
fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
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
    for (backend, family) in BACKENDS.into_iter().flat_map(|backend| [(backend, 0), (backend, 1)]) {
        let mesh = transparent(&pods, backend, family).await;
        let (virtual_ip, host) = (bracketed(SERVICE[family]), bracketed(SERVER[family]));
        let app = app(&pods, &format!("{host}:8080"), folder.path()).await;
        let answer = curl(&pods.client, &format!("http://{virtual_ip}:8080/stock/apple")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("\"in_stock\": 35"), "{answer}");
        let answer = curl(&pods.client, &format!("http://{virtual_ip}:8080/other")).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("signet-decision-id"), "{answer}");
        // Straight to the pod, past the caller's own sidecar: plaintext is refused at the receiver.
        let answer = curl(&pods.outside, &format!("http://{host}:8080/stock/apple")).await;
        assert!(!answer.contains("in_stock"), "{answer}");
        // An address that no service has goes nowhere while the mesh denies by default.
        let answer = curl(&pods.client, &format!("http://{}:8080/", bracketed(NOBODY[family]))).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        // A sidecar's own listeners are never an original destination.
        for port in [15001, 15006] {
            for caller in [&pods.client, &pods.server, &pods.outside] {
                let answer = curl(caller, &format!("http://{host}:{port}/")).await;
                assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
            }
        }
        drop(app);
        drop(mesh);
    }
}

#[tokio::test]
async fn a_pod_reaches_itself_directly_and_its_own_service_through_its_sidecar_as_a_peer_would() {
    let Some(pods) = Pods::make() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (backend, family) in BACKENDS.into_iter().flat_map(|backend| [(backend, 0), (backend, 1)]) {
        let mesh = transparent(&pods, backend, family).await;
        let (virtual_ip, host) = (bracketed(SERVICE[family]), bracketed(SERVER[family]));
        let app = app(&pods, &format!("{host}:8080"), folder.path()).await;
        let answer = curl(&pods.server, &format!("http://{host}:8080/stock/apple")).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("in_stock"), "itself: {answer}");
        let answer = curl(&pods.server, &format!("http://{virtual_ip}:8080/stock/apple")).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("in_stock"), "its service: {answer}");
        // Policy was asked: what it does not permit is refused, by an id that explains it as the pod's own call.
        let answer = curl(&pods.server, &format!("http://{virtual_ip}:8080/other")).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        let id = answer.lines().find_map(|line| line.strip_prefix("signet-decision-id: ")).expect("an id");
        let explained = mesh.explain(id.trim()).await.to_string();
        assert!(explained.contains("/ns/shop/sa/server"), "{explained}");
        drop(app);
        drop(mesh);
    }
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_through_the_redirected_pair_and_from_its_own_pod() {
    let Some(pods) = Pods::make() else { return };
    names_itself(&pods.server, "[::]:7000", "220 ready").await;
    for (backend, family) in BACKENDS.into_iter().flat_map(|backend| [(backend, 0), (backend, 1)]) {
        let mesh = transparent(&pods, backend, family).await;
        for caller in [&pods.client, &pods.server] {
            let heard = reaches(caller, APP_UID, None, GREETER[family], 7000).await;
            assert_eq!(heard.as_deref(), Ok("220 ready"), "{backend}: from {caller}");
        }
        // Nobody without an identity.
        let heard = reaches(&pods.outside, APP_UID, None, SERVER[family], 7000).await;
        assert!(heard.is_err(), "{backend}: {heard:?}");
        drop(mesh);
    }
}
