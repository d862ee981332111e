//! What a cluster comes to: Services of Kubernetes, routes of the Gateway API, objects of `signet.mesh`.

use serde_json::{Value, json};
use signet_kubernetes::kinds::{KINDS, KindId};
use signet_kubernetes::translate::views::Object;
use signet_kubernetes::translate::{Said, Settings, Snapshot, Translation, merged, translate};
use signet_model::{Kept, Options};

/// A snapshot of objects as an API server would send them.
fn snapshot(objects: &[Value]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for object in objects {
        let kind = kind_of(object);
        let mut object = object.clone();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", object["metadata"]["name"]).into();
        }
        object["metadata"]["generation"] = 1.into();
        snapshot.put(kind, Object::read(kind, object).unwrap());
    }
    snapshot
}

fn kind_of(object: &Value) -> KindId {
    let group = object["apiVersion"].as_str().unwrap().rsplit_once('/').map_or("", |(group, _)| group);
    KINDS.iter().find(|it| it.kind == object["kind"] && it.group == group).unwrap().id
}

fn made(objects: &[Value]) -> Translation {
    translate(&snapshot(objects), &Settings::default(), &Kept::new())
}

fn core(kind: &str, name: &str, rest: Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let version = if kind == "EndpointSlice" { "discovery.k8s.io/v1" } else { "v1" };
    let mut object =
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}});
    for (field, value) in rest.as_object().unwrap() {
        match field.as_str() {
            "labels" | "annotations" => object["metadata"][field] = value.clone(),
            _ => object[field] = value.clone(),
        }
    }
    object
}

fn ours(kind: &str, name: &str, spec: Value) -> Value {
    let mut object = core(kind, name, json!({"spec": spec}));
    object["apiVersion"] = "signet.mesh/v1alpha1".into();
    object
}

fn gateway_api(kind: &str, name: &str, spec: Value) -> Value {
    let mut object = core(kind, name, json!({"spec": spec}));
    object["apiVersion"] = "gateway.networking.k8s.io/v1".into();
    object
}

fn namespace(name: &str) -> Value {
    core("Namespace", name, json!({"labels": {"signet.mesh/inject": "enabled"}}))
}

fn account(name: &str) -> Value {
    core("ServiceAccount", name, json!({}))
}

fn pod(name: &str, account: &str, app: &str, ips: &[&str]) -> Value {
    let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    core(
        "Pod",
        name,
        json!({
            "labels": {"app": app}, "annotations": {"signet.mesh/injected": "true"},
            "spec": {"serviceAccountName": account, "initContainers": [{"name": "signet-proxy", "restartPolicy": "Always"}]},
            "status": {"phase": "Running", "podIPs": ips},
        }),
    )
}

fn slice(name: &str, service: &str, endpoints: Value, ports: Value) -> Value {
    core(
        "EndpointSlice",
        name,
        json!({
            "labels": {"kubernetes.io/service-name": service}, "addressType": "IPv4",
            "endpoints": endpoints, "ports": ports,
        }),
    )
}

