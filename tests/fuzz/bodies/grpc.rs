//! What gRPC says in headers: a timeout is read within its bounds and written no longer than it was, and a message is
//! written in printable ASCII from which it can be read back.

use std::time::Duration;

use signet_wire::grpc::{encode_message, is_grpc, timeout, write_timeout};

pub(crate) fn body(bytes: &[u8]) {
    if let Some(read) = timeout(bytes) {
        assert!(read <= Duration::from_secs(99_999_999 * 3600));
        let written = write_timeout(read);
        assert!((2..=9).contains(&written.len()), "{written}");
        let again = timeout(written.as_bytes()).expect("what we write, we read");
        assert!(again <= read, "{read:?} became {again:?}");
        assert!(read - again <= read / 1000, "{read:?} became {again:?}");
    }
    if is_grpc(bytes) {
        assert!(bytes[..16].eq_ignore_ascii_case(b"application/grpc") && bytes.get(16) != Some(&b'-'));
    }
    let message = String::from_utf8_lossy(bytes);
    let written = encode_message(&message);
    assert!(written.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
    assert_eq!(decode(written.as_bytes()), message.as_bytes());
}

fn decode(mut text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some((byte, rest)) = text.split_first() {
        text = rest;
        if *byte == b'%' {
            let (digits, rest) = text.split_at(2);
            let digits = std::str::from_utf8(digits).expect("two digits");
            bytes.push(u8::from_str_radix(digits, 16).expect("hexadecimal"));
            text = rest;
        } else {
            bytes.push(*byte);
        }
    }
    bytes
}
