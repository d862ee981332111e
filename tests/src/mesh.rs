//! The mesh under test: a control plane and sidecars, as processes.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use signet_proto::v1::federation_client::FederationClient;
use signet_proto::v1::operator_client::OperatorClient;
use signet_proto::v1::rotation_client::RotationClient;
use signet_proto::v1::{CreateJoinTokenRequest, ExplainDecisionRequest, JoinBundle};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::process::{PATIENCE, Process, binary, until};

pub const TRUST_DOMAIN: &str = "test.signet";

/// One sidecar process to start: its identity, and the rest of its configuration as YAML.
#[derive(Clone)]
pub struct Sidecar {
    pub namespace: String,
    pub name: String,
    pub class: &'static str,
    pub config: String,
    /// The network namespace to run in.
    pub netns: Option<String>,
    /// The user to run as; needs root.
    pub uid: Option<u32>,
    /// Whether its app may have certificates of its own.
    pub workload_api: bool,
}

impl Sidecar {
    /// `workload` is `name.namespace`.
    pub fn new(workload: &str, config: impl Into<String>) -> Self {
        let (name, namespace) = workload.split_once('.').expect("name.namespace");
        Self {
            namespace: namespace.into(),
            name: name.into(),
            class: "sidecar",
            config: config.into(),
            netns: None,
            uid: None,
            workload_api: false,
        }
    }

    /// Gives its app the workload socket, and the right to it.
    #[must_use]
    pub fn with_workload_api(self) -> Self {
        Self { workload_api: true, ..self }
    }

    /// Runs it in a network namespace, as another user: as in a pod.
    #[must_use]
    pub fn in_pod(self, netns: &str, uid: u32) -> Self {
        Self { netns: Some(netns.into()), uid: Some(uid), ..self }
    }

    pub fn gateway(workload: &str, config: impl Into<String>) -> Self {
        Self { class: "gateway", ..Self::new(workload, config) }
    }

    /// The agent of a host, with a socket for its processes.
    pub fn agent(workload: &str) -> Self {
        Self { class: "agent", workload_api: true, ..Self::new(workload, "") }
    }

    pub fn spiffe_id(&self) -> String {
        self.spiffe_id_in(TRUST_DOMAIN)
    }

    fn spiffe_id_in(&self, trust_domain: &str) -> String {
        format!("spiffe://{trust_domain}/ns/{}/sa/{}", self.namespace, self.name)
    }
}

pub struct MeshBuilder {
    trust_domain: String,
    registry: Vec<String>,
    sidecars: Vec<Sidecar>,
    svid_seconds: u32,
    default_action: &'static str,
    max_staleness: &'static str,
    decision_samples: u32,
    log_level: &'static str,
    control_plane: String,
    /// Another section `registry` than the folder of the test's documents.
    registry_from: Option<String>,
    /// The namespace of the control plane and the address that it takes there.
    place: (Option<String>, String),
}

impl MeshBuilder {
    /// Another name than the tests' usual one, for a mesh beside another.
    #[must_use]
    pub fn trust_domain(mut self, name: &str) -> Self {
        self.trust_domain = name.into();
        self
    }

    /// Runs the control plane in a network namespace, on this address of it.
    #[must_use]
    pub fn control_plane_in(mut self, netns: &str, address: &str) -> Self {
        self.place = (Some(netns.into()), address.into());
        self
    }

    /// Adds registry documents (YAML, `apiVersion` is added where it is missing).
    #[must_use]
    pub fn registry(mut self, documents: impl Into<String>) -> Self {
        self.registry.push(documents.into());
        self
    }

    /// The line `registry` of the control plane's configuration, instead of a folder with the test's documents.
    #[must_use]
    pub fn registry_from(self, line: &str) -> Self {
        Self { registry_from: Some(line.into()), ..self }
    }

    #[must_use]
    pub fn sidecar(mut self, sidecar: Sidecar) -> Self {
        self.sidecars.push(sidecar);
        self
    }

    #[must_use]
    pub fn svid_seconds(mut self, seconds: u32) -> Self {
        self.svid_seconds = seconds;
        self
    }

    #[must_use]
    pub fn default_action(mut self, action: &'static str) -> Self {
        self.default_action = action;
        self
    }

