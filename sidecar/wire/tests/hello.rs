//! The ClientHello peek, over hand-made and split hellos.

use proptest::prelude::*;
use signet_wire::hello::{Hello, LIMIT, Peek, peek};

fn block16(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u16).to_be_bytes()[..], body].concat()
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &block16(body)].concat()
}

fn sni(name: &str) -> Vec<u8> {
    extension(0, &block16(&[&[0][..], &block16(name.as_bytes())].concat()))
}

fn alpn(protocols: &[&str]) -> Vec<u8> {
    let list: Vec<u8> =
        protocols.iter().flat_map(|p| [&[p.len() as u8][..], p.as_bytes()].concat()).collect();
    extension(16, &block16(&list))
}

fn versions() -> Vec<u8> {
    extension(43, &[4, 3, 4, 3, 3])
}

fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.push(0);
    body.extend_from_slice(&block16(&[0x13, 0x01]));
    body.extend_from_slice(&[1, 0]);
    body.extend_from_slice(&block16(&extensions.concat()));
    let len = (body.len() as u32).to_be_bytes();
    [&[1][..], &len[1..], &body].concat()
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &block16(part)].concat()).collect()
}

fn ours() -> Vec<u8> {
    message(&[
        sni("Orders.Shop.Signet.Internal"),
        extension(10, &[0; 9]),
        alpn(&["signet-h2", "h2"]),
        versions(),
    ])
}

#[test]
fn a_hello_tells_its_name_protocols_and_version() {
    let Peek::Client(hello) = peek(&records(&ours(), 1 << 14)) else { panic!("a hello") };
    assert_eq!(hello.sni.as_deref(), Some("orders.shop.signet.internal"));
    assert_eq!(hello.alpn, [b"signet-h2".to_vec(), b"h2".to_vec()]);
    assert_eq!(hello.random, [7; 32]);
    assert!(hello.tls13 && hello.is_ours() && hello.offers(b"h2") && !hello.offers(b"h"));
}

#[test]
fn a_foreign_hello_is_not_ours() {
    for extensions in [
        vec![],
        vec![sni("signet.internal.evil.com"), alpn(&["h2", "xsignet-h2"])],
        vec![sni("signet.internal")],
    ] {
        let Peek::Client(hello) = peek(&records(&message(&extensions), 1 << 14)) else { panic!("a hello") };
        assert!(!hello.is_ours());
    }
}

#[test]
fn every_beginning_of_a_hello_is_partial_and_every_split_into_records_is_read() {
    for size in [1, 3, 4, 5, 50, 1 << 14] {
        let wire = records(&ours(), size);
        for end in 0..wire.len() {
            assert_eq!(peek(&wire[..end]), Peek::Partial, "{size} {end}");
        }
        assert!(matches!(peek(&wire), Peek::Client(Hello { tls13: true, .. })), "{size}");
        assert!(matches!(peek(&[&wire[..], b"more"].concat()), Peek::Client(_)));
    }
}

#[test]
fn what_is_not_tls_is_plaintext() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n"[..], b"\x80\x2e\x01\x03\x01", b"\x15\x03\x03\x00\x02", b"\x16G", b"SSH-2.0"]
    {
        assert_eq!(peek(bytes), Peek::Plaintext);
    }
    assert_eq!(peek(b""), Peek::Partial);
}

#[test]
fn broken_hellos_are_malformed() {
    let broken = |message: Vec<u8>| matches!(peek(&records(&message, 1 << 14)), Peek::Malformed(_));
    assert!(broken(message(&[sni("a"), sni("b")])), "two server names");
    assert!(broken(message(&[alpn(&["a"]), alpn(&["b"])])), "two protocol lists");
    assert!(broken(message(&[alpn(&[""])])), "an empty protocol");
    assert!(broken(message(&[sni("a b")])), "a name with a space");
    assert!(broken(message(&[sni("")])), "an empty name");
    assert!(broken(message(&[extension(0, &block16(&[1, 0, 1, b'a']))])), "a name of another type");
    assert!(broken(message(&[vec![0, 0, 0, 9, 1]])), "an extension longer than the rest");
    let mut server_hello = ours();
    server_hello[0] = 2;
    assert!(broken(server_hello));
    let mut trailing = ours();
    trailing[3] += 1;
    trailing.push(0);
    assert!(broken(trailing), "bytes after the extensions");
    assert!(matches!(peek(&[22, 3, 1, 0, 0]), Peek::Malformed(_)), "an empty record");
    assert!(matches!(peek(&[22, 3, 1, 0xff, 0xff]), Peek::Malformed(_)), "a record larger than TLS allows");
    assert!(matches!(peek(&[22, 3, 1, 0, 2, 1, 0, 21, 3, 3]), Peek::Malformed(_)), "an alert inside");
}

#[test]
fn a_hello_beyond_the_limit_is_malformed_and_not_waited_for() {
    let huge = message(&[extension(21, &vec![0; 30_000])]);
    assert!(matches!(peek(&records(&huge, 1 << 14)), Peek::Malformed(_)));
    assert!(
        matches!(peek(&records(&huge, 1 << 14)[..10]), Peek::Malformed(_)),
        "refused by its announced length"
    );
    let many_tiny = records(&message(&[extension(21, &vec![0; 10_000])]), 1);
    assert!(many_tiny.len() > LIMIT);
    assert!(matches!(peek(&many_tiny), Peek::Malformed(_)));
}

proptest! {
    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), flips in proptest::collection::vec((0usize..400, any::<u8>()), 0..4)) {
        let _ = peek(&bytes);
        bytes.splice(0..0, [22, 3, 1]);
        let _ = peek(&bytes);
        let mut wire = records(&ours(), 60);
        for (at, value) in flips {
            let at = at % wire.len();
            wire[at] = value;
        }
        let _ = peek(&wire);
    }
}
