//! Roots that are kept elsewhere: signed by a real openssl, given in a folder, swapped and half written.

use std::path::PathBuf;
use std::process::Command;

use signet_ca::{Clock, Kind, Look, Phase, RootSource, SlotStatus};

use crate::*;

/// An authority on somebody else's machine: openssl in a folder.
struct Offline {
    dir: TempDir,
}

fn openssl(arguments: &[&str], dir: &Path) {
    // Its dates follow the clock of the test.
    let date = Command::new("openssl").args(arguments).current_dir(dir).output().unwrap();
    assert!(date.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&date.stderr));
}

/// Days until the end, counted from the real clock, which openssl goes by.
const YEARS: &str = "3650";

const SIGNER: &str = "basicConstraints=critical,CA:true,pathlen:1\nkeyUsage=critical,keyCertSign,cRLSign\n\
                      subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\nsubjectAltName=URI:spiffe://demo.signet\n";

impl Offline {
    fn new() -> Offline {
        Self::with("basicConstraints=critical,CA:true", "keyUsage=critical,keyCertSign,cRLSign", "-sha256")
    }

    fn with(basic: &str, usage: &str, digest: &str) -> Offline {
        let offline = Offline { dir: tempfile::tempdir().unwrap() };
        let (basic, usage) = (basic.to_owned(), usage.to_owned());
        openssl(
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                digest,
                "-keyout",
                "root.key",
                "-out",
                "root.pem",
                "-days",
                YEARS,
                "-subj",
                "/CN=Example offline root",
                "-addext",
                &basic,
                "-addext",
                &usage,
            ],
            offline.path(),
        );
        offline
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn root(&self) -> String {
        std::fs::read_to_string(self.path().join("root.pem")).unwrap()
    }

    /// The signed certificate alone.
    fn sign_as(&self, request: &str, extensions: &str, more: &[&str]) -> String {
        std::fs::write(self.path().join("request.pem"), request).unwrap();
        std::fs::write(self.path().join("extensions"), extensions).unwrap();
        let mut arguments = vec![
            "x509",
            "-req",
            "-in",
            "request.pem",
            "-CA",
            "root.pem",
            "-CAkey",
            "root.key",
            "-CAcreateserial",
            "-extfile",
            "extensions",
            "-out",
            "signed.pem",
        ];
        arguments.extend(if more.contains(&"-days") { &[][..] } else { &["-days", "365"] });
        arguments.extend(more);
        openssl(&arguments, self.path());
        std::fs::read_to_string(self.path().join("signed.pem")).unwrap()
    }

    /// What is to be imported.
    fn sign(&self, request: &str) -> String {
        self.sign_as(request, SIGNER, &[]) + &self.root()
    }
}

fn real_now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// A mesh whose clock begins at the real time, since openssl's does.
async fn mesh_under(source: RootSource) -> Mesh {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock(AtomicI64::new(real_now() + 120)));
    let mut config = config(dir.path());
    quick(&mut config);
    config.root = source;
    let authority = Authority::open(config, clock.clone()).await.unwrap();
    Mesh { authority, clock, dir }
}

fn quick(config: &mut AuthorityConfig) {
    config.rotation.consumers_wait = Duration::from_secs(100);
    config.rotation.ack_deadline = Duration::from_secs(1_000);
}

async fn external() -> Mesh {
    mesh_under(RootSource::External).await
}

async fn import(mesh: &Mesh, pem: &str) -> Result<signet_ca::Imported, AuthorityError> {
    mesh.authority.import_root(pem.as_bytes().to_vec(), "uid:0").await
}

async fn request(mesh: &Mesh) -> String {
    mesh.authority.root_request("uid:0").await.unwrap().pem
}

async fn roots(mesh: &Mesh) -> Vec<SlotStatus> {
    let all = mesh.authority.authorities().await.unwrap();
    all.into_iter().filter(|slot| slot.kind == Kind::Root).collect()
}

