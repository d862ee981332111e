//! Two control planes on one PostgreSQL, and one of them is killed, again and again, at moments that differ.
//!
//! Clients join, renew and ask for certificates for apps at both, all the time, and two sidecars carry requests. Whoever
//! loses a connection asks again, at the other one as well as at the same. What was answered must then be in the log and
//! in the store, once; what was used must be used everywhere; and a root that began to be replaced just before the end of
//! the control plane that was told so is replaced, once.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rcgen::KeyPair;
use serde_json::Value;
use signet_identity::Svid as Facts;
use signet_proto::v1::attest_request::Evidence;
use signet_proto::v1::identity_client::IdentityClient;
use signet_proto::v1::{
    AttestRequest, AuthorityStatus, IssueWorkloadRequest, IssuedSvid, JoinBundle, ListAuthoritiesRequest,
    RenewRequest,
};
use signet_tests::apps::Echo;
use signet_tests::mesh::{Mesh, Sidecar, free_address, operator_at, permit, service, token_request};
use signet_tests::peers::{run, said};
use signet_tests::postgres::Postgres;
use signet_tests::process::{PATIENCE, binary, until};
use signet_tests::svid::{Svid, request_for, try_bootstrap};
use tonic::{Code, Status};

use crate::lifecycle::Load;

/// They work at once, each for identities of its own.
const CLIENTS: usize = 6;
const IDENTITIES: usize = 8;
/// A lineage is renewed so often before its client joins anew.
const RENEWALS: usize = 3;
/// How many answers come between one kill and the next. A few only: a start under load is cut short as well.
const MOMENTS: [usize; 8] = [5, 31, 2, 47, 13, 1, 64, 22];
/// Just before these kills somebody begins to replace the root: the first time with an answer, then without one.
const ROTATIONS: [usize; 2] = [1, 5];
const QUICK: &str = "rotation: {ackDeadlineSeconds: 600, consumersWaitSeconds: 0}\n";
const NAMES: [&str; 2] = ["cp", "second"];

/// A control plane from outside. It has the same addresses after each start.
struct Door {
    bootstrap: String,
    mesh: String,
    socket: PathBuf,
}

impl Door {
    fn of(mesh: &Mesh, name: &str) -> Self {
        let addresses = mesh.addresses(name);
        let address = |listener: &str| addresses[listener].as_str().expect("an address").to_owned();
        Self { bootstrap: address("bootstrap"), mesh: address("mesh"), socket: mesh.operator_socket(name) }
    }
}

/// What the clients share.
struct Shared {
    doors: [Door; 2],
    /// Answers that arrived.
    answers: AtomicUsize,
    /// Requests whose answer did not.
    lost: AtomicUsize,
    stop: AtomicBool,
}

