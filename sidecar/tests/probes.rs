//! The kubelet's probes, answered for an app through sockets; and that what injection writes is what a sidecar reads.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus::Registry;
use serde_json::{Value, json};
use signet_daemon::{Trigger, shutdown};
use signet_kubernetes::inject::{Namespace, Outcome, ProbeKey, Settings, inject};
use signet_sidecar::config::{Config, Probes, Serves};
use signet_sidecar::probes::ProbeServer;
use signet_sidecar::redirect::options::Options;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const KEY: &str = "0123456789abcdef0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(30);

struct Scene {
    address: SocketAddr,
    registry: Registry,
    _trigger: Trigger,
}

impl Scene {
    async fn new(declared: Value) -> Self {
        let text = json!({
            "role": "sidecar", "identity": {"joinBundle": "/j"}, "dataDir": "/d",
            "probes": {"listen": "127.0.0.1:0", "key": KEY, "declared": declared},
        });
        let config = Config::parse(Path::new("sidecar.yaml"), &text.to_string()).unwrap();
        let probes: Probes = config.probes.unwrap();
        let registry = Registry::new();
        let server = ProbeServer::bind(&probes, &registry).await.unwrap();
        let address = server.local_addr().unwrap();
        let (trigger, shutdown) = shutdown::channel();
        tokio::spawn(server.run(shutdown));
        Self { address, registry, _trigger: trigger }
    }

    /// The whole answer, as bytes.
    async fn raw(&self, head: &str) -> String {
        let asked = async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer).await;
            answer
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("an answer in time")
    }

    async fn status(&self, path: &str) -> u16 {
        let answer =
            self.raw(&format!("GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {answer:?}"));
        assert_eq!(body, "", "a status has no body");
        head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    async fn probe(&self, index: usize) -> u16 {
        self.status(&format!("/probe/{KEY}/{index}")).await
    }
}

type Seen = Arc<Mutex<Vec<http::request::Parts>>>;

async fn answer_app(request: Request<Incoming>, seen: Seen) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, _) = request.into_parts();
    let path = parts.uri.path().to_owned();
    seen.lock().unwrap().push(parts);
    let mut answer = Response::new(Full::from("a secret of the app"));
    let to = |answer: &mut Response<Full<Bytes>>, place: &str| {
        *answer.status_mut() = StatusCode::FOUND;
        answer.headers_mut().insert("location", place.parse().unwrap());
    };
    match path.as_str() {
        "/ready" => {}
        "/moved" => to(&mut answer, "/ready"),
        "/moved-to-bad" => to(&mut answer, "/bad"),
        "/away" => to(&mut answer, "http://192.0.2.1/"),
        "/round" => to(&mut answer, "/round"),
        _ => *answer.status_mut() = StatusCode::IM_A_TEAPOT,
    }
    Ok(answer)
}

/// An app of HTTP/1.1, over TLS where there is a certificate for it.
async fn app(tls: Option<Arc<rustls::ServerConfig>>) -> (u16, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let kept = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (seen, tls) = (kept.clone(), tls.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request| answer_app(request, seen.clone()));
                let server = hyper::server::conn::http1::Builder::new();
                match tls {
                    None => drop(server.serve_connection(TokioIo::new(stream), service).await),
                    Some(tls) => {
                        let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await else {
                            return;
                        };
                        drop(server.serve_connection(TokioIo::new(stream), service).await);
                    }
                }
            });
        }
    });
    (port, seen)
}

fn stranger() -> Arc<rustls::ServerConfig> {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["elsewhere.example".into()]).unwrap().self_signed(&key).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(signet_identity::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    Arc::new(config)
}

