//! Sessions: kept within a generation and an identity, checked again every time, forgotten with the roots.

mod common;

use std::{sync::Arc, time::Duration};

use common::Pair;
use rustls::pki_types::UnixTime;
use signet_identity::{
    Alpn, CacheCounts, Expected, Generation, GenerationOptions, HandshakeFailure, KeyId, PeerClass,
    RevocationSet, RevokedBy, SpiffeId, routed_server_name, server_name,
    testing::{SvidOptions, TestCa, TestTime, test_now, test_options},
};

const WEB: &str = "ns/shop/sa/web";
const ORDERS: &str = "ns/shop/sa/orders";

struct Mesh {
    ca: TestCa,
    web: Arc<Generation>,
    orders: Arc<Generation>,
}

fn mesh() -> Mesh {
    let ca = TestCa::new("demo.signet");
    let (web, orders) = (ca.generation(WEB, PeerClass::Sidecar), ca.generation(ORDERS, PeerClass::Sidecar));
    Mesh { ca, web, orders }
}

fn connect(client: &Generation, server: &Generation, expected: &SpiffeId) -> Pair {
    let mut pair =
        Pair::new(client.client_config(Alpn::H2), server.server_config(Alpn::H2), server_name(expected));
    let outcome = pair.run();
    assert!(outcome.is_ok(), "{outcome:?}");
    pair.talk();
    pair
}

/// The next generation of a peer: same roots, a renewed SVID.
fn renewed(mesh: &Mesh, short: &str) -> Arc<Generation> {
    Generation::build(2, mesh.ca.svid_short(short, PeerClass::Sidecar), mesh.ca.bundles(), test_options())
        .unwrap()
}

#[test]
fn a_session_is_resumed_within_a_generation() {
    let mesh = mesh();
    let id = mesh.ca.id(ORDERS);
    assert!(!connect(&mesh.web, &mesh.orders, &id).resumed());
    let again = connect(&mesh.web, &mesh.orders, &id);
    assert!(again.resumed());
    // The check sees who it was, on both sides.
    let none = RevocationSet::new(0);
    mesh.web.check(again.seen_by_client(), &Expected::Exact(&id), &none, test_now()).unwrap();
    let peer = mesh.orders.check(again.seen_by_server(), &Expected::OurDomain, &none, test_now()).unwrap();
    assert_eq!(peer.id(), &mesh.ca.id(WEB));
}

#[test]
fn a_renewed_server_does_not_know_the_last_generations_tickets() {
    let mesh = mesh();
    let id = mesh.ca.id(ORDERS);
    connect(&mesh.web, &mesh.orders, &id);
    let next = renewed(&mesh, ORDERS);
    assert!(!connect(&mesh.web, &next, &id).resumed());
    assert!(connect(&mesh.web, &next, &id).resumed(), "its own tickets it knows");
}

#[test]
fn a_renewed_client_does_not_use_the_last_generations_sessions() {
    let mesh = mesh();
    let id = mesh.ca.id(ORDERS);
    connect(&mesh.web, &mesh.orders, &id);
    assert!(!connect(&renewed(&mesh, WEB), &mesh.orders, &id).resumed());
}

#[test]
fn sessions_of_different_protocols_and_endpoints_are_apart() {
    let mesh = mesh();
    let id = mesh.ca.id(ORDERS);
    connect(&mesh.web, &mesh.orders, &id);
    let mut tcp =
        Pair::new(mesh.web.client_config(Alpn::Tcp), mesh.orders.server_config(Alpn::Tcp), server_name(&id));
    assert!(tcp.run().is_ok());
    assert!(!tcp.resumed());
    let endpoint = mesh.web.client_config_for_endpoint(Alpn::H2);
    let dial = || {
        let mut pair = Pair::new(endpoint.clone(), mesh.orders.server_config(Alpn::H2), server_name(&id));
        assert!(pair.run().is_ok());
        pair.resumed()
    };
    assert!(!dial(), "a new endpoint starts with no session");
    assert!(dial());
}

