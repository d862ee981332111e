//! Whatever answer we accept, hyper reads the same, as it came and as we forward it. The first byte says what was asked.

use signet_wire::h1::Asked;

use crate::readers;

pub(crate) fn body(input: &[u8]) {
    let Some((kind, wire)) = input.split_first() else { return };
    // Letters, so that a corpus file of an answer alone (`HTTP...`) is a plain question.
    let asked = Asked { head: *kind == b'h', connect: *kind == b'c', websocket: *kind == b'w' };
    let wire = if matches!(kind, b'h' | b'c' | b'w') { wire } else { input };
    if wire.len() <= 16 * 1024 {
        readers::compare_response(wire, asked);
    }
}