fn endpoint(ip: &str, pod: &str) -> Value {
    json!({"addresses": [ip], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": pod, "namespace": "shop"}})
}

fn service(name: &str, app: &str, ports: Value) -> Value {
    core(
        "Service",
        name,
        json!({"spec": {"clusterIPs": ["10.96.0.7"], "selector": {"app": app}, "ports": ports}}),
    )
}

/// `web`, served by one pod.
fn shop() -> Vec<Value> {
    vec![
        namespace("shop"),
        account("shop/web"),
        pod("shop/web-1", "web", "web", &["10.1.0.1"]),
        service("shop/web", "web", json!([{"name": "http", "port": 80, "targetPort": "http"}])),
        slice(
            "shop/web-a",
            "web",
            json!([endpoint("10.1.0.1", "web-1")]),
            json!([{"name": "http", "port": 8080}]),
        ),
    ]
}

fn spec(made: &Translation, name: &str) -> Value {
    let service = made.registry.service(&name.parse().unwrap()).expect(name);
    serde_json::from_str::<Value>(&service.canonical_json()).unwrap()["spec"].clone()
}

#[test]
fn a_service_is_what_its_pods_are() {
    let made = made(&shop());
    assert_eq!(made.refused, Vec::<String>::new());
    assert_eq!(
        spec(&made, "web.shop"),
        json!({
            "identities": ["ns/shop/sa/web"], "addresses": ["10.96.0.7"],
            "ports": [{"name": "http", "port": 80, "protocol": "http1"}],
            "endpoints": [{"address": "10.1.0.1", "ports": {"http": 8080}, "identity": "ns/shop/sa/web"}],
        })
    );
    let joins: Vec<_> = made.registry.workloads().map(|it| it.name.to_string()).collect();
    assert_eq!(joins, ["web.shop"]);
}

#[test]
fn named_target_ports_differ_by_pod_and_each_family_has_its_endpoint() {
    let mut objects = shop();
    objects.push(account("shop/other"));
    objects.push(pod("shop/web-2", "other", "web", &["10.1.0.2", "fd00::2"]));
    objects.push(slice(
        "shop/web-b",
        "web",
        json!([endpoint("10.1.0.2", "web-2")]),
        json!([{"name": "http", "port": 9090}]),
    ));
    objects.push(slice(
        "shop/web-6",
        "web",
        json!([endpoint("fd00::2", "web-2")]),
        json!([{"name": "http", "port": 9090}]),
    ));
    let spec = spec(&made(&objects), "web.shop");
    assert_eq!(spec["identities"], json!(["ns/shop/sa/other", "ns/shop/sa/web"]));
    let ends = spec["endpoints"].as_array().unwrap();
    let ends: Vec<_> = ends
        .iter()
        .map(|it| (it["address"].as_str().unwrap(), it["ports"]["http"].as_u64().unwrap()))
        .collect();
    assert_eq!(ends, [("10.1.0.1", 8080), ("10.1.0.2", 9090), ("fd00::2", 9090)]);
}

#[test]
fn an_endpoint_is_taken_only_where_a_pod_of_the_selector_has_the_address() {
    for (what, change) in [
        ("somebody else's address", json!([endpoint("10.9.9.9", "web-1")])),
        ("no pod", json!([{"addresses": ["10.1.0.1"]}])),
        (
            "a pod of another namespace",
            json!([{"addresses": ["10.1.0.1"], "targetRef": {"kind": "Pod", "name": "web-1", "namespace": "edge"}}]),
        ),
        ("a pod that nobody knows", json!([endpoint("10.1.0.1", "web-9")])),
        ("a pod that the selector does not mean", json!([endpoint("10.1.0.3", "db-1")])),
        ("a pod of the host's network", json!([endpoint("10.1.0.4", "host-1")])),
        ("null", Value::Null),
    ] {
        let mut objects = shop();
        objects.push(account("shop/db"));
        objects.push(pod("shop/db-1", "db", "db", &["10.1.0.3"]));
        let mut host = pod("shop/host-1", "web", "web", &["10.1.0.4"]);
        host["spec"]["hostNetwork"] = true.into();
        objects.push(host);
        objects[4]["endpoints"] = change;
        let spec = spec(&made(&objects), "web.shop");
        assert_eq!(spec["endpoints"], Value::Null, "{what}: {spec}");
        assert_eq!(spec["identities"], json!(["ns/shop/sa/web"]), "{what}");
    }
}

#[test]
fn the_sidecar_and_the_annotation_together_make_a_pod_one_of_the_mesh() {
    let (mut bare, mut alone) = (shop(), shop());
    bare[2]["spec"]["initContainers"] = Value::Null;
    alone[2]["metadata"]["annotations"] = json!({});
    for objects in [bare, alone] {
        let made = made(&objects);
        assert_eq!(made.registry.services().count(), 0);
        assert!(made.warnings[0].contains("none of its pods has a sidecar"), "{:?}", made.warnings);
    }
}

#[test]
fn endpoints_that_end_are_used_only_where_none_is_ready() {
    let conditions =
        |ready, serving, terminating| json!({"ready": ready, "serving": serving, "terminating": terminating});
    let mut ending = endpoint("10.1.0.1", "web-1");
    ending["conditions"] = conditions(false, true, true);
    let mut objects = shop();
    objects[4]["endpoints"] = json!([ending]);
    assert_eq!(spec(&made(&objects), "web.shop")["endpoints"].as_array().unwrap().len(), 1);
    objects.push(pod("shop/web-2", "web", "web", &["10.1.0.2"]));
    objects[4]["endpoints"] = json!([ending, endpoint("10.1.0.2", "web-2")]);
    assert_eq!(spec(&made(&objects), "web.shop")["endpoints"][0]["address"], "10.1.0.2");
    let mut starting = endpoint("10.1.0.1", "web-1");
    starting["conditions"] = conditions(false, false, false);
    objects[4]["endpoints"] = json!([starting]);
    assert_eq!(spec(&made(&objects), "web.shop")["endpoints"], Value::Null);
}

#[test]
fn what_is_spoken_is_said_by_app_protocol_then_by_the_name() {
    let mut objects = shop();
    objects[3]["spec"]["ports"] = json!([
        {"name": "http", "port": 80, "appProtocol": "kubernetes.io/h2c"}, {"name": "grpc-x", "port": 81},
        {"name": "x", "port": 82, "appProtocol": "HTTP"}, {"name": "y", "port": 83}, {"name": "http-y", "port": 84, "appProtocol": "example.com/mine"},
        {"name": "z", "port": 85, "appProtocol": "kubernetes.io/wss"}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "w", "port": 86, "appProtocol": "https"},
    ]);
    let made = made(&objects);
    let spoken: Vec<_> = spec(&made, "web.shop")["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["protocol"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(spoken, ["http2", "grpc", "http1", "auto", "http1", "tcp", "tcp"]);
    assert!(made.warnings.iter().any(|it| it.contains("port 53 is UDP")), "{:?}", made.warnings);
}

#[test]
fn a_headless_service_has_no_address_and_a_port_without_a_name_is_called_by_its_number() {
    let mut objects = shop();
    objects[3]["spec"] = json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {"app": "web"}, "ports": [{"port": 5432}]});
    objects[4]["ports"] = json!([{"name": "", "port": 5432}]);
    let spec = spec(&made(&objects), "web.shop");
    assert_eq!(spec["addresses"], Value::Null);
    assert_eq!(spec["endpoints"][0]["ports"], json!({"port-5432": 5432}));
}

