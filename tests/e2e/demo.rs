//! `signet demo`, as a newcomer runs it.

use std::process::Command;

use signet_tests::peers::{run, said};
use signet_tests::process::{Process, binary, until};

/// The demo's own scenario, played by itself: every claim it makes holds.
#[tokio::test]
async fn the_demo_keeps_every_promise_that_it_prints() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary("signet"));
    command.args(["demo", "--check", "--folder"]).arg(folder.path().join("d"));
    let output = run(command).await;
    assert!(output.status.success(), "{}", said(&output));
    let text = said(&output);
    assert!(text.contains(" 0 fail;"), "{text}");
}

/// Ctrl-C ends all of it, in order.
#[tokio::test]
async fn ending_the_demo_leaves_no_process_behind() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("d");
    let mut command = Command::new(binary("signet"));
    command.arg("demo").arg("--folder").arg(&home);
    let mut demo = Process::start("demo", command, folder.path());
    demo.logged("Try it").await;
    let needle = home.display().to_string();
    assert!(processes_naming(&needle) > 10, "the demo's processes are not there");
    demo.signal(libc::SIGINT);
    let status = demo.wait().await;
    assert!(status.success(), "{status}: {}", demo.log());
    assert_eq!(processes_naming(&needle), 0);
}

/// Killed outright, the demo still leaves nothing: the kernel ends what it started.
#[tokio::test]
async fn killing_the_demo_leaves_no_process_behind() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("d");
    let mut command = Command::new(binary("signet"));
    command.arg("demo").arg("--folder").arg(&home);
    let mut demo = Process::start("demo", command, folder.path());
    demo.logged("Try it").await;
    demo.signal(libc::SIGKILL);
    demo.wait().await;
    let needle = home.display().to_string();
    until("the demo's processes to end", || (processes_naming(&needle) == 0).then_some(())).await;
}

/// How many processes have `text` in their command line.
fn processes_naming(text: &str) -> usize {
    let folders = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = folders.filter_map(|folder| std::fs::read(folder.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(text)).count()
}
