//! A mesh whose apps exchange tokens: gateway → `front` → (its app) → `back`; `worker` gets jobs and begins some itself.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use signet_tests::apps::Echo;
use signet_tests::client::{get, send, text};
use signet_tests::issuer::Issuer;
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::process::PATIENCE;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;

pub(super) const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
pub(super) const TXN: &str = "urn:ietf:params:oauth:token-type:txn_token";
pub(super) const ACCESS: &str = "urn:ietf:params:oauth:token-type:access_token";
pub(super) const UNSIGNED: &str = "urn:ietf:params:oauth:token-type:unsigned_json";
pub(super) const DEFERRED: &str = "urn:signet:params:oauth:token-type:deferred-context";
pub(super) const WORKER: &str = "spiffe://test.signet/ns/shop/sa/worker";
pub(super) const TD: &str = "test.signet";

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
pub(super) const APP: (&str, &str) = ("signet-app", "true");

/// A request that an app is serving: it is answered when this is told to, or dropped.
pub(super) struct Visit {
    pub(super) token: String,
    answer: oneshot::Sender<()>,
    asked: JoinHandle<u16>,
}

impl Visit {
    /// The app answers.
    pub(super) async fn end(self) -> u16 {
        let _ = self.answer.send(());
        self.asked.await.expect("the caller")
    }
}

/// What the app saw of a request, and by what it is told to answer.
type Seen = (String, oneshot::Sender<()>);

