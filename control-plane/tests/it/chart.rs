//! The Helm chart, rendered by helm for every profile: what comes out is valid for the versions of Kubernetes, is the
//! control plane's own configuration, and grants what is used and nothing else.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use signet_control_plane::config::{Config, RegistrySource};
use signet_kubernetes::rbac::{self, Named};
use signet_tests::peers;

const NEEDED: [&str; 3] = [
    "trustDomain=example.com",
    "images.controlPlane=registry.example.com/signet-control-plane:1,images.sidecar=registry.example.com/signet-sidecar:1,images.redirect=registry.example.com/signet-redirect:1",
    "seal.existingSecret=signet-seal",
];
const HA: &str = "values-ha.yaml";
const CNI: &str = "values-cni.yaml";

/// Settings of each profile: files, and values.
const PROFILES: [(&str, &[&str], &[&str]); 9] = [
    ("plain", &[], &[]),
    ("ha", &[HA], &[]),
    (
        "canary",
        &[],
        &["revision=canary", "attestation.mode=fast", "injection.dnsCapture=true", "hostNetwork=true"],
    ),
    ("without-webhook", &[], &["webhook.enabled=false", "networkPolicy.enabled=false"]),
    (
        "all",
        &[HA],
        &[
            "podMonitor.enabled=true",
            "podMonitor.sidecars=true",
            "networkPolicy.metricsNamespaces={monitoring}",
            "egressPolicy.namespaces={shop,edge}",
            "egressPolicy.clusterCidrs={10.0.0.0/8}",
            "egressPolicy.gatewayNamespace=edge",
            "egressPolicy.gatewayLabels.app=egress",
            "store.postgres.rootCertConfigMap=postgres-ca",
            "store.postgres.ownerSecret=postgres-owner",
            "registry.excludeNamespaces={kube-system}",
            "dns.cidrs={169.254.20.10/32}",
            "networkPolicy.apiServerCidrs={192.0.2.0/28}",
            "backup.existingClaim=signet-backups",
            "keys.algorithm=p384",
            "keys.pkcs11.module=/opt/vendor/lib/pkcs11.so",
            "keys.pkcs11.tokenLabel=signet",
            "keys.pkcs11.pinSecret=signet-pin",
            "extraEnv[0].name=VENDOR_CONF",
            "extraEnv[0].value=/opt/vendor/etc/conf",
            "extraVolumes[0].name=vendor",
            "extraVolumes[0].persistentVolumeClaim.claimName=vendor",
            "extraVolumeMounts[0].name=vendor",
            "extraVolumeMounts[0].mountPath=/opt/vendor",
        ],
    ),
    (
        "people",
        &[],
        &[
            "hierarchy.root=folder",
            "hierarchy.existingSecret=mesh-root",
            "config.operators.sessionSeconds=900",
            "config.operators.secondPerson={ca-revoke}",
            "config.svid.ttlSeconds=1800",
            "config.rotation.rootDays=36500",
        ],
    ),
    ("external", &[HA], &["hierarchy.root=external", "backup.existingClaim=signet-backups"]),
    ("cni", &[CNI], &[]),
    (
        "cni-beside",
        &[HA],
        &[
            "cni.enabled=true",
            "cni.image=registry.example.com/signet-cni:1",
            "cni.excludeNamespaces={monitoring}",
            "cni.whenAway=pass",
            "cni.keepProgram=true",
            "cni.maxSurge=1",
            "injection.uid=2200",
            "injection.cniNamespaces={shop,ledger}",
            "imagePullSecrets[0].name=registry",
        ],
    ),
];

fn helm(folder: &Path, command: &str, files: &[&str], values: &[&str]) -> Output {
    helm_command(folder, command, files, values).output().expect("helm")
}

