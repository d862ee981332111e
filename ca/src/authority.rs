//! The authority as its caller sees it.
//!
//! Opening it checks the data directory, opens or makes the hierarchy, opens the store, checks the end of
//! the issuance log and proves on a throwaway key that a certificate made here is one that peers accept.
//! Every act that changes something runs in a task of its own: a caller that goes away does not tear it.

use std::fs::File;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::CertificateDer;
use signet_identity::{BundleError, KeyId, OwnSvid, Serial, SpiffeId, TrustBundle};
use signet_token::SigningKey;
use tokio::sync::{broadcast, watch};

use crate::authorise::{Rules, Stop};
use crate::clock::Clock;
use crate::config::{AuthorityConfig, seconds};
use crate::csr::ProvenKey;
use crate::error::AuthorityError;
use crate::files::{self, FileError};
use crate::hierarchy::{Hierarchy, HierarchyError, Lives, pem};
use crate::issue::{self, Issued, note_issuer};
use crate::keys::{self, CaKey};
use crate::keystore::KeyStore;
use crate::limits::{Attempts, RecordBudget, Renewals};
use crate::metrics::Metrics;
use crate::record::{Entry, Event, Record};
use crate::refusal::Refusal;
use crate::revoke::Revocations;
use crate::seal::{Role, Sealer};
use crate::store::{Owner, RowMac, Store, StoreError, Verified};

const DATABASE: &str = "authority.db";

/// The certificate authority of one trust domain. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) rules: Rules,
    pub(crate) svid_ttl: i64,
    pub(crate) join_token_ttl: i64,
    pub(crate) hierarchy: Arc<Hierarchy>,
    /// Requests with Ed25519 keys are answered.
    allow_ed25519: bool,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) attempts: Mutex<Attempts>,
    pub(crate) renewals: Mutex<Renewals>,
    bootstrap_budget: Mutex<RecordBudget>,
    peer_budget: Mutex<RecordBudget>,
    pub(crate) metrics: Metrics,
    pub(crate) revocations: watch::Sender<Arc<Revocations>>,
    pub(crate) token_key: SigningKey,
    /// Held as long as the authority lives, so that no second process serves the same directory.
    _lock: File,
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
    /// Opens the authority of a data directory, or makes a new one in an empty directory. Where a root is, its
    /// store must be: one that is gone, empty or another's is refused.
    pub async fn open(config: AuthorityConfig, clock: Arc<dyn Clock>) -> Result<Authority, AuthorityError> {
        config.validate()?;
        let now = clock.unix_seconds();
        // Passphrases are stretched and files synced: not on a thread that serves others.
        let (config, lock, hierarchy) = tokio::task::spawn_blocking(move || {
            let directory = config.data_dir.as_path();
            files::private_directory(directory)?;
            let lock = lock(directory)?;
            let sealer = Sealer::open(directory, config.trust_domain.as_str(), &config.seal)?;
            let lives = Lives { root: seconds(config.root_life), issuer: seconds(config.issuer_life) };
            let present =
                [Role::Issuer.file_name(), Role::RowMac.file_name(), Role::TokenRoot.file_name(), DATABASE]
                    .into_iter()
                    .find(|name| directory.join(name).exists());
            let keys = KeyStore::connect(&config.keys, &config.trust_domain, directory)
                .map_err(HierarchyError::from)?;
            let keep = (sealer, keys);
            let hierarchy = Hierarchy::open(directory, &config.trust_domain, lives, keep, present, now)?;
            Ok::<_, AuthorityError>((config, lock, hierarchy))
        })
        .await
        .map_err(interrupted)??;

        let row_mac = hierarchy.secret(Role::RowMac, keys::generate_mac)?;
        let token_key = hierarchy.secret(Role::TokenRoot, keys::generate)?;
        let token_key = SigningKey::from_pkcs8(&token_key)?;
        let owner = Owner {
            mac: RowMac::new(&row_mac),
            replica: &config.replica,
            root: hierarchy.root.sha256(),
            founding: hierarchy.founding,
        };
        let store = Store::open(&config.data_dir.join(DATABASE), owner).await?;
        let has_log = store.check_head(hierarchy.founding).await?;
        let revocations = Revocations::load(&store, now).await?;
        let metrics = Metrics::new()?;
        let inner = Inner {
            rules: Rules {
                control_plane: config.control_plane_id()?,
                trust_domain: config.trust_domain,
                system_namespace: config.system_namespace,
                lineage_life: seconds(config.lineage_life),
            },
            svid_ttl: seconds(config.svid_ttl),
            join_token_ttl: seconds(config.join_token_ttl),
            hierarchy: Arc::new(hierarchy),
            allow_ed25519: config.allow_ed25519,
            store,
            clock,
            attempts: Mutex::new(Attempts::new(config.failed_attempts_per_minute)),
            renewals: Mutex::new(Renewals::new()),
            bootstrap_budget: Mutex::new(RecordBudget::new(50, 2)),
            peer_budget: Mutex::new(RecordBudget::new(200, 10)),
            metrics,
            revocations: watch::Sender::new(Arc::new(revocations)),
            token_key,
            _lock: lock,
        };
        inner.prove(now).await?;
        inner.note_hierarchy(has_log, now).await?;
        inner.hierarchy.founded()?;
        Ok(Authority { inner: Arc::new(inner) })
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
            let own = OwnSvid::new(issued.chain.clone(), pkcs8)?;
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

    pub fn root(&self) -> &CertificateDer<'static> {
        &self.inner.hierarchy.root.der
    }

    /// PEM text of the root, as it lies in `root.pem`.
    pub fn root_pem(&self) -> String {
        pem(self.root())
    }

    /// SHA-256 of the root's DER, which join bundles pin.
    pub fn root_sha256(&self) -> KeyId {
        self.inner.hierarchy.root.sha256()
    }

    /// The roots by which this trust domain is verified.
    pub fn trust_bundle(&self) -> Result<TrustBundle, BundleError> {
        TrustBundle::new(self.inner.rules.trust_domain.clone(), [self.root().clone()])
    }

    /// Counts up when the roots change.
    pub fn bundle_sequence(&self) -> u64 {
        1
    }

    /// Root and issuer, for status and expiry alerts.
    pub fn certificates(&self) -> Vec<CertificateStatus> {
        self.inner.certificates()
    }

    /// The last records of the issuance log, oldest first; ten thousand at most.
    pub async fn records(&self, limit: u32) -> Result<Vec<Record>, AuthorityError> {
        Ok(self.inner.store.records(limit.min(10_000)).await?)
    }

    /// Walks the whole issuance log and the revocations beside it. Any edit, gap or cut is an error.
    pub async fn verify_chain(&self) -> Result<Verified, StoreError> {
        self.inner.store.verify_chain().await
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

    /// What time does by itself: a new issuer when it is due, ended revocations and long dead join tokens
    /// forgotten, refusals that were only counted written down as one record. To be called about once a minute.
    pub async fn maintain(&self) -> Result<(), AuthorityError> {
        self.act(|inner| async move {
            let now = inner.clock.unix_seconds();
            let issuer = inner.issuer(now).await?;
            let mut writer = inner.store.begin_alone().await?;
            note_issuer(&mut writer, &issuer, now).await?;
            writer.sweep_tokens(now.saturating_sub(24 * 3600)).await?;
            let swept = writer.sweep_revocations(now).await?;
            if swept {
                writer.mark_revocations(now).await?;
            }
            for budget in [&inner.bootstrap_budget, &inner.peer_budget] {
                let suppressed = budget.lock().unwrap_or_else(PoisonError::into_inner).flush();
                if suppressed > 0 {
                    let mut entry = Entry::new(now, Event::Refused, "authority").because("not-recorded");
                    entry.suppressed = suppressed;
                    writer.record(entry).await?;
                }
            }
            writer.commit().await?;
            if swept {
                inner.publish_revocations(now).await?;
            }
            Ok(())
        })
        .await
    }

    /// Finishes what is being written and closes the store.
    pub async fn close(&self) {
        self.inner.store.close().await;
    }
}

