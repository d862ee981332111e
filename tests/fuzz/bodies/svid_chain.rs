//! No bytes panic the reader of chains. A two-byte length stands before each certificate; what is taken names a
//! workload, and its dates and names can be looked at.

use rustls_pki_types::CertificateDer;
use signet_identity::Svid;

pub(crate) fn body(bytes: &[u8]) {
    let mut chain = Vec::new();
    let mut rest = bytes;
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let (der, tail) = tail.split_at(usize::from(u16::from_be_bytes(*length)).min(tail.len()));
        chain.push(CertificateDer::from(der));
        rest = tail;
    }
    // The same bytes as one certificate, so that a corpus of plain certificates is of use.
    for chain in [chain, vec![CertificateDer::from(bytes)]] {
        if let Ok(svid) = Svid::parse(&chain) {
            assert!(!svid.id.is_root());
            assert!(!svid.serial.as_bytes().is_empty());
            assert!(Svid::parse(&chain).is_ok_and(|again| again.id == svid.id && again.key == svid.key));
        }
    }
}