fn helm_command(folder: &Path, command: &str, files: &[&str], values: &[&str]) -> Command {
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
    helm
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
        let RegistrySource::Kubernetes(cluster) = &config.registry else { panic!("{name}: a cluster") };
        // The roots are given out where nobody injects, too: gateways and `signet inject` mount them.
        let expected = if name == "canary" { "signet-roots-canary" } else { "signet-roots" };
        assert_eq!(cluster.roots, expected, "{name}");
        let Some(webhook) = config.webhook else { continue };
        let found = of_kind(&all, "MutatingWebhookConfiguration")[0];
        assert_eq!(webhook.configuration.as_deref(), found["metadata"]["name"].as_str());
        let validating = of_kind(&all, "ValidatingWebhookConfiguration")[0];
        assert_eq!(validating["metadata"]["name"], found["metadata"]["name"], "one name for both");
        // What the API server dials is what the certificate says, and a Service leads there.
        let service = &found["webhooks"][0]["clientConfig"]["service"];
        let host =
            format!("{}.{}.svc", service["name"].as_str().unwrap(), service["namespace"].as_str().unwrap());
        assert_eq!(webhook.dns_names, [host]);
        let services = of_kind(&all, "Service");
        assert!(services.iter().any(|one| one["metadata"]["name"] == service["name"]));
    }
}

/// Whether a selector takes an object with these labels.
fn takes(selector: &Value, labels: &[(&str, &str)]) -> bool {
    let held = |key: &Value| labels.iter().find(|(name, _)| key == name).map(|(_, value)| json!(value));
    selector["matchExpressions"].as_array().into_iter().flatten().all(|one| {
        let held = held(&one["key"]);
        let values = || one["values"].as_array().unwrap();
        let listed = || held.as_ref().is_some_and(|it| values().contains(it));
        match one["operator"].as_str().unwrap() {
            "In" => listed(),
            "NotIn" => !listed(),
            "Exists" => held.is_some(),
            "DoesNotExist" => held.is_none(),
            other => panic!("{other}"),
        }
    })
}

#[test]
fn the_webhook_fails_closed_for_those_who_asked_and_for_nobody_else() {
    let Some(folder) = peers::kubernetes() else { return };
    let (_, all) = rendered(&folder, &[], &[]);
    let closed = |kind: &str| {
        let hooks = of_kind(&all, kind)[0]["webhooks"].as_array().unwrap();
        hooks.iter().filter(|hook| hook["failurePolicy"] == "Fail").cloned().collect::<Vec<_>>()
    };
    let hooks = [closed("MutatingWebhookConfiguration"), closed("ValidatingWebhookConfiguration")].concat();
    assert_eq!(hooks.len(), 5);
    for hook in &hooks {
        assert_eq!(hook["sideEffects"], "None");
        assert!(hook["clientConfig"].get("caBundle").is_none());
        for name in ["kube-system", "kube-public", "kube-node-lease", "signet-system"] {
            let labels = [("kubernetes.io/metadata.name", name), ("signet.mesh/inject", "enabled")];
            assert!(!takes(&hook["namespaceSelector"], &labels), "{hook}");
        }
        if hook["name"] == "debugging.members.signet.mesh" {
            // Pods with a sidecar, by what cannot be changed; a label could be taken away first.
            assert!(hook.get("objectSelector").is_none());
            assert!(hook["matchConditions"][0]["expression"].as_str().unwrap().contains("signet-proxy"));
            continue;
        }
        let plain = takes(&hook["namespaceSelector"], &[]) && takes(&hook["objectSelector"], &[]);
        assert!(!plain, "who did not ask is not asked about: {hook}");
    }
}

#[test]
fn each_pod_that_asks_is_somebodys_and_one_that_nobody_injects_is_noticed() {
    let Some(folder) = peers::kubernetes() else { return };
    let (_, main) = rendered(&folder, &[], &[]);
    let (_, canary) = rendered(&folder, &[], &["revision=canary"]);
    let enabled = ("signet.mesh/inject", "enabled");
    let rev = |name: &'static str| ("signet.mesh/rev", name);
    let asked = |all: &[Value], kind: &str, namespace: &[(&str, &str)], pod: &[(&str, &str)]| {
        let hooks = of_kind(all, kind)[0]["webhooks"].as_array().unwrap();
        let about_pods = hooks.iter().filter(|hook| hook["rules"][0]["resources"] == json!(["pods"]));
        about_pods
            .filter(|hook| {
                takes(&hook["namespaceSelector"], namespace) && takes(&hook["objectSelector"], pod)
            })
            .count()
    };
    let (inject, validate) = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration");
    // Namespace, pod, and how often the main control plane and the canary are asked to inject it.
    type Labels<'a> = &'a [(&'a str, &'a str)];
    let cases: [(Labels<'_>, Labels<'_>, [usize; 2]); 8] = [
        (&[enabled], &[], [1, 0]),
        (&[enabled, rev("canary")], &[], [0, 1]),
        (&[], &[enabled], [1, 0]),
        (&[], &[enabled, rev("canary")], [0, 1]),
        (&[enabled], &[enabled, rev("canary")], [1, 1]),
        (&[enabled, rev("gone")], &[], [0, 0]),
        (&[], &[enabled, rev("gone")], [0, 0]),
        (&[enabled], &[("signet.mesh/inject", "disabled")], [0, 0]),
    ];
    for (namespace, pod, expected) in cases {
        let found = [asked(&main, inject, namespace, pod), asked(&canary, inject, namespace, pod)];
        assert_eq!(found, expected, "{namespace:?} {pod:?}");
        let opted_out = pod.contains(&("signet.mesh/inject", "disabled"));
        for all in [&main, &canary] {
            assert_eq!(
                asked(all, validate, namespace, pod),
                usize::from(!opted_out),
                "{namespace:?} {pod:?}"
            );
        }
    }
}

