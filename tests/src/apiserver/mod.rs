//! A Kubernetes API server inside the test: it replays exchanges that were recorded from a real one, byte for byte,
//! judges tokens of its own making, and fails in the ways that servers do.

mod discovery;
mod objects;
mod protobuf;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_rustls::TlsAcceptor;

const ACCESS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
pub const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// The token with which callers prove themselves to the server.
pub const CALLER: &str = "caller-token";
/// The cluster's issuer.
pub const ISSUER: &str = "https://kubernetes.default.svc";

/// One exchange as it was recorded.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub method: String,
    pub path: String,
    pub request: Value,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// As the server sent it.
    pub body: Bytes,
}

impl Exchange {
    /// Reads a recording; its answer is as long as the server said.
    pub fn read(file: &Path) -> Exchange {
        let text =
            std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let whole: Value = serde_json::from_str(&text).expect("a recorded exchange");
        let text_of =
            |pointer: &str| whole.pointer(pointer).and_then(Value::as_str).expect(pointer).to_owned();
        let headers: Vec<(String, String)> =
            serde_json::from_value(whole["response"]["headers"].clone()).expect("headers");
        // The value as text, so that the order of its members is the server's.
        let (_, body) = text.rsplit_once("\n  \"body\": ").expect("an answer");
        let body = compact(body.strip_suffix("\n }\n}\n").or(body.strip_suffix("\n }\n}")).expect("its end"));
        let length =
            headers.iter().find(|(name, _)| name == "Content-Length").map(|(_, value)| value.clone());
        // The server ends its answers with a newline.
        let body = if length == Some((body.len() + 1).to_string()) { body + "\n" } else { body };
        if let Some(length) = length {
            assert_eq!(body.len().to_string(), length, "{}: as long as recorded", file.display());
        }
        Exchange {
            method: text_of("/request/method"),
            path: text_of("/request/path"),
            request: whole["request"]["body"].clone(),
            status: whole["response"]["status"].as_u64().and_then(|it| it.try_into().ok()).expect("a status"),
            headers,
            body: body.into(),
        }
    }

    pub fn token(&self) -> &str {
        self.request["spec"]["token"].as_str().unwrap_or_default()
    }

    pub fn audience(&self) -> Option<&str> {
        self.request["spec"]["audiences"][0].as_str()
    }

    fn is_asked_by(&self, seen: &Seen) -> bool {
        let body = serde_json::from_slice(&seen.body).unwrap_or(Value::Null);
        self.method == seen.method && self.path == seen.path && self.request == body
    }
}

/// The folder of recorded token exchanges.
pub fn recordings() -> std::path::PathBuf {
    crate::peers::root().join("tests/data/kubernetes/tokens")
}

/// White space outside of texts removed.
fn compact(json: &str) -> String {
    let (mut out, mut inside, mut escaped) = (String::with_capacity(json.len()), false, false);
    for c in json.chars() {
        if inside {
            inside = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c.is_whitespace() {
            continue;
        } else {
            inside = c == '"';
        }
        out.push(c);
    }
    out
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub authorization: String,
    pub accept: String,
    pub body: Bytes,
}

/// What the server does instead of answering.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This status, with these headers, and a `Status` that says so.
    Status(u16, Vec<(&'static str, &'static str)>),
    /// 201 with this body.
    Body(Vec<u8>),
    /// Begins to answer and breaks the connection.
    Half,
    /// Never answers.
    Slow,
    /// Ends the connection without a word.
    Hangup,
}

/// A pod that runs, and the tokens that it may have.
#[derive(Debug, Clone)]
pub struct PodOf {
    pub namespace: String,
    pub account: String,
    pub name: String,
    pub uid: String,
    pub node: String,
    pub labels: BTreeMap<String, String>,
    pub address: String,
}