    /// How old a sidecar's view may be before it vouches for nobody any more.
    #[must_use]
    pub fn max_staleness(mut self, period: &'static str) -> Self {
        self.max_staleness = period;
        self
    }

    /// How many permitted requests a second sidecars record.
    #[must_use]
    pub fn decision_samples(mut self, per_second: u32) -> Self {
        self.decision_samples = per_second;
        self
    }

    /// What the control plane writes; tests look for secrets in all that there is.
    #[must_use]
    pub fn log_level(mut self, level: &'static str) -> Self {
        self.log_level = level;
        self
    }

    /// Adds lines to the control plane's configuration; `{folder}` in them is the mesh's own.
    #[must_use]
    pub fn control_plane(mut self, lines: &str) -> Self {
        self.control_plane += lines;
        self
    }

    /// Starts the control plane, then every sidecar, and waits until all are ready.
    pub async fn start(self) -> Mesh {
        let folder = tempfile::Builder::new().prefix("sgt").tempdir().expect("a folder for the mesh");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("closing the folder");
        let mut mesh = Mesh {
            control_plane: None,
            replicas: BTreeMap::new(),
            sidecars: BTreeMap::new(),
            trust_domain: self.trust_domain,
            entry: None,
            netns: self.place.0,
            folder,
        };
        let registry = mesh.path("registry");
        fs::create_dir(&registry).expect("the registry folder");
        let mut documents = vec![format!(
            "kind: Mesh\nmetadata: {{name: default}}\nspec: {{defaultAction: {}, maxStaleness: {}, decisionSamples: {}}}\n",
            self.default_action, self.max_staleness, self.decision_samples
        )];
        documents.extend(self.sidecars.iter().map(|it| {
            let opts_in = if it.workload_api && it.class != "agent" { ", workloadApi: true" } else { "" };
            format!(
                "kind: Workload\nmetadata: {{namespace: {}, name: {}}}\nspec: {{class: {}{opts_in}}}\n",
                it.namespace, it.name, it.class
            )
        }));
        mesh.write_registry("workloads.yaml", &documents.join("---\n"));
        for (number, documents) in self.registry.iter().enumerate() {
            mesh.write_registry(&format!("test-{number}.yaml"), documents);
        }
        let path = mesh.folder.path().display().to_string();
        let config = format!(
            "trustDomain: {trust_domain}\ndataDir: {path}/cp\nseal: {{keyFile: {path}/seal.key}}\ndev: true\n\
             {registry}{listen}\
             operator: {{socket: {path}/op.sock}}\nmetrics: {{listen: '127.0.0.1:0'}}\n\
             svid: {{ttlSeconds: {}}}\nissuers: {{allowPrivateAddresses: true, allowHttp: true}}\n\
             log: {{format: text, level: {}}}\n{}",
            self.svid_seconds,
            self.log_level,
            self.control_plane.replace("{folder}", &path),
            registry =
                self.registry_from.unwrap_or_else(|| format!("registry: {{folder: {path}/registry}}\n")),
            listen = mesh.doors(&self.place.1),
            trust_domain = mesh.trust_domain,
        );
        fs::write(mesh.path("control-plane.yaml"), config).expect("writing the configuration");
        mesh.start_control_plane().await;
        for sidecar in self.sidecars {
            mesh.join(sidecar).await;
        }
        mesh
    }
}

pub struct Mesh {
    // Ended before the folder goes: fields are dropped in this order.
    pub sidecars: BTreeMap<String, Process>,
    /// Control planes beside the first one, by the names that they were started with.
    pub replicas: BTreeMap<String, Process>,
    pub control_plane: Option<Process>,
    pub trust_domain: String,
    /// Where pods find a control plane, `bootstrap` and `mesh`, if it is not at the first one's doors.
    pub entry: Option<[String; 2]>,
    netns: Option<String>,
    folder: TempDir,
}

