//! What does not get as far as a request.

use std::sync::Arc;

use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};
use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{PeerClass, SpiffeId};
use signet_tests::client::raw;
use signet_tests::mesh::TRUST_DOMAIN;
use signet_tests::svid::Svid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::scene::Scene;

const NAME: &str = "server.shop.signet.internal";

/// A request over TLS; the error where the handshake, or the first read after it, fails.
async fn request(config: Arc<rustls::ClientConfig>, address: &str, path: &str) -> std::io::Result<String> {
    let tcp = TcpStream::connect(address).await?;
    let mut tls = TlsConnector::from(config).connect(ServerName::try_from(NAME).unwrap(), tcp).await?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n");
    tls.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn plaintext_garbage_and_half_a_hello_are_refused_and_counted() {
    let mut scene = Scene::start().await;
    let answer = String::from_utf8_lossy(&raw(&scene.inbound, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await)
        .into_owned();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer:?}");
    assert!(answer.to_ascii_lowercase().contains("signet-deny-reason: plaintext"), "{answer:?}");
    for bytes in [
        &[0u8; 64][..],
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03",
        b"\x80\x2e\x01\x00\x02",
        &[0xff; 4096],
        b"",
    ] {
        let answer = raw(&scene.inbound, bytes).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{bytes:?}");
    }
    assert!(
        scene.counted("server", "signet_handshake_failures").await >= 6.0,
        "{}",
        scene.mesh.metrics("server").await
    );
    assert_eq!(scene.app.seen(), 0);
    scene.assert_unharmed().await;
}

#[tokio::test]
async fn a_certificate_of_another_root_is_refused() {
    let mut scene = Scene::start().await;
    // The attacker's own authority for the same trust domain, and the very identity that is permitted.
    let authority = TestCa::new(TRUST_DOMAIN);
    let id: SpiffeId = format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/client").parse().unwrap();
    let own = authority.svid(&id, PeerClass::Sidecar, SvidOptions::default().at_wall_clock());
    let honest = Svid::join(&scene.mesh, "spiffe://test.signet/ns/shop/sa/attacker", "sidecar").await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(honest.root()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(signet_identity::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            own.chain().to_vec(),
            PrivatePkcs8KeyDer::from(own.private_key_pkcs8().to_vec()).into(),
        )
        .unwrap();
    let answer = request(Arc::new(config), &scene.inbound, "/public").await;
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(scene.app.seen(), 0);
    scene.assert_unharmed().await;
}

#[tokio::test]
async fn an_identity_without_permission_is_refused_with_an_id() {
    let mut scene = Scene::start().await;
    let attacker = Svid::join(&scene.mesh, "spiffe://test.signet/ns/shop/sa/attacker", "sidecar").await;
    let config = attacker.foreign_client(&[b"signet-http/1.1"]);
    let answer = request(config.clone(), &scene.inbound, "/public").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for path in ["/private", "/public/", "/public/x", "/PUBLIC"] {
        let answer = request(config.clone(), &scene.inbound, path).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("signet-decision-id"),
            "{path}: {answer}"
        );
    }
    // Ways to write a path that a policy sees in one way and an app in another.
    for path in [
        "/public/../private",
        "//private",
        "/public%2f..%2fprivate",
        "/%70rivate",
        "/public;x",
        "/./private",
        "/public\\..\\private",
    ] {
        let answer = request(config.clone(), &scene.inbound, path).await.unwrap();
        assert!(!answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    assert_eq!(scene.app.seen(), 1);
    scene.assert_unharmed().await;
}

#[tokio::test]
async fn a_compromised_sidecar_cannot_name_its_user() {
    let mut scene = Scene::start().await;
    let attacker = Svid::join(&scene.mesh, "spiffe://test.signet/ns/shop/sa/attacker", "sidecar").await;
    let tcp = TcpStream::connect(&scene.inbound).await.unwrap();
    let config = attacker.foreign_client(&[b"signet-http/1.1"]);
    let mut tls = TlsConnector::from(config).connect(ServerName::try_from(NAME).unwrap(), tcp).await.unwrap();
    tls.write_all(
        b"GET /public HTTP/1.1\r\nhost: server\r\nsignet-user: mallory\r\nsignet_user: mallory\r\n\
          x-forwarded-client-cert: mallory\r\nsignet-context: forwarded\r\nconnection: close\r\n\r\n",
    )
    .await
    .unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("mallory"), "{answer}");
    let caller = scene.app.last()["headers"]["x-forwarded-client-cert"].to_string();
    assert!(caller.contains("/sa/attacker"), "{caller}");
    scene.assert_unharmed().await;
}

/// Many connections that never finish their hello do not keep anybody else out.
#[tokio::test]
async fn hellos_that_never_end_do_not_block_others() {
    let mut scene = Scene::start().await;
    let mut held = Vec::new();
    for address in [&scene.inbound, &scene.gateway, &scene.outbound] {
        for _ in 0..100 {
            let mut stream = TcpStream::connect(address.as_str()).await.unwrap();
            stream.write_all(b"\x16\x03\x01").await.unwrap();
            held.push(stream);
        }
    }
    scene.assert_unharmed().await;
    // Each of those at the mutual TLS port is ended by the sidecar, not by us.
    let mut buffer = [0; 64];
    for stream in held.iter_mut().take(100) {
        let ended = tokio::time::timeout(signet_tests::process::PATIENCE, async {
            while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
        });
        ended.await.expect("a hello that never ends is cut");
    }
    drop(held);
    scene.assert_unharmed().await;
}
