//! Key sets: what is read of one is what is written of it, each key has a name of its own making, and none is found by chance.

use signet_token::{Algorithm, Jwks};

pub(crate) fn body(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(set) = Jwks::parse(text) else { return };
    let dropped: usize = set.dropped().values().sum();
    assert!(set.len() + dropped <= Jwks::MAX_KEYS);
    let again = Jwks::parse(&set.to_json()).expect("what we write, we read");
    assert_eq!(again.keys(), set.keys());
    assert!(again.dropped().is_empty());
    for key in set.keys() {
        for alg in ["ES256", "ES384", "RS256", "PS256", "EdDSA"] {
            let Ok(alg) = alg.parse::<Algorithm>() else { continue };
            if let Ok(found) = set.find(key.kid(), alg) {
                assert!(found.verifies(alg));
            }
        }
    }
}