async fn root_in(mesh: &Mesh, phase: Phase) -> Option<SlotStatus> {
    roots(mesh).await.into_iter().find(|slot| slot.phase == phase)
}

/// openssl's word on a chain that was issued, and on the root alone.
fn openssl_believes(issued: &Issued, root: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let at = (issued.not_after - 60).to_string();
    let pem = |der: &[u8]| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    // openssl wants lines of at most 64 characters.
    let pem = |der: &[u8]| {
        let text = pem(der);
        let mut lines = text.lines();
        let (begin, body, end) = (lines.next().unwrap(), lines.next().unwrap(), lines.next().unwrap());
        let body: Vec<&str> =
            body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("{begin}\n{}\n{end}\n", body.join("\n"))
    };
    std::fs::write(dir.path().join("leaf.pem"), pem(&issued.chain[0])).unwrap();
    let between: String = issued.chain[1..].iter().map(|der| pem(der)).collect();
    std::fs::write(dir.path().join("between.pem"), between).unwrap();
    std::fs::write(dir.path().join("root.pem"), root).unwrap();
    Command::new("openssl")
        .args([
            "verify",
            "-attime",
            &at,
            "-x509_strict",
            "-CAfile",
            "root.pem",
            "-untrusted",
            "between.pem",
            "leaf.pem",
        ])
        .current_dir(dir.path())
        .output()
        .unwrap()
        .status
        .success()
}

#[tokio::test]
async fn a_mesh_without_a_root_waits_for_one_and_issues_once_it_is_imported_without_a_restart() {
    let (mesh, offline) = (external().await, Offline::new());
    assert!(!mesh.authority.has_root());
    let error = mesh.authority.self_issue(Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains("no active root"), "{error}");
    let request = request(&mesh).await;
    assert_eq!(request, self::request(&mesh).await, "the same request until it is answered");
    let waiting = async { mesh.authority.rooted().await };
    let signed = offline.sign(&request);
    let imported = tokio::join!(waiting, import(&mesh, &signed)).1.unwrap();
    assert!(mesh.authority.has_root());
    assert_eq!((imported.phase, imported.warnings.as_slice()), (Phase::Active, &[][..]));
    assert_eq!(mesh.authority.root_sha256().to_string(), imported.root_sha256);
    // Leaf, issuer, and what the root signed: the root itself does not travel.
    let web = mesh.join("web").await;
    assert_eq!(web.chain.len(), 3);
    assert!(openssl_believes(&web, &offline.root()));
    assert!(!openssl_believes(&web, &Offline::new().root()));
    let log = mesh.authority.records(50).await.unwrap();
    assert!(log.iter().any(|record| record.event.as_str() == "root-imported"));
    assert!(!log.iter().any(|record| record.event.as_str() == "root-made"), "none was made here");

    // And it is the same after a restart.
    let mesh = mesh.reopen_with(|config| config.root = RootSource::External).await.unwrap();
    assert!(openssl_believes(&mesh.join("orders").await, &offline.root()));
}

#[tokio::test]
async fn a_mesh_that_waits_for_its_root_goes_on_waiting_for_the_same_signature_after_a_restart() {
    let (mesh, offline) = (external().await, Offline::new());
    let asked = request(&mesh).await;
    let mesh = mesh.reopen_with(|config| config.root = RootSource::External).await.unwrap();
    assert!(!mesh.authority.has_root());
    assert_eq!(request(&mesh).await, asked);
    import(&mesh, &offline.sign(&asked)).await.unwrap();
    assert!(mesh.authority.has_root());
}

