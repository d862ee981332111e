//! Real handshakes in memory: the right peer, and every wrong one with its typed reason.

mod common;

use std::sync::Arc;

use common::{Outcome, Pair};
use rustls::AlertDescription;
use signet_identity::{
    Alpn, Bundles, Expected, Generation, HandshakeFailure, KeyId, PeerClass, RevocationSet, SpiffeId,
    bootstrap_client_config, server_name,
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
        HandshakeFailure::AlertReceived(AlertDescription::CertificateUnknown)
    ));
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
    assert_eq!(server_failure(&outcome).label(), "expired");
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

/// A ClientHello that offers TLS 1.2 and nothing newer, as openssl would send it.
fn tls12_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f]);
    body.extend([1, 0]);
    let mut extensions = Vec::new();
    extensions.extend([0, 10, 0, 4, 0, 2, 0, 0x1d]);
    extensions.extend([0, 11, 0, 2, 1, 0]);
    extensions.extend([0, 13, 0, 6, 0, 4, 4, 3, 8, 4]);
    extensions.extend([0, 23, 0, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    record.extend(message);
    record
}

fn server_reads(bytes: &[u8]) -> (HandshakeFailure, Vec<u8>) {
    let orders = ca().generation(ORDERS, PeerClass::Sidecar);
    let mut server = rustls::ServerConnection::new(orders.server_config(Alpn::H2)).unwrap();
    let mut rest = bytes;
    server.read_tls(&mut rest).unwrap();
    let error = server.process_new_packets().unwrap_err();
    let mut answer = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut answer).unwrap();
    }
    (HandshakeFailure::from_rustls(&error), answer)
}

#[test]
fn tls_1_2_is_refused_with_the_protocol_version_alert() {
    let (failure, answer) = server_reads(&tls12_hello());
    assert_eq!(failure.label(), "tls_version");
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 70], "a fatal protocol_version alert");
}

#[test]
fn plaintext_is_not_tls() {
    for bytes in ["GET / HTTP/1.1\r\nHost: orders\r\n\r\n", "\0\0\0\0\0\0\0\0", "SSH-2.0-OpenSSH_9.2\r\n"] {
        assert_eq!(server_reads(bytes.as_bytes()).0.label(), "not_tls", "{bytes:?}");
    }
}

#[test]
fn half_a_hello_waits_and_a_mutilated_one_is_refused() {
    let ca = ca();
    let (web, orders) = (ca.generation(WEB, PeerClass::Sidecar), ca.generation(ORDERS, PeerClass::Sidecar));
    let mut client =
        rustls::ClientConnection::new(web.client_config(Alpn::H2), server_name(&ca.id(ORDERS))).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    for cut in [1, 5, 6, 50, hello.len() - 1] {
        let mut server = rustls::ServerConnection::new(orders.server_config(Alpn::H2)).unwrap();
        server.read_tls(&mut &hello[..cut]).unwrap();
        server.process_new_packets().unwrap();
        assert!(server.is_handshaking());
    }
    for at in 0..hello.len() {
        let mut bad = hello.clone();
        bad[at] ^= 0x55;
        let mut server = rustls::ServerConnection::new(orders.server_config(Alpn::H2)).unwrap();
        server.read_tls(&mut bad.as_slice()).unwrap();
        if let Err(error) = server.process_new_packets() {
            assert!(!HandshakeFailure::from_rustls(&error).to_string().is_empty());
        }
        assert!(server.is_handshaking());
    }
}

#[test]
fn an_io_error_keeps_the_tls_reason_inside_it() {
    let tls = rustls::Error::NoCertificatesPresented;
    let wrapped = std::io::Error::new(std::io::ErrorKind::InvalidData, tls);
    assert_eq!(HandshakeFailure::from(wrapped).label(), "no_certificate");
    for (kind, label) in [
        (std::io::ErrorKind::UnexpectedEof, "closed"),
        (std::io::ErrorKind::ConnectionReset, "closed"),
        (std::io::ErrorKind::TimedOut, "timeout"),
        (std::io::ErrorKind::PermissionDenied, "io"),
    ] {
        assert_eq!(HandshakeFailure::from(std::io::Error::from(kind)).label(), label);
    }
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

#[test]
fn every_failure_has_its_own_label() {
    let labels = [
        HandshakeFailure::Plaintext.label(),
        HandshakeFailure::NotTls.label(),
        HandshakeFailure::Timeout.label(),
        HandshakeFailure::Closed.label(),
        HandshakeFailure::ForeignHello { sni: None }.label(),
    ];
    assert_eq!(labels.iter().collect::<std::collections::HashSet<_>>().len(), labels.len());
}
