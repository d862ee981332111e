//! Puts the parts together, and takes them down again.
//!
//! Order matters: configuration and registry are valid and the authority has proved itself before any door
//! opens; `addresses.json` appears when all of them are open. On the way down doors close first, streams
//! are told, and the authority closes its store last.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signet_ca::{
    Authority, AuthorityConfig, AuthorityError, BackupConfig, Login, PostgresConfig, SealConfig, SealSource,
    SharedRegistrar, StoreConfig, StoreError, SystemClock,
};
use signet_daemon::{Drain, MetricsServer, Shutdown};
use signet_model::{Options, RegistryErrors};
use signet_proto::istio::istio_certificate_service_server::IstioCertificateServiceServer;
use signet_proto::v1;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::attest::Attestation;
use crate::attest::kubernetes::Kubernetes;
use crate::backup;
use crate::bundle::certificate::{Certificate, CertificateError};
use crate::bundle::door;
use crate::bundle::page::Pages;
use crate::chains::{self, Chains};
use crate::cluster::api::Api;
use crate::cluster::lease::Lease;
use crate::cluster::source::Source as ClusterSource;
use crate::cluster::{self, status};
use crate::config::{Config, RegistrySource, Seal, WebTls};
use crate::decisions::Decisions;
use crate::delivery::acks::Acks;
use crate::delivery::spread::Spread;
use crate::delivery::stream::{self, Delivery};
use crate::delivery::table::Table;
use crate::federation::Federation;
use crate::fetch;
use crate::intake::Intake;
use crate::issuers::Issuers;
use crate::issuers::fetch::Source;
use crate::istio;
use crate::istio::config::Istio as IstioConfig;
use crate::listen::{bootstrap, mesh, public, unix};
use crate::metrics::Metrics;
use crate::operators::guard::{Desk, Guarded};
use crate::operators::login::Logins;
use crate::own::{Own, OwnError};
use crate::registrar::{ForApps, FromRegistry};
use crate::registry::Folder;
use crate::services::{
    bootstrap as attest, exchange, federation as operators_of_federation, identity, operator, people,
    process, recovery, roots, rotation,
};
use crate::waiting;
use crate::webhook;
use crate::world::Sources;

