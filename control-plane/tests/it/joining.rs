//! From evidence to an SVID, and from one SVID to the next.

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use signet_identity::{PeerClass, Svid};
use signet_token::TokenRoots;
use tonic::Code;

use crate::harness::{GATEWAY, Member, ORDERS, Plane, REGISTRY, WEB, attest, csr, hello, soon};

fn parse(svid: &signet_proto::v1::IssuedSvid) -> Svid {
    let chain: Vec<_> = svid.chain_der.iter().map(|der| CertificateDer::from(der.clone())).collect();
    Svid::parse(&chain).unwrap()
}

#[tokio::test]
async fn a_workload_joins_renews_and_opens_its_stream() {
    let mut plane = Plane::start().await;
    let orders = plane.join(ORDERS, "sidecar").await;
    let first = parse(&orders.svid);
    assert_eq!((first.id.as_str(), first.class), (ORDERS, PeerClass::Sidecar));
    assert_eq!(first.dns_names, ["orders.shop.signet.internal"], "the registry's names, not the request's");
    let key = KeyPair::generate().unwrap();
    let renewed = orders.renew(csr(&key)).await.unwrap();
    let second = parse(&renewed);
    assert_eq!(second.id.as_str(), ORDERS);
    assert_ne!((second.serial, second.key), (first.serial, first.key));
    assert!(renewed.renew_at < renewed.not_after);
    let bundle = plane.token(ORDERS, "sidecar").await;
    let mut stream = Member::new(&bundle, renewed, &key).stream(hello(&["web.shop"], &["orders.shop"])).await;
    assert_eq!(
        crate::harness::names(&stream.delta().await),
        [
            "bundle/demo.signet",
            "inbound/orders.shop",
            "mesh",
            "revocations",
            "service/orders.shop",
            "service/web.shop",
            "token-roots"
        ]
    );
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_costs_nothing() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let request = csr(&KeyPair::generate().unwrap());
    let once = web.renew(request.clone()).await.unwrap();
    let again = web.renew(request).await.unwrap();
    assert_eq!(once.chain_der, again.chain_der);
}

#[tokio::test]
async fn a_workload_that_left_the_registry_gets_no_further_certificate() {
    let mut plane = Plane::start().await;
    let web = plane.join(WEB, "sidecar").await;
    let mut status = plane.operator.clone();
    let before = status.status(signet_proto::v1::StatusRequest {}).await.unwrap().into_inner();
    assert!(before.registry_errors.is_empty());
    plane.edit(&REGISTRY.replacen("name: web}", "name: other}", 1));
    let key = KeyPair::generate().unwrap();
    let code = soon(async {
        loop {
            // The same request: until the folder is looked at, it is answered, and answered the same again.
            match web.renew(csr(&key)).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(status) => return status.code(),
            }
        }
    })
    .await;
    // Its connection ends at that very moment: it hears of the refusal, or of the end.
    assert!(
        matches!(code, Code::PermissionDenied | Code::Unknown | Code::Unavailable | Code::Cancelled),
        "{code:?}"
    );
    assert!(web.renew(csr(&key)).await.is_err(), "it was renewed after all");
}

#[tokio::test]
async fn a_used_token_is_refused() {
    let mut plane = Plane::start().await;
    let bundle = plane.token(WEB, "sidecar").await;
    let attempt = || async {
        let key = KeyPair::generate().unwrap();
        attest(&bundle, &bundle.token, csr(&key)).await
    };
    attempt().await.unwrap();
    let again = attempt().await.unwrap_err();
    let unknown = attest(&bundle, "signet-join-AAAA", csr(&KeyPair::generate().unwrap())).await.unwrap_err();
    assert_eq!(again.code(), Code::Unauthenticated);
    assert_eq!((again.code(), again.message()), (unknown.code(), unknown.message()), "one text for all");
}

#[tokio::test]
async fn a_garbage_request_is_refused_and_does_not_use_up_the_token() {
    let mut plane = Plane::start().await;
    let bundle = plane.token(WEB, "sidecar").await;
    let key = KeyPair::generate().unwrap();
    let mut tampered = csr(&key);
    *tampered.last_mut().unwrap() ^= 1;
    for garbage in [vec![], b"not a request".to_vec(), vec![0x30; 9_000], tampered] {
        let status = attest(&bundle, &bundle.token, garbage).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let status = attest(&bundle, &bundle.token, vec![0; 100_000]).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "over the message limit: not even decoded");
    attest(&bundle, &bundle.token, csr(&key)).await.unwrap();
}

#[tokio::test]
async fn a_listed_gateway_gets_a_delegation_that_the_token_roots_believe() {
    let mut plane = Plane::start().await;
    let gateway = plane.join(GATEWAY, "gateway").await;
    let key = signet_token::SigningKey::generate().unwrap();
    let jwk = serde_json::to_string(&key.public_jwk().to_json()).unwrap();
    let answer = gateway.delegate(&jwk).await.unwrap();
    let mut stream = gateway.stream(hello(&[], &[])).await;
    let delta = stream.delta().await;
    let roots = delta.upserts.iter().find(|r| r.name == "token-roots").unwrap();
    let Some(signet_proto::v1::resource::Body::TokenRoots(roots)) = &roots.body else { panic!() };
    let roots = TokenRoots::parse(&roots.jwks).unwrap();
    let now = u64::try_from(delta.now).unwrap();
    let delegation =
        signet_token::delegation::verify(&answer.delegation, &roots, "demo.signet", now).unwrap();
    assert_eq!(delegation.subject, GATEWAY);
    assert_eq!(delegation.thumbprint(), key.public_jwk().thumbprint());
    assert_eq!(delegation.aliases.iter().collect::<Vec<_>>(), ["demo-idp"]);
    assert!(delegation.expires_at - delegation.issued_at <= 3_600);
}

#[tokio::test]
async fn a_control_plane_with_another_root_is_not_joined() {
    let mut plane = Plane::start().await;
    let mut bundle = plane.token(WEB, "sidecar").await;
    bundle.root_sha256 = "00".repeat(32);
    let key = KeyPair::generate().unwrap();
    let status = attest(&bundle, &bundle.token, csr(&key)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}
