//! Routes and traffic policies of the registry, from the file to what an app sees.

use std::time::Duration;

use signet_tests::apps::Echo;
use signet_tests::client::{get, header, send, text};
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::process::binary;

use crate::pair::pair;

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: shop, name: server}
spec:
  parentRefs: [{kind: Service, name: server}]
";

/// `client.shop` calls `server.shop`, beside which there is `canary.shop`.
struct Scene {
    mesh: Mesh,
    server: Echo,
    canary: Echo,
    entry: String,
}

impl Scene {
    async fn start(documents: &str) -> Scene {
        let (server, canary) = (Echo::start().await, Echo::start().await);
        let (entry, inbound, second) = (free_address(), free_address(), free_address());
        let app = &canary.address;
        let builder = pair(Mesh::builder(), "http", &server.address, &entry, &inbound)
            .registry(service("canary", "shop", "main", "http", &second))
            .registry(permit("client-may-canary", "shop", "canary", "ns/shop/sa/client", ""))
            .registry(documents)
            .sidecar(Sidecar::new(
                "canary.shop",
                format!(
                    "inbound: [{{service: canary.shop, port: main, listen: '{second}', app: 'tcp:{app}'}}]\n"
                ),
            ));
        let mesh = builder.start().await;
        Scene { mesh, server, canary, entry }
    }

    async fn until(&self, path: &str, status: u16) -> hyper::Response<bytes::Bytes> {
        until(&self.mesh, &self.entry, path, status).await
    }
}

/// Asks until the answer has this status: news of the registry takes a moment.
async fn until(mesh: &Mesh, entry: &str, path: &str, status: u16) -> hyper::Response<bytes::Bytes> {
    let asked = async {
        loop {
            let answer = get(entry, path, &[]).await;
            if answer.status() == status {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asked)
        .await
        .unwrap_or_else(|_| panic!("never {status} for {path}; {}", mesh.logs()))
}

/// What `signet status` says of a registry that is in force.
fn warnings(mesh: &Mesh) -> serde_json::Value {
    let mut command = std::process::Command::new(binary("signet"));
    command.arg("--socket").arg(mesh.operator_socket("cp")).args(["--json", "status"]);
    let said = command.output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    status["registry"]["warnings"].clone()
}

#[tokio::test]
async fn a_route_of_the_registry_takes_effect_changes_and_goes_without_a_restart() {
    let canary = format!(
        "{ROUTE}  rules:
    - matches: [{{headers: [{{name: x-canary, value: 'yes'}}]}}]
      filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /next}}}}}}]
      backendRefs: [{{name: canary, port: 80}}]
    - backendRefs: [{{name: server, port: 80}}]
"
    );
    let mut scene = Scene::start(&canary).await;
    let answer = get(&scene.entry, "/a?b=c", &[("x-canary", "yes")]).await;
    assert_eq!(answer.status(), 200, "{}", text(&answer));
    assert_eq!(
        (scene.canary.seen(), scene.server.seen()),
        (1, 0),
        "the first request already took its route"
    );
    let seen = scene.canary.last();
    assert_eq!((&seen["path"], &seen["query"]), (&"/next/a".into(), &"b=c".into()));
    assert!(get(&scene.entry, "/a", &[]).await.status() == 200 && scene.server.seen() == 1);

    // In the order in which a request meets them.
    let shown = scene.mesh.admin("client", "/config")["dataPlane"]["routes"]["server.shop"].clone();
    let [first, second] = shown.as_array().map(Vec::as_slice).expect("routes") else { panic!("{shown}") };
    assert_eq!(
        (&first["rule"], &first["requests"], &first["rewrites"], &first["backends"][0]["service"]),
        (
            &"HTTPRoute/server.shop/0".into(),
            &"any path, header x-canary".into(),
            &true.into(),
            &"canary.shop".into()
        ),
        "{shown}"
    );
    assert_eq!(
        (&second["requests"], &second["backends"][0]["share"]),
        (&"any path".into(), &1.into()),
        "{shown}"
    );
    assert!(!shown.to_string().contains("yes"), "what a header must hold may be a secret: {shown}");

    let moved = "filters: [{type: RequestRedirect, requestRedirect: {hostname: elsewhere.example.com}}]";
    let redirect = format!("{ROUTE}  rules:\n    - {moved}\n");
    // Among equals the first by name counts.
    scene
        .mesh
        .write_registry("route.yaml", &redirect.replace("name: server}\nspec", "name: a-server}\nspec"));
    let answer = scene.until("/x", 302).await;
    assert!(header(&answer, "location").starts_with("http://elsewhere.example.com"), "{answer:?}");
    std::fs::remove_file(scene.mesh.path("registry").join("route.yaml")).unwrap();
    scene.until("/x", 200).await;
    scene.mesh.assert_unharmed();
}