#[test]
fn external_names_and_services_without_selector_are_places_outside_and_that_is_said() {
    let mut objects = shop();
    objects.push(core(
        "Service",
        "shop/payments",
        json!({"spec": {"type": "ExternalName", "externalName": "api.example.com"}}),
    ));
    objects.push(core(
        "Service",
        "shop/legacy",
        json!({"spec": {"clusterIPs": ["10.96.0.9"], "ports": [{"port": 80}]}}),
    ));
    objects.push(slice(
        "shop/legacy-a",
        "legacy",
        json!([endpoint("10.1.0.1", "web-1")]),
        json!([{"port": 80}]),
    ));
    let made = made(&objects);
    assert_eq!(made.registry.services().count(), 1);
    let said = made.warnings.join("\n");
    assert!(
        said.contains("payments.shop` is none of the mesh: an ExternalName")
            && said.contains("legacy.shop` is none"),
        "{said}"
    );
}

#[test]
fn a_service_without_selector_is_one_of_the_mesh_once_its_identities_are_listed() {
    let mut objects = shop();
    objects.push(core(
        "Service",
        "shop/legacy",
        json!({"spec": {"clusterIPs": ["10.96.0.9"], "ports": [{"name": "http", "port": 81}]}}),
    ));
    objects.push(slice(
        "shop/legacy-a",
        "legacy",
        json!([endpoint("10.1.0.1", "web-1")]),
        json!([{"name": "http", "port": 8180}]),
    ));
    objects.push(ours("Service", "shop/legacy", json!({"identities": ["ns/shop/sa/web"], "ports": [{"name": "http", "port": 81, "requestTimeout": "5s"}]})));
    let made = made(&objects);
    assert_eq!(made.refused, Vec::<String>::new());
    let spec = spec(&made, "legacy.shop");
    assert_eq!(
        (spec["addresses"][0].as_str(), spec["endpoints"][0]["address"].as_str()),
        (Some("10.96.0.9"), Some("10.1.0.1"))
    );
    assert_eq!(spec["ports"][0]["requestTimeout"], "5s");
}

#[test]
fn our_own_service_of_the_same_name_says_more_and_kubernetes_the_rest() {
    let mut objects = shop();
    objects.push(ours(
        "Service",
        "shop/web",
        json!({"userContext": "original", "ports": [{"name": "http", "port": 80, "protocol": "http2"}]}),
    ));
    let spec = spec(&made(&objects), "web.shop");
    assert_eq!(
        (spec["userContext"].as_str(), spec["ports"][0]["protocol"].as_str()),
        (Some("original"), Some("http2"))
    );
    assert_eq!(spec["endpoints"][0]["ports"]["http"], 8080);
}

#[test]
fn a_namespace_speaks_for_others_only_where_the_mesh_lets_it() {
    let objects = |label: bool| {
        let mut objects = shop();
        if label {
            objects[0]["metadata"]["labels"]["signet.mesh/mesh-admin"] = "true".into();
        }
        objects.push(ours("Workload", "shop/edge", json!({"class": "gateway"})));
        objects.push(ours("Gateway", "shop/gw", json!({"identity": "ns/shop/sa/edge", "egress": {}})));
        objects.push(ours("ExternalService", "shop/bank", json!({"hosts": ["bank.example.com"], "ports": [{"name": "https", "port": 443}], "from": {"everyone": true}})));
        objects.push(ours(
            "Service",
            "shop/dns",
            json!({"identities": [], "addresses": ["10.96.0.10"], "ports": [{"name": "x", "port": 53}]}),
        ));
        objects
    };
    let refused = made(&objects(false));
    assert_eq!(refused.refused.len(), 4, "{:?}", refused.refused);
    assert!(refused.refused.iter().all(|it| it.contains("signet.mesh/mesh-admin")), "{:?}", refused.refused);
    assert_eq!((refused.registry.gateways().count(), refused.registry.external_services().count()), (0, 0));
    assert!(refused.registry.workload(&"ns/shop/sa/edge".parse().unwrap()).is_none());
    assert_eq!(made(&objects(true)).refused, Vec::<String>::new());
}

#[test]
fn a_namespace_that_may_no_longer_speak_for_others_has_said_nothing_at_once() {
    let objects = |label: bool, broken: bool| {
        let mut objects = shop();
        if label {
            objects[0]["metadata"]["labels"]["signet.mesh/mesh-admin"] = "true".into();
        }
        objects.push(ours("Workload", "shop/edge", json!({"class": "gateway"})));
        objects.push(ours("Gateway", "shop/gw", json!({"identity": "ns/shop/sa/edge", "egress": {}})));
        let mut bank = json!({"hosts": ["bank.example.com"], "ports": [{"name": "https", "port": 443}], "from": {"everyone": true}});
        if broken {
            bank["surprise"] = 1.into();
        }
        objects.push(ours("ExternalService", "shop/bank", bank));
        objects.push(ours(
            "ExternalService",
            "shop/post",
            json!({"hosts": ["post.example.com"], "ports": [{"name": "https", "port": 443}]}),
        ));
        objects
    };
    let before = made(&objects(true, false));
    assert_eq!(before.refused, Vec::<String>::new());
    for broken in [false, true] {
        let after = translate(&snapshot(&objects(false, broken)), &Settings::default(), &before.kept);
        let places: Vec<_> = after.registry.external_services().map(|it| it.name.to_string()).collect();
        assert_eq!(places, ["post.shop"], "what it may say for itself stays");
        assert_eq!(after.registry.gateways().count(), 0);
        assert!(after.registry.workload(&"ns/shop/sa/edge".parse().unwrap()).is_none());
        // Giving the label back makes nothing of what was forfeited while it is still wrong.
        let again = translate(&snapshot(&objects(true, broken)), &Settings::default(), &after.kept);
        assert_eq!(again.registry.external_services().count(), if broken { 1 } else { 2 });
    }
    // With the label an earlier version stays while the present one is wrong.
    let after = translate(&snapshot(&objects(true, true)), &Settings::default(), &before.kept);
    assert_eq!(after.registry.external_services().count(), 2);
}

