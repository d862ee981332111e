//! Strangers who cost us more than they pay.

use rustls_pki_types::ServerName;
use signet_tests::process::PATIENCE;
use signet_tests::svid::Svid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::scene::Scene;

/// More of them than handshakes may be under way at once: none has said enough to be given a turn.
#[tokio::test]
async fn half_hellos_take_no_turn_of_an_honest_handshake() {
    let mut scene = Scene::start().await;
    let caller = Svid::join(&scene.mesh, "spiffe://test.signet/ns/shop/sa/attacker", "sidecar").await;
    let mut held = Vec::new();
    for _ in 0..400 {
        let mut stream = TcpStream::connect(&scene.inbound).await.unwrap();
        stream.write_all(b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03").await.unwrap();
        held.push(stream);
    }
    let ask = async {
        let tcp = TcpStream::connect(&scene.inbound).await?;
        let name = ServerName::try_from("server.shop.signet.internal").unwrap();
        let config = caller.foreign_client(&[b"signet-http/1.1"]);
        let mut tls = TlsConnector::from(config).connect(name, tcp).await?;
        tls.write_all(b"GET /public HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        tls.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, ask).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // And not only because the strangers' time was up.
    let waiting = held.iter().filter(|stream| {
        matches!(stream.try_read(&mut [0; 16]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    });
    assert!(waiting.count() > 256, "the honest caller waited for strangers to be cut");
    drop(held);
    scene.assert_unharmed().await;
}
