//! A hundred thousand short connections from eight addresses through the redirected pair: each is answered, and nothing
//! of them is left, neither descriptors nor sockets nor what the sidecars count.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use signet_tests::mesh::Mesh;
use signet_tests::process::until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};

use crate::pair::{pair, virtual_ip};
use crate::pods::{APP_UID, Pods, SERVER, command, inside};

/// All of them.
const CONNECTIONS: usize = 100_000;
/// The app's addresses.
const SOURCES: usize = 8;
/// Open at the same time from each address.
const AT_ONCE: usize = 8;
const PORT: u16 = 7000;

/// What a sidecar holds that grows with connections.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    /// Open files of the process.
    descriptors: usize,
    /// TCP sockets in the pod that are more than a wait for stray packets.
    sockets: usize,
    /// What the sidecar counts as open.
    open: String,
}

fn held(netns: &str, pid: u32, metrics: &str) -> Held {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of ours").count();
    let sockets = command(netns, "ss -tanH").lines().filter(|line| !line.starts_with("TIME-WAIT")).count();
    let counted =
        |line: &&str| line.starts_with("signet_connections{") || line.contains("_idle_connections ");
    let open = metrics.lines().filter(counted).collect::<Vec<_>>().join("\n");
    Held { descriptors, sockets, open }
}

/// What the sidecar in a pod shows to Prometheus, on its loopback.
fn metrics(mesh: &Mesh, netns: &str, name: &str) -> String {
    let address = mesh.addresses(name)["metrics"].as_str().expect("a metrics listener").to_owned();
    command(netns, &format!("curl -sS -m 20 http://{address}/metrics"))
}

/// The sum of all samples of a metric.
fn counted(metrics: &str, prefix: &str) -> f64 {
    let samples = metrics.lines().filter(|line| line.starts_with(prefix));
    samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Whether the caller ends this connection, or the server. Not most: whoever dials and ends first keeps the port for a
/// minute, which is the kernel's limit for an app and not less for a sidecar.
fn caller_ends(question: u64) -> bool {
    question % 8 == 1
}

/// Answers each connection's question.
fn answers(pods: &Pods) {
    let listener = inside(&pods.server, None, || {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(SERVER[0].parse().expect("an address"), PORT)).expect("the port");
        socket
    });
    let listener: TcpListener = listener.listen(1024).expect("listening in a pod");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(question) = stream.read_u64().await else { return };
                let _ = stream.write_u64(!question).await;
                if caller_ends(question) {
                    let _ = stream.read(&mut [0; 1]).await;
                }
            });
        }
    });
}

/// One connection, from this address.
async fn asks(socket: TcpSocket, to: SocketAddr, question: u64) -> std::io::Result<u64> {
    let mut stream = socket.connect(to).await?;
    stream.write_u64(question).await?;
    let answer = stream.read_u64().await?;
    if caller_ends(question) {
        stream.shutdown().await?;
    }
    // The end, as clean as the answer.
    match stream.read(&mut [0; 1]).await? {
        0 => Ok(answer),
        _ => Err(std::io::Error::other("more than the answer")),
    }
}

/// Every connection, on a runtime of the pod's own: sockets are made where the thread is.
fn all_ask(sources: &[IpAddr], to: SocketAddr, next: &Arc<AtomicUsize>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let callers = (0..SOURCES * AT_ONCE).map(|number| {
            let (next, source) = (next.clone(), sources[number % SOURCES]);
            tokio::spawn(async move {
                loop {
                    let question = next.fetch_add(1, Ordering::Relaxed);
                    if question >= CONNECTIONS {
                        return;
                    }
                    let socket = TcpSocket::new_v4().expect("a socket");
                    socket.bind(SocketAddr::new(source, 0)).expect("an own address");
                    let question = question as u64;
                    let asked = tokio::time::timeout(Duration::from_secs(30), asks(socket, to, question));
                    let answer = asked.await.expect("an answer in time").expect("an answer");
                    assert_eq!(answer, !question, "from {source}");
                }
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await.expect("every connection was answered");
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_short_connections_from_eight_addresses_are_answered_and_leave_nothing() {
    let Some(pods) = Pods::make() else { return };
    let sources: Vec<IpAddr> =
        (0..SOURCES).map(|number| format!("10.77.0.{}", 101 + number).parse().unwrap()).collect();
    for source in &sources {
        command(&pods.client, &format!("ip addr add {source}/24 dev eth0"));
    }
    // The machine's table of followed connections is shared with other namespaces' limits: what is over goes soon.
    for pod in [&pods.client, &pods.server] {
        command(pod, "sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_time_wait=5");
    }
    let mesh = pair(&pods, 0, &[("counter", PORT)]).await;
    answers(&pods);
    let to = SocketAddr::new(virtual_ip(0, 0).parse().unwrap(), PORT);
    let sidecars = [(&pods.client, "client"), (&pods.server, "server")];
    let holds =
        || sidecars.map(|(pod, name)| held(pod, mesh.sidecar(name).pid(), &metrics(&mesh, pod, name)));

    // Once, so that what is made on first use is there.
    let first = inside(&pods.client, Some(APP_UID), || TcpSocket::new_v4().expect("a socket"));
    assert_eq!(asks(first, to, 7).await.unwrap(), !7);
    let before = quiet(&holds).await;

    let (begin, next) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let netns = pods.client.clone();
    let all = tokio::task::spawn_blocking(move || {
        inside(&netns, Some(APP_UID), move || all_ask(&sources, to, &next))
    });
    all.await.expect("every connection was answered");
    let took = begin.elapsed();
    println!(
        "{CONNECTIONS} connections in {took:?}: {:.0} a second",
        CONNECTIONS as f64 / took.as_secs_f64()
    );

    let after = quiet(&holds).await;
    assert_eq!(after, before);
    for (pod, name) in sidecars {
        let metrics = metrics(&mesh, pod, name);
        assert_eq!(counted(&metrics, "signet_connections_total{"), CONNECTIONS as f64 + 1.0, "{name}");
        for none in [
            "signet_refusals_total",
            "signet_handshake_failures_total",
            "signet_accept_errors_total",
            "signet_over_limit_total",
        ] {
            assert_eq!(counted(&metrics, none), 0.0, "{name}: {metrics}");
        }
    }
}

/// What is held when it has not changed for a while.
async fn quiet<const N: usize>(holds: &impl Fn() -> [Held; N]) -> [Held; N] {
    let mut last = (holds(), Instant::now());
    until("the sidecars to be quiet", || {
        let now = holds();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_secs(2)).then_some(())
    })
    .await;
    last.0
}
