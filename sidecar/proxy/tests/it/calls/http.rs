//! HTTPRoutes: which rule decides, and what it does.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::{Mesh, OK, in_turn, read_body};
use crate::support::app::{echo, read_head, scripted};
use crate::support::caller::{Client, within};

/// An app that says its name and what it got.
async fn named(name: &'static str) -> std::net::SocketAddr {
    scripted(move |mut socket| async move {
        while let Some(head) = read_head(&mut socket).await {
            let body = format!("{name}\n{head}");
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-app: {name}\r\n\r\n{body}", body.len());
            if socket.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn the_most_specific_match_decides_whatever_the_order() {
    let (v1, v2, v3) = (named("v1").await, named("v2").await, named("v3").await);
    let mesh = Mesh::http(&[("orders", &[v1]), ("v2", &[v2]), ("v3", &[v3])]);
    mesh.routes(
        r#"[{"matches":[{"path":{"type":"PathPrefix","value":"/"}}],"backendRefs":[{"name":"orders","port":80}]},
            {"matches":[{"path":{"type":"PathPrefix","value":"/reports/"}}],"backendRefs":[{"name":"v2","port":80}]},
            {"matches":[{"path":{"type":"Exact","value":"/reports/today"}},
                        {"headers":[{"name":"X-Canary","value":"yes"}]},
                        {"method":"DELETE"},
                        {"queryParams":[{"name":"as of","value":"v3"}]}],
             "backendRefs":[{"name":"v3","port":80}]}]"#,
    );
    let mut client = Client::to(mesh.out).await;
    for (path, headers, app) in [
        ("/", &[][..], "v1"),
        ("/report", &[], "v1"),
        ("/reportsx", &[], "v1"),
        ("/reports", &[], "v2"),
        ("/reports/", &[], "v2"),
        ("/reports/a", &[], "v2"),
        ("/reports/today", &[], "v3"),
        ("/reports/today/", &[], "v2"),
        ("/x", &[("x-canary", "yes")], "v3"),
        ("/x", &[("x-canary", "no")], "v1"),
        ("/x", &[("x-canary", "no"), ("x-canary", "yes")], "v1"),
        // A longer path counts before a header.
        ("/reports/a", &[("x-canary", "yes")], "v2"),
        ("/x?as+of=v3", &[], "v3"),
        ("/x?a=b&as%20of=v%33", &[], "v3"),
        ("/x?as+of=v2&as+of=v3", &[], "v1"),
    ] {
        let answer = client.request(path, headers).await;
        assert_eq!(answer.header("x-app"), Some(app), "{path} {headers:?}");
    }
    client.send("DELETE /x HTTP/1.1\r\nhost: o\r\n\r\n").await;
    assert_eq!(client.answer().await.header("x-app"), Some("v3"));
}

#[tokio::test]
async fn hosts_choose_among_routes_and_what_none_takes_is_not_found() {
    let mesh = Mesh::http(&[("orders", &[named("v1").await])]);
    mesh.route_spec(
        "HTTPRoute",
        r#"{"parentRefs":[{"kind":"Service","name":"orders","port":80}],"hostnames":["orders.shop","*.example.com"],
            "rules":[{"matches":[{"path":{"value":"/v1"}}],"backendRefs":[{"name":"orders","port":80}]}]}"#,
    );
    let mut client = Client::to(mesh.out).await;
    for (host, path, status) in [
        ("orders.shop", "/v1/a", 200),
        ("ORDERS.shop:8080", "/v1/a", 200),
        ("a.example.com", "/v1", 200),
        ("example.com", "/v1", 404),
        ("orders", "/v1", 404),
        ("orders.shop", "/v2", 404),
    ] {
        client.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status, "{host}{path}");
        if status == 404 {
            assert_eq!(answer.header("signet-deny-reason"), Some("no-route"));
        }
    }
}

#[tokio::test]
async fn a_route_of_another_port_does_not_touch_this_one() {
    let mesh = Mesh::http(&[("orders", &[named("v1").await])]);
    mesh.route_spec(
        "HTTPRoute",
        r#"{"parentRefs":[{"kind":"Service","name":"orders","sectionName":"other"}],
            "rules":[{"matches":[{"path":{"value":"/v1"}}],"backendRefs":[{"name":"orders","port":80}]}]}"#,
    );
    assert_eq!(Client::to(mesh.out).await.get("/anything").await.status, 200);
}

