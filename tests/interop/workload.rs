//! The workload socket as an app finds it: whom it serves, and what becomes of that.

use std::path::Path;

use hyper_util::rt::TokioIo;
use signet_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use signet_proto::spiffe::{X509svidRequest, X509svidResponse};
use signet_tests::apps::Echo;
use signet_tests::mesh::{Mesh, MeshBuilder, Sidecar, free_address, permit, service};
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

pub(crate) async fn svids(socket: &Path) -> Streaming<X509svidResponse> {
    let mut request = Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", AsciiMetadataValue::from_static("true"));
    let mut client = SpiffeWorkloadApiClient::new(channel(socket).await);
    client.fetch_x509svid(request).await.expect("a stream").into_inner()
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
