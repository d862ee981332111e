//! A control plane that does what a test tells it: real TLS, real gRPC, a scripted mind.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rcgen::CertificateSigningRequestParams;
use rustls::pki_types::CertificateSigningRequestDer;
use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{Generation, GenerationOptions, PeerClass, SpiffeId};
use signet_proto::v1;
use signet_proto::v1::bootstrap_server::{Bootstrap, BootstrapServer};
use signet_proto::v1::delivery_server::{Delivery, DeliveryServer};
use signet_proto::v1::identity_server::{Identity, IdentityServer};
use signet_proto::v1::tokens_server::{Tokens, TokensServer};
use signet_sidecar::control::plane::ControlPlane;
use signet_sidecar::credentials::Credentials;
use signet_sidecar::identity::Identity as Manager;
use signet_sidecar::join::JoinBundle;
use signet_sidecar::metrics::Metrics;
use signet_sidecar::pod::Pod;
use signet_token::{Delegation, Jwks, ScopeCeiling, SigningKey, delegation};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub(crate) const DOMAIN: &str = "demo.signet";
pub(crate) const WEB: &str = "ns/shop/sa/web";

/// What the authority does with the next request.
pub(crate) enum Act {
    /// Signs for the identity that asked.
    Sign,
    /// Signs for somebody else.
    SignFor(&'static str),
    /// Signs with an authority that nobody trusts.
    SignByStranger,
    /// Signs, and the answer is lost.
    Lose,
    /// Refuses.
    Refuse(Status),
}

/// What the test sees and says.
pub(crate) struct Mind {
    pub(crate) ca: TestCa,
    pub(crate) stranger: TestCa,
    /// What is done next; empty is `Sign`.
    pub(crate) acts: Mutex<VecDeque<Act>>,
    /// Every request for a certificate, in order.
    pub(crate) csrs: Mutex<Vec<Vec<u8>>>,
    pub(crate) tokens: Mutex<Vec<String>>,
    /// Certificates are due for renewal after a second.
    pub(crate) renew_soon: bool,
    /// What is answered to the next requests for the app; empty is yes.
    pub(crate) apps: Mutex<VecDeque<Status>>,
    /// Every request for a certificate of the app, and every one for a token of it.
    pub(crate) app_csrs: Mutex<Vec<Vec<u8>>>,
    pub(crate) app_tokens: Mutex<Vec<Vec<String>>>,
    /// What is answered to the next requests for a delegation; empty is yes.
    pub(crate) delegations: Mutex<VecDeque<Status>>,
    /// Keys that were delegated to.
    pub(crate) delegated: Mutex<Vec<String>>,
    pub(crate) token_root: SigningKey,
    /// Streams as they open: what the sidecar says, and how to answer.
    pub(crate) streams: mpsc::Sender<Stream>,
}

pub(crate) struct Stream {
    pub(crate) said: Streaming<v1::FromSidecar>,
    pub(crate) say: mpsc::Sender<Result<v1::ToSidecar, Status>>,
}

impl Stream {
    /// What is said, but for that no transaction came in, which is said every two seconds.
    pub(crate) async fn next(&mut self) -> v1::from_sidecar::Message {
        loop {
            let said =
                self.said.message().await.expect("a message").expect("no end").message.expect("a body");
            match said {
                v1::from_sidecar::Message::Decisions(told)
                    if told.records.is_empty()
                        && told.hops.as_ref().is_some_and(|hops| hops.hops.is_empty()) => {}
                said => return said,
            }
        }
    }

    pub(crate) async fn delta(&self, delta: v1::Delta) {
        let message = v1::ToSidecar { message: Some(v1::to_sidecar::Message::Delta(delta)) };
        self.say.send(Ok(message)).await.expect("an open stream");
    }

    #[allow(dead_code, reason = "not every test file refuses")]
    pub(crate) async fn refuse(&self, service: &str) {
        let refused = v1::Refused { service: service.to_owned(), reason: "no such service".to_owned() };
        let message = v1::ToSidecar { message: Some(v1::to_sidecar::Message::Refused(refused)) };
        self.say.send(Ok(message)).await.expect("an open stream");
    }
}

#[derive(Clone)]
struct Service(Arc<Mind>);

impl Mind {
    fn issue(&self, csr: Vec<u8>) -> Result<v1::IssuedSvid, Status> {
        self.csrs.lock().unwrap().push(csr.clone());
        let act = self.acts.lock().unwrap().pop_front().unwrap_or(Act::Sign);
        let (ca, short) = match act {
            Act::Sign => (&self.ca, WEB),
            Act::SignFor(short) => (&self.ca, short),
            Act::SignByStranger => (&self.stranger, WEB),
            Act::Lose => return Err(Status::unavailable("connection reset")),
            Act::Refuse(status) => return Err(status),
        };
        self.certify(ca, short, PeerClass::Sidecar, csr)
    }

