//! What a burst took is given back.
//!
//! Twenty clients are connected; then there are two thousand at once, each with requests and bodies, and they leave. Soon
//! after both sidecars must be within a fifth of the memory that they had before, as the kernel counts it (RSS). The aim is
//! half a minute, and docs/bench.md has how long it took; a busy machine gets twice as long here.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use signet_tests::apps::{Echo, greeter};
use signet_tests::mesh::{Mesh, free_address};
use signet_tests::process::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::pair::{Pair, pair};

const FEW: usize = 20;
const MANY: usize = 100 * FEW;
/// How long after the burst, and how near.
const WITHIN: Duration = Duration::from_secs(60);
const FIFTH: u64 = 5;

/// A client's connection, kept open.
enum Client {
    One(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Two(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
    Bytes(TcpStream),
}

impl Client {
    async fn connect(entry: &str, protocol: &str) -> anyhow::Result<Client> {
        let stream = TcpStream::connect(entry).await?;
        Ok(match protocol {
            "tcp" => Client::Bytes(stream),
            "http" => {
                let io = TokioIo::new(stream);
                let (sender, connection) = hyper::client::conn::http1::handshake(io).await?;
                tokio::spawn(connection);
                Client::One(sender)
            }
            _ => {
                let io = TokioIo::new(stream);
                let (sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Client::Two(sender)
            }
        })
    }

    /// Sends so many bytes and gets as many back.
    async fn exchange(&mut self, count: usize) -> anyhow::Result<()> {
        let body = Bytes::from(vec![b'x'; count]);
        let request = || {
            let request = Request::post("http://server.shop/").header("host", "server.shop");
            request.body(Full::new(body.clone())).unwrap()
        };
        let answer = match self {
            Client::One(sender) => {
                sender.ready().await?;
                sender.send_request(request()).await?
            }
            Client::Two(sender) => sender.send_request(request()).await?,
            Client::Bytes(stream) => {
                let (mut read, mut write) = stream.split();
                let mut back = vec![0; count];
                let (sent, got) = tokio::join!(write.write_all(&body), read.read_exact(&mut back));
                sent?;
                got?;
                return Ok(());
            }
        };
        anyhow::ensure!(answer.status() == 200, "{}", answer.status());
        anyhow::ensure!(answer.into_body().collect().await?.to_bytes().len() > count, "all came back");
        Ok(())
    }
}

async fn client(entry: &str, protocol: &str, bytes: usize) -> anyhow::Result<Client> {
    let mut client = Client::connect(entry, protocol).await?;
    for _ in 0..3 {
        client.exchange(bytes).await?;
    }
    Ok(client)
}

/// So many clients, each after its exchanges.
async fn clients(count: usize, entry: &str, protocol: &'static str, bytes: usize) -> Vec<Client> {
    let connected = (0..count).map(|_| {
        let entry = entry.to_owned();
        tokio::spawn(async move {
            let begun = Instant::now();
            // Two thousand handshakes at once are more than a slow machine does in the time that each of them has.
            loop {
                match client(&entry, protocol, bytes).await {
                    Ok(client) => return client,
                    Err(error) => assert!(begun.elapsed() < PATIENCE, "no client in {PATIENCE:?}: {error:#}"),
                }
            }
        })
    });
    let mut clients = Vec::with_capacity(count);
    for client in connected.collect::<Vec<_>>() {
        clients.push(client.await.expect("a client"));
    }
    clients
}

/// Bytes of a process that are in memory.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("what is resident");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

/// Waits until a figure rests: until it has been the same, but for a page or two, over a second.
async fn at_rest(pid: u32) -> u64 {
    let end = Instant::now() + WITHIN;
    let (mut before, mut since) = (resident(pid), Instant::now());
    while since.elapsed() < Duration::from_secs(1) {
        assert!(Instant::now() < end, "the memory of {pid} does not come to rest");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = resident(pid);
        if now.abs_diff(before) > 64 * 1024 {
            (before, since) = (now, Instant::now());
        }
    }
    resident(pid)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Each client is three sockets in this process: its own, and both ends at the app.
fn allow_many_sockets() {
    let many = libc::rlimit { rlim_cur: 16 * 1024, rlim_max: 16 * 1024 };
    // SAFETY: a system call that reads a number of this process, and one that writes it.
    unsafe {
        let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut now), 0);
        if now.rlim_cur < many.rlim_cur {
            let wanted = libc::rlimit { rlim_cur: many.rlim_cur.min(now.rlim_max), ..now };
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted), 0);
        }
    }
}

async fn memory_comes_back(protocol: &'static str, burst: &tokio::sync::Mutex<()>) {
    let app = Echo::start().await;
    let (entry, inbound) = (free_address(), free_address());
    let address = if protocol == "tcp" { greeter().await } else { app.address.clone() };
    let mesh = pair(Mesh::builder(), protocol, &address, &entry, &inbound).start().await;
    let mut pair = Pair { mesh, app, entry };
    let _few = clients(FEW, &pair.entry, protocol, 1024).await;
    let names = ["client", "server"];
    let mut idle = Vec::new();
    for name in names {
        idle.push(at_rest(pair.mesh.sidecar(name).pid()).await);
    }

    let one_at_a_time = burst.lock().await;
    let many = clients(MANY, &pair.entry, protocol, 16 * 1024).await;
    let peak = names.map(|name| resident(pair.mesh.sidecar(name).pid()));
    drop(many);
    drop(one_at_a_time);
    let left = Instant::now();
    for (at, name) in names.into_iter().enumerate() {
        let (pid, limit) = (pair.mesh.sidecar(name).pid(), idle[at] + idle[at] / FIFTH);
        assert!(peak[at] > limit, "the burst was none: {} of {}", peak[at], idle[at]);
        while resident(pid) > limit {
            assert!(
                left.elapsed() < WITHIN,
                "{name}, {protocol}: {:.1} MiB at rest, {:.1} MiB in the burst, and {:.1} MiB still after {WITHIN:?}",
                mib(idle[at]),
                mib(peak[at]),
                mib(resident(pid)),
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        eprintln!(
            "{name}, {protocol}: {:.1} MiB at rest, {:.1} MiB in the burst, {:.1} MiB after {:.1} s",
            mib(idle[at]),
            mib(peak[at]),
            mib(resident(pid)),
            left.elapsed().as_secs_f64(),
        );
    }
    pair.mesh.assert_unharmed();
}

#[tokio::test]
async fn memory_is_back_after_a_hundredfold_burst() {
    allow_many_sockets();
    // One burst at a time; each pair is waited for beside the next one's.
    let burst = tokio::sync::Mutex::new(());
    tokio::join!(
        memory_comes_back("http", &burst),
        memory_comes_back("http2", &burst),
        memory_comes_back("tcp", &burst)
    );
}
