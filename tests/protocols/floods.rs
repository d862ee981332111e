//! Clients that cost more than they pay: what they send comes slowly, or without an end. They are cut or borne, memory stays within
//! bounds, and others are served meanwhile.
//!
//! (Handshakes that stand are in `attacks/outsider.rs` and `handshake.rs`, resets by the engine's own clock in
//! `sidecar/proxy/tests/it/http2/limits.rs`.)

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use signet_tests::apps::Echo;
use signet_tests::client::get;
use signet_tests::peers::python;
use signet_tests::process::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::scene::{Peer, Scene};

/// What a flood may cost a process: less than the windows of four connections (16 MiB each), and far less than is sent.
const MOST_MIB: u64 = 64;

/// The most that a process has had resident, in MiB.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

/// The peaks of all sidecars before something.
struct Peaks(Vec<(String, u32, u64)>);

impl Peaks {
    fn of(scene: &Scene) -> Self {
        let sidecars = scene.mesh.sidecars.iter();
        Self(sidecars.map(|(name, it)| (name.clone(), it.pid(), peak(it.pid()))).collect())
    }

    fn assert_bounded(&self) {
        for (name, pid, before) in &self.0 {
            let grown = peak(*pid).saturating_sub(*before);
            eprintln!("{name} grew by {grown} MiB from {before}");
            assert!(grown < MOST_MIB, "{name} grew by {grown} MiB");
        }
    }
}

#[tokio::test]
async fn floods_of_http2_frames_are_cut_or_borne_within_bounds() {
    let Some(python) = python() else { return };
    let peer = Peer::start(&python, "http2_floods.py", &[]);
    let mut scene = Scene::start("http2", &peer.address()).await;
    let peaks = Peaks::of(&scene);
    let report = peer.finish(format!("{} {}", scene.outbound, scene.gateway)).await;
    assert!(report.lines().filter(|line| line.starts_with("ok\t")).count() >= 2 * 14, "{report}");
    peaks.assert_bounded();
    scene.mesh.assert_unharmed();
}

/// The status of one HTTP/2 request on a connection of its own.
async fn ask(address: &str) -> u16 {
    let stream = TokioIo::new(TcpStream::connect(address).await.expect("connecting"));
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (mut sender, connection) = handshake.await.expect("a preface");
    tokio::spawn(connection);
    let request = Request::get(format!("http://{address}/others")).body(Empty::<Bytes>::new());
    let asked = sender.send_request(request.expect("a request"));
    timeout(PATIENCE, asked).await.expect("in time").expect("an answer").status().as_u16()
}

/// Clients of each kind. Together over a thousand, which is what one host can open without a care.
const SLOW: usize = 300;

/// Opens connections that have said this much and say no more.
async fn hold(address: &str, bytes: &[u8]) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..SLOW {
        let mut stream = TcpStream::connect(address).await.expect("connecting");
        stream.write_all(bytes).await.expect("beginning");
        held.push(stream);
    }
    held
}

/// Says a byte now and then until the other side ends the connection; what it said last.
async fn drip(address: &str, beginning: &[u8], byte: u8) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("connecting");
    stream.write_all(beginning).await.expect("beginning");
    let (mut read, mut write) = stream.split();
    let mut said = Vec::new();
    let dripping = async {
        loop {
            // The pace of the attack, and no pause that anybody waits for.
            tokio::time::sleep(Duration::from_millis(200)).await;
            if write.write_all(&[byte]).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let reading = async { read.read_to_end(&mut said).await };
    tokio::select! {
        () = dripping => {}
        ended = timeout(PATIENCE, reading) => assert!(ended.is_ok(), "the connection is never ended"),
    }
    said
}

const BEGUN: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ";
const BODY_BEGUN: &[u8] = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nx";
const CHUNK_BEGUN: &[u8] = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffff\r\nx";

#[tokio::test]
async fn slow_http1_clients_hold_nothing_that_others_need() {
    let app = Echo::start().await;
    let mut scene = Scene::start("http1", &app.address).await;
    let peaks = Peaks::of(&scene);
    let mut held = Vec::new();
    // A head as large as it may be but for its end.
    let large = [BEGUN, &[b'y'; 30_000]].concat();
    for address in [&scene.outbound, &scene.gateway] {
        for beginning in [BEGUN, &large, BODY_BEGUN, CHUNK_BEGUN] {
            held.push(hold(address, beginning).await);
        }
        assert_eq!(get(address, "/others", &[]).await.status(), 200);
    }
    peaks.assert_bounded();
    drop(held);
    // Nobody gets more time by a byte now and then: the head has one deadline.
    let (outbound, gateway) = (scene.outbound.clone(), scene.gateway.clone());
    let dripped = tokio::join!(drip(&outbound, BEGUN, b'y'), drip(&gateway, BEGUN, b'y'));
    for said in [dripped.0, dripped.1] {
        assert!(said.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&said));
    }
    for address in [&scene.outbound, &scene.gateway] {
        assert_eq!(get(address, "/others", &[]).await.status(), 200);
    }
    scene.mesh.assert_unharmed();
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// SETTINGS, and the first bytes of a HEADERS of 16 KiB.
const FRAME_BEGUN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\x40\0\x01\x04\0\0\0\x01x";

#[tokio::test]
async fn slow_http2_clients_hold_nothing_that_others_need() {
    let Some(python) = python() else { return };
    // For its app; its floods are another test's.
    let peer = Peer::start(&python, "http2_floods.py", &[]);
    let mut scene = Scene::start("http2", &peer.address()).await;
    let peaks = Peaks::of(&scene);
    let mut held = Vec::new();
    for address in [&scene.outbound, &scene.gateway] {
        for beginning in [&PREFACE[..10], PREFACE, FRAME_BEGUN] {
            held.push(hold(address, beginning).await);
        }
    }
    peaks.assert_bounded();
    for address in [&scene.outbound, &scene.gateway] {
        assert_eq!(ask(address).await, 200, "others are served meanwhile");
    }
    // A preface or a first request that comes a byte now and then is as late as one that does not come.
    let (outbound, gateway) = (scene.outbound.clone(), scene.gateway.clone());
    tokio::join!(
        drip(&outbound, b"", b'P'),
        drip(&gateway, b"", b'P'),
        drip(&outbound, FRAME_BEGUN, b'x'),
        drip(&gateway, FRAME_BEGUN, b'x'),
    );
    // Those that said nothing more were cut by then, or are.
    for stream in held.iter_mut().flatten() {
        let ended = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "a connection that asks for nothing is never ended");
    }
    scene.mesh.assert_unharmed();
}