impl PodOf {
    /// `account.namespace`, in a pod of its own on loopback.
    pub fn new(account: &str) -> PodOf {
        let (account, namespace) = account.split_once('.').expect("account.namespace");
        PodOf {
            namespace: namespace.into(),
            account: account.into(),
            name: format!("{account}-1"),
            uid: format!("uid-of-{account}-1"),
            node: "node1".into(),
            labels: BTreeMap::new(),
            address: "127.0.0.1".into(),
        }
    }

    #[must_use]
    pub fn named(self, name: &str) -> PodOf {
        PodOf { name: name.into(), uid: format!("uid-of-{name}"), ..self }
    }

    #[must_use]
    pub fn labelled(mut self, key: &str, value: &str) -> PodOf {
        self.labels.insert(key.into(), value.into());
        self
    }

    fn object(&self) -> Value {
        json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": self.name, "namespace": self.namespace, "uid": self.uid, "resourceVersion": "5",
                         "labels": self.labels},
            "spec": {"serviceAccountName": self.account, "nodeName": self.node},
            "status": {"phase": "Running", "podIP": self.address, "podIPs": [{"ip": self.address}]},
        })
    }
}

#[derive(Default)]
struct Mind {
    recorded: Mutex<VecDeque<Exchange>>,
    faults: Mutex<VecDeque<Fault>>,
    seen: Mutex<Vec<Seen>>,
    pods: Mutex<BTreeMap<String, Value>>,
    /// What happened to them, by version.
    history: Mutex<Vec<String>>,
    caller: Mutex<String>,
    is_away: Mutex<bool>,
    /// What the caller may not, as `create secrets`.
    forbidden: Mutex<Vec<String>>,
    /// Whether pods that are tried are injected.
    injects: Mutex<bool>,
    /// Answers reviews without `status.audiences`, as a server older than the field would.
    is_naive: Mutex<bool>,
}

impl Mind {
    fn with<T, U>(value: &Mutex<T>, act: impl FnOnce(&mut T) -> U) -> U {
        act(&mut value.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// See the module's story.
pub struct ApiServer {
    pub address: SocketAddr,
    /// The root of its certificate.
    pub ca_pem: String,
    mind: Arc<Mind>,
    key: Arc<EcdsaKeyPair>,
    events: broadcast::Sender<String>,
    objects: objects::Objects,
}

type Body = BoxBody<Bytes, std::io::Error>;

impl ApiServer {
    pub async fn start() -> ApiServer {
        Self::serving(std::net::TcpListener::bind("127.0.0.1:0").expect("the API server's port"))
    }

    /// The same on a listener on loopback, which may be that of another network namespace.
    pub fn serving(listener: std::net::TcpListener) -> ApiServer {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        let key = Arc::new(EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).expect("the key"));
        let (config, ca_pem) = tls();
        listener.set_nonblocking(true).expect("a listener for tokio");
        let listener = TcpListener::from_std(listener).expect("a listener for tokio");
        let address = listener.local_addr().expect("its address");
        let mind = Arc::new(Mind::default());
        CALLER.clone_into(&mut mind.caller.lock().expect("a mind"));
        let (events, _) = broadcast::channel(64);
        let objects = objects::Objects::default();
        let server = Answers {
            mind: Arc::clone(&mind),
            key: Arc::clone(&key),
            events: events.clone(),
            objects: objects.clone(),
        };
        let acceptor = TlsAcceptor::from(config);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (server, acceptor) = (server.clone(), acceptor.clone());
                tokio::spawn(async move {
                    if Mind::with(&server.mind.is_away, |away| *away) {
                        return;
                    }
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = hyper::service::service_fn(move |request| server.clone().answer(request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(tls), service)
                        .await;
                });
            }
        });
        ApiServer { address, ca_pem, mind, key, events, objects }
    }

