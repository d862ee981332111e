//! Roots and issuers of other kinds and in other places, looked at by independent eyes.

use rcgen::KeyPair;
use signet_ca::{KeyKind, KeysConfig, Pkcs11Config};
use signet_identity::OwnSvid;
use x509_parser::oid_registry::{OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384};
use x509_parser::parse_x509_certificate;
use zeroize::Zeroizing;

use crate::softhsm::{PIN, TOKEN, module, stages, write_pin};
use crate::*;

/// openssl accepts what was issued, at the test's time.
fn verified_by_openssl(mesh: &Mesh, issued: &Issued) {
    let dir = mesh.dir.path();
    std::fs::write(dir.join("leaf.pem"), pem(&issued.chain[0])).unwrap();
    std::fs::write(dir.join("issuer.pem"), pem(&issued.chain[1])).unwrap();
    let at = mesh.clock.unix_seconds().to_string();
    let args = ["verify", "-x509_strict", "-attime", &at, "-purpose", "sslserver"];
    let files = ["-CAfile", "data/root.pem", "-untrusted", "issuer.pem", "leaf.pem"];
    openssl(dir, &[args.as_slice(), files.as_slice()].concat());
}

#[tokio::test]
async fn p384_roots_and_issuers_sign_with_sha384_and_verify_everywhere() {
    let p384 = |c: &mut AuthorityConfig| c.keys.algorithm = KeyKind::P384;
    let mesh = mesh_with(p384).await;
    let issued = mesh.join("web").await;
    for der in &issued.chain {
        let certificate = parse_x509_certificate(der).unwrap().1;
        assert_eq!(certificate.signature_algorithm.algorithm, OID_SIG_ECDSA_WITH_SHA384);
    }
    verified_by_openssl(&mesh, &issued);
    let mesh = mesh.reopen_with(p384).await.unwrap();
    mesh.renew(&issued, &key()).await.unwrap();

    // The root stays P-384; an issuer made under the default is P-256, and its leaves are signed with SHA-256.
    let mesh = mesh.reopen().await;
    mesh.clock.pass(7 * DAY);
    let mixed = mesh.join("web").await;
    let algorithms: Vec<_> = mixed
        .chain
        .iter()
        .map(|der| parse_x509_certificate(der).unwrap().1.signature_algorithm.algorithm.clone())
        .collect();
    assert_eq!(algorithms, [OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384]);
    verified_by_openssl(&mesh, &mixed);
}

#[tokio::test]
async fn an_ed25519_key_is_certified_only_where_that_is_allowed() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let strict = mesh().await;
    let token = strict.token("web").await;
    assert_eq!(refusal(strict.attest(&token, &csr(&key)).await), Refusal::CsrKeyUnsupported);

    let mesh = mesh_with(|c| c.allow_ed25519 = true).await;
    let token = mesh.token("web").await;
    let issued = mesh.attest(&token, &csr(&key)).await.unwrap();
    verified_by_openssl(&mesh, &issued);
    let svid = signet_identity::Svid::parse(&issued.chain).unwrap();
    assert_eq!(svid.id, id("web"));
    let own = OwnSvid::new(issued.chain.clone(), Zeroizing::new(key.serialize_der())).unwrap();
    assert_eq!(own.svid().id, id("web"));
    let renewed = mesh.renew(&issued, &KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()).await.unwrap();
    verified_by_openssl(&mesh, &renewed);
}

fn in_token(folder: &std::path::Path, algorithm: KeyKind) -> impl Fn(&mut AuthorityConfig) {
    let pin_file = folder.join("pin");
    move |config| {
        config.keys = KeysConfig {
            algorithm,
            pkcs11: Some(Pkcs11Config {
                module: module().unwrap(),
                token_label: TOKEN.into(),
                pin_file: pin_file.clone(),
                issuers: true,
            }),
        };
    }
}

/// Runs an act as the authority's caller would, on one thread.
fn run(act: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(act);
}

#[test]
fn an_authority_whose_keys_never_leave_a_token_issues_renews_and_restarts() {
    stages(1, |_, folder| {
        run(async {
            for algorithm in [KeyKind::P256, KeyKind::P384] {
                let mesh = mesh_with(in_token(folder, algorithm)).await;
                let issued = mesh.join("web").await;
                verified_by_openssl(&mesh, &issued);
                let root = mesh.authority.root_sha256();
                let mesh = mesh.reopen_with(in_token(folder, algorithm)).await.unwrap();
                assert_eq!(mesh.authority.root_sha256(), root);
                let renewed = mesh.renew(&issued, &key()).await.unwrap();
                assert_eq!(renewed.chain[1], issued.chain[1], "the issuer changed with the restart");
                // A new issuer, signed by the root's key in the token.
                mesh.clock.pass(5 * DAY);
                let later = mesh.join("orders").await;
                assert_ne!(later.chain[1], issued.chain[1]);
                verified_by_openssl(&mesh, &later);
            }
        });
    });
}

#[test]
fn without_its_token_an_authority_does_not_start_and_does_not_begin_anew() {
    stages(2, |stage, folder| {
        run(async {
            let data = folder.join("authority");
            let config = || {
                std::fs::create_dir_all(&data).unwrap();
                let mut config = config(&data);
                in_token(folder, KeyKind::P256)(&mut config);
                config
            };
            let clock = Arc::new(TestClock(AtomicI64::new(START)));
            if stage == 0 {
                let authority = Authority::open(config(), clock.clone()).await.unwrap();
                authority.close().await;
                drop(authority);
                // No token is configured any more.
                let mut none = config();
                none.keys = KeysConfig::default();
                let error = Authority::open(none, clock).await.map(|_| ()).unwrap_err();
                assert!(error.to_string().contains("keys.pkcs11"), "{error}");
            } else {
                let root = std::fs::read(data.join("data/root.pem")).unwrap();
                write_pin(folder, "a-wrong-pin-that-stays-hidden");
                let error = Authority::open(config(), clock.clone()).await.map(|_| ()).unwrap_err();
                assert!(matches!(error, AuthorityError::Hierarchy(_)), "{error}");
                let text = format!("{error} {error:?}");
                assert!(text.contains("does not accept the PIN"), "{text}");
                assert!(!text.contains(PIN) && !text.contains("stays-hidden"), "{text}");
                write_pin(folder, PIN);
                Authority::open(config(), clock).await.unwrap();
                assert_eq!(std::fs::read(data.join("data/root.pem")).unwrap(), root);
            }
        });
    });
}
