//! To which port of ours a redirected connection is: what is served where it was for, and what its hello says of several.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls_pki_types::ServerName;
use signet_identity::testing::TestCa;
use signet_identity::{Alpn, Generation, PeerClass, routed_server_name, server_name};
use signet_policy::PolicySet;
use signet_proxy::listener::Kind;
use signet_proxy::state::{
    EndpointSpec, InboundPort, PortSpec, Protocol, Served, ServiceSpec, Timeouts, UserContext,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::redirect::{in_namespace, run};
use crate::support::app::echo_at;
use crate::support::caller::{Client, connected, within};
use crate::support::{Node, WEB, generation};

/// The pod; peers come from the loopback address, as a sidecar's calls to its own pod do.
const POD: &str = "10.1.2.1";
const PEER: &str = "127.0.0.1:0";
const TARGET: &str = "10.1.2.1:8080";
const ANYBODY: &str = r#"{"effect":"permit"}"#;
const NOBODY: &str = r#"{"effect":"forbid"}"#;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A service whose callers dial `port`, served where it says.
fn spec(ca: &TestCa, name: &str, port: u16, places: &[&str]) -> ServiceSpec {
    ServiceSpec {
        name: name.into(),
        ports: vec![PortSpec {
            name: "main".into(),
            port,
            protocol: Protocol::Http1,
            timeouts: Timeouts::default(),
            requests_only: false,
        }],
        identities: vec![ca.id("ns/shop/sa/orders")],
        endpoints: places
            .iter()
            .map(|place| EndpointSpec {
                address: at(place).ip(),
                ports: [("main".to_owned(), at(place).port())].into(),
                identity: None,
                behind: None,
            })
            .collect(),
        ..Default::default()
    }
}

/// The pod's sidecar.
struct Pod {
    ca: TestCa,
    node: Node,
    web: Arc<Generation>,
}

impl Pod {
    /// Behind it an app at each of these ports; all that comes from peers is redirected.
    async fn new(apps: &[&str]) -> Pod {
        run("ip", &["addr", "add", &format!("{POD}/32"), "dev", "lo"]);
        let ca = TestCa::new("demo.signet");
        let mut node = Node::new(generation(&ca, "ns/shop/sa/orders", PeerClass::Sidecar));
        let to = node.start_at(vec![("0.0.0.0:0", Kind::TransparentInbound)])[0].port().to_string();
        let rule = ["-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-s", "127.0.0.1", "-d", POD, "-j", "REDIRECT"];
        run("iptables", &[&rule[..], &["--to-ports", &to]].concat());
        for app in apps {
            echo_at(app).await;
        }
        let web = generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar);
        Pod { ca, node, web }
    }

    /// Serves a port of this service, with one policy.
    fn serves(&self, service: &str, number: u16, policy: &str, permissive_until: Option<u64>) {
        let port = InboundPort {
            hop_proof: false,
            service: service.into(),
            name: "main".into(),
            port: number,
            protocol: Protocol::Http1,
            timeouts: Timeouts::default(),
            user_context: UserContext::Transaction,
            user_headers: Arc::default(),
            permissive_until,
        };
        self.node.state.update_routes(|routes| routes.with_inbound(service, vec![port.clone()]));
        let document = format!(
            r#"{{"apiVersion":"signet.mesh/v1alpha1","kind":"MeshPolicy","metadata":{{"namespace":"shop","name":"p"}},"spec":{policy}}}"#
        );
        let own = self.node.state.view().tls.generation.own().svid().id.trust_domain().clone();
        self.node.state.update_policy(|all| {
            let policies =
                PolicySet::compile(&own, &service.parse().unwrap(), [("p.shop", &document)], false);
            assert!(policies.not_understood().is_empty(), "{:?}", policies.not_understood());
            all.with_served(service, Some(Served { policies, samples: 0, issuer_aliases: vec![] }))
        });
    }

    fn knows(&self, specs: impl IntoIterator<Item = ServiceSpec> + Clone) {
        self.node.state.update_endpoints(|known| known.apply(specs.clone(), [] as [&str; 0]));
    }

    fn id(&self) -> signet_identity::SpiffeId {
        self.ca.id("ns/shop/sa/orders")
    }

    fn named(&self, port: &str, service: &str) -> ServerName<'static> {
        routed_server_name(&self.id(), port, service, "shop").unwrap()
    }

    /// The status of a request of `web` over a hello with this name, or that there is no connection.
    async fn asked(&self, place: &str, name: ServerName<'static>) -> Option<u16> {
        let socket: TcpStream = connected(Some(at(PEER)), at(place)).await;
        let connector = tokio_rustls::TlsConnector::from(self.web.client_config(Alpn::Http1));
        let stream = connector.connect(name, socket).await.ok()?;
        let mut client = Client { stream, unread: Vec::new() };
        Some(client.get("/").await.status)
    }

    /// Whether it is let in, whatever becomes of it otherwise.
    async fn is_let_in(&self, place: &str) -> bool {
        let socket: TcpStream = connected(Some(at(PEER)), at(place)).await;
        let connector = tokio_rustls::TlsConnector::from(self.web.client_config(Alpn::Http1));
        let Ok(mut stream) = connector.connect(server_name(&self.id()), socket).await else { return false };
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        let mut answer = Vec::new();
        while let Ok(1..) = within(stream.read_buf(&mut answer)).await {
            if answer.starts_with(b"HTTP/1.1 200") {
                return true;
            }
        }
        false
    }

    /// As [`Pod::asked`], without naming a port.
    async fn plainly(&self, place: &str) -> Option<u16> {
        self.asked(place, server_name(&self.id())).await
    }

    async fn in_plaintext(&self, place: &str) -> Option<String> {
        let stream = connected(Some(at(PEER)), at(place)).await;
        let mut client = Client { stream, unread: Vec::new() };
        client.send("GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n").await;
        let rest = String::from_utf8(client.rest().await).unwrap();
        rest.lines().next().map(str::to_owned)
    }
}

