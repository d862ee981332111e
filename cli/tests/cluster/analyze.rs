//! `signet analyze`, on files and on a cluster.

use std::process::Output;

use serde_json::Value;

use crate::support::{Cluster, out, said};

/// A shop in which nothing is wrong, as the documentation has it.
fn sample() -> String {
    let page = include_str!("../../../docs/first-mesh.md");
    let yaml = page
        .split("```yaml\n# shop.yaml\n")
        .nth(1)
        .expect("the sample")
        .split("```")
        .next()
        .expect("its end");
    yaml.to_owned()
}

struct Files(tempfile::TempDir);

impl Files {
    fn run(&self, words: &str, text: &str) -> Output {
        std::fs::write(self.0.path().join("shop.yaml"), text).expect("written");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_signet"));
        command.current_dir(self.0.path()).args(words.split_whitespace());
        command.env("PATH", "").output().expect("signet")
    }

    /// The codes of each object.
    fn codes(&self, text: &str) -> Vec<(String, String)> {
        let output = self.run("analyze -f shop.yaml -o json", text);
        let found: Value =
            serde_json::from_str(&out(&output)).unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
        let text = |it: &Value, name: &str| it[name].as_str().expect("text").to_owned();
        let all = found["messages"].as_array().expect("messages").iter();
        all.map(|it| {
            (
                text(it, "code"),
                format!("{}: {}: {}", text(it, "object"), text(it, "field"), text(it, "message")),
            )
        })
        .collect()
    }
}

fn files() -> Files {
    Files(tempfile::tempdir().expect("a folder"))
}

#[test]
fn the_documentations_sample_has_nothing_against_it() {
    let files = files();
    let found = files.codes(&sample());
    assert!(found.iter().all(|(code, _)| code == "SGN0210"), "{found:#?}");
    let output = files.run("analyze -f shop.yaml --fail-on warning", &sample());
    assert_eq!(output.status.code(), Some(0), "{}", out(&output));
}

/// Added to the sample, each is found by its code, in this object.
const WRONG: &[(&str, &str, &str)] = &[
    ("SGN0001", "MeshPolicy shop/a: spec.targets", "{kind: MeshPolicy, spec: {effect: permit, targets: {}}}"),
    ("SGN0001", "MeshPolice shop/a: kind", "{kind: MeshPolice, spec: {}}"),
    ("SGN0003", "Workload shop/a: spec.class", "{kind: Workload, spec: {class: gateway}}"),
    (
        "SGN0004",
        "MeshPolicy shop/a: spec.when",
        "{kind: MeshPolicy, spec: {effect: forbid, when: 'context.user.sub < 3'}}",
    ),
    (
        "SGN0101",
        "HTTPRoute shop/a: spec.rules[0].backendRefs[0].name",
        "{kind: HTTPRoute, spec: {parentRefs: [{group: '', kind: Service, name: orders}], rules: [{backendRefs: [{name: gone, port: 8080}]}]}}",
    ),
    (
        "SGN0101",
        "HTTPRoute shop/a: spec.rules[0].backendRefs[0].port",
        "{kind: HTTPRoute, spec: {parentRefs: [{group: '', kind: Service, name: orders}], rules: [{backendRefs: [{name: orders, port: 81}]}]}}",
    ),
    (
        "SGN0103",
        "HTTPRoute shop/a: spec.rules[1].matches",
        "{kind: HTTPRoute, spec: {parentRefs: [{group: '', kind: Service, name: orders}], rules: [{backendRefs: [{name: orders, port: 8080}]}, {backendRefs: [{name: orders, port: 8080}]}]}}",
    ),
    (
        "SGN0104",
        "HTTPRoute shop/a: spec.parentRefs",
        "{kind: HTTPRoute, spec: {parentRefs: [{group: '', kind: Service, name: gone}], rules: [{backendRefs: [{name: orders, port: 8080}]}]}}",
    ),
    (
        "SGN0201",
        "MeshPolicy shop/a: spec.target.service",
        "{kind: MeshPolicy, spec: {effect: permit, target: {service: order}}}",
    ),
    (
        "SGN0202",
        "MeshPolicy shop/a: spec.to.ports[0]",
        "{kind: MeshPolicy, spec: {effect: permit, target: {service: orders}, to: {ports: [admin]}}}",
    ),
    (
        "SGN0204",
        "MeshPolicy shop/a: spec.from.workloads[0]",
        "{kind: MeshPolicy, spec: {effect: permit, target: {service: orders}, from: {workloads: [ns/shop/sa/wep, ns/shop/sa/web]}}}",
    ),
    (
        "SGN0205",
        "MeshPolicy shop/a: spec.from.workloads",
        "{kind: MeshPolicy, spec: {effect: permit, target: {service: orders}, from: {workloads: [ns/gone/sa/*]}}}",
    ),
    (
        "SGN0206",
        "MeshPolicy shop/web-may-look",
        "{kind: MeshPolicy, spec: {effect: forbid, target: {service: orders}}}",
    ),
    ("SGN0206", "MeshPolicy shop/web-may-look", "{kind: GuardRail, spec: {namespaces: [shop], forbid: {}}}"),
    (
        "SGN0207",
        "MeshPolicy shop/web-may-look",
        "{kind: MeshPolicy, spec: {effect: permit, target: {service: orders}, from: {workloads: [ns/shop/sa/web]}}}",
    ),
    (
        "SGN0208",
        "MeshPolicy shop/a: spec.exceptions[0].until",
        "{kind: MeshPolicy, spec: {effect: forbid, target: {service: orders}, to: {paths: [/x]}, exceptions: [{owner: me, reason: once, until: '2020-01-01T00:00:00Z', from: {workloads: [ns/shop/sa/web]}}]}}",
    ),
    (
        "SGN0301",
        "MeshPolicy shop/web-may-look: spec.user",
        "{kind: GuardRail, spec: {namespaces: [shop], permits: {requireUser: true}}}",
    ),
    (
        "SGN0302",
        "GuardRail a: spec.namespaces[0]",
        "{kind: GuardRail, spec: {namespaces: [shob], permits: {requireFrom: true}}}",
    ),
    (
        "SGN0402",
        "ExternalService shop/a: spec.ports[0]",
        "{kind: ExternalService, spec: {hosts: [api.example.com], ports: [{name: http, port: 443, protocol: http}]}}",
    ),
    (
        "SGN0503",
        "Service shop/a: spec.ports[0]",
        "{apiVersion: v1, kind: Service, spec: {selector: {app: orders}, ports: [{name: https, appProtocol: http, port: 8081}]}}",
    ),
    (
        "SGN0601",
        "Namespace a: metadata.labels",
        "{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {signet.mesh/inject: 'true'}}}",
    ),
    (
        "SGN0602",
        "Pod shop/a",
        "{apiVersion: v1, kind: Pod, spec: {shareProcessNamespace: true, containers: [{name: app, image: a}]}}",
    ),
    (
        "SGN0701",
        "Mesh default: spec.defaultAction",
        "{kind: Mesh, metadata: {name: default}, spec: {defaultAction: allow}}",
    ),
];

