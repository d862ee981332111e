//! A store and its keys belong together, and what was revoked stays revoked.

use signet_ca::{Revocation, StoreError};

use crate::*;

async fn closed(mesh: Mesh) -> (TempDir, Arc<TestClock>) {
    mesh.authority.close().await;
    (mesh.dir, mesh.clock)
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
async fn an_emptied_log_does_not_start_anew() {
    let mesh = revoked().await;
    let intruder = mesh.intruder().await;
    for sql in [without_trigger("delete"), "DELETE FROM log", "DELETE FROM log_heads"] {
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
async fn a_deleted_revocation_is_noticed_by_everything_that_asks_for_it() {
    let mesh = revoked().await;
    let issued = mesh.join("inventory").await;
    let intruder = mesh.intruder().await;
    let deleted = sqlx::query("DELETE FROM revocations WHERE value = $1")
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
    let of =
        |sqlite: &'static str, postgres: &'static str| if server().is_some() { postgres } else { sqlite };
    let longer = of(
        "UPDATE revocations SET value = CAST(value || x'00' AS BLOB)",
        "UPDATE revocations SET value = value || '\\x00'::bytea",
    );
    let others = of(
        "INSERT INTO revocations VALUES ('identity', x'00', '', 0, NULL, x'00'), \
         ('identity', x'01', '', 0, NULL, x'00')",
        "INSERT INTO revocations VALUES ('identity', '\\x00', '', 0, NULL, '\\x00'), \
         ('identity', '\\x01', '', 0, NULL, '\\x00')",
    );
    for sql in
        [&["UPDATE revocations SET expires_at = 1"][..], &[longer], &["DELETE FROM revocations", others]]
    {
        let mesh = revoked().await;
        let intruder = mesh.intruder().await;
        for sql in sql {
            sqlx::query(*sql).execute(&intruder).await.unwrap();
        }
        intruder.close().await;
        mesh.authority.maintain().await.unwrap_err();
        let error = mesh.reopen_with(|_| ()).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, AuthorityError::Store(StoreError::Tampered { .. })), "{sql:?}: {error}");
    }
}

#[tokio::test]
async fn an_older_row_put_back_is_noticed() {
    let mesh = revoked().await;
    let what = Revocation::Identity(id("web"));
    let intruder = mesh.intruder().await;
    sqlx::query("CREATE TABLE kept AS SELECT * FROM revocations").execute(&intruder).await.unwrap();
    mesh.authority.reinstate(what, "found", "uid:0").await.unwrap().unwrap();
    for sql in ["DELETE FROM revocations", "INSERT INTO revocations SELECT * FROM kept WHERE value = $1"] {
        let query = sqlx::query(sql);
        let query = if sql.contains('$') { query.bind(id("web").as_str().as_bytes()) } else { query };
        query.execute(&intruder).await.unwrap();
    }
    intruder.close().await;
    // Genuine and as many as there should be, but not these.
    let error = mesh.reopen_with(|_| ()).await.map(|_| ()).unwrap_err();
    let AuthorityError::Store(StoreError::Revocations { expected: 1, found: 1, .. }) = error else {
        panic!("{error}")
    };
}

#[tokio::test]
async fn certificates_are_forgotten_with_their_issuer_when_the_log_forgets_it_too() {
    let mesh = mesh().await;
    let old = mesh.join("web").await;
    let intruder = mesh.intruder().await;
    let count = async |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        let (count,): (i64,) = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_one(&intruder).await.unwrap();
        count
    };
    let certificates = count("svids").await;
    let days = async |days: i64| {
        for _ in 0..days {
            mesh.clock.pass(DAY);
            mesh.authority.maintain().await.unwrap();
        }
    };
    // An issuer lives for a week, the log remembers ninety days.
    days(90).await;
    assert_eq!((count("svids").await, count("lineages").await), (certificates, 1), "remembered");
    days(9).await;
    assert_eq!((count("svids").await, count("lineages").await), (0, 0), "forgotten");
    let refused = mesh.renew(&old, &key()).await.unwrap_err();
    assert!(matches!(refused, AuthorityError::Refused(_)), "{refused}");
    mesh.join("web").await;
    mesh.authority.verify_chain().await.unwrap();
}