#[tokio::test]
async fn weights_share_the_requests_and_zero_gets_none() {
    let (a, b, c) = (in_turn(&[OK]).await, in_turn(&[OK]).await, in_turn(&[OK]).await);
    let mesh = Mesh::http(&[("orders", &[a.0]), ("b", &[b.0]), ("c", &[c.0])]);
    mesh.routes(
        r#"[{"backendRefs":[{"name":"orders","port":80,"weight":90},{"name":"b","port":80,"weight":10},
                            {"name":"c","port":80,"weight":0}]}]"#,
    );
    let mut client = Client::to(mesh.out).await;
    for _ in 0..1000 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let counts = [a.1, b.1, c.1].map(|count| count.load(Ordering::SeqCst));
    // Six standard deviations around 100.
    assert!((43..=157).contains(&counts[1]), "{counts:?}");
    assert_eq!((counts[0] + counts[1], counts[2]), (1000, 0));
    mesh.routes(r#"[{"backendRefs":[{"name":"orders","port":80,"weight":0}]}]"#);
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.header("signet-deny-reason")), (500, Some("no-backend")));
}

#[tokio::test]
async fn the_share_of_a_backend_that_a_route_may_not_refer_to_gets_nothing_and_nobody_elses() {
    let (a, b) = (in_turn(&[OK]).await, in_turn(&[OK]).await);
    let (copied, mut copies) = mpsc::unbounded_channel::<String>();
    let mirror = scripted(move |mut socket| {
        let copied = copied.clone();
        async move {
            if let Some(head) = read_head(&mut socket).await {
                copied.send(head).unwrap();
            }
        }
    })
    .await;
    let mesh = Mesh::http(&[("orders", &[a.0]), ("b", &[b.0]), ("mirror", &[mirror])]);
    let spec = r#"{"parentRefs":[{"kind":"Service","name":"orders"}],"rules":[
        {"backendRefs":[{"name":"orders","port":80},{"name":"b","port":80}],
         "filters":[{"type":"RequestMirror","requestMirror":{"backendRef":{"name":"mirror","port":80}}}]}]}"#;
    mesh.route_spec_without("HTTPRoute", spec, &["b.shop", "mirror.shop"]);
    let mut client = Client::to(mesh.out).await;
    let mut refused = 0;
    for _ in 0..200 {
        let answer = client.get("/").await;
        match answer.status {
            200 => {}
            other => {
                assert_eq!((other, answer.header("signet-deny-reason")), (500, Some("no-backend")));
                refused += 1;
            }
        }
    }
    let (a, b) = (a.1.load(Ordering::SeqCst), b.1.load(Ordering::SeqCst));
    assert_eq!((a + refused, b), (200, 0));
    assert!((50..=150).contains(&a), "half of 200, and not the others' share besides: {a}");
    assert!(copies.try_recv().is_err());
    assert_eq!(mesh.web.counter("signet_mirrored_requests_total", &[]), 0);
}

#[tokio::test]
async fn heads_are_edited_both_ways_the_backends_own_after_the_rules() {
    let mesh = Mesh::http(&[("orders", &[named("v1").await])]);
    mesh.routes(
        r#"[{"filters":[{"type":"RequestHeaderModifier","requestHeaderModifier":{
                 "set":[{"name":"x-set","value":"rule"},{"name":"x-both","value":"rule"}],
                 "add":[{"name":"x-add","value":"more"}],"remove":["X-Gone"]}},
               {"type":"ResponseHeaderModifier","responseHeaderModifier":{
                 "set":[{"name":"x-app","value":"hidden"}],"remove":["x-nothing"]}}],
             "backendRefs":[{"name":"orders","port":80,"filters":[{"type":"RequestHeaderModifier",
                 "requestHeaderModifier":{"set":[{"name":"x-both","value":"backend"}]}}]}]}]"#,
    );
    let mut client = Client::to(mesh.out).await;
    let answer =
        client.request("/", &[("x-set", "app"), ("x-gone", "1"), ("x-add", "one"), ("x-kept", "1")]).await;
    assert_eq!(answer.header("x-app"), Some("hidden"));
    for (name, value) in [("x-set", "rule"), ("x-both", "backend"), ("x-kept", "1")] {
        assert_eq!(answer.echoed(name), Some(value), "{name}");
    }
    assert_eq!(answer.echoed("x-gone"), None);
    let added: Vec<_> = answer.text().lines().filter(|line| line.starts_with("x-add")).collect();
    assert_eq!(added, ["x-add: one", "x-add: more"]);
}