#[test]
fn each_thing_that_is_wrong_is_found_by_its_code_object_and_field() {
    let files = files();
    for (code, place, object) in WRONG {
        let mut value: Value =
            serde_saphyr::from_str(object).unwrap_or_else(|error| panic!("{object}: {error}"));
        let route = value["kind"] == "HTTPRoute";
        let version = if route { "gateway.networking.k8s.io/v1" } else { "signet.mesh/v1alpha1" };
        let fields = value.as_object_mut().expect("an object");
        fields.entry("apiVersion").or_insert(version.into());
        fields.entry("metadata").or_insert(serde_json::json!({"name": "a", "namespace": "shop"}));
        if matches!(value["kind"].as_str(), Some("GuardRail")) {
            value["metadata"] = serde_json::json!({"name": "a"});
        }
        let found = files.codes(&format!("{}\n---\n{value}\n", sample()));
        let is = |(it, said): &(String, String)| it == code && said.starts_with(&format!("{place}: "));
        let is_whole = |(it, said): &(String, String)| it == code && said.starts_with(&format!("{place}: :"));
        assert!(found.iter().any(|it| is(it) || is_whole(it)), "{code} {object}: {found:#?}");
    }
}

#[test]
fn what_cannot_be_read_is_no_answer() {
    let files = files();
    let broken = files.run("analyze -f shop.yaml", "a: [1\n");
    assert_eq!(broken.status.code(), Some(2));
    assert!(said(&broken).contains("shop.yaml"), "{}", said(&broken));
    assert_eq!(files.run("analyze -f gone.yaml", "").status.code(), Some(2));
    let unasked = files.run("analyze", "");
    assert_eq!(unasked.status.code(), Some(2));
    assert!(said(&unasked).contains("kubectl: not found"), "{}", said(&unasked));
}