#[test]
fn the_port_that_is_served_there_is_meant_whatever_number_callers_dial() {
    in_namespace(async {
        let pod = Pod::new(&[TARGET, "10.1.2.1:9090", "10.1.2.1:80"]).await;
        pod.serves("orders.shop", 80, WEB, None);
        pod.serves("metrics.shop", 8080, NOBODY, None);
        // Another pod of `orders` has it at another number, as a named target port may be.
        let orders = spec(&pod.ca, "orders.shop", 80, &[TARGET, "10.1.2.9:9090"]);
        let metrics = spec(&pod.ca, "metrics.shop", 8080, &["10.1.2.1:9090"]);
        pod.knows([orders, metrics]);
        assert_eq!(pod.plainly(TARGET).await, Some(200), "orders, though callers of metrics dial 8080");
        assert_eq!(
            pod.plainly("10.1.2.1:9090").await,
            Some(403),
            "metrics, though orders is there elsewhere"
        );
        assert_eq!(pod.plainly("10.1.2.1:80").await, None, "callers dial 80, but nothing is served there");
        let labels = [("direction", "inbound"), ("reason", "port-unknown")];
        pod.node.counts("signet_refusals_total", &labels, 1).await;
    });
}

#[test]
fn of_two_services_at_one_place_the_hello_says_which_is_meant_and_without_a_word_neither_is() {
    in_namespace(async {
        let mut pod = Pod::new(&[TARGET]).await;
        pod.serves("orders.shop", 80, WEB, None);
        pod.serves("ledger.shop", 81, NOBODY, None);
        let both = [spec(&pod.ca, "orders.shop", 80, &[TARGET]), spec(&pod.ca, "ledger.shop", 81, &[TARGET])];
        pod.knows(both.clone());
        assert_eq!(pod.asked(TARGET, pod.named("main", "orders")).await, Some(200));
        assert_eq!(pod.asked(TARGET, pod.named("main", "ledger")).await, Some(403), "by its own policy");
        assert_eq!(pod.asked(TARGET, pod.named("other", "orders")).await, None);
        assert_eq!(pod.asked(TARGET, pod.named("main", "stock")).await, None);
        assert_eq!(pod.plainly(TARGET).await, None, "nobody is judged by chance");
        // A sidecar says it by itself where it is told that it must, and not where nobody else is there.
        let mut web = Node::new(generation(&pod.ca, "ns/shop/sa/web", PeerClass::Sidecar));
        let ip = at(TARGET).ip();
        let shared = |of: usize, others: &[&str]| ServiceSpec {
            sharing: Some([(ip, others.iter().map(|&other| other.into()).collect())].into()),
            ..both[of].clone()
        };
        let knows = |specs: Vec<ServiceSpec>| {
            web.state.update_endpoints(|known| known.apply(specs.clone(), [] as [&str; 0]));
        };
        knows(vec![shared(0, &["ledger.shop"]), shared(1, &["orders.shop"])]);
        let to = |service: &str| Kind::Outbound { service: service.into(), port: "main".into() };
        let out = web.start_at(vec![
            ("127.0.0.1:0", to("orders.shop")),
            ("127.0.0.1:0", to("ledger.shop")),
            ("0.0.0.0:0", Kind::TransparentInbound),
        ]);
        for (listener, status) in [(out[0], 200), (out[1], 403)] {
            for _ in 0..3 {
                assert_eq!(Client::to(listener).await.get("/").await.status, status);
            }
        }
        let _ = pod.node.drain(std::time::Duration::ZERO).await;
    });
}

