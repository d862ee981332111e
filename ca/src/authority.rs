//! The authority as its caller sees it.
//!
//! Opening it checks the data directory, opens the store, checks the end of the issuance log, and takes into force
//! what the journal of authorities says; a new issuer proves on a throwaway key that what it signs is accepted by peers.
//! Every act that changes something runs in a task of its own: a caller that goes away does not tear it.

use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls_pki_types::CertificateDer;
use signet_audit::{AuditKey, Signed};
use signet_identity::{BundleError, KeyId, OwnSvid, Serial, SpiffeId, TrustBundle};
use tokio::sync::{broadcast, watch};
use zeroize::Zeroizing;

use crate::authorise::{Rules, Stop};
use crate::backup::{Backups, manifest};
use crate::clock::Clock;
use crate::config::{AuthorityConfig, LogFailure, SharedKeys, seconds};
use crate::crl::Lists;
use crate::csr::ProvenKey;
use crate::error::AuthorityError;
use crate::external::{RootSource, Seen};
use crate::files::{self, FileError};
use crate::hierarchy::{HierarchyError, Issuer, pem};
use crate::issue::{self, Issued};
use crate::keys::{self, CaKey};
use crate::keystore::KeyStore;
use crate::limits::{
    AGENT_PER_MINUTE, Attempts, EXCHANGES_PER_MINUTE, JWT_SVIDS_PER_MINUTE, RecordBudget, Signing,
};
use crate::metrics::Metrics;
use crate::record::{Entry, Event, Record};
use crate::refusal::Refusal;
use crate::replicas;
use crate::revoke::Revocations;
use crate::rotation::view::View;
use crate::rotation::{Kind, Phase, Published, RotationConfig};
use crate::seal::{Role, Shelf};
use crate::store::{GivenUp, Lead, Missed, Owner, Replica, RowMac, SealedTable, Store, StoreError, Verified};
use crate::vault::Vault;

pub(crate) const DATABASE: &str = "authority.db";

/// The certificate authority of one trust domain. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) rules: Rules,
    pub(crate) svid_ttl: i64,
    pub(crate) join_token_ttl: i64,
    pub(crate) lives: Lives,
    pub(crate) rotation: RotationConfig,
    pub(crate) root_source: RootSource,
    /// What was said of the folder with the root last.
    pub(crate) root_seen: Mutex<Seen>,
    /// When it was said last that a root is to be signed elsewhere.
    pub(crate) reminded: AtomicI64,
    pub(crate) replica: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) vault: Arc<Mutex<Vault>>,
    /// What is in force: none only before the first journal was read.
    pub(crate) view: RwLock<Option<Arc<View>>>,
    pub(crate) published: watch::Sender<Arc<Published>>,
    /// The first start is not finished: the journal may still be empty.
    pub(crate) founding: AtomicBool,
    /// The right to do what only one control plane may do, while this one has it.
    pub(crate) leading: tokio::sync::Mutex<Option<Lead>>,
    /// Held while steps of a rotation are planned and performed.
    pub(crate) rotating: tokio::sync::Mutex<()>,
    pub(crate) given_up: broadcast::Sender<Arc<Vec<GivenUp>>>,
    pub(crate) jwt_svid_ttl: i64,
    /// Requests with Ed25519 keys are answered.
    allow_ed25519: bool,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) attempts: Mutex<Attempts>,
    pub(crate) signing: Mutex<Signing>,
    pub(crate) workloads: Mutex<Signing>,
    /// Certificates for processes, by the agents that vouch for them.
    pub(crate) processes: Mutex<Signing>,
    pub(crate) jwt_svids: Mutex<Signing>,
    /// Transaction tokens and sealed contexts for sidecars.
    pub(crate) exchanges: Mutex<Signing>,
    pub(crate) exchange_keys: crate::exchange::Keys,
    bootstrap_budget: Mutex<RecordBudget>,
    peer_budget: Mutex<RecordBudget>,
    pub(crate) operator_budget: Mutex<RecordBudget>,
    pub(crate) metrics: Metrics,
    pub(crate) revocations: watch::Sender<Arc<Revocations>>,
    pub(crate) lists: Lists,
    pub(crate) audit_key: AuditKey,
    /// Which issuer of this replica signs: its id.
    pub(crate) issuing: watch::Sender<String>,
    /// The newest signed end of the log.
    pub(crate) head: watch::Sender<Option<Arc<Signed>>>,
    log_retention: i64,
    /// None: no copies are made.
    pub(crate) backups: Option<Backups>,
    /// Where control planes share their keys, if that is the store.
    pub(crate) sealed_keys: Option<SealedTable>,
    /// Held as long as the authority lives, so that no second process serves the same directory.
    _lock: File,
}