impl Mesh {
    pub fn builder() -> MeshBuilder {
        MeshBuilder {
            trust_domain: TRUST_DOMAIN.into(),
            registry: Vec::new(),
            sidecars: Vec::new(),
            svid_seconds: 3600,
            default_action: "deny",
            max_staleness: "10m",
            decision_samples: 0,
            log_level: "debug",
            control_plane: String::new(),
            registry_from: None,
            place: (None, "127.0.0.1".into()),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a registry file whole, so that the control plane never reads half of one.
    pub fn write_registry(&self, name: &str, documents: &str) {
        let documents: Vec<String> = documents
            .split("---\n")
            .map(|it| {
                if it.contains("apiVersion:") {
                    it.to_owned()
                } else {
                    format!("apiVersion: signet.mesh/v1alpha1\n{it}")
                }
            })
            .collect();
        let temporary = self.path(&format!("{name}.new"));
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary);
        std::io::Write::write_all(&mut file.expect("a registry file"), documents.join("---\n").as_bytes())
            .expect("writing a registry file");
        fs::rename(temporary, self.path("registry").join(name)).expect("putting a registry file in place");
    }

    /// Starts (or starts again) the control plane, at the same doors, and waits until it is ready.
    pub async fn start_control_plane(&mut self) {
        let addresses = self.path("cp/addresses.json");
        let _ = fs::remove_file(&addresses);
        let mut command = command_in(self.netns.as_deref(), &binary("signet-control-plane"));
        command.arg("--config").arg(self.path("control-plane.yaml"));
        let mut process = Process::start("control-plane", command, self.folder.path());
        wait_for_addresses(&mut process, &addresses).await;
        self.control_plane = Some(process);
    }

    /// A control plane's doors, where they are again after a restart. In a network namespace nobody else takes a port,
    /// and nothing is restarted.
    fn doors(&self, address: &str) -> String {
        let door = || if self.netns.is_some() { format!("{address}:0") } else { free_address() };
        format!("listen: {{bootstrap: '{}', mesh: '{}'}}\n", door(), door())
    }

    /// Starts another control plane on the same store, which must be one that can be shared, and waits until it is ready.
    /// It has its own name, data directory and doors; the roots' keys are those of the first. One of this name that was
    /// there before is started again as it was.
    pub async fn start_replica(&mut self, name: &str) {
        let file = self.path(&format!("{name}.yaml"));
        if !file.exists() {
            let path = self.folder.path().display().to_string();
            let config =
                fs::read_to_string(self.path("control-plane.yaml")).expect("the first one's configuration");
            let doors = config.split_inclusive('\n').find(|line| line.starts_with("listen:"));
            let own = config
                .replace(doors.expect("the first one's doors"), &self.doors("127.0.0.1"))
                .replace(&format!("dataDir: {path}/cp\n"), &format!("dataDir: {path}/{name}\n"))
                .replace(&format!("{path}/op.sock"), &format!("{path}/{name}.sock"));
            let in_store = "replica: {name: cp, sharedKeys: store}\n";
            let own = if own.contains(in_store) {
                own.replace(in_store, &format!("replica: {{name: {name}, sharedKeys: store}}\n"))
            } else {
                own + &format!("replica: {{name: {name}, sharedKeys: {path}/cp}}\n")
            };
            fs::write(&file, own).expect("writing the configuration");
        }
        let addresses = self.path(name).join("addresses.json");
        let _ = fs::remove_file(&addresses);
        let mut command = command_in(self.netns.as_deref(), &binary("signet-control-plane"));
        command.arg("--config").arg(file);
        let mut process = Process::start(name, command, self.folder.path());
        wait_for_addresses(&mut process, &addresses).await;
        self.replicas.insert(name.to_owned(), process);
    }

    /// Starts a sidecar without a join bundle of its own making, e.g. to try a bad one.
    pub fn spawn_sidecar(&self, sidecar: &Sidecar, bundle: &Value) -> Process {
        let home = self.home(sidecar);
        let join = home.join("join.json");
        let mut options = fs::OpenOptions::new();
        let file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&join).expect("a join bundle");
        serde_json::to_writer(file, bundle).expect("writing the join bundle");
        self.spawn_as(sidecar, &format!("{{joinBundle: {}}}", join.display()))
    }

