//! The process, from its configuration to its end.
//!
//! Order matters: files first, then who we are, then what we know, then the listeners; a listener never
//! answers before the first delivery. `addresses.json` appears last, when everything is bound and ready. The
//! first signal stops accepting and lets connections finish within `drainSeconds`, the second ends at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use signet_daemon::logs::LogHandle;
use signet_daemon::{FileError, MetricsServer, Phase, SocketError, SystemClock, Trigger, shutdown};
use signet_gateway::Edge;
use signet_identity::GenerationOptions;
use signet_proxy::decision::DecisionSink;
use signet_proxy::listener::{Bind, Kind, ListenerSpec};
use signet_proxy::state::{App as AppSocket, AppAddress as ProxyApp, State};
use signet_proxy::{Limits, Proxy, Running, Shared, StartError};
use signet_workload::{Bounds, Provider};
use tokio::task::JoinSet;

use crate::admin::Admin;
use crate::agent::{self, Agent};
use crate::config::{AppAddress, Config, EdgeProtocol, GatewayTls, ListenAddress, Role};
use crate::control::heads::Kept;
use crate::control::plane::ControlPlane;
use crate::control::stream::{Discovery, Parts};
use crate::credentials::Credentials;
use crate::gateway::Minting;
use crate::identity::{Identity, IdentityError};
use crate::join::Entry;
use crate::metrics::{Judged, Metrics};
use crate::publish::Publisher;
use crate::status::Status;
use crate::workload::App;

/// Decision records that may wait for the stream.
const DECISIONS: usize = 1024;

/// How the process ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every connection finished, or its time was up.
    Drained,
    /// A second signal came.
    CutShort,
}

