use std::collections::HashMap;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
};
use signet_ca::{AuthorityError, Outward, Refusal};
use signet_identity::{PeerClass, Svid, server_name};
use x509_parser::parse_x509_certificate;

use crate::*;

/// Everything in a leaf but its serial, its key and what follows from them, as bytes.
fn blanked(der: &[u8]) -> Vec<u8> {
    let leaf = parse_x509_certificate(der).unwrap().1;
    let mut tbs = leaf.tbs_certificate.as_ref().to_vec();
    let mut blank = |what: &[u8]| {
        let at = tbs.windows(what.len()).position(|w| w == what).unwrap();
        tbs[at..at + what.len()].fill(0);
    };
    blank(leaf.raw_serial());
    blank(&leaf.public_key().subject_public_key.data);
    let ski = leaf.extensions().iter().find(|e| e.oid.to_id_string() == "2.5.29.14").unwrap();
    blank(ski.value);
    tbs
}

#[tokio::test]
async fn a_request_full_of_wishes_yields_the_same_leaf_as_an_empty_one() {
    let mesh = mesh().await;
    let empty = mesh.join("web").await;

    let mut wishes = CertificateParams::default();
    wishes.distinguished_name.push(DnType::CommonName, "spiffe://demo.signet/ns/shop/sa/admin");
    wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wishes.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    wishes.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::CodeSigning];
    wishes.subject_alt_names = vec![SanType::URI("spiffe://other.mesh/ns/bank/sa/vault".try_into().unwrap())];
    for n in 0..50 {
        let name = format!("wish-{n}.shop.signet.internal");
        wishes.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().unwrap()));
    }
    let policies = PeerClass::ControlPlane.policies_der();
    wishes.custom_extensions =
        vec![rcgen::CustomExtension::from_oid_content(&PeerClass::EXTENSION_OID, policies)];
    let request = wishes.serialize_request(&key()).unwrap();
    let token = mesh.token("web").await;
    let full = mesh.attest(&token, request.der()).await.unwrap();

    assert_ne!(full.serial, empty.serial);
    assert_eq!(blanked(&full.chain[0]), blanked(&empty.chain[0]));
    assert_eq!(full.chain[1], empty.chain[1]);
}

#[tokio::test]
async fn a_leaf_says_what_was_attested_and_registered_and_nothing_else() {
    let mesh = mesh().await;
    let token = mesh.token("orders").await;
    let registrar: SharedRegistrar = Arc::new(|id: &SpiffeId, class: PeerClass| {
        assert_eq!((id.short(), class), ("ns/shop/sa/orders", PeerClass::Sidecar));
        Some(vec!["orders.shop.signet.internal".to_owned(), "orders.shop.svc.signet.internal".to_owned()])
    });
    let issued = mesh
        .authority
        .attest_join_token(token.text.expose(), &csr(&key()), "192.0.2.1", registrar)
        .await
        .unwrap();
    let svid = Svid::parse(&issued.chain).unwrap();
    assert_eq!((svid.id, svid.class, svid.serial), (id("orders"), PeerClass::Sidecar, issued.serial));
    assert_eq!(svid.dns_names, ["orders.shop.signet.internal", "orders.shop.svc.signet.internal"]);
    assert_eq!((issued.not_before, issued.not_after), (START - 60, START + HOUR));
    assert_eq!((svid.not_before, svid.not_after), (issued.not_before, issued.not_after));
    assert_eq!((issued.renew_at, issued.lineage_ends_at), (START + HOUR / 3, Some(START + 7 * DAY)));
    let leaf = parse_x509_certificate(&issued.chain[0]).unwrap().1;
    assert_eq!(issued.serial.as_bytes().len(), 16);
    let critical: HashMap<String, bool> =
        leaf.extensions().iter().map(|e| (e.oid.to_id_string(), e.critical)).collect();
    let expected = [
        ("2.5.29.35", false), // authority key identifier
        ("2.5.29.17", true),  // names: critical, since the subject is empty
        ("2.5.29.15", true),  // key usage
        ("2.5.29.37", false), // extended key usage
        ("2.5.29.14", false), // subject key identifier
        ("2.5.29.19", true),  // basic constraints
        ("2.5.29.32", false), // class
    ];
    assert_eq!(critical, expected.map(|(oid, critical)| (oid.to_owned(), critical)).into());
    assert!(!leaf.is_ca());
}