#[tokio::test]
async fn a_cluster_is_analyzed_and_files_as_if_they_were_in_it() {
    let Some(cluster) = Cluster::start().await else { return };
    assert!(cluster.signet("install -f values.yaml").await.status.success());
    for mut object in serde_saphyr::from_multiple::<Value>(&sample()).expect("the sample") {
        if object["kind"] == "Deployment" {
            // Its pod, as a cluster has it.
            let template = &object["spec"]["template"];
            let mut metadata = template["metadata"].clone();
            metadata["name"] = format!("{}-1", object["metadata"]["name"].as_str().expect("a name")).into();
            metadata["namespace"] = "shop".into();
            metadata["annotations"] = serde_json::json!({"signet.mesh/injected": "true"});
            let mut spec = template["spec"].clone();
            spec["initContainers"] = serde_json::json!([{"name": "signet-proxy", "restartPolicy": "Always"}]);
            object =
                serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        }
        cluster.server.put(object);
    }
    let output = cluster.signet("analyze --fail-on warning").await;
    assert_eq!(output.status.code(), Some(0), "{} {}", out(&output), said(&output));
    let change = "apiVersion: signet.mesh/v1alpha1\nkind: MeshPolicy\nmetadata: {name: web-may-look, namespace: shop}\n\
                  spec: {effect: permit, target: {service: order}}\n";
    std::fs::write(cluster.folder.path().join("change.yaml"), change).expect("written");
    let output = cluster.signet("analyze -f change.yaml --with-cluster").await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        out(&output).contains("SGN0201") && out(&output).contains("MeshPolicy shop/web-may-look"),
        "{}",
        out(&output)
    );
    let before = cluster.server.seen();
    assert!(before.iter().rev().take(20).all(|it| it.method == "GET"), "nothing is written");
}

/// What takes more than one object, or an object of another namespace; each with the code that finds it.
const MORE: &[(&str, &str, &str)] = &[
    ("SGN0102", "HTTPRoute shop/a: spec.rules[0].backendRefs[0]", "
apiVersion: v1
kind: Service
metadata: {name: stock, namespace: store}
spec: {selector: {app: stock}, ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a, namespace: shop}
spec: {parentRefs: [{group: '', kind: Service, name: orders}], rules: [{backendRefs: [{name: stock, namespace: store, port: 80}]}]}
"),
    ("SGN0106", "HTTPRoute shop/a: spec.rules[0].backendRefs[0]", "
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: db}, ports: [{name: postgres, port: 5432}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a, namespace: shop}
spec: {parentRefs: [{group: '', kind: Service, name: orders}], rules: [{backendRefs: [{name: db, port: 5432}]}]}
"),
    ("SGN0203", "MeshPolicy empty/a: spec.target", "
apiVersion: signet.mesh/v1alpha1
kind: MeshPolicy
metadata: {name: a, namespace: empty}
spec: {effect: permit}
"),
    ("SGN0209", "MeshPolicy shop/a: spec.to", "
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: db}, ports: [{name: postgres, port: 5432}]}
---
apiVersion: signet.mesh/v1alpha1
kind: MeshPolicy
metadata: {name: a, namespace: shop}
spec: {effect: permit, target: {service: db}, from: {workloads: [ns/shop/sa/web]}, to: {methods: [GET]}}
"),
    ("SGN0210", "Service shop/db", "
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: db}, ports: [{name: postgres, port: 5432}]}
"),
    ("SGN0401", "ExternalService empty/a: spec.from", "
apiVersion: signet.mesh/v1alpha1
kind: ExternalService
metadata: {name: a, namespace: empty}
spec: {hosts: [api.example.com], ports: [{name: tls, port: 443, protocol: tls}]}
"),
    ("SGN0501", "Service shop/orders: spec.selector", "
apiVersion: v1
kind: Pod
metadata: {name: old, namespace: shop, labels: {app: orders}, annotations: {signet.mesh/inject: disabled}}
spec: {serviceAccountName: orders, containers: [{name: app, image: a}]}
"),
    ("SGN0502", "Service shop/elsewhere", "
apiVersion: v1
kind: Service
metadata: {name: elsewhere, namespace: shop}
spec: {type: ExternalName, externalName: api.example.com}
"),
    ("SGN0504", "Service shop/db: spec.ports[0].permissive", "
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: db}, ports: [{name: postgres, port: 5432}]}
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {name: db, namespace: shop}
spec: {ports: [{name: postgres, port: 5432, permissive: {until: '2099-01-01T00:00:00Z'}}]}
"),
    ("SGN0603", "Pod shop/a", "
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: shop, annotations: {signet.mesh/surprise: x}}
spec: {containers: [{name: app, image: a}]}
"),
];

#[test]
fn what_takes_several_objects_to_be_wrong_is_found_too() {
    let files = files();
    for (code, place, objects) in MORE {
        let found = files.codes(&format!("{}\n---\n{objects}", sample()));
        let is = |(it, said): &(String, String)| it == code && said.starts_with(place);
        assert!(found.iter().any(is), "{code} {place}: {found:#?}");
    }
}