#[test]
fn a_caller_that_is_told_of_nobody_else_there_does_not_name_the_service() {
    in_namespace(async {
        let pod = Pod::new(&[TARGET]).await;
        pod.serves("orders.shop", 80, WEB, None);
        pod.serves("ledger.shop", 81, WEB, None);
        pod.knows([spec(&pod.ca, "orders.shop", 80, &[TARGET]), spec(&pod.ca, "ledger.shop", 81, &[TARGET])]);
        let mut web = Node::new(generation(&pod.ca, "ns/shop/sa/web", PeerClass::Sidecar));
        let alone = ServiceSpec { sharing: Some([].into()), ..spec(&pod.ca, "orders.shop", 80, &[TARGET]) };
        let told = ServiceSpec {
            sharing: Some([(at(TARGET).ip(), vec!["ledger.shop".into()])].into()),
            ..alone.clone()
        };
        web.state.update_endpoints(|known| known.apply([alone.clone()], [] as [&str; 0]));
        let out = web.start_at(vec![
            ("127.0.0.1:0", Kind::Outbound { service: "orders.shop".into(), port: "main".into() }),
            ("0.0.0.0:0", Kind::TransparentInbound),
        ]);
        let refused = Client::to(out[0]).await.get("/").await;
        assert_eq!((refused.status, refused.header("signet-deny-reason")), (503, Some("peer-handshake")));
        // The same endpoint, of which more is known now.
        web.state.update_endpoints(|known| known.apply([told.clone()], [] as [&str; 0]));
        assert_eq!(Client::to(out[0]).await.get("/").await.status, 200);
    });
}

#[test]
fn what_was_served_there_until_now_is_still_meant_by_callers_who_have_not_heard() {
    in_namespace(async {
        let pod = Pod::new(&[TARGET]).await;
        pod.serves("orders.shop", 80, WEB, None);
        pod.serves("metrics.shop", 8080, NOBODY, None);
        pod.knows([spec(&pod.ca, "orders.shop", 80, &[TARGET]), spec(&pod.ca, "metrics.shop", 8080, &[])]);
        assert_eq!(pod.plainly(TARGET).await, Some(200));
        // The pod ends: it is no endpoint any more, and 8080 is a number of another service.
        pod.knows([spec(&pod.ca, "orders.shop", 80, &[])]);
        assert_eq!(pod.plainly(TARGET).await, Some(200));
        // It is another service's now.
        pod.knows([spec(&pod.ca, "metrics.shop", 8080, &[TARGET])]);
        assert_eq!(pod.plainly(TARGET).await, Some(403));
    });
}

