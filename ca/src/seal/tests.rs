use super::*;

fn root() -> Role {
    Role::Authority { kind: Kind::Root, id: "0a".into() }
}

fn issuer() -> Role {
    Role::Authority { kind: Kind::Issuer, id: "0a".into() }
}

const CHEAP: Argon2Cost = Argon2Cost { memory_kib: 64, passes: 1, lanes: 1 };

fn with_passphrase(dir: &Path, text: &str) -> Sealer {
    let source = SealSource::Passphrase(Zeroizing::new(text.to_owned()));
    Sealer::open(dir, "demo.signet", &SealConfig { source, create_if_missing: false, argon2: CHEAP }).unwrap()
}

fn with_key_file(dir: &Path, name: &str, trust_domain: &str) -> Sealer {
    let mut config = SealConfig::key_file(dir.join(name));
    config.create_if_missing = true;
    Sealer::open(dir, trust_domain, &config).unwrap()
}

#[test]
fn what_is_sealed_with_a_passphrase_opens_with_the_same_one_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    with_passphrase(dir.path(), "correct horse battery").write(&root(), b"the root").unwrap();
    let mut again = with_passphrase(dir.path(), "correct horse battery");
    assert_eq!(again.read(&root()).unwrap().unwrap().as_slice(), b"the root");
    assert!(again.read(&issuer()).unwrap().is_none());
    let raw = std::fs::read(dir.path().join("root-0a.sealed")).unwrap();
    assert!(!raw.windows(8).any(|w| w == b"the root"));
}

#[test]
fn a_wrong_passphrase_and_a_changed_file_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut sealer = with_passphrase(dir.path(), "correct horse battery");
    sealer.write(&root(), b"the root").unwrap();
    let wrong = with_passphrase(dir.path(), "correct horse staple").read(&root()).unwrap_err();
    assert!(matches!(wrong, SealError::WrongKey { kind: "passphrase", .. }), "{wrong}");

    let path = dir.path().join("root-0a.sealed");
    let good = std::fs::read(&path).unwrap();
    for at in [HEADER - 1, HEADER, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let error = sealer.read(&root()).unwrap_err();
        assert!(matches!(error, SealError::Tampered { .. }), "byte {at}: {error}");
    }
    std::fs::write(&path, &good[..HEADER - 1]).unwrap();
    assert!(matches!(sealer.read(&root()), Err(SealError::Format { .. })));
}

#[test]
fn a_header_that_asks_for_absurd_work_is_refused_before_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let mut sealer = with_passphrase(dir.path(), "correct horse battery");
    sealer.write(&root(), b"the root").unwrap();
    let path = dir.path().join("root-0a.sealed");
    let mut bad = std::fs::read(&path).unwrap();
    bad[9..13].copy_from_slice(&u32::MAX.to_be_bytes());
    std::fs::write(&path, &bad).unwrap();
    assert!(matches!(sealer.read(&root()), Err(SealError::Format { .. })));
}

#[test]
fn a_file_of_another_role_or_trust_domain_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut sealer = with_key_file(dir.path(), "key", "demo.signet");
    sealer.write(&root(), b"the root").unwrap();
    std::fs::copy(dir.path().join("root-0a.sealed"), dir.path().join("issuer-0a.sealed")).unwrap();
    assert!(matches!(sealer.read(&issuer()), Err(SealError::Tampered { .. })));
    let mut other = with_key_file(dir.path(), "key", "other.signet");
    assert!(matches!(other.read(&root()), Err(SealError::Tampered { .. })));
}

#[test]
fn a_key_file_is_made_only_when_asked_and_must_be_32_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let missing = Sealer::open(dir.path(), "demo.signet", &SealConfig::key_file(&path)).unwrap_err();
    assert!(matches!(missing, SealError::SourceMissing { .. }), "{missing}");
    with_key_file(dir.path(), "key", "demo.signet").write(&root(), b"x").unwrap();
    let other = with_key_file(dir.path(), "key2", "demo.signet").read(&root()).unwrap_err();
    assert!(matches!(other, SealError::WrongKey { kind: "key file", .. }), "{other}");
    files::write_private(&path, b"short").unwrap();
    let short = Sealer::open(dir.path(), "demo.signet", &SealConfig::key_file(&path)).unwrap_err();
    assert!(matches!(short, SealError::KeyFileLength { length: 5, .. }), "{short}");
    let kind = with_passphrase(dir.path(), "correct horse battery").read(&root()).unwrap_err();
    assert!(matches!(kind, SealError::WrongKind { .. }), "{kind}");
}

#[test]
fn a_short_passphrase_is_refused_and_never_printed() {
    let source = SealSource::Passphrase(Zeroizing::new("short".into()));
    assert!(!format!("{source:?}").contains("short"));
    let dir = tempfile::tempdir().unwrap();
    let config = SealConfig { source, create_if_missing: false, argon2: CHEAP };
    assert!(matches!(
        Sealer::open(dir.path(), "demo.signet", &config),
        Err(SealError::PassphraseShort { length: 5 })
    ));
}

#[test]
fn a_file_name_says_whose_key_it_is() {
    assert_eq!(Role::of_file_name(&root().file_name()), Some((Kind::Root, "0a".into())));
    for other in
        ["row-mac.sealed", "founding.sealed", "root-.sealed", "root-0a.sealed.tmp", "root-xyz.sealed"]
    {
        assert_eq!(Role::of_file_name(other), None, "{other}");
    }
}