#[test]
fn two_revisions_share_nothing() {
    let Some(folder) = peers::kubernetes() else { return };
    let names = |values: &[&str]| {
        let (_, all) = rendered(&folder, &[HA], values);
        let named = all.iter().map(|it| format!("{} {}", it["kind"], it["metadata"]["name"]));
        let text = of_kind(&all, "ConfigMap")[0]["data"]["control-plane.yaml"].as_str().unwrap();
        let config = Config::parse(Path::new("control-plane.yaml"), text).unwrap();
        let roots = format!("roots {}", config.webhook.unwrap().injection.roots_config_map);
        named.chain([roots]).collect::<std::collections::BTreeSet<_>>()
    };
    let (main, canary) = (names(&[]), names(&["revision=canary"]));
    assert!(main.is_disjoint(&canary), "{:?}", main.intersection(&canary));
}

/// Rights as `verb resource.group of a name`, one by one.
fn granted(rules: &Value) -> std::collections::BTreeSet<String> {
    let texts = |value: &Value| -> Vec<String> {
        let all = value.as_array().into_iter().flatten();
        all.map(|one| one.as_str().unwrap().to_owned()).collect()
    };
    let mut found = std::collections::BTreeSet::new();
    for rule in rules.as_array().unwrap() {
        let names = texts(&rule["resourceNames"]);
        for verb in texts(&rule["verbs"]) {
            let paths = texts(&rule["nonResourceURLs"]).into_iter();
            let mut rights: Vec<String> = paths.map(|path| format!("{verb} {path}")).collect();
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    rights.push(format!("{verb} {resource}.{group} {}", names.join(",")));
                }
            }
            for right in rights {
                assert!(found.insert(right.clone()), "granted twice: {right}");
            }
        }
    }
    found
}