#[tokio::test]
async fn a_new_external_root_is_acknowledged_by_the_fleet_before_it_signs() {
    let (mesh, old, new) = (external().await, Offline::new(), Offline::new());
    import(&mesh, &old.sign(&request(&mesh).await)).await.unwrap();
    let web = mesh.join("web").await;
    acknowledge(&mesh, &web).await;
    let imported = import(&mesh, &new.sign(&request(&mesh).await)).await.unwrap();
    assert_eq!(imported.phase, Phase::Published);
    assert_eq!(mesh.authority.trust_bundle().unwrap().roots().count(), 2);
    mesh.clock.pass(101);
    mesh.authority.maintain().await.unwrap();
    assert!(root_in(&mesh, Phase::Published).await.is_some(), "web has not heard of it");
    acknowledge(&mesh, &web).await;
    assert_eq!(root_in(&mesh, Phase::Active).await.unwrap().id, imported.id);
    assert!(root_in(&mesh, Phase::Draining).await.is_some());
    let renewed = mesh.renew(&web, &key()).await.unwrap();
    assert!(openssl_believes(&renewed, &new.root()) && openssl_believes(&web, &old.root()));
    // When nothing under the old one can be valid any more, it leaves, and its key with it.
    mesh.clock.pass(2 * HOUR);
    acknowledge(&mesh, &renewed).await;
    mesh.authority.maintain().await.unwrap();
    mesh.authority.maintain().await.unwrap();
    assert!(root_in(&mesh, Phase::Removed).await.is_some(), "{:?}", roots(&mesh).await);
    assert_eq!(mesh.authority.trust_bundle().unwrap().roots().count(), 1);
}

async fn acknowledge(mesh: &Mesh, issued: &Issued) {
    let sequence = mesh.authority.bundle_sequence();
    let word = signet_ca::Acknowledged { serial: issued.serial.as_bytes().to_vec(), sequence };
    mesh.authority.heard_of(vec![word], Vec::new()).await.unwrap();
}

#[tokio::test]
async fn a_new_key_under_the_same_root_takes_over_and_a_tainted_one_leaves_without_its_root() {
    let (mesh, offline) = (external().await, Offline::new());
    let first = import(&mesh, &offline.sign(&request(&mesh).await)).await.unwrap();
    let web = mesh.join("web").await;
    acknowledge(&mesh, &web).await;
    mesh.authority.taint(&first.id, "uid:0").await.unwrap();
    let told = mesh.authority.published().borrow().clone();
    assert_eq!(told.tainted, [signet_identity::Svid::parse(&web.chain).unwrap().issuers[1].key]);
    assert_ne!(told.tainted, [mesh.authority.root_sha256()], "the root is as good as before");
    let second = import(&mesh, &offline.sign(&request(&mesh).await)).await.unwrap();
    assert_eq!(second.root_sha256, first.root_sha256);
    acknowledge(&mesh, &web).await;
    assert_eq!(root_in(&mesh, Phase::Active).await.unwrap().id, second.id);
    let renewed = mesh.renew(&web, &key()).await.unwrap();
    assert!(openssl_believes(&renewed, &offline.root()));
    assert!(!mesh.authority.published().borrow().tainted.is_empty());
    mesh.clock.pass(1_001);
    acknowledge(&mesh, &renewed).await;
    mesh.authority.maintain().await.unwrap();
    mesh.authority.maintain().await.unwrap();
    let removed = root_in(&mesh, Phase::Removed).await.unwrap();
    assert_eq!(removed.id, first.id);
    let serial = signet_identity::Svid::parse(&web.chain).unwrap().issuers[1].serial;
    let revoked = mesh.authority.revocations().borrow().clone();
    assert!(format!("{revoked:?}").contains(&serial.to_string()), "{revoked:?}");
    assert_eq!(mesh.authority.trust_bundle().unwrap().roots().count(), 1, "the root stays");
    assert!(mesh.authority.published().borrow().tainted.is_empty());
}

