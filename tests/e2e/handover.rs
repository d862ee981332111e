//! A planned restart: a sidecar hands its listeners and its identity to a successor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use signet_tests::apps::Echo;
use signet_tests::client::get;
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::process::{PATIENCE, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use crate::pair::{Pair, pair};

/// One client after HTTP's own rules: it keeps its connection, and opens another when it was told to, or when a request that
/// had no answer may be sent again (RFC 9110, 9.2.2).
async fn client(
    address: String,
    method: &'static str,
    stop: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
) -> Vec<String> {
    let mut failures = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let stream = TcpStream::connect(&address).await.expect("nobody is refused");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let driver = tokio::spawn(connection);
        while !stop.load(Ordering::SeqCst) && sender.ready().await.is_ok() {
            // A connection that closes under a POST is a failure.
            let request = Request::builder().method(method).uri("/").header("host", "server");
            let body = if method == "GET" { Bytes::new() } else { Bytes::from("x") };
            let request = request.body(Full::new(body));
            match sender.send_request(request.unwrap()).await {
                Ok(answer) if answer.status() == 200 => match answer.into_body().collect().await {
                    Ok(_) => drop(good.fetch_add(1, Ordering::SeqCst)),
                    // An answer that was cut: it asks again.
                    Err(_) if method == "GET" => break,
                    Err(error) => failures.push(format!("body: {error}")),
                },
                Ok(answer) => failures.push(answer.status().to_string()),
                Err(_) if method == "GET" => break,
                Err(error) => failures.push(error.to_string()),
            }
        }
        driver.abort();
    }
    failures
}

/// Lets the sidecar pass on, and waits until its successor is ready; its process.
async fn pass_on(mesh: &Mesh, name: &str, before: u32) -> u32 {
    let process = mesh.sidecar(name);
    let told = process.log().matches("a successor accepts").count();
    // SAFETY: the process group is this test's own, and the process is a member of it.
    unsafe { libc::kill(i32::try_from(before).unwrap(), libc::SIGUSR2) };
    let log = || mesh.sidecar(name).log();
    until(&format!("a successor of {name}"), || {
        (log().matches("a successor accepts").count() > told).then_some(())
    })
    .await;
    let line = log().lines().rfind(|line| line.contains("a successor accepts")).unwrap().to_owned();
    let pid = line.split("pid=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    until(&format!("the process before the successor of {name} to end"), || is_gone(before).then_some(()))
        .await;
    pid
}

fn is_gone(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => true,
    }
}