#[tokio::test]
async fn paths_and_hosts_are_rewritten_and_the_query_stays() {
    let mesh = Mesh::http(&[("orders", &[echo().await])]);
    mesh.routes(
        r#"[{"matches":[{"path":{"value":"/api"}}],"backendRefs":[{"name":"orders","port":80}],
             "filters":[{"type":"URLRewrite","urlRewrite":{"hostname":"inner.example.com",
                 "path":{"type":"ReplacePrefixMatch","replacePrefixMatch":"/v2"}}}]},
            {"matches":[{"path":{"value":"/root"}}],"backendRefs":[{"name":"orders","port":80}],
             "filters":[{"type":"URLRewrite","urlRewrite":{"path":{"type":"ReplacePrefixMatch","replacePrefixMatch":"/"}}}]},
            {"matches":[{"path":{"type":"Exact","value":"/one"}}],"backendRefs":[{"name":"orders","port":80}],
             "filters":[{"type":"URLRewrite","urlRewrite":{"path":{"type":"ReplaceFullPath","replaceFullPath":"/all/of/it"}}}]}]"#,
    );
    let mut client = Client::to(mesh.out).await;
    for (path, seen) in [
        ("/api", "/v2"),
        ("/api/", "/v2/"),
        ("/api/a/b?x=1&y=%2f", "/v2/a/b?x=1&y=%2f"),
        ("/root", "/"),
        ("/root/a", "/a"),
        ("/one?q", "/all/of/it?q"),
    ] {
        let answer = client.get(path).await;
        assert!(answer.text().starts_with(&format!("GET {seen}\n")), "{path}: {}", answer.text());
        let host = if path.starts_with("/api") { "inner.example.com" } else { "orders" };
        assert_eq!(answer.echoed("host"), Some(host), "{path}");
    }
}

#[tokio::test]
async fn redirects_are_answered_here_and_the_connection_goes_on() {
    let (app, count) = in_turn(&[OK]).await;
    let mesh = Mesh::http(&[("orders", &[app])]);
    mesh.routes(
        r#"[{"matches":[{"path":{"value":"/old"}}],"filters":[{"type":"RequestRedirect","requestRedirect":{
                 "path":{"type":"ReplacePrefixMatch","replacePrefixMatch":"/new"},"statusCode":308}}]},
            {"matches":[{"path":{"value":"/away"}}],"filters":[{"type":"RequestRedirect","requestRedirect":{
                 "scheme":"https","hostname":"www.example.com"}}]},
            {"matches":[{"path":{"value":"/port"}}],"filters":[{"type":"RequestRedirect","requestRedirect":{
                 "port":8443,"scheme":"https"}}]}]"#,
    );
    let mut client = Client::to(mesh.out).await;
    for (host, path, status, location) in [
        ("orders:8080", "/old/a?b=c", 308, "http://orders:8080/new/a?b=c"),
        ("orders:80", "/old", 308, "http://orders/new"),
        ("orders:8080", "/away/x", 302, "https://www.example.com/away/x"),
        ("orders", "/port", 302, "https://orders:8443/port"),
    ] {
        client.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("location")), (status, Some(location)), "{host}{path}");
        assert_eq!(answer.header("signet-deny-reason"), None);
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
    assert_eq!(mesh.web.counter("signet_refusals_total", &[]), 0, "nothing was refused");
}

#[tokio::test]
async fn a_copy_goes_to_the_mirror_without_user_or_credential_and_its_answer_to_nobody() {
    let (copied, mut copies) = mpsc::unbounded_channel();
    let copied = Arc::new(copied);
    let mirror = scripted(move |mut socket| {
        let copied = copied.clone();
        async move {
            while let Some(head) = read_head(&mut socket).await {
                let body = read_body(&mut socket, &head).await;
                copied.send((head, String::from_utf8(body).unwrap())).unwrap();
                let _ = socket.write_all(b"HTTP/1.1 500 No\r\ncontent-length: 7\r\n\r\nignored").await;
            }
        }
    })
    .await;
    let mesh = Mesh::http(&[("orders", &[echo().await]), ("mirror", &[mirror])]);
    mesh.routes(
        r#"[{"backendRefs":[{"name":"orders","port":80}],
             "filters":[{"type":"RequestMirror","requestMirror":{"backendRef":{"name":"mirror","port":80}}},
                        {"type":"RequestHeaderModifier","requestHeaderModifier":{"add":[{"name":"x-route","value":"1"}]}}]}]"#,
    );
    let mut client = Client::to(mesh.out).await;
    client
        .send("POST /a?b HTTP/1.1\r\nhost: o\r\nauthorization: Bearer secret\r\ncookie: a=b\r\nx-kept: 1\r\ncontent-length: 5\r\n\r\nhello")
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.echoed("authorization"), Some("Bearer secret"));
    let (head, body) = within(copies.recv()).await.unwrap();
    assert!(head.starts_with("POST /a?b HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("x-kept: 1\r\n") && head.contains("x-route: 1\r\n"), "{head}");
    for secret in ["secret", "authorization", "cookie", "txn-token"] {
        assert!(!head.contains(secret), "{head}");
    }
    assert_eq!(body, "hello");
    mesh.web.counts("signet_mirrored_requests_total", &[("outcome", "sent")], 1).await;
    // Too large to be kept: the request passes, and is not copied.
    let large = "x".repeat(100_000);
    client.send(format!("POST / HTTP/1.1\r\nhost: o\r\ncontent-length: 100000\r\n\r\n{large}")).await;
    assert_eq!(client.answer().await.status, 200);
    mesh.web.counts("signet_mirrored_requests_total", &[("outcome", "skipped")], 1).await;
}
