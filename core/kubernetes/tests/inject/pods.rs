//! One thing of a pod at a time.

use serde_json::{Value, json};
use signet_kubernetes::inject::{Namespace, Outcome, inject};

use crate::support::{injected, key, namespace, pod, refusal, settings, skipped};

fn annotated(name: &str, annotation: &str, value: &str) -> Value {
    let mut pod = pod(name);
    pod["metadata"]["annotations"][annotation] = json!(value);
    pod
}

fn config(pod: &Value) -> Value {
    let text = injected(pod).pod["metadata"]["annotations"]["signet.mesh/sidecar-config"].clone();
    serde_json::from_str(text.as_str().expect("text")).expect("JSON")
}

#[test]
fn the_redirection_is_first_the_sidecar_second_and_then_the_pods_own() {
    let made = injected(&pod("pod-init-containers")).pod;
    let names: Vec<&str> = made["spec"]["initContainers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names[..2], ["signet-redirect", "signet-proxy"]);
    assert!(names.len() > 2, "{names:?}");
    assert_eq!(made["spec"]["initContainers"][1]["restartPolicy"], "Always");
}

#[test]
fn only_the_redirection_has_capabilities_and_only_the_sidecar_has_what_it_is_known_by() {
    let made = injected(&pod("pod-security-context")).pod;
    let [redirect, sidecar] = [0, 1].map(|at| made["spec"]["initContainers"][at].clone());
    for container in [&redirect, &sidecar] {
        let context = &container["securityContext"];
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    }
    assert!(sidecar["securityContext"]["capabilities"].get("add").is_none());
    assert_eq!(
        (&sidecar["securityContext"]["runAsUser"], &sidecar["securityContext"]["runAsNonRoot"]),
        (&json!(2102), &json!(true))
    );
    // The pod demands runAsNonRoot, and the redirection needs root.
    assert_eq!(redirect["securityContext"]["runAsNonRoot"], false);
    let mounts = |volume: &str| {
        let all = ["initContainers", "containers"]
            .into_iter()
            .flat_map(|field| made["spec"][field].as_array().unwrap());
        let has =
            |c: &&Value| c["volumeMounts"].as_array().is_some_and(|m| m.iter().any(|m| m["name"] == volume));
        all.filter(has).map(|c| c["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(mounts("signet-identity"), ["signet-proxy"]);
    assert_eq!(mounts("signet-state"), ["signet-proxy"]);
    let text = made.to_string();
    assert!(!text.contains("\"env\""), "nothing is told by the environment");
}

#[test]
fn a_pod_is_left_alone_for_these_reasons_and_no_others() {
    assert_eq!(skipped(&pod("pod-host-network")), Some("host-network"));
    assert_eq!(skipped(&pod("pod-windows-os")), Some("windows"));
    assert_eq!(skipped(&pod("pod-bare")), None);
    let with = |pointer: &str, value: Value| {
        let mut pod = pod("pod-bare");
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        let parent = pod.pointer_mut(parent).unwrap();
        parent[last] = value;
        skipped(&pod)
    };
    assert_eq!(with("/metadata/annotations", json!({"signet.mesh/inject": "disabled"})), Some("disabled"));
    assert_eq!(with("/metadata/labels", json!({"signet.mesh/inject": "false"})), Some("disabled"));
    assert_eq!(with("/metadata/labels", json!({"signet.mesh/rev": "canary"})), Some("other-revision"));
    assert_eq!(with("/metadata/annotations", json!({"kubernetes.io/config.mirror": "x"})), Some("static"));
    assert_eq!(with("/spec/nodeSelector", json!({"kubernetes.io/os": "windows"})), Some("windows"));
    for other in ["istio-proxy", "linkerd-proxy"] {
        assert_eq!(with("/spec/initContainers", json!([{"name": other}])), Some("other-mesh"));
    }
    for (name, injects, label, expected) in [
        ("kube-system", true, "enabled", Some("system-namespace")),
        ("signet-system", true, "enabled", Some("system-namespace")),
        ("shop", false, "", Some("not-enabled")),
        ("shop", false, "enabled", None),
        ("shop", true, "disabled", Some("disabled")),
    ] {
        let mut pod = pod("pod-bare");
        if !label.is_empty() {
            pod["metadata"]["labels"] = json!({"signet.mesh/inject": label});
        }
        let namespace = Namespace { name: name.to_owned(), injects };
        let got = match inject(&pod, &namespace, &settings(), &key()) {
            Outcome::Skipped(skip) => Some(skip.label()),
            Outcome::Injected(_) => None,
            Outcome::Refused(refusal) => panic!("{refusal}"),
        };
        assert_eq!(got, expected, "{name} {injects} {label}");
    }
}

#[test]
fn a_pod_that_would_go_past_its_sidecar_is_refused() {
    let mut nodes = pod("pod-bare");
    nodes["spec"]["hostPID"] = true.into();
    assert!(refusal(&nodes).contains("hostPID"));
    nodes["spec"]["hostPID"] = false.into();
    // Of the node's IPC nothing of the sidecar's is reached.
    nodes["spec"]["hostIPC"] = true.into();
    injected(&nodes);
    assert!(refusal(&pod("pod-share-process-namespace")).contains("shareProcessNamespace"));
    let mut settings = settings();
    settings.allow_shared_process_namespace = true;
    let allowed = inject(&pod("pod-share-process-namespace"), &namespace(), &settings, &key());
    assert!(matches!(allowed, Outcome::Injected(_)));
    let with = |change: &dyn Fn(&mut Value)| {
        let mut pod = pod("pod-two-containers");
        change(&mut pod);
        refusal(&pod)
    };
    let said = with(&|pod| pod["spec"]["containers"][1]["securityContext"] = json!({"runAsUser": 2102}));
    assert!(said.contains("2102") && said.contains("run it as another"), "{said}");
    let said = with(&|pod| pod["spec"]["securityContext"] = json!({"runAsUser": 2102}));
    assert!(said.contains("2102"), "{said}");
    let said = with(&|pod| {
        pod["spec"]["securityContext"] = json!({"runAsUser": 1000});
        pod["spec"]["initContainers"] = json!([{"name": "first", "securityContext": {"runAsUser": 2102}}]);
    });
    assert!(said.contains("\"first\""), "{said}");
    for port in [15001, 15006, 15020, 15021, 15053] {
        let said = with(&|pod| pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": port}]));
        assert!(said.contains(&port.to_string()), "{said}");
    }
    let said = with(&|pod| pod["spec"]["containers"][0]["name"] = json!("signet-proxy"));
    assert!(said.contains("signet-proxy"), "{said}");
    for volume in ["signet-state", "signet-identity", "signet-config", "signet-no-token"] {
        let said = with(&|pod| {
            pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": volume, "mountPath": "/x"}]);
        });
        assert!(said.contains(volume) && said.contains("sidecar alone"), "{said}");
    }
}

#[test]
fn an_app_with_strong_capabilities_comes_in_with_a_warning() {
    for context in [
        json!({"privileged": true}),
        json!({"capabilities": {"add": ["NET_ADMIN"]}}),
        json!({"capabilities": {"add": ["CAP_SYS_ADMIN"]}}),
    ] {
        let mut pod = pod("pod-bare");
        pod["spec"]["containers"][0]["securityContext"] = context;
        let done = injected(&pod);
        assert!(done.warnings.iter().any(|text| text.contains("past its sidecar")), "{:?}", done.warnings);
    }
    let unread = injected(&annotated("pod-bare", "signet.mesh/exclude-inbound-port", "22")).warnings;
    assert!(unread[0].contains("signet.mesh/exclude-inbound-port"), "{unread:?}");
}

#[test]
fn each_annotation_does_what_it_says_and_a_bad_value_is_refused_by_name() {
    for (name, good, bad, pointer, expected) in [
        ("workers", "2", "0", "/workers", json!(2)),
        ("log-level", "debug", "loud", "/log/level", json!("debug")),
        ("drain-seconds", "30", "-1", "/drainSeconds", json!(30)),
        (
            "serves",
            "orders.shop, ledger.shop",
            "orders",
            "/transparent/serves",
            json!(["orders.shop", "ledger.shop"]),
        ),
        ("dns-capture", "enabled", "yes", "/dns/clusterDomain", json!("cluster.local")),
        ("attach-user-context", "enabled", "on", "/userContext/attach", json!(true)),
    ] {
        let name = format!("signet.mesh/{name}");
        assert_eq!(config(&annotated("pod-bare", &name, good)).pointer(pointer), Some(&expected), "{name}");
        let said = refusal(&annotated("pod-bare", &name, bad));
        assert!(said.starts_with(&format!("{name}: expected ")) && said.contains(bad), "{said}");
    }
    let resources = |name: &str, value: &str| {
        injected(&annotated("pod-bare", name, value)).pod["spec"]["initContainers"][1]["resources"].clone()
    };
    assert_eq!(resources("signet.mesh/cpu-limit", "2")["limits"], json!({"cpu": "2", "memory": "256Mi"}));
    assert_eq!(resources("signet.mesh/memory-request", "1.5Gi")["requests"]["memory"], "1.5Gi");
    for bad in ["", "1 Gi", "-1", "1e3", "Gi", "1Gb"] {
        assert!(
            refusal(&annotated("pod-bare", "signet.mesh/cpu-request", bad)).contains("quantity"),
            "{bad}"
        );
    }
    let command = |name: &str, value: &str| {
        injected(&annotated("pod-bare", name, value)).pod["spec"]["initContainers"][0]["command"].to_string()
    };
    assert!(
        command("signet.mesh/exclude-inbound-ports", "22, 9000-9010")
            .contains("\"--exclude-inbound-ports\",\"22,9000-9010\"")
    );
    assert!(
        command("signet.mesh/exclude-outbound-ranges", "10.1.0.0/16")
            .contains("\"--exclude-outbound-ranges\",\"10.1.0.0/16\"")
    );
    for (name, bad) in [
        ("exclude-outbound-ports", "0"),
        ("exclude-outbound-ports", "9-8"),
        ("exclude-outbound-ports", "--uid"),
        ("exclude-outbound-ranges", "10.1.2.3/16"),
    ] {
        assert!(refusal(&annotated("pod-bare", &format!("signet.mesh/{name}"), bad)).contains(name), "{bad}");
    }
}

#[test]
fn a_pod_with_a_budget_of_its_own_gets_a_sidecar_that_asks_for_nothing() {
    let made = injected(&pod("pod-pod-level-resources")).pod;
    for at in [0, 1] {
        assert_eq!(made["spec"]["initContainers"][at]["resources"], json!({}));
    }
}

#[test]
fn declared_probes_go_to_the_sidecar_and_nothing_else_does() {
    let table = |pod: &Value| config(pod)["probes"]["declared"].clone();
    let named = table(&pod("pod-probe-http-named-port"));
    assert_eq!(named[0]["http"]["port"], 8080, "{named}");
    let grpc = table(&pod("pod-probe-grpc"));
    assert_eq!(
        grpc,
        json!([
            {"grpc": {"port": 9090, "service": ""}, "timeoutSeconds": 1},
            {"grpc": {"port": 9090, "service": "shop.Orders"}, "timeoutSeconds": 1},
        ])
    );
    let hooks = injected(&pod("pod-lifecycle-hooks")).pod;
    let hook = &hooks["spec"]["containers"][0]["lifecycle"];
    assert_eq!(
        hook["postStart"],
        pod("pod-lifecycle-hooks")["spec"]["containers"][0]["lifecycle"]["postStart"]
    );
    assert_eq!(hook["preStop"]["httpGet"]["port"], 15020);
    assert_eq!(table(&pod("pod-lifecycle-hooks"))[0]["timeoutSeconds"], 45);
    // A probe that names a host is the node's affair, one by a command the container's.
    assert!(config(&pod("pod-probe-exec")).get("probes").is_none());
    let elsewhere = injected(&pod("pod-probe-http-headers-https")).pod;
    assert_eq!(elsewhere["spec"]["containers"], pod("pod-probe-http-headers-https")["spec"]["containers"]);
    let mut here = pod("pod-probe-http-headers-https");
    drop(here["spec"]["containers"][0]["readinessProbe"]["httpGet"].as_object_mut().unwrap().remove("host"));
    assert_eq!(
        table(&here),
        json!([{"http": {
        "port": 8443, "path": "/ready?full=1", "https": true,
        "headers": [{"name": "X-Probe", "value": "a b"}, {"name": "Host", "value": "shop.test"}],
    }, "timeoutSeconds": 3}])
    );
    let probe = &injected(&here).pod["spec"]["containers"][0]["readinessProbe"];
    assert_eq!(
        probe["httpGet"],
        json!({"path": "/probe/0123456789abcdef0123456789abcdef/0", "port": 15020, "scheme": "HTTP"})
    );
    assert_eq!((&probe["successThreshold"], &probe["failureThreshold"]), (&json!(2), &json!(4)));
}

#[test]
fn a_probe_of_a_port_that_callers_reach_directly_stays_and_so_do_all_where_it_is_said() {
    let before = pod("pod-probe-http-named-port")["spec"]["containers"].clone();
    for (name, value) in [("signet.mesh/exclude-inbound-ports", "8000-8090"), ("signet.mesh/probes", "leave")]
    {
        let made = injected(&annotated("pod-probe-http-named-port", name, value)).pod;
        assert_eq!(made["spec"]["containers"], before, "{name}");
    }
    let mut lost = pod("pod-probe-http-named-port");
    lost["spec"]["containers"][0]["ports"] = json!(null);
    let done = injected(&lost);
    assert!(done.warnings.iter().any(|text| text.contains("stays as it is")), "{:?}", done.warnings);
}
