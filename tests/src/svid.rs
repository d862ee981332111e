//! A certificate in a test's own hands: what somebody holds who has stolen a join token, or a key.

use std::path::PathBuf;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use signet_identity::{
    Bundles, Generation, GenerationOptions, KeyId, OwnSvid, SpiffeId, TrustBundle, TrustDomain,
    bootstrap_client_config, server_name,
};
use signet_proto::v1::attest_request::Evidence;
use signet_proto::v1::bootstrap_client::BootstrapClient;
use signet_proto::v1::{AttestRequest, IssuedSvid, JoinBundle};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::mesh::{Mesh, TRUST_DOMAIN};

/// The control plane's identity in a mesh under test.
pub fn control_plane() -> SpiffeId {
    format!("spiffe://{TRUST_DOMAIN}/ns/signet-system/sa/signet-control-plane").parse().expect("an identity")
}

/// The bootstrap service, over TLS that pins the join bundle's root.
pub async fn bootstrap(bundle: &JoinBundle) -> BootstrapClient<Channel> {
    try_bootstrap(bundle).await.expect("the bootstrap listener")
}

/// The same where the door may be full.
pub async fn try_bootstrap(bundle: &JoinBundle) -> Result<BootstrapClient<Channel>, tonic::transport::Error> {
    let domain: TrustDomain = bundle.trust_domain.parse().expect("a trust domain");
    let control_plane: SpiffeId = bundle.control_plane.parse().expect("an identity");
    let root: KeyId = bundle.root_sha256.parse().expect("a digest");
    let config = bootstrap_client_config(domain, root, control_plane.clone()).expect("a client config");
    let address = bundle.bootstrap_address.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let (config, address, control_plane) = (config.clone(), address.clone(), control_plane.clone());
        async move {
            let tcp = TcpStream::connect(address).await?;
            let tls = TlsConnector::from(config).connect(server_name(&control_plane), tcp).await?;
            Ok::<_, std::io::Error>(TokioIo::new(tls))
        }
    });
    let endpoint = Endpoint::from_static("http://bootstrap");
    Ok(BootstrapClient::new(endpoint.connect_with_connector(connector).await?))
}

pub struct Svid {
    pub key: KeyPair,
    pub issued: IssuedSvid,
}

impl Svid {
    /// Joins as a sidecar would.
    pub async fn join(mesh: &Mesh, spiffe_id: &str, class: &str) -> Self {
        Self::join_by(&mesh.join_bundle(spiffe_id, class).await).await.expect("a certificate")
    }

    /// The same by a bundle that is at hand, good or not.
    pub async fn join_by(bundle: &JoinBundle) -> Result<Self, tonic::Status> {
        let key = KeyPair::generate().expect("a key");
        let issued = attest(bundle, request_for(&key)).await?;
        Ok(Self { key, issued })
    }

    /// Joins as a sidecar; where so many come from one address that the door is full, again after a moment.
    pub async fn join_in_a_crowd(mesh: &Mesh, spiffe_id: &str, class: &str) -> Result<Self, tonic::Status> {
        let bundle = mesh.join_bundle(spiffe_id, class).await;
        let key = KeyPair::generate().expect("a key");
        let mut client = loop {
            match try_bootstrap(&bundle).await {
                Ok(client) => break client,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        };
        let evidence = Some(Evidence::JoinToken(bundle.token.clone()));
        let request = AttestRequest { csr_der: request_for(&key), evidence };
        let issued = client.attest(request).await?.into_inner();
        Ok(Self { key, issued })
    }

    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.issued.chain_der.iter().map(|der| CertificateDer::from(der.clone())).collect()
    }

    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }

    pub fn root(&self) -> CertificateDer<'static> {
        self.roots().swap_remove(0)
    }

    /// Every root that came with it: while one follows another there are two.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        let bundle = self.issued.bundle.as_ref().expect("a bundle comes with a certificate");
        bundle.roots_der.iter().map(|der| CertificateDer::from(der.clone())).collect()
    }

    /// Its own connection to the control plane, as a sidecar's.
    pub async fn channel(&self, mesh: &Mesh) -> Result<Channel, tonic::transport::Error> {
        self.channel_to(mesh.addresses("cp")["mesh"].as_str().expect("a mesh listener")).await
    }

    /// The same at a control plane of this address.
    pub async fn channel_to(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        let domain: TrustDomain = TRUST_DOMAIN.parse().expect("a trust domain");
        let key = zeroize::Zeroizing::new(self.key.serialize_der());
        let own = OwnSvid::new(self.chain(), key).expect("a key that fits its certificate");
        let bundle = TrustBundle::new(domain, self.roots()).expect("a bundle");
        let generation =
            Generation::build(1, own, Arc::new(Bundles::from(bundle)), GenerationOptions::default());
        let config = generation.expect("what sidecars go by").control_plane_client_config();
        let address = address.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let (config, address) = (config.clone(), address.clone());
            async move {
                let tcp = TcpStream::connect(address).await?;
                let tls = TlsConnector::from(config).connect(server_name(&control_plane()), tcp).await?;
                Ok::<_, std::io::Error>(TokioIo::new(tls))
            }
        });
        Endpoint::from_static("http://control-plane").connect_with_connector(connector).await
    }

    /// A plain rustls client with this certificate, which trusts this mesh's root and checks DNS names, as a
    /// program would that knows nothing of Signet.
    pub fn foreign_client(&self, alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
        self.client_of(self.root(), alpn)
    }

    /// The same, which trusts another mesh's root.
    pub fn client_of(&self, root: CertificateDer<'static>, alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root).expect("a root");
        let mut config = rustls::ClientConfig::builder_with_provider(signet_identity::crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(self.chain(), self.private_key())
            .expect("a key that fits its certificate");
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    /// The same as files for command line tools: certificate chain, key, root, and the issuer alone.
    pub fn files(&self, mesh: &Mesh, name: &str) -> [PathBuf; 4] {
        let pem = |der: &[u8]| pem("CERTIFICATE", der);
        let chain: String = self.issued.chain_der.iter().map(|der| pem(der)).collect();
        let contents = [chain, self.key.serialize_pem(), pem(&self.root()), pem(&self.issued.chain_der[1])];
        let mut paths = ["crt", "key", "root", "issuer"].map(|kind| mesh.path(&format!("{name}.{kind}")));
        for (path, content) in paths.iter_mut().zip(contents) {
            std::fs::write(path, content).expect("writing a certificate");
        }
        paths
    }
}

/// A request for this key that asks for nothing else.
pub fn request_for(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).expect("a CSR").der().to_vec()
}

pub async fn attest(bundle: &JoinBundle, csr_der: Vec<u8>) -> Result<IssuedSvid, tonic::Status> {
    let evidence = Some(Evidence::JoinToken(bundle.token.clone()));
    let answer = bootstrap(bundle).await.attest(AttestRequest { csr_der, evidence }).await?;
    Ok(answer.into_inner())
}

pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
