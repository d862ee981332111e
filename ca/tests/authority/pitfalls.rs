//! Mistakes that other authorities made, each as a test that would notice it here.

use std::collections::HashSet;
use std::sync::Mutex;

use rcgen::KeyPair;
use signet_ca::{Argon2Cost, Revocation, SealSource};
use signet_identity::Serial;
use x509_parser::parse_x509_certificate;

use crate::*;

#[tokio::test]
async fn a_request_signed_by_another_key_is_never_answered() {
    // Accepted, it would certify the key of somebody who never asked. The library that reads requests
    // verifies them today; this notices when it no longer does.
    let mesh = mesh().await;
    let token = mesh.token("web").await;
    let (victim, thief) = (key(), key());
    let mut stolen = csr(&thief);
    let point = |key: &KeyPair| rcgen::PublicKeyData::der_bytes(key).to_vec();
    let at = stolen.windows(65).position(|window| window == point(&thief)).unwrap();
    stolen[at..at + 65].copy_from_slice(&point(&victim));
    assert_eq!(refusal(mesh.attest(&token, &stolen).await), Refusal::CsrBadSignature);
    // Without any signature at all.
    let honest = csr(&victim);
    let (_, request) =
        <x509_parser::certification_request::X509CertificationRequest<'_> as x509_parser::prelude::FromDer<
            '_,
            _,
        >>::from_der(&honest)
        .unwrap();
    let signature = request.signature_value.data.to_vec();
    let mut unsigned = honest.clone();
    let at = unsigned.windows(signature.len()).position(|window| window == signature).unwrap();
    unsigned[at..at + signature.len()].fill(0);
    assert_eq!(refusal(mesh.attest(&token, &unsigned).await), Refusal::CsrBadSignature);
    mesh.attest(&token, &honest).await.unwrap();
}

#[test]
fn a_hundred_thousand_serials_are_positive_distinct_and_random_in_eighty_bits() {
    const TIME: usize = 48;
    let mut seen = HashSet::new();
    let mut bits = [0u32; 128];
    for _ in 0..100_000 {
        let serial = Serial::fresh().unwrap();
        let bytes: [u8; 16] = serial.as_bytes().try_into().unwrap();
        assert!(bytes[0] & 0x80 == 0, "negative");
        assert!(seen.insert(bytes), "twice");
        for (bit, count) in bits.iter_mut().enumerate() {
            *count += u32::from(bytes[bit / 8] >> (7 - bit % 8) & 1);
        }
    }
    // After the time, each bit is set about half the time (20 deviations wide).
    for (bit, count) in bits.into_iter().enumerate().skip(TIME) {
        assert!((46_800..53_200).contains(&count), "bit {bit} is set {count} times of 100000");
    }
}

#[tokio::test]
async fn no_certificate_has_name_constraints() {
    // rustls-webpki refuses every chain with constraints on URIs.
    let mesh = mesh().await;
    let issued = mesh.join("web").await;
    let (_, own) = mesh.authority.self_issue(vec!["localhost".into()]).await.unwrap();
    let root = mesh.authority.root();
    for der in issued.chain.iter().chain(&own.chain).chain([&root]) {
        let certificate = parse_x509_certificate(der).unwrap().1;
        assert!(certificate.name_constraints().unwrap().is_none());
        assert!(certificate.extensions().iter().all(|e| e.oid.to_id_string() != "2.5.29.30"));
    }
}

#[tokio::test]
async fn for_any_clock_skew_no_certificate_is_valid_before_its_issuer() {
    let mesh = mesh().await;
    // Behind, at and after the issuer's beginning, and behind again: clocks are set back.
    for skew in [-60, -59, -30, -1, 0, 1, 59, 60, 61, 3600, -45] {
        mesh.clock.set(START + skew);
        let issued = mesh.join("web").await;
        let [leaf, issuer] = [&issued.chain[0], &issued.chain[1]]
            .map(|der| parse_x509_certificate(der).unwrap().1.validity().not_before.timestamp());
        let root =
            parse_x509_certificate(&mesh.authority.root()).unwrap().1.validity().not_before.timestamp();
        assert!(root <= issuer && issuer <= leaf, "{skew}: {root} {issuer} {leaf}");
        assert!(leaf <= START + skew, "{skew}: not valid yet");
        assert_eq!(leaf, (START + skew - 60).max(issuer), "{skew}");
    }
}