    fn issue_workload(&self, csr: Vec<u8>) -> Result<v1::IssuedSvid, Status> {
        self.app_csrs.lock().unwrap().push(csr.clone());
        match self.apps.lock().unwrap().pop_front() {
            Some(status) => Err(status),
            None => self.certify(&self.ca, WEB, PeerClass::Workload, csr),
        }
    }

    fn certify(
        &self,
        ca: &TestCa,
        short: &str,
        class: PeerClass,
        csr: Vec<u8>,
    ) -> Result<v1::IssuedSvid, Status> {
        let id = self.ca.id(short);
        let csr = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let options = SvidOptions::default().at_wall_clock();
        let chain = ca.certify(id.as_str(), class, options, &csr.public_key);
        let facts = signet_identity::Svid::parse(&chain).unwrap();
        Ok(v1::IssuedSvid {
            spiffe_id: id.to_string(),
            chain_der: chain.iter().map(|der| der.to_vec()).collect(),
            not_before: facts.not_before,
            not_after: facts.not_after,
            renew_at: signet_sidecar::clock::now() + if self.renew_soon { 1 } else { 1200 },
            bundle: Some(self.bundle()),
        })
    }

    pub(crate) fn bundle(&self) -> v1::TrustBundle {
        v1::TrustBundle {
            trust_domain: DOMAIN.to_owned(),
            roots_der: vec![self.ca.root().to_vec()],
            sequence: 1,
            tainted: Vec::new(),
            jwt_keys: String::new(),
        }
    }
}

#[tonic::async_trait]
impl Bootstrap for Service {
    async fn attest(&self, request: Request<v1::AttestRequest>) -> Result<Response<v1::IssuedSvid>, Status> {
        let request = request.into_inner();
        let token = match request.evidence {
            Some(v1::attest_request::Evidence::JoinToken(token)) => token,
            Some(v1::attest_request::Evidence::Kubernetes(evidence)) => evidence.token,
            Some(_) | None => return Err(Status::invalid_argument("no evidence of a workload")),
        };
        self.0.tokens.lock().unwrap().push(token);
        self.0.issue(request.csr_der).map(Response::new)
    }
}

#[tonic::async_trait]
impl Identity for Service {
    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::IssuedSvid>, Status> {
        self.0.issue(request.into_inner().csr_der).map(Response::new)
    }

    async fn issue_workload(
        &self,
        request: Request<v1::IssueWorkloadRequest>,
    ) -> Result<Response<v1::IssuedSvid>, Status> {
        self.0.issue_workload(request.into_inner().csr_der).map(Response::new)
    }

    async fn issue_jwt_svid(
        &self,
        request: Request<v1::IssueJwtSvidRequest>,
    ) -> Result<Response<v1::IssuedJwtSvid>, Status> {
        let v1::IssueJwtSvidRequest { audiences, spiffe_id } = request.into_inner();
        let mut asked = self.0.app_tokens.lock().unwrap();
        asked.push(audiences);
        if let Some(status) = self.0.apps.lock().unwrap().pop_front() {
            return Err(status);
        }
        let issued_at = signet_sidecar::clock::now();
        let token = format!("token {}", asked.len());
        Ok(Response::new(v1::IssuedJwtSvid { token, spiffe_id, issued_at, expires_at: issued_at + 300 }))
    }
}

#[tonic::async_trait]
impl Tokens for Service {
    async fn delegate(
        &self,
        request: Request<v1::DelegateRequest>,
    ) -> Result<Response<v1::DelegateResponse>, Status> {
        let act = self.0.delegations.lock().unwrap().pop_front();
        if let Some(status) = act {
            return Err(status);
        }
        let now = u64::try_from(signet_sidecar::clock::now()).unwrap();
        let key = request.into_inner().jwk;
        self.0.delegated.lock().unwrap().push(key.clone());
        let set = Jwks::parse(&format!(r#"{{"keys":[{key}]}}"#)).unwrap();
        let terms = Delegation {
            issuer: DOMAIN.to_owned(),
            subject: self.0.ca.id(WEB).to_string(),
            issued_at: now,
            expires_at: now + 3600,
            id: "one".to_owned(),
            key: set.keys()[0].clone(),
            scope_ceiling: ScopeCeiling::Any,
            aliases: ["demo-idp".to_owned()].into(),
            credentials: ["jwt".to_owned()].into(),
        };
        let delegation = delegation::issue(&self.0.token_root, &terms).unwrap();
        Ok(Response::new(v1::DelegateResponse { delegation, not_after: i64::try_from(now).unwrap() + 3600 }))
    }
}

#[tonic::async_trait]
impl Delivery for Service {
    type StreamStream = ReceiverStream<Result<v1::ToSidecar, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::FromSidecar>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (say, said) = mpsc::channel(16);
        let stream = Stream { said: request.into_inner(), say };
        self.0.streams.send(stream).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(said)))
    }
}