#[tokio::test]
async fn what_is_not_as_asked_is_refused_with_what_was_expected_and_what_came() {
    let (mesh, offline) = (external().await, Offline::new());
    let asked = request(&mesh).await;
    let key = |offline: &Offline| std::fs::read_to_string(offline.path().join("root.key")).unwrap();
    let signed =
        |extensions: &str, more: &[&str]| offline.sign_as(&asked, extensions, more) + &offline.root();
    let good = offline.sign_as(&asked, SIGNER, &[]);
    let own = tempfile::tempdir().unwrap();
    openssl(
        &[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            "k",
            "-out",
            "r",
            "-subj",
            "/CN=x",
        ],
        own.path(),
    );
    let foreign = std::fs::read_to_string(own.path().join("r")).unwrap();
    let no_ca = Offline::with(
        "basicConstraints=critical,CA:true,pathlen:1",
        "keyUsage=critical,keyCertSign,cRLSign",
        "-sha256",
    );
    let no_usage =
        Offline::with("basicConstraints=critical,CA:true", "keyUsage=critical,digitalSignature", "-sha256");
    let sha1 =
        Offline::with("basicConstraints=critical,CA:true", "keyUsage=critical,keyCertSign,cRLSign", "-sha1");
    let namesake = Offline::new();
    for (what, pem, expected) in [
        ("nothing", String::new(), "found 0"),
        ("the certificate alone", good.clone(), "found 1"),
        ("a chain of three", good.clone() + &offline.root() + &offline.root(), "found 3"),
        ("no PEM", "-----BEGIN CERTIFICATE-----\n%%\n-----END CERTIFICATE-----\n".into(), "PEM text"),
        ("a private key", good.clone() + &key(&offline), "private key"),
        ("too much", "x".repeat(70_000), "70000"),
        ("a key of somebody else", offline.sign(&foreign), "no certificate is of a key that was asked for"),
        (
            "no authority",
            signed(
                &SIGNER
                    .replace("CA:true,pathlen:1", "CA:false")
                    .replace("keyCertSign,cRLSign", "digitalSignature"),
                &[],
            ),
            "expected basicConstraints with CA:TRUE",
        ),
        (
            "no room below",
            signed(&SIGNER.replace("pathlen:1", "pathlen:0"), &[]),
            "pathlen:0, but 1 authorities come below",
        ),
        ("no room below the root", no_ca.sign(&asked), "the root's certificate has pathlen:1, but 2"),
        (
            "no key usage",
            signed(&SIGNER.replace("keyCertSign,cRLSign", "keyCertSign"), &[]),
            "expected keyCertSign and cRLSign",
        ),
        ("a root for other things", no_usage.sign(&asked), "the root's certificate has key usage"),
        (
            "no key identifier",
            signed(&SIGNER.replace("subjectKeyIdentifier=hash", "subjectKeyIdentifier=none"), &[]),
            "no subjectKeyIdentifier",
        ),
        (
            "name constraints",
            signed(&format!("{SIGNER}nameConstraints=permitted;URI:demo.signet\n"), &[]),
            "name constraints",
        ),
        ("usages", signed(&format!("{SIGNER}extendedKeyUsage=codeSigning\n"), &[]), "extendedKeyUsage"),
        (
            "another trust domain",
            signed(&SIGNER.replace("demo.signet", "other.example"), &[]),
            "expected URI:spiffe://demo.signet",
        ),
        (
            "a path",
            signed(&SIGNER.replace("demo.signet", "demo.signet/ns/a"), &[]),
            "names spiffe://demo.signet/ns/a",
        ),
        ("SHA-1", signed(SIGNER, &["-sha1"]), "SHA-1 and ECDSA"),
        ("a root of SHA-1", sha1.sign(&asked), "the root's certificate is signed with SHA-1"),
        ("longer than its root", signed(SIGNER, &["-days", "3651"]), "after its root"),
        ("no time left", signed(SIGNER, &["-days", "0"]), "now is"),
        (
            "another root of that name",
            good.clone() + &namesake.root(),
            "does not verify under the root's key",
        ),
        ("the signed one twice", good.clone() + &good, "but 2 authorities come below it"),
    ] {
        let error = import(&mesh, &pem).await.err().unwrap_or_else(|| panic!("{what} was taken"));
        assert!(matches!(error, AuthorityError::External(_)), "{what}: {error}");
        assert!(error.to_string().contains(expected), "{what}: {error}");
        assert!(!mesh.authority.has_root());
    }
    // The order does not matter, and a name that is missing is only said.
    let nameless =
        offline.sign_as(&asked, &SIGNER.replace("subjectAltName=URI:spiffe://demo.signet\n", ""), &[]);
    let imported = import(&mesh, &(offline.root() + &nameless)).await.unwrap();
    assert!(imported.warnings[0].contains("URI:spiffe://demo.signet"), "{:?}", imported.warnings);
    let error = import(&mesh, &offline.sign(&asked)).await.unwrap_err();
    assert!(error.to_string().contains("active already"), "{error}");
}

