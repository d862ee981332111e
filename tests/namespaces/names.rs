//! Captured DNS: an app looks up names as ever, and its sidecar answers those of the mesh. A real resolver knows the rest.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;

use signet_tests::mesh::{Mesh, Sidecar, permit};
use signet_tests::process::PATIENCE;

use crate::outside::Resolver;
use crate::pods::{APP_UID, OUTSIDE, Pods, SERVER, SIDECAR_UID, execute, inside};
use crate::redirect::BACKENDS;
use crate::{app, curl};

const SERVICE: [&str; 2] = ["10.96.3.1", "fd96::3:1"];
const SEARCH: &str = "shop.svc.cluster.local svc.cluster.local cluster.local";
const WORLD: (&str, &str) = ("www.example.com", "203.0.113.10");
const HEADLESS: (&str, &str) = ("db.shop.svc.cluster.local", "10.77.0.2");

/// A service with virtual addresses, and one without.
fn services() -> String {
    let service = |name: &str, more: &str| {
        format!(
            "kind: Service\nmetadata: {{namespace: shop, name: {name}}}\nspec:\n  identities: [ns/shop/sa/server]\n{more}  \
             ports: [{{name: main, port: 8080, protocol: http}}]\n  \
             endpoints: [{{address: '{}', ports: {{main: 8080}}, identity: ns/shop/sa/server}}]\n",
            SERVER[0]
        )
    };
    let addresses = format!("  addresses: ['{}', '{}']\n", SERVICE[0], SERVICE[1]);
    // Of another port, since both are at one pod.
    let db = service("db", "").replace("port: 8080", "port: 5432").replace("http}", "tcp}");
    format!("{}---\n{db}", service("orders", &addresses))
}

/// What the app's own resolver, the system's, says of a name; none where it says nothing.
fn looked_up(pods: &Pods, database: &str, name: &str) -> Vec<String> {
    let output = execute(&pods.client, &format!("getent {database} {name}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut found: Vec<_> =
        text.lines().filter_map(|line| line.split_whitespace().next().map(ToOwned::to_owned)).collect();
    found.dedup();
    found
}

/// A query as `dig` makes it.
fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut packet = vec![0x5e, 0x7a, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).expect("a label"));
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    packet.extend_from_slice(&kind.to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    packet
}

/// The code, and the last bytes of the answer: the address, where there is one. It must come from whom was asked.
fn digs(pods: &Pods, user: u32, server: &str, tcp: bool, name: &str, kind: u16) -> Option<(u8, Vec<u8>)> {
    let server = SocketAddr::new(server.parse().expect("an address"), 53);
    let packet = query(name, kind);
    let answer = inside(&pods.client, Some(user), || {
        if tcp {
            let mut stream = TcpStream::connect_timeout(&server, PATIENCE).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            let length = u16::try_from(packet.len()).expect("short").to_be_bytes();
            stream.write_all(&[&length[..], &packet].concat()).ok()?;
            let mut length = [0; 2];
            stream.read_exact(&mut length).ok()?;
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer).ok()?;
            return Some(answer);
        }
        // The same port each time: to the kernel one flow with whatever was asked from it before, by whomever.
        let any = if server.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let socket = UdpSocket::bind((any, 61_000)).expect("a socket");
        socket.connect(server).expect("a destination");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.send(&packet).ok()?;
        let mut answer = vec![0; 4096];
        let count = socket.recv(&mut answer).ok()?;
        answer.truncate(count);
        Some(answer)
    })?;
    assert_eq!(answer[..2], packet[..2], "the id");
    let size = if kind == 28 { 16 } else { 4 };
    let address = if answer[7] > 0 { answer[answer.len() - size..].to_vec() } else { Vec::new() };
    Some((answer[3] & 15, address))
}

