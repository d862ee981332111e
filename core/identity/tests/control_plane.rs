//! Finding the control plane: by its exact identity and class, and before that by the pinned root.

mod common;

use std::sync::Arc;

use common::{Outcome, Pair};
use signet_identity::{
    Expected, Generation, HandshakeFailure, KeyId, PeerClass, RevocationSet, SpiffeId,
    bootstrap_client_config, server_name,
    testing::{SvidOptions, TestCa, test_now},
};

const WEB: &str = "ns/shop/sa/web";

fn ca() -> TestCa {
    TestCa::new("demo.signet")
}

fn nobody() -> RevocationSet {
    RevocationSet::new(0)
}

/// Why the client refused, where it did.
fn client_failure(outcome: &Outcome) -> HandshakeFailure {
    HandshakeFailure::from_rustls(outcome.client.as_ref().expect("the client refuses"))
}

fn server_failure(outcome: &Outcome) -> HandshakeFailure {
    HandshakeFailure::from_rustls(outcome.server.as_ref().expect("the server refuses"))
}

#[test]
fn the_control_plane_is_found_by_its_exact_identity_and_class() {
    let ca = ca();
    let cp = "ns/signet-system/sa/signet-control-plane";
    let control = ca.generation(cp, PeerClass::ControlPlane);
    let web = ca.generation(WEB, PeerClass::Sidecar);
    let dial = |client: &Generation, server: &Generation| {
        let mut pair = Pair::new(
            client.control_plane_client_config(),
            server.control_plane_server_config(),
            server_name(&ca.id(cp)),
        );
        let outcome = pair.run();
        (pair, outcome)
    };
    let (mut pair, outcome) = dial(&web, &control);
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(pair.client.alpn_protocol(), Some(b"h2".as_slice()));
    pair.talk();
    let id = ca.id(cp);
    web.check(pair.seen_by_client(), &Expected::ControlPlane(&id), &nobody(), test_now()).unwrap();
    let peer = control.check(pair.seen_by_server(), &Expected::MeshClient, &nobody(), test_now()).unwrap();
    assert_eq!(peer.id(), &ca.id(WEB));
    // The identity alone is not enough: a sidecar of that name is not the control plane.
    let posing = ca.generation(cp, PeerClass::Sidecar);
    let (pair, outcome) = dial(&web, &posing);
    assert_eq!(client_failure(&outcome).label(), "wrong_class");
    assert!(pair.seen_by_server().is_none());
    // Nor is the class.
    let other = ca.generation("ns/signet-system/sa/other", PeerClass::ControlPlane);
    let (_, outcome) = dial(&web, &other);
    assert_eq!(client_failure(&outcome).label(), "wrong_identity");
    // And no control plane calls another one's mesh listener.
    let (_, outcome) = dial(&control, &control);
    assert_eq!(server_failure(&outcome).label(), "wrong_class");
}

#[test]
fn a_joining_client_trusts_the_root_of_its_join_bundle_and_no_other() {
    // The joining side has no clock but the system's, so the certificates are made for today.
    let today = SvidOptions::default().at_wall_clock();
    let ca = ca();
    let cp = ca.id("ns/signet-system/sa/signet-control-plane");
    let control = |class| {
        let own = ca.svid(&cp, class, today.clone());
        Generation::build(1, own, ca.bundles(), signet_identity::GenerationOptions::default()).unwrap()
    };
    let join = |root: KeyId, id: &SpiffeId, server: &Generation| {
        let config = bootstrap_client_config(ca.trust_domain().clone(), root, id.clone()).unwrap();
        let mut pair = Pair::new(config, server.bootstrap_server_config(), server_name(id));
        let outcome = pair.run();
        (pair, outcome)
    };
    let pinned = KeyId::of(ca.root());
    let server = control(PeerClass::ControlPlane);
    assert_eq!(server.own_root(), pinned);
    let (mut pair, outcome) = join(pinned, &cp, &server);
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(pair.seen_by_client().unwrap().last().unwrap(), ca.root());
    pair.talk();
    assert!(pair.seen_by_server().is_none());

    let (_, outcome) = join(KeyId::of(TestCa::new("demo.signet").root()), &cp, &server);
    assert_eq!(client_failure(&outcome).label(), "root_not_pinned");
    let (_, outcome) = join(pinned, &ca.id(WEB), &server);
    assert_eq!(client_failure(&outcome).label(), "wrong_identity");
    let (_, outcome) = join(pinned, &cp, &control(PeerClass::Sidecar));
    assert_eq!(client_failure(&outcome).label(), "wrong_class");
}

#[test]
fn a_pinned_root_in_the_chain_does_not_help_a_leaf_that_it_did_not_sign() {
    let (ours, theirs) = (ca(), ca());
    let cp = ours.id("ns/signet-system/sa/signet-control-plane");
    let today = SvidOptions::default().at_wall_clock();
    // Their leaf and issuer, followed by our root.
    let (mut chain, key) = theirs.chain(cp.as_str(), PeerClass::ControlPlane, today);
    chain.push(ours.root().clone());
    let mut config = rustls::ServerConfig::builder_with_provider(signet_identity::crypto_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key.serialize_der().try_into().unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let client =
        bootstrap_client_config(ours.trust_domain().clone(), KeyId::of(ours.root()), cp.clone()).unwrap();
    let mut pair = Pair::new(client, Arc::new(config), server_name(&cp));
    let outcome = pair.run();
    assert_eq!(client_failure(&outcome).label(), "unknown_root");
}