#[tokio::test]
async fn one_that_begins_tomorrow_or_ended_yesterday_is_refused() {
    let (mesh, offline) = (external().await, Offline::new());
    let signed = offline.sign(&request(&mesh).await);
    let now = mesh.clock.unix_seconds();
    mesh.clock.set(now - DAY);
    let error = import(&mesh, &signed).await.unwrap_err();
    assert!(error.to_string().contains("begins at"), "{error}");
    mesh.clock.set(now + 366 * DAY);
    let error = import(&mesh, &signed).await.unwrap_err();
    assert!(error.to_string().contains("the signed certificate ended at"), "{error}");
    mesh.clock.set(now + 365 * DAY - 2 * HOUR);
    let error = import(&mesh, &signed).await.unwrap_err();
    assert!(error.to_string().contains("three times the life of a SVID"), "{error}");
}

#[tokio::test]
async fn nothing_is_issued_past_an_external_parent_and_a_reminder_comes_before() {
    let (mesh, offline) = (external().await, Offline::new());
    let registry = prometheus::Registry::new();
    mesh.authority.register_metrics(&registry).unwrap();
    let due = || {
        let family =
            registry.gather().into_iter().find(|f| f.name().starts_with("signet_ca_external_root_due"));
        family.unwrap().get_metric()[0].get_gauge().get_value() as i64
    };
    assert_eq!(due(), mesh.clock.unix_seconds(), "it is needed now");
    let signed = offline.sign_as(&request(&mesh).await, SIGNER, &["-days", "30"]) + &offline.root();
    let end = import(&mesh, &signed).await.unwrap().not_after;
    mesh.authority.maintain().await.unwrap();
    assert!(due() > mesh.clock.unix_seconds() && due() < end, "{}", due());
    // The request for a successor is made by itself, and the present one goes on to its end.
    let begun = mesh.clock.unix_seconds();
    mesh.clock.set(end - 12 * DAY);
    mesh.authority.maintain().await.unwrap();
    assert!(root_in(&mesh, Phase::Requested).await.is_some());
    mesh.clock.set(end - 2000);
    mesh.authority.maintain().await.unwrap();
    let issued = mesh.join("late").await;
    assert!(issued.not_after <= end, "{} is after {end}", issued.not_after);
    mesh.clock.set(end + 1);
    let token = mesh.token("never").await;
    let error = mesh.attest(&token, &csr(&key())).await.unwrap_err();
    assert!(error.to_string().contains("the root ended"), "{error}");
    assert!(begun < end);
}