#[test]
fn no_key_is_made_and_what_is_granted_is_the_table_of_rights() {
    let Some(folder) = peers::kubernetes() else { return };
    for (name, files, values) in PROFILES {
        let (text, all) = rendered(&folder, files, values);
        assert!(of_kind(&all, "Secret").is_empty(), "{name}");
        assert!(!text.contains("PRIVATE KEY"), "{name}");
        let of_us = |kind: &str| -> Vec<&Value> {
            let roles = of_kind(&all, kind).into_iter();
            let name = |it: &Value| it["metadata"]["name"].as_str().unwrap().to_owned();
            roles.filter(|it| name(it).starts_with("signet-control-plane")).collect()
        };
        let (cluster, own) = (of_us("ClusterRole"), of_us("Role"));
        assert_eq!((cluster.len(), own.len()), (1, 1));
        let has = |value: &str| values.contains(&value);
        let mut table = [rbac::registry(), rbac::attestation(), rbac::roots()].concat();
        if !has("webhook.enabled=false") {
            table.extend(rbac::webhook());
        }
        let suffix =
            |dash: &str| if has("revision=canary") { format!("{dash}canary") } else { String::new() };
        let expected = |own: bool| {
            let rows = table.iter().filter(move |right| right.own_namespace == own);
            rows.flat_map(|right| {
                let name = match right.named {
                    None => String::new(),
                    Some(Named::Lease) => signet_control_plane::cluster::lease::NAME.to_owned(),
                    Some(Named::Roots) => format!("signet-roots{}", suffix("-")),
                    Some(Named::Webhooks) => format!("signet-injector.signet-system{}", suffix(".")),
                    Some(Named::Agent | Named::Namespace) => unreachable!("the agent's alone"),
                };
                right
                    .verbs
                    .iter()
                    .map(move |verb| format!("{verb} {}.{} {name}", right.resource, right.group))
            })
            .collect::<std::collections::BTreeSet<_>>()
        };
        let mut of_cluster = expected(false);
        if has("attestation.mode=fast") {
            of_cluster.extend(rbac::KEY_PATHS.map(|path| format!("get {path}")));
        }
        assert_eq!(granted(&cluster[0]["rules"]), of_cluster, "{name}");
        assert_eq!(granted(&own[0]["rules"]), expected(true), "{name}");
        // Each rule says where it is used, in a file that is there.
        let template = peers::root().join("deploy/helm/signet/templates/account.yaml");
        let template = std::fs::read_to_string(template).unwrap();
        for line in template.lines().filter_map(|line| line.trim().strip_prefix("# ")) {
            if let Some((file, _)) = line.split_once(": ").filter(|(file, _)| file.ends_with(".rs")) {
                assert!(peers::root().join("control-plane/src").join(file).exists(), "{file}");
            }
        }
    }
}

#[test]
fn owners_of_namespaces_read_all_kinds_and_write_those_of_namespaces() {
    let Some(folder) = peers::kubernetes() else { return };
    let (_, all) = rendered(&folder, &[], &[]);
    let role = |name: &str| {
        let roles = of_kind(&all, "ClusterRole").into_iter();
        roles.filter(|it| it["metadata"]["name"] == name).collect::<Vec<_>>()[0].clone()
    };
    let table = |verbs: &[&str]| {
        let rows = rbac::owners().into_iter().filter(|right| right.verbs == verbs);
        let each = |right: rbac::Right| {
            right.verbs.iter().map(move |verb| format!("{verb} {}.{} ", right.resource, right.group))
        };
        rows.flat_map(each).collect::<std::collections::BTreeSet<_>>()
    };
    let (view, edit) = (role("signet-view.signet-system"), role("signet-edit.signet-system"));
    assert_eq!(granted(&view["rules"]), table(&rbac::READ));
    assert_eq!(granted(&edit["rules"]), table(&rbac::CHANGE));
    assert!(
        !edit["rules"].to_string().contains("guardrails") && !edit["rules"].to_string().contains("status")
    );
    let goes_to = |role: &Value, to: &str| {
        role["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{to}")] == "true"
    };
    assert_eq!(["view", "edit", "admin"].map(|to| goes_to(&view, to)), [true; 3]);
    assert_eq!(["view", "edit", "admin"].map(|to| goes_to(&edit, to)), [false, true, true]);
    let (text, _) = rendered(&folder, &[], &["aggregatedRoles.enabled=false"]);
    assert!(!text.contains("aggregate-to-"));
}

#[test]
fn a_control_plane_is_in_the_network_of_its_node_only_where_that_is_said() {
    let Some(folder) = peers::kubernetes() else { return };
    let pod = |values: &[&str]| {
        let (_, all) = rendered(&folder, &[HA], values);
        of_kind(&all, "StatefulSet")[0]["spec"]["template"]["spec"].clone()
    };
    let plain = pod(&[]);
    assert!(plain.get("hostNetwork").is_none() && plain.get("dnsPolicy").is_none());
    let host = pod(&["hostNetwork=true"]);
    assert_eq!((&host["hostNetwork"], &host["dnsPolicy"]), (&json!(true), &json!("ClusterFirstWithHostNet")));
    assert_eq!(host["containers"][0]["securityContext"], plain["containers"][0]["securityContext"]);
}

