//! Redirected connections, in a network namespace of the test's own. Without the right to make one the
//! tests say so and are left out.

use std::net::SocketAddr;
use std::process::Command;

use signet_identity::PeerClass;
use signet_identity::testing::TestCa;
use signet_proxy::listener::Kind;
use signet_proxy::state::{EndpointSpec, PortSpec, Protocol, ServiceSpec, Timeouts, Wanted};

use crate::support::app::echo;
use crate::support::caller::{Client, connected, within};
use crate::support::{Node, WEB, generation, inbound};

/// Runs a test in a namespace with a loopback of its own, or says that it cannot.
pub fn in_namespace(test: impl Future<Output = ()> + Send + 'static) {
    // A thread of its own: entering a namespace changes the thread, and what it starts, for good.
    let done = std::thread::spawn(move || {
        // SAFETY: changes nothing but which network this thread sees.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return false;
        }
        run("ip", &["link", "set", "lo", "up"]);
        // Addresses behind which services are: routed to this host.
        run("ip", &["addr", "add", "10.96.0.7/32", "dev", "lo"]);
        run("ip", &["-6", "addr", "add", "fd00::7/128", "dev", "lo", "nodad"]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test);
        true
    });
    if !done.join().unwrap() {
        assert!(std::env::var_os("CI").is_none(), "CI must run the tests of redirected connections");
        eprintln!("left out: no right to make a network namespace");
    }
}

pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn redirect(program: &str, address: &str, to: u16) {
    let to = to.to_string();
    let rule = [
        "-t",
        "nat",
        "-A",
        "OUTPUT",
        "-p",
        "tcp",
        "-d",
        address,
        "--dport",
        "80",
        "-j",
        "REDIRECT",
        "--to-ports",
        &to,
    ];
    run(program, &rule);
}

fn service(ca: &TestCa, at: SocketAddr, addresses: &[&str]) -> ServiceSpec {
    ServiceSpec {
        name: "orders.shop".into(),
        ports: vec![PortSpec {
            name: "main".into(),
            port: 80,
            protocol: Protocol::Http1,
            timeouts: Timeouts::default(),
            requests_only: false,
        }],
        identities: vec![ca.id("ns/shop/sa/orders")],
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        endpoints: vec![EndpointSpec {
            address: at.ip(),
            ports: [("main".to_owned(), at.port())].into(),
            identity: None,
            behind: None,
        }],
        ..Default::default()
    }
}

#[test]
fn the_original_destination_chooses_the_service_over_both_ip_versions() {
    in_namespace(async {
        let ca = TestCa::new("demo.signet");
        let mut orders = Node::new(generation(&ca, "ns/shop/sa/orders", PeerClass::Sidecar));
        orders.serves(Protocol::Http1, &[WEB]);
        let at = orders.start(vec![inbound(echo().await)])[0];
        let mut web = Node::new(generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar));
        web.state.update_endpoints(|endpoints| {
            endpoints.apply([service(&ca, at, &["10.96.0.7", "fd00::7"])], [] as [&str; 0])
        });
        let redirects = web
            .start_at(vec![("0.0.0.0:0", Kind::TransparentOutbound), ("[::]:0", Kind::TransparentOutbound)]);
        redirect("iptables", "10.96.0.7", redirects[0].port());
        redirect("ip6tables", "fd00::7", redirects[1].port());
        for address in ["10.96.0.7:80", "[fd00::7]:80"] {
            let mut client = Client::to(address.parse().unwrap()).await;
            let answer = client.request("/", &[("host", "somebody-else.example")]).await;
            assert_eq!(answer.status, 400, "two Hosts: the helper's own and another");
            let mut client = Client::to(address.parse().unwrap()).await;
            let answer = client.get("/").await;
            assert_eq!(answer.status, 200, "{address}");
        }
        // Straight at the redirect listener: the original destination is the listener itself.
        for listener in
            [format!("127.0.0.1:{}", redirects[0].port()), format!("[::1]:{}", redirects[1].port())]
        {
            let mut client = Client::to(listener.parse().unwrap()).await;
            assert_ne!(client.ended().await, Some(false), "{listener}");
        }
        let labels = [("direction", "outbound"), ("reason", "destination-unknown")];
        web.counts("signet_refusals_total", &labels, 2).await;
    });
}

