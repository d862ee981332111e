//! A SoftHSM token for a test.
//!
//! SoftHSM learns from its environment where its tokens lie, and only a parent may write a process's
//! environment. So a test that needs a token runs itself again: once per stage, each in a process of its
//! own with the same token, which is also what a restart is. The folder has besides the token a file `pin`.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const TOKEN: &str = "signet-test";
pub(crate) const PIN: &str = "a-pin-nobody-may-see";
/// Only for a test's own process: the folder and the stage.
const FOLDER: &str = "SIGNET_TEST_TOKEN";
const STAGE: &str = "SIGNET_TEST_STAGE";

/// Where distributions put the module.
const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];

/// SoftHSM's module, if it is installed.
pub(crate) fn module() -> Option<PathBuf> {
    let found = MODULES.iter().map(PathBuf::from).find(|path| path.exists());
    if found.is_none() {
        let text = "left out: SoftHSM is missing: run tests/setup/install.sh";
        assert!(std::env::var_os("SIGNET_REQUIRE_ALL").is_none(), "{text}");
        eprintln!("{text}");
    }
    found
}

/// Makes a token in the folder and the file with its PIN; the SOFTHSM2_CONF to run with.
pub(crate) fn make(folder: &Path) -> PathBuf {
    let tokens = folder.join("tokens");
    fs::create_dir(&tokens).unwrap();
    let conf = folder.join("softhsm2.conf");
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
        tokens.display()
    );
    fs::write(&conf, text).unwrap();
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", TOKEN, "--so-pin", "87654321", "--pin", PIN])
        .env("SOFTHSM2_CONF", &conf)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    write_pin(folder, PIN);
    conf
}

/// Replaces the file `pin`.
pub(crate) fn write_pin(folder: &Path, pin: &str) {
    use std::io::Write as _;
    let new = folder.join("pin.new");
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).unwrap();
    writeln!(file, "{pin}").unwrap();
    fs::rename(new, folder.join("pin")).unwrap();
}

/// Runs the body in a process of its own per stage, all with one token. `body` gets the stage, from 0, and
/// the folder.
pub(crate) fn stages<F: FnOnce(u32, &Path)>(count: u32, body: F) {
    if let (Some(folder), Ok(stage)) = (std::env::var_os(FOLDER), std::env::var(STAGE)) {
        return body(stage.parse().unwrap(), Path::new(&folder));
    }
    if module().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let conf = make(folder.path());
    for stage in 0..count {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([name_of(&body).as_str(), "--exact", "--nocapture"])
            .env("SOFTHSM2_CONF", &conf)
            .env(FOLDER, folder.path())
            .env(STAGE, stage.to_string())
            .output()
            .unwrap();
        let said =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success(), "stage {stage}: {said}");
        assert!(said.contains("1 passed"), "stage {stage} ran no test: {said}");
    }
}

/// The test that a closure stands in, as the test runner calls it.
fn name_of<F>(_: &F) -> String {
    let mut path = std::any::type_name::<F>();
    while let Some(rest) = path.strip_suffix("::{{closure}}") {
        path = rest;
    }
    path.split_once("::").unwrap().1.to_owned()
}