    /// Starts a sidecar in a pod: its token and the mesh's roots lie in files.
    pub fn spawn_pod(&self, sidecar: &Sidecar, token: &str) -> Process {
        let home = self.home(sidecar);
        fs::write(home.join("token"), token).expect("a token");
        fs::copy(self.path("cp/root.pem"), home.join("roots.pem")).expect("the roots");
        let path = home.display();
        let [bootstrap, mesh] = self.entry.clone().unwrap_or_else(|| {
            let addresses = self.addresses("cp");
            ["bootstrap", "mesh"].map(|door| addresses[door].as_str().expect("an address").to_owned())
        });
        let identity = format!(
            "{{kubernetes: {{tokenFile: {path}/token, rootsFile: {path}/roots.pem, bootstrapAddress: {bootstrap}, \
             meshAddress: {mesh}, controlPlane: 'spiffe://{}/ns/signet-system/sa/signet-control-plane'}}}}",
            self.trust_domain
        );
        self.spawn_as(sidecar, &identity)
    }

    fn home(&self, sidecar: &Sidecar) -> PathBuf {
        let home = self.path(&sidecar.name);
        fs::create_dir_all(home.join("data")).expect("a sidecar's folder");
        fs::set_permissions(home.join("data"), fs::Permissions::from_mode(0o700))
            .expect("closing the folder");
        home
    }

    fn spawn_as(&self, sidecar: &Sidecar, identity: &str) -> Process {
        let home = self.path(&sidecar.name);
        let path = home.display();
        let role = sidecar.class;
        let socket = match sidecar.workload_api {
            true => format!("workloadApi: {{socket: {path}/workload.sock}}\n"),
            false => String::new(),
        };
        let config = format!(
            "role: {role}\nidentity: {identity}\ndataDir: {path}/data\nadmin: {{socket: {path}/admin.sock}}\n\
             metrics: {{listen: '127.0.0.1:0'}}\nworkers: 1\ndrainSeconds: 5\nlog: {{format: text, level: debug}}\n{socket}{}",
            sidecar.config
        );
        fs::write(home.join("sidecar.yaml"), config).expect("writing a sidecar's configuration");
        let mut command = command_in(sidecar.netns.as_deref(), &binary("signet-sidecar"));
        command.arg("--config").arg(home.join("sidecar.yaml"));
        if let Some(uid) = sidecar.uid {
            // Its own files, and a way to them through the mesh's folder.
            fs::set_permissions(self.folder.path(), fs::Permissions::from_mode(0o711))
                .expect("opening the folder");
            let files =
                ["data", "join.json", "token", "roots.pem", "sidecar.yaml"].map(|name| home.join(name));
            for path in files.into_iter().chain([home.clone()]).filter(|path| path.exists()) {
                std::os::unix::fs::chown(path, Some(uid), Some(uid))
                    .expect("handing a file over (needs root)");
            }
            command = as_user(command, uid);
        }
        Process::start(&sidecar.name, command, self.folder.path())
    }

    /// Lets a workload join: a token from the operator's socket, a sidecar that uses it.
    pub async fn join(&mut self, sidecar: Sidecar) {
        let bundle = self.join_bundle(&sidecar.spiffe_id_in(&self.trust_domain), sidecar.class).await;
        self.join_by(sidecar, &bundle).await;
    }

    /// Lets a workload join at another control plane than the first, whose sidecar it is from then on.
    pub async fn join_at(&mut self, replica: &str, sidecar: Sidecar) {
        let spiffe_id = sidecar.spiffe_id_in(&self.trust_domain);
        let bundle = self.join_bundle_at(replica, &spiffe_id, sidecar.class).await;
        self.join_by(sidecar, &bundle).await;
    }

    /// The same by a bundle that the test has at hand.
    pub async fn join_by(&mut self, sidecar: Sidecar, bundle: &JoinBundle) {
        // What an earlier one of this name left is not this one's word that it is ready.
        let addresses = self.path(&sidecar.name).join("data/addresses.json");
        let _ = fs::remove_file(&addresses);
        let mut process = self.spawn_sidecar(&sidecar, &bundle_json(bundle));
        wait_for_addresses(&mut process, &addresses).await;
        self.sidecars.insert(sidecar.name, process);
    }

    /// Lets a pod join by its token.
    pub async fn arrive(&mut self, sidecar: Sidecar, token: &str) {
        let mut process = self.spawn_pod(&sidecar, token);
        wait_for_addresses(&mut process, &self.path(&sidecar.name).join("data/addresses.json")).await;
        self.sidecars.insert(sidecar.name, process);
    }

