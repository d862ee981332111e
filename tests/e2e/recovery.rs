//! The runbook, `docs/recovery.md`: its commands, taken from the page and run on a mesh of real processes.

use std::collections::BTreeMap;
use std::process::Command;

use signet_proto::v1::identity_client::IdentityClient;
use signet_proto::v1::{JoinBundle, RenewRequest};
use signet_tests::apps::Echo;
use signet_tests::client::try_send;
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::peers::{run, said as said_by};
use signet_tests::postgres::Postgres;
use signet_tests::process::{binary, until};
use signet_tests::svid::{Svid, request_for};
use tonic::Code;

use crate::migrate::migrated;

const SECOND: &str = "second";
const PAGE: &str = include_str!("../../docs/recovery.md");

/// The commands of each block under a heading, in order; those under a lesser one within it are its own.
fn blocks(heading: &str) -> Vec<Vec<String>> {
    let begins = ["##", "###"].map(|level| format!("\n{level} {heading}\n"));
    let (_, section) = begins.iter().find_map(|begin| PAGE.split_once(begin.as_str())).expect("the heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let section = section.split("\n### ").next().unwrap_or_default();
    let blocks = section.split("```console\n").skip(1).filter_map(|block| block.split("```").next());
    blocks
        .map(|block| block.lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect())
        .collect()
}

struct Scene {
    mesh: Mesh,
    /// Where there is one there are two control planes.
    postgres: Option<Postgres>,
    _app: Echo,
    entry: String,
    sidecars: BTreeMap<&'static str, Sidecar>,
}

impl Scene {
    async fn start(svid_seconds: u32) -> Scene {
        Self::start_on(None, svid_seconds).await
    }

    async fn start_on(postgres: Option<Postgres>, svid_seconds: u32) -> Scene {
        let app = Echo::start().await;
        let (entry, inbound) = (free_address(), free_address());
        let orders = format!(
            "inbound: [{{service: orders.shop, port: main, listen: '{inbound}', app: 'tcp:{}'}}]\n",
            app.address
        );
        let web = format!("outbound: [{{listen: '{entry}', service: orders.shop, port: main}}]\n");
        let sidecars = || {
            BTreeMap::from([
                ("orders", Sidecar::new("orders.shop", orders.clone())),
                ("web", Sidecar::new("web.shop", web.clone())),
            ])
        };
        let mut builder = Mesh::builder()
            .svid_seconds(svid_seconds)
            .control_plane("rotation: {ackDeadlineSeconds: 5, consumersWaitSeconds: 0}\n")
            .registry(service("orders", "shop", "main", "http", &inbound))
            .registry(permit("web-may", "shop", "orders", "ns/shop/sa/web", ""));
        if let Some(postgres) = &postgres {
            for sql in [
                "CREATE ROLE mesh_owner LOGIN",
                "CREATE ROLE mesh LOGIN",
                "CREATE DATABASE mesh OWNER mesh_owner",
            ] {
                postgres.query("postgres", sql);
            }
            builder = builder.control_plane(&postgres.configuration_of("mesh", "mesh_owner", true));
        } else {
            builder = builder.control_plane("backup: {dir: {folder}/copies, keep: 3}\n");
        }
        for sidecar in sidecars().into_values() {
            builder = builder.sidecar(sidecar);
        }
        let mut scene =
            Scene { mesh: builder.start().await, postgres, _app: app, entry, sidecars: sidecars() };
        if scene.postgres.is_some() {
            scene.mesh.start_replica(SECOND).await;
        }
        if let Some(postgres) = &scene.postgres {
            // From now on the tables' owner does not issue, and who issues does not own.
            let url = postgres.owners_url("mesh", "mesh_owner", scene.mesh.path(".").as_path());
            scene.run("systemctl stop signet-control-plane").await;
            migrated(&scene.mesh, &url).await;
            scene.run("systemctl start signet-control-plane").await;
        }
        scene.answers().await;
        scene
    }

    /// Runs a command as it stands on the page; what it said.
    async fn run(&mut self, line: &str) -> String {
        match line {
            "systemctl stop signet-control-plane" => {
                let first = self.mesh.control_plane.take().expect("it runs");
                for mut process in std::mem::take(&mut self.mesh.replicas).into_values().chain([first]) {
                    process.terminate();
                    assert!(process.wait().await.success());
                }
                String::new()
            }
            "systemctl start signet-control-plane" => {
                self.mesh.start_control_plane().await;
                if self.postgres.is_some() {
                    self.mesh.start_replica(SECOND).await;
                }
                String::new()
            }
            // What is done on each host.
            line if line.contains("/var/lib/") && self.postgres.is_some() => {
                self.shell(line, "cp") + &self.shell(line, SECOND)
            }
            line => self.shell(line, "cp"),
        }
    }

    /// The same by a shell, on the host of this control plane.
    fn shell(&self, line: &str, host: &str) -> String {
        let path = |name: &str| self.mesh.path(name).display().to_string();
        let signet = format!("{} --socket {} ", binary("signet").display(), path("op.sock"));
        let copies = if self.postgres.is_some() { path(&format!("copy-{host}")) } else { path("copies") };
        let line = line
            .replace("/var/backups/signet", &copies)
            .replace("/var/lib/signet", &path(host))
            .replace("spiffe://example.com/", &format!("spiffe://{}/", self.mesh.trust_domain))
            .replace("join.json", &path("join.json"));
        let line = line.strip_prefix("signet ").map_or(line.clone(), |rest| signet + rest);
        let mut shell = Command::new("sh");
        shell.envs(self.postgres.iter().flat_map(Postgres::environment));
        let done = shell.args(["-c", &line]).output().expect("a shell");
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        let error = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{line}: {said}{error}\n{}", self.mesh.logs());
        said
    }

    async fn run_all(&mut self, lines: &[String]) -> String {
        let mut said = String::new();
        for line in lines {
            said += &self.run(line).await;
        }
        said
    }

    /// Each workload gets a bundle by the page's command, and its sidecar a restart.
    async fn come_back(&mut self, lines: &[String]) {
        let [line] = lines else { panic!("one command, not {lines:?}") };
        for name in ["orders", "web"] {
            let bundle = self.mesh.path("join.json");
            let _ = std::fs::remove_file(&bundle);
            self.run(&line.replace("/sa/orders", &format!("/sa/{name}"))).await;
            if let Some(mut old) = self.mesh.sidecars.remove(name) {
                old.terminate();
                old.wait().await;
            }
            let bundle = serde_json::from_slice(&std::fs::read(bundle).expect("a bundle")).expect("JSON");
            let process = self.mesh.spawn_sidecar(&self.sidecars[name], &bundle);
            self.mesh.sidecars.insert(name.to_owned(), process);
        }
        self.answers().await;
    }

    /// Until a request goes through both sidecars.
    async fn answers(&self) {
        for _ in 0..600 {
            if try_send("GET", &self.entry, "/", &[], "").await.is_ok_and(|answer| answer.status() == 200) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("no answer came\n{}", self.mesh.logs());
    }
}

#[tokio::test]
async fn a_lost_store_is_brought_back_from_its_copy_as_the_runbook_says() {
    let mut scene = Scene::start(600).await;
    let page = blocks("Make a copy");
    let [copy] = &page[..] else { panic!("one block") };
    scene.run_all(copy).await;
    // What the copy does not know: a token that is made after it.
    let bundle = scene.mesh.join_bundle("spiffe://test.signet/ns/shop/sa/web", "sidecar").await;
    let page = blocks("The store is lost");
    let [restore, join] = &page[..] else { panic!("two blocks") };
    let said = scene.run_all(restore).await;
    assert!(said.contains("2 chains of renewals") && said.contains("repeat them now"), "{said}");
    assert!(said.contains("recovered") && said.contains("disk lost, copy of last night"), "{said}");
    scene.come_back(join).await;
    // It listens nowhere, so that nothing but its token can be in its way.
    let sidecar = Sidecar::new("late.shop", "");
    let mut stale = scene.mesh.spawn_sidecar(&sidecar, &signet_tests::mesh::bundle_json(&bundle));
    assert_eq!(stale.wait().await.code(), Some(3), "{}", stale.log());
}

#[tokio::test]
async fn a_lost_database_is_brought_back_from_its_dump_to_two_control_planes_as_the_runbook_says() {
    let Some(postgres) = Postgres::start().await else { return };
    let mut scene = Scene::start_on(Some(postgres), 600).await;
    let page = blocks("With PostgreSQL");
    let [copy, restore] = &page[..] else { panic!("two blocks") };
    let sections = blocks("The store is lost");
    let [_, join] = &sections[..] else { panic!("two blocks") };
    scene.run_all(copy).await;
    // What the dump does not know: a token, and who came by another at the other control plane.
    let bundle = scene.mesh.join_bundle("spiffe://test.signet/ns/shop/sa/web", "sidecar").await;
    let web = "spiffe://test.signet/ns/shop/sa/web";
    let used = scene.mesh.join_bundle_at(SECOND, web, "sidecar").await;
    let late = Svid::join_by(&used).await.expect("a certificate");
    let said = scene.run_all(restore).await;
    assert!(said.contains("2 chains of renewals") && said.contains("repeat them now"), "{said}");
    assert!(said.contains("recovered") && said.contains("database lost, copy of last night"), "{said}");
    // At the one as at the other: what it knows is one thing, and it is whole.
    for name in ["cp", SECOND] {
        let mut command = Command::new(binary("signet"));
        command.arg("--socket").arg(scene.mesh.operator_socket(name)).args(["ca", "verify"]);
        let output = run(command).await;
        assert!(output.status.success(), "{name}: {}", said_by(&output));
        let addresses = scene.mesh.addresses(name);
        let at = |listener: &str| addresses[listener].as_str().expect("an address").to_owned();
        for token in [&bundle, &used] {
            let there = JoinBundle { bootstrap_address: at("bootstrap"), ..token.clone() };
            let refused = Svid::join_by(&there).await.err().expect("the copy does not know this token");
            assert_eq!(refused.code(), Code::Unauthenticated, "{name}");
        }
        let mut client = IdentityClient::new(late.channel_to(&at("mesh")).await.expect("a connection"));
        let csr_der = request_for(&rcgen::KeyPair::generate().expect("a key"));
        let refused = client.renew(RenewRequest { csr_der, kubernetes: None }).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{name}");
    }
    // The one that issues has the rights that it had, and no other.
    let postgres = scene.postgres.as_ref().expect("it runs");
    let owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(postgres.query("mesh", owners), ["mesh_owner"]);
    let may =
        "SELECT has_table_privilege('mesh', 'log', 'INSERT'), has_table_privilege('mesh', 'log', 'DELETE')";
    assert_eq!(postgres.query("mesh", may), ["t|f"]);
    scene.come_back(join).await;
}

#[tokio::test]
async fn after_a_stolen_root_everybody_comes_back_under_another_as_the_runbook_says() {
    let mut scene = Scene::start(600).await;
    let stolen = std::fs::read_to_string(scene.mesh.path("cp/root.pem")).expect("the root");
    let page = blocks("The root's key is stolen");
    let [recover, join] = &page[..] else { panic!("two blocks") };
    let said = scene.run_all(recover).await;
    assert!(said.contains("tainted: ") && said.contains("2 chains of renewals"), "{said}");
    let log = scene.mesh.path("cp/root.pem");
    // The successor takes over when both sidecars have acknowledged it.
    until("another root", || {
        let roots = std::fs::read_to_string(&log).ok()?;
        (roots.starts_with("-----BEGIN") && !roots.starts_with(&stolen)).then_some(())
    })
    .await;
    scene.come_back(join).await;
}

#[tokio::test]
async fn a_mesh_whose_every_certificate_has_ended_comes_back_as_the_runbook_says() {
    let mut scene = Scene::start(10).await;
    scene.run("systemctl stop signet-control-plane").await;
    for name in ["orders", "web"] {
        scene.mesh.sidecars[name].logged("svid expired and not renewed").await;
    }
    let page = blocks("Every certificate has ended");
    let [start, join] = &page[..] else { panic!("two blocks") };
    scene.run_all(start).await;
    scene.come_back(join).await;
}