#[tokio::test]
async fn a_route_into_another_namespace_waits_for_the_grant_of_that_namespace() {
    let route = format!("{ROUTE}  rules:\n    - backendRefs: [{{name: copy, namespace: lab, port: 80}}]\n");
    let (server, copy) = (Echo::start().await, Echo::start().await);
    let (entry, inbound, second) = (free_address(), free_address(), free_address());
    let app = &copy.address;
    let mut mesh = pair(Mesh::builder(), "http", &server.address, &entry, &inbound)
        .registry(service("copy", "lab", "main", "http", &second))
        .registry(permit("client-may-copy", "lab", "copy", "ns/shop/sa/client", ""))
        .registry(&route)
        .sidecar(Sidecar::new(
            "copy.lab",
            format!("inbound: [{{service: copy.lab, port: main, listen: '{second}', app: 'tcp:{app}'}}]\n"),
        ))
        .start()
        .await;
    let answer = get(&entry, "/", &[]).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "signet-deny-reason")), (500, "no-backend"));
    let shown = mesh.admin("client", "/config")["dataPlane"]["routes"]["server.shop"][0].clone();
    assert_eq!(shown["backends"][0]["refused"], true, "{shown}");
    let said = warnings(&mesh);
    assert!(said.to_string().contains("expected a ReferenceGrant in namespace `lab`"), "{said}");

    mesh.write_registry(
        "grant.yaml",
        "apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {namespace: lab, name: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]
  to: [{group: '', kind: Service, name: copy}]
",
    );
    until(&mesh, &entry, "/", 200).await;
    assert_eq!(warnings(&mesh), serde_json::json!([]));
    std::fs::remove_file(mesh.path("registry").join("grant.yaml")).unwrap();
    until(&mesh, &entry, "/", 500).await;
    assert_eq!(server.seen(), 0);
    mesh.assert_unharmed();
}

#[tokio::test]
async fn a_traffic_policy_retries_limits_and_breaks_as_it_says() {
    let policy = "kind: TrafficPolicy
metadata: {namespace: shop, name: server}
spec:
  target: {service: server}
  retry: {attempts: 1, statuses: [503], backoff: 1ms}
  outlierDetection: {consecutiveFailures: 2, baseEjection: 1h, maxEjection: 1h, maxEjectedPercent: 100}
  rateLimits: [{name: puts, key: [workload], to: {methods: [PUT]}, requests: 2, per: 1h}]
  faults: [{to: {paths: [/broken]}, abort: {percent: 100, status: 503}}]
";
    let mut scene = Scene::start(policy).await;
    let answer = get(&scene.entry, "/broken", &[]).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "signet-deny-reason")), (503, "fault"));
    for left in ["1", "0"] {
        let answer = send("PUT", &scene.entry, "/", &[], "x").await;
        assert_eq!(answer.status(), 200);
        assert!(header(&answer, "ratelimit").starts_with(&format!("\"puts\";r={left};")));
    }
    let answer = send("PUT", &scene.entry, "/", &[], "x").await;
    assert_eq!((answer.status().as_u16(), header(&answer, "signet-deny-reason")), (429, "too-many-requests"));
    assert_eq!(get(&scene.entry, "/", &[]).await.status(), 200);
    assert_eq!(scene.server.seen(), 3);
    // Two tries that fail are what it takes, and the sidecar says so.
    let left_out = |scene: &Scene| {
        let config = scene.mesh.admin("client", "/config");
        config["dataPlane"]["services"]["server.shop"][0]["leftOutMs"].as_u64()
    };
    assert_eq!(left_out(&scene), None);
    assert_eq!(get(&scene.entry, "/", &[("x-answer", "503")]).await.status(), 503);
    assert_eq!(scene.server.seen(), 5);
    assert!(left_out(&scene).is_some_and(|left| left > 3_000_000), "{:?}", left_out(&scene));
    scene.mesh.assert_unharmed();
}