/// How long roots and issuers live, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lives {
    pub(crate) root: i64,
    pub(crate) issuer: i64,
}

/// Who was refused, which decides from which budget the record is paid: strangers cannot use up the room
/// for what peers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    Stranger,
    Peer,
}

/// A certificate of the authority's own, for status pages and expiry alerts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateStatus {
    /// `root` or `issuer`.
    pub role: &'static str,
    /// Where it stands in its rotation.
    pub phase: &'static str,
    pub serial: Serial,
    pub subject: String,
    pub not_after: i64,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("rules", &self.inner.rules).finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the authority of a data directory, or makes a new one in an empty directory. Where keys are, their
    /// store must be: one that is gone, empty or another's is refused.
    pub async fn open(config: AuthorityConfig, clock: Arc<dyn Clock>) -> Result<Authority, AuthorityError> {
        // Large, and done once.
        Box::pin(Self::opened(config, clock)).await
    }

    async fn opened(config: AuthorityConfig, clock: Arc<dyn Clock>) -> Result<Authority, AuthorityError> {
        config.validate()?;
        let now = clock.unix_seconds();
        let table = match config.shared_keys {
            SharedKeys::Store => SealedTable::open(&config.store, config.dev).await?,
            SharedKeys::DataDir | SharedKeys::Folder(_) => None,
        };
        let sealed_keys = table.clone();
        // Passphrases are stretched and files synced: not on a thread that serves others.
        let (config, lock, vault, (row_mac, founding), mut replica, audit_key) =
            tokio::task::spawn_blocking(move || {
                files::private_directory(&config.data_dir)?;
                let lock = lock(&config.data_dir)?;
                let shared = match (&config.shared_keys, table) {
                    (_, Some(table)) => Shelf::Store(table),
                    (SharedKeys::Folder(folder), None) => Shelf::Folder(folder.clone()),
                    (SharedKeys::DataDir | SharedKeys::Store, None) => Shelf::Folder(config.data_dir.clone()),
                };
                let keys = KeyStore::connect(&config.keys, &config.trust_domain, &config.data_dir)
                    .map_err(HierarchyError::from)?;
                let domain = config.trust_domain.as_str();
                let mut vault = Vault::open(&config.data_dir, shared, domain, &config.seal, keys)?;
                let brought = vault.bring_shared()?;
                if !brought.is_empty() {
                    tracing::warn!(target: "signet::ca", keys = ?brought, "brought the keys that control planes share from the data directory to where they are shared");
                }
                let known = Replica::read(&config.data_dir, config.replica.as_deref())?;
                let row_mac = row_mac(&mut vault, &config.data_dir)?;
                if let Some(copy) = manifest::arrived(&config.data_dir, &RowMac::new(&row_mac.0))? {
                    tracing::warn!(target: "signet::ca", made_at = copy.at, log_sequence = copy.log_sequence,
                        "this start is from a copy, which knows nothing of what came after it: run `signet ca recover restored` now");
                }
                let replica = match known {
                    Some(replica) => replica,
                    None => Replica::make(&config.data_dir, config.replica.as_deref())?,
                };
                let audit_key = audit_key(&mut vault, row_mac.1)?;
                // For whoever verifies an export: it is public, and written anew each time.
                files::write_public(
                    &config.data_dir.join("audit.pem"),
                    audit_key.public().to_pem().as_bytes(),
                )?;
                Ok::<_, AuthorityError>((config, lock, vault, row_mac, replica, audit_key))
            })
            .await
            .map_err(interrupted)??;

        let mac = RowMac::new(&row_mac);
        let metrics = Metrics::new()?;
        let owner = Owner {
            mesh: mac.mesh(),
            mac,
            replica: &replica,
            founding,
            dev: config.dev,
            commits: metrics.commits.clone(),
            missed: match config.log_failure {
                LogFailure::Refuse => None,
                LogFailure::Issue => Some(Missed::of(
                    &config.data_dir,
                    metrics.log_missed.clone(),
                    metrics.log_missed_waiting.clone(),
                )),
            },
        };
        let backups = Backups::of(&config);
        let store = Store::open(&config.store, &config.data_dir.join(DATABASE), owner, now).await?;
        // Before the set is read, so that nothing that changes meanwhile is missed.
        let changes = store.changes();
        let has_log = store.check_head(replica.fresh).await?;
        let revocations = Revocations::load(&store, now).await?;
        let inner = Inner {
            rules: Rules {
                control_plane: config.control_plane_id()?,
                trust_domain: config.trust_domain.clone(),
                system_namespace: config.system_namespace.clone(),
                lineage_life: seconds(config.lineage_life),
            },
            svid_ttl: seconds(config.svid_ttl),
            join_token_ttl: seconds(config.join_token_ttl),
            lives: Lives { root: seconds(config.root_life), issuer: seconds(config.issuer_life) },
            rotation: config.rotation,
            root_source: config.root,
            root_seen: Mutex::new(Seen::default()),
            reminded: AtomicI64::new(i64::MIN),
            replica: replica.name.clone(),
            data_dir: config.data_dir,
            vault: Arc::new(Mutex::new(vault)),
            view: RwLock::new(None),
            published: watch::Sender::new(Arc::default()),
            founding: AtomicBool::new(founding),
            leading: tokio::sync::Mutex::new(None),
            rotating: tokio::sync::Mutex::new(()),
            given_up: broadcast::channel(16).0,
            jwt_svid_ttl: seconds(config.jwt_svid_ttl),
            allow_ed25519: config.allow_ed25519,
            store,
            clock,
            attempts: Mutex::new(Attempts::new(config.failed_attempts_per_minute)),
            signing: Mutex::new(Signing::new()),
            workloads: Mutex::new(Signing::new()),
            processes: Mutex::new(Signing::per_minute(AGENT_PER_MINUTE)),
            jwt_svids: Mutex::new(Signing::per_minute(JWT_SVIDS_PER_MINUTE)),
            exchanges: Mutex::new(Signing::per_minute(EXCHANGES_PER_MINUTE)),
            exchange_keys: crate::exchange::Keys::default(),
            bootstrap_budget: Mutex::new(RecordBudget::new(50, 2)),
            peer_budget: Mutex::new(RecordBudget::new(200, 10)),
            operator_budget: Mutex::new(RecordBudget::new(100, 2)),
            metrics,
            revocations: watch::Sender::new(Arc::new(revocations)),
            lists: Lists::new(),
            audit_key,
            issuing: watch::Sender::default(),
            head: watch::Sender::new(None),
            log_retention: seconds(config.log_retention),
            backups,
            sealed_keys,
            _lock: lock,
        };
        if !has_log && !inner.store.made_here() {
            let version = concat!("version ", env!("CARGO_PKG_VERSION"));
            let mut writer = inner.store.begin().await?;
            writer.record(Entry::new(now, Event::ReplicaJoined, "authority").because(version)).await?;
            writer.commit().await?;
        }
        inner.look_at_root(now).await?;
        inner.begin_in_step(now).await?;
        if inner.view().is_ok() {
            inner.issuer(now).await?;
            inner.check_root().await?;
            inner.note_unnamed_keys().await?;
        }
        inner.remind(now);
        if founding {
            inner.founding.store(false, Ordering::Release);
            inner.with_vault(|vault| vault.forget_secret(&Role::Founding)).await?;
        }
        replica.settled(&inner.data_dir)?;
        inner.note_last_backup().await?;
        inner.publish_crls(now).await;
        let inner = Arc::new(inner);
        tokio::spawn(replicas::follow(changes, Arc::downgrade(&inner)));
        Ok(Authority { inner })
    }

    /// Whether there is a root under which it issues. Without one, which is so only where the root comes from outside
    /// and did not come yet, nothing but that is done.
    pub fn has_root(&self) -> bool {
        self.inner.view().is_ok()
    }

    /// Waits until there is a root.
    pub async fn rooted(&self) {
        let mut published = self.inner.published.subscribe();
        while !self.has_root() && published.changed().await.is_ok() {}
    }

    /// Runs an act that changes something to its end, whatever becomes of the caller.
    pub(crate) async fn act<T, F>(&self, act: impl FnOnce(Arc<Inner>) -> F) -> Result<T, AuthorityError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, AuthorityError>> + Send + 'static,
    {
        let result = tokio::spawn(act(Arc::clone(&self.inner))).await.map_err(interrupted)?;
        if let Err(error) = &result
            && error.refusal().is_none()
        {
            self.inner.metrics.failures.inc();
            tracing::error!(target: "signet::ca", %error, "an act of the authority failed");
        }
        result
    }

    /// Issues the control plane's own SVID: a new key each time, class `control-plane`, these DNS names
    /// beside its identity. The caller renews by calling again, at a third of its life.
    pub async fn self_issue(&self, dns_names: Vec<String>) -> Result<(OwnSvid, Issued), AuthorityError> {
        self.act(move |inner| async move {
            let now = inner.clock.unix_seconds();
            let pkcs8 = keys::generate().map_err(HierarchyError::from)?;
            let key = ProvenKey::own(&CaKey::from_pkcs8(&pkcs8).map_err(HierarchyError::from)?);
            let authorized = inner.rules.own_svid(dns_names);
            let issuer = inner.issuer(now).await?;
            let mut writer = inner.store.begin().await?;
            let issued =
                issue::issue(&mut writer, &authorized, &key, &issuer, (inner.svid_ttl, now), "authority")
                    .await?;
            // Peers that know only an older root find the way from ours to theirs.
            let cross = inner.published.borrow().cross.clone();
            let own = OwnSvid::new(issued.chain.iter().cloned().chain(cross).collect(), pkcs8)?;
            writer.commit().await?;
            inner.issued("self", &issued);
            Ok((own, issued))
        })
        .await
    }

    /// The identity that clients demand of the control plane.
    pub fn control_plane_id(&self) -> &SpiffeId {
        &self.inner.rules.control_plane
    }

    /// The root that signs now.
    pub fn root(&self) -> CertificateDer<'static> {
        self.inner
            .view
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map_or_else(|| CertificateDer::from(Vec::new()), |view| view.root.anchor.clone())
    }

    /// PEM text of every root by which this trust domain is verified, as it lies in `root.pem`.
    pub fn root_pem(&self) -> String {
        self.inner.published.borrow().roots.iter().map(|root| pem(root)).collect()
    }

    /// SHA-256 of the root's DER, which join bundles pin.
    pub fn root_sha256(&self) -> KeyId {
        KeyId::of(&self.root())
    }

    /// The mesh's name, which stays through every rotation: to it belong the store and the keys of one backup.
    pub fn mesh(&self) -> KeyId {
        self.inner.store.mesh()
    }

    /// The roots by which this trust domain is verified.
    pub fn trust_bundle(&self) -> Result<TrustBundle, BundleError> {
        TrustBundle::new(self.inner.rules.trust_domain.clone(), self.inner.published.borrow().roots.clone())
    }

    /// Counts up when what verifiers are told changes.
    pub fn bundle_sequence(&self) -> u64 {
        self.inner.published.borrow().sequence
    }

    /// Roots and issuers that are believed or about to be, for status and expiry alerts.
    pub fn certificates(&self) -> Vec<CertificateStatus> {
        self.inner.view().map(|view| certificates(&view)).unwrap_or_default()
    }

    /// The last records of the issuance log, oldest first; ten thousand at most.
    pub async fn records(&self, limit: u32) -> Result<Vec<Record>, AuthorityError> {
        Ok(self.inner.store.records(limit.min(10_000)).await?)
    }

    /// Walks the whole issuance log and the revocations beside it. Any edit, gap or cut is an error.
    pub async fn verify_chain(&self) -> Result<Verified, StoreError> {
        let domain = self.inner.rules.trust_domain.as_str();
        self.inner.store.verify_chain(&self.inner.audit_key.public(), domain).await
    }

    /// Records from the next one on, in the order of the log. A subscriber that lags loses records and is
    /// told how many.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Record>> {
        self.inner.store.subscribe()
    }

    /// Adds the authority's counters and expiry gauges to a registry.
    pub fn register_metrics(&self, registry: &prometheus::Registry) -> Result<(), AuthorityError> {
        Ok(self.inner.metrics.register(registry)?)
    }

    /// What time does by itself: the steps of rotations that are due, ended revocations, long dead join tokens
    /// and certificates forgotten, refusals that were only counted written down as one record. To be called about once a minute.
    pub async fn maintain(&self) -> Result<(), AuthorityError> {
        self.act(|inner| async move {
            let now = inner.clock.unix_seconds();
            inner.look_at_root(now).await?;
            inner.advance(now).await?;
            inner.remind(now);
            inner.tidy(now).await?;
            match inner.store.bring_missed(now).await {
                Ok(0) => {}
                Ok(brought) => tracing::warn!(target: "signet::ca", brought, "records that the issuance log had not taken are in it now"),
                Err(error) => tracing::error!(target: "signet::ca", %error, "the issuance log still takes no records"),
            }
            let mut writer = inner.store.begin_alone().await?;
            writer.sweep_sidecars(now.saturating_sub(24 * 3600)).await?;
            writer.sweep_tokens(now.saturating_sub(24 * 3600)).await?;
            writer.sweep_operators(now.saturating_sub(24 * 3600)).await?;
            writer.sweep_delegations(now.saturating_sub(3600)).await?;
            writer.sweep_deferred(now).await?;
            // As long as the log tells of it.
            writer.sweep_svids(now.saturating_sub(inner.log_retention)).await?;
            let swept = writer.sweep_revocations(now).await?;
            if swept {
                writer.mark_revocations(now).await?;
            }
            for budget in [&inner.bootstrap_budget, &inner.peer_budget, &inner.operator_budget] {
                let suppressed = budget.lock().unwrap_or_else(PoisonError::into_inner).flush();
                if suppressed > 0 {
                    let mut entry = Entry::new(now, Event::Refused, "authority").because("not-recorded");
                    entry.suppressed = suppressed;
                    writer.record(entry).await?;
                }
            }
            let domain = inner.rules.trust_domain.as_str();
            let times = (now.saturating_sub(inner.log_retention), now);
            if let Some(last) = writer.trim_log(&inner.audit_key, domain, times).await? {
                tracing::info!(target: "signet::ca", up_to = last, "removed old records of the issuance log");
            }
            writer.commit().await?;
            // Also where nothing was swept: should news of another control plane ever be lost, it is for a minute. With
            // them go the lists that are due.
            inner.publish_revocations(now).await
        })
        .await
    }

    /// Finishes what is being written and closes the store.
    pub async fn close(&self) {
        if let Some(backups) = &self.inner.backups {
            backups.stop();
        }
        if let Some(table) = &self.inner.sealed_keys {
            table.close().await;
        }
        self.inner.store.close().await;
    }
}

