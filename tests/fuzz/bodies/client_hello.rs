//! No bytes panic the peek, and more bytes never take back what a hello said.

use signet_wire::hello::{LIMIT, Peek, peek};

pub(crate) fn body(bytes: &[u8]) {
    let whole = peek(bytes);
    for end in [bytes.len() / 2, bytes.len().saturating_sub(1)] {
        match peek(&bytes[..end]) {
            Peek::Partial => assert!(end < LIMIT),
            Peek::Client(hello) => assert_eq!(whole, Peek::Client(hello)),
            Peek::Plaintext => assert_eq!(whole, Peek::Plaintext),
            Peek::Malformed(_) => assert!(matches!(whole, Peek::Malformed(_))),
        }
    }
}
