//! What a certificate costs the control plane, over gRPC and mutual TLS.
//!
//! ```console
//! $ cargo run --release -p signet-tests --example issuance -- [certificates] [at once]
//! ```
//!
//! A control plane of the same build, its SQLite store and issuance log on, each commit flushed. Sidecars have joined and
//! hold their connections; requests are made beforehand. Then each asks for certificates for its app, and the CPU time of
//! the control plane's process alone is read before and after. Beside it stands the cryptography that such an act cannot
//! do without, by the same library in turns with the work: one P-256 signature, and the two verifications that are made
//! (of the request, and of the certificate before it is handed out).

#![allow(clippy::print_stdout, reason = "what it measures is what it is for")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use signet_proto::v1::IssueWorkloadRequest;
use signet_proto::v1::identity_client::IdentityClient;
use signet_tests::mesh::{Mesh, Sidecar};
use signet_tests::svid::{Svid, request_for};
use tonic::transport::Channel;

/// As many as one sidecar may ask for in a minute.
const EACH: usize = 20;
/// Sidecars of one identity.
const REPLICAS: usize = 20;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let count: usize = arguments.next().map_or(Ok(20_000), |text| text.parse())?;
    let at_once: usize = arguments.next().map_or(Ok(128), |text| text.parse())?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(count, at_once))
}

/// One connection, and what is asked on it.
struct Work {
    client: IdentityClient<Channel>,
    requests: Vec<Vec<u8>>,
}

async fn run(count: usize, at_once: usize) -> anyhow::Result<()> {
    let members = count.div_ceil(EACH);
    let names: Vec<String> = (0..members.div_ceil(REPLICAS)).map(|n| format!("app{n}")).collect();
    let workloads: Vec<String> = names
        .iter()
        .map(|name| {
            format!("kind: Workload\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{class: sidecar, workloadApi: true}}\n")
        })
        .collect();
    let mut mesh = Mesh::builder().log_level("info").registry(workloads.join("---\n")).start().await;

    println!("{members} sidecars join, {count} requests are made");
    let mut work = Vec::with_capacity(members);
    for member in 0..members {
        let name = &names[member / REPLICAS];
        let svid =
            Svid::join_in_a_crowd(&mesh, &Sidecar::new(&format!("{name}.shop"), "").spiffe_id()).await?;
        let client = IdentityClient::new(svid.channel(&mesh).await?);
        let requests = (0..EACH).map(|_| request_for(&rcgen::KeyPair::generate().expect("a key"))).collect();
        work.push(Work { client, requests });
    }

    let pid =
        mesh.control_plane.as_ref().map(signet_tests::process::Process::pid).context("a control plane")?;
    let before = bare_cryptography()?;
    let commits = commits(&mesh).await;
    let (next, work) = (Arc::new(AtomicUsize::new(0)), Arc::new(work));
    let (cpu, began) = (cpu_time(pid)?, Instant::now());
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..at_once {
        let (next, work) = (Arc::clone(&next), Arc::clone(&work));
        callers.spawn(async move {
            loop {
                // Neighbours go to different sidecars.
                let n = next.fetch_add(1, Ordering::Relaxed);
                let (member, nth) = (n % work.len(), n / work.len());
                let Some(csr_der) = work[member].requests.get(nth).filter(|_| n < count) else {
                    return Ok::<_, anyhow::Error>(());
                };
                let mut client = work[member].client.clone();
                client.issue_workload(IssueWorkloadRequest { csr_der: csr_der.clone() }).await?;
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    let (took, cpu) = (began.elapsed(), cpu_time(pid)?.saturating_sub(cpu));
    let commits = self::commits(&mesh).await - commits;
    let bare = f64::midpoint(before, bare_cryptography()?);
    mesh.assert_unharmed();

    let each = cpu.as_secs_f64() * 1e6 / count as f64;
    println!("certificates       {count}, {at_once} at once");
    println!("per second         {:.0}", count as f64 / took.as_secs_f64());
    println!("in one commit      {:.1}", count as f64 / commits);
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

/// User and system time of a process.
fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("/proc/<pid>/stat")?;
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks.saturating_mul(10)))
}

/// Resident, in MiB.
fn memory(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// Microseconds of CPU for one signature and two verifications.
fn bare_cryptography() -> anyhow::Result<f64> {
    const ROUNDS: u32 = 5_000;
    let random = SystemRandom::new();
    let failed = |_| anyhow::anyhow!("ring refused");
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).map_err(failed)?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let message = [7u8; 400];
    let public = ring::signature::UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref());
    let began = thread_time();
    for _ in 0..ROUNDS {
        let signature = key.sign(&random, &message).map_err(failed)?;
        for _ in 0..2 {
            public.verify(&message, signature.as_ref()).map_err(failed)?;
        }
    }
    Ok((thread_time() - began) * 1e6 / f64::from(ROUNDS))
}

/// CPU seconds of this thread.
fn thread_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable for the call's length, and the clock is the calling thread's own.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
