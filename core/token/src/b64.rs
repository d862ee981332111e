//! base64url as RFC 7515 §2 means it: no padding, and one spelling only per value, so that a token
//! cannot be rewritten into another token with the same meaning.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

const STRICT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(false),
);

pub(crate) fn encode(bytes: &[u8]) -> String {
    STRICT.encode(bytes)
}

/// `None` for padding, foreign symbols, a length that no encoder makes, or bits left over that are not
/// zero.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    STRICT.decode(text).ok()
}

/// SHA-256 of a token's bytes: what caches, logs and presenter rules keep instead of the token.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_one_spelling() {
        assert_eq!(decode("Zg"), Some(b"f".to_vec()));
        for other in ["Zh", "Zg=", "Zg==", "Z", "Z g", "Zg\n", "Z+", "Z/"] {
            assert_eq!(decode(other), None, "{other:?}");
        }
        assert_eq!(decode("-_8"), Some(vec![0xfb, 0xff]));
    }
}
