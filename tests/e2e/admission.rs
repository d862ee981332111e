//! What the cluster is told by the control plane, and what it asks: roots for namespaces and webhooks, and objects of ours as
//! they are written.

use base64::Engine as _;
use serde_json::{Value, json};
use signet_kubernetes::rbac::{asked, attestation, registry, roots, webhook};
use signet_tests::Mesh;
use signet_tests::apiserver::{ApiServer, Fault};
use signet_tests::process::until;
use signet_tests::webhook::{configuration, review, written};

fn object(version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}});
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
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

fn namespace(name: &str, labels: Value) -> Value {
    object("v1", "Namespace", name, json!({"labels": labels}))
}

fn hooks(kind: &str) -> Value {
    let hook =
        |name: &str| json!({"name": name, "clientConfig": {"service": {"name": "signet-control-plane"}}});
    let hooks = [hook("a.signet.mesh"), hook("b.signet.mesh")];
    object("admissionregistration.k8s.io/v1", kind, "signet-injector", json!({"webhooks": hooks}))
}

struct Cluster {
    api: ApiServer,
    mesh: Mesh,
    _folder: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Cluster {
        let api = ApiServer::start().await;
        let folder = tempfile::tempdir().expect("a folder");
        api.put_all([
            namespace("shop", json!({"signet.mesh/inject": "enabled"})),
            namespace("plain", json!({})),
            hooks("MutatingWebhookConfiguration"),
            hooks("ValidatingWebhookConfiguration"),
        ]);
        api.pages_of(1);
        let webhook = configuration("127.0.0.1:0", "127.0.0.1:1", "127.0.0.1:1", "");
        let mesh = Mesh::builder()
            .control_plane(&format!("{}{webhook}", api.configuration(folder.path(), "")))
            .registry_from(&api.registry(folder.path(), ", leaseSeconds: 3"))
            .start()
            .await;
        Cluster { api, mesh, _folder: folder }
    }

    fn roots(&self) -> String {
        std::fs::read_to_string(self.mesh.path("cp/root.pem")).expect("the roots")
    }

    fn roots_in(&self, namespace: &str) -> Value {
        let like = object("v1", "ConfigMap", &format!("{namespace}/signet-roots"), json!({}));
        self.api.object(&like).unwrap_or_default()
    }

    async fn has_roots(&self, namespace: &str) {
        let roots = self.roots();
        until("the roots", || (self.roots_in(namespace)["data"]["roots.pem"] == roots).then_some(())).await;
    }

    async fn judged(&self, resource: &str, object: &Value, before: Option<&Value>) -> Value {
        let address = self.mesh.addresses("cp")["webhook"].as_str().expect("an address").to_owned();
        let roots = self.mesh.path("cp/root.pem");
        review(None, &address, "/validate", &roots, &written(resource, object, before)).await
    }
}

