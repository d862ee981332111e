//! Two redirected pods with a mesh between them: an app in the client's pod dials virtual addresses, servers in the
//! other pod listen at the ports of their services. Everything is opaque TCP here.

use std::process::Command;

use signet_tests::mesh::{Mesh, Sidecar, permit};

use crate::pods::{APP_UID, OUTSIDE, Pods, SERVER, SIDECAR_UID};

/// A service of the second pod: its name and port. Its virtual address follows from its place in the list.
pub(crate) type Offer = (&'static str, u16);

/// The virtual address of the service at this place.
pub(crate) fn virtual_ip(place: usize, family: usize) -> String {
    match family {
        0 => format!("10.96.1.{}", place + 1),
        _ => format!("fd96::1:{}", place + 1),
    }
}

/// A `tcp` service of the server's pod.
fn service(name: &str, address: &str, port: u16, family: usize) -> String {
    format!(
        "kind: Service\nmetadata: {{namespace: shop, name: {name}}}\nspec:\n  identities: [ns/shop/sa/server]\n  addresses: ['{address}']\n  \
         ports: [{{name: main, port: {port}, protocol: tcp}}]\n  \
         endpoints: [{{address: '{}', ports: {{main: {port}}}, identity: ns/shop/sa/server}}]\n",
        SERVER[family]
    )
}

/// Redirects both pods and starts the mesh.
pub(crate) async fn pair(pods: &Pods, family: usize, offers: &[Offer]) -> Mesh {
    for (pod, listeners) in [(&pods.server, ""), (&pods.client, " --inbound-port none")] {
        pods.redirected(pod, &format!("apply --uid {SIDECAR_UID} --backend nftables{listeners}"));
    }
    let outbound = "outbound: ['0.0.0.0:15001', '[::]:15001']";
    let names: Vec<_> = offers.iter().map(|(name, _)| format!("{name}.shop")).collect();
    let inbound = format!("inbound: ['0.0.0.0:15006', '[::]:15006'], serves: [{}]", names.join(", "));
    let mut mesh = Mesh::builder().control_plane_in(&pods.outside, OUTSIDE[0]);
    for (place, (name, port)) in offers.iter().enumerate() {
        mesh = mesh.registry(service(name, &virtual_ip(place, family), *port, family)).registry(permit(
            &format!("{name}-may"),
            "shop",
            name,
            "ns/shop/sa/client",
            "",
        ));
    }
    mesh.sidecar(
        Sidecar::new("server.shop", format!("transparent: {{{outbound}, {inbound}}}\n"))
            .in_pod(&pods.server, SIDECAR_UID),
    )
    .sidecar(
        Sidecar::new("client.shop", format!("transparent: {{{outbound}}}\n"))
            .in_pod(&pods.client, SIDECAR_UID),
    )
    .start()
    .await
}

/// A program in a pod as an app's user, or another one's.
pub(crate) fn program_in(netns: &str, user: u32, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns, "setpriv", &format!("--reuid={user}"), &format!("--regid={user}")]);
    command.arg("--clear-groups").arg(program);
    command
}

/// The same as the app.
pub(crate) fn app_in(netns: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    program_in(netns, APP_UID, program)
}

/// Waits until something listens on a port in a pod.
pub(crate) async fn listens(netns: &str, port: u16) {
    signet_tests::process::until(&format!("a listener on port {port}"), || {
        let sockets = crate::pods::command(netns, "ss -ltnH");
        sockets.lines().any(|line| line.contains(&format!(":{port} "))).then_some(())
    })
    .await;
}
