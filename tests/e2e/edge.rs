//! Callers from outside, over TLS with a certificate of the outside world.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use signet_tests::apps::Echo;
use signet_tests::client::header;
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::process::PATIENCE;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::handshakes::find;

const NAME: &str = "shop.example";

/// A gateway with a listener of each protocol, and behind it a service of each.
struct Outside {
    mesh: Mesh,
    app: Echo,
    calls: Echo,
    http1: String,
    http2: String,
    roots: Arc<rustls::RootCertStore>,
}

impl Outside {
    async fn start() -> Self {
        let (app, calls) = (Echo::start().await, Echo::start().await);
        let (http1, http2) = (free_address(), free_address());
        let (web_in, calls_in) = (free_address(), free_address());
        let signed = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("edge.crt"), folder.path().join("edge.key"));
        fs::write(&cert, signed.cert.pem()).unwrap();
        fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let tls = format!("tls: {{cert: '{}', key: '{}'}}", cert.display(), key.display());
        let mesh = Mesh::builder()
            .registry(service("web", "shop", "http", "http1", &web_in))
            .registry(service("calls", "shop", "h2", "http2", &calls_in))
            .registry(permit("edge-to-web", "shop", "web", "ns/edge/sa/gw", ""))
            .registry(permit("edge-to-calls", "shop", "calls", "ns/edge/sa/gw", ""))
            .registry(
                "kind: Gateway\nmetadata: {namespace: edge, name: gw}\nspec:\n  identity: ns/edge/sa/gw\n  routes:\n  \
                 - {name: web, hosts: ['*'], pathPrefix: /web, service: web.shop, port: http, auth: {anonymous: true}}\n  \
                 - {name: calls, hosts: ['*'], pathPrefix: /calls, service: calls.shop, port: h2, auth: {anonymous: true}}\n",
            )
            .sidecar(Sidecar::new(
                "web.shop",
                format!("inbound: [{{service: web.shop, port: http, listen: '{web_in}', app: 'tcp:{}'}}]\n", app.address),
            ))
            .sidecar(Sidecar::new(
                "calls.shop",
                format!("inbound: [{{service: calls.shop, port: h2, listen: '{calls_in}', app: 'tcp:{}'}}]\n", calls.address),
            ))
            .sidecar(Sidecar::gateway(
                "gw.edge",
                format!(
                    "gateway:\n  resource: gw.edge\n  listeners:\n  - {{listen: '{http1}', {tls}}}\n  \
                     - {{listen: '{http2}', {tls}, protocol: http2}}\n"
                ),
            ))
            .start()
            .await;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(signed.cert.der().clone()).unwrap();
        Self { mesh, app, calls, http1, http2, roots: Arc::new(roots) }
    }

    /// TLS with these protocols offered.
    async fn dial(&self, address: &str, offered: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        let socket = TcpStream::connect(address).await?;
        timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(NAME.try_into().unwrap(), socket))
            .await?
    }

    async fn ask(&self, address: &str, offered: &[&[u8]], path: &str) -> Response<Bytes> {
        let stream = self.dial(address, offered).await.unwrap();
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        let request = Request::builder().uri(format!("https://{NAME}{path}")).header("host", NAME);
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let exchange = async {
            let answer = if h2 {
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(request).await.unwrap()
            } else {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                let (mut head, body) = request.into_parts();
                head.uri = path.parse().unwrap();
                sender.send_request(Request::from_parts(head, body)).await.unwrap()
            };
            let (head, body) = answer.into_parts();
            Response::from_parts(head, body.collect().await.unwrap().to_bytes())
        };
        timeout(PATIENCE, exchange).await.unwrap()
    }
}

const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];

#[tokio::test]
async fn callers_from_outside_come_in_by_https() {
    let outside = Outside::start().await;
    // A caller that would rather speak HTTP/2 is not led into it: the service speaks HTTP/1.1.
    for offered in [BOTH, &[b"http/1.1"], &[]] {
        let answer = outside.ask(&outside.http1, offered, "/web/orders").await;
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
    assert_eq!(outside.app.seen(), 3);

    let wrong = outside.ask(&outside.http1, BOTH, "/elsewhere").await;
    assert_eq!(wrong.status(), 404);
    assert!(!header(&wrong, "signet-decision-id").is_empty());
    assert!(!wrong.headers().contains_key("signet-deny-reason"), "strangers learn no reasons");
    // A route that leads to a port of the other kind, which nothing translates to.
    assert_eq!(outside.ask(&outside.http1, BOTH, "/calls").await.status(), 501);
    assert!(outside.dial(&outside.http1, &[b"h2"]).await.is_err(), "no HTTP/2 is offered");
    assert_eq!((outside.app.seen(), outside.calls.seen()), (3, 0));
}

#[tokio::test]
async fn callers_from_outside_speak_http2_to_services_that_do() {
    let outside = Outside::start().await;
    let answer = outside.ask(&outside.http2, BOTH, "/calls").await;
    assert_eq!(answer.version(), http::Version::HTTP_2);
    assert_eq!((answer.status().as_u16(), outside.calls.seen()), (200, 1), "{answer:?}");
    assert_eq!(outside.calls.last()["version"], "HTTP/2.0");

    assert_eq!(outside.ask(&outside.http2, BOTH, "/elsewhere").await.status(), 404);
    assert_eq!(outside.ask(&outside.http2, BOTH, "/web/orders").await.status(), 501);
    assert!(outside.dial(&outside.http2, &[b"http/1.1"]).await.is_err(), "no HTTP/1.1 is offered");
    assert_eq!((outside.app.seen(), outside.calls.seen()), (0, 1));
}

#[tokio::test]
async fn what_fails_at_the_edge_is_told_by_the_gateway() {
    let mut outside = Outside::start().await;
    let answer = signet_tests::client::raw(&outside.http1, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    // A client that does not believe the gateway's certificate.
    outside.roots = Arc::new(rustls::RootCertStore::empty());
    assert!(outside.dial(&outside.http1, BOTH).await.is_err());
    for (reason, alert) in [("plaintext", None), ("alert_received", Some("unknown_ca"))] {
        let found = || find(&outside.mesh, Some("gw"), "edge", reason);
        let found = signet_tests::process::until(reason, found).await;
        assert_eq!(found["alert"].as_str(), alert, "{found}");
        assert!(found["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{found}");
    }
}