#[tokio::test]
async fn namespaces_and_webhooks_have_the_roots_as_soon_as_there_is_a_pod_for_them_and_again_when_they_were_changed()
 {
    let mut cluster = Cluster::start().await;
    cluster.has_roots("shop").await;
    let bundle = base64::engine::general_purpose::STANDARD.encode(cluster.roots());
    for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
        until("the bundle", || {
            let now = cluster.api.object(&hooks(kind))?;
            let has = |hook: &Value| hook["clientConfig"]["caBundle"] == bundle;
            now["webhooks"].as_array()?.iter().all(has).then_some(())
        })
        .await;
    }
    assert!(cluster.roots_in("plain").is_null(), "nobody there needs them");
    // By a look of its own: a pod waits for it. Were these two to wait for the next look at everything, half a minute each, the
    // Lease would have been renewed about 150 times by then, on a machine that is slow less often, as is all else.
    let renewals =
        || cluster.api.seen().iter().filter(|it| it.method == "PUT" && it.path.contains("/leases/")).count();
    let before = renewals();
    cluster.api.put(namespace("late", json!({"signet.mesh/inject": "enabled"})));
    cluster.has_roots("late").await;
    let pod = json!({
        "annotations": {"signet.mesh/injected": "true"},
        "spec": {"serviceAccountName": "a", "initContainers": [{"name": "signet-proxy", "restartPolicy": "Always"}]},
        "status": {"phase": "Pending"},
    });
    cluster.api.put(object("v1", "Pod", "plain/single", pod));
    cluster.has_roots("plain").await;
    let renewed = renewals() - before;
    assert!(renewed < 50, "the Lease was renewed {renewed} times meanwhile");
    // A gateway's pods are nobody's to inject, and its Workload says that they are there.
    cluster.api.put(namespace("edge", json!({"signet.mesh/mesh-admin": "true"})));
    cluster.api.put(ours("Workload", "edge/gw", json!({"class": "gateway"})));
    cluster.has_roots("edge").await;
    // Whoever closed theirs keeps nobody else waiting.
    let mut closed = object(
        "v1",
        "ConfigMap",
        "closed/signet-roots",
        json!({"immutable": true, "data": {"roots.pem": "mine"}}),
    );
    closed["metadata"]["annotations"] = json!({});
    cluster.api.put(closed);
    cluster.api.put(namespace("closed", json!({"signet.mesh/inject": "enabled"})));
    cluster.mesh.control_plane.as_ref().expect("it runs").logged("does not take the roots").await;
    // A quota and a policy say Forbidden. That is said as loudly, and tried again at the next look.
    cluster.api.fails_at("PATCH", "/namespaces/poor/configmaps", Fault::Status(403, Vec::new()));
    cluster.api.put(namespace("poor", json!({"signet.mesh/inject": "enabled"})));
    let said = r#"namespace="poor" name="signet-roots""#;
    cluster.mesh.control_plane.as_ref().expect("it runs").logged(said).await;
    // What somebody changed is put right, what a control plane with newer roots wrote is not; both when all is looked at again.
    let mut other = cluster.roots_in("shop");
    other["data"]["roots.pem"] = "nonsense".into();
    cluster.api.put(other.clone());
    let number =
        other["metadata"]["annotations"]["signet.mesh/roots-number"].as_str().expect("a number").to_owned();
    let (mesh, number) = number.split_once('/').expect("mesh/number");
    let higher = number.parse::<u64>().expect("a number") + 1;
    let mut newer = cluster.roots_in("late");
    newer["data"]["roots.pem"] = "newer".into();
    newer["metadata"]["annotations"]["signet.mesh/roots-number"] = format!("{mesh}/{higher}").into();
    cluster.api.put(newer);
    cluster.api.put(namespace("later", json!({"signet.mesh/inject": "enabled"})));
    cluster.has_roots("later").await;
    cluster.has_roots("shop").await;
    cluster.has_roots("poor").await;
    assert_eq!(cluster.roots_in("late")["data"]["roots.pem"], "newer");
    // Of all that was asked for nothing is without a right, and nothing that the webhook has a right to was never asked.
    let rights = [registry(), attestation(), roots(), webhook()].concat();
    let mut used = std::collections::BTreeSet::new();
    cluster.judged("gateways", &ours("Gateway", "shop/g", json!({})), None).await;
    for seen in cluster.api.seen() {
        let (verb, group, resource, namespace) = asked(&seen.method, &seen.path).expect("an object's path");
        let is_it = |right: &&signet_kubernetes::rbac::Right| {
            right.group == group && right.resource == resource && right.verbs.contains(&verb)
        };
        let right = rights.iter().find(is_it).unwrap_or_else(|| panic!("no right to {}", seen.path));
        assert!(!right.own_namespace || namespace.as_deref() == Some("signet-system"), "{}", seen.path);
        used.insert((resource, verb));
    }
    // An apply that makes an object asks for both.
    used.insert(("configmaps".into(), "create"));
    for right in [roots(), webhook()].concat() {
        for verb in right.verbs {
            assert!(used.contains(&(right.resource.clone(), *verb)), "{verb} is never asked: {right:?}");
        }
    }
    cluster.mesh.assert_unharmed();
}

#[tokio::test]
async fn namespaces_have_the_roots_where_nobody_injects_too() {
    let api = ApiServer::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    api.put(namespace("shop", json!({"signet.mesh/inject": "enabled"})));
    api.put(ours("Workload", "edge/gw", json!({"class": "gateway"})));
    api.put_all([
        namespace("edge", json!({"signet.mesh/mesh-admin": "true"})),
        namespace("plain", json!({})),
    ]);
    let mesh = Mesh::builder()
        .control_plane(&api.configuration(folder.path(), ""))
        .registry_from(&api.registry(folder.path(), ", rootsConfigMap: signet-roots-canary"))
        .start()
        .await;
    let pem = std::fs::read_to_string(mesh.path("cp/root.pem")).expect("the roots");
    let held = |namespace: &str| {
        let like = object("v1", "ConfigMap", &format!("{namespace}/signet-roots-canary"), json!({}));
        api.object(&like).unwrap_or_default()
    };
    for name in ["shop", "edge"] {
        until("the roots", || (held(name)["data"]["roots.pem"] == pem).then_some(())).await;
    }
    assert!(held("plain").is_null(), "nobody there needs them");
    assert!(!api.seen().iter().any(|it| it.path.contains("webhookconfigurations")), "there are none");
}

