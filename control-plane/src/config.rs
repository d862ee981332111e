//! `control-plane.yaml`: what one control plane is told when it starts.
//!
//! The file is the only source: no environment variables, no defaults that depend on the machine
//! except the operator's own uid. An unknown field, a duplicate key or a value outside its bounds
//! refuses the whole file, and the message names the file, the field and what was expected.

mod backup;
mod bundle;
mod intake;
mod jwt_svid;
mod keys;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use keys::{Keys, Pkcs11};
use serde::Deserialize;
use signet_ca::{LogFailure, RootSource, SharedKeys, StoreConfig};
use signet_daemon::logs;
use signet_identity::TrustDomain;
use signet_model::Label;

use crate::operators::config::{Operators, RawOperators, Surroundings};
use crate::store::{RawIssuanceLog, RawReplica, RawStore};
use crate::{attest, cluster, istio};

mod hierarchy;
mod rotation;
pub mod webhook;

pub use backup::Backup;
pub use bundle::{Bundle, REFRESH_HINT_SECONDS, WebTls};
pub use intake::Intake;
pub use rotation::Rotation;

/// Longest life of an SVID that the authority is ever asked for: a day, as the design says.
pub const MAX_SVID_TTL_SECONDS: u64 = 86_400;
/// Below this an SVID is for development only: clocks of real machines differ by minutes.
pub const MIN_SVID_TTL_SECONDS: u64 = 300;
/// Even in development: renewal at a third of life must leave time for a retry.
pub const MIN_DEV_SVID_TTL_SECONDS: u64 = 10;

/// How long one join token's certificates may be renewed.
pub const LINEAGE_DAYS: std::ops::RangeInclusive<u64> = 1..=30;

/// Why a configuration file was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read { file: PathBuf, source: std::io::Error },
    /// The file is not YAML of the expected shape.
    #[error("{}: {message}", file.display())]
    Parse { file: PathBuf, message: String },
    /// A value is outside what is accepted.
    #[error("{}: {field}: {reason}", file.display())]
    Value { file: PathBuf, field: &'static str, reason: String },
}

/// A configuration that passed every check that needs no other file.
#[derive(Debug, Clone)]
pub struct Config {
    pub trust_domain: TrustDomain,
    pub data_dir: PathBuf,
    pub seal: Seal,
    pub store: StoreConfig,
    /// How this control plane is called among those of one store; none: it makes a name up once.
    pub replica: Option<String>,
    /// Where the keys lie that all control planes of one store share.
    pub shared_keys: SharedKeys,
    /// Older records of the issuance log are removed.
    pub log_retention: Duration,
    pub log_failure: LogFailure,
    /// Where copies of the authority go; none: no copies are made.
    pub backup: Option<Backup>,
    pub keys: Keys,
    pub dev: bool,
    pub registry: RegistrySource,
    pub bootstrap_listen: SocketAddr,
    pub mesh_listen: SocketAddr,
    /// What join bundles say instead of the bound addresses, `host:port`.
    pub advertise_bootstrap: Option<String>,
    pub advertise_mesh: Option<String>,
    pub operator_socket: PathBuf,
    /// Empty means: the uid that the control plane runs as.
    pub operator_uids: Vec<u32>,
    /// Who may log in, and who may do what.
    pub operators: Operators,
    pub metrics_listen: Option<SocketAddr>,
    pub svid_ttl_seconds: u64,
    /// Life of the tokens for apps.
    pub jwt_svid_ttl_seconds: u64,
    /// Ed25519 keys are certified, too.
    pub allow_ed25519: bool,
    /// Days after a join until the workload must join again.
    pub lineage_days: u64,
    pub allow_private_addresses: bool,
    pub allow_http: bool,
    /// Where other trust domains fetch our bundle.
    pub bundle: Option<Bundle>,
    /// Where tokens are revoked and users logged out by who is no operator.
    pub intake: Option<Intake>,
    /// Where the API server has pods injected.
    pub webhook: Option<webhook::Webhook>,
    /// Whether bundle endpoints may be in private networks.
    pub federation_private_addresses: bool,
    pub system_namespace: Label,
    pub attestation: attest::config::Attestation,
    pub istio: Option<istio::config::Istio>,
    pub log: Log,
    pub rotation: Rotation,
    /// Where the root comes from.
    pub root: RootSource,
}

