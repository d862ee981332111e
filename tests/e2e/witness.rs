//! A store that is set back to an older copy: the authority cannot know, its sidecars do.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use signet_tests::mesh::{Mesh, Sidecar};
use signet_tests::process::{PATIENCE, binary, until};

/// The value of a metric of one process.
async fn metric(mesh: &Mesh, process: &str, line: &str) -> f64 {
    let metrics = mesh.metrics(process).await;
    let value = metrics.lines().find_map(|it| it.strip_prefix(line)?.trim().parse().ok());
    value.unwrap_or(0.0)
}

async fn reaches(mesh: &Mesh, process: &str, line: &str, least: f64) {
    let asked = async { while metric(mesh, process, line).await < least {} };
    let waited = tokio::time::timeout(PATIENCE, asked).await;
    assert!(waited.is_ok(), "{line} of {process} did not reach {least}");
}

async fn stop(mesh: &mut Mesh) {
    let mut control_plane = mesh.control_plane.take().expect("a control plane");
    control_plane.terminate();
    control_plane.wait().await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("authority.db") {
            std::fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

/// Of the wall clock, whole.
fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as f64
}

const HELD: &str = "signet_log_head_signed_timestamp_seconds ";

/// A mesh whose sidecar holds an end of the log so many records after the copy that was made of the store, with the store's
/// folder and the copy's.
async fn grown(records: usize) -> (Mesh, PathBuf, PathBuf) {
    let mut mesh = Mesh::builder().sidecar(Sidecar::new("web.shop", "")).start().await;
    let (data, old) = (mesh.path("cp"), mesh.path("old"));
    stop(&mut mesh).await;
    copy(&data, &old);
    mesh.start_control_plane().await;
    reaches(&mesh, "web", HELD, 1.0).await;
    for _ in 0..records {
        mesh.join_bundle("spiffe://test.signet/ns/shop/sa/web", "sidecar").await;
    }
    // Its end is signed when it starts, and told to whoever connects.
    stop(&mut mesh).await;
    let heard = metric(&mesh, "web", HELD).await;
    until("the next second", || (seconds() > heard).then_some(())).await;
    mesh.start_control_plane().await;
    reaches(&mesh, "web", HELD, heard + 1.0).await;
    (mesh, data, old)
}

#[tokio::test]
async fn a_store_that_was_set_back_contradicts_what_sidecars_remember() {
    let (mut mesh, data, old) = grown(5).await;
    assert_eq!(metric(&mesh, "web", "signet_log_contradictions_total{reason=\"regress\"} ").await, 0.0);

    stop(&mut mesh).await;
    for name in ["authority.db", "authority.db-wal", "authority.db-shm"] {
        let _ = std::fs::remove_file(data.join(name));
    }
    copy(&old, &data);
    mesh.start_control_plane().await;
    reaches(&mesh, "web", "signet_log_contradictions_total{reason=\"regress\"} ", 1.0).await;
    let told = "signet_control_plane_log_contradictions_total{reason=\"regress\"} ";
    reaches(&mesh, "cp", told, 1.0).await;
    mesh.assert_unharmed();
}

fn audit(mesh: &Mesh, words: &[&str]) -> Output {
    let mut command = Command::new(binary("signet"));
    command.arg("--socket").arg(mesh.path("op.sock")).args(["ca", "audit"]).args(words);
    command.output().expect("the command line")
}

#[track_caller]
fn taken(done: &Output) -> String {
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    said
}

#[track_caller]
fn found_out(done: &Output) -> String {
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&done.stdout));
    said
}

/// What the sidecar's admin socket shows of what it holds.
fn show(mesh: &Mesh, out: &Path) {
    std::fs::write(out, serde_json::to_string_pretty(&mesh.admin("web", "/heads")).unwrap()).unwrap();
}

#[tokio::test]
async fn a_restarted_sidecar_still_contradicts_and_what_it_held_convicts_the_log_offline() {
    let (mut mesh, data, old) = grown(20).await;

    // What the admin socket shows goes with the log as it is, running and on paper.
    let path = |name: &str| mesh.path(name).display().to_string();
    let (key, heads, export) = (path("cp/audit.pem"), path("heads.json"), path("before.jsonl"));
    show(&mesh, Path::new(&heads));
    taken(&audit(&mesh, &["export", "--out", &export]));
    let offline = |export: &str, heads: &str| {
        audit(&mesh, &["verify", "--file", export, "--key", &key, "--heads", heads])
    };
    let said = taken(&offline(&export, &heads));
    assert!(said.contains("1 heads that were held elsewhere are in it"), "{said}");
    taken(&audit(&mesh, &["verify", "--heads", &heads]));
    // A sidecar in other hands says that more was there: nobody signed that.
    let text = std::fs::read_to_string(&heads).unwrap();
    let forged = path("forged.json");
    let more = text.replace("\"sequence\": ", "\"sequence\": 9");
    assert_ne!(more, text);
    std::fs::write(&forged, more).unwrap();
    let said = found_out(&offline(&export, &forged));
    assert!(said.contains("is no evidence") && said.contains("not signed by the audit key"), "{said}");

    // The sidecar ends in good order, the store is set back, and both start again.
    let mut web = mesh.sidecars.remove("web").expect("it runs");
    web.terminate();
    web.wait().await;
    let kept = mesh.path("web/data/log-heads.json");
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    assert_eq!(json(&std::fs::read_to_string(&kept).expect("what it keeps")), json(&text));
    stop(&mut mesh).await;
    for name in ["authority.db", "authority.db-wal", "authority.db-shm"] {
        let _ = std::fs::remove_file(data.join(name));
    }
    copy(&old, &data);
    mesh.start_control_plane().await;
    mesh.join(Sidecar::new("web.shop", "")).await;
    reaches(&mesh, "web", "signet_log_contradictions_total{reason=\"regress\"} ", 1.0).await;
    reaches(&mesh, "cp", "signet_control_plane_log_contradictions_total{reason=\"regress\"} ", 1.0).await;

    // The set back log is signed and in good order by itself.
    let path = |name: &str| mesh.path(name).display().to_string();
    let after = path("after.jsonl");
    taken(&audit(&mesh, &["export", "--out", &after]));
    taken(&audit(&mesh, &["verify", "--file", &after, "--key", &key]));
    let kept = kept.display().to_string();
    for heads in [&heads, &kept] {
        let said = found_out(&audit(&mesh, &["verify", "--file", &after, "--key", &key, "--heads", heads]));
        assert!(said.contains("records were cut off") && said.contains(heads.as_str()), "{said}");
        let said = found_out(&audit(&mesh, &["verify", "--heads", heads]));
        assert!(said.contains("records were cut off"), "{said}");
    }
    mesh.assert_unharmed();

    // A damaged file is said so, put aside, and stops nobody.
    let mut web = mesh.sidecars.remove("web").expect("it runs");
    web.terminate();
    web.wait().await;
    std::fs::write(&kept, "{").unwrap();
    mesh.join(Sidecar::new("web.shop", "")).await;
    reaches(&mesh, "web", "signet_log_contradictions_total{reason=\"file\"} ", 1.0).await;
    assert_eq!(std::fs::read_to_string(mesh.path("web/data/log-heads.json.refused")).unwrap(), "{");
}
