//! `signet install`, `upgrade` and `uninstall`.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::{Cluster, VALUES, names, out, said};

const SECRETS: &str = "/api/v1/secrets";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const SETS: &str = "/apis/apps/v1/statefulsets";

/// The seal key as the cluster has it.
fn seal(cluster: &Cluster) -> Option<Value> {
    cluster.all(SECRETS).into_iter().find(|it| it["metadata"]["name"] == "signet-seal")
}

#[tokio::test]
async fn a_dry_run_prints_all_manifests_and_asks_no_cluster() {
    let Some(cluster) = Cluster::start().await else { return };
    let output = cluster.signet("install --dry-run -f values.yaml").await;
    assert!(output.status.success(), "{}", said(&output));
    let all: Vec<Value> = serde_saphyr::from_multiple(&out(&output)).expect("manifests");
    let count = |kind: &str| all.iter().filter(|it| it["kind"] == kind).count();
    assert_eq!((count("CustomResourceDefinition"), count("StatefulSet"), count("Secret")), (13, 1, 0));
    assert!(said(&output).contains("nothing was done") && said(&output).contains("signet-seal"));
    assert!(cluster.server.seen().is_empty(), "a dry run asks nobody");
}

#[tokio::test]
async fn an_install_makes_everything_and_the_key_is_nowhere_but_in_its_secret() {
    let Some(cluster) = Cluster::start().await else { return };
    let output = cluster.signet("install -f values.yaml").await;
    assert!(output.status.success(), "{}", said(&output));
    let secret = seal(&cluster).expect("a seal key");
    let key = secret["data"]["seal.key"].as_str().expect("an entry").to_owned();
    let bytes = base64::engine::general_purpose::STANDARD.decode(&key).expect("base64");
    assert_eq!((bytes.len(), &secret["immutable"]), (32, &json!(true)));
    assert!(bytes.iter().any(|byte| *byte != bytes[0]), "drawn");
    assert!(!said(&output).contains(&key) && !out(&output).contains(&key));
    assert!(said(&output).contains("KEEP A COPY") && said(&output).contains("get secret signet-seal"));
    assert_eq!(cluster.all(DEFINITIONS).len(), 13);
    assert_eq!(names(&cluster.all(SETS)), ["signet-control-plane"]);
    assert_eq!(cluster.all(HOOKS).len(), 1);
    let space = &cluster.all("/api/v1/namespaces")[0];
    assert_eq!(space["metadata"]["name"], "signet-system");
    // Definitions are applied before what needs them, and the key is there before whoever mounts it.
    let seen = cluster.server.seen();
    let at = |words: &str| {
        let is = |it: &signet_tests::apiserver::Seen| it.method != "GET" && it.path.contains(words);
        seen.iter().position(is).unwrap_or_else(|| panic!("{words} was never written"))
    };
    let secret = seen
        .iter()
        .position(|it| it.method == "POST" && String::from_utf8_lossy(&it.body).contains("seal.key"));
    assert!(secret.expect("the Secret") < at("/statefulsets"));
    assert!(at("/customresourcedefinitions") < at("/statefulsets"));
    // A second one is told what there is to do, and touches nothing.
    let again = cluster.signet("install -f values.yaml").await;
    assert!(!again.status.success() && said(&again).contains("signet upgrade"), "{}", said(&again));
    assert_eq!(seal(&cluster).expect("the same")["data"]["seal.key"], key);
}

#[tokio::test]
async fn a_key_that_is_there_is_left_and_one_that_is_lost_is_not_made_anew() {
    let Some(cluster) = Cluster::start().await else { return };
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {
        "name": "data-signet-control-plane-0", "namespace": "signet-system",
        "labels": {"app.kubernetes.io/instance": "signet-control-plane"}}});
    cluster.server.put(claim);
    let refused = cluster.signet("install -f values.yaml").await;
    assert!(!refused.status.success());
    assert!(said(&refused).contains("data-signet-control-plane-0") && said(&refused).contains("signet-seal"));
    assert!(seal(&cluster).is_none() && cluster.all(SETS).is_empty());
    let own = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "signet-seal", "namespace": "signet-system"},
                     "data": {"seal.key": "b3du"}});
    cluster.server.put(own);
    let output = cluster.signet("install -f values.yaml").await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("KEEP A COPY"));
    assert_eq!(seal(&cluster).expect("theirs")["data"]["seal.key"], "b3du");
}

