//! What a certificate costs the control plane, over gRPC and mutual TLS.
//!
//! ```console
//! $ cargo run --release -p signet-tests --example issuance -- [certificates] [at once]
//! ```
//!
//! A control plane of the same build, its SQLite store and issuance log on, each commit flushed. Sidecars and agents have
//! joined and hold their connections; requests are made beforehand. Then each sidecar asks for certificates for its app,
//! one at a time, and after that each agent for its processes, as many at a time as an agent asks for; the CPU time of
//! the control plane's process alone is read before and after. Beside it stands the cryptography that such an act cannot
//! do without, by the same library in turns with the work: one P-256 signature, and the two verifications that are made
//! (of the request, and of the certificate before it is handed out).

#![allow(clippy::print_stdout, reason = "what it measures is what it is for")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use signet_proto::v1::identity_client::IdentityClient;
use signet_proto::v1::process_x509_outcome::Outcome;
use signet_proto::v1::processes_client::ProcessesClient;
use signet_proto::v1::{
    IssueProcessX509Request, IssueWorkloadRequest, ProcessFacts, ProcessX509, ProcessX509Outcome,
};
use signet_tests::cost::{bare_cryptography, cpu_time, memory};
use signet_tests::mesh::{Mesh, Sidecar, TRUST_DOMAIN};
use signet_tests::svid::{Svid, request_for};
use tonic::transport::Channel;

/// As many as one sidecar may ask for in a minute.
const EACH: usize = 20;
/// Sidecars of one identity.
const REPLICAS: usize = 20;
/// What an agent asks for in one call.
const TOGETHER: usize = 32;
/// What it asks for within a minute, below what it may: calls for processes of each of five services.
const CALLS: usize = 15;
const SERVICES: usize = 5;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let count: usize = arguments.next().map_or(Ok(20_000), |text| text.parse())?;
    let at_once: usize = arguments.next().map_or(Ok(128), |text| text.parse())?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(count, at_once))
}

/// One connection, and what is asked on it, one after the other.
struct Work {
    channel: Channel,
    asked: Vec<Asked>,
}

enum Asked {
    App(IssueWorkloadRequest),
    Processes(IssueProcessX509Request),
}

impl Asked {
    /// Asks, and says how many certificates came.
    async fn ask(&self, channel: &Channel) -> anyhow::Result<usize> {
        match self {
            Asked::App(request) => {
                IdentityClient::new(channel.clone()).issue_workload(request.clone()).await?;
                Ok(1)
            }
            Asked::Processes(request) => {
                let answer = ProcessesClient::new(channel.clone()).issue_x509(request.clone()).await?;
                let issued = |it: &ProcessX509Outcome| matches!(it.outcome, Some(Outcome::Issued(_)));
                Ok(answer.into_inner().outcomes.iter().filter(|it| issued(it)).count())
            }
        }
    }
}

async fn run(count: usize, at_once: usize) -> anyhow::Result<()> {
    let sidecars = count.div_ceil(EACH);
    let agents = count.div_ceil(CALLS * TOGETHER);
    let apps: Vec<String> = (0..sidecars.div_ceil(REPLICAS)).map(|n| format!("app{n}")).collect();
    let (mut mesh, hosts) = start(&apps, agents).await;

    println!("{sidecars} sidecars and {agents} agents join, {} requests are made", 2 * count);
    let csr = || request_for(&rcgen::KeyPair::generate().expect("a key"));
    let mut of_sidecars = Vec::with_capacity(sidecars);
    for member in 0..sidecars {
        let id = Sidecar::new(&format!("{}.shop", apps[member / REPLICAS]), "").spiffe_id();
        let channel = Svid::join_in_a_crowd(&mesh, &id, "sidecar").await?.channel(&mesh).await?;
        let asked = (0..EACH).map(|_| Asked::App(IssueWorkloadRequest { csr_der: csr() })).collect();
        of_sidecars.push(Work { channel, asked });
    }
    let mut of_agents = Vec::with_capacity(agents);
    for host in &hosts {
        let channel = Svid::join_in_a_crowd(&mesh, host, "agent").await?.channel(&mesh).await?;
        let process = |n: usize| ProcessX509 {
            csr_der: csr(),
            registration: format!("r{}", n % SERVICES),
            facts: Some(ProcessFacts { uid: 1000, gid: 1000, ..ProcessFacts::default() }),
        };
        let call = || IssueProcessX509Request { processes: (0..TOGETHER).map(process).collect() };
        of_agents.push(Work { channel, asked: (0..CALLS).map(|_| Asked::Processes(call())).collect() });
    }

    measure(&mesh, "for apps, by their sidecars", of_sidecars, at_once).await?;
    measure(&mesh, "for processes, by agents", of_agents, at_once).await?;
    mesh.assert_unharmed();
    Ok(())
}