#[test]
fn a_place_outside_that_is_inside_is_listed_only_by_whoever_runs_the_mesh() {
    let place = |spec: Value, admin: bool| {
        let mut objects = shop();
        if admin {
            objects[0]["metadata"]["labels"]["signet.mesh/mesh-admin"] = "true".into();
        }
        let mut spec = spec;
        spec["ports"] = json!([{"name": "tcp", "port": 5432}]);
        objects.push(ours("ExternalService", "shop/place", spec));
        made(&objects).registry.external_services().count() == 1
    };
    for inside in [
        json!({"addresses": ["127.0.0.1"]}),
        json!({"addresses": ["::1"]}),
        json!({"addresses": ["169.254.169.254"]}),
        json!({"addresses": ["::ffff:169.254.169.254"]}),
        json!({"addresses": ["192.0.2.1", "10.96.0.1"]}),
        json!({"addresses": ["fd00::1"]}),
        json!({"addresses": ["64:ff9b::a9fe:a9fe"]}),
        json!({"networks": ["10.0.0.0/8"]}),
        json!({"networks": ["172.20.0.0/16"]}),
        json!({"networks": ["0.0.0.0/0"]}),
        json!({"networks": ["::/0"]}),
        json!({"networks": ["::/64"]}),
        json!({"networks": ["128.0.0.0/1"]}),
        json!({"hosts": ["db.example.com"], "networks": ["192.168.0.0/24"]}),
    ] {
        assert!(!place(inside.clone(), false), "{inside}");
    }
    for outside in [
        json!({"addresses": ["192.0.2.1"]}),
        json!({"addresses": ["2001:db8::1"]}),
        json!({"networks": ["192.0.2.0/24"]}),
        json!({"hosts": ["db.example.com"]}),
    ] {
        assert!(place(outside.clone(), false), "{outside}");
    }
    assert!(place(json!({"networks": ["10.0.0.0/8"]}), true));
}

#[test]
fn a_tenant_sends_nothing_through_the_gateway_of_others() {
    let mut objects = shop();
    objects.push(ours("ExternalService", "shop/bank", json!({"hosts": ["bank.example.com"], "ports": [{"name": "https", "port": 443}], "through": {"service": "egress.infra", "port": "egress"}})));
    let made = made(&objects);
    assert!(
        made.refused[0].contains("spec.through") && made.refused[0].contains("mesh-admin"),
        "{:?}",
        made.refused
    );
}

#[test]
fn a_mistake_in_our_own_service_leaves_its_endpoints_those_that_kubernetes_has_now() {
    let objects = |finer: Value, ip: &str, account_of_pod: &str| {
        let mut objects = shop();
        objects[2] = pod("shop/web-1", account_of_pod, "web", &[ip]);
        objects[4] = slice(
            "shop/web-a",
            "web",
            json!([endpoint(ip, "web-1")]),
            json!([{"name": "http", "port": 8080}]),
        );
        objects.push(account("shop/next"));
        objects.push(ours("Service", "shop/web", finer));
        objects
    };
    let good =
        json!({"userContext": "original", "ports": [{"name": "http", "port": 80, "protocol": "http"}]});
    let before = made(&objects(good.clone(), "10.1.0.1", "web"));
    assert_eq!(before.refused, Vec::<String>::new());
    for wrong in [
        json!({"userContext": "perhaps"}),
        json!({"surprise": 1}),
        json!({"addresses": ["10.96.0.99"]}),
        json!({"identities": ["ns/shop/sa/nobody"], "ports": good["ports"]}),
    ] {
        for account in ["web", "next"] {
            let after = translate(
                &snapshot(&objects(wrong.clone(), "10.1.0.2", account)),
                &Settings::default(),
                &before.kept,
            );
            let spec = spec(&after, "web.shop");
            assert_eq!(spec["endpoints"][0]["address"], "10.1.0.2", "{wrong}");
            assert_eq!(spec["endpoints"][0]["identity"], format!("ns/shop/sa/{account}"), "{wrong}");
            assert_eq!(
                (&spec["userContext"], &spec["addresses"][0]),
                (&json!("original"), &json!("10.96.0.7"))
            );
            assert_eq!(after.refused.len(), 1, "{:?}", after.refused);
            // And so on while it stays wrong.
            let later = translate(
                &snapshot(&objects(wrong.clone(), "10.1.0.3", account)),
                &Settings::default(),
                &after.kept,
            );
            assert_eq!(self::spec(&later, "web.shop")["endpoints"][0]["address"], "10.1.0.3", "{wrong}");
        }
    }
    // One that never was right says perhaps what restricts: there is nobody.
    let never = made(&objects(json!({"surprise": 1}), "10.1.0.1", "web"));
    assert_eq!(self::spec(&never, "web.shop").get("endpoints"), None);
    assert_eq!(self::spec(&never, "web.shop")["identities"], json!([]));
}

