//! The images' archives: what runtimes expect of them, the same bytes for the same programs, and nothing in them but the
//! programs, which start from that alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use signet_kubernetes::inject::Settings;
use signet_tests::peers::{root, run, said};
use signet_tests::process::binary;

const IMAGES: [&str; 3] = ["sidecar", "redirect", "control-plane"];
/// Bytes and nothing else: an archive's time, far from today.
const EPOCH: &str = "1700000000";

/// Makes all archives of the programs of this build.
async fn archives(out: &Path) {
    let programs = binary("signet-sidecar").parent().expect("a folder").to_owned();
    let mut command = Command::new("python3");
    command.arg(root().join("deploy/containers/archive.py")).arg("--programs").arg(programs);
    command.arg("--out").arg(out).args(["--version", "1.2.3", "--prefix", "registry.example.com"]);
    command.args(["--architecture", "amd64"]).env("SOURCE_DATE_EPOCH", EPOCH);
    let done = run(command).await;
    assert!(done.status.success(), "{}", said(&done));
}

fn archive(folder: &Path, image: &str) -> PathBuf {
    folder.join(format!("signet-{image}-1.2.3-amd64.tar"))
}

async fn unpack(archive: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    let mut command = Command::new("tar");
    // Owners are looked at below; here they are whoever tests.
    command.arg("-xf").arg(archive).arg("-C").arg(to).arg("--no-same-owner");
    let done = run(command).await;
    assert!(done.status.success(), "{}", said(&done));
}

