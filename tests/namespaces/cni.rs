//! The CNI plugin and its agent as processes: the pod's network is a namespace, the runtime a stand-in that does with the
//! folder of configurations what runtimes do, and the API server knows the pods.

use serde_json::{Value, json};
use signet_kubernetes::inject::{Namespace, Outcome, ProbeKey, Settings, inject};
use signet_tests::apiserver::ApiServer;
use signet_tests::peers::{run, said, tool};
use signet_tests::process::{Process, until};

use crate::injected::{Running, recorded};
use crate::node::{LIST, Node, arguments, daemonset, result};
use crate::pods::{CLIENT, Pods, SERVER, SIDECAR_UID, execute, inside};

fn settings() -> Settings {
    serde_json::from_value(json!({
        "image": "registry.example.com/signet-sidecar:1",
        "redirectImage": "registry.example.com/signet-redirect:1",
        "bootstrapAddress": "signet-control-plane.signet-system.svc:8443",
        "meshAddress": "signet-control-plane.signet-system.svc:8444",
        "controlPlane": "spiffe://example.com/ns/signet-system/sa/signet-control-plane",
        "redirect": "cni",
    }))
    .expect("settings")
}

/// A recorded pod as the API server has it.
fn stored(mut pod: Value, namespace: &str, name: &str, address: &str) -> Value {
    pod["metadata"]["namespace"] = namespace.into();
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["uid"] = format!("uid-of-{name}").into();
    pod["spec"]["nodeName"] = "node1".into();
    // The node's own address is none of these namespaces.
    pod["status"] = json!({"phase": "Pending", "hostIP": "192.0.2.1", "podIPs": [{"ip": address}]});
    pod
}

fn plain(namespace: &str, name: &str) -> Value {
    stored(recorded("pod-probe-http-named-port")["request"]["object"].clone(), namespace, name, SERVER[0])
}

fn injected(name: &str, address: &str) -> Value {
    let pod = recorded("pod-probe-http-named-port")["request"]["object"].clone();
    let namespace = Namespace { name: "shop".into(), injects: true };
    let Outcome::Injected(done) = inject(&pod, &namespace, &settings(), &ProbeKey::new(1)) else {
        panic!("not injected")
    };
    stored(done.pod, "shop", name, address)
}

struct Scene {
    pods: Pods,
    api: ApiServer,
    node: Node,
    folder: tempfile::TempDir,
}

