//! A control plane in this process, and the smallest client that can join it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use signet_control_plane::config::Config;
use signet_control_plane::listen::bootstrap::Limits;
use signet_control_plane::run;
use signet_daemon::Trigger;
use signet_identity::{
    Bundles, Generation, GenerationOptions, KeyId, OwnSvid, SpiffeId, TrustBundle, TrustDomain,
    bootstrap_client_config, server_name,
};
use signet_proto::v1::{
    self, bootstrap_client::BootstrapClient, delivery_client::DeliveryClient, from_sidecar::Message as Say,
    identity_client::IdentityClient, operator_client::OperatorClient, to_sidecar::Message as Told,
    tokens_client::TokensClient,
};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status, Streaming};
use zeroize::Zeroizing;

pub(crate) const REGISTRY: &str = r#"
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: shop, name: web}
spec: {class: sidecar}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: shop, name: orders}
spec: {class: sidecar}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: edge, name: gw}
spec: {class: gateway}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: edge, name: unlisted}
spec: {class: gateway}
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: web}
spec:
  ports: [{name: http, port: 80, protocol: http}]
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: orders}
spec:
  ports: [{name: grpc, port: 50051, protocol: grpc}]
  endpoints: [{address: 127.0.0.1, ports: {grpc: 17102}}]
---
apiVersion: signet.mesh/v1alpha1
kind: Issuer
metadata: {name: demo-idp}
spec: {issuer: "http://127.0.0.1:1", jwksUri: "http://127.0.0.1:1/jwks", audiences: [shop], algorithms: [ES256]}
---
apiVersion: signet.mesh/v1alpha1
kind: Gateway
metadata: {namespace: edge, name: gw}
spec:
  identity: ns/edge/sa/gw
  routes:
    - {name: shop, hosts: ["*"], pathPrefix: /, service: web.shop, port: http, auth: {jwt: {issuers: [demo-idp]}}}
---
apiVersion: signet.mesh/v1alpha1
kind: MeshPolicy
metadata: {namespace: shop, name: web-to-orders}
spec: {effect: permit, target: {service: orders}, from: {workloads: [ns/shop/sa/web]}}
"#;

pub(crate) const WEB: &str = "spiffe://demo.signet/ns/shop/sa/web";
pub(crate) const ORDERS: &str = "spiffe://demo.signet/ns/shop/sa/orders";
pub(crate) const GATEWAY: &str = "spiffe://demo.signet/ns/edge/sa/gw";

/// Nothing here takes longer on a machine that works at all.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("nothing happened in time")
}

pub(crate) struct Plane {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) bootstrap: SocketAddr,
    pub(crate) mesh: SocketAddr,
    pub(crate) istio: Option<SocketAddr>,
    pub(crate) metrics: SocketAddr,
    pub(crate) bundle: Option<SocketAddr>,
    pub(crate) trigger: Trigger,
    pub(crate) served: JoinHandle<()>,
    pub(crate) operator: OperatorClient<Channel>,
    look: Arc<Notify>,
}

impl Plane {
    pub(crate) async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    pub(crate) async fn start_with(limits: Limits) -> Self {
        Self::start_as(limits, REGISTRY, |_| String::new()).await
    }

    /// With these lines added to its configuration.
    pub(crate) async fn start_configured(lines: &str) -> Self {
        Self::start_as(Limits::default(), REGISTRY, |_| lines.to_owned()).await
    }

    /// With a registry and further lines of configuration, which may refer to the folder.
    pub(crate) async fn start_as(
        limits: Limits,
        registry: &str,
        lines: impl FnOnce(&Path) -> String,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("registry")).unwrap();
        write_registry(dir.path(), registry);
        let config = config_with(dir.path(), &lines(dir.path()));
        let (trigger, shutdown) = signet_daemon::shutdown::channel();
        let running = run::start(&config, limits, shutdown).await.unwrap();
        Self::of(running, trigger, dir).await
    }

    /// One that was started already.
    pub(crate) async fn of(running: run::Running, trigger: Trigger, dir: tempfile::TempDir) -> Self {
        let operator = operator(&dir.path().join("operator.sock")).await;
        Self {
            bootstrap: running.bootstrap,
            mesh: running.mesh,
            istio: running.istio,
            metrics: running.metrics.unwrap(),
            bundle: running.bundle,
            look: Arc::clone(&running.look),
            served: tokio::spawn(running.serve()),
            trigger,
            operator,
            dir,
        }
    }

    /// Replaces the registry and has it looked at.
    pub(crate) fn edit(&self, registry: &str) {
        write_registry(self.dir.path(), registry);
        self.look.notify_one();
    }

    pub(crate) async fn token(&mut self, id: &str, class: &str) -> v1::JoinBundle {
        let request =
            v1::CreateJoinTokenRequest { spiffe_id: id.into(), peer_class: class.into(), ttl_seconds: 0 };
        soon(self.operator.create_join_token(request)).await.unwrap().into_inner()
    }

    /// Joins as a good sidecar or gateway does.
    pub(crate) async fn join(&mut self, id: &str, class: &str) -> Member {
        let bundle = self.token(id, class).await;
        let key = KeyPair::generate().unwrap();
        let issued = attest(&bundle, &bundle.token, csr(&key)).await.unwrap();
        Member::new(&bundle, issued, &key)
    }

    /// The operators' service for federated trust domains.
    pub(crate) async fn federation(&self) -> v1::federation_client::FederationClient<Channel> {
        let channel = socket_channel(&self.dir.path().join("operator.sock")).await;
        v1::federation_client::FederationClient::new(channel)
    }

    /// One metric's value by its whole line up to the blank.
    pub(crate) async fn metric(&self, line: &str) -> Option<f64> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = TcpStream::connect(self.metrics).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok())
    }
}

