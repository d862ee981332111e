//! What a sidecar gets for its app, and what the app may not do with it.

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use signet_identity::{PeerClass, Svid};
use signet_proto::v1::{self, identity_client::IdentityClient, resource::Body};
use signet_token::{Jwks, jwt_svid};
use tonic::{Code, Status};

use crate::harness::{Member, ORDERS, Plane, REGISTRY, WEB, csr, dial, hello, soon};

/// The registry with web's app let in.
fn opted_in() -> String {
    REGISTRY.replacen("spec: {class: sidecar}", "spec: {class: sidecar, workloadApi: true}", 1)
}

async fn plane() -> Plane {
    let plane = Plane::start().await;
    plane.edit(&opted_in());
    plane
}

async fn issue(member: &Member, key: &KeyPair) -> Result<v1::IssuedSvid, Status> {
    let mut client = IdentityClient::new(member.channel().await);
    Ok(soon(client.issue_workload(v1::IssueWorkloadRequest { csr_der: csr(key) })).await?.into_inner())
}

/// As a sidecar asks, until the registry was looked at.
async fn issued(member: &Member, key: &KeyPair) -> v1::IssuedSvid {
    soon(async {
        loop {
            match issue(member, key).await {
                Ok(issued) => return issued,
                Err(status) => assert_eq!(status.code(), Code::PermissionDenied, "{status}"),
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_app_gets_a_leaf_of_class_workload_where_its_workload_opts_in_and_nowhere_else() {
    let mut plane = plane().await;
    let (web, orders) = (plane.join(WEB, "sidecar").await, plane.join(ORDERS, "sidecar").await);
    let issued = issued(&web, &KeyPair::generate().unwrap()).await;
    let chain: Vec<_> = issued.chain_der.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let svid = Svid::parse(&chain).unwrap();
    assert_eq!((svid.id.as_str(), svid.class), (WEB, PeerClass::Workload));
    assert_eq!(svid.dns_names, ["web.shop.signet.internal"]);
    let status = issue(&orders, &KeyPair::generate().unwrap()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_workload_leaf_is_not_even_connected_at_the_mesh_door() {
    let mut plane = plane().await;
    let web = plane.join(WEB, "sidecar").await;
    let key = KeyPair::generate().unwrap();
    let svid = issued(&web, &key).await;
    let bundle = plane.token(WEB, "sidecar").await;
    let app = Member::new(&bundle, svid, &key);
    // In TLS 1.3 the client has finished before the server refuses its certificate: the first call tells.
    let refused = match dial(bundle.mesh_address.parse().unwrap(), app.config.clone()).await {
        Err(_) => true,
        Ok(channel) => {
            let mut client = IdentityClient::new(channel);
            let request = v1::RenewRequest { csr_der: csr(&KeyPair::generate().unwrap()) };
            soon(client.renew(request)).await.is_err()
        }
    };
    assert!(refused, "an app renewed at the mesh door");
    let line = "signet_control_plane_handshake_failures_total{listener=\"mesh\",reason=\"wrong_class\"}";
    soon(async {
        while plane.metric(line).await != Some(1.0) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_jwt_svid_verifies_under_the_keys_that_are_delivered_with_the_bundle() {
    let mut plane = plane().await;
    let web = plane.join(WEB, "sidecar").await;
    issued(&web, &KeyPair::generate().unwrap()).await;
    let mut client = IdentityClient::new(web.channel().await);
    let mut ask = async |audiences: &[&str], spiffe_id: &str| {
        let audiences = audiences.iter().map(|audience| (*audience).to_owned()).collect();
        let request = v1::IssueJwtSvidRequest { audiences, spiffe_id: spiffe_id.into() };
        soon(client.issue_jwt_svid(request)).await.map(tonic::Response::into_inner)
    };
    let token = ask(&["db"], "").await.unwrap();
    assert_eq!((token.spiffe_id.as_str(), token.expires_at - token.issued_at), (WEB, 300));
    assert_eq!(ask(&["db"], ORDERS).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(ask(&[], WEB).await.unwrap_err().code(), Code::InvalidArgument);

    let delta = web.stream(hello(&[], &[])).await.delta().await;
    let bundle = delta.upserts.iter().find(|r| r.name == "bundle/demo.signet").unwrap();
    let Some(Body::Bundle(bundle)) = &bundle.body else { panic!("no bundle") };
    let keys = Jwks::parse(&bundle.jwt_keys).unwrap();
    let now = u64::try_from(token.issued_at).unwrap();
    let svid = jwt_svid::verify(&token.token, "db", |_| Some(Some(&keys)), now).unwrap();
    assert_eq!(svid.subject, WEB);
}
