//! One service, one gateway, one honest caller, and an attacker who holds a certificate of the mesh.

use signet_tests::apps::Echo;
use signet_tests::client::get;
use signet_tests::issuer::Issuer;
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};

pub(crate) struct Scene {
    pub(crate) mesh: Mesh,
    pub(crate) app: Echo,
    pub(crate) issuer: Issuer,
    /// The server's mutual TLS port.
    pub(crate) inbound: String,
    /// The client sidecar's plain port for its app.
    pub(crate) outbound: String,
    /// The gateway's plain port.
    pub(crate) gateway: String,
}

impl Scene {
    pub(crate) async fn start() -> Self {
        let (app, issuer) = (Echo::start().await, Issuer::start().await);
        let (inbound, outbound, gateway) = (free_address(), free_address(), free_address());
        let mesh = Mesh::builder()
            .registry(service("server", "shop", "main", "http", &inbound))
            .registry(permit("client-may", "shop", "server", "ns/shop/sa/client", ""))
            .registry(permit("attacker-may", "shop", "server", "ns/shop/sa/attacker", "  to: {paths: [/public]}\n"))
            .registry(permit("edge-may", "shop", "server", "ns/edge/sa/gw", "  user: {required: true}\n"))
            .registry("kind: Workload\nmetadata: {namespace: shop, name: attacker}\nspec: {class: sidecar}\n")
            .registry(issuer.document("idp"))
            .registry(
                "kind: Gateway\nmetadata: {namespace: edge, name: gw}\nspec:\n  identity: ns/edge/sa/gw\n  routes:\n  \
                 - {name: all, hosts: ['*'], pathPrefix: /, service: server.shop, port: main, auth: {jwt: {issuers: [idp]}}}\n",
            )
            .sidecar(Sidecar::new(
                "server.shop",
                format!("inbound: [{{service: server.shop, port: main, listen: '{inbound}', app: 'tcp:{}'}}]\n", app.address),
            ))
            .sidecar(Sidecar::new(
                "client.shop",
                format!("outbound: [{{listen: '{outbound}', service: server.shop, port: main}}]\n"),
            ))
            .sidecar(Sidecar::gateway(
                "gw.edge",
                format!("gateway: {{resource: gw.edge, listeners: [{{listen: '{gateway}'}}]}}\n"),
            ))
            .start()
            .await;
        Self { mesh, app, issuer, inbound, outbound, gateway }
    }

    /// The honest caller is still served, nothing has ended, nothing panicked.
    pub(crate) async fn assert_unharmed(&mut self) {
        assert_eq!(get(&self.outbound, "/still-here", &[]).await.status(), 200);
        self.mesh.assert_unharmed();
    }

    /// The value of a counter of one process, added up over the series that contain `labels`.
    pub(crate) async fn counted(&self, process: &str, labels: &str) -> f64 {
        let metrics = self.mesh.metrics(process).await;
        let lines = metrics.lines().filter(|line| !line.starts_with('#') && line.contains(labels));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }
}
