//! A store and its keys belong together, and what was revoked stays revoked.

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
    let root = |authority: &Authority| authority.root_sha256().to_string();
    let (mesh, other) = (revoked().await, mesh().await);
    let (ours, theirs) = (root(&mesh.authority), root(&other.authority));
    let ((dir, clock), (foreign, _)) = (closed(mesh).await, closed(other).await);
    remove_store(dir.path());
    std::fs::copy(database(foreign.path()), database(dir.path())).unwrap();
    let said = store_error(dir.path(), &clock).await.to_string();
    assert!(said.contains(&ours) && said.contains(&theirs) && said.contains("backup"), "{said}");
}

#[tokio::test]
async fn a_store_whose_owner_was_rewritten_does_not_start() {
    let (mesh, other) = (revoked().await, mesh().await);
    let root = *mesh.authority.root_sha256().as_bytes();
    let ((dir, clock), (foreign, _)) = (closed(mesh).await, closed(other).await);
    remove_store(dir.path());
    std::fs::copy(database(foreign.path()), database(dir.path())).unwrap();
    let forged = Mesh { authority: crate::mesh().await.authority, clock: clock.clone(), dir };
    let intruder = forged.intruder().await;
    sqlx::query("UPDATE founded SET root = ?1").bind(root.as_slice()).execute(&intruder).await.unwrap();
    intruder.close().await;
    let error = store_error(forged.dir.path(), &clock).await;
    assert!(matches!(error, StoreError::Tampered { table: "founded" }), "{error}");
}

#[tokio::test]
async fn an_emptied_log_does_not_start_anew() {
    let mesh = revoked().await;
    let intruder = mesh.intruder().await;
    for sql in ["DROP TRIGGER log_is_append_only_delete", "DELETE FROM log", "DELETE FROM log_heads"] {
        sqlx::query(sql).execute(&intruder).await.unwrap();
    }
    intruder.close().await;
    let (dir, clock) = closed(mesh).await;
    let error = store_error(dir.path(), &clock).await;
    assert!(matches!(error, StoreError::Chain(_)), "{error}");
}

#[tokio::test]
async fn a_lost_mac_key_is_not_replaced_by_a_new_one() {
    let (dir, clock) = closed(revoked().await).await;
    std::fs::remove_file(dir.path().join("data/row-mac.sealed")).unwrap();
    let error = Authority::open(config(dir.path()), clock).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().starts_with("row-mac.sealed is missing"), "{error}");
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

#[tokio::test]
async fn a_deleted_revocation_is_noticed_by_everything_that_asks_for_it() {
    let mesh = revoked().await;
    let issued = mesh.join("inventory").await;
    let intruder = mesh.intruder().await;
    let deleted = sqlx::query("DELETE FROM revocations WHERE value = ?1")
        .bind(id("web").as_str().as_bytes())
        .execute(&intruder)
        .await
        .unwrap();
    assert_eq!(deleted.rows_affected(), 1);
    let noticed = |error: AuthorityError| {
        let AuthorityError::Store(StoreError::Revocations { expected: 2, found: 1, .. }) = error else {
            panic!("{error}")
        };
    };
    let token = mesh.token("web").await;
    noticed(mesh.attest(&token, &csr(&key())).await.unwrap_err());
    noticed(mesh.renew(&issued, &key()).await.unwrap_err());
    noticed(mesh.authority.maintain().await.unwrap_err());
    noticed(mesh.authority.revoke(Revocation::Identity(id("x")), "", "uid:0").await.unwrap_err());
    noticed(mesh.authority.verify_chain().await.unwrap_err().into());
    assert!(mesh.authority.revocations().borrow().set.identities.contains(&id("web")), "still in force");
    noticed(mesh.reopen_with(|_| ()).await.map(|_| ()).unwrap_err());
}

#[tokio::test]
async fn a_changed_or_exchanged_revocation_is_noticed() {
    for sql in [
        "UPDATE revocations SET expires_at = 1",
        "UPDATE revocations SET value = CAST(value || x'00' AS BLOB)",
        "DELETE FROM revocations; INSERT INTO revocations VALUES \
         ('identity', x'00', '', 0, NULL, x'00'), ('identity', x'01', '', 0, NULL, x'00')",
    ] {
        let mesh = revoked().await;
        let intruder = mesh.intruder().await;
        sqlx::raw_sql(sql).execute(&intruder).await.unwrap();
        intruder.close().await;
        mesh.authority.maintain().await.unwrap_err();
        let error = mesh.reopen_with(|_| ()).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, AuthorityError::Store(StoreError::Tampered { .. })), "{sql}: {error}");
    }
}

#[tokio::test]
async fn an_older_row_put_back_is_noticed() {
    let mesh = revoked().await;
    let what = Revocation::Identity(id("web"));
    let intruder = mesh.intruder().await;
    sqlx::query("CREATE TABLE kept AS SELECT * FROM revocations").execute(&intruder).await.unwrap();
    mesh.authority.reinstate(what, "found", "uid:0").await.unwrap().unwrap();
    sqlx::raw_sql("DELETE FROM revocations; INSERT INTO revocations SELECT * FROM kept WHERE rowid = 2")
        .execute(&intruder)
        .await
        .unwrap();
    intruder.close().await;
    // Genuine and as many as there should be, but not these.
    let error = mesh.reopen_with(|_| ()).await.map(|_| ()).unwrap_err();
    let AuthorityError::Store(StoreError::Revocations { expected: 1, found: 1, .. }) = error else {
        panic!("{error}")
    };
}
