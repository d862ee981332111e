//! A root is replaced through a whole fleet, while one of it is cut off for a time.
//!
//! Fifty sidecars in a ring, each the client of the next over plain TCP, where every connection of an app is a mutual
//! handshake of its own. The one that is cut off loses its way to the control plane alone: the others find it as before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use signet_proto::v1::{
    AuthorityStatus, ListAuthoritiesRequest, RotateAuthorityRequest, WatchIssuancesRequest,
};
use signet_tests::mesh::{Mesh, Sidecar, permit, service};
use signet_tests::process::{PATIENCE, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

const FLEET: usize = 50;
/// The one that is cut off.
const LONELY: usize = 0;
/// All in all, and while one is cut off.
const HANDSHAKES: usize = 100_000;
const MEANWHILE: usize = 10_000;
const CALLERS: usize = 8;
const QUICK: &str = "rotation: {ackDeadlineSeconds: 600, consumersWaitSeconds: 0}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_rotates_through_fifty_sidecars_and_no_handshake_between_acknowledged_ones_fails() {
    let mut ring = Ring::start(&echo().await).await;
    let old = ring.root("active").await.expect("a root");
    let records = ring.mesh.operator().await.watch_issuances(WatchIssuancesRequest {}).await;
    let mut records = records.expect("the log").into_inner();
    let load = Load::start(&ring.entries);

    ring.way.send_replace(false);
    let request = RotateAuthorityRequest { kind: "root".into() };
    let new = ring.mesh.rotation().await.rotate_authority(request).await.expect("a rotation").into_inner().id;
    // Everybody else has the new root at once; it must not sign before the lonely one has it, too.
    load.reach(load.done().saturating_add(MEANWHILE)).await;
    let waiting = ring.root("published").await.expect("the new root waits");
    assert_eq!(waiting.id, new);
    assert_eq!(ring.root("active").await.expect("the old one signs").id, old.id);

    ring.way.send_replace(true);
    let gone = format!("root {}", old.id);
    loop {
        let record = records.message().await.expect("the log goes on").expect("the log goes on");
        assert_ne!(record.event, "gave-up", "everybody came back in time");
        if record.event == "removed" && record.reason == gone {
            break;
        }
    }
    load.reach(HANDSHAKES).await;
    let Done { good, between_acknowledged, lonely } = load.end().await;
    assert!(
        between_acknowledged.is_empty(),
        "{} of {good}: {between_acknowledged:?}",
        between_acknowledged.len()
    );
    // Nothing was wrong with it but that it knew less: its own certificate and the old root were good all the time.
    assert!(lonely.is_empty(), "{} of {good}: {lonely:?}", lonely.len());
    assert_eq!(ring.root("active").await.expect("a root signs").id, new);
    ring.mesh.assert_unharmed();
}

struct Ring {
    mesh: Mesh,
    /// Where the app beside each reaches the next.
    entries: Vec<String>,
    /// Whether the lonely one finds the control plane.
    way: watch::Sender<bool>,
}

impl Ring {
    async fn start(app: &str) -> Self {
        let name = |n: usize| format!("s{}", n % FLEET);
        // Loopback has addresses enough: a hundred free ports would not stay free while the fleet comes up.
        let inbounds: Vec<String> = (0..FLEET).map(|n| format!("127.77.{n}.1:9000")).collect();
        let entries: Vec<String> = (0..FLEET).map(|n| format!("127.77.{n}.2:9000")).collect();
        let mut registry = Vec::new();
        let mut sidecars = Vec::new();
        for (n, (inbound, entry)) in inbounds.iter().zip(&entries).enumerate() {
            let (own, next) = (name(n), name(n + 1));
            let workload = format!(
                "kind: Workload\nmetadata: {{namespace: shop, name: {own}}}\nspec: {{class: sidecar}}\n"
            );
            let may = permit(&format!("{own}-may"), "shop", &next, &format!("ns/shop/sa/{own}"), "");
            registry.extend([workload, service(&own, "shop", "main", "tcp", inbound), may]);
            let config = format!(
                "inbound: [{{service: {own}.shop, port: main, listen: '{inbound}', app: 'tcp:{app}'}}]\n\
                 outbound: [{{listen: '{entry}', service: {next}.shop, port: main}}]\n"
            );
            sidecars.push(Sidecar::new(&format!("{own}.shop"), config));
        }
        let builder = Mesh::builder().svid_seconds(90).log_level("info").control_plane(QUICK);
        let mut mesh = builder.registry(registry.join("---\n")).start().await;
        let mesh_listener = mesh.addresses("cp")["mesh"].as_str().expect("a mesh listener").to_owned();
        let (relay, way) = relay(mesh_listener).await;
        for (n, sidecar) in sidecars.into_iter().enumerate() {
            let mut bundle = mesh.join_bundle(&sidecar.spiffe_id(), "sidecar").await;
            if n == LONELY {
                bundle.mesh_address.clone_from(&relay);
            }
            mesh.join_by(sidecar, &bundle).await;
        }
        Self { mesh, entries, way }
    }