/// Where the registry comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrySource {
    Folder(PathBuf),
    Kubernetes(Box<cluster::config::Cluster>),
}

/// How and how much is logged.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub format: logs::Format,
    pub level: logs::Level,
}

/// Where the key that seals the authority's keys comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seal {
    /// 32 random bytes in a file, 0600; made when missing and `dev: true`.
    KeyFile(PathBuf),
    /// A passphrase in a file, 0600.
    PassphraseFile(PathBuf),
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`ConfigError`] naming the file, the field and what was expected.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ConfigError::Read { file: file.to_owned(), source })?;
        Self::parse(file, &text)
    }

    /// As [`Config::load`], with the text at hand.
    ///
    /// # Errors
    /// [`ConfigError`] naming the file, the field and what was expected.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let raw: Raw = signet_model::from_yaml(text)
            .map_err(|error| ConfigError::Parse { file: file.to_owned(), message: error.to_string() })?;
        raw.check().map_err(|(field, reason)| ConfigError::Value { file: file.to_owned(), field, reason })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Raw {
    trust_domain: String,
    data_dir: PathBuf,
    seal: RawSeal,
    #[serde(default)]
    store: RawStore,
    #[serde(default)]
    replica: RawReplica,
    #[serde(default)]
    issuance_log: RawIssuanceLog,
    backup: Option<backup::Raw>,
    #[serde(default)]
    keys: keys::RawKeys,
    #[serde(default)]
    dev: bool,
    registry: RawRegistry,
    listen: RawListen,
    #[serde(default)]
    advertise: RawAdvertise,
    operator: RawOperator,
    #[serde(default)]
    operators: RawOperators,
    metrics: Option<RawMetrics>,
    #[serde(default)]
    svid: RawSvid,
    #[serde(default)]
    jwt_svid: jwt_svid::RawJwtSvid,
    #[serde(default)]
    issuers: RawIssuers,
    bundle: Option<bundle::RawBundle>,
    #[serde(default)]
    intake: Option<intake::RawIntake>,
    webhook: Option<webhook::RawWebhook>,
    #[serde(default)]
    federation: bundle::RawFederation,
    #[serde(default)]
    system: RawSystem,
    #[serde(default)]
    attestation: attest::config::RawAttestation,
    istio: Option<istio::config::RawIstio>,
    #[serde(default)]
    log: Log,
    #[serde(default)]
    rotation: rotation::Raw,
    #[serde(default)]
    hierarchy: hierarchy::Raw,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawSeal {
    key_file: Option<PathBuf>,
    passphrase_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRegistry {
    folder: Option<PathBuf>,
    kubernetes: Option<cluster::config::RawCluster>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawListen {
    bootstrap: SocketAddr,
    mesh: SocketAddr,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawAdvertise {
    bootstrap: Option<String>,
    mesh: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOperator {
    socket: PathBuf,
    #[serde(default)]
    uids: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMetrics {
    listen: SocketAddr,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct RawSvid {
    ttl_seconds: u64,
    lineage_days: u64,
    allow_ed25519: bool,
}

impl Default for RawSvid {
    fn default() -> Self {
        Self { ttl_seconds: 3_600, lineage_days: 7, allow_ed25519: false }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct RawIssuers {
    allow_private_addresses: bool,
    allow_http: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawSystem {
    namespace: String,
}

impl Default for RawSystem {
    fn default() -> Self {
        Self { namespace: "signet-system".into() }
    }
}

type Refused = (&'static str, String);

impl Raw {
    fn check(self) -> Result<Config, Refused> {
        let trust_domain =
            TrustDomain::parse(&self.trust_domain).map_err(|e| ("trustDomain", e.to_string()))?;
        let data_dir = absolute("dataDir", self.data_dir)?;
        let seal = match (self.seal.key_file, self.seal.passphrase_file) {
            (Some(file), None) => Seal::KeyFile(absolute("seal.keyFile", file)?),
            (None, Some(file)) => Seal::PassphraseFile(absolute("seal.passphraseFile", file)?),
            (None, None) => return Err(("seal", "expected keyFile or passphraseFile, found neither".into())),
            (Some(_), Some(_)) => {
                return Err(("seal", "expected keyFile or passphraseFile, found both".into()));
            }
        };
        let ttl = self.svid.ttl_seconds;
        let least = if self.dev { MIN_DEV_SVID_TTL_SECONDS } else { MIN_SVID_TTL_SECONDS };
        if !(least..=MAX_SVID_TTL_SECONDS).contains(&ttl) {
            let hint = if self.dev { "" } else { " (shorter only with `dev: true`)" };
            return Err((
                "svid.ttlSeconds",
                format!("expected {least} to {MAX_SVID_TTL_SECONDS} seconds{hint}, found {ttl}"),
            ));
        }
        let lineage_days = self.svid.lineage_days;
        if !LINEAGE_DAYS.contains(&lineage_days) {
            let (least, most) = LINEAGE_DAYS.into_inner();
            return Err((
                "svid.lineageDays",
                format!("expected {least} to {most} days, found {lineage_days}"),
            ));
        }
        if self.issuers.allow_private_addresses && !self.dev {
            return Err(("issuers.allowPrivateAddresses", "only allowed together with `dev: true`".into()));
        }
        if self.issuers.allow_http && !self.dev {
            return Err(("issuers.allowHttp", "only allowed together with `dev: true`".into()));
        }
        let operators = self.operators.check(&Surroundings {
            dev: self.dev,
            allow_http: self.issuers.allow_http,
            uids: &self.operator.uids,
        })?;
        let jwt_svid_ttl = self.jwt_svid.check(self.dev)?;
        let (log_retention, log_failure) = self.issuance_log.check()?;
        let system_namespace: Label = self
            .system
            .namespace
            .parse()
            .map_err(|e: signet_model::Invalid| ("system.namespace", e.to_string()))?;
        let attestation = self.attestation.check()?;
        let istio = self.istio.map(istio::config::RawIstio::check).transpose()?;
        if let Some(istio) = &istio {
            let Some(kubernetes) = &attestation.kubernetes else {
                return Err(("istio", "expected attestation.kubernetes beside it, found none".into()));
            };
            if istio.audience == kubernetes.audience {
                let expected = "expected another audience than attestation.kubernetes.audience";
                return Err(("istio.audience", format!("{expected}, found `{}`", istio.audience)));
            }
        }
        let webhook = self.webhook.map(webhook::RawWebhook::check).transpose()?;
        if webhook.is_some() && attestation.kubernetes.is_none() {
            // What was injected could not join.
            return Err(("webhook", "expected attestation.kubernetes beside it, found none".into()));
        }
        let mut registry = self.registry.check()?;
        if let (RegistrySource::Kubernetes(cluster), Some(webhook)) = (&mut registry, &webhook) {
            cluster.revision.clone_from(&webhook.injection.revision);
            // What is mounted into pods is what namespaces are given.
            cluster.roots.clone_from(&webhook.injection.roots_config_map);
        }
        let store = self.store.check(self.dev)?;
        let backup = self.backup.map(|backup| backup.check(self.dev, &data_dir)).transpose()?;
        Ok(Config {
            trust_domain,
            backup,
            data_dir,
            seal,
            replica: self.replica.name.clone(),
            shared_keys: self.replica.shared_keys(&store)?,
            store,
            log_retention,
            log_failure,
            keys: self.keys.check()?,
            dev: self.dev,
            registry,
            bootstrap_listen: self.listen.bootstrap,
            mesh_listen: self.listen.mesh,
            advertise_bootstrap: host_port("advertise.bootstrap", self.advertise.bootstrap)?,
            advertise_mesh: host_port("advertise.mesh", self.advertise.mesh)?,
            operator_socket: absolute("operator.socket", self.operator.socket)?,
            operator_uids: self.operator.uids,
            operators,
            metrics_listen: self.metrics.map(|m| m.listen),
            svid_ttl_seconds: ttl,
            jwt_svid_ttl_seconds: jwt_svid_ttl,
            allow_ed25519: self.svid.allow_ed25519,
            lineage_days,
            allow_private_addresses: self.issuers.allow_private_addresses,
            allow_http: self.issuers.allow_http,
            bundle: self.bundle.map(bundle::RawBundle::check).transpose()?,
            intake: self.intake.map(intake::RawIntake::check).transpose()?,
            webhook,
            federation_private_addresses: self.federation.allow_private_addresses,
            system_namespace,
            attestation,
            istio,
            log: self.log,
            rotation: self.rotation.check(self.dev)?,
            root: self.hierarchy.check()?,
        })
    }
}

impl RawRegistry {
    fn check(self) -> Result<RegistrySource, Refused> {
        match (self.folder, self.kubernetes) {
            (Some(folder), None) => Ok(RegistrySource::Folder(absolute("registry.folder", folder)?)),
            (None, Some(cluster)) => Ok(RegistrySource::Kubernetes(Box::new(cluster.check()?))),
            (None, None) => Err(("registry", "expected folder or kubernetes, found neither".into())),
            (Some(_), Some(_)) => Err(("registry", "expected folder or kubernetes, found both".into())),
        }
    }
}

fn absolute(field: &'static str, path: PathBuf) -> Result<PathBuf, Refused> {
    if path.is_absolute() {
        return Ok(path);
    }
    Err((field, format!("expected an absolute path, found `{}`", path.display())))
}

fn host_port(field: &'static str, value: Option<String>) -> Result<Option<String>, Refused> {
    let Some(value) = value else { return Ok(None) };
    let good = value
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0));
    if good { Ok(Some(value)) } else { Err((field, format!("expected host:port, found `{value}`"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
trustDomain: demo.signet
dataDir: /var/lib/signet
seal: {keyFile: /var/lib/signet/seal.key}
registry: {folder: /etc/signet/registry}
listen: {bootstrap: '127.0.0.1:0', mesh: '127.0.0.1:0'}
operator: {socket: /run/signet/operator.sock}
";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("control-plane.yaml"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn the_smallest_file_gets_safe_defaults() {
        let config = parse(GOOD).unwrap();
        assert_eq!((config.svid_ttl_seconds, config.lineage_days), (3_600, 7));
        assert_eq!(config.system_namespace.as_str(), "signet-system");
        assert!(!config.dev && !config.allow_http && !config.allow_private_addresses);
        assert_eq!(config.seal, Seal::KeyFile("/var/lib/signet/seal.key".into()));
        assert_eq!((config.store, config.replica), (StoreConfig::Sqlite, None));
    }

    #[test]
    fn an_unknown_field_is_refused_with_file_and_field() {
        let message = parse(&format!("{GOOD}surprise: 1\n")).unwrap_err();
        assert!(message.starts_with("control-plane.yaml: "), "{message}");
        assert!(message.contains("surprise"), "{message}");
        let message = parse(&GOOD.replace("keyFile", "keyfile")).unwrap_err();
        assert!(message.contains("keyfile"), "{message}");
    }

    #[test]
    fn pods_are_believed_only_where_it_is_said_and_with_safe_defaults() {
        assert_eq!(parse(GOOD).unwrap().attestation.kubernetes, None);
        let found = parse(&format!("{GOOD}attestation: {{kubernetes: {{}}}}\n")).unwrap().attestation;
        let found = found.kubernetes.unwrap();
        assert_eq!(found.server, ("kubernetes.default.svc".into(), 443));
        assert_eq!(found.audience, "signet-ca");
        assert_eq!(found.mode, attest::config::Mode::Review);
        assert!(!found.check_address && !found.allow_unregistered);
        for (text, words) in [
            ("apiServer: 'http://a'", ["attestation.kubernetes.apiServer", "https://host"]),
            ("tokenFile: token", ["attestation.kubernetes.tokenFile", "absolute"]),
            ("audience: ''", ["attestation.kubernetes.audience", "1 to 253"]),
            ("mode: slow", ["attestation.kubernetes.mode", "fast"]),
            ("surprise: 1", ["surprise", "checkAddress"]),
        ] {
            let message = parse(&format!("{GOOD}attestation: {{kubernetes: {{{text}}}}}\n")).unwrap_err();
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
    }

    #[test]
    fn clients_of_istio_need_a_cluster_and_an_audience_of_their_own() {
        let with =
            |istio: &str| parse(&format!("{GOOD}attestation: {{kubernetes: {{}}}}\nistio: {{{istio}}}\n"));
        let found = with("listen: '127.0.0.1:0'").unwrap().istio.unwrap();
        assert_eq!((found.audience.as_str(), found.max_ttl.as_secs()), ("istio-ca", 86_400));
        assert_eq!(found.dns_names, ["istiod.istio-system.svc"]);
        let message = parse(&format!("{GOOD}istio: {{listen: '127.0.0.1:0'}}\n")).unwrap_err();
        assert!(message.contains("attestation.kubernetes"), "{message}");
        for (text, words) in [
            ("audience: signet-ca", ["istio.audience", "another audience"]),
            ("dnsNames: []", ["istio.dnsNames", "1 to 8"]),
            ("dnsNames: ['*.example.com']", ["istio.dnsNames", "DNS names"]),
            ("maxTtlSeconds: 90000", ["istio.maxTtlSeconds", "86400"]),
            ("trustedNodeAccounts: [ztunnel]", ["istio.trustedNodeAccounts", "name.namespace"]),
        ] {
            let message = with(&format!("listen: '127.0.0.1:0', {text}")).unwrap_err();
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
    }

    #[test]
    fn a_registry_is_a_folder_or_a_cluster() {
        let with = |text: &str| parse(&GOOD.replace("{folder: /etc/signet/registry}", text));
        let RegistrySource::Kubernetes(found) = with("{kubernetes: {}}").unwrap().registry else {
            panic!("expected a cluster")
        };
        assert_eq!(found.place.server, ("kubernetes.default.svc".into(), 443));
        assert!(found.statuses && found.namespaces.is_empty());
        let times = [found.lease.duration, found.lease.renew_deadline, found.lease.retry_period];
        assert_eq!(times.map(|time| time.as_secs()), [15, 10, 2]);
        for (text, words) in [
            ("{}", ["registry", "found neither"]),
            ("{folder: /a, kubernetes: {}}", ["registry", "found both"]),
            ("{kubernetes: {apiServer: 'http://a'}}", ["registry.kubernetes.apiServer", "https://host"]),
            ("{kubernetes: {tokenFile: a}}", ["registry.kubernetes.tokenFile", "absolute"]),
            ("{kubernetes: {namespaces: [A]}}", ["registry.kubernetes.namespaces", "`A`"]),
            ("{kubernetes: {namespaces: [a], excludeNamespaces: [a]}}", ["excludeNamespaces", "`a`"]),
            ("{kubernetes: {rootsConfigMap: Roots}}", ["registry.kubernetes.rootsConfigMap", "`Roots`"]),
            ("{kubernetes: {leaseSeconds: 1}}", ["registry.kubernetes.leaseSeconds", "3 to 300"]),
            ("{kubernetes: {surprise: 1}}", ["surprise", "excludeNamespaces"]),
        ] {
            let message = with(text).unwrap_err();
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
    }

    #[test]
    fn a_duplicate_key_is_refused() {
        let message = parse(&format!("{GOOD}dev: true\ndev: false\n")).unwrap_err();
        assert!(message.contains("dev"), "{message}");
    }

    #[test]
    fn development_settings_need_dev() {
        let message = parse(&format!("{GOOD}issuers: {{allowHttp: true}}\n")).unwrap_err();
        assert!(message.contains("issuers.allowHttp") && message.contains("dev: true"), "{message}");
        let message = parse(&format!("{GOOD}issuers: {{allowPrivateAddresses: true}}\n")).unwrap_err();
        assert!(message.contains("issuers.allowPrivateAddresses"), "{message}");
        let message = parse(&format!("{GOOD}svid: {{ttlSeconds: 120}}\n")).unwrap_err();
        assert!(message.contains("svid.ttlSeconds") && message.contains("found 120"), "{message}");
        let config = parse(&format!("{GOOD}dev: true\nsvid: {{ttlSeconds: 120}}\n")).unwrap();
        assert_eq!(config.svid_ttl_seconds, 120);
    }

    #[test]
    fn a_life_over_a_day_is_refused_even_in_development() {
        let message = parse(&format!("{GOOD}dev: true\nsvid: {{ttlSeconds: 86401}}\n")).unwrap_err();
        assert!(message.contains("svid.ttlSeconds"), "{message}");
    }

    #[test]
    fn a_chain_of_renewals_lasts_one_to_thirty_days() {
        for (days, good) in [(0, false), (1, true), (30, true), (31, false)] {
            let parsed = parse(&format!("{GOOD}svid: {{lineageDays: {days}}}\n"));
            match parsed {
                Ok(config) => assert!(good && config.lineage_days == days),
                Err(message) => {
                    assert!(!good && message.contains("svid.lineageDays: expected 1 to 30"), "{message}");
                }
            }
        }
    }

    #[test]
    fn exactly_one_seal_is_expected() {
        let both = GOOD.replace("{keyFile: /var/lib/signet/seal.key}", "{keyFile: /a, passphraseFile: /b}");
        assert!(parse(&both).unwrap_err().contains("found both"));
        let none = GOOD.replace("{keyFile: /var/lib/signet/seal.key}", "{}");
        assert!(parse(&none).unwrap_err().contains("found neither"));
    }

    #[test]
    fn relative_paths_and_bad_names_are_refused_by_field() {
        let message = parse(&GOOD.replace("/etc/signet/registry", "registry")).unwrap_err();
        assert!(message.contains("registry.folder") && message.contains("absolute"), "{message}");
        let message = parse(&format!("{GOOD}system: {{namespace: Sys_tem}}\n")).unwrap_err();
        assert!(message.contains("system.namespace"), "{message}");
        let message = parse(&format!("{GOOD}advertise: {{mesh: nohost}}\n")).unwrap_err();
        assert!(message.contains("advertise.mesh") && message.contains("host:port"), "{message}");
        let message = parse(&format!("{GOOD}log: {{format: text, level: loud}}\n")).unwrap_err();
        assert!(message.contains("log.level") && message.contains("trace"), "{message}");
    }

    #[test]
    fn people_and_roles_are_checked_by_field() {
        let good = "operators:
  oidc: [{name: corp, issuer: 'https://login.example.com', clientId: signet, groupsClaim: groups}]
  roles:
    - {role: security-admin, groups: ['corp|mesh-admins']}
    - {role: namespace-operator, users: ['corp|ada@example.com'], namespaces: [shop]}
  secondPerson: [ca-revoke]
";
        let config = parse(&format!("{GOOD}{good}")).unwrap().operators;
        assert_eq!(config.providers[0].party.username_claim, "email");
        assert_eq!((config.session.as_secs(), config.roles.0.len()), (3_600, 2));
        assert!(config.second_person.contains("ca-revoke"));
        for (from, to, field) in [
            ("https://login", "http://login", "operators.oidc.issuer"),
            ("name: corp", "name: Corp", "operators.oidc.name"),
            ("clientId: signet", "clientId: ''", "operators.oidc.clientId"),
            ("clientId: signet", "clientId: signet, algorithms: [none]", "operators.oidc.algorithms"),
            ("clientId: signet", "clientId: signet, algorithms: [HS256]", "operators.oidc.algorithms"),
            ("corp|mesh-admins", "mesh-admins", "operators.roles.groups"),
            ("corp|ada", "other|ada", "operators.roles.users"),
            (", namespaces: [shop]", "", "operators.roles.namespaces"),
            ("groups: ['corp|mesh-admins']", "namespaces: [shop]", "operators.roles.namespaces"),
            ("groups: ['corp|mesh-admins']", "users: []", "operators.roles"),
            ("role: security-admin", "role: root", "operators.roles"),
            ("secondPerson: [ca-revoke]", "secondPerson: [whoami]", "operators.secondPerson"),
            ("secondPerson: [ca-revoke]", "sessionSeconds: 7200", "operators.sessionSeconds"),
            ("secondPerson: [ca-revoke]", "sessionSeconds: 60", "operators.sessionSeconds"),
        ] {
            assert!(good.contains(from), "{from}");
            let message = parse(&format!("{GOOD}{}", good.replace(from, to))).expect_err(to);
            assert!(message.contains(field), "{to}: {message}");
        }
        let unlisted = format!(
            "{}operators: {{roles: [{{role: viewer, uids: [7]}}]}}\n",
            GOOD.replace("operator.sock}", "operator.sock, uids: [0]}")
        );
        assert!(parse(&unlisted).unwrap_err().contains("operators.roles.uids"));
    }

    #[test]
    fn a_token_for_an_app_lives_for_minutes() {
        assert_eq!(parse(GOOD).unwrap().jwt_svid_ttl_seconds, 300);
        for (ttl, dev, good) in
            [(60, false, true), (59, false, false), (3601, false, false), (10, true, true), (9, true, false)]
        {
            let parsed = parse(&format!("{GOOD}dev: {dev}\njwtSvid: {{ttlSeconds: {ttl}}}\n"));
            match parsed {
                Ok(config) => assert!(good && config.jwt_svid_ttl_seconds == ttl, "{ttl}"),
                Err(message) => {
                    assert!(!good && message.contains("jwtSvid.ttlSeconds: expected"), "{message}")
                }
            }
        }
    }

    #[test]
    fn a_bundle_endpoint_has_bounds_and_presents_our_own_svid_unless_told() {
        let bundle = parse(&format!("{GOOD}bundle: {{listen: '127.0.0.1:0'}}\n")).unwrap().bundle.unwrap();
        assert_eq!((bundle.path.as_str(), bundle.refresh_hint.as_secs()), ("/bundle", 300));
        assert!(bundle.tls.is_none());
        for (section, field) in [
            ("{listen: '127.0.0.1:0', path: bundle}", "bundle.path"),
            ("{listen: '127.0.0.1:0', path: /a/../b}", "bundle.path"),
            ("{listen: '127.0.0.1:0', path: /crl/x}", "bundle.path"),
            ("{listen: '127.0.0.1:0', path: /a?b}", "bundle.path"),
            ("{listen: '127.0.0.1:0', refreshHintSeconds: 1}", "bundle.refreshHintSeconds"),
            ("{listen: '127.0.0.1:0', tls: {certFile: a.pem, keyFile: /k}}", "bundle.tls.certFile"),
            ("{listen: '127.0.0.1:0', tls: {certFile: /a.pem}}", "keyFile"),
            ("{path: /bundle}", "listen"),
        ] {
            let message = parse(&format!("{GOOD}bundle: {section}\n")).unwrap_err();
            assert!(message.contains(field), "{section}: {message}");
        }
    }
}