#[tokio::test]
async fn an_http_probe_is_asked_as_declared_and_only_its_status_comes_back() {
    let (port, seen) = app(None).await;
    let scene = Scene::new(json!([
        {"http": {"port": port, "path": "/ready?full=1", "headers": [
            {"name": "X-Probe", "value": "a b"}, {"name": "Host", "value": "shop.test"},
        ]}, "timeoutSeconds": 3},
        {"http": {"port": port, "path": "/bad"}},
    ]))
    .await;
    assert_eq!(scene.probe(0).await, 200);
    assert_eq!(scene.probe(1).await, 418);
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].uri, "/ready?full=1");
    let header =
        |name: &str| seen[0].headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!((header("host"), header("x-probe")), (vec!["shop.test"], vec!["a b"]));
    assert!(header("user-agent")[0].starts_with("kube-probe/"));
    assert_eq!(seen[1].headers["host"], format!("127.0.0.1:{port}"));
    let counted: f64 = scene
        .registry
        .gather()
        .iter()
        .flat_map(|f| f.get_metric().iter().map(|m| m.get_counter().get_value()).collect::<Vec<_>>())
        .sum();
    assert!((counted - 2.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn redirections_are_followed_within_the_app_and_nowhere_else() {
    let (port, seen) = app(None).await;
    let paths = ["/moved", "/moved-to-bad", "/away", "/round"];
    let declared: Vec<Value> =
        paths.iter().map(|path| json!({"http": {"port": port, "path": path}})).collect();
    let scene = Scene::new(json!(declared)).await;
    let mut statuses = Vec::new();
    for at in 0..paths.len() {
        statuses.push(scene.probe(at).await);
    }
    assert_eq!(statuses, [200, 418, 200, 508]);
    assert_eq!(seen.lock().unwrap().len(), 2 + 2 + 1 + 10);
}

#[tokio::test]
async fn https_asks_whoever_the_certificate_is_for() {
    let (port, seen) = app(Some(stranger())).await;
    let (plain, _) = app(None).await;
    let scene = Scene::new(json!([
        {"http": {"port": port, "path": "/ready", "https": true}},
        {"http": {"port": plain, "path": "/ready", "https": true}},
        {"http": {"port": port, "path": "/ready"}},
    ]))
    .await;
    assert_eq!(scene.probe(0).await, 200);
    assert_eq!(seen.lock().unwrap().len(), 1);
    assert_eq!(scene.probe(1).await, 503, "plaintext where TLS is declared");
    assert_eq!(scene.probe(2).await, 503, "TLS where plaintext is declared");
}

#[tokio::test]
async fn a_tcp_probe_is_a_connection_and_nobody_there_is_bad() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let scene = Scene::new(json!([{"tcp": {"port": port}}])).await;
    assert_eq!(scene.probe(0).await, 200);
    drop(listener);
    assert_eq!(scene.probe(0).await, 503);
}

#[tokio::test]
async fn an_app_that_does_not_answer_in_time_is_bad() {
    // The kernel takes the connection, and nobody ever answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let scene = Scene::new(json!([
        {"http": {"port": port, "path": "/"}, "timeoutSeconds": 1},
        {"grpc": {"port": port}, "timeoutSeconds": 1},
    ]))
    .await;
    assert_eq!(scene.probe(0).await, 504);
    assert_eq!(scene.probe(1).await, 504);
}

/// A health service that serves `shop.Orders` and knows of nothing else.
async fn health(
    request: Request<Incoming>,
) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    let asked = request.into_body().collect().await.unwrap().to_bytes();
    let service = asked.get(7..).map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
    let (message, status): (&[u8], &str) = match service.as_str() {
        "shop.Orders" => (&[0, 0, 0, 0, 2, 8, 1], "0"),
        "" => (&[0, 0, 0, 0, 2, 8, 2], "0"),
        _ => (&[], "5"),
    };
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    let frames = vec![
        Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(message))),
        Ok(Frame::trailers(trailers)),
    ];
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
    let body = http_body_util::combinators::BoxBody::new(body);
    Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}

#[tokio::test]
async fn a_grpc_probe_is_a_health_check_that_must_say_serving() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(health)));
        }
    });
    let scene = Scene::new(json!([
        {"grpc": {"port": port, "service": "shop.Orders"}},
        {"grpc": {"port": port, "service": ""}},
        {"grpc": {"port": port, "service": "shop.Unknown"}},
    ]))
    .await;
    assert_eq!([scene.probe(0).await, scene.probe(1).await, scene.probe(2).await], [200, 503, 503]);
}

