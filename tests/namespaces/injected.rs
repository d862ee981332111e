//! Pods as the webhook makes them, run as a kubelet would run them: a review that a real API server sent goes through the
//! webhook of a real control plane, and what comes out is started container by container, each with its own mounts and
//! user, its volumes filled as the pod says. They call each other under strict mTLS, and the node asks their probes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use signet_tests::apiserver::{ApiServer, PodOf};
use signet_tests::peers::{root, run, said, tool};
use signet_tests::process::{Process, binary, until};
use signet_tests::webhook::{configuration, patched, review};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::node::Node;
use crate::pods::{CLIENT, OUTSIDE, Pods, SERVER, inside};

const APP_PORT: u16 = 8080;
/// Of the apps, where their pods say that they are.
const METRICS: &str = "shop_orders_total 7\n";
/// Nobody has these.
const SERVICES: [&str; 2] = ["10.96.0.7", "10.96.0.8"];

/// A pod that runs.
pub(crate) struct Running {
    pub(crate) netns: String,
    pub(crate) address: &'static str,
    /// As the API server would store it.
    pub(crate) pod: Value,
    pub(crate) folder: PathBuf,
    pub(crate) sidecar: Option<Process>,
}

pub(crate) fn recorded(name: &str) -> Value {
    let file = root().join(format!("core/kubernetes/tests/data/admission/requests/{name}.json"));
    serde_json::from_slice(&std::fs::read(file).expect("a recording")).expect("JSON")
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let all = pod["spec"]["initContainers"].as_array().expect("init containers");
    all.iter().find(|container| container["name"] == name).expect("a container of ours")
}

impl Running {
    /// Lays the volumes out as the kubelet does.
    pub(crate) fn volumes(&self, token: &str, roots: &str) {
        for volume in self.pod["spec"]["volumes"].as_array().expect("volumes") {
            let name = volume["name"].as_str().expect("a name");
            let place = self.folder.join(name);
            std::fs::create_dir_all(&place).expect("a volume");
            let write = |file: &Value, content: &str| {
                std::fs::write(place.join(file.as_str().expect("a path")), content)
                    .expect("a file of a volume");
            };
            if let Some(items) = volume["downwardAPI"]["items"].as_array() {
                for item in items {
                    let field = item["fieldRef"]["fieldPath"].as_str().expect("a field");
                    let annotation =
                        field.strip_prefix("metadata.annotations['").and_then(|it| it.strip_suffix("']"));
                    let content = &self.pod["metadata"]["annotations"][annotation.expect("an annotation")];
                    write(&item["path"], content.as_str().expect("an annotation that is there"));
                }
            }
            let sources = volume["projected"]["sources"].as_array().into_iter().flatten();
            for source in sources.filter(|_| name == "signet-identity") {
                match source.get("serviceAccountToken") {
                    Some(wanted) => {
                        assert_eq!(wanted["audience"], "signet-ca");
                        write(&wanted["path"], token);
                    }
                    None => {
                        assert_eq!(source["configMap"]["name"], "signet-roots");
                        write(&source["configMap"]["items"][0]["path"], roots);
                    }
                }
            }
            if volume.get("emptyDir").is_some() {
                std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o777))
                    .expect("an empty folder");
            }
        }
    }

    /// A container's command as the kubelet starts it: in the pod's network, with its own mounts on a root file system that
    /// cannot be written, as its user, with its capabilities and no way to more.
    pub(crate) fn command(&self, name: &str) -> Command {
        let container = container(&self.pod, name);
        let mut script = "set -e\nmount -t tmpfs tmpfs /run\n".to_owned();
        for mount in container["volumeMounts"].as_array().expect("mounts") {
            let volume = self.folder.join(mount["name"].as_str().expect("a volume"));
            let place = mount["mountPath"].as_str().expect("a path").replace("/var/run/", "/run/");
            script += &format!("mkdir -p {place}\nmount --bind {} {place}\n", volume.display());
            if mount["readOnly"] == true {
                script += &format!("mount -o remount,ro,bind {place}\n");
            }
        }
        let security = &container["securityContext"];
        assert_eq!(
            (&security["readOnlyRootFilesystem"], &security["capabilities"]["drop"]),
            (&json!(true), &json!(["ALL"]))
        );
        script += "mount -o remount,ro,bind /run\nmount -o remount,ro,bind /\n";
        let added = security["capabilities"]["add"].as_array().into_iter().flatten();
        let bounds: String =
            added.map(|it| format!(",+{}", it.as_str().expect("a capability").to_lowercase())).collect();
        let (user, group) = (&security["runAsUser"], &security["runAsGroup"]);
        script += &format!(
            "exec setpriv --reuid={user} --regid={group} --clear-groups --bounding-set=-all{bounds} --inh-caps=-all --no-new-privs \"$@\"\n"
        );
        let mut words =
            container["command"].as_array().expect("a command").iter().map(|it| it.as_str().expect("a word"));
        assert_eq!(words.next(), Some("signet-sidecar"));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns, "unshare", "--mount", "--propagation", "private"]);
        command.args(["sh", "-c", &script, "sh"]).arg(binary("signet-sidecar")).args(words);
        command
    }

    /// As an init container and a native sidecar run: the one to its end, the other until its startup probe is answered.
    async fn start(&mut self, node: &str, agent: Option<&Node>) {
        let first = match agent {
            None => "signet-redirect",
            // The runtime makes the pod's network, before any container is there.
            Some(agent) => {
                agent.add(&self.netns, &self.pod).await.unwrap_or_else(|error| panic!("{error}"));
                "signet-check"
            }
        };
        let done = run(self.command(first)).await;
        assert!(done.status.success(), "{}", said(&done));
        let mut sidecar =
            Process::start(&format!("sidecar-{}", self.netns), self.command("signet-proxy"), &self.folder);
        let probe = container(&self.pod, "signet-proxy")["startupProbe"].clone();
        until("the startup probe", || {
            sidecar.assert_runs();
            (get(node, &self.url(&probe)).0 == 200).then_some(())
        })
        .await;
        self.sidecar = Some(sidecar);
    }

    /// What the node's kubelet is answered by a probe as it stands in the pod; 0 for nothing.
    fn url(&self, probe: &Value) -> String {
        let (path, port) = (probe["httpGet"]["path"].as_str().expect("a path"), &probe["httpGet"]["port"]);
        format!("http://{}:{port}{path}", self.address)
    }

    async fn asked(&self, node: &str, probe: &Value) -> u16 {
        fetched(node, self.url(probe)).await.0
    }

    fn probe(&self, kind: &str) -> &Value {
        &self.pod["spec"]["containers"][0][kind]
    }
}

