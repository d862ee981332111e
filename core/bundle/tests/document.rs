//! What is read of somebody's bundle document, what is ignored, and what refuses it whole.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};
use signet_bundle::{Document, DocumentError, EntryError, MAX_BYTES, MAX_KEYS, write};
use signet_identity::testing::TestCa;
use signet_identity::{BundleError, TrustBundle, TrustDomain};
use signet_token::{Jwks, SigningKey};

fn domain() -> TrustDomain {
    TrustDomain::parse("partner.example").unwrap()
}

fn ca() -> TestCa {
    TestCa::new("partner.example")
}

fn jwt_keys() -> Jwks {
    Jwks::of([SigningKey::generate().unwrap().public_jwk().clone()])
}

/// Our own document of this authority, as a value to spoil.
fn good(ca: &TestCa) -> Value {
    let text = write(&ca.bundle(), &jwt_keys(), 7, Duration::from_secs(300));
    serde_json::from_str(&text).unwrap()
}

fn parse(document: &Value) -> Result<Document, DocumentError> {
    Document::parse(&domain(), document.to_string().as_bytes())
}

fn entry(document: Result<Document, DocumentError>) -> EntryError {
    match document.unwrap_err() {
        DocumentError::Entry { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

#[test]
fn what_we_write_is_what_we_read() {
    let ca = ca();
    let jwt = jwt_keys();
    let text = write(&ca.bundle(), &jwt, u64::MAX, Duration::from_secs(60));
    let read = Document::parse(&domain(), text.as_bytes()).unwrap();
    assert_eq!((read.sequence(), read.refresh_hint()), (Some(u64::MAX), Some(Duration::from_secs(60))));
    let roots: Vec<_> = read.roots().unwrap().roots().collect();
    assert_eq!(roots, [ca.root()]);
    assert_eq!(read.jwt_keys().keys(), jwt.keys());
    assert_eq!(read.ignored(), 0);
    let entry: Value = serde_json::from_str::<Value>(&text).unwrap()["keys"][0].clone();
    assert_eq!(
        (&entry["kty"], &entry["crv"], &entry["use"]),
        (&json!("EC"), &json!("P-256"), &json!("x509-svid"))
    );
    assert!(entry.get("kid").is_none(), "a root is named by its certificate: {entry}");
    let again = write(&ca.bundle(), &jwt, u64::MAX, Duration::from_secs(60));
    assert_eq!(text, again, "equal content gives equal text");
}

#[test]
fn unknown_uses_and_key_types_are_ignored_and_counted() {
    let mut document = good(&ca());
    let keys = document["keys"].as_array_mut().unwrap();
    keys.push(json!({"kty": "EC", "use": "wit-svid", "kid": "w"}));
    keys.push(json!({"kty": "AKP", "use": "x509-svid"}));
    keys.push(json!({"kty": "oct", "use": "jwt-svid", "kid": "s", "k": "c2VjcmV0"}));
    keys.push(json!({"kty": "EC", "crv": "secp256k1", "use": "jwt-svid", "kid": "k", "x": "AA", "y": "AA"}));
    document["unheard_of"] = json!({"a": 1});
    let read = parse(&document).unwrap();
    assert_eq!(read.ignored(), 4);
    assert_eq!((read.roots().unwrap().roots().count(), read.jwt_keys().len()), (1, 1));
}

#[test]
fn no_keys_trusts_nothing_and_keys_that_are_absent_are_an_error() {
    let read = parse(&json!({"keys": []})).unwrap();
    assert!(read.roots().is_none() && read.jwt_keys().is_empty());
    assert_eq!((read.sequence(), read.refresh_hint()), (None, None));
    for absent in [json!({}), json!({"keys": null}), json!({"keys": {}}), json!({"spiffe_sequence": 1})] {
        assert_eq!(parse(&absent).unwrap_err(), DocumentError::NoKeys, "{absent}");
    }
    let map = json!({"trust_domains": {"partner.example": {"keys": []}}});
    assert_eq!(parse(&map).unwrap_err(), DocumentError::BundleMap);
}

#[test]
fn a_root_entry_holds_exactly_one_certificate() {
    let ca = ca();
    for count in [0, 2] {
        let mut document = good(&ca);
        let certificate = document["keys"][0]["x5c"][0].clone();
        document["keys"][0]["x5c"] = json!(vec![certificate; count]);
        assert_eq!(entry(parse(&document)), EntryError::X5c(count));
    }
    let mut document = good(&ca);
    document["keys"][0].as_object_mut().unwrap().remove("x5c");
    assert_eq!(entry(parse(&document)), EntryError::X5c(0));
    for text in ["", "!", "AAAA", "MIIB"] {
        let mut document = good(&ca);
        document["keys"][0]["x5c"] = json!([text]);
        assert!(parse(&document).is_err(), "{text:?}");
    }
}

#[test]
fn an_entry_whose_certificate_has_another_key_is_refused() {
    let mut document = good(&ca());
    document["keys"][0]["x5c"] = json!([STANDARD.encode(ca().root())]);
    assert_eq!(entry(parse(&document)), EntryError::OtherKey);
    let mut document = good(&ca());
    document["keys"][0]["kty"] = json!("RSA");
    assert_eq!(entry(parse(&document)), EntryError::OtherKey);
}

#[test]
fn a_token_key_needs_a_kid_of_its_own() {
    let mut document = good(&ca());
    for kid in [json!(null), json!(""), json!(7)] {
        document["keys"][1]["kid"] = kid;
        assert_eq!(entry(parse(&document)), EntryError::NoKid);
    }
    let mut document = good(&ca());
    let again = document["keys"][1].clone();
    document["keys"].as_array_mut().unwrap().push(again);
    assert!(matches!(parse(&document).unwrap_err(), DocumentError::DuplicateKid(_)));
    let mut document = good(&ca());
    document["keys"][1]["d"] = json!("c2VjcmV0");
    assert!(matches!(entry(parse(&document)), EntryError::Jwk(_)), "a private key in the open is no key");
    let mut document = good(&ca());
    document["keys"][1]["x"] = json!("AA");
    assert!(matches!(entry(parse(&document)), EntryError::Jwk(_)));
}

#[test]
fn a_root_of_another_trust_domain_is_refused_whole() {
    let mut document = good(&ca());
    let other = TestCa::new("other.example");
    let foreign = good(&other)["keys"][0].clone();
    document["keys"].as_array_mut().unwrap().push(foreign);
    assert!(matches!(parse(&document).unwrap_err(), DocumentError::Roots(BundleError::Root { .. })));
    assert!(parse(&good(&other)).is_err(), "the document of another trust domain");
}

#[test]
fn a_leaf_is_no_root() {
    let ca = ca();
    let leaf = ca.svid_short("ns/shop/sa/web", signet_identity::PeerClass::Sidecar);
    let mut document = good(&ca);
    document["keys"] = json!([{"kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(&leaf.chain()[0])]}]);
    assert!(matches!(parse(&document).unwrap_err(), DocumentError::Roots(_)));
}

#[test]
fn numbers_are_integers_of_64_bits() {
    let mut document = good(&ca());
    for wrong in [json!("7"), json!(-1), json!(1.5), json!(null), json!([1])] {
        document["spiffe_sequence"] = wrong.clone();
        assert_eq!(
            parse(&document).unwrap_err(),
            DocumentError::NotAnInteger { member: "spiffe_sequence" },
            "{wrong}"
        );
    }
    document["spiffe_sequence"] = json!(u64::MAX);
    assert_eq!(parse(&document).unwrap().sequence(), Some(u64::MAX));
    document["spiffe_refresh_hint"] = json!("60");
    assert!(parse(&document).is_err());
}

#[test]
fn duplicate_members_and_what_is_too_large_are_refused() {
    let domain = domain();
    for text in [
        r#"{"keys":[],"keys":[]}"#,
        r#"{"keys":[],"spiffe_sequence":1,"spiffe_sequence":2}"#,
        r#"{"keys":[{"kty":"EC","use":"x509-svid","use":"jwt-svid"}]}"#,
    ] {
        assert!(
            matches!(Document::parse(&domain, text.as_bytes()).unwrap_err(), DocumentError::Json(_)),
            "{text}"
        );
    }
    let long = format!("{{\"keys\":[]{}}}", " ".repeat(MAX_BYTES));
    assert!(matches!(Document::parse(&domain, long.as_bytes()).unwrap_err(), DocumentError::TooLarge { .. }));
    let many = json!({"keys": vec![json!({"kty": "EC", "use": "other"}); MAX_KEYS + 1]});
    assert_eq!(parse(&many).unwrap_err(), DocumentError::TooManyKeys { got: MAX_KEYS + 1 });
    assert!(matches!(entry(parse(&json!({"keys": ["x"]}))), EntryError::NotAnObject));
}

#[test]
fn two_documents_are_compared_by_their_keys_alone() {
    let (one, two) = (ca(), ca());
    let jwt = jwt_keys();
    let hint = Duration::from_secs(1);
    let read = |bundle: &TrustBundle, jwt: &Jwks, sequence| {
        Document::parse(&domain(), write(bundle, jwt, sequence, hint).as_bytes()).unwrap()
    };
    let first = read(&one.bundle(), &jwt, 1);
    assert!(first.has_the_keys_of(&read(&one.bundle(), &jwt, 2)));
    assert!(!first.has_the_keys_of(&read(&two.bundle(), &jwt, 1)));
    assert!(!first.has_the_keys_of(&read(&one.bundle(), &Jwks::default(), 1)));
}

#[test]
fn every_key_type_of_a_root_is_described_and_read_back() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        let bundle = TrustBundle::new(domain(), [root]).unwrap();
        let text = write(&bundle, &Jwks::default(), 1, Duration::from_secs(1));
        let entry = &serde_json::from_str::<Value>(&text).unwrap()["keys"][0];
        assert!(entry["kty"].is_string() && entry["crv"].is_string() && entry["x"].is_string(), "{entry}");
        assert!(
            Document::parse(&domain(), text.as_bytes())
                .unwrap()
                .has_the_keys_of(&Document::parse(&domain(), text.as_bytes()).unwrap())
        );
    }
}

proptest! {
    // A fixed seed: the same cases in every run; another one looks further.
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = Document::parse(&domain(), &bytes);
    }

    /// One byte of a good document changed: it is read, or refused, and what is read is written the same.
    #[test]
    fn a_spoilt_document_is_read_or_refused(at in any::<prop::sample::Index>(), byte: u8) {
        let mut text = good(&ca()).to_string().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        if let Ok(read) = Document::parse(&domain(), &text)
            && let Some(roots) = read.roots()
        {
            let again = write(roots, read.jwt_keys(), 1, Duration::from_secs(1));
            prop_assert!(Document::parse(&domain(), again.as_bytes()).unwrap().has_the_keys_of(&read));
        }
    }
}
