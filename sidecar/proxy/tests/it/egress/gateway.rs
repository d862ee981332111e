//! Calls through an egress gateway.

use std::net::SocketAddr;

use signet_identity::testing::TestCa;
use signet_identity::{Alpn, PeerClass, routed_server_name};
use signet_proxy::listener::Kind;
use signet_proxy::state::{EndpointSpec, PlaceSpec, PortSpec, Protocol, ServiceSpec, Timeouts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{at, external, knows, listener, outside_ca, place, server, tls_site, trusting, web};
use crate::http2::peers;
use crate::support::app::{echo, scripted};
use crate::support::caller::{Client, dial, within};
use crate::support::{Node, generation};

/// An egress gateway, and how `web` goes through it.
fn gateway(ca: &TestCa, at: SocketAddr, name: &str, spec: serde_json::Value) -> PlaceSpec {
    let service = external(name, spec);
    let protocol = match service.spec.ports[0].protocol.as_str() {
        "http1" => Protocol::Http1,
        "http2" | "grpc" => Protocol::Http2,
        _ => Protocol::Tcp,
    };
    let gateway = ServiceSpec {
        name: service.name.to_string(),
        ports: vec![PortSpec {
            name: "main".into(),
            port: 80,
            protocol,
            timeouts: Timeouts::default(),
            requests_only: false,
        }],
        identities: vec![ca.id("ns/infra/sa/egress")],
        endpoints: vec![EndpointSpec {
            address: at.ip(),
            ports: [("main".to_owned(), at.port())].into(),
            identity: None,
            behind: Some(service.name.clone()),
        }],
        ..Default::default()
    };
    PlaceSpec::new(service, Some(gateway)).unwrap()
}

#[tokio::test]
async fn through_an_egress_gateway_the_gateway_dials_and_its_own_list_says_for_whom() {
    let ca = TestCa::new("demo.signet");
    let (world, _) = outside_ca();
    let mut egress = Node::new(generation(&ca, "ns/infra/sa/egress", PeerClass::Gateway));
    let door = egress.start(vec![Kind::Egress])[0];
    let mut web = web(&ca);
    let app = echo().await;
    let (h2, _) = peers::app(|request, mut respond| async move {
        let said = request.uri().authority().unwrap().to_string();
        let secret = request.headers().contains_key("txn-token");
        let head = http::Response::builder().header("x-asked", said).header("x-secret", secret.to_string());
        respond.send_response(head.body(()).unwrap(), true).unwrap();
    })
    .await;
    let site = tls_site("127.0.0.1:0", server(&world, "api.example.com", &[])).await;
    let greeter = scripted(|mut socket| async move {
        socket.write_all(b"220 ready\r\n").await.unwrap();
        let _ = socket.read(&mut [0; 16]).await;
    })
    .await;
    for (name, to, protocol) in
        [("pay", app, "http1"), ("rpc", h2, "http2"), ("own", site, "tls"), ("mail", greeter, "tcp")]
    {
        knows(&egress, name, Some(place(name, at(to, protocol))));
        knows(&web, name, Some(gateway(&ca, door, name, at(to, protocol))));
    }
    let out = web.start(vec![listener("pay"), listener("rpc"), listener("own"), listener("mail")]);

    let mut client = Client::to(out[0]).await;
    for _ in 0..2 {
        let answer = client.request("/v1", &[("txn-token", "eyJ.eyJ.x")]).await;
        assert_eq!((answer.status, answer.echoed("txn-token")), (200, None));
        assert_eq!(answer.echoed("host"), Some(&*format!("api.example.com:{}", app.port())));
        assert_eq!(answer.echoed("x-forwarded-client-cert"), None);
    }
    let mut client = peers::connect(out[1]).await;
    let request = http::Request::get("http://api.example.com/").header("txn-token", "eyJ").body(()).unwrap();
    let answer = within(client.send_request(request, true).unwrap().0).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-secret"]), (200, &"false".parse().unwrap()));
    let socket = TcpStream::connect(out[2]).await.unwrap();
    let name = "api.example.com".try_into().unwrap();
    let stream = within(trusting(&world).connect(name, socket)).await.unwrap();
    assert_eq!(Client { stream, unread: Vec::new() }.get("/").await.text(), "api.example.com");
    let socket = TcpStream::connect(out[2]).await.unwrap();
    let name = "other.example.com".try_into().unwrap();
    assert!(within(trusting(&world).connect(name, socket)).await.is_err(), "the gateway knows no such name");
    let mut mail = Client::to(out[3]).await;
    assert_eq!(mail.take(11).await, b"220 ready\r\n");

    // A sidecar that is not the caller's own lets nothing through that the gateway does not list.
    let eve = generation(&ca, "ns/other/sa/eve", PeerClass::Sidecar);
    let web_itself = generation(&ca, "ns/shop/sa/web", PeerClass::Sidecar);
    let egress_id = ca.id("ns/infra/sa/egress");
    let named = |place: &str| routed_server_name(&egress_id, "main", place, "shop").unwrap();
    for (who, place, alpn, host, status) in [
        (&web_itself, "pay", Alpn::Http1, "api.example.com", Some(200)),
        (&web_itself, "pay", Alpn::Http1, "other.example.com", Some(403)),
        (&web_itself, "pay", Alpn::Http1, "api.example.com:81", Some(403)),
        (&eve, "pay", Alpn::Http1, "api.example.com", Some(403)),
        (&web_itself, "none", Alpn::Http1, "api.example.com", None),
        // Requests where the port says bytes, and bytes where it says requests.
        (&web_itself, "mail", Alpn::Http1, "api.example.com", None),
        (&web_itself, "pay", Alpn::Tcp, "api.example.com", None),
    ] {
        let answer = async {
            let mut client = dial(door, who, alpn, named(place)).await.ok()?;
            client
                .stream
                .write_all(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes())
                .await
                .ok()?;
            let mut byte = [0; 4096];
            let count = client.stream.read(&mut byte).await.ok().filter(|count| *count > 0)?;
            let text = String::from_utf8_lossy(&byte[..count]).into_owned();
            text.split(' ').nth(1)?.parse::<u16>().ok()
        };
        assert_eq!(within(answer).await, status, "{place} {host} {alpn:?}");
    }
    // A hello that says no place.
    let plain = dial(door, &web_itself, Alpn::Http1, signet_identity::server_name(&egress_id)).await;
    if let Ok(mut client) = plain {
        assert_ne!(client.ended().await, Some(false));
    }
    // The list changes at the gateway: what stands ends there.
    knows(&egress, "mail", None);
    assert_ne!(mail.ended().await, Some(false));
}
