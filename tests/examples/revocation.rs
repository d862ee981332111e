//! How long a revocation takes, from the command's return to the last socket closed.
//!
//! ```console
//! $ cargo run --release -p signet-tests --example revocation -- [sidecars] [revocations] [peers|users]
//! ```
//!
//! A control plane and sidecars of the same build, each sidecar a process before an app of bytes. Every peer holds one open,
//! idle connection to every sidecar, over mutual TLS. Peer after peer is revoked by `signet ca revoke`'s call; its connections
//! are all read, and the time of each end of file is taken from the moment at which the call had returned. A connection that
//! ended before that counts as nothing. The other peers' connections must live on.
//!
//! With `users` it is one peer that holds them, each by an answer that does not end, for as many users as there are revocations:
//! then user after user is revoked, and the answers for that user must end.

#![allow(clippy::print_stdout, reason = "what it measures is what it is for")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustls_pki_types::ServerName;
use signet_proto::v1::RevokeRequest;
use signet_proto::v1::revoke_request::What;
use signet_tests::issuer::Issuer;
use signet_tests::mesh::{Mesh, Sidecar, permit, service};
use signet_tests::svid::Svid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

type Connection = TlsStream<TcpStream>;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let sidecars = arguments.next().map_or(Ok(100), |text| text.parse())?;
    let peers = arguments.next().map_or(Ok(50), |text| text.parse())?;
    let users = match arguments.next().as_deref() {
        None | Some("peers") => false,
        Some("users") => true,
        Some(other) => anyhow::bail!("expected peers or users, got {other:?}"),
    };
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(sidecars, peers, users))
}

async fn run(sidecars: usize, revocations: usize, users: bool) -> anyhow::Result<()> {
    let app = if users { endless().await? } else { echo().await? };
    let issuer = Issuer::start().await;
    let peers = if users { 1 } else { revocations };
    let inbounds: Vec<String> = (0..sidecars).map(|n| format!("127.78.{n}.1:9000")).collect();
    let mut registry = Vec::new();
    let mut builder = Mesh::builder().log_level("info");
    for (n, inbound) in inbounds.iter().enumerate() {
        let name = format!("s{n}");
        let (protocol, rest) = if users { ("http", "  user: {required: true}\n") } else { ("tcp", "") };
        let may = permit(&format!("{name}-open"), "shop", &name, "ns/shop/sa/*", rest);
        let mode = if users { "  userContext: original\n" } else { "" };
        registry.extend([service(&name, "shop", "main", protocol, inbound) + mode, may]);
        let config = format!(
            "inbound: [{{service: {name}.shop, port: main, listen: '{inbound}', app: 'tcp:{app}'}}]\n"
        );
        builder = builder.sidecar(Sidecar::new(&format!("{name}.shop"), config));
    }
    registry.extend((0..peers).map(|n| {
        format!("kind: Workload\nmetadata: {{namespace: shop, name: p{n}}}\nspec: {{class: sidecar}}\n")
    }));
    if users {
        registry.push(issuer.document("idp"));
    }
    println!("{sidecars} sidecars begin, {} connections are opened", sidecars * revocations);
    let mut mesh = builder.registry(registry.join("---\n")).start().await;
    let mut held = Vec::new();
    for n in 0..peers {
        let id = Sidecar::new(&format!("p{n}.shop"), "").spiffe_id();
        let svid = Svid::join_in_a_crowd(&mesh, &id, "sidecar").await?;
        for user in 0..revocations / peers {
            let token = issuer.token(&format!("u{user}"), "read");
            let mut connections = Vec::new();
            for (to, inbound) in inbounds.iter().enumerate() {
                let alpn: &[u8] = if users { b"signet-http/1.1" } else { b"signet-tcp" };
                let name = format!("s{to}.shop.signet.internal");
                let mut connection = open(&svid, inbound, &name, alpn).await?;
                if users {
                    ask(&mut connection, &token).await?;
                } else {
                    ping(&mut connection).await?;
                }
                connections.push(connection);
            }
            let what = if users { What::User(format!("idp|u{user}")) } else { What::SpiffeId(id.clone()) };
            held.push((what, connections));
        }
    }

    let mut operator = mesh.operator().await;
    let (mut each, mut last) = (Vec::new(), Vec::new());
    while let Some((what, connections)) = held.pop() {
        let mut waiting = JoinSet::new();
        for mut connection in connections {
            waiting.spawn(async move {
                let mut end = connection.read(&mut [0; 16]).await;
                while users && matches!(end, Ok(1..)) {
                    end = connection.read(&mut [0; 16]).await;
                }
                (Instant::now(), matches!(end, Ok(0) | Err(_)))
            });
        }
        operator.revoke(RevokeRequest { what: Some(what), reason: "measured".into() }).await?;
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
                if users {
                    let end = timeout(Duration::from_millis(1), connection.read(&mut [0; 16])).await;
                    ensure!(!matches!(end, Ok(Ok(0) | Err(_))), "the answer for another user ended: {end:?}");
                } else {
                    ping(connection).await.context("a connection of another peer")?;
                }
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

async fn open(svid: &Svid, address: &str, name: &str, alpn: &[u8]) -> anyhow::Result<Connection> {
    let tcp = TcpStream::connect(address).await?;
    let config = svid.foreign_client(&[alpn]);
    Ok(TlsConnector::from(config).connect(ServerName::try_from(name.to_owned())?, tcp).await?)
}

/// A request whose answer begins and does not end. The issuer's keys may not be there yet.
async fn ask(connection: &mut Connection, token: &str) -> anyhow::Result<()> {
    let request = format!("GET / HTTP/1.1\r\nhost: app\r\nauthorization: Bearer {token}\r\n\r\n");
    for _ in 0..600 {
        connection.write_all(request.as_bytes()).await?;
        connection.flush().await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(connection.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head);
        if head.starts_with("HTTP/1.1 200") {
            return more(connection).await;
        }
        ensure!(head.starts_with("HTTP/1.1 503"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.context("a length")?.parse()?;
        connection.read_exact(&mut vec![0; length]).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("no keys of the issuer")
}

/// The next chunk.
async fn more(connection: &mut Connection) -> anyhow::Result<()> {
    let mut chunk = [0; 6];
    connection.read_exact(&mut chunk).await?;
    ensure!(&chunk == b"1\r\nx\r\n", "expected a chunk, got {chunk:?}");
    Ok(())
}

/// A byte to the app and back.
async fn ping(connection: &mut Connection) -> anyhow::Result<()> {
    connection.write_all(b"x").await?;
    connection.flush().await?;
    connection.read_exact(&mut [0]).await?;
    Ok(())
}

/// Answers a request with a byte now and one a minute.
async fn endless() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                loop {
                    stream.write_all(b"1\r\nx\r\n").await?;
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
                #[allow(unreachable_code, reason = "what the errors are")]
                Ok::<_, std::io::Error>(())
            });
        }
    });
    Ok(address)
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
