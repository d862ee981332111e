//! A service without an address of its own: the app finds its pods by name and dials one of them.

use std::collections::BTreeSet;
use std::time::Instant;

use signet_tests::mesh::{Mesh, Sidecar, permit};
use signet_tests::process::PATIENCE;

use crate::pods::{APP_UID, OUTSIDE, Pods, SERVER, SIDECAR_UID, names_itself, reaches};

const PORT: u16 = 7000;
/// Both are served by the same pods, and told apart by their ports.
const OTHER_PORT: u16 = 7001;

/// A service with these endpoints: an address and who answers there.
fn headless(name: &str, port: u16, endpoints: &[(&str, &str)]) -> String {
    let endpoints = endpoints.iter().map(|(address, account)| {
        format!("{{address: '{address}', ports: {{main: {port}}}, identity: ns/shop/sa/{account}}}")
    });
    format!(
        "kind: Service\nmetadata: {{namespace: shop, name: {name}}}\nspec:\n  identities: [ns/shop/sa/server, ns/shop/sa/outside]\n  \
         ports: [{{name: main, port: {port}, protocol: tcp}}]\n  endpoints: [{}]\n",
        endpoints.collect::<Vec<_>>().join(", ")
    )
}

#[tokio::test]
async fn an_app_that_dials_a_pod_of_a_headless_service_reaches_that_pod_over_the_mesh_and_no_other() {
    let Some(pods) = Pods::make() else { return };
    for family in [0, 1] {
        let (here, there) = (SERVER[family], OUTSIDE[family]);
        for (pod, listeners) in
            [(&pods.server, ""), (&pods.outside, ""), (&pods.client, " --inbound-port none")]
        {
            pods.redirected(pod, &format!("apply --uid {SIDECAR_UID} --backend nftables{listeners}"));
        }
        let outbound = "outbound: ['0.0.0.0:15001', '[::]:15001']";
        let inbound = "inbound: ['0.0.0.0:15006', '[::]:15006'], serves: [store.shop, index.shop]";
        let both = [(here, "server"), (there, "outside")];
        let mut mesh = Mesh::builder()
            // Whoever is outside the mesh's own pods is let through, and a pod of the mesh is never outside.
            .default_action("allow")
            .registry(headless("store", PORT, &both))
            .registry(headless("index", OTHER_PORT, &both))
            .registry(permit("store-may", "shop", "store", "ns/shop/sa/client", ""))
            .registry(permit("index-may", "shop", "index", "ns/shop/sa/client", ""))
            .sidecar(
                Sidecar::new("server.shop", format!("transparent: {{{outbound}, {inbound}}}\n"))
                    .in_pod(&pods.server, SIDECAR_UID),
            )
            .sidecar(
                Sidecar::new("outside.shop", format!("transparent: {{{outbound}, {inbound}}}\n"))
                    .in_pod(&pods.outside, SIDECAR_UID),
            )
            .sidecar(
                Sidecar::new("client.shop", format!("transparent: {{{outbound}}}\n"))
                    .in_pod(&pods.client, SIDECAR_UID),
            )
            .control_plane_in(&pods.client, crate::pods::CLIENT[0])
            .start()
            .await;
        if family == 0 {
            for (netns, name) in [(&pods.server, "here"), (&pods.outside, "there")] {
                names_itself(netns, &format!("[::]:{PORT}"), name).await;
                names_itself(netns, &format!("[::]:{OTHER_PORT}"), name).await;
                names_itself(netns, "[::]:7009", name).await;
            }
        }
        for port in [PORT, OTHER_PORT] {
            for (address, whom) in [(here, "here"), (there, "there")] {
                let mut heard = BTreeSet::new();
                for _ in 0..5 {
                    heard.insert(reaches(&pods.client, APP_UID, None, address, port).await);
                }
                assert_eq!(heard, BTreeSet::from([Ok(whom.to_owned())]), "{address} port {port}");
            }
        }
        // No service has this port, though an app listens there: it is not dialled in plaintext.
        let heard = reaches(&pods.client, APP_UID, None, here, 7009).await;
        assert!(heard.is_err(), "{heard:?}");

        // The pod's address is now said to be somebody else's: who is there is not who must be, and the other pod, which
        // is, is not asked instead.
        mesh.write_registry(
            "test-0.yaml",
            &headless("store", PORT, &[(here, "outside"), (there, "outside")]),
        );
        let end = Instant::now() + PATIENCE;
        while let Ok(whom) = reaches(&pods.client, APP_UID, None, here, PORT).await {
            assert_eq!(whom, "here", "until the client's sidecar has heard of it");
            assert!(Instant::now() < end, "the registry's change had no effect");
        }
        assert!(mesh.sidecar("client").log().contains("wrong_identity"));
        assert!(reaches(&pods.client, APP_UID, None, here, PORT).await.is_err());
        assert_eq!(reaches(&pods.client, APP_UID, None, there, PORT).await.as_deref(), Ok("there"));
        mesh.assert_unharmed();
        drop(mesh);
    }
}