#[test]
fn a_rebuild_of_two_thousand_pods_takes_no_time_that_anybody_notices() {
    let cluster = |services: usize| {
        let mut objects = vec![namespace("shop")];
        for number in 0..services {
            let name = format!("shop/s{number}");
            objects.push(account(&name));
            let mut own = service(&name, &format!("s{number}"), json!([{"name": "http", "port": 80}]));
            own["spec"]["clusterIPs"] = json!([format!("10.96.{}.{}", number / 250, number % 250 + 1)]);
            objects.push(own);
            let mut endpoints = Vec::new();
            for pod_number in 0..4 {
                let (pod_name, ip) = (
                    format!("s{number}-{pod_number}"),
                    format!("10.{}.{}.{}", pod_number + 1, number / 250, number % 250 + 1),
                );
                objects.push(pod(
                    &format!("shop/{pod_name}"),
                    &format!("s{number}"),
                    &format!("s{number}"),
                    &[&ip],
                ));
                endpoints.push(endpoint(&ip, &pod_name));
            }
            objects.push(slice(
                &format!("{name}-a"),
                &format!("s{number}"),
                endpoints.into(),
                json!([{"name": "http", "port": 8080}]),
            ));
        }
        snapshot(&objects)
    };
    let time = |snapshot: &Snapshot| {
        let begin = std::time::Instant::now();
        let made = translate(snapshot, &Settings::default(), &Kept::new());
        assert_eq!(made.refused, Vec::<String>::new());
        begin.elapsed()
    };
    let (small, large) = (cluster(125), cluster(500));
    let best = |snapshot: &Snapshot| (0..5).map(|_| time(snapshot)).min().unwrap();
    let (small, large) = (best(&small), best(&large));
    eprintln!("500 pods and 125 services: {small:?}; 2,000 pods and 500 services: {large:?}");
    assert!(large < std::time::Duration::from_secs(2), "{large:?}");
}