    pub async fn join_bundle(&self, spiffe_id: &str, class: &str) -> JoinBundle {
        let request = token_request(spiffe_id, class);
        self.operator().await.create_join_token(request).await.expect("a join token").into_inner()
    }

    /// The same from another control plane, whose doors it names.
    pub async fn join_bundle_at(&self, replica: &str, spiffe_id: &str, class: &str) -> JoinBundle {
        let request = token_request(spiffe_id, class);
        self.operator_of(replica).await.create_join_token(request).await.expect("a join token").into_inner()
    }

    pub async fn operator(&self) -> OperatorClient<Channel> {
        OperatorClient::new(self.operators_channel().await)
    }

    /// The same at another control plane.
    pub async fn operator_of(&self, replica: &str) -> OperatorClient<Channel> {
        OperatorClient::new(socket_channel(self.operator_socket(replica)).await)
    }

    /// The operator's socket of a control plane (`cp`, or a replica's name).
    pub fn operator_socket(&self, process: &str) -> PathBuf {
        self.path(if process == "cp" { "op.sock".to_owned() } else { format!("{process}.sock") }.as_str())
    }

    /// Roots, issuers and keys, as an operator sees them.
    pub async fn rotation(&self) -> RotationClient<Channel> {
        RotationClient::new(self.operators_channel().await)
    }

    /// The operators' service for federated trust domains.
    pub async fn federation(&self) -> FederationClient<Channel> {
        FederationClient::new(self.operators_channel().await)
    }

    async fn operators_channel(&self) -> Channel {
        socket_channel(self.path("op.sock")).await
    }