impl Inner {
    /// What is in force.
    pub(crate) fn view(&self) -> Result<Arc<View>, AuthorityError> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(view.ok_or(HierarchyError::NotActive { kind: "root" })?)
    }

    /// The issuer that signs now; a new one first, where it is due. On failure one that is still valid goes on.
    pub(crate) async fn issuer(&self, now: i64) -> Result<Arc<Issuer>, AuthorityError> {
        let mut view = self.view()?;
        if view.is_issuer_due(now, &self.rotation) {
            if let Err(error) = self.advance(now).await {
                tracing::error!(target: "signet::ca", %error, "a new issuer could not be made; the old one goes on while it is valid");
            }
            view = self.view()?;
        }
        let root = view.root.certificate.validity;
        if now > root.not_after {
            return Err(HierarchyError::RootEnded { not_after: root.not_after, now }.into());
        }
        if now < root.not_before {
            return Err(HierarchyError::ClockBeforeRoot { not_before: root.not_before, now }.into());
        }
        Ok(Arc::clone(&view.issuer))
    }

    /// The public key of a request, if it is of a kind that is certified here.
    pub(crate) fn key_of(&self, csr: &[u8]) -> Result<ProvenKey, Refusal> {
        ProvenKey::from_csr_allowing(csr, self.allow_ed25519)
    }

    pub(crate) fn issued(&self, by: &str, issued: &Issued) {
        self.metrics.issued.with_label_values(&[by, issued.class.as_str()]).inc();
        tracing::info!(
            target: "signet::ca", by, id = %issued.spiffe_id, class = %issued.class, serial = %issued.serial,
            not_after = issued.not_after, "issued a certificate"
        );
    }

    /// Counts and records a refusal, within the budget; hands back the error for the caller.
    pub(crate) async fn refuse(&self, stop: Stop, caller: Caller, actor: &str, now: i64) -> AuthorityError {
        let (refusal, about) = match stop {
            Stop::Refused(refusal, about) => (refusal, about),
            Stop::Failed(error) => return error,
        };
        self.metrics.refuse(refusal);
        let budget = match caller {
            Caller::Stranger => &self.bootstrap_budget,
            Caller::Peer => &self.peer_budget,
        };
        let taken = budget.lock().unwrap_or_else(PoisonError::into_inner).take(now);
        let Some(suppressed) = taken else {
            self.metrics.unrecorded.inc();
            return AuthorityError::Refused(refusal);
        };
        let (id, class) = about.map_or((String::new(), ""), |(id, class)| (id.to_string(), class.as_str()));
        tracing::warn!(
            target: "signet::ca", reason = refusal.label(), detail = refusal.detail(), id, class, actor, suppressed,
            "refused a certificate"
        );
        let mut entry = Entry::new(now, Event::Refused, actor).about(&id, class).because(refusal.label());
        entry.suppressed = suppressed;
        let written = async {
            let mut writer = self.store.begin().await?;
            writer.record(entry).await?;
            writer.commit().await
        };
        if let Err(error) = written.await {
            // The refusal stands whether or not it could be written down.
            budget.lock().unwrap_or_else(PoisonError::into_inner).put_back(suppressed);
            self.metrics.failures.inc();
            tracing::error!(target: "signet::ca", %error, "a refusal could not be recorded");
        }
        AuthorityError::Refused(refusal)
    }
}