impl Scene {
    fn make() -> Option<Self> {
        let pods = Pods::make()?;
        tool("unshare")?;
        let folder = tempfile::Builder::new().prefix("sgt").tempdir().expect("a folder");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(folder.path(), open).expect("opening the folder");
        let listener =
            inside(&pods.outside, None, || std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
        let api = ApiServer::serving(listener);
        let node = Node::make(&pods, &api, folder.path());
        Some(Self { pods, api, node, folder })
    }

    async fn agent(&self, name: &str) -> Process {
        let mut agent = self.node.agent(name);
        self.node.ready(&mut agent).await;
        agent
    }

    /// A pod's containers, in a namespace.
    fn running(&self, netns: &str, address: &'static str, pod: &Value) -> Running {
        let folder = self.folder.path().join(pod["metadata"]["name"].as_str().expect("a name"));
        std::fs::create_dir(&folder).expect("a pod's folder");
        let running = Running { netns: netns.to_owned(), address, pod: pod.clone(), folder, sidecar: None };
        running.volumes("no token", "no roots");
        running
    }

    /// Whether the rules are those that the pod's own init container would have set.
    fn is_as_by_the_init_container(&self, netns: &str, pod: &Value) -> bool {
        let config = self.folder.path().join("sidecar.yaml");
        let text = pod["metadata"]["annotations"]["signet.mesh/sidecar-config"].as_str().expect("one");
        std::fs::write(&config, text).expect("a configuration");
        let options = format!("check --uid {SIDECAR_UID} --config {}", config.display());
        self.pods.redirect(netns, &options).status.success()
    }

    fn has_rules(&self, netns: &str) -> bool {
        execute(netns, "nft list table inet signet").status.success()
    }
}

#[track_caller]
fn refused(outcome: Result<Value, Value>, code: u32, words: &str) {
    let error = outcome.expect_err("a refusal");
    assert_eq!(error["code"], code, "{error}");
    assert!(error["msg"].as_str().expect("words").contains(words), "{error}");
}

#[tokio::test]
async fn a_pod_is_redirected_before_it_starts_and_one_that_is_not_of_the_mesh_is_left_alone() {
    let Some(scene) = Scene::make() else { return };
    let (node, server, client) = (&scene.node, &scene.pods.server, &scene.pods.client);
    let agent = scene.agent("agent").await;
    let pod = injected("web-1", SERVER[0]);
    // The API server may be behind the runtime.
    refused(node.add(server, &pod).await, 11, "does not say what the pod shop/web-1 is");
    scene.api.runs(&pod);
    assert!(!scene.has_rules(server));
    for _ in 0..2 {
        assert_eq!(node.add(server, &pod).await, Ok(result()));
        assert!(scene.is_as_by_the_init_container(server, &pod));
    }
    assert!(node.call("CHECK", server, &arguments(&pod)).await.is_ok());
    scene.pods.redirected(server, "remove");
    refused(node.call("CHECK", server, &arguments(&pod)).await, 101, "nothing is redirected");
    assert_eq!(node.add(server, &pod).await, Ok(result()));
    for _ in 0..2 {
        assert!(node.call("DEL", server, &arguments(&pod)).await.is_ok());
    }
    assert!(node.call("STATUS", server, "").await.is_ok() && node.call("GC", server, "").await.is_ok());

    // Who is not in the mesh.
    let plain = plain("shop", "plain-1");
    scene.api.runs(&plain);
    assert_eq!(node.add(client, &plain).await, Ok(result()));
    // A pod that a runtime knows by another uid, and one of another node.
    let other = arguments(&pod).replace("uid-of-web-1", "uid-of-web-0");
    refused(node.call("ADD", client, &other).await, 11, "taken its place");
    let mut elsewhere = injected("web-2", CLIENT[0]);
    elsewhere["spec"]["nodeName"] = "node2".into();
    scene.api.runs(&elsewhere);
    refused(node.add(client, &elsewhere).await, 100, "node2");
    // A name that is a path, and a network that is the node's.
    let path = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=../../pods/web-1;K8S_POD_UID=u";
    refused(node.call("ADD", client, path).await, 100, "expected the names");
    refused(node.add(&scene.pods.outside, &pod).await, 4, "the node's own");
    assert!(!scene.has_rules(client) && !scene.has_rules(&scene.pods.outside));
    drop(agent);
}

#[tokio::test]
async fn without_its_agent_a_node_starts_the_clusters_own_pods_and_no_other() {
    let Some(scene) = Scene::make() else { return };
    let (node, server) = (&scene.node, &scene.pods.server);
    let mut agent = scene.agent("agent").await;
    let pod = injected("web-1", SERVER[0]);
    scene.api.runs(&pod);
    // The API server is away: nobody can say what the pod is.
    scene.api.is_away(true);
    refused(node.add(server, &pod).await, 11, "does not say what the pod");
    scene.api.is_away(false);
    assert_eq!(node.add(server, &pod).await, Ok(result()));
    agent.signal(libc::SIGKILL);
    agent.wait().await;
    refused(node.add(server, &pod).await, 11, "does not answer");
    refused(node.add(server, &plain("shop", "plain-1")).await, 11, "does not answer");
    for namespace in ["kube-system", "signet-system"] {
        assert_eq!(node.add(server, &plain(namespace, "dns-1")).await, Ok(result()), "{namespace}");
    }
    assert!(node.call("DEL", server, &arguments(&pod)).await.is_ok(), "pods end without it");
    assert!(node.call("STATUS", server, "").await.is_ok(), "the agent's own pod starts by this network");
    assert!(!node.is_healthy());
    // Its next one.
    let agent = scene.agent("again").await;
    assert_eq!(node.add(server, &pod).await, Ok(result()));
    drop(agent);
}

#[tokio::test]
async fn the_plugin_stays_through_rewrites_and_upgrades_and_leaves_no_trace_at_the_end() {
    let Some(scene) = Scene::make() else { return };
    let node = &scene.node;
    let before = node.configurations();
    let has_it = |name: &str| node.configurations().get(name).is_some_and(|text| text.contains("signet-cni"));
    let mut first = scene.agent("first").await;
    assert!(has_it("10-net.conflist"));
    node.configure("10-net.conflist", LIST);
    until("the entry is back", || has_it("10-net.conflist").then_some(())).await;
    // Another network comes before it, of one plugin.
    node.configure("05-other.conf", r#"{"cniVersion": "1.0.0", "name": "other", "type": "stand-in"}"#);
    until("the entry in the one in force", || has_it("05-other.conflist").then_some(())).await;
    until("it takes the other's place", || {
        (!node.configurations().contains_key("05-other.conf")).then_some(())
    })
    .await;
    let pod = injected("web-1", SERVER[0]);
    scene.api.runs(&pod);
    assert_eq!(node.add(&scene.pods.server, &pod).await, Ok(result()));

    // An upgrade: the next one is there before the first goes, and whoever asks is answered throughout.
    let mut second = scene.agent("second").await;
    first.terminate();
    let asked = async {
        for _ in 0..5 {
            assert_eq!(node.add(&scene.pods.server, &pod).await, Ok(result()));
        }
    };
    let (ended, ()) = tokio::join!(first.wait(), asked);
    assert!(ended.success() && has_it("05-other.conflist"));
    assert_eq!(node.add(&scene.pods.server, &pod).await, Ok(result()));

    // The API server is away as well, while a node is shut down: nobody has said that it is over.
    scene.api.is_away(true);
    second.terminate();
    assert!(second.wait().await.success() && has_it("05-other.conflist"));
    scene.api.is_away(false);

    // It goes for good.
    let mut third = scene.agent("third").await;
    scene.api.remove(&daemonset());
    third.terminate();
    assert!(third.wait().await.success());
    let mut after = node.configurations();
    let other = after.remove("05-other.conf").expect("as its owner wrote it");
    assert_eq!(other, r#"{"cniVersion": "1.0.0", "name": "other", "type": "stand-in"}"#);
    assert_eq!(after, before);
    assert!(!node.folder.join("bin/signet-cni").exists() && !node.folder.join("run/agent.sock").exists());
}

#[tokio::test]
async fn whoever_loses_its_rights_or_its_namespace_goes_for_good() {
    let Some(scene) = Scene::make() else { return };
    let node = &scene.node;
    let before = node.configurations();
    for ending in ["rights", "namespace"] {
        let mut agent = scene.agent(ending).await;
        assert_ne!(node.configurations(), before);
        match ending {
            "rights" => scene.api.expect_caller("another"),
            _ => {
                let mut namespace =
                    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "signet-system"}});
                namespace["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
                scene.api.put(namespace);
            }
        }
        agent.terminate();
        assert!(agent.wait().await.success());
        assert_eq!(node.configurations(), before, "{ending}");
        scene.api.expect_caller(signet_tests::apiserver::CALLER);
    }
}

#[tokio::test]
async fn a_pod_goes_no_further_than_its_first_container_until_it_is_redirected() {
    let Some(scene) = Scene::make() else { return };
    let (server, client) = (&scene.pods.server, &scene.pods.client);
    // It started before the node had an agent.
    let mut pod = injected("web-1", SERVER[0]);
    let running = scene.running(server, SERVER[0], &pod);
    let mut at_once = running.command("signet-check");
    at_once.args(["--wait", "0"]);
    let done = run(at_once).await;
    let words = said(&done);
    assert!(!done.status.success() && words.contains("not in force"), "{words}");
    assert!(words.contains("Connection refused") && words.contains("signet-cni"), "{words}");
    let mut check = Process::start("check", running.command("signet-check"), scene.folder.path());
    check.logged("waiting").await;
    pod["status"]["initContainerStatuses"] = json!([{"name": "signet-check", "state": {"running": {}}}]);
    scene.api.runs(&pod);
    let agent = scene.agent("agent").await;
    assert!(check.wait().await.success(), "{}", check.log());
    agent.logged("redirected belatedly").await;
    assert!(scene.is_as_by_the_init_container(server, &pod));
    assert!(!scene.has_rules(client), "nobody else");
    // Once more, as after a restart of the pod's containers.
    let again = run(running.command("signet-check")).await;
    assert!(again.status.success(), "{}", said(&again));

    // One that comes to be while the agent is there, by whom nobody asked the plugin.
    let mut other = injected("web-2", CLIENT[0]);
    let running = scene.running(client, CLIENT[0], &other);
    let mut check = Process::start("other", running.command("signet-check"), scene.folder.path());
    check.logged("waiting").await;
    other["status"]["initContainerStatuses"] = json!([{"name": "signet-check", "state": {"running": {}}}]);
    scene.api.runs(&other);
    assert!(check.wait().await.success(), "{}", check.log());
}

fn waiting(mut pod: Value) -> Value {
    pod["status"]["initContainerStatuses"] = json!([{"name": "signet-check", "state": {"running": {}}}]);
    pod
}

#[tokio::test]
async fn a_pod_that_takes_anothers_address_has_nobody_redirected_in_its_place() {
    let Some(scene) = Scene::make() else { return };
    let (server, client) = (&scene.pods.server, &scene.pods.client);
    // The client's pod may change its network, and says that it is the server.
    assert!(execute(client, &format!("ip addr add {}/32 dev lo", SERVER[0])).status.success());
    let pod = waiting(injected("web-1", SERVER[0]));
    let running = scene.running(server, SERVER[0], &pod);
    let mut check = Process::start("check", running.command("signet-check"), scene.folder.path());
    check.logged("waiting").await;
    scene.api.runs(&pod);
    let agent = scene.agent("agent").await;
    agent.logged("found 2").await;
    assert!(!scene.has_rules(client) && !scene.has_rules(server));
    assert!(execute(client, &format!("ip addr del {}/32 dev lo", SERVER[0])).status.success());
    agent.logged("redirected belatedly").await;
    assert!(check.wait().await.success(), "{}", check.log());
    assert!(scene.is_as_by_the_init_container(server, &pod) && !scene.has_rules(client));
}

#[tokio::test]
async fn nobody_gets_the_rules_of_a_pod_whose_status_has_its_address() {
    let Some(scene) = Scene::make() else { return };
    let (server, client) = (&scene.pods.server, &scene.pods.client);
    let agent = scene.agent("agent").await;
    // A tenant's pod, by its status with the address of one that is not of the mesh.
    let forged = |name: &str, address: &str, command: &[&str]| {
        let mut pod = waiting(injected(name, address));
        pod["spec"]["initContainers"][0]["command"] = command.into();
        pod
    };
    let open = ["/bin/false", "redirect", "verify", "--uid", "2102", "--exclude-inbound-ports", "1-65535"];
    scene.api.runs(&forged("mallory-1", CLIENT[0], &open));
    agent.logged("nobody asks for what this pod would have").await;
    assert!(!scene.has_rules(client));

    // Of one that is redirected: its rules stay.
    let pod = injected("web-1", SERVER[0]);
    scene.api.runs(&pod);
    assert_eq!(scene.node.add(server, &pod).await, Ok(result()));
    scene.api.runs(&forged("mallory-2", SERVER[0], &open));
    agent.logged("mallory-2").await;
    assert!(scene.is_as_by_the_init_container(server, &pod));

    // With options that injection never writes.
    let strange = ["/bin/false", "redirect", "verify", "--uid", "2102", "--only-inbound-ports", "1"];
    scene.api.runs(&forged("mallory-3", CLIENT[0], &strange));
    agent.logged("mallory-3").await;
    // One that has ended, and keeps the address that another has.
    let mut ended = forged("mallory-4", CLIENT[0], &open);
    ended["status"]["phase"] = "Failed".into();
    scene.api.runs(&ended);
    // One that asks, in a namespace with other rules.
    scene.pods.redirected(client, "apply --uid 7");
    let other = waiting(injected("web-2", CLIENT[0]));
    let running = scene.running(client, CLIENT[0], &other);
    let mut check = Process::start("check", running.command("signet-check"), scene.folder.path());
    check.logged("waiting").await;
    scene.api.runs(&other);
    agent.logged("never replaced").await;
    assert!(scene.pods.redirect(client, "check --uid 7").status.success());
    assert!(
        !agent.log().contains("mallory-4") && !agent.log().contains("redirected belatedly"),
        "{}",
        agent.log()
    );
    // And when they are gone.
    scene.pods.redirected(client, "remove");
    agent.logged("redirected belatedly").await;
    assert!(check.wait().await.success(), "{}", check.log());
    assert!(scene.is_as_by_the_init_container(client, &other));
}