#[tokio::test]
async fn an_author_hears_at_once_what_is_wrong_with_an_object() {
    let mut cluster = Cluster::start().await;
    let target = json!({"service": "orders"});
    let good = ours(
        "MeshPolicy",
        "shop/may",
        json!({"effect": "permit", "target": target, "from": {"workloads": ["ns/shop/sa/web"]}}),
    );
    let said = cluster.judged("meshpolicies", &good, None).await;
    assert_eq!(said["allowed"], true, "{said}");
    // What it refers to may come later.
    assert!(said["warnings"][0].as_str().expect("a warning").contains("orders"), "{said}");
    for (resource, wrong, code, words) in [
        (
            "meshpolicies",
            ours("MeshPolicy", "shop/no", json!({"effect": "permit", "target": target, "form": {}})),
            422,
            "form",
        ),
        (
            "meshpolicies",
            ours("MeshPolicy", "shop/no", json!({"effect": "maybe", "target": target})),
            422,
            "maybe",
        ),
        (
            "meshpolicies",
            ours(
                "MeshPolicy",
                "shop/no",
                json!({"effect": "permit", "target": target, "when": "user.age >"}),
            ),
            422,
            "when",
        ),
        ("services", ours("Service", "shop/s", json!({"identities": ["nobody"]})), 422, "identities"),
        ("services", ours("Service", "shop/s", json!({"addresses": ["10.96.0.1"]})), 403, "mesh-admin"),
        ("gateways", ours("Gateway", "shop/g", json!({})), 403, "mesh-admin"),
        ("workloads", ours("Workload", "shop/w", json!({"class": "gateway"})), 403, "spec.class"),
        ("guardrails", ours("GuardRail", "g", json!({"surprise": 1})), 422, "surprise"),
    ] {
        let said = cluster.judged(resource, &wrong, None).await;
        assert_eq!(
            (&said["allowed"], &said["status"]["code"]),
            (&json!(false), &json!(code)),
            "{wrong}: {said}"
        );
        let message = said["status"]["message"].as_str().expect("words");
        assert!(message.starts_with("signet: ") && message.contains(words), "{wrong}: {message}");
        assert!(said["status"]["details"]["causes"].as_array().is_some_and(|all| !all.is_empty()), "{said}");
    }
    // What Kubernetes' Service of the same name has need not be said again.
    let finer = ours("Service", "shop/s", json!({"userContext": "original"}));
    assert_eq!(cluster.judged("services", &finer, None).await["allowed"], true);
    // A name that the server is to make up.
    let mut generated = good.clone();
    generated["metadata"] = json!({"namespace": "shop", "generateName": "may-"});
    assert_eq!(cluster.judged("meshpolicies", &generated, None).await["allowed"], true);
    // Labels of one that is wrong already may be changed, and it may go.
    let wrong = ours("MeshPolicy", "shop/no", json!({"effect": "maybe", "target": target}));
    assert_eq!(cluster.judged("meshpolicies", &wrong, Some(&wrong)).await["allowed"], true);
    let mut going = wrong.clone();
    going["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
    assert_eq!(cluster.judged("meshpolicies", &going, Some(&good)).await["allowed"], true);
    // A namespace that was made a moment ago is looked up where it matters.
    let workload = ours("Workload", "edge/gw", json!({"class": "gateway"}));
    assert_eq!(cluster.judged("workloads", &workload, None).await["allowed"], false);
    cluster.api.put(namespace("edge", json!({"signet.mesh/mesh-admin": "true"})));
    assert_eq!(cluster.judged("workloads", &workload, None).await["allowed"], true);
    cluster.api.is_away(true);
    let elsewhere = ours("Workload", "elsewhere/gw", json!({"class": "gateway"}));
    let said = cluster.judged("workloads", &elsewhere, None).await;
    assert_eq!(said["status"]["code"], 403, "nobody says that it may: {said}");
    cluster.mesh.assert_unharmed();
}