#[tokio::test]
async fn nobody_without_the_key_has_anything_asked_and_only_the_declared_is() {
    let (port, seen) = app(None).await;
    let scene = Scene::new(json!([{"http": {"port": port, "path": "/ready"}}])).await;
    for path in [
        "/".to_owned(),
        "/probe/0".to_owned(),
        format!("/probe/{}/0", KEY.replace('0', "1")),
        format!("/probe/{}/0", &KEY[1..]),
        "/probe//0".to_owned(),
        format!("/probe/{KEY}/1"),
        format!("/probe/{KEY}/00"),
        format!("/probe/{KEY}/+0"),
        format!("/probe/{KEY}/-1"),
        format!("/probe/{KEY}/0/"),
        format!("/probe/{KEY}/0/../0"),
        format!("/probe/{KEY}"),
        "/metrics".to_owned(),
        "/ready".to_owned(),
    ] {
        assert_eq!(scene.status(&path).await, 404, "{path}");
    }
    let post =
        scene.raw(&format!("POST /probe/{KEY}/0 HTTP/1.1\r\nHost: pod\r\nContent-Length: 0\r\n\r\n")).await;
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    assert_eq!(seen.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_caller_that_holds_its_places_keeps_nobody_else_out() {
    let (port, _) = app(None).await;
    let scene = Scene::new(json!([{"http": {"port": port, "path": "/ready"}}])).await;
    // The kubelet's node is another address than the flood's.
    let mut held = Vec::new();
    for _ in 0..64 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        held.push(socket.connect(scene.address).await.unwrap());
    }
    assert_eq!(scene.probe(0).await, 200);
    // Those beyond their caller's places were hung up on, without a byte.
    let mut byte = [0];
    let ended = tokio::time::timeout(PATIENCE, held[63].read(&mut byte)).await.expect("an end");
    assert!(matches!(ended, Ok(0) | Err(_)));
}

#[test]
fn what_cannot_be_asked_is_refused_by_its_field() {
    let good = json!({"http": {"port": 80, "path": "/"}});
    for (probes, words) in [
        (json!({"listen": "0.0.0.0:1", "key": "short", "declared": [good]}), "probes.key"),
        (json!({"listen": "0.0.0.0:1", "key": KEY, "declared": []}), "probes.declared"),
        (
            json!({"listen": "0.0.0.0:1", "key": KEY, "declared": [{"http": {"port": 80, "path": "x"}}]}),
            "declared[0].http.path",
        ),
        (
            json!({"listen": "0.0.0.0:1", "key": KEY, "declared": [{"http": {"port": 80, "path": "/", "headers": [{"name": "a b"}]}}]}),
            "declared[0].http.headers",
        ),
        (
            json!({"listen": "0.0.0.0:1", "key": KEY, "declared": [{"http": {"port": 80, "path": "/", "host": "192.0.2.1"}}]}),
            "host",
        ),
        (json!({"listen": "0.0.0.0:1", "key": KEY, "declared": [{"exec": {}}]}), "http, tcp or grpc"),
        (json!({"listen": "0.0.0.0:1", "key": KEY, "declared": [{"tcp": {"port": 0}}]}), "port"),
        (
            json!({"listen": "0.0.0.0:1", "key": KEY, "declared": [{"tcp": {"port": 1}, "timeoutSeconds": 0}]}),
            "timeoutSeconds",
        ),
        (
            json!({"listen": "0.0.0.0:1", "key": KEY, "declared": [{"tcp": {"port": 1}, "surprise": 0}]}),
            "surprise",
        ),
    ] {
        let text =
            json!({"role": "sidecar", "identity": {"joinBundle": "/j"}, "dataDir": "/d", "probes": probes});
        let message =
            Config::parse(Path::new("sidecar.yaml"), &text.to_string()).expect_err(words).to_string();
        assert!(message.contains(words), "{message}");
    }
}

fn settings() -> Settings {
    serde_json::from_value(json!({
        "image": "a:1", "redirectImage": "b:1", "dnsCapture": true,
        "bootstrapAddress": "signet-control-plane.signet-system.svc:8443",
        "meshAddress": "signet-control-plane.signet-system.svc:8444",
        "controlPlane": "spiffe://example.com/ns/signet-system/sa/signet-control-plane",
    }))
    .unwrap()
}

#[test]
fn what_injection_writes_is_what_a_sidecar_and_the_redirection_read() {
    let settings = settings();
    let pod = json!({
        "metadata": {"annotations": {"signet.mesh/workers": "2", "signet.mesh/attach-user-context": "enabled"}},
        "spec": {"containers": [{
            "name": "app",
            "readinessProbe": {"httpGet": {"port": 8080, "path": "/ready", "httpHeaders": [{"name": "Host", "value": "shop.test"}]}},
            "livenessProbe": {"grpc": {"port": 9090}},
            "startupProbe": {"tcpSocket": {"port": 8080}},
        }]},
    });
    let namespace = Namespace { name: "shop".into(), injects: true };
    let Outcome::Injected(done) = inject(&pod, &namespace, &settings, &ProbeKey::new(1)) else { panic!() };
    let text = done.pod["metadata"]["annotations"]["signet.mesh/sidecar-config"].as_str().unwrap();
    let config = Config::parse(Path::new("sidecar.yaml"), text).unwrap();
    assert_eq!(config.transparent.as_ref().unwrap().serves, [Serves::Every]);
    assert_eq!(config.probes.as_ref().unwrap().declared.len(), 3);
    // Callers of probes and metrics come to them directly; redirection finds its listeners for both families.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sidecar.yaml");
    std::fs::write(&file, text).unwrap();
    let options = Options { uid: Some(settings.uid), config: Some(file), ..Options::default() };
    let wanted = options.wanted(&signet_sidecar::redirect::load, true).unwrap();
    assert_eq!((wanted.outbound, wanted.inbound, wanted.dns), (Some(15001), Some(15006), Some(15053)));
    let direct: Vec<u16> = wanted.exclude_inbound_ports.iter().map(|ports| ports.first).collect();
    assert_eq!(direct, [15021, 15020]);
    // A pod whose namespace has no IPv6.
    let four = config.without_ipv6();
    let transparent = four.transparent.unwrap();
    assert_eq!((transparent.inbound.len(), transparent.outbound.len()), (1, 1));
    assert_eq!(four.metrics.unwrap().listen.to_string(), "0.0.0.0:15021");
    assert_eq!(four.probes.unwrap().listen.to_string(), "0.0.0.0:15020");
}

/// The command of an init container of ours, as the program reads it.
fn options_of(container: &Value) -> Options {
    use clap::Parser as _;
    use signet_sidecar::redirect::run::Command;
    #[derive(clap::Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }
    let words = container["command"].as_array().unwrap().iter().skip(1).map(|word| word.as_str().unwrap());
    match Line::parse_from(words).command {
        Command::Apply { options, .. } | Command::Verify { options, .. } => options,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_agent_of_a_node_is_told_the_rules_that_a_pods_own_container_would_set() {
    use signet_sidecar::redirect::{asks, listeners, plan::Plan};
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/kubernetes/tests/data/admission/requests");
    let namespace = Namespace { name: "shop".into(), injects: true };
    let mut tried = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let review: Value = serde_json::from_slice(&std::fs::read(file.unwrap().path()).unwrap()).unwrap();
        let plain = &review["request"]["object"];
        for (annotation, value) in [
            ("signet.mesh/inject", "enabled"),
            ("signet.mesh/dns-capture", "disabled"),
            ("signet.mesh/exclude-inbound-ports", "22,9000-9010,15021"),
            ("signet.mesh/exclude-outbound-ports", "9000"),
            ("signet.mesh/exclude-outbound-ranges", "0.0.0.0/0,fd00::/8"),
            ("signet.mesh/probes", "leave"),
        ] {
            let [by_itself, by_its_node] = ["init", "cni"].map(|by| {
                let mut pod = plain.clone();
                if pod.is_object() {
                    pod["metadata"]["annotations"][annotation] = value.into();
                    pod["metadata"]["annotations"]["signet.mesh/redirect"] = by.into();
                }
                match inject(&pod, &namespace, &settings(), &ProbeKey::new(1)) {
                    Outcome::Injected(done) => Some(done.pod),
                    _ => None,
                }
            });
            let (Some(by_itself), Some(by_its_node)) = (by_itself, by_its_node) else { continue };
            let text = by_itself["metadata"]["annotations"]["signet.mesh/sidecar-config"].as_str().unwrap();
            let config = Config::parse(Path::new("sidecar.yaml"), text).unwrap();
            let own = options_of(&by_itself["spec"]["initContainers"][0]);
            let nodes = options_of(&by_its_node["spec"]["initContainers"][0]);
            assert!(own.config.is_some() && nodes.config.is_none());
            // It takes the words of injection and no others.
            let command = by_its_node["spec"]["initContainers"][0]["command"].as_array().unwrap();
            assert_eq!(command[2..], asks::words(&nodes), "{annotation}");
            for ipv6 in [true, false] {
                let own = Plan::of(&own.resolve(Some(&listeners(&config)), ipv6).unwrap());
                assert_eq!(own, Plan::of(&nodes.resolve(None, ipv6).unwrap()), "{annotation}");
            }
            tried += 1;
        }
    }
    assert!(tried > 150, "{tried}");
}
