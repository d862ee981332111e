//! Sidecars in pods: no operator, no bundle, the cluster's word.

use std::fs;

use signet_proto::v1::WatchIssuancesRequest;
use signet_tests::Mesh;
use signet_tests::apiserver::{ApiServer, PodOf};
use signet_tests::apps::Echo;
use signet_tests::client::get;
use signet_tests::mesh::{Sidecar, free_address, permit, service};
use signet_tests::process::until;

struct Cluster {
    api: ApiServer,
    mesh: Mesh,
    entry: String,
    pods: [PodOf; 2],
    _app: Echo,
    _folder: tempfile::TempDir,
}

impl Cluster {
    /// `client.shop` and `server.shop` as pods.
    async fn start(svid_seconds: u32) -> Cluster {
        let (api, app) = (ApiServer::start().await, Echo::start().await);
        let folder = tempfile::tempdir().unwrap();
        let (entry, inbound) = (free_address(), free_address());
        let pods = [PodOf::new("server.shop"), PodOf::new("client.shop")];
        pods.iter().for_each(|pod| api.run(pod));
        let workload = |name| {
            format!("kind: Workload\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{class: sidecar}}\n")
        };
        let mut mesh = Mesh::builder()
            .svid_seconds(svid_seconds)
            .control_plane(&api.configuration(folder.path(), ""))
            .registry(workload("client"))
            .registry(workload("server"))
            .registry(service("server", "shop", "main", "http", &inbound))
            .registry(permit("client-may", "shop", "server", "ns/shop/sa/client", ""))
            .start()
            .await;
        let server = format!(
            "inbound: [{{service: server.shop, port: main, listen: '{inbound}', app: 'tcp:{}'}}]\n",
            app.address
        );
        let client = format!("outbound: [{{listen: '{entry}', service: server.shop, port: main}}]\n");
        for (pod, config) in pods.iter().zip([server, client]) {
            let name = format!("{}.shop", pod.account);
            mesh.arrive(Sidecar::new(&name, config), &api.token(pod, "signet-ca")).await;
        }
        Cluster { api, mesh, entry, pods, _app: app, _folder: folder }
    }

    /// What the kubelet does before a token ends.
    fn replace_token(&self, pod: &PodOf) -> String {
        let token = self.api.token(pod, "signet-ca");
        let file = self.mesh.path(&pod.account).join("token");
        let new = file.with_extension("new");
        fs::write(&new, &token).unwrap();
        fs::rename(new, file).unwrap();
        token
    }

    fn reviewed(&self, token: &str) -> bool {
        self.api.seen().iter().any(|seen| String::from_utf8_lossy(&seen.body).contains(token))
    }
}

#[tokio::test]
async fn pods_join_by_their_tokens_talk_and_renew_with_the_token_as_it_is_then() {
    let mut cluster = Cluster::start(15).await;
    assert_eq!(get(&cluster.entry, "/", &[]).await.status(), 200);
    let mut events =
        cluster.mesh.operator().await.watch_issuances(WatchIssuancesRequest {}).await.unwrap().into_inner();
    let tokens = cluster.pods.clone().map(|pod| cluster.replace_token(&pod));
    let mut issued = std::collections::HashMap::<String, u32>::new();
    // Three lives of a certificate.
    while issued.len() < 2 || issued.values().any(|count| *count < 6) {
        let record = events.message().await.unwrap().expect("the stream goes on");
        if record.event == "issued" {
            assert!(record.reason.contains("on node node1 of cluster main"), "{}", record.reason);
            *issued.entry(record.spiffe_id).or_default() += 1;
        }
        assert_eq!(get(&cluster.entry, "/", &[]).await.status(), 200);
    }
    for token in &tokens {
        assert!(cluster.reviewed(token), "the token of the file as it was then");
        let (_, signature) = token.rsplit_once('.').unwrap();
        assert!(!cluster.mesh.logs().contains(signature), "no token is logged");
    }
    cluster.mesh.assert_unharmed();
}

#[tokio::test]
async fn an_outage_of_the_api_server_costs_no_request_while_certificates_live() {
    let mut cluster = Cluster::start(60).await;
    let mut events =
        cluster.mesh.operator().await.watch_issuances(WatchIssuancesRequest {}).await.unwrap().into_inner();
    cluster.api.is_away(true);
    // Until a renewal of each was due and failed.
    for process in ["client", "server"] {
        cluster.mesh.sidecar(process).logged("svid not renewed; the valid one is kept").await;
    }
    for _ in 0..20 {
        assert_eq!(get(&cluster.entry, "/", &[]).await.status(), 200);
    }
    cluster.api.is_away(false);
    let mut renewed = std::collections::HashSet::new();
    while renewed.len() < 2 {
        let record = events.message().await.unwrap().expect("the stream goes on");
        assert_ne!(record.event, "refused", "an outage is no refusal: {}", record.reason);
        renewed.extend((record.event == "issued").then_some(record.spiffe_id));
    }
    assert_eq!(get(&cluster.entry, "/", &[]).await.status(), 200);
    cluster.mesh.assert_unharmed();
}

#[tokio::test]
async fn a_pod_that_is_not_in_the_registry_is_let_in_as_soon_as_it_is() {
    let mut cluster = Cluster::start(3600).await;
    let late = PodOf::new("late.shop");
    cluster.api.run(&late);
    let sidecar = Sidecar::new("late.shop", "");
    let mut process = cluster.mesh.spawn_pod(&sidecar, &cluster.api.token(&late, "signet-ca"));
    let said = process.logged("does not accept this pod").await;
    assert!(said.contains("signet ca log"), "{said}");
    cluster.mesh.write_registry(
        "late.yaml",
        "kind: Workload\nmetadata: {namespace: shop, name: late}\nspec: {class: sidecar}\n",
    );
    let addresses = cluster.mesh.path("late").join("data/addresses.json");
    until("the late one to be ready", || {
        process.assert_runs();
        addresses.exists().then_some(())
    })
    .await;
    cluster.mesh.assert_unharmed();
}