#[test]
fn a_place_that_nobody_told_of_yet_is_asked_about() {
    in_namespace(async {
        let mut pod = Pod::new(&[TARGET]).await;
        pod.serves("orders.shop", 80, WEB, None);
        pod.knows([spec(&pod.ca, "orders.shop", 80, &[])]);
        let answered = async {
            let wanted = crate::support::caller::within(pod.node.wanted.recv()).await;
            assert_eq!(wanted, Some(signet_proxy::state::Wanted::Address(at(TARGET).ip())));
            let here = spec(&pod.ca, "orders.shop", 80, &[TARGET]);
            pod.node.state.update_endpoints(|known| known.apply([here.clone()], [] as [&str; 0]));
        };
        let socket = connected(Some(at(PEER)), at(TARGET)).await;
        let connector = tokio_rustls::TlsConnector::from(pod.web.client_config(Alpn::Http1));
        let asks = connector.connect(server_name(&pod.ca.id("ns/shop/sa/orders")), socket);
        let ((), stream) = tokio::join!(answered, asks);
        let mut client = Client { stream: stream.unwrap(), unread: Vec::new() };
        assert_eq!(client.get("/").await.status, 200);
    });
}

#[test]
fn a_caller_without_the_mesh_is_let_in_where_every_service_at_the_place_lets_it_in() {
    in_namespace(async {
        let pod = Pod::new(&[TARGET]).await;
        let later = Some(crate::support::token::now() + 3600);
        pod.knows([spec(&pod.ca, "orders.shop", 80, &[TARGET]), spec(&pod.ca, "ledger.shop", 81, &[TARGET])]);
        pod.serves("orders.shop", 80, ANYBODY, later);
        pod.serves("ledger.shop", 81, ANYBODY, later);
        let let_in = Some("HTTP/1.1 200 OK".to_owned());
        assert_eq!(pod.in_plaintext(TARGET).await, let_in);
        assert_eq!(pod.asked(TARGET, pod.named("main", "ledger")).await, Some(200), "peers say which");
        for (service, number, policy, until) in [
            ("ledger.shop", 81, ANYBODY, None),
            ("ledger.shop", 81, NOBODY, later),
            ("orders.shop", 80, WEB, later),
        ] {
            pod.serves(service, number, policy, until);
            assert_ne!(pod.in_plaintext(TARGET).await, let_in, "{service}: {policy} {until:?}");
            pod.serves(service, number, ANYBODY, later);
        }
        assert_eq!(pod.in_plaintext(TARGET).await, let_in);
        // Who was let in is asked again with each request.
        let stream = connected(Some(at(PEER)), at(TARGET)).await;
        let mut client = Client { stream, unread: Vec::new() };
        assert_eq!(client.get("/").await.status, 200);
        pod.serves("ledger.shop", 81, ANYBODY, None);
        // An answer, or a reset before or after it: whichever comes first.
        let _ = client.stream.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        let mut rest = Vec::new();
        while let Ok(1..) = within(client.stream.read_buf(&mut rest)).await {}
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&rest));
    });
}

#[test]
fn a_pod_of_which_nothing_is_served_is_not_taken_for_a_service_that_is_served_elsewhere() {
    in_namespace(async {
        let pod = Pod::new(&[TARGET]).await;
        // Another pod of the same account serves it, at the same number.
        pod.knows([spec(&pod.ca, "orders.shop", 8080, &["10.1.2.9:8080"])]);
        pod.serves("orders.shop", 8080, ANYBODY, None);
        assert!(!pod.is_let_in(TARGET).await);
        // Where nobody says where it is served, the number that callers dial says it.
        pod.knows([spec(&pod.ca, "orders.shop", 8080, &[])]);
        assert!(pod.is_let_in(TARGET).await);
        // And so does the place, once it is told of.
        pod.knows([spec(&pod.ca, "orders.shop", 80, &[TARGET])]);
        assert!(pod.is_let_in(TARGET).await);
    });
}
