//! What README shows is what the programs read.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use signet_tests::peers::{root, run, said};
use signet_tests::process::binary;

/// The example that begins with `# name`, with the machine's folders moved under `folder`.
fn example(name: &str, folder: &Path) -> String {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let begin = format!("```yaml\n# {name}\n");
    let (_, rest) = readme.split_once(&begin).unwrap_or_else(|| panic!("README has no example {name}"));
    let (text, _) = rest.split_once("```").unwrap();
    ["/var/lib", "/etc", "/run"].iter().fold(text.to_owned(), |text, top| {
        text.replace(&format!("{top}/"), &format!("{}{top}/", folder.display()))
    })
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    std::io::Write::write_all(&mut file, content).unwrap();
}

#[tokio::test]
async fn the_examples_in_readme_are_accepted_as_they_stand() {
    let folder = tempfile::Builder::new().prefix("sgt").tempdir().unwrap();
    for name in [
        "etc/signet/registry",
        "var/lib/signet/orders",
        "var/lib/signet/control-plane",
        "run/signet",
        "run/orders",
    ] {
        fs::create_dir_all(folder.path().join(name)).unwrap();
        fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o700)).unwrap();
    }
    write(&folder.path().join("etc/signet/seal.key"), &[7; 32]);
    write(
        &folder.path().join("etc/signet/registry/mesh.yaml"),
        b"apiVersion: signet.mesh/v1alpha1\nkind: Mesh\nmetadata: {name: default}\nspec: {defaultAction: deny}\n",
    );
    write(
        &folder.path().join("etc/signet/join.json"),
        br#"{"bootstrapAddress": "signet.example.com:8443", "meshAddress": "signet.example.com:8444",
             "trustDomain": "example.com", "rootSha256": "0000000000000000000000000000000000000000000000000000000000000000",
             "token": "none", "spiffeId": "spiffe://example.com/ns/shop/sa/orders",
             "controlPlane": "spiffe://example.com/ns/signet-system/sa/signet-control-plane"}"#,
    );
    for (program, file) in
        [("signet-control-plane", "control-plane.yaml"), ("signet-sidecar", "sidecar.yaml")]
    {
        let path = folder.path().join(file);
        write(&path, example(file, folder.path()).as_bytes());
        let mut command = Command::new(binary(program));
        command.arg("--config").arg(&path).arg("--check");
        let output = run(command).await;
        assert!(output.status.success(), "{file}: {}", said(&output));
    }
}

/// Names of tests are sentences; what the mesh exports begins with its name.
fn sentences(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
    words.filter(|word| word.matches('_').count() > 2 && !word.starts_with("signet_"))
}

fn sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                sources(&path, into);
            }
        } else if path.extension().is_some_and(|it| it == "rs") {
            into.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_test_that_a_page_names_exists() {
    let mut code = String::new();
    ["ca", "core", "control-plane", "sidecar", "cli", "tests"]
        .iter()
        .for_each(|it| sources(&root().join(it), &mut code));
    for page in ["docs/lessons.md", "docs/threat-model.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let missing: Vec<_> =
            sentences(&text).filter(|name| !code.contains(&format!("fn {name}("))).collect();
        assert!(missing.is_empty(), "{page} names tests that do not exist: {missing:?}");
        assert!(sentences(&text).count() > 20, "{page} names hardly any");
    }
}
