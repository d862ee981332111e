//! Peers of other trust domains, and the endpoint where their bundles are fetched.

mod common;

use std::sync::Arc;

use common::{Outcome, Pair};
use rustls::pki_types::ServerName;
use signet_identity::{
    Alpn, Bundles, Expected, Generation, HandshakeFailure, OwnSvid, PeerClass, RevocationSet, SpiffeId,
    SvidError, TrustBundle, bundle_client_config, server_name,
    testing::{SvidOptions, TestCa, test_now, test_options},
};

const WEB: &str = "ns/shop/sa/web";
const ORDERS: &str = "ns/shop/sa/orders";

fn nobody() -> RevocationSet {
    RevocationSet::new(0)
}

/// A leaf as an authority makes it that knows nothing of Signet.
fn without_class(
    ca: &TestCa,
    id: &str,
    extended: bool,
) -> (Vec<rustls::pki_types::CertificateDer<'static>>, rcgen::KeyPair) {
    let options = match extended {
        true => SvidOptions::default().changed(|params| params.custom_extensions.clear()),
        false => SvidOptions::default().changed(|params| {
            params.custom_extensions.clear();
            params.extended_key_usages.clear();
        }),
    };
    ca.chain(id, PeerClass::Workload, options)
}

fn trusting(own: &TestCa, others: &[&TestCa]) -> Arc<Generation> {
    let bundles = Bundles::new(others.iter().map(|ca| ca.bundle()).chain([own.bundle()])).unwrap();
    Generation::build(1, own.svid_short(ORDERS, PeerClass::Sidecar), Arc::new(bundles), test_options())
        .unwrap()
}

#[test]
fn a_federated_peer_without_a_class_is_a_workload_and_one_of_our_own_is_refused() {
    let (ours, theirs) = (TestCa::new("demo.signet"), TestCa::new("partner.example"));
    let generation = trusting(&ours, &[&theirs]);
    for extended in [true, false] {
        let (chain, _) = without_class(&theirs, "spiffe://partner.example/any/path", extended);
        let peer = generation.check(Some(&chain), &Expected::AnyTrusted, &nobody(), test_now()).unwrap();
        assert_eq!(peer.class(), PeerClass::Workload);
        let (chain, _) = without_class(&ours, "spiffe://demo.signet/ns/shop/sa/web", extended);
        let failure =
            generation.check(Some(&chain), &Expected::AnyTrusted, &nobody(), test_now()).unwrap_err();
        assert!(matches!(failure, HandshakeFailure::BadCertificate(_)), "{failure}");
    }
}

#[test]
fn neither_authority_vouches_for_the_others_names() {
    let (ours, theirs) = (TestCa::new("demo.signet"), TestCa::new("partner.example"));
    let generation = trusting(&ours, &[&theirs]);
    for (ca, id) in
        [(&theirs, "spiffe://demo.signet/ns/shop/sa/web"), (&ours, "spiffe://partner.example/ns/shop/sa/web")]
    {
        // Without its issuer, which would give it away by its own name.
        let options = SvidOptions { by_root: true, ..SvidOptions::default() };
        let (chain, _) = ca.chain(id, PeerClass::Sidecar, options);
        let failure =
            generation.check(Some(&chain), &Expected::AnyTrusted, &nobody(), test_now()).unwrap_err();
        assert_eq!(failure.label(), "unknown_root", "{id}");
        let (chain, _) = ca.chain(id, PeerClass::Sidecar, SvidOptions::default());
        let failure =
            generation.check(Some(&chain), &Expected::AnyTrusted, &nobody(), test_now()).unwrap_err();
        assert!(
            matches!(failure, HandshakeFailure::BadCertificate(SvidError::SignerTrustDomain { .. })),
            "{id}: {failure}"
        );
    }
}

#[test]
fn two_federated_peers_shake_hands_both_ways() {
    let (ours, theirs) = (TestCa::new("demo.signet"), TestCa::new("partner.example"));
    let bundles = || Arc::new(Bundles::new([ours.bundle(), theirs.bundle()]).unwrap());
    let build = |ca: &TestCa, short| {
        Generation::build(1, ca.svid_short(short, PeerClass::Sidecar), bundles(), test_options()).unwrap()
    };
    let (web, orders) = (build(&ours, WEB), build(&theirs, ORDERS));
    let mut pair = Pair::new(
        web.client_config(Alpn::H2),
        orders.server_config(Alpn::H2),
        server_name(&theirs.id(ORDERS)),
    );
    assert!(pair.run().is_ok());
    pair.talk();
    let seen = orders.check(pair.seen_by_server(), &Expected::AnyTrusted, &nobody(), test_now()).unwrap();
    assert_eq!(seen.id(), &ours.id(WEB));
    assert!(!seen.is_of_domain(&theirs.id(ORDERS)), "known, and still not one of the own");
}

fn fetch(server: &Generation, bundle: TrustBundle, endpoint: &SpiffeId) -> Outcome {
    let client = bundle_client_config(bundle, endpoint.clone()).unwrap();
    let name = ServerName::try_from("bundle.partner.example").unwrap();
    Pair::new(client, server.bundle_endpoint_config().unwrap(), name).run()
}

fn endpoint(ca: &TestCa, class: PeerClass) -> Arc<Generation> {
    let svid = ca.svid(
        &ca.id("ns/signet-system/sa/signet-control-plane"),
        class,
        SvidOptions::default().at_wall_clock(),
    );
    Generation::build(1, svid, ca.bundles(), test_options()).unwrap()
}

#[test]
fn a_bundle_endpoint_is_known_by_the_bundle_held_and_its_exact_id() {
    let theirs = TestCa::new("partner.example");
    let server = endpoint(&theirs, PeerClass::ControlPlane);
    let id = server.own().svid().id.clone();
    assert!(fetch(&server, theirs.bundle(), &id).is_ok());
    let other = theirs.id("ns/shop/sa/web");
    let outcome = fetch(&server, theirs.bundle(), &other);
    let failure = HandshakeFailure::from_rustls(&outcome.client.unwrap());
    assert_eq!(failure.label(), "wrong_identity");
    let stale = TestCa::new("partner.example").bundle();
    let outcome = fetch(&server, stale, &id);
    let failure = HandshakeFailure::from_rustls(&outcome.client.unwrap());
    assert_eq!(failure.label(), "unknown_root", "an initial bundle that is no longer theirs");
}

#[test]
fn a_bundle_endpoint_of_an_authority_that_knows_no_classes_is_known_too() {
    let theirs = TestCa::new("partner.example");
    let id = theirs.id("spire/server");
    let options = SvidOptions::default().at_wall_clock().changed(|params| params.custom_extensions.clear());
    let (chain, key) = theirs.chain(id.as_str(), PeerClass::Workload, options);
    // Ours could not even hold such a certificate: the server is put together by hand.
    assert!(OwnSvid::new(chain.clone(), key.serialize_der().into()).is_err());
    let provider = signet_identity::crypto_provider();
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    let client = bundle_client_config(theirs.bundle(), id).unwrap();
    let name = ServerName::try_from("bundle.partner.example").unwrap();
    assert!(Pair::new(client, Arc::new(server), name).run().is_ok());
}
