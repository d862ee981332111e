//! What the data plane is built from: small, and nothing of the authority's side.

use std::process::Command;

#[test]
fn the_sidecar_links_nothing_of_the_control_plane() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "-p",
            "signet-sidecar",
            "-e",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo tree");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).expect("UTF-8");
    let crates: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(crates.contains(&"signet-proxy"), "the tree is not ours: {tree}");
    for banned in [
        "signet-ca",
        "kube",
        "k8s-openapi",
        "sqlx",
        "reqwest",
        "cedar-policy",
        "axum",
        "aws-lc-rs",
        "openssl",
    ] {
        let found = crates.iter().find(|name| **name == banned || name.starts_with(&format!("{banned}-")));
        assert!(found.is_none(), "the sidecar reaches {}", found.unwrap());
    }
}
