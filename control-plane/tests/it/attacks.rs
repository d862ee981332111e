//! Whoever comes to a door with the wrong thing in hand, and the process that goes on.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rcgen::KeyPair;
use signet_ca::Revocations;
use signet_control_plane::listen::{bootstrap::Limits, mesh};
use signet_control_plane::metrics::Metrics;
use signet_control_plane::registry;
use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{Generation, GenerationOptions, PeerClass, TrustDomain};
use signet_proto::v1::{
    self, bootstrap_client::BootstrapClient, identity_client::IdentityClient, operator_client::OperatorClient,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::Code;

use crate::harness::{GATEWAY, Plane, WEB, attest, bootstrap_config, csr, dial, hello, soon};

/// Sends bytes and reads until the other side closes.
async fn throw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    answer
}

#[tokio::test]
async fn plaintext_and_garbage_at_both_doors_are_counted_and_change_nothing() {
    let mut plane = Plane::start().await;
    for address in [plane.bootstrap, plane.mesh] {
        assert!(throw(address, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.is_empty());
        assert!(throw(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.is_empty());
        throw(address, &[0xff; 64]).await;
    }
    for listener in ["bootstrap", "mesh"] {
        let line = format!(
            "signet_control_plane_handshake_failures_total{{listener=\"{listener}\",reason=\"plaintext\"}} "
        );
        assert_eq!(plane.metric(&line).await, Some(2.0), "{listener}");
    }
    plane.join(WEB, "sidecar").await.stream(hello(&[], &[])).await.delta().await;
}

#[tokio::test]
async fn half_a_hello_does_not_hold_a_place() {
    let mut plane = Plane::start_with(Limits { connections: 2, burst: 64, per_second: 64.0 }).await;
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(plane.bootstrap).await.unwrap();
        stream.write_all(&[0x16, 3, 1]).await.unwrap();
        idle.push(stream);
    }
    for stream in &mut idle {
        let mut rest = Vec::new();
        let _ = soon(stream.read_to_end(&mut rest)).await;
    }
    plane.join(WEB, "sidecar").await;
}

#[tokio::test]
async fn one_address_cannot_take_every_handshake_of_the_mesh_door() {
    let plane = Plane::start().await;
    let mut idle = Vec::new();
    for _ in 0..70 {
        let mut stream = TcpStream::connect(plane.mesh).await.unwrap();
        stream.write_all(&[0x16, 3, 1]).await.unwrap();
        idle.push(stream);
    }
    let turned_away = "signet_control_plane_connections_total{fate=\"address_limit\",listener=\"mesh\"} ";
    soon(async { while plane.metric(turned_away).await != Some(6.0) {} }).await;
}

#[tokio::test]
async fn one_certificate_cannot_take_every_connection_of_the_mesh_door() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let mut held = Vec::new();
    for _ in 0..mesh::MAX_CONNECTIONS_OF_CERTIFICATE {
        let channel = web.channel().await;
        // Answered, so that it is known to have its place.
        let request = v1::RenewRequest::default();
        let status = soon(IdentityClient::new(channel.clone()).renew(request)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        held.push(channel);
    }
    let refused = match dial(plane.mesh, web.config.clone()).await {
        Err(_) => true,
        Ok(channel) => match soon(IdentityClient::new(channel).renew(v1::RenewRequest::default())).await {
            Ok(_) => false,
            Err(status) => status.code() != Code::InvalidArgument,
        },
    };
    assert!(refused, "one more than a certificate may have");
    let line = "signet_control_plane_connections_total{fate=\"peer_limit\",listener=\"mesh\"} ";
    assert_eq!(plane.metric(line).await, Some(1.0));
    // Another workload is served all the same, and a place that is given back can be taken again.
    plane.join(crate::harness::ORDERS, "sidecar").await.stream(hello(&[], &[])).await.delta().await;
    held.clear();
    soon(async {
        loop {
            let Ok(channel) = dial(plane.mesh, web.config.clone()).await else { continue };
            let answer = IdentityClient::new(channel).renew(v1::RenewRequest::default()).await;
            if answer.is_err_and(|status| status.code() == Code::InvalidArgument) {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_address_that_tries_too_often_is_turned_away_before_tls() {
    let mut plane = Plane::start_with(Limits { connections: 16, burst: 3, per_second: 0.001 }).await;
    let bundle = plane.token(WEB, "sidecar").await;
    for _ in 0..3 {
        let status = attest(&bundle, "wrong", csr(&KeyPair::generate().unwrap())).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    let status = attest(&bundle, &bundle.token, csr(&KeyPair::generate().unwrap())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "not even a handshake");
    let line = "signet_control_plane_connections_total{fate=\"address_limit\",listener=\"bootstrap\"} ";
    assert!(plane.metric(line).await.unwrap() >= 1.0);
}

#[tokio::test]
async fn each_door_serves_its_own_and_nothing_else() {
    let mut plane = Plane::start().await;
    let bundle = plane.token(WEB, "sidecar").await;
    let stranger = dial(plane.bootstrap, bootstrap_config(&bundle)).await.unwrap();
    let request = v1::RenewRequest { csr_der: csr(&KeyPair::generate().unwrap()), kubernetes: None };
    let status = soon(IdentityClient::new(stranger.clone()).renew(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let status = soon(OperatorClient::new(stranger).status(v1::StatusRequest {})).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let web = plane.join(WEB, "sidecar").await;
    let status =
        soon(OperatorClient::new(web.channel().await).status(v1::StatusRequest {})).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let request = v1::AttestRequest::default();
    let status = soon(BootstrapClient::new(web.channel().await).attest(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

/// A client that keeps its certificate to itself.
#[derive(Debug)]
struct Nobody;

impl rustls::client::ResolvesClientCert for Nobody {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn the_mesh_door_wants_a_certificate() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let mut config = rustls::ClientConfig::clone(&web.config);
    config.client_auth_cert_resolver = Arc::new(Nobody);
    let refused = match dial(plane.mesh, Arc::new(config)).await {
        Err(_) => true,
        // TLS 1.3: the client may think that it is in before the server's word comes.
        Ok(channel) => soon(IdentityClient::new(channel).renew(v1::RenewRequest::default())).await.is_err(),
    };
    assert!(refused);
    let line = "signet_control_plane_handshake_failures_total{listener=\"mesh\",reason=\"no_certificate\"} ";
    assert_eq!(plane.metric(line).await, Some(1.0));
}

#[tokio::test]
async fn only_a_listed_gateway_of_its_class_gets_a_delegation() {
    let mut plane = Plane::start().await;
    let key = signet_token::SigningKey::generate().unwrap();
    let public = serde_json::to_string(&key.public_jwk().to_json()).unwrap();
    let web = plane.join(WEB, "sidecar").await;
    assert_eq!(web.delegate(&public).await.unwrap_err().code(), Code::PermissionDenied);
    let unlisted = plane.join("spiffe://demo.signet/ns/edge/sa/unlisted", "gateway").await;
    assert_eq!(unlisted.delegate(&public).await.unwrap_err().code(), Code::PermissionDenied);
    let gateway = plane.join(GATEWAY, "gateway").await;
    for bad in [
        "",
        "{}",
        r#"{"kty":"oct","k":"AAAA"}"#,
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
        &public.replacen('{', r#"{"d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE","#, 1),
        &format!("{public}{}", " ".repeat(8_192)),
    ] {
        assert_eq!(gateway.delegate(bad).await.unwrap_err().code(), Code::InvalidArgument, "{bad}");
    }
    let line = "signet_control_plane_refusals_total{call=\"delegate\",reason=\"class\"} ";
    assert_eq!(plane.metric(line).await, Some(1.0));
}

#[tokio::test]
async fn a_gateway_that_only_passes_bytes_between_clusters_gets_no_delegation() {
    let gateway = "---
apiVersion: signet.mesh/v1alpha1
kind: Gateway
metadata: {namespace: edge, name: west}
spec: {identity: ns/edge/sa/unlisted, eastWest: {services: [web.shop]}}
";
    let registry = format!("{}{gateway}", crate::harness::REGISTRY);
    let mut plane = Plane::start_as(Limits::default(), &registry, |_| String::new()).await;
    let west = plane.join("spiffe://demo.signet/ns/edge/sa/unlisted", "gateway").await;
    let mut stream = west.stream(hello(&[], &[])).await;
    let delta = stream.delta().await;
    let names: Vec<_> = delta.upserts.iter().map(|resource| resource.name.as_str()).collect();
    assert!(names.contains(&"gateway/west.edge") && names.contains(&"service/web.shop"), "{names:?}");
    let key = signet_token::SigningKey::generate().unwrap();
    let public = serde_json::to_string(&key.public_jwk().to_json()).unwrap();
    let refused = west.delegate(&public).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("a route from outside"), "{refused}");
}

/// The mesh door alone, with certificates that end when a test needs it.
#[tokio::test]
async fn a_connection_ends_with_the_certificate_that_opened_it() {
    let ca = TestCa::new("demo.signet");
    let wall = || SvidOptions::default().at_wall_clock();
    let build = |short: &str, class, options| {
        let own = ca.svid(&ca.id(short), class, options);
        Generation::build(1, own, ca.bundles(), GenerationOptions::default()).unwrap()
    };
    let server = build("ns/signet-system/sa/signet-control-plane", PeerClass::ControlPlane, wall());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_trigger, shutdown) = signet_daemon::shutdown::channel();
    let (_revoke, revocations) = watch::channel(Arc::new(Revocations::default()));
    let text = "{apiVersion: signet.mesh/v1alpha1, kind: Workload, metadata: {namespace: shop, name: web}, spec: {class: sidecar}}";
    let web = signet_model::parse_text(Path::new("mesh.yaml"), text, &Default::default()).unwrap();
    let state = registry::State {
        registry: Arc::new(web),
        loaded_at: 0,
        errors: Vec::new(),
        warnings: Vec::new(),
        refused: 0,
    };
    let (_registry, registry) = watch::channel(state);
    let metrics = Metrics::new().unwrap();
    let roots = vec![ca.root().clone()];
    let (_published, published) =
        watch::channel(Arc::new(signet_ca::Published { roots, ..Default::default() }));
    tokio::spawn(mesh::listen(
        listener,
        mesh::Mesh {
            generation: Arc::new(ArcSwap::new(server)),
            revocations,
            published,
            registry,
            trust_domain: TrustDomain::parse("demo.signet").unwrap(),
            allow_unregistered: false,
            routes: tonic::service::Routes::default(),
            operators: None,
            metrics: metrics.clone(),
            shutdown,
            drain: signet_daemon::Drain::new(),
        },
    ));
    let connect = async |options: SvidOptions| {
        let client = build("ns/shop/sa/web", PeerClass::Sidecar, options);
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = signet_identity::server_name(&crate::harness::control_plane());
        tokio_rustls::TlsConnector::from(client.control_plane_client_config()).connect(name, tcp).await
    };
    let ended = |reason: &str| metrics.connections_ended.with_label_values(&[reason]).get();

    let mut stream = connect(SvidOptions::default().ends_in(2).at_wall_clock()).await.unwrap();
    // Alive and idle: the preface, empty settings, and then nothing but reading.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut heard = Vec::new();
    let _ = soon(stream.read_to_end(&mut heard)).await;
    assert_eq!(ended("expired"), 1);
    let goaway = heard.windows(4).any(|w| w[0] == 7 && w[1] == 0 && w[2..] == [0, 0]);
    assert!(goaway, "told before it was cut");

    let mut late = match connect(SvidOptions::default().ends_in(-1).at_wall_clock()).await {
        Err(_) => return,
        Ok(stream) => stream,
    };
    let mut heard = Vec::new();
    let _ = soon(late.read_to_end(&mut heard)).await;
    assert_eq!(metrics.handshake_failures.with_label_values(&["mesh", "expired"]).get(), 1);
}