#[tokio::test]
async fn an_upgrade_that_would_change_volumes_is_refused_before_anything_is_done() {
    let Some(cluster) = Cluster::start().await else { return };
    assert!(cluster.signet("install -f values.yaml --set persistence.size=2Gi").await.status.success());
    let set = cluster.all(SETS).remove(0);
    let writes = || cluster.server.seen().iter().filter(|it| it.method != "GET").count();
    let before = writes();
    let postgres = "store.postgres.existingSecret=pg";
    for (values, words) in [
        ("--set persistence.size=3Gi".to_owned(), ["persistence.size", "`2Gi`", "`3Gi`"]),
        ("--set persistence.storageClass=fast".to_owned(), ["persistence.storageClass", "``", "`fast`"]),
        (
            format!("--set persistence.enabled=false --set {postgres}"),
            ["persistence.enabled", "`true`", "`false`"],
        ),
    ] {
        let refused = cluster.signet(&format!("upgrade {values}")).await;
        let said = said(&refused);
        assert!(!refused.status.success() && words.iter().all(|word| said.contains(word)), "{said}");
        assert!(said.contains("delete statefulset signet-control-plane --cascade=orphan"), "{said}");
    }
    assert_eq!(writes(), before, "nothing was done");
    // The same amount in other words, and any where there is no StatefulSet any more.
    let output = cluster.signet("upgrade --set persistence.size=2048Mi").await;
    assert!(output.status.success(), "{}", said(&output));
    cluster.server.remove(&set);
    let output = cluster.signet("upgrade --set persistence.size=3Gi").await;
    assert!(output.status.success(), "{}", said(&output));
    let size = "/spec/volumeClaimTemplates/0/spec/resources/requests/storage";
    assert_eq!(cluster.all(SETS)[0].pointer(size), Some(&json!("3Gi")));
}

#[tokio::test]
async fn an_upgrade_keeps_values_and_refuses_another_trust_domain_or_a_lost_key() {
    let Some(cluster) = Cluster::start().await else { return };
    let none = cluster.signet("upgrade").await;
    assert!(!none.status.success() && said(&none).contains("signet install"), "{}", said(&none));
    assert!(cluster.signet("install -f values.yaml --set log.level=debug").await.status.success());
    let other = cluster.signet("upgrade --set trustDomain=example.org").await;
    assert!(!other.status.success());
    assert!(said(&other).contains("example.com") && said(&other).contains("example.org"), "{}", said(&other));
    let config = |cluster: &Cluster| {
        let all = cluster.all("/api/v1/configmaps");
        let map = all
            .iter()
            .find(|it| it["metadata"]["name"] == "signet-control-plane")
            .expect("its configuration");
        map["data"]["control-plane.yaml"].as_str().expect("text").to_owned()
    };
    assert!(config(&cluster).contains("example.com"));
    let output = cluster.signet("upgrade --set injection.logLevel=warn").await;
    assert!(output.status.success(), "{}", said(&output));
    let now = config(&cluster).replace('"', "");
    assert!(now.contains("level: debug") && now.contains("logLevel: warn"), "{now}");
    cluster.server.remove(&seal(&cluster).expect("a key"));
    let lost = cluster.signet("upgrade").await;
    assert!(!lost.status.success() && said(&lost).contains("signet-seal"), "{}", said(&lost));
}

#[tokio::test]
async fn an_uninstall_lists_first_keeps_what_cannot_be_made_again_and_then_leaves_nothing() {
    let Some(cluster) = Cluster::start().await else { return };
    assert!(cluster.signet("install -f values.yaml").await.status.success());
    let object = |version: &str, kind: &str, namespace: &str, name: &str, rest: Value| {
        let mut object =
            json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}});
        rest.as_object().expect("fields").iter().for_each(|(field, value)| match field.as_str() {
            "labels" | "annotations" => object["metadata"][field] = value.clone(),
            _ => object[field] = value.clone(),
        });
        cluster.server.put(object);
    };
    let managed = json!({"app.kubernetes.io/managed-by": "signet-control-plane"});
    object("v1", "Namespace", "", "shop", json!({"labels": {"signet.mesh/inject": "enabled"}}));
    object("v1", "ConfigMap", "shop", "signet-roots", json!({"labels": managed, "data": {"roots.pem": "x"}}));
    object("v1", "ConfigMap", "shop", "orders", json!({"data": {"roots.pem": "theirs"}}));
    object("coordination.k8s.io/v1", "Lease", "signet-system", "signet-control-plane", json!({"spec": {}}));
    object("signet.mesh/v1alpha1", "MeshPolicy", "shop", "web", json!({"spec": {"effect": "permit"}}));
    let claim = json!({"labels": {"app.kubernetes.io/instance": "signet-control-plane"}});
    object("v1", "PersistentVolumeClaim", "signet-system", "data-signet-control-plane-0", claim);
    let sidecar = json!({"annotations": {"signet.mesh/injected": "true"},
        "spec": {"initContainers": [{"name": "signet-proxy", "restartPolicy": "Always"}]}, "status": {"phase": "Running"}});
    object("v1", "Pod", "shop", "orders-1", sidecar);

    let before = cluster.server.seen().len();
    let dry = cluster.signet("uninstall --dry-run").await;
    assert!(dry.status.success(), "{}", said(&dry));
    for words in [
        "StatefulSet signet-system/signet-control-plane",
        "ConfigMap shop/signet-roots",
        "Lease signet-system/signet-control-plane",
        "WARNING",
        "shop/orders-1",
        "kept, without --purge-keys:\n  Secret signet-system/signet-seal\n  PersistentVolumeClaim",
        "kept, without --purge-resources:",
        "meshpolicies.signet.mesh (1 objects)",
    ] {
        assert!(out(&dry).contains(words), "{words}: {}", out(&dry));
    }
    assert!(cluster.server.seen().iter().skip(before).all(|it| it.method == "GET"), "a dry run only reads");

    let unasked = cluster.signet("uninstall").await;
    assert!(!unasked.status.success() && said(&unasked).contains("--yes"));
    assert_eq!(cluster.all(SETS).len(), 1);

    let output = cluster.signet("uninstall --yes").await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(cluster.all(SETS).is_empty() && cluster.all(HOOKS).is_empty());
    assert_eq!(names(&cluster.all("/api/v1/configmaps")), ["orders"]);
    assert!(cluster.all("/apis/coordination.k8s.io/v1/leases").is_empty());
    assert_eq!((cluster.all(DEFINITIONS).len(), seal(&cluster).is_some()), (13, true));
    assert_eq!(cluster.all("/apis/signet.mesh/v1alpha1/meshpolicies").len(), 1);
    // No pod waits for a webhook whose control plane is on its way out.
    let seen = cluster.server.seen();
    let deleted = |words: &str| seen.iter().position(|it| it.method == "DELETE" && it.path.contains(words));
    assert!(deleted("/mutatingwebhookconfigurations/") < deleted("/statefulsets/"));

    // What was kept opens what was kept: a new install takes both.
    let again = cluster.signet("install -f values.yaml").await;
    assert!(again.status.success() && !said(&again).contains("KEEP A COPY"), "{}", said(&again));
    let output = cluster.signet("uninstall --yes --purge-resources --purge-keys").await;
    assert!(output.status.success(), "{}", said(&output));
    for path in
        [SECRETS, DEFINITIONS, "/api/v1/persistentvolumeclaims", "/apis/signet.mesh/v1alpha1/meshpolicies"]
    {
        assert!(cluster.all(path).is_empty(), "{path}: {:?}", names(&cluster.all(path)));
    }
    assert_eq!(names(&cluster.all("/api/v1/namespaces")), ["shop"]);
}

