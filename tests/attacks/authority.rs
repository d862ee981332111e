//! The control plane's ports: CSRs that ask for more, tokens that are not theirs, calls that are not for them.

use std::process::Command;

use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType};
use signet_identity::server_name;
use signet_proto::v1::delivery_client::DeliveryClient;
use signet_proto::v1::from_sidecar::Message;
use signet_proto::v1::tokens_client::TokensClient;
use signet_proto::v1::{DelegateRequest, FromSidecar, Hello, JoinBundle};
use signet_tests::Mesh;
use signet_tests::client::raw;
use signet_tests::peers::{run, tool};
use signet_tests::svid::{Svid, attest, control_plane};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

const ATTACKER: &str = "spiffe://test.signet/ns/shop/sa/attacker";

async fn mesh() -> Mesh {
    Mesh::builder()
        .registry("kind: Workload\nmetadata: {namespace: shop, name: attacker}\nspec: {class: sidecar}\n")
        .registry("kind: Workload\nmetadata: {namespace: shop, name: victim}\nspec: {class: sidecar}\n")
        .start()
        .await
}

async fn token(mesh: &Mesh) -> JoinBundle {
    mesh.join_bundle(ATTACKER, "sidecar").await
}

#[tokio::test]
async fn a_csr_that_asks_for_more_gets_the_plain_certificate() {
    let mut mesh = mesh().await;
    let bundle = token(&mesh).await;
    let key = KeyPair::generate().unwrap();
    let mut wishes = CertificateParams::new(vec!["victim.shop.signet.internal".into()]).unwrap();
    wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wishes.subject_alt_names.push(SanType::URI("spiffe://test.signet/ns/shop/sa/victim".try_into().unwrap()));
    let csr = wishes.serialize_request(&key).unwrap();
    let issued = attest(&bundle, csr.der().to_vec()).await.unwrap();
    assert_eq!(issued.spiffe_id, ATTACKER);
    let (_, leaf) = X509Certificate::from_der(&issued.chain_der[0]).unwrap();
    assert!(!leaf.is_ca());
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    let uris: Vec<_> = names.iter().filter(|name| matches!(name, GeneralName::URI(_))).collect();
    assert_eq!(uris, [&GeneralName::URI(ATTACKER)]);
    assert!(!format!("{names:?}").contains("victim"));
    mesh.assert_unharmed();
}

#[tokio::test]
async fn bad_csrs_are_invalid_arguments_and_do_not_use_the_token_up() {
    let mut mesh = mesh().await;
    let bundle = token(&mesh).await;
    let key = KeyPair::generate().unwrap();
    let good = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    let mut broken = good.clone();
    *broken.last_mut().unwrap() ^= 1;
    let mut trailing = good.clone();
    trailing.push(0);
    let mut bad = vec![
        ("nothing", vec![]),
        ("garbage", vec![0x30; 500]),
        ("a bad signature", broken),
        ("trailing bytes", trailing),
        ("too large", vec![0x30; 60_000]),
    ];
    if let Some(openssl) = tool("openssl") {
        let path = mesh.path("rsa.der");
        let mut command = Command::new(openssl);
        command
            .args([
                "req",
                "-new",
                "-newkey",
                "rsa:1024",
                "-nodes",
                "-subj",
                "/CN=x",
                "-outform",
                "DER",
                "-keyout",
                "/dev/null",
                "-out",
            ])
            .arg(&path);
        run(command).await;
        bad.push(("RSA of 1024 bits", std::fs::read(path).unwrap()));
    }
    for (what, csr) in bad {
        let status = attest(&bundle, csr).await.expect_err(what);
        assert!(
            [Code::InvalidArgument, Code::ResourceExhausted, Code::OutOfRange].contains(&status.code()),
            "{what}: {status}"
        );
    }
    attest(&bundle, good).await.expect("the token is still good");
    mesh.assert_unharmed();
}