impl Inner {
    /// The issuer that signs now, its expiry gauge brought up to date.
    pub(crate) async fn issuer(&self, now: i64) -> Result<Arc<crate::hierarchy::Issuer>, AuthorityError> {
        let current = self.hierarchy.current();
        let issuer = if current.is_due(now) {
            // Passphrases, files, perhaps a token: not on a thread that serves others.
            let hierarchy = Arc::clone(&self.hierarchy);
            tokio::task::spawn_blocking(move || hierarchy.issuer(now)).await.map_err(interrupted)??
        } else {
            current
        };
        self.show_expiry();
        Ok(issuer)
    }

    /// The public key of a request, if it is of a kind that is certified here.
    pub(crate) fn key_of(&self, csr: &[u8]) -> Result<ProvenKey, Refusal> {
        ProvenKey::from_csr_allowing(csr, self.allow_ed25519)
    }

    fn certificates(&self) -> Vec<CertificateStatus> {
        let issuer = self.hierarchy.current();
        [("root", &self.hierarchy.root), ("issuer", &issuer.certificate)]
            .into_iter()
            .map(|(role, certificate)| CertificateStatus {
                role,
                serial: certificate.serial,
                subject: certificate.subject.clone(),
                not_after: certificate.validity.not_after,
            })
            .collect()
    }

    fn show_expiry(&self) {
        for status in self.certificates() {
            self.metrics.not_after.with_label_values(&[status.role]).set(status.not_after);
        }
    }

    /// Issues to a throwaway key, and verifies the chain with the library that peers use.
    async fn prove(&self, now: i64) -> Result<(), AuthorityError> {
        let pkcs8 = keys::generate().map_err(HierarchyError::from)?;
        let key = ProvenKey::own(&CaKey::from_pkcs8(&pkcs8).map_err(HierarchyError::from)?);
        let issuer = self.issuer(now).await?;
        let signed = issue::sign(&self.rules.proof(), &key, &issuer, self.svid_ttl, now).await?;
        self.hierarchy.verify_like_a_peer(&signed.der, &issuer.certificate.der, now)?;
        Ok(())
    }

    async fn note_hierarchy(&self, has_log: bool, now: i64) -> Result<(), AuthorityError> {
        let issuer = self.issuer(now).await?;
        let mut writer = self.store.begin().await?;
        if !has_log {
            let root = &self.hierarchy.root;
            let entry = Entry::new(now, Event::RootMade, "authority")
                .certificate(&root.serial.to_string(), root.validity.not_after);
            writer.record(entry).await?;
        }
        note_issuer(&mut writer, &issuer, now).await?;
        Ok(writer.commit().await?)
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

fn interrupted(error: tokio::task::JoinError) -> AuthorityError {
    AuthorityError::Interrupted(error.to_string())
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
