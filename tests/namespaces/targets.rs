//! Services whose pods serve them at another port than callers dial, and two of them by the same port.

use signet_tests::mesh::{Mesh, Sidecar, permit};

use crate::pods::{APP_UID, OUTSIDE, Pods, SERVER, SIDECAR_UID, names_itself, reaches};

/// A service that callers dial by `address` and `port`, served at a port of each pod of its own.
fn service(name: &str, address: &str, port: u16, endpoints: &[(&str, &str, u16)]) -> String {
    let endpoints = endpoints.iter().map(|(address, account, target)| {
        format!("{{address: '{address}', ports: {{main: {target}}}, identity: ns/shop/sa/{account}}}")
    });
    format!(
        "kind: Service\nmetadata: {{namespace: shop, name: {name}}}\nspec:\n  identities: [ns/shop/sa/server, ns/shop/sa/outside]\n  \
         addresses: ['{address}']\n  ports: [{{name: main, port: {port}, protocol: tcp}}]\n  endpoints: [{}]\n",
        endpoints.collect::<Vec<_>>().join(", ")
    )
}

#[tokio::test]
async fn a_service_is_reached_at_the_port_of_each_pod_and_of_two_at_one_port_the_one_that_is_meant() {
    let Some(pods) = Pods::make() else { return };
    for family in [0, 1] {
        let (here, there) = (SERVER[family], OUTSIDE[family]);
        let address =
            |number: usize| [format!("10.96.0.{number}"), format!("fd96::{number}")][family].clone();
        for (pod, listeners) in
            [(&pods.server, ""), (&pods.outside, ""), (&pods.client, " --inbound-port none")]
        {
            pods.redirected(pod, &format!("apply --uid {SIDECAR_UID} --backend nftables{listeners}"));
        }
        let outbound = "outbound: ['0.0.0.0:15001', '[::]:15001']";
        let inbound = "inbound: ['0.0.0.0:15006', '[::]:15006'], serves: ['*']";
        let mut mesh = Mesh::builder()
            .registry(service("store", &address(7), 80, &[(here, "server", 7000)]))
            // The same port of the same pod; nobody may call it.
            .registry(service("index", &address(8), 81, &[(here, "server", 7000)]))
            // A named target port is another number in each pod.
            .registry(service("cache", &address(9), 82, &[(here, "server", 7001), (there, "outside", 7002)]))
            .registry(permit("store-may", "shop", "store", "ns/shop/sa/client", ""))
            .registry(permit("cache-may", "shop", "cache", "ns/shop/sa/client", ""))
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
            names_itself(&pods.server, "[::]:7000", "store").await;
            names_itself(&pods.server, "[::]:7001", "cache-here").await;
            names_itself(&pods.outside, "[::]:7002", "cache-there").await;
            // What nobody is to reach by the number that callers dial.
            names_itself(&pods.server, "[::]:80", "wrong").await;
        }
        let client = &pods.client;
        let dials =
            |address: String, port| async move { reaches(client, APP_UID, None, &address, port).await };
        assert_eq!(dials(address(7), 80).await.as_deref(), Ok("store"));
        assert!(dials(address(8), 81).await.is_err(), "its own policy decides");
        let mut heard = std::collections::BTreeSet::new();
        for _ in 0..20 {
            heard.insert(dials(address(9), 82).await.expect("one of both"));
        }
        assert_eq!(heard.into_iter().collect::<Vec<_>>(), ["cache-here", "cache-there"]);
        // By itself a pod is dialled at the port where it serves, which one service alone has there.
        assert_eq!(dials(there.to_owned(), 7002).await.as_deref(), Ok("cache-there"));
        assert!(dials(here.to_owned(), 7000).await.is_err(), "two could be meant");
        mesh.assert_unharmed();
        drop(mesh);
    }
}