/// An app that tells of each request and waits before it answers.
async fn waiting_app() -> (String, mpsc::UnboundedReceiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("an app's port");
    let address = listener.local_addr().expect("its address").to_string();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let tell = tell.clone();
                    async move {
                        let token = request.headers().get("txn-token");
                        let token =
                            token.and_then(|token| token.to_str().ok()).unwrap_or_default().to_owned();
                        let (answer, told) = oneshot::channel();
                        if tell.send((token, answer)).is_ok() {
                            let _ = told.await;
                        }
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (address, told)
}

pub(super) struct Scene {
    pub(super) mesh: Mesh,
    pub(super) users: Issuer,
    pub(super) staff: Issuer,
    pub(super) back: Echo,
    gateway: String,
    seen: Arc<Mutex<mpsc::UnboundedReceiver<Seen>>>,
    /// Where the app of `front` exchanges, and of `worker`.
    pub(super) front: String,
    pub(super) worker: String,
    /// Where they reach `back`.
    pub(super) front_to_back: String,
    pub(super) worker_to_back: String,
}

impl Scene {
    pub(super) async fn start() -> Scene {
        let (app, seen) = waiting_app().await;
        let (users, staff, back) = (Issuer::start().await, Issuer::start().await, Echo::start().await);
        let (gateway, front, worker) = (free_address(), free_address(), free_address());
        let (front_to_back, worker_to_back) = (free_address(), free_address());
        let (front_in, back_in) = (free_address(), free_address());
        let mesh = Mesh::builder()
            .registry(service("front", "shop", "http", "http", &front_in))
            .registry(service("back", "shop", "http", "http", &back_in))
            .registry(permit("edge-in", "shop", "front", "ns/edge/sa/gw", "  user: {required: true}\n"))
            .registry(permit("front-to-back", "shop", "back", "ns/shop/sa/front", "  user: {required: true, scopes: [read]}\n"))
            .registry(permit("worker-to-back", "shop", "back", "ns/shop/sa/worker", "  user: {required: true, scopes: [read]}\n"))
            .registry(users.document("idp"))
            .registry(staff.document("staff"))
            .registry(
                "kind: Gateway\nmetadata: {namespace: edge, name: gw}\nspec:\n  identity: ns/edge/sa/gw\n  routes:\n  \
                 - {name: all, hosts: ['*'], pathPrefix: /, service: front.shop, port: http, \
                 auth: {jwt: {issuers: [idp, staff]}}, txn: {claims: [email], ttl: 60s}}\n",
            )
            .registry(GRANTS)
            .sidecar(Sidecar::new(
                "front.shop",
                format!(
                    "inbound: [{{service: front.shop, port: http, listen: '{front_in}', app: 'tcp:{app}'}}]\n\
                     outbound: [{{listen: '{front_to_back}', service: back.shop, port: http}}]\n\
                     appApi: {{listen: '{front}'}}\n"
                ),
            ))
            .sidecar(Sidecar::new(
                "back.shop",
                format!(
                    "inbound: [{{service: back.shop, port: http, listen: '{back_in}', app: 'tcp:{}'}}]\n",
                    back.address
                ),
            ))
            .sidecar(Sidecar::new(
                "worker.shop",
                format!(
                    "outbound: [{{listen: '{worker_to_back}', service: back.shop, port: http}}]\n\
                     appApi: {{listen: '{worker}'}}\n"
                ),
            ))
            .sidecar(Sidecar::gateway(
                "gw.edge",
                format!("gateway: {{resource: gw.edge, listeners: [{{listen: '{gateway}'}}]}}\n"),
            ))
            .start()
            .await;
        let seen = Arc::new(Mutex::new(seen));
        let scene =
            Scene { mesh, users, staff, back, gateway, seen, front, worker, front_to_back, worker_to_back };
        // Until the keys of both issuers are here the gateway answers 503 or knows no such key.
        for token in [scene.users.token("probe", "read"), scene.staff.token("probe", "read")] {
            scene.visit(&token).await.end().await;
        }
        scene
    }

    /// A request with this credential that the app of `front` is serving.
    pub(super) async fn visit(&self, credential: &str) -> Visit {
        self.asked(credential).await.expect("a request that reaches the app")
    }

    /// The same; none where it was refused on its way.
    pub(super) async fn asked(&self, credential: &str) -> Option<Visit> {
        let (gateway, bearer) = (self.gateway.clone(), format!("Bearer {credential}"));
        let mut asked = tokio::spawn(async move {
            loop {
                let answer = get(&gateway, "/", &[("authorization", &bearer)]).await.status().as_u16();
                if answer != 503 {
                    return answer;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        });
        let mut seen = self.seen.lock().await;
        let (token, answer) = tokio::select! {
            seen = tokio::time::timeout(PATIENCE, seen.recv()) => seen.expect("a request").expect("the app"),
            _ = &mut asked => return None,
        };
        Some(Visit { token, answer, asked })
    }

    /// A user of `idp` with the scopes `read write`.
    pub(super) async fn alice(&self) -> Visit {
        let more = serde_json::json!({"email": "alice@example.com", "sid": "s-1"});
        self.visit(&self.users.token_with("alice", "read write", &more)).await
    }

    /// What `back` answers to a call of `front`'s app with this token.
    pub(super) async fn call(&self, token: &str) -> u16 {
        self.call_from(&self.front_to_back, token).await
    }

    pub(super) async fn call_from(&self, listener: &str, token: &str) -> u16 {
        get(listener, "/", &[("txn-token", token)]).await.status().as_u16()
    }
}

/// `front` may put contexts off, and let support act for users; `worker` may begin transactions for two users.
const GRANTS: &str = "kind: TokenExchange\nmetadata: {name: nightly}\nspec:\n  workloads: [ns/shop/sa/worker]\n  issuers: [idp]\n  \
    users: ['idp|alice', 'idp|bob']\n  subjectTokens: [unsignedJson, accessToken]\n  scopes: [read]\n  claims: [email]\n\
    ---\nkind: TokenExchange\nmetadata: {name: support}\nspec:\n  workloads: [ns/shop/sa/front]\n  issuers: [idp]\n  \
    subjectTokens: [unsignedJson]\n  actors: {issuers: [staff], scopes: [support]}\n  scopes: [read]\n\
    ---\nkind: TokenExchange\nmetadata: {name: jobs}\nspec:\n  workloads: [ns/shop/sa/front]\n  issuers: [idp]\n  \
    scopes: [read]\n  defer: {to: [ns/shop/sa/worker], within: 1h}\n";

/// What came of an exchange.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) status: u16,
    pub(super) body: Value,
    pub(super) cache: String,
}

impl Got {
    pub(super) fn token(&self) -> String {
        self.body["access_token"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }

    pub(super) fn error(&self) -> (u16, &str) {
        (self.status, self.body["error"].as_str().unwrap_or_default())
    }
}

/// Exchanges at this door: a form of these members, beside those that each has. An empty value takes one away.
pub(super) async fn exchange(at: &str, members: &[(&str, &str)]) -> Got {
    let mut all: Vec<(&str, &str)> = vec![
        ("grant_type", GRANT),
        ("requested_token_type", TXN),
        ("audience", TD),
        ("subject_token_type", TXN),
    ];
    all.retain(|(name, _)| !members.iter().any(|(other, _)| other == name));
    all.extend(members.iter().filter(|(_, value)| !value.is_empty()));
    let body: Vec<String> = all.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    let answer = send("POST", at, "/txn", &[APP, FORM], body.join("&")).await;
    Got {
        status: answer.status().as_u16(),
        body: serde_json::from_slice(answer.body()).unwrap_or_else(|_| panic!("{}", text(&answer))),
        cache: signet_tests::client::header(&answer, "cache-control").to_owned(),
    }
}

fn encoded(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    value.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A token's claims, unverified.
pub(super) fn claims(token: &str) -> Value {
    use base64::Engine as _;
    let payload = token.split('.').nth(1).unwrap_or_default();
    let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).expect("base64url");
    serde_json::from_slice(&raw).expect("claims")
}

/// `signet ca …` with its words; what it said.
pub(super) fn ca(mesh: &Mesh, words: &[&str]) -> (bool, String) {
    let mut command = std::process::Command::new(signet_tests::process::binary("signet"));
    command.arg("--socket").arg(mesh.operator_socket("cp")).arg("ca").args(words);
    let done = command.output().expect("the CLI runs");
    let said = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&said).into_owned())
}
