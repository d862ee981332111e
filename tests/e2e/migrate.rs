//! A store that another version wrote, through the real program: an older schema is refused or brought up to date, as the
//! configuration says, also by two control planes at once; a newer one is refused, whoever asks. What it held stays.

use std::path::Path;
use std::process::Command;

use signet_tests::mesh::{Mesh, Sidecar};
use signet_tests::peers::{run, said};
use signet_tests::postgres::Postgres;
use signet_tests::process::{Process, binary};

const WEB: &str = "spiffe://test.signet/ns/shop/sa/web";
/// What the steps since made, taken back: the store of a version that knew five.
const BACK: &str = "DROP TABLE sealed_keys; DROP TABLE deferred; DROP TABLE spread; DROP TABLE delegations; DROP INDEX lineages_by_end; \
                    DELETE FROM _sqlx_migrations WHERE version > 5";
const OLD: &str = "has the schema of step 5, expected";
const FUTURE: &str = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                      VALUES (999, 'of the future', true, '', 0)";
const NEWER: &str = "start the newer version that wrote it";

fn workload(name: &str) -> String {
    format!("kind: Workload\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{class: sidecar}}\n")
}

/// The control plane of this configuration file, with these arguments more.
fn program(mesh: &Mesh, file: &str, arguments: &[&str]) -> Process {
    let mut command = Command::new(binary("signet-control-plane"));
    command.arg("--config").arg(mesh.path(file)).args(arguments);
    Process::start(&format!("{file}-once"), command, &mesh.path("."))
}

/// Fails the test unless it ends at once, saying this.
async fn refuses(mesh: &Mesh, file: &str, arguments: &[&str], words: &[&str]) {
    let mut process = program(mesh, file, arguments);
    let status = process.wait().await;
    let log = process.log();
    assert_eq!(status.code(), Some(1), "{arguments:?}: {log}");
    for word in words {
        assert!(log.contains(word), "{arguments:?}: {word:?} was expected in: {log}");
    }
}

async fn stop(mesh: &mut Mesh) {
    for mut process in std::mem::take(&mut mesh.replicas).into_values().chain(mesh.control_plane.take()) {
        process.terminate();
        assert!(process.wait().await.success());
    }
}

async fn is_whole(mesh: &Mesh) {
    let mut command = Command::new(binary("signet"));
    command.arg("--socket").arg(mesh.operator_socket("cp")).args(["ca", "verify"]);
    let output = run(command).await;
    assert!(output.status.success(), "{}", said(&output));
}