/// A control plane that listens, and everything that a sidecar needs to join it.
pub(crate) struct Plane {
    pub(crate) mind: Arc<Mind>,
    pub(crate) bundle: JoinBundle,
    pub(crate) streams: mpsc::Receiver<Stream>,
}

/// Its identity.
const CONTROL_PLANE: &str = "ns/signet-system/sa/signet-control-plane";

impl Plane {
    pub(crate) async fn start() -> Self {
        Self::with(false).await
    }

    pub(crate) async fn with(renew_soon: bool) -> Self {
        let (ca, stranger) = (TestCa::new(DOMAIN), TestCa::new(DOMAIN));
        let own =
            ca.svid(&ca.id(CONTROL_PLANE), PeerClass::ControlPlane, SvidOptions::default().at_wall_clock());
        let generation = Generation::build(1, own, ca.bundles(), GenerationOptions::default()).unwrap();
        let (sender, streams) = mpsc::channel(8);
        let mind = Arc::new(Mind {
            ca,
            stranger,
            acts: Mutex::default(),
            csrs: Mutex::default(),
            tokens: Mutex::default(),
            renew_soon,
            apps: Mutex::default(),
            app_csrs: Mutex::default(),
            app_tokens: Mutex::default(),
            delegations: Mutex::default(),
            delegated: Mutex::default(),
            token_root: SigningKey::generate().unwrap(),
            streams: sender,
        });
        let service = Service(mind.clone());
        let bootstrap = tonic::service::Routes::new(BootstrapServer::new(service.clone()));
        let mesh = tonic::service::Routes::new(IdentityServer::new(service.clone()))
            .add_service(TokensServer::new(service.clone()))
            .add_service(DeliveryServer::new(service));
        let bootstrap_address = serve(generation.bootstrap_server_config(), bootstrap).await.to_string();
        let mesh_address = serve(generation.control_plane_server_config(), mesh).await.to_string();
        let bundle = JoinBundle {
            bootstrap_address,
            mesh_address,
            trust_domain: mind.ca.trust_domain().clone(),
            root_sha256: signet_identity::KeyId::of(mind.ca.root()),
            spiffe_id: mind.ca.id(WEB),
            control_plane: mind.ca.id(CONTROL_PLANE),
            token: "one-time".to_owned().into(),
        };
        Self { mind, bundle, streams }
    }

    pub(crate) fn then(&self, acts: impl IntoIterator<Item = Act>) {
        self.mind.acts.lock().unwrap().extend(acts);
    }

    pub(crate) fn csrs(&self) -> Vec<Vec<u8>> {
        self.mind.csrs.lock().unwrap().clone()
    }

    /// A sidecar's identity manager for this control plane.
    pub(crate) fn sidecar(&self) -> Sidecar {
        let credentials = Credentials::new(self.bundle.trust_domain.clone(), GenerationOptions::default());
        let control_plane = self.bundle.control_plane.clone();
        let plane = ControlPlane::new(self.bundle.mesh_address.clone(), control_plane, credentials.clone());
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let id: SpiffeId = self.bundle.spiffe_id.clone();
        let identity = Manager::new(id, plane.clone(), credentials.clone(), metrics.clone());
        Sidecar { identity, credentials, plane, metrics }
    }

    /// The same as a pod, whose token and roots lie in this folder.
    pub(crate) fn pod(&self, folder: &std::path::Path) -> Sidecar {
        let Sidecar { credentials, plane, metrics, .. } = self.sidecar();
        std::fs::write(folder.join("roots.pem"), pem(self.mind.ca.root())).unwrap();
        let pod = Pod {
            token_file: folder.join("token"),
            roots_file: folder.join("roots.pem"),
            bootstrap_address: self.bundle.bootstrap_address.clone(),
            mesh_address: self.bundle.mesh_address.clone(),
            trust_domain: self.bundle.trust_domain.clone(),
            control_plane: self.bundle.control_plane.clone(),
        };
        let identity = Manager::of_pod(pod, plane.clone(), credentials.clone(), metrics.clone());
        Sidecar { identity, credentials, plane, metrics }
    }
}

pub(crate) struct Sidecar {
    pub(crate) identity: Arc<Manager>,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) plane: Arc<ControlPlane>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Sidecar {
    pub(crate) fn serial(&self) -> String {
        self.credentials.current().expect("a certificate").generation.own().svid().serial.to_string()
    }
}

/// One certificate as it lies in a file of roots.
pub(crate) fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|it| std::str::from_utf8(it).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

async fn serve(config: Arc<rustls::ServerConfig>, routes: tonic::service::Routes) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(config);
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (acceptor, routes) = (acceptor.clone(), routes.clone());
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(tls), TowerToHyperService::new(routes))
                    .await;
            });
        }
    });
    address
}
