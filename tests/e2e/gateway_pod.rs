//! A gateway as its chart makes it: the rendered objects in a cluster, and its process as a pod's user, with the files that
//! the kubelet mounts, their links and modes included.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use signet_tests::Mesh;
use signet_tests::apiserver::{ApiServer, PodOf};
use signet_tests::apps::Echo;
use signet_tests::mesh::{Sidecar, free_address};
use signet_tests::process::{PATIENCE, Process, binary, until};
use signet_tests::{peers, webhook};

/// The user, the group and the `fsGroup` of the chart's pods.
const UID: u32 = 2102;
const NAME: &str = "shop.example.com";

fn object(version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let mut object =
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}});
    for (field, value) in rest.as_object().expect("fields") {
        match field.as_str() {
            "labels" | "annotations" => object["metadata"][field] = value.clone(),
            _ => object[field] = value.clone(),
        }
    }
    object
}

fn ours(kind: &str, name: &str, spec: Value) -> Value {
    object("signet.mesh/v1alpha1", kind, name, json!({"spec": spec}))
}

/// What the chart makes of the release `gw` in the namespace `edge`.
fn rendered(helm: &Path) -> Vec<Value> {
    let chart = peers::root().join("deploy/helm/signet-gateway");
    let mut command = Command::new(helm.join("helm"));
    command.args(["template", "gw"]).arg(&chart).args(["--namespace", "edge"]);
    command.args(["--set", "trustDomain=test.signet,image=registry.example.com/signet-sidecar:1"]);
    command.args(["--set", "listeners[0].name=https,listeners[0].port=443,listeners[0].targetPort=8443"]);
    command.args(["--set", "listeners[0].tlsSecret=shop-tls,drainSeconds=2"]);
    let output = command.output().expect("helm");
    assert!(output.status.success(), "{}", peers::said(&output));
    let text = String::from_utf8(output.stdout).expect("text");
    let documents = text.split("---\n").filter(|it| it.contains("kind:"));
    documents.map(|it| signet_model::from_yaml(it).unwrap_or_else(|error| panic!("{error}\n{it}"))).collect()
}

fn the<'a>(all: &'a [Value], kind: &str) -> &'a Value {
    all.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

/// A volume as the kubelet writes it: a folder of this version, `..data` that leads there, and names that lead through it.
/// All is root's and of the pod's `fsGroup`.
struct Volume {
    folder: PathBuf,
    mode: u32,
    version: u32,
}

impl Volume {
    fn new(folder: PathBuf, mode: u32) -> Self {
        fs::create_dir_all(&folder).expect("a volume");
        Self { folder, mode, version: 0 }
    }

    fn write(&mut self, files: &[(&str, &[u8])]) {
        self.version += 1;
        let version = format!("..2026_11_27_{}", self.version);
        let folder = self.folder.join(&version);
        fs::create_dir(&folder).expect("a version");
        for (name, content) in files {
            let file = folder.join(name);
            fs::write(&file, content).expect("a file");
            chown(&file, Some(0), Some(UID)).expect("the file's group");
            fs::set_permissions(&file, fs::Permissions::from_mode(self.mode)).expect("the file's mode");
            let link = self.folder.join(name);
            if !link.is_symlink() {
                symlink(format!("..data/{name}"), link).expect("a link");
            }
        }
        for folder in [&folder, &self.folder] {
            chown(folder, Some(0), Some(UID)).expect("the folder's group");
            fs::set_permissions(folder, fs::Permissions::from_mode(0o2775)).expect("the folder's mode");
        }
        let new = self.folder.join("..data_tmp");
        symlink(&version, &new).expect("a link");
        fs::rename(new, self.folder.join("..data")).expect("the exchange");
    }
}

/// A certificate and its key.
fn certificate() -> [Vec<u8>; 2] {
    let signed = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).expect("a certificate");
    [signed.cert.pem().into_bytes(), signed.signing_key.serialize_pem().into_bytes()]
}

