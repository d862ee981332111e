//! Connections that nobody on their way opens, as processes: from outside through a gateway, and an app's by CONNECT.

use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::process::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const NAME: &str = "db.example.com";

/// An app that ends TLS itself, and says what it hears.
async fn app() -> (String, Arc<rustls::RootCertStore>) {
    let signed = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(signed.cert.der().clone()).unwrap();
    let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(socket).await else { return };
                let mut buffer = [0; 1024];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, Arc::new(roots))
}

/// TLS by this name over a connection that stands.
async fn secure(
    socket: TcpStream,
    roots: &Arc<rustls::RootCertStore>,
    name: &'static str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name.try_into().unwrap(), socket)).await?
}

async fn echoes(stream: &mut TlsStream<TcpStream>) -> bool {
    let mut answer = [0; 5];
    let exchange = async {
        stream.write_all(b"hello").await?;
        stream.read_exact(&mut answer).await
    };
    timeout(PATIENCE, exchange).await.unwrap().is_ok() && answer == *b"hello"
}

fn routes(tls: bool) -> String {
    let parent =
        |section: &str| format!("parentRefs: [{{name: gw, namespace: edge, sectionName: {section}}}]");
    let to = "rules: [{backendRefs: [{name: db, port: 80}]}]";
    let head = |kind: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{namespace: shop, name: db}}\n"
        )
    };
    let tcp = format!("{}spec: {{{}, {to}}}\n", head("TCPRoute"), parent("bytes"));
    match tls {
        true => {
            format!("{tcp}---\n{}spec: {{{}, hostnames: [{NAME}], {to}}}\n", head("TLSRoute"), parent("tls"))
        }
        false => tcp,
    }
}

#[tokio::test]
async fn an_apps_own_tls_comes_from_outside_and_from_inside_and_is_opened_by_nobody_on_its_way() {
    let (app, roots) = app().await;
    let (db_in, tls, bytes, proxy) = (free_address(), free_address(), free_address(), free_address());
    let mesh = Mesh::builder()
        .registry(service("db", "shop", "tls", "tcp", &db_in))
        .registry(permit("edge-to-db", "shop", "db", "ns/edge/sa/gw, ns/shop/sa/web", ""))
        .registry(
            "kind: Gateway\nmetadata: {namespace: edge, name: gw}\nspec:\n  identity: ns/edge/sa/gw\n  listeners:\n  \
             - {name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}, allowedRoutes: {namespaces: {from: All}}}\n  \
             - {name: bytes, port: 5432, protocol: TCP, allowedRoutes: {namespaces: {from: All}}}\n",
        )
        .registry(routes(true))
        .sidecar(Sidecar::new(
            "db.shop",
            format!("inbound: [{{service: db.shop, port: tls, listen: '{db_in}', app: 'tcp:{app}'}}]\n"),
        ))
        .sidecar(Sidecar::new("web.shop", format!("forwardProxy: {{listen: '{proxy}'}}\n")))
        // Without routes for requests it mints nothing, and is ready all the same.
        .sidecar(Sidecar::gateway(
            "gw.edge",
            format!(
                "gateway:\n  resource: gw.edge\n  listeners:\n  - {{listen: '{tls}', port: 443}}\n  \
                 - {{listen: '{bytes}', port: 5432}}\n"
            ),
        ))
        .start()
        .await;
    let mut streams = Vec::new();
    for address in [&tls, &bytes] {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut stream = secure(socket, &roots, NAME).await.unwrap();
        assert!(echoes(&mut stream).await);
        streams.push(stream);
    }
    let socket = TcpStream::connect(&tls).await.unwrap();
    let error = secure(socket, &roots, "other.example.com").await.unwrap_err();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");

    let mut socket = TcpStream::connect(&proxy).await.unwrap();
    socket
        .write_all(b"CONNECT db.shop.signet.internal:80 HTTP/1.1\r\nhost: db.shop.signet.internal:80\r\n\r\n")
        .await
        .unwrap();
    let opened = b"HTTP/1.1 200 OK\r\n\r\n";
    let mut answer = vec![0; opened.len()];
    timeout(PATIENCE, socket.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), String::from_utf8_lossy(opened));
    assert!(echoes(&mut secure(socket, &roots, NAME).await.unwrap()).await);

    // Both say where it goes.
    let gateway = mesh.admin("gw", "/config")["dataPlane"]["listeners"].clone();
    let tls_route = &gateway[0]["connections"][0];
    assert_eq!(
        (&gateway[0]["name"], &gateway[0]["takes"], &gateway[1]["takes"], &tls_route["name"]),
        (&"tls".into(), &"tls".into(), &"bytes".into(), &NAME.into()),
        "{gateway}"
    );
    assert_eq!(tls_route["backends"][0]["service"], "db.shop", "{gateway}");

    // The route goes, and with it what it let in; the other one stays.
    mesh.write_registry("test-3.yaml", &routes(false));
    let mut end = [0; 1];
    let ended = timeout(PATIENCE, streams[0].read(&mut end)).await.unwrap();
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    assert!(echoes(&mut streams[1]).await);
    let socket = TcpStream::connect(&tls).await.unwrap();
    assert!(secure(socket, &roots, NAME).await.is_err());
}