fn bytes(ip: &str) -> Vec<u8> {
    match ip.parse().expect("an address") {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

async fn mesh(pods: &Pods) -> Mesh {
    let outbound = "outbound: ['0.0.0.0:15001', '[::]:15001']";
    let inbound = "inbound: ['0.0.0.0:15006', '[::]:15006'], serves: [orders.shop]";
    let dns = "dns: {listen: ['127.0.0.1:15053', '[::1]:15053']}";
    Mesh::builder()
        .control_plane_in(&pods.outside, OUTSIDE[0])
        .registry(services())
        .registry(permit(
            "client-may",
            "shop",
            "orders",
            "ns/shop/sa/client",
            "  to: {paths: ['/stock/{sku}']}\n",
        ))
        .sidecar(
            Sidecar::new("server.shop", format!("transparent: {{{outbound}, {inbound}}}\n"))
                .in_pod(&pods.server, SIDECAR_UID),
        )
        .sidecar(
            Sidecar::new("client.shop", format!("transparent: {{{outbound}}}\n{dns}\n"))
                .in_pod(&pods.client, SIDECAR_UID),
        )
        .start()
        .await
}

async fn resolver(pods: &Pods, scratch: &Path) -> Option<Resolver> {
    Resolver::start(pods, scratch, SEARCH, &[WORLD, HEADLESS]).await
}

#[tokio::test]
async fn an_app_calls_a_service_by_a_name_that_only_its_sidecar_knows_and_the_rest_is_as_its_resolver_says() {
    let Some(pods) = Pods::make() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let Some(mut resolver) = resolver(&pods, scratch.path()).await else { return };
    pods.redirected(&pods.server, &format!("apply --uid {SIDECAR_UID} --backend nftables"));
    let options = format!("--uid {SIDECAR_UID} --inbound-port none");
    pods.redirected(&pods.client, &format!("apply {options} --backend nftables"));
    let mut mesh = mesh(&pods).await;
    let host = format!("{}:8080", SERVER[0]);
    let _app = app(&pods, &host, scratch.path()).await;
    // Left alone: what the resolver does not know, nobody does.
    assert_eq!(looked_up(&pods, "ahostsv4", WORLD.0), [WORLD.1]);
    assert!(looked_up(&pods, "ahosts", "orders.shop.svc.cluster.local").is_empty());
    let past = digs(&pods, APP_UID, OUTSIDE[0], false, "orders.shop", 1).expect("an answer");
    assert!(past.0 != 0 && past.1.is_empty(), "{past:?}");
    for backend in BACKENDS {
        let capture = format!("--backend {backend} --dns capture");
        for _ in 0..2 {
            pods.redirected(&pods.client, &format!("apply {options} {capture}"));
            pods.redirected(&pods.client, &format!("check {options} {capture}"));
        }
        // As the sidecar is configured, which says it, too; and otherwise it is a difference.
        let config = mesh.path("client").join("sidecar.yaml");
        let by_file = format!("--uid {SIDECAR_UID} --backend {backend} --config {}", config.display());
        pods.redirected(&pods.client, &format!("check {by_file}"));
        assert!(
            !pods.redirect(&pods.client, &format!("check {options} --backend {backend}")).status.success()
        );

        for name in
            ["orders", "orders.shop", "orders.shop.svc", "orders.shop.svc.cluster.local", "ORDERS.shop"]
        {
            assert_eq!(looked_up(&pods, "ahostsv4", name), [SERVICE[0]], "{backend}: {name}");
            assert_eq!(looked_up(&pods, "ahostsv6", name), [SERVICE[1]], "{backend}: {name}");
            let answer = curl(&pods.client, &format!("http://{name}:8080/stock/apple")).await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("in_stock"), "{name}: {answer}");
        }
        assert_eq!(looked_up(&pods, "ahostsv4", WORLD.0), [WORLD.1], "{backend}");
        assert_eq!(looked_up(&pods, "ahostsv4", "db"), [HEADLESS.1], "{backend}: headless");
        assert!(looked_up(&pods, "ahosts", "nothing.shop").is_empty(), "{backend}");
        // Whatever the app asks, over whatever, by either family: nobody listens at the second address.
        for server in OUTSIDE {
            for tcp in [false, true] {
                let digs = |name, kind| digs(&pods, APP_UID, server, tcp, name, kind);
                let what = format!("{backend} {server} tcp: {tcp}");
                assert_eq!(digs("orders.shop", 1), Some((0, bytes(SERVICE[0]))), "{what}");
                assert_eq!(digs("orders.shop", 28), Some((0, bytes(SERVICE[1]))), "{what}");
                assert_eq!(digs("orders.shop", 15), Some((0, Vec::new())), "{what}");
                assert_eq!(digs(WORLD.0, 1), Some((0, bytes(WORLD.1))), "{what}");
            }
        }
        // The sidecar's own queries are its own: to it the resolver is whom it asks.
        let own = digs(&pods, SIDECAR_UID, OUTSIDE[0], false, "orders.shop", 1).expect("an answer");
        assert!(own.0 != 0 && own.1.is_empty(), "{backend}: {own:?}");
        // Who is excluded is not captured either.
        pods.redirected(&pods.client, &format!("apply {options} {capture} --exclude-uids {APP_UID}"));
        let left = digs(&pods, APP_UID, OUTSIDE[0], false, "orders.shop", 1).expect("an answer");
        assert!(left.0 != 0 && left.1.is_empty(), "{backend}: {left:?}");

        for _ in 0..2 {
            pods.redirected(&pods.client, "remove");
        }
        assert!(looked_up(&pods, "ahosts", "orders.shop").is_empty(), "{backend}: nothing is left");
        assert_eq!(looked_up(&pods, "ahostsv4", WORLD.0), [WORLD.1]);
    }
    // Without its resolver a pod has the mesh's names still, and no look-up hangs.
    pods.redirected(&pods.client, &format!("apply {options} --dns capture"));
    resolver.dnsmasq.signal(libc::SIGKILL);
    resolver.dnsmasq.wait().await;
    assert_eq!(looked_up(&pods, "ahostsv4", "orders.shop.svc.cluster.local"), [SERVICE[0]]);
    let failed = digs(&pods, APP_UID, OUTSIDE[0], false, WORLD.0, 1).expect("an answer");
    assert_eq!(failed, (2, Vec::new()), "SERVFAIL");
    // Without the sidecar the app is told so by the kernel, in words that it knows for its own query's.
    let client = mesh.sidecars.get_mut("client").expect("a sidecar");
    client.signal(libc::SIGKILL);
    client.wait().await;
    for backend in BACKENDS {
        pods.redirected(&pods.client, &format!("apply {options} --backend {backend} --dns capture"));
        for server in OUTSIDE {
            assert_eq!(unheard(&pods, server), ErrorKind::ConnectionRefused, "{backend} {server}");
        }
        pods.redirected(&pods.client, "remove");
    }
}

/// What becomes of a query for which nobody listens.
fn unheard(pods: &Pods, server: &str) -> ErrorKind {
    let server = SocketAddr::new(server.parse().expect("an address"), 53);
    inside(&pods.client, Some(APP_UID), || {
        let any = if server.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let socket = UdpSocket::bind((any, 0)).expect("a socket");
        socket.connect(server).expect("a destination");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.send(&query("orders.shop", 1)).expect("a query");
        socket.recv(&mut [0; 512]).expect_err("an answer by nobody").kind()
    })
}