#[test]
fn no_value_is_taken_for_something_else_or_for_more_than_itself() {
    let Some(folder) = peers::kubernetes() else { return };
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("hostile.yaml");
    // Texts that YAML would take for a boolean, a number, or the end of a text.
    let hostile = "true\"\nevil: {a: b}\n---\nkind: Secret # '";
    let values = json!({
        "revision": "true", "clusterDomain": "1e3",
        "images": {"controlPlane": "1e3", "sidecar": "true", "redirect": "null"},
        "seal": {"existingSecret": "1e3"}, "priorityClassName": "0x1",
        "store": {"postgres": {"existingSecret": "no", "ownerSecret": "1e4", "rootCertConfigMap": "off"}},
        "persistence": {"storageClass": "12", "sharedKeysClaim": "1.5"},
        "nodeSelector": {"size": hostile, "true": "1e3"}, "tolerations": [{"key": hostile, "operator": "Exists"}],
        "registry": {"namespaces": ["1e3", "true"], "excludeNamespaces": ["null"]},
        "networkPolicy": {"metricsNamespaces": ["no"]},
        "dns": {"namespace": "1e3", "podLabels": {"app": hostile}},
        "egressPolicy": {"namespaces": ["1e3"], "gatewayNamespace": "off", "gatewayLabels": {"on": hostile}},
        "injection": {"resources": {"limits": {"cpu": 1, "memory": 268435456.0}}},
        "resources": {"limits": {"cpu": 0.5, "memory": 1073741824}},
    });
    std::fs::write(&file, values.to_string()).unwrap();
    let file = file.display().to_string();
    let mut command = helm_command(&folder, "template", &[], &[]);
    command.args(["--values", &file, "--namespace", "1e3", "--set-string", "seal.existingSecret=1e3"]);
    for image in ["controlPlane=1e3", "sidecar=true", "redirect=null1"] {
        command.args(["--set-string", &format!("images.{image}")]);
    }
    let output = command.output().expect("helm");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let all: Vec<Value> =
        serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let all: Vec<Value> = all.into_iter().filter(|object| !object.is_null()).collect();
    assert!(of_kind(&all, "Secret").is_empty() && !text.contains("\nevil"), "{text}");
    let pod = &of_kind(&all, "StatefulSet")[0]["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"], json!({"size": hostile, "true": "1e3"}));
    assert_eq!(pod["tolerations"][0]["key"], hostile);
    assert_eq!(pod["containers"][0]["resources"]["limits"], json!({"cpu": "0.5", "memory": "1073741824"}));
    let config = of_kind(&all, "ConfigMap")[0]["data"]["control-plane.yaml"].as_str().unwrap();
    let config = Config::parse(Path::new("control-plane.yaml"), config)
        .unwrap_or_else(|error| panic!("{error}\n{config}"));
    let injection = config.webhook.unwrap().injection;
    assert_eq!((injection.revision.as_str(), injection.image.as_str()), ("true", "true"));
    assert_eq!(injection.resources.limits["memory"], "268435456");
    assert_eq!(config.system_namespace.as_str(), "1e3");
    let known: Vec<String> = all.iter().map(ToString::to_string).collect();
    let objects = place.path().join("objects.yaml");
    std::fs::write(&objects, known.join("\n---\n")).unwrap();
    validated(&folder, &[objects]);
}

