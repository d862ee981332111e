//! Reading chains: every rule of the X.509-SVID standard broken once, and any bytes survived.

use proptest::prelude::*;
use rcgen::{CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType, SerialNumber};
use rustls::pki_types::CertificateDer;
use signet_identity::{
    BundleError, PeerClass, Serial, Svid, SvidError, TrustBundle, TrustDomain,
    testing::{SvidOptions, TestCa},
};

fn ca() -> TestCa {
    TestCa::new("demo.signet")
}

const WEB: &str = "spiffe://demo.signet/ns/shop/sa/web";

fn parse(id: &str, options: SvidOptions) -> Result<Svid, SvidError> {
    Svid::parse(&ca().chain(id, PeerClass::Sidecar, options).0)
}

fn refused(change: fn(&mut rcgen::CertificateParams)) -> SvidError {
    parse(WEB, SvidOptions::default().changed(change)).unwrap_err()
}

fn policies(der: Vec<u8>) -> CustomExtension {
    CustomExtension::from_oid_content(&PeerClass::EXTENSION_OID, der)
}

#[test]
fn a_good_chain_says_who_what_and_until_when() {
    let ca = ca();
    let serial = Serial::fresh().unwrap();
    let options = SvidOptions {
        serial: Some(serial),
        dns: vec!["web.shop.signet.internal".to_owned()],
        ..SvidOptions::default()
    };
    for class in PeerClass::ALL {
        let (chain, _) = ca.chain(WEB, class, options.clone());
        let svid = Svid::parse(&chain).unwrap();
        assert_eq!(svid.id.as_str(), WEB);
        assert_eq!(svid.class, class);
        assert_eq!(svid.serial, serial);
        assert_eq!(svid.dns_names, ["web.shop.signet.internal"]);
        assert_eq!(svid.not_after - svid.not_before, 3660);
        assert_eq!(svid.issuers.len(), 1);
        assert!(svid.issuer.contains("issuer of demo.signet"), "{}", svid.issuer);
    }
}

#[test]
fn an_independent_reader_finds_the_class_under_the_uuid_arc() {
    let (chain, _) = ca().chain(WEB, PeerClass::Gateway, SvidOptions::default());
    // 2.25 is one byte, 0x69; then the UUID as a base-128 number; then .1.2.
    let uuid = u128::from_str_radix(&signet_identity::ARC_UUID.replace('-', ""), 16).unwrap();
    let mut digits = vec![u8::try_from(uuid & 0x7f).unwrap()];
    let mut rest = uuid >> 7;
    while rest > 0 {
        digits.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    digits.push(0x69);
    digits.reverse();
    digits.extend([1, 2]);
    assert!(chain[0].windows(digits.len()).any(|window| window == digits));
}

#[test]
fn exactly_one_uri_name_with_a_path_is_demanded() {
    assert_eq!(refused(|p| p.subject_alt_names.clear()), SvidError::UriNames(0));
    let two = refused(|p| p.subject_alt_names.push(SanType::URI("https://x.example".try_into().unwrap())));
    assert_eq!(two, SvidError::UriNames(2));
    assert_eq!(parse("spiffe://demo.signet", SvidOptions::default()).unwrap_err(), SvidError::RootPath);
    for bad in [
        "spiffe://Demo.signet/ns/shop/sa/web",
        "https://demo.signet/ns/shop/sa/web",
        "spiffe://demo.signet/ns//sa/web",
    ] {
        assert!(matches!(parse(bad, SvidOptions::default()), Err(SvidError::SpiffeId(_))), "{bad}");
    }
}

#[test]
fn a_leaf_that_could_sign_is_refused() {
    assert_eq!(refused(|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)), SvidError::LeafIsCa);
    assert_eq!(refused(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)), SvidError::KeyUsage);
    assert_eq!(refused(|p| p.key_usages.push(KeyUsagePurpose::CrlSign)), SvidError::KeyUsage);
}

#[test]
fn key_usage_must_be_there_critical_and_for_signatures() {
    assert_eq!(refused(|p| p.key_usages.clear()), SvidError::KeyUsageMissing);
    assert_eq!(refused(|p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]), SvidError::KeyUsage);
    let not_critical = refused(|p| {
        p.key_usages.clear();
        p.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]));
    });
    assert_eq!(not_critical, SvidError::KeyUsageMissing);
}