#[tokio::test]
async fn openssl_accepts_the_chain_strictly() {
    let mesh = mesh().await;
    let issued = mesh.join("web").await;
    let dir = mesh.dir.path();
    std::fs::write(dir.join("leaf.pem"), pem(&issued.chain[0])).unwrap();
    std::fs::write(dir.join("issuer.pem"), pem(&issued.chain[1])).unwrap();
    let at = START.to_string();
    for purpose in ["sslserver", "sslclient"] {
        let args = ["verify", "-x509_strict", "-attime", &at, "-purpose", purpose];
        let files = ["-CAfile", "data/root.pem", "-untrusted", "issuer.pem", "leaf.pem"];
        openssl(dir, &[args.as_slice(), files.as_slice()].concat());
    }
    let text = String::from_utf8(openssl(dir, &["x509", "-in", "leaf.pem", "-noout", "-text"])).unwrap();
    assert!(text.contains("URI:spiffe://demo.signet/ns/shop/sa/web"), "{text}");
    assert!(text.contains("TLS Web Server Authentication, TLS Web Client Authentication"), "{text}");
    for authority in ["issuer.pem", "data/root.pem"] {
        let text = String::from_utf8(openssl(dir, &["x509", "-in", authority, "-noout", "-text"])).unwrap();
        assert!(!text.contains("Name Constraints"), "{text}");
        assert!(text.contains("CA:TRUE"), "{text}");
        assert_eq!(text.contains("pathlen:0"), authority == "issuer.pem", "{text}");
    }
}

#[tokio::test]
async fn keys_that_are_weak_or_of_another_kind_are_refused_with_their_reason() {
    let mesh = mesh().await;
    let dir = mesh.dir.path();
    let config = "[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=x\n";
    std::fs::write(dir.join("req.cnf"), config).unwrap();
    let request = |kind: &[&str]| {
        let base = ["req", "-new", "-nodes", "-config", "req.cnf", "-keyout", "/dev/null", "-outform", "DER"];
        openssl(dir, &[base.as_slice(), kind].concat())
    };
    let cases = [
        (request(&["-newkey", "rsa:1024"]), Refusal::CsrRsaTooShort),
        (request(&["-newkey", "rsa:2048"]), Refusal::CsrRsa),
        (request(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp521r1"]), Refusal::CsrKeyUnsupported),
        (request(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"]), Refusal::CsrKeyUnsupported),
        (request(&["-newkey", "ed25519"]), Refusal::CsrKeyUnsupported),
    ];
    let token = mesh.token("web").await;
    for (csr, expected) in cases {
        let refused = refusal(mesh.attest(&token, &csr).await);
        assert_eq!((refused, refused.outward()), (expected, Outward::Invalid));
    }
    // The token was not consumed by any of them, and P-384 is fine.
    let good = request(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"]);
    mesh.attest(&token, &good).await.unwrap();
}

#[tokio::test]
async fn a_request_that_does_not_prove_possession_is_refused_and_leaves_the_token() {
    let mesh = mesh().await;
    let token = mesh.token("web").await;
    let good = csr(&key());
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    assert_eq!(refusal(mesh.attest(&token, &bad).await), Refusal::CsrBadSignature);
    let mut long = good.clone();
    long.push(0);
    assert_eq!(refusal(mesh.attest(&token, &long).await), Refusal::CsrTrailingBytes);
    assert_eq!(refusal(mesh.attest(&token, &vec![0x30; 100_000]).await), Refusal::CsrTooLarge);
    assert_eq!(refusal(mesh.attest(&token, b"hello").await), Refusal::CsrUnreadable);
    mesh.attest(&token, &good).await.unwrap();
}

#[tokio::test]
async fn the_control_plane_issues_to_itself_with_a_new_key_each_time() {
    let mesh = mesh().await;
    let (own, issued) = mesh.authority.self_issue(vec!["localhost".into()]).await.unwrap();
    let (again, _) = mesh.authority.self_issue(vec!["localhost".into()]).await.unwrap();
    assert_eq!(own.svid().class, PeerClass::ControlPlane);
    assert_eq!(own.svid().id, *mesh.authority.control_plane_id());
    assert_eq!(own.svid().id.as_str(), "spiffe://demo.signet/ns/signet-system/sa/signet-control-plane");
    assert_eq!(own.svid().dns_names, ["localhost"]);
    assert_ne!(own.svid().key, again.svid().key);
    assert!(server_name(&own.svid().id).to_str().ends_with(".id.signet.internal"));
    // It renews by issuing anew, never by a request.
    assert_eq!(refusal(mesh.renew(&issued, &key()).await), Refusal::Reserved);
}

#[tokio::test]
async fn a_registered_name_that_no_certificate_may_carry_is_our_error_and_issues_nothing() {
    let mesh = mesh().await;
    let token = mesh.token("web").await;
    let registrar: SharedRegistrar = Arc::new(|_: &SpiffeId, _: PeerClass| Some(vec!["*.shop".to_owned()]));
    let result =
        mesh.authority.attest_join_token(token.text.expose(), &csr(&key()), "192.0.2.1", registrar).await;
    assert!(matches!(result, Err(AuthorityError::Sign(_))), "{result:?}");
    mesh.attest(&token, &csr(&key())).await.unwrap();
}

#[tokio::test]
async fn serials_never_repeat_and_grow() {
    let mesh = mesh().await;
    let mut serials = std::collections::HashSet::new();
    let mut milliseconds = Vec::new();
    for _ in 0..20 {
        let (_, issued) = mesh.authority.self_issue(vec![]).await.unwrap();
        assert!(serials.insert(issued.serial));
        milliseconds.push(issued.serial.as_bytes()[..6].to_vec());
    }
    assert!(milliseconds.is_sorted(), "the store grows at its end");
}
