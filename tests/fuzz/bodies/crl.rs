//! No bytes panic the reader of revocation lists, and what it takes is handed on byte for byte and reads the same again.

use signet_identity::RevocationList;

pub(crate) fn body(bytes: &[u8]) {
    let Ok(list) = RevocationList::parse(bytes) else { return };
    assert_eq!(list.der(), bytes);
    assert_eq!(RevocationList::parse(list.der()).as_ref(), Ok(&list));
}
