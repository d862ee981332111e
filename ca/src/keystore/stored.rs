//! What is kept of a key, as bytes.
//!
//! A key of our own is its PKCS #8. A key in a token is: magic (8) · kind (1) · the uncompressed point ·
//! label. PKCS #8 begins with the byte 0x30, the magic does not.

use zeroize::Zeroizing;

use super::{KeyKind, KeyStoreError};

const MAGIC: &[u8; 8] = b"signetk1";

/// What is to be sealed beside the key's certificate. Neither prints nor copies by accident.
pub(crate) struct StoredKey(Zeroizing<Vec<u8>>);

/// The name of a key in a token, and its public half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) kind: KeyKind,
    pub(crate) point: Vec<u8>,
    pub(crate) label: String,
}

pub(super) enum Content<'a> {
    Local(&'a [u8]),
    InToken(Reference),
}

impl StoredKey {
    /// A key of our own.
    pub(crate) fn local(pkcs8: Zeroizing<Vec<u8>>) -> StoredKey {
        StoredKey(pkcs8)
    }

    #[cfg(any(feature = "pkcs11", test))]
    pub(super) fn in_token(reference: &Reference) -> StoredKey {
        let kind = match reference.kind {
            KeyKind::P256 => 1,
            KeyKind::P384 => 2,
        };
        let parts = [MAGIC.as_slice(), &[kind], &reference.point, reference.label.as_bytes()];
        StoredKey(Zeroizing::new(parts.concat()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoredKey([hidden])")
    }
}

impl Content<'_> {
    pub(super) fn read(bytes: &[u8]) -> Result<Content<'_>, KeyStoreError> {
        if bytes.first() == Some(&0x30) {
            return Ok(Content::Local(bytes));
        }
        let read = || {
            let (kind, rest) = bytes.strip_prefix(MAGIC)?.split_first()?;
            let kind = match kind {
                1 => KeyKind::P256,
                2 => KeyKind::P384,
                _ => return None,
            };
            let (point, label) = rest.split_at_checked(kind.point())?;
            let label = std::str::from_utf8(label).ok().filter(|label| !label.is_empty())?;
            (point.first() == Some(&4))
                .then(|| Content::InToken(Reference { kind, point: point.to_vec(), label: label.to_owned() }))
        };
        read().ok_or(KeyStoreError::Content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_reference_reads_back_as_itself(label in "[ -~]{1,64}", big in any::<bool>()) {
            let kind = if big { KeyKind::P384 } else { KeyKind::P256 };
            let mut point = vec![7; kind.point()];
            point[0] = 4;
            let reference = Reference { kind, point, label };
            let stored = StoredKey::in_token(&reference);
            let Ok(Content::InToken(read)) = Content::read(stored.as_bytes()) else { panic!("not read") };
            prop_assert_eq!(read, reference);
            let short = stored.as_bytes().get(..8 + kind.point()).unwrap();
            prop_assert!(Content::read(short).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Content::InToken(_)) = Content::read(&bytes) {
                prop_assert!(bytes.starts_with(MAGIC));
            }
        }
    }

    #[test]
    fn what_is_kept_is_not_printed() {
        let stored = StoredKey::local(Zeroizing::new(vec![0x30, 0x41, 0x42]));
        assert_eq!(format!("{stored:?}"), "StoredKey([hidden])");
    }
}
