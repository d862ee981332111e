use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{PeerClass, RevocationSet};

use super::*;

const WEB: &str = "ns/shop/sa/web";

fn svid(ca: &TestCa) -> OwnSvid {
    ca.svid(&ca.id(WEB), PeerClass::Sidecar, SvidOptions::default().at_wall_clock())
}

fn bundle(cas: &[&TestCa], sequence: u64) -> Delivered {
    let domain = cas[0].trust_domain().clone();
    let bundle = TrustBundle::new(domain, cas.iter().map(|ca| ca.root().clone())).unwrap();
    Delivered { bundle, sequence, tainted: Vec::new(), jwt_keys: signet_token::Jwks::default() }
}

fn credentials(ca: &TestCa) -> Arc<Credentials> {
    let credentials = Credentials::new(ca.trust_domain().clone(), GenerationOptions::default());
    credentials.issued(svid(ca), Some(bundle(&[ca], 1))).unwrap();
    credentials
}

fn number(credentials: &Credentials) -> u64 {
    credentials.current().unwrap().generation.number()
}

fn roots(credentials: &Credentials, domain: &str) -> usize {
    let tls = credentials.current().unwrap();
    tls.generation
        .bundles()
        .get(&TrustDomain::parse(domain).unwrap())
        .map_or(0, |bundle| bundle.roots().count())
}

#[test]
fn each_change_of_svid_or_roots_is_a_new_generation_and_none_is_none() {
    let (ca, next) = (TestCa::new("demo.signet"), TestCa::new("demo.signet"));
    let credentials = credentials(&ca);
    assert_eq!(number(&credentials), 1);
    assert!(!credentials.trust([bundle(&[&ca], 2)]).unwrap(), "the same roots are no change");
    assert_eq!(number(&credentials), 1);
    assert!(credentials.trust([bundle(&[&ca, &next], 3)]).unwrap());
    assert_eq!((number(&credentials), roots(&credentials, "demo.signet")), (2, 2));
    credentials.issued(svid(&next), None).unwrap();
    assert_eq!(number(&credentials), 3);
}

#[test]
fn an_older_bundle_brings_no_removed_root_back() {
    let (ca, removed) = (TestCa::new("demo.signet"), TestCa::new("demo.signet"));
    let credentials = credentials(&ca);
    credentials.trust([bundle(&[&ca, &removed], 2)]).unwrap();
    credentials.trust([bundle(&[&ca], 3)]).unwrap();
    assert!(!credentials.trust([bundle(&[&ca, &removed], 2)]).unwrap());
    assert_eq!(roots(&credentials, "demo.signet"), 1);
}

#[test]
fn another_domain_is_trusted_until_it_is_no_longer_delivered_and_ours_always() {
    let (ca, other) = (TestCa::new("demo.signet"), TestCa::new("partner.example"));
    let credentials = credentials(&ca);
    credentials.trust([bundle(&[&ca], 1), bundle(&[&other], 1)]).unwrap();
    assert_eq!(roots(&credentials, "partner.example"), 1);
    credentials.trust([]).unwrap();
    assert_eq!((roots(&credentials, "partner.example"), roots(&credentials, "demo.signet")), (0, 1));
}

#[test]
fn roots_that_do_not_vouch_for_us_wait_for_the_svid_that_fits_them() {
    let (ca, next) = (TestCa::new("demo.signet"), TestCa::new("demo.signet"));
    let credentials = credentials(&ca);
    let error = credentials.trust([bundle(&[&next], 2)]).unwrap_err();
    assert!(crate::identity::needs_renewal(&error), "{error}");
    assert_eq!(number(&credentials), 1, "what works goes on");
    credentials.issued(svid(&next), None).unwrap();
    assert_eq!((number(&credentials), roots(&credentials, "demo.signet")), (2, 1));
}

#[test]
fn an_svid_that_our_own_verifier_refuses_is_not_put_into_force() {
    let (ca, stranger) = (TestCa::new("demo.signet"), TestCa::new("demo.signet"));
    let credentials = credentials(&ca);
    let serial = credentials.current().unwrap().generation.own().svid().serial;
    credentials.issued(svid(&stranger), None).unwrap_err();
    assert_eq!(credentials.current().unwrap().generation.own().svid().serial, serial);
}

#[test]
fn revocations_only_move_forward_and_reach_the_data_plane() {
    let ca = TestCa::new("demo.signet");
    let credentials = credentials(&ca);
    let (state, _wishes) = State::new(credentials.current().unwrap());
    credentials.attach(state.clone());
    let mut revoked = RevocationSet::new(7);
    revoked.identities.insert(ca.id(WEB));
    credentials.revoke(Arc::new(revoked));
    assert_eq!(state.view().tls.revoked.sequence, 7);
    credentials.revoke(Arc::new(RevocationSet::new(6)));
    assert_eq!(state.view().tls.revoked.sequence, 7);
    assert!(!credentials.is_valid(crate::clock::now()), "a revoked certificate is not a valid one");
    assert_eq!(number(&credentials), 1, "revocations are not part of the generation");
}
