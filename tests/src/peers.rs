//! Programs that others wrote, as peers: Debian's command line tools, and clients from PyPI and npm that
//! the set-up script put into `.signet/`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::leave_out;

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository")
}

/// Python with the clients of `tests/setup/requirements.txt`, if they are installed.
pub fn python() -> Option<PathBuf> {
    installed(root().join(".signet/clients/bin/python"))
}

/// The folder with `node_modules` of `tests/setup/package.json`, if they are installed.
pub fn node_modules() -> Option<PathBuf> {
    installed(root().join(".signet/node"))
}

/// The folder with `helm`, `kubectl` and `kubernetes-validate`, if they are installed.
pub fn kubernetes() -> Option<PathBuf> {
    installed(root().join(".signet/kubernetes/bin/helm")).and_then(|helm| Some(helm.parent()?.to_owned()))
}

/// Python with the traced apps of `tests/setup/traced/requirements.txt`, if they are installed.
pub fn traced_python() -> Option<PathBuf> {
    installed(root().join(".signet/traced/bin/python"))
}

/// The folder with `node_modules` of `tests/setup/traced/package.json`, if they are installed.
pub fn traced_node() -> Option<PathBuf> {
    installed(root().join(".signet/traced-node"))
}

/// The program of `tests/traced`, if it is built.
pub fn traced_rust() -> Option<PathBuf> {
    let built = root().join("target/traced/ci/signet-test-traced");
    if !built.exists() {
        leave_out(&format!("{} is missing: run `make traced`", built.display()));
        return None;
    }
    Some(built)
}

fn installed(path: PathBuf) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    leave_out(&format!("{} is missing: run tests/setup/install.sh", path.display()));
    None
}

/// A command of the machine, if it is there.
pub fn tool(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&folders)
        .chain(extra)
        .map(|folder| folder.join(name))
        .find(|path| path.exists());
    if found.is_none() {
        leave_out(&format!("{name} is missing: run tests/setup/install.sh"));
    }
    found
}

/// Runs a command to its end on a thread that may block, so that apps inside the test go on.
pub async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().expect("running a command"))
        .await
        .expect("the thread ended well")
}

/// Standard output and standard error as one text.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
