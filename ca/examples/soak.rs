//! Whether memory stays where it is over a million certificates.
//!
//! ```console
//! $ cargo run --release -p signet-ca --example soak -- [certificates]
//! ```
//!
//! One authority with its SQLite store and its log, as in the control plane, and that one's allocator. Each certificate
//! is for another identity, lineage and key, so that whatever is kept per holder would show. Resident memory is read
//! after each hundredth part; the first fifth fills caches and tables of a fixed size. Over the rest a straight line is
//! laid: it ends with exit code 1 if that rises by 1 KiB per 1,000 certificates or more.

#![allow(clippy::print_stdout, reason = "what it measures is what it is for")]

use std::process::ExitCode;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use signet_ca::{Authority, AuthorityConfig, SealConfig, SharedRegistrar, SystemClock};
use signet_identity::{PeerClass, SpiffeId, TrustDomain};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// As in the control plane.
#[allow(non_upper_case_globals, reason = "the name that jemalloc looks for")]
#[unsafe(export_name = "malloc_conf")]
pub static malloc_conf: &[u8; 73] =
    b"dirty_decay_ms:5000,muzzy_decay_ms:5000,background_thread:true,narenas:2\0";

type Failed = Box<dyn std::error::Error + Send + Sync>;

const PARTS: usize = 100;
const AT_ONCE: usize = 64;
/// KiB for each 1,000 certificates.
const ALLOWED: f64 = 1.0;

fn main() -> Result<ExitCode, Failed> {
    let count = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse())?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(count))
}

async fn run(count: usize) -> Result<ExitCode, Failed> {
    let dir = tempfile::tempdir_in(std::env::current_dir()?)?;
    let mut seal = SealConfig::key_file(dir.path().join("seal.key"));
    seal.create_if_missing = true;
    let domain = TrustDomain::parse("example.com")?;
    let config = AuthorityConfig::new(domain.clone(), dir.path().join("data"), seal);
    let authority = Authority::open(config, Arc::new(SystemClock)).await?;
    let anybody: SharedRegistrar = Arc::new(|_: &SpiffeId, _: PeerClass| Some(Vec::new()));

    let part = count.div_ceil(PARTS).max(AT_ONCE);
    let mut points = Vec::new();
    let mut done = 0usize;
    while done < count {
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..AT_ONCE {
            let (authority, domain, anybody) = (authority.clone(), domain.clone(), Arc::clone(&anybody));
            let numbers = (done + caller..done + part).step_by(AT_ONCE);
            callers.spawn(async move {
                for n in numbers {
                    let id = SpiffeId::workload(&domain, "soak", &format!("w{n}"))?;
                    let token = authority.create_join_token(id, PeerClass::Sidecar, None, "uid:0").await?;
                    let csr = CertificateParams::default().serialize_request(&KeyPair::generate()?)?;
                    let text = token.text.expose();
                    authority.attest_join_token(text, csr.der(), "soak", Arc::clone(&anybody)).await?;
                }
                Ok::<_, Failed>(())
            });
        }
        while let Some(caller) = callers.join_next().await {
            caller??;
        }
        done += part;
        authority.maintain().await?;
        let resident = resident()?;
        println!("{done:>9}  {resident:>8.0} KiB");
        points.push((done as f64 / 1_000.0, resident));
    }
    let settled = &points[points.len() / 5..];
    let slope = slope(settled);
    println!("{slope:.3} KiB per 1,000 certificates (allowed: less than {ALLOWED})");
    authority.close().await;
    Ok(if slope < ALLOWED { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// KiB.
fn resident() -> Result<f64, Failed> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Of the line with the least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x / count, b + y / count));
    let (over, under) =
        points.iter().fold((0.0, 0.0), |(o, u), (px, py)| (o + (px - x) * (py - y), u + (px - x).powi(2)));
    over / under
}
