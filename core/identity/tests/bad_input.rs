//! Bytes that are not a handshake of ours: TLS 1.2, plaintext, half a hello, a mutilated one.

use signet_identity::{Alpn, HandshakeFailure, PeerClass, server_name, testing::TestCa};

const WEB: &str = "ns/shop/sa/web";
const ORDERS: &str = "ns/shop/sa/orders";

fn ca() -> TestCa {
    TestCa::new("demo.signet")
}

/// A ClientHello that offers TLS 1.2 and nothing newer, as openssl would send it.
fn tls12_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f]);
    body.extend([1, 0]);
    let mut extensions = Vec::new();
    extensions.extend([0, 10, 0, 4, 0, 2, 0, 0x1d]);
    extensions.extend([0, 11, 0, 2, 1, 0]);
    extensions.extend([0, 13, 0, 6, 0, 4, 4, 3, 8, 4]);
    extensions.extend([0, 23, 0, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    record.extend(message);
    record
}

fn server_reads(bytes: &[u8]) -> (HandshakeFailure, Vec<u8>) {
    let orders = ca().generation(ORDERS, PeerClass::Sidecar);
    let mut server = rustls::ServerConnection::new(orders.server_config(Alpn::H2)).unwrap();
    let mut rest = bytes;
    server.read_tls(&mut rest).unwrap();
    let error = server.process_new_packets().unwrap_err();
    let mut answer = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut answer).unwrap();
    }
    (HandshakeFailure::from_rustls(&error), answer)
}

#[test]
fn tls_1_2_is_refused_with_the_protocol_version_alert() {
    let (failure, answer) = server_reads(&tls12_hello());
    assert_eq!(failure.label(), "tls_version");
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 70], "a fatal protocol_version alert");
}

#[test]
fn plaintext_is_not_tls() {
    for bytes in ["GET / HTTP/1.1\r\nHost: orders\r\n\r\n", "\0\0\0\0\0\0\0\0", "SSH-2.0-OpenSSH_9.2\r\n"] {
        assert_eq!(server_reads(bytes.as_bytes()).0.label(), "not_tls", "{bytes:?}");
    }
}

#[test]
fn half_a_hello_waits_and_a_mutilated_one_is_refused() {
    let ca = ca();
    let (web, orders) = (ca.generation(WEB, PeerClass::Sidecar), ca.generation(ORDERS, PeerClass::Sidecar));
    let mut client =
        rustls::ClientConnection::new(web.client_config(Alpn::H2), server_name(&ca.id(ORDERS))).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    for cut in [1, 5, 6, 50, hello.len() - 1] {
        let mut server = rustls::ServerConnection::new(orders.server_config(Alpn::H2)).unwrap();
        server.read_tls(&mut &hello[..cut]).unwrap();
        server.process_new_packets().unwrap();
        assert!(server.is_handshaking());
    }
    for at in 0..hello.len() {
        let mut bad = hello.clone();
        bad[at] ^= 0x55;
        let mut server = rustls::ServerConnection::new(orders.server_config(Alpn::H2)).unwrap();
        server.read_tls(&mut bad.as_slice()).unwrap();
        if let Err(error) = server.process_new_packets() {
            assert!(!HandshakeFailure::from_rustls(&error).to_string().is_empty());
        }
        assert!(server.is_handshaking());
    }
}

#[test]
fn an_io_error_keeps_the_tls_reason_inside_it() {
    let tls = rustls::Error::NoCertificatesPresented;
    let wrapped = std::io::Error::new(std::io::ErrorKind::InvalidData, tls);
    assert_eq!(HandshakeFailure::from(wrapped).label(), "no_certificate");
    for (kind, label) in [
        (std::io::ErrorKind::UnexpectedEof, "closed"),
        (std::io::ErrorKind::ConnectionReset, "closed"),
        (std::io::ErrorKind::TimedOut, "timeout"),
        (std::io::ErrorKind::PermissionDenied, "io"),
    ] {
        assert_eq!(HandshakeFailure::from(std::io::Error::from(kind)).label(), label);
    }
}

#[test]
fn every_failure_has_a_label_of_its_own_and_something_to_do() {
    let ca = TestCa::new("demo.signet");
    let received = || {
        let other = TestCa::new("demo.signet").svid_short("ns/shop/sa/web", PeerClass::Sidecar);
        let generation = ca.generation("ns/shop/sa/orders", PeerClass::Sidecar);
        let nobody = signet_identity::RevocationSet::new(0);
        let now = signet_identity::testing::test_now();
        generation
            .check(Some(other.chain()), &signet_identity::Expected::AnyTrusted, &nobody, now)
            .unwrap_err()
    };
    let HandshakeFailure::UnknownRoot { received, domain } = received() else { panic!() };
    let expected = "spiffe://demo.signet/ns/shop/sa/orders".to_owned();
    let all = [
        HandshakeFailure::Plaintext,
        HandshakeFailure::NotTls,
        HandshakeFailure::ForeignHello { sni: Some("orders.example".into()) },
        HandshakeFailure::TlsVersion,
        HandshakeFailure::NoCommon("cipher suite"),
        HandshakeFailure::UnknownRoot { domain, received: received.clone() },
        HandshakeFailure::WrongTrustDomain { expected: "demo.signet".into(), received: received.clone() },
        HandshakeFailure::WrongIdentity { expected, received: received.clone() },
        HandshakeFailure::WrongClass {
            expected: signet_identity::ClassSet::DATA_PLANE,
            class: PeerClass::Operator,
            received: received.clone(),
        },
        HandshakeFailure::Expired { received: Some(received.clone()), not_after: 1, now: 2 },
        HandshakeFailure::NotYetValid { received: None, not_before: 2, now: 1 },
        HandshakeFailure::Revoked { received, by: signet_identity::RevokedBy::Identity },
        HandshakeFailure::NoCertificate,
        HandshakeFailure::BadCertificate(signet_identity::SvidError::LeafIsCa),
        HandshakeFailure::BadChain("unknown".into()),
        HandshakeFailure::BadSignature,
        HandshakeFailure::NoCommonAlpn,
        HandshakeFailure::RootNotPinned { expected: "ab".into() },
        HandshakeFailure::Timeout,
        HandshakeFailure::Closed,
        HandshakeFailure::AlertReceived(rustls::AlertDescription::InternalError),
        HandshakeFailure::Protocol("x".into()),
        HandshakeFailure::Io(std::io::ErrorKind::HostUnreachable),
    ];
    let labels: std::collections::HashSet<_> = all.iter().map(HandshakeFailure::label).collect();
    assert_eq!(labels.len(), all.len());
    for failure in all {
        let what = failure.what_to_do(None, 0);
        assert!(what.len() > 20 && what.ends_with('.'), "{}: {what}", failure.label());
    }
}
