//! The gateway's right to mint: asked for, renewed, and never replaced by nothing.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use signet_proto::v1;
use signet_proxy::state::State;
use signet_sidecar::control::delivery::Deliveries;
use signet_sidecar::gateway::Minting;
use signet_sidecar::publish::Publisher;
use signet_sidecar::status::Status;
use support::Plane;

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

fn resource(path_prefix: &str) -> v1::Resource {
    let json = format!(
        r#"{{"apiVersion":"signet.mesh/v1alpha1","kind":"Gateway","metadata":{{"namespace":"edge","name":"gw"}},
            "spec":{{"identity":"ns/edge/sa/gw","routes":[{{"name":"shop","hosts":["*"],"pathPrefix":"{path_prefix}",
            "service":"web.shop","port":"http","auth":{{"jwt":{{"issuers":["demo-idp"]}}}}}}]}}}}"#
    );
    v1::Resource {
        name: "gateway/gw.edge".to_owned(),
        version: path_prefix.to_owned(),
        body: Some(v1::resource::Body::Gateway(v1::GatewayConfig { json, routes: Vec::new() })),
    }
}

#[tokio::test]
async fn a_gateway_mints_under_a_delegation_and_asks_again_when_its_resource_changes() {
    let plane = Plane::start().await;
    let sidecar = plane.sidecar();
    sidecar.identity.join(&plane.bundle).await.unwrap();
    let (state, _wishes) = State::new(sidecar.credentials.current().unwrap());
    let name = "gw.edge".parse().unwrap();
    let status = Status::new("gw".to_owned(), sidecar.credentials.clone(), &BTreeSet::new(), Some("gw.edge"));
    let publisher = Arc::new(Publisher::new(
        state.clone(),
        sidecar.credentials.clone(),
        sidecar.identity.clone(),
        Some(name),
    ));
    let mut deliveries = Deliveries::new();
    let mut deliver = |upsert| {
        let delta = v1::Delta { nonce: 1, upserts: vec![upsert], ..Default::default() };
        let (changed, answer) = deliveries.apply(delta);
        assert!(matches!(answer, v1::from_sidecar::Message::Ack(_)), "{answer:?}");
        publisher.publish(&deliveries, &changed);
        status.applied(&deliveries);
    };
    deliver(resource("/"));
    assert!(state.view().routes.gateway.is_some());
    assert!(status.ready().unwrap_err().contains("delegation"));

    // Not yet, says the control plane; then yes.
    plane.mind.delegations.lock().unwrap().push_back(tonic::Status::permission_denied("not listed yet"));
    let minting = Minting {
        plane: sidecar.plane.clone(),
        publisher: publisher.clone(),
        status: status.clone(),
        state: state.clone(),
    };
    let minting = tokio::spawn(minting.run());
    until("a minter", || state.view().keys.minter.is_some()).await;
    until("ready", || status.ready().is_ok()).await;
    let first = state.view().keys.minter.as_ref().unwrap().terms().thumbprint().to_owned();

    deliver(resource("/shop"));
    let another = || {
        let view = state.view();
        view.keys.minter.as_ref().is_some_and(|minter| minter.terms().thumbprint() != first)
    };
    until("a new delegation", another).await;
    let keys = plane.mind.delegated.lock().unwrap().clone();
    assert_eq!(keys.len(), 2);
    assert!(keys.iter().all(|key| !key.contains("\"d\"")), "the private half stays here");
    minting.abort();
}