#[test]
fn what_the_control_plane_can_do_is_passed_on_and_its_secrets_are_its_own_files() {
    let Some(folder) = peers::kubernetes() else { return };
    let of = |at: usize| {
        let (name, files, values) = PROFILES[at];
        let (_, all) = rendered(&folder, files, values);
        let text = of_kind(&all, "ConfigMap")[0]["data"]["control-plane.yaml"].as_str().unwrap().to_owned();
        let config = Config::parse(Path::new("control-plane.yaml"), &text)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        (config, of_kind(&all, "StatefulSet")[0]["spec"]["template"]["spec"].clone())
    };
    let has = |list: &Value, one: Value| list.as_array().unwrap().contains(&one);
    let (all, pod) = of(4);
    let backup = all.backup.unwrap();
    assert_eq!((backup.dir.to_str(), backup.keep), (Some("/backups/copies"), 7));
    let container = &pod["containers"][0];
    // Copies of one replica never lie among those of another.
    assert!(has(
        &container["volumeMounts"],
        json!({"name": "backups", "mountPath": "/backups", "subPathExpr": "$(POD_NAME)"})
    ));
    assert!(has(&container["env"], json!({"name": "VENDOR_CONF", "value": "/opt/vendor/etc/conf"})));
    assert!(has(&container["volumeMounts"], json!({"name": "vendor", "mountPath": "/opt/vendor"})));
    let token = all.keys.pkcs11.unwrap();
    assert_eq!((token.token_label.as_str(), token.pin_file.to_str()), ("signet", Some("/keys/pkcs11.pin")));
    let copy = "--place-key=/secrets/pkcs11/pin=/keys/pkcs11.pin";
    assert!(has(&pod["initContainers"][0]["command"], json!(copy)), "{}", pod["initContainers"][0]);
    assert!(
        !container["volumeMounts"].to_string().contains("/secrets/pkcs11"),
        "the mounted Secret is the init container's alone"
    );
    let (people, pod) = of(5);
    assert_eq!((people.operators.session.as_secs(), people.svid_ttl_seconds), (900, 1800));
    assert!(people.operators.second_person.contains("ca-revoke"));
    assert_eq!(people.root, signet_ca::RootSource::Folder("/root-ca".into()));
    assert!(has(
        &pod["volumes"],
        json!({"name": "root-ca", "secret": {"secretName": "mesh-root", "defaultMode": 0o440}})
    ));
    assert!(pod["containers"][0].get("env").is_none(), "nothing is told by the environment");
    assert_eq!(of(6).0.root, signet_ca::RootSource::External);
}

/// Settings of the gateway's chart: values.
const GATEWAYS: [(&str, &[&str]); 4] = [
    ("plain", &[]),
    (
        "tls",
        &[
            "listeners[0].name=a,listeners[0].port=443,listeners[0].targetPort=8443,listeners[0].tlsSecret=shop-tls",
            "listeners[1].name=b,listeners[1].port=8443,listeners[1].targetPort=9443,listeners[1].tlsSecret=shop-tls,listeners[1].protocol=http2",
        ],
    ),
    (
        "east-west",
        &[
            "listeners=null",
            "eastWest.enabled=true",
            "egress.enabled=true",
            "replicas=1",
            "service.type=ClusterIP",
            "register=false",
        ],
    ),
    (
        "canary",
        &[
            "controlPlane.revision=canary",
            "controlPlane.namespace=mesh",
            "name=doors",
            "workers=2",
            "service.loadBalancerClass=example.com/lb",
        ],
    ),
];