#[tokio::test]
async fn unknown_used_and_garbled_tokens_are_refused_in_one_voice() {
    let mut mesh = mesh().await;
    let bundle = token(&mesh).await;
    let csr = || {
        CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    };
    attest(&bundle, csr()).await.unwrap();
    let mut answers = Vec::new();
    for token in [
        bundle.token.clone(),
        String::new(),
        "x".repeat(5000),
        bundle.token.replace(|c: char| c.is_ascii_digit(), "0") + "0",
    ] {
        let status = attest(&JoinBundle { token, ..bundle.clone() }, csr()).await.expect_err("a bad token");
        answers.push((status.code(), status.message().to_owned()));
    }
    assert!(answers.iter().all(|(code, _)| *code == Code::Unauthenticated), "{answers:?}");
    answers.dedup();
    assert_eq!(answers.len(), 1, "the answers tell bad tokens apart: {answers:?}");
    mesh.assert_unharmed();
}

async fn mesh_channel(mesh: &Mesh, svid: &Svid) -> Channel {
    let address = mesh.addresses("cp")["mesh"].as_str().unwrap().to_owned();
    let mut config = (*svid.foreign_client(&[b"h2"])).clone();
    // The control plane is named by its identity, not by DNS: this client looks at no name.
    config.dangerous().set_certificate_verifier(std::sync::Arc::new(AnyName));
    let config = std::sync::Arc::new(config);
    let connector = tower::service_fn(move |_: Uri| {
        let (config, address) = (config.clone(), address.clone());
        async move {
            let tcp = TcpStream::connect(address).await?;
            let tls = TlsConnector::from(config).connect(server_name(&control_plane()), tcp).await?;
            Ok::<_, std::io::Error>(TokioIo::new(tls))
        }
    });
    Endpoint::from_static("http://mesh").connect_with_connector(connector).await.expect("the mesh listener")
}

#[derive(Debug)]
struct AnyName;

impl rustls::client::danger::ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = signet_identity::crypto_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        signet_identity::crypto_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn a_sidecar_gets_no_delegation_and_no_other_services_policies() {
    let mut mesh = mesh().await;
    let attacker = Svid::join(&mesh, ATTACKER, "sidecar").await;
    let channel = mesh_channel(&mesh, &attacker).await;
    let jwk = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    let status =
        TokensClient::new(channel.clone()).delegate(DelegateRequest { jwk: jwk.into() }).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    mesh.write_registry(
        "victim.yaml",
        "kind: Service\nmetadata: {namespace: shop, name: victim}\nspec:\n  ports: [{name: http, port: 80, protocol: http}]\n  \
         endpoints: [{address: 127.0.0.1, ports: {http: 9}, identity: ns/shop/sa/victim}]\n---\n\
         kind: MeshPolicy\nmetadata: {namespace: shop, name: secret-rule}\nspec: {effect: permit, target: {service: victim}}\n",
    );
    // Whether the folder has been read again or not, the answer is no.
    let hello = Hello {
        serves: vec!["victim.shop".into()],
        services: vec!["victim.shop".into()],
        ..Hello::default()
    };
    let messages = tokio_stream::iter([FromSidecar { message: Some(Message::Hello(hello)) }]);
    let mut stream = DeliveryClient::new(channel)
        .stream(tokio_stream::StreamExt::chain(messages, tokio_stream::pending()))
        .await
        .unwrap()
        .into_inner();
    let mut told = String::new();
    while !told.contains("Refused") {
        told += &format!("{:?}", stream.message().await.unwrap());
    }
    assert!(!told.contains("secret-rule"), "{told}");
    mesh.assert_unharmed();
}

#[tokio::test]
async fn plaintext_and_garbage_harm_neither_port_of_the_control_plane() {
    let mut mesh = mesh().await;
    let addresses = mesh.addresses("cp");
    for port in ["bootstrap", "mesh"] {
        let address = addresses[port].as_str().unwrap();
        for bytes in [
            &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &[0x16, 3, 1, 0xff, 0xff],
            &[0; 1000],
        ] {
            let answer = raw(address, bytes).await;
            assert!(!answer.starts_with(b"HTTP/1.1 200"), "{port}");
        }
    }
    attest(
        &token(&mesh).await,
        CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec(),
    )
    .await
    .expect("an honest workload joins");
    mesh.assert_unharmed();
}