/// Status and body; 0 where there is no answer.
fn get(netns: &str, url: &str) -> (u16, String) {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns, "curl", "-s", "-m", "10", "-w", "\n%{http_code}", url]);
    let text = String::from_utf8_lossy(&command.output().expect("curl").stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').unwrap_or(("", "0"));
    (code.parse().unwrap_or(0), body.to_owned())
}

async fn fetched(netns: &str, url: String) -> (u16, String) {
    let netns = netns.to_owned();
    tokio::task::spawn_blocking(move || get(&netns, &url)).await.expect("the thread ended well")
}

/// The app of a pod: says its name, and whether it is ready.
fn app(netns: &str, address: &str, name: &'static str) -> Arc<AtomicBool> {
    let is_ready = Arc::new(AtomicBool::new(true));
    let listener = inside(netns, None, || {
        let listener = std::net::TcpListener::bind((address, APP_PORT)).expect("listening in a pod");
        listener.set_nonblocking(true).expect("a listener for tokio");
        listener
    });
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener for tokio");
    let ready = Arc::clone(&is_ready);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let ready = Arc::clone(&ready);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let status = match head.starts_with(b"GET /ready") && !ready.load(Ordering::Acquire) {
                    true => "503 Service Unavailable",
                    false => "200 OK",
                };
                let body = if head.starts_with(b"GET /stats?all=1 ") { METRICS } else { name };
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    is_ready
}

/// The control plane as the chart lays it out, in the network of the node.
async fn control_plane(pods: &Pods, api: &ApiServer, folder: &Path, more: &str) -> Process {
    let (place, ip) = (folder.display(), OUTSIDE[0]);
    let webhook = configuration(&format!("{ip}:9443"), &format!("{ip}:8443"), &format!("{ip}:8444"), more);
    let config = format!(
        "trustDomain: test.signet\ndataDir: {place}/cp\ndev: true\nseal: {{keyFile: {place}/seal.key}}\n\
         listen: {{bootstrap: '{ip}:8443', mesh: '{ip}:8444'}}\noperator: {{socket: {place}/op.sock}}\n\
         log: {{format: text, level: debug}}\n{}{}{webhook}",
        api.registry(folder, ""),
        api.configuration(folder, "")
    );
    std::fs::write(folder.join("control-plane.yaml"), config).expect("a configuration");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &pods.outside]).arg(binary("signet-control-plane"));
    command.arg("--config").arg(folder.join("control-plane.yaml"));
    let mut process = Process::start("control-plane", command, folder);
    until("the control plane", || {
        process.assert_runs();
        folder.join("cp/addresses.json").exists().then_some(())
    })
    .await;
    process
}

