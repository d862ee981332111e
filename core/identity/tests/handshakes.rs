//! Real handshakes in memory: the right peer, and every wrong one with its typed reason.

mod common;

use std::sync::Arc;

use common::{Outcome, Pair};
use rustls::AlertDescription;
use signet_identity::{
    Alpn, Bundles, Expected, Generation, HandshakeFailure, KeyId, PeerClass, RevocationSet, SpiffeId,
    routed_server_name, server_name,
    testing::{SvidOptions, TestCa, test_now, test_options},
};

const WEB: &str = "ns/shop/sa/web";
const ORDERS: &str = "ns/shop/sa/orders";

fn ca() -> TestCa {
    TestCa::new("demo.signet")
}

/// A generation of a peer whose certificate is like this, with these roots.
fn generation(
    ca: &TestCa,
    short: &str,
    class: PeerClass,
    options: SvidOptions,
    bundles: &Arc<Bundles>,
) -> Arc<Generation> {
    Generation::build(1, ca.svid(&ca.id(short), class, options), bundles.clone(), test_options()).unwrap()
}

fn dial(client: &Generation, server: &Generation, expected: &SpiffeId, alpn: Alpn) -> (Pair, Outcome) {
    let mut pair = Pair::new(client.client_config(alpn), server.server_config(alpn), server_name(expected));
    let outcome = pair.run();
    (pair, outcome)
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
fn two_peers_of_one_domain_know_each_other() {
    let ca = ca();
    let (web, orders) = (ca.generation(WEB, PeerClass::Sidecar), ca.generation(ORDERS, PeerClass::Sidecar));
    for alpn in Alpn::ALL {
        let (mut pair, outcome) = dial(&web, &orders, &ca.id(ORDERS), alpn);
        assert!(outcome.is_ok(), "{outcome:?}");
        assert_eq!(pair.client.alpn_protocol(), Some(alpn.signet()));
        assert!(Alpn::is_signet(pair.server.alpn_protocol()));
        assert_eq!(
            pair.client.negotiated_cipher_suite().unwrap().suite(),
            rustls::CipherSuite::TLS13_AES_128_GCM_SHA256
        );
        assert_eq!(pair.client.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519);
        pair.talk();
        let seen = orders.check(pair.seen_by_server(), &Expected::OurDomain, &nobody(), test_now()).unwrap();
        assert_eq!((seen.id(), seen.class()), (&ca.id(WEB), PeerClass::Sidecar));
        assert_eq!(seen.serial(), web.own().svid().serial);
        assert_eq!(seen.root(), KeyId::of(ca.root()));
        let exact = ca.id(ORDERS);
        web.check(pair.seen_by_client(), &Expected::Exact(&exact), &nobody(), test_now()).unwrap();
    }
}

#[test]
fn a_wrong_server_is_refused_before_the_clients_certificate_is_sent() {
    let ca = ca();
    let (web, thief) =
        (ca.generation(WEB, PeerClass::Sidecar), ca.generation("ns/shop/sa/thief", PeerClass::Sidecar));
    let (pair, outcome) = dial(&web, &thief, &ca.id(ORDERS), Alpn::H2);
    let failure = client_failure(&outcome).expecting(&ca.id(ORDERS));
    assert_eq!(failure.label(), "wrong_identity");
    let words = failure.to_string();
    assert!(
        words.contains("spiffe://demo.signet/ns/shop/sa/orders") && words.contains("sa/thief"),
        "{words}"
    );
    assert!(pair.seen_by_server().is_none(), "the thief never sees a certificate of ours");
    assert!(pair.server.is_handshaking());
    assert!(matches!(
        server_failure(&outcome),
        HandshakeFailure::AlertReceived(AlertDescription::AccessDenied)
    ));
}

#[test]
fn a_name_that_says_the_way_as_well_expects_the_same_identity_and_no_other() {
    let ca = ca();
    let web = ca.generation(WEB, PeerClass::Sidecar);
    let orders = ca.generation(ORDERS, PeerClass::Sidecar);
    let thief = ca.generation("ns/shop/sa/thief", PeerClass::Sidecar);
    let dial = |server: &Generation| {
        let name = routed_server_name(&ca.id(ORDERS), "http", "orders", "shop").unwrap();
        let mut pair = Pair::new(web.client_config(Alpn::H2), server.server_config(Alpn::H2), name);
        let outcome = pair.run();
        (pair, outcome)
    };
    let (_, outcome) = dial(&orders);
    assert!(outcome.is_ok(), "{outcome:?}");
    // Whoever stands in the way chooses who answers, and is found out.
    let (pair, outcome) = dial(&thief);
    assert_eq!(client_failure(&outcome).label(), "wrong_identity");
    assert!(pair.seen_by_server().is_none(), "the thief never sees a certificate of ours");
}

#[test]
fn a_dns_name_in_a_certificate_answers_for_no_identity() {
    let ca = ca();
    let orders = ca.id(ORDERS);
    let posing = SvidOptions {
        dns: vec![server_name(&orders).to_str().into_owned(), "orders.shop.signet.internal".to_owned()],
        ..SvidOptions::default()
    };
    let thief = generation(&ca, "ns/shop/sa/thief", PeerClass::Sidecar, posing, &ca.bundles());
    let web = ca.generation(WEB, PeerClass::Sidecar);
    let (_, outcome) = dial(&web, &thief, &orders, Alpn::Http1);
    assert_eq!(client_failure(&outcome).label(), "wrong_identity");
}

#[test]
fn a_peer_of_another_root_is_refused_by_either_side() {
    let (ours, theirs) = (ca(), ca());
    let web = ours.generation(WEB, PeerClass::Sidecar);
    let orders = theirs.generation(ORDERS, PeerClass::Sidecar);
    let (pair, outcome) = dial(&web, &orders, &theirs.id(ORDERS), Alpn::H2);
    assert_eq!(client_failure(&outcome).label(), "unknown_root");
    assert!(pair.seen_by_server().is_none());
    // A client that accepts this server, but that this server does not know.
    let both = Arc::new(Bundles::from(
        signet_identity::TrustBundle::new(
            ours.trust_domain().clone(),
            [ours.root().clone(), theirs.root().clone()],
        )
        .unwrap(),
    ));
    let lenient = generation(&ours, WEB, PeerClass::Sidecar, SvidOptions::default(), &both);
    let (pair, outcome) = dial(&lenient, &orders, &theirs.id(ORDERS), Alpn::H2);
    let failure = server_failure(&outcome);
    assert!(
        matches!(&failure, HandshakeFailure::UnknownRoot { received, .. } if *received == ours.id(WEB)),
        "{failure}"
    );
    assert!(pair.server.is_handshaking());
}

#[test]
fn a_peer_is_verified_against_the_roots_of_its_own_domain_only() {
    let (ours, theirs) = (ca(), TestCa::new("other.signet"));
    // Their authority makes a certificate for our domain; both domains are trusted here.
    let (chain, key) = theirs.chain(
        "spiffe://demo.signet/ns/shop/sa/orders",
        PeerClass::Sidecar,
        SvidOptions { by_root: true, ..SvidOptions::default() },
    );
    let posing = signet_identity::OwnSvid::new(chain, key.serialize_der().into()).unwrap();
    let both = Arc::new(Bundles::new([ours.bundle(), theirs.bundle()]).unwrap());
    let web = generation(&ours, WEB, PeerClass::Sidecar, SvidOptions::default(), &both);
    let failure = web.check(Some(posing.chain()), &Expected::AnyTrusted, &nobody(), test_now()).unwrap_err();
    assert_eq!(failure.label(), "unknown_root");
    // Under its own name it is known, but only where foreign domains are let in.
    let honest = theirs.svid_short(ORDERS, PeerClass::Workload);
    web.check(Some(honest.chain()), &Expected::AnyTrusted, &nobody(), test_now()).unwrap();
    let failure = web.check(Some(honest.chain()), &Expected::OurDomain, &nobody(), test_now()).unwrap_err();
    assert_eq!(failure.label(), "wrong_trust_domain");
    // And where its domain has no bundle at all it is nobody.
    let alone = ours.generation(WEB, PeerClass::Sidecar);
    let failure =
        alone.check(Some(honest.chain()), &Expected::AnyTrusted, &nobody(), test_now()).unwrap_err();
    assert_eq!(failure.label(), "wrong_trust_domain");
}

#[test]
fn an_expired_and_a_premature_certificate_are_refused_with_their_dates() {
    let ca = ca();
    let web = ca.generation(WEB, PeerClass::Sidecar);
    let expired = SvidOptions::default().ends_in(-30);
    let server = generation(&ca, ORDERS, PeerClass::Sidecar, expired.clone(), &ca.bundles());
    let (pair, outcome) = dial(&web, &server, &ca.id(ORDERS), Alpn::H2);
    let failure = client_failure(&outcome);
    assert_eq!(failure.label(), "expired");
    let words = failure.to_string();
    assert!(
        words.contains("2026-11-21T23:59:30Z") && words.contains("30 s before now") && words.contains(ORDERS),
        "{words}"
    );
    assert!(pair.seen_by_server().is_none());

    let premature =
        generation(&ca, ORDERS, PeerClass::Sidecar, SvidOptions::default().begins_in(7200), &ca.bundles());
    let (_, outcome) = dial(&web, &premature, &ca.id(ORDERS), Alpn::H2);
    let failure = client_failure(&outcome);
    assert_eq!(failure.label(), "not_yet_valid");
    assert!(failure.to_string().contains("2 h from now"), "{failure}");

    let late = generation(&ca, WEB, PeerClass::Sidecar, expired, &ca.bundles());
    let orders = ca.generation(ORDERS, PeerClass::Sidecar);
    let (_, outcome) = dial(&late, &orders, &ca.id(ORDERS), Alpn::H2);
    let failure = server_failure(&outcome);
    assert_eq!((failure.label(), failure.skew()), ("expired", Some(30)));
    assert_eq!(failure.received().unwrap().class(), PeerClass::Sidecar);
}

/// What the refused side is told, over a whole handshake: TLS' own word for it, and no more.
#[test]
fn a_refused_peer_is_told_the_alert_that_means_its_failure() {
    let (ours, theirs) = (ca(), TestCa::new("other.signet"));
    let orders = ours.generation(ORDERS, PeerClass::Sidecar);
    let good = SvidOptions::default;
    let both = Arc::new(Bundles::new([ours.bundle(), theirs.bundle()]).unwrap());
    let of = |class, options| generation(&ours, WEB, class, options, &ours.bundles());
    let revoked = of(PeerClass::Sidecar, good());
    let mut set = RevocationSet::new(1);
    set.keys.insert(revoked.own().svid().key);
    orders.learn(&Arc::new(set));
    let cases = [
        ("expired", AlertDescription::CertificateExpired, of(PeerClass::Sidecar, good().ends_in(-30))),
        ("not_yet_valid", AlertDescription::CertificateExpired, of(PeerClass::Sidecar, good().begins_in(30))),
        ("wrong_class", AlertDescription::AccessDenied, of(PeerClass::Operator, good())),
        ("revoked", AlertDescription::CertificateRevoked, revoked),
        (
            "wrong_trust_domain",
            AlertDescription::UnknownCA,
            generation(&theirs, WEB, PeerClass::Sidecar, good(), &both),
        ),
    ];
    for (label, alert, web) in cases {
        let (_, outcome) = dial(&web, &orders, &ours.id(ORDERS), Alpn::H2);
        let failure = server_failure(&outcome);
        assert_eq!(failure.label(), label);
        assert_eq!(failure.received().unwrap().serial(), web.own().svid().serial);
        let told = client_failure(&outcome);
        assert!(matches!(told, HandshakeFailure::AlertReceived(seen) if seen == alert), "{label}: {told}");
        // The other way round the client refuses, and the server is told.
        let server = web.server_config(Alpn::H2);
        let calling =
            Generation::build(9, ours.svid_short(ORDERS, PeerClass::Sidecar), ours.bundles(), test_options());
        let calling = calling.unwrap();
        let mut set = RevocationSet::new(1);
        set.serials.extend((label == "revoked").then(|| web.own().svid().serial));
        calling.learn(&Arc::new(set));
        let name = server_name(&web.own().svid().id);
        let outcome = Pair::new(calling.client_config(Alpn::H2), server, name).run();
        assert_eq!(client_failure(&outcome).label(), label);
        let told = server_failure(&outcome);
        assert!(matches!(told, HandshakeFailure::AlertReceived(seen) if seen == alert), "{label}: {told}");
    }
}

#[test]
fn classes_that_have_no_business_on_the_data_plane_are_refused() {
    let ca = ca();
    let orders = ca.generation(ORDERS, PeerClass::Sidecar);
    let web = ca.generation(WEB, PeerClass::Sidecar);
    for class in [PeerClass::Operator, PeerClass::ControlPlane, PeerClass::Agent] {
        let peer = ca.generation(WEB, class);
        let (pair, outcome) = dial(&peer, &orders, &ca.id(ORDERS), Alpn::H2);
        let failure = server_failure(&outcome);
        assert!(
            matches!(failure, HandshakeFailure::WrongClass { class: seen, .. } if seen == class),
            "{failure}"
        );
        let server = ca.generation(ORDERS, class);
        let (pair_out, outcome) = dial(&web, &server, &ca.id(ORDERS), Alpn::H2);
        assert_eq!(client_failure(&outcome).label(), "wrong_class");
        assert!(pair_out.seen_by_server().is_none());
        drop(pair);
        let failure =
            orders.check(Some(peer.own().chain()), &Expected::OurDomain, &nobody(), test_now()).unwrap_err();
        assert_eq!(failure.label(), "wrong_class");
    }
    for class in [PeerClass::Sidecar, PeerClass::Gateway, PeerClass::Workload] {
        let peer = ca.generation(WEB, class);
        let (_, outcome) = dial(&peer, &orders, &ca.id(ORDERS), Alpn::H2);
        assert!(outcome.is_ok(), "{class}: {outcome:?}");
    }
}

#[test]
fn a_chain_without_its_issuer_is_an_unknown_root() {
    let ca = ca();
    let web = ca.generation(WEB, PeerClass::Sidecar);
    let (chain, _) = ca.chain(
        ca.id(ORDERS).as_str(),
        PeerClass::Sidecar,
        SvidOptions { without_issuer: true, ..SvidOptions::default() },
    );
    let failure = web.check(Some(&chain), &Expected::OurDomain, &nobody(), test_now()).unwrap_err();
    assert_eq!(failure.label(), "unknown_root");
    let failure = web.check(None, &Expected::OurDomain, &nobody(), test_now()).unwrap_err();
    assert_eq!(failure.label(), "no_certificate");
    let failure = web.check(Some(&[]), &Expected::OurDomain, &nobody(), test_now()).unwrap_err();
    assert_eq!(failure.label(), "no_certificate");
}

#[test]
fn no_generation_is_built_on_an_svid_that_its_own_bundle_does_not_vouch_for() {
    let (ours, theirs) = (ca(), ca());
    let error =
        Generation::build(1, theirs.svid_short(WEB, PeerClass::Sidecar), ours.bundles(), test_options())
            .unwrap_err();
    assert!(error.to_string().contains("does not verify"), "{error}");
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let ca = ca();
    let orders = ca.generation(ORDERS, PeerClass::Sidecar);
    let mut config =
        rustls::ClientConfig::clone(&ca.generation(WEB, PeerClass::Sidecar).client_config(Alpn::H2));
    config.client_auth_cert_resolver = Arc::new(NoCertificate);
    let mut pair = Pair::new(Arc::new(config), orders.server_config(Alpn::H2), server_name(&ca.id(ORDERS)));
    let outcome = pair.run();
    assert_eq!(server_failure(&outcome).label(), "no_certificate");
    let told = client_failure(&outcome);
    assert!(matches!(told, HandshakeFailure::AlertReceived(AlertDescription::CertificateRequired)), "{told}");
    assert!(pair.server.is_handshaking());
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn peers_without_a_common_protocol_do_not_speak() {
    let ca = ca();
    let (web, orders) = (ca.generation(WEB, PeerClass::Sidecar), ca.generation(ORDERS, PeerClass::Sidecar));
    let mut pair =
        Pair::new(web.client_config(Alpn::H2), orders.server_config(Alpn::Tcp), server_name(&ca.id(ORDERS)));
    let outcome = pair.run();
    assert_eq!(server_failure(&outcome).label(), "no_common_alpn");
    assert_eq!(client_failure(&outcome).label(), "alert_received");
}

#[test]
fn a_client_from_outside_signet_may_use_the_plain_protocol() {
    let ca = ca();
    let orders = ca.generation(ORDERS, PeerClass::Sidecar);
    let app = ca.generation("ns/shop/sa/app", PeerClass::Workload);
    for (alpn, plain) in [(Alpn::H2, b"h2".as_slice()), (Alpn::Http1, b"http/1.1")] {
        let mut config = rustls::ClientConfig::clone(&app.client_config(alpn));
        config.alpn_protocols = vec![plain.to_vec()];
        let mut pair = Pair::new(Arc::new(config), orders.server_config(alpn), server_name(&ca.id(ORDERS)));
        assert!(pair.run().is_ok());
        assert_eq!(pair.server.alpn_protocol(), Some(plain));
        assert!(!Alpn::is_signet(pair.server.alpn_protocol()));
    }
}

#[test]
fn a_server_that_has_not_the_key_of_its_certificate_is_refused() {
    let ca = ca();
    let web = ca.generation(WEB, PeerClass::Sidecar);
    let orders = ca.svid_short(ORDERS, PeerClass::Sidecar);
    let other = ca.svid_short(ORDERS, PeerClass::Sidecar);
    // The certificate of one, the key of another: rustls would refuse to load it, so go around that.
    let key = rustls::crypto::ring::sign::any_supported_type(&rustls::pki_types::PrivateKeyDer::Pkcs8(
        other.private_key_pkcs8().to_vec().into(),
    ))
    .unwrap();
    let stolen = rustls::sign::CertifiedKey::new(orders.chain().to_vec(), key);
    let config = rustls::ServerConfig::builder_with_provider(signet_identity::crypto_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(stolen)));
    let mut pair = Pair::new(web.client_config(Alpn::H2), Arc::new(config), server_name(&ca.id(ORDERS)));
    assert_eq!(client_failure(&pair.run()).label(), "bad_signature");
    let mismatch = signet_identity::OwnSvid::new(orders.chain().to_vec(), other.private_key_pkcs8().clone());
    assert!(matches!(mismatch, Err(signet_identity::OwnSvidError::KeyMismatch)));
}

#[test]
fn an_own_svid_shows_no_key_in_its_debug_output() {
    let svid = ca().svid_short(WEB, PeerClass::Sidecar);
    let text = format!("{svid:?}");
    assert!(text.contains("sa/web") && !text.to_lowercase().contains("key") && text.len() < 300, "{text}");
}