#[test]
fn only_namespaces_that_count_are_read_and_never_our_own_accounts() {
    let mut objects = shop();
    objects.extend([
        namespace("signet-system"),
        account("signet-system/signet-control-plane"),
        namespace("other"),
        account("other/x"),
    ]);
    let only = |names: &[&str], not: &[&str]| {
        let set = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect();
        let settings = Settings {
            options: Options::default(),
            namespaces: set(names),
            excluded: set(not),
            ..Settings::default()
        };
        let made = translate(&snapshot(&objects), &settings, &Kept::new());
        made.registry.workloads().map(|it| it.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(only(&[], &[]), ["x.other", "web.shop"]);
    assert_eq!(only(&["shop"], &[]), ["web.shop"]);
    assert_eq!(only(&[], &["shop"]), ["x.other"]);
}

fn conditions(made: &Translation, kind: KindId, name: &str) -> Vec<(String, bool, String)> {
    let status = made.statuses.iter().find(|it| it.kind == kind && it.name == name).expect(name);
    let all = match &status.said {
        Said::Conditions(all) | Said::Gateway { conditions: all, .. } => all.clone(),
        Said::Parents(parents) => parents.iter().flat_map(|it| it.conditions.clone()).collect(),
    };
    all.into_iter().map(|it| (it.kind.to_owned(), it.status, it.reason.to_owned())).collect()
}

fn said(kind: &str, status: bool, reason: &str) -> (String, bool, String) {
    (kind.into(), status, reason.into())
}

#[test]
fn each_object_of_ours_is_told_what_became_of_it() {
    let mut objects = shop();
    objects.push(ours("MeshPolicy", "shop/good", json!({"effect": "permit", "target": {"service": "web"}})));
    objects.push(ours(
        "MeshPolicy",
        "shop/late",
        json!({"effect": "permit", "target": {"service": "later"}}),
    ));
    objects.push(ours(
        "MeshPolicy",
        "shop/bad",
        json!({"effect": "forbid", "target": {"service": "web"}, "surprise": 1}),
    ));
    let made = made(&objects);
    let of = |name| conditions(&made, KindId::MeshPolicy, name);
    assert_eq!(of("good"), [said("Accepted", true, "Accepted"), said("ResolvedRefs", true, "ResolvedRefs")]);
    assert_eq!(
        of("late"),
        [said("Accepted", false, "Invalid"), said("ResolvedRefs", false, "InvalidReference")]
    );
    assert_eq!(of("bad"), [said("Accepted", false, "TargetDenies"), said("ResolvedRefs", false, "Invalid")]);
}

#[test]
fn a_route_has_an_entry_for_each_parent_that_is_ours() {
    let route = |name: &str, parents: Value, backend: &str| {
        gateway_api(
            "HTTPRoute",
            name,
            json!({"parentRefs": parents, "rules": [{"backendRefs": [{"name": backend, "port": 80}]}]}),
        )
    };
    let service = json!({"group": "", "kind": "Service", "name": "web"});
    let mut objects = shop();
    objects.push(route("shop/good", json!([service, {"name": "somebody-elses"}]), "web"));
    objects.push(route("shop/late", json!([service]), "later"));
    objects.push(route("shop/foreign", json!([{"name": "somebody-elses"}]), "web"));
    objects.push(gateway_api(
        "HTTPRoute",
        "shop/odd",
        json!({"parentRefs": [service], "rules": [{"sessionPersistence": {}}]}),
    ));
    let made = made(&objects);
    let of = |name| conditions(&made, KindId::HttpRoute, name);
    assert_eq!(of("good"), [said("Accepted", true, "Accepted"), said("ResolvedRefs", true, "ResolvedRefs")]);
    assert_eq!(
        of("late"),
        [said("Accepted", true, "Accepted"), said("ResolvedRefs", false, "BackendNotFound")]
    );
    assert_eq!(of("foreign"), []);
    assert_eq!(of("odd")[0], said("Accepted", false, "UnsupportedValue"));
    let routes: Vec<_> = made.registry.routes().map(|it| it.name().to_string()).collect();
    assert_eq!(routes, ["good.shop", "late.shop"]);
}

#[test]
fn a_gateway_of_our_class_takes_whole_connections_where_the_mesh_lets_it() {
    let objects = |admin: bool| {
        let mut objects = shop();
        if admin {
            objects[0]["metadata"]["labels"]["signet.mesh/mesh-admin"] = "true".into();
        }
        objects[3]["spec"]["ports"] = json!([{"name": "tcp", "port": 443}]);
        objects.push(ours("Workload", "shop/edge", json!({"class": "gateway"})));
        objects.push(gateway_api(
            "GatewayClass",
            "signet",
            json!({"controllerName": "signet.mesh/gateway-controller"}),
        ));
        objects.push(gateway_api("GatewayClass", "other", json!({"controllerName": "example.com/other"})));
        let listeners = json!([{"name": "tls", "port": 443, "protocol": "TLS", "tls": {"mode": "Passthrough"}}, {"name": "web", "port": 80, "protocol": "HTTP"}]);
        objects.push(gateway_api(
            "Gateway",
            "shop/edge",
            json!({"gatewayClassName": "signet", "listeners": listeners}),
        ));
        objects.push(gateway_api(
            "Gateway",
            "shop/foreign",
            json!({"gatewayClassName": "other", "listeners": listeners}),
        ));
        objects.push(gateway_api("TLSRoute", "shop/app", json!({"parentRefs": [{"name": "edge"}], "hostnames": ["app.example.com"], "rules": [{"backendRefs": [{"name": "web", "port": 443}]}]})));
        objects
    };
    let good = made(&objects(true));
    assert_eq!(good.refused, Vec::<String>::new());
    let status = good.statuses.iter().find(|it| it.kind == KindId::ApiGateway).unwrap();
    assert_eq!(status.name, "edge");
    let Said::Gateway { conditions: own, listeners, addresses } = &status.said else { panic!() };
    assert_eq!((own[0].status, own[1].reason, addresses.len()), (true, "Pending", 0), "nobody runs it yet");
    assert_eq!((listeners[0].attached, listeners[0].conditions[0].status), (1, true));
    assert_eq!(listeners[1].conditions[0].reason, "UnsupportedProtocol");
    assert_eq!(good.statuses.iter().filter(|it| it.kind == KindId::GatewayClass).count(), 1);
    assert_eq!(conditions(&good, KindId::TlsRoute, "app")[0], said("Accepted", true, "Accepted"));
    let refused = made(&objects(false));
    assert!(!conditions(&refused, KindId::ApiGateway, "edge")[0].1);
    assert_eq!(conditions(&refused, KindId::TlsRoute, "app")[0], said("Accepted", false, "NoMatchingParent"));
    assert_eq!(refused.registry.gateways().count(), 0);
}

#[test]
fn a_gateway_is_programmed_when_it_runs_and_found_where_its_services_are() {
    let mut objects = shop();
    objects[0]["metadata"]["labels"]["signet.mesh/mesh-admin"] = "true".into();
    objects.push(ours("Workload", "shop/edge", json!({"class": "gateway"})));
    let controller = json!({"controllerName": "signet.mesh/gateway-controller"});
    objects.push(gateway_api("GatewayClass", "signet", controller));
    let listeners = json!([{"name": "tcp", "port": 5432, "protocol": "TCP"}]);
    let spec = json!({"gatewayClassName": "signet", "listeners": listeners});
    objects.push(gateway_api("Gateway", "shop/edge", spec));
    let status = |objects: &[Value]| {
        let made = made(objects);
        let found = made.statuses.iter().find(|it| it.kind == KindId::ApiGateway).unwrap().said.clone();
        let written = merged(&found, 1, &Value::Null, "2030-01-01T00:00:00Z").unwrap();
        let programmed = &written["conditions"][1];
        (programmed["status"].clone(), programmed["reason"].clone(), written["addresses"].clone())
    };
    // A pod of its account that is no sidecar's.
    let mut own = pod("shop/edge-1", "edge", "edge", &["10.1.0.9"]);
    own["spec"]["initContainers"] = Value::Null;
    objects.push(own);
    assert_eq!(status(&objects), (json!("True"), json!("Programmed"), json!([])), "by other ways");
    objects.push(service("shop/edge", "edge", json!([{"name": "tcp", "port": 5432}])));
    let inside = json!([{"type": "IPAddress", "value": "10.96.0.7"}]);
    assert_eq!(status(&objects), (json!("True"), json!("Programmed"), inside));
    let service = objects.last_mut().unwrap();
    service["spec"]["type"] = "LoadBalancer".into();
    assert_eq!(status(&objects).1, "AddressNotAssigned");
    let taken = json!([{"hostname": "lb.example.com"}, {"ip": "2001:db8::7"}, {"ip": ""}]);
    objects.last_mut().unwrap()["status"] = json!({"loadBalancer": {"ingress": taken}});
    let outside = json!([{"type": "IPAddress", "value": "2001:db8::7"}, {"type": "Hostname", "value": "lb.example.com"}]);
    assert_eq!(status(&objects), (json!("True"), json!("Programmed"), outside));
    // Of another's pods.
    objects.last_mut().unwrap()["spec"]["selector"] = json!({"app": "web"});
    assert_eq!(status(&objects).2, json!([]));
}

#[test]
fn a_service_that_is_wrong_keeps_its_addresses_and_lets_nobody_in_by_plaintext() {
    let permissive = |ports: Value, more: Value| {
        let mut objects = shop();
        let mut spec = json!({"identities": ["ns/shop/sa/web"], "ports": ports});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        objects.push(ours("Service", "shop/web", spec));
        snapshot(&objects)
    };
    let port = json!([{"name": "http", "port": 80, "protocol": "http", "permissive": {"until": "2100-01-01T00:00:00Z"}}]);
    let before = translate(&permissive(port.clone(), json!({})), &Settings::default(), &Kept::new());
    assert!(spec(&before, "web.shop")["ports"][0]["permissive"].is_object());
    let wrong = permissive(port, json!({"surprise": 1}));
    let after = translate(&wrong, &Settings::default(), &before.kept);
    let kept = spec(&after, "web.shop");
    assert!(kept["ports"][0].get("permissive").is_none(), "{kept}");
    assert_eq!(
        (&kept["identities"], kept["endpoints"].as_array().unwrap().len()),
        (&json!(["ns/shop/sa/web"]), 1)
    );
    // Where nothing was right before, its address is nobody else's, and nobody answers there.
    let first = translate(&wrong, &Settings::default(), &Kept::new());
    let bare = spec(&first, "web.shop");
    assert_eq!((&bare["addresses"], &bare["identities"]), (&json!(["10.96.0.7"]), &json!([])));
    assert!(bare.get("endpoints").is_none());
    assert!(first.refused[0].contains("it is left out"), "{:?}", first.refused);
}

#[test]
fn a_gateways_service_is_one_of_the_mesh_by_its_door_to_places_outside_alone() {
    let objects = |admin: bool| {
        let mut objects = shop();
        if admin {
            objects[0]["metadata"]["labels"]["signet.mesh/mesh-admin"] = "true".into();
        }
        objects.push(ours("Workload", "shop/edge", json!({"class": "gateway"})));
        objects.push(ours("Gateway", "shop/edge", json!({"identity": "ns/shop/sa/edge", "egress": {}})));
        let mut own = pod("shop/edge-1", "edge", "edge", &["10.1.0.9"]);
        own["spec"]["initContainers"] = Value::Null;
        own["metadata"]["annotations"] = Value::Null;
        objects.push(own);
        let ports = json!([{"name": "https", "port": 443}, {"name": "signet-egress", "port": 15010}]);
        let mut both = service("shop/edge", "edge", ports);
        both["spec"]["clusterIPs"] = json!(["10.96.0.9"]);
        objects.push(both);
        let mut outside = service("shop/front", "edge", json!([{"name": "https", "port": 443}]));
        outside["spec"]["clusterIPs"] = json!(["10.96.0.10"]);
        objects.push(outside);
        let ports = json!([{"name": "https", "port": 8443}, {"name": "signet-egress", "port": 15010}]);
        objects.push(slice("shop/edge-a", "edge", json!([endpoint("10.1.0.9", "edge-1")]), ports));
        let through = json!({"hosts": ["bank.example.com"], "ports": [{"name": "https", "port": 443}], "through": {"service": "edge.shop", "port": "signet-egress"}});
        objects.push(ours("ExternalService", "shop/bank", through));
        objects
    };
    let good = made(&objects(true));
    assert_eq!(good.refused, Vec::<String>::new());
    let edge = spec(&good, "edge.shop");
    assert_eq!(edge["ports"].as_array().unwrap().len(), 1);
    assert_eq!(
        edge["endpoints"],
        json!([{"address": "10.1.0.9", "ports": {"signet-egress": 15010}, "identity": "ns/shop/sa/edge"}])
    );
    assert!(good.registry.service(&"front.shop".parse().unwrap()).is_none());
    assert!(
        !good.warnings.iter().any(|it| it.contains("front")),
        "it is as it should be: {:?}",
        good.warnings
    );
    // Who may not have a gateway has none.
    assert!(made(&objects(false)).registry.service(&"edge.shop".parse().unwrap()).is_none());
}

#[test]
fn two_services_of_one_app_with_different_policies_are_named() {
    let mut objects = shop();
    objects.push(service("shop/also", "web", json!([{"name": "http", "port": 81, "targetPort": "http"}])));
    objects.push(slice(
        "shop/also-a",
        "also",
        json!([endpoint("10.1.0.1", "web-1")]),
        json!([{"name": "http", "port": 8080}]),
    ));
    objects[5]["spec"]["clusterIPs"] = json!(["10.96.0.8"]);
    let named =
        |made: &Translation| made.warnings.iter().filter(|it| it.contains("different policies")).count();
    objects.push(ours("MeshPolicy", "shop/all", json!({"effect": "permit"})));
    assert_eq!(named(&made(&objects)), 0, "the same for both");
    objects.push(ours("MeshPolicy", "shop/one", json!({"effect": "forbid", "target": {"service": "web"}})));
    let made = made(&objects);
    assert_eq!(named(&made), 1, "{:?}", made.warnings);
}

#[test]
fn a_status_is_written_only_where_it_differs_and_leaves_what_others_say() {
    let mut objects = shop();
    let parent = json!({"group": "", "kind": "Service", "name": "web"});
    objects.push(gateway_api(
        "HTTPRoute",
        "shop/r",
        json!({"parentRefs": [parent], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}),
    ));
    let made = made(&objects);
    let status = made.statuses.iter().find(|it| it.kind == KindId::HttpRoute).unwrap();
    let foreign = json!({"parentRef": parent, "controllerName": "example.com/other", "conditions": []});
    let written = merged(&status.said, 1, &json!({"parents": [foreign]}), "2030-01-01T00:00:00Z").unwrap();
    assert_eq!(written["parents"][0], foreign);
    assert_eq!(written["parents"][1]["controllerName"], "signet.mesh/gateway-controller");
    assert_eq!(merged(&status.said, 1, &written, "2031-01-01T00:00:00Z"), None, "it stands there already");
    let newer = merged(&status.said, 2, &written, "2031-01-01T00:00:00Z").unwrap();
    let condition = &newer["parents"][1]["conditions"][0];
    assert_eq!(
        (condition["observedGeneration"].as_i64(), condition["lastTransitionTime"].as_str()),
        (Some(2), Some("2030-01-01T00:00:00Z"))
    );
    let cleared = merged(&Said::Parents(Vec::new()), 2, &written, "2031-01-01T00:00:00Z").unwrap();
    assert_eq!(cleared, json!({"parents": [foreign]}));
    assert_eq!(
        merged(&Said::Parents(Vec::new()), 2, &Value::Null, "x"),
        None,
        "nothing to say where nothing stands"
    );
}

/// The story that was recorded from a real API server: at each step the registry is one, and an endpoint is always a pod
/// that runs. None of its pods has a sidecar, so each is given one on its way.
#[test]
fn the_recorded_life_of_a_cluster_comes_to_a_registry_at_every_step() {
    const STREAMS: [(KindId, &str); 5] = [
        (KindId::Namespace, include_str!("../../../tests/data/kubernetes/watch/namespaces.jsonl")),
        (KindId::ServiceAccount, include_str!("../../../tests/data/kubernetes/watch/serviceaccounts.jsonl")),
        (KindId::Pod, include_str!("../../../tests/data/kubernetes/watch/pods.jsonl")),
        (KindId::CoreService, include_str!("../../../tests/data/kubernetes/watch/services.jsonl")),
        (KindId::EndpointSlice, include_str!("../../../tests/data/kubernetes/watch/endpointslices.jsonl")),
    ];
    let mut events = Vec::new();
    for (kind, text) in STREAMS {
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let version: u64 =
                event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            events.push((version, kind, event));
        }
    }
    events.sort_by_key(|(version, ..)| *version);
    let (mut snapshot, mut kept) = (Snapshot::default(), Kept::new());
    let mut seen: Vec<String> = Vec::new();
    for (_, kind, mut event) in events {
        if event["type"] == "BOOKMARK" {
            continue;
        }
        if kind == KindId::Pod {
            event["object"]["metadata"]["annotations"]["signet.mesh/injected"] = "true".into();
            event["object"]["spec"]["initContainers"] =
                json!([{"name": "signet-proxy", "restartPolicy": "Always"}]);
        }
        let object = Object::read(kind, event["object"].take()).unwrap();
        match event["type"].as_str() {
            Some("DELETED") => drop(snapshot.remove(kind, &object.key())),
            _ => drop(snapshot.put(kind, object)),
        }
        let made = translate(&snapshot, &Settings::default(), &kept);
        let now: Vec<_> =
            made.registry.services().map(|it| format!("{}={}", it.name, it.spec.endpoints.len())).collect();
        let now = now.join(" ");
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        kept = made.kept;
    }
    let golden = include_str!("recorded-life.txt");
    assert_eq!(seen.join("\n") + "\n", golden);
}