#[tokio::test]
async fn a_mesh_with_a_root_of_its_own_goes_under_an_external_one_by_rotation() {
    let offline = Offline::new();
    let mesh = mesh_under(RootSource::Own).await;
    let error = mesh.authority.root_request("uid:0").await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::RootNotExternal));
    let error = import(&mesh, "").await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::RootNotExternal));
    let web = mesh.join("web").await;
    let external = |config: &mut AuthorityConfig| {
        quick(config);
        config.root = RootSource::External;
    };
    let mesh = mesh.reopen_with(external).await.unwrap();
    acknowledge(&mesh, &web).await;
    let imported = import(&mesh, &offline.sign(&request(&mesh).await)).await.unwrap();
    assert_eq!(imported.phase, Phase::Published);
    mesh.clock.pass(101);
    acknowledge(&mesh, &web).await;
    assert_eq!(root_in(&mesh, Phase::Active).await.unwrap().id, imported.id);
    assert!(openssl_believes(&mesh.renew(&web, &key()).await.unwrap(), &offline.root()));
}

#[tokio::test]
async fn a_request_that_nobody_will_answer_goes_when_the_root_is_made_here_again() {
    let mesh = mesh_under(RootSource::Own).await;
    let external = |config: &mut AuthorityConfig| config.root = RootSource::External;
    let mesh = mesh.reopen_with(external).await.unwrap();
    request(&mesh).await;
    assert!(root_in(&mesh, Phase::Requested).await.is_some());
    let mesh = mesh.reopen().await;
    // On PostgreSQL the lead of the one before may be free a moment later.
    let gone = async {
        while root_in(&mesh, Phase::Requested).await.is_some() {
            mesh.authority.maintain().await.unwrap();
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), gone).await.unwrap();
    let new = mesh.authority.rotate(Kind::Root, "uid:0").await.unwrap();
    assert!(root_in(&mesh, Phase::Published).await.is_some_and(|root| root.id == new));
}

/// A folder as Kubernetes mounts a Secret: files are links through `..data`, which is swapped as a whole.
struct Mounted {
    dir: TempDir,
    versions: std::cell::Cell<u32>,
}

impl Mounted {
    fn empty() -> Mounted {
        Mounted { dir: tempfile::tempdir().unwrap(), versions: std::cell::Cell::new(0) }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().to_path_buf()
    }

    fn swap(&self, files: &[(&str, &str)]) {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let version = format!("..2026_{}", self.versions.replace(self.versions.get() + 1));
        let folder = self.dir.path().join(&version);
        std::fs::create_dir(&folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
            std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o440)).unwrap();
            let link = self.dir.path().join(name);
            if !link.is_symlink() {
                symlink(Path::new("..data").join(name), link).unwrap();
            }
        }
        let new = self.dir.path().join("..data_tmp");
        symlink(&version, &new).unwrap();
        std::fs::rename(&new, self.dir.path().join("..data")).unwrap();
    }

    /// Certificate and key of one, as cert-manager lays them down for a self-signed authority.
    fn put(&self, pair: &Offline) {
        self.swap(&[("tls.crt", &pair.root()), ("tls.key", &pair.key()), ("ca.crt", &pair.root())]);
    }
}

impl Offline {
    fn key(&self) -> String {
        std::fs::read_to_string(self.path().join("root.key")).unwrap()
    }
}

async fn look(mesh: &Mesh) -> Look {
    mesh.authority.look_at_root().await.unwrap()
}

#[tokio::test]
async fn a_root_in_a_folder_is_taken_at_the_start_and_a_new_one_by_the_acknowledged_path() {
    let (mounted, first, second) = (Mounted::empty(), Offline::new(), Offline::new());
    mounted.put(&first);
    let mesh = mesh_under(RootSource::Folder(mounted.path())).await;
    let web = mesh.join("web").await;
    acknowledge(&mesh, &web).await;
    assert!(openssl_believes(&web, &first.root()));
    assert_eq!(look(&mesh).await, Look::AsBefore);
    let error = mesh.authority.rotate(Kind::Root, "uid:0").await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::RootInFolder));

    // No event tells of it: it is what lies there that counts.
    mounted.put(&second);
    let Look::New { id } = look(&mesh).await else { panic!("not seen") };
    assert_eq!(root_in(&mesh, Phase::Published).await.unwrap().id, id);
    assert!(openssl_believes(&mesh.join("orders").await, &first.root()), "the first one signs on");
    assert_eq!(look(&mesh).await, Look::AsBefore);
    mesh.clock.pass(1_101);
    mesh.authority.maintain().await.unwrap();
    assert_eq!(root_in(&mesh, Phase::Active).await.unwrap().id, id);
    assert!(openssl_believes(&mesh.join("late").await, &second.root()));
    // What was replaced does not come back by being put there again.
    mounted.put(&first);
    let Look::Refused(why) = look(&mesh).await else { panic!("taken") };
    assert!(why.contains("does not come back"), "{why}");
}

