//! Copies of the authority that are asked for while it works, and a control plane that is killed meanwhile.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use signet_tests::mesh::{Mesh, Sidecar};
use signet_tests::process::{binary, until};

fn signet(mesh: &Mesh, words: &[&str]) -> Command {
    let mut command = Command::new(binary("signet"));
    command.arg("--socket").arg(mesh.path("op.sock")).args(words);
    command
}

fn ask(mesh: &Mesh, words: &[&str]) -> Output {
    signet(mesh, words).output().expect("the command line")
}

/// The copies in the folder, oldest first; what is not whole has another name.
fn copies(mesh: &Mesh) -> Vec<String> {
    let entries = std::fs::read_dir(mesh.path("copies")).expect("the folder of copies");
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with('2')).collect();
    names.sort();
    names
}

/// Every file that the copy lists, with the digest that it lists.
fn assert_whole(copy: &Path) {
    let list: Value =
        serde_json::from_slice(&std::fs::read(copy.join("copy.json")).expect("its list")).unwrap();
    let list: Value = serde_json::from_str(list["copy"].as_str().unwrap()).unwrap();
    let files = list["files"].as_object().unwrap();
    assert!(files.contains_key("authority.db") && files.contains_key("row-mac.sealed"));
    for (name, listed) in files {
        let content = std::fs::read(copy.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let digest = ring::digest::digest(&ring::digest::SHA256, &content);
        let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(listed["sha256"].as_str(), Some(digest.as_str()), "{name}");
    }
}

#[tokio::test]
async fn a_control_plane_that_is_killed_while_it_copies_leaves_whole_copies_only() {
    let mut mesh = Mesh::builder()
        .control_plane("backup: {dir: {folder}/copies, keep: 100}\n")
        .sidecar(Sidecar::new("web.shop", ""))
        .start()
        .await;
    let mut cut = 0;
    for round in 0..10_u64 {
        mesh.join_bundle("spiffe://test.signet/ns/shop/sa/web", "sidecar").await;
        let mut asking = signet(&mesh, &["ca", "backup"]);
        let mut asking =
            asking.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the command line");
        // Wherever the copy is by then: that is what is tried.
        tokio::time::sleep(Duration::from_millis(3 * round)).await;
        let mut killed = mesh.control_plane.take().expect("it runs");
        killed.signal(libc::SIGKILL);
        killed.wait().await;
        let _ = asking.wait();
        let partial = |name: &std::ffi::OsString| name.to_string_lossy().ends_with(".partial");
        let entries = std::fs::read_dir(mesh.path("copies")).unwrap();
        cut += entries.filter(|entry| partial(&entry.as_ref().unwrap().file_name())).count();
        for name in copies(&mesh) {
            assert_whole(&mesh.path("copies").join(name));
        }
        mesh.start_control_plane().await;
    }
    println!("{cut} copies were cut in the middle, {} were whole", copies(&mesh).len());
    let done = ask(&mesh, &["ca", "backup"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let newest = copies(&mesh).pop().expect("a copy");
    assert_whole(&mesh.path("copies").join(&newest));
    let left = std::fs::read_dir(mesh.path("copies")).unwrap();
    assert!(!left.into_iter().any(|it| it.unwrap().file_name().to_string_lossy().ends_with(".partial")));
    mesh.assert_unharmed();
}

#[tokio::test]
async fn copies_are_made_by_the_clock_and_counted() {
    let mesh = Mesh::builder()
        .control_plane("backup: {dir: {folder}/copies, keep: 2, everySeconds: 1}\n")
        .start()
        .await;
    let first = until("a copy", || copies(&mesh).first().cloned()).await;
    until("two others, and the first gone", || {
        let names = copies(&mesh);
        (names.len() == 2 && !names.contains(&first)).then_some(())
    })
    .await;
    let metrics = mesh.metrics("cp").await;
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("the metric");
        line.trim().parse().expect("a number")
    };
    assert!(value("signet_ca_backup_timestamp_seconds ") > 1.7e9, "{metrics}");
    assert!(value("signet_ca_backup_failures_total ").abs() < 0.5);
    let log = ask(&mesh, &["ca", "log"]);
    let log = String::from_utf8_lossy(&log.stdout).into_owned();
    let line = log.lines().find(|line| line.contains("backed-up")).expect("a record");
    assert!(line.contains("authority"), "{line}");
}

#[tokio::test]
async fn without_a_folder_for_copies_the_operator_is_told_what_to_configure() {
    let mesh = Mesh::builder().start().await;
    let refused = ask(&mesh, &["ca", "backup"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("set backup.dir in control-plane.yaml"), "{said}");
}
