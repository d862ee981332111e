//! Calls of an app that knows of no sidecar: where it dialled says the port, and its words the place.

use std::net::SocketAddr;

use signet_identity::testing::TestCa;
use signet_proxy::listener::Kind;
use signet_proxy::state::MeshSettings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{knows, outside_ca, place, server, tls_site, trusting, web};
use crate::redirect::{in_namespace, run};
use crate::support::Node;
use crate::support::app::echo_at;
use crate::support::caller::{Client, within};

/// An app at 10.1.1.1 whose every connection is redirected, and the sidecar beside it.
async fn redirected(web: &mut Node) {
    let redirects = web.start_at(vec![("0.0.0.0:0", Kind::TransparentOutbound)]);
    let to = redirects[0].port().to_string();
    run("ip", &["addr", "add", "10.1.1.1/32", "dev", "lo"]);
    for public in ["192.0.2.7/32", "192.0.2.8/32", "169.254.169.254/32", "10.7.7.7/32"] {
        run("ip", &["addr", "add", public, "dev", "lo"]);
    }
    let rule =
        ["-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-s", "10.1.1.1", "-j", "REDIRECT", "--to-ports", &to];
    run("iptables", &rule);
    for nobodys in ["192.0.2.7", "192.0.2.8", "169.254.169.254", "10.7.7.7"] {
        web.state.update_endpoints(|endpoints| endpoints.refuse(nobodys, "no service has this address"));
    }
}

async fn call(to: &str) -> Client<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("10.1.1.1:0".parse().unwrap()).unwrap();
    Client { stream: within(socket.connect(to.parse().unwrap())).await.unwrap(), unread: Vec::new() }
}

async fn ask(to: &str, host: &str) -> (u16, String) {
    let mut client = call(to).await;
    client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
    let answer = client.answer().await;
    let what = answer.header("signet-deny-reason").or(answer.echoed("host")).unwrap_or_default();
    (answer.status, what.to_owned())
}

#[test]
fn a_redirected_call_goes_where_its_name_is_and_not_where_the_app_dialled() {
    in_namespace(async {
        let ca = TestCa::new("demo.signet");
        let (world, _) = outside_ca();
        let mut web = web(&ca);
        redirected(&mut web).await;
        // The place is at 192.0.2.7; somebody else is at 192.0.2.8.
        let _site = echo_at("192.0.2.7:80").await;
        let _impostor =
            fixed_at("192.0.2.8:80", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nhost: impostor\r\n\r\n").await;
        let tls = tls_site("192.0.2.7:443", server(&world, "api.example.com", &[])).await;
        assert_eq!(tls.port(), 443);
        knows(
            &web,
            "pay",
            Some(place(
                "pay",
                serde_json::json!({
                    "hosts": ["api.example.com"],
                    "addresses": ["192.0.2.7"],
                    "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}],
                }),
            )),
        );
        for dialled in ["192.0.2.7:80", "192.0.2.8:80", "10.7.7.7:80"] {
            assert_eq!(
                ask(dialled, "api.example.com").await,
                (200, "api.example.com".to_owned()),
                "{dialled}"
            );
        }
        for (dialled, host) in [
            ("192.0.2.7:80", "other.example.com"),
            ("192.0.2.7:80", "192.0.2.7"),
            ("192.0.2.7:80", "api.example.com:443"),
            ("192.0.2.7:81", "api.example.com"),
            ("169.254.169.254:80", "169.254.169.254"),
        ] {
            assert_eq!(ask(dialled, host).await, (403, "egress-denied".to_owned()), "{dialled} {host}");
        }
        // The app's own TLS, by its server name, wherever the app dialled.
        let connector = trusting(&world);
        for (name, passes) in [("api.example.com", true), ("other.example.com", false)] {
            let socket = call("192.0.2.8:443").await.stream;
            let connected = within(connector.connect(name.try_into().unwrap(), socket)).await;
            assert_eq!(connected.is_ok(), passes, "{name}");
            let Ok(stream) = connected else { continue };
            let mut client = Client { stream, unread: Vec::new() };
            assert_eq!(client.get("/").await.text(), name);
        }
        // Without a name in it TLS goes nowhere.
        let socket = call("192.0.2.7:443").await.stream;
        let nameless = rustls_pki_types::ServerName::try_from("192.0.2.7").unwrap();
        assert!(within(connector.connect(nameless, socket)).await.is_err());
    });
}

async fn fixed_at(address: &str, answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            while crate::support::app::read_head(&mut socket).await.is_some() {
                socket.write_all(answer).await.unwrap();
            }
        }
    });
    address
}

