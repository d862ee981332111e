//! Two clusters that reach each other's services by a gateway alone: of one trust domain, and of two that federate.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use signet_proto::v1::RevokeRequest;
use signet_proto::v1::revoke_request::What;
use signet_tests::apps::{Echo, greeter};
use signet_tests::client::{get, raw, text};
use signet_tests::issuer::Issuer;
use signet_tests::mesh::{Mesh, MeshBuilder, Sidecar, free_address, permit};
use signet_tests::process::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::federation::{exported, held, spiffe_endpoint};

/// What the far cluster serves, one service for each way to speak.
struct Served {
    http: Echo,
    http2: Echo,
    /// Where the sidecar takes mutual TLS, by the service's name.
    inbound: [(&'static str, &'static str, String); 3],
    edge: String,
}

impl Served {
    async fn start() -> Self {
        let inbound = [
            ("web", "http", free_address()),
            ("calls", "grpc", free_address()),
            ("feed", "tcp", free_address()),
        ];
        Self { http: Echo::start().await, http2: Echo::start().await, inbound, edge: free_address() }
    }

    /// The services with their sidecar, and the gateway that other clusters reach them by.
    async fn serve(&self, builder: MeshBuilder, from: &str) -> MeshBuilder {
        let greeter = greeter().await;
        let apps = [&self.http.address, &self.http2.address, &greeter];
        let mut listeners = String::from("inbound:\n");
        let mut documents = Vec::new();
        for ((name, protocol, inbound), app) in self.inbound.iter().zip(apps) {
            let (host, port) = inbound.rsplit_once(':').unwrap();
            documents.push(format!(
                "kind: Service\nmetadata: {{namespace: shop, name: {name}}}\nspec:\n  identities: [ns/shop/sa/stock]\n  \
                 ports: [{{name: main, port: 80, protocol: {protocol}}}]\n  endpoints: [{{address: {host}, ports: {{main: {port}}}}}]\n"
            ));
            documents.push(permit(&format!("far-may-{name}"), "shop", name, from, ""));
            listeners +=
                &format!("- {{service: {name}.shop, port: main, listen: '{inbound}', app: 'tcp:{app}'}}\n");
        }
        documents.push(
            "kind: Gateway\nmetadata: {namespace: edge, name: west}\nspec:\n  identity: ns/edge/sa/west\n  \
             eastWest: {services: [web.shop, calls.shop, feed.shop]}\n"
                .to_owned(),
        );
        let edge = &self.edge;
        builder.registry(documents.join("---\n")).sidecar(Sidecar::new("stock.shop", listeners)).sidecar(
            Sidecar::gateway(
                "west.edge",
                format!("gateway: {{resource: west.edge, eastWest: {{listen: '{edge}'}}}}\n"),
            ),
        )
    }

    /// The same services as another cluster knows them: by the gateway's address and nothing else.
    fn known_as(&self, prefix: &str, namespace: &str, identity: &str) -> String {
        let (host, port) = self.edge.rsplit_once(':').unwrap();
        let documents = self.inbound.iter().map(|(name, protocol, _)| {
            format!(
                "kind: Service\nmetadata: {{namespace: {namespace}, name: {prefix}{name}}}\nspec:\n  {identity}\n  \
                 ports: [{{name: main, port: 80, protocol: {protocol}}}]\n  \
                 endpoints: [{{address: {host}, ports: {{main: {port}}}, throughGateway: {{service: {name}.shop}}}}]\n"
            )
        });
        documents.collect::<Vec<_>>().join("---\n")
    }

    fn seen(&self) -> usize {
        self.http.seen() + self.http2.seen()
    }
}

/// Where the near cluster's app calls each of them.
struct Entries([String; 3]);

impl Entries {
    fn new() -> Self {
        Self([free_address(), free_address(), free_address()])
    }

    fn sidecar(&self, prefix: &str, namespace: &str) -> Sidecar {
        let names = ["web", "calls", "feed"].iter().zip(&self.0);
        let listeners = names.map(|(name, entry)| {
            format!("- {{listen: '{entry}', service: {prefix}{name}.{namespace}, port: main}}\n")
        });
        Sidecar::new("client.shop", format!("outbound:\n{}", listeners.collect::<String>()))
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response<Bytes> {
        get(&self.0[0], path, headers).await
    }

    /// Asks until the answer has this status: what was written into a registry takes a moment to arrive.
    async fn until(&self, status: u16) -> Response<Bytes> {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.get("/", &[]).await;
            if answer.status() == status {
                return answer;
            }
            assert!(Instant::now() < end, "never {status}: {} {}", answer.status(), text(&answer));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A call over HTTP/2, as gRPC makes it.
    async fn call(&self) -> Value {
        let socket = TcpStream::connect(&self.0[1]).await.unwrap();
        let io = TokioIo::new(socket);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("http://calls.shop/shop.Orders/List")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(b"\0\0\0\0\x02hi")))
            .unwrap();
        let answer = timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        let body = timeout(PATIENCE, answer.into_body().collect()).await.unwrap().unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    }