#[test]
fn both_extended_usages_are_demanded() {
    assert_eq!(refused(|p| p.extended_key_usages.clear()), SvidError::ExtendedKeyUsage);
    assert_eq!(
        refused(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        SvidError::ExtendedKeyUsage
    );
    assert_eq!(
        refused(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        SvidError::ExtendedKeyUsage
    );
}

#[test]
fn exactly_one_known_class_is_demanded() {
    assert_eq!(refused(|p| p.custom_extensions.clear()), SvidError::Classes(0));
    // A policy of somebody else's: anyPolicy.
    let foreign =
        refused(|p| p.custom_extensions = vec![policies(vec![0x30, 8, 0x30, 6, 6, 4, 0x55, 0x1d, 0x20, 0])]);
    assert_eq!(foreign, SvidError::Classes(0));
    let two = refused(|p| {
        let inner: Vec<u8> = [PeerClass::Sidecar, PeerClass::ControlPlane]
            .iter()
            .flat_map(|class| class.policies_der()[2..].to_vec())
            .collect();
        let mut der = vec![0x30, u8::try_from(inner.len()).unwrap()];
        der.extend(inner);
        p.custom_extensions = vec![policies(der)];
    });
    assert_eq!(two, SvidError::Classes(2));
    let unknown = refused(|p| {
        let mut der = PeerClass::Sidecar.policies_der();
        *der.last_mut().unwrap() = 99;
        p.custom_extensions = vec![policies(der)];
    });
    assert!(matches!(unknown, SvidError::UnknownClass(_)), "{unknown:?}");
}

#[test]
fn an_extension_that_appears_twice_is_refused() {
    let twice = refused(|p| {
        let again = p.custom_extensions[0].clone();
        p.custom_extensions.push(again);
    });
    assert_eq!(twice, SvidError::DuplicateExtension("2.5.29.32".to_owned()));
}

#[test]
fn an_empty_subject_wants_a_critical_name() {
    let named =
        parse(WEB, SvidOptions::default().changed(|p| p.distinguished_name.push(DnType::CommonName, "web")));
    named.unwrap();
    let custom = refused(|p| {
        p.subject_alt_names.clear();
        let mut der =
            vec![0x30, u8::try_from(WEB.len() + 2).unwrap(), 0x86, u8::try_from(WEB.len()).unwrap()];
        der.extend(WEB.as_bytes());
        p.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], der));
    });
    assert_eq!(custom, SvidError::SanNotCritical);
}

#[test]
fn a_zero_serial_and_backward_dates_are_refused() {
    assert!(matches!(
        refused(|p| p.serial_number = Some(SerialNumber::from_slice(&[0]))),
        SvidError::Serial(_)
    ));
    assert_eq!(refused(|p| std::mem::swap(&mut p.not_before, &mut p.not_after)), SvidError::Dates);
}

#[test]
fn a_chain_holds_signers_of_the_same_trust_domain_and_not_too_many() {
    let (ours, theirs) = (ca(), TestCa::new("other.signet"));
    let leaf = ours.chain(WEB, PeerClass::Sidecar, SvidOptions::default()).0.remove(0);
    assert_eq!(Svid::parse(&[]).unwrap_err(), SvidError::EmptyChain);
    assert_eq!(Svid::parse(&[leaf.clone(), leaf.clone()]).unwrap_err(), SvidError::SignerIsNotCa);
    let foreign = Svid::parse(&[leaf.clone(), theirs.issuer().clone()]).unwrap_err();
    assert!(matches!(foreign, SvidError::SignerTrustDomain { .. }), "{foreign}");
    let mut long = vec![leaf];
    long.extend(std::iter::repeat_n(ours.issuer().clone(), 6));
    assert_eq!(Svid::parse(&long).unwrap_err(), SvidError::ChainTooLong(7));
}

#[test]
fn a_bundle_takes_roots_of_its_own_domain_only() {
    let (ours, theirs) = (ca(), TestCa::new("other.signet"));
    let td: TrustDomain = "demo.signet".parse().unwrap();
    let wrong = TrustBundle::new(td.clone(), [theirs.root().clone()]).unwrap_err();
    assert!(matches!(wrong, BundleError::Root { index: 0, .. }), "{wrong}");
    let leaf = ours.chain(WEB, PeerClass::Sidecar, SvidOptions::default()).0.remove(0);
    assert!(TrustBundle::new(td.clone(), [leaf]).is_err(), "a leaf is no root");
    assert!(matches!(TrustBundle::new(td.clone(), []), Err(BundleError::Empty(_))));
    let twice = TrustBundle::new(td, [ours.root().clone(), ours.root().clone()]).unwrap();
    assert_eq!(twice.roots().count(), 1);
    let bundles = signet_identity::Bundles::new([ours.bundle(), ours.bundle()]);
    assert!(matches!(bundles, Err(BundleError::Twice(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Svid::parse(&[CertificateDer::from(bytes)]);
    }

    /// One good certificate with a few bytes changed, or cut short: read or refused, never a panic, and what
    /// is still read as another identity does not verify (that is `chain.rs`' part).
    #[test]
    fn a_mutated_certificate_is_survived(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        in_issuer in any::<bool>(),
    ) {
        static CHAIN: std::sync::OnceLock<Vec<CertificateDer<'static>>> = std::sync::OnceLock::new();
        let mut chain = CHAIN.get_or_init(|| ca().chain(WEB, PeerClass::Sidecar, SvidOptions::default()).0).clone();
        let mut der = chain[usize::from(in_issuer)].to_vec();
        for (index, byte) in &edits {
            let at = index.index(der.len());
            der[at] = *byte;
        }
        if let Some(cut) = cut {
            der.truncate(cut.index(der.len()));
        }
        chain[usize::from(in_issuer)] = CertificateDer::from(der);
        let _ = Svid::parse(&chain);
    }
}
