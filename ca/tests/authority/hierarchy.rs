use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::time::Duration;

use signet_ca::{Argon2Cost, AuthorityError, Event, HierarchyError, SealError, SealSource};
use x509_parser::parse_x509_certificate;

use crate::*;

/// The sealed file of the active (or only) authority of a kind.
fn sealed(mesh: &Mesh, kind: &str) -> std::path::PathBuf {
    let data = mesh.dir.path().join("data");
    let is_of_kind = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(&format!("{kind}-")) && name.ends_with(".sealed")
    };
    let mut found = std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()).filter(is_of_kind);
    found.next().unwrap()
}

fn role(mesh: &Mesh, role: &str) -> signet_ca::CertificateStatus {
    mesh.authority.certificates().into_iter().find(|status| status.role == role).unwrap()
}

#[tokio::test]
async fn a_restart_keeps_root_issuer_token_key_and_memory() {
    let mesh = mesh().await;
    let issued = mesh.join("web").await;
    let (root, issuer) = (mesh.authority.root_sha256(), role(&mesh, "issuer"));
    let token_root = mesh.authority.token_roots_json();
    let mesh = mesh.reopen().await;
    assert_eq!(mesh.authority.root_sha256(), root);
    assert_eq!(role(&mesh, "issuer"), issuer);
    assert_eq!(mesh.authority.token_roots_json(), token_root);
    mesh.renew(&issued, &key()).await.unwrap();
    let made: Vec<Event> = mesh.authority.records(100).await.unwrap().iter().map(|r| r.event).collect();
    let first = [Event::RootMade, Event::IssuerMade, Event::KeyMade, Event::KeyMade];
    assert_eq!(made, [&first[..], &[Event::TokenMade, Event::Issued, Event::Renewed]].concat());
}

#[tokio::test]
async fn nothing_in_the_data_directory_can_be_read_by_others_but_the_root_certificate() {
    let mesh = mesh().await;
    mesh.join("web").await;
    let data = mesh.dir.path().join("data");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(mode(&path), if name.ends_with(".pem") { 0o644 } else { 0o600 }, "{name}");
        seen.push(name);
    }
    let database = if server().is_none() { "authority.db" } else { "lock" };
    for expected in ["root-", "issuer-", "token-", "jwt-", "row-mac.sealed", database] {
        assert!(seen.iter().any(|name| name.starts_with(expected)), "{expected} among {seen:?}");
    }
    std::fs::set_permissions(sealed(&mesh, "root"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = mesh.reopen_with(|_| ()).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("chmod 0600"), "{error}");
}

#[tokio::test]
async fn a_wrong_key_file_opens_nothing_and_changes_nothing() {
    let Mesh { authority, clock, dir } = mesh().await;
    let root = authority.root_sha256();
    authority.close().await;
    drop(authority);
    let mut wrong = config(dir.path());
    wrong.seal.source = SealSource::KeyFile(dir.path().join("other.key"));
    let error = Authority::open(wrong, clock.clone()).await.map(|_| ()).unwrap_err();
    assert!(
        matches!(error, AuthorityError::Hierarchy(HierarchyError::Seal(SealError::WrongKey { .. }))),
        "{error}"
    );
    let authority = Authority::open(config(dir.path()), clock).await.unwrap();
    assert_eq!(authority.root_sha256(), root);
}

#[tokio::test]
async fn a_passphrase_seals_and_opens_and_a_wrong_one_says_so() {
    let passphrase = |text: &'static str| {
        move |c: &mut signet_ca::AuthorityConfig| {
            c.seal.source = SealSource::Passphrase(text.to_owned().into());
            c.seal.argon2 = Argon2Cost { memory_kib: 64, passes: 1, lanes: 1 };
        }
    };
    let mesh = mesh_with(passphrase("correct horse battery")).await;
    let root = mesh.authority.root_sha256();
    let mesh = mesh.reopen_with(passphrase("correct horse battery")).await.unwrap();
    assert_eq!(mesh.authority.root_sha256(), root);
    let error = mesh.reopen_with(passphrase("correct horse staple")).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("another passphrase"), "{error}");
}

#[tokio::test]
async fn a_tampered_root_file_is_named_in_the_error() {
    let mesh = mesh().await;
    let path = sealed(&mesh, "root");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = mesh.reopen_with(|_| ()).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("root-"), "{error}");
    assert!(error.to_string().contains("changed"), "{error}");
}

#[tokio::test]
async fn a_lost_root_is_an_error_and_not_a_new_mesh() {
    let mesh = mesh().await;
    std::fs::remove_file(sealed(&mesh, "root")).unwrap();
    let Mesh { authority, clock, dir } = mesh;
    authority.close().await;
    drop(authority);
    let error = Authority::open(config(dir.path()), clock.clone()).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, AuthorityError::Hierarchy(HierarchyError::KeyMissing { .. })), "{error}");
    // Nor are the marks on stored rows begun anew.
    std::fs::remove_file(dir.path().join("data/row-mac.sealed")).unwrap();
    let error = Authority::open(config(dir.path()), clock).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, AuthorityError::Hierarchy(HierarchyError::SecretMissing { .. })), "{error}");
}

#[tokio::test]
async fn a_lost_key_of_one_control_plane_is_replaced_by_another() {
    let mesh = mesh().await;
    let issued = mesh.join("web").await;
    let root = mesh.authority.root_sha256();
    for kind in ["issuer", "token", "jwt"] {
        std::fs::remove_file(sealed(&mesh, kind)).unwrap();
    }
    let mesh = mesh.reopen().await;
    assert_eq!(mesh.authority.root_sha256(), root);
    let renewed = mesh.renew(&issued, &key()).await.unwrap();
    assert_ne!(renewed.chain[1], issued.chain[1]);
    mesh.reopen().await.join("orders").await;
}

