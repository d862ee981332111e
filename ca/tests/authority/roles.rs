//! What the role that issues may not do, and how the way to PostgreSQL is protected.

use std::os::unix::fs::PermissionsExt as _;

use signet_ca::{Login, PostgresConfig, PostgresError, StoreError, Tls};

use crate::server::{OWNER, RUNTIME_ROLE};
use crate::*;

async fn as_runtime(dir: &Path, sql: &'static str) -> sqlx::Error {
    let server = server().unwrap();
    let url = server.superuser_url(&server.database(dir)).replace("postgres@", &format!("{RUNTIME_ROLE}@"));
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    sqlx::raw_sql(sql).execute(&pool).await.unwrap_err()
}

#[tokio::test]
async fn the_runtime_role_can_neither_edit_the_log_nor_change_the_schema() {
    if server().is_none() {
        return;
    }
    let mesh = mesh().await;
    mesh.join("web").await;
    for sql in [
        "UPDATE log SET actor = 'x'",
        "DELETE FROM log",
        "TRUNCATE log",
        "DROP TABLE log",
        "ALTER TABLE log DISABLE TRIGGER ALL",
        "DROP TRIGGER log_is_append_only_update ON log",
        "CREATE TABLE more (id BIGINT)",
        "UPDATE _sqlx_migrations SET success = false",
    ] {
        let error = as_runtime(mesh.dir.path(), sql).await;
        let code = error.as_database_error().and_then(|e| e.code()).unwrap_or_default().into_owned();
        assert_eq!(code, "42501", "{sql}: {error}");
    }
    mesh.authority.verify_chain().await.unwrap();
}

#[tokio::test]
async fn even_the_owner_cannot_edit_the_log_by_accident() {
    let Some(server) = server() else { return };
    let mesh = mesh().await;
    let intruder = mesh.intruder().await;
    for sql in ["UPDATE log SET actor = 'x'", "DELETE FROM log", "TRUNCATE log"] {
        let error = sqlx::query(sql).execute(&intruder).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{sql}: {error}");
    }
    let _ = server;
}

async fn open_error(config: PostgresConfig) -> AuthorityError {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock(std::sync::atomic::AtomicI64::new(START)));
    let mut authority = crate::config(dir.path());
    authority.store = StoreConfig::Postgres(config);
    Authority::open(authority, clock).await.map(|_| ()).unwrap_err()
}

#[tokio::test]
async fn a_schema_that_is_behind_is_a_clear_error_and_migrate_makes_it_good() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let name = server.database(dir.path());
    server.sql("postgres", &format!("DROP DATABASE {name}"));
    server.sql("postgres", &format!("CREATE DATABASE {name} OWNER {OWNER}"));
    let error = open_error(server.login(&name, RUNTIME_ROLE)).await;
    let AuthorityError::Store(StoreError::Postgres(PostgresError::Behind { found: 0, .. })) = &error else {
        panic!("{error}")
    };
    assert!(error.to_string().contains("--migrate"), "{error}");
    // One role for both, by its own wish.
    let mut config = crate::config(dir.path());
    let mut owner = server.login(&name, OWNER);
    owner.migrate = true;
    config.store = StoreConfig::Postgres(owner);
    let clock = Arc::new(TestClock(std::sync::atomic::AtomicI64::new(START)));
    let authority = Authority::open(config, clock).await.unwrap();
    authority.verify_chain().await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_not_written_to() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let name = server.database(dir.path());
    server.sql(
        &name,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (999, 'of the future', true, '', 0)",
    );
    let error = open_error(server.login(&name, RUNTIME_ROLE)).await;
    let newer = |error| matches!(error, AuthorityError::Store(StoreError::Newer { found: 999, .. }));
    assert!(newer(error), "at a start");
    let mut owner = server.login(&name, OWNER);
    owner.migrate = true;
    assert!(newer(open_error(owner).await), "at a start that may make tables");
}

fn private(dir: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn by_url(dir: &Path, url: &str, root: Option<&str>) -> PostgresConfig {
    let root_cert_file = root.map(|pem| {
        let path = dir.join("root.pem");
        std::fs::write(&path, pem).unwrap();
        path
    });
    PostgresConfig {
        login: Login::UrlFile(private(dir, "url", url)),
        tls: Tls::VerifyFull { root_cert_file },
        migrate: false,
    }
}

#[tokio::test]
async fn tls_takes_the_right_certificate_and_name_and_nothing_else() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let name = server.database(dir.path());
    let right = std::fs::read_to_string(server.dir.path().join("ca.pem")).unwrap();
    let other = {
        let key = key();
        let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.self_signed(&key).unwrap().pem()
    };
    let url = |host: &str| format!("postgres://{RUNTIME_ROLE}:correct%20horse@{host}:{}/{name}", server.port);
    for (host, root) in [("localhost", None), ("localhost", Some(&*other)), ("127.0.0.1", Some(&*right))] {
        let error = open_error(by_url(dir.path(), &url(host), root)).await.to_string();
        assert!(error.contains("certificate") && !error.contains("correct"), "{host}: {error}");
    }
    let mut config = crate::config(dir.path());
    config.store = StoreConfig::Postgres(by_url(dir.path(), &url("localhost"), Some(&right)));
    let clock = Arc::new(TestClock(std::sync::atomic::AtomicI64::new(START)));
    let authority = Authority::open(config, clock).await.unwrap();
    authority.verify_chain().await.unwrap();
}

#[tokio::test]
async fn tcp_without_tls_needs_development() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut config = by_url(dir.path(), &format!("postgres://mesh:x@127.0.0.1:{}/d", server.port), None);
    config.tls = Tls::Off;
    let error = open_error(config).await;
    let refused =
        matches!(error, AuthorityError::Store(StoreError::Postgres(PostgresError::Unprotected { .. })));
    assert!(refused, "{error}");
}

#[tokio::test]
async fn an_error_about_a_wrong_password_does_not_show_it() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let name = server.database(dir.path());
    let right = std::fs::read_to_string(server.dir.path().join("ca.pem")).unwrap();
    let url = format!("postgres://{RUNTIME_ROLE}:hunter2@localhost:{}/{name}", server.port);
    let config = by_url(dir.path(), &url, Some(&right));
    assert!(!format!("{config:?}").contains("hunter2"));
    let error = open_error(config).await;
    let said = format!("{error} {error:?}");
    assert!(said.contains("password authentication failed") && !said.contains("hunter2"), "{said}");
    std::fs::set_permissions(dir.path().join("url"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let config = PostgresConfig {
        login: Login::UrlFile(dir.path().join("url")),
        tls: Tls::VerifyFull { root_cert_file: None },
        migrate: false,
    };
    let error = open_error(config).await.to_string();
    assert!(error.contains("chmod 0600"), "{error}");
}

#[tokio::test]
async fn a_store_of_another_root_is_refused() {
    if server().is_none() {
        return;
    }
    let (ours, theirs) = (mesh().await, mesh().await);
    let roots = [&ours, &theirs].map(|mesh| mesh.authority.mesh().to_string());
    ours.authority.close().await;
    let store = crate::store(theirs.dir.path());
    let Err(error) = ours.reopen_with(|config| config.store = store).await else { panic!("it opened") };
    let said = error.to_string();
    assert!(roots.iter().all(|root| said.contains(root.as_str())), "{said}");
}
