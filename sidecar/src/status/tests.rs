use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{GenerationOptions, PeerClass};
use signet_proto::v1;

use super::*;
use crate::credentials::Delivered;

fn credentials(joined: bool) -> Arc<Credentials> {
    let ca = TestCa::new("demo.signet");
    let credentials = Credentials::new(ca.trust_domain().clone(), GenerationOptions::default());
    if joined {
        let own =
            ca.svid(&ca.id("ns/shop/sa/web"), PeerClass::Sidecar, SvidOptions::default().at_wall_clock());
        credentials
            .issued(
                own,
                Some(Delivered {
                    bundle: ca.bundle(),
                    sequence: 1,
                    tainted: Vec::new(),
                    jwt_keys: signet_token::Jwks::default(),
                }),
            )
            .unwrap();
    }
    credentials
}

fn inbound(service: &str) -> v1::Resource {
    v1::Resource {
        name: format!("inbound/{service}"),
        version: "1".to_owned(),
        body: Some(v1::resource::Body::Inbound(v1::Inbound {
            service: service.to_owned(),
            ..Default::default()
        })),
    }
}

fn delivered(upserts: Vec<v1::Resource>) -> Deliveries {
    let mut deliveries = Deliveries::new();
    deliveries.apply(v1::Delta { nonce: 1, upserts, ..Default::default() });
    deliveries
}

fn served(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn waits_for(status: &Status, words: &str) {
    let missing = status.ready().expect_err("not ready");
    assert!(missing.contains(words), "{missing:?} does not say {words:?}");
}

#[test]
fn ready_is_a_valid_certificate_and_the_policy_of_everything_served() {
    let status = Status::new("id".into(), credentials(true), &served(&["orders.shop", "audit.shop"]), None);
    waits_for(&status, "first delivery");
    status.applied(&delivered(vec![inbound("orders.shop")]));
    waits_for(&status, "inbound/audit.shop");
    status.applied(&delivered(vec![inbound("orders.shop"), inbound("audit.shop")]));
    assert_eq!(status.ready(), Ok(()));
    status.disconnected("gone");
    assert_eq!(status.ready(), Ok(()), "what is known goes on without the control plane");
}

#[test]
fn without_a_valid_certificate_nothing_is_ready() {
    let status = Status::new("id".into(), credentials(false), &served(&[]), None);
    status.applied(&delivered(vec![]));
    waits_for(&status, "valid certificate");
}

#[test]
fn a_refused_service_is_named_with_its_reason() {
    let status = Status::new("id".into(), credentials(true), &served(&["bank.shop"]), None);
    status.applied(&delivered(vec![]));
    status.refused("bank.shop".into(), "it does not list your identity".into());
    waits_for(&status, "does not list your identity");
}

#[test]
fn a_gateway_needs_its_resource_and_its_delegation() {
    let status = Status::new("id".into(), credentials(true), &served(&[]), Some("gw.edge"));
    status.applied(&delivered(vec![]));
    waits_for(&status, "gateway/gw.edge");
}
