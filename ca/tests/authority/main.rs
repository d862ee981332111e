//! The authority, used as its callers use it: opened on a directory, asked over its public functions, and
//! looked at by independent eyes.

mod hierarchy;
mod issuance;
mod join;
mod keys;
mod log;
mod pitfalls;
mod renewal;
mod requests;
mod revocation;
#[path = "../support/softhsm.rs"]
mod softhsm;
mod store;
mod verifiers;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use signet_ca::{
    Argon2Cost, Authority, AuthorityConfig, AuthorityError, Clock, Issued, JoinToken, Refusal, Revocation,
    SealConfig, SealSource, SharedRegistrar,
};
use signet_identity::{OwnSvid, PeerClass, SpiffeId, TrustDomain};
use tempfile::TempDir;
use zeroize::Zeroizing;

/// 2026-01-01, and nobody's real time.
pub const START: i64 = 1_767_225_600;
pub const HOUR: i64 = 3600;
pub const DAY: i64 = 24 * HOUR;

pub struct TestClock(pub AtomicI64);

impl Clock for TestClock {
    fn unix_seconds(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl TestClock {
    pub fn set(&self, now: i64) {
        self.0.store(now, Ordering::SeqCst);
    }

    pub fn pass(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

pub struct Mesh {
    pub authority: Authority,
    pub clock: Arc<TestClock>,
    pub dir: TempDir,
}

pub fn config(dir: &Path) -> AuthorityConfig {
    let mut seal = SealConfig::key_file(dir.join("seal.key"));
    seal.create_if_missing = true;
    AuthorityConfig::new(TrustDomain::parse("demo.signet").unwrap(), dir.join("data"), seal)
}

pub async fn mesh() -> Mesh {
    mesh_with(|_| ()).await
}

pub async fn mesh_with(change: impl FnOnce(&mut AuthorityConfig)) -> Mesh {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock(AtomicI64::new(START)));
    let mut config = config(dir.path());
    change(&mut config);
    let authority = Authority::open(config, clock.clone()).await.unwrap();
    Mesh { authority, clock, dir }
}

impl Mesh {
    /// The same data directory, opened as after a restart.
    pub async fn reopen(self) -> Mesh {
        self.reopen_with(|_| ()).await.unwrap()
    }

    pub async fn reopen_with(
        self,
        change: impl FnOnce(&mut AuthorityConfig),
    ) -> Result<Mesh, AuthorityError> {
        let Mesh { authority, clock, dir } = self;
        authority.close().await;
        drop(authority);
        let mut config = config(dir.path());
        change(&mut config);
        let authority = Authority::open(config, clock.clone()).await?;
        Ok(Mesh { authority, clock, dir })
    }

    /// A second connection to the store, for somebody without the authority's keys.
    pub async fn intruder(&self) -> sqlx::SqlitePool {
        let options =
            sqlx::sqlite::SqliteConnectOptions::new().filename(self.dir.path().join("data/authority.db"));
        sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap()
    }

    pub async fn token(&self, name: &str) -> JoinToken {
        self.authority.create_join_token(id(name), PeerClass::Sidecar, None, "uid:0").await.unwrap()
    }

    pub async fn attest(&self, token: &JoinToken, csr: &[u8]) -> Result<Issued, AuthorityError> {
        self.authority.attest_join_token(token.text.expose(), csr, "192.0.2.1", anybody()).await
    }

    /// A workload with its first certificate.
    pub async fn join(&self, name: &str) -> Issued {
        let token = self.token(name).await;
        self.attest(&token, &csr(&key())).await.unwrap()
    }

    pub async fn renew(&self, parent: &Issued, key: &KeyPair) -> Result<Issued, AuthorityError> {
        self.authority.renew(&parent.chain[0], &csr(key), anybody()).await
    }
}

pub fn id(name: &str) -> SpiffeId {
    SpiffeId::workload(&TrustDomain::parse("demo.signet").unwrap(), "shop", name).unwrap()
}

pub fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

pub fn csr(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.serialize_request(key).unwrap().der().to_vec()
}

/// A registry in which everybody is registered, without a DNS name.
pub fn anybody() -> SharedRegistrar {
    Arc::new(|_: &SpiffeId, _: PeerClass| Some(Vec::new()))
}

pub fn nobody() -> SharedRegistrar {
    Arc::new(|_: &SpiffeId, _: PeerClass| None)
}

#[track_caller]
pub fn refusal<T: std::fmt::Debug>(result: Result<T, AuthorityError>) -> Refusal {
    match result {
        Err(AuthorityError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

pub fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// Runs the openssl binary; its standard output.
#[track_caller]
pub fn openssl(dir: &Path, args: &[&str]) -> Vec<u8> {
    let output = std::process::Command::new("openssl").args(args).current_dir(dir).output().unwrap();
    assert!(
        output.status.success(),
        "openssl {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

pub fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<String> =
        text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
