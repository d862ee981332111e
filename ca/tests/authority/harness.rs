//! What every test of the authority begins with: a mesh on a directory, a clock that is set by hand, and an
//! intruder at the store.

pub(crate) use std::path::Path;
pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::{AtomicI64, Ordering};
pub(crate) use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
pub(crate) use signet_ca::{
    Authority, AuthorityConfig, AuthorityError, Clock, Issued, JoinToken, Refusal, SealConfig,
    SharedRegistrar, StoreConfig,
};
pub(crate) use signet_identity::{PeerClass, SpiffeId, TrustDomain};
pub(crate) use tempfile::TempDir;

use crate::server::{RUNTIME_ROLE, Server};

/// 2026-01-01, and nobody's real time.
pub(crate) const START: i64 = 1_767_225_600;
pub(crate) const HOUR: i64 = 3600;
pub(crate) const DAY: i64 = 24 * HOUR;

/// Records of a first start: root, issuer, token key and JWT key made.
pub(crate) const FOUNDING: u64 = 4;

pub(crate) struct TestClock(pub(crate) AtomicI64);

impl Clock for TestClock {
    fn unix_seconds(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl TestClock {
    pub(crate) fn set(&self, now: i64) {
        self.0.store(now, Ordering::SeqCst);
    }

    pub(crate) fn pass(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

pub(crate) struct Mesh {
    pub(crate) authority: Authority,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) dir: TempDir,
}

pub(crate) fn config(dir: &Path) -> AuthorityConfig {
    let mut seal = SealConfig::key_file(dir.join("seal.key"));
    seal.create_if_missing = true;
    let mut config = AuthorityConfig::new(TrustDomain::parse("demo.signet").unwrap(), dir.join("data"), seal);
    config.store = store(dir);
    config
}

/// Where the authority of this directory has its store: a database of its own, or a file in the directory.
pub(crate) fn store(dir: &Path) -> StoreConfig {
    match server() {
        Some(server) => StoreConfig::Postgres(server.login(&server.database(dir), RUNTIME_ROLE)),
        None => StoreConfig::Sqlite,
    }
}

pub(crate) async fn intruder(dir: &Path) -> sqlx::AnyPool {
    sqlx::any::install_default_drivers();
    let url = match server() {
        Some(server) => server.superuser_url(&server.database(dir)),
        None => format!("sqlite://{}", dir.join("data/authority.db").display()),
    };
    sqlx::any::AnyPoolOptions::new().max_connections(1).connect(&url).await.unwrap()
}

/// The server whose databases this binary's stores are; none where it tests SQLite.
pub(crate) fn server() -> Option<&'static Server> {
    if crate::ON_POSTGRES { Server::get() } else { None }
}

pub(crate) async fn mesh() -> Mesh {
    mesh_with(|_| ()).await
}

pub(crate) async fn mesh_with(change: impl FnOnce(&mut AuthorityConfig)) -> Mesh {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock(AtomicI64::new(START)));
    let mut config = config(dir.path());
    change(&mut config);
    let authority = Authority::open(config, clock.clone()).await.unwrap();
    Mesh { authority, clock, dir }
}

impl Mesh {
    /// The same data directory, opened as after a restart.
    pub(crate) async fn reopen(self) -> Mesh {
        self.reopen_with(|_| ()).await.unwrap()
    }

    pub(crate) async fn reopen_with(
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

    /// A second connection to the store, with all rights but without the authority's keys.
    pub(crate) async fn intruder(&self) -> sqlx::AnyPool {
        intruder(self.dir.path()).await
    }

    pub(crate) async fn token(&self, name: &str) -> JoinToken {
        self.authority.create_join_token(id(name), PeerClass::Sidecar, None, "uid:0").await.unwrap()
    }

    pub(crate) async fn attest(&self, token: &JoinToken, csr: &[u8]) -> Result<Issued, AuthorityError> {
        self.authority.attest_join_token(token.text.expose(), csr, "192.0.2.1", anybody()).await
    }

    /// A workload with its first certificate.
    pub(crate) async fn join(&self, name: &str) -> Issued {
        let token = self.token(name).await;
        self.attest(&token, &csr(&key())).await.unwrap()
    }

    pub(crate) async fn renew(&self, parent: &Issued, key: &KeyPair) -> Result<Issued, AuthorityError> {
        self.authority.renew(&parent.chain[0], &csr(key), anybody()).await
    }
}

pub(crate) fn id(name: &str) -> SpiffeId {
    SpiffeId::workload(&TrustDomain::parse("demo.signet").unwrap(), "shop", name).unwrap()
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

pub(crate) fn csr(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.serialize_request(key).unwrap().der().to_vec()
}

/// A registry in which everybody is registered, without a DNS name.
pub(crate) fn anybody() -> SharedRegistrar {
    Arc::new(|_: &SpiffeId, _: PeerClass| Some(Vec::new()))
}

pub(crate) fn nobody() -> SharedRegistrar {
    Arc::new(|_: &SpiffeId, _: PeerClass| None)
}

#[track_caller]
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, AuthorityError>) -> Refusal {
    match result {
        Err(AuthorityError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

pub(crate) fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// Runs the openssl binary; its standard output.
#[track_caller]
pub(crate) fn openssl(dir: &Path, args: &[&str]) -> Vec<u8> {
    let output = std::process::Command::new("openssl").args(args).current_dir(dir).output().unwrap();
    assert!(
        output.status.success(),
        "openssl {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

pub(crate) fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<String> =
        text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Takes away what protects the log from those who may write to it.
pub(crate) fn without_trigger(of: &str) -> &'static str {
    match (of, server().is_some()) {
        ("update", true) => "DROP TRIGGER log_is_append_only_update ON log",
        ("update", false) => "DROP TRIGGER log_is_append_only_update",
        (_, true) => "DROP TRIGGER log_is_append_only_delete ON log",
        (_, false) => "DROP TRIGGER log_is_append_only_delete",
    }
}

/// From now on nothing can be added to the log.
pub(crate) async fn break_log(intruder: &sqlx::AnyPool) {
    let sql = if server().is_some() {
        "CREATE TRIGGER log_is_full BEFORE INSERT ON log FOR EACH ROW EXECUTE FUNCTION log_is_append_only()"
    } else {
        "CREATE TRIGGER log_is_full BEFORE INSERT ON log BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    };
    sqlx::query(sql).execute(intruder).await.unwrap();
}

pub(crate) async fn mend_log(intruder: &sqlx::AnyPool) {
    let sql = if server().is_some() { "DROP TRIGGER log_is_full ON log" } else { "DROP TRIGGER log_is_full" };
    sqlx::query(sql).execute(intruder).await.unwrap();
}
