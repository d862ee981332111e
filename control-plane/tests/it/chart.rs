//! The Helm chart, rendered by helm for every profile: what comes out is valid for the versions of Kubernetes, is the
//! control plane's own configuration, and grants what is used and nothing else.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use signet_control_plane::config::Config;
use signet_tests::peers;

const NEEDED: [&str; 3] = [
    "trustDomain=example.com",
    "images.controlPlane=registry.example.com/signet-control-plane:1,images.sidecar=registry.example.com/signet-sidecar:1,images.redirect=registry.example.com/signet-redirect:1",
    "seal.existingSecret=signet-seal",
];
const HA: &str = "values-ha.yaml";

/// Settings of each profile: files, and values.
const PROFILES: [(&str, &[&str], &[&str]); 5] = [
    ("plain", &[], &[]),
    ("ha", &[HA], &[]),
    ("canary", &[], &["revision=canary", "attestation.mode=fast", "injection.dnsCapture=true"]),
    ("without-webhook", &[], &["webhook.enabled=false", "networkPolicy.enabled=false"]),
    (
        "all",
        &[HA],
        &[
            "podMonitor.enabled=true",
            "networkPolicy.metricsNamespaces={monitoring}",
            "egressPolicy.namespaces={shop,edge}",
            "egressPolicy.clusterCidrs={10.0.0.0/8}",
            "egressPolicy.gatewayNamespace=edge",
            "egressPolicy.gatewayLabels.app=egress",
            "store.postgres.rootCertConfigMap=postgres-ca",
            "attestation.readPods=true",
        ],
    ),
];

fn helm(folder: &Path, command: &str, files: &[&str], values: &[&str]) -> Output {
    let chart = peers::root().join("deploy/helm/signet");
    let mut helm = Command::new(folder.join("helm"));
    match command {
        "template" => helm.args(["template", "signet"]),
        other => helm.arg(other),
    };
    helm.arg(&chart).args(["--namespace", "signet-system"]);
    for value in NEEDED.iter().chain(values) {
        helm.args(["--set", value]);
    }
    for file in files {
        helm.arg("--values").arg(chart.join(file));
    }
    helm.output().expect("helm")
}

fn rendered(folder: &Path, files: &[&str], values: &[&str]) -> (String, Vec<Value>) {
    let output = helm(folder, "template", files, values);
    assert!(output.status.success(), "{values:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let all: Vec<Value> =
        serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    (text, all.into_iter().filter(|object| !object.is_null()).collect())
}

fn of_kind<'a>(all: &'a [Value], kind: &str) -> Vec<&'a Value> {
    all.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn every_profile_is_taken_by_helm_and_by_each_version_of_kubernetes() {
    let Some(folder) = peers::kubernetes() else { return };
    let place = tempfile::tempdir().unwrap();
    for (name, files, values) in PROFILES {
        let linted = helm(&folder, "lint", files, values);
        assert!(linted.status.success(), "{name}: {}", String::from_utf8_lossy(&linted.stdout));
        let (_, all) = rendered(&folder, files, values);
        // Objects of others have no schema there.
        let known: Vec<String> = all
            .iter()
            .filter(|object| object["kind"] != "PodMonitor")
            .map(|object| object.to_string())
            .collect();
        let file = place.path().join(format!("{name}.yaml"));
        std::fs::write(&file, known.join("\n---\n")).unwrap();
    }
    let files: Vec<_> = std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), PROFILES.len());
    validated(&folder, &files);
}