#[test]
fn an_unknown_destination_is_refused_unless_the_mesh_says_otherwise() {
    in_namespace(async {
        let ca = TestCa::new("demo.signet");
        let mut web = Node::new(generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar));
        let redirects = web.start_at(vec![("0.0.0.0:0", Kind::TransparentOutbound)]);
        run("ip", &["addr", "add", "192.0.2.7/32", "dev", "lo"]);
        let app = crate::support::app::echo_at("192.0.2.7:8080").await;
        let to = redirects[0].port().to_string();
        let port = app.port().to_string();
        // The sidecar is exempt, as it is in a pod: here by a mark-free rule on the app's source address.
        run("ip", &["addr", "add", "10.1.1.1/32", "dev", "lo"]);
        run(
            "iptables",
            &[
                "-t",
                "nat",
                "-A",
                "OUTPUT",
                "-p",
                "tcp",
                "-s",
                "10.1.1.1",
                "--dport",
                &port,
                "-j",
                "REDIRECT",
                "--to-ports",
                &to,
            ],
        );
        let call = || async {
            let stream = connected(Some("10.1.1.1:0".parse().unwrap()), app).await;
            Client { stream, unread: Vec::new() }
        };
        assert_ne!(call().await.ended().await, Some(false));
        let mesh = signet_proxy::state::MeshSettings { egress_allow: true, ..Default::default() };
        web.state.update_policy(|policy| policy.with_mesh(mesh));
        // As long as nobody has said that it is not the mesh's, it may be.
        assert_ne!(call().await.ended().await, Some(false));
        let nobodys = app.ip().to_string();
        web.state.update_endpoints(|endpoints| endpoints.refuse(&nobodys, "no service has this address"));
        let answer = call().await.get("/outside").await;
        assert!(answer.text().starts_with("GET /outside"), "{}", answer.text());
        // A listener of ours is never a destination, or it would call itself for ever.
        let mut itself = Client::to(format!("127.0.0.1:{}", redirects[0].port()).parse().unwrap()).await;
        assert_ne!(itself.ended().await, Some(false));
        let labels = [("direction", "outbound"), ("service", "outside")];
        assert_eq!(web.counter("signet_connections_total", &labels), 1, "the call to the app alone");
        // An endpoint of the mesh is not outside, however it is dialled: at the port where it is served it is called over the
        // mesh, where nobody of it answers here.
        web.state.update_endpoints(|endpoints| endpoints.apply([service(&ca, app, &[])], [] as [&str; 0]));
        let answer = call().await.get("/").await;
        assert_eq!((answer.status, answer.header("signet-deny-reason")), (503, Some("peer-handshake")));
    });
}

#[test]
fn a_redirected_peer_reaches_the_app_that_it_dialled() {
    in_namespace(async {
        let ca = TestCa::new("demo.signet");
        let mut orders = Node::new(generation(&ca, "ns/shop/sa/orders", PeerClass::Sidecar));
        orders.serves(Protocol::Http1, &[WEB]);
        let redirects = orders.start_at(vec![("0.0.0.0:0", Kind::TransparentInbound)]);
        let app = crate::support::app::echo_at("10.96.0.7:80").await;
        // Peers come from another address than the sidecar's own call to the app.
        run("ip", &["addr", "add", "10.1.1.2/32", "dev", "lo"]);
        let to = redirects[0].port().to_string();
        run(
            "iptables",
            &[
                "-t",
                "nat",
                "-A",
                "OUTPUT",
                "-p",
                "tcp",
                "-s",
                "10.1.1.2",
                "-d",
                "10.96.0.7",
                "--dport",
                "80",
                "-j",
                "REDIRECT",
                "--to-ports",
                &to,
            ],
        );
        let web = generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar);
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("10.1.1.2:0".parse().unwrap()).unwrap();
        let socket = socket.connect(app).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(web.client_config(signet_identity::Alpn::Http1));
        let name = signet_identity::server_name(&ca.id("ns/shop/sa/orders"));
        let stream = connector.connect(name, socket).await.unwrap();
        let mut client = Client { stream, unread: Vec::new() };
        let answer = client.get("/there").await;
        assert_eq!(answer.status, 200);
        assert!(answer.text().starts_with("GET /there"), "{}", answer.text());
    });
}

