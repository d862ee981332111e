//! The process, from its configuration to its end.
//!
//! Order matters: files first, then who we are, then what we know, then the listeners; a listener never
//! answers before the first delivery. `addresses.json` appears last, when everything is bound and ready. The
//! first signal stops accepting and lets connections finish within `drainSeconds`, the second ends at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus::Registry;
use signet_daemon::logs::LogHandle;
use signet_daemon::{FileError, Phase, SocketError, SystemClock, Trigger, shutdown};
use signet_gateway::Edge;
use signet_identity::GenerationOptions;
use signet_proxy::decision::DecisionSink;
use signet_proxy::listener::{Bind, Kind, ListenerSpec};
use signet_proxy::state::{App as AppSocket, AppAddress as ProxyApp, State};
use signet_proxy::{Limits, Proxy, Running, Shared, StartError};
use signet_workload::Provider;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::agent::Agent;
use crate::app_api::AppApi;
use crate::config::{AppAddress, Config, ListenAddress, Role, Serves};
use crate::control::heads::Kept;
use crate::control::plane::ControlPlane;
use crate::control::stream::{Discovery, Parts};
use crate::credentials::Credentials;
use crate::doors::Doors;
use crate::edge_tls::{self, EdgeCertificate, EdgeTlsError};
use crate::gateway::Minting;
use crate::handover::{Estate, Origin, Predecessor, shared};
use crate::identity::{Identity, IdentityError};
use crate::join::Entry;
use crate::metrics::{Judged, Metrics};
use crate::names;
use crate::publish::Publisher;
use crate::status::Status;
use crate::will::{Will, take_over};
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
    #[error(transparent)]
    EdgeTls(#[from] EdgeTlsError),
    /// The workload socket cannot be made.
    #[error("workloadApi.socket: {0}")]
    Workload(SocketError),
    /// The address for probes cannot be taken.
    #[error("probes.listen: cannot listen on {address}: {source}")]
    Probes {
        /// As configured.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The app's address cannot be taken.
    #[error("appApi.listen: cannot listen on {address}: {source}")]
    AppAddress {
        /// As configured.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The app's socket cannot be made.
    #[error("appApi.listen: {0}")]
    AppSocket(SocketError),
    /// The data plane did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The app's name server did not start.
    #[error(transparent)]
    Dns(#[from] signet_dns::StartError),
    /// A task that never ends has ended.
    #[error("an internal task ended: {0}")]
    Task(String),
}

/// How a process begins.
#[derive(Debug)]
pub struct Start {
    /// How it comes into the mesh.
    pub entry: Entry,
    /// How it was started, so that it can be again; without it there is no planned restart.
    pub origin: Option<Origin>,
    /// What a predecessor handed over, and the predecessor.
    pub inherited: Option<(Estate, Predecessor)>,
}

/// Runs until the end. Within a current-thread runtime that has nothing else to do.
pub async fn run(config: Config, start: Start, logs: Option<LogHandle>) -> Result<Outcome, RunError> {
    let Start { entry, origin, inherited } = start;
    let (trigger, shutdown) = shutdown::channel();
    trigger.on_signals().map_err(RunError::Signals)?;
    let mut asked = signal(SignalKind::user_defined2()).map_err(RunError::Signals)?;
    let config = Arc::new(if has_ipv6() { config } else { config.without_ipv6() });
    let (mut inherited, predecessor) = inherited.unzip();
    let mut sockets = inherited.as_mut().map(Estate::take_sockets).unwrap_or_default();
    open_data_dir(&config.data_dir, inherited.is_none())?;
    // The token is used once: what can be known to fail must fail before.
    let resolving = names::Doors::open(&config, &mut sockets)?;
    let mut certificates = Vec::new();
    let (names, listeners): (Vec<_>, Vec<_>) = listeners(&config, &mut certificates)?.into_iter().unzip();
    let sockets: HashMap<usize, _> = names
        .iter()
        .enumerate()
        .filter_map(|(at, name)| Some((at, sockets.remove(name).filter(|list| !list.is_empty())?)))
        .collect();
    let fresh = listeners.iter().enumerate().filter(|(at, _)| !sockets.contains_key(at));
    fresh.map(|(_, listener)| listener).try_for_each(is_free)?;

    let registry = Registry::new();
    let metrics = Metrics::new(&registry)?;
    let options = GenerationOptions { resumption: config.tls.resumption, ..GenerationOptions::default() };
    let credentials = Credentials::new(entry.trust_domain().clone(), options);
    credentials.refusals.count(&registry)?;
    let control_plane = entry.control_plane().clone();
    let plane = ControlPlane::new(entry.mesh_address().to_owned(), control_plane, credentials.clone());
    let identity = match &entry {
        Entry::Bundle(bundle) => {
            Identity::new(bundle.spiffe_id.clone(), plane.clone(), credentials.clone(), metrics.clone())
        }
        Entry::Pod(pod) => Identity::of_pod(pod.clone(), plane.clone(), credentials.clone(), metrics.clone()),
        Entry::Successor(place) => {
            Identity::new(place.spiffe_id.clone(), plane.clone(), credentials.clone(), metrics.clone())
        }
    };
    // A pod learns who it is with its first certificate.
    let id = match &entry {
        Entry::Bundle(bundle) => bundle.spiffe_id.to_string(),
        Entry::Pod(_) => String::new(),
        Entry::Successor(place) => place.spiffe_id.to_string(),
    };
    let served: BTreeSet<String> = config.served().iter().map(ToString::to_string).collect();
    let gateway = config.gateway.as_ref().map(|gateway| gateway.resource.to_string());
    let status = Status::new(id, credentials.clone(), &served, gateway.as_deref());
    if !config.has_edge() {
        status.needs_no_minter();
    }

    let ready = status.clone();
    Judged::ready(&registry, move || ready.ready().is_ok())?;

    // Ends with the process: nothing in here is waited for.
    let mut tasks = JoinSet::new();
    let mut addresses = BTreeMap::new();
    let doors = Doors {
        config: config.clone(),
        status: status.clone(),
        registry: registry.clone(),
        logs,
        trigger: trigger.clone(),
        shutdown: shutdown.clone(),
    };
    // Bound now, so that a mistake is found before the token is used; whoever connects early waits. A successor has to
    // wait until its predecessor leaves them.
    let mut open = match &predecessor {
        None => Some(doors.open(&mut addresses).await?),
        Some(_) => None,
    };

    let term = tokio::select! {
        joined = async {
            match &entry {
                Entry::Bundle(bundle) => identity.join(bundle).await,
                Entry::Pod(_) if inherited.is_none() => identity.arrive().await,
                Entry::Pod(_) | Entry::Successor(_) => take_over(&identity, inherited.take()),
            }
        } => joined?,
        () = shutdown.draining() => return Ok(Outcome::Drained),
    };
    let mesh_address = entry.mesh_address().to_owned();
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
    if let Some(grace) = config.user_context.grace() {
        shared.handles.enable(grace);
    }
    status.attach(shared.clone());
    let resource = config.gateway.as_ref().map(|gateway| gateway.resource.clone());
    let publisher = Arc::new(Publisher::new(state.clone(), credentials.clone(), identity.clone(), resource));
    let provider: Option<Arc<dyn Provider>> = if config.workload_api.is_none() {
        None
    } else if config.role == Role::Agent {
        let news = publisher.watch_workload();
        Some(Agent::new(plane.clone(), credentials.clone(), metrics.clone(), news, &registry)?)
    } else {
        let app = App::new(plane.clone(), credentials.clone(), metrics.clone(), publisher.watch_workload());
        tasks.spawn(app.clone().keep());
        Some(app)
    };
    let offer =
        provider.map(|provider| Ok::<_, RunError>((provider, signet_workload::Metrics::new(&registry)?)));
    let offer = offer.transpose()?;
    let app_api = match &config.app_api {
        Some(_) => Some(AppApi::new(shared.clone(), plane.clone(), &registry)?),
        None => None,
    };
    if let Some(open) = &mut open {
        open.offer(offer.clone(), &config, &shutdown);
        open.answer_app(app_api.clone(), &shutdown);
    }
    let own_metrics = metrics.clone();
    let kept = Kept::of(&config.data_dir);
    let last_word = kept.last_word(status.clone());
    // A process that has a successor does not take leave of the control plane: they are one to it.
    let (leaving, leave) = shutdown::channel();
    let succeeded = Arc::new(AtomicBool::new(false));
    tasks.spawn({
        let (shutdown, succeeded) = (shutdown.clone(), succeeded.clone());
        async move {
            shutdown.draining().await;
            if !succeeded.load(Ordering::SeqCst) {
                leaving.drain();
            }
            std::future::pending().await
        }
    });
    let discovery = Discovery::new(Parts {
        kept,
        plane: plane.clone(),
        credentials: credentials.clone(),
        publisher: publisher.clone(),
        status: status.clone(),
        metrics,
        wishes,
        decisions,
        hops: shared.hops.clone(),
        sink,
        dialled: config.dialled().iter().map(ToString::to_string).collect(),
        served: served.into_iter().chain(config.serves_every().then(|| Serves::EVERY.to_owned())).collect(),
        shutdown: leave,
    });
    tasks.spawn(discovery.run());
    let keeper = identity.clone();
    let keep = async move { keeper.keep(term).await };
    let keep = match &predecessor {
        None => {
            tasks.spawn(keep);
            None
        }
        // A certificate is renewed by one of us.
        Some(_) => Some(keep),
    };

    tokio::select! {
        () = status.first_delta() => {}
        ended = tasks.join_next() => return Err(ended_task(ended)),
        () = shutdown.draining() => return Ok(Outcome::Drained),
    }
    if !certificates.is_empty() {
        tasks.spawn(edge_tls::keep(certificates, own_metrics));
    }
    // One that only passes bytes on speaks for no user.
    if config.has_edge() {
        let minting =
            Minting { plane: plane.clone(), publisher, status: status.clone(), state: state.clone() };
        tasks.spawn(minting.run());
    }
    let edge = match config.role {
        Role::Gateway => Some(Arc::new(Edge::new(shared.clone(), Arc::new(SystemClock), &registry)?)),
        Role::Sidecar | Role::Agent => None,
    };
    let exchanges = shared.exchanges.clone();
    let proxy = Proxy { shared, edge, workers: workers(&config) };
    if predecessor.is_some() {
        // Nobody is turned away for what we do not know yet: the one before us still accepts.
        tokio::select! {
            () = status.complete() => {}
            ended = tasks.join_next() => return Err(ended_task(ended)),
            () = shutdown.draining() => return Ok(Outcome::Drained),
        }
    }
    let running = listen(proxy, &names, listeners, sockets, &mut addresses)?;
    // To its end an app that finishes its work may ask.
    let mut resolving = resolving.answer(&config, state, &registry, &mut addresses)?;
    if let Some(resolving) = &mut resolving {
        tasks.spawn(resolving.running.ended());
    }

    if let Some(predecessor) = predecessor {
        match predecessor.accepts().await {
            Some(stream) => {
                tracing::info!(target: "signet::handover", "taking over from the process before");
                tokio::spawn(shared::share(exchanges.clone(), stream));
            }
            None => {
                tracing::warn!(target: "signet::handover", "the process before is gone; going on without it")
            }
        }
        if let Some(keep) = keep {
            tasks.spawn(keep);
        }
        let mut opened = doors.open_when_free(&mut addresses).await?;
        opened.offer(offer, &config, &shutdown);
        opened.answer_app(app_api, &shutdown);
        open = Some(opened);
    }

    let mut successor = None;
    let ended = async {
        tokio::select! {
            () = status.complete() => {}
            ended = tasks.join_next() => return Err(ended_task(ended)),
            () = shutdown.draining() => return Ok(()),
        }
        signet_daemon::write_addresses(&config.data_dir, &addresses)?;
        tracing::info!(target: "signet::sidecar", id = status.id(), listeners = addresses.len(), "ready");
        signet_daemon::notify("READY=1");
        loop {
            tokio::select! {
                ended = tasks.join_next() => return Err(ended_task(ended)),
                () = shutdown.draining() => return Ok(()),
                Some(()) = asked.recv() => {
                    let will = Will {
                        origin: origin.as_ref(),
                        identity: &identity,
                        credentials: &credentials,
                        plane: &plane,
                        mesh_address: &mesh_address,
                        names: &names,
                        running: &running,
                        resolving: resolving.as_ref(),
                    };
                    let passed = tokio::select! {
                        passed = will.pass_on() => passed,
                        // A successor that is not there yet ends with us.
                        () = shutdown.draining() => return Ok(()),
                    };
                    match passed {
                        Ok(passed) => {
                            successor = Some(passed);
                            return Ok(());
                        }
                        Err(error) => tracing::error!(target: "signet::handover", %error, "no planned restart; going on"),
                    }
                }
            }
        }
    };
    let failed = ended.await;
    if let Some((next, _hold)) = successor {
        succeeded.store(true, Ordering::SeqCst);
        last_word.leave_to_successor();
        if let Some(open) = open {
            open.close().await;
        }
        trigger.drain();
        let pid = next.pid;
        // Before we end: a manager that loses its main process ends the rest.
        signet_daemon::notify(&format!("MAINPID={pid}"));
        match next.leave().await {
            Ok(stream) => drop(tokio::spawn(shared::share(exchanges, stream))),
            Err(error) => tracing::error!(target: "signet::handover", %error, pid, "the successor is gone"),
        }
        // The successor receives at the same sockets; what is under way here is answered from here.
        let answered = async {
            if let Some(resolving) = resolving {
                resolving.running.leave().await;
            }
        };
        let limit = Duration::from_secs(config.drain_seconds);
        tracing::info!(target: "signet::handover", pid, limit_s = config.drain_seconds, "a successor accepts; finishing what is under way");
        return Ok(tokio::select! {
            (cut, ()) = async { tokio::join!(running.leave(limit), answered) } => {
                tracing::info!(target: "signet::shutdown", cut, "drained");
                Outcome::Drained
            }
            () = shutdown.stopping() => Outcome::CutShort,
        });
    }
    let outcome = drain(running, &config, &shutdown, &trigger).await;
    failed.map(|()| outcome)
}

/// Whether this network namespace has IPv6; a pod's may have none.
fn has_ipv6() -> bool {
    std::net::UdpSocket::bind("[::1]:0").is_ok()
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

/// Makes or checks the folder; what the last run left would send readers to listeners that are gone, unless they are
/// taken over.
fn open_data_dir(path: &Path, anew: bool) -> Result<(), RunError> {
    signet_daemon::create_private_dir(path)?;
    if !anew {
        return Ok(());
    }
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

fn listen(
    proxy: Proxy<Edge>,
    names: &[String],
    listeners: Vec<ListenerSpec>,
    sockets: HashMap<usize, Vec<OwnedFd>>,
    addresses: &mut BTreeMap<String, String>,
) -> Result<Running, RunError> {
    let running = signet_gateway::start(proxy, listeners, sockets)?;
    for (name, address) in names.iter().zip(running.addresses()) {
        tracing::info!(target: "signet::sidecar", %address, name, "listening");
        addresses.insert(name.clone(), address.to_string());
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

fn bind(listen: &ListenAddress) -> Bind {
    match listen {
        ListenAddress::Tcp(address) => Bind::Tcp(*address),
        ListenAddress::Unix(path) => Bind::Unix(path.clone()),
    }
}

/// Every listener of the data plane with its name in `addresses.json`; those with a certificate put that into the list.
fn listeners(
    config: &Config,
    certificates: &mut Vec<Arc<EdgeCertificate>>,
) -> Result<Vec<(String, ListenerSpec)>, RunError> {
    let in_pod = config.identity.kubernetes.is_some();
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
        let bind = bind(&outbound.listen);
        all.push((format!("outbound/{}/{}", outbound.service, outbound.port), ListenerSpec { bind, kind }));
    }
    if let Some(proxy) = &config.forward_proxy {
        let spec = ListenerSpec { bind: bind(&proxy.listen), kind: Kind::Explicit };
        all.push(("forward-proxy".to_owned(), spec));
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
        let name = format!("gateway/{at}");
        let certificate =
            listener.tls.as_ref().map(|files| EdgeCertificate::load(&name, files, in_pod)).transpose()?;
        let tls = certificate.as_ref().map(|it| it.config(listener.protocol)).transpose()?;
        certificates.extend(certificate);
        let port = listener.port.map_or(listener.listen.port(), signet_model::Port::get);
        let kind = Kind::Edge { protocol: listener.protocol.spoken(), port, tls };
        all.push((name, ListenerSpec { bind: Bind::Tcp(listener.listen), kind }));
    }
    if let Some(egress) = config.gateway.as_ref().and_then(|gateway| gateway.egress.as_ref()) {
        let spec = ListenerSpec { bind: Bind::Tcp(egress.listen), kind: Kind::Egress };
        all.push(("gateway/egress".to_owned(), spec));
    }
    if let Some(east_west) = config.gateway.iter().find_map(|gateway| gateway.east_west.as_ref()) {
        let spec = ListenerSpec { bind: Bind::Tcp(east_west.listen), kind: Kind::EastWest };
        all.push(("gateway/east-west".to_owned(), spec));
    }
    Ok(all)
}