pub(crate) fn interrupted(error: tokio::task::JoinError) -> AuthorityError {
    AuthorityError::Interrupted(error.to_string())
}

/// The key of the marks on stored rows, without which nothing in the store is believed; made by the first start. With
/// it, whether the first start is not finished yet.
fn row_mac(vault: &mut Vault, data_dir: &Path) -> Result<(Zeroizing<Vec<u8>>, bool), HierarchyError> {
    // In this order: whoever makes the mesh at the same moment says so before there is a key.
    if let Some(row_mac) = vault.secret(&Role::RowMac)? {
        return Ok((row_mac, vault.secret(&Role::Founding)?.is_some()));
    }
    let held = vault.held()?.into_iter().next();
    let present = held
        .map(|(kind, id)| Role::Authority { kind, id }.file_name())
        .or_else(|| data_dir.join(DATABASE).exists().then(|| DATABASE.to_owned()));
    // Also whoever comes with an empty data directory does not begin another mesh in the store of one.
    let present = match present {
        None => vault.bound_store()?,
        present => present,
    };
    if let Some(present) = present {
        return Err(HierarchyError::SecretMissing { file: Role::RowMac.file_name(), present });
    }
    vault.keep_secret(&Role::Founding, &[])?;
    Ok((vault.found_secret(&Role::RowMac, &keys::generate_mac()?)?, true))
}

