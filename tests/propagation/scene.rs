//! gateway → `front`, whose app is one of several stacks → `back`, which says whom it saw.

use std::convert::Infallible;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use signet_tests::client::get;
use signet_tests::issuer::Issuer;
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::peers::{root, traced_node, traced_python, traced_rust};
use signet_tests::process::{PATIENCE, Process};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::back::Back;
use crate::drive::{Tally, Users, drive};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    Flask,
    FastApi,
    Node,
    UntracedNode,
    Rust,
    UntracedRust,
}

pub struct Scene {
    // Ended first.
    _app: Option<Process>,
    pub mesh: Mesh,
    pub back: Back,
    pub issuer: Issuer,
    gateway: String,
    _folder: TempDir,
}

/// Nothing leaves this machine, and no cloud is asked where it is.
const QUIET: [(&str, &str); 5] = [
    ("OTEL_TRACES_EXPORTER", "none"),
    ("OTEL_METRICS_EXPORTER", "none"),
    ("OTEL_LOGS_EXPORTER", "none"),
    ("OTEL_NODE_RESOURCE_DETECTORS", "env,host,os"),
    ("OTEL_SERVICE_NAME", "front"),
];

impl Scene {
    /// With more settings of `userContext`; nothing where the stack is not installed.
    pub async fn start(stack: Stack, settings: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let (app, to_back) = (free_address(), free_address());
        let process = start_app(stack, &app, &to_back, &folder).await?;
        let (back, issuer) = (Back::start().await, Issuer::start().await);
        let (gateway, front_in, back_in) = (free_address(), free_address(), free_address());
        let mesh = Mesh::builder()
            .log_level("info")
            .registry(service("front", "shop", "http", "http", &front_in))
            .registry(service("back", "shop", "http", "http", &back_in))
            .registry(permit("edge-in", "shop", "front", "ns/edge/sa/gw", ""))
            .registry(permit("front-to-back", "shop", "back", "ns/shop/sa/front", ""))
            .registry(issuer.document("idp"))
            .registry(
                "kind: Gateway\nmetadata: {namespace: edge, name: gw}\nspec:\n  identity: ns/edge/sa/gw\n  routes:\n  \
                 - {name: all, hosts: ['*'], pathPrefix: /, service: front.shop, port: http, auth: {jwt: {issuers: [idp]}}}\n  \
                 - {name: anybody, hosts: ['*'], pathPrefix: /anon, service: front.shop, port: http, auth: {anonymous: true}}\n",
            )
            .sidecar(Sidecar::new(
                "front.shop",
                format!(
                    "inbound: [{{service: front.shop, port: http, listen: '{front_in}', app: 'tcp:{app}'}}]\n\
                     outbound: [{{listen: '{to_back}', service: back.shop, port: http}}]\n\
                     userContext: {{attach: true{settings}}}\n",
                ),
            ))
            .sidecar(Sidecar::new(
                "back.shop",
                format!("inbound: [{{service: back.shop, port: http, listen: '{back_in}', app: 'tcp:{}'}}]\n", back.address),
            ))
            .sidecar(Sidecar::gateway(
                "gw.edge",
                format!("gateway: {{resource: gw.edge, listeners: [{{listen: '{gateway}'}}]}}\n"),
            ))
            .start()
            .await;
        let scene = Self { _app: process, mesh, back, issuer, gateway, _folder: folder };
        scene.wait_for_keys().await;
        wait_for_app(&app).await;
        Some(scene)
    }

    /// Until the control plane has fetched and pushed the issuer's keys the gateway answers 503.
    async fn wait_for_keys(&self) {
        let bearer = format!("Bearer {}", self.issuer.token("probe", "read"));
        while get(&self.gateway, "/nothing", &[("authorization", &bearer)]).await.status() == 503 {}
    }

    pub async fn drive(
        &self,
        users: &Users<'_>,
        requests: usize,
        callers: usize,
        path: impl Fn(&str) -> String + Sync,
        gives_up: bool,
    ) -> Tally {
        drive(&self.gateway, users, requests, callers, &path, gives_up).await
    }