/// By the schemas of each version that we are for.
fn validated(folder: &Path, files: &[std::path::PathBuf]) {
    for version in ["1.33.0", "1.34.0", "1.35.0", "1.36.0", "1.37.0"] {
        let mut validate = Command::new(folder.join("python"));
        validate.arg(folder.join("kubernetes-validate")).args(["--strict", "--kubernetes-version", version]);
        let output = validate.args(files).output().expect("kubernetes-validate");
        assert!(output.status.success(), "{version}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn the_definitions_of_custom_resources_are_a_chart_of_their_own() {
    let Some(folder) = peers::kubernetes() else { return };
    let chart = peers::root().join("deploy/helm/signet-crds");
    let run = |command: &[&str]| {
        let output = Command::new(folder.join("helm")).args(command).arg(&chart).output().expect("helm");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    run(&["lint"]);
    let text = run(&["template", "signet-crds"]);
    let all: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{error}"));
    let all: Vec<_> = all.into_iter().filter(|object| !object.is_null()).collect();
    assert_eq!(of_kind(&all, "CustomResourceDefinition").len(), all.len());
    // What the control plane follows of ours is there, under the names by which it asks.
    for kind in
        signet_kubernetes::kinds::KINDS.iter().filter(|kind| kind.group == signet_kubernetes::kinds::SIGNET)
    {
        let name = format!("{}.{}", kind.resource, kind.group);
        let found = all.iter().find(|object| object["metadata"]["name"] == *name);
        let spec = &found.unwrap_or_else(|| panic!("{name}"))["spec"];
        assert_eq!(spec["names"]["kind"], kind.kind);
        assert_eq!(spec["scope"] == "Namespaced", kind.namespaced, "{name}");
        assert_eq!(spec["versions"][0]["name"], kind.versions[0], "{name}");
    }
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("crds.yaml");
    std::fs::write(&file, all.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n")).unwrap();
    validated(&folder, &[file]);
}

#[test]
fn what_is_rendered_is_the_control_planes_own_configuration() {
    let Some(folder) = peers::kubernetes() else { return };
    for (name, files, values) in PROFILES {
        let (_, all) = rendered(&folder, files, values);
        let text = of_kind(&all, "ConfigMap")[0]["data"]["control-plane.yaml"].as_str().unwrap();
        let config = Config::parse(Path::new("control-plane.yaml"), text);
        let config = config.unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
        assert_eq!(config.webhook.is_some(), name != "without-webhook");
        let Some(webhook) = config.webhook else { continue };
        let found = of_kind(&all, "MutatingWebhookConfiguration")[0];
        assert_eq!(webhook.configuration.as_deref(), found["metadata"]["name"].as_str());
        // What the API server dials is what the certificate says, and a Service leads there.
        let service = &found["webhooks"][0]["clientConfig"]["service"];
        let host =
            format!("{}.{}.svc", service["name"].as_str().unwrap(), service["namespace"].as_str().unwrap());
        assert_eq!(webhook.dns_names, [host]);
        let services = of_kind(&all, "Service");
        assert!(services.iter().any(|one| one["metadata"]["name"] == service["name"]));
    }
}

#[test]
fn the_webhook_fails_closed_for_those_who_asked_and_for_nobody_else() {
    let Some(folder) = peers::kubernetes() else { return };
    let (_, all) = rendered(&folder, &[], &[]);
    let found = of_kind(&all, "MutatingWebhookConfiguration")[0];
    let hooks = found["webhooks"].as_array().unwrap();
    assert_eq!(hooks.len(), 2);
    for hook in hooks {
        assert_eq!((&hook["failurePolicy"], &hook["sideEffects"]), (&json!("Fail"), &json!("None")));
        assert!(hook["clientConfig"].get("caBundle").is_none());
        let never = &hook["namespaceSelector"]["matchExpressions"][0];
        assert_eq!(never["key"], "kubernetes.io/metadata.name");
        assert_eq!(
            (&never["operator"], &never["values"]),
            (&json!("NotIn"), &json!(["kube-system", "kube-public", "kube-node-lease", "signet-system"]))
        );
        let asked = ["namespaceSelector", "objectSelector"].map(|selector| {
            let all = hook[selector]["matchExpressions"].as_array().unwrap();
            all.iter().any(|one| one["key"] == "signet.mesh/inject" && one["operator"] == "In")
        });
        assert!(asked.contains(&true), "{hook}");
    }
}

#[test]
fn no_key_is_made_and_what_is_granted_is_what_is_used() {
    let Some(folder) = peers::kubernetes() else { return };
    for (name, files, values) in PROFILES {
        let (text, all) = rendered(&folder, files, values);
        assert!(of_kind(&all, "Secret").is_empty(), "{name}");
        assert!(!text.contains("PRIVATE KEY"), "{name}");
        let roles = of_kind(&all, "ClusterRole");
        assert_eq!((roles.len(), of_kind(&all, "Role").len()), (1, 0));
        for rule in roles[0]["rules"].as_array().unwrap() {
            let all = format!("{}{}{}", rule["apiGroups"], rule["resources"], rule["verbs"]);
            assert!(
                !all.contains('*') && !all.contains("secrets") && !all.contains("delete"),
                "{name}: {rule}"
            );
        }
    }
    let rules = |values: &[&str]| {
        let (_, all) = rendered(&folder, &[], values);
        let rules = of_kind(&all, "ClusterRole")[0]["rules"].as_array().unwrap().clone();
        rules
            .iter()
            .map(|rule| format!("{} {}", rule["resources"][0].as_str().unwrap(), rule["verbs"]))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        rules(&[]),
        [
            r#"tokenreviews ["create"]"#,
            r#"namespaces ["list"]"#,
            r#"configmaps ["get","patch"]"#,
            r#"configmaps ["create"]"#,
            r#"mutatingwebhookconfigurations ["get","patch"]"#,
        ]
    );
    assert_eq!(
        rules(&["webhook.enabled=false", "attestation.mode=fast"]),
        [r#"tokenreviews ["create"]"#, r#"pods ["get","list","watch"]"#]
    );
}

#[test]
fn our_own_pods_are_restricted_and_spread() {
    let Some(folder) = peers::kubernetes() else { return };
    let (_, all) = rendered(&folder, &[HA], &[]);
    let pod = &of_kind(&all, "StatefulSet")[0]["spec"]["template"]["spec"];
    let context = &pod["securityContext"];
    assert_eq!(
        (&context["runAsNonRoot"], &context["seccompProfile"]["type"]),
        (&json!(true), &json!("RuntimeDefault"))
    );
    for field in ["initContainers", "containers"] {
        for container in pod[field].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
        }
    }
    assert_eq!(pod["topologySpreadConstraints"][0]["whenUnsatisfiable"], "DoNotSchedule");
    assert_eq!(of_kind(&all, "PodDisruptionBudget")[0]["spec"]["maxUnavailable"], 1);
    assert_eq!(
        of_kind(&all, "StatefulSet")[0]["spec"]["template"]["metadata"]["labels"]["signet.mesh/inject"],
        "disabled"
    );
}

#[test]
fn values_that_nobody_knows_and_those_that_cannot_work_are_refused() {
    let Some(folder) = peers::kubernetes() else { return };
    for (value, words) in [
        ("surprise=1", "surprise"),
        ("injection.image=x", "image"),
        ("trustDomain=Not_A_Domain", "trustDomain"),
        ("seal.existingSecret=", "existingSecret"),
        ("replicas=3", "existingSecret"),
        ("injection.uid=0", "uid"),
        ("webhook.failurePolicy=Ignore", "failurePolicy"),
    ] {
        let output = helm(&folder, "template", &[], &[value]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{value}: {said}");
    }
}