#[test]
fn an_endpoints_own_address_reaches_that_endpoint_alone_and_only_if_it_is_who_it_must_be() {
    in_namespace(async {
        let ca = TestCa::new("demo.signet");
        let places = ["10.1.2.1", "10.1.2.2", "10.1.2.3"];
        let (mut nodes, mut specs) = (Vec::new(), Vec::new());
        for (place, identity) in places.into_iter().zip(["orders", "orders-b", "impostor"]) {
            run("ip", &["addr", "add", &format!("{place}/32"), "dev", "lo"]);
            let mut node = Node::new(generation(&ca, &format!("ns/shop/sa/{identity}"), PeerClass::Sidecar));
            node.serves(Protocol::Http1, &[WEB]);
            let at = node.start_at(vec![(&format!("{place}:0"), inbound(echo().await))])[0];
            // Of the third somebody else is expected than who is there.
            let expected = if identity == "impostor" { "orders" } else { identity };
            specs.push(EndpointSpec {
                address: at.ip(),
                ports: [("main".to_owned(), at.port())].into(),
                identity: Some(ca.id(&format!("ns/shop/sa/{expected}"))),
                behind: None,
            });
            nodes.push(node);
        }
        let mut web = Node::new(generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar));
        let mut headless = service(&ca, "127.0.0.1:1".parse().unwrap(), &[]);
        headless.identities.push(ca.id("ns/shop/sa/orders-b"));
        headless.endpoints = specs;
        // The mesh's default would let anybody call what is nobody's.
        let mesh = signet_proxy::state::MeshSettings { egress_allow: true, ..Default::default() };
        web.state.update_policy(|policy| policy.with_mesh(mesh));
        web.state.update_endpoints(|endpoints| endpoints.apply([headless.clone()], [] as [&str; 0]));
        let redirects = web.start_at(vec![("0.0.0.0:0", Kind::TransparentOutbound)]);
        let served = |node: &Node| {
            node.counter("signet_connections_total", &[("direction", "inbound"), ("service", "orders.shop")])
        };
        for place in places {
            redirect("iptables", place, redirects[0].port());
        }
        // Routes of the service lead elsewhere; none of them is for a call of one endpoint.
        let elsewhere = r#"{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"namespace":"shop","name":"orders"},"spec":{"parentRefs":[{"kind":"Service","name":"orders"}],"rules":[{"filters":[{"type":"RequestRedirect","requestRedirect":{"hostname":"other.example.com"}}]}]}}"#;
        let route = signet_model::AnyRoute::from_json(elsewhere).unwrap();
        let calls = signet_proxy::state::Calls::compile(&"orders.shop".parse().unwrap(), &vec![route].into());
        let calls = std::sync::Arc::new(calls);
        web.state.update_endpoints(|known| known.with_calls("orders.shop", Some(calls.clone())));
        // Each by itself, on one connection and on many.
        for (number, place) in places[..2].iter().enumerate() {
            for _ in 0..8 {
                let mut client = Client::to(format!("{place}:80").parse().unwrap()).await;
                for _ in 0..2 {
                    assert_eq!(client.get("/").await.status, 200, "{place}");
                }
            }
            assert!(served(&nodes[number]) > 0);
            assert_eq!(nodes[number + 1..].iter().map(served).sum::<u64>(), 0, "{place} alone");
        }
        // Somebody else answers: no other endpoint steps in, and nothing goes there in plaintext.
        let mut client = Client::to(format!("{}:80", places[2]).parse().unwrap()).await;
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.header("signet-deny-reason")), (503, Some("peer-handshake")));
        assert_eq!(served(&nodes[2]), 0);
        // The endpoint goes while the app's connection stands: the app is told, and nobody else is asked.
        let mut client = Client::to(format!("{}:80", places[0]).parse().unwrap()).await;
        assert_eq!(client.get("/").await.status, 200);
        headless.endpoints.remove(0);
        web.state.update_endpoints(|endpoints| endpoints.apply([headless.clone()], [] as [&str; 0]));
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.header("signet-deny-reason")), (503, Some("no-endpoint")));
    });
}