    /// The explanation of a decision, once it has reached the control plane.
    pub async fn explain(&self, id: &str) -> Value {
        let mut operator = self.operator().await;
        let asked = async {
            loop {
                match operator.explain_decision(ExplainDecisionRequest { id: id.to_owned() }).await {
                    Ok(answer) => {
                        return serde_json::from_str(&answer.into_inner().json)
                            .expect("an explanation in JSON");
                    }
                    Err(status) if status.code() == tonic::Code::NotFound => {
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    }
                    Err(status) => panic!("asking why: {status}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("the decision reached the control plane")
    }

    /// Sidecars that pass on to successors: those end with the test as well.
    pub fn adopt_successors(&mut self) {
        self.sidecars.values_mut().for_each(Process::adopt_successors);
    }

    pub fn sidecar(&self, name: &str) -> &Process {
        &self.sidecars[name]
    }

    /// The workload socket of a sidecar that has one.
    pub fn workload_socket(&self, name: &str) -> PathBuf {
        self.path(name).join("workload.sock")
    }

    /// A listener's address as a sidecar or a control plane (`cp`, or a replica's name) published it.
    pub fn addresses(&self, process: &str) -> Value {
        let is_control_plane = process == "cp" || self.replicas.contains_key(process);
        let folder = if is_control_plane { self.path(process) } else { self.path(process).join("data") };
        let text = fs::read(folder.join("addresses.json")).expect("published addresses");
        serde_json::from_slice(&text).expect("addresses in JSON")
    }

    /// What the process shows to Prometheus.
    pub async fn metrics(&self, process: &str) -> String {
        let address = self.addresses(process)["metrics"].as_str().expect("a metrics listener").to_owned();
        let answer = crate::client::get(&address, "/metrics", &[]).await;
        String::from_utf8(answer.body().to_vec()).expect("metrics are text")
    }

    /// What the admin socket of a sidecar, gateway or agent says there.
    pub fn admin(&self, process: &str, path: &str) -> Value {
        let mut curl = Command::new("curl");
        curl.arg("-sSf").arg("--unix-socket").arg(self.path(process).join("admin.sock"));
        let done = curl.arg(format!("http://localhost{path}")).output().expect("curl runs");
        assert!(done.status.success(), "{process}{path}: {}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).expect("JSON")
    }

    /// Everything that any process of the mesh has written.
    pub fn logs(&self) -> String {
        let processes = self.sidecars.values().chain(self.replicas.values()).chain(&self.control_plane);
        processes.map(Process::log).collect::<Vec<_>>().join("\n")
    }

    /// Fails the test if a process has ended or panicked.
    pub fn assert_unharmed(&mut self) {
        let control_planes = self.replicas.values_mut().chain(&mut self.control_plane);
        for process in self.sidecars.values_mut().chain(control_planes) {
            process.assert_runs();
            let log = process.log();
            assert!(!log.contains("panicked at"), "a process panicked:\n{log}");
        }
    }
}

/// The operators' service behind a socket, if somebody listens there.
pub async fn operator_at(socket: &Path) -> Result<OperatorClient<Channel>, tonic::transport::Error> {
    Ok(OperatorClient::new(try_socket_channel(socket.to_owned()).await?))
}

/// What an operator asks for so that a workload can join.
pub fn token_request(spiffe_id: &str, class: &str) -> CreateJoinTokenRequest {
    CreateJoinTokenRequest { spiffe_id: spiffe_id.to_owned(), peer_class: class.to_owned(), ttl_seconds: 120 }
}

async fn socket_channel(path: PathBuf) -> Channel {
    try_socket_channel(path).await.expect("the operator's socket")
}

async fn try_socket_channel(path: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://operator");
    endpoint.connect_with_connector(connector).await
}

async fn wait_for_addresses(process: &mut Process, path: &Path) {
    until(&format!("{}", path.display()), || {
        process.assert_runs();
        path.exists().then_some(())
    })
    .await;
}

/// `program` in a network namespace, or here.
pub fn command_in(netns: Option<&str>, program: &Path) -> Command {
    match netns {
        None => Command::new(program),
        Some(netns) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", netns]).arg(program);
            command
        }
    }
}

/// The same command run as another user, after it entered its namespace (which needs root).
fn as_user(command: Command, uid: u32) -> Command {
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(ToOwned::to_owned).collect();
    let entered = if words.first().is_some_and(|word| word == "ip") { 4 } else { 0 };
    let mut words = words.into_iter();
    let prefix: Vec<_> = words.by_ref().take(entered).collect();
    let mut prefix = prefix.into_iter().chain([
        "setpriv".into(),
        format!("--reuid={uid}").into(),
        format!("--regid={uid}").into(),
        "--clear-groups".into(),
    ]);
    let mut wrapped = Command::new(prefix.next().expect("a program"));
    wrapped.args(prefix).args(words);
    wrapped
}

/// The file that a sidecar reads, from what the operator's socket answered.
pub fn bundle_json(bundle: &JoinBundle) -> Value {
    json!({
        "bootstrapAddress": bundle.bootstrap_address, "meshAddress": bundle.mesh_address,
        "trustDomain": bundle.trust_domain, "rootSha256": bundle.root_sha256, "token": bundle.token,
        "spiffeId": bundle.spiffe_id, "controlPlane": bundle.control_plane,
    })
}

/// An address on loopback that nobody listens on, and that nobody else is given: its port is below those that the
/// kernel hands out by itself, and each test that runs at the same time has a thousand of its own.
pub fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let slot = std::env::var("NEXTEST_TEST_GLOBAL_SLOT").ok().and_then(|slot| slot.parse::<u16>().ok());
    let first = 10_000 + slot.unwrap_or(0) % 20 * 1_000;
    // The test before in this place may have left connections behind.
    let offset = u16::try_from(std::process::id() % 1_000).expect("below a thousand");
    let port = (0..1_000).find_map(|_| {
        let port = first + (offset + NEXT.fetch_add(1, Relaxed)) % 1_000;
        TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
    });
    format!("127.0.0.1:{}", port.expect("one of a thousand ports"))
}

/// A Service document with one endpoint, served by the workload of the same name.
pub fn service(name: &str, namespace: &str, port: &str, protocol: &str, inbound: &str) -> String {
    let (host, number) = inbound.rsplit_once(':').expect("host:port");
    format!(
        "kind: Service\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec:\n  ports: [{{name: {port}, port: 80, protocol: {protocol}}}]\n  \
         endpoints: [{{address: {host}, ports: {{{port}: {number}}}, identity: ns/{namespace}/sa/{name}}}]\n"
    )
}

/// A permit for `from` (`ns/x/sa/y`) at a service, with further fields of the spec.
pub fn permit(name: &str, namespace: &str, service: &str, from: &str, rest: &str) -> String {
    format!(
        "kind: MeshPolicy\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec:\n  effect: permit\n  target: {{service: {service}}}\n  \
         from: {{workloads: [{from}]}}\n{rest}"
    )
}