/// What a descriptor means, if it means what it says.
fn blob(layout: &Path, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().expect("a digest");
    let hex = digest.strip_prefix("sha256:").expect("SHA-256");
    let content = std::fs::read(layout.join("blobs/sha256").join(hex)).expect("a blob");
    assert_eq!(descriptor["size"], content.len());
    let found = ring::digest::digest(&ring::digest::SHA256, &content);
    assert_eq!(found.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>(), hex);
    content
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

fn read(path: &Path) -> Value {
    json_of(&std::fs::read(path).expect("a file"))
}

/// An image as a runtime has it: its configuration, and its root file system.
struct Image {
    config: Value,
    rootfs: PathBuf,
}

/// Takes an archive as image-spec 1.0 and `docker load` do.
async fn loaded(folder: &Path, image: &str) -> Image {
    let layout = folder.join(image);
    unpack(&archive(folder, image), &layout).await;
    assert_eq!(read(&layout.join("oci-layout")), json!({"imageLayoutVersion": "1.0.0"}));
    let index = read(&layout.join("index.json"));
    assert_eq!((&index["schemaVersion"], index["manifests"].as_array().map(Vec::len)), (&json!(2), Some(1)));
    let descriptor = &index["manifests"][0];
    let name = format!("registry.example.com/signet-{image}:1.2.3");
    assert_eq!(descriptor["annotations"]["io.containerd.image.name"], name);
    assert_eq!(descriptor["platform"], json!({"architecture": "amd64", "os": "linux"}));
    let manifest = json_of(&blob(&layout, descriptor));
    assert_eq!((&manifest["mediaType"], &manifest["schemaVersion"]), (&descriptor["mediaType"], &json!(2)));
    let config = json_of(&blob(&layout, &manifest["config"]));
    assert_eq!((&config["os"], &config["architecture"]), (&json!("linux"), &json!("amd64")));
    let layers = manifest["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 1);
    blob(&layout, &layers[0]);
    // Nothing is compressed, so what is in the layer is what the layer is.
    assert_eq!(config["rootfs"], json!({"type": "layers", "diff_ids": [layers[0]["digest"]]}));
    let path = |digest: &Value| digest.as_str().expect("a digest").replace("sha256:", "blobs/sha256/");
    let docker = json!([{"Config": path(&manifest["config"]["digest"]), "RepoTags": [name], "Layers": [path(&layers[0]["digest"])]}]);
    assert_eq!(read(&layout.join("manifest.json")), docker);
    let rootfs = folder.join(format!("{image}-root"));
    unpack(&layout.join(path(&layers[0]["digest"])), &rootfs).await;
    Image { config, rootfs }
}

/// Every file below, by its path from there.
fn files(folder: &Path, prefix: &str, out: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        let name = format!("{prefix}/{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true => files(&entry.path(), &name, out),
            false => _ = out.insert(name),
        }
    }
}

fn settings() -> Settings {
    serde_json::from_value(json!({
        "image": "a", "redirectImage": "b", "bootstrapAddress": "c:1", "meshAddress": "c:2",
        "controlPlane": "spiffe://example.com/ns/signet-system/sa/signet-control-plane",
    }))
    .expect("settings")
}

/// The user of the chart's pods.
fn chart_uid() -> String {
    let template = std::fs::read_to_string(root().join("deploy/helm/signet/templates/control-plane.yaml"));
    let template = template.expect("the template");
    let (_, rest) = template.split_once("        runAsUser: ").expect("a user");
    rest.lines().next().expect("a number").to_owned()
}

#[tokio::test]
async fn images_are_whole_have_the_users_of_the_chart_and_nothing_beside_their_programs() {
    let folder = tempfile::tempdir().expect("a folder");
    archives(folder.path()).await;
    let sidecar = settings().uid.to_string();
    let control_plane = chart_uid();
    for (image, user, entrypoint, programs) in [
        ("sidecar", &sidecar, json!(["/usr/bin/signet-sidecar"]), &["signet-sidecar"][..]),
        (
            "redirect",
            &"0".to_owned(),
            json!(["/usr/bin/signet-sidecar", "redirect"]),
            &["signet-sidecar", "signet-cni"],
        ),
        (
            "control-plane",
            &control_plane,
            json!(["/usr/bin/signet-control-plane"]),
            &["signet", "signet-control-plane"],
        ),
    ] {
        let Image { config, rootfs } = loaded(folder.path(), image).await;
        let config = &config["config"];
        assert_eq!(config["User"], format!("{user}:{user}"), "{image}");
        assert_eq!(config["Entrypoint"], entrypoint, "{image}");
        // Pods name programs without their folder.
        assert_eq!(config["Env"], json!(["PATH=/usr/bin:/usr/sbin"]), "{image}");
        assert_eq!(config["Labels"]["org.opencontainers.image.version"], "1.2.3", "{image}");
        let mut all = BTreeSet::new();
        files(&rootfs, "", &mut all);
        for program in programs {
            assert!(all.remove(&format!("/usr/bin/{program}")), "{image}: {program}");
        }
        assert_eq!(all.remove("/usr/sbin/nft"), image == "redirect");
        // What is left are libraries.
        for file in all {
            let name = file.rsplit('/').next().expect("a name");
            assert!(file.starts_with("/lib") || file.starts_with("/usr/lib"), "{image}: {file}");
            assert!(name.starts_with("lib") || name.starts_with("ld-"), "{image}: {file}");
        }
    }
}

#[tokio::test]
async fn the_same_programs_give_the_same_archives() {
    let (one, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    archives(one.path()).await;
    archives(other.path()).await;
    for image in IMAGES {
        let [one, other] = [&one, &other].map(|folder| std::fs::read(archive(folder.path(), image)));
        assert!(one.expect("an archive") == other.expect("an archive"), "{image}");
    }
    let mut command = Command::new("tar");
    command.arg("--numeric-owner").arg("-tvf").arg(archive(one.path(), "sidecar")).env("TZ", "UTC");
    let list = String::from_utf8(run(command).await.stdout).expect("text");
    assert!(list.lines().count() > 5, "{list}");
    for line in list.lines() {
        assert!(line.contains(" 0/0 ") && line.contains(" 2023-11-14 22:13"), "{line}");
    }
}

/// A program of an image, with the image as all that there is.
fn contained(image: &Image, user: &str, words: &[&str]) -> Command {
    let mut command = Command::new("chroot");
    command.arg(format!("--userspec={user}")).arg(&image.rootfs).args(words).env_clear();
    command.env("PATH", "/usr/bin:/usr/sbin");
    command
}

#[tokio::test]
async fn programs_start_from_their_image_alone() {
    // SAFETY: geteuid has no preconditions and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return signet_tests::leave_out("chroot needs root");
    }
    let folder = tempfile::Builder::new().prefix("sgt").tempdir().expect("a folder");
    archives(folder.path()).await;
    let mut images = BTreeMap::new();
    for image in IMAGES {
        images.insert(image, loaded(folder.path(), image).await);
    }
    let told = async |image: &str, user: &str, words: &[&str]| {
        let done = run(contained(&images[image], user, words)).await;
        assert!(done.status.success(), "{image} {words:?}: {}", said(&done));
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    for (image, user, program) in [
        ("sidecar", "2102:2102", "signet-sidecar"),
        ("redirect", "0:0", "signet-sidecar"),
        ("redirect", "0:0", "signet-cni"),
        ("control-plane", "2100:2100", "signet-control-plane"),
        ("control-plane", "2100:2100", "signet"),
    ] {
        assert!(told(image, user, &[program, "--version"]).await.contains(program), "{image}");
    }
    assert!(told("redirect", "0:0", &["nft", "--version"]).await.contains("nftables"));

    // As the chart's init container: the Secret is root's and its group's, and what comes of it ours alone.
    let plane = &images["control-plane"].rootfs;
    let (secret, keys) = (plane.join("secret"), plane.join("keys"));
    for place in [&secret, &keys] {
        std::fs::create_dir(place).expect("a volume");
    }
    std::fs::write(secret.join("seal.key"), [7; 32]).expect("a key");
    for (place, owner) in [(&keys, 2100), (&secret, 0)] {
        std::os::unix::fs::chown(place, Some(owner), Some(2100)).expect("a volume's owner");
    }
    let words = ["signet-control-plane", "--place-key=/secret/seal.key=/keys/seal.key"];
    told("control-plane", "2100:2100", &words).await;
    let placed = std::fs::metadata(keys.join("seal.key")).expect("the key");
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!((placed.uid(), placed.mode() & 0o7777, placed.len()), (2100, 0o600, 32));
    for (words, why) in [
        (["signet-control-plane", "--place-key=/secret/none=/keys/x"], "/secret/none"),
        (["signet-control-plane", "--place-key=/secret/seal.key"], "expected FROM=TO"),
    ] {
        let done = run(contained(&images["control-plane"], "2100:2100", &words)).await;
        assert!(!done.status.success() && said(&done).contains(why), "{}", said(&done));
    }
}