/// What a client was told, and used.
#[derive(Default)]
struct Told {
    /// Serials by how they came.
    serials: Vec<(&'static str, String)>,
    tokens: Vec<JoinBundle>,
}

impl Shared {
    /// Asks at one door and at the other until there is an answer. A refusal is the test's failure: nobody asks for
    /// anything that may not be had.
    async fn answer<T>(&self, what: &str, first: usize, ask: impl AsyncFn(&Door) -> Result<T, Status>) -> T {
        let asking = async {
            for door in first.. {
                match ask(&self.doors[door % 2]).await {
                    Ok(answer) => {
                        self.answers.fetch_add(1, Ordering::SeqCst);
                        return answer;
                    }
                    // Made on this side of the connection, or by a door that closes.
                    Err(status) if status.source().is_some() || status.code() == Code::Unavailable => {
                        self.lost.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(status) => panic!("{what} at {}: {status:?}", NAMES[door % 2]),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            unreachable!("doors have no end")
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("no answer: {what}"))
    }

    async fn client(&self, n: usize) -> Told {
        let mut told = Told::default();
        for round in 0.. {
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
            let id = Sidecar::new(&format!("w{}.shop", n * IDENTITIES + round % IDENTITIES), "").spiffe_id();
            self.one_life(&id, n + round, &mut told).await;
        }
        told
    }

    /// A join, and what follows from it.
    async fn one_life(&self, id: &str, turn: usize, told: &mut Told) {
        let bundle = self
            .answer("a token", turn, async |door| {
                let mut operator = operator_at(&door.socket).await.map_err(gone)?;
                Ok(operator.create_join_token(token_request(id, "sidecar")).await?.into_inner())
            })
            .await;
        let key = KeyPair::generate().expect("a key");
        let evidence = Some(Evidence::JoinToken(bundle.token.clone()));
        let request = AttestRequest { csr_der: request_for(&key), evidence };
        // The doors of the token's maker and of the other: a bundle names one of them.
        let issued = self
            .answer("a join", turn + 1, async |door| {
                let bundle = JoinBundle { bootstrap_address: door.bootstrap.clone(), ..bundle.clone() };
                let mut client = try_bootstrap(&bundle).await.map_err(gone)?;
                Ok(client.attest(request.clone()).await?.into_inner())
            })
            .await;
        told.tokens.push(bundle);
        let mut own = Svid { key, issued };
        told.serials.push(("issued", serial(&own.issued)));
        for renewal in 0..RENEWALS {
            // An app's certificate is made for the key that comes with the request: after a lost answer, for another.
            let app = self
                .answer("a certificate for an app", turn + renewal, async |door| {
                    let mut client = IdentityClient::new(own.channel_to(&door.mesh).await.map_err(gone)?);
                    let csr_der = request_for(&KeyPair::generate().expect("a key"));
                    Ok(client.issue_workload(IssueWorkloadRequest { csr_der }).await?.into_inner())
                })
                .await;
            told.serials.push(("issued", serial(&app)));
            let key = KeyPair::generate().expect("a key");
            let request = RenewRequest { csr_der: request_for(&key), kubernetes: None };
            let issued = self
                .answer("a renewal", turn + renewal, async |door| {
                    let mut client = IdentityClient::new(own.channel_to(&door.mesh).await.map_err(gone)?);
                    Ok(client.renew(request.clone()).await?.into_inner())
                })
                .await;
            own = Svid { key, issued };
            told.serials.push(("renewed", serial(&own.issued)));
        }
    }
}

/// No connection came about.
fn gone(error: tonic::transport::Error) -> Status {
    Status::from_error(error.into())
}

fn serial(issued: &IssuedSvid) -> String {
    let chain: Vec<_> =
        issued.chain_der.iter().map(|der| rustls_pki_types::CertificateDer::from(der.clone())).collect();
    Facts::parse(&chain).expect("an SVID").serial.to_string()
}

/// What the door says to somebody new with this bundle. A door that was knocked at too often lets nobody in for a moment.
async fn joins(bundle: &JoinBundle) -> Result<IssuedSvid, Status> {
    let evidence = Some(Evidence::JoinToken(bundle.token.clone()));
    let request = AttestRequest { csr_der: request_for(&KeyPair::generate().expect("a key")), evidence };
    let end = Instant::now() + PATIENCE;
    loop {
        match try_bootstrap(bundle).await {
            Ok(mut client) => return Ok(client.attest(request).await?.into_inner()),
            Err(error) => assert!(
                Instant::now() < end,
                "no door at {} under the root {}: {error:?}",
                bundle.bootstrap_address,
                bundle.root_sha256
            ),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// `signet` at a control plane, by its socket.
fn signet(door: &Door, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("signet"));
    command.arg("--socket").arg(&door.socket).args(arguments);
    command
}

async fn signet_said(door: &Door, arguments: &[&str]) -> String {
    let output: Output = run(signet(door, arguments)).await;
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).expect("text")
}

/// The whole log of all control planes, as `signet ca audit search` finds it, page by page.
async fn records(door: &Door) -> Vec<Value> {
    let (mut all, mut page) = (Vec::new(), String::new());
    loop {
        let found =
            signet_said(door, &["--json", "ca", "audit", "search", "--limit", "1000", "--page", &page]).await;
        let found: Value = serde_json::from_str(&found).expect("JSON");
        all.extend(found["records"].as_array().expect("records").iter().cloned());
        page = found["next_page"].as_str().expect("a page or none").to_owned();
        if page.is_empty() {
            return all;
        }
    }
}

async fn kill(mesh: &mut Mesh, which: usize) {
    let mut process = match which {
        0 => mesh.control_plane.take().expect("the first control plane"),
        _ => mesh.replicas.remove(NAMES[1]).expect("the second control plane"),
    };
    process.signal(libc::SIGKILL);
    process.wait().await;
}

async fn start_again(mesh: &mut Mesh, which: usize) {
    match which {
        0 => mesh.start_control_plane().await,
        _ => mesh.start_replica(NAMES[1]).await,
    }
}

async fn authorities(mesh: &Mesh) -> Vec<AuthorityStatus> {
    let answer = mesh.rotation().await.list_authorities(ListAuthoritiesRequest {}).await;
    answer.expect("the authorities").into_inner().authorities
}

async fn active_root(mesh: &Mesh) -> String {
    let all = authorities(mesh).await;
    all.into_iter().find(|one| one.kind == "root" && one.phase == "active").expect("a root").id
}

/// Waits until another root than this one signs, and the issuers of both control planes are signed by it. The old one is
/// believed for two minutes more than what it signed lives.
async fn replaced(mesh: &Mesh, postgres: &Postgres, old: &str) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let all = authorities(mesh).await;
        let of = |kind: &'static str| all.iter().filter(move |one| one.kind == kind);
        let at_rest = of("root").all(|one| ["active", "draining"].contains(&&*one.phase));
        let signing = of("root").find(|one| one.phase == "active" && one.id != old);
        let parents = "SELECT parent FROM authorities WHERE kind = 'issuer' AND phase = 'active'";
        let parents = postgres.query("postgres", parents);
        if let Some(root) = signing
            && at_rest
            && parents == [root.id.as_str(); NAMES.len()]
        {
            return root.id.clone();
        }
        assert!(Instant::now() < end, "the root {old} is not replaced: {all:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Kills the one and the other; the roots that there were, in order, and a join bundle of before the last one.
async fn kills(mesh: &mut Mesh, postgres: &Postgres, shared: &Shared) -> (Vec<String>, JoinBundle) {
    let mut early = None;
    let mut known = vec![active_root(mesh).await];
    for (nth, answers) in MOMENTS.into_iter().enumerate() {
        let which = nth % 2;
        let next = shared.answers.load(Ordering::SeqCst) + answers;
        let moment = || (shared.answers.load(Ordering::SeqCst) >= next).then_some(());
        if nth == ROTATIONS[0] {
            until("the moment", moment).await;
            signet_said(&shared.doors[which], &["ca", "rotate", "root"]).await;
            kill(mesh, which).await;
        } else if nth == ROTATIONS[1] {
            let old = replaced(mesh, postgres, known.last().expect("a root")).await;
            known.push(old);
            early = Some(mesh.join_bundle(&Sidecar::new("client.shop", "").spiffe_id(), "sidecar").await);
            // Nobody hears what came of it: whoever gave the command gives it again, at the other one.
            let mut command =
                tokio::process::Command::from(signet(&shared.doors[which], &["ca", "rotate", "root"]));
            let mut told = command.kill_on_drop(true).spawn().expect("starting signet");
            until("the moment", moment).await;
            kill(mesh, which).await;
            told.wait().await.expect("signet ends");
            signet_said(&shared.doors[1 - which], &["ca", "rotate", "root"]).await;
        } else {
            until("the moment", moment).await;
            kill(mesh, which).await;
        }
        // The other one serves meanwhile.
        let next = shared.answers.load(Ordering::SeqCst) + CLIENTS;
        until("the other one serves", || (shared.answers.load(Ordering::SeqCst) >= next).then_some(())).await;
        start_again(mesh, which).await;
    }
    known.push(replaced(mesh, postgres, known.last().expect("a root")).await);
    shared.stop.store(true, Ordering::SeqCst);
    (known, early.expect("a bundle of before"))
}

#[tokio::test]
async fn a_control_plane_killed_at_any_moment_loses_nothing_and_does_nothing_twice() {
    let Some(postgres) = Postgres::start().await else { return };
    let app = Echo::start().await;
    let (entry, inbound) = (free_address(), free_address());
    let workloads: Vec<String> = (0..CLIENTS * IDENTITIES)
        .map(|n| {
            format!("kind: Workload\nmetadata: {{namespace: shop, name: w{n}}}\nspec: {{class: sidecar, workloadApi: true}}\n")
        })
        .collect();
    let sidecar = |name: &str, config: String| {
        (
            format!(
                "kind: Workload\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{class: sidecar}}\n"
            ),
            Sidecar::new(&format!("{name}.shop"), config),
        )
    };
    let (server_document, server) = sidecar(
        "server",
        format!(
            "inbound: [{{service: server.shop, port: main, listen: '{inbound}', app: 'tcp:{}'}}]\n",
            app.address
        ),
    );
    let (client_document, client) =
        sidecar("client", format!("outbound: [{{listen: '{entry}', service: server.shop, port: main}}]\n"));
    let mut mesh = Mesh::builder()
        .svid_seconds(20)
        .log_level("info")
        .control_plane(QUICK)
        .control_plane(&postgres.configuration())
        .registry(workloads.join("---\n"))
        .registry([server_document, client_document].join("---\n"))
        .registry(service("server", "shop", "main", "http", &inbound))
        .registry(permit("client-may", "shop", "server", "ns/shop/sa/client", ""))
        .start()
        .await;
    mesh.start_replica(NAMES[1]).await;
    mesh.join(server).await;
    mesh.join_at(NAMES[1], client).await;
    let shared = Shared {
        doors: NAMES.map(|name| Door::of(&mesh, name)),
        answers: AtomicUsize::new(0),
        lost: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
    };
    let load = Load::start(&entry, 2);
    let clients = futures_util::future::join_all((0..CLIENTS).map(|n| shared.client(n)));
    let (told, (known, early)) = tokio::join!(clients, kills(&mut mesh, &postgres, &shared));
    let (good, failures) = load.end().await;
    assert!(failures.is_empty(), "{} of {good} requests: {failures:?}", failures.len());
    let lost = shared.lost.load(Ordering::SeqCst);
    assert!(lost >= MOMENTS.len(), "only {lost} answers were lost: nothing was killed under load");

    // Everything that was answered is in the log and in the store, once.
    let logs = records(&shared.doors[0]).await;
    let text = |record: &Value, field: &str| record[field].as_str().unwrap_or_default().to_owned();
    let made: Vec<(String, String)> = logs
        .iter()
        .filter(|it| ["issued", "renewed", "self-issued"].contains(&&*text(it, "event")))
        .map(|it| (text(it, "event"), text(it, "serial")))
        .collect();
    let told_serials: Vec<_> = told.iter().flat_map(|it| &it.serials).collect();
    for (event, serial) in &told_serials {
        let found = made.iter().filter(|(_, other)| other == serial).collect::<Vec<_>>();
        assert!(matches!(&found[..], [(what, _)] if what == event), "{event} {serial}: {found:?}");
    }
    let distinct: BTreeSet<_> = told_serials.iter().map(|(_, serial)| serial).collect();
    assert_eq!(distinct.len(), told_serials.len(), "a serial was given twice");
    let stored: BTreeSet<String> =
        postgres.query("postgres", "SELECT encode(serial, 'hex') FROM svids").into_iter().collect();
    let logged: BTreeSet<String> = made.iter().map(|(_, serial)| serial.clone()).collect();
    assert_eq!(logged.len(), made.len(), "a certificate is in the log twice");
    assert_eq!(stored, logged, "store and log say the same");
    for (what, sql) in [
        ("key", "SELECT key_hash FROM svids GROUP BY key_hash HAVING count(*) > 1"),
        ("parent", "SELECT parent FROM svids WHERE parent IS NOT NULL GROUP BY parent HAVING count(*) > 1"),
        ("token", "SELECT origin FROM lineages GROUP BY origin HAVING count(*) > 1"),
        (
            "beginning of a lineage",
            "SELECT lineage FROM svids WHERE parent IS NULL AND class = 'sidecar' GROUP BY lineage HAVING count(*) > 1",
        ),
        ("end of a lineage", "SELECT id FROM lineages WHERE revoked_at IS NOT NULL"),
    ] {
        assert_eq!(postgres.query("postgres", sql), Vec::<String>::new(), "twice: a {what}");
    }
    assert!(!logs.iter().any(|it| text(it, "event") == "alert"), "a renewal was taken for a theft");

    // Each used token is used everywhere.
    for bundle in told.iter().filter_map(|it| it.tokens.last()) {
        for door in &shared.doors {
            let bundle = JoinBundle { bootstrap_address: door.bootstrap.clone(), ..bundle.clone() };
            assert_eq!(joins(&bundle).await.expect_err("it is used").code(), Code::Unauthenticated);
        }
    }

    // A bundle that was handed out before the last rotation leads in: its root is believed for a while yet.
    joins(&early).await.expect("a bundle made before a rotation");

    // Each root was made once, and took over once.
    assert_eq!(known.len(), 1 + ROTATIONS.len());
    for (n, root) in known.iter().enumerate() {
        let steps: Vec<String> = logs
            .iter()
            .rev()
            .filter(|it| text(it, "reason") == format!("root {root}"))
            .map(|it| text(it, "event"))
            .filter(|event| event != "rotation-asked")
            .collect();
        let distinct: BTreeSet<_> = steps.iter().collect();
        assert_eq!(distinct.len(), steps.len(), "root {n} took a step twice: {steps:?}");
    }
    let made = |event: &str| {
        logs.iter().filter(|it| text(it, "event") == event && text(it, "reason").starts_with("root ")).count()
    };
    let others = known.len() - 1;
    assert_eq!((made("published"), made("activated"), made("gave-up")), (others, others, 0));

    for door in &shared.doors {
        signet_said(door, &["ca", "verify"]).await;
        signet_said(door, &["ca", "audit", "verify"]).await;
    }
    let export = mesh.path("export.jsonl").display().to_string();
    signet_said(&shared.doors[1], &["ca", "audit", "export", "--out", &export]).await;
    let key = mesh.path("cp/audit.pem").display().to_string();
    signet_said(&shared.doors[1], &["ca", "audit", "verify", "--file", &export, "--key", &key]).await;
    mesh.assert_unharmed();
}