#[tokio::test]
async fn another_control_plane_keeps_what_both_share() {
    let Some(cluster) = Cluster::start().await else { return };
    assert!(cluster.signet("install -f values.yaml").await.status.success());
    let canary = cluster.signet("install -f values.yaml --revision canary").await;
    assert!(canary.status.success(), "{}", said(&canary));
    assert_eq!(names(&cluster.all(SETS)), ["signet-control-plane", "signet-control-plane-canary"]);
    let unsaid = cluster.signet("install -f values.yaml --set revision=other").await;
    assert!(!unsaid.status.success() && said(&unsaid).contains("--revision"), "{}", said(&unsaid));
    for name in ["signet-roots", "signet-roots-canary"] {
        let labels = json!({"app.kubernetes.io/managed-by": "signet-control-plane"});
        cluster.server.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"roots.pem": "x"},
            "metadata": {"namespace": "shop", "name": name, "labels": labels}}));
    }
    let lease = json!({"namespace": "signet-system", "name": "signet-control-plane"});
    cluster
        .server
        .put(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": lease, "spec": {}}));
    let output = cluster.signet("uninstall --revision canary --yes --purge-resources --purge-keys").await;
    assert!(output.status.success(), "{}", said(&output));
    let maps = names(&cluster.all("/api/v1/configmaps"));
    let roots: Vec<_> = maps.iter().filter(|name| name.starts_with("signet-roots")).collect();
    assert_eq!(roots, ["signet-roots"], "its own roots go");
    assert_eq!(cluster.all("/apis/coordination.k8s.io/v1/leases").len(), 1);
    assert!(out(&output).contains("signet-system/signet-control-plane"), "{}", out(&output));
    assert_eq!(names(&cluster.all(SETS)), ["signet-control-plane"]);
    assert_eq!(cluster.all(DEFINITIONS).len(), 13);
    assert!(seal(&cluster).is_some(), "the other one's key as well");
}

#[tokio::test]
async fn what_is_missing_too_old_or_wrong_is_said_before_anything_is_done() {
    let Some(cluster) = Cluster::start().await else { return };
    let bin = cluster.folder.path().join("bin");
    std::fs::create_dir(&bin).expect("a folder");
    let old = bin.join("old-helm");
    std::fs::write(&old, "#!/bin/sh\necho v3.9.4\n").expect("a program");
    std::fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("made to run");
    std::fs::write(cluster.folder.path().join("odd.yaml"), format!("{VALUES}surprise: 1\n"))
        .expect("written");
    for (words, wanted) in [
        (
            "install -f values.yaml --helm no-helm",
            "no-helm: not found; install helm, or say where it is with --helm",
        ),
        ("install -f values.yaml --helm old-helm", "expected helm 3.15 or newer, found v3.9.4"),
        ("install -f values.yaml --kubectl no-kubectl", "no-kubectl: not found; install kubectl"),
        ("install", "trustDomain"),
        ("install -f odd.yaml", "surprise"),
    ] {
        let output = cluster.signet(words).await;
        assert!(!output.status.success() && said(&output).contains(wanted), "{words}: {}", said(&output));
    }
    assert!(cluster.server.seen().iter().all(|it| it.method == "GET"));
}
