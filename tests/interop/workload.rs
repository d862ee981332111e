//! The workload socket as an app finds it: whom it serves, and what becomes of that.

use std::path::Path;
use std::process::Command;

use hyper_util::rt::TokioIo;
use signet_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use signet_proto::spiffe::{X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse};
use signet_proto::v1::RevokeRequest;
use signet_proto::v1::revoke_request::What;
use signet_tests::apps::Echo;
use signet_tests::mesh::{Mesh, MeshBuilder, Sidecar, free_address, permit, service};
use signet_tests::peers::{run, said};
use signet_tests::svid::pem;
use tokio::net::UnixStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Streaming};

/// A service `server.shop` behind its sidecar, and a workload `app.shop` that may call it and whose app has the
/// workload socket.
pub(crate) struct Shop {
    pub(crate) mesh: Mesh,
    pub(crate) server: Echo,
    /// Where the sidecar of `server.shop` takes mutual TLS.
    pub(crate) inbound: String,
}

pub(crate) const APP: &str = "spiffe://test.signet/ns/shop/sa/app";
pub(crate) const SERVER: &str = "spiffe://test.signet/ns/shop/sa/server";

impl Shop {
    pub(crate) async fn start() -> Self {
        Self::with(|mesh| mesh).await
    }

    pub(crate) async fn with(change: impl FnOnce(MeshBuilder) -> MeshBuilder) -> Self {
        let server = Echo::start().await;
        let inbound = free_address();
        let mesh = Mesh::builder()
            .registry(service("server", "shop", "main", "http", &inbound))
            .registry(permit("app-may", "shop", "server", "ns/shop/sa/app", ""))
            .sidecar(Sidecar::new(
                "server.shop",
                format!(
                    "inbound: [{{service: server.shop, port: main, listen: '{inbound}', app: 'tcp:{}'}}]\n",
                    server.address
                ),
            ))
            .sidecar(Sidecar::new("app.shop", "").with_workload_api());
        Self { mesh: change(mesh).start().await, server, inbound }
    }

    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.mesh.workload_socket("app")
    }
}

async fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.expect("the socket")
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", AsciiMetadataValue::from_static("true"));
    request
}

pub(crate) async fn svids(socket: &Path) -> Streaming<X509svidResponse> {
    let mut client = SpiffeWorkloadApiClient::new(channel(socket).await);
    client.fetch_x509svid(with_header(X509svidRequest {})).await.expect("a stream").into_inner()
}

async fn bundles(socket: &Path) -> Streaming<X509BundlesResponse> {
    let mut client = SpiffeWorkloadApiClient::new(channel(socket).await);
    client.fetch_x509_bundles(with_header(X509BundlesRequest {})).await.expect("a stream").into_inner()
}

/// What OpenSSL makes of the leaf of one message with the revocation lists of another.
async fn verified(shop: &Shop, leaf_of: &X509svidResponse, lists_of: &X509svidResponse) -> String {
    let write = |name: &str, label: &str, ders: &[&[u8]]| {
        let path = shop.mesh.path(name);
        std::fs::write(&path, ders.iter().map(|der| pem(label, der)).collect::<String>()).unwrap();
        path
    };
    let svid = &leaf_of.svids[0];
    let (rest, _) = x509_parser::parse_x509_certificate(&svid.x509_svid).unwrap();
    let (leaf, issuer) = svid.x509_svid.split_at(svid.x509_svid.len() - rest.len());
    let lists: Vec<&[u8]> = lists_of.crl.iter().map(Vec::as_slice).collect();
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-crl_check", "-CAfile"]);
    command.arg(write("root.pem", "CERTIFICATE", &[&svid.bundle])).arg("-untrusted");
    command.arg(write("issuer.pem", "CERTIFICATE", &[issuer])).arg("-CRLfile");
    command.arg(write("lists.pem", "X509 CRL", &lists)).arg(write("leaf.pem", "CERTIFICATE", &[leaf]));
    said(&run(command).await)
}

