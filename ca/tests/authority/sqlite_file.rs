//! The store as a file: it and its keys belong together.

use std::path::{Path, PathBuf};

use signet_ca::{Revocation, StoreError};

use crate::*;

/// The store's files, not the keys'.
const STORE: [&str; 3] = ["authority.db", "authority.db-wal", "authority.db-shm"];

/// Closes the authority, so that its store is whole in one file.
async fn closed(mesh: Mesh) -> (TempDir, Arc<TestClock>) {
    mesh.authority.close().await;
    (mesh.dir, mesh.clock)
}

fn remove_store(dir: &Path) {
    for name in STORE {
        let _ = std::fs::remove_file(dir.join("data").join(name));
    }
}

fn database(dir: &Path) -> PathBuf {
    dir.join("data/authority.db")
}

fn put(dir: &Path, content: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(database(dir), content).unwrap();
    std::fs::set_permissions(database(dir), std::fs::Permissions::from_mode(0o600)).unwrap();
}

async fn store_error(dir: &Path, clock: &Arc<TestClock>) -> StoreError {
    match Authority::open(config(dir), clock.clone()).await {
        Err(AuthorityError::Store(error)) => error,
        other => panic!("expected an error of the store, got {other:?}"),
    }
}

async fn revoked() -> Mesh {
    let mesh = mesh().await;
    for name in ["web", "orders"] {
        mesh.authority.revoke(Revocation::Identity(id(name)), "gone", "uid:0").await.unwrap();
    }
    mesh
}

#[tokio::test]
async fn keys_without_their_store_do_not_start() {
    let (dir, clock) = closed(revoked().await).await;
    remove_store(dir.path());
    for _ in 0..2 {
        let error = store_error(dir.path(), &clock).await;
        assert!(matches!(error, StoreError::Missing { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains("authority.db") && said.contains("restore it from a backup"), "{said}");
        assert!(!database(dir.path()).exists(), "the next start must not find an empty one");
    }
}

#[tokio::test]
async fn keys_with_an_empty_store_do_not_start() {
    let (dir, clock) = closed(revoked().await).await;
    remove_store(dir.path());
    put(dir.path(), b"");
    for _ in 0..2 {
        let error = store_error(dir.path(), &clock).await;
        assert!(matches!(error, StoreError::Unbound { .. }), "{error}");
    }
}

#[tokio::test]
async fn keys_with_another_authoritys_store_do_not_start() {
    let name = |authority: &Authority| authority.mesh().to_string();
    let (mesh, other) = (revoked().await, mesh().await);
    let (ours, theirs) = (name(&mesh.authority), name(&other.authority));
    let ((dir, clock), (foreign, _)) = (closed(mesh).await, closed(other).await);
    remove_store(dir.path());
    std::fs::copy(database(foreign.path()), database(dir.path())).unwrap();
    let said = store_error(dir.path(), &clock).await.to_string();
    assert!(said.contains(&ours) && said.contains(&theirs) && said.contains("backup"), "{said}");
}

#[tokio::test]
async fn a_store_whose_owner_was_rewritten_does_not_start() {
    let (mesh, other) = (revoked().await, mesh().await);
    let name = *mesh.authority.mesh().as_bytes();
    let ((dir, clock), (foreign, _)) = (closed(mesh).await, closed(other).await);
    remove_store(dir.path());
    std::fs::copy(database(foreign.path()), database(dir.path())).unwrap();
    let forged = Mesh { authority: crate::mesh().await.authority, clock: clock.clone(), dir };
    let intruder = forged.intruder().await;
    sqlx::query("UPDATE founded SET mesh = $1").bind(name.as_slice()).execute(&intruder).await.unwrap();
    intruder.close().await;
    let error = store_error(forged.dir.path(), &clock).await;
    assert!(matches!(error, StoreError::Tampered { table: "founded" }), "{error}");
}

#[tokio::test]
async fn revocations_after_the_restore_of_a_backup_are_newer_than_all_before() {
    let (dir, clock) = closed(revoked().await).await;
    let backup = std::fs::read(database(dir.path())).unwrap();
    clock.pass(HOUR);
    let authority = Authority::open(config(dir.path()), clock.clone()).await.unwrap();
    let mut last = 0;
    for n in 0..5 {
        last = authority.revoke(Revocation::Identity(id(&format!("w{n}"))), "", "uid:0").await.unwrap();
    }
    authority.close().await;
    drop(authority);

    remove_store(dir.path());
    put(dir.path(), &backup);
    clock.pass(HOUR);
    let authority = Authority::open(config(dir.path()), clock.clone()).await.unwrap();
    let restored = authority.revocations().borrow().set.sequence;
    assert!(restored < last, "the copy itself is older");
    let new = authority.revoke(Revocation::Identity(id("late")), "", "uid:0").await.unwrap();
    assert!(new > last, "{new} after {last}: sidecars only move forward");
}