#[tokio::test]
async fn a_first_start_that_stopped_before_its_store_was_made_is_finished_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock(START.into()));
    let database = dir.path().join("data/authority.db");
    std::fs::DirBuilder::new().mode(0o700).create(dir.path().join("data")).unwrap();
    std::os::unix::fs::symlink("nowhere", &database).unwrap();
    let mut unreachable = config(dir.path());
    if let Some(server) = server() {
        unreachable.store = StoreConfig::Postgres(server.login("nowhere", "nobody"));
    }
    Authority::open(unreachable, clock.clone()).await.map(|_| ()).unwrap_err();
    let marks = std::fs::read(dir.path().join("data/row-mac.sealed")).unwrap();
    std::fs::remove_file(&database).unwrap();
    let authority = Authority::open(config(dir.path()), clock.clone()).await.unwrap();
    assert_eq!(std::fs::read(dir.path().join("data/row-mac.sealed")).unwrap(), marks);
    assert_eq!(std::fs::read(dir.path().join("data/root.pem")).unwrap(), authority.root_pem().as_bytes());
    let mesh = Mesh { authority, clock, dir };
    mesh.join("web").await;
    mesh.reopen().await.join("web").await;
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused() {
    let mesh = mesh().await;
    let second = Authority::open(config(mesh.dir.path()), mesh.clock.clone()).await;
    assert!(matches!(second.map(|_| ()), Err(AuthorityError::AlreadyOpen { .. })));
}

#[tokio::test]
async fn an_issuer_in_its_last_third_is_replaced_by_one_with_a_new_key() {
    let mesh = mesh().await;
    let first = mesh.join("web").await;
    // A third of seven days is 56 hours.
    mesh.clock.set(START + 7 * DAY - 57 * HOUR);
    assert_eq!(mesh.join("web").await.chain[1], first.chain[1]);
    mesh.clock.set(START + 7 * DAY - 55 * HOUR);
    let second = mesh.join("web").await;
    assert_ne!(second.chain[1], first.chain[1]);
    let (old, new) = (
        parse_x509_certificate(&first.chain[1]).unwrap().1,
        parse_x509_certificate(&second.chain[1]).unwrap().1,
    );
    assert_ne!(old.public_key().raw, new.public_key().raw);
    assert_eq!(new.validity().not_after.timestamp(), mesh.clock.unix_seconds() + 7 * DAY);
    let records = mesh.authority.records(100).await.unwrap();
    assert_eq!(records.iter().filter(|r| r.event == Event::IssuerMade).count(), 2);
    let issuer = role(&mesh, "issuer");
    let mesh = mesh.reopen().await;
    assert_eq!(role(&mesh, "issuer"), issuer);
}

#[tokio::test]
async fn nothing_outlives_its_parent() {
    // A root that only an operator rotates, and none did.
    let mesh = mesh_with(|c| {
        c.root_life = Duration::from_secs(10 * DAY as u64);
        c.rotation.automatic = false;
    })
    .await;
    let end = START + 10 * DAY;
    mesh.clock.set(end - 5 * DAY);
    let issued = mesh.join("web").await;
    let issuer = parse_x509_certificate(&issued.chain[1]).unwrap().1;
    assert_eq!(issuer.validity().not_after.timestamp(), end);
    mesh.clock.set(end - 600);
    assert_eq!(mesh.join("orders").await.not_after, end);
    mesh.clock.set(end - 3);
    let token = mesh.token("late").await;
    assert!(matches!(mesh.attest(&token, &csr(&key())).await, Err(AuthorityError::Sign(_))));
    mesh.clock.set(end + 1);
    let error = mesh.attest(&token, &csr(&key())).await.unwrap_err();
    assert!(matches!(error, AuthorityError::Hierarchy(HierarchyError::RootEnded { .. })), "{error}");
    let error = mesh.reopen_with(|c| c.root_life = Duration::from_secs(10 * DAY as u64)).await;
    assert!(matches!(error.map(|_| ()), Err(AuthorityError::Hierarchy(HierarchyError::RootEnded { .. }))));
}

#[tokio::test]
async fn a_leaf_begins_a_minute_ago_but_not_before_its_issuer() {
    let mesh = mesh().await;
    let first = mesh.join("web").await;
    let issuer_begins = parse_x509_certificate(&first.chain[1]).unwrap().1.validity().not_before.timestamp();
    assert_eq!((first.not_before, issuer_begins), (START - 60, START - 60));
    mesh.clock.pass(30);
    assert_eq!(mesh.join("web").await.not_before, START - 30);
    // A clock that was set back does not make certificates older than their issuer.
    mesh.clock.set(START - 50);
    assert_eq!(mesh.join("web").await.not_before, START - 60);
}

#[tokio::test]
async fn short_svids_need_dev_and_long_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock(AtomicI64::new(START)));
    for (ttl, dev, fine) in
        [(120, false, false), (120, true, true), (300, false, true), (86_401, true, false)]
    {
        let mut config = config(dir.path());
        config.svid_ttl = Duration::from_secs(ttl);
        config.dev = dev;
        let opened = Authority::open(config, clock.clone()).await;
        assert_eq!(opened.is_ok(), fine, "{ttl} {dev}");
        if let Err(error) = opened {
            assert!(error.to_string().contains("svid.ttlSeconds"), "{error}");
        }
    }
}