#[test]
fn a_revoked_peer_is_caught_on_a_resumed_session_by_whatever_revokes_it() {
    let mesh = mesh();
    let id = mesh.ca.id(ORDERS);
    connect(&mesh.web, &mesh.orders, &id);
    let again = connect(&mesh.web, &mesh.orders, &id);
    assert!(again.resumed());
    let web = mesh.web.own().svid();
    let issuer = &web.issuers[0];
    let set = |change: &dyn Fn(&mut RevocationSet)| {
        let mut revoked = RevocationSet::new(1);
        change(&mut revoked);
        revoked
    };
    let cases = [
        (set(&|r| assert!(r.serials.insert(web.serial))), RevokedBy::Serial(web.serial)),
        (set(&|r| assert!(r.identities.insert(web.id.clone()))), RevokedBy::Identity),
        (set(&|r| assert!(r.keys.insert(web.key))), RevokedBy::Key(web.key)),
        (set(&|r| assert!(r.serials.insert(issuer.serial))), RevokedBy::IssuerSerial(issuer.serial)),
        (set(&|r| assert!(r.keys.insert(issuer.key))), RevokedBy::IssuerKey(issuer.key)),
    ];
    let peer = mesh
        .orders
        .check(again.seen_by_server(), &Expected::OurDomain, &RevocationSet::new(0), test_now())
        .unwrap();
    for (revoked, wanted) in cases {
        let failure = mesh
            .orders
            .check(again.seen_by_server(), &Expected::OurDomain, &revoked, test_now())
            .unwrap_err();
        assert!(
            matches!(&failure, HandshakeFailure::Revoked { by, received } if *by == wanted && *received == web.id),
            "{failure}"
        );
        assert_eq!(peer.revoked_by(&revoked), Some(wanted), "and on a connection that is open already");
    }
    let someone_else = set(&|r| assert!(r.keys.insert(KeyId::of(b"someone else"))));
    assert!(peer.revoked_by(&someone_else).is_none());
}

#[test]
fn a_resumed_session_whose_certificate_has_ended_is_caught() {
    let ca = TestCa::new("demo.signet");
    let clock = Arc::new(TestTime::default());
    let options = || GenerationOptions { time: clock.clone(), ..GenerationOptions::default() };
    let short = SvidOptions::default().ends_in(100);
    let web = Generation::build(1, ca.svid(&ca.id(WEB), PeerClass::Sidecar, short), ca.bundles(), options())
        .unwrap();
    let orders =
        Generation::build(1, ca.svid_short(ORDERS, PeerClass::Sidecar), ca.bundles(), options()).unwrap();
    connect(&web, &orders, &ca.id(ORDERS));
    clock.advance(101);
    let again = connect(&web, &orders, &ca.id(ORDERS));
    assert!(again.resumed(), "rustls itself does not look");
    let failure = orders
        .check(again.seen_by_server(), &Expected::OurDomain, &RevocationSet::new(0), clock.now())
        .unwrap_err();
    assert_eq!(failure.label(), "expired");
}

#[test]
fn a_resumed_session_is_still_held_to_what_is_expected_now() {
    let mesh = mesh();
    let id = mesh.ca.id(ORDERS);
    connect(&mesh.web, &mesh.orders, &id);
    let again = connect(&mesh.web, &mesh.orders, &id);
    assert!(again.resumed());
    let (none, other) = (RevocationSet::new(0), mesh.ca.id("ns/shop/sa/other"));
    let check =
        |expected: &Expected<'_>| mesh.orders.check(again.seen_by_server(), expected, &none, test_now());
    assert_eq!(check(&Expected::Exact(&other)).unwrap_err().label(), "wrong_identity");
    assert_eq!(check(&Expected::AnyOf(std::slice::from_ref(&other))).unwrap_err().label(), "wrong_identity");
    assert_eq!(check(&Expected::AnyOf(&[])).unwrap_err().label(), "wrong_identity");
    check(&Expected::AnyOf(&[other, mesh.ca.id(WEB)])).unwrap();
}

