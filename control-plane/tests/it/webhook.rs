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
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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

async fn send(
    plane: &Plane,
    host: &'static str,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), String> {
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
    let tcp = TcpStream::connect(addresses["webhook"].as_str().unwrap()).await.unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(host).unwrap(), tcp).await;
    let stream = stream.map_err(|error| error.to_string())?;
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
    for (post, expected) in [
        (request(Method::POST, "/inject", "application/json", "{}"), 400),
        (request(Method::POST, "/inject", "application/json", "\u{0}"), 400),
        (request(Method::POST, "/inject", "text/plain", "{}"), 415),
        (request(Method::GET, "/inject", "application/json", ""), 405),
        (request(Method::POST, "/", "application/json", "{}"), 404),
        (request(Method::POST, "/inject", "application/json", large), 413),
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
