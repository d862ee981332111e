//! The smallest mesh: one workload that calls, one that serves.

use signet_tests::apps::Echo;
use signet_tests::mesh::{Mesh, MeshBuilder, Sidecar, free_address, permit, service};

pub(crate) struct Pair {
    pub(crate) mesh: Mesh,
    pub(crate) app: Echo,
    /// Where the client's app reaches the server: the client sidecar's listener.
    pub(crate) entry: String,
}

/// The documents and sidecars of `client.shop` → `server.shop` over `protocol`, with the app at `app`.
pub(crate) fn pair(
    builder: MeshBuilder,
    protocol: &str,
    app: &str,
    entry: &str,
    inbound: &str,
) -> MeshBuilder {
    builder
        .registry(service("server", "shop", "main", protocol, inbound))
        .registry(permit("client-may", "shop", "server", "ns/shop/sa/client", ""))
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
}

impl Pair {
    pub(crate) async fn start(protocol: &str) -> Self {
        Self::start_with(Mesh::builder(), protocol).await
    }

    pub(crate) async fn start_with(builder: MeshBuilder, protocol: &str) -> Self {
        let app = Echo::start().await;
        let (entry, inbound) = (free_address(), free_address());
        let mesh = pair(builder, protocol, &app.address, &entry, &inbound).start().await;
        Self { mesh, app, entry }
    }
}
