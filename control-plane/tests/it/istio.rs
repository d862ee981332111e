//! `CreateCertificate` as a client of Istio's authority knows it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use prost_types::{Struct, Value, value::Kind};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use signet_control_plane::listen::bootstrap::Limits;
use signet_identity::{PeerClass, Svid};
use signet_proto::istio::istio_certificate_service_client::IstioCertificateServiceClient;
use signet_proto::istio::{IstioCertificateRequest, IstioCertificateResponse};
use signet_tests::apiserver::{ApiServer, PodOf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

use crate::harness::{Plane, REGISTRY, soon};
use crate::kubernetes::{come, last_record};

const HOST: &str = "istiod.istio-system.svc";
const AUDIENCE: &str = "istio-ca";

async fn start(api: &ApiServer, more: &str) -> Plane {
    let lines = |folder: &Path| {
        let cluster = api.configuration(folder, "");
        format!("{cluster}istio: {{listen: '127.0.0.1:0'{more}}}\n")
    };
    Plane::start_as(Limits::default(), REGISTRY, lines).await
}

/// Dials as such a client does: its own roots, the server by its DNS name.
async fn channel(plane: &Plane, host: &'static str) -> Result<Channel, tonic::transport::Error> {
    let pem = std::fs::read(plane.dir.path().join("data/root.pem")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(signet_identity::crypto_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (config, address) = (Arc::new(config), plane.istio.unwrap());
    let connector = tower::service_fn(move |_: Uri| {
        let config = Arc::clone(&config);
        async move {
            let tcp = TcpStream::connect(address).await?;
            let name = ServerName::try_from(host).unwrap();
            TlsConnector::from(config).connect(name, tcp).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://istiod").connect_with_connector(connector).await
}

fn asking() -> IstioCertificateRequest {
    let key = KeyPair::generate().unwrap();
    // What such clients put into their requests, and what we do not read.
    let uri = "spiffe://demo.signet/ns/shop/sa/orders".try_into().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names.push(rcgen::SanType::URI(uri));
    IstioCertificateRequest {
        csr: params.serialize_request(&key).unwrap().pem().unwrap(),
        validity_duration: 0,
        metadata: None,
    }
}

fn for_another(id: &str) -> IstioCertificateRequest {
    let value = Value { kind: Some(Kind::StringValue(id.into())) };
    let fields = BTreeMap::from([("ImpersonatedIdentity".to_owned(), value)]);
    IstioCertificateRequest { metadata: Some(Struct { fields }), ..asking() }
}

async fn create(
    plane: &Plane,
    token: Option<&str>,
    request: IstioCertificateRequest,
) -> Result<IstioCertificateResponse, Status> {
    let mut client = IstioCertificateServiceClient::new(channel(plane, HOST).await.unwrap());
    let mut request = Request::new(request);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request.metadata_mut().insert("clusterid", "Kubernetes".parse().unwrap());
    Ok(soon(client.create_certificate(request)).await?.into_inner())
}

/// Leaf and intermediates, and the roots of the last element.
fn chain(
    response: &IstioCertificateResponse,
) -> (Vec<CertificateDer<'static>>, Vec<CertificateDer<'static>>) {
    let all = |pem: &String| -> Vec<_> {
        assert!(
            pem.starts_with("-----BEGIN CERTIFICATE-----\n") && pem.ends_with("-----END CERTIFICATE-----\n")
        );
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
    };
    let (last, before) = response.cert_chain.split_last().unwrap();
    let chain = before.iter().map(|pem| {
        let one = all(pem);
        assert_eq!(one.len(), 1, "one certificate in each element but the last");
        one[0].clone()
    });
    (chain.collect(), all(last))
}

#[tokio::test]
async fn an_istio_client_gets_leaf_intermediate_and_roots_for_a_key_of_class_workload() {
    let api = ApiServer::start().await;
    let mut plane = start(&api, "").await;
    let web = PodOf::new("web.shop");
    api.run(&web);
    let response = create(&plane, Some(&api.token(&web, AUDIENCE)), asking()).await.unwrap();
    let (certificates, roots) = chain(&response);
    assert_eq!((certificates.len(), roots.len()), (2, 1));
    let svid = Svid::parse(&certificates).unwrap();
    assert_eq!(svid.id.as_str(), "spiffe://demo.signet/ns/shop/sa/web", "the token's, not the request's");
    assert_eq!(svid.class, PeerClass::Workload);
    assert!(svid.dns_names.is_empty(), "{:?}", svid.dns_names);
    assert!((3590..=3600).contains(&(svid.not_after - signet_tests::issuer::now())));
    let pem = std::fs::read(plane.dir.path().join("data/root.pem")).unwrap();
    assert_eq!(roots[0], CertificateDer::from_pem_slice(&pem).unwrap());
    let record = last_record(&mut plane).await;
    assert_eq!((record.event.as_str(), record.peer_class.as_str()), ("issued", "workload"));
}

/// Pitfall 23: a life of zero is the default, a negative one and one over the maximum are errors.
#[tokio::test]
async fn the_life_that_is_asked_is_given_up_to_the_maximum_and_refused_beyond() {
    let api = ApiServer::start().await;
    let plane = start(&api, ", maxTtlSeconds: 7200").await;
    let web = PodOf::new("web.shop");
    api.run(&web);
    for (asked, expected) in [(0, Ok(3600)), (7200, Ok(7200)), (60, Ok(60)), (7201, Err(())), (-1, Err(()))] {
        let request = IstioCertificateRequest { validity_duration: asked, ..asking() };
        match (create(&plane, Some(&api.token(&web, AUDIENCE)), request).await, expected) {
            (Ok(response), Ok(life)) => {
                let svid = Svid::parse(&chain(&response).0).unwrap();
                let left = svid.not_after - signet_tests::issuer::now();
                assert!((life - 10..=life).contains(&left), "{asked}: {left}");
            }
            (Err(status), Err(())) => assert_eq!(status.code(), Code::InvalidArgument, "{asked}: {status}"),
            (other, _) => panic!("{asked}: {other:?}"),
        }
    }
}

/// Pitfall 24: every error of signing is a code, and the process goes on.
#[tokio::test]
async fn each_error_has_its_code_and_a_stranger_learns_nothing() {
    let api = ApiServer::start().await;
    let mut plane = start(&api, "").await;
    let (web, nobody) = (PodOf::new("web.shop"), PodOf::new("nobody.shop"));
    api.run(&web);
    api.run(&nobody);
    let good = api.token(&web, AUDIENCE);
    let ours = api.token(&web, "signet-ca");
    let of_nobody = api.token(&nobody, AUDIENCE);
    let with_csr = |csr: &str| IstioCertificateRequest { csr: csr.into(), ..asking() };
    let rsa = "-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n";
    for (what, token, request, code) in [
        ("no token", None, asking(), Code::Unauthenticated),
        ("garbage", Some("garbage"), asking(), Code::Unauthenticated),
        ("for our own programs", Some(ours.as_str()), asking(), Code::Unauthenticated),
        ("of nobody in the registry", Some(of_nobody.as_str()), asking(), Code::Unauthenticated),
        ("a bad request without a token", None, with_csr(""), Code::Unauthenticated),
        ("an empty request", Some(&good), with_csr(""), Code::InvalidArgument),
        ("no request", Some(&good), with_csr("a"), Code::InvalidArgument),
        ("an empty sequence", Some(&good), with_csr(rsa), Code::InvalidArgument),
    ] {
        let status = create(&plane, token, request).await.expect_err(what);
        assert_eq!(status.code(), code, "{what}: {status}");
        if code == Code::Unauthenticated {
            assert_eq!(status.message(), "request authenticate failure", "{what}");
        }
    }
    let again = asking();
    create(&plane, Some(&api.token(&web, AUDIENCE)), again.clone()).await.unwrap();
    let status = create(&plane, Some(&api.token(&web, AUDIENCE)), again).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "a used key: {status}");
    // And the other way round: a token for Istio's authority is none for ours.
    come(&mut plane, good).await.unwrap_err();
    api.is_away(true);
    let status = create(&plane, Some(&api.token(&web, AUDIENCE)), asking()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_listed_node_proxy_gets_the_identities_of_its_own_node_and_no_others() {
    let api = ApiServer::start().await;
    let mut plane = start(&api, ", trustedNodeAccounts: [ztunnel.istio-system]").await;
    let proxy = PodOf { node: "node1".into(), ..PodOf::new("ztunnel.istio-system") };
    let web = PodOf { node: "node1".into(), ..PodOf::new("web.shop") };
    let orders = PodOf { node: "node2".into(), ..PodOf::new("orders.shop") };
    [&proxy, &web, &orders].into_iter().for_each(|pod| api.run(pod));
    let of_proxy = || api.token(&proxy, AUDIENCE);
    let id = |name: &str| format!("spiffe://demo.signet/ns/shop/sa/{name}");

    let response = create(&plane, Some(&of_proxy()), for_another(&id("web"))).await.unwrap();
    let svid = Svid::parse(&chain(&response).0).unwrap();
    assert_eq!((svid.id.as_str(), svid.class), (id("web").as_str(), PeerClass::Workload));
    assert!(last_record(&mut plane).await.reason.contains("pod istio-system/ztunnel-1"), "who holds the key");

    for (what, token, request) in [
        ("on another node", of_proxy(), for_another(&id("orders"))),
        ("that runs nowhere", of_proxy(), for_another(&id("nobody"))),
        ("of another trust domain", of_proxy(), for_another("spiffe://other/ns/shop/sa/web")),
        (
            "of the control plane",
            of_proxy(),
            for_another("spiffe://demo.signet/ns/signet-system/sa/signet-control-plane"),
        ),
        ("by somebody who is not listed", api.token(&web, AUDIENCE), for_another(&id("web"))),
        ("of the proxy, whom the registry does not know", of_proxy(), asking()),
    ] {
        let status = create(&plane, Some(&token), request).await.expect_err(what);
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unauthenticated, "request authenticate failure"),
            "{what}"
        );
    }
}

#[tokio::test]
async fn the_server_shows_only_the_names_that_it_was_given() {
    let api = ApiServer::start().await;
    let plane = start(&api, ", dnsNames: [ca.example.com]").await;
    assert!(channel(&plane, "ca.example.com").await.is_ok());
    assert!(channel(&plane, HOST).await.is_err());
    assert!(channel(&plane, "localhost").await.is_err());
}
