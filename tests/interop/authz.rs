//! An authorisation server on grpcio, asked by a sidecar over the mesh and by a real Envoy: the same answers come to the same.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use signet_tests::apps::Echo;
use signet_tests::client::{header, send, text};
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::peers::{python, root};

use crate::envoy::{envoy, port, start_by};

/// The server, and its port on loopback.
struct Authorizer(Child, String);

impl Authorizer {
    fn start() -> Option<Self> {
        let script = root().join("tests/interop/authz_peer.py");
        let mut server = Command::new(python()?)
            .arg(&script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let at = format!("127.0.0.1:{}", port.trim());
        Some(Authorizer(server, at))
    }
}

impl Drop for Authorizer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const ASKED: &str = "\
kind: AuthorizationProvider
metadata: {namespace: shop, name: asked}
spec:
  service: authz.shop
  port: grpc
  timeout: 500ms
  includeHeaders: [x-tenant]
  allowedUpstreamHeaders: [x-role, x-asked]
  allowedDownstreamHeaders: [x-verdict, x-why]
---
kind: MeshPolicy
metadata: {namespace: shop, name: asks}
spec: {effect: external, provider: asked, target: {service: server}}
";

/// Path, what the sidecar answers, and what Envoy does.
const CASES: &[(&str, u16, u16)] = &[
    ("/yes", 200, 200),
    ("/no", 403, 403),
    ("/teapot", 418, 418),
    ("/unauthenticated", 401, 401),
    ("/slow", 503, 503),
    ("/failure", 503, 503),
    // Envoy takes each of these for an answer. Here a yes has its HTTP part, and a no is no redirect.
    ("/nothing", 503, 200),
    ("/bare", 503, 200),
    ("/redirect", 503, 302),
];

#[tokio::test]
async fn a_server_of_envoys_protocol_decides_for_a_sidecar_as_it_does_for_envoy() {
    let Some(authorizer) = Authorizer::start() else { return };
    let app = Echo::start().await;
    let (entry, inbound, authz) = (free_address(), free_address(), free_address());
    let mut mesh = Mesh::builder()
        .registry(service("server", "shop", "main", "http", &inbound))
        .registry(service("authz", "shop", "grpc", "grpc", &authz))
        .registry(permit("client-may", "shop", "server", "ns/shop/sa/client", ""))
        .registry(permit("server-may-ask", "shop", "authz", "ns/shop/sa/server", ""))
        .registry(ASKED)
        .sidecar(Sidecar::new(
            "authz.shop",
            format!(
                "inbound: [{{service: authz.shop, port: grpc, listen: '{authz}', app: 'tcp:{}'}}]\n",
                authorizer.1
            ),
        ))
        .sidecar(Sidecar::new(
            "server.shop",
            format!(
                "inbound: [{{service: server.shop, port: main, listen: '{inbound}', app: 'tcp:{}'}}]\n",
                app.address
            ),
        ))
        .sidecar(Sidecar::new(
            "client.shop",
            format!("outbound: [{{listen: '{entry}', service: server.shop, port: main}}]\n"),
        ))
        .start()
        .await;
    for (path, ours, _) in CASES {
        let answer = send("GET", &entry, path, &[("x-tenant", "blue"), ("x-role", "forged")], "").await;
        assert_eq!(answer.status().as_u16(), *ours, "{path}: {}", text(&answer));
        if *ours != 200 {
            assert_eq!(header(&answer, "signet-decision-id").len(), 32, "{path}");
        }
    }
    assert_eq!(app.seen(), 1);
    let seen = app.last();
    assert_eq!(seen["headers"]["x-role"][0], "admin");
    // What others read of our question.
    let asked = STANDARD.decode(seen["headers"]["x-asked"][0].as_str().unwrap()).unwrap();
    let asked: Value = serde_json::from_slice(&asked).unwrap();
    let attributes = &asked["attributes"];
    assert_eq!(attributes["source"]["principal"], "spiffe://test.signet/ns/shop/sa/client");
    assert_eq!(attributes["destination"]["principal"], "spiffe://test.signet/ns/shop/sa/server");
    assert_eq!(attributes["source"]["address"]["socketAddress"]["address"], "127.0.0.1");
    let http = &attributes["request"]["http"];
    assert_eq!(
        (&http["method"], &http["path"], &http["size"]),
        (&"GET".into(), &"/yes".into(), &"-1".into())
    );
    assert_eq!(http["headers"], serde_json::json!({"x-tenant": "blue"}));
    assert!(attributes["request"]["time"].is_string());
    assert_eq!(attributes["contextExtensions"]["signet.service"], "server.shop");
    let answer = send("GET", &entry, "/teapot", &[], "").await;
    assert_eq!((header(&answer, "x-why"), &*text(&answer)), ("tea", "short and stout"));
    let answer = send("GET", &entry, "/yes", &[], "").await;
    assert_eq!(header(&answer, "x-verdict"), "fine");

    let Some(envoy) = envoy() else { return };
    let listen = free_address();
    let config = CONFIG
        .replace("LISTEN", port(&listen))
        .replace("AUTHZ", port(&authorizer.1))
        .replace("APP", port(&app.address));
    let _process = start_by(Command::new(envoy), &mesh, "envoy", &config);
    crate::envoy::eventually_ok(&listen, "/yes", &[]).await;
    for (path, _, envoys) in CASES {
        let answer = send("GET", &listen, path, &[], "").await;
        assert_eq!(answer.status().as_u16(), *envoys, "Envoy, {path}");
    }
    mesh.assert_unharmed();
}

const CONFIG: &str = "\
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: LISTEN}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config: {virtual_hosts: [{name: all, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: app}}]}]}
          http_filters:
          - name: authz
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              status_on_error: {code: ServiceUnavailable}
              grpc_service: {envoy_grpc: {cluster_name: authz}, timeout: 0.5s}
          - name: router
            typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: app
    load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: APP}}}}]}]}
  - name: authz
    load_assignment: {cluster_name: authz, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: AUTHZ}}}}]}]}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
";
