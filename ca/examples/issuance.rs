//! How many certificates a second, and what each costs.
//!
//! ```console
//! $ cargo run --release -p signet-ca --example issuance -- [certificates] [at once] [URL file of a PostgreSQL]
//! ```
//!
//! Keys, requests and join tokens are made beforehand and not counted. The store is a file with every commit flushed
//! and the issuance log on, as always, or PostgreSQL over TLS. Beside the result stands the cryptography that cannot be
//! left out, measured with the same library: one signature, and a verification each of the request and the result.

#![allow(clippy::print_stdout, reason = "what it measures is what it is for")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use signet_ca::{
    Authority, AuthorityConfig, Login, PostgresConfig, SealConfig, SharedRegistrar, StoreConfig, SystemClock,
    Tls,
};
use signet_identity::{PeerClass, SpiffeId, TrustDomain};

type Failed = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failed> {
    let mut arguments = std::env::args().skip(1);
    let count = arguments.next().map_or(Ok(20_000), |text| text.parse())?;
    let at_once = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let store = arguments.next().map_or(StoreConfig::Sqlite, |file| {
        StoreConfig::Postgres(PostgresConfig {
            login: Login::UrlFile(file.into()),
            tls: Tls::VerifyFull { root_cert_file: None },
            migrate: true,
        })
    });
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(count, at_once, store))
}

async fn run(count: usize, at_once: usize, store: StoreConfig) -> Result<(), Failed> {
    let dir = tempfile::tempdir_in(std::env::current_dir()?)?;
    let mut seal = SealConfig::key_file(dir.path().join("seal.key"));
    seal.create_if_missing = true;
    let domain = TrustDomain::parse("example.com")?;
    let mut config = AuthorityConfig::new(domain.clone(), dir.path().join("data"), seal);
    config.store = store;
    let authority = Authority::open(config, Arc::new(SystemClock)).await?;
    let registry = prometheus::Registry::new();
    authority.register_metrics(&registry)?;

    println!("making {count} keys, requests and join tokens");
    let mut work = Vec::with_capacity(count);
    for n in 0..count {
        let id = SpiffeId::workload(&domain, "bench", &format!("w{n}"))?;
        let token = authority.create_join_token(id, PeerClass::Sidecar, Some(DAY), "uid:0").await?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        work.push((token, params.serialize_request(&KeyPair::generate()?)?.der().to_vec()));
    }

    let (work, next) = (Arc::new(work), Arc::new(AtomicUsize::new(0)));
    let anybody: SharedRegistrar = Arc::new(|_: &SpiffeId, _: PeerClass| Some(Vec::new()));
    let (commits, cpu, began) = (counted(&registry), cpu_time()?, Instant::now());
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..at_once {
        let (authority, work, next) = (authority.clone(), Arc::clone(&work), Arc::clone(&next));
        let anybody = Arc::clone(&anybody);
        callers.spawn(async move {
            let source = format!("caller {caller}");
            while let Some((token, csr)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                let text = token.text.expose();
                authority.attest_join_token(text, csr, &source, Arc::clone(&anybody)).await?;
            }
            Ok::<_, Failed>(())
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    let (took, cpu) = (began.elapsed(), cpu_time()? - cpu);
    let commits = counted(&registry) - commits;
    authority.verify_chain().await?;

    let each = |total: Duration| total.as_secs_f64() * 1e6 / count as f64;
    let crypto = bare_crypto()?;
    println!("certificates      {count}, {at_once} at once");
    println!("per second        {:.0}", count as f64 / took.as_secs_f64());
    println!("in one commit     {:.1}", count as f64 / commits);
    println!("CPU each          {:.0} µs", each(cpu));
    println!("bare cryptography {:.0} µs", crypto * 1e6);
    println!("ratio             {:.2}", each(cpu) / (crypto * 1e6));
    Ok(())
}

const DAY: Duration = Duration::from_secs(24 * 3600);

fn counted(registry: &prometheus::Registry) -> f64 {
    let families = registry.gather();
    let commits = families.iter().find(|family| family.name() == "signet_ca_store_commits_total");
    commits
        .and_then(|family| family.get_metric().first())
        .map_or(0.0, |metric| metric.get_counter().get_value())
}

/// User and system time of this process.
fn cpu_time() -> Result<Duration, Failed> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("no /proc/self/stat")?;
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks.saturating_mul(10)))
}

/// Seconds for one signature and two verifications.
fn bare_crypto() -> Result<f64, Failed> {
    const ROUNDS: u32 = 5_000;
    let random = SystemRandom::new();
    let pkcs8 =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).map_err(|_| "no key")?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random)
        .map_err(|_| "no key")?;
    let message = [7u8; 400];
    let public = ring::signature::UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref());
    let began = Instant::now();
    for _ in 0..ROUNDS {
        let signature = key.sign(&random, &message).map_err(|_| "no signature")?;
        for _ in 0..2 {
            public.verify(&message, signature.as_ref()).map_err(|_| "not verified")?;
        }
    }
    Ok(began.elapsed().as_secs_f64() / f64::from(ROUNDS))
}
