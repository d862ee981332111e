//! Requests that mean one thing to one parser and another to the next.

use bytes::Bytes;
use signet_tests::client::{header, raw, try_send};
use signet_tests::svid::Svid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::scene::Scene;

/// Requests that must be refused with 400, whatever stands behind.
const SMUGGLING: &[(&str, &[u8])] = &[
    ("both lengths", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("two lengths", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello"),
    ("a length with a sign", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +5\r\n\r\nhello"),
    ("a length list", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5, 5\r\n\r\nhello"),
    ("a hexadecimal length", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0x5\r\n\r\nhello"),
    ("an unknown coding", b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("chunked twice", b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunked not last", b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("a tab in the coding", b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n"),
    ("chunked in HTTP/1.0", b"POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a bare CR", b"GET / HTTP/1.1\r\nhost: x\r\nx-a: b\rx-c: d\r\n\r\n"),
    ("a NUL", b"GET / HTTP/1.1\r\nhost: x\r\nx-a: b\0c\r\n\r\n"),
    ("a folded header", b"GET / HTTP/1.1\r\nhost: x\r\nx-a: b\r\n c\r\n\r\n"),
    ("a space before the colon", b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length : 5\r\n\r\nhello"),
    ("no host", b"GET / HTTP/1.1\r\n\r\n"),
    ("two hosts", b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n"),
    ("a host that the target contradicts", b"GET http://y/ HTTP/1.1\r\nhost: x\r\n\r\n"),
    ("an encoded slash", b"GET /a%2fb HTTP/1.1\r\nhost: x\r\n\r\n"),
    ("a path that climbs", b"GET /a/../b HTTP/1.1\r\nhost: x\r\n\r\n"),
    ("an encoded NUL", b"GET /a%00 HTTP/1.1\r\nhost: x\r\n\r\n"),
    ("no method", b" / HTTP/1.1\r\nhost: x\r\n\r\n"),
];

/// Bodies whose framing breaks after the head was good.
const BROKEN_CHUNKS: &[(&str, &[u8])] = &[
    ("a chunk extension", b"5;a=b\r\nhello\r\n0\r\n\r\n"),
    ("a chunk without its end", b"5\r\nhelloX\r\n0\r\n\r\n"),
    ("a size that overflows", b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    ("a size with a sign", b"+5\r\nhello\r\n0\r\n\r\n"),
    ("a size that is not one", b"zz\r\nhello\r\n0\r\n\r\n"),
    ("bare LF", b"5\nhello\n0\n\n"),
];

#[tokio::test]
async fn smuggling_shapes_are_refused_at_the_apps_port_and_at_the_gateway() {
    let mut scene = Scene::start().await;
    let before = scene.app.seen();
    for address in [scene.outbound.clone(), scene.gateway.clone()] {
        for (what, bytes) in SMUGGLING {
            let mut bytes = bytes.to_vec();
            bytes.extend(b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n");
            let answer = String::from_utf8_lossy(&raw(&address, &bytes).await).into_owned();
            assert!(
                answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400"),
                "{what}: {answer:?}"
            );
            assert_eq!(
                answer.matches("HTTP/1.").count(),
                1,
                "{what}: something was answered behind it: {answer:?}"
            );
        }
    }
    assert_eq!(scene.app.seen(), before, "a malformed request reached the app");
    scene.assert_unharmed().await;
}

#[tokio::test]
async fn a_broken_chunked_body_never_becomes_a_second_request() {
    let mut scene = Scene::start().await;
    for (what, body) in BROKEN_CHUNKS {
        let mut bytes = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        bytes.extend(*body);
        bytes.extend(b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n");
        let answer = String::from_utf8_lossy(&raw(&scene.outbound, &bytes).await).into_owned();
        assert!(!answer.contains("200 OK"), "{what}: {answer:?}");
        assert_ne!(scene.app.last()["path"], "/smuggled", "{what}");
    }
    scene.assert_unharmed().await;
}

#[tokio::test]
async fn bytes_after_an_upgrade_are_not_a_request() {
    let mut scene = Scene::start().await;
    for upgrade in ["h2c", "websocket"] {
        let bytes = format!(
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: {upgrade}\r\nhttp2-settings: AAMAAABk\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"
        );
        raw(&scene.outbound, bytes.as_bytes()).await;
        assert_ne!(scene.app.last()["path"], "/smuggled", "{upgrade}");
        let headers = scene.app.last()["headers"].to_string();
        assert!(!headers.contains("h2c"), "h2c was offered to the app: {headers}");
    }
    let answer =
        String::from_utf8_lossy(&raw(&scene.outbound, b"CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\n\r\n").await)
            .into_owned();
    assert!(answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 501"), "{answer:?}");
    scene.assert_unharmed().await;
}

#[tokio::test]
async fn headers_without_end_are_refused_with_431() {
    let mut scene = Scene::start().await;
    let bearer = format!("Bearer {}", scene.issuer.token("alice", "read"));
    for address in [scene.outbound.clone(), scene.gateway.clone()] {
        let big = "x".repeat(200_000);
        let mut bytes =
            format!("GET / HTTP/1.1\r\nhost: x\r\nauthorization: {bearer}\r\nx-big: {big}\r\n\r\n")
                .into_bytes();
        let answer = String::from_utf8_lossy(&raw(&address, &bytes).await).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer:?}");
        bytes = b"GET / HTTP/1.1\r\nhost: x\r\n".to_vec();
        for n in 0..1000 {
            bytes.extend(format!("x-{n}: y\r\n").bytes());
        }
        bytes.extend(b"\r\n");
        let answer = String::from_utf8_lossy(&raw(&address, &bytes).await).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer:?}");
    }
    scene.assert_unharmed().await;
}

/// Protected names in trailers are as false as in headers.
#[tokio::test]
async fn trailers_carry_no_identity() {
    let mut scene = Scene::start().await;
    let mut stream = TcpStream::connect(&scene.outbound).await.unwrap();
    stream
        .write_all(
            b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ntrailer: signet-user\r\nconnection: close\r\n\r\n\
              5\r\nhello\r\n0\r\nsignet-user: mallory\r\nTxn_Token: mallory\r\nx-own: kept\r\n\r\n",
        )
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(!scene.app.last().to_string().contains("mallory"));
    scene.assert_unharmed().await;
}

/// A request loop between a sidecar and itself would be endless.
#[tokio::test]
async fn a_host_header_never_chooses_another_service() {
    let mut scene = Scene::start().await;
    let answer =
        try_send("GET", &scene.outbound, "/x", &[("host", "other.shop")], Bytes::new()).await.unwrap();
    assert!([200, 403, 404].contains(&answer.status().as_u16()));
    if answer.status() == 200 {
        assert_eq!(scene.app.last()["path"], "/x");
    }
    assert_eq!(header(&answer, "signet-user"), "");
    let _ = Svid::join(&scene.mesh, "spiffe://test.signet/ns/shop/sa/attacker", "sidecar").await;
    scene.assert_unharmed().await;
}
