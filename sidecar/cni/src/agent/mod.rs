//! The agent of a node: it answers the plugin ([`serve`]), keeps the plugin in place (`install`), mends what was missed
//! (`repair`), and takes everything away again when it is to go for good (`cluster`).
//!
//! What is to be done about a pod is decided by [`judge`], and done by [`network`].

mod cluster;
pub mod judge;
pub mod network;
mod repair;
pub mod serve;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use clap::Args;
use signet_apiserver::api::Api;
use signet_apiserver::{ACCOUNT, Place};
use signet_daemon::shutdown;
use tokio::runtime::Handle;

use self::cluster::{Cluster, is_name};
use self::judge::{Verdict, judge};
use self::repair::Repair;
use self::serve::{Answers, Open};
use crate::plugin::{Settings, WhenAway};
use crate::wire::{Action, Answer, Failure, Question};
use crate::{TYPE, install};

/// How often the folder of network configurations is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long the API server may be away before a plugin is told to come again; shorter than a plugin waits.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(500);
/// How long it is tried to learn whether another agent comes; the kubelet gives thirty seconds for all of the end.
const ASKING: Duration = Duration::from_secs(8);
/// How long plugins that a runtime has started before it read the folder anew are answered still.
const LINGER: Duration = Duration::from_secs(3);
/// How long the last questions may take.
const LAST: Duration = Duration::from_secs(10);

/// What the agent is told.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The node's name.
    #[arg(long)]
    pub node: String,
    /// The DaemonSet that this is of, `namespace/name`.
    #[arg(long)]
    pub daemonset: String,
    /// The folder of the node's CNI plugins.
    #[arg(long, value_name = "FOLDER")]
    pub bin_dir: PathBuf,
    /// The folder of the node's network configurations.
    #[arg(long, value_name = "FOLDER")]
    pub conf_dir: PathBuf,
    /// The folder of the node's network namespaces, in which those of pods are found that started without being redirected.
    #[arg(long, value_name = "FOLDER")]
    pub netns_dir: Option<PathBuf>,
    /// The user that the mesh's sidecars are: a pod that names another is not redirected.
    #[arg(long, value_name = "UID", default_value_t = 2102)]
    pub sidecar_uid: u32,
    /// Where the plugin finds this process: a path that is the same on the node and here.
    #[arg(long, value_name = "FILE", default_value = "/run/signet-cni/agent.sock")]
    pub socket: PathBuf,
    /// Namespaces whose pods start without the agent, beside those of the cluster itself.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub exclude_namespaces: Vec<String>,
    /// What becomes of other pods while the agent is away.
    #[arg(long, value_enum, default_value_t = WhenAway::Refuse)]
    pub when_away: WhenAway,
    /// Leave the plugin's file in its folder at the end, for runtimes that end a pod by the configuration that it started with.
    #[arg(long)]
    pub keep_program: bool,
    /// `https://host:port` of the API server; absent: as Kubernetes tells every pod.
    #[arg(long, value_name = "URL")]
    pub api_server: Option<String>,
    /// The token of our service account.
    #[arg(long, value_name = "FILE", default_value_os_t = Path::new(ACCOUNT).join("token"))]
    pub token_file: PathBuf,
    /// The roots of the API server's certificate.
    #[arg(long, value_name = "FILE", default_value_os_t = Path::new(ACCOUNT).join("ca.crt"))]
    pub ca_file: PathBuf,
    /// How much is logged.
    #[arg(long, default_value = "info")]
    pub log_level: signet_daemon::logs::Level,
}

/// The cluster's own.
const CLUSTER: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

impl Options {
    fn place(&self) -> anyhow::Result<Place> {
        // As the kubelet says it to every container: an address, so that no name server is needed for it.
        let told = || {
            let host = std::env::var("KUBERNETES_SERVICE_HOST").ok()?;
            let port = std::env::var("KUBERNETES_SERVICE_PORT").ok()?;
            Some(if host.contains(':') {
                format!("https://[{host}]:{port}")
            } else {
                format!("https://{host}:{port}")
            })
        };
        let url = self.api_server.clone().or_else(told);
        let url = url.unwrap_or_else(|| "https://kubernetes.default.svc".to_owned());
        let server = signet_apiserver::server(&url).ok_or_else(|| {
            anyhow!("--api-server: expected https://host or https://host:port, got {url:?}")
        })?;
        Ok(Place { server, token_file: self.token_file.clone(), ca_file: self.ca_file.clone() })
    }

