//! Whatever requests we accept, hyper reads the same, as they came and as we forward them.

use crate::readers;

pub(crate) fn body(wire: &[u8]) {
    if wire.len() <= 16 * 1024 {
        readers::compare_requests(wire);
    }
}