/// Everything that is logged, at every level, by every crate.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_logged_by_any_act_at_any_level() {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let passphrase = "a-passphrase-that-nobody-may-see";
    let sealed = move |c: &mut AuthorityConfig| {
        c.seal.source = SealSource::Passphrase(passphrase.to_owned().into());
        c.seal.argon2 = Argon2Cost { memory_kib: 64, passes: 1, lanes: 1 };
    };
    let mut secrets: Vec<Vec<u8>> = vec![passphrase.into()];
    let mesh = mesh_with(sealed).await;
    let token = mesh.token("web").await;
    let key_pair = key();
    secrets.push(token.text.expose().as_bytes().to_vec());
    let issued = mesh.attest(&token, &csr(&key_pair)).await.unwrap();
    refusal(mesh.attest(&token, &csr(&key())).await);
    refusal(mesh.attest(&mesh.token("orders").await, b"no request").await);
    let renewed = mesh.renew(&issued, &key()).await.unwrap();
    refusal(mesh.renew(&issued, &key()).await);
    let (own, _) = mesh.authority.self_issue(vec!["localhost".into()]).await.unwrap();
    mesh.authority.revoke(Revocation::Serial(renewed.serial), "a reason", "uid:0").await.unwrap();
    mesh.authority.revoke(Revocation::Identity(id("web")), "a reason", "uid:0").await.unwrap();
    mesh.authority.reinstate(Revocation::Identity(id("web")), "a reason", "uid:0").await.unwrap();
    mesh.clock.pass(6 * DAY);
    mesh.authority.maintain().await.unwrap();
    mesh.authority.verify_chain().await.unwrap();
    let mesh = mesh.reopen_with(sealed).await.unwrap();
    let dir = mesh.dir.path().join("data");
    mesh.authority.close().await;
    let wrong = |c: &mut AuthorityConfig| {
        c.seal.source = SealSource::Passphrase("a-wrong-passphrase-nobody-may-see".to_owned().into());
    };
    secrets.push(b"a-wrong-passphrase-nobody-may-see".to_vec());
    assert!(crate::ON_POSTGRES || dir.join("authority.db").exists());
    let error = mesh.reopen_with(wrong).await.map(|_| ()).unwrap_err();
    tracing::error!(%error, ?error, "as its caller would log it");
    tracing::trace!(?own, ?token, "as its caller would");
    drop(own);

    let log = captured.0.lock().unwrap().clone();
    let text = String::from_utf8_lossy(&log);
    assert!(text.contains("issued a certificate") && text.contains("TRACE"), "nothing was captured: {text}");
    secrets.push(key_pair.serialize_der());
    for secret in &secrets {
        for form in spellings(secret) {
            assert!(!text.contains(&form), "{form} was logged");
        }
    }
    assert!(!text.contains("PRIVATE KEY"), "a key was logged");
}

/// How a secret may be spelled in a log: as itself, hex, base64, the list of numbers that `{:?}` makes.
fn spellings(secret: &[u8]) -> Vec<String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms =
        vec![hex, STANDARD_NO_PAD.encode(secret), URL_SAFE_NO_PAD.encode(secret), format!("{secret:?}")];
    if let Ok(text) = std::str::from_utf8(secret) {
        forms.push(text.to_owned());
        // The secret part of a token, without the prefix that may be shown.
        forms.extend(text.strip_prefix(signet_ca::TOKEN_PREFIX).map(str::to_owned));
    }
    forms
}