#[tokio::test]
async fn the_field_crl_has_the_authoritys_lists_and_a_revocation_is_in_them_at_once() {
    let mut shop = Shop::start().await;
    let (mut stream, mut of_bundles) = (svids(&shop.socket()).await, bundles(&shop.socket()).await);
    let before = stream.message().await.unwrap().expect("an identity");
    let told = verified(&shop, &before, &before).await;
    assert!(told.contains("leaf.pem: OK"), "{told}");
    assert_eq!(of_bundles.message().await.unwrap().unwrap().crl, before.crl);

    let (_, leaf) = x509_parser::parse_x509_certificate(&before.svids[0].x509_svid).unwrap();
    let serial = signet_identity::Serial::from_der_integer(leaf.raw_serial()).unwrap();
    let what = Some(What::Serial(serial.to_string()));
    shop.mesh.operator().await.revoke(RevokeRequest { what, reason: "key leaked".into() }).await.unwrap();
    // The app gets another certificate, and a list that says what became of the first one: in whichever order.
    let after = loop {
        let message = stream.message().await.unwrap().expect("the stream goes on");
        if message.crl != before.crl && message.svids[0].x509_svid != before.svids[0].x509_svid {
            break message;
        }
    };
    let told = verified(&shop, &before, &after).await;
    assert!(told.contains("certificate revoked"), "{told}");
    let told = verified(&shop, &after, &after).await;
    assert!(told.contains("leaf.pem: OK"), "{told}");
    assert_eq!(of_bundles.message().await.unwrap().unwrap().crl, after.crl);
    shop.mesh.assert_unharmed();
}

/// The registry's documents of the two workloads.
fn workloads(opted_in: bool) -> String {
    format!(
        "kind: Mesh\nmetadata: {{name: default}}\nspec: {{defaultAction: deny}}\n---\n\
         kind: Workload\nmetadata: {{namespace: shop, name: server}}\nspec: {{class: sidecar}}\n---\n\
         kind: Workload\nmetadata: {{namespace: shop, name: app}}\nspec: {{class: sidecar, workloadApi: {opted_in}}}\n"
    )
}

#[tokio::test]
async fn the_socket_is_off_by_default_and_serves_nothing_until_the_workload_opts_in() {
    let mut shop = Shop::start().await;
    assert!(!shop.mesh.workload_socket("server").exists(), "a socket that nobody asked for");
    assert!(shop.mesh.addresses("server").get("workload").is_none());
    let mut stream = svids(&shop.socket()).await;
    let first = stream.message().await.unwrap().expect("an identity");
    assert_eq!(first.svids[0].spiffe_id, APP);
    // The registry takes it back: the stream ends, and a new one is refused.
    shop.mesh.write_registry("workloads.yaml", &workloads(false));
    let status = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().starts_with("no identity issued"), "{status}");
    let status = svids(&shop.socket()).await.message().await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    // And gives it again.
    shop.mesh.write_registry("workloads.yaml", &workloads(true));
    let again = loop {
        match svids(&shop.socket()).await.message().await {
            Ok(Some(svid)) => break svid,
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => assert_eq!(status.code(), Code::PermissionDenied),
        }
    };
    assert_ne!(again.svids[0].x509_svid_key, first.svids[0].x509_svid_key);
    shop.mesh.assert_unharmed();
}

#[tokio::test]
async fn keys_and_tokens_are_in_no_log() {
    use base64::Engine as _;
    let shop = Shop::start().await;
    let first = svids(&shop.socket()).await.message().await.unwrap().unwrap();
    let key = &first.svids[0].x509_svid_key;
    let source = spiffe::JwtSource::builder()
        .endpoint(format!("unix:{}", shop.socket().display()))
        .build()
        .await
        .expect("a source of tokens");
    let token = source.fetch_jwt_svid(["db"]).await.expect("a token");
    let signature = token.token().rsplit('.').next().unwrap().to_owned();
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let base64 = base64::engine::general_purpose::STANDARD.encode(key);
    let decimal = key.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let logs = shop.mesh.logs();
    assert!(logs.contains("an app connected"), "the log says who came:\n{logs}");
    for secret in [signature, hex[80..].to_owned(), base64[60..].to_owned(), decimal[60..].to_owned()] {
        assert!(!logs.contains(&secret), "a secret is in a log");
    }
}
