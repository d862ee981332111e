//! No bytes panic the reader of certificate requests, and the key that it takes is the one that stands in them.

/// `key_of` is the authority's own reader: it is not public.
pub(crate) fn body<Error>(bytes: &[u8], key_of: impl Fn(&[u8], bool) -> Result<Vec<u8>, Error>) {
    for ed25519 in [false, true] {
        if let Ok(key) = key_of(bytes, ed25519) {
            assert!(bytes.windows(key.len()).any(|window| window == key));
        }
    }
}
