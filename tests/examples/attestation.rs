//! What a first certificate costs the control plane: by a join token, and by a pod's token that a cluster reviews.
//!
//! ```console
//! $ cargo run --release -p signet-tests --example attestation -- [certificates of each kind]
//! ```
//!
//! A control plane of the same build, its SQLite store and issuance log on, and an API server (in this process, over TLS)
//! that it asks. Join tokens and pods are made beforehand; then everybody comes once, on a connection of its own, one
//! after the other. The CPU time of the control plane's process alone is read before and after. The difference of the two
//! kinds is what asking the cluster costs.

#![allow(clippy::print_stdout, reason = "what it measures is what it is for")]

use std::time::Duration;

use anyhow::Context as _;
use signet_proto::v1::attest_request::Evidence;
use signet_proto::v1::{AttestRequest, JoinBundle, KubernetesEvidence};
use signet_tests::apiserver::{ApiServer, PodOf};
use signet_tests::cost::{bare_cryptography, cpu_time};
use signet_tests::mesh::Mesh;
use signet_tests::process::Process;
use signet_tests::svid::{request_for, try_bootstrap};

/// Pods, or join tokens, of one identity: fewer than may have a certificate in a minute.
const REPLICAS: usize = 50;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let count: usize = std::env::args().nth(1).map_or(Ok(500), |text| text.parse())?;
    let (api, folder) = (ApiServer::start().await, tempfile::tempdir()?);
    let names: Vec<String> = (0..count.div_ceil(REPLICAS)).map(|n| format!("app{n}")).collect();
    let workloads: Vec<String> = names
        .iter()
        .map(|name| {
            format!("kind: Workload\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{class: sidecar}}\n")
        })
        .collect();
    let mut mesh = Mesh::builder()
        .log_level("info")
        .control_plane(&api.configuration(folder.path(), ""))
        .registry(workloads.join("---\n"))
        .start()
        .await;

    let csr = || request_for(&rcgen::KeyPair::generate().expect("a key"));
    let (mut by_token, mut by_pod) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let mut door = None;
    for n in 0..count {
        let name = &names[n / REPLICAS];
        let bundle = mesh.join_bundle(&format!("spiffe://test.signet/ns/shop/sa/{name}"), "sidecar").await;
        let evidence = Some(Evidence::JoinToken(bundle.token.clone()));
        by_token.push(AttestRequest { csr_der: csr(), evidence });
        door = Some(bundle);
        let pod = PodOf::new(&format!("{name}.shop")).named(&format!("{name}-{n}"));
        api.run(&pod);
        let token = api.token(&pod, "signet-ca");
        let evidence = Some(Evidence::Kubernetes(KubernetesEvidence { token }));
        by_pod.push(AttestRequest { csr_der: csr(), evidence });
    }
    let door = door.context("a count above zero")?;
    println!("certificates of each kind  {count}, each on a connection of its own");
    let before = bare_cryptography()?;
    let join = measure(&mesh, &door, by_token).await?;
    let review = measure(&mesh, &door, by_pod).await?;
    let bare = f64::midpoint(before, bare_cryptography()?);
    println!("server CPU, join token     {join:.0} µs");
    println!("server CPU, TokenReview    {review:.0} µs");
    println!("asking the cluster         {:.0} µs", review - join);
    println!("bare cryptography          {bare:.0} µs");
    println!("reviews                    {}", api.reviews());
    mesh.assert_unharmed();
    Ok(())
}

/// Microseconds of the control plane's CPU for each.
async fn measure(mesh: &Mesh, door: &JoinBundle, requests: Vec<AttestRequest>) -> anyhow::Result<f64> {
    let pid = mesh.control_plane.as_ref().map(Process::pid).context("a control plane")?;
    let (count, before) = (requests.len(), cpu_time(pid)?);
    for request in requests {
        // One address is let in so often only.
        let mut client = loop {
            match try_bootstrap(door).await {
                Ok(client) => break client,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        client.attest(request).await?;
    }
    Ok(cpu_time(pid)?.saturating_sub(before).as_secs_f64() * 1e6 / count as f64)
}
