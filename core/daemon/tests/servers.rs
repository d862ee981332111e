//! The admin socket and the metrics port against good clients, bad ones and slow ones.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use prometheus::{IntCounter, Registry};
use signet_daemon::{
    AdminResponse, AdminServer, LocalServer, MetricsServer, Routes, Shutdown, Trigger, shutdown::channel,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    task::JoinHandle,
    time::Instant,
};

struct Admin {
    _dir: tempfile::TempDir,
    path: PathBuf,
    trigger: Trigger,
    task: JoinHandle<()>,
}

fn admin() -> Admin {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let routes = Routes::new()
        .get("/config", async |_| AdminResponse::json(&serde_json::json!({"role": "sidecar"})))
        .post("/loglevel", async |request| {
            AdminResponse::text(format!("{} {}", request.query, String::from_utf8_lossy(&request.body)))
        })
        .post("/no", async |_| AdminResponse::error(StatusCode::CONFLICT, "not now"));
    let server = AdminServer::bind(&path, routes).unwrap();
    let (trigger, token) = channel();
    Admin { _dir: dir, path, trigger, task: tokio::spawn(server.run(token)) }
}

/// Sends these bytes and reads until the server closes.
async fn exchange(mut io: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    // A server that has already refused may close before everything is written.
    let _ = io.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = io.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

impl Admin {
    async fn ask(&self, request: &str) -> String {
        exchange(UnixStream::connect(&self.path).await.unwrap(), request).await
    }
}

#[tokio::test]
async fn the_admin_socket_answers_its_routes_and_nothing_else() {
    let admin = admin();
    let config = admin.ask("GET /config HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(config.starts_with("HTTP/1.1 200") && config.contains("\"role\": \"sidecar\""), "{config}");
    let level =
        admin.ask("POST /loglevel?target=all HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\ndebug").await;
    assert!(level.ends_with("target=all debug"), "{level}");
    let missing = admin.ask("GET /secrets HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(missing.starts_with("HTTP/1.1 404"), "{missing}");
    let wrong = admin.ask("GET /loglevel HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(wrong.starts_with("HTTP/1.1 405") && wrong.contains("allow: POST"), "{wrong}");
    let refused = admin.ask("POST /no HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 409") && refused.ends_with("not now\n"), "{refused}");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let admin = admin();
    let answer = admin
        .ask(&format!(
            "POST /loglevel HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n{}",
            "x".repeat(70_000)
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn garbage_and_oversized_heads_leave_the_admin_socket_working() {
    let admin = admin();
    for garbage in ["\u{16}\u{3}\u{1}\u{2}\u{0}not http", "GET / HTTP/9.9\r\n\r\n", "\r\n\r\n\r\n"] {
        let mut io = UnixStream::connect(&admin.path).await.unwrap();
        io.write_all(garbage.as_bytes()).await.unwrap();
        io.shutdown().await.unwrap();
        let mut answer = String::new();
        let _ = io.read_to_string(&mut answer).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let oversized = admin.ask(&format!("GET /config HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000))).await;
    assert!(oversized.is_empty() || oversized.starts_with("HTTP/1.1 4"), "{oversized}");
    assert!(admin.ask("GET /config HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn silent_clients_lose_their_place_after_the_deadline() {
    let admin = admin();
    let mut silent = Vec::new();
    // Twice as many as there are places, and some.
    for _ in 0..40 {
        silent.push(UnixStream::connect(&admin.path).await.unwrap());
    }
    // Time is paused and moves only while everybody waits: two rounds of the deadline for a head are before us.
    let begun = Instant::now();
    assert!(admin.ask("GET /config HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    let mut rest = Vec::new();
    silent[0].read_to_end(&mut rest).await.unwrap();
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_loses_its_place_after_the_deadline() {
    let admin = admin();
    let begun = Instant::now();
    let answer = admin.ask("POST /loglevel HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc").await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(31), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_admin_socket_answers_while_draining_and_ends_when_stopping() {
    let admin = admin();
    admin.trigger.drain();
    assert!(admin.ask("GET /config HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    let mut idle = UnixStream::connect(&admin.path).await.unwrap();
    admin.trigger.stop();
    admin.task.await.unwrap();
    let mut rest = Vec::new();
    let _ = idle.read_to_end(&mut rest).await;
    assert!(UnixStream::connect(&admin.path).await.is_err());
}

struct Metrics {
    address: SocketAddr,
    ready: Arc<AtomicBool>,
    trigger: Trigger,
}

async fn metrics() -> Metrics {
    let registry = Registry::new();
    let counter = IntCounter::new("signet_test_total", "Counts.").unwrap();
    registry.register(Box::new(counter.clone())).unwrap();
    counter.inc_by(7);
    let ready = Arc::new(AtomicBool::new(false));
    let asked = ready.clone();
    let server = MetricsServer::bind("127.0.0.1:0".parse().unwrap(), registry, move || {
        if asked.load(Ordering::SeqCst) { Ok(()) } else { Err("waiting for an identity".to_owned()) }
    })
    .await
    .unwrap();
    let address = server.local_addr().unwrap();
    let (trigger, token) = channel();
    tokio::spawn(server.run(token));
    Metrics { address, ready, trigger }
}

impl Metrics {
    async fn get(&self, path: &str) -> String {
        let io = TcpStream::connect(self.address).await.unwrap();
        exchange(io, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
    }
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let answer = metrics().await.get("/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("# TYPE signet_test_total counter\nsignet_test_total 7\n"), "{answer}");
}

#[tokio::test]
async fn readiness_follows_the_process_and_liveness_does_not() {
    let metrics = metrics().await;
    let not_yet = metrics.get("/ready").await;
    assert!(
        not_yet.starts_with("HTTP/1.1 503") && not_yet.ends_with("waiting for an identity\n"),
        "{not_yet}"
    );
    assert!(metrics.get("/live").await.starts_with("HTTP/1.1 200"));
    metrics.ready.store(true, Ordering::SeqCst);
    assert!(metrics.get("/ready").await.starts_with("HTTP/1.1 200"));
    metrics.trigger.drain();
    let draining = metrics.get("/ready").await;
    assert!(draining.starts_with("HTTP/1.1 503") && draining.ends_with("draining\n"), "{draining}");
    assert!(metrics.get("/live").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_metrics_port_serves_three_paths_to_readers_only() {
    let metrics = metrics().await;
    for path in ["/", "/config", "/metrics/", "/debug/pprof", "/metrics%2f"] {
        assert!(metrics.get(path).await.starts_with("HTTP/1.1 404"), "{path}");
    }
    let io = TcpStream::connect(metrics.address).await.unwrap();
    let answer = exchange(io, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("allow: GET, HEAD"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_or_writes_does_not_hold_the_metrics_port() {
    let metrics = metrics().await;
    let mut silent = Vec::new();
    for _ in 0..80 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut io = socket.connect(metrics.address).await.unwrap();
        // What is more than one address may have is closed.
        let _ = io.write_all(b"GET /metrics HTTP/1.1\r\nX: ").await;
        silent.push(io);
    }
    assert!(metrics.get("/live").await.starts_with("HTTP/1.1 200"), "others have their places");
    // Not for the deadline of the silent: the first one is there still.
    let mut first = silent.swap_remove(0).into_std().unwrap();
    let read = std::io::Read::read(&mut first, &mut [0]);
    assert!(matches!(&read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock), "{read:?}");
    let answer = tokio::time::timeout(Duration::from_secs(30), metrics.get("/live")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_token_for_ever_never_stops() {
    let token = Shutdown::never();
    assert!(!token.is_draining());
    tokio::select! {
        () = token.draining() => panic!("nobody asked for it"),
        () = tokio::task::yield_now() => {}
    }
}

#[tokio::test]
async fn a_socket_for_the_app_serves_whom_it_lists_and_hangs_up_on_others() {
    let dir = tempfile::tempdir().unwrap();
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(dir.path()).unwrap());
    let (trigger, token) = channel();
    let mut answers = Vec::new();
    for (name, uids) in [("ours", Some(vec![own])), ("others", Some(vec![own + 1])), ("any", None)] {
        let path = dir.path().join(name);
        let server = LocalServer::on_socket(&path, 0o666, uids).unwrap();
        assert_eq!(server.local_addr(), None);
        let echo = async |request: http::Request<bytes::Bytes>| http::Response::new(request.into_body());
        tokio::spawn(server.run(token.clone(), echo));
        let request = "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nhello";
        answers.push(exchange(UnixStream::connect(&path).await.unwrap(), request).await);
    }
    assert!(answers[0].ends_with("hello") && answers[2].ends_with("hello"), "{answers:?}");
    assert_eq!(answers[1], "", "hung up on before a byte was read");
    drop(trigger);
}

#[tokio::test]
async fn a_body_that_is_too_long_for_the_app_is_refused() {
    let (trigger, token) = channel();
    let server = LocalServer::on_loopback("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(server.run(token, async |_| http::Response::new(bytes::Bytes::from_static(b"taken"))));
    for (length, expected) in [(LocalServer::MAX_BODY, "200 OK"), (LocalServer::MAX_BODY + 1, "413 ")] {
        let request =
            format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{}", "x".repeat(length));
        let answer = exchange(TcpStream::connect(address).await.unwrap(), &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{length}: {answer}");
    }
    drop(trigger);
}