#[tokio::test]
async fn a_change_that_nobody_saw_is_found_at_the_next_start() {
    let (mounted, first, second) = (Mounted::empty(), Offline::new(), Offline::new());
    mounted.put(&first);
    let mesh = mesh_under(RootSource::Folder(mounted.path())).await;
    mounted.put(&second);
    let folder = mounted.path();
    let mesh = mesh.reopen_with(move |config| config.root = RootSource::Folder(folder)).await.unwrap();
    assert!(root_in(&mesh, Phase::Published).await.is_some(), "{:?}", roots(&mesh).await);
    assert!(openssl_believes(&mesh.join("web").await, &first.root()));
}

#[tokio::test]
async fn a_half_written_or_mismatched_pair_changes_nothing_and_is_said() {
    let (mounted, first, second) = (Mounted::empty(), Offline::new(), Offline::new());
    mounted.put(&first);
    let mesh = mesh_under(RootSource::Folder(mounted.path())).await;
    let registry = prometheus::Registry::new();
    mesh.authority.register_metrics(&registry).unwrap();
    let good = || {
        let family = registry.gather().into_iter().find(|f| f.name() == "signet_ca_root_folder_good");
        family.unwrap().get_metric()[0].get_gauge().get_value() as i64
    };
    let before = mesh.authority.authorities().await.unwrap();
    let (root, key) = (second.root(), second.key());
    let cut = &key[..key.len() / 2];
    let sec1 = key.replace("BEGIN PRIVATE", "BEGIN EC PRIVATE").replace("END PRIVATE", "END EC PRIVATE");
    for (what, files, expected) in [
        (
            "the key of another",
            [("tls.crt", root.as_str()), ("tls.key", &first.key()), ("ca.crt", &root)],
            "tls.key is not the key",
        ),
        (
            "the root of another",
            [("tls.crt", &root), ("tls.key", &key), ("ca.crt", &first.root())],
            "does not verify under the root",
        ),
        (
            "half a key",
            [("tls.crt", &root), ("tls.key", cut), ("ca.crt", &root)],
            "expected one private key as PKCS #8",
        ),
        (
            "half a certificate",
            [("tls.crt", &root[..200]), ("tls.key", &key), ("ca.crt", &root)],
            "tls.crt: ",
        ),
        ("an empty file", [("tls.crt", ""), ("tls.key", &key), ("ca.crt", &root)], "found 0"),
        (
            "a key of the old form",
            [("tls.crt", &root), ("tls.key", &sec1), ("ca.crt", &root)],
            "encoding: PKCS8",
        ),
        (
            "two roots",
            [("tls.crt", &root), ("tls.key", &key), ("ca.crt", &(first.root() + &root))],
            "found 2 certificates",
        ),
    ] {
        mounted.swap(&files);
        let Look::Refused(why) = look(&mesh).await else { panic!("{what} was taken") };
        assert!(why.contains(expected), "{what}: {why}");
        assert!(!why.contains("BEGIN EC") && !why.contains(&key[40..80]), "{what}: {why}");
        assert_eq!(good(), 0, "{what}");
        mesh.authority.maintain().await.unwrap();
        assert_eq!(mesh.authority.authorities().await.unwrap(), before, "{what}");
    }
    std::fs::remove_file(mounted.path().join("..data")).unwrap();
    assert!(matches!(look(&mesh).await, Look::Refused(why) if why.contains("cannot read")));
    // And the pair that was meant, once it is whole.
    mounted.put(&second);
    assert!(matches!(look(&mesh).await, Look::New { .. }));
    assert_eq!(good(), 1);
}

