//! Certificate revocation lists (RFC 5280, section 5) on their way to those who verify with software of their own.
//!
//! Signet's own programs go by [`RevocationSet`](crate::RevocationSet) and read no list. What is handed to an app was read
//! here first, as a whole and by the rules of the library that most clients in Rust verify with: what cannot be read is
//! refused where it came in, and not by every app.

use std::sync::Arc;

use webpki::OwnedCertRevocationList;

/// A list that can be read. Whose it is and whether its signature is good is asked by whoever verifies with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList(Arc<[u8]>);

/// Why bytes are no revocation list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevocationListError {
    #[error("expected at most {max} bytes, got {0}", max = RevocationList::MAX)]
    TooLarge(usize),
    #[error("expected a certificate revocation list (RFC 5280, version 2, DER): {0:?}")]
    Unreadable(webpki::Error),
}

impl RevocationList {
    /// More than a hundred thousand revoked certificates; one message of the delivery stream has room for it.
    pub const MAX: usize = 4 * 1024 * 1024;

    /// Reads a list, DER.
    pub fn parse(der: &[u8]) -> Result<Self, RevocationListError> {
        if der.len() > Self::MAX {
            return Err(RevocationListError::TooLarge(der.len()));
        }
        OwnedCertRevocationList::from_der(der).map_err(RevocationListError::Unreadable)?;
        Ok(Self(der.into()))
    }

    /// DER.
    pub fn der(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Serial;
    use crate::testing::TestCa;

    fn list(revoked: usize) -> Vec<u8> {
        let serials: Vec<Serial> = (0..revoked).map(|_| Serial::fresh().unwrap()).collect();
        TestCa::new("demo.signet").revocation_list(&serials)
    }

    #[test]
    fn a_list_is_handed_on_byte_for_byte() {
        for revoked in [0, 1, 1_000] {
            let der = list(revoked);
            assert_eq!(RevocationList::parse(&der).unwrap().der(), der);
        }
    }

    #[test]
    fn what_is_no_list_or_more_than_one_is_refused() {
        let der = list(2);
        let certificate = TestCa::new("demo.signet").issuer().to_vec();
        for bad in [
            &[][..],
            &[1, 2, 3],
            &certificate,
            &der[1..],
            &der[..der.len() - 1],
            &[der.clone(), der.clone()].concat(),
        ] {
            assert!(
                matches!(RevocationList::parse(bad), Err(RevocationListError::Unreadable(_))),
                "{bad:02x?}"
            );
        }
        let huge = vec![0; RevocationList::MAX + 1];
        assert_eq!(RevocationList::parse(&huge), Err(RevocationListError::TooLarge(huge.len())));
    }
}