    /// Writes the files that a pod finds, and returns the lines of `control-plane.yaml` that use them.
    pub fn configuration(&self, folder: &Path, more: &str) -> String {
        std::fs::write(folder.join("api-token"), CALLER).expect("a token");
        std::fs::write(folder.join("api-ca.pem"), &self.ca_pem).expect("a root");
        let folder = folder.display();
        format!(
            "attestation: {{kubernetes: {{apiServer: 'https://{}', tokenFile: '{folder}/api-token', \
             caFile: '{folder}/api-ca.pem'{more}}}}}\n",
            self.address
        )
    }

    /// The section `registry` of `control-plane.yaml` that follows this server, with more fields of `kubernetes`.
    pub fn registry(&self, folder: &Path, more: &str) -> String {
        self.configuration(folder, "");
        let folder = folder.display();
        format!(
            "registry: {{kubernetes: {{apiServer: 'https://{}', tokenFile: '{folder}/api-token', \
             caFile: '{folder}/api-ca.pem'{more}}}}}\n",
            self.address
        )
    }

    /// Makes an object of any kind, or gives it another spec; whoever watches hears of it.
    pub fn put(&self, object: Value) {
        self.objects.put(object);
    }

    /// The same with documents in YAML's flow style (JSON).
    pub fn put_all(&self, objects: impl IntoIterator<Item = Value>) {
        objects.into_iter().for_each(|object| self.put(object));
    }

    /// Says no when the caller asks whether it may do this, as `create secrets`.
    pub fn forbids(&self, words: &str) {
        Mind::with(&self.mind.forbidden, |all| all.push(words.to_owned()));
    }

    /// Whether pods that are tried (`dryRun=All`) come out with a sidecar, as if a webhook were asked.
    pub fn injects(&self, injects: bool) {
        Mind::with(&self.mind.injects, |it| *it = injects);
    }