#[test]
fn a_gateway_is_one_manifest_that_each_version_of_kubernetes_takes() {
    let Some(folder) = peers::kubernetes() else { return };
    let chart = peers::root().join("deploy/helm/signet-gateway");
    let place = tempfile::tempdir().unwrap();
    let run = |values: &[&str]| {
        let mut helm = Command::new(folder.join("helm"));
        helm.args(["template", "gw"]).arg(&chart).args([
            "--namespace",
            "edge",
            "--set",
            "trustDomain=example.com,image=a:1",
        ]);
        for value in values {
            helm.args(["--set", value]);
        }
        helm.output().expect("helm")
    };
    let mut files = Vec::new();
    for (name, values) in GATEWAYS {
        let output = run(values);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let all: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let all: Vec<Value> = all.into_iter().filter(|object| !object.is_null()).collect();
        assert!(of_kind(&all, "Secret").is_empty() && !text.contains("PRIVATE KEY"));
        let pod = &of_kind(&all, "Deployment")[0]["spec"]["template"]["spec"];
        let context = &pod["securityContext"];
        assert_eq!((&context["runAsNonRoot"], &context["fsGroup"]), (&json!(true), &json!(2102)));
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!(
            container,
            &json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
        );
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        let names: std::collections::BTreeSet<_> =
            mounts.iter().map(|mount| mount["name"].to_string()).collect();
        assert_eq!(names.len(), mounts.len(), "{name}");
        // Whoever is told that it is the gateway is an account of the registry.
        let registered = of_kind(&all, "Registration");
        assert_eq!(registered.is_empty(), name == "east-west");
        for object in all.iter().filter(|it| it["apiVersion"] == "signet.mesh/v1alpha1") {
            let read = signet_model::Resource::from_document(object.clone());
            assert!(read.is_ok(), "{object}: {read:?}");
        }
        let roots = &pod["volumes"][1]["projected"]["sources"][1]["configMap"]["name"];
        assert_eq!(roots, if name == "canary" { "signet-roots-canary" } else { "signet-roots" });
        let known = all.iter().filter(|it| it["apiVersion"] != "signet.mesh/v1alpha1").map(Value::to_string);
        let file = place.path().join(format!("{name}.yaml"));
        std::fs::write(&file, known.collect::<Vec<_>>().join("\n---\n")).unwrap();
        files.push(file);
    }
    validated(&folder, &files);
    for (value, words) in [
        ("listeners=null", "nobody could come in"),
        ("surprise=1", "surprise"),
        ("listeners[0].name=a,listeners[0].port=443,listeners[0].targetPort=443", "targetPort"),
        ("listeners[0].name=a,listeners[0].port=443,listeners[0].targetPort=15021", "targetPort"),
        ("image=", "image"),
        ("service.type=ExternalName", "type"),
    ] {
        let output = run(&[value]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{value}: {said}");
    }
}

#[test]
fn network_policies_let_dns_out_to_the_clusters_dns_alone_and_no_pod_out_that_is_no_gateway() {
    let Some(folder) = peers::kubernetes() else { return };
    let (_, all) = rendered(&folder, PROFILES[4].1, PROFILES[4].2);
    let policies = of_kind(&all, "NetworkPolicy");
    let dns = json!([
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
         "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}},
        {"ipBlock": {"cidr": "169.254.20.10/32"}},
    ]);
    for policy in &policies {
        for rule in policy["spec"]["egress"].as_array().unwrap() {
            let asks = rule["ports"].as_array().into_iter().flatten().any(|port| port["port"] == 53);
            assert!(!asks || rule["to"] == dns, "{rule}");
        }
    }
    let open: Vec<_> =
        policies.iter().filter(|it| it["spec"]["egress"].as_array().unwrap().contains(&json!({}))).collect();
    assert_eq!(open.len(), 1);
    assert_eq!(open[0]["metadata"]["namespace"], "edge");
    assert_eq!(open[0]["spec"]["podSelector"], json!({"matchLabels": {"app": "egress"}}));
    let closed = policies.iter().filter(|it| it["metadata"]["name"] == "signet-egress");
    for policy in closed {
        assert_eq!(policy["spec"]["podSelector"], json!({}), "a label is no way out");
    }
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
        ("egressPolicy.gatewayNamespace=edge", "gatewayLabels"),
        ("revision=1canary", "revision"),
        ("images.sidecar=a b", "sidecar"),
        ("registry.configMap=signet-registry", "configMap"),
        ("config.dev=true", "dev"),
        ("config.listen.mesh=x", "listen"),
        ("config.attestation.kubernetes.mode=fast", "attestation"),
        ("keys.pkcs11.module=/x.so", "pinSecret"),
        ("hierarchy.root=folder", "existingSecret"),
        ("hierarchy.root=vault", "root"),
        ("backup.everySeconds=5", "everySeconds"),
        ("extraVolumes[0].name=keys", "name"),
        ("extraVolumeMounts[0].name=x,extraVolumeMounts[0].mountPath=/keys/x", "mountPath"),
        ("extraEnv[0].name=POD_NAME,extraEnv[0].value=x", "name"),
    ] {
        let output = helm(&folder, "template", &[], &[value]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{value}: {said}");
    }
}

#[test]
fn the_agent_of_each_node_has_what_it_needs_and_no_more() {
    let Some(folder) = peers::kubernetes() else { return };
    for (name, files, values) in PROFILES {
        let (_, all) = rendered(&folder, files, values);
        let sets = of_kind(&all, "DaemonSet");
        let is_there = name.starts_with("cni");
        assert_eq!(sets.len(), usize::from(is_there), "{name}");
        let ours: Vec<&Value> = all.iter().filter(|it| it["metadata"]["name"] == "signet-cni").collect();
        if !is_there {
            assert!(ours.is_empty(), "{name}");
            continue;
        }
        // What it may ask is the table, and nothing of it is a change.
        for (kind, own) in [("ClusterRole", false), ("Role", true)] {
            let role = ours.iter().find(|it| it["kind"] == kind).expect(kind);
            let rows = rbac::agent().into_iter().filter(|right| right.own_namespace == own);
            let expected: std::collections::BTreeSet<String> = rows
                .flat_map(|right| {
                    let name = match right.named {
                        Some(Named::Agent) => "signet-cni",
                        Some(Named::Namespace) => "signet-system",
                        _ => "",
                    };
                    let (resource, group) = (right.resource, right.group);
                    right.verbs.iter().map(move |verb| format!("{verb} {resource}.{group} {name}"))
                })
                .collect();
            assert_eq!(granted(&role["rules"]), expected, "{name}");
            assert!(
                expected.iter().all(|it| ["get ", "list ", "watch "].iter().any(|verb| it.starts_with(verb)))
            );
        }
        let template = peers::root().join("deploy/helm/signet/templates/cni.yaml");
        let template = std::fs::read_to_string(template).unwrap();
        let places = template.lines().filter_map(|line| line.trim().strip_prefix("# ")?.split_once(".rs: "));
        assert_eq!(places.clone().count(), 2);
        for (file, _) in places {
            assert!(peers::root().join(format!("sidecar/cni/src/{file}.rs")).exists(), "{file}");
        }

        let pod = &sets[0]["spec"]["template"]["spec"];
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod.get(field).is_none(), "{field}");
        }
        let container = &pod["containers"][0];
        let context = &container["securityContext"];
        assert_eq!(
            context["capabilities"],
            json!({"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN", "DAC_OVERRIDE"]})
        );
        assert_eq!(
            (&context["privileged"], &context["readOnlyRootFilesystem"]),
            (&json!(false), &json!(true))
        );
        assert!(container.get("ports").is_none());
        let hosts: Vec<&str> = pod["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|volume| volume["hostPath"]["path"].as_str())
            .collect();
        assert_eq!(hosts, ["/opt/cni/bin", "/etc/cni/net.d", "/var/run/netns", "/run/signet-cni"]);
        // The plugin finds the socket where the agent has it.
        let socket = "/run/signet-cni";
        assert_eq!(hosts[3], socket);
        assert!(container["volumeMounts"].as_array().unwrap().iter().any(|it| it["mountPath"] == socket));
        assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
        let rolling = &sets[0]["spec"]["updateStrategy"]["rollingUpdate"];
        assert_eq!(rolling["maxUnavailable"], 0, "one that goes waits for the next");
        let command = container["command"].to_string();
        assert!(command.contains("signet-system\""), "its own pods start without it: {command}");
        let policy = ours.iter().find(|it| it["kind"] == "NetworkPolicy").expect("a policy");
        assert_eq!(policy["spec"]["ingress"], json!([]));

        let config = of_kind(&all, "ConfigMap")[0]["data"]["control-plane.yaml"].as_str().unwrap();
        let injection =
            Config::parse(Path::new("control-plane.yaml"), config).unwrap().webhook.unwrap().injection;
        use signet_kubernetes::inject::Redirect::{Cni, Init};
        let expected = if name == "cni" { [Cni, Cni] } else { [Init, Cni] };
        assert_eq!([injection.redirect_in("other"), injection.redirect_in("shop")], expected);
        assert!(command.contains(&format!("\"--sidecar-uid={}\"", injection.uid)), "{command}");
    }
    let (text, all) = rendered(&folder, &[CNI], &["cni.netnsDir="]);
    assert!(
        !text.contains("netns") && of_kind(&all, "DaemonSet").len() == 1,
        "without a look at the node's networks"
    );
    for (value, words) in [
        ("cni.binDir=opt", "binDir"),
        ("cni.whenAway=never", "whenAway"),
        ("cni.privileged=true", "privileged"),
        ("cni.maxSurge=0", "maxSurge"),
        ("injection.redirect=none", "redirect"),
    ] {
        let output = helm(&folder, "template", &[CNI], &[value]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{value}: {said}");
    }
}

#[test]
fn what_of_a_pods_sidecar_cannot_change_names_all_that_injection_adds() {
    use signet_kubernetes::inject::{CHECK, REDIRECT, SIDECAR};
    let Some(folder) = peers::kubernetes() else { return };
    let (_, all) = rendered(&folder, &[], &[]);
    let policy = of_kind(&all, "ValidatingAdmissionPolicy")[0].to_string();
    for name in [SIDECAR, REDIRECT, CHECK] {
        assert!(policy.contains(&format!("'{name}'")), "{name}");
    }
}