#[tokio::test]
async fn a_key_for_everybody_and_a_key_that_is_used_again_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let (mounted, first) = (Mounted::empty(), Offline::new());
    mounted.put(&first);
    let mesh = mesh_under(RootSource::Folder(mounted.path())).await;
    // Certified anew, with the key that it had.
    openssl(
        &["req", "-x509", "-key", "root.key", "-out", "root.pem", "-days", "99", "-subj", "/CN=Again"],
        first.path(),
    );
    let usage = "keyUsage=critical,keyCertSign,cRLSign";
    openssl(
        &[
            "req",
            "-x509",
            "-key",
            "root.key",
            "-out",
            "root.pem",
            "-days",
            "99",
            "-subj",
            "/CN=Again",
            "-addext",
            usage,
        ],
        first.path(),
    );
    mounted.put(&first);
    let Look::Refused(why) = look(&mesh).await else { panic!("taken") };
    assert!(why.contains("rotationPolicy: Always"), "{why}");
    let key = mounted.path().join("tls.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o444)).unwrap();
    let Look::Refused(why) = look(&mesh).await else { panic!("taken") };
    assert!(why.contains("0444") && why.contains("chmod o="), "{why}");
}

#[tokio::test]
async fn a_pair_under_another_root_signs_and_that_root_is_what_verifiers_hold() {
    let (mounted, offline) = (Mounted::empty(), Offline::new());
    let below = offline.path();
    openssl(
        &[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-384",
            "-nodes",
            "-keyout",
            "below.key",
            "-out",
            "below.csr",
            "-subj",
            "/CN=Mesh",
        ],
        below,
    );
    let request = std::fs::read_to_string(below.join("below.csr")).unwrap();
    let signed = offline.sign_as(&request, SIGNER, &[]);
    let key = std::fs::read_to_string(below.join("below.key")).unwrap();
    mounted.swap(&[("tls.crt", &signed), ("tls.key", &key), ("ca.crt", &offline.root())]);
    let mesh = mesh_under(RootSource::Folder(mounted.path())).await;
    let web = mesh.join("web").await;
    assert_eq!(web.chain.len(), 3);
    assert!(openssl_believes(&web, &offline.root()));
    assert_eq!(mesh.authority.trust_bundle().unwrap().roots().count(), 1);
}

#[tokio::test]
async fn an_empty_folder_is_waited_for_and_a_newer_pair_takes_the_place_of_one_that_never_signed() {
    let mounted = Mounted::empty();
    let mesh = mesh_under(RootSource::Folder(mounted.path())).await;
    assert!(!mesh.authority.has_root());
    let (first, second, third) = (Offline::new(), Offline::new(), Offline::new());
    mounted.put(&first);
    assert!(matches!(look(&mesh).await, Look::New { .. }));
    assert!(mesh.authority.has_root(), "without a restart");
    let web = mesh.join("web").await;
    acknowledge(&mesh, &web).await;
    mounted.put(&second);
    let Look::New { id: passed } = look(&mesh).await else { panic!("not seen") };
    mounted.put(&third);
    let Look::New { id } = look(&mesh).await else { panic!("not seen") };
    let all = roots(&mesh).await;
    let phase = |id: &str| all.iter().find(|slot| slot.id == id).unwrap().phase;
    assert_eq!((phase(&passed), phase(&id)), (Phase::Removed, Phase::Published));
    assert!(openssl_believes(&mesh.renew(&web, &key()).await.unwrap(), &first.root()));
}