#[tokio::test]
async fn both_sidecars_restart_again_and_again_under_load_and_of_fifty_thousand_requests_none_fails() {
    let mut pair = Pair::start("http").await;
    pair.mesh.adopt_successors();
    let (stop, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|_| tokio::spawn(client(pair.entry.clone(), "POST", stop.clone(), good.clone())))
        .collect();
    let (mut caller, mut called) = (pair.mesh.sidecar("client").pid(), pair.mesh.sidecar("server").pid());
    let mut restarts = 0;
    while good.load(Ordering::SeqCst) < 50_000 || restarts < 6 {
        if restarts < 6 {
            caller = pass_on(&pair.mesh, "client", caller).await;
            called = pass_on(&pair.mesh, "server", called).await;
            restarts += 2;
        } else {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    stop.store(true, Ordering::SeqCst);
    let mut failures = Vec::new();
    for client in clients {
        failures.extend(client.await.unwrap());
    }
    let count = good.load(Ordering::SeqCst);
    assert!(
        failures.is_empty(),
        "{} of {count} failed: {:?}",
        failures.len(),
        &failures[..failures.len().min(5)]
    );
    // One identity all the way: nobody joined twice, and the certificate is the first one still.
    for name in ["client", "server"] {
        assert_eq!(pair.mesh.sidecar(name).log().matches("svid issued").count(), 1);
        assert_eq!(pair.mesh.sidecar(name).log().matches("svid taken over").count(), 3);
    }
    assert_eq!(pair.mesh.addresses("client")["outbound/server.shop/main"], pair.entry);
}

/// What a gateway does without routes: it passes on what other clusters call, and calls out.
#[tokio::test]
async fn a_gateway_of_other_clusters_and_of_the_way_out_restarts_under_load_and_what_may_be_asked_again_is_answered()
 {
    let app = Echo::start().await;
    let (inbound, east_west, egress) = (free_address(), free_address(), free_address());
    let (far, bank) = (free_address(), free_address());
    let port = |address: &str| address.rsplit(':').next().unwrap().to_owned();
    let endpoint =
        |listen: &str| format!("endpoints: [{{address: 127.0.0.1, ports: {{main: {}}}", port(listen));
    let documents = [
        service("server", "shop", "main", "http", &inbound),
        permit("client-may", "shop", "server", "ns/shop/sa/client", ""),
        format!(
            "kind: Service\nmetadata: {{namespace: shop, name: far}}\nspec:\n  identities: [ns/shop/sa/server]\n  \
             ports: [{{name: main, port: 80, protocol: http}}]\n  {}, throughGateway: {{service: server.shop}}}}]\n",
            endpoint(&east_west)
        ),
        format!(
            "kind: Service\nmetadata: {{namespace: infra, name: door}}\nspec:\n  \
             ports: [{{name: main, port: 15008, protocol: tcp}}]\n  {}}}]\n",
            endpoint(&egress)
        ),
        "kind: Gateway\nmetadata: {namespace: infra, name: door}\nspec:\n  identity: ns/infra/sa/door\n  \
         eastWest: {services: [server.shop]}\n  egress: {}\n"
            .to_owned(),
        format!(
            "kind: ExternalService\nmetadata: {{namespace: shop, name: bank}}\nspec:\n  hosts: [bank.example.com]\n  \
             addresses: [127.0.0.1]\n  ports: [{{name: main, port: 80, targetPort: {}}}]\n  \
             through: {{service: door.infra, port: main}}\n",
            port(&app.address)
        ),
    ];
    let mut mesh = Mesh::builder()
        .registry(documents.join("---\n"))
        .sidecar(Sidecar::new(
            "server.shop",
            format!(
                "inbound: [{{service: server.shop, port: main, listen: '{inbound}', app: 'tcp:{}'}}]\n",
                app.address
            ),
        ))
        .sidecar(Sidecar::new(
            "client.shop",
            format!(
                "outbound:\n- {{listen: '{far}', service: far.shop, port: main}}\n\
                 - {{listen: '{bank}', service: bank.shop, port: main}}\n"
            ),
        ))
        .sidecar(Sidecar::gateway(
            "door.infra",
            format!(
                "gateway: {{resource: door.infra, eastWest: {{listen: '{east_west}'}}, egress: {{listen: '{egress}'}}}}\n"
            ),
        ))
        .start()
        .await;
    mesh.adopt_successors();
    let (stop, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    for entry in [&far, &bank] {
        while get(entry, "/", &[]).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // What it passes on unopened it cannot end between two requests: it is cut when the drain is over, and what may be sent
    // again is.
    let clients: Vec<_> = [&far, &bank, &far, &bank]
        .map(|entry| tokio::spawn(client(entry.clone(), "GET", stop.clone(), good.clone())))
        .into();
    let mut process = mesh.sidecar("door").pid();
    for _ in 0..3 {
        let before = good.load(Ordering::SeqCst);
        process = pass_on(&mesh, "door", process).await;
        until("requests by the successor", || (good.load(Ordering::SeqCst) > before + 500).then_some(()))
            .await;
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        assert_eq!(client.await.unwrap(), Vec::<String>::new());
    }
    assert_eq!(mesh.sidecar("door").log().matches("svid taken over").count(), 3);
}

#[tokio::test]
async fn a_stream_lives_through_a_restart_and_the_successor_renews() {
    let greeter = signet_tests::apps::greeter().await;
    let (entry, inbound) = (free_address(), free_address());
    let builder = pair(Mesh::builder().svid_seconds(20), "tcp", &greeter, &entry, &inbound);
    let mesh = builder.start().await;
    let mut pair = Pair { mesh, app: Echo::start().await, entry };
    pair.mesh.adopt_successors();
    let mut stream = TcpStream::connect(&pair.entry).await.unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).await.unwrap();
    let before = pair.mesh.sidecar("client").pid();
    // SAFETY: as above.
    unsafe { libc::kill(i32::try_from(before).unwrap(), libc::SIGUSR2) };
    pair.mesh.sidecar("client").logged("a successor accepts").await;
    // The old process carries on what it has; the new one takes what comes.
    stream.write_all(b"x").await.unwrap();
    let mut fresh = TcpStream::connect(&pair.entry).await.unwrap();
    fresh.read_exact(&mut byte).await.unwrap();
    pair.mesh.sidecar("client").logged("svid renewed").await;
    assert!(!pair.mesh.logs().contains("revoked"), "{}", pair.mesh.logs());
}

/// The id of a query, and its answer's code and last four bytes: the address.
async fn look_up(server: &str, id: u16) -> (u8, [u8; 4]) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    let [high, low] = id.to_be_bytes();
    let mut query = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(b"\x06server\x04shop\x00\x00\x01\x00\x01");
    socket.send(&query).await.unwrap();
    let mut answer = [0; 512];
    let count = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await.expect("an answer").unwrap();
    let answer = &answer[..count];
    assert_eq!(answer[..2], query[..2], "the id");
    (answer[3] & 15, answer[count - 4..].try_into().unwrap())
}

#[tokio::test]
async fn names_are_answered_while_a_sidecar_restarts_and_no_query_is_lost() {
    let app = Echo::start().await;
    let (entry, inbound, names) = (free_address(), free_address(), free_address());
    let virtual_address = "spec:\n  addresses: [10.96.3.1]\n";
    let server = service("server", "shop", "main", "http", &inbound).replacen("spec:\n", virtual_address, 1);
    let mut mesh = Mesh::builder()
        .registry(server)
        .registry(permit("client-may", "shop", "server", "ns/shop/sa/client", ""))
        .sidecar(Sidecar::new(
            "server.shop",
            format!(
                "inbound: [{{service: server.shop, port: main, listen: '{inbound}', app: 'tcp:{}'}}]\n",
                app.address
            ),
        ))
        .sidecar(Sidecar::new(
            "client.shop",
            format!(
                "outbound: [{{listen: '{entry}', service: server.shop, port: main}}]\ndns: {{listen: ['{names}']}}\n"
            ),
        ))
        .start()
        .await;
    mesh.adopt_successors();
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let asking: Vec<_> = (0..4)
        .map(|one| {
            let (names, stop, asked) = (names.clone(), stop.clone(), asked.clone());
            tokio::spawn(async move {
                let mut id = one * 1000;
                while !stop.load(Ordering::SeqCst) {
                    id = u16::wrapping_add(id, 1);
                    assert_eq!(look_up(&names, id).await, (0, [10, 96, 3, 1]));
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut process = mesh.sidecar("client").pid();
    for _ in 0..8 {
        let before = asked.load(Ordering::SeqCst);
        process = pass_on(&mesh, "client", process).await;
        until("names by the successor", || (asked.load(Ordering::SeqCst) > before + 200).then_some(())).await;
    }
    stop.store(true, Ordering::SeqCst);
    for one in asking {
        one.await.expect("every query is answered");
    }
    assert_eq!(get(&entry, "/", &[]).await.status(), 200);
}

#[tokio::test]
async fn a_successor_that_cannot_start_changes_nothing() {
    let mut pair = Pair::start("http").await;
    pair.mesh.adopt_successors();
    let config = pair.mesh.path("client/sidecar.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}\nsurprise: 1\n")).unwrap();
    pair.mesh.sidecar("client").signal(libc::SIGUSR2);
    pair.mesh.sidecar("client").logged("no planned restart; going on").await;
    assert_eq!(get(&pair.entry, "/", &[]).await.status(), 200);
    // And with the file mended it works.
    std::fs::write(&config, text).unwrap();
    let before = pair.mesh.sidecar("client").pid();
    pass_on(&pair.mesh, "client", before).await;
    assert_eq!(get(&pair.entry, "/", &[]).await.status(), 200);
    // Nobody is a successor by saying so.
    let program = signet_tests::process::binary("signet-sidecar");
    let ended = std::process::Command::new(program)
        .args(["--config".as_ref(), config.as_os_str(), "--successor".as_ref()])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&ended.stderr).contains("expected a process that hands over"),
        "{ended:?}"
    );
}