    /// A stream of bytes on which the far app has spoken first.
    async fn stream(&self) -> TcpStream {
        let mut stream = TcpStream::connect(&self.0[2]).await.unwrap();
        let mut hello = [0; 6];
        timeout(PATIENCE, stream.read_exact(&mut hello)).await.unwrap().unwrap();
        assert_eq!(&hello, b"hello\n");
        stream
    }
}

/// The app's word on who called it.
fn caller(seen: &Value) -> String {
    seen["headers"]["x-forwarded-client-cert"].to_string()
}

/// Everything that two clusters have to do with each other, whatever their trust domains are.
async fn talk(entries: &Entries, served: &Served, client: &str) {
    let answer = entries.until(200).await;
    let seen: Value = serde_json::from_slice(answer.body()).unwrap();
    assert!(caller(&seen).contains(&format!("URI={client}")), "{seen}");
    let seen = entries.call().await;
    assert_eq!(seen["version"], "HTTP/2.0");
    assert!(caller(&seen).contains(&format!("URI={client}")), "{seen}");
    let mut stream = entries.stream().await;
    stream.write_all(b"over there").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut echoed)).await.unwrap().unwrap();
    assert_eq!(echoed, b"over there", "each direction ends by itself");
    // What an app says of users that it was not told of goes nowhere.
    let forged = [("txn-token", "forged"), ("signet-user", "e30"), ("x-forwarded-client-cert", "URI=x")];
    assert_eq!(entries.get("/", &forged).await.status(), 200);
    let seen = served.http.last();
    assert!(seen["headers"]["txn-token"].is_null() && seen["headers"]["signet-user"].is_null(), "{seen}");
}

