//! `signet check`, of a cluster in which things are right and wrong.

use serde_json::{Value, json};
use signet_tests::apiserver::Fault;

use crate::support::{Cluster, out, said};

/// The findings of one check, as `level subject: message`.
fn of(found: &Value, check: &str) -> Vec<String> {
    let all = found["findings"].as_array().expect("findings");
    let text = |it: &Value, name: &str| it[name].as_str().expect("text").to_owned();
    all.iter()
        .filter(|it| it["check"] == check)
        .map(|it| format!("{} {}: {}", text(it, "level"), text(it, "subject"), text(it, "message")))
        .collect()
}

fn has(found: &Value, check: &str, words: &[&str]) {
    let lines = of(found, check);
    let is = |line: &String| words.iter().all(|word| line.contains(word));
    assert!(lines.iter().any(is), "{check} {words:?}: {lines:#?}");
}

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

/// A node of this age of kubelet, heard of now.
fn node(cluster: &Cluster, name: &str, kubelet: &str, ahead: i64) {
    let now = time::OffsetDateTime::now_utc() + time::Duration::seconds(ahead);
    let now = now.format(&time::format_description::well_known::Rfc3339).expect("a time");
    let status = json!({"nodeInfo": {"kubeletVersion": kubelet}, "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]});
    cluster.server.put(object("v1", "Node", name, json!({"status": status})));
    let lease = format!("kube-node-lease/{name}");
    cluster.server.put(object(
        "coordination.k8s.io/v1",
        "Lease",
        &lease,
        json!({"spec": {"renewTime": now}}),
    ));
}

impl Cluster {
    /// The findings, and the exit code.
    async fn check(&self, words: &str) -> (Value, i32) {
        let output = self.signet(&format!("check -o json {words}")).await;
        let found =
            serde_json::from_str(&out(&output)).unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
        (found, output.status.code().expect("an exit code"))
    }

    /// A pod of the control plane that runs.
    fn control_plane(&self) {
        let labels = json!({"app.kubernetes.io/name": "signet-control-plane", "app.kubernetes.io/instance": "signet-control-plane"});
        let ports = json!([{"name": "webhook", "containerPort": 9443}]);
        let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        let spec = json!({"containers": [{"name": "control-plane", "image": "x", "ports": ports}]});
        let name = "signet-system/signet-control-plane-0";
        self.server.put(object("v1", "Pod", name, json!({"labels": labels, "spec": spec, "status": ready})));
    }

    /// What the webhook's configuration trusts, as the control plane writes it.
    fn trust(&self, pem: &str) {
        use base64::Engine as _;
        for kind in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
            let mut hooks = self.all(&format!("/apis/admissionregistration.k8s.io/v1/{kind}")).remove(0);
            for hook in hooks["webhooks"].as_array_mut().expect("hooks") {
                let encoded = base64::engine::general_purpose::STANDARD.encode(pem);
                hook["clientConfig"]["caBundle"] = encoded.into();
            }
            self.server.put(hooks);
        }
    }

    /// A kubectl that answers what an API server inside a test cannot: a forwarded port, a command in a pod, and a log.
    fn kubectl_with(&self, port: u16, status: &Value, log: &str) {
        let bin = self.folder.path().join("bin");
        std::fs::create_dir_all(&bin).expect("a folder");
        std::fs::write(bin.join("status.json"), status.to_string()).expect("written");
        std::fs::write(bin.join("log.txt"), log).expect("written");
        let (real, bin_shown) = (self.bin.join("kubectl"), bin.display());
        let script = format!(
            "#!/bin/sh\ncase \" $* \" in\n\
             *' port-forward '*) echo 'Forwarding from 127.0.0.1:{port} -> 9443'; exec sleep 60;;\n\
             *' exec '*' --socket /data/control-plane/operator.sock --json status '*) exec cat {bin_shown}/status.json;;\n\
             *'?dryRun=All '*) if [ -f {bin_shown}/refused ]; then cat {bin_shown}/refused >&2; exit 1; fi; exec {} \"$@\";;\n\
             *' logs '*) exec cat {bin_shown}/log.txt;;\n\
             *) exec {} \"$@\";;\nesac\n",
            real.display(),
            real.display()
        );
        let path = bin.join("kubectl");
        std::fs::write(&path, script).expect("written");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("made to run");
    }
}

#[tokio::test]
async fn before_an_install_versions_rights_and_clocks_are_looked_at() {
    let Some(cluster) = Cluster::start().await else { return };
    node(&cluster, "one", "v1.36.1", 0);
    let (found, code) = cluster.check("--pre").await;
    has(&found, "kubernetes", &["ok", "v1.36.0"]);
    has(&found, "rights", &["ok", "everything"]);
    has(&found, "clocks", &["ok API server"]);
    has(&found, "nodes", &["ok", "1 with kubelet v1.36.1"]);
    has(&found, "gateway-api", &["warning", "HTTPRoute"]);
    has(&found, "storage", &["warning", "default, found none"]);
    assert_eq!(code, 0, "{found:#}");
    let class = |name: &str, is_default: &str| {
        let annotations = json!({"storageclass.kubernetes.io/is-default-class": is_default});
        let rest = json!({"annotations": annotations, "provisioner": "example.com/disk"});
        cluster.server.put(object("storage.k8s.io/v1", "StorageClass", name, rest));
    };
    class("slow", "false");
    has(&cluster.check("--pre").await.0, "storage", &["warning", "default, found slow"]);
    class("fast", "true");
    has(&cluster.check("--pre").await.0, "storage", &["ok", "fast is the default"]);

    node(&cluster, "old", "v1.28.9", 0);
    node(&cluster, "fast", "v1.36.1", 300);
    cluster.server.forbids("* *");
    cluster.server.forbids("create customresourcedefinitions");
    // Nobody grants what they do not have: all that the charts' roles grant is asked for.
    cluster.server.forbids("escalate clusterroles");
    let granted =
        ["create tokenreviews", "list configmaps", "get mutatingwebhookconfigurations", "get daemonsets"];
    granted.iter().chain(&["deletecollection meshpolicies"]).for_each(|words| cluster.server.forbids(words));
    let (found, code) = cluster.check("--pre").await;
    has(&found, "nodes", &["failure node old", "1.28.9", "1.30"]);
    has(&found, "clocks", &["failure node fast", "s ahead"]);
    has(&found, "rights", &["failure you", "create customresourcedefinitions"]);
    assert!(!of(&found, "rights")[0].contains("patch customresourcedefinitions"));
    for words in granted {
        has(&found, "rights", &[words]);
    }
    has(
        &found,
        "rights",
        &["get daemonsets (for the CNI agent's role", "deletecollection meshpolicies (for"],
    );
    assert_eq!(code, 1);
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_never_right() {
    let Some(cluster) = Cluster::start().await else { return };
    node(&cluster, "one", "v1.36.1", 0);
    cluster.server.fails_at("GET", "/api/v1/nodes", Fault::Status(403, vec![]));
    let (found, code) = cluster.check("--pre").await;
    has(&found, "nodes", &["unknown"]);
    assert_eq!(code, 2, "{found:#}");
    cluster.server.is_away(true);
    let (found, code) = cluster.check("").await;
    has(&found, "kubernetes", &["unknown"]);
    assert_eq!((code, found["findings"].as_array().expect("findings").len()), (2, 2), "{found:#}");
    let (found, code) = cluster.check("--kubectl no-kubectl").await;
    has(&found, "kubectl", &["unknown", "no-kubectl: not found"]);
    assert_eq!(code, 2);
}

#[tokio::test]
async fn an_installed_mesh_is_looked_at_from_its_webhook_to_its_pods() {
    let Some(cluster) = Cluster::start().await else { return };
    node(&cluster, "one", "v1.36.1", 0);
    let (found, code) = cluster.check("").await;
    has(&found, "control-plane", &["failure", "there is none"]);
    assert_eq!(code, 1);

    assert!(cluster.signet("install -f values.yaml").await.status.success());
    cluster.control_plane();
    let served = served().await;
    cluster.trust(&served.root);
    let day = 86_400;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let status = |left: i64| {
        json!({"certificates": [{"role": "root", "not_after": now + left}, {"role": "control-plane", "not_after": now + 1800}],
               "registry": {"errors": [], "warnings": []}})
    };
    cluster.kubectl_with(served.port, &status(400 * day), "");
    cluster.server.injects(true);
    let (found, code) = cluster.check("").await;
    has(&found, "admission", &["ok a pod in default", "which injects"]);
    has(&found, "webhook", &["ok", "signet-control-plane.signet-system.svc by its caBundle"]);
    has(&found, "certificates", &["ok root", "399 days left"]);
    has(&found, "certificates", &["ok control-plane"]);
    has(&found, "control-plane", &["ok", "1 of 1 ready"]);
    has(&found, "definitions", &["ok", "13 kinds"]);
    assert_eq!(code, 0, "{found:#}");

    // The API server's own way to the webhook is another than that of a forwarded port.
    let said = r#"Error from server (InternalError): Internal error occurred: failed calling webhook "pod.inject.signet.mesh": context deadline exceeded"#;
    let refused = cluster.folder.path().join("bin/refused");
    std::fs::write(&refused, said).expect("written");
    let (found, code) = cluster.check("").await;
    std::fs::remove_file(&refused).expect("removed");
    has(&found, "webhook", &["ok", "by its caBundle"]);
    has(&found, "admission", &["failure", "failed calling webhook", "deadline exceeded"]);
    assert!(found.to_string().contains("port 9443 of the control plane's pods"));
    assert_eq!(code, 1);
    // Somebody else's rule about pods says nothing of ours.
    cluster.server.fails_at("POST", "dryRun=All", Fault::Status(403, vec![]));
    let (found, code) = cluster.check("").await;
    has(&found, "admission", &["unknown", "a fault of the test"]);
    assert_eq!(code, 2);

    // One thing of each kind goes wrong.
    cluster.server.injects(false);
    cluster.trust(&cluster.server.ca_pem);
    cluster.kubectl_with(served.port, &status(day / 2), "");
    let labels = json!({"labels": {"signet.mesh/inject": "enabled"}});
    cluster.server.put(object("v1", "Namespace", "shop", labels));
    cluster.server.put(object("v1", "Namespace", "jobs", json!({"labels": {"signet.mesh/inject": "true"}})));
    let plain =
        json!({"spec": {"containers": [{"name": "app", "image": "a"}]}, "status": {"phase": "Running"}});
    cluster.server.put(object("v1", "Pod", "shop/late", plain.clone()));
    let refused =
        json!({"spec": {"shareProcessNamespace": true, "containers": [{"name": "app", "image": "a"}]}});
    cluster.server.put(object("v1", "Pod", "shop/shared", refused));
    let out = json!({"annotations": {"signet.mesh/inject": "disabled"}, "spec": plain["spec"]});
    cluster.server.put(object("v1", "Pod", "shop/batch", out));
    let ended = json!({"spec": plain["spec"], "status": {"phase": "Succeeded"}});
    cluster.server.put(object("v1", "Pod", "shop/ended", ended));
    let sidecar = json!({"name": "signet-proxy", "restartPolicy": "Always", "image": "registry.example.com/signet-sidecar:0"});
    let old = json!({"spec": {"initContainers": [sidecar]}, "status": {"phase": "Running",
                     "initContainerStatuses": [{"name": "signet-proxy", "ready": false, "restartCount": 4}]}});
    cluster.server.put(object("v1", "Pod", "shop/old", old));
    // Two pods are redirected by the agents of their nodes, of which one is ready.
    for (name, on) in [("by-one", "one"), ("by-two", "two"), ("unplaced", "")] {
        let check = json!({"name": "signet-check", "image": "registry.example.com/signet-sidecar:1"});
        let spec =
            json!({"spec": {"nodeName": on, "initContainers": [check]}, "status": {"phase": "Pending"}});
        cluster.server.put(object("v1", "Pod", &format!("shop/{name}"), spec));
        let agent = json!({"labels": {"app.kubernetes.io/name": "signet-cni"}, "spec": {"nodeName": on},
                           "status": {"conditions": [{"type": "Ready", "status": if on == "one" { "True" } else { "False" }}]}});
        cluster.server.put(object("v1", "Pod", &format!("signet-system/signet-cni-{name}"), agent));
    }
    cluster.server.put(object(
        "signet.mesh/v1alpha1",
        "Mesh",
        "default",
        json!({"spec": {"defaultAction": "allow"}}),
    ));
    let (found, code) = cluster.check("").await;
    has(&found, "webhook", &["failure", "not what its caBundle says"]);
    has(&found, "admission", &["failure", "expected the container signet-proxy", "found none"]);
    has(&found, "certificates", &["warning root", "hours left"]);
    has(&found, "namespaces", &["warning jobs", "\"true\" does nothing"]);
    has(&found, "roots", &["failure shop", "no ConfigMap signet-roots"]);
    has(&found, "members", &["failure shop/late", "before its namespace was labelled"]);
    has(&found, "members", &["failure shop/shared", "shareProcessNamespace"]);
    has(&found, "members", &["ok pods", "1 without: the pod says signet.mesh/inject: disabled"]);
    has(&found, "members", &["failure shop/old", "not ready, after 4 restarts"]);
    has(&found, "sidecars", &["warning shop", "signet-sidecar:0", "signet-sidecar:1"]);
    has(&found, "cni", &["failure node two", "not ready, by which 1 pods are redirected"]);
    has(&found, "cni", &["ok signet-cni", "ready on 1 nodes, among them 1 of 2"]);
    assert_eq!(of(&found, "cni").len(), 2, "{found:#}");
    has(&found, "default-action", &["warning", "allow"]);
    assert!(!of(&found, "members").iter().any(|line| line.contains("shop/ended")));
    assert_eq!(code, 1);
    let table = cluster.signet("check").await;
    let text = crate::support::out(&table);
    assert!(
        text.contains("FAILED") && text.contains("What helps:\n- ") && text.contains("rollout restart"),
        "{text}"
    );
}

#[tokio::test]
async fn strict_ready_names_who_still_speaks_plaintext() {
    let Some(cluster) = Cluster::start().await else { return };
    node(&cluster, "one", "v1.36.1", 0);
    let (found, code) = cluster.check("--strict-ready").await;
    has(&found, "permissive", &["ok", "every port of the mesh is strict"]);
    assert_eq!(code, 0);
    let sidecar = json!([{"name": "signet-proxy", "restartPolicy": "Always", "image": "x"}]);
    let running = |ip: &str| json!({"phase": "Running", "podIPs": [{"ip": ip}]});
    let server = json!({"annotations": {"signet.mesh/exclude-inbound-ports": "22"}, "spec": {"initContainers": sidecar}, "status": running("10.0.0.1")});
    cluster.server.put(object("v1", "Pod", "shop/orders-1", server));
    cluster.server.put(object(
        "v1",
        "Pod",
        "legacy/till-1",
        json!({"spec": {}, "status": running("10.0.0.7")}),
    ));
    let ports = |until: &str| json!({"spec": {"ports": [{"name": "http", "port": 80, "permissive": {"until": until}}]}});
    cluster.server.put(object(
        "signet.mesh/v1alpha1",
        "Service",
        "shop/orders",
        ports("2099-01-01T00:00:00Z"),
    ));
    cluster.kubectl_with(1, &json!({}), "");
    let (found, code) = cluster.check("--strict-ready").await;
    has(&found, "permissive", &["ok orders.shop:http", "ready to be strict"]);
    has(&found, "excluded", &["warning shop", "22"]);
    assert_eq!(code, 0, "{found:#}");
    let line = |from: &str| {
        json!({"timestamp": "2026-11-27T00:00:00Z", "level": "INFO", "message": "a caller without the mesh was let in",
               "from": from, "service": "orders.shop", "port": "http", "until": 1, "target": "signet::plaintext"})
        .to_string()
    };
    cluster.kubectl_with(1, &json!({}), &["10.0.0.7", "192.0.2.1", "203.0.113.9"].map(line).join("\n"));
    let (found, code) = cluster.check("--strict-ready").await;
    has(&found, "permissive", &["failure orders.shop:http", "10.0.0.7", "pod legacy/till-1", "2099"]);
    has(&found, "permissive", &["failure orders.shop:http", "192.0.2.1", "node one"]);
    has(&found, "permissive", &["failure orders.shop:http", "203.0.113.9", "outside the cluster"]);
    assert_eq!(code, 1);
    cluster.server.put(object(
        "signet.mesh/v1alpha1",
        "Service",
        "shop/orders",
        ports("2020-01-01T00:00:00Z"),
    ));
    let (found, code) = cluster.check("--strict-ready").await;
    has(&found, "permissive", &["ok orders.shop:http", "strict again since 2020"]);
    assert_eq!(code, 0);
}

struct Served {
    root: String,
    port: u16,
}

/// A webhook behind a port of this machine, with a certificate for the name by which the API server asks.
async fn served() -> Served {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut params = CertificateParams::new(Vec::new()).expect("a root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a root");
    let key = KeyPair::generate().expect("a key");
    let name = "signet-control-plane.signet-system.svc".to_owned();
    let leaf =
        CertificateParams::new(vec![name]).expect("names").signed_by(&key, &root).expect("a certificate");
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = rustls::ServerConfig::builder_with_provider(signet_identity::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key))
        .expect("TLS of the webhook");
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move { acceptor.accept(tcp).await.map(drop) });
        }
    });
    Served { root: root.pem(), port }
}
