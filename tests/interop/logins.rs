//! People log in with a real OpenID provider, and operate the mesh by the command line.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::Value;
use signet_tests::apps::Echo;
use signet_tests::client::text;
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::peers::{run, said};
use signet_tests::process::{PATIENCE, Process, binary, until};
use signet_tests::provider::{Browser, Provider};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A mesh with one service, and a provider whose people have roles in it.
struct Scene {
    mesh: Mesh,
    inbound: String,
    // Ends after the mesh.
    _provider: Provider,
}

/// One person's machine.
struct Machine {
    home: PathBuf,
    config: PathBuf,
}

impl Scene {
    async fn start() -> Option<Self> {
        let provider = Provider::start()?;
        let app = Echo::start().await;
        let inbound = free_address();
        let mesh = Mesh::builder()
            .registry(service("server", "shop", "http", "http", &inbound))
            .registry(permit("in", "shop", "server", "ns/shop/sa/client", ""))
            .control_plane(&format!(
                "operators:\n  oidc: [{{name: corp, issuer: '{}', clientId: signet, algorithms: [ES256], \
                 groupsClaim: groups, scopes: [email, profile, groups]}}]\n  roles:\n    \
                 - {{role: security-admin, groups: ['corp|mesh-admins']}}\n    - {{role: viewer, users: ['corp|vera@example.com']}}\n  \
                 secondPerson: [ca-revoke]\n",
                provider.url()
            ))
            .sidecar(Sidecar::new(
                "server.shop",
                format!("inbound: [{{service: server.shop, port: http, listen: '{inbound}', app: 'tcp:{}'}}]\n", app.address),
            ))
            .start()
            .await;
        let told =
            run(signet(&mesh, &["--socket", "op.sock", "login-settings", "--out", "config.yaml"])).await;
        assert!(told.status.success(), "{}", said(&told));
        Some(Self { mesh, inbound, _provider: provider })
    }

    fn machine(&self, person: &str) -> Machine {
        let home = self.mesh.path(&format!("home-{person}"));
        Machine { home, config: self.mesh.path("config.yaml") }
    }
}

/// The command line in the mesh's folder.
fn signet(mesh: &Mesh, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("signet"));
    command.args(arguments).current_dir(mesh.path("")).env("XDG_CONFIG_HOME", mesh.path("no-home"));
    command
}