/// The key that signs ends and checkpoints of the issuance log; made by the first start.
fn audit_key(vault: &mut Vault, founding: bool) -> Result<AuditKey, AuthorityError> {
    let pkcs8 = match vault.secret(&Role::Audit)? {
        Some(pkcs8) => pkcs8,
        None if founding => {
            let pkcs8 = keys::generate().map_err(HierarchyError::from)?;
            vault.found_secret(&Role::Audit, &pkcs8)?
        }
        None => {
            let (file, present) = (Role::Audit.file_name(), Role::RowMac.file_name());
            return Err(HierarchyError::SecretMissing { file, present }.into());
        }
    };
    Ok(AuditKey::from_pkcs8(&pkcs8).map_err(StoreError::from)?)
}

/// Roots and issuers, without those that are gone.
fn certificates(view: &View) -> Vec<CertificateStatus> {
    let mut all: Vec<CertificateStatus> = view
        .entries
        .iter()
        .filter(|entry| entry.slot.phase != Phase::Removed && entry.slot.phase != Phase::Requested)
        .filter(|entry| matches!(entry.slot.kind, Kind::Root | Kind::Issuer))
        .filter_map(|entry| {
            let certificate = entry.signing_certificate().ok()?;
            Some(CertificateStatus {
                role: entry.slot.kind.as_str(),
                phase: entry.slot.phase.as_str(),
                serial: certificate.serial,
                subject: certificate.subject,
                not_after: certificate.validity.not_after,
            })
        })
        .collect();
    all.sort_by_key(|status| (status.role != "root", status.phase != "active", status.not_after));
    all
}

fn lock(directory: &Path) -> Result<File, AuthorityError> {
    let path = directory.join("lock");
    let io = |source| FileError::Io { action: "lock", path: path.clone(), source };
    let file = {
        use std::os::unix::fs::OpenOptionsExt as _;
        File::options().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(io)?
    };
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(AuthorityError::AlreadyOpen { path: directory.to_path_buf() })
        }
        Err(std::fs::TryLockError::Error(source)) => Err(io(source).into()),
    }
}
