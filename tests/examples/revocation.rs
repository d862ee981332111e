//! How long a revocation takes, from the command's return to the last socket closed.
//!
//! ```console
//! $ cargo run --release -p signet-tests --example revocation -- [sidecars] [revocations]
//! ```
//!
//! A control plane and sidecars of the same build, each sidecar a process before an app of bytes. Every peer holds one open,
//! idle connection to every sidecar, over mutual TLS. Peer after peer is revoked by `signet ca revoke`'s call; its connections
//! are all read, and the time of each end of file is taken from the moment at which the call had returned. A connection that
//! ended before that counts as nothing. The other peers' connections must live on.

#![allow(clippy::print_stdout, reason = "what it measures is what it is for")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustls_pki_types::ServerName;
use signet_proto::v1::RevokeRequest;
use signet_proto::v1::revoke_request::What;
use signet_tests::mesh::{Mesh, Sidecar, permit, service};
use signet_tests::svid::Svid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

type Connection = TlsStream<TcpStream>;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let sidecars = arguments.next().map_or(Ok(100), |text| text.parse())?;
    let peers = arguments.next().map_or(Ok(50), |text| text.parse())?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(sidecars, peers))
}

async fn run(sidecars: usize, peers: usize) -> anyhow::Result<()> {
    let app = echo().await?;
    let inbounds: Vec<String> = (0..sidecars).map(|n| format!("127.78.{n}.1:9000")).collect();
    let mut registry = Vec::new();
    let mut builder = Mesh::builder().log_level("info");
    for (n, inbound) in inbounds.iter().enumerate() {
        let name = format!("s{n}");
        let may = permit(&format!("{name}-open"), "shop", &name, "ns/shop/sa/*", "");
        registry.extend([service(&name, "shop", "main", "tcp", inbound), may]);
        let config = format!(
            "inbound: [{{service: {name}.shop, port: main, listen: '{inbound}', app: 'tcp:{app}'}}]\n"
        );
        builder = builder.sidecar(Sidecar::new(&format!("{name}.shop"), config));
    }
    registry.extend((0..peers).map(|n| {
        format!("kind: Workload\nmetadata: {{namespace: shop, name: p{n}}}\nspec: {{class: sidecar}}\n")
    }));
    println!("{sidecars} sidecars begin, {peers} peers open {} connections", sidecars * peers);
    let mut mesh = builder.registry(registry.join("---\n")).start().await;
    let mut held = Vec::new();
    for n in 0..peers {
        let id = Sidecar::new(&format!("p{n}.shop"), "").spiffe_id();
        let svid = Svid::join_in_a_crowd(&mesh, &id, "sidecar").await?;
        let mut connections = Vec::new();
        for (to, inbound) in inbounds.iter().enumerate() {
            connections.push(open(&svid, inbound, &format!("s{to}.shop.signet.internal")).await?);
        }
        held.push((id, connections));
    }

    let mut operator = mesh.operator().await;
    let (mut each, mut last) = (Vec::new(), Vec::new());
    while let Some((id, connections)) = held.pop() {
        let mut waiting = JoinSet::new();
        for mut connection in connections {
            waiting.spawn(async move {
                let end = connection.read(&mut [0; 16]).await;
                (Instant::now(), matches!(end, Ok(0) | Err(_)))
            });
        }
        let what = Some(What::SpiffeId(id));
        operator.revoke(RevokeRequest { what, reason: "measured".into() }).await?;
        let returned = Instant::now();
        let mut took = Duration::ZERO;
        while let Some(ended) = waiting.join_next().await {
            let (at, closed) = ended?;
            ensure!(closed, "a connection brought bytes instead of its end");
            let after = at.saturating_duration_since(returned);
            each.push(after);
            took = took.max(after);
        }
        last.push(took);
        // Whoever was not named goes on.
        if let Some((_, others)) = held.last_mut() {
            for connection in others.iter_mut().take(3) {
                ping(connection).await.context("a connection of another peer")?;
            }
        }
    }
    mesh.assert_unharmed();
    show("sockets", &mut each);
    show("last of each revocation", &mut last);
    Ok(())
}

fn show(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
    let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
    println!(
        "{what} ({}): p50 {:.1} ms, p99 {:.1} ms, maximum {:.1} ms",
        times.len(),
        ms(at(50)),
        ms(at(99)),
        ms(times.last())
    );
}

async fn open(svid: &Svid, address: &str, name: &str) -> anyhow::Result<Connection> {
    let tcp = TcpStream::connect(address).await?;
    let config = svid.foreign_client(&[b"signet-tcp"]);
    let mut tls = TlsConnector::from(config).connect(ServerName::try_from(name.to_owned())?, tcp).await?;
    ping(&mut tls).await?;
    Ok(tls)
}

/// A byte to the app and back.
async fn ping(connection: &mut Connection) -> anyhow::Result<()> {
    connection.write_all(b"x").await?;
    connection.flush().await?;
    connection.read_exact(&mut [0]).await?;
    Ok(())
}

async fn echo() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    Ok(address)
}