#[test]
fn a_port_of_an_endpoints_address_that_no_service_has_is_not_dialled_in_plaintext() {
    in_namespace(async {
        let ca = TestCa::new("demo.signet");
        run("ip", &["addr", "add", "10.1.2.1/32", "dev", "lo"]);
        let app = crate::support::app::echo_at("10.1.2.1:80").await;
        let mut web = Node::new(generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar));
        let mesh = signet_proxy::state::MeshSettings { egress_allow: true, ..Default::default() };
        web.state.update_policy(|policy| policy.with_mesh(mesh));
        let mut other = service(&ca, "10.1.2.1:9".parse().unwrap(), &[]);
        other.ports[0].port = 81;
        web.state.update_endpoints(|endpoints| endpoints.apply([other.clone()], [] as [&str; 0]));
        // Even where somebody once said that it is nobody's.
        web.state.update_endpoints(|endpoints| endpoints.refuse("10.1.2.1", "no service has this address"));
        let redirects = web.start_at(vec![("0.0.0.0:0", Kind::TransparentOutbound)]);
        redirect("iptables", "10.1.2.1", redirects[0].port());
        let mut client = Client::to(app).await;
        assert_ne!(client.ended().await, Some(false));
        web.counts("signet_refusals_total", &[("direction", "outbound"), ("reason", "port-unknown")], 1)
            .await;
    });
}

#[test]
fn a_port_that_none_of_the_services_at_an_address_has_is_refused_at_once_when_all_of_them_are_known() {
    in_namespace(async {
        let ca = TestCa::new("demo.signet");
        let mut web = Node::new(generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar));
        let address: std::net::IpAddr = "10.96.0.7".parse().unwrap();
        let knows = |name: &str, port: u16, others: Option<&[&str]>| {
            let mut known = service(&ca, "10.1.2.1:9".parse().unwrap(), &["10.96.0.7"]);
            (known.name, known.ports[0].port) = (name.to_owned(), port);
            known.endpoints.clear();
            known.sharing =
                others.map(|others| [(address, others.iter().map(|&name| name.into()).collect())].into());
            known
        };
        let redirects = web.start_at(vec![("0.0.0.0:0", Kind::TransparentOutbound)]);
        redirect("iptables", "10.96.0.7", redirects[0].port());
        let dials = || async {
            let mut client = Client::to("10.96.0.7:80".parse().unwrap()).await;
            assert_ne!(client.ended().await, Some(false));
        };
        let soon = std::time::Duration::from_millis(500);
        // There is another one, which may have the port: it is asked for, and waited for no longer than it takes.
        web.state.update_endpoints(|endpoints| {
            endpoints.apply([knows("db.shop", 81, Some(&["cache.shop"]))], [] as [&str; 0])
        });
        let dialled = tokio::spawn(dials());
        assert_eq!(within(web.wanted.recv()).await, Some(Wanted::Address(address)));
        let begin = std::time::Instant::now();
        web.state.update_endpoints(|endpoints| {
            endpoints.apply([knows("cache.shop", 82, Some(&["db.shop"]))], [] as [&str; 0])
        });
        dialled.await.unwrap();
        // Now all are known.
        dials().await;
        assert!(begin.elapsed() < soon, "{:?}", begin.elapsed());
        assert!(web.wanted.try_recv().is_err());
        web.counts("signet_refusals_total", &[("direction", "outbound"), ("reason", "port-unknown")], 2)
            .await;
        // A control plane that does not say who else is there has to be asked.
        web.state
            .update_endpoints(|endpoints| endpoints.apply([knows("db.shop", 81, None)], [] as [&str; 0]));
        let dialled = tokio::spawn(dials());
        assert_eq!(within(web.wanted.recv()).await, Some(Wanted::Address(address)));
        dialled.abort();
    });
}