/// Why the process failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The data folder's old state cannot be cleared.
    #[error("{}: cannot be removed: {source}", .path.display())]
    Clear {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The trust domain is too long to name a control plane in it.
    #[error("no control plane can be named: {0}")]
    Name(#[from] signet_identity::SpiffeIdError),
    /// We cannot become who we are to be.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The admin socket cannot be made.
    #[error(transparent)]
    Admin(#[from] SocketError),
    /// The metrics address cannot be taken.
    #[error("metrics.listen: cannot listen on {address}: {source}")]
    Metrics {
        /// As configured.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A metric is registered twice.
    #[error("metrics: {0}")]
    Registry(#[from] prometheus::Error),
    /// Signals cannot be waited for.
    #[error("signals: {0}")]
    Signals(std::io::Error),
    /// A listener's certificate or key.
    #[error("{}: {reason}", .file.display())]
    EdgeTls {
        /// The file.
        file: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The workload socket cannot be made.
    #[error("workloadApi.socket: {0}")]
    Workload(SocketError),
    /// The data plane did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A task that never ends has ended.
    #[error("an internal task ended: {0}")]
    Task(String),
}

/// Runs until the end. Within a current-thread runtime that has nothing else to do.
pub async fn run(config: Config, entry: Entry, logs: Option<LogHandle>) -> Result<Outcome, RunError> {
    let (trigger, shutdown) = shutdown::channel();
    trigger.on_signals().map_err(RunError::Signals)?;
    let config = Arc::new(config);
    open_data_dir(&config.data_dir)?;
    // The token is used once: what can be known to fail must fail before.
    let (names, listeners): (Vec<_>, Vec<_>) = listeners(&config)?.into_iter().unzip();
    listeners.iter().try_for_each(is_free)?;

    let registry = Registry::new();
    let metrics = Metrics::new(&registry)?;
    let options = GenerationOptions { resumption: config.tls.resumption, ..GenerationOptions::default() };
    let credentials = Credentials::new(entry.trust_domain().clone(), options);
    let control_plane = entry.control_plane().clone();
    let plane = ControlPlane::new(entry.mesh_address().to_owned(), control_plane, credentials.clone());
    let identity = match &entry {
        Entry::Bundle(bundle) => {
            Identity::new(bundle.spiffe_id.clone(), plane.clone(), credentials.clone(), metrics.clone())
        }
        Entry::Pod(pod) => Identity::of_pod(pod.clone(), plane.clone(), credentials.clone(), metrics.clone()),
    };
    // A pod learns who it is with its first certificate.
    let id = match &entry {
        Entry::Bundle(bundle) => bundle.spiffe_id.to_string(),
        Entry::Pod(_) => String::new(),
    };
    let served: BTreeSet<String> = config.served().iter().map(ToString::to_string).collect();
    let gateway = config.gateway.as_ref().map(|gateway| gateway.resource.to_string());
    let status = Status::new(id, credentials.clone(), &served, gateway.as_deref());

    let ready = status.clone();
    Judged::ready(&registry, move || ready.ready().is_ok())?;

    // Ends with the process: nothing in here is waited for.
    let mut tasks = JoinSet::new();
    let mut addresses = BTreeMap::new();
    if let Some(admin) = &config.admin {
        let routes = Admin {
            config: config.clone(),
            status: status.clone(),
            registry: registry.clone(),
            logs,
            trigger: trigger.clone(),
        };
        let server = routes.bind(&admin.socket)?;
        addresses.insert("admin".to_owned(), format!("unix:{}", admin.socket.display()));
        tasks.spawn(server.run(shutdown.clone()));
    }
    if let Some(listen) = config.metrics.as_ref().map(|metrics| metrics.listen) {
        let failed = |source| RunError::Metrics { address: listen, source };
        let ready = status.clone();
        let server = MetricsServer::bind(listen, registry.clone(), move || ready.ready());
        let server = server.await.map_err(failed)?;
        addresses.insert("metrics".to_owned(), server.local_addr().map_err(failed)?.to_string());
        tasks.spawn(server.run(shutdown.clone()));
    }

    // Bound now, so that a mistake is found before the token is used; whoever connects early waits.
    let workload = config.workload_api.as_ref().map(|api| {
        let bound = signet_daemon::bind_socket_with_mode(&api.socket, api.mode_bits(config.role));
        addresses.insert("workload".to_owned(), format!("unix:{}", api.socket.display()));
        bound.map(|listener| (listener, api.allowed_uids.clone()))
    });
    let workload = workload.transpose().map_err(RunError::Workload)?;

    let term = tokio::select! {
        joined = async {
            match &entry {
                Entry::Bundle(bundle) => identity.join(bundle).await,
                Entry::Pod(_) => identity.arrive().await,
            }
        } => joined?,
        () = shutdown.draining() => return Ok(Outcome::Drained),
    };
    drop(entry);
    let Some(tls) = credentials.current() else {
        return Err(RunError::Task("joined without a certificate".to_owned()));
    };
    let (state, wishes) = State::new(tls);
    Judged::staleness(&registry, state.clone())?;
    credentials.attach(state.clone());
    let (sink, decisions) = DecisionSink::new(DECISIONS);
    let sink = Arc::new(sink);
    let shared = Shared::new(state.clone(), Limits::default(), sink.clone(), &registry)?;
    status.attach(shared.clone());
    let resource = config.gateway.as_ref().map(|gateway| gateway.resource.clone());
    let publisher = Arc::new(Publisher::new(state.clone(), credentials.clone(), identity.clone(), resource));
    if let Some((listener, uids)) = workload {
        let news = publisher.watch_workload();
        let provider: Arc<dyn Provider> = if config.role == Role::Agent {
            Agent::new(plane.clone(), credentials.clone(), metrics.clone(), news, &registry)?
        } else {
            let app = App::new(plane.clone(), credentials.clone(), metrics.clone(), news);
            tasks.spawn(app.clone().keep());
            app
        };
        let listen = signet_workload::Listen {
            provider,
            clock: Arc::new(SystemClock),
            metrics: signet_workload::Metrics::new(&registry)?,
            uids,
            bounds: if config.role == Role::Agent { agent::BOUNDS } else { Bounds::default() },
            shutdown: shutdown.clone(),
        };
        // Ends with the drain, which is no failure.
        tokio::spawn(signet_workload::listen(listener, listen));
    }
    let kept = Kept::of(&config.data_dir);
    let _last_word = kept.last_word(status.clone());
    let discovery = Discovery::new(Parts {
        kept,
        plane: plane.clone(),
        credentials: credentials.clone(),
        publisher: publisher.clone(),
        status: status.clone(),
        metrics,
        wishes,
        decisions,
        sink,
        dialled: config.dialled().iter().map(ToString::to_string).collect(),
        served,
        shutdown: shutdown.clone(),
    });
    tasks.spawn(discovery.run());
    tasks.spawn(async move { identity.keep(term).await });

    tokio::select! {
        () = status.first_delta() => {}
        ended = tasks.join_next() => return Err(ended_task(ended)),
        () = shutdown.draining() => return Ok(Outcome::Drained),
    }
    if config.role == Role::Gateway {
        let minting = Minting { plane, publisher, status: status.clone(), state: state.clone() };
        tasks.spawn(minting.run());
    }
    let edge = match config.role {
        Role::Gateway => Some(Arc::new(Edge::new(shared.clone(), Arc::new(SystemClock), &registry)?)),
        Role::Sidecar | Role::Agent => None,
    };
    let proxy = Proxy { shared, edge, workers: workers(&config) };
    let running = start(proxy, names, listeners, &mut addresses)?;

    let ended = async {
        tokio::select! {
            () = status.complete() => {}
            ended = tasks.join_next() => return Err(ended_task(ended)),
            () = shutdown.draining() => return Ok(()),
        }
        signet_daemon::write_addresses(&config.data_dir, &addresses)?;
        tracing::info!(target: "signet::sidecar", id = status.id(), listeners = addresses.len(), "ready");
        tokio::select! {
            ended = tasks.join_next() => Err(ended_task(ended)),
            () = shutdown.draining() => Ok(()),
        }
    };
    let failed = ended.await;
    let outcome = drain(running, &config, &shutdown, &trigger).await;
    failed.map(|()| outcome)
}

async fn drain(
    running: Running,
    config: &Config,
    shutdown: &signet_daemon::Shutdown,
    trigger: &Trigger,
) -> Outcome {
    trigger.drain();
    let limit = Duration::from_secs(config.drain_seconds);
    tracing::info!(target: "signet::shutdown", limit_s = config.drain_seconds, "draining");
    let outcome = tokio::select! {
        cut = running.drain(limit) => {
            tracing::info!(target: "signet::shutdown", cut, "drained");
            Outcome::Drained
        }
        () = shutdown.stopping() => Outcome::CutShort,
    };
    debug_assert!(shutdown.phase() >= Phase::Draining);
    outcome
}

fn ended_task(ended: Option<Result<(), tokio::task::JoinError>>) -> RunError {
    RunError::Task(match ended {
        Some(Err(error)) => error.to_string(),
        Some(Ok(())) => "one that should not".to_owned(),
        None => "all of them".to_owned(),
    })
}

/// Makes or checks the folder; what the last run left would send readers to listeners that are gone.
fn open_data_dir(path: &Path) -> Result<(), RunError> {
    signet_daemon::create_private_dir(path)?;
    let stale = path.join("addresses.json");
    match std::fs::remove_file(&stale) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(RunError::Clear { path: stale, source })
        }
        _ => Ok(()),
    }
}

/// Whether an address could be taken now. Not a promise, only an early word.
fn is_free(listener: &ListenerSpec) -> Result<(), StartError> {
    match &listener.bind {
        Bind::Tcp(address) => match std::net::TcpListener::bind(address) {
            Ok(_) => Ok(()),
            Err(error) => Err(StartError::Bind { bind: listener.bind.clone(), error }),
        },
        Bind::Unix(_) => Ok(()),
    }
}

fn start(
    proxy: Proxy<Edge>,
    names: Vec<String>,
    listeners: Vec<ListenerSpec>,
    addresses: &mut BTreeMap<String, String>,
) -> Result<Running, RunError> {
    let running = proxy.start(listeners)?;
    for (name, address) in names.into_iter().zip(running.addresses()) {
        tracing::info!(target: "signet::sidecar", %address, name, "listening");
        addresses.insert(name, address.to_string());
    }
    Ok(running)
}

/// Data plane threads: as configured, or the CPUs that we may use, at most two beside a workload.
fn workers(config: &Config) -> usize {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    config.workers.unwrap_or(match config.role {
        Role::Sidecar => available.min(2),
        Role::Gateway => available,
        Role::Agent => 1,
    })
}

/// Every listener of the data plane with its name in `addresses.json`.
fn listeners(config: &Config) -> Result<Vec<(String, ListenerSpec)>, RunError> {
    let mut all = Vec::new();
    for inbound in &config.inbound {
        let app = match &inbound.app {
            AppAddress::Tcp(address) => ProxyApp::Tcp(*address),
            AppAddress::Unix(path) => ProxyApp::Unix(path.clone()),
        };
        let kind = Kind::Inbound {
            service: inbound.service.to_string().into(),
            port: inbound.port.as_str().into(),
            app: AppSocket::new(app),
        };
        let name = format!("inbound/{}/{}", inbound.service, inbound.port);
        all.push((name, ListenerSpec { bind: Bind::Tcp(inbound.listen), kind }));
    }
    for outbound in &config.outbound {
        let kind = Kind::Outbound {
            service: outbound.service.to_string().into(),
            port: outbound.port.as_str().into(),
        };
        let bind = match &outbound.listen {
            ListenAddress::Tcp(address) => Bind::Tcp(*address),
            ListenAddress::Unix(path) => Bind::Unix(path.clone()),
        };
        all.push((format!("outbound/{}/{}", outbound.service, outbound.port), ListenerSpec { bind, kind }));
    }
    if let Some(transparent) = &config.transparent {
        for (at, address) in transparent.outbound.iter().enumerate() {
            let spec = ListenerSpec { bind: Bind::Tcp(*address), kind: Kind::TransparentOutbound };
            all.push((format!("transparent/outbound/{at}"), spec));
        }
        for (at, address) in transparent.inbound.iter().enumerate() {
            let spec = ListenerSpec { bind: Bind::Tcp(*address), kind: Kind::TransparentInbound };
            all.push((format!("transparent/inbound/{at}"), spec));
        }
    }
    for (at, listener) in config.gateway.iter().flat_map(|gateway| &gateway.listeners).enumerate() {
        let tls = listener.tls.as_ref().map(|files| edge_tls(files, listener.protocol)).transpose()?;
        let kind = Kind::Edge { protocol: listener.protocol.spoken(), tls };
        all.push((format!("gateway/{at}"), ListenerSpec { bind: Bind::Tcp(listener.listen), kind }));
    }
    Ok(all)
}

/// TLS towards callers from outside: 1.3 only, and the listener's one protocol. A service port speaks one protocol and
/// nothing translates, so a caller who could choose would choose for routes that it does not know.
fn edge_tls(files: &GatewayTls, protocol: EdgeProtocol) -> Result<Arc<rustls::ServerConfig>, RunError> {
    let wrong = |file: &Path, reason: String| RunError::EdgeTls { file: file.to_owned(), reason };
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(&files.cert, format!("expected certificates in PEM: {error}")))?;
    let secret = signet_daemon::read_secret_file(&files.key)?;
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(secret.expose())
        .map_err(|error| wrong(&files.key, format!("expected a private key in PEM: {error}")))?;
    let mut config = rustls::ServerConfig::builder_with_provider(signet_identity::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| wrong(&files.cert, error.to_string()))?;
    config.alpn_protocols = vec![protocol.alpn().to_vec()];
    Ok(Arc::new(config))
}