#[test]
fn forgotten_sessions_are_not_resumed_and_other_identities_keep_theirs() {
    let mesh = mesh();
    let other = mesh.ca.generation("ns/shop/sa/other", PeerClass::Sidecar);
    let (orders_id, other_id) = (mesh.ca.id(ORDERS), mesh.ca.id("ns/shop/sa/other"));
    connect(&mesh.web, &mesh.orders, &orders_id);
    connect(&mesh.web, &other, &other_id);
    mesh.web.forget_sessions(&orders_id);
    assert!(!connect(&mesh.web, &mesh.orders, &orders_id).resumed());
    assert!(connect(&mesh.web, &other, &other_id).resumed());
}

#[test]
fn a_session_of_one_identity_is_never_offered_to_another() {
    let mesh = mesh();
    let thief = mesh.ca.generation("ns/shop/sa/thief", PeerClass::Sidecar);
    connect(&mesh.web, &thief, &mesh.ca.id("ns/shop/sa/thief"));
    // The thief takes over the address of orders: the client has a session with it under its own name, and
    // must not use it here.
    let mut pair = Pair::new(
        mesh.web.client_config(Alpn::H2),
        thief.server_config(Alpn::H2),
        server_name(&mesh.ca.id(ORDERS)),
    );
    let outcome = pair.run();
    let failure = HandshakeFailure::from_rustls(&outcome.client.unwrap());
    assert_eq!(failure.label(), "wrong_identity");
}

#[test]
fn a_session_of_one_way_is_never_offered_on_another() {
    let mesh = mesh();
    let id = mesh.ca.id(ORDERS);
    let connect = |name| {
        let client = mesh.web.client_config(Alpn::H2);
        let mut pair = Pair::new(client, mesh.orders.server_config(Alpn::H2), name);
        assert!(pair.run().is_ok());
        pair.talk();
        pair
    };
    let way = |service| routed_server_name(&id, "http", service, "shop").unwrap();
    assert!(!connect(way("orders")).resumed());
    assert!(connect(way("orders")).resumed());
    assert!(!connect(way("stock")).resumed());
    assert!(!connect(server_name(&id)).resumed());
}

#[test]
fn a_repeated_peer_is_verified_once() {
    let mesh = mesh();
    let id = mesh.ca.id(ORDERS);
    // Building a generation verifies our own chain, which is one miss.
    assert_eq!(mesh.orders.cache_counts(), CacheCounts { hits: 0, misses: 1 });
    for round in 0..3 {
        mesh.web.forget_sessions(&id);
        let pair = connect(&mesh.web, &mesh.orders, &id);
        assert!(!pair.resumed());
        mesh.orders
            .check(pair.seen_by_server(), &Expected::OurDomain, &RevocationSet::new(0), test_now())
            .unwrap();
        // One look in the handshake and one in the check; only the very first misses.
        assert_eq!(mesh.orders.cache_counts(), CacheCounts { hits: 2 * round + 1, misses: 2 });
    }
}

#[test]
fn a_chain_known_to_one_generation_is_unknown_to_one_without_its_root() {
    let mesh = mesh();
    let successor = TestCa::new("demo.signet");
    let peer = mesh.web.own().chain();
    mesh.orders.check(Some(peer), &Expected::OurDomain, &RevocationSet::new(0), test_now()).unwrap();
    let next = successor.generation(ORDERS, PeerClass::Sidecar);
    let failure =
        next.check(Some(peer), &Expected::OurDomain, &RevocationSet::new(0), test_now()).unwrap_err();
    assert_eq!(failure.label(), "unknown_root");
}