    fn cluster(&self) -> anyhow::Result<Cluster> {
        let daemonset =
            self.daemonset.split_once('/').filter(|(namespace, name)| is_name(namespace) && is_name(name));
        let (namespace, name) = daemonset
            .ok_or_else(|| anyhow!("--daemonset: expected namespace/name, got {:?}", self.daemonset))?;
        if !is_name(&self.node) {
            return Err(anyhow!("--node: expected the name of a node, got {:?}", self.node));
        }
        let daemonset = (namespace.to_owned(), name.to_owned());
        Ok(Cluster { api: Api::new(&self.place()?), node: self.node.clone(), daemonset })
    }

    /// The plugin's entry in the network configuration.
    fn entry(&self) -> anyhow::Result<String> {
        let excluded = CLUSTER.into_iter().map(str::to_owned).chain(self.exclude_namespaces.iter().cloned());
        let settings = Settings {
            socket: self.socket.clone(),
            exclude_namespaces: excluded.collect(),
            when_away: self.when_away,
            timeout_seconds: crate::plugin::patience(),
        };
        let mut entry = serde_json::to_value(settings)?;
        if let Some(entry) = entry.as_object_mut() {
            entry.insert("type".to_owned(), TYPE.into());
        }
        Ok(entry.to_string())
    }
}

/// What answers plugins.
struct Agent {
    cluster: Arc<Cluster>,
    handle: Handle,
    uid: u32,
    /// Why the plugin is not in place.
    lacks: Arc<std::sync::Mutex<Option<String>>>,
}

impl Answers for Agent {
    fn answer(&self, question: &Question, namespace: Option<OwnedFd>) -> Answer {
        if question.action == Action::Health {
            let lacks = self.lacks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            return lacks.map_or(Ok(()), |why| Err(Failure::new(Failure::AGAIN, why)));
        }
        if !is_name(&question.namespace) || !is_name(&question.name) {
            let got = format!("got {:?} and {:?}", question.namespace, question.name);
            return Err(Failure::new(
                Failure::REFUSED,
                format!("expected the names of a namespace and a pod, {got}"),
            ));
        }
        let Some(namespace) = namespace else {
            return Err(Failure::new(
                Failure::REFUSED,
                "expected a network namespace beside the question, got none",
            ));
        };
        let pod = self.handle.block_on(self.pod(question))?;
        let Verdict::Redirect(options) = judge(&pod, question, &self.cluster.node, self.uid)? else {
            return Ok(());
        };
        if question.action == Action::Check {
            let missing = network::differences(&namespace, &options)
                .map_err(|said| Failure::new(Failure::AGAIN, said))?;
            return match missing.is_empty() {
                true => Ok(()),
                false => Err(Failure::new(Failure::DIFFERS, missing)),
            };
        }
        let said = network::redirect(&namespace, &options)
            .map_err(|said| Failure::new(Failure::AGAIN, format!("the pod cannot be redirected: {said}")))?;
        let Question { namespace, name, container, .. } = question;
        tracing::info!(target: "signet::cni", namespace, name, container, said, "redirected");
        Ok(())
    }
}

