//! No bytes panic the reader of SPIFFE IDs; what it takes is what came, in the alphabet of the standard, and reads back.

use signet_identity::{SpiffeId, TrustDomain};

pub(crate) fn body(bytes: &[u8]) {
    if let Ok(id) = SpiffeId::parse(bytes) {
        assert_eq!(id.as_str().as_bytes(), bytes);
        assert!(bytes.len() <= 2048);
        assert!(bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"./:-_".contains(b)));
        let (domain, path) = (id.trust_domain().as_str(), id.path());
        assert_eq!(format!("spiffe://{domain}{path}"), id.as_str());
        assert!(TrustDomain::parse(domain).is_ok());
        assert!(path.split('/').skip(1).all(|segment| !matches!(segment, "" | "." | "..")));
    }
    if let Ok(domain) = TrustDomain::parse(bytes) {
        assert!(SpiffeId::parse(format!("spiffe://{domain}")).is_ok_and(|id| id.is_root()));
    }
}
