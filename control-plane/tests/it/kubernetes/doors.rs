//! From a token to a certificate, at both doors.

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use signet_identity::{PeerClass, Svid};
use signet_proto::v1;
use signet_tests::apiserver::{ApiServer, PodOf};
use tonic::Code;

use super::{come, join, last_reason, last_record, listed_plane, plane};
use crate::harness::{Member, ORDERS, REGISTRY, WEB, csr, hello};

fn parse(svid: &v1::IssuedSvid) -> Svid {
    let chain: Vec<_> = svid.chain_der.iter().map(|der| CertificateDer::from(der.clone())).collect();
    Svid::parse(&chain).unwrap()
}

#[tokio::test]
async fn a_pod_becomes_its_service_account_and_the_log_names_it() {
    let api = ApiServer::start().await;
    let mut plane = listed_plane(&api).await;
    let orders = PodOf::new("orders.shop");
    api.run(&orders);
    let member = join(&mut plane, &api, &orders).await;
    let svid = parse(&member.svid);
    assert_eq!((svid.id.as_str(), svid.class), (ORDERS, PeerClass::Sidecar));
    assert_eq!(svid.dns_names, ["orders.shop.signet.internal"], "the registry's names, not the request's");
    let record = last_record(&mut plane).await;
    assert_eq!(record.event, "issued");
    assert_eq!(record.reason, "pod shop/orders-1 (uid-of-orders-1) on node node1 of cluster main");
    member.stream(hello(&[], &["orders.shop"])).await.delta().await;
    let by = "signet_ca_issued_total{by=\"kubernetes\",class=\"sidecar\"} ";
    assert_eq!(plane.metric(by).await, Some(1.0));
}

#[tokio::test]
async fn a_certificate_that_rests_on_a_token_is_renewed_by_a_fresh_one_only() {
    let api = ApiServer::start().await;
    let mut plane = listed_plane(&api).await;
    let (web, orders) = (PodOf::new("web.shop"), PodOf::new("orders.shop"));
    api.run(&web);
    api.run(&orders);
    let member = join(&mut plane, &api, &web).await;
    let new = || csr(&KeyPair::generate().unwrap());
    let status = member.renew(new()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("present fresh evidence"), "{status}");
    assert_eq!(last_reason(&mut plane).await, "attest-again");

    let renewed = member.renew_by(new(), Some(api.token(&web, "signet-ca"))).await.unwrap();
    assert_eq!(parse(&renewed).id.as_str(), WEB);
    assert_ne!(parse(&renewed).serial, parse(&member.svid).serial);

    let other = member.renew_by(new(), Some(api.token(&orders, "signet-ca"))).await.unwrap_err();
    assert_eq!(other.code(), Code::Unauthenticated);
    assert_eq!(last_reason(&mut plane).await, "evidence-identity");
    // Another replica of the same workload is the same identity.
    let sibling = PodOf::new("web.shop").named("web-2");
    api.run(&sibling);
    member.renew_by(new(), Some(api.token(&sibling, "signet-ca"))).await.unwrap();
    api.delete(&web);
    let gone = member.renew_by(new(), Some(api.token(&web, "signet-ca"))).await.unwrap_err();
    assert_eq!(gone.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn the_registration_that_asks_most_says_who_a_pod_is() {
    let registry = format!(
        "{REGISTRY}---
apiVersion: signet.mesh/v1alpha1
kind: Registration
metadata: {{name: canary}}
spec: {{kubernetes: {{namespace: shop, serviceAccount: web, podLabels: {{track: canary}}}}, identity: ns/shop/sa/orders}}
---
apiVersion: signet.mesh/v1alpha1
kind: Registration
metadata: {{name: gateway}}
spec: {{kubernetes: {{namespace: edge, serviceAccount: gw}}, identity: ns/edge/sa/gw}}
"
    );
    let api = ApiServer::start().await;
    let mut plane = plane(&api, &registry, "").await;
    let web = PodOf::new("web.shop");
    for (pod, id, class) in [
        (web.clone().named("web-2").labelled("track", "canary"), ORDERS, PeerClass::Sidecar),
        (web.clone().labelled("track", "stable"), WEB, PeerClass::Sidecar),
        (PodOf::new("gw.edge"), crate::harness::GATEWAY, PeerClass::Gateway),
    ] {
        api.run(&pod);
        let svid = parse(&join(&mut plane, &api, &pod).await.svid);
        assert_eq!((svid.id.as_str(), svid.class), (id, class), "{}", pod.name);
    }
    // A gateway by its account alone would be a way to speak for users: it needs its registration.
    let unlisted = PodOf::new("unlisted.edge");
    api.run(&unlisted);
    come(&mut plane, api.token(&unlisted, "signet-ca")).await.unwrap_err();
    assert_eq!(last_reason(&mut plane).await, "not-registered");
}

#[tokio::test]
async fn a_pod_without_a_workload_joins_and_stays_only_where_that_is_allowed() {
    let nobody = PodOf::new("nobody.shop");
    let api = ApiServer::start().await;
    api.run(&nobody);
    let mut strict = listed_plane(&api).await;
    come(&mut strict, api.token(&nobody, "signet-ca")).await.unwrap_err();
    assert_eq!(last_reason(&mut strict).await, "not-registered");

    let mut open = plane(&api, REGISTRY, ", allowUnregistered: true").await;
    let member = join(&mut open, &api, &nobody).await;
    member.stream(hello(&[], &[])).await.delta().await;
    // The setting is for pods: an operator's join token needs a Workload as ever.
    let request = v1::CreateJoinTokenRequest {
        spiffe_id: "spiffe://demo.signet/ns/shop/sa/somebody".into(),
        peer_class: "sidecar".into(),
        ttl_seconds: 0,
    };
    let status = open.operator.create_join_token(request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_control_plane_without_a_cluster_says_that_it_believes_no_pods() {
    let api = ApiServer::start().await;
    let mut plane = crate::harness::Plane::start().await;
    let status = come(&mut plane, api.token(&PodOf::new("web.shop"), "signet-ca")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let bundle = plane.token(WEB, "sidecar").await;
    let key = KeyPair::generate().unwrap();
    let issued = crate::harness::attest(&bundle, &bundle.token, csr(&key)).await.unwrap();
    let member = Member::new(&bundle, issued, &key);
    let token = Some(api.token(&PodOf::new("web.shop"), "signet-ca"));
    let status = member.renew_by(csr(&KeyPair::generate().unwrap()), token).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_bad_request_for_a_certificate_says_so_to_a_pod_that_proved_itself() {
    let api = ApiServer::start().await;
    let mut plane = listed_plane(&api).await;
    let web = PodOf::new("web.shop");
    api.run(&web);
    let bundle = plane.token(WEB, "sidecar").await;
    let evidence = super::kubernetes(api.token(&web, "signet-ca"));
    let status = crate::harness::attest_by(&bundle, evidence, b"no request".to_vec()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let key = KeyPair::generate().unwrap();
    let again = || super::kubernetes(api.token(&web, "signet-ca"));
    crate::harness::attest_by(&bundle, again(), csr(&key)).await.unwrap();
    let status = crate::harness::attest_by(&bundle, again(), csr(&key)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "a used key: {status}");
}