fn change(mesh: &Mesh, file: &str, from: &str, to: &str) {
    let path = mesh.path(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

const FILES: [&str; 2] = ["control-plane.yaml", "second.yaml"];

/// Lets two control planes go on as a role that owns nothing: `mesh`, to which the owner of the tables gives its rights.
pub(crate) async fn migrated(mesh: &Mesh, owners_url: &Path) {
    for file in FILES {
        change(mesh, file, "user: mesh_owner", "user: mesh");
        change(mesh, file, "migrate: true", "migrate: false");
    }
    let mut process = program(mesh, FILES[0], &["--migrate", &owners_url.display().to_string()]);
    assert!(process.wait().await.success(), "{}", process.log());
}

#[tokio::test]
async fn an_older_schema_on_postgresql_is_refused_or_migrated_and_a_newer_one_is_refused() {
    let Some(postgres) = Postgres::start().await else { return };
    for sql in ["CREATE ROLE owner LOGIN", "CREATE ROLE issuing LOGIN", "CREATE DATABASE mesh OWNER owner"] {
        postgres.query("postgres", sql);
    }
    let whole = postgres.configuration_of("mesh", "owner", true);
    let mut mesh = Mesh::builder()
        .registry(["early", "web"].map(workload).join("---\n"))
        .control_plane(&whole)
        .start()
        .await;
    mesh.start_replica("second").await;
    mesh.join(Sidecar::new("early.shop", "")).await;
    let certificates = || postgres.query("mesh", "SELECT count(*) FROM svids WHERE lineage IS NOT NULL");
    let before = certificates();
    stop(&mut mesh).await;

    // One role makes the tables, and another issues, with the rights that it was given.
    for file in FILES {
        change(&mesh, file, "user: owner", "user: issuing");
        change(&mesh, file, "migrate: true", "migrate: false");
    }
    let url = postgres.owners_url("mesh", "owner", &mesh.path("."));
    let arguments = ["--migrate", url.to_str().unwrap()];
    assert!(program(&mesh, FILES[0], &arguments).wait().await.success());
    postgres.query("mesh", BACK);
    for file in FILES {
        refuses(&mesh, file, &[], &[OLD, "--migrate", "store.postgres.migrate: true"]).await;
    }
    // Of whoever may not, nothing is changed.
    refuses(&mesh, FILES[0], &["--migrate"], &["permission denied"]).await;
    let mut both = FILES.map(|file| program(&mesh, file, &arguments));
    for process in &mut both {
        let status = process.wait().await;
        assert!(status.success() && process.log().contains("the schema is up to date"), "{}", process.log());
    }
    mesh.start_control_plane().await;
    mesh.start_replica("second").await;
    is_whole(&mesh).await;
    mesh.join_at("second", Sidecar::new("web.shop", "")).await;
    assert_ne!(certificates(), before, "it is the store that it was, and goes on");
    stop(&mut mesh).await;

    // One role for both, by configuration, and two that start at once.
    postgres.query("mesh", BACK);
    for file in FILES {
        change(&mesh, file, "user: issuing", "user: owner");
        change(&mesh, file, "migrate: false", "migrate: true");
    }
    let other = program(&mesh, FILES[1], &[]);
    mesh.start_control_plane().await;
    other.logged("is ready").await;
    is_whole(&mesh).await;
    other.terminate();
    drop(other);
    stop(&mut mesh).await;

    postgres.query("mesh", FUTURE);
    let before = certificates();
    for arguments in [&[][..], &["--migrate"]] {
        refuses(&mesh, FILES[0], arguments, &["step 999", NEWER]).await;
    }
    change(&mesh, FILES[0], "migrate: true", "migrate: false");
    refuses(&mesh, FILES[0], &[], &["step 999", NEWER]).await;
    assert_eq!(certificates(), before);
}

/// Says this to the file of a control plane that is not running.
fn sqlite(mesh: &Mesh, sql: &str) -> bool {
    let script =
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.executescript(sys.argv[2]); db.commit()";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(mesh.path("cp/authority.db")).arg(sql);
    python.status().is_ok_and(|status| status.success())
}

#[tokio::test]
async fn an_older_schema_on_sqlite_is_migrated_at_a_start_and_a_newer_one_is_refused() {
    let mut mesh = Mesh::builder().sidecar(Sidecar::new("web.shop", "")).start().await;
    stop(&mut mesh).await;
    if !sqlite(&mesh, BACK) {
        signet_tests::leave_out("python3 with sqlite3 is missing: run tests/setup/install.sh");
        return;
    }
    refuses(&mesh, FILES[0], &["--migrate"], &["SQLite's tables are made at each start"]).await;
    mesh.start_control_plane().await;
    is_whole(&mesh).await;
    mesh.join_bundle(WEB, "sidecar").await;
    stop(&mut mesh).await;
    assert!(sqlite(&mesh, &FUTURE.replace("''", "X''")));
    refuses(&mesh, FILES[0], &[], &["authority.db has the schema of step 999", NEWER]).await;
    // It did not touch it: without that step it is as it was.
    assert!(sqlite(&mesh, "DELETE FROM _sqlx_migrations WHERE version = 999"));
    mesh.start_control_plane().await;
    is_whole(&mesh).await;
}