/// The lines of a gateway's metrics that are about hellos of other clusters and hold all these words.
async fn counted(mesh: &Mesh, words: &[&str]) -> u64 {
    let metrics = mesh.metrics("west").await;
    let lines = metrics.lines().filter(|line| line.contains("direction=\"east-west\""));
    let lines = lines.filter(|line| words.iter().all(|word| line.contains(word)));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

async fn until_counted(mesh: &Mesh, words: &[&str], least: u64) {
    let end = Instant::now() + PATIENCE;
    while counted(mesh, words).await < least {
        assert!(Instant::now() < end, "{words:?} never came to {least}:\n{}", mesh.metrics("west").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_service_of_another_cluster_of_the_same_trust_domain_is_reached_by_its_gateway() {
    let (served, entries, issuer) = (Served::start().await, Entries::new(), Issuer::start().await);
    let outside = free_address();
    let both = "ns/shop/sa/client, ns/edge/sa/gw";
    let builder = served.serve(Mesh::builder(), both).await;
    let mut mesh = builder
        .registry(served.known_as("far-", "shop", "identities: [ns/shop/sa/stock]"))
        .registry(issuer.document("idp"))
        .registry(
            "kind: Gateway\nmetadata: {namespace: edge, name: gw}\nspec:\n  identity: ns/edge/sa/gw\n  routes:\n  \
             - {name: all, hosts: ['*'], pathPrefix: /, service: far-web.shop, port: main, auth: {jwt: {issuers: [idp]}}}\n",
        )
        .sidecar(entries.sidecar("far-", "shop"))
        .sidecar(Sidecar::gateway(
            "gw.edge",
            format!("gateway: {{resource: gw.edge, listeners: [{{listen: '{outside}'}}]}}\n"),
        ))
        .start()
        .await;
    talk(&entries, &served, "spiffe://test.signet/ns/shop/sa/client").await;
    let names = ["web.shop", "calls.shop", "feed.shop"];
    for name in names {
        let service = format!("service=\"{name}\"");
        assert!(counted(&mesh, &["signet_connections_total", &service]).await > 0, "{name} came another way");
    }

    // A user who came in at the near cluster's edge is known in the far one: it is one mesh.
    let end = Instant::now() + PATIENCE;
    loop {
        let bearer = format!("Bearer {}", issuer.token("alice", "read"));
        let answer = get(&outside, "/", &[("authorization", &bearer)]).await;
        if answer.status() == 200 {
            break;
        }
        assert!(Instant::now() < end, "{} {}", answer.status(), text(&answer));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seen = served.http.last();
    assert!(caller(&seen).contains("ns/edge/sa/gw") && seen["headers"]["txn-token"][0].is_string(), "{seen}");
    assert!(seen["headers"]["signet-user"][0].is_string(), "{seen}");

    // Strangers at the gateway: not a byte comes back, or an alert, and no app hears of them.
    let before = served.seen();
    assert!(raw(&served.edge, b"GET / HTTP/1.1\r\nhost: web.shop\r\n\r\n").await.is_empty());
    assert_eq!(raw(&served.edge, &[22, 3, 3, 255, 255, 1, 2]).await, [21, 3, 3, 0, 2, 2, 50]);
    until_counted(&mesh, &["signet_handshake_failures_total", "reason=\"plaintext\""], 1).await;
    until_counted(&mesh, &["signet_handshake_failures_total", "reason=\"not_tls\""], 1).await;
    // More of them than may wait, each with a hello that never ends: who says what it wants is served as ever.
    let mut slow = Vec::new();
    for _ in 0..1_100 {
        let mut one = TcpStream::connect(&served.edge).await.unwrap();
        one.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        slow.push(one);
    }
    assert_eq!(served.seen(), before);
    let fresh = entries.stream().await;
    drop((fresh, slow));
    // It cannot mint: nobody comes in from outside by it.
    let log = mesh.sidecar("west").log();
    assert!(!log.contains("minting under") && !log.contains("no delegation"), "{log}");

    // Policy at the far end decides about the near caller; and its revocation ends what is open, by no word of the gateway.
    let open = entries.stream().await;
    mesh.write_registry(
        "forbid.yaml",
        "kind: MeshPolicy\nmetadata: {namespace: shop, name: not-the-client}\nspec: {effect: forbid, target: {service: web}, \
         from: {workloads: [ns/shop/sa/client]}}\n",
    );
    entries.until(403).await;
    std::fs::remove_file(mesh.path("registry/forbid.yaml")).unwrap();
    entries.until(200).await;
    let what = What::SpiffeId("spiffe://test.signet/ns/shop/sa/client".into());
    let request = RevokeRequest { what: Some(what), reason: "stolen".into() };
    mesh.operator().await.revoke(request).await.unwrap();
    ends(open).await;
    let end = Instant::now() + PATIENCE;
    while entries.get("/", &[]).await.status() == 200 {
        assert!(Instant::now() < end, "the revoked caller is still served");
    }

    // What the gateway lists no more it passes on no more: here to those who are not revoked.
    let unlisted = counted(&mesh, &["signet_refusals_total", "reason=\"service-unknown\""]).await;
    let text = std::fs::read_to_string(mesh.path("registry/test-0.yaml")).unwrap();
    mesh.write_registry("test-0.yaml", &text.replace("[web.shop, calls.shop, feed.shop]", "[feed.shop]"));
    let end = Instant::now() + PATIENCE;
    loop {
        let bearer = format!("Bearer {}", issuer.token("alice", "read"));
        if get(&outside, "/", &[("authorization", &bearer)]).await.status() == 503 {
            break;
        }
        assert!(Instant::now() < end, "it is still passed on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until_counted(&mesh, &["signet_refusals_total", "reason=\"service-unknown\""], unlisted + 1).await;
    mesh.assert_unharmed();
}

/// Waits for the end of a stream on which nothing more comes.
async fn ends(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the stream was closed");
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_service_of_a_federated_cluster_is_reached_by_its_gateway_and_its_users_stay_at_home() {
    let (served, entries) = (Served::start().await, Entries::new());
    let (bundle_a, bundle_b) = (free_address(), free_address());
    let domain = |builder: MeshBuilder, name: &str, bundle: &str| {
        builder.trust_domain(name).control_plane(&format!(
            "federation: {{allowPrivateAddresses: true}}\nbundle: {{listen: '{bundle}', refreshHintSeconds: 60}}\n"
        ))
    };
    let far = served.serve(domain(Mesh::builder(), "b.test", &bundle_b), "ns/shop/sa/nobody").await;
    let near = domain(Mesh::builder(), "a.test", &bundle_a).sidecar(entries.sidecar("", "partners"));
    let (mut a, mut b) = tokio::join!(near.start(), far.start());
    let (of_a, of_b) = (exported(&a).await, exported(&b).await);
    a.write_registry(
        "federation.yaml",
        &format!(
            "{}---\n{}",
            spiffe_endpoint("b.test", &bundle_b, &of_b),
            served.known_as("", "partners", "federatedIdentity: spiffe://b.test/ns/shop/sa/stock")
        ),
    );
    b.write_registry("federation.yaml", &spiffe_endpoint("a.test", &bundle_a, &of_a));
    held(&a, "b.test", 1).await;
    held(&b, "a.test", 1).await;
    // Federated and passed on: without a policy that names it a caller gets no further than the far sidecar.
    assert_ne!(entries.get("/", &[]).await.status(), 200);
    let from = "'spiffe://a.test/ns/shop/sa/client'";
    let permits =
        ["web", "calls", "feed"].map(|name| permit(&format!("partner-{name}"), "shop", name, from, ""));
    b.write_registry("partner.yaml", &permits.join("---\n"));
    talk(&entries, &served, "spiffe://a.test/ns/shop/sa/client").await;
    assert!(counted(&b, &["signet_connections_total", "service=\"feed.shop\""]).await > 0);

    // The end of the federation ends what is open.
    let open = entries.stream().await;
    std::fs::remove_file(b.path("registry/partner.yaml")).unwrap();
    std::fs::remove_file(b.path("registry/federation.yaml")).unwrap();
    ends(open).await;
    assert_ne!(entries.get("/", &[]).await.status(), 200);
    a.assert_unharmed();
    b.assert_unharmed();
}