/// How long connections may take to end once the process drains.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the Lease may take to be given back.
const LEAVING: Duration = Duration::from_secs(2);
const MAINTAIN: Duration = Duration::from_secs(60);
/// How often the folder with the root is looked at, where there is one.
const ROOT_FOLDER: Duration = Duration::from_secs(30);
/// How often the control planes of one store tell each other that they live.
const BEAT: Duration = Duration::from_secs(10);
/// What was fetched last, in the data directory.
const ISSUER_KEYS: &str = "issuer-keys.json";
const FEDERATED_BUNDLES: &str = "federated-bundles.json";
/// What an exported bundle says where no endpoint is configured.
const DEFAULT_REFRESH_HINT: Duration = Duration::from_secs(300);

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the registry is refused:\n{0}")]
    Registry(#[from] RegistryErrors),
    #[error("the authority: {0}")]
    Authority(#[from] AuthorityError),
    #[error("the control plane's own certificate: {0}")]
    Own(#[from] OwnError),
    #[error("{what} cannot listen on {address}: {source}")]
    Listen { what: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("the operator's socket: {0}")]
    Socket(#[from] signet_daemon::SocketError),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("the TLS client for key sets and bundles: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the bundle endpoint: {0}")]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    File(#[from] signet_daemon::FileError),
    /// The process was told to end while it waited for a root. Nothing is wrong.
    #[error("ended before there was a root")]
    Ended,
}

/// A control plane that serves.
pub struct Running {
    pub bootstrap: SocketAddr,
    pub mesh: SocketAddr,
    pub istio: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    pub bundle: Option<SocketAddr>,
    pub authority: Authority,
    /// Look at the registry's folder now.
    pub look: Arc<Notify>,
    doors: JoinSet<()>,
    connections: Drain,
    background: JoinSet<()>,
    issuers: Arc<Issuers>,
    federation: Arc<Federation>,
    shutdown: Shutdown,
    files: Vec<PathBuf>,
    /// Ends when the Lease is given back.
    leaving: Option<tokio::task::JoinHandle<()>>,
}

/// Starts everything; returns when all doors are open.
///
/// # Errors
/// [`StartError`]: nothing serves then.
pub async fn start(
    config: &Config,
    limits: bootstrap::Limits,
    shutdown: Shutdown,
) -> Result<Running, StartError> {
    let metrics = Metrics::new()?;
    let folder = match &config.registry {
        RegistrySource::Folder(path) => Some(Folder::open(path, registry_options(config))?),
        RegistrySource::Kubernetes(_) => None,
    };
    let authority = Authority::open(authority_config(config), Arc::new(SystemClock)).await?;
    authority.register_metrics(&metrics.registry)?;
    let addresses_file = config.data_dir.join("addresses.json");
    let _ = std::fs::remove_file(&addresses_file);

    let mut background = JoinSet::new();
    let mut addresses = Vec::new();
    let metrics_at = match config.metrics_listen {
        None => None,
        Some(address) => {
            let failed = |source| StartError::Listen { what: "metrics", address, source };
            let probed = authority.clone();
            let opened = Arc::new(AtomicBool::new(false));
            let server = MetricsServer::bind(address, metrics.registry.clone(), {
                let opened = Arc::clone(&opened);
                move || waiting::readiness(&probed, opened.load(Ordering::Acquire))
            });
            let server = server.await.map_err(failed)?;
            let bound = server.local_addr().map_err(failed)?;
            addresses.push(("metrics", bound));
            background.spawn(server.run(shutdown.clone()));
            Some((bound, opened))
        }
    };
    let uids = uids(config);
    let desk = Arc::new(Desk {
        config: config.operators.clone(),
        authority: authority.clone(),
        approvals: Default::default(),
        metrics: metrics.clone(),
        max_message: operator::MAX_MESSAGE,
    });
    let rotations = rotation::Rotation { authority: authority.clone(), metrics: metrics.clone() };
    let roots = roots::Roots { authority: authority.clone(), metrics: metrics.clone() };
    if !authority.has_root() {
        let people = people::People {
            desk: Arc::clone(&desk),
            authority: authority.clone(),
            trust_domain: config.trust_domain.clone(),
            advertise_bootstrap: config.advertise_bootstrap.clone().unwrap_or_default(),
            advertise_mesh: config.advertise_mesh.clone().unwrap_or_default(),
        };
        let routes = waiting::routes(people, rotations.clone(), roots.clone(), &desk);
        let door = (operator_socket(config, &uids)?, Arc::clone(&uids));
        if !waiting::for_a_root(&authority, &config.root, door, routes, &metrics, &shutdown).await {
            background.shutdown().await;
            authority.close().await;
            let _ = std::fs::remove_file(&config.operator_socket);
            return Err(StartError::Ended);
        }
    }

    let trust_domain = config.trust_domain.clone();
    let source = match &config.registry {
        RegistrySource::Folder(_) => None,
        RegistrySource::Kubernetes(cluster) => {
            let cluster = cluster.as_ref();
            let counters = cluster::metrics::Metrics::new(&metrics.registry)?;
            let opened = ClusterSource::open(
                cluster,
                registry_options(config),
                &config.data_dir,
                counters.clone(),
                &mut background,
            );
            let opened = tokio::select! {
                opened = opened => Some(opened),
                () = shutdown.draining() => None,
            };
            let Some(source) = opened else {
                background.shutdown().await;
                authority.close().await;
                return Err(StartError::Ended);
            };
            Some((source, cluster, counters))
        }
    };
    let registry = match (&folder, &source) {
        (Some(folder), _) => folder.subscribe(),
        (None, Some((source, ..))) => source.subscribe(),
        (None, None) => return Err(StartError::Ended),
    };
    let client = fetch::Client::new(config.allow_private_addresses, config.allow_http, fetch::TIMEOUT)?;
    let issuers = Issuers::new(client, &config.data_dir.join(ISSUER_KEYS));
    let client = fetch::Client::new(config.federation_private_addresses, false, fetch::TIMEOUT)?;
    let federation = Federation::new(client, &config.data_dir.join(FEDERATED_BUNDLES), metrics.clone());
    let mut sources = Sources {
        dev: config.dev,
        authority: authority.clone(),
        published: authority.published(),
        revocations: authority.revocations(),
        crls: authority.crls(),
        registry: registry.clone(),
        keys: issuers.subscribe(),
        federated: federation.subscribe(),
        providers: provider_sources(config),
    };
    let now = sources.now();
    issuers.follow(&sources.key_sources(&now.registry));
    federation.follow(&now.registry);
    let world = watch::Sender::new(now);
    let mut names: Vec<String> = config.istio.iter().flat_map(|istio| &istio.dns_names).cloned().collect();
    names.extend(config.webhook.iter().flat_map(|webhook| &webhook.dns_names).cloned());
    names.sort();
    names.dedup();
    let own =
        Own::begin(authority.clone(), config.system_namespace.as_str(), &names, metrics.clone()).await?;

    let bootstrap_listener = bind("the bootstrap door", config.bootstrap_listen)?;
    let mesh_listener = bind("the mesh door", config.mesh_listen)?;
    let istio_listener = match &config.istio {
        None => None,
        Some(istio) => Some((bind("the door for Istio's clients", istio.listen)?, istio)),
    };
    let socket = operator_socket(config, &uids)?;
    let (bootstrap_at, mesh_at) =
        (local(&bootstrap_listener, config.bootstrap_listen)?, local(&mesh_listener, config.mesh_listen)?);

    let refresh_hint = config.bundle.as_ref().map_or(DEFAULT_REFRESH_HINT, |bundle| bundle.refresh_hint);
    let pages = Pages::new(authority.clone(), refresh_hint);
    let listed = FromRegistry {
        trust_domain: trust_domain.clone(),
        registry: registry.clone(),
        allow_unregistered: false,
    };
    let attestation = attestation(config, &authority, &listed, &metrics)?;
    let allow_unregistered =
        attestation.as_ref().is_some_and(|attestation| attestation.kubernetes.allows_unregistered());
    let registrar: SharedRegistrar = Arc::new(listed);
    let table = Arc::new(Table::default());
    let decisions = Arc::new(Decisions::default());
    let call_chains = Arc::new(Chains::default());
    let acks = Arc::new(Acks::default());
    let spread = Arc::new(Spread::new(metrics.revocation_seconds.clone(), metrics.revocation_behind.clone()));
    spread.begins(world.borrow().revocations);
    let delivery = Delivery {
        world: world.subscribe(),
        table: Arc::clone(&table),
        acks: Arc::clone(&acks),
        spread: Arc::clone(&spread),
        authority: authority.clone(),
        decisions: Arc::clone(&decisions),
        chains: Arc::clone(&call_chains),
        issuers: Arc::clone(&issuers),
        metrics: metrics.clone(),
    };
    let peers = identity::Peers {
        authority: authority.clone(),
        registrar: registrar.clone(),
        attestation: attestation.clone(),
        trust_domain: trust_domain.clone(),
        registry: registry.clone(),
        metrics: metrics.clone(),
    };
    let token_service = exchange::TokenService {
        authority: authority.clone(),
        registrar: registrar.clone(),
        trust_domain: trust_domain.clone(),
        registry: registry.clone(),
        issuers: Arc::clone(&issuers),
        chains: Arc::clone(&call_chains),
        metrics: metrics.clone(),
    };
    let advertise_bootstrap = config.advertise_bootstrap.clone().unwrap_or_else(|| bootstrap_at.to_string());
    let advertise_mesh = config.advertise_mesh.clone().unwrap_or_else(|| mesh_at.to_string());
    let logins = Logins {
        config: config.operators.clone(),
        authority: authority.clone(),
        issuers: Arc::clone(&issuers),
    };
    let people = people::People {
        desk: Arc::clone(&desk),
        authority: authority.clone(),
        trust_domain: trust_domain.clone(),
        advertise_bootstrap: advertise_bootstrap.clone(),
        advertise_mesh: advertise_mesh.clone(),
    };
    let operators = operator::Operators {
        authority: authority.clone(),
        trust_domain: trust_domain.clone(),
        dev: config.dev,
        advertise_bootstrap,
        advertise_mesh,
        registry: registry.clone(),
        generation: own.current(),
        issuers: Arc::clone(&issuers),
        table,
        spread: Arc::clone(&spread),
        waits: Arc::new(Semaphore::new(operator::WAITS)),
        decisions,
        chains: Arc::clone(&call_chains),
        metrics: metrics.clone(),
    };

    let federated = operators_of_federation::Federated {
        federation: Arc::clone(&federation),
        pages: Arc::clone(&pages),
        trust_domain,
        control_plane: authority.control_plane_id().clone(),
        metrics: metrics.clone(),
    };

    let (mut doors, connections) = (JoinSet::new(), Drain::new());
    let look = Arc::new(Notify::new());
    let files = vec![addresses_file, config.operator_socket.clone()];
    addresses.extend([("bootstrap", bootstrap_at), ("mesh", mesh_at)]);

    if let Some(attestation) = &attestation {
        attestation.kubernetes.follow(&mut background);
    }
    let istio_at = istio_listener.as_ref().and_then(|(listener, _)| listener.local_addr().ok());
    addresses.extend(istio_at.map(|address| ("istio", address)));
    if let (Some((listener, istio)), Some(attestation)) = (istio_listener, attestation.clone()) {
        doors.spawn(bootstrap::listen(
            bootstrap::ISTIO,
            listener,
            own.current(),
            istio_routes(attestation, istio.clone()),
            limits,
            metrics.clone(),
            shutdown.clone(),
            connections.clone(),
        ));
    }
    let mut bundle_at = None;
    if let Some(bundle) = &config.bundle {
        let listener = bind("the bundle endpoint", bundle.listen)?;
        let bound = local(&listener, bundle.listen)?;
        addresses.push(("bundle", bound));
        bundle_at = Some(bound);
        let documents =
            door::Documents { pages, path: bundle.path.as_str().into(), metrics: metrics.clone() };
        let public = public::Public {
            name: "bundle",
            bounds: public::STRANGERS,
            certificate: presented(bundle.tls.as_ref(), &own, &mut background).await?,
            metrics: metrics.clone(),
            shutdown: shutdown.clone(),
            drain: connections.clone(),
        };
        doors.spawn(public::listen(listener, public, documents));
    }
    if let Some(at) = &config.intake {
        let listener = bind("the intake", at.listen)?;
        addresses.push(("intake", local(&listener, at.listen)?));
        let intake = Intake::new(authority.clone(), registry.clone(), Arc::clone(&issuers), metrics.clone());
        let public = public::Public {
            name: "intake",
            bounds: public::STRANGERS,
            certificate: presented(at.tls.as_ref(), &own, &mut background).await?,
            metrics: metrics.clone(),
            shutdown: shutdown.clone(),
            drain: connections.clone(),
        };
        doors.spawn(public::listen(listener, public, intake));
    }
    if let Some(at) = &config.webhook {
        let listener = bind("the webhook", at.listen)?;
        addresses.push(("webhook", local(&listener, at.listen)?));
        let public = public::Public {
            name: "webhook",
            bounds: webhook::BOUNDS,
            certificate: Certificate::own(own.current()),
            metrics: metrics.clone(),
            shutdown: shutdown.clone(),
            drain: connections.clone(),
        };
        let followed = source.as_ref().map(|(source, cluster, _)| (source, *cluster));
        let resources = followed.map(|(source, cluster)| {
            webhook::resources::Resources::new(
                Arc::clone(&source.api),
                Arc::clone(&source.store),
                cluster.translated_by(registry_options(config)),
            )
        });
        let answer = webhook::Webhook::new(Arc::new(at.injection.clone()), resources, metrics.clone());
        doors.spawn(public::listen(listener, public, answer));
    }
    if let Some(publisher) = publisher(config, source.as_ref(), &authority) {
        background.spawn(publisher.keep());
    }

    doors.spawn(bootstrap::listen(
        bootstrap::BOOTSTRAP,
        bootstrap_listener,
        own.current(),
        stranger_routes(authority.clone(), registrar, attestation, logins),
        limits,
        metrics.clone(),
        shutdown.clone(),
        connections.clone(),
    ));
    let operator_routes = operator_routes(operators, people, (rotations, roots), &desk, federated);
    doors.spawn(mesh::listen(
        mesh_listener,
        mesh::Mesh {
            generation: own.current(),
            revocations: authority.revocations(),
            published: authority.published(),
            registry: registry.clone(),
            trust_domain: config.trust_domain.clone(),
            allow_unregistered,
            routes: peer_routes(peers, token_service, delivery),
            operators: (!config.operators.providers.is_empty()).then(|| operator_routes.clone()),
            metrics: metrics.clone(),
            shutdown: shutdown.clone(),
            drain: connections.clone(),
        },
    ));
    doors.spawn(unix::listen(
        socket,
        uids,
        operator_routes,
        metrics.clone(),
        shutdown.clone(),
        connections.clone(),
    ));
    background.spawn(chains::judge::run(call_chains, authority.clone(), metrics.clone()));
    background.spawn(crate::observe::follow(registry, issuers.subscribe(), federation.subscribe(), metrics));
    background.spawn(Arc::clone(&spread).tell(authority.clone()));
    background.spawn(sources.follow(world, Arc::clone(&issuers), Arc::clone(&federation), spread));
    if let Some(folder) = folder {
        background.spawn(folder.follow(Arc::clone(&look)));
    }
    let mut leaving = None;
    if let Some((source, cluster, counters)) = source {
        leaving = write_statuses(config, cluster, &source, counters, &shutdown, &mut background);
        background.spawn(source.follow());
    }
    background.spawn(own.keep());
    background.spawn(maintain(authority.clone()));
    background.spawn(waiting::watch(authority.clone(), ROOT_FOLDER));
    background.spawn(beat(authority.clone()));
    if let Some(every) = config.backup.as_ref().and_then(|backup| backup.every) {
        background.spawn(backup::keep(authority.clone(), every));
    }
    background.spawn(acks.pass_on(authority.clone()));

    signet_daemon::write_addresses(&config.data_dir, addresses)?;
    tracing::info!(
        target: "signet::run", bootstrap = %bootstrap_at, mesh = %mesh_at, trust_domain = %config.trust_domain,
        root_sha256 = %authority.root_sha256(), dev = config.dev, "the control plane is ready"
    );
    Ok(Running {
        bootstrap: bootstrap_at,
        mesh: mesh_at,
        istio: istio_at,
        metrics: metrics_at.map(|(bound, opened)| {
            opened.store(true, Ordering::Release);
            bound
        }),
        bundle: bundle_at,
        authority,
        look,
        doors,
        connections,
        background,
        issuers,
        federation,
        shutdown,
        files,
        leaving,
    })
}

/// Who gives the mesh's roots to the cluster: wherever the registry is a cluster's, and wherever we inject.
fn publisher(
    config: &Config,
    source: Option<&(ClusterSource, &cluster::config::Cluster, cluster::metrics::Metrics)>,
    authority: &Authority,
) -> Option<webhook::publish::Publisher> {
    let webhook = config.webhook.as_ref();
    let (api, store, config_map) = match source {
        Some((source, cluster, _)) => {
            (Arc::clone(&source.api), Some(Arc::clone(&source.store)), cluster.roots.clone())
        }
        None => {
            let api = Arc::new(Api::new(&config.attestation.kubernetes.as_ref()?.place()));
            (api, None, webhook?.injection.roots_config_map.clone())
        }
    };
    let configuration = webhook.and_then(|it| it.configuration.clone());
    Some(webhook::publish::Publisher { api, authority: authority.clone(), configuration, config_map, store })
}

/// Has the statuses of the cluster's objects written, and pods looked for that are not in the mesh, by one control plane at a
/// time.
fn write_statuses(
    config: &Config,
    cluster: &cluster::config::Cluster,
    source: &ClusterSource,
    counters: cluster::metrics::Metrics,
    shutdown: &Shutdown,
    background: &mut JoinSet<()>,
) -> Option<tokio::task::JoinHandle<()>> {
    if !cluster.statuses {
        return None;
    }
    let (leads, leading) = watch::channel(false);
    let lease = Lease {
        api: Arc::clone(&source.api),
        namespace: config.system_namespace.to_string(),
        identity: cluster::lease::identity(config.replica.as_deref()),
        times: cluster.lease,
    };
    let watcher = cluster::members::Watcher {
        api: Arc::clone(&source.api),
        store: Arc::clone(&source.store),
        settings: cluster.translated_by(registry_options(config)),
        leads: leading.clone(),
        metrics: counters.clone(),
        instance: lease.identity.clone(),
        times: cluster::members::Times::default(),
    };
    background.spawn(watcher.follow());
    let writer = status::Writer {
        api: Arc::clone(&source.api),
        store: Arc::clone(&source.store),
        statuses: source.statuses(),
        leads: leading,
        metrics: counters,
    };
    background.spawn(writer.follow());
    let ends = shutdown.clone();
    Some(tokio::spawn(lease.contend(leads, async move { ends.draining().await })))
}

impl Running {
    /// Serves until the process drains, then takes everything down in order.
    pub async fn serve(mut self) {
        self.shutdown.draining().await;
        tracing::info!(target: "signet::run", "draining");
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
        self.doors.join_all().await;
        tokio::select! {
            left = self.connections.wait(DRAIN) => if let Err(left) = left {
                tracing::warn!(target: "signet::run", left, "connections cut at the end of the drain");
            },
            () = self.shutdown.stopping() => {}
        }
        self.issuers.stop();
        self.federation.stop();
        if let Some(leaving) = self.leaving.take() {
            let _ = tokio::time::timeout(LEAVING, leaving).await;
        }
        self.background.shutdown().await;
        // The failure was logged by the authority; then others wait for us as for one that fell silent.
        let _ = self.authority.leave_spread().await;
        self.authority.close().await;
        tracing::info!(target: "signet::run", "stopped");
    }
}

fn authority_config(config: &Config) -> AuthorityConfig {
    let source = match &config.seal {
        Seal::KeyFile(file) => SealSource::KeyFile(file.clone()),
        Seal::PassphraseFile(file) => SealSource::PassphraseFile(file.clone()),
    };
    let mut seal = SealConfig::key_file("");
    seal.source = source;
    seal.create_if_missing = config.dev;
    let mut authority = AuthorityConfig::new(config.trust_domain.clone(), &config.data_dir, seal);
    authority.system_namespace = config.system_namespace.to_string();
    authority.dev = config.dev;
    authority.lineage_life = Duration::from_secs(config.lineage_days.saturating_mul(24 * 3600));
    authority.keys = config.keys.for_authority();
    authority.allow_ed25519 = config.allow_ed25519;
    authority.svid_ttl = Duration::from_secs(config.svid_ttl_seconds);
    authority.store = config.store.clone();
    authority.replica = config.replica.clone();
    authority.shared_keys = config.shared_keys.clone();
    authority.log_retention = config.log_retention;
    authority.log_failure = config.log_failure;
    authority.rotation = config.rotation.when;
    authority.root_life = config.rotation.root_life;
    authority.root = config.root.clone();
    authority.backup = config.backup.as_ref().map(|backup| BackupConfig {
        dir: backup.dir.clone(),
        keep: backup.keep,
        also: vec![ISSUER_KEYS.into(), FEDERATED_BUNDLES.into()],
    });
    authority.jwt_svid_ttl = Duration::from_secs(config.jwt_svid_ttl_seconds);
    authority
}

/// Makes the tables of the configured PostgreSQL, as their owner, whose URL is in `url_file`; the configured user may
/// then use them. Without a file that user is the owner.
///
/// # Errors
/// A configuration without PostgreSQL, or what the store says.
pub async fn migrate(config: &Config, url_file: Option<&Path>) -> Result<(), MigrateError> {
    let StoreConfig::Postgres(runtime) = &config.store else { return Err(MigrateError::NotPostgres) };
    let login = url_file.map_or_else(|| runtime.login.clone(), |file| Login::UrlFile(file.to_owned()));
    let owner = PostgresConfig { login, ..runtime.clone() };
    Ok(signet_ca::migrate(&owner, Some(&runtime.user()?), config.dev).await?)
}

/// Why the schema was not brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("store: expected postgres: SQLite's tables are made at each start")]
    NotPostgres,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What pods prove themselves by, where the configuration has a cluster.
fn attestation(
    config: &Config,
    authority: &Authority,
    listed: &FromRegistry,
    metrics: &Metrics,
) -> Result<Option<Attestation>, StartError> {
    let Some(kubernetes) = config.attestation.kubernetes.clone() else { return Ok(None) };
    let counters = crate::attest::metrics::Metrics::new(&metrics.registry)?;
    let found = FromRegistry { allow_unregistered: kubernetes.allow_unregistered, ..listed.clone() };
    Ok(Some(Attestation {
        authority: authority.clone(),
        kubernetes: Arc::new(Kubernetes::new(kubernetes, Arc::new(SystemClock), counters)),
        registry: listed.registry.clone(),
        trust_domain: listed.trust_domain.clone(),
        apps: Arc::new(ForApps(found.clone())),
        ours: Arc::new(found),
    }))
}

fn istio_routes(attestation: Attestation, config: IstioConfig) -> Routes {
    let service = IstioCertificateServiceServer::new(istio::Certificates { attestation, config })
        .max_decoding_message_size(istio::MAX_MESSAGE);
    Routes::new(service).prepare()
}

fn stranger_routes(
    authority: Authority,
    registrar: SharedRegistrar,
    attestation: Option<Attestation>,
    logins: Logins,
) -> Routes {
    let bootstrap = attest::Bootstrap { authority, registrar, attestation, logins };
    let service =
        v1::bootstrap_server::BootstrapServer::new(bootstrap).max_decoding_message_size(attest::MAX_MESSAGE);
    Routes::new(service).prepare()
}

fn peer_routes(peers: identity::Peers, exchange: exchange::TokenService, delivery: Delivery) -> Routes {
    let exchange = v1::transaction_tokens_server::TransactionTokensServer::new(exchange)
        .max_decoding_message_size(exchange::MAX_MESSAGE);
    let renew = v1::identity_server::IdentityServer::new(peers.clone())
        .max_decoding_message_size(identity::MAX_MESSAGE);
    let processes = v1::processes_server::ProcessesServer::new(peers.clone())
        .max_decoding_message_size(process::MAX_MESSAGE);
    let tokens = v1::tokens_server::TokensServer::new(peers).max_decoding_message_size(identity::MAX_MESSAGE);
    let delivery = v1::delivery_server::DeliveryServer::new(delivery)
        .max_decoding_message_size(stream::MAX_MESSAGE)
        .max_encoding_message_size(usize::MAX);
    let routes = Routes::new(renew).add_service(tokens).add_service(exchange);
    routes.add_service(processes).add_service(delivery).prepare()
}

/// For both doors: each service behind the guard that asks who may.
fn operator_routes(
    operators: operator::Operators,
    people: people::People,
    (rotations, roots): (rotation::Rotation, roots::Roots),
    desk: &Arc<Desk>,
    federated: operators_of_federation::Federated,
) -> Routes {
    let audit = v1::audit_server::AuditServer::new(operators.clone())
        .max_decoding_message_size(operator::MAX_MESSAGE)
        .max_encoding_message_size(usize::MAX);
    let operators = v1::operator_server::OperatorServer::new(operators)
        .max_decoding_message_size(operator::MAX_MESSAGE)
        .max_encoding_message_size(usize::MAX);
    let recovery =
        recovery::Recovery { authority: rotations.authority.clone(), metrics: rotations.metrics.clone() };
    let recovery =
        v1::recovery_server::RecoveryServer::new(recovery).max_decoding_message_size(operator::MAX_MESSAGE);
    let federation = v1::federation_server::FederationServer::new(federated)
        .max_decoding_message_size(operator::MAX_MESSAGE)
        .max_encoding_message_size(usize::MAX);
    waiting::routes(people, rotations, roots, desk)
        .add_service(Guarded::new(operators, Arc::clone(desk)))
        .add_service(Guarded::new(audit, Arc::clone(desk)))
        .add_service(Guarded::new(recovery, Arc::clone(desk)))
        .add_service(Guarded::new(federation, Arc::clone(desk)))
        .prepare()
}

/// What a public door presents: a certificate from files, which are followed, or our own SVID.
async fn presented(
    files: Option<&WebTls>,
    own: &Own,
    background: &mut JoinSet<()>,
) -> Result<Certificate, CertificateError> {
    let Some(files) = files else { return Ok(Certificate::own(own.current())) };
    let (certificate, follow) = Certificate::files(files.clone()).await?;
    background.spawn(follow);
    Ok(certificate)
}

/// What the registry is checked against.
#[must_use]
pub fn registry_options(config: &Config) -> Options {
    Options {
        system_namespace: config.system_namespace.clone(),
        trust_domain: Some(config.trust_domain.clone()),
    }
}

/// Where the keys of the providers are with which operators log in.
fn provider_sources(config: &Config) -> BTreeMap<String, Source> {
    let source = |it: &crate::operators::config::Provider| Source {
        issuer: it.party.issuer.clone(),
        jwks_uri: it.jwks_uri.clone(),
    };
    config.operators.providers.iter().map(|it| (it.alias(), source(it))).collect()
}

/// Who may come to the operator's socket: without a list, whoever the control plane itself runs as.
fn uids(config: &Config) -> Arc<[u32]> {
    if config.operator_uids.is_empty() {
        Arc::from([own_uid()])
    } else {
        config.operator_uids.as_slice().into()
    }
}

/// Opens the operator's socket.
fn operator_socket(config: &Config, uids: &[u32]) -> Result<UnixListener, StartError> {
    Ok(if unix::needs_open_socket(uids, own_uid()) {
        signet_daemon::bind_open_socket(&config.operator_socket)?
    } else {
        signet_daemon::bind_private_socket(&config.operator_socket)?
    })
}

fn own_uid() -> u32 {
    // SAFETY: geteuid takes nothing, touches nothing and cannot fail.
    unsafe { libc::geteuid() }
}

fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    signet_daemon::listen(address).map_err(|source| StartError::Listen { what, address, source })
}

fn local(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::Listen { what: "a door", address, source })
}

async fn beat(authority: Authority) {
    loop {
        // As below.
        let _ = authority.beat().await;
        tokio::time::sleep(BEAT).await;
    }
}

async fn maintain(authority: Authority) {
    loop {
        tokio::time::sleep(MAINTAIN).await;
        // A failure is logged and counted by the authority; the next minute tries again.
        let _ = authority.maintain().await;
    }
}