impl Machine {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("signet"));
        command.arg("--config").arg(&self.config).args(arguments).env("XDG_CONFIG_HOME", &self.home);
        command
    }

    async fn signet(&self, arguments: &[&str]) -> Output {
        run(self.command(arguments)).await
    }

    async fn good(&self, arguments: &[&str]) -> String {
        let output = self.signet(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The words of a failure.
    async fn bad(&self, arguments: &[&str]) -> String {
        let output = self.signet(arguments).await;
        assert!(!output.status.success(), "{arguments:?}: {}", said(&output));
        said(&output)
    }

    /// Logs in as this person, who follows the address that the terminal shows at `nth` place.
    async fn log_in(&self, mesh: &Mesh, person: &'static str, flags: &[&str], wanted: &str) -> Process {
        let mut login = vec!["login"];
        login.extend(flags);
        let name = format!("login-{person}");
        let mut process = Process::start(&name, self.command(&login), &mesh.path(""));
        let url = until("an address to log in at", || {
            let log = process.log();
            if let Some(status) = process.ended() {
                panic!("the login ended with {status}: {log}");
            }
            let mut lines = log.lines().map(str::trim);
            lines.find(|line| line.starts_with("http://") && line.contains(wanted)).map(str::to_owned)
        })
        .await;
        let page = Browser::of(person).open(&url).await;
        assert_eq!(page.status(), 200, "{}", text(&page));
        process
    }

    fn session(&self) -> Value {
        let text = std::fs::read(self.home.join("signet/session.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

async fn ends_well(mut process: Process) {
    let status = process.wait().await;
    assert!(status.success(), "{}", process.log());
}

#[tokio::test]
async fn people_log_in_by_browser_and_by_device_and_are_known_by_name() {
    let Some(mut scene) = Scene::start().await else { return };
    let machine = scene.machine("ada");
    let refused = machine.bad(&["whoami"]).await;
    assert!(refused.contains("not logged in") && refused.contains("signet login"), "{refused}");

    ends_well(machine.log_in(&scene.mesh, "ada", &["--no-browser"], "code_challenge_method=S256").await)
        .await;
    let me: Value = serde_json::from_str(&machine.good(&["--json", "whoami"]).await).unwrap();
    assert_eq!((&me["actor"], &me["role"]), (&"oidc:corp|ada".into(), &"security-admin".into()));
    assert_eq!((&me["name"], &me["username"]), (&"ada of the test".into(), &"ada@example.com".into()));
    // Every command by login, and by the socket where it is named.
    for command in [
        &["status"][..],
        &["sidecars"],
        &["ca", "log"],
        &["ca", "verify"],
        &["ca", "status"],
        &["ca", "audit", "search"],
        &["ca", "audit", "key"],
        &["authz", "list"],
    ] {
        machine.good(command).await;
    }
    let socket = scene.mesh.path("op.sock").display().to_string();
    assert!(machine.good(&["--socket", &socket, "whoami"]).await.contains("uid:"));
    let join = scene.mesh.path("made.json");
    let join = join.to_str().unwrap();
    machine.good(&["join", "spiffe://test.signet/ns/shop/sa/server", "--out", join]).await;

    let bob = scene.machine("bob");
    ends_well(bob.log_in(&scene.mesh, "bob", &["--device"], "user_code=").await).await;
    assert!(bob.good(&["whoami"]).await.contains("oidc:corp|bob"));

    // In the record with their names, and no token anywhere in what the control plane wrote.
    let log: Value = serde_json::from_str(&machine.good(&["--json", "ca", "log"]).await).unwrap();
    let of_ada = |event: &str| {
        let records = log.as_array().unwrap().iter();
        records.filter(|it| it["event"] == event && it["actor"] == "oidc:corp|ada").count()
    };
    assert_eq!((of_ada("logged-in"), of_ada("joined"), of_ada("operator-call")), (1, 1, 1));
    let written = scene.mesh.logs();
    assert!(written.contains("signet::audit") && written.contains("oidc:corp|bob"));
    // How every JWS begins, and every join token.
    assert!(!written.contains("eyJ") && !written.contains("signet-join-"));

    machine.good(&["logout"]).await;
    assert!(machine.bad(&["status"]).await.contains("signet login"));
    // Whose session has ended is told so, and by whom nothing else can be done.
    let mut session = bob.session();
    session["notAfter"] = 5.into();
    std::fs::write(bob.home.join("signet/session.json"), session.to_string()).unwrap();
    let ended = bob.bad(&["status"]).await;
    assert!(ended.contains("your session ended at 1970") && ended.contains("run `signet login`"), "{ended}");
    scene.mesh.assert_unharmed();
}

#[tokio::test]
async fn the_control_plane_is_known_by_its_root_and_strangers_stay_outside() {
    let Some(mut scene) = Scene::start().await else { return };
    let machine = scene.machine("eve");
    let mut refused = machine.log_in(&scene.mesh, "eve", &["--no-browser"], "code_challenge").await;
    assert!(!refused.wait().await.success());
    assert!(refused.log().contains("no role names this person"), "{}", refused.log());
    assert!(!machine.home.join("signet/session.json").exists());
    // The right person, and somebody else's root.
    let other = ["--no-browser", "--root-sha256", &"ab".repeat(32)];
    let mut refused = machine.log_in(&scene.mesh, "ada", &other, "code_challenge").await;
    assert!(!refused.wait().await.success());
    assert!(refused.log().contains("connecting to the control plane"), "{}", refused.log());
    assert!(!machine.home.join("signet/session.json").exists());
    scene.mesh.assert_unharmed();
}

#[tokio::test]
async fn a_call_that_needs_two_people_is_made_by_the_one_and_approved_by_the_other() {
    let Some(mut scene) = Scene::start().await else { return };
    let (ada, bob, vera) = (scene.machine("ada"), scene.machine("bob"), scene.machine("vera"));
    for (machine, person) in [(&ada, "ada"), (&bob, "bob"), (&vera, "vera")] {
        ends_well(machine.log_in(&scene.mesh, person, &["--no-browser"], "code_challenge").await).await;
    }
    let revoke = ["ca", "revoke", "--serial", "00112233445566778899aabbccddeeff", "--reason", "host lost"];
    assert!(vera.bad(&revoke).await.contains("you are viewer"));
    let waits = ada.bad(&revoke).await;
    let id = waits.split("signet approvals approve ").nth(1).unwrap().split('`').next().unwrap().to_owned();
    let listed: Value = serde_json::from_str(&bob.good(&["--json", "approvals", "list"]).await).unwrap();
    assert_eq!((&listed[0]["id"], &listed[0]["call"]), (&id.as_str().into(), &"ca-revoke".into()));
    let digest = listed[0]["digest"].as_str().unwrap();
    let approve = ["approvals", "approve", &id, "--digest", digest];
    assert!(ada.bad(&approve).await.contains("another person"));
    assert!(vera.bad(&approve).await.contains("operator or security-admin"));
    bob.good(&approve).await;
    ada.good(&revoke).await;
    assert!(ada.bad(&revoke).await.contains("signet approvals approve"), "once");
    scene.mesh.assert_unharmed();
}

#[tokio::test]
async fn an_operators_certificate_is_refused_by_a_sidecar() {
    let Some(mut scene) = Scene::start().await else { return };
    let machine = scene.machine("ada");
    ends_well(machine.log_in(&scene.mesh, "ada", &["--no-browser"], "code_challenge").await).await;
    let session = machine.session();
    let der = |field: &str| -> Vec<CertificateDer<'static>> {
        let texts = session[field].as_array().unwrap().iter();
        texts.map(|text| STANDARD.decode(text.as_str().unwrap()).unwrap().into()).collect()
    };
    let key = PrivatePkcs8KeyDer::from(STANDARD.decode(session["key"].as_str().unwrap()).unwrap());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der("roots").remove(0)).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(signet_identity::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(der("chain"), key.into())
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let answer = ask(Arc::new(config), &scene.inbound).await;
    assert!(answer.is_err(), "{answer:?}");
    // Counted just after the alert is sent.
    let counted = async {
        while !scene.mesh.metrics("server").await.lines().any(is_refused_class) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("the refusal is counted by its reason");
    assert!(Path::new(&machine.home).join("signet").exists());
    scene.mesh.assert_unharmed();
}

fn is_refused_class(line: &str) -> bool {
    line.starts_with("signet_handshake_failures_total{") && line.contains("class") && line.ends_with(" 1")
}

async fn ask(config: Arc<rustls::ClientConfig>, address: &str) -> std::io::Result<String> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("server.shop.signet.internal").unwrap();
    let mut tls = TlsConnector::from(config).connect(name, tcp).await?;
    tls.write_all(b"GET / HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await?;
    Ok(answer)
}