impl Agent {
    /// The pod of a question, from an API server that may be away for a moment.
    async fn pod(&self, question: &Question) -> Result<serde_json::Value, Failure> {
        let end = Instant::now().checked_add(PATIENCE);
        loop {
            match self.cluster.pod(&question.namespace, &question.name).await {
                Ok(pod) => return Ok(pod),
                Err(error) if error.code() == Some(404) || end.is_none_or(|end| Instant::now() >= end) => {
                    let whom = format!("{}/{}", question.namespace, question.name);
                    let words = format!("the API server does not say what the pod {whom} is: {error}");
                    return Err(Failure::new(Failure::AGAIN, words));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

/// Runs until a signal.
///
/// # Errors
/// What kept it from starting, or from taking itself away.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let cluster = Arc::new(options.cluster()?);
    let entry = options.entry()?;
    signet_daemon::logs::init(signet_daemon::logs::Format::Json, options.log_level)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (trigger, shutdown) = shutdown::channel();
        trigger.on_signals()?;
        let listener = serve::bind(&options.socket)
            .with_context(|| format!("cannot listen at {}", options.socket.display()))?;
        let own = inode(&options.socket);
        let lacks = Arc::new(std::sync::Mutex::new(Some("starting".to_owned())));
        let (open, handle) = (Open::default(), Handle::current());
        let agent = Agent {
            cluster: Arc::clone(&cluster),
            handle,
            uid: options.sidecar_uid,
            lacks: Arc::clone(&lacks),
        };
        serve::serve(listener, Arc::new(agent), open.clone());
        // Whoever is told to start the plugin finds it, and it finds us.
        install::copy_program(&options.bin_dir).map_err(|error| anyhow!("{error}{}", error.advice()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let keeper = tokio::spawn(keep(
            options.conf_dir.clone(),
            options.bin_dir.clone(),
            entry,
            lacks,
            Arc::clone(&stop),
        ));
        let (folder, uid) = (options.netns_dir.clone(), options.sidecar_uid);
        let repair = Repair { cluster: Arc::clone(&cluster), folder, uid };
        let follower = tokio::spawn(repair.follow());
        shutdown.draining().await;
        follower.abort();
        stop.store(true, Ordering::Release);
        let _ = keeper.await;
        end(options, &cluster, &open, own).await
    })
}

/// Keeps the plugin in the configuration that is in force, whoever rewrites that, and its program where it was put.
async fn keep(
    folder: PathBuf,
    programs: PathBuf,
    entry: String,
    lacks: Arc<std::sync::Mutex<Option<String>>>,
    stop: Arc<AtomicBool>,
) {
    let mut anew = true;
    let mut said = String::new();
    while !stop.load(Ordering::Acquire) {
        let (place, programs, text) = (folder.clone(), programs.clone(), entry.clone());
        let look = move || {
            // Another agent's is another version's: that one comes after us.
            if !programs.join(crate::TYPE).is_file() {
                install::copy_program(&programs)?;
                tracing::warn!(target: "signet::cni", folder = %programs.display(), "the plugin's program was gone, and is there again");
            }
            install::ensure(&place, &programs, &text, anew)
        };
        let done = tokio::task::spawn_blocking(look).await;
        let state = match done {
            Ok(Ok((path, written))) => {
                anew = false;
                if written {
                    tracing::info!(target: "signet::cni", file = %path.display(), "the plugin is in the network's configuration");
                }
                None
            }
            Ok(Err(error)) => Some(format!("{error}{}", error.advice())),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = state.as_ref().filter(|error| **error != said) {
            tracing::warn!(target: "signet::cni", error, "the plugin is not in the network's configuration");
        }
        said = state.clone().unwrap_or_default();
        *lacks.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = state;
        tokio::time::sleep(LOOK).await;
    }
}

/// Goes, and takes the plugin away only where no other agent will come.
async fn end(options: &Options, cluster: &Cluster, open: &Open, own: Option<u64>) -> anyhow::Result<()> {
    let begun = Instant::now();
    let over = loop {
        match cluster.is_over().await {
            Ok(over) => break over,
            Err(error) if begun.elapsed() >= ASKING => {
                tracing::warn!(target: "signet::cni", %error, "whether another agent comes is not known: the plugin stays");
                break false;
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    if over {
        uninstall(options)?;
        tokio::time::sleep(LINGER).await;
    }
    let end = Instant::now().checked_add(LAST);
    while open.count() > 0 && end.is_some_and(|end| Instant::now() < end) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Who answers at the socket by now is another agent, whose the program is as well.
    let is_ours = own.is_some() && inode(&options.socket) == own;
    if over && is_ours && !options.keep_program {
        install::remove_program(&options.bin_dir)?;
        let _ = std::fs::remove_file(&options.socket);
    }
    Ok(())
}

fn inode(path: &std::path::Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).map(|file| file.ino()).ok()
}

fn uninstall(options: &Options) -> anyhow::Result<()> {
    install::remove(&options.conf_dir)?;
    tracing::info!(target: "signet::cni", "the plugin is out of the network's configuration");
    Ok(())
}

/// Whether the agent behind this socket does its work, or only whether it is `alive`.
///
/// # Errors
/// Why not.
pub fn health(socket: &Path, alive: bool) -> anyhow::Result<()> {
    let question = Question {
        action: Action::Health,
        namespace: String::new(),
        name: String::new(),
        uid: String::new(),
        container: String::new(),
    };
    let answer = crate::wire::ask(socket, &question, None, Duration::from_secs(4))
        .with_context(|| format!("no agent at {}", socket.display()))?;
    if alive { Ok(()) } else { answer.map_err(|failure| anyhow!("{failure}")) }
}
