//! From outside the mesh: a strict port refuses, a permissive one lets in until its date and then cuts.

use std::time::{SystemTime, UNIX_EPOCH};

use signet_proto::v1::StatusRequest;
use signet_tests::mesh::{Mesh, Sidecar, permit};
use signet_tests::peers::{run, said};
use signet_tests::process::{PATIENCE, binary};
use tokio::io::AsyncWriteExt as _;

use crate::pods::{APP_UID, OUTSIDE, Pods, SERVER, SIDECAR_UID, dials, line, names_itself, reaches};

const STORE: [&str; 2] = ["10.96.2.1", "fd96::2:1"];
const PORT: u16 = 7000;
const STRICT_PORT: u16 = 7001;
/// Long enough for all that is looked at before it is over.
const SECONDS: u64 = 12;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after the epoch").as_secs()
}

/// A service of the server's pod with one port, permissive until then.
fn service(name: &str, port: u16, family: usize, until: Option<u64>) -> String {
    let permissive = until.map(|until| {
        let at = time::OffsetDateTime::from_unix_timestamp(until as i64).expect("a moment");
        let text = at.format(&time::format_description::well_known::Rfc3339).expect("a text");
        format!(", permissive: {{until: '{text}'}}")
    });
    let addresses =
        if port == PORT { format!("  addresses: ['{}']\n", STORE[family]) } else { String::new() };
    format!(
        "kind: Service\nmetadata: {{namespace: shop, name: {name}}}\nspec:\n  identities: [ns/shop/sa/server]\n{addresses}  \
         ports: [{{name: main, port: {port}, protocol: tcp{}}}]\n  \
         endpoints: [{{address: '{}', ports: {{main: {port}}}, identity: ns/shop/sa/server}}]\n",
        permissive.unwrap_or_default(),
        SERVER[family]
    )
}

/// A permit that asks nobody who they are.
fn anybody(service: &str) -> String {
    format!(
        "kind: MeshPolicy\nmetadata: {{namespace: shop, name: anybody-{service}}}\nspec: {{effect: permit, target: {{service: {service}}}}}\n"
    )
}

#[tokio::test]
async fn from_outside_the_mesh_strict_refuses_and_permissive_lets_in_until_its_date_and_then_cuts() {
    let Some(pods) = Pods::make() else { return };
    for port in [PORT, STRICT_PORT] {
        names_itself(&pods.server, &format!("[::]:{port}"), "220 ready").await;
    }
    for family in [0, 1] {
        for (pod, listeners) in [(&pods.server, ""), (&pods.client, " --inbound-port none")] {
            pods.redirected(pod, &format!("apply --uid {SIDECAR_UID} --backend nftables{listeners}"));
        }
        let outbound = "outbound: ['0.0.0.0:15001', '[::]:15001']";
        let inbound = "inbound: ['0.0.0.0:15006', '[::]:15006'], serves: [store.shop, vault.shop]";
        let mut mesh = Mesh::builder()
            .control_plane_in(&pods.outside, OUTSIDE[0])
            .registry(service("store", PORT, family, None))
            .registry(service("vault", STRICT_PORT, family, None))
            .registry([anybody("store"), anybody("vault")].join("---\n"))
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
        let outsider = |port| reaches(&pods.outside, APP_UID, None, SERVER[family], port);
        let peer = || reaches(&pods.client, APP_UID, None, STORE[family], PORT);
        assert_eq!(peer().await.as_deref(), Ok("220 ready"));
        for port in [PORT, STRICT_PORT] {
            assert!(outsider(port).await.is_err(), "strict is the default");
        }

        let ends = now() + SECONDS;
        mesh.write_registry("test-0.yaml", &service("store", PORT, family, Some(ends)));
        let mut live = loop {
            assert!(now() < ends, "the port was never permissive");
            let Ok(mut stream) = dials(&pods.outside, APP_UID, None, SERVER[family], PORT).await else {
                continue;
            };
            if line(&mut stream).await.is_ok_and(|heard| heard == "220 ready") {
                break stream;
            }
        };
        assert_eq!(peer().await.as_deref(), Ok("220 ready"), "a peer is let in as ever");
        assert!(outsider(STRICT_PORT).await.is_err(), "the port alone is permissive");
        live.write_all(b"still here\n").await.unwrap();
        assert_eq!(line(&mut live).await.unwrap(), "still here");

        // Whoever looks after the mesh sees what is open, until when, and who still comes.
        let status = mesh.operator().await.status(StatusRequest {}).await.unwrap().into_inner();
        let open: Vec<_> =
            status.permissive.iter().map(|it| (it.service.as_str(), it.port.as_str(), it.until)).collect();
        assert_eq!(open, [("store.shop", "main", i64::try_from(ends).unwrap())]);
        let mut cli = std::process::Command::new(binary("signet"));
        cli.arg("--socket").arg(mesh.operator_socket("cp")).arg("status");
        let told = said(&run(cli).await);
        assert!(told.contains("store.shop") && told.contains("lets plaintext in"), "{told}");
        let report = || {
            let config = mesh.admin("server", "/config");
            config["dataPlane"]["served"]["store.shop"]["permissive"]["main"].clone()
        };
        let seen = report();
        assert!(seen["strict"].is_null() && seen["sources"][OUTSIDE[family]].as_u64() >= Some(1), "{seen}");

        // The date comes: the live stream is reset, as a stream that is cut and not one that has ended.
        let cut = tokio::time::timeout(PATIENCE, line(&mut live)).await.expect("the stream was cut");
        assert_eq!(cut.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert!(now() >= ends);
        assert!(outsider(PORT).await.is_err());
        assert_eq!(peer().await.as_deref(), Ok("220 ready"));
        assert!(report()["strict"].as_str().is_some_and(|why| why.contains("took plaintext until")));

        // A policy that asks who calls does not come in beside a permissive port.
        mesh.write_registry("asks.yaml", &permit("asks", "shop", "store", "ns/shop/sa/client", ""));
        let mut operator = mesh.operator().await;
        let refused = async {
            loop {
                let status = operator.status(StatusRequest {}).await.unwrap().into_inner();
                if let Some(error) = status.registry_errors.first() {
                    return error.clone();
                }
                tokio::task::yield_now().await;
            }
        };
        let refused = tokio::time::timeout(PATIENCE, refused).await.expect("the registry was refused");
        assert!(refused.contains("asks who calls"), "{refused}");
        mesh.assert_unharmed();
        drop(mesh);
    }
}
