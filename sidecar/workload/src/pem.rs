//! RFC 7468 text, as Envoy takes certificates and keys.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Appends one block. What was needed on the way is wiped, since it may be a key.
pub(crate) fn append(out: &mut Vec<u8>, label: &str, der: &[u8]) {
    let text = Zeroizing::new(STANDARD.encode(der));
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let lines = text.len().div_ceil(64);
    out.reserve_exact(
        text.len().saturating_add(lines).saturating_add(label.len().saturating_mul(2)).saturating_add(32),
    );
    out.extend_from_slice(b"-----BEGIN ");
    out.extend_from_slice(label.as_bytes());
    out.extend_from_slice(b"-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.extend_from_slice(b"-----END ");
    out.extend_from_slice(label.as_bytes());
    out.extend_from_slice(b"-----\n");
}

/// Certificates, one after the other.
pub(crate) fn certificates<'a>(ders: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    ders.for_each(|der| append(&mut out, "CERTIFICATE", der));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_what_every_reader_expects() {
        let mut out = Vec::new();
        append(&mut out, "PRIVATE KEY", &[0xff; 49]);
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "-----BEGIN PRIVATE KEY-----");
        assert_eq!(lines[1].len(), 64);
        assert_eq!(lines[2].len(), 4);
        assert_eq!(lines[3], "-----END PRIVATE KEY-----");
        assert!(text.ends_with('\n'));
    }
}