fn object(version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let mut object =
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "shop"}});
    for (field, value) in rest.as_object().expect("fields") {
        match field.as_str() {
            "labels" => object["metadata"][field] = value.clone(),
            _ => object[field] = value.clone(),
        }
    }
    object
}

/// What the cluster knows of a pod and its Service, and that the other may call it.
fn known(pod: &Value, of: &PodOf, virtual_ip: &str, caller: &str) -> Vec<Value> {
    let label = pod["metadata"]["labels"]["app"].clone();
    let service = format!("{}-api", of.account);
    let mut stored = pod.clone();
    stored["status"] = json!({"phase": "Running", "podIPs": [{"ip": of.address}]});
    let port = json!([{"name": "http", "port": APP_PORT, "targetPort": "http"}]);
    let endpoint = json!([{"addresses": [of.address], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": of.name}}]);
    vec![
        stored,
        object("v1", "ServiceAccount", &of.account, json!({})),
        object(
            "v1",
            "Service",
            &service,
            json!({"spec": {"clusterIPs": [virtual_ip], "selector": {"app": label}, "ports": port}}),
        ),
        object(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            &format!("{service}-a"),
            json!({"labels": {"kubernetes.io/service-name": service}, "addressType": "IPv4", "endpoints": endpoint,
                   "ports": [{"name": "http", "port": APP_PORT}]}),
        ),
        object(
            "signet.mesh/v1alpha1",
            "MeshPolicy",
            &format!("{service}-may"),
            json!({"spec": {"effect": "permit", "target": {"service": service}, "from": {"workloads": [format!("ns/shop/sa/{caller}")]},
                            "to": {"paths": ["/stock"]}}}),
        ),
    ]
}

#[tokio::test]
async fn pods_as_the_webhook_makes_them_call_each_other_and_have_their_probes_answered_under_strict_mtls() {
    call_each_other(false).await;
}

#[tokio::test]
async fn pods_that_the_agent_of_their_node_redirects_do_the_same_without_a_capability() {
    call_each_other(true).await;
}

async fn call_each_other(by_agent: bool) {
    let Some(pods) = Pods::make() else { return };
    if tool("unshare").is_none() || tool("curl").is_none() {
        return;
    }
    let folder = tempfile::Builder::new().prefix("sgt").tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))
        .expect("opening the folder");
    let listener =
        inside(&pods.outside, None, || std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
    let api = ApiServer::serving(listener);
    api.put(json!({"apiVersion": "v1", "kind": "Namespace",
                   "metadata": {"name": "shop", "labels": {"signet.mesh/inject": "enabled"}}}));
    let more = if by_agent { "    redirect: cni\n" } else { "" };
    let plane = control_plane(&pods, &api, folder.path(), more).await;
    let roots_file = folder.path().join("cp/root.pem");
    let door = format!("{}:9443", OUTSIDE[0]);

    let mut running = Vec::new();
    let places = [
        (&pods.server, SERVER[0], "deployment-pod", "web"),
        (&pods.client, CLIENT[0], "pod-probe-http-named-port", "default"),
    ];
    for (index, (netns, address, recording, account)) in places.into_iter().enumerate() {
        let mut asked = recorded(recording);
        for (name, value) in [("scrape", "true"), ("port", "8080"), ("path", "/stats?all=1")] {
            asked["request"]["object"]["metadata"]["annotations"][format!("prometheus.io/{name}")] =
                value.into();
        }
        let answer = review(Some(&pods.outside), &door, "/inject", &roots_file, &asked).await;
        assert_eq!((&answer["allowed"], answer.get("warnings")), (&json!(true), None), "{answer}");
        let mut pod = patched(&asked["request"]["object"], &answer);
        // What everybody has made of it is judged once more.
        asked["request"]["object"] = pod.clone();
        let judged = review(Some(&pods.outside), &door, "/validate", &roots_file, &asked).await;
        assert_eq!(judged["allowed"], true, "{judged}");
        let of = PodOf { address: address.into(), ..PodOf::new(&format!("{account}.shop")) };
        pod["metadata"]["name"] = of.name.clone().into();
        assert_eq!(pod["spec"]["serviceAccountName"], account);
        pod["metadata"]["namespace"] = "shop".into();
        pod["metadata"]["uid"] = of.uid.clone().into();
        pod["spec"]["nodeName"] = of.node.clone().into();
        api.runs(&pod);
        api.put_all(known(&pod, &of, SERVICES[index], places[1 - index].3));
        let place = folder.path().join(account);
        std::fs::create_dir(&place).expect("a pod's folder");
        let roots = std::fs::read_to_string(&roots_file).expect("the roots");
        let one = Running { netns: netns.clone(), address, pod, folder: place, sidecar: None };
        one.volumes(&api.token(&of, "signet-ca"), &roots);
        running.push(one);
    }
    let node = by_agent.then(|| Node::make(&pods, &api, folder.path()));
    let mut agent = node.as_ref().map(|node| node.agent("agent"));
    if let (Some(node), Some(agent)) = (&node, &mut agent) {
        node.ready(agent).await;
    }
    let mut apps = Vec::new();
    for (one, name) in running.iter_mut().zip(["the web", "the toolbox"]) {
        let added = one.pod["spec"]["initContainers"][0].pointer("/securityContext/capabilities/add");
        assert_eq!(added.is_none(), by_agent, "{}", one.pod);
        one.start(&pods.outside, node.as_ref()).await;
        apps.push(app(&one.netns, one.address, name));
    }

    for (caller, virtual_ip, answered) in [(1, SERVICES[0], "the web"), (0, SERVICES[1], "the toolbox")] {
        let url = |path: &str| format!("http://{virtual_ip}:{APP_PORT}{path}");
        let netns = running[caller].netns.clone();
        // Endpoints and policy may still be on their way.
        let mut got = fetched(&netns, url("/stock")).await;
        let end = std::time::Instant::now() + signet_tests::process::PATIENCE;
        while got.0 != 200 && std::time::Instant::now() < end {
            got = fetched(&netns, url("/stock")).await;
        }
        assert_eq!(got, (200, answered.to_owned()));
        assert_eq!(fetched(&netns, url("/other")).await.0, 403, "policy is asked");
    }
    for (one, app) in running.iter().zip(&apps) {
        for kind in ["readinessProbe", "livenessProbe"] {
            let probe = one.probe(kind).clone();
            if probe.is_null() {
                continue;
            }
            assert_eq!(probe["httpGet"]["port"], 15020, "{probe}");
            assert_eq!(one.asked(&pods.outside, &probe).await, 200, "{kind}");
            let mut guessed = probe;
            guessed["httpGet"]["path"] = "/probe/00000000000000000000000000000000/0".into();
            assert_ne!(one.asked(&pods.outside, &guessed).await, 200, "whoever does not know the pod's key");
        }
        app.store(false, Ordering::Release);
        let answered = one.asked(&pods.outside, one.probe("readinessProbe")).await;
        assert!(answered != 200 && answered != 0, "the app's own word: {answered}");
        app.store(true, Ordering::Release);
        // Prometheus goes where the annotations lead, and gets the app's below the sidecar's; the app's own port is closed to it.
        let led = |name: &str| one.pod["metadata"]["annotations"][format!("prometheus.io/{name}")].clone();
        assert_eq!(
            (led("scrape"), led("port"), led("path")),
            ("true".into(), "15021".into(), "/metrics".into())
        );
        let (status, metrics) = fetched(&pods.outside, format!("http://{}:15021/metrics", one.address)).await;
        assert_eq!(status, 200);
        assert!(metrics.contains("signet_ready 1\n") && metrics.ends_with(METRICS), "{metrics}");
        let direct = fetched(&pods.outside, format!("http://{}:{APP_PORT}/stats?all=1", one.address)).await;
        assert_ne!(direct.0, 200, "{direct:?}");
        // The app itself speaks to nobody in plaintext, the node included.
        let direct = fetched(&pods.outside, format!("http://{}:{APP_PORT}/ready", one.address)).await;
        assert_ne!(direct.0, 200, "{direct:?}");
    }

    // A sidecar that is killed is started again in its pod, and goes on with what its volume kept.
    let one = &mut running[0];
    let mut sidecar = one.sidecar.take().expect("it runs");
    sidecar.signal(libc::SIGKILL);
    sidecar.wait().await;
    let command = one.command("signet-proxy");
    let mut again = Process::start("sidecar-again", command, &one.folder);
    let probe = container(&one.pod, "signet-proxy")["startupProbe"].clone();
    until("the startup probe", || {
        again.assert_runs();
        (get(&pods.outside, &one.url(&probe)).0 == 200).then_some(())
    })
    .await;
    let netns = running[1].netns.clone();
    assert_eq!(fetched(&netns, format!("http://{}:{APP_PORT}/stock", SERVICES[0])).await.0, 200);
    // As a Job's does when its app is done.
    again.terminate();
    assert!(again.wait().await.success());
    drop(plane);
}