    /// Writes what kubectl and helm go by.
    pub fn kubeconfig(&self, folder: &Path) -> std::path::PathBuf {
        let ca = base64::engine::general_purpose::STANDARD.encode(&self.ca_pem);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("https://{}", self.address),
                          "certificate-authority-data": ca}}],
            "users": [{"name": "test", "user": {"token": CALLER}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        let path = folder.join("kubeconfig");
        std::fs::write(&path, config.to_string()).expect("a kubeconfig");
        path
    }

    /// All objects of a kind, by the path of all of them.
    pub fn objects(&self, path: &str) -> Vec<Value> {
        self.objects.all(path)
    }

    /// Takes an object away.
    pub fn remove(&self, object: &Value) {
        self.objects.remove(object);
    }

    /// An object as it stands there now, status included.
    pub fn object(&self, like: &Value) -> Option<Value> {
        self.objects.get(like)
    }

    /// Whether the cluster lacks a kind, by the path of all its objects.
    pub fn lacks(&self, path: &str, absent: bool) {
        self.objects.absent(path, absent);
    }

    /// Fails once, when a request of this method comes whose path contains the words.
    pub fn fails_at(&self, method: &'static str, words: &str, fault: Fault) {
        self.objects.when(method, words, fault);
    }

    /// Lists in pages of this size.
    pub fn pages_of(&self, size: usize) {
        self.objects.page(size);
    }

    /// Breaks every watch in the middle.
    pub fn cut_watches(&self) {
        self.objects.cut();
    }

    /// Forgets what was before now: watches from there are 410.
    pub fn forgets(&self) {
        self.objects.forget();
    }

    /// Sends a bookmark to the watches of a kind.
    pub fn bookmark(&self, path: &str, object: Value) {
        self.objects.bookmark(path, object);
    }

    /// Answers the recorded question with the recorded answer, once, and in the order given.
    pub fn replay(&self, exchange: Exchange) {
        Mind::with(&self.mind.recorded, |recorded| recorded.push_back(exchange));
    }

    pub fn then(&self, faults: impl IntoIterator<Item = Fault>) {
        Mind::with(&self.mind.faults, |queue| queue.extend(faults));
    }

    /// Whether it hangs up on everybody.
    pub fn is_away(&self, away: bool) {
        Mind::with(&self.mind.is_away, |it| *it = away);
    }

    pub fn is_naive(&self) {
        Mind::with(&self.mind.is_naive, |it| *it = true);
    }

    /// The token that callers must bring from now on.
    pub fn expect_caller(&self, token: &str) {
        Mind::with(&self.mind.caller, |caller| token.clone_into(caller));
    }

    pub fn seen(&self) -> Vec<Seen> {
        Mind::with(&self.mind.seen, |seen| seen.clone())
    }

    /// How often it was asked to review a token.
    pub fn reviews(&self) -> usize {
        self.seen().iter().filter(|seen| seen.path == REVIEWS).count()
    }

    /// Runs a pod; whoever watches hears of it.
    pub fn run(&self, pod: &PodOf) {
        let object = pod.object();
        Mind::with(&self.mind.pods, |pods| pods.insert(pod.uid.clone(), object.clone()));
        self.happened("ADDED", object);
    }

    /// Runs a pod as it stands here, whole, or changes one that runs; whoever watches hears of it.
    pub fn runs(&self, pod: &Value) {
        let uid = pod["metadata"]["uid"].as_str().expect("a uid").to_owned();
        let before = Mind::with(&self.mind.pods, |pods| pods.insert(uid, pod.clone()));
        self.happened(if before.is_some() { "MODIFIED" } else { "ADDED" }, pod.clone());
    }

    fn happened(&self, kind: &str, mut object: Value) {
        Mind::with(&self.mind.history, |history| {
            object["metadata"]["resourceVersion"] = (history.len() + 1).to_string().into();
            history.push(json!({"type": kind, "object": object}).to_string());
            let _ = self.events.send(history.last().expect("just pushed").clone());
        });
    }

    /// Asks a pod to end: it has its grace.
    pub fn terminate(&self, pod: &PodOf) {
        let changed = Mind::with(&self.mind.pods, |pods| {
            let object = pods.get_mut(&pod.uid).expect("a pod that runs");
            object["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
            object.clone()
        });
        self.happened("MODIFIED", changed);
    }

    /// Ends a pod.
    pub fn delete(&self, pod: &PodOf) {
        if let Some(object) = Mind::with(&self.mind.pods, |pods| pods.remove(&pod.uid)) {
            self.happened("DELETED", object);
        }
    }

    /// Says something to whoever watches.
    pub fn say(&self, event: &Value) {
        let _ = self.events.send(event.to_string());
    }

    /// A token of this pod, for an hour.
    pub fn token(&self, pod: &PodOf, audience: &str) -> String {
        self.token_with(pod, &json!({"aud": [audience]}))
    }

    /// The same with claims added, replaced or (null) left out.
    pub fn token_with(&self, pod: &PodOf, more: &Value) -> String {
        let now = crate::issuer::now();
        let mut claims = json!({
            "iss": ISSUER, "sub": format!("system:serviceaccount:{}:{}", pod.namespace, pod.account),
            "aud": ["signet-ca"], "iat": now, "nbf": now, "exp": now + 3607,
            "jti": format!("{:?}", std::time::Instant::now()),
            "kubernetes.io": {
                "namespace": pod.namespace,
                "serviceaccount": {"name": pod.account, "uid": format!("uid-of-{}", pod.account)},
                "pod": {"name": pod.name, "uid": pod.uid},
                "node": {"name": pod.node, "uid": "uid-of-node"},
            },
        });
        let (Some(all), Some(more)) = (claims.as_object_mut(), more.as_object()) else { unreachable!() };
        for (name, value) in more {
            match value {
                Value::Null => drop(all.remove(name)),
                value => drop(all.insert(name.clone(), value.clone())),
            }
        }
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&json!({"alg": "ES256", "kid": "cluster-1"})), encode(&claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

#[derive(Clone)]
struct Answers {
    mind: Arc<Mind>,
    key: Arc<EcdsaKeyPair>,
    events: broadcast::Sender<String>,
    objects: objects::Objects,
}

impl Answers {
    /// An error ends the connection.
    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
        let header = |name: &str| {
            request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
        };
        let (authorization, accept) = (header("authorization"), header("accept"));
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let path = head.uri.to_string();
        let seen = Seen { method: head.method.to_string(), path: path.clone(), authorization, accept, body };
        Mind::with(&self.mind.seen, |all| all.push(seen.clone()));
        if Mind::with(&self.mind.is_away, |away| *away) {
            return Err(std::io::Error::other("away"));
        }
        if let Some(fault) = Mind::with(&self.mind.faults, VecDeque::pop_front) {
            return fail(fault).await;
        }
        let recorded = Mind::with(&self.mind.recorded, |recorded| {
            let at = recorded.iter().position(|exchange| exchange.is_asked_by(&seen))?;
            recorded.remove(at)
        });
        if let Some(exchange) = recorded {
            let mut answer = Response::builder().status(exchange.status);
            for (name, value) in exchange.headers.iter().filter(|(name, _)| name != "Content-Length") {
                answer = answer.header(name, value);
            }
            return Ok(answer.body(full(exchange.body)).expect("a recorded answer"));
        }
        if seen.authorization != format!("Bearer {}", Mind::with(&self.mind.caller, |it| it.clone())) {
            return Ok(status(401, "Unauthorized"));
        }
        if let Some(fault) = self.objects.fault(&seen.method, &seen.path) {
            return fail(fault).await;
        }
        // Pods of one node or namespace, and those that still run, are what attestation asks for.
        let query = head.uri.query().unwrap_or_default();
        let path = head.uri.path();
        let of_attestation = !query.contains("labelSelector")
            && ((path == "/api/v1/pods" && query.contains("fieldSelector"))
                || (path.starts_with("/api/v1/namespaces/") && path.contains("/pods")));
        if path == ACCESS && head.method == Method::POST {
            return Ok(self.may(&seen.body));
        }
        if head.method == Method::POST && path.ends_with("/pods") && query.contains("dryRun=All") {
            return Ok(self.tried(&seen.body));
        }
        if path != REVIEWS && !of_attestation {
            let kind = header_of(&head.headers, "content-type");
            let answer = self.objects.answer(&head.method, path, query, &kind, &seen.body);
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
        Ok(match (&head.method, head.uri.path()) {
            (&Method::POST, REVIEWS) => self.review(&seen.body),
            (&Method::GET, "/.well-known/openid-configuration") => {
                object(200, &json!({"issuer": ISSUER, "jwks_uri": "https://10.0.0.1/openid/v1/jwks"}))
            }
            (&Method::GET, "/openid/v1/jwks") if seen.accept == "application/json" => {
                status(406, "Not Acceptable")
            }
            (&Method::GET, "/openid/v1/jwks") => self.jwks(),
            (&Method::GET, path) if head.uri.query().is_some_and(|q| q.contains("watch=true")) => {
                assert_eq!(path, "/api/v1/pods");
                self.watch(head.uri.query().unwrap_or_default())
            }
            (&Method::GET, path) => self.pods(path, head.uri.query().unwrap_or_default()),
            _ => status(404, "not found"),
        })
    }

    /// A pod that is not made: as admission leaves it.
    fn tried(&self, body: &[u8]) -> Response<Body> {
        let mut pod: Value = serde_json::from_slice(body).expect("a pod in JSON");
        let asks = pod["metadata"]["labels"]["signet.mesh/inject"] == "enabled";
        if asks && Mind::with(&self.mind.injects, |it| *it) {
            pod["spec"]["initContainers"] = json!([{"name": "signet-proxy", "restartPolicy": "Always"}]);
        }
        object(201, &pod)
    }

    /// Whether the caller may: everything but what the test forbade.
    fn may(&self, body: &[u8]) -> Response<Body> {
        let mut question: Value = serde_json::from_slice(body).expect("a question in JSON");
        let asked = &question["spec"]["resourceAttributes"];
        let text = |name: &str| asked[name].as_str().unwrap_or_default().to_owned();
        let words = format!("{} {}", text("verb"), text("resource"));
        let forbidden = Mind::with(&self.mind.forbidden, |all| all.contains(&words));
        question["status"] = json!({"allowed": !forbidden});
        object(201, &question)
    }

    fn review(&self, body: &[u8]) -> Response<Body> {
        let question: Value = serde_json::from_slice(body).expect("a question in JSON");
        let spec = &question["spec"];
        let token = spec["token"].as_str().unwrap_or_default();
        let answer = |status: Value| {
            object(
                201,
                &json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
                        "spec": spec, "status": status}),
            )
        };
        let refuse =
            |why: &str| answer(json!({"user": {}, "error": format!("[invalid bearer token, {why}]")}));
        let Some(claims) = self.claims(token) else { return refuse("invalid signature, no keys found") };
        let is_naive = Mind::with(&self.mind.is_naive, |naive| *naive);
        let audiences = &claims["aud"];
        let asked = spec["audiences"].as_array().cloned().unwrap_or_default();
        let both: Vec<&Value> =
            asked.iter().filter(|it| audiences.as_array().is_some_and(|all| all.contains(it))).collect();
        if both.is_empty() && !is_naive {
            return refuse(&format!(
                "token audiences {audiences} is invalid for the target audiences {asked:?}"
            ));
        }
        let bound = &claims["kubernetes.io"];
        let mut extra = json!({});
        if let Some(uid) = bound["pod"]["uid"].as_str() {
            if !Mind::with(&self.mind.pods, |pods| pods.contains_key(uid)) {
                return refuse("service account token has been invalidated");
            }
            extra["authentication.kubernetes.io/pod-name"] = json!([bound["pod"]["name"]]);
            extra["authentication.kubernetes.io/pod-uid"] = json!([uid]);
        }
        if let Some(node) = bound["node"]["name"].as_str() {
            extra["authentication.kubernetes.io/node-name"] = json!([node]);
        }
        let mut status = json!({"authenticated": true, "user": {"username": claims["sub"], "extra": extra}});
        if !is_naive {
            status["audiences"] = json!(both);
        }
        answer(status)
    }

    /// The claims of a token that this server signed.
    fn claims(&self, token: &str) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED;
        ring::signature::UnparsedPublicKey::new(algorithm, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        let (_, payload) = signed.split_once('.')?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }

    fn jwks(&self) -> Response<Body> {
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        object(
            200,
            &json!({"keys": [{"use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "cluster-1",
                              "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}]}),
        )
    }

    fn pods(&self, path: &str, query: &str) -> Response<Body> {
        let parts: Vec<&str> = path.trim_start_matches("/api/v1/").split('/').collect();
        let pods: Vec<Value> = Mind::with(&self.mind.pods, |pods| pods.values().cloned().collect());
        let node = query.split('&').find_map(|it| it.strip_prefix("fieldSelector=spec.nodeName%3D"));
        let list = |namespace: Option<&str>| {
            let fits = |pod: &&Value| {
                namespace.is_none_or(|it| pod["metadata"]["namespace"] == it)
                    && node.is_none_or(|it| pod["spec"]["nodeName"] == it)
            };
            let items: Vec<&Value> = pods.iter().filter(fits).collect();
            let version = Mind::with(&self.mind.history, |history| history.len().to_string());
            object(200, &json!({"kind": "PodList", "metadata": {"resourceVersion": version}, "items": items}))
        };
        match parts.as_slice() {
            ["pods"] => list(None),
            ["namespaces", namespace, "pods"] => list(Some(namespace)),
            ["namespaces", namespace, "pods", name] => {
                let is_it = |pod: &&Value| {
                    pod["metadata"]["namespace"] == *namespace && pod["metadata"]["name"] == *name
                };
                match pods.iter().find(is_it) {
                    Some(pod) => object(200, pod),
                    None => status(404, &format!("pods \"{name}\" not found")),
                }
            }
            _ => status(404, "not found"),
        }
    }

    /// What happened after the version that is asked for, then what happens.
    fn watch(&self, query: &str) -> Response<Body> {
        let from = query.split('&').find_map(|it| it.strip_prefix("resourceVersion="));
        let from: usize = from.and_then(|it| it.parse().ok()).expect("a version to watch from");
        let (missed, events) = Mind::with(&self.mind.history, |history| {
            (history.iter().skip(from).cloned().collect::<VecDeque<_>>(), self.events.subscribe())
        });
        let lines = stream::unfold((missed, events), |(mut missed, mut events)| async move {
            let line = match missed.pop_front() {
                Some(line) => line,
                None => events.recv().await.ok()?,
            };
            // A server that ends a watch closes the stream.
            if line.contains("\"type\":\"END\"") {
                return None;
            }
            Some((Ok(Frame::data(Bytes::from(line + "\n"))), (missed, events)))
        });
        Response::new(BodyExt::boxed(StreamBody::new(SyncLines(Mutex::new(Box::pin(lines))))))
    }
}

/// A stream behind a lock, as a boxed body must be shareable.
struct SyncLines<S>(Mutex<S>);

impl<S: futures_util::Stream + Unpin> futures_util::Stream for SyncLines<S> {
    type Item = S::Item;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        let this = self.get_mut().0.get_mut().unwrap_or_else(PoisonError::into_inner);
        std::pin::Pin::new(this).poll_next(context)
    }
}

fn header_of(headers: &hyper::HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

async fn fail(fault: Fault) -> Result<Response<Body>, std::io::Error> {
    match fault {
        Fault::Status(code, headers) => {
            let mut answer = status(code, "a fault of the test");
            for (name, value) in headers {
                answer.headers_mut().insert(name, value.parse().expect("a header"));
            }
            Ok(answer)
        }
        Fault::Body(body) => {
            let mut answer = Response::new(full(body.into()));
            *answer.status_mut() = hyper::StatusCode::CREATED;
            Ok(answer)
        }
        Fault::Half => {
            let halves = [
                Ok(Frame::data(Bytes::from_static(
                    b"{\"kind\":\"TokenReview\",\"status\":{\"authenticated\":true",
                ))),
                Err(std::io::Error::other("half is enough")),
            ];
            let mut answer = Response::new(BodyExt::boxed(StreamBody::new(stream::iter(halves))));
            *answer.status_mut() = hyper::StatusCode::CREATED;
            Ok(answer)
        }
        Fault::Slow => std::future::pending().await,
        Fault::Hangup => Err(std::io::Error::other("gone")),
    }
}

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never: Infallible| match never {}).boxed()
}

fn object(code: u16, value: &Value) -> Response<Body> {
    let answer = Response::builder().status(code).header("Content-Type", "application/json");
    answer.body(full(value.to_string().into())).expect("an answer")
}

fn plain(code: u16, text: &str) -> Response<Body> {
    let answer = Response::builder().status(code).header("Content-Type", "text/plain; charset=utf-8");
    answer.body(full(text.to_owned().into())).expect("an answer")
}

fn status(code: u16, message: &str) -> Response<Body> {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 if message.contains("already exists") => "AlreadyExists",
        409 => "Conflict",
        _ => "",
    };
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "code": code});
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    object(code, &status)
}

/// A server certificate for loopback under a root of its own.
fn tls() -> (Arc<rustls::ServerConfig>, String) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut params = CertificateParams::new(Vec::new()).expect("a root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a root");
    let key = KeyPair::generate().expect("a key");
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let leaf = CertificateParams::new(names).expect("names").signed_by(&key, &root).expect("a certificate");
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = rustls::ServerConfig::builder_with_provider(signet_identity::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key))
        .expect("TLS of the API server");
    (Arc::new(config), root.pem())
}