/// A request by TLS that trusts this certificate alone: the status code, or 0.
async fn asked(address: &str, root: &Path, path: &str) -> String {
    let (ip, port) = address.rsplit_once(':').expect("host:port");
    let mut curl = Command::new("curl");
    curl.args(["-s", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"]).arg(root);
    curl.args(["--resolve", &format!("{NAME}:{port}:{ip}")]).arg(format!("https://{NAME}:{port}{path}"));
    // The app and the API server are this process.
    String::from_utf8(peers::run(curl).await.stdout).expect("a status")
}

/// Waits until a request is answered.
async fn answered(address: &str, root: &Path) {
    let asked = async {
        while asked(address, root, "/").await != "200" {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, asked).await.is_ok(), "no answer at {address}");
}

struct Cluster {
    api: ApiServer,
    mesh: Mesh,
    objects: Vec<Value>,
    folder: tempfile::TempDir,
    _app: Echo,
}

impl Cluster {
    /// `server.shop` in the mesh; in `edge` nothing yet.
    async fn start(helm: &Path) -> Cluster {
        let (api, app) = (ApiServer::start().await, Echo::start().await);
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))
            .expect("a way for the pod's user");
        let (inbound, server) = (free_address(), PodOf::new("server.shop"));
        let port: u16 = inbound.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
        api.run(&server);
        let endpoints = json!([{"addresses": ["127.0.0.1"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": "server-1"}}]);
        api.put_all([
            object("v1", "Namespace", "shop", json!({"labels": {"signet.mesh/inject": "enabled"}})),
            object("v1", "Namespace", "edge", json!({"labels": {"signet.mesh/mesh-admin": "true"}})),
            object("v1", "ServiceAccount", "shop/server", json!({})),
            object("v1", "Pod", "shop/server-1", json!({
                "labels": {"app": "server"}, "annotations": {"signet.mesh/injected": "true"},
                "spec": {"serviceAccountName": "server", "initContainers": [{"name": "signet-proxy", "restartPolicy": "Always"}]},
                "status": {"phase": "Running", "podIPs": [{"ip": "127.0.0.1"}]},
            })),
            object("v1", "Service", "shop/server", json!({"spec": {
                "clusterIPs": ["10.96.0.7"], "selector": {"app": "server"}, "ports": [{"name": "http", "port": 80}],
            }})),
            object("discovery.k8s.io/v1", "EndpointSlice", "shop/server-a", json!({
                "labels": {"kubernetes.io/service-name": "server"}, "addressType": "IPv4",
                "endpoints": endpoints, "ports": [{"name": "http", "port": port}],
            })),
            ours("MeshPolicy", "shop/edge-may", json!({
                "effect": "permit", "target": {"service": "server"}, "from": {"workloads": ["ns/edge/sa/gw"]},
            })),
            ours("Gateway", "edge/gw", json!({"identity": "ns/edge/sa/gw", "routes": [
                {"name": "shop", "hosts": [NAME], "pathPrefix": "/", "service": "server.shop", "port": "http", "auth": {"anonymous": true}},
            ]})),
        ]);
        let hooks = webhook::configuration("127.0.0.1:0", "127.0.0.1:1", "127.0.0.1:1", "");
        let hooks = hooks.replace("  configuration: signet-injector\n", "");
        let mut mesh = Mesh::builder()
            .control_plane(&format!("{}{hooks}", api.configuration(folder.path(), "")))
            .registry_from(&api.registry(folder.path(), ", leaseSeconds: 3"))
            .start()
            .await;
        let config = format!(
            "inbound: [{{service: server.shop, port: http, listen: '{inbound}', app: 'tcp:{}'}}]\n",
            app.address
        );
        mesh.arrive(Sidecar::new("server.shop", config), &api.token(&server, "signet-ca")).await;
        Cluster { api, mesh, objects: rendered(helm), folder, _app: app }
    }

    /// Does what `kubectl apply`, the scheduler and the kubelet do, as far as the pod sees it: its volumes, its user, its
    /// command. Where its listener is, and its Secret.
    async fn apply(&self, secret: &[Vec<u8>; 2]) -> (Process, String, Volume) {
        for object in &self.objects {
            // Kinds that nobody here reads.
            if ["Workload", "Registration", "Service", "ServiceAccount"]
                .iter()
                .any(|kind| object["kind"] == *kind)
            {
                self.api.put(object.clone());
            }
        }
        // A pod is not started before its volumes are there.
        let roots = object("v1", "ConfigMap", "edge/signet-roots", json!({}));
        let roots = until("the roots in the gateway's namespace", || {
            self.api.object(&roots)?["data"]["roots.pem"].as_str().map(str::to_owned)
        })
        .await;
        let deployment = the(&self.objects, "Deployment");
        let template = &deployment["spec"]["template"];
        let pod = PodOf::new("gw.edge");
        self.api.run(&pod);
        self.api.put(object(
            "v1",
            "Pod",
            "edge/gw-1",
            json!({
                "labels": template["metadata"]["labels"], "spec": template["spec"],
                "status": {"phase": "Running", "podIPs": [{"ip": "127.0.0.1"}]},
            }),
        ));
        let place = self.folder.path().join("pod");
        let mut identity = Volume::new(place.join("identity"), 0o644);
        identity.write(&[
            ("token", self.api.token(&pod, "signet-ca").as_bytes()),
            ("roots.pem", roots.as_bytes()),
        ]);
        let mode = template["spec"]["volumes"]
            .as_array()
            .expect("volumes")
            .iter()
            .find_map(|it| it["secret"]["defaultMode"].as_u64());
        let mut tls =
            Volume::new(place.join("tls/shop-tls"), u32::try_from(mode.expect("a mode")).expect("a mode"));
        tls.write(&[("tls.crt", &secret[0]), ("tls.key", &secret[1])]);
        // An emptyDir.
        let state = place.join("state");
        fs::create_dir(&state).expect("a volume");
        chown(&state, Some(0), Some(UID)).expect("its group");
        fs::set_permissions(&state, fs::Permissions::from_mode(0o2777)).expect("its mode");
        let mut config = Volume::new(place.join("config"), 0o644);
        let (plane, door) = (self.mesh.addresses("cp"), free_address());
        let port = door.rsplit_once(':').expect("host:port").1;
        let text = the(&self.objects, "ConfigMap")["data"]["sidecar.yaml"].as_str().expect("a configuration");
        let mut changed = text.to_owned();
        for (from, to) in [
            ("/run/signet", place.display().to_string()),
            (
                "signet-control-plane.signet-system.svc.cluster.local:8443",
                plane["bootstrap"].as_str().expect("a door").to_owned(),
            ),
            (
                "signet-control-plane.signet-system.svc.cluster.local:8444",
                plane["mesh"].as_str().expect("a door").to_owned(),
            ),
            ("[::]:8443", format!("[::]:{port}")),
            ("[::]:15021", "[::]:0".to_owned()),
        ] {
            assert!(changed.contains(from), "{from}: {text}");
            changed = changed.replace(from, &to);
        }
        config.write(&[("sidecar.yaml", changed.as_bytes())]);
        let context = &template["spec"]["securityContext"];
        assert_eq!((&context["runAsUser"], &context["fsGroup"]), (&json!(UID), &json!(UID)));
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={UID}"), format!("--regid={UID}"), format!("--groups={UID}")]);
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
        command.arg(binary("signet-sidecar")).arg("--config").arg(place.join("config/sidecar.yaml"));
        let mut process = Process::start("gateway", command, self.folder.path());
        let addresses = place.join("state/data/addresses.json");
        until("the gateway", || {
            process.assert_runs();
            addresses.exists().then_some(())
        })
        .await;
        (process, format!("127.0.0.1:{port}"), tls)
    }
}

#[tokio::test]
async fn a_gateway_of_the_chart_lets_callers_in_and_shows_a_new_certificate_without_a_restart() {
    let Some(helm) = peers::kubernetes() else { return };
    if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) != 0) {
        return;
    }
    let mut cluster = Cluster::start(&helm).await;
    let (first, second) = (certificate(), certificate());
    let root = |name: &str, pem: &[u8]| {
        let file = cluster.folder.path().join(name);
        fs::write(&file, pem).expect("a root");
        file
    };
    let (old, new) = (root("old.pem", &first[0]), root("new.pem", &second[0]));
    let (mut gateway, door, mut secret) = cluster.apply(&first).await;
    answered(&door, &old).await;
    if std::net::UdpSocket::bind("[::1]:0").is_ok() {
        let by_v6 = door.replace("127.0.0.1", "[::1]");
        assert_eq!(asked(&by_v6, &old, "/").await, "200", "one listener for both families");
    }
    // A Secret that does not go together changes nothing.
    secret.write(&[("tls.crt", &second[0]), ("tls.key", &first[1])]);
    gateway.logged("the one before stays").await;
    assert_eq!(asked(&door, &old, "/").await, "200");
    secret.write(&[("tls.crt", &second[0]), ("tls.key", &second[1])]);
    answered(&door, &new).await;
    assert_ne!(asked(&door, &old, "/").await, "200", "the earlier one is shown to nobody");
    gateway.terminate();
    assert!(gateway.wait().await.success());
    cluster.mesh.assert_unharmed();
}

#[tokio::test]
async fn a_gateway_whose_secret_anybody_may_read_does_not_start() {
    let Some(helm) = peers::kubernetes() else { return };
    if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) != 0) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a way for the pod's user");
    let all = rendered(&helm);
    let text = the(&all, "ConfigMap")["data"]["sidecar.yaml"].as_str().expect("a configuration");
    let files = certificate();
    // As a Secret comes where nothing is said of its mode.
    let mut secret = Volume::new(folder.path().join("tls/shop-tls"), 0o644);
    secret.write(&[("tls.crt", &files[0]), ("tls.key", &files[1])]);
    let state = folder.path().join("state");
    fs::create_dir(&state).expect("a volume");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).expect("its mode");
    let mut identity = Volume::new(folder.path().join("identity"), 0o644);
    identity.write(&[("token", b"x"), ("roots.pem", b"x")]);
    let config = folder.path().join("sidecar.yaml");
    fs::write(&config, text.replace("/run/signet", &folder.path().display().to_string())).expect("a file");
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={UID}"), format!("--regid={UID}"), format!("--groups={UID}")]);
    command.arg(binary("signet-sidecar")).arg("--config").arg(&config);
    let mut process = Process::start("gateway", command, folder.path());
    assert!(!process.wait().await.success());
    assert!(process.log().contains("expected root's own file"), "{}", process.log());
}