pub(crate) fn write_registry(dir: &Path, registry: &str) {
    std::fs::write(dir.join("registry/mesh.yaml"), registry).unwrap();
}

pub(crate) fn config(dir: &Path) -> Config {
    config_with(dir, "")
}

pub(crate) fn config_with(dir: &Path, lines: &str) -> Config {
    let dir = dir.display();
    let text = format!(
        "
trustDomain: demo.signet
dataDir: {dir}/data
seal: {{keyFile: {dir}/seal.key}}
dev: true
registry: {{folder: {dir}/registry}}
listen: {{bootstrap: '127.0.0.1:0', mesh: '127.0.0.1:0'}}
operator: {{socket: {dir}/operator.sock}}
metrics: {{listen: '127.0.0.1:0'}}
issuers: {{allowPrivateAddresses: true, allowHttp: true}}
{lines}"
    );
    Config::parse(Path::new("control-plane.yaml"), &text).unwrap()
}

async fn operator(socket: &Path) -> OperatorClient<Channel> {
    OperatorClient::new(socket_channel(socket).await)
}

pub(crate) async fn socket_channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://operator").connect_with_connector(connector).await.unwrap()
}

/// A gRPC channel over TLS to `address` as `config` says.
pub(crate) async fn dial(
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_: Uri| {
        let config = Arc::clone(&config);
        async move {
            let tcp = TcpStream::connect(address).await?;
            TlsConnector::from(config).connect(server_name(&control_plane()), tcp).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://control-plane").connect_with_connector(connector).await
}

pub(crate) fn control_plane() -> SpiffeId {
    SpiffeId::parse("spiffe://demo.signet/ns/signet-system/sa/signet-control-plane").unwrap()
}

pub(crate) fn bootstrap_config(bundle: &v1::JoinBundle) -> Arc<rustls::ClientConfig> {
    let domain = TrustDomain::parse(&bundle.trust_domain).unwrap();
    let root: KeyId = bundle.root_sha256.parse().unwrap();
    bootstrap_client_config(domain, root, control_plane()).unwrap()
}

pub(crate) async fn attest(
    bundle: &v1::JoinBundle,
    token: &str,
    csr_der: Vec<u8>,
) -> Result<v1::IssuedSvid, Status> {
    attest_by(bundle, v1::attest_request::Evidence::JoinToken(token.into()), csr_der).await
}

/// The same with any evidence; of the bundle only where the control plane is and its root are used.
pub(crate) async fn attest_by(
    bundle: &v1::JoinBundle,
    evidence: v1::attest_request::Evidence,
    csr_der: Vec<u8>,
) -> Result<v1::IssuedSvid, Status> {
    let address = bundle.bootstrap_address.parse().unwrap();
    let channel =
        dial(address, bootstrap_config(bundle)).await.map_err(|e| Status::unavailable(e.to_string()))?;
    let request = v1::AttestRequest { csr_der, evidence: Some(evidence) };
    Ok(soon(BootstrapClient::new(channel).attest(request)).await?.into_inner())
}

pub(crate) fn csr(key: &KeyPair) -> Vec<u8> {
    // Names in it are ignored: only the key counts.
    let params = CertificateParams::new(["evil.example".to_owned()]).unwrap();
    params.serialize_request(key).unwrap().der().to_vec()
}

/// Somebody with an SVID and a connection.
pub(crate) struct Member {
    pub(crate) svid: v1::IssuedSvid,
    pub(crate) config: Arc<rustls::ClientConfig>,
    mesh: SocketAddr,
}

impl Member {
    pub(crate) fn new(bundle: &v1::JoinBundle, svid: v1::IssuedSvid, key: &KeyPair) -> Self {
        let chain: Vec<_> = svid.chain_der.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let own = OwnSvid::new(chain, Zeroizing::new(key.serialize_der())).unwrap();
        let roots =
            svid.bundle.as_ref().unwrap().roots_der.iter().map(|der| CertificateDer::from(der.as_slice()));
        let roots = TrustBundle::new(TrustDomain::parse("demo.signet").unwrap(), roots).unwrap();
        let bundles = Arc::new(Bundles::from(roots));
        let generation = Generation::build(1, own, bundles, GenerationOptions::default()).unwrap();
        let config = generation.control_plane_client_config();
        Self { svid, config, mesh: bundle.mesh_address.parse().unwrap() }
    }

    pub(crate) async fn channel(&self) -> Channel {
        dial(self.mesh, Arc::clone(&self.config)).await.unwrap()
    }

    pub(crate) async fn renew(&self, csr_der: Vec<u8>) -> Result<v1::IssuedSvid, Status> {
        self.renew_by(csr_der, None).await
    }

    /// Renews with fresh evidence.
    pub(crate) async fn renew_by(
        &self,
        csr_der: Vec<u8>,
        token: Option<String>,
    ) -> Result<v1::IssuedSvid, Status> {
        let mut client = IdentityClient::new(self.channel().await);
        let kubernetes = token.map(|token| v1::KubernetesEvidence { token });
        Ok(soon(client.renew(v1::RenewRequest { csr_der, kubernetes })).await?.into_inner())
    }

    pub(crate) async fn delegate(&self, jwk: &str) -> Result<v1::DelegateResponse, Status> {
        let mut client = TokensClient::new(self.channel().await);
        Ok(soon(client.delegate(v1::DelegateRequest { jwk: jwk.into() })).await?.into_inner())
    }

    pub(crate) async fn stream(&self, hello: v1::Hello) -> Stream {
        self.try_stream(hello).await.unwrap()
    }

    pub(crate) async fn try_stream(&self, hello: v1::Hello) -> Result<Stream, Status> {
        self.stream_on(self.channel().await, hello).await
    }

    pub(crate) async fn stream_on(&self, channel: Channel, hello: v1::Hello) -> Result<Stream, Status> {
        open(channel, Say::Hello(hello)).await
    }

    pub(crate) async fn stream_saying(&self, first: Say) -> Stream {
        open(self.channel().await, first).await.unwrap()
    }
}

async fn open(channel: Channel, first: Say) -> Result<Stream, Status> {
    let (say, said) = mpsc::channel(16);
    let stream = Stream { say, told: None };
    stream.say(first).await;
    let told = soon(DeliveryClient::new(channel).stream(ReceiverStream::new(said))).await?.into_inner();
    Ok(Stream { told: Some(told), ..stream })
}

/// An open delivery stream.
pub(crate) struct Stream {
    say: mpsc::Sender<v1::FromSidecar>,
    told: Option<Streaming<v1::ToSidecar>>,
}

impl Stream {
    pub(crate) async fn say(&self, message: Say) {
        self.say.send(v1::FromSidecar { message: Some(message) }).await.unwrap();
    }

    /// Words about the log, which come when they come, are left out.
    pub(crate) async fn next(&mut self) -> Result<Told, Status> {
        loop {
            match self.any().await? {
                Told::LogHead(_) => {}
                told => return Ok(told),
            }
        }
    }

    pub(crate) async fn any(&mut self) -> Result<Told, Status> {
        let message = soon(self.told.as_mut().unwrap().message()).await?;
        message.and_then(|m| m.message).ok_or_else(|| Status::new(Code::Ok, "the stream ended"))
    }

    /// The next delta, acknowledged.
    pub(crate) async fn delta(&mut self) -> v1::Delta {
        let Told::Delta(delta) = self.next().await.unwrap() else { panic!("expected a delta") };
        self.say(Say::Ack(v1::Ack { nonce: delta.nonce })).await;
        delta
    }

    /// How the stream ends; deltas on the way are let go.
    pub(crate) async fn end(mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

pub(crate) fn hello(services: &[&str], serves: &[&str]) -> v1::Hello {
    let texts = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    v1::Hello { version: "test".into(), services: texts(services), serves: texts(serves), have: vec![] }
}

pub(crate) fn names(delta: &v1::Delta) -> Vec<&str> {
    delta.upserts.iter().map(|r| r.name.as_str()).collect()
}