/// A mesh in which these may join, and the SPIFFE IDs of its agents.
async fn start(apps: &[String], agents: usize) -> (Mesh, Vec<String>) {
    let mut documents: Vec<String> = apps
        .iter()
        .map(|name| {
            format!("kind: Workload\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{class: sidecar, workloadApi: true}}\n")
        })
        .collect();
    let hosts: Vec<String> = (0..agents).map(|n| format!("ns/hosts/sa/host{n}")).collect();
    documents.extend((0..agents).map(|n| {
        format!("kind: Workload\nmetadata: {{namespace: hosts, name: host{n}}}\nspec: {{class: agent}}\n")
    }));
    documents.extend((0..SERVICES).map(|n| {
        format!("kind: Workload\nmetadata: {{namespace: shop, name: served{n}}}\nspec: {{class: sidecar, workloadApi: true}}\n")
    }));
    documents.extend((0..SERVICES).map(|n| {
        format!(
            "kind: Registration\nmetadata: {{name: r{n}}}\nspec: {{unix: {{agents: [{}], uid: 1000}}, identity: ns/shop/sa/served{n}}}\n",
            hosts.join(", ")
        )
    }));
    let mesh = Mesh::builder().log_level("info").registry(documents.join("---\n")).start().await;
    (mesh, hosts.into_iter().map(|host| format!("spiffe://{TRUST_DOMAIN}/{host}")).collect())
}

async fn measure(mesh: &Mesh, what: &str, work: Vec<Work>, at_once: usize) -> anyhow::Result<()> {
    let pid =
        mesh.control_plane.as_ref().map(signet_tests::process::Process::pid).context("a control plane")?;
    let before = bare_cryptography()?;
    let commits = commits(mesh).await;
    let (next, work) = (Arc::new(AtomicUsize::new(0)), Arc::new(work));
    let at_once = at_once.min(work.len());
    let (cpu, began) = (cpu_time(pid)?, Instant::now());
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..at_once {
        let (next, work) = (Arc::clone(&next), Arc::clone(&work));
        callers.spawn(async move {
            let mut issued = 0;
            loop {
                // Neighbours go to different connections.
                let n = next.fetch_add(1, Ordering::Relaxed);
                let (member, nth) = (n % work.len(), n / work.len());
                let Some(asked) = work[member].asked.get(nth) else {
                    return Ok::<_, anyhow::Error>(issued);
                };
                issued += asked.ask(&work[member].channel).await?;
            }
        });
    }
    let mut issued = 0;
    while let Some(caller) = callers.join_next().await {
        issued += caller??;
    }
    let (took, cpu) = (began.elapsed(), cpu_time(pid)?.saturating_sub(cpu));
    let commits = self::commits(mesh).await - commits;
    let bare = f64::midpoint(before, bare_cryptography()?);

    let each = cpu.as_secs_f64() * 1e6 / issued as f64;
    println!("\n{what}");
    println!("certificates       {issued}, {at_once} calls at once");
    println!("per second         {:.0}", issued as f64 / took.as_secs_f64());
    println!("in one commit      {:.1}", issued as f64 / commits);
    println!("server CPU each    {each:.0} µs");
    println!("bare cryptography  {bare:.0} µs");
    println!("ratio              {:.2}", each / bare);
    println!("server memory      {:.1} MiB", memory(pid)?);
    Ok(())
}

async fn commits(mesh: &Mesh) -> f64 {
    let metrics = mesh.metrics("cp").await;
    let line = metrics.lines().find_map(|line| line.strip_prefix("signet_ca_store_commits_total "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0.0)
}
