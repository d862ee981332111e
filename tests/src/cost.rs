//! What work costs: CPU time and memory of a process, beside the cryptography that the work cannot do without.

use std::time::Duration;

use anyhow::Context as _;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

/// User and system time of a process.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("/proc/<pid>/stat")?;
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks.saturating_mul(10)))
}

/// Resident, in MiB.
pub fn memory(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// Microseconds of CPU for one signature and two verifications.
pub fn bare_cryptography() -> anyhow::Result<f64> {
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