    async fn root(&self, phase: &str) -> Option<AuthorityStatus> {
        let answer = self.mesh.rotation().await.list_authorities(ListAuthoritiesRequest {}).await;
        let all = answer.expect("the authorities").into_inner().authorities;
        all.into_iter().find(|one| one.kind == "root" && one.phase == phase)
    }
}

/// An app that says what it hears.
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("an app's port");
    let address = listener.local_addr().expect("its address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    address
}

/// A way to `target` that can be closed: what is open ends, what comes is hung up on.
async fn relay(target: String) -> (String, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let (say, open) = watch::channel(true);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (mut open, target) = (open.clone(), target.clone());
            tokio::spawn(async move {
                if !*open.borrow() {
                    return;
                }
                let Ok(mut far) = TcpStream::connect(target).await else { return };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = open.wait_for(|open| !open) => {}
                }
            });
        }
    });
    (address, say)
}

/// What came of the handshakes.
struct Done {
    good: usize,
    between_acknowledged: Vec<String>,
    lonely: Vec<String>,
}

/// Callers that go round the ring.
struct Load {
    callers: JoinSet<Vec<(usize, String)>>,
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Load {
    fn start(entries: &[String]) -> Self {
        let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let mut callers = JoinSet::new();
        for first in 0..CALLERS {
            let (entries, done, stop) = (entries.to_vec(), Arc::clone(&done), Arc::clone(&stop));
            callers.spawn(async move {
                let mut failures = Vec::new();
                let mut client = first * FLEET / CALLERS;
                while !stop.load(Ordering::Relaxed) {
                    match tokio::time::timeout(PATIENCE, shake(&entries[client])).await {
                        Ok(Ok(())) => {
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(Err(error)) => failures.push((client, error.to_string())),
                        Err(_) => failures.push((client, "no answer".into())),
                    }
                    client = (client + 1) % FLEET;
                }
                failures
            });
        }
        Self { callers, done, stop }
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits for so many; as long as some are made, nobody hurries.
    async fn reach(&self, count: usize) {
        while self.done() < count {
            let before = self.done();
            until("a handshake", || (self.done() > before).then_some(())).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn end(mut self) -> Done {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        while let Some(failures) = self.callers.join_next().await {
            all.extend(failures.expect("a caller ends"));
        }
        // The lonely one calls the next, and is called by the one before.
        let touches = |client: usize| client == LONELY || client == FLEET - 1;
        let say = |(client, error): (usize, String)| format!("s{client}: {error}");
        let (lonely, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|(client, _)| touches(*client));
        Done {
            good: self.done(),
            between_acknowledged: rest.into_iter().map(say).collect(),
            lonely: lonely.into_iter().map(say).collect(),
        }
    }
}

/// One connection of an app through the pair, and a byte there and back.
async fn shake(entry: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(entry).await?;
    stream.write_all(b"x").await?;
    let mut back = [0];
    stream.read_exact(&mut back).await?;
    // Ended from here at once: a hundred thousand closed in good order would use up the ports.
    stream.set_zero_linger()
}