    /// One request of each user; how many were answered.
    pub async fn ask_all(&self, users: &Users<'_>, path: impl Fn(&str) -> String) -> usize {
        let mut answered = 0;
        for at in 0..users.len() {
            let bearer = users.bearer(at);
            let answer = get(&self.gateway, &path(&Users::name(at)), &[("authorization", &bearer)]).await;
            answered += usize::from(answer.status() == 200);
        }
        answered
    }

    /// Calls of the front's app, by how their user was found.
    pub async fn front_outbound(&self, via: &str) -> u64 {
        sum(&self.mesh.metrics("front").await, "outbound", via)
    }

    /// Calls that reached the back, by how its sidecar was told of their user.
    pub async fn back_inbound(&self, via: &str) -> u64 {
        sum(&self.mesh.metrics("back").await, "inbound", via)
    }

    /// What the front's sidecar shows its operator.
    pub fn coverage(&self) -> Value {
        self.mesh.admin("front", "/config")["dataPlane"]["userContext"].clone()
    }

    pub fn verdict(&self) -> String {
        self.coverage()["verdict"].as_str().unwrap_or_default().to_owned()
    }
}

fn sum(metrics: &str, direction: &str, via: &str) -> u64 {
    let labels = [format!("direction=\"{direction}\""), format!("via=\"{via}\"")];
    let lines = metrics.lines().filter(|line| {
        line.starts_with("signet_user_context_total{") && labels.iter().all(|label| line.contains(label))
    });
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// `None` in a `Some`: it runs inside the test. `None`: it is not installed.
async fn start_app(stack: Stack, at: &str, out: &str, folder: &TempDir) -> Option<Option<Process>> {
    let script = |name: &str| root().join("tests/propagation/apps").join(name);
    let mut command = match stack {
        Stack::Flask => python(script("flask_app.py"))?,
        Stack::FastApi => python(script("fastapi_app.py"))?,
        Stack::Node | Stack::UntracedNode => {
            let packages = traced_node()?;
            // Node resolves packages from where the script stands.
            let app = packages.join("node_app.cjs");
            std::fs::copy(script("node_app.cjs"), &app).expect("the app");
            let mut command = Command::new("node");
            if stack == Stack::Node {
                command.args(["--require", "@opentelemetry/auto-instrumentations-node/register"]);
            }
            command.arg(app).current_dir(packages);
            command
        }
        Stack::Rust => Command::new(traced_rust()?),
        Stack::UntracedRust => {
            untraced_rust(at, out).await;
            return Some(None);
        }
    };
    let port = at.rsplit(':').next().expect("a port");
    command.envs(QUIET).env("PORT", port).env("OUT", format!("http://{out}"));
    Some(Some(Process::start("app", command, folder.path())))
}

/// As its users are told to start it.
fn python(script: PathBuf) -> Option<Command> {
    let python = traced_python()?;
    let mut command = Command::new(python.with_file_name("opentelemetry-instrument"));
    command.arg(python).arg(script);
    Some(command)
}

async fn wait_for_app(at: &str) {
    let up = async {
        while tokio::net::TcpStream::connect(at).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, up).await.expect("the app listens");
}

/// An app on hyper alone: it calls, and copies nothing.
async fn untraced_rust(at: &str, out: &str) {
    let listener = TcpListener::bind(at).await.expect("the app's port");
    let out = out.to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let out = out.clone();
            let service = service_fn(move |request| call(out.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
}

async fn call(out: String, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if !request.uri().path().ends_with("/direct") {
        return Ok(Response::new(Full::default()));
    }
    let query = request.uri().query().unwrap_or_default();
    let user = query.split('&').find_map(|part| part.strip_prefix("user=")).unwrap_or_default();
    let answer = get(&out, &format!("/direct/{user}"), &[]).await;
    let mut passed = Response::new(Full::new(answer.body().clone()));
    *passed.status_mut() = answer.status();
    Ok(passed)
}
