//! What the authority is told when it opens.

use std::path::PathBuf;
use std::time::Duration;

use signet_identity::{SpiffeId, TrustDomain};

use crate::backup::BackupConfig;
use crate::external::RootSource;
use crate::keystore::KeysConfig;
use crate::rotation::RotationConfig;
use crate::rotation::machine::SIGNED_BY_KEY;
use crate::seal::SealConfig;
use crate::store::StoreConfig;

/// The longest life of a SVID.
pub const MAX_SVID_TTL: Duration = Duration::from_secs(24 * 3600);
/// The shortest outside development: below it, renewal cannot ride out a restart of the control plane.
pub const MIN_SVID_TTL: Duration = Duration::from_secs(300);
/// The shortest in development.
pub const MIN_DEV_SVID_TTL: Duration = Duration::from_secs(10);
/// The longest life of a join token.
pub const MAX_JOIN_TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);
/// The longest life of a JWT-SVID, and the shortest outside development.
pub const MAX_JWT_SVID_TTL: Duration = Duration::from_secs(3600);
pub const MIN_JWT_SVID_TTL: Duration = Duration::from_secs(60);

/// Less would not outlive a chain of renewals, and an incident that is noticed after a weekend.
const MIN_LOG_RETENTION: Duration = Duration::from_secs(7 * DAY);

const DAY: u64 = 24 * 3600;

/// What becomes of an act whose record the issuance log does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFailure {
    /// It is not done.
    #[default]
    Refuse,
    /// It is done, and its record kept in a file of the data directory until the log takes it.
    Issue,
}

/// Settings of an [`Authority`](crate::Authority). Begin with [`AuthorityConfig::new`] and change what
/// differs.
#[derive(Debug, Clone)]
pub struct AuthorityConfig {
    pub trust_domain: TrustDomain,
    /// Mode 0700; made when missing. Holds the sealed keys and the store.
    pub data_dir: PathBuf,
    pub seal: SealConfig,
    /// What keys roots and issuers get, and where they lie.
    pub keys: KeysConfig,
    /// Namespace of the control plane. All identities in it are reserved.
    pub system_namespace: String,
    /// Allows SVIDs shorter than five minutes.
    pub dev: bool,
    pub svid_ttl: Duration,
    /// Certifies Ed25519 keys, too. Whoever verifies such a certificate must know the algorithm.
    pub allow_ed25519: bool,
    pub join_token_ttl: Duration,
    /// The life of JWT-SVIDs, which nothing can take back.
    pub jwt_svid_ttl: Duration,
    /// How long a workload may renew before it must be attested again.
    pub lineage_life: Duration,
    pub issuer_life: Duration,
    pub root_life: Duration,
    /// Where the root comes from.
    pub root: RootSource,
    /// When a root, issuer or key follows another.
    pub rotation: RotationConfig,
    /// Where the keys lie that all control planes of one store share.
    pub shared_keys: SharedKeys,
    /// Names this process's log; each replica has its own. None: the machine's name and a few letters, made up once.
    pub replica: Option<String>,
    pub store: StoreConfig,
    /// Older records of the issuance log are removed; a signed checkpoint stands for them.
    pub log_retention: Duration,
    /// What becomes of an act whose record the log does not take.
    pub log_failure: LogFailure,
    /// Where copies of all this go; none: no copies are made.
    pub backup: Option<BackupConfig>,
    /// Failed join attempts per source and minute before it is turned away.
    pub failed_attempts_per_minute: u32,
}

/// Where the keys lie that all control planes of one store share: those of roots, of the marks on rows and of the log, each
/// sealed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SharedKeys {
    /// In the data directory: there is one control plane.
    #[default]
    DataDir,
    /// In a folder that all of them can write to.
    Folder(PathBuf),
    /// In the store, which must be PostgreSQL.
    Store,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ConfigError {
    pub field: &'static str,
    pub reason: String,
}

