//! The crates `spiffe` and `spiffe-rustls`, unmodified, on our socket.

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use signet_tests::mesh::Sidecar;
use spiffe::{JwtSource, X509Source};
use spiffe_rustls::{TrustDomainPolicy, authorizer, mtls_client, mtls_server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::workload::{APP, SERVER, Shop};

const PATIENCE: Duration = Duration::from_secs(60);

async fn source(shop: &Shop, name: &str) -> X509Source {
    let endpoint = format!("unix:{}", shop.mesh.workload_socket(name).display());
    X509Source::builder().endpoint(endpoint).build().await.expect("a source of X.509-SVIDs")
}

fn ours() -> TrustDomainPolicy {
    TrustDomainPolicy::LocalOnly("test.signet".try_into().expect("a trust domain"))
}

fn client(source: &X509Source, server: &str) -> Arc<rustls::ClientConfig> {
    let config = mtls_client(source.clone())
        .authorize(authorizer::exact([server]).expect("an identity"))
        .trust_domain_policy(ours())
        .with_alpn_protocols(["http/1.1"])
        .build();
    Arc::new(config.expect("a client's configuration"))
}

/// One request by mutual TLS; the whole answer as text.
async fn get(config: &Arc<rustls::ClientConfig>, address: &str, name: &str, headers: &str) -> String {
    let tcp = TcpStream::connect(address).await.expect("a connection");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut tls = TlsConnector::from(config.clone()).connect(name, tcp).await.expect("a handshake");
    let request = format!("GET /from-an-app HTTP/1.1\r\nhost: server\r\nconnection: close\r\n{headers}\r\n");
    tls.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = Vec::new();
    // Whoever closes without a last word of TLS has answered before.
    let _ = tls.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn the_rust_libraries_follow_a_rotation_and_speak_mutual_tls_with_a_sidecar() {
    let mut shop = Shop::with(|mesh| mesh.svid_seconds(12)).await;
    let source = source(&shop, "app").await;
    let first = source.svid().expect("an SVID");
    assert_eq!(first.spiffe_id().to_string(), APP);
    let config = client(&source, SERVER);
    let name = "server.shop.signet.internal";
    let forged =
        "Txn-Token: forged\r\nSignet-User: forged\r\nX-Forwarded-Client-Cert: URI=spiffe://forged\r\n";
    let answer = get(&config, &shop.inbound, name, forged).await;
    assert!(answer.contains("\"path\":\"/from-an-app\""), "{answer}");
    assert!(answer.contains(&format!("URI={APP}")), "{answer}");
    assert!(!answer.contains("forged"), "an app spoke of users and was heard: {answer}");

    let mut updates = source.updated();
    tokio::time::timeout(PATIENCE, updates.changed()).await.expect("a rotation in time").expect("a rotation");
    let second = source.svid().expect("an SVID");
    assert_ne!(first.leaf().as_bytes(), second.leaf().as_bytes());
    assert_ne!(first.private_key().as_bytes(), second.private_key().as_bytes());
    let answer = get(&config, &shop.inbound, name, "").await;
    assert!(answer.contains("200 OK"), "after the rotation: {answer}");
    assert_eq!(shop.server.seen(), 2);
    shop.mesh.assert_unharmed();
}

#[tokio::test]
async fn two_apps_speak_mutual_tls_with_nothing_of_ours_between_them() {
    let shop = Shop::with(|mesh| mesh.sidecar(Sidecar::new("other.shop", "").with_workload_api())).await;
    let (app, other) = (source(&shop, "app").await, source(&shop, "other").await);
    let id = other.svid().expect("an SVID").spiffe_id().to_string();
    let server = mtls_server(other.clone())
        .authorize(authorizer::exact([APP]).expect("an identity"))
        .trust_domain_policy(ours())
        .with_alpn_protocols(["http/1.1"])
        .build()
        .expect("a server's configuration");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(server));
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            let mut request = [0; 1024];
            let _ = tls.read(&mut request).await;
            let _ = tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
            let _ = tls.shutdown().await;
        }
    });
    let answer = get(&client(&app, &id), &address, "other.shop.signet.internal", "").await;
    assert!(answer.ends_with("hi"), "{answer}");
}

#[tokio::test]
async fn the_rust_library_fetches_tokens_and_their_keys() {
    let shop = Shop::start().await;
    let endpoint = format!("unix:{}", shop.socket().display());
    let source = JwtSource::builder().endpoint(endpoint).build().await.expect("a source of JWT-SVIDs");
    let token = source.fetch_jwt_svid(["db", "cache"]).await.expect("a token");
    assert_eq!(token.spiffe_id().to_string(), APP);
    assert_eq!(token.audience(), ["cache", "db"]);
    let domain = "test.signet".try_into().expect("a trust domain");
    let bundle = source.try_bundle_for_trust_domain(&domain).expect("the keys of our trust domain");
    assert!(bundle.find_jwt_authority(token.key_id()).is_some(), "the token names a key of the bundle");
}
