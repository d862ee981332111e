//! Any bytes as a certificate request give an error or the leaf that was meant: everything in it but its
//! key, its serial and its dates is decided here.

use std::sync::OnceLock;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyUsagePurpose, SanType,
};
use signet_identity::PeerClass;
use x509_parser::parse_x509_certificate;

use crate::*;

/// The part of a leaf that is signed, whole, with its serial, its public key (and the identifier that
/// follows from it) and its two dates replaced by zeros. The key's algorithm stays.
fn blanked(der: &[u8]) -> Vec<u8> {
    let leaf = parse_x509_certificate(der).unwrap().1;
    let mut tbs = leaf.tbs_certificate.as_ref().to_vec();
    let mut blank = |what: &[u8]| {
        let at = tbs.windows(what.len()).position(|window| window == what).unwrap();
        tbs[at..at + what.len()].fill(0);
    };
    blank(leaf.raw_serial());
    blank(&leaf.public_key().subject_public_key.data);
    blank(leaf.extensions().iter().find(|e| e.oid.to_id_string() == "2.5.29.14").unwrap().value);
    for date in [leaf.validity().not_before, leaf.validity().not_after] {
        let date = date.to_datetime();
        let text = format!(
            "{:02}{:02}{:02}{:02}{:02}{:02}Z",
            date.year() % 100,
            u8::from(date.month()),
            date.day(),
            date.hour(),
            date.minute(),
            date.second()
        );
        blank(text.as_bytes());
    }
    tbs
}

/// Requests that ask for what they should not have.
fn wishes() -> impl Strategy<Value = CertificateParams> {
    let names = proptest::collection::vec("[a-z]{1,12}(\\.[a-z]{1,12}){0,3}", 0..50);
    let uris = proptest::collection::vec("spiffe://[a-z.]{1,20}/[a-zA-Z0-9/._-]{0,40}", 0..4);
    let usages = proptest::sample::subsequence(
        vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::KeyAgreement,
        ],
        0..4,
    );
    let extended = proptest::sample::subsequence(
        vec![
            ExtendedKeyUsagePurpose::Any,
            ExtendedKeyUsagePurpose::CodeSigning,
            ExtendedKeyUsagePurpose::OcspSigning,
            ExtendedKeyUsagePurpose::ServerAuth,
        ],
        0..4,
    );
    let class = proptest::sample::select(PeerClass::ALL.to_vec());
    let subject = "[ -~]{0,40}";
    (names, uris, usages, extended, class, subject, 0..4u8).prop_map(
        |(names, uris, usages, extended, class, subject, ca)| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, subject);
            params.subject_alt_names = uris
                .iter()
                .map(|uri| SanType::URI(uri.as_str().try_into().unwrap()))
                .chain(names.iter().map(|name| SanType::DnsName(name.as_str().try_into().unwrap())))
                .collect();
            params.key_usages = usages;
            params.extended_key_usages = extended;
            params.is_ca = match ca {
                0 => IsCa::NoCa,
                1 => IsCa::ExplicitNoCa,
                2 => IsCa::Ca(BasicConstraints::Unconstrained),
                _ => IsCa::Ca(BasicConstraints::Constrained(9)),
            };
            let policies = class.policies_der();
            params.custom_extensions =
                vec![CustomExtension::from_oid_content(&PeerClass::EXTENSION_OID, policies)];
            params
        },
    )
}

struct Desk {
    runtime: tokio::runtime::Runtime,
    mesh: Mesh,
    expected: Vec<u8>,
}

/// The leaf of an empty request is what every other must equal.
fn desk() -> Desk {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mesh = runtime.block_on(mesh_with(|c| c.failed_attempts_per_minute = u32::MAX));
    let empty = runtime.block_on(mesh.join("web"));
    Desk { expected: blanked(&empty.chain[0]), runtime, mesh }
}

impl Desk {
    /// Asks with these bytes; whether a certificate came, and then it is the expected one.
    fn ask(&self, csr: &[u8]) -> bool {
        self.runtime.block_on(async {
            let token = self.mesh.token("web").await;
            match self.mesh.attest(&token, csr).await {
                Ok(issued) => {
                    assert_eq!(blanked(&issued.chain[0]), self.expected);
                    true
                }
                Err(AuthorityError::Refused(_)) => false,
                Err(other) => panic!("neither a certificate nor a refusal: {other}"),
            }
        })
    }
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

#[test]
fn whatever_a_request_wishes_for_the_leaf_is_the_same() {
    let desk = desk();
    runner(64)
        .run(&wishes(), |wishes| {
            let request = wishes.serialize_request(&key()).unwrap();
            prop_assert!(desk.ask(request.der()), "a well-formed request was refused");
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_changed_request_is_refused_or_yields_the_same_leaf() {
    let desk = desk();
    static CSR: OnceLock<Vec<u8>> = OnceLock::new();
    let csr = CSR.get_or_init(|| csr(&key()));
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4);
    runner(256)
        .run(&(edits, any::<prop::sample::Index>(), any::<bool>()), |(edits, end, cut)| {
            let mut bytes = csr.clone();
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if cut {
                bytes.truncate(end.index(bytes.len()));
            }
            desk.ask(&bytes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn bytes_that_are_no_request_are_refused() {
    let desk = desk();
    runner(256)
        .run(&proptest::collection::vec(any::<u8>(), 0..2000), |bytes| {
            prop_assert!(!desk.ask(&bytes));
            Ok(())
        })
        .unwrap();
}
