//! The webhook as the API server knows it: by the name of its Service, with the roots that stand in `caBundle`.

use std::path::Path;
use std::sync::Arc;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use signet_control_plane::listen::bootstrap::Limits;
use signet_tests::apiserver::ApiServer;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{Plane, REGISTRY, soon};

const HOST: &str = "signet-control-plane.signet-system.svc";

async fn start(api: &ApiServer) -> Plane {
    let lines = |folder: &Path| {
        let cluster = api.configuration(folder, "");
        format!(
            "{cluster}webhook:
  listen: '127.0.0.1:0'
  dnsNames: [{HOST}]
  injection:
    image: registry.example.com/signet-sidecar:1
    redirectImage: registry.example.com/signet-redirect:1
    bootstrapAddress: {HOST}:8443
    meshAddress: {HOST}:8444
    controlPlane: spiffe://demo.signet/ns/signet-system/sa/signet-control-plane
"
        )
    };
    Plane::start_as(Limits::default(), REGISTRY, lines).await
}

/// TLS with the webhook under this name, from another address of loopback if one is given.
async fn connect(plane: &Plane, host: &'static str, from: &str) -> Result<TlsStream<TcpStream>, String> {
    let addresses = std::fs::read(plane.dir.path().join("data/addresses.json")).unwrap();
    let addresses: Value = serde_json::from_slice(&addresses).unwrap();
    let pem = std::fs::read(plane.dir.path().join("data/root.pem")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(signet_identity::crypto_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let tcp = socket.connect(addresses["webhook"].as_str().unwrap().parse().unwrap()).await.unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(host).unwrap(), tcp).await;
    stream.map_err(|error| error.to_string())
}

async fn send(
    plane: &Plane,
    host: &'static str,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), String> {
    send_from(plane, "127.0.0.1", host, request).await
}

async fn send_from(
    plane: &Plane,
    from: &str,
    host: &'static str,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), String> {
    let stream = connect(plane, host, from).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    Ok((status, answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes()))
}

fn request(method: Method, path: &str, kind: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request =
        Request::builder().method(method).uri(path).header("host", HOST).header("content-type", kind);
    request.body(Full::new(body.into())).unwrap()
}

fn recorded(name: &str) -> Value {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/kubernetes/tests/data/admission/requests");
    serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap()
}

#[tokio::test]
async fn the_api_server_has_a_pod_injected_by_the_name_of_the_service() {
    let api = ApiServer::start().await;
    let plane = start(&api).await;
    let mut keys = Vec::new();
    for _ in 0..2 {
        let review = recorded("pod-probe-http-named-port");
        let post = request(Method::POST, "/inject?timeout=10s", "application/json", review.to_string());
        let (status, body) = soon(send(&plane, HOST, post)).await.unwrap();
        assert_eq!(status, StatusCode::OK);
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
        assert_eq!(
            (&answer["response"]["allowed"], &answer["response"]["patchType"]),
            (&json!(true), &json!("JSONPatch"))
        );
        keys.push(answer["response"]["patch"].as_str().unwrap().to_owned());
    }
    assert_ne!(keys[0], keys[1], "each pod has a key of its own");
    let refused = request(
        Method::POST,
        "/inject",
        "application/json",
        recorded("pod-share-process-namespace").to_string(),
    );
    let (_, body) = soon(send(&plane, HOST, refused)).await.unwrap();
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&answer["response"]["allowed"], &answer["response"]["status"]["code"]),
        (&json!(false), &json!(403))
    );
    let wrong = request(Method::POST, "/inject", "application/json", "{}");
    assert!(soon(send(&plane, "other.signet-system.svc", wrong)).await.is_err(), "a name that is not ours");
}

#[tokio::test]
async fn what_is_no_review_is_an_http_error_that_the_api_server_takes_for_a_failure() {
    let api = ApiServer::start().await;
    let plane = start(&api).await;
    let large = vec![b' '; 4 * 1024 * 1024 + 1];
    // A few bytes each, and as values of JSON half a kilobyte of memory each.
    let many = format!("{{\"request\": [{}0]}}", "{},".repeat(60_000));
    for (post, expected) in [
        (request(Method::POST, "/inject", "application/json", "{}"), 400),
        (request(Method::POST, "/inject", "application/json", "\u{0}"), 400),
        (request(Method::POST, "/inject", "text/plain", "{}"), 415),
        (request(Method::GET, "/inject", "application/json", ""), 405),
        (request(Method::POST, "/", "application/json", "{}"), 404),
        (request(Method::POST, "/inject", "application/json", large), 413),
        (request(Method::POST, "/inject", "application/json", many.clone()), 413),
        (request(Method::POST, "/validate", "application/json", many), 413),
    ] {
        match soon(send(&plane, HOST, post)).await {
            Ok((status, body)) => {
                assert_eq!(status.as_u16(), expected);
                assert!(body.starts_with(b"expected "), "{body:?}");
            }
            // It may hang up while a body that is too large is still being sent.
            Err(error) => assert_eq!(expected, 413, "{error}"),
        }
    }
    let counted =
        plane.metric("signet_control_plane_injections_total{outcome=\"no-review\",reason=\"\"}").await;
    assert!(counted.is_some_and(|counted| counted >= 3.0), "{counted:?}");
}

#[tokio::test]
async fn one_address_that_holds_all_the_connections_it_gets_and_one_that_never_ends_its_bodies_hold_nobody_up()
 {
    let api = ApiServer::start().await;
    let plane = start(&api).await;
    let ask = || request(Method::POST, "/inject", "application/json", recorded("pod-bare").to_string());
    let addresses = std::fs::read(plane.dir.path().join("data/addresses.json")).unwrap();
    let addresses: Value = serde_json::from_slice(&addresses).unwrap();
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(TcpStream::connect(addresses["webhook"].as_str().unwrap()).await.unwrap());
    }
    let (status, _) = soon(send_from(&plane, "127.0.0.2", HOST, ask())).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    drop(held);
    // Two large bodies that do not come: those of others who are as large wait, nobody else does.
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = soon(connect(&plane, HOST, "127.0.0.3")).await.unwrap();
        let head = format!(
            "POST /inject HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\ncontent-length: 4000000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        slow.push(stream);
    }
    let began = std::time::Instant::now();
    for _ in 0..3 {
        let (status, _) = soon(send_from(&plane, "127.0.0.2", HOST, ask())).await.unwrap();
        assert_eq!(status, StatusCode::OK);
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn without_a_cluster_as_registry_pods_are_judged_and_objects_are_nobodys() {
    let api = ApiServer::start().await;
    let plane = start(&api).await;
    let judge = |review: Value| request(Method::POST, "/validate", "application/json", review.to_string());
    let mut review = recorded("pod-bare");
    let (_, body) = soon(send(&plane, HOST, judge(review.clone()))).await.unwrap();
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&answer["response"]["allowed"], &answer["response"]["status"]["code"]),
        (&json!(false), &json!(403))
    );
    assert!(answer["response"]["status"]["message"].as_str().unwrap().contains("nobody injected it"));
    review["request"]["resource"] =
        json!({"group": "signet.mesh", "version": "v1alpha1", "resource": "meshpolicies"});
    review["request"]["object"] = json!({"metadata": {"name": "x"}, "spec": {}});
    let (_, body) = soon(send(&plane, HOST, judge(review))).await.unwrap();
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["response"]["allowed"], true);
    let counted = plane
        .metric("signet_control_plane_injections_total{outcome=\"refused\",reason=\"not-injected\"}")
        .await;
    assert_eq!(counted, Some(1.0));
}