#[test]
fn bytes_go_by_their_address_where_it_is_listed_or_is_a_listed_names() {
    in_namespace(async {
        let ca = TestCa::new("demo.signet");
        let mut web = web(&ca);
        redirected(&mut web).await;
        for address in ["192.0.2.7:25", "192.0.2.8:25", "10.7.7.7:25"] {
            let greeting = format!("220 {address}\r\n");
            let listener = TcpListener::bind(address).await.unwrap();
            tokio::spawn(async move {
                while let Ok((mut socket, _)) = listener.accept().await {
                    socket.write_all(greeting.as_bytes()).await.unwrap();
                    let _ = socket.read(&mut [0; 16]).await;
                }
            });
        }
        let port = serde_json::json!([{"name": "smtp", "port": 25}]);
        let by_name =
            serde_json::json!({"hosts": ["mail.example.com"], "addresses": ["192.0.2.7"], "ports": port});
        let by_range = serde_json::json!({"networks": ["10.7.0.0/16"], "ports": port});
        knows(&web, "mail", Some(place("mail", by_name)));
        knows(&web, "inside", Some(place("inside", by_range)));
        for address in ["192.0.2.7:25", "10.7.7.7:25"] {
            let greeting = format!("220 {address}\r\n");
            assert_eq!(call(address).await.take(greeting.len()).await, greeting.as_bytes());
        }
        let mut stranger = call("192.0.2.8:25").await;
        stranger.send("EHLO\r\n").await;
        assert_ne!(stranger.ended().await, Some(false));
    });
}

#[test]
fn where_the_mesh_lets_apps_call_out_what_is_not_listed_goes_where_it_was_dialled_but_never_inward() {
    in_namespace(async {
        let ca = TestCa::new("demo.signet");
        let mut web = web(&ca);
        redirected(&mut web).await;
        let _site = echo_at("192.0.2.7:80").await;
        let _metadata = echo_at("169.254.169.254:80").await;
        let _private = echo_at("10.7.7.7:80").await;
        let greeter = TcpListener::bind("192.0.2.8:80").await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = greeter.accept().await {
                socket.write_all(b"220 ready\r\n").await.unwrap();
                let _ = socket.read(&mut [0; 16]).await;
            }
        });
        assert_eq!(ask("192.0.2.7:80", "any.example.com").await, (403, "egress-denied".to_owned()));
        let mesh = MeshSettings { egress_allow: true, ..Default::default() };
        web.state.update_policy(|policy| policy.with_mesh(mesh));
        for listed in [false, true] {
            if listed {
                let spec = serde_json::json!({
                    "hosts": ["api.example.com"],
                    "addresses": ["192.0.2.7"],
                    "ports": [{"name": "http", "port": 80}],
                });
                knows(&web, "pay", Some(place("pay", spec)));
                let dialled_elsewhere = ask("192.0.2.8:80", "api.example.com").await;
                assert_eq!(dialled_elsewhere, (200, "api.example.com".to_owned()));
            }
            assert_eq!(ask("192.0.2.7:80", "any.example.com").await, (200, "any.example.com".to_owned()));
            // Its server speaks first, and it is not kept waiting for a name for ever.
            assert_eq!(call("192.0.2.8:80").await.take(11).await, b"220 ready\r\n", "{listed}");
            if listed {
                // The default turns under a connection that stands.
                let mut standing = call("192.0.2.7:80").await;
                let mut allowed = call("192.0.2.7:80").await;
                for (client, host) in [(&mut standing, "any.example.com"), (&mut allowed, "api.example.com")]
                {
                    client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
                    assert_eq!(client.answer().await.status, 200);
                }
                let mut bytes = call("192.0.2.8:80").await;
                assert_eq!(bytes.take(11).await, b"220 ready\r\n");
                web.state.update_policy(|policy| policy.with_mesh(MeshSettings::default()));
                assert_eq!(bytes.ended().await, None, "bytes to an address that is not listed");
                for (client, host, status) in
                    [(&mut standing, "any.example.com", 403), (&mut allowed, "api.example.com", 200)]
                {
                    client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
                    assert_eq!(client.answer().await.status, status, "{host}");
                }
                web.state.update_policy(|policy| policy.with_mesh(mesh));
            }
            for inward in ["169.254.169.254:80", "10.7.7.7:80"] {
                assert_eq!(
                    ask(inward, "any.example.com").await,
                    (403, "egress-denied".to_owned()),
                    "{inward}"
                );
            }
        }
    });
}