impl AuthorityConfig {
    /// The defaults: SVIDs of 1 h, join tokens of 10 min, lineages and issuers of 7 d, a root of 10 y.
    pub fn new(trust_domain: TrustDomain, data_dir: impl Into<PathBuf>, seal: SealConfig) -> Self {
        AuthorityConfig {
            trust_domain,
            data_dir: data_dir.into(),
            seal,
            keys: KeysConfig::default(),
            system_namespace: "signet-system".into(),
            dev: false,
            svid_ttl: Duration::from_secs(3600),
            allow_ed25519: false,
            join_token_ttl: Duration::from_secs(600),
            jwt_svid_ttl: Duration::from_secs(300),
            lineage_life: Duration::from_secs(7 * DAY),
            issuer_life: Duration::from_secs(7 * DAY),
            root_life: Duration::from_secs(3650 * DAY),
            root: RootSource::Own,
            rotation: RotationConfig::default(),
            shared_keys: SharedKeys::DataDir,
            replica: None,
            store: StoreConfig::Sqlite,
            log_retention: Duration::from_secs(90 * DAY),
            log_failure: LogFailure::Refuse,
            backup: None,
            failed_attempts_per_minute: 60,
        }
    }

    /// The identity of the control plane, which alone may serve the mesh.
    pub fn control_plane_id(&self) -> Result<SpiffeId, ConfigError> {
        SpiffeId::workload(&self.trust_domain, &self.system_namespace, "signet-control-plane")
            .map_err(|e| ConfigError { field: "system.namespace", reason: e.to_string() })
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let error = |field, reason: String| Err(ConfigError { field, reason });
        let least = if self.dev { MIN_DEV_SVID_TTL } else { MIN_SVID_TTL };
        if self.svid_ttl < least || self.svid_ttl > MAX_SVID_TTL {
            return error(
                "svid.ttlSeconds",
                format!(
                    "must be between {} and {} seconds (under {} only with `dev: true`), not {}",
                    least.as_secs(),
                    MAX_SVID_TTL.as_secs(),
                    MIN_SVID_TTL.as_secs(),
                    self.svid_ttl.as_secs()
                ),
            );
        }
        if self.join_token_ttl.is_zero() || self.join_token_ttl > MAX_JOIN_TOKEN_TTL {
            return error(
                "joinToken.ttlSeconds",
                format!("must be between 1 and {} seconds", MAX_JOIN_TOKEN_TTL.as_secs()),
            );
        }
        let least = if self.dev { MIN_DEV_SVID_TTL } else { MIN_JWT_SVID_TTL };
        if self.jwt_svid_ttl < least || self.jwt_svid_ttl > MAX_JWT_SVID_TTL {
            return error(
                "jwtSvid.ttlSeconds",
                format!(
                    "must be between {} and {} seconds, not {}",
                    least.as_secs(),
                    MAX_JWT_SVID_TTL.as_secs(),
                    self.jwt_svid_ttl.as_secs()
                ),
            );
        }
        // An issuer is renewed in its last third: with less, leaves would be clipped by it.
        if self.issuer_life < self.svid_ttl.saturating_mul(3) {
            return error("issuer.life", "must be at least three times the life of a SVID".into());
        }
        if self.root_life < self.issuer_life {
            return error("root.life", "must be at least the life of an issuer".into());
        }
        let least = Duration::from_secs(3 * u64::try_from(SIGNED_BY_KEY).unwrap_or(u64::MAX));
        if self.rotation.key_life < least {
            return error("rotation.keyLife", format!("must be at least {} seconds", least.as_secs()));
        }
        if self.lineage_life < self.svid_ttl {
            return error("lineage.life", "must be at least the life of a SVID".into());
        }
        if self.log_retention < MIN_LOG_RETENTION {
            return error("issuanceLog.retentionDays", "must be at least 7 days".into());
        }
        if self.shared_keys == SharedKeys::Store && self.store == StoreConfig::Sqlite {
            return error("replica.sharedKeys", "`store` expects store.postgres, found none".into());
        }
        if let Some(name) = &self.replica
            && (name.is_empty() || name.len() > 128 || name.chars().any(char::is_control))
        {
            return error("replica.name", "must have 1 to 128 bytes, without control characters".into());
        }
        self.control_plane_id().map(|_| ())
    }
}

/// Whole seconds of a setting.
pub(crate) fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