#[test]
fn a_root_that_has_ended_vouches_for_nobody() {
    let mesh = mesh();
    // The test roots last ten years; a leaf that outlives its root is something only a bad authority makes.
    let eleven_years = 11 * 31_557_600;
    let id = mesh.ca.id(WEB);
    let (chain, _) = mesh.ca.chain(
        id.as_str(),
        PeerClass::Sidecar,
        SvidOptions { by_root: true, ..SvidOptions::default().ends_in(2 * eleven_years) },
    );
    let later = UnixTime::since_unix_epoch(Duration::from_secs(test_now().as_secs() + eleven_years as u64));
    mesh.orders.check(Some(&chain), &Expected::OurDomain, &RevocationSet::new(0), test_now()).unwrap();
    let failure =
        mesh.orders.check(Some(&chain), &Expected::OurDomain, &RevocationSet::new(0), later).unwrap_err();
    assert!(matches!(&failure, HandshakeFailure::BadChain(why) if why.contains("root")), "{failure}");
}

#[test]
fn without_resumption_every_connection_is_a_full_handshake() {
    let mesh = mesh();
    let id = mesh.ca.id(ORDERS);
    let full = |short| {
        let options = GenerationOptions { resumption: false, ..test_options() };
        Generation::build(1, mesh.ca.svid_short(short, PeerClass::Sidecar), mesh.ca.bundles(), options)
            .unwrap()
    };
    // Either side alone is enough.
    for (web, orders) in [(full(WEB), mesh.orders.clone()), (mesh.web.clone(), full(ORDERS))] {
        for _ in 0..3 {
            assert!(!connect(&web, &orders, &id).resumed());
        }
    }
    let endpoint = full(WEB).client_config_for_endpoint(Alpn::H2);
    for _ in 0..2 {
        let mut pair = Pair::new(endpoint.clone(), mesh.orders.server_config(Alpn::H2), server_name(&id));
        assert!(pair.run().is_ok());
        assert!(!pair.resumed());
    }
}

fn revoking(sequence: u64, key: &[u8]) -> Arc<RevocationSet> {
    let mut revoked = RevocationSet::new(sequence);
    revoked.keys.insert(KeyId::of(key));
    Arc::new(revoked)
}

#[test]
fn tickets_from_before_news_of_revocation_are_not_taken_up_by_the_server() {
    let mesh = mesh();
    let id = mesh.ca.id(ORDERS);
    connect(&mesh.web, &mesh.orders, &id);
    assert!(connect(&mesh.web, &mesh.orders, &id).resumed());
    // The client knows of no news and offers its ticket; it is somebody else who is revoked.
    mesh.orders.learn(&revoking(1, b"somebody else"));
    assert!(!connect(&mesh.web, &mesh.orders, &id).resumed());
    assert!(connect(&mesh.web, &mesh.orders, &id).resumed(), "tickets given since are good");
    mesh.orders.learn(&revoking(2, b"somebody else"));
    assert!(connect(&mesh.web, &mesh.orders, &id).resumed(), "a new number for the same is no news");
    mesh.orders.learn(&revoking(1, b"an older word"));
    assert!(connect(&mesh.web, &mesh.orders, &id).resumed(), "what is older is no news");
}

#[test]
fn sessions_from_before_news_of_revocation_are_not_offered_by_the_client() {
    let mesh = mesh();
    let id = mesh.ca.id(ORDERS);
    let endpoint = mesh.web.client_config_for_endpoint(Alpn::H2);
    let by_endpoint = || {
        let mut pair = Pair::new(endpoint.clone(), mesh.orders.server_config(Alpn::H2), server_name(&id));
        assert!(pair.run().is_ok());
        pair.talk();
        pair.resumed()
    };
    connect(&mesh.web, &mesh.orders, &id);
    assert!(connect(&mesh.web, &mesh.orders, &id).resumed());
    assert!(!by_endpoint());
    assert!(by_endpoint());
    mesh.web.learn(&revoking(1, b"somebody else"));
    assert!(!connect(&mesh.web, &mesh.orders, &id).resumed());
    assert!(!by_endpoint());
    assert!(connect(&mesh.web, &mesh.orders, &id).resumed());
    assert!(by_endpoint());
}
