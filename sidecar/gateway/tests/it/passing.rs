//! Connections that a gateway sends on unopened, beside those that it opens.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use signet_model::GivenRoutes;
use signet_proxy::Limits;
use signet_proxy::state::Protocol;

use crate::scene::{Caller, Scene, backend, by_name, client, greeter, ok, route, server, site, web, within};

/// Alerts, as a client gets them.
const UNEXPECTED: &[u8] = &[21, 3, 3, 0, 2, 2, 10];
const DECODE: &[u8] = &[21, 3, 3, 0, 2, 2, 50];
const NO_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 109];
const UNKNOWN_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

fn listens(name: &str, port: u16, protocol: &str, hostname: Option<&str>) -> Value {
    let mut listener = json!({"name": name, "port": port, "protocol": protocol});
    if let Some(hostname) = hostname {
        listener["hostname"] = hostname.into();
    }
    if protocol == "TLS" {
        listener["tls"] = json!({"mode": "Passthrough"});
    }
    listener
}

/// One route for every host.
fn requests(service: &str) -> Value {
    json!([{"name": "all", "hosts": ["*"], "pathPrefix": "/", "service": service, "port": "main", "auth": {"anonymous": true}}])
}

/// A hello of TLS 1.3 with this name and another extension.
fn hello(name: Option<&str>, extension: Option<(u16, &[u8])>) -> Vec<u8> {
    let mut extensions = vec![0, 43, 0, 3, 2, 3, 4];
    if let Some(name) = name {
        let length = name.len() as u16;
        extensions.extend([0, 0]);
        extensions.extend((length + 5).to_be_bytes());
        extensions.extend((length + 3).to_be_bytes());
        extensions.push(0);
        extensions.extend(length.to_be_bytes());
        extensions.extend(name.as_bytes());
    }
    if let Some((kind, body)) = extension {
        extensions.extend(kind.to_be_bytes());
        extensions.extend((body.len() as u16).to_be_bytes());
        extensions.extend(body);
    }
    let mut message = vec![3, 3];
    message.extend([7; 32]);
    message.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    message.extend((extensions.len() as u16).to_be_bytes());
    message.extend(extensions);
    let mut record = vec![22, 3, 1];
    record.extend((message.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((message.len() as u16).to_be_bytes());
    record.extend(message);
    record
}

#[tokio::test]
async fn a_hello_goes_on_by_its_name_and_the_app_ends_its_tls_itself() {
    let mut scene = Scene::new();
    let (app, _) = site("db", server(&scene.outside, "db.example.com", &[])).await;
    let db = scene.serves("db", Protocol::Tcp, app);
    scene.is(
        json!([listens("tls", 443, "TLS", None)]),
        json!([]),
        &[by_name("db", &["db.example.com"], &[("db", 1)])],
    );
    // The process has a certificate for the same name, and does not use it.
    let at = scene.start(&[(443, Protocol::Http1, Some("db.example.com"))])[0];
    let mut caller = scene.dial(at, "db.example.com").await.unwrap();
    caller.send("x").await;
    assert_eq!(caller.line().await, "db db.example.com");
    let labels = [("direction", "edge"), ("service", "db.shop")];
    assert_eq!(scene.counter("signet_connections_total", &labels), 1);

    // Its policy sees the gateway: without a permit nobody gets through, and who is there is cut.
    db.permits(&["ns/shop/sa/web"]);
    assert_eq!(caller.rest().await, b"");
    assert!(scene.dial(at, "db.example.com").await.is_err());
    db.permits(&["ns/edge/sa/gw"]);
    let mut caller = scene.dial(at, "DB.example.com").await.unwrap();
    caller.send("x").await;
    assert_eq!(caller.line().await, "db db.example.com");
}

#[tokio::test]
async fn what_a_route_may_not_refer_to_gets_nothing_and_ends_when_that_is_said() {
    let mut scene = Scene::new();
    let (app, _) = site("db", server(&scene.outside, "db.example.com", &[])).await;
    scene.serves("db", Protocol::Tcp, app);
    let refused = |refused: &[&str]| {
        let mut routes = GivenRoutes::default();
        routes.add(
            by_name("db", &["db.example.com"], &[("db", 1)]),
            refused.iter().map(|name| name.parse().unwrap()),
        );
        routes
    };
    let is = |scene: &Scene, names: &[&str]| {
        scene.is_given(json!([listens("tls", 443, "TLS", None)]), json!([]), &refused(names));
    };
    is(&scene, &["other.shop"]);
    let at = scene.start(&[(443, Protocol::Http1, None)])[0];
    let mut caller = scene.dial(at, "db.example.com").await.unwrap();
    caller.send("x").await;
    assert_eq!(caller.line().await, "db db.example.com");
    is(&scene, &["db.shop"]);
    assert_eq!(caller.rest().await, b"");
    assert!(scene.dial(at, "db.example.com").await.is_err());
    scene.refused("no-backend", 1).await;
}

#[tokio::test]
async fn on_one_port_the_name_decides_what_is_opened_and_there_is_no_way_across() {
    let mut scene = Scene::new();
    let (app, passed) = site("db", server(&scene.outside, "db.example.com", &[])).await;
    scene.serves("db", Protocol::Tcp, app);
    let (app, asked) = web(|_| ok("web")).await;
    scene.serves("web", Protocol::Http1, app);
    scene.is(
        json!([
            listens("web", 443, "HTTPS", Some("web.example.com")),
            listens("other", 443, "HTTPS", Some("other.example.com")),
            listens("db", 443, "TLS", Some("*.example.com")),
        ]),
        requests("web.shop"),
        &[by_name("db", &["db.example.com"], &[("db", 1)])],
    );
    let at = scene.start(&[(443, Protocol::Http1, Some("web.example.com"))])[0];
    let mut caller = scene.dial(at, "web.example.com").await.unwrap();
    assert_eq!(caller.get("web.example.com", "/").await.0, 200);
    assert_eq!(caller.get("WEB.example.com:443", "/").await.0, 200);
    // The route takes every host; the listener does not.
    for host in ["db.example.com", "other.example.com", "x.example.com", "elsewhere.example"] {
        let (status, _, head) = caller.get(host, "/").await;
        assert_eq!(status, 421, "{host}: {head}");
    }
    scene.refused("misdirected", 4).await;
    let mut caller = scene.dial(at, "db.example.com").await.unwrap();
    caller.send("GET / HTTP/1.1\r\nhost: web.example.com\r\n\r\n").await;
    assert_eq!(caller.line().await, "db db.example.com", "what is inside is the app's own matter");
    assert_eq!((asked.load(Ordering::SeqCst), passed.load(Ordering::SeqCst)), (1, 1));

    // The most specific listener is that of a name although none of its routes takes it.
    let mut caller = Caller::to(at).await;
    caller.send(hello(Some("x.example.com"), None)).await;
    assert_eq!(caller.rest().await, UNKNOWN_NAME);
    scene.refused("no-route", 1).await;
    // Without the route nothing of it is opened here instead.
    scene.is(
        json!([listens("web", 443, "HTTPS", None), listens("db", 443, "TLS", Some("db.example.com")),]),
        requests("web.shop"),
        &[],
    );
    let mut caller = Caller::to(at).await;
    caller.send(hello(Some("db.example.com"), None)).await;
    assert_eq!(caller.rest().await, UNKNOWN_NAME);
    // Every other name is the other listener's, and none at all.
    let mut caller = scene.dial(at, "web.example.com").await.unwrap();
    assert_eq!(caller.get("anything.example", "/").await.0, 200);
    assert_eq!(caller.get("db.example.com", "/").await.0, 421);
    assert_eq!(
        (asked.load(Ordering::SeqCst), passed.load(Ordering::SeqCst)),
        (1, 1),
        "pooled, and not passed"
    );
}

#[tokio::test]
async fn what_names_nobody_is_told_in_the_words_of_tls_and_counted() {
    let mut scene = Scene::new();
    let (app, passed) = greeter("").await;
    scene.serves("db", Protocol::Tcp, app);
    scene.is(
        json!([listens("tls", 443, "TLS", None)]),
        json!([]),
        &[by_name("db", &["db.example.com"], &[("db", 1)])],
    );
    let at = scene.start(&[(443, Protocol::Http1, None)])[0];
    let ech: (u16, &[u8]) = (0xfe0d, &[0, 0, 1, 0, 1, 9, 0, 0, 0, 1, 0]);
    let truncated = {
        let mut bytes = hello(Some("db.example.com"), None);
        let last = bytes.len() - 1;
        bytes[last - 20] ^= 0x40;
        bytes
    };
    let cases: [(&str, Vec<u8>, &[u8]); 9] = [
        ("another name", hello(Some("web.example.com"), None), UNKNOWN_NAME),
        ("below the name", hello(Some("x.db.example.com"), None), UNKNOWN_NAME),
        ("a dot at the end", hello(Some("db.example.com."), None), UNKNOWN_NAME),
        ("of the mesh", hello(Some("db.shop.signet.internal"), None), UNKNOWN_NAME),
        ("no name", hello(None, None), NO_NAME),
        ("a hidden name alone", hello(None, Some(ech)), NO_NAME),
        ("fields that do not fit", truncated, DECODE),
        ("requests in plaintext", b"GET / HTTP/1.1\r\nhost: db.example.com\r\n\r\n".to_vec(), UNEXPECTED),
        ("bytes", b"SSH-2.0-x\r\n".to_vec(), UNEXPECTED),
    ];
    for (what, bytes, told) in cases {
        let mut caller = Caller::to(at).await;
        caller.send(bytes).await;
        assert_eq!(caller.rest().await, told, "{what}");
    }
    scene.refused("no-route", 4).await;
    scene.refused("no-server-name", 2).await;
    scene.failed("plaintext", 2).await;
    scene.failed("not_tls", 1).await;
    assert_eq!(passed.load(Ordering::SeqCst), 0);
    // A hidden name beside one that is shown is judged by that one, as browsers send it to everybody.
    let mut caller = Caller::to(at).await;
    let bytes = hello(Some("db.example.com"), Some(ech));
    caller.send(&bytes).await;
    let mut came = vec![0; bytes.len()];
    within(tokio::io::AsyncReadExt::read_exact(&mut caller.0, &mut came)).await.unwrap();
    assert_eq!(came, bytes, "the app gets the hello as it was sent");
}

#[tokio::test]
async fn the_most_specific_name_decides_and_a_listener_takes_its_own_alone() {
    let mut scene = Scene::new();
    for (name, greeting) in [("exact", "exact\n"), ("long", "long\n"), ("short", "short\n")] {
        let (app, _) = greeter(greeting).await;
        scene.serves(name, Protocol::Tcp, app);
    }
    scene.is(
        json!([listens("tls", 443, "TLS", Some("*.example.com")), listens("b", 8443, "TLS", None)]),
        json!([]),
        &[
            by_name("short", &["*.example.com", "*.example"], &[("short", 1)]),
            by_name("long", &["*.db.example.com"], &[("long", 1)]),
            by_name("exact", &["a.db.example.com"], &[("exact", 1)]),
        ],
    );
    let at = scene.start(&[(443, Protocol::Http1, None), (8443, Protocol::Http1, None)]);
    for (port, name, greeting) in [
        (0, "a.db.example.com", Some("exact")),
        (0, "b.db.example.com", Some("long")),
        (0, "x.b.db.example.com", Some("long")),
        (0, "db.example.com", Some("short")),
        (0, "example.com", None),
        (0, "x.example", None),
        (1, "x.example", Some("short")),
        (1, "a.db.example.com", Some("exact")),
    ] {
        let mut caller = Caller::to(at[port]).await;
        caller.send(hello(Some(name), None)).await;
        match greeting {
            Some(greeting) => assert_eq!(caller.line().await, greeting, "{name}"),
            None => assert_eq!(caller.rest().await, UNKNOWN_NAME, "{name}"),
        }
    }
}

#[tokio::test]
async fn a_hello_may_come_in_any_pieces_and_in_time() {
    let mut scene = Scene::with_limits(Limits {
        handshake_time: Duration::from_millis(600),
        hellos: 2,
        ..Limits::default()
    });
    let (app, passed) = greeter("here\n").await;
    scene.serves("db", Protocol::Tcp, app);
    scene.is(
        json!([listens("tls", 443, "TLS", None)]),
        json!([]),
        &[by_name("db", &["db.example.com"], &[("db", 1)])],
    );
    let at = scene.start(&[(443, Protocol::Http1, None)])[0];
    let bytes = hello(Some("db.example.com"), None);
    for split in 1..bytes.len() {
        let mut caller = Caller::to(at).await;
        caller.send(&bytes[..split]).await;
        caller.send(&bytes[split..]).await;
        assert_eq!(caller.line().await, "here", "split at {split}");
        let mut came = vec![0; bytes.len()];
        within(tokio::io::AsyncReadExt::read_exact(&mut caller.0, &mut came)).await.unwrap();
        assert_eq!(came, bytes);
    }
    let before = passed.load(Ordering::SeqCst);
    // Who does not finish is ended, and of those who still owe theirs only so many wait.
    let mut slow = Caller::to(at).await;
    slow.send(&bytes[..bytes.len() - 1]).await;
    assert_eq!(slow.rest().await, b"");
    scene.failed("timeout", 1).await;
    let mut first = Caller::to(at).await;
    first.send(&bytes[..9]).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        let mut other = Caller::to(at).await;
        other.send(&bytes[..9]).await;
        others.push(other);
    }
    assert_eq!(first.rest().await, b"", "the oldest makes room");
    // A record that never ends is refused at its bound.
    let mut endless = Caller::to(at).await;
    let mut many = vec![22, 3, 1, 0x40, 0, 1, 0, 0x40, 0];
    many.resize(17 * 1024, 0);
    let _ = tokio::io::AsyncWriteExt::write_all(&mut endless.0, &many).await;
    assert_eq!(endless.rest().await, DECODE);
    assert_eq!(passed.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn a_port_of_bytes_leads_to_its_route_by_weight_and_ends_with_it() {
    let mut scene = Scene::new();
    let (app, old) = greeter("old\n").await;
    scene.serves("old", Protocol::Tcp, app);
    let (app, new) = greeter("new\n").await;
    scene.serves("new", Protocol::Tcp, app);
    let tcp = |backends: Value| {
        route(
            "TCPRoute",
            "pg",
            json!({"parentRefs": [{"name": "gw", "sectionName": "pg"}], "rules": [{"backendRefs": backends}]}),
        )
    };
    let listeners = json!([listens("pg", 5432, "TCP", None), listens("none", 5433, "TCP", None)]);
    scene.is(listeners.clone(), json!([]), &[tcp(json!([backend("old", 3), backend("new", 1)]))]);
    let at = scene.start(&[(5432, Protocol::Http1, None), (5433, Protocol::Http1, None)]);
    let mut lines = Vec::new();
    for _ in 0..80 {
        // The server speaks first, and nothing is waited for.
        lines.push(Caller::to(at[0]).await.line().await);
    }
    let (olds, news) = (old.load(Ordering::SeqCst), new.load(Ordering::SeqCst));
    assert_eq!(olds + news, 80);
    assert!((40..75).contains(&olds), "{olds} of 80 at a weight of 3 in 4");

    assert_eq!(Caller::to(at[1]).await.rest().await, b"");
    scene.refused("no-route", 1).await;

    // A weight of nothing takes no new connection and leaves what is there; a backend that is gone does not.
    scene.is(listeners.clone(), json!([]), &[tcp(json!([backend("old", 1), backend("new", 0)]))]);
    let mut kept = Caller::to(at[0]).await;
    assert_eq!(kept.line().await, "old");
    scene.is(listeners.clone(), json!([]), &[tcp(json!([backend("old", 0), backend("new", 1)]))]);
    kept.send("still\n").await;
    assert_eq!(kept.line().await, "still");
    let mut other = Caller::to(at[0]).await;
    assert_eq!(other.line().await, "new");
    scene.is(listeners.clone(), json!([]), &[tcp(json!([backend("new", 1)]))]);
    assert_eq!(kept.rest().await, b"", "cut");
    other.send("still\n").await;
    assert_eq!(other.line().await, "still");
    scene.is(listeners.clone(), json!([]), &[tcp(json!([backend("new", 0)]))]);
    assert_eq!(Caller::to(at[0]).await.rest().await, b"");
    scene.refused("no-backend", 1).await;
    scene.is(listeners, json!([]), &[]);
    assert_eq!(other.rest().await, b"", "cut");
}

#[tokio::test]
async fn a_process_that_disagrees_with_its_resource_takes_nothing_at_that_port() {
    let mut scene = Scene::new();
    let (app, asked) = web(|_| ok("web")).await;
    scene.serves("web", Protocol::Http1, app);
    scene.is(
        json!([
            listens("https", 443, "HTTPS", Some("web.example.com")),
            listens("http", 80, "HTTP", Some("web.example.com")),
        ]),
        requests("web.shop"),
        &[],
    );
    let at = scene.start(&[
        (443, Protocol::Http1, None),
        (80, Protocol::Http1, Some("web.example.com")),
        (80, Protocol::Http1, None),
        (8080, Protocol::Http1, None),
    ]);
    // HTTPS without a certificate, and HTTP with one.
    let mut caller = Caller::to(at[0]).await;
    caller.send(hello(Some("web.example.com"), None)).await;
    assert_eq!(caller.rest().await, UNKNOWN_NAME);
    let mut caller = Caller::to(at[0]).await;
    caller.send("GET / HTTP/1.1\r\nhost: web.example.com\r\n\r\n").await;
    assert_eq!(caller.rest().await, UNEXPECTED);
    assert!(scene.dial(at[1], "web.example.com").await.is_err());
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    // As declared, and as ever where nothing is declared.
    let mut caller = Caller::to(at[2]).await;
    assert_eq!(caller.get("web.example.com", "/").await.0, 200);
    assert_eq!(caller.get("elsewhere.example", "/").await.0, 404);
    assert_eq!(Caller::to(at[3]).await.get("elsewhere.example", "/").await.0, 200);
    let _ = client(&scene.outside);
}
